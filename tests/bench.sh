#!/usr/bin/env bash
# What `make bench` measures: instructions a frame over loopback, then the forwarder beside testpmd and the file server
# beside nginx, over veth, files larger than memory beside fio, and where libdpdk is at hand, forwarding over vhost-user.
# Arguments go to both of these: --rounds N, --seconds S, --only NAME, --json.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

tests/instructions.sh || echo "above the target: see docs/measuring.md"
cargo build --release --quiet --bins
echo
echo "$(uname -sr), $(nproc) CPUs: $(awk -F ': ' '/model name/ { print $2; exit }' /proc/cpuinfo)"
echo "$(git describe --always --dirty 2>/dev/null || echo 'no git'), $(dpkg-query -W -f 'dpdk ${Version}' dpdk-dev 2>/dev/null || true), $(nginx -v 2>&1 | sed 's/.*: //'), $(date -u +%F)"
target/release/bench "$@"
echo
target/release/serve_bench "$@"
echo
target/release/cold_bench "$@"
if pkg-config --exists 'libdpdk >= 22.11'; then
    echo
    tests/dpdk_bench.sh
fi
