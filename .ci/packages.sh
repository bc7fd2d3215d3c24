# Sourced by ./test and ./demo: installs the Debian packages that are missing, and nothing else.
# shellcheck shell=bash

PATH=$PATH:/usr/sbin:/sbin

# Runs a command as root: nothing in front of it, or sudo.
as_root=()
if [[ $(id -u) != 0 ]] && command -v sudo >/dev/null; then
    as_root=(sudo)
fi

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

missing=()
# need WHAT PACKAGE: a program, or a file by its path, and the package that has it.
need() {
    command -v "$1" >/dev/null || [[ $1 == /* && -e $1 ]] || missing+=("$2")
}

# What every build needs.
need_build_tools() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust, see https://rustup.rs"
    need cc build-essential
    need pkg-config pkg-config
    need /usr/include/cap-ng.h libcap-ng-dev
}

install_missing() {
    ((${#missing[@]})) || return 0
    if [[ $(id -u) != 0 ]] && ! ((${#as_root[@]})); then
        die "neither root nor sudo: install these packages first: ${missing[*]}"
    fi
    command -v apt-get >/dev/null || die "no apt-get: install what Debian calls ${missing[*]}"
    echo "installing ${missing[*]} …"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    missing=()
}
