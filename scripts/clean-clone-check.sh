#!/bin/sh
# Proves on this machine what a newcomer sees: from a clean clone, `npm start` says ready in under 3 minutes with the installation, and in
# under 10 seconds the second time; Ctrl-C leaves no port behind. Uses the committed state of this checkout, and a free port base.
#   sh scripts/clean-clone-check.sh [PORT_BASE [FOLDER]]
# FOLDER gets what npm has installed into the clone, where it has no node_modules yet. MCPF_SECOND_START_S: another limit than those 10 seconds, for
# a machine that is slow or busy; what it took is printed all the same.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
base=${1:-24300}
keep=${2:-}
work=$(mktemp -d)
pid=
cleanup() {
  [ -z "$pid" ] || kill -INT "$pid" 2>/dev/null || true
  [ -z "$pid" ] || wait "$pid" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT INT TERM

git clone --quiet --no-hardlinks "$root" "$work/clone"
cd "$work/clone"

# start LIMIT_SECONDS TRIES: prints how long it took; a start over the limit is tried again, because others may use the machine
start() {
  limit=$1 tries=$2
  while ! try_start "$limit"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || exit 1
    stop
  done
}
try_start() {
  began=$(date +%s)
  # Emptied here: the program in the background does so a moment later, and until then the last start's `ready` would be read.
  : >"$work/output"
  # What `npm start` runs, without npm around it, so that the signal below reaches it.
  node scripts/start.mjs --port-base "$base" >"$work/output" 2>&1 &
  pid=$!
  until grep -q '^ready ' "$work/output"; do
    if ! kill -0 "$pid" 2>/dev/null || [ $(($(date +%s) - began)) -gt $(($1 + 60)) ]; then
      cat "$work/output" >&2
      echo "clean clone: it does not get ready" >&2
      exit 1
    fi
    sleep 0.2
  done
  took=$(($(date +%s) - began))
  echo "clean clone: ready after $took s (allowed: $1 s): $(grep '^ready ' "$work/output")"
  [ "$took" -le "$1" ]
}
# stop: Ctrl-C, and then nothing may listen on the block
stop() {
  kill -INT "$pid"
  wait "$pid" || { echo "clean clone: the stop failed" >&2; exit 1; }
  pid=
  node -e '
    const net = require("node:net"), base = Number(process.argv[1]);
    const tryPort = (port) => new Promise((ok) => { const s = net.connect({ host: "127.0.0.1", port }); s.once("connect", () => { s.destroy(); ok(port); }); s.once("error", () => ok(0)); });
    Promise.all(Array.from({ length: 600 }, (_, i) => tryPort(base + i))).then((all) => {
      const open = all.filter(Boolean);
      if (open.length > 0) { console.error("clean clone: ports left open: " + open.join(", ")); process.exit(1); }
    });' "$base"
}

start 180 1
stop
start "${MCPF_SECOND_START_S:-10}" 3
stop
if [ -n "$keep" ] && [ ! -e "$keep/node_modules" ]; then
  # What was compiled there was compiled under other paths.
  rm -rf node_modules/.cache
  mv node_modules "$keep/node_modules"
fi
echo "clean clone: passed"
