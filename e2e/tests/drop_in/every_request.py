# SPDX-License-Identifier: Apache-2.0 OR MIT
# Makes requests of every kind in the directory that is its argument, and leaves it empty.
import ctypes, fcntl, mmap, os, socket, stat, sys
os.chdir(sys.argv[1])
f = os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
os.write(f, b"0123456789" * 1000)
os.pwritev(f, [b"ab", b"cd"], 100)
assert os.pread(f, 4, 100) == b"abcd"
os.posix_fallocate(f, 0, 1 << 20)
os.lseek(f, 0, os.SEEK_HOLE), os.lseek(f, 0, os.SEEK_DATA)
os.fsync(f), os.fdatasync(f), os.ftruncate(f, 5000)
fcntl.flock(f, fcntl.LOCK_EX), fcntl.lockf(f, fcntl.LOCK_EX)
g = os.open("g", os.O_RDWR | os.O_CREAT, 0o600)
assert os.copy_file_range(f, g, 5000) == 5000
with mmap.mmap(g, 5000) as m:
    m[0:4] = b"wxyz"
    m.flush()
os.close(f), os.close(g)
with open("f", "r+b", buffering=0) as h:
    h.truncate(10)
os.setxattr("f", "user.a", b"1"), os.setxattr("f", "user.a", b"22", os.XATTR_REPLACE)
assert os.getxattr("f", "user.a") == b"22" and os.listxattr("f") == ["user.a"]
os.removexattr("f", "user.a")
os.symlink("f", "l")
assert os.readlink("l") == "f"
try:
    os.setxattr("l", "trusted.a", b"1", follow_symlinks=False)
    os.getxattr("l", "trusted.a", follow_symlinks=False)
except PermissionError:
    pass
os.link("f", "k")
os.mkfifo("p", 0o600), os.mknod("n", stat.S_IFCHR | 0o600, os.makedev(1, 3))
s = socket.socket(socket.AF_UNIX)
s.bind("s"), s.close()
os.mkdir("d"), os.rename("k", "d/k"), os.replace("g", "f")
os.mkdir("e")
libc = ctypes.CDLL(None)
assert libc.renameat2(-100, b"d", -100, b"e", 2) == 0
d = os.open("d", os.O_RDONLY | os.O_DIRECTORY)
os.fsync(d), os.close(d)
os.chmod("f", 0o4755), os.chown("f", 12, 34), os.lchown("l", 12, 34)
os.utime("f", (1, 2)), os.utime("l", follow_symlinks=False)
assert os.stat("f").st_mtime == 2
os.truncate("f", 3), os.access("f", os.W_OK), os.statvfs("."), os.sync()
try:
    os.close(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600))
except OSError:
    pass
if os.fork() == 0:
    os.setgroups([7, 8]), os.setresgid(34, 34, 34), os.setresuid(12, 12, 12)
    try:
        os.mkdir("forbidden")
    except PermissionError:
        pass
    os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
    os.listdir("."), os.stat("f")
    os._exit(0)
assert os.wait()[1] == 0
os.chmod(".", 0o777)
if os.fork() == 0:
    os.setgroups([7, 8]), os.setresgid(34, 34, 34), os.setresuid(12, 12, 12)
    os.mkdir("theirs"), os.symlink("f", "theirs/l"), os.mknod("theirs/p", stat.S_IFIFO | 0o600)
    os.close(os.open("theirs/f", os.O_WRONLY | os.O_CREAT, 0o600))
    os._exit(0)
assert os.wait()[1] == 0
for name in ["theirs", "theirs/l", "theirs/p", "theirs/f"]:
    made = os.lstat(name)
    assert (made.st_uid, made.st_gid) == (12, 34), name
for name in ["theirs/l", "theirs/p", "theirs/f"]:
    os.unlink(name)
os.rmdir("theirs")
assert sorted(os.listdir(".")) == ["d", "e", "f", "l", "n", "p", "s"]
for name in ["f", "l", "n", "p", "s", "e/k"]:
    os.unlink(name)
os.rmdir("e"), os.rmdir("d")
