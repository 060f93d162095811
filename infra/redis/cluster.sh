#!/bin/sh
# Runs a redis-server or a Sentinel of infra/compose/cluster.yml. Passwords are read from files, and stand in no argument and no environment.
#   cluster.sh server NAME
#   cluster.sh sentinel
set -eu
umask 077
master=redis
sentinels=26379

# tls PORT FOLDER
tls() {
  printf '%s\n' "port 0" "tls-port $1" "tls-auth-clients yes" "tls-replication yes" \
    "tls-cert-file $2/tls.crt" "tls-key-file $2/tls.key" "tls-ca-cert-file $2/ca.pem"
}

case "$1" in
  server)
    own=/etc/mcpf/replica
    password="$(cat "$own/redis.password")"
    # The other one may have become the master while this one was away: two of them would each take half of what is written.
    told="$(REDISCLI_AUTH="$password" timeout 5 redis-cli -h sentinel -p "$sentinels" --user redis-replica \
      --tls --cacert "$own/ca.pem" --cert "$own/tls.crt" --key "$own/tls.key" \
      sentinel get-master-addr-by-name readmodel 2>/dev/null | head -n 1)" || told=
    case "$told" in redis | redis-replica) master="$told" ;; esac
    {
      tls 6379 /etc/mcpf/credentials
      printf '%s\n' "aclfile /etc/mcpf/credentials/cluster.acl" "masteruser redis-replica" "masterauth $password" \
        "replica-announce-ip $2" "dir /data" "appendonly yes" "appendfsync everysec" 'save ""'
      [ "$2" = "$master" ] || echo "replicaof $master 6379"
    } >/tmp/redis.conf
    exec redis-server /tmp/redis.conf
    ;;
  sentinel)
    own=/etc/mcpf/credentials
    password="$(cat "$own/redis.password")"
    {
      tls "$sentinels" "$own"
      cat /etc/mcpf/sentinel.conf
      printf '%s\n' "aclfile $own/sentinel.acl" "sentinel auth-user readmodel redis-sentinel" "sentinel auth-pass readmodel $password" \
        "sentinel sentinel-user redis-sentinel" "sentinel sentinel-pass $password"
    } >/tmp/sentinel.conf
    exec redis-server /tmp/sentinel.conf --sentinel
    ;;
  *)
    echo "cluster.sh: server NAME, or sentinel; not $1" >&2
    exit 2
    ;;
esac
