// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sockets on which a process answers what it is doing: where they are, and how one is bound. `farwatch` and
//! `farwatch-agent` have such.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

/// Names another directory than the usual one.
pub const DIR_VARIABLE: &str = "FARWATCH_STATE_DIR";
/// Root's directory.
pub const SYSTEM_DIR: &str = "/run/farwatch";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Binds a stream socket that does not block, to which this user alone can connect. What is there is replaced. The name
/// appears when somebody can connect: a name at which nobody listens is that of a process that has died.
///
/// # Errors
/// Those of the calls; a path of more than 100 bytes or so is too long.
pub fn bind_own(path: &Path) -> io::Result<OwnedFd> {
    let unfinished = path.with_extension("new");
    // Of a dead process with the same number.
    drop(std::fs::remove_file(&unfinished));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(&unfinished)?)?;
    // Nobody can connect before the next call.
    std::fs::set_permissions(&unfinished, PermissionsExt::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    rustix::fs::renameat(CWD, &unfinished, CWD, path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn socket_has_no_permissions_for_others_and_takes_the_place_of_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.status");
        for _ in 0..2 {
            let _listener = bind_own(&path).unwrap();
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
            UnixStream::connect(&path).unwrap();
        }
        let error = UnixStream::connect(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "nobody listens any more");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other name is left");
    }
}
