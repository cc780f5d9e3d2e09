#!/usr/bin/env bash
# Instructions a frame of one turn of `wire`, counted by callgrind: the same figure on every run. Over loopback, where the
# aim was 60 (docs/measuring.md says what was tried), and over virtio rings with a device in memory. Then a buffer of
# packets with pages. Fails above the limits, which keep what was reached. The release binary is measured, as users run it.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet -p ringway-lab --bin turn
out=$(mktemp)
trap 'rm -f "$out" "$out.log"' EXIT
count() { # NAME LIMIT [ARGUMENT]
    local frames instructions
    frames=$(valgrind --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no \
        --toggle-collect='*measured*' target/release/turn ${3:+"$3"} 2>"$out.log" | awk '/ frames$/ { print $1 }')
    instructions=$(awk '/^summary:|^totals:/ { print $2; exit }' "$out")
    awk -v i="$instructions" -v f="$frames" -v limit="$2" -v name="$1" 'BEGIN {
        per = i / f
        printf "%s: %.1f instructions each (limit %d)\n", name, per, limit
        exit !(f > 0 && i > 0 && per <= limit)
    }'
}
if [ "${1:-}" = profile ]; then
    count "${2:-loopback}" 1000000 "${2:-}"
    callgrind_annotate --auto=yes --show-percs=yes "$out" | head -"${3:-150}"
    exit
fi
count "wire over loopback, bursts of 32" 62
count "wire over virtio, split rings" 82 split
count "wire over virtio, packed rings" 93 packed
count "the same with frames, split rings" 121 split-frames
count "the same with frames, packed rings" 137 packed-frames
count "the same with mergeable buffers, split rings" 122 split-mergeable
count "the same with mergeable buffers, packed rings" 136 packed-mergeable
# A buffer and not a frame each: packets of a head and fifteen pages.
name="pages over virtio, in"
count "$name lists of split rings" 236 split-lists
count "$name lists of packed rings" 243 packed-lists
count "$name tables of split rings" 192 split-tables
count "$name tables of packed rings" 177 packed-tables
