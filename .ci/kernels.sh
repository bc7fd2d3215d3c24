# Sourced by ./test and ./demo after packages.sh: keeps Debian's stock cloud kernels, unpacked, in the
# cache. Nothing is installed; what is there already is not fetched again.
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
