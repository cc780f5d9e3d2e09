#!/usr/bin/env bash
# Ringway's mac-swap beside testpmd's macswap over vhost-user: shared memory, no kernel in the link, one core each side. The
# peer is testpmd in both cases: it sends frames of 64 bytes (flowgen) from CPU 1, and counts what comes back.
# Usage: tests/dpdk_bench.sh [ROUNDS [SECONDS]]      needs dpdk-testpmd and libdpdk
set -euo pipefail
cd "$(dirname "$0")/.."
command -v dpdk-testpmd >/dev/null || { echo "SKIPPED: dpdk_bench: needs \`dpdk-testpmd\` (package dpdk-dev)"; exit 0; }
cargo build --release --quiet -p ringway --features dpdk
rounds=${1:-3}
seconds=${2:-6}
ringway=target/release/ringway
folder=$(mktemp -d)
running=()
reserved=
finish() {
    for pid in "${running[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
    wait
    [ -z "$reserved" ] || echo "$reserved" >/proc/sys/vm/nr_hugepages
    # testpmd leaves the folder of its runtime files.
    rm -rf "$folder" /var/run/dpdk/bench-$$-*
}
trap finish EXIT

# Both sides in huge pages where some can be had: it is what either is meant for.
reserved=$(cat /proc/sys/vm/nr_hugepages)
if ! echo $((reserved + 1400)) >/proc/sys/vm/nr_hugepages 2>/dev/null; then reserved=; fi
free=$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)
if [ "$free" -ge 1300 ]; then
    memory=(--in-memory --single-file-segments -m 512)
    pages="huge pages"
else
    memory=(--no-huge --no-shconf -m 512)
    pages="ordinary pages"
fi

testpmd() { # CPU, a name, a device, a mode
    exec timeout -s INT $((seconds + 30)) dpdk-testpmd "${memory[@]}" --no-telemetry --file-prefix="bench-$$-$2" --no-pci \
        --lcores "0@$1,1@$1" --vdev "$3" -- --no-mlockall --total-num-mbufs=8192 --forward-mode="$4" --nb-cores=1 --stats-period 1
}

# Millions of frames a second that come back to the peer, on average, without the first two seconds of its counting.
measure() { # the forwarder's command
    testpmd 1 peer "net_vhost0,iface=$folder/socket" flowgen >"$folder/peer" 2>&1 &
    local peer=$! forwarder
    running=("$peer")
    for _ in $(seq 100); do
        [ -S "$folder/socket" ] && break
        sleep 0.1
    done
    "$@" >"$folder/forwarder" 2>&1 &
    forwarder=$!
    running+=("$forwarder")
    sleep $((seconds + 3))
    kill -INT "$forwarder" "$peer" 2>/dev/null || true
    wait "$forwarder" "$peer" 2>/dev/null || true
    running=()
    rm -f "$folder/socket"
    awk '/Rx-pps:/ && $2 > 0 { if (++seen > 2) { sum += $2; count++ } }
        END { if (!count) { exit 1 } printf "%.2f\n", sum / count / 1e6 }' "$folder/peer" ||
        { cat "$folder/peer" "$folder/forwarder" >&2; exit 1; }
}

theirs() { testpmd 0 forwarder "net_virtio_user0,path=$folder/socket" macswap; }
# As testpmd, which asks for no offloads unless it is told to.
ours() {
    exec timeout -s INT $((seconds + 30)) "$ringway" forward --mode mac-swap --cpu 0 --idle spin \
        --port "dpdk:net_virtio_user0,path=$folder/socket,memory=512,offloads=off"
}

echo "mac-swap over vhost-user, 64-byte frames, Mpps that come back to the peer, $rounds rounds of $seconds s, $pages"
for round in $(seq "$rounds"); do
    a=$(measure theirs)
    b=$(measure ours)
    echo "$a $b" | tee -a "$folder/all" | awk -v n="$round" '{ printf "round %d   testpmd %6.2f   ringway %6.2f   ratio %.2f\n", n, $1, $2, $2 / $1 }'
done
awk '{ a += $1; b += $2 } END { printf "mean      testpmd %6.2f   ringway %6.2f   ratio %.2f\n", a / NR, b / NR, b / a }' "$folder/all"
