# SPDX-License-Identifier: Apache-2.0 OR MIT
# SQLite, which uses locks, shared mappings (WAL), fsync and truncation together. On one side at a time it is defined.

import sqlite3


def connect(path, journal):
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    found = database.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
    database.execute("PRAGMA synchronous=FULL" if journal != "OFF" else "PRAGMA synchronous=OFF")
    return database, found


def judged(database):
    whole = database.execute("PRAGMA integrity_check").fetchone()[0]
    return whole, database.execute("SELECT count(*), sum(amount) FROM t").fetchone()


def write_from_several_processes(journal):
    database, found = connect("db", journal)
    database.execute("CREATE TABLE t (writer INT, amount INT)")
    database.close()

    def writer(nth):
        database, _ = connect("db", journal)
        for amount in range(30):
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO t VALUES (?, ?)", (nth, amount))
            database.execute("ROLLBACK" if amount % 10 == 9 else "COMMIT")
            database.execute("SELECT count(*) FROM t").fetchone()

    pids = []
    for nth in range(3):
        pid = os.fork()
        if pid == 0:
            writer(nth)
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    database, _ = connect("db", journal)
    here = judged(database)
    database.close()
    there = sqlite3.connect(on_host("db"))
    on_the_host = judged(there)
    there.close()
    return found, statuses, here, on_the_host, sorted(os.listdir("."))


@check
def database_with_a_write_ahead_log_written_by_several_processes():
    return write_from_several_processes("WAL")


@check
def database_with_a_rollback_journal_written_by_several_processes():
    return write_from_several_processes("DELETE")


@check
def database_with_a_truncated_journal_written_by_several_processes():
    return write_from_several_processes("TRUNCATE")


@check
def database_with_a_write_ahead_log_after_its_writer_was_killed():
    pid = os.fork()
    if pid == 0:
        database, _ = connect("db", "WAL")
        database.execute("CREATE TABLE t (writer INT, amount INT)")
        for amount in range(50):
            database.execute("INSERT INTO t VALUES (0, ?)", (amount,))
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO t VALUES (0, 1000)")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    database, _ = connect("db", "WAL")
    return judged(database), sorted(os.listdir("."))


@check
def database_that_is_written_on_either_side_in_turns():
    """Each side closes it before the other opens it, and sees all within the time that the mount may be behind."""
    seen = []
    for turn in range(6):
        path = on_host("db") if turn % 2 else "db"
        end = time.monotonic() + 10
        while True:
            database = sqlite3.connect(path, isolation_level=None)
            database.execute("CREATE TABLE IF NOT EXISTS t (writer INT, amount INT)")
            found = judged(database)
            if found[1][0] == turn or time.monotonic() > end:
                break
            database.close()
        database.execute("INSERT INTO t VALUES (?, 1)", (turn,))
        database.close()
        seen.append(found)
    return seen
