#!/usr/bin/env bash
# Tests of the crates with unsafe code under valgrind's memcheck: reads and writes out of bounds, use after free, leaks,
# decisions on memory that was never written.
set -euo pipefail
cd "$(dirname "$0")/.."

# Few cases: memcheck is 20 to 50 times slower, and it looks at the kind of access, not at the value.
export PROPTEST_CASES=${PROPTEST_CASES:-8}
export RUST_TEST_THREADS=1
# What the kernel writes through bpf(2) memcheck does not know of, and takes for memory that nobody wrote; what needs
# interfaces is run over real ones elsewhere.
skip=(--skip xdp::program --skip namespace)

# The very executables that `cargo test --workspace` runs: to build a package alone would build its dependencies anew.
built=$(cargo test --workspace --no-run --message-format=json 2>/dev/null)
# package | its targets, as cargo calls them
while read -r package kinds; do
    executables=$(grep -F "#$package@" <<<"$built" | grep -E "\"kind\":\[\"($kinds)\"\]" |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    [ -n "$executables" ] || { echo "valgrind: no test executable of $package" >&2; exit 1; }
    for executable in $executables; do
        echo "--- memcheck: $package: $(basename "$executable")"
        valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --num-callers=30 \
            "$executable" --quiet "${skip[@]}"
    done
done <<'PARTS'
ringway-ringbuf lib|test
ringway-drivers lib
PARTS
