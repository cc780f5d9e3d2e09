#!/usr/bin/env bash
# Instructions a megabyte of `serve` over virtio-user, with segments that the device cuts (TSO) and without, counted by callgrind.
#
#   curl -- far0 == near0 [ forward, packet and net_vhost ] == net_virtio_user [ serve, under callgrind ]
#
# Of each, a short run and one of more fetches. What this has more than that, but for as many turns without a frame as it has more,
# is what its bytes cost; what such a turn costs is the difference of two runs that only spin.
# Usage: tests/dpdk_tso.sh     needs root, curl, ethtool and libdpdk; and valgrind 3.20 or newer, which is fetched where the one at
# hand is older (or VALGRIND=/path/to/valgrind)
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/newer_valgrind.sh
valgrind=$(newer_valgrind) || { echo "SKIPPED: dpdk_tso: needs valgrind 3.20 or newer"; exit; }
# A network namespace of its own, which is gone when the last process in it is.
if [ "${1:-}" != inside ]; then
    cargo build --release --quiet -p ringway --features dpdk
    exec unshare --net --kill-child --fork "$0" inside
fi
ringway=$PWD/target/release/ringway
bytes=20000000
few=1
many=6
folder=$(mktemp -d)
socket=$folder/socket
running=()
finish() {
    for pid in "${running[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$folder"
}
trap finish EXIT
mkdir "$folder/www"
head -c $bytes /dev/urandom >"$folder/www/file"
ip link set lo up
ip link add near0 type veth peer name far0
# The forwarder's ring takes no packet that is still to be cut, and gathered acknowledgements would make the runs differ.
ethtool -K far0 tso off gso off gro off >/dev/null
ip link set near0 up
ip link set far0 up
ip address add 10.77.0.2/24 dev far0

await() { # a command that succeeds in the end
    for _ in $(seq 300); do
        if "$@" 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "dpdk_tso.sh: $* never came true; the server said:" >&2
    cat "$folder/serve.log" >&2
    exit 1
}

fetch() { [ "$(curl --silent --noproxy '*' --max-time 60 --output /dev/null --write-out '%{size_download}' http://10.77.0.1:8080/file)" = $bytes ]; }

run() { # tso=0 or 1, fetches, seconds to idle, and how: instructions, turns, segments
    local peer server
    "$ringway" forward --format json --port "dpdk:net_vhost0,iface=$socket,tso=$1" --port packet:near0 >"$folder/forward.json" 2>"$folder/forward.log" &
    peer=$!
    running=("$peer")
    await test -S "$socket"
    "$valgrind" --tool=callgrind --callgrind-out-file="$folder/counted" "$ringway" serve --format json --idle "$4" --content 32 --root "$folder/www" \
        --port "dpdk:net_virtio_user0,path=$socket" --address 10.77.0.1/24 >"$folder/serve.json" 2>"$folder/serve.log" &
    server=$!
    running+=("$server")
    await grep -q '"ready"' "$folder/serve.json"
    # The first finds the way, and the content in its place.
    [ "$2" = 0 ] || await fetch
    for _ in $(seq "$2"); do fetch; done
    sleep "$3"
    kill -INT "$server"
    wait "$server"
    kill -INT "$peer"
    wait "$peer"
    running=()
    number() { tail -n 1 "$folder/serve.json" | grep -o "\"$1\":[0-9]*" | head -n 1 | cut -d: -f2; }
    echo "$(awk '/^summary:|^totals:/ { print $2; exit }' "$folder/counted") $(number turns) $(number segments_out)"
}

echo "serve over virtio-user, fetches of $bytes bytes, callgrind"
short=$(run 0 0 1 spin)
long=$(run 0 0 5 spin)
turn=$(awk -v a="$short" -v b="$long" 'BEGIN { split(a, s); split(b, l); printf "%.0f", (l[1] - s[1]) / (l[2] - s[2]) }')
echo "a turn without a frame: $turn instructions"
for tso in 0 1; do
    short=$(run $tso $few 0 adaptive)
    long=$(run $tso $many 0 adaptive)
    awk -v tso=$tso -v a="$short" -v b="$long" -v turn="$turn" -v megabytes=$(((many - few) * bytes / 1000000)) 'BEGIN {
        split(a, s); split(b, l)
        printf "%s TSO: %.0f instructions a megabyte, in %.0f segments\n", tso ? "with   " : "without",
            (l[1] - s[1] - turn * (l[2] - s[2])) / megabytes, (l[3] - s[3]) / megabytes
    }' | tee -a "$folder/all"
done
awk '{ n[NR] = $3 } END { printf "%.2f times as many without\n", n[1] / n[2] }' "$folder/all"
