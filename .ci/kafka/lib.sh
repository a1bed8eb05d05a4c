# Functions of the scripts in this folder; sourced, not run.
# shellcheck shell=bash

set -euo pipefail

kafka_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kafka_version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$kafka_here/pom.xml")
kafka_home=${RELAY_CACHE:-$HOME/.cache/relay}/kafka-$kafka_version
kafka_dir=${TMPDIR:-/tmp}/relay-kafka # where a broker lives unless --dir says otherwise

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# install PACKAGE COMMAND: brings a Debian package where its command is missing.
install() {
  command -v "$2" >/dev/null && return
  [ "$(id -u)" = 0 ] || die "$2 is missing: install the package $1"
  say "installing $1"
  "$kafka_here/../apt" install "$1"
}

# node_dir N: the folder of node N.
node_dir() { printf '%s/node-%s' "$kafka_dir" "$1"; }

# node_pid N: the process id of node N, or nothing where it does not run.
node_pid() {
  local pid
  pid=$(cat "$(node_dir "$1")/pid" 2>/dev/null) || return 0
  # A process id may have been given to somebody else since.
  if { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qxF "$(node_dir "$1")/server.properties"; then
    printf '%s' "$pid"
  fi
}

# node_launch N: starts the process of node N and returns at once.
node_launch() {
  local dir
  dir=$(node_dir "$1")
  [ -z "$(node_pid "$1")" ] || die "node $1 runs already"
  : >"$dir/server.log"
  # shellcheck disable=SC2086 # options, none if it is not set
  setsid java -Xms128m -Xmx384m -XX:+UseSerialGC -Djava.awt.headless=true ${RELAY_KAFKA_JAVA:-} \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server=info \
    -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
    -cp "$kafka_home/lib/*" kafka.Kafka "$dir/server.properties" >"$dir/server.log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
}

# node_await N: returns once node N serves clients.
node_await() {
  local dir deadline=$((SECONDS + 300)) # three at once on two cores, and a slow disk
  dir=$(node_dir "$1")
  until grep -q 'Kafka Server started' "$dir/server.log"; do
    # Not by node_pid, which does not know a process that has yet to become java.
    if ! kill -0 "$(cat "$dir/pid")" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      tail -n 30 "$dir/server.log" >&2
      die "node $1 did not start; its log is $dir/server.log"
    fi
    sleep 0.2
  done
}

# node_end N SIGNAL: ends node N and returns when its process is gone.
node_end() {
  local pid deadline=$((SECONDS + 15))
  pid=$(node_pid "$1")
  [ -n "$pid" ] || return 0
  kill "-$2" "$pid" 2>/dev/null || true
  while [ -n "$(node_pid "$1")" ]; do
    [ $SECONDS -lt $deadline ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.1
  done
  rm -f "$(node_dir "$1")/pid"
}

# nodes: the numbers of the nodes that exist.
nodes() {
  local d
  for d in "$kafka_dir"/node-*; do
    [ -d "$d" ] && printf '%s\n' "${d##*-}"
  done
  return 0
}
