#!/usr/bin/env bash
# Everything that `make test` runs, in order, each tier under its name; the first that fails stops the rest.
# Usage: tests/run.sh [NAME ...]      without names: all. `tests/run.sh --list` prints the names.
set -uo pipefail
cd "$(dirname "$0")/.."

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export CARGO_TERM_PROGRESS_WHEN=never
skips=$PWD/target/skips.txt
deny_version=0.20.2 # measured: 2 min 40 s to build on two busy cores

# name | what it shows | command. A new tier is a new line.
tiers=(
    "format | the code is formatted | cargo fmt --all -- --check"
    "lint | no warning of clippy's | cargo clippy --workspace --all-targets -- -D warnings"
    "build | everything, the program that the tests start included | cargo build --workspace --all-targets"
    "test | units, stories over real interfaces, doc tests | cargo test --workspace --no-fail-fast"
    "guest | other kernels and real drivers, in QEMU | guest"
    "loom | every interleaving of two threads on a ring | loom"
    "miri | unsafe files under miri, where a nightly is at hand | miri"
    "valgrind | unsafe files under memcheck | bash tests/valgrind.sh"
    "instructions | what a turn costs, to the instruction | bash tests/instructions.sh"
    "dpdk | devices of DPDK's, where libdpdk is at hand | dpdk"
    "doc | the reference, without a warning | env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --quiet"
    "deny | licences, duplicates and sources of dependencies | deny"
)

# Each test boots a guest, two at a time: much of it is waiting. What QEMU and the kernels need is downloaded once, below target/guest.
guest() {
    cargo build -p ringway -p ringway-lab --bins || return 1
    cargo test -p ringway-lab --test 'guest_*' -- --ignored --test-threads=2 &&
        cargo test -p ringway-examples --test bare_nic -- --ignored --test-threads=1
}

# Only with --cfg loom are the ring's atomics loom's: a build of its own, in a folder of its own.
loom() {
    if [ ! -f ringbuf/tests/loom.rs ]; then
        echo "tier loom: ringbuf/tests/loom.rs is missing" >&2
        return 1
    fi
    RUSTFLAGS="--cfg loom" cargo test -p ringway-ringbuf --release --test loom --target-dir target/loom
}

# Needs a nightly toolchain with the component; nobody is made to install one.
miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        echo "SKIPPED: miri: needs a nightly toolchain with miri (rustup +nightly component add miri)" | tee -a "$skips" >&2
        return 0
    fi
    MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=2 cargo +nightly miri test -p ringway-ringbuf --lib --target-dir target/miri
}

# The feature needs libdpdk, and nobody is made to install it for the rest. The program that is built here has the feature, and
# takes the place of the one without: the last tier that starts it.
dpdk() {
    if ! pkg-config --exists 'libdpdk >= 22.11'; then
        echo "SKIPPED: dpdk: needs libdpdk 22.11 or newer (make dpdk)" | tee -a "$skips" >&2
        return 0
    fi
    cargo clippy -p ringway-dpdk-sys -p ringway-drivers -p ringway -p ringway-lab --features dpdk --all-targets -- -D warnings &&
        cargo build -p ringway -p ringway-lab --features dpdk --bins &&
        cargo test -p ringway-drivers --features dpdk --lib -- dpdk spec &&
        cargo test -p ringway-lab --features dpdk --test dpdk_build --test dpdk_matrix --test dpdk_devices --test dpdk_foreign \
            --test dpdk_serve --test dpdk_load --test dpdk_life --test dpdk_queues &&
        cargo test -p ringway-lab --features dpdk --test dpdk_nics -- --ignored
}

# cargo-deny is built once, below target/, and nothing of it lands in the user's home.
deny() {
    local tool=target/tools/bin/cargo-deny
    if command -v cargo-deny >/dev/null; then
        tool=cargo-deny
    elif [ ! -x $tool ]; then
        echo "building cargo-deny $deny_version into target/tools, about three minutes, once"
        if ! cargo install cargo-deny --version $deny_version --locked --quiet --root target/tools; then
            echo "SKIPPED: deny: needs cargo-deny $deny_version, which could not be installed" | tee -a "$skips" >&2
            return 0
        fi
    fi
    $tool --all-features check --allow duplicate licenses bans sources
}

trim() { sed 's/^ *//; s/ *$//' <<<"$1"; }

if [ "${1-}" = --list ]; then
    for tier in "${tiers[@]}"; do echo "${tier%|*}"; done
    exit 0
fi
for wanted in "$@"; do
    if ! printf '%s\n' "${tiers[@]}" | grep -q "^$wanted |"; then
        echo "run.sh: no tier '$wanted'; tests/run.sh --list prints them" >&2
        exit 2
    fi
done

mkdir -p target
: >"$skips"
export RINGWAY_SKIPS=$skips
started=$SECONDS
passed=()
for tier in "${tiers[@]}"; do
    IFS='|' read -r name what command <<<"$tier"
    name=$(trim "$name")
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then
        continue
    fi
    # Minutes each: guests download 300 MB and run under emulation, and DPDK wants a build of its own. For whoever asks.
    if [ $# -eq 0 ] && [[ "$name" == guest || "$name" == dpdk ]]; then
        echo "SKIPPED: $name: runs when it is named: tests/run.sh $name" | tee -a "$skips"
        continue
    fi
    printf '\n=== %s: %s\n' "$name" "$(trim "$what")"
    begun=$SECONDS
    # shellcheck disable=SC2086 # a command with its words
    if ! $command; then
        printf '\n=== %s FAILED after %d s. Again, alone: tests/run.sh %s\n' "$name" $((SECONDS - begun)) "$name" >&2
        exit 1
    fi
    passed+=("$name $((SECONDS - begun)) s")
done

printf '\n=== passed in %d s: ' $((SECONDS - started))
(IFS=,; echo "${passed[*]}" | sed 's/,/, /g')
count=$(sort -u "$skips" | grep -c . || true)
echo "=== skipped: $count"
sort -u "$skips"
