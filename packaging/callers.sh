#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# Runs programs of Debian that start virtiofsd, with the packages installed: each boots a virtual machine, and a change
# in a directory that it shares must be an event there. Run by `cargo xtask package callers` in a Debian of its own, of
# which all changes are thrown away. In /scripts are a kernel and an initial file system, whose first process mounts the
# shares `found` and `named` below /srv, starts the agent, and watches.
#
# usage: callers.sh ARCH
set -Eeuo pipefail

arch=$1
export DEBIAN_FRONTEND=noninteractive
mkdir -p /tmp/log
exec 3>&1
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&3; tail -n 40 /tmp/log/* >&3' ERR

ok() { echo "ok    $*"; }
fail() {
    echo "FAILED: $*" >&3
    tail -n 40 /tmp/log/* >&3
    exit 1
}

# wait_for FILE TEXT: until a line of the file has the text, whoever writes it.
wait_for() {
    grep --quiet --max-count=1 "$2" < <(timeout 900 tail --follow=name --retry --lines=+1 "$1" 2>/dev/null || true) ||
        fail "no $2 in ${1##*/}"
}

# events_come CONSOLE DIRECTORY NAME MOUNT_POINT: the machine watches NAME, which is that directory here, in that mount.
events_come() {
    wait_for "$1" "$3: Watches established"
    wait_for "$1" "events are delivered on $4"
    touch "$2/made"
    wait_for "$1" "$3: event made"
}

# Waits until no process runs farwatch, under whatever name.
gone() {
    local link pid
    for link in /proc/[0-9]*/exe; do
        [[ $(readlink "$link" || true) == */farwatch ]] || continue
        pid=${link#/proc/}
        timeout 30 tail --pid="${pid%/exe}" -f /dev/null || fail "farwatch goes on"
    done
}

# Without the guards that it puts around QEMU, which need a system with systemd and cgroups.
libvirt_starts() {
    printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'namespaces = []' \
        'cgroup_controllers = []' 'stdio_handler = "file"' 'remember_owner = 0' >/etc/libvirt/qemu.conf
    mkdir -p /run/libvirt
    libvirtd >/tmp/log/libvirtd 2>&1 &
    libvirt=$!
    until virsh --connect qemu:///system version >/tmp/log/virsh 2>&1; do
        kill -0 $libvirt 2>/dev/null || fail "libvirtd has ended"
    done
}

# A domain with two shares: libvirt finds the program of the first by its JSON file, and is told that of the other.
domain() {
    cat <<END
<domain type='$1'>
  <name>farwatch</name>
  <memory unit='MiB'>512</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type machine='q35'>hvm</type>
    <kernel>/scripts/vmlinuz</kernel>
    <initrd>/scripts/initrd</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet loglevel=4</cmdline>
  </os>
  <cpu mode='$2'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs'/>
      <source dir='/src/found'/>
      <target dir='found'/>
    </filesystem>
    <filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs' queue='1024'/>
      <binary path='/usr/libexec/virtiofsd' xattr='on'>
        <cache mode='always'/>
        <sandbox mode='chroot'/>
        <thread_pool size='4'/>
      </binary>
      <source dir='/src/named'/>
      <target dir='named'/>
    </filesystem>
    <serial type='file'><source path='/tmp/log/libvirt-console'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
END
}

dpkg --install /packages/farwatch_*_"$arch".deb /packages/farwatch-agent_*_"$arch".deb \
    /packages/farwatch-virtiofsd_*_all.deb >/tmp/log/dpkg 2>&1
mount -t sysfs none /sys
mkdir -p /src/{found,named}

libvirt_starts
if [[ -n ${FARWATCH_KVM:-} ]]; then domain kvm host-passthrough; else domain qemu maximum; fi >/tmp/domain.xml
virsh --connect qemu:///system create /tmp/domain.xml >>/tmp/log/virsh 2>&1
for share in found named; do
    events_come /tmp/log/libvirt-console /src/$share $share /srv/$share
done
virsh --connect qemu:///system destroy farwatch >>/tmp/log/virsh 2>&1
gone
kill $libvirt && wait $libvirt
ok "libvirt $(virsh --version) finds farwatch by its JSON file and under virtiofsd's path; events come in the domain"
