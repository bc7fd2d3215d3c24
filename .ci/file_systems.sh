# Sourced by `cargo xtask correctness`: tests of file systems, from Debian and crates.io.
# shellcheck shell=bash

PJDFSTEST_VERSION=0.2.2
FSX_VERSION=0.3.2

# Prints the directory of those that Debian has not, which are built once, into the cache.
fetch_file_system_tests() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/farwatch/file-systems-$PJDFSTEST_VERSION-$FSX_VERSION
    need python3 python3
    need fio fio
    need stress-ng stress-ng
    need /usr/include/sys/acl.h libacl1-dev # for pjdfstest
    install_missing >&2
    [[ -x $cache/bin/pjdfstest ]] ||
        cargo install --quiet --locked pjdfstest --version "$PJDFSTEST_VERSION" --root "$cache" >&2
    [[ -x $cache/bin/fsx ]] ||
        cargo install --quiet --locked fsx --version "$FSX_VERSION" --root "$cache" >&2
    echo "$cache/bin"
}
