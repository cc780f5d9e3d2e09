# To be sourced, in the project's folder: finds a valgrind that can run the file server.
#
# That looks paths up with openat2, which valgrind knows since 3.20 and Debian 12's is older: Debian 13's is unpacked below
# target/tools then, once, and nothing is installed.
fetched=$PWD/target/tools/valgrind

knows_openat2() { "$1" --version 2>/dev/null | awk -F '[-.]' '{ new = $2 > 3 || $2 == 3 && $3 >= 20 } END { exit !new }'; }

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

newer_valgrind() { # prints the path of one, or fails
    local own=${VALGRIND:-valgrind}
    if knows_openat2 "$own"; then
        echo "$own"
    elif [ -d "$fetched" ] || fetch_valgrind; then
        # It must be told where its own parts are; the process that is started becomes valgrind.
        printf '#!/bin/sh\nVALGRIND_LIB=%q exec %q "$@"\n' "$fetched/usr/libexec/valgrind" "$fetched/usr/bin/valgrind" >"$fetched/run"
        chmod +x "$fetched/run"
        echo "$fetched/run"
    else
        return 1
    fi
}
