# SPDX-License-Identifier: Apache-2.0 OR MIT
# flock(2), fcntl_locking(2), leases.

EX, SH, NB, UN = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB, fcntl.LOCK_UN
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38


def opened(path="f"):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def record(kind, start=0, length=0):
    """struct flock of a 64-bit machine."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def ofd(fd, kind, start=0, length=0, command=OFD_SETLK):
    return tried(lambda: fcntl.fcntl(fd, command, record(kind, start, length)) and "ok")


@check
def flock_excludes_another_process():
    fd = opened()
    seen = []
    for held in (EX, SH):
        fcntl.flock(fd, held)
        seen += [child(lambda: fcntl.flock(opened(), wanted | NB)) for wanted in (EX, SH)]
    fcntl.flock(fd, UN)
    return seen + [child(lambda: fcntl.flock(opened(), EX | NB))]


@check
def flock_is_of_the_open_file_and_not_of_the_process():
    one, other = opened(), opened()
    fcntl.flock(one, EX)
    seen = [tried(fcntl.flock, other, EX | NB), tried(fcntl.flock, os.dup(one), EX | NB)]
    os.close(one)
    return seen + [tried(fcntl.flock, other, EX | NB)]


@check
def flock_ends_with_the_last_descriptor_and_with_the_process():
    held = Held(lambda: fcntl.flock(opened(), EX))
    before = tried(fcntl.flock, opened(), EX | NB)
    held.let_go()
    return before, tried(fcntl.flock, opened(), EX | NB)


@check
def flock_that_waits_is_given_when_the_holder_lets_go():
    def begin():
        fd = opened()
        fcntl.flock(fd, EX)
        return fd

    held = Held(begin)
    pid = os.fork()
    if pid == 0:
        os.close(held.go)
        fcntl.flock(opened(), EX)
        os._exit(7)
    waits = os.waitpid(pid, os.WNOHANG) == (0, 0)
    held.let_go()
    return waits, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@check
def flock_of_a_directory():
    fd = os.open(".", os.O_RDONLY)
    fcntl.flock(fd, EX)
    return child(lambda: fcntl.flock(os.open(".", os.O_RDONLY), SH | NB))


@check
def fcntl_ranges_exclude_where_they_overlap():
    fd = opened()
    fcntl.lockf(fd, EX, 10, 10)
    fcntl.lockf(fd, SH, 10, 30)
    ranges = [(0, 10), (5, 6), (19, 1), (20, 10), (30, 10), (100, 0)]
    kinds = (fcntl.F_RDLCK, fcntl.F_WRLCK)

    def other():
        another = opened()
        setlk = lambda kind, at: fcntl.fcntl(another, fcntl.F_SETLK, record(kind, *at)) and "ok"
        return [tried(setlk, kind, at) for kind in kinds for at in ranges]

    return child(other)


@check
def fcntl_getlk_names_the_lock_that_is_in_the_way():
    fd = opened()
    fcntl.fcntl(fd, fcntl.F_SETLK, record(fcntl.F_WRLCK, 5, 5))
    parent = os.getpid()

    def other():
        found = fcntl.fcntl(opened(), fcntl.F_GETLK, record(fcntl.F_RDLCK, 0, 0))
        kind, whence, start, length, pid = struct.unpack("hhqqi4x", found)
        return kind, whence, start, length, pid == parent

    return child(other)


@check
def fcntl_locks_end_when_any_descriptor_of_the_process_is_closed():
    one, other = opened(), opened()
    fcntl.lockf(one, EX)
    before = child(lambda: fcntl.lockf(opened(), EX | NB))
    os.close(other)
    return before, child(lambda: fcntl.lockf(opened(), EX | NB))


@check
def fcntl_locks_split_and_join():
    fd = opened()
    fcntl.lockf(fd, EX, 100, 0)
    fcntl.lockf(fd, UN, 20, 40)

    def free():
        other = opened()
        at = lambda start: fcntl.fcntl(other, fcntl.F_GETLK, record(fcntl.F_WRLCK, start, 1))
        return [struct.unpack("hhqqi4x", at(start))[:4] for start in (0, 39, 40, 59, 60, 99, 100)]

    return child(free)


@check
def fcntl_lock_that_closes_a_circle_is_a_deadlock():
    fd = opened()
    fcntl.lockf(fd, EX, 1, 0)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(fd, EX, 1, 1)
        os.write(write, b"x")
        os._exit(tried(fcntl.lockf, fd, EX, 1, 0) == "EDEADLK")
    os.read(read, 1)
    # Whichever of the two waits second is refused.
    refused = tried(fcntl.lockf, fd, EX, 1, 1) == "EDEADLK"
    fcntl.lockf(fd, UN)
    return refused + os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@check
def fcntl_lock_that_waits_is_ended_by_a_signal():
    held = Held(lambda: fcntl.lockf(opened(), EX))
    interrupted = []

    def handler(*_):
        interrupted.append("signal")
        raise InterruptedError(errno.EINTR, "")

    fd = opened()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    found = tried(fcntl.lockf, fd, EX)
    held.let_go()
    return found, interrupted


@check
def fcntl_locks_need_the_right_mode():
    opened()
    reader, writer = os.open("f", os.O_RDONLY), os.open("f", os.O_WRONLY)
    return [tried(fcntl.lockf, fd, kind | NB) for fd in (reader, writer) for kind in (EX, SH)]


@check
def ofd_locks_are_of_the_open_file():
    one, other = opened(), opened()
    seen = [ofd(one, fcntl.F_WRLCK, 0, 10), ofd(other, fcntl.F_WRLCK, 5, 10), ofd(other, fcntl.F_RDLCK, 10, 5)]
    seen.append(ofd(os.dup(one), fcntl.F_WRLCK, 0, 3))
    seen.append(child(lambda: ofd(one, fcntl.F_WRLCK, 0, 3)))
    os.close(os.open("f", os.O_RDONLY))
    return seen + [ofd(other, fcntl.F_WRLCK, 0, 1)]


@check
def ofd_locks_and_those_of_a_process_exclude_each_other():
    one, other = opened(), opened()
    seen = [ofd(one, fcntl.F_WRLCK), tried(fcntl.lockf, other, EX | NB)]
    seen.append(tried(fcntl.flock, other, EX | NB))
    return seen


@check
def ofd_getlk_has_no_process():
    one, other = opened(), opened()
    ofd(one, fcntl.F_WRLCK, 3, 4)
    return struct.unpack("hhqqi4x", fcntl.fcntl(other, OFD_GETLK, record(fcntl.F_WRLCK)))


@check
def leases():
    fd = opened()
    seen = [tried(fcntl.fcntl, fd, fcntl.F_SETLEASE, kind) for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK)]
    return seen + [tried(fcntl.fcntl, fd, fcntl.F_GETLEASE)]
