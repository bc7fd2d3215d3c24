# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Mounts autofs on a directory, and a tmpfs on each name in it that is looked up and begins with `disk`. As
Documentation/filesystems/autofs.rst has it. Prints `ready`; all names that are not there are refused."""
import ctypes
import fcntl
import os
import struct
import sys

PACKET = struct.Struct("=iiIIQIIIII")
PACKET_LEN = 304
MISSING_INDIRECT = 3
IOC_READY, IOC_FAIL = 0x9360, 0x9361

libc = ctypes.CDLL(None, use_errno=True)


def mount(what, where, kind, data):
    if libc.mount(what.encode(), where.encode(), kind.encode(), 0, data.encode()):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), where)


directory = sys.argv[1]
# What is of this group sees the directories beneath.
os.setpgrp()
asked, kernel = os.pipe()
mount("farwatch-test", directory, "autofs", f"fd={kernel},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect")
os.close(kernel)
control = os.open(directory, os.O_RDONLY)
print("ready", flush=True)
while packet := os.read(asked, PACKET_LEN):
    _, kind, token, *_, name_len = PACKET.unpack_from(packet)
    name = packet[PACKET.size : PACKET.size + name_len].rstrip(b"\0").decode()
    answer = IOC_FAIL
    if kind == MISSING_INDIRECT and name.startswith("disk"):
        os.mkdir(os.path.join(directory, name))
        mount("farwatch-test", os.path.join(directory, name), "tmpfs", "")
        answer = IOC_READY
    fcntl.ioctl(control, answer, token)
