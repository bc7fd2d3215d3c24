#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# Builds the packages of one architecture. Run by `cargo xtask package` in a root directory that has nothing but Debian
# and what this needs, so that the result depends on no machine: the checkout is /src, and cannot be written; /target is
# kept from one time to the next; packages go to /packages. The licences of the dependencies are in /target/licences.
#
# usage: build.sh amd64|arm64 VERSION
set -euo pipefail

arch=$1
version=$2
case $arch in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) exit 2 ;;
esac
musl=$machine-unknown-linux-musl
gnu=$machine-unknown-linux-gnu
export CARGO_TARGET_DIR=/target CARGO_INCREMENTAL=0
cd /src

# The agent. Debian has no Rust standard library for musl: it is built from its source, which a stable compiler does
# only if it is told to.
build_agent() {
    local unwind=/target/unwind-$arch upper=${musl^^}
    upper=${upper//-/_}
    mkdir -p "$unwind"
    # The library asks for libunwind; libgcc has the same in it, but for a function of glibc that says where unwind
    # tables are. -1: not here. A panic ends the program and prints no backtrace.
    echo 'int _dl_find_object(void *pc, void *found) { return -1; }' |
        "$machine-linux-gnu-gcc" -x c -c -o "$unwind/dlfo.o" -
    ar rcD "$unwind/libdlfo.a" "$unwind/dlfo.o"
    echo 'INPUT(-lgcc_eh -ldlfo)' >"$unwind/libunwind.a"
    env RUSTC_BOOTSTRAP=1 \
        "CARGO_TARGET_${upper}_LINKER=$machine-linux-musl-gcc" \
        "CARGO_TARGET_${upper}_RUSTFLAGS=-C target-feature=+crt-static -C relocation-model=static \
            -C link-self-contained=no -L $unwind" \
        cargo build --quiet --locked -Zbuild-std=std,panic_abort --target "$musl" --profile small \
        -p farwatch-guest --bin farwatch-agent
}

# Crates for cargo to build for a target.
build_for() {
    local target=$1 upper=${1^^} machine=${1%%-*}
    shift
    upper=${upper//-/_}
    env "CARGO_TARGET_${upper}_LINKER=$machine-linux-gnu-gcc" PKG_CONFIG_ALLOW_CROSS=1 \
        "PKG_CONFIG_LIBDIR=/usr/lib/$machine-linux-gnu/pkgconfig:/usr/share/pkgconfig" \
        cargo build --quiet --locked --target "$target" --profile packaged "$@"
}

# The pages are the same for all architectures, so made by a program for this one. Built together, the two crates have
# their dependencies in common.
build_farwatch() {
    local here=x86_64-unknown-linux-gnu
    build_for $here -p farwatch -p packaging --bins
    [[ $gnu == "$here" ]] || build_for "$gnu" -p farwatch --bin farwatch
    /target/$here/packaged/farwatch-pages /target/pages
}

# What the packages are made of, whatever their format.
lay_out() {
    local package
    rm -rf "$tree" && mkdir -p "$tree/payload"
    cp "/target/$gnu/packaged/farwatch" "/target/$musl/small/farwatch-agent" "$tree/payload/"
    # Which compiler it was is in nobody's interest.
    "$machine-linux-gnu-strip" --remove-section=.comment "$tree"/payload/*
    cp -r /target/pages "$tree/payload/"
    cp -r contrib docs README.md LICENSE-* packaging/debian packaging/farwatch.spec "$tree/"
    mkdir "$tree/payload/bash"
    for package in farwatch farwatch-agent; do
        mv "$tree/payload/pages/completions/$package.bash" "$tree/payload/bash/$package"
    done
    for package in farwatch farwatch-agent farwatch-virtiofsd; do
        cp "/target/licences/$package" "$tree/debian/$package.copyright"
    done
    find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference "--date=@$SOURCE_DATE_EPOCH" {} +
}

build_debs() {
    local date
    date=$(date --utc --rfc-email "--date=@$SOURCE_DATE_EPOCH")
    (
        cd "$tree"
        printf 'farwatch (%s) unstable; urgency=medium\n\n  * As in the project at that time.\n\n -- %s  %s\n' \
            "$version" "$(sed -n 's/^Maintainer: //p' debian/control)" "$date" >debian/changelog
        cp contrib/farwatch-agent.service debian/
        # The packages for all architectures come with those for one.
        local which=--build=any
        [[ $arch != amd64 ]] || which=--build=binary
        dpkg-buildpackage --no-sign --no-check-builddeps --host-arch="$arch" $which
    ) >"/target/debs-$arch.log" 2>&1 || { tail -30 "/target/debs-$arch.log"; exit 1; }
    mv "$tree"/../*"_$version"_*.deb /packages/
}

build_rpms() {
    rpmbuild -bb --quiet --target "$machine-linux" \
        --define "_topdir /build/rpm-$arch" --define "_sourcedir $tree" --define "_rpmdir /build/rpms-$arch" \
        --define "farwatch_version ${version%-*}" --define "farwatch_release ${version#*-}" \
        --define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1" \
        --define "clamp_mtime_to_source_date_epoch 1" --define "_binary_payload w19.zstdio" \
        --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" "$tree/farwatch.spec" \
        >"/target/rpms-$arch.log" 2>&1 || { tail -30 "/target/rpms-$arch.log"; exit 1; }
    # That for all architectures says by which one it was built: it comes with those for one.
    [[ $arch == amd64 ]] || rm "/build/rpms-$arch"/*.noarch.rpm
    mv "/build/rpms-$arch"/*.rpm /packages/
}

# For guests whose distribution has neither: in the places where Alpine and Gentoo look.
build_archive() {
    local at=/build/archive-$arch page
    install -D -m 755 "$tree/payload/farwatch-agent" "$at/usr/sbin/farwatch-agent"
    install -D -m 755 "$tree/contrib/farwatch-agent.openrc" "$at/etc/init.d/farwatch-agent"
    install -D -m 644 -t "$at/usr/lib/systemd/system" "$tree"/contrib/farwatch-agent{,@}.service
    for page in "$tree"/payload/pages/man/farwatch-agent*; do
        install -D -m 644 -t "$at/usr/share/man/man${page##*.}" "$page"
    done
    install -D -m 644 "$tree/debian/farwatch-agent.copyright" "$at/usr/share/licenses/farwatch-agent/copyright"
    install -D -m 644 -t "$at/usr/share/licenses/farwatch-agent" "$tree/LICENSE-APACHE"
    tar --directory "$at" --sort=name "--mtime=@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -c etc usr |
        gzip -9n >"/packages/farwatch-agent-$version-linux-$machine.tar.gz"
}

tree=/build/$arch/farwatch-$version
build_agent
build_farwatch
lay_out
build_debs
build_rpms
build_archive
