#!/usr/bin/env bash
# Instructions a packet of `wire` between two net_null devices, beside testpmd's io, in bursts of 64: counted by callgrind, as
# the difference of a short run and a long one of each, so that starting and ending do not count.
# Usage: tests/dpdk_instructions.sh [profile]      needs dpdk-testpmd, valgrind and libdpdk
set -euo pipefail
cd "$(dirname "$0")/.."
command -v dpdk-testpmd >/dev/null || { echo "SKIPPED: dpdk_instructions: needs \`dpdk-testpmd\` (package dpdk-dev)"; exit 0; }
cargo build --release --quiet -p ringway --features dpdk
folder=$(mktemp -d)
prefix=instructions-$$
# testpmd leaves the folder of its runtime files.
trap 'rm -rf "$folder" "/var/run/dpdk/$prefix"' EXIT

count() { awk '/^summary:|^totals:/ { print $2; exit }' "$1"; }

ours() { # seconds, where to: instructions and packets
    valgrind --tool=callgrind --dump-instr=yes --callgrind-out-file="$2" target/release/ringway forward --mode wire --idle spin \
        --format json --duration "$1" --port dpdk:net_null0,size=64,memory=256 --port dpdk:net_null1,size=64 >"$2.json" 2>"$2.log"
    echo "$(count "$2") $(tail -n 1 "$2.json" | sed 's/.*"received":\([0-9]*\).*/\1/')"
}

theirs() {
    timeout --preserve-status -s TERM "$1" valgrind --tool=callgrind --callgrind-out-file="$2" dpdk-testpmd --no-huge --no-shconf \
        -m 256 --no-telemetry --file-prefix="$prefix" --no-pci --lcores '0@0,1@1' --vdev net_null0 --vdev net_null1 -- \
        --no-mlockall --total-num-mbufs=8192 --forward-mode=io --nb-cores=1 --burst=64 --stats-period 60 >"$2.txt" 2>&1 || true
    echo "$(count "$2") $(awk '/Accumulated/ { all = 1 } all && /RX-packets/ { print $2; exit }' "$2.txt")"
}

each() { # a function, a short time and a long one
    local a b
    a=$($1 "$2" "$folder/$1.short")
    b=$($1 "$3" "$folder/$1.long")
    awk -v a="$a" -v b="$b" 'BEGIN {
        split(a, s); split(b, l)
        if (!(l[2] > s[2])) { print "no packets: " a ", " b > "/dev/stderr"; exit 1 }
        printf "%.1f\n", (l[1] - s[1]) / (l[2] - s[2])
    }'
}

a=$(each theirs 12 24)
b=$(each ours 4 12)
awk -v a="$a" -v b="$b" 'BEGIN { printf "wire over net_null, instructions a packet: testpmd io %.1f, ringway %.1f, %.2f times\n", a, b, b / a }'
if [ "${1:-}" = profile ]; then
    callgrind_annotate --auto=no "$folder/ours.long" | head -60
fi
