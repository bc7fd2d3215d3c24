# SPDX-License-Identifier: Apache-2.0 OR MIT
# shellcheck shell=bash
#
# Boots a Debian with systemd in a virtual machine. In it farwatch-agent has been installed and nothing has been
# configured; a share is in its /etc/fstab. A change on the host must be an event in the machine, and so must one in a
# share that is mounted later by hand. The machine also has farwatch, and mounts directories of its own with events: from
# /etc/fstab, and by an instance of farwatch-mount@.service.
#
# Run by `cargo xtask package boot`, in namespaces of its own for mounts and processes. The machine's root directory is a
# share, too: what the machine writes there is read here.
#
# usage: boot.sh TEST_ROOT PACKAGES KERNEL INITRD
set -Eeuo pipefail

dir=$(mktemp -d)
root=$dir/root
pids=()
ended() {
    local code=$?
    ((code == 0)) || tail -n 40 "$dir"/{dpkg,console,qemu} "$dir"/serve-* "$root"/result-* >&2 || true
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait || true
    umount -R "$dir" && rmdir "$dir"
}
trap ended EXIT
mount -t tmpfs none "$dir"
cp -a "$1" "$root"
mkdir -p "$dir"/{src,later,run} "$root"/{packages,srv/src,srv/later}
mount --bind "$2" "$root/packages"
PATH=/usr/sbin:/usr/bin chroot "$root" sh -c 'dpkg --install /packages/farwatch_*_amd64.deb /packages/farwatch-agent_*_amd64.deb' \
    >"$dir/dpkg" 2>&1
umount "$root/packages"
kernel=$3 initrd=$4

# unit NAME AFTER COMMAND: a service of the machine, started when it boots, whose output is in result-NAME.
units=$root/etc/systemd/system
mkdir -p "$units/multi-user.target.wants"
unit() {
    cat >"$units/$1.service" <<END
[Unit]
After=$2
[Service]
ExecStart=$3
StandardOutput=append:/result-$1
StandardError=append:/result-$1
END
    ln -s "../$1.service" "$units/multi-user.target.wants/"
    : >"$root/result-$1"
}

# Two watchers, one of which comes with a share that is mounted by hand. (systemd wants % twice.)
watch="/usr/bin/inotifywait --monitor --event create --format event:%f"
echo "src /srv/src virtiofs defaults,nofail 0 0" >>"$root/etc/fstab"
mounted="srv-src.mount farwatch-agent.service"
unit src "$mounted" "${watch//%/%%} /srv/src"
unit later "$mounted" "/bin/sh -c 'mount -t virtiofs later /srv/later && exec ${watch//%/%%} /srv/later'"
unit agent farwatch-agent.service "/usr/bin/journalctl --follow --no-tail --unit farwatch-agent.service --output cat"

# Two mounts of the machine's own, the second of which is enabled as systemctl does it.
mkdir -p "$root"/{local,srv/fstab,srv/unit}
{
    echo "tmpfs /local tmpfs defaults 0 0"
    echo "/local /srv/fstab farwatch nofail,x-systemd.requires-mounts-for=/local 0 0"
} >>"$root/etc/fstab"
echo "SHARED_DIR=/local" >"$root/etc/farwatch/mount/srv-unit.conf"
ln -s /usr/lib/systemd/system/farwatch-mount@.service "$units/multi-user.target.wants/farwatch-mount@srv-unit.service"
cat >"$root/change.sh" <<END
# Changes a file when the watcher in the mount is there, and says which event that was.
coproc $watch "/srv/\$1" 2>&1
while read -r line <&"\${COPROC[0]}"; do
    echo "\$line"
    [[ \$line != Watches* ]] || touch "/local/made-for-\$1"
done
END
unit fstab srv-fstab.mount "/bin/bash /change.sh fstab"
unit unit farwatch-mount@srv-unit.service "/bin/bash /change.sh unit"

devices=()
for share in root src later; do
    shared=$dir/$share
    # The package's own program, with the libraries of this machine.
    mkfifo "$dir/said"
    "$root/usr/bin/farwatch" serve --socket "$dir/run/$share" --shared-dir "$shared" \
        >"$dir/said" 2>"$dir/serve-$share" &
    pids+=($!)
    read -r -t 60 line <"$dir/said"
    rm "$dir/said"
    devices+=(-chardev "socket,id=$share,path=$dir/run/$share" -device "vhost-user-fs-pci,chardev=$share,tag=$share")
done

# wait_for FILE LINE: until the line is in the file, which the machine writes.
wait_for() {
    grep --quiet --max-count=1 "$2" < <(timeout 900 tail --follow --lines=+1 "$1") || {
        echo "FAILED: no $2 in ${1##*/}" >&2
        exit 1
    }
}

accel=(-accel "tcg,thread=multi" -cpu max)
[[ -z ${FARWATCH_KVM:-} ]] || accel=(-accel kvm -cpu host)
qemu-system-x86_64 "${accel[@]}" -smp 2 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \
    -machine q35,memory-backend=mem -nodefaults -display none -no-reboot \
    -chardev "file,id=console,path=$dir/console" -serial chardev:console "${devices[@]}" \
    -kernel "$kernel" -initrd "$initrd" \
    -append "console=ttyS0 panic=-1 quiet systemd.unit=multi-user.target" </dev/null >"$dir/qemu" 2>&1 &
pids+=($!)

for share in src later; do
    wait_for "$root/result-$share" "Watches established"
    wait_for "$root/result-agent" "events are delivered on /srv/$share"
    touch "$dir/$share/made"
    wait_for "$root/result-$share" "event:made"
    echo "ok    a change in $share is an event in a machine that has been told nothing of it"
done
for mount in fstab unit; do
    wait_for "$root/result-$mount" "event:made-for-$mount"
    echo "ok    systemd mounts a directory with events, by $mount"
done
