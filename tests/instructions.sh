#!/usr/bin/env bash
# Instructions a frame of one turn of `wire`, counted by callgrind: the same figure on every run. Over loopback, where the
# aim was 60 (docs/measuring.md says what was tried), and over virtio rings with a device in memory. Then a buffer of
# packets with pages. Then the file server's turns, for each request of 1 KiB and each segment of 1 MiB. Fails above the
# limits, which keep what was reached. The release binary is measured, as users run it.
# Usage: tests/instructions.sh [profile [split | packed | .. | serve-1k | serve-1m | serve-1m-pages [LINES]]]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet -p ringway-lab --bin turn --bin request
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
out=$folder/profile

count() { # NAME LIMIT UNIT COMMAND..
    local units instructions
    units=$("${@:4}" 2>"$out.log" | awk -v unit="$3" '$2 == unit { print $1 }')
    instructions=$(awk '/^summary:|^totals:/ { print $2; exit }' "$out")
    awk -v i="$instructions" -v f="$units" -v limit="$2" -v name="$1" 'BEGIN {
        per = i / f
        printf "%s: %.1f instructions each (limit %d)\n", name, per, limit
        exit !(f > 0 && i > 0 && per <= limit)
    }'
}
callgrind() { # VALGRIND COMMAND..
    "$1" --tool=callgrind --callgrind-out-file="$out" --collect-atstart=no --toggle-collect='*measured*' "${@:2}"
}
# Counts are the same whatever else runs, so as many are taken at once as there are processors; what they say comes in order.
begun=()
begin() { # COMMAND..
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do sleep 0.2; done
    (out=$folder/${#begun[@]} && "$@" >"$out.line") &
    begun+=($!)
}
finish() {
    local failed=0 number
    for number in "${!begun[@]}"; do
        if ! wait "${begun[number]}"; then
            failed=1
            tail -n 3 "$folder/$number.log" >&2
        fi
        cat "$folder/$number.line"
    done
    begun=()
    return $failed
}
turn() { count "$1" "$2" frames callgrind valgrind target/release/turn ${3:+"$3"}; } # NAME LIMIT [ARGUMENT]

. tests/newer_valgrind.sh
serve() { # NAME LIMIT UNIT CASE
    count "serve over loopback, $1" "$2" "$3" callgrind "$serving" target/release/request "$4"
}

if [ "${1:-}" = profile ]; then
    case "${2:-}" in
        serve-*) serving=$(newer_valgrind) && serve "${2#serve-}" 1000000 segments "${2#serve-}" ;;
        *) turn "${2:-loopback}" 1000000 "${2:-}" ;;
    esac
    callgrind_annotate --auto=yes --show-percs=yes "$out" | head -"${3:-150}"
    exit
fi
begin turn "wire over loopback, bursts of 32" 62
begin turn "wire over virtio, split rings" 82 split
begin turn "wire over virtio, packed rings" 93 packed
begin turn "the same with frames, split rings" 121 split-frames
begin turn "the same with frames, packed rings" 137 packed-frames
begin turn "the same with mergeable buffers, split rings" 122 split-mergeable
begin turn "the same with mergeable buffers, packed rings" 136 packed-mergeable
# A buffer and not a frame each: packets of a head and fifteen pages.
name="pages over virtio, in"
begin turn "$name lists of split rings" 236 split-lists
begin turn "$name lists of packed rings" 243 packed-lists
begin turn "$name tables of split rings" 192 split-tables
begin turn "$name tables of packed rings" 177 packed-tables
finish
if ! serving=$(newer_valgrind); then
    echo "SKIPPED: instructions of serve: needs valgrind 3.20 or newer (or apt-get and Debian's archive to fetch one)" |
        tee -a "${RINGWAY_SKIPS:-/dev/null}"
    exit
fi
# Each with what comes in for it: the request, or the acknowledgements.
begin serve "requests of 1 KiB" 5380 requests 1k
begin serve "segments of 1 MiB, copied" 1580 segments 1m
begin serve "segments of 1 MiB, as pages" 1810 segments 1m-pages
finish
