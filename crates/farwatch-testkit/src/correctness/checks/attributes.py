# SPDX-License-Identifier: Apache-2.0 OR MIT
# Owners, modes, times, extended attributes, access control lists.


def acl(*entries):
    """The content of `system.posix_acl_access`, of (tag, permissions, id)."""
    tags = {"user": 1, "user:": 2, "group": 4, "group:": 8, "mask": 16, "other": 32}
    packed = [struct.pack("<HHI", tags[tag], bits, number) for tag, bits, number in entries]
    return struct.pack("<I", 2) + b"".join(packed)


NONE = 0xFFFFFFFF
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# The ordinary user may read and write, its group and others may nothing.
FOR_USER = acl(("user", 6, NONE), ("user:", 6, USER), ("group", 0, NONE), ("mask", 6, NONE), ("other", 0, NONE))


@check
def modes_of_what_is_made_follow_the_umask():
    seen = []
    for mask in (0, 0o27, 0o777):
        os.umask(mask)
        put(f"f{mask}", mode=0o6777)
        os.mkdir(f"d{mask}", 0o1777)
        os.mkfifo(f"p{mask}", 0o666)
        os.symlink("x", f"l{mask}")
        seen.append([mode(f"{kind}{mask}") for kind in "fdpl"])
    return seen


@check
def group_of_what_is_made_in_a_directory_with_setgid():
    os.mkdir("d")
    os.chown("d", USER, GROUP + 1)
    os.chmod("d", 0o2775)

    def make():
        put("d/f", mode=0o2755)
        os.mkdir("d/s")

    made = as_user(make)
    return made, [(os.stat(path).st_gid, os.stat(path).st_uid, mode(path)) for path in ("d/f", "d/s")]


@check
def setuid_and_setgid_are_cleared_by_a_change():
    # In stock virtiofsd as here, without FUSE_HANDLE_KILLPRIV_V2 it is the kernel of the mount that clears them.
    def changed(name, uid, change, bits):
        put(name, b"x" * 9)
        os.chown(name, USER, GROUP)
        os.chmod(name, bits)
        result = as_user(lambda: change(name), uid, GROUP if uid else 0)
        return result, mode(name)

    write = lambda path: os.write(os.open(path, os.O_WRONLY), b"y")
    cut = lambda path: os.truncate(path, 3)
    cut_open = lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    own = lambda path: os.chown(path, -1, GROUP)
    allocate = lambda path: libc("fallocate", os.open(path, os.O_WRONLY), 0, off(0), off(100))
    changes = [write, cut, cut_open, own, allocate]
    return [changed(f"{nth}-{uid}-{bits}", uid, change, bits) for nth, change in enumerate(changes)
            for uid in (USER, 0) for bits in (0o6777, 0o2767, 0o4777)]


@check
def chmod_and_chown_by_owner_group_and_others():
    put("f")
    os.chown("f", USER, GROUP)
    changes = [lambda: os.chmod("f", 0o2750), lambda: os.chown("f", USER, GROUP + 1), lambda: os.chown("f", 0, -1),
               lambda: os.chown("f", USER, GROUP), lambda: os.chmod("f", 0o4711)]
    users = [(USER, GROUP, ()), (USER, GROUP, (GROUP + 1,)), (USER + 1, GROUP, ()), (0, 0, ())]
    seen = []
    for uid, gid, groups in users:
        for change in changes:
            seen.append((as_user(change, uid, gid, groups), mode("f"), os.stat("f").st_uid, os.stat("f").st_gid))
    return seen


@check
def chown_to_nobody():
    """It clears set-user-ID, for whom may do that: the owner."""
    seen = []
    for bits in (0o4711, 0o644, 0o2767, 0o4777):
        for user in ((USER, GROUP), (USER + 1, GROUP), (USER + 1, 1), (0, 0)):
            put("f")
            os.chown("f", USER, GROUP)
            os.chmod("f", bits)
            seen.append((as_user(lambda: os.chown("f", -1, -1), *user), mode("f")))
            os.unlink("f")
    return seen


@check
def set_user_id_ends_with_a_write_of_another_user():
    seen = []
    for bits in (0o4666, 0o6777, 0o2776, 0o2766):
        for groups in ((), (GROUP,)):
            put("f")
            os.chown("f", USER, GROUP)
            os.chmod("f", bits)
            os.stat("f")
            write = lambda: os.write(os.open("f", os.O_WRONLY), b"new")
            seen.append((as_user(write, USER + 1, 1, groups), mode("f"), oct(os.stat(on_host("f")).st_mode)))
            os.unlink("f")
    return seen


@check
def access_by_mode():
    os.mkdir("d")
    put("d/f")
    os.chown("d", USER, GROUP)
    os.chown("d/f", USER, GROUP)

    def uses():
        calls = [lambda: os.listdir("d"), lambda: got("d/f"), lambda: os.close(os.open("d/f", os.O_WRONLY)),
                 lambda: os.stat("d/f").st_size, lambda: os.unlink(put("d/new")), lambda: os.execv("d/f", ["f"]),
                 lambda: [os.access("d/f", how) for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]]
        return [tried(call) for call in calls]

    seen = []
    for bits in (0o700, 0o500, 0o300, 0o100, 0o400, 0o200, 0o070, 0o005, 0o000):
        os.chmod("d", bits)
        os.chmod("d/f", bits)
        seen += [as_user(uses, *user) for user in ((USER, 1), (USER + 1, GROUP), (USER + 1, 1, (GROUP,)), (9, 9))]
    return digest(repr(seen).encode()), seen[:3]


@check
def sticky_directory():
    os.mkdir("d")
    os.chmod("d", 0o1777)
    put("d/root"), put("d/other")
    seen = [as_user(lambda: put("d/own")), as_user(lambda: os.unlink("d/root")), as_user(lambda: os.rename("d/root", "d/x"))]
    seen += [as_user(lambda: os.rename("d/own", "d/other")), as_user(lambda: os.unlink("d/own"), USER + 1)]
    os.chown("d", USER + 1, GROUP)
    return seen + [as_user(lambda: os.unlink("d/own"), USER + 1), os.listdir("d")]


@check
def times_that_are_set():
    put("f")
    os.mkdir("d")
    os.symlink("f", "l")
    seen = []
    for path in ("f", "d", "l"):
        for times in ((1, 2), (0, 1_234_567_890_123_456_789), (2**33 * 10**9 + 7, 5)):
            os.utime(path, ns=times, follow_symlinks=False)
            status = os.lstat(path)
            seen.append((status.st_atime_ns, status.st_mtime_ns))
    seen.append(tried(os.utime, "none"))
    return seen, as_user(lambda: os.utime("f")), as_user(lambda: os.utime("f", ns=(1, 1)))


@check
def times_that_change():
    """Which of atime, mtime and ctime an operation changes, of the object and of its directory."""
    os.mkdir("d")
    put("d/f", b"x" * 10)
    os.mkdir("d/s")
    fd = os.open("d/f", os.O_RDWR)
    operations = {
        "write": lambda: os.pwrite(fd, b"y", 0), "read": lambda: os.pread(fd, 5, 0), "chmod": lambda: os.chmod("d/f", 0o600),
        "chown": lambda: os.chown("d/f", 0, 0), "truncate": lambda: os.truncate("d/f", 5), "same size": lambda: os.truncate("d/f", 5),
        "ftruncate same": lambda: os.ftruncate(fd, 5), "link": lambda: os.link("d/f", "d/h"), "unlink": lambda: os.unlink("d/h"),
        "rename": lambda: os.rename("d/f", "d/g"), "back": lambda: os.rename("d/g", "d/f"), "xattr": lambda: os.setxattr("d/f", "user.a", b"1"),
        "mkdir": lambda: os.mkdir("d/t"), "rmdir": lambda: os.rmdir("d/t"), "list": lambda: os.listdir("d"), "empty write": lambda: os.pwrite(fd, b"", 0),
        "open truncate": lambda: os.close(os.open("d/f", os.O_WRONLY | os.O_TRUNC)), "allocate": lambda: libc("fallocate", fd, 0, off(0), off(99)),
    }
    seen = {}
    for name, operation in operations.items():
        for path in ("d", fd):
            os.utime(path, ns=(10**9, 10**9))
        before = {path: os.stat(path) for path in ("d", fd)}
        time.sleep(0.02)
        operation()
        changed = ""
        for path in ("d", fd):
            after = os.stat(path)
            fields = [field[3] for field in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
                      if getattr(after, field) != getattr(before[path], field)]
            changed += "".join(fields) + ("/" if path == "d" else "")
        seen[name] = changed
    return seen


@check
def time_of_reading_is_not_taken_with_o_noatime():
    put("f")
    os.utime("f", ns=(1, 2))
    fd = os.open("f", os.O_RDONLY | os.O_NOATIME)
    os.read(fd, 3)
    return os.stat("f").st_atime_ns == 1, as_user(lambda: os.open("f", os.O_RDONLY | os.O_NOATIME))


@check
def attributes_in_each_way():
    put("f")
    os.mkdir("d")
    seen = []
    for path in ("f", "d"):
        seen += [tried(os.getxattr, path, "user.none"), tried(os.removexattr, path, "user.none")]
        os.setxattr(path, "user.one", b"1")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.two", b"\0two\0")
        seen += [tried(os.setxattr, path, "user.one", b"x", os.XATTR_CREATE), tried(os.setxattr, path, "user.new", b"x", os.XATTR_REPLACE)]
        seen += [sorted(os.listxattr(path)), os.getxattr(path, "user.empty"), os.getxattr(path, "user.two")]
        os.setxattr(path, "user.one", b"2" * 3000, os.XATTR_REPLACE)
        os.removexattr(path, "user.empty")
        seen += [digest(os.getxattr(path, "user.one")), sorted(os.listxattr(path))]
    return seen


@check
def attributes_that_are_refused():
    put("f")
    os.symlink("f", "l")
    os.mkfifo("p")
    names = ["user.", "user", "", "nothing.a", "system.a", "user." + "n" * 250, "user." + "n" * 251]
    seen = [tried(os.setxattr, "f", name, b"1") for name in names]
    seen += [tried(os.setxattr, "f", "user.large", bytes(size)) for size in (4000, 65536, 65537)]
    seen += [tried(os.setxattr, path, name, b"1", 0, follow_symlinks=False) for path in ("l", "p") for name in ("user.a",)]
    seen += [tried(os.listxattr, path, follow_symlinks=False) for path in ("l", "p")]
    return seen, [tried(os.getxattr, "none", "user.a"), tried(os.listxattr, "none")]


@check
def attributes_that_need_cap_sys_admin():
    put("f")
    os.symlink("f", "l")
    seen = [tried(os.setxattr, path, "trusted.a", b"1", 0, follow_symlinks=False) for path in ("f", "l")]
    return seen, sorted(os.listxattr("f")), tried(os.getxattr, "f", "trusted.a")


@check
def attributes_of_another_user():
    put("f")
    os.setxattr("f", "user.a", b"1")
    calls = [lambda: os.getxattr("f", "user.a"), lambda: os.setxattr("f", "user.a", b"2"), lambda: os.getxattr("f", "trusted.a"),
             lambda: os.setxattr("f", "trusted.a", b"2"), lambda: os.listxattr("f"), lambda: os.setxattr("f", "security.x", b"2")]
    seen = [as_user(call) for call in calls]
    os.chmod("f", 0o600)
    return seen, [as_user(call) for call in calls]


@check
def capabilities_of_a_file_end_with_a_write():
    put("f")
    capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    seen = []
    for change in (lambda: os.write(os.open("f", os.O_WRONLY), b"x"), lambda: os.truncate("f", 2), lambda: os.chown("f", 0, 0)):
        seen.append(tried(os.setxattr, "f", "security.capability", capability))
        change()
        seen.append(os.listxattr("f"))
    return seen


@check
def access_list_is_kept_and_shows_in_the_mode():
    put("f", mode=0o640)
    seen = [tried(os.setxattr, "f", ACCESS, FOR_USER), mode("f"), tried(os.getxattr, "f", ACCESS)]
    os.chmod("f", 0o604)
    seen += [mode("f"), tried(os.getxattr, "f", ACCESS), os.listxattr("f")]
    plain = acl(("user", 7, NONE), ("group", 5, NONE), ("other", 1, NONE))
    seen += [tried(os.setxattr, "f", ACCESS, plain), mode("f"), os.listxattr("f")]
    return seen + [tried(os.removexattr, "f", ACCESS), tried(os.setxattr, "f", DEFAULT, plain)]


@check
def access_list_decides():
    put("f", mode=0o600)
    listed = tried(os.setxattr, "f", ACCESS, FOR_USER)
    uses = lambda: [tried(got, "f"), tried(lambda: os.close(os.open("f", os.O_WRONLY))), os.access("f", os.R_OK)]
    seen = [as_user(uses), as_user(uses, USER + 1)]
    if listed is None:
        os.chmod("f", 0o600)
    return listed, seen, as_user(uses)


@check
def access_list_that_is_no_list_is_refused():
    put("f")
    lists = [b"", b"\1\0\0\0", FOR_USER[:-3], acl(("user", 6, NONE)), acl(("user", 6, NONE), ("user", 6, NONE), ("group", 0, NONE), ("other", 0, NONE)),
             acl(("user", 6, NONE), ("user:", 6, USER), ("group", 0, NONE), ("other", 0, NONE))]
    return [tried(os.setxattr, "f", ACCESS, content) for content in lists], as_user(lambda: os.setxattr("f", ACCESS, FOR_USER))


@check
def default_access_list_is_inherited():
    os.mkdir("d")
    set_default = tried(os.setxattr, "d", DEFAULT, FOR_USER)
    os.umask(0o077)
    put("d/f", mode=0o666)
    os.mkdir("d/s", 0o777)
    os.mkfifo("d/p", 0o666)
    os.symlink("x", "d/l")
    listed = [tried(os.getxattr, path, name) for path in ("d/f", "d/s", "d/p") for name in (ACCESS, DEFAULT)]
    modes = [mode(f"d/{name}") for name in "fspl"]
    return set_default, modes, listed, tried(os.removexattr, "d", DEFAULT), tried(os.listxattr, "d")


@check
def file_system_is_described():
    put("f", b"x" * 5000)
    status, system = os.stat("f"), os.statvfs(".")
    # The file system of the mount is another than the host's, of the same size.
    return status.st_blocks, status.st_blksize, system.f_bsize, system.f_frsize, system.f_blocks, system.f_files, system.f_namemax
