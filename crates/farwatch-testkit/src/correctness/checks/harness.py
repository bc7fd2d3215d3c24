# SPDX-License-Identifier: Apache-2.0 OR MIT
# What the checks have in common. Each is a function of a directory that is its own; what it returns is compared, as
# text, with what it returns in a local directory. An error of a system call is its name.

import ctypes, errno, fcntl, hashlib, mmap, os, resource, select, shutil, signal, socket, stat, struct, sys, time

LIBC = ctypes.CDLL(None, use_errno=True)
CHECKS = {}
# An ordinary user and a group, which need no names.
USER, GROUP = 4242, 4343
AT_FDCWD = -100


def check(function):
    CHECKS[function.__name__] = function
    return function


def name_of(error):
    return errno.errorcode.get(error, str(error))


def tried(call, *arguments, **named):
    """What a call returns, or its error."""
    try:
        return call(*arguments, **named)
    except OSError as error:
        return name_of(error.errno)


def libc(name, *arguments):
    """A call of the C library that Python has not; paths as bytes, offsets as `off()`."""
    ctypes.set_errno(0)
    function = getattr(LIBC, name)
    function.restype = ctypes.c_int
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def off(number):
    return ctypes.c_longlong(number)


def put(path, content=b"content", mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    os.write(fd, content)
    os.close(fd)
    return path


def got(path):
    with open(path, "rb") as file:
        return file.read()


def digest(content):
    return (len(content), hashlib.sha256(content).hexdigest()[:12])


def child(function, seconds=20):
    """What another process returns from it, which has so long; then it is killed with what it has started."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(read)
        result = tried(function)
        os.write(write, repr(result).encode())
        os._exit(0)
    os.close(write)
    chunks = []
    end = time.monotonic() + seconds
    while select.select([read], [], [], max(0, end - time.monotonic()))[0] and (chunk := os.read(read, 65536)):
        chunks.append(chunk)
    if time.monotonic() >= end:
        tried(os.killpg, pid, signal.SIGKILL)
        chunks = [b"hangs"]
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    return b"".join(chunks).decode() if status == 0 or chunks == [b"hangs"] else f"signal {status & 127}"


def as_user(function, uid=USER, gid=GROUP, groups=()):
    """What a process of an ordinary user returns from it."""

    def become():
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return function()

    return child(become)


def mode(path):
    return oct(stat.S_IMODE(os.lstat(path).st_mode))


class Held:
    """Another process that has done `begin`, until it is let go and does `end`."""

    def __init__(self, begin, end=lambda: None):
        ready_read, ready = os.pipe()
        go, self.go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.go)
            kept = begin()
            os.write(ready, b"x")
            os.read(go, 1)
            end()
            del kept
            os._exit(0)
        os.close(ready)
        os.close(go)
        os.read(ready_read, 1)
        os.close(ready_read)

    def let_go(self):
        os.close(self.go)
        os.waitpid(self.pid, 0)


def main():
    base, only = sys.argv[1], sys.argv[2:]
    os.umask(0o022)
    for name, function in CHECKS.items():
        if only and name not in only:
            continue
        directory = os.path.join(base, name)
        os.mkdir(directory)

        def run():
            os.chdir(directory)
            return function()

        print(f"{name}\t{child(run, 40)}", flush=True)
