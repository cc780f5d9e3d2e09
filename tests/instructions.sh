#!/usr/bin/env bash
# Instructions a frame of one turn of `wire` over loopback, counted by callgrind: the same figure on every run.
# Fails above the limit. The release binary is measured, as users run it. The aim was 60; docs/measuring.md says what was
# tried, and the limit keeps what was reached.
set -euo pipefail
limit=62
cd "$(dirname "$0")/.."
cargo build --release --quiet -p ringway-lab --bin turn
out=$(mktemp)
trap 'rm -f "$out" "$out.log"' EXIT
frames=$(valgrind --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no \
    --toggle-collect='*measured*' target/release/turn 2>"$out.log" | awk '/ frames$/ { print $1 }')
instructions=$(awk '/^summary:|^totals:/ { print $2; exit }' "$out")
awk -v i="$instructions" -v f="$frames" -v limit="$limit" 'BEGIN {
    per = i / f
    printf "wire over loopback, bursts of 32: %.1f instructions a frame (limit %d)\n", per, limit
    exit !(f > 0 && i > 0 && per <= limit)
}'
if [ "${1:-}" = profile ]; then
    callgrind_annotate --auto=yes --show-percs=yes "$out" | head -150
fi
