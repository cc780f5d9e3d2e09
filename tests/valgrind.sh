#!/usr/bin/env bash
# Tests of the crates with unsafe code under valgrind's memcheck: reads and writes out of bounds, use after free, leaks,
# decisions on memory that was never written.
set -euo pipefail
cd "$(dirname "$0")/.."

# Few cases: memcheck is 20 to 50 times slower, and it looks at the kind of access, not at the value.
export PROPTEST_CASES=${PROPTEST_CASES:-8}
export RUST_TEST_THREADS=1
# What runs cargo or the compiler in a test (trybuild), or needs the kernel's rings, is no work for memcheck.
skip=(--skip compile_fail --skip namespace)

host=$(rustc -vV | sed -n 's/^host: //p')
variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER
export "$variable=valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --num-callers=30"

# package | which of its targets
while read -r package targets; do
    echo "--- memcheck: $package $targets"
    # shellcheck disable=SC2086 # several words
    cargo test --quiet -p "$package" $targets -- "${skip[@]}"
done <<'PARTS'
ringway-ringbuf --lib --tests
ringway-drivers --lib
PARTS
