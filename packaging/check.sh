#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# Installs the packages in /packages, uses them and removes them. Run by `cargo xtask package check` in a Debian of its
# own, of which all changes are thrown away. Says what it has found to work; the first thing that does not ends it.
#
# usage: check.sh deb|rpm|tar ARCH
set -Eeuo pipefail

format=$1
arch=$2
case $arch in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
esac
case $format in
deb) zsh=/usr/share/zsh/vendor-completions licence=/usr/share/doc/farwatch/copyright ;;
rpm) zsh=/usr/share/zsh/site-functions licence=/usr/share/licenses/farwatch/copyright ;;
tar) ;;
esac
shopt -s nullglob
export DEBIAN_FRONTEND=noninteractive
mkdir -p /tmp/log
exec 3>&1
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&3; cat /tmp/log/* >&3' ERR

ok() { echo "ok    $*"; }
fail() { echo "FAILED: $*" >&3; cat /tmp/log/* >&3; exit 1; }

install() {
    case $format in
    deb | tar) dpkg --install /packages/"$1"_*_{"$arch",all}.deb ;;
    # No package of a distribution with rpm is here that could be asked for.
    rpm) rpm --upgrade --replacepkgs --nodeps /packages/"$1"-[0-9]*.{"$machine",noarch}.rpm ;;
    esac >>/tmp/log/packages 2>&1
}

purge() {
    case $format in
    deb) dpkg --purge "$@" ;;
    rpm) rpm --erase --nodeps "$@" ;;
    esac >>/tmp/log/packages 2>&1
}

# All files but those that any package leaves: the package manager's own, logs and caches. rpm leaves directories that no
# package has.
files() {
    local kind=()
    [[ $format != rpm ]] || kind=(! -type d)
    find / -xdev \( -path /proc -o -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /var/log -o -path /var/cache \
        -o -path /tmp -o -path /src -o -path /mnt -o -path /run -o -path "$HOME/.rpmdb" \) -prune -o "${kind[@]}" -print | sort
}

# Whether a change in /src is an event in /mnt/src.
events_come() {
    coproc watcher { exec inotifywait --monitor --event create --format %f /mnt/src 2>&1; }
    local line wanted=made-$RANDOM
    while read -r -t 30 line <&"${watcher[0]}"; do
        case $line in
        Watches*) touch "/src/$wanted" ;;
        "$wanted") kill "$watcher_PID" && wait "$watcher_PID" || return 0 ;;
        esac
    done
    fail "no event for $wanted: $line"
}

# Waits for the programs that serve /mnt/src to end.
gone() {
    local pid
    for pid in $(pidof farwatch || true); do
        timeout 30 tail --pid="$pid" -f /dev/null || fail "farwatch goes on"
    done
}

# Starts a program and waits for the line that says it is ready.
start() {
    local ready=$1 line out
    shift
    mkfifo /tmp/said
    "$@" >/tmp/said 2>&1 &
    started=$!
    exec {out}</tmp/said
    rm /tmp/said
    while read -r -t 30 -u "$out" line; do
        echo "$line" >>/tmp/log/started
        if [[ $line =~ $ready ]]; then
            cat <&"$out" >>/tmp/log/started &
            exec {out}<&-
            return
        fi
    done
    fail "$* does not say: $ready"
}

# The command line of a unit, as systemd would start it for this instance.
command_of() {
    sed -n 's/^ExecStart=//p' "/usr/lib/systemd/system/$1@.service" |
        sed "s:\${SHARED_DIR}:/src:; s:\$OPTIONS::; s:%f:/mnt/src:; s:%t:/run:; s:%i:$2:"
}

mkdir -p /src /mnt/src

# The archive is for systems with another package manager: there OpenRC starts the agent.
if [[ $format == tar ]]; then
    install farwatch
    tar --directory / --keep-directory-symlink -xzf /packages/farwatch-agent-*-linux-"$machine".tar.gz
    # As OpenRC leaves it when it has booted a system.
    mkdir -p /run/openrc/{exclusive,starting,started} /etc/conf.d && touch /run/openrc/softlevel
    echo 'farwatch_agent_options="--fs-type fuse.virtiofs"' >/etc/conf.d/farwatch-agent
    start "^mounted" farwatch mount --no-agent /src /mnt/src
    : >/var/log/farwatch-agent.log
    rc-service farwatch-agent start >>/tmp/log/openrc 2>&1
    grep --quiet --max-count=1 "^events are delivered" < <(timeout 30 tail --follow --lines=+1 /var/log/farwatch-agent.log || :)
    rc-service farwatch-agent status >>/tmp/log/openrc 2>&1
    events_come
    rc-service farwatch-agent stop >>/tmp/log/openrc 2>&1
    kill $started && wait $started
    ok "OpenRC starts the agent of the archive, events come, and OpenRC ends it"
    exit
fi

files >/tmp/before

install farwatch
farwatch --version >/dev/null
for file in /usr/share/man/man8/mount.farwatch.8.gz /usr/share/man/man1/farwatch-mount.1.gz \
    /usr/share/bash-completion/completions/farwatch "$zsh/_farwatch" "$licence" \
    /usr/share/fish/vendor_completions.d/farwatch.fish /usr/share/qemu/vhost-user/50-farwatch.json \
    /usr/lib/systemd/system/farwatch-mount@.service; do
    [[ -s $file ]] || fail "$file is missing"
done
ok "farwatch is installed"

mount -t farwatch /src /mnt/src
events_come
umount /mnt/src
gone
ok "mount -t farwatch mounts, events come, and nothing runs after umount"

echo "/src /mnt/src farwatch defaults,nofail 0 0" >>/etc/fstab
mount /mnt/src
events_come
umount /mnt/src
gone
sed -i '/farwatch/d' /etc/fstab
ok "so does a line in /etc/fstab"

# shellcheck disable=SC2046 # it is words
start "^mounted" $(command_of farwatch-mount mnt-src)
events_come
kill $started && wait $started
ok "what farwatch-mount@.service starts mounts, and events come"

mkdir -p /run/farwatch-serve
# shellcheck disable=SC2046
start "^serving" $(command_of farwatch-serve src)
served=$started
start "^mounted" farwatch mount --socket /run/farwatch-serve/src.sock /mnt/src
events_come
kill $started && wait $started
kill $served && wait $served
rm -r /run/farwatch-serve
ok "what farwatch-serve@.service starts serves, and events come"

binary=$(sed -n 's/.*"binary": "\(.*\)".*/\1/p' /usr/share/qemu/vhost-user/50-farwatch.json)
said=$("$binary" --print-capabilities)
[[ $said == *'"type": "fs"'* ]] || fail "$binary says: $said"
ok "the program of 50-farwatch.json answers as libvirt wants"

# What the distribution has; where it has none, something in its place.
was=none
if [[ -e /usr/libexec/virtiofsd ]]; then
    was=$(sha256sum /usr/libexec/virtiofsd)
fi
install farwatch-virtiofsd
paths=(/usr/libexec/virtiofsd)
[[ $format == rpm ]] || paths+=(/usr/lib/qemu/virtiofsd)
for path in "${paths[@]}"; do
    [[ $(readlink -f $path) == /usr/bin/farwatch ]] || fail "$path is $(readlink -f $path)"
done
start INFO /usr/libexec/virtiofsd --socket-path /run/virtiofsd.sock --shared-dir /src --announce-submounts
served=$started
start "^mounted" farwatch mount --socket /run/virtiofsd.sock /mnt/src
events_come
kill $started && wait $started
wait $served
ok "/usr/libexec/virtiofsd is farwatch, serves under virtiofsd's options, and events come"
install farwatch-virtiofsd
[[ $(readlink -f /usr/libexec/virtiofsd) == /usr/bin/farwatch ]] || fail "not after an upgrade"
purge farwatch-virtiofsd
now=none
[[ ! -e /usr/libexec/virtiofsd ]] || now=$(sha256sum /usr/libexec/virtiofsd)
[[ $now == "$was" ]] || fail "/usr/libexec/virtiofsd is not what it was"
[[ -z $(dpkg-divert --list '*virtiofsd*') ]] || fail "a diversion is left"
ok "the virtiofsd that was there (${was%% *}) is back when the package is removed"

install farwatch-agent
[[ -L /etc/systemd/system/multi-user.target.wants/farwatch-agent.service ]] || fail "the agent is not enabled"
systemd-analyze verify --man=no --recursive-errors=no farwatch-agent.service || fail "systemd finds a fault"
start "^mounted" farwatch mount --no-agent /src /mnt/src
mounted=$started
start "^events are delivered" farwatch-agent --all --fs-type fuse.virtiofs
events_come
kill $started && wait $started
kill $mounted && wait $mounted
ok "farwatch-agent is installed and enabled, and delivers events"

purge farwatch-agent farwatch
files >/tmp/after
diff /tmp/before /tmp/after || fail "files are left"
ok "nothing is left after they are removed"
