#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# Runs the programs of the packages for arm64 in emulation of that processor, and the tests of the wire format with them.
# Run by `cargo xtask package check` in the root directory in which packages are built.
set -euo pipefail

ok() { echo "ok    arm64: $*"; }

mkdir /build/arm64
for package in /packages/*_arm64.deb; do
    dpkg-deb -x "$package" /build/arm64
done
for program in usr/bin/farwatch usr/sbin/farwatch-agent; do
    for option in --version --help; do
        [[ -n $(qemu-aarch64-static "/build/arm64/$program" $option) ]]
    done
    ok "$program --version and --help"
done
# It finds a kernel of another processor, with what an emulator does not pass on: 1 says that something is missing.
said=$(qemu-aarch64-static /build/arm64/usr/bin/farwatch doctor /build) || (($? == 1))
[[ -n $said ]]
ok "usr/bin/farwatch doctor"

cd /src
env CARGO_TARGET_DIR=/target CARGO_INCREMENTAL=0 \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static \
    cargo test --quiet --locked --target aarch64-unknown-linux-gnu -p farwatch-proto --lib wire >/target/emulated.log 2>&1 ||
    { tail -30 /target/emulated.log; exit 1; }
grep -q "^test result: ok. [1-9]" /target/emulated.log
ok "the tests of the wire format"
