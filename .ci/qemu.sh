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

# From the backports of the Debian that runs here, by lists of their own: apt's are left alone.
unpack_qemu() {
    local codename mirror new=$qemu_cache/qemu.new apt package version into
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release) && [[ -n $codename ]] || return
    mirror=$(apt-get indextargets --format "\$(REPO_URI)" "Codename: $codename" 'Component: main' |
        head -1) && [[ -n $mirror ]] || return
    rm -rf "$new" && mkdir -p "$new"/apt/{lists,cache/archives}/partial || return
    package='deb'
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] &&
        package+=' [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    echo "$package $mirror $codename-backports main" >"$new/apt/sources.list"
    apt=(-qq -o "Dir::Etc::sourcelist=$new/apt/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::Lists=$new/apt/lists" -o "Dir::Cache=$new/apt/cache")
    # apt warns that root downloads into a directory that its own user may not enter.
    apt-get "${apt[@]}" update 2>/dev/null || return
    version=$(apt-cache "${apt[@]}" madison qemu-system-x86 | head -1 | cut -d'|' -f2 | tr -d ' ')
    [[ -n $version ]] || return
    into=$qemu_cache/qemu-${version#*:}
    echo "QEMU $version, once, into $into"
    (cd "$new" && apt-get "${apt[@]}" download {qemu-system-x86,qemu-system-data}="$version" \
        2>/dev/null) || return
    for package in "$new"/*.deb; do
        dpkg-deb -x "$package" "$new" || return
    done
    rm -rf "$new"/apt "$new"/*.deb "$into"
    mv "$new" "$into"
}
