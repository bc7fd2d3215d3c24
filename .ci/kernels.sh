# Sourced by ./test, ./demo and `cargo xtask kernel` after packages.sh: keeps Debian's stock cloud kernels,
# unpacked, and the source of those that kernel/series patches, in the cache. Nothing is installed; what
# is there already is not fetched again.
# shellcheck shell=bash

kernels=${XDG_CACHE_HOME:-$HOME/.cache}/farwatch/kernels

need_vm_tools() {
    need qemu-system-x86_64 qemu-system-x86
    need /bin/busybox busybox-static
    need cpio cpio
    need xz xz-utils
    need find findutils
}

# kernel_package VERSION: the newest package of that kernel that apt knows.
kernel_package() {
    apt-cache --names-only search "^linux-image-${1/./\\.}\.[0-9]+([-+][a-z0-9]+)*-cloud-amd64(-unsigned)?\$" |
        cut -d' ' -f1 | sort -V | tail -1
}

# fetch_kernel VERSION: makes $kernels/VERSION/{vmlinuz,modules}. Says so and goes on when that cannot
# be had: then the tests in virtual machines are skipped, and counted.
fetch_kernel() {
    [[ -e $kernels/$1/vmlinuz && -d $kernels/$1/modules ]] && return 0
    unpack_kernel "$1" && return 0
    # apt's lists may be missing, or name a package that has been replaced.
    "${as_root[@]}" apt-get update -qq || true
    unpack_kernel "$1" || echo "no kernel $1: nothing is run in a virtual machine with it" >&2
}

unpack_kernel() {
    local package unpacked=$kernels/$1.new
    package=$(kernel_package "$1")
    [[ -n $package ]] || return 1
    echo "kernel $1: $package, once, into $kernels/$1"
    rm -rf "$unpacked" && mkdir -p "$unpacked" || return
    # apt warns that root downloads into a directory that its own user may not enter.
    (cd "$unpacked" && apt-get download -qq "$package" 2>/dev/null && dpkg-deb -x ./*.deb .) || return
    mv "$unpacked"/boot/vmlinuz-* "$unpacked/vmlinuz" || return
    mv "$unpacked"/lib/modules/* "$unpacked/modules" || return
    rm -rf "$unpacked"/{boot,lib,usr} "$unpacked"/*.deb "${kernels:?}/$1"
    mv "$unpacked" "$kernels/$1"
}

# What a kernel is built with.
need_kernel_tools() {
    need cc build-essential
    need flex flex
    need bison bison
    need bc bc
    need xz xz-utils
    need patch patch
    need unshare util-linux
    need setpriv util-linux
    need strip binutils
    need gcc-12 gcc-12 # for modules: the one that Debian builds these kernels with
    need awk mawk
    need od coreutils
    need dkms dkms
}

# fetch_kernel_source VERSION: makes $kernels/source-VERSION/{linux.tar.xz,version} of the newest package
# linux-source-VERSION in the suite that kernel/series/VERSION/suite names; without that file, in those that apt
# knows. Says so and goes on when it cannot be had: then no kernel is built, and the tests in it are skipped,
# and counted.
fetch_kernel_source() {
    local suite
    [[ -e $kernels/source-$1/version ]] && return 0
    suite=$(cat "kernel/series/$1/suite" 2>/dev/null) || true
    unpack_kernel_source "$1" "$suite" && return 0
    if [[ -z $suite ]]; then
        # apt's lists may be missing, or name a version that has been replaced.
        "${as_root[@]}" apt-get update -qq || true
        unpack_kernel_source "$1" "" && return 0
    fi
    echo "linux-source-$1 is not available from ${suite:-the suites that apt knows}: no kernel $1 is built" >&2
}

unpack_kernel_source() {
    local unpacked=$kernels/source-$1.new package=linux-source-$1 apt=(-qq)
    echo "kernel $1: $package${2:+ of $2}, once, into $kernels/source-$1"
    rm -rf "$unpacked" && mkdir -p "$unpacked" || return
    if [[ -n $2 ]]; then
        suite_lists "$2" "$unpacked/apt" || return
        apt=("${suite_apt[@]}")
    fi
    (cd "$unpacked" && apt-get "${apt[@]}" download "$package" 2>/dev/null && dpkg-deb -x ./*.deb .) || return
    mv "$unpacked"/usr/src/linux-source-*.tar.xz "$unpacked/linux.tar.xz" || return
    dpkg-deb -f "$unpacked"/*.deb Version >"$unpacked/version" || return
    rm -rf "$unpacked"/{usr,apt} "$unpacked"/*.deb "${kernels:?}/source-$1"
    mv "$unpacked" "$kernels/source-$1"
}

# kernel_release VERSION: what the fetched kernel calls itself. The x86 boot protocol has at 0x20e where
# that is.
kernel_release() {
    local at
    at=$(od -An -tu2 -j $((0x20e)) -N 2 "$kernels/$1/vmlinuz") || return
    tail -c +$((at + 0x200 + 1)) "$kernels/$1/vmlinuz" | head -c 128 | cut -z -d' ' -f1 | tr '\0' '\n' | head -1
}

# fetch_kernel_headers VERSION: makes $kernels/headers-VERSION, against which modules for the fetched kernel
# are built. Says so and goes on when they cannot be had: then no module is built, and its tests are
# skipped, and counted.
fetch_kernel_headers() {
    local release
    release=$(kernel_release "$1") || return 0
    [[ $(cat "$kernels/headers-$1/release" 2>/dev/null) == "$release" ]] && return 0
    unpack_kernel_headers "$1" "$release" && return 0
    "${as_root[@]}" apt-get update -qq || true
    unpack_kernel_headers "$1" "$release" || echo "no headers of $release: no module is built for it" >&2
}

unpack_kernel_headers() {
    local unpacked=$kernels/headers-$1.new version=${2%-cloud-amd64} headers package
    headers=$kernels/headers-$1
    echo "headers of $2, once, into $headers"
    rm -rf "$unpacked" && mkdir -p "$unpacked" || return
    local kbuild=linux-kbuild-$version
    apt-cache show "$kbuild" >/dev/null 2>&1 || kbuild=linux-kbuild-$1
    (cd "$unpacked" &&
        apt-get download -qq "linux-headers-$2" "linux-headers-$version-common" "$kbuild" 2>/dev/null) || return
    for package in "$unpacked"/*.deb; do
        dpkg-deb -x "$package" "$unpacked" || return
    done
    # They look for one another where the packages would be installed.
    sed -i "s#/usr/src/#$headers/usr/src/#" "$unpacked/usr/src/linux-headers-$2"/{Makefile,.kernelvariables} || return
    ln -s "usr/src/linux-headers-$2" "$unpacked/build"
    # With it, type information is made, which takes yet another package.
    rm -f "$unpacked/build/vmlinux"
    rm -rf "$unpacked"/*.deb "${headers:?}"
    echo "$2" >"$unpacked/release"
    mv "$unpacked" "$headers"
}
