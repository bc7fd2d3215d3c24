# Sourced by ./test and ./demo: installs the Debian packages that are missing, and nothing else; and knows the
# packages of other suites.
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

# suite_lists SUITE DIR: sets suite_apt, the options with which apt-get and apt-cache know the packages of that
# suite and no others, from the mirror that the system uses. The lists are in DIR: the system's are left alone.
suite_apt=()
suite_lists() {
    local codename mirror from=deb
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release) && [[ -n $codename ]] || return
    mirror=$(apt-get indextargets --format "\$(REPO_URI)" "Codename: $codename" 'Component: main' |
        head -1) && [[ -n $mirror ]] || return
    rm -rf "$2" && mkdir -p "$2"/{lists,cache/archives}/partial || return
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] &&
        from+=' [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    echo "$from $mirror $1 main" >"$2/sources.list"
    suite_apt=(-qq -o "Dir::Etc::sourcelist=$2/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::Lists=$2/lists" -o "Dir::Cache=$2/cache")
    # apt warns that root downloads into a directory that its own user may not enter.
    apt-get "${suite_apt[@]}" update 2>/dev/null
}
