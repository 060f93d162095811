#!/bin/bash
# Whether what runs in this container is ready: in bash alone, because a node of its own for every check takes a tenth of a core a container.
#   healthcheck.sh                      asks /readyz on MCPF_HEALTH_PORT
#   healthcheck.sh PORT PATH            another one; 2xx is healthy
#   healthcheck.sh PORT PATH any-status any answer is (a server without a health path)
port="${1:-${MCPF_HEALTH_PORT:-9090}}" path="${2:-/readyz}" any="${3:-}"
if ! exec 3<>"/dev/tcp/127.0.0.1/$port"; then
  echo "nothing listens on port $port"
  exit 1
fi
printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\n\r\n' "$path" "$port" >&3
if ! IFS= read -r -t 8 status <&3; then
  echo "port $port takes connections, and does not answer"
  exit 1
fi
[[ $status =~ ^HTTP/1\.[01]\ 2[0-9][0-9] ]] && exit 0
[[ $any == any-status && $status == HTTP/* ]] && exit 0
# What the service says about itself is kept by the engine: docker inspect.
echo "$path: ${status%$'\r'}"
while IFS= read -r -t 1 line <&3; do echo "${line:0:500}"; done
exit 1
