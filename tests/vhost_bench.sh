#!/usr/bin/env bash
# Over vhost-user: `ringway forward --mode mac-swap` beside DPDK's testpmd (net_virtio_user, macswap), one core each, with
# the same back end: testpmd's net_vhost and flowgen on the other core, 64-byte frames. Says what came back to the
# generator, in millions of packets a second, rounds interleaved. Neither leaves checksums to the other side: testpmd does not,
# and Ringway gets `offloads=off`. Needs root, two cores and dpdk-testpmd; 2 MiB pages are reserved for as long as it runs.
#   tests/vhost_bench.sh [ROUNDS [SECONDS]]
# On a machine that others use too, real-time priority for the seconds that count; the others get five per cent of them:
#   REALTIME=1 tests/vhost_bench.sh [ROUNDS [SECONDS]]
set -euo pipefail
cd "$(dirname "$0")/.."
# This shell must wake up beside what it started; that begins at ordinary priority.
if [ "${REALTIME:-0}" = 1 ]; then REALTIME=2 exec chrt -R -f 5 "$0" "$@"; fi
realtime=${REALTIME:-0}
rounds=${1:-3} seconds=${2:-4}
command -v dpdk-testpmd >/dev/null || { echo "SKIPPED: vhost_bench: needs \`dpdk-testpmd\` (package dpdk-dev)"; exit 0; }
cargo build --release --quiet -p ringway
dir=$(mktemp -d)
pages=$(cat /proc/sys/vm/nr_hugepages)
front='' back=''
stop() { # PID
    [ -n "$1" ] || return 0
    kill -INT "$1" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
    kill -KILL "$1" 2>/dev/null || true
}
finish() { stop "$front"; stop "$back"; echo "$pages" > /proc/sys/vm/nr_hugepages || true; rm -rf "$dir"; }
trap finish EXIT
[ "$pages" -ge 768 ] || echo 768 > /proc/sys/vm/nr_hugepages

# Real-time priority for all threads of both, and a higher one for those that only print.
urgent() {
    local pid thread
    for pid in "$front" "$back"; do
        for thread in /proc/"$pid"/task/*; do
            thread=${thread##*/}
            chrt -f -p $((thread == pid ? 2 : 1)) "$thread" 2>/dev/null || true
        done
    done
}
ordinary() {
    local thread
    for thread in /proc/"$front"/task/* /proc/"$back"/task/*; do chrt -o -p 0 "${thread##*/}" 2>/dev/null || true; done
}

# NAME [COMMAND..]: one run; prints the generator's rate of receiving.
run() {
    local name=$1 sock=$dir/s.$RANDOM log=$dir/log from
    shift
    dpdk-testpmd --in-memory --no-pci --file-prefix bench1 -m 512 --lcores '0@1,1@1' \
        --vdev "net_vhost0,iface=$sock" \
        -- --auto-start --nb-cores=1 --forward-mode=flowgen --port-topology=loop --txpkts=60 \
        --stats-period 1 >"$log" 2>"$log.err" </dev/null &
    back=$!
    for _ in $(seq 100); do [ -S "$sock" ] && break; sleep 0.1; done
    taskset -c 0 "${@//SOCK/$sock}" >"$dir/front" 2>&1 </dev/null &
    front=$!
    for _ in $(seq 200); do grep -q 'Rx-pps: *[1-9]' "$log" && break; sleep 0.1; done
    [ "$realtime" = 0 ] || urgent
    sleep 0.2
    from=$(grep -c 'Rx-pps:' "$log" || true)
    sleep "$((seconds + 1)).4"
    [ "$realtime" = 0 ] || ordinary
    stop "$front"; front=''
    stop "$back"; back=''
    # Whole seconds from then on: neither the start nor the end.
    awk -v name="$name" -v from="$from" -v most="$seconds" '
        /Rx-pps:/ && ++count > from + 1 && used < most { sum += $2; used++ }
        END {
            if (!used) { print name ": nothing came back"; exit 1 }
            printf "%s %.2f Mpps\n", name, sum / used / 1e6
        }' "$log" || { tail -n 5 "$dir/front" "$log.err"; return 1; }
}

testpmd() { # OPTIONS
    run "testpmd$1" dpdk-testpmd --in-memory --single-file-segments --no-pci --file-prefix bench2 -m 512 --lcores '0@0,1@0' \
        --vdev "net_virtio_user0,path=SOCK$1" -- --auto-start --nb-cores=1 --forward-mode=macswap --stats-period 1
}
ringway() { # OPTIONS
    run "ringway$1" target/release/ringway forward --mode mac-swap --idle spin --format json --port "vhost-user:SOCK$1"
}

echo "$(uname -sr), $(awk -F ': ' '/model name/ { print $2; exit }' /proc/cpuinfo), dpdk $(dpkg-query -W -f '${Version}' dpdk-dev)"
for _ in $(seq "$rounds"); do
    testpmd "" || true
    ringway ",offloads=off" || true
    testpmd ",packed_vq=1" || true
    ringway ",offloads=off,packed=on" || true
done
