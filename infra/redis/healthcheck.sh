#!/bin/sh
# Whether what listens here lets the user redis-health in, over TLS, and answers: it is known by what it says, for redis-cli ends well with an
# error, too.
#   healthcheck.sh [PORT]
folder=/etc/mcpf/health
said="$(REDISCLI_AUTH="$(cat "$folder/redis.password")" redis-cli -p "${1:-6379}" --user redis-health \
  --tls --cacert "$folder/ca.pem" --cert "$folder/tls.crt" --key "$folder/tls.key" ping 2>&1)"
[ "$said" = PONG ] && exit 0
echo "$said"
exit 1
