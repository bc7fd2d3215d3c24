#!/bin/sh
# The path units of systemd: sh systemd.sh DIR runs a user's manager, with one for each of the four kinds.
# Prints `ready`, and then `ran UNIT …` when a unit has started its service and waits again.
# With DIR and an id it does so in the namespaces of its caller, where no other has this id.
set -eu

# In namespaces of its own, so that it touches no systemd of this machine, and all ends with this process.
if [ $# = 1 ]; then
    exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private sh "$0" "$1" $$
fi
# Control groups are called as the units are. Where another such manager has the same ones, either misses changes.
id=$2

mount -t tmpfs tmpfs /run
mkdir -p /run/day /run/units/service.d /run/user /run/systemd/system
# A path unit also watches the directories above, and starts anew at what is done there: it might miss a change.
mount --bind "$1" /run/day
# The mounts of tests that run now are here too, and would not end before this does.
while read -r _ at _; do
    case $at in
    */farwatch-test-*) umount --internal-only --no-canonicalize --lazy "$at" || true ;;
    esac
done < /proc/mounts

# unit NAME SETTING COMMAND: a path unit and its service.
unit() {
    printf '[Unit]\nDefaultDependencies=no\n[Path]\n%s\n' "$2" > "/run/units/$1-$id.path"
    printf '[Service]\nExecStart=sh -c "%s"\n' "$3" > "/run/units/$1-$id.service"
}
unit modified PathModified=/run/day/log 'echo ran modified $(tail -n 1 /run/day/log) > /run/said'
unit changed PathChanged=/run/day/page 'echo ran changed $(tail -n 1 /run/day/page) > /run/said'
unit exists PathExists=/run/day/flag 'rm /run/day/flag; echo ran exists > /run/said'
unit not-empty DirectoryNotEmpty=/run/day/spool 'rm /run/day/spool/*; echo ran not-empty > /run/said'
cat > /run/units/service.d/all.conf <<'end'
[Unit]
DefaultDependencies=no
StartLimitIntervalSec=0
[Service]
Type=oneshot
Slice=-.slice
end
# A path unit is active when it watches.
cat > "/run/units/ready-$id.service" <<end
[Unit]
Requires=modified-$id.path changed-$id.path exists-$id.path not-empty-$id.path
After=modified-$id.path changed-$id.path exists-$id.path not-empty-$id.path
[Service]
ExecStart=sh -c "echo ready > /run/said"
end

mkfifo /run/said
export XDG_RUNTIME_DIR=/run/user # for systemctl too
env -i PATH="$PATH" HOME=/run XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" SYSTEMD_UNIT_PATH=/run/units \
    /usr/lib/systemd/systemd --user --unit="ready-$id.service" &
exec 3<> /run/said
read -r line <&3
echo "$line"
while read -r line <&3; do
    unit=${line#ran }
    # While its service runs, it watches nothing.
    until [ "$(systemctl --user show --property=SubState --value "${unit%% *}-$id.path")" = waiting ]; do :; done
    echo "$line"
done
