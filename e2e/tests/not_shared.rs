// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What host and mount do not have in common, though they have the files: locks, shared mappings, sockets and FIFOs.
//! `docs/SEMANTICS.md` and the README say so, and this shows that it is so. Each of it works within the mount.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount, Need::Python];
        locks_exclude_within_the_mount_and_not_between_host_and_mount,
        database_can_be_written_on_both_sides_at_once_which_destroys_it,
        shared_mappings_of_host_and_mount_are_two,
        socket_and_fifo_connect_programs_in_the_mount_and_not_host_and_mount,
    ])
}

/// Runs `script` with `one` and `other`, two names of one directory, and gives what it says.
fn run(script: &str, one: &Path, other: &Path) -> Result<String> {
    let mut python = Command::new("python3");
    let output = python.args(["-c", script]).args([one, other]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// What `script` says within the mount, and between host and mount.
fn differs(script: &str, within: &str, between: &str) -> Result<()> {
    let mount = Mount::start()?;
    let share = mount.share("both")?;
    let found = run(script, share.mount(), share.mount())?;
    ensure!(found == within, "within the mount: {found}");
    share.run_on_host("rm -rf *")?;
    mount.sync()?;
    let found = run(script, share.host(), share.mount())?;
    ensure!(found == between, "between host and mount: {found}");
    Ok(())
}

fn locks_exclude_within_the_mount_and_not_between_host_and_mount() -> Result<()> {
    const SCRIPT: &str = "
import fcntl, os, sys
one, other = [open(path + '/f', 'a+') for path in sys.argv[1:]]
def held(lock):
    lock(one, fcntl.LOCK_EX)
    child = os.fork()
    if child == 0:
        try:
            lock(open(sys.argv[2] + '/f', 'a+'), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
print('flock', held(fcntl.flock), 'fcntl', held(fcntl.lockf))
";
    differs(SCRIPT, "flock True fcntl True", "flock False fcntl False")
}

fn database_can_be_written_on_both_sides_at_once_which_destroys_it() -> Result<()> {
    const SCRIPT: &str = "
import sqlite3, sys
one, other = [sqlite3.connect(path + '/db', timeout=0, isolation_level=None) for path in sys.argv[1:]]
one.execute('CREATE TABLE t (x)')
one.execute('BEGIN IMMEDIATE')
try:
    other.execute('BEGIN IMMEDIATE')
    print('both write')
except sqlite3.OperationalError as error:
    print(error)
";
    differs(SCRIPT, "database is locked", "both write")
}

fn shared_mappings_of_host_and_mount_are_two() -> Result<()> {
    const SCRIPT: &str = "
import mmap, os, sys
open(sys.argv[1] + '/f', 'w').write('old')
one, other = [mmap.mmap(os.open(path + '/f', os.O_RDWR), 0) for path in sys.argv[1:]]
seen = other[:]
one[:] = b'new'
print(other[:].decode())
";
    differs(SCRIPT, "new", "old")
}

fn socket_and_fifo_connect_programs_in_the_mount_and_not_host_and_mount() -> Result<()> {
    const SCRIPT: &str = "
import os, socket, sys
listener, client = [socket.socket(socket.AF_UNIX) for _ in range(2)]
listener.bind(sys.argv[1] + '/socket')
listener.listen()
os.mkfifo(sys.argv[1] + '/fifo')
reader = os.open(sys.argv[1] + '/fifo', os.O_RDONLY | os.O_NONBLOCK)
def works(call):
    try:
        call()
        return True
    except OSError:
        return False
print('socket', works(lambda: client.connect(sys.argv[2] + '/socket')),
      'fifo', works(lambda: os.open(sys.argv[2] + '/fifo', os.O_WRONLY | os.O_NONBLOCK)))
";
    differs(SCRIPT, "socket True fifo True", "socket False fifo False")
}
