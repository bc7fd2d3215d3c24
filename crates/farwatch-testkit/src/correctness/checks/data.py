# SPDX-License-Identifier: Apache-2.0 OR MIT
# The content of files: mappings, O_DIRECT, holes, fallocate(2), offsets.

KEEP, PUNCH, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
BLOCK = 4096
HOST = os.environ.get("FARWATCH_CHECKED_HOST")


def blocks(count):
    """Each block is other bytes."""
    return b"".join(bytes([65 + nth % 26]) * BLOCK for nth in range(count))


def on_host(path):
    """The same file on the host, seen by another program than the mount."""
    return os.path.join(HOST, os.path.basename(os.getcwd()), path)


@check
def mapping_that_is_shared_is_seen_by_read_and_by_another_process():
    put("f", blocks(2))
    fd = os.open("f", os.O_RDWR)
    mapping = mmap.mmap(fd, 2 * BLOCK)
    mapping[10:13] = b"new"
    seen = [os.pread(fd, 5, 9), child(lambda: got("f")[9:14])]
    other = child(lambda: mmap.mmap(os.open("f", os.O_RDONLY), 2 * BLOCK, prot=mmap.PROT_READ)[9:14])
    os.pwrite(fd, b"newer", BLOCK)
    return seen + [other, mapping[BLOCK : BLOCK + 6]]


@check
def mapping_is_on_the_host_after_msync_and_after_munmap():
    put("f", blocks(2))
    fd = os.open("f", os.O_RDWR)
    mapping = mmap.mmap(fd, 2 * BLOCK)
    mapping[0:3] = b"new"
    mapping.flush()
    seen = [got(on_host("f"))[:4]]
    mapping[BLOCK : BLOCK + 3] = b"new"
    mapping.close()
    os.fsync(fd)
    return seen + [got(on_host("f"))[BLOCK : BLOCK + 4]]


@check
def mapping_that_is_private_changes_nothing():
    put("f", blocks(1))
    mapping = mmap.mmap(os.open("f", os.O_RDONLY), BLOCK, flags=mmap.MAP_PRIVATE)
    mapping[0:3] = b"new"
    return mapping[0:4], got("f")[:4]


@check
def mapping_beyond_the_end_is_a_bus_error():
    put("f", blocks(1))
    mapping = mmap.mmap(os.open("f", os.O_RDWR), BLOCK)
    os.truncate("f", 3 * BLOCK)
    larger = mmap.mmap(os.open("f", os.O_RDWR), 3 * BLOCK)
    os.truncate("f", BLOCK)

    def beyond():
        return larger[2 * BLOCK]

    return mapping[0], child(beyond)


@check
def mapping_of_the_last_page_is_zero_past_the_end_and_not_written():
    put("f", b"x" * 10)
    fd = os.open("f", os.O_RDWR)
    mapping = mmap.mmap(fd, 10)
    mapping[0:2] = b"ab"
    mapping.close()
    os.ftruncate(fd, 20)
    return got("f")


@check
def mapping_needs_the_mode_of_the_descriptor():
    put("f", blocks(1))
    modes = [(os.O_RDONLY, mmap.PROT_READ), (os.O_RDONLY, mmap.PROT_READ | mmap.PROT_WRITE),
             (os.O_WRONLY, mmap.PROT_READ), (os.O_RDWR, mmap.PROT_READ | mmap.PROT_EXEC)]
    shared = lambda flags, prot: mmap.mmap(os.open("f", flags), BLOCK, prot=prot) and "ok"
    return [tried(shared, *modes_of) for modes_of in modes]


@check
def mapping_of_an_unlinked_file_stays():
    put("f", blocks(1))
    mapping = mmap.mmap(os.open("f", os.O_RDWR), BLOCK)
    os.unlink("f")
    mapping[0:3] = b"new"
    mapping.flush()
    return mapping[0:4]


@check
def direct_writes_and_reads():
    fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    buffer = mmap.mmap(-1, 4 * BLOCK)
    buffer[:] = blocks(4)
    seen = [os.pwrite(fd, buffer, 0), os.pwrite(fd, buffer, 8 * BLOCK)]
    back = mmap.mmap(-1, 4 * BLOCK)
    seen += [os.preadv(fd, [back], 0), digest(back[:]), os.preadv(fd, [back], 10 * BLOCK), digest(back[: 2 * BLOCK])]
    return seen + [digest(got("f")), os.preadv(fd, [back], 100 * BLOCK)]


@check
def direct_and_buffered_access_see_each_other():
    put("f", blocks(4))
    direct = os.open("f", os.O_RDWR | os.O_DIRECT)
    buffered = os.open("f", os.O_RDWR)
    buffer = mmap.mmap(-1, BLOCK)
    seen = []
    for nth in range(4):
        got("f")
        buffer[:] = bytes([97 + nth]) * BLOCK
        os.pwrite(direct, buffer, nth * BLOCK)
        seen.append(digest(os.pread(buffered, 4 * BLOCK, 0)))
        os.pwrite(buffered, b"buffered", nth * BLOCK + 9)
        os.preadv(direct, [buffer], nth * BLOCK)
        seen.append(digest(buffer[:]))
    return seen


@check
def direct_append_and_o_sync():
    fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_SYNC, 0o644)
    os.write(fd, b"one")
    os.write(os.open("f", os.O_WRONLY | os.O_APPEND | os.O_DSYNC), b"two")
    os.write(fd, b"three")
    return got("f"), fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_SYNC)


def extents(fd):
    """Where SEEK_DATA and SEEK_HOLE find data."""
    found, at = [], 0
    while True:
        data = tried(os.lseek, fd, at, os.SEEK_DATA)
        if not isinstance(data, int):
            return found + [data]
        at = os.lseek(fd, data, os.SEEK_HOLE)
        found.append((data, at))


@check
def holes_are_found():
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    for nth in (4, 5, 64):
        os.pwrite(fd, blocks(1), nth * 16 * BLOCK)
    os.ftruncate(fd, 100 * 16 * BLOCK)
    found = extents(fd)
    ends = [tried(os.lseek, fd, at, whence) for at in (0, 100 * 16 * BLOCK - 1, 100 * 16 * BLOCK, -1)
            for whence in (os.SEEK_DATA, os.SEEK_HOLE)]
    return found, ends, digest(got("f")), os.fstat(fd).st_blocks


@check
def holes_of_an_empty_file_and_of_a_directory():
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    directory = os.open(".", os.O_RDONLY)
    ends = [tried(os.lseek, fd, 0, whence) for whence in (os.SEEK_DATA, os.SEEK_HOLE)]
    os.ftruncate(fd, 10 * BLOCK)
    return ends, extents(fd), os.fstat(fd).st_blocks, os.lseek(directory, 0, os.SEEK_CUR)


def fallocated(flags, offset, length, before=8):
    path = f"f{flags}-{offset}-{length}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, blocks(before))
    os.fsync(fd)
    result = tried(libc, "fallocate", fd, flags, off(offset), off(length))
    os.fsync(fd)
    status = os.fstat(fd)
    return result, status.st_size, status.st_blocks, digest(got(path)), digest(got(on_host(path)))


MODES = {"default": 0, "keep": KEEP, "punch": PUNCH | KEEP, "punch alone": PUNCH, "zero": ZERO,
         "zero and keep": ZERO | KEEP, "collapse": COLLAPSE, "insert": INSERT, "unshare": UNSHARE, "unknown": 128}
for mode_name, mode_flags in MODES.items():

    def fallocate_check(flags=mode_flags):
        ranges = [(BLOCK, 2 * BLOCK), (100, 5000), (6 * BLOCK, 4 * BLOCK), (20 * BLOCK, BLOCK), (0, 0), (-1, BLOCK)]
        return [fallocated(flags, *at) for at in ranges]

    CHECKS["fallocate_" + mode_name.replace(" ", "_")] = fallocate_check


@check
def fallocate_of_a_reader_of_a_directory_of_a_pipe():
    put("f")
    os.mkfifo("p")
    fds = [os.open("f", os.O_RDONLY), os.open(".", os.O_RDONLY), os.open("p", os.O_RDWR)]
    return [tried(libc, "fallocate", fd, 0, off(0), off(BLOCK)) for fd in fds]


@check
def fallocate_is_seen_by_a_mapping_and_a_reader():
    put("f", blocks(4))
    fd = os.open("f", os.O_RDWR)
    mapping = mmap.mmap(fd, 4 * BLOCK)
    before = digest(mapping[:])
    libc("fallocate", fd, PUNCH | KEEP, off(BLOCK), off(BLOCK))
    seen = digest(mapping[:])
    libc("fallocate", fd, ZERO, off(0), off(100))
    return before, seen, digest(mapping[:]), digest(os.pread(fd, 5 * BLOCK, 0))


@check
def truncate_grows_with_zeros_and_shrinks():
    put("f", b"x" * 5000)
    fd = os.open("f", os.O_RDWR)
    seen = []
    for size in (4999, 10000, 100, 4096, 4097, 0, 3):
        os.ftruncate(fd, size)
        seen.append((os.fstat(fd).st_size, digest(got("f")), os.stat("f").st_size))
    bad = [tried(os.truncate, "f", -1), tried(os.truncate, ".", 0), tried(os.ftruncate, os.open("f", os.O_RDONLY), 0)]
    return seen, bad, tried(os.truncate, "none", 0)


@check
def offsets_beyond_four_gigabytes():
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    seen = []
    for at in (2**31 - 1, 2**32 - 1, 2**33 + 5, 2**40):
        os.pwrite(fd, b"xyz", at)
        seen.append((os.fstat(fd).st_size, os.pread(fd, 10, at - 2)))
    return seen, os.lseek(fd, -1, os.SEEK_END), os.read(fd, 9)


@check
def size_limit_of_a_process():
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
        found = [tried(os.write, fd, b"x" * 800), tried(os.write, fd, b"x" * 800), tried(os.write, fd, b"x")]
        return found + [tried(os.ftruncate, fd, 2000), tried(libc, "fallocate", fd, 0, off(0), off(2000))]

    def killed():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        os.pwrite(os.open("f", os.O_RDWR), b"x", 3000)

    return child(limited), os.stat("f").st_size, child(killed)


@check
def append_of_several_processes_loses_nothing():
    pids = []
    for nth in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for line in range(200):
                os.write(fd, f"{nth} {line:03} {'x' * (line % 50)}\n".encode())
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return digest(b"\n".join(sorted(got("f").split(b"\n"))))


@check
def vectors_and_flags_of_preadv2_and_pwritev2():
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    seen = [os.pwritev(fd, [b"ab", b"", b"cde"], 1), os.pwritev(fd, [b"end"], 0, os.RWF_APPEND)]
    seen += [os.pwritev(fd, [b"X"], 0, os.RWF_SYNC), os.pwritev(fd, [b"Y"], 1, os.RWF_DSYNC)]
    one, two = bytearray(3), bytearray(9)
    return seen + [os.preadv(fd, [one, two], 0), bytes(one), bytes(two), got("f")]


@check
def copies_within_the_kernel():
    put("a", blocks(10))
    source = os.open("a", os.O_RDONLY)
    target = lambda name: os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    seen = [tried(os.copy_file_range, source, target("b"), 30000, 100, 50), digest(got("b"))]
    seen += [tried(os.copy_file_range, source, target("a"), 9000, 0, 3 * BLOCK), digest(got("a"))]
    seen += [tried(os.copy_file_range, source, target("a"), 9000, 0, 100)]
    os.lseek(source, 0, os.SEEK_SET)
    seen += [os.sendfile(target("c"), source, 7, 20000), digest(got("c"))]
    read, write = os.pipe()
    seen += [os.splice(source, write, 5000, 11), os.splice(read, target("d"), 5000), digest(got("d"))]
    return seen


@check
def ioctls_for_clones_and_flags():
    put("a", blocks(2))
    fd, other = os.open("a", os.O_RDWR), os.open("b", os.O_RDWR | os.O_CREAT, 0o644)
    clone = tried(fcntl.ioctl, other, 0x40049409, fd)
    unknown = tried(fcntl.ioctl, fd, 0x5401, bytes(64))
    return clone, unknown, struct.unpack("i", fcntl.ioctl(fd, 0x541B, bytes(4)))[0]


@check
def syncs_of_each_kind():
    put("f")
    fd, directory = os.open("f", os.O_RDWR), os.open(".", os.O_RDONLY)
    calls = [(os.fsync, fd), (os.fdatasync, fd), (os.fsync, directory), (os.fdatasync, directory)]
    seen = [tried(*call) for call in calls]
    seen += [tried(libc, "sync_file_range", fd, off(0), off(0), 7), tried(libc, "syncfs", fd)]
    advice = [tried(os.posix_fadvise, fd, 0, 0, kind) for kind in range(6)]
    return seen, advice, tried(libc, "readahead", fd, off(0), 4096)


@check
def file_that_is_open_and_unlinked_or_replaced_stays():
    put("a", b"old")
    fd = os.open("a", os.O_RDWR)
    os.rename(put("b", b"new"), "a")
    os.write(fd, b"OLD and more")
    seen = [os.pread(fd, 20, 0), os.fstat(fd).st_nlink, os.fstat(fd).st_size, got("a")]
    os.unlink("a")
    os.ftruncate(fd, 5)
    os.fchmod(fd, 0o600)
    os.utime(fd, ns=(1, 2))
    status = os.fstat(fd)
    seen += [os.pread(fd, 20, 0), oct(status.st_mode), status.st_mtime_ns, os.listdir(".")]
    again = tried(os.open, f"/proc/self/fd/{fd}", os.O_RDONLY)
    return seen + [again if isinstance(again, str) else os.read(again, 9)]


@check
def random_writes_truncations_and_mappings_leave_what_a_model_has():
    import random

    numbers, model, size = random.Random(16), bytearray(), 0
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    for step in range(1500):
        kind, at = numbers.randrange(8), numbers.randrange(200_000)
        content = bytes([step % 251 + 1]) * numbers.randrange(1, 30_000)
        if kind < 3:
            os.pwrite(fd, content, at)
            model.extend(bytes(max(0, at + len(content) - len(model))))
            model[at : at + len(content)] = content
        elif kind == 3:
            os.ftruncate(fd, at)
            model = model[:at] + bytes(max(0, at - len(model)))
        elif kind == 4 and at + len(content) <= len(model):
            mapping = mmap.mmap(fd, len(model))
            mapping[at : at + len(content)] = content
            mapping.flush()
            mapping.close()
            model[at : at + len(content)] = content
        elif kind == 5 and libc("fallocate", fd, PUNCH | KEEP, off(at), off(len(content))) == 0:
            end = min(len(model), at + len(content))
            model[at:end] = bytes(max(0, end - at))
        elif kind == 6:
            os.close(fd)
            fd = os.open("f", os.O_RDWR)
        elif os.pread(fd, 40_000, at) != model[at : at + 40_000]:
            return f"step {step}: read at {at} differs"
        if step % 50 == 0 and (got("f") != model or got(on_host("f")) != model):
            return f"step {step}: {digest(got('f'))} {digest(got(on_host('f')))} {digest(bytes(model))}"
    return got("f") == model
