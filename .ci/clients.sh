# Sourced by ./test after packages.sh: keeps the programs that tests watch a mount with and that Debian
# has not, or not in that version, in the cache, each in the one version named in
# e2e/tests/clients/programs or here.
# shellcheck shell=bash

WATCHEXEC_VERSION=2.5.1

# Services that would start when they are installed, or take the place of the system's own: unpacked, with what they need.
UNPACKED=(rsyslog libestr0 libfastjson4 liblognorm5 incron)

programs=e2e/tests/clients/programs
clients=${XDG_CACHE_HOME:-$HOME/.cache}/farwatch/clients-$(
    cat $programs/package-lock.json $programs/requirements.txt <(echo $WATCHEXEC_VERSION "${UNPACKED[@]}") |
        sha256sum | cut -c1-12
)

need_clients() {
    need npm npm
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    need javac default-jdk-headless # java runs the source
    need watchman watchman
    need entr entr
    need reflex reflex
    need fatrace fatrace
    need tail coreutils
    need setpriv util-linux
    need unshare util-linux
    need /usr/lib/systemd/systemd systemd
    need gio libglib2.0-bin
    need nvim neovim
    need dnsmasq dnsmasq-base
    need lsyncd lsyncd
    need rsync rsync
    need perl perl # git's hook for watchman
}

# fetch_clients: makes $clients/{node_modules,python,bin,debian}. Says so and goes on when one cannot be had: then
# its tests are skipped, and counted.
fetch_clients() {
    mkdir -p "$clients"
    [[ -d $clients/node_modules ]] || fetch_npm_clients || echo "no clients from npm" >&2
    [[ -d $clients/python ]] || fetch_python_clients || echo "no clients from PyPI" >&2
    [[ -x $clients/bin/watchexec ]] || fetch_watchexec || echo "no watchexec" >&2
    [[ -d $clients/debian ]] || fetch_debian_clients || echo "no services from Debian" >&2
}

fetch_npm_clients() {
    local new=$clients/npm.new
    rm -rf "$new" && mkdir "$new" && cp "$programs"/package{,-lock}.json "$new" || return
    # No package of these needs its install script.
    npm ci --prefix "$new" --ignore-scripts --no-audit --no-fund --silent || return
    mv "$new/node_modules" "$clients/" && rm -rf "$new"
}

fetch_python_clients() {
    rm -rf "$clients/python.new"
    # Not into the system: --target takes no permission, and no virtual environment.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --target "$clients/python.new" --requirement "$programs/requirements.txt" || return
    mv "$clients/python.new" "$clients/python"
}

# Without optimisation it is built in a third of the time.
fetch_watchexec() {
    cargo install --quiet --locked --debug watchexec-cli --version $WATCHEXEC_VERSION --root "$clients"
}

fetch_debian_clients() {
    local new=$clients/debian.new package
    rm -rf "$new" && mkdir -p "$new/packages" || return
    "${as_root[@]}" apt-get update -qq || return
    # apt warns that root downloads into a directory that its own user may not enter.
    (cd "$new/packages" && apt-get download -qq "${UNPACKED[@]}" 2>/dev/null) || return
    for package in "$new"/packages/*.deb; do
        dpkg-deb -x "$package" "$new" || return
    done
    rm -r "$new/packages" && mv "$new" "$clients/debian"
}

CARGO_WATCH_VERSION=8.5.3

# Services, and programs that know each other's directories: in a Debian of their own.
SERVICES=(dbus jekyll minidlna mpc mpd prometheus samba smbclient syncthing tracker tracker-miner-fs transmission-daemon)

# use_long_clients: from here on, $programs and $clients are those of `cargo xtask clients`, which are large.
use_long_clients() {
    programs+=/long
    clients=${XDG_CACHE_HOME:-$HOME/.cache}/farwatch/clients-long-$(
        cat "$programs/package-lock.json" "$programs/requirements.txt" <(echo $CARGO_WATCH_VERSION "${SERVICES[@]}") |
            sha256sum | cut -c1-12
    )
    need mmdebstrap mmdebstrap
    need npm npm
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    need watchman watchman
    need hugo hugo
    need emacs emacs-nox
    need /usr/bin/hg mercurial
    need /usr/share/rubygems-integration/all/gems/listen-3.7.0/lib/listen.rb ruby-listen
    need /usr/lib/python3/dist-packages/PySide2/__init__.py python3-pyside2.qtcore
}

fetch_long_clients() {
    mkdir -p "$clients" || return
    [[ -d $clients/node_modules ]] || fetch_npm_clients || return
    [[ -d $clients/python ]] || fetch_python_clients || return
    [[ -x $clients/bin/cargo-watch ]] || fetch_cargo_watch || return
    [[ -d $clients/services ]] || fetch_services
}

# Without optimisation it is built in a third of the time.
fetch_cargo_watch() {
    cargo install --quiet --locked --debug cargo-watch --version $CARGO_WATCH_VERSION --root "$clients"
}

fetch_services() {
    "${as_root[@]}" rm -rf "$clients/services.new" &&
        "${as_root[@]}" mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${SERVICES[*]}")" bookworm \
            "$clients/services.new" && mv "$clients/services.new" "$clients/services"
}
