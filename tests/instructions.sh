#!/usr/bin/env bash
# Instructions a frame of one turn of `wire`, counted by callgrind: the same figure on every run. Over loopback, where the
# aim was 60 (docs/measuring.md says what was tried), and over virtio rings with a device in memory. Then a buffer of
# packets with pages. Then the file server's turns, for each request of 1 KiB and each segment of 1 MiB. Fails above the
# limits, which keep what was reached. The release binary is measured, as users run it.
# Usage: tests/instructions.sh [profile [split | packed | .. | serve-1k | serve-1m | serve-1m-pages [LINES]]]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet -p ringway-lab --bin turn --bin request
out=$(mktemp)
trap 'rm -f "$out" "$out.log"' EXIT

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
turn() { count "$1" "$2" frames callgrind valgrind target/release/turn ${3:+"$3"}; } # NAME LIMIT [ARGUMENT]

# The file server looks paths up with openat2, which valgrind knows since 3.20 and Debian 12's is older: Debian 13's is unpacked
# below target/tools then, once, and nothing is installed.
fetched=$PWD/target/tools/valgrind
knows_openat2() { "$1" --version 2>/dev/null | awk -F '[-.]' '{ new = $2 > 3 || $2 == 3 && $3 >= 20 } END { exit !new }'; }
fetched_valgrind() { VALGRIND_LIB=$fetched/usr/libexec/valgrind "$fetched/usr/bin/valgrind" "$@"; }
fetch_valgrind() {
    local apt=$PWD/target/tools/apt keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -f $keys ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    echo "downloading a newer valgrind into target/tools, once" >&2
    rm -rf "$apt" "$fetched.unfinished"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    echo "deb [arch=$(dpkg --print-architecture) signed-by=$keys] http://deb.debian.org/debian trixie main" >"$apt/sources.list"
    printf '%s;\n' "Dir::State::Lists \"$apt/lists\"" "Dir::Cache \"$apt\"" "Dir::Etc::SourceList \"$apt/sources.list\"" \
        'Dir::Etc::SourceParts "/dev/null"' 'Dir::Etc::PreferencesParts "/dev/null"' 'Acquire::Languages "none"' \
        'APT::Sandbox::User "root"' 'Debug::NoLocking "1"' >"$apt/apt.conf"
    (
        cd "$apt/archives"
        export APT_CONFIG=$apt/apt.conf
        apt-get update -qq && apt-get download -qq valgrind && dpkg-deb -x valgrind_*.deb "$fetched.unfinished"
    ) >&2 && mv "$fetched.unfinished" "$fetched" && rm -rf "$apt"
}
serving_valgrind() { # prints its name
    local own=${VALGRIND:-valgrind}
    if knows_openat2 "$own"; then
        echo "$own"
    elif [ -d "$fetched" ] || fetch_valgrind; then
        echo fetched_valgrind
    else
        return 1
    fi
}
serve() { # NAME LIMIT UNIT CASE
    count "serve over loopback, $1" "$2" "$3" callgrind "$serving" target/release/request "$4"
}

if [ "${1:-}" = profile ]; then
    case "${2:-}" in
        serve-*) serving=$(serving_valgrind) && serve "${2#serve-}" 1000000 segments "${2#serve-}" ;;
        *) turn "${2:-loopback}" 1000000 "${2:-}" ;;
    esac
    callgrind_annotate --auto=yes --show-percs=yes "$out" | head -"${3:-150}"
    exit
fi
turn "wire over loopback, bursts of 32" 62
turn "wire over virtio, split rings" 82 split
turn "wire over virtio, packed rings" 93 packed
turn "the same with frames, split rings" 121 split-frames
turn "the same with frames, packed rings" 137 packed-frames
turn "the same with mergeable buffers, split rings" 122 split-mergeable
turn "the same with mergeable buffers, packed rings" 136 packed-mergeable
# A buffer and not a frame each: packets of a head and fifteen pages.
name="pages over virtio, in"
turn "$name lists of split rings" 236 split-lists
turn "$name lists of packed rings" 243 packed-lists
turn "$name tables of split rings" 192 split-tables
turn "$name tables of packed rings" 177 packed-tables
if ! serving=$(serving_valgrind); then
    echo "SKIPPED: instructions of serve: needs valgrind 3.20 or newer (or apt-get and Debian's archive to fetch one)" |
        tee -a "${RINGWAY_SKIPS:-/dev/null}"
    exit
fi
# Each with what comes in for it: the request, or the acknowledgements.
serve "requests of 1 KiB" 5380 requests 1k
serve "segments of 1 MiB, copied" 1580 segments 1m
serve "segments of 1 MiB, as pages" 1810 segments 1m-pages
