# SPDX-License-Identifier: Apache-2.0 OR MIT
# Names: creation, links, renames, directories, path resolution.

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def renameat2(one, two, flags):
    return tried(libc, "renameat2", AT_FDCWD, one.encode(), AT_FDCWD, two.encode(), flags)


def tree():
    """What is below this directory: names, types, link counts and contents."""
    found = []
    for root, dirs, files in os.walk("."):
        for name in sorted(dirs + files):
            path = os.path.join(root, name)
            status = os.lstat(path)
            content = got(path) if stat.S_ISREG(status.st_mode) else os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            found.append((path[2:], oct(status.st_mode), status.st_nlink, content))
    return sorted(found)


def kinds(prefix=""):
    """One of each kind of object."""
    put(prefix + "file")
    os.mkdir(prefix + "dir")
    os.mkdir(prefix + "full")
    put(prefix + "full/f")
    os.symlink("nowhere", prefix + "dangling")
    os.symlink("dir", prefix + "to-dir")
    os.mkfifo(prefix + "fifo")
    return ["file", "dir", "full", "dangling", "to-dir", "fifo", "none"]


@check
def open_with_each_flag_of_each_kind():
    names = kinds()
    flags = [os.O_RDONLY, os.O_WRONLY, os.O_CREAT | os.O_RDWR, os.O_CREAT | os.O_EXCL | os.O_WRONLY, os.O_NOFOLLOW, os.O_DIRECTORY,
             os.O_DIRECTORY | os.O_NOFOLLOW, os.O_PATH | os.O_NOFOLLOW, os.O_TRUNC | os.O_WRONLY, os.O_DIRECTORY | os.O_CREAT]

    def opens(name, flag):
        os.close(os.open(name, flag | os.O_NONBLOCK, 0o600))

    seen = [(name, [tried(opens, name, flag) for flag in flags]) for name in names]
    seen += [tried(opens, name, os.O_RDONLY) for name in ("file/", "file/x", "dir/", "dangling/", "none/", "", ".", "..", "dir/.", "dir/none/..")]
    return seen, sorted(os.listdir("."))


@check
def calls_of_each_kind():
    calls = {"unlink": os.unlink, "rmdir": os.rmdir, "readlink": os.readlink, "listdir": os.listdir,
             "truncate": lambda path: os.truncate(path, 0), "mkdir": os.mkdir, "chdir": lambda path: child(lambda: os.chdir(path)),
             "link": lambda path: os.link(path, path + "-link", follow_symlinks=False), "symlink": lambda path: os.symlink("x", path),
             "mkfifo": os.mkfifo, "stat": lambda path: stat.S_IFMT(os.stat(path).st_mode), "access": lambda path: os.access(path, os.R_OK)}
    seen = []
    for name, call in calls.items():
        os.mkdir(name)
        os.chdir(name)
        seen.append((name, [tried(call, kind) for kind in kinds()], [entry[:3] for entry in tree()]))
        os.chdir("..")
    return digest(repr(seen).encode()), [entry[:2] for entry in seen]


@check
def renames_of_each_kind_to_each_kind():
    names, seen = ["file", "dir", "full", "dangling", "fifo", "none"], []
    valid = (0, NOREPLACE, EXCHANGE, WHITEOUT)
    for flags in (*valid, NOREPLACE | EXCHANGE, 8):
        for one in names if flags in valid else names[:1]:
            for two in names:
                os.mkdir("here")
                os.mkdir("there")
                kinds("here/"), kinds("there/")
                result = renameat2(f"here/{one}", f"there/{two}", flags)
                seen.append((flags, one, two, result, hashlib.sha256(repr(tree()).encode()).hexdigest()[:6]))
                shutil.rmtree("here"), shutil.rmtree("there")
    return digest(repr(seen).encode()), [entry for entry in seen if isinstance(entry[3], str)][:80]


@check
def renames_into_itself_and_of_special_names():
    os.makedirs("a/b/c")
    put("f")
    os.link("f", "same")
    pairs = [("a", "a/b/x"), ("a", "a"), ("a/b", "a"), ("f", "same"), ("f", "f"), ("a/.", "x"), ("a/..", "x"), ("f", "a/."),
             ("f/", "x"), ("f", "x/"), ("a", "x/"), ("x/", "a/"), ("none", "f"), ("f", "none/x")]
    return [renameat2(one, two, 0) for one, two in pairs], tree()


@check
def names_of_each_length_and_byte():
    names = [b"n" * length for length in (1, 254, 255, 256)] + [bytes([byte]) + b"x" for byte in range(1, 256) if byte != 47]
    results = [tried(lambda: os.close(os.open(name, os.O_CREAT | os.O_RDWR))) for name in names]
    listed = set(os.listdir(b".")) == {name for name, result in zip(names, results) if result is None}
    unlinked = [tried(os.unlink, name) for name in names]
    return sorted(set(results), key=str), listed, results[:4], unlinked[:4], os.listdir(".")


@check
def long_paths_and_links():
    os.makedirs("/".join(["d" * 100] * 30))
    path = "/".join(["d" * 100] * 30)
    seen = [tried(put, path + "/f"), tried(os.stat, path + "/" + "d" * 100 + "/.." * 500)]
    seen += [tried(os.symlink, "x" * length, f"l{length}") for length in (1, 254, 4094, 4095, 4096)]
    seen += [len(os.readlink(f"l{length}")) for length in (1, 254) if os.path.lexists(f"l{length}")]
    os.symlink("loop", "loop")
    return seen, tried(os.stat, "loop"), tried(os.open, "loop", os.O_CREAT | os.O_RDWR), os.lstat("l254").st_size


@check
def links_are_counted_and_have_one_inode():
    put("f")
    os.mkdir("d")
    for nth in range(5):
        os.link("f", f"d/h{nth}")
        os.mkdir(f"d/s{nth}")
    same = len({os.stat(path).st_ino for path in ("f", "d/h0", "d/h4")}) == 1
    counts = [os.stat("f").st_nlink, os.stat("d/h3").st_nlink, os.stat("d").st_nlink]
    os.rename("d/h1", "d/h0")
    os.unlink("f")
    os.rmdir("d/s0")
    os.rename("d/s1", "s1")
    return same, counts, os.stat("d/h2").st_nlink, os.stat("d").st_nlink, os.stat(".").st_nlink


@check
def inode_numbers_stay_and_are_those_of_the_listing():
    os.mkdir("d")
    put("d/f")
    before = os.stat("d/f").st_ino, os.stat("d").st_ino
    os.rename("d/f", "d/g")
    os.rename("d", "e")
    put("e/g", b"other")
    after = os.stat("e/g").st_ino, os.stat("e").st_ino
    listed = {entry.name: (entry.inode() == os.lstat(entry.path).st_ino, entry.is_dir(follow_symlinks=False)) for entry in os.scandir(".")}
    return before == after, listed, os.stat("e").st_dev == os.stat("e/g").st_dev == os.stat(".").st_dev


@check
def types_in_a_listing():
    kinds()
    os.mknod("null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod("block", 0o600 | stat.S_IFBLK, os.makedev(7, 99))
    socket.socket(socket.AF_UNIX).bind("socket")
    return sorted((entry.name, entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False), entry.is_symlink(),
                   oct(os.lstat(entry.path).st_mode), os.lstat(entry.path).st_rdev) for entry in os.scandir("."))


@check
def device_nodes_and_pipes_and_sockets_work():
    # That a device node cannot be opened in a mount is the driver's `nodev`.
    seen = [as_user(lambda: os.mknod("n", stat.S_IFCHR, os.makedev(1, 3)))]
    os.mkfifo("p")
    seen.append(tried(os.open, "p", os.O_WRONLY | os.O_NONBLOCK))
    held = Held(lambda: os.open("p", os.O_RDWR))
    seen.append(isinstance(tried(os.open, "p", os.O_WRONLY | os.O_NONBLOCK), int))
    held.let_go()
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    server.bind("s")
    seen.append(tried(client.connect, "s"))
    server.listen()
    client.connect("s")
    return seen, tried(socket.socket(socket.AF_UNIX).bind, "s"), tried(os.open, "s", os.O_RDONLY)


@check
def large_directory_is_listed_whole_while_it_changes():
    os.mkdir("d")
    for nth in range(1000):
        os.close(os.open(f"d/{nth:05}", os.O_CREAT | os.O_WRONLY))
    entries, names = os.scandir("d"), []
    for nth, entry in enumerate(entries):
        names.append(entry.name)
        if nth % 3 == 0:
            os.unlink(entry.path)
        if nth % 100 == 0:
            put(f"d/new{nth}")
    old = [name for name in names if not name.startswith("new")]
    return len(old), len(set(old)), len(names) == len(set(names)), len(os.listdir("d")) == len(set(os.listdir("d")))


@check
def position_in_a_listing():
    for nth in range(500):
        put(f"f{nth:03}")
    calls = ctypes.CDLL(None)
    calls.opendir.restype = calls.readdir.restype = ctypes.c_void_p
    calls.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(calls.opendir(b"."))
    name = lambda entry: ctypes.string_at(entry + 19) if entry else None
    first = []
    for nth in range(502):
        first.append((calls.telldir(stream), name(calls.readdir(stream))))
    same = []
    for at, expected in first[::37]:
        calls.seekdir(stream, ctypes.c_long(at))
        same.append(name(calls.readdir(stream)) == expected)
    calls.rewinddir(stream)
    return all(same), len(set(entry for _, entry in first)), name(calls.readdir(stream)) == first[0][1]


@check
def directory_that_is_removed_while_it_is_open_or_current():
    os.makedirs("d/e")
    fd = os.open("d/e", os.O_RDONLY)
    os.chdir("d/e")
    os.rmdir("../e")
    seen = [tried(os.getcwd), os.listdir(fd), os.fstat(fd).st_nlink, tried(put, "f"), tried(os.stat, ".") and "stat"]
    seen += [tried(os.mkdir, "s"), tried(os.open, "..", os.O_RDONLY) and "open", tried(os.stat, "f")]
    return seen, tried(os.rmdir, "."), tried(os.link, f"/proc/self/fd/{fd}", "x")


@check
def rmdir_and_unlink_of_special_names():
    os.makedirs("d/e")
    return [tried(os.rmdir, path) for path in ("d", "d/.", "d/e/..", "d/e/", "/", ".", "..")], [tried(os.unlink, path) for path in ("d", "d/", ".")]


@check
def file_without_a_name_and_its_first_name():
    fd = tried(os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o640)
    if isinstance(fd, str):
        return fd
    os.write(fd, b"x")
    seen = [os.fstat(fd).st_nlink, os.listdir(".")]
    seen.append(tried(libc, "linkat", AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, b"named", 0x400))
    other = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
    seen.append(tried(libc, "linkat", AT_FDCWD, f"/proc/self/fd/{other}".encode(), AT_FDCWD, b"other", 0x400))
    return seen, sorted(os.listdir(".")), os.fstat(fd).st_nlink


@check
def unlinked_file_gets_no_name_again():
    put("f")
    fd = os.open("f", os.O_RDWR)
    os.unlink("f")
    return tried(libc, "linkat", AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, b"again", 0x400), os.listdir(".")


@check
def program_that_runs_is_not_written():
    import shutil

    shutil.copy("/bin/sleep", "program")
    os.chmod("program", 0o755)
    pid = os.spawnv(os.P_NOWAIT, "./program", ["program", "20"])
    while os.readlink(f"/proc/{pid}/exe").split("/")[-1] != "program":
        pass
    seen = [tried(os.open, "program", os.O_WRONLY), tried(os.truncate, "program", 0), tried(os.unlink, "program")]
    os.kill(pid, 9)
    return seen, os.waitpid(pid, 0)[1]


@check
def scripts_and_programs_run():
    import subprocess

    os.close(os.open("script", os.O_CREAT | os.O_WRONLY, 0o755))
    with open("script", "w") as file:
        file.write("#!/bin/sh\necho ran $1\n")
    writer = os.open("script", os.O_WRONLY)
    busy = tried(subprocess.check_output, ["./script", "x"])
    os.close(writer)
    seen = [busy, tried(subprocess.check_output, ["./script", "x"])]
    os.chmod("script", 0o644)
    return seen, tried(subprocess.check_output, ["./script"])


@check
def handles_lead_back_to_their_files():
    put("f")
    handle = struct.pack("Ii", 128, 0) + bytes(128)
    buffer, mount = ctypes.create_string_buffer(handle), ctypes.c_int()
    made = tried(libc, "name_to_handle_at", AT_FDCWD, b"f", buffer, ctypes.byref(mount), 0)
    if isinstance(made, str):
        return made
    directory = os.open(".", os.O_RDONLY)
    fd = tried(libc, "open_by_handle_at", directory, buffer, os.O_RDONLY)
    content = fd if isinstance(fd, str) else os.read(fd, 99)
    os.unlink("f")
    if not isinstance(fd, str):
        os.close(fd)
    return content, tried(libc, "open_by_handle_at", directory, buffer, os.O_RDONLY)


@check
def two_processes_make_delete_and_rename_the_same_names():
    calls = [lambda name, other: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)), lambda name, other: os.unlink(name),
             lambda name, other: os.rename(name, other), lambda name, other: os.mkdir(name), lambda name, other: os.rmdir(name),
             lambda name, other: os.link(name, other), lambda name, other: os.stat(name) and None]

    def work(seed):
        import random

        numbers, errors = random.Random(seed), set()
        for _ in range(500):
            name, other = (f"n{numbers.randrange(4)}" for _ in range(2))
            errors.add(tried(numbers.choice(calls), name, other))
        return sorted(errors, key=str)

    read, write = os.pipe()
    pids = []
    for seed in range(3):
        pid = os.fork()
        if pid == 0:
            os.write(write, repr(work(seed)).encode() + b"\n")
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    os.close(write)
    met = set()
    for line in b"".join(iter(lambda: os.read(read, 65536), b"")).decode().split("\n"):
        met.update(eval(line) if line else [])
    for name in os.listdir("."):
        os.stat(name)
    allowed = {None, "EEXIST", "ENOENT", "ENOTDIR", "EISDIR", "EPERM", "ENOTEMPTY"}
    return statuses, sorted(met - allowed)
