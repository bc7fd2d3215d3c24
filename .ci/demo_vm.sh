# Sourced by ./demo: the directory in a virtual machine with Debian's stock kernel, where
# farwatch-agent delivers the events. It needs no root but to install packages.
# shellcheck shell=bash
source .ci/kernels.sh

vm_heading="events that inotifywait printed in the virtual machine"
VM_KERNEL=6.12

vm_needs() {
    need_build_tools
    need_vm_tools
    need inotifywait inotify-tools
}

vm_builds() {
    fetch_kernel "$VM_KERNEL"
    [[ -e $kernels/$VM_KERNEL/vmlinuz ]] || die "without a kernel there is no virtual machine"
    build_farwatch
    echo "building farwatch-agent …"
    cargo xtask guest >/dev/null
}

# Boots a machine with $src, and lets the inotifywait in it write to $events.
vm_starts() {
    PATIENCE=120 # without acceleration, and with whatever else this machine does
    FARWATCH_KERNELS=$kernels cargo xtask vm-image "$VM_KERNEL" "$dir" >/dev/null <<END
mkdir -p /mnt/src
mount -t virtiofs src /mnt/src
stty -F /dev/ttyS1 raw
cd /mnt/src
farwatch-agent /mnt/src | {
    read -r line
    echo "\$line"
    ${inotifywait[@]@Q} 2>&1
} >/dev/ttyS1
poweroff -f
END
    mkfifo "$dir/serving"
    "$FARWATCH_BIN" serve --socket "$dir/socket" --shared-dir "$src" >"$dir/serving" &
    pids+=($!)
    exec {serving}<"$dir/serving"
    next_line "$serving" "the device"
    echo "$line"

    local accel=(-accel "tcg,thread=multi" -cpu max)
    [[ -z ${FARWATCH_KVM:-} ]] || accel=(-accel kvm -cpu host)
    qemu-system-x86_64 "${accel[@]}" -smp 1 -m 384M \
        -object memory-backend-memfd,id=mem,size=384M,share=on \
        -machine q35,memory-backend=mem -nodefaults -display none -no-reboot \
        -chardev "file,id=console,path=$dir/console" -serial chardev:console \
        -chardev stdio,id=events,signal=off -serial chardev:events \
        -chardev "socket,id=src,path=$dir/socket" -device vhost-user-fs-pci,chardev=src,tag=src \
        -kernel "$kernels/$VM_KERNEL/vmlinuz" -initrd "$dir/initrd" \
        -append "console=ttyS0 panic=-1 quiet loglevel=4" </dev/null >"$dir/events" 2>"$dir/qemu" &
    pids+=($!)
    exec {events}<"$dir/events"
    echo "booting Debian's stock kernel $VM_KERNEL; in it:"
    echo "  mount -t virtiofs src /mnt/src"
    echo "  farwatch-agent /mnt/src"
    until [[ $line == "events are delivered on "* ]]; do next_line "$events" "the agent"; done
    echo "  inotifywait -m -r /mnt/src"
}

# What the machine and its monitor have said, when that was not the right thing.
vm_cleans() {
    (($1 != 0 && $1 < 128)) || return 0
    for said in qemu console; do
        [[ ! -s $dir/$said ]] || sed "s/^/$said: /" "$dir/$said" >&2
    done
}
