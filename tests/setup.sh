#!/usr/bin/env bash
# Installs what a target of the Makefile needs and this machine lacks, and says what.
# Usage: tests/setup.sh build|run|test|bench|dpdk|doc ...      (several are joined)
set -euo pipefail

# A command, header or plugin that shows that a package is there, and the Debian package that brings it. One a line.
needs_of() {
    case $1 in
    build)
        echo 'command:clang clang'
        # clang runs without it, but libbpf-cargo calls llvm-strip
        echo 'command:llvm-strip llvm'
        echo 'header:libelf.h libelf-dev'
        echo 'header:zlib.h zlib1g-dev'
        echo 'command:pkg-config pkg-config'
        echo 'command:gcc gcc'
        # only recommended by gcc, and recommendations are not followed below
        echo 'header:stdio.h libc6-dev'
        echo 'command:make make'
        echo 'header:linux/if_xdp.h linux-libc-dev'
        ;;
    run)
        echo 'command:ip iproute2'
        echo 'command:ethtool ethtool'
        ;;
    test)
        echo 'command:valgrind valgrind'
        echo 'command:tcpdump tcpdump'
        echo 'command:ping iputils-ping'
        echo 'command:capsh libcap2-bin'
        echo 'command:curl curl'
        # guests: kernels and modules are compressed, and one has a disk
        echo 'command:xz xz-utils'
        echo 'command:zstd zstd'
        echo 'command:mkfs.btrfs btrfs-progs'
        echo 'command:mkfs.ext4 e2fsprogs'
        ;;
    bench)
        echo 'command:dpdk-testpmd dpdk-dev'
        # drivers are plugins that dpdk only recommends
        echo 'library:librte_net_af_xdp.so librte-meta-net'
        echo 'library:librte_mempool_ring.so librte-meta-mempool'
        # Ubuntu has perf in another package
        if grep -qs '^ID=ubuntu' /etc/os-release; then
            echo 'command:perf linux-tools-generic'
        else
            echo 'command:perf linux-perf'
        fi
        echo 'command:valgrind valgrind'
        # the file server's rival, and the client of both
        echo 'command:nginx nginx-light'
        echo 'command:wrk wrk'
        # what the disk gives at most
        echo 'command:fio fio'
        echo 'command:curl curl'
        ;;
    dpdk)
        echo 'header:dpdk/rte_ethdev.h libdpdk-dev'
        # drivers are plugins, on which libdpdk-dev depends in some releases only
        echo 'library:librte_net_vhost.so librte-meta-net'
        echo 'library:librte_mempool_ring.so librte-meta-mempool'
        echo 'command:pkg-config pkg-config'
        echo 'command:gcc gcc'
        ;;
    doc) ;;
    *)
        echo "setup: unknown part '$1': build, run, test, bench, dpdk or doc" >&2
        exit 2
        ;;
    esac
}

# Root's commands are not always on a user's path.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

is_there() {
    case $1 in
    command:*) command -v "${1#command:}" >/dev/null 2>&1 ;;
    header:*) [ -e "/usr/include/${1#header:}" ] ;;
    library:*) compgen -G "/usr/lib/*/${1#library:}*" >/dev/null || compgen -G "/usr/lib/*/dpdk/*/${1#library:}*" >/dev/null ;;
    esac
}

minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    echo "setup: no Rust here. Install version $minimum or newer with rustup: https://rustup.rs" >&2
    exit 1
fi
version=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$minimum" "${version%%-*}" | sort -V | head -n1)" != "$minimum" ]; then
    echo "setup: Rust $version is too old, $minimum or newer is needed: rustup update stable (https://rustup.rs)" >&2
    exit 1
fi

missing=()
for part in "$@"; do
    needs=$(needs_of "$part")
    while read -r sign package; do
        if [ -n "$sign" ] && ! is_there "$sign" && [[ " ${missing[*]-} " != *" $package "* ]]; then
            missing+=("$package")
        fi
    done <<<"$needs"
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "setup: missing, by their Debian names: ${missing[*]}" >&2
    echo "setup: this system has no apt-get: install them its own way, then run make again" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: missing packages: ${missing[*]}. As root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "setup: installing missing packages: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
echo "setup: installed: ${missing[*]}"
