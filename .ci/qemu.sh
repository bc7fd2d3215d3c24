# Sourced by ./test after packages.sh: keeps a QEMU that can move a machine with a share to another one,
# unpacked, in the cache, where the system's own is too old. Nothing is installed; what is there already
# is not fetched again.
# shellcheck shell=bash

qemu_cache=${XDG_CACHE_HOME:-$HOME/.cache}/farwatch

# moves_machines PROGRAM: whether it is a QEMU from 8.2 on.
moves_machines() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/.* version \([0-9.]*\).*/\1/p')
    [[ -n $version ]] && printf '8.2\n%s\n' "$version" | sort -CV
}

unpacked_qemu() {
    local dir
    for dir in "$qemu_cache"/qemu-*/; do
        dir=${dir%/}
        moves_machines "$dir/usr/bin/qemu-system-x86_64" && echo "$dir" && return
    done
    return 1
}

# fetch_qemu: sets FARWATCH_QEMU where it is needed. Says so and goes on when none can be had: then the
# tests that move a machine are skipped, and counted.
fetch_qemu() {
    moves_machines qemu-system-x86_64 && return 0
    if ! unpacked_qemu >/dev/null; then
        unpack_qemu && unpacked_qemu >/dev/null ||
            { echo "no QEMU 8.2: no virtual machine is moved to another host" >&2; return 0; }
    fi
    FARWATCH_QEMU=$(unpacked_qemu)
    export FARWATCH_QEMU
}

# From the backports of the Debian that runs here.
unpack_qemu() {
    local codename new=$qemu_cache/qemu.new package version into
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release) && [[ -n $codename ]] || return
    rm -rf "$new" && suite_lists "$codename-backports" "$new/apt" || return
    version=$(apt-cache "${suite_apt[@]}" madison qemu-system-x86 | head -1 | cut -d'|' -f2 | tr -d ' ')
    [[ -n $version ]] || return
    into=$qemu_cache/qemu-${version#*:}
    echo "QEMU $version, once, into $into"
    (cd "$new" && apt-get "${suite_apt[@]}" download {qemu-system-x86,qemu-system-data}="$version" \
        2>/dev/null) || return
    for package in "$new"/*.deb; do
        dpkg-deb -x "$package" "$new" || return
    done
    rm -rf "$new"/apt "$new"/*.deb "$into"
    mv "$new" "$into"
}
