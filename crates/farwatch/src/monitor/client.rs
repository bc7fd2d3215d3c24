// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The asking side of the status sockets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::protocol::{
    Answer, Ask, Busiest, Known, REPLY_LEN_MAX, Reply, Report, Request, VERSION, encode,
};
use super::state_dir;
use crate::meter::Part;

/// How long an answer may take. The other side waits for nothing, so one that takes longer has stopped.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long all may take together. A user could have any number of sockets that root's command connects to.
const ALL_MAX: Duration = Duration::from_secs(10);

/// A connection to one process.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<UnixStream>);

/// All processes that this user can see.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What they say, with the socket to ask for more.
    pub(crate) reports: Vec<(PathBuf, Report)>,
    /// Sockets of processes that run and do not answer, and why.
    pub(crate) silent: Vec<(PathBuf, String)>,
    /// How many there are of other users, as far as can be seen.
    pub(crate) others: usize,
}

impl Connection {
    /// Connects to a process.
    ///
    /// # Errors
    /// ECONNREFUSED when the process has gone; EACCES when it is another user's.
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(&mut self, ask: Ask) -> io::Result<Answer> {
        self.0.get_mut().write_all(&encode(&Request { version: VERSION, ask }))?;
        let mut line = Vec::new();
        let len_max = u64::try_from(REPLY_LEN_MAX).unwrap_or(u64::MAX);
        self.0.by_ref().take(len_max).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("it has closed the connection"));
        }
        let reply: Reply = serde_json::from_slice(&line)?;
        if let Answer::Error(error) = reply.answer {
            return Err(io::Error::other(error));
        }
        Ok(reply.answer)
    }

    /// The state of the process.
    ///
    /// # Errors
    /// Those of the socket, and what the process says against it; as below.
    pub(crate) fn report(&mut self) -> io::Result<Report> {
        let Answer::Status(report) = self.ask(Ask::Status)? else { return Err(unexpected()) };
        Ok(*report)
    }

    /// Records from number `from` on, or without it from now on.
    pub(crate) fn journal(&mut self, from: Option<u64>) -> io::Result<Part> {
        let Answer::Journal(part) = self.ask(Ask::Journal { from })? else {
            return Err(unexpected());
        };
        Ok(part)
    }

    /// The `len` busiest paths and directories.
    pub(crate) fn busiest(&mut self, len: usize) -> io::Result<Busiest> {
        let Answer::Busiest(busiest) = self.ask(Ask::Busiest { len })? else {
            return Err(unexpected());
        };
        Ok(busiest)
    }

    /// Whether a directory, relative to the shared one, is watched.
    pub(crate) fn known(&mut self, path: &str) -> io::Result<Known> {
        let Answer::Known(known) = self.ask(Ask::Known { path: path.to_owned() })? else {
            return Err(unexpected());
        };
        Ok(known)
    }
}

fn unexpected() -> io::Error {
    io::Error::other("an answer to something else")
}

/// Asks every process that can be seen. Sockets at which nobody listens are removed.
pub(crate) fn find() -> Found {
    let (sockets, closed) = state_dir::sockets();
    let mut found = Found { others: closed.len(), ..Found::default() };
    let until = Instant::now() + ALL_MAX;
    for socket in sockets {
        if Instant::now() > until {
            found.silent.push((socket, "too many others have not answered".to_owned()));
            continue;
        }
        match Connection::open(&socket).and_then(|mut connection| connection.report()) {
            Ok(report) => found.reports.push((socket, report)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Another may remove it at the same time, and this user may not have the right to.
                drop(std::fs::remove_file(&socket));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.others += 1,
            // It has ended since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found.silent.push((socket, error.to_string())),
        }
    }
    found.reports = joined(found.reports);
    found
}

/// Puts what a mount's device says into what the mount says.
fn joined(reports: Vec<(PathBuf, Report)>) -> Vec<(PathBuf, Report)> {
    let is_device_of = |mount: &Report, other: &Report| {
        let (Some(mount), Some(share)) = (&mount.mount, &other.share) else { return false };
        let by_socket = mount.socket.is_some() && mount.socket == share.socket;
        mount.device == Some(other.pid) || by_socket
    };
    let (mounts, mut others): (Vec<_>, Vec<_>) =
        reports.into_iter().partition(|(_, report)| report.mount.is_some());
    let mut all = Vec::new();
    for (socket, mut mount) in mounts {
        let device = others.iter().position(|(_, other)| is_device_of(&mount, other));
        let (socket, share) = match device.map(|nth| others.remove(nth)) {
            // Events and paths are the device's to tell.
            Some((device, report)) => (device, report.share),
            None => (socket, None),
        };
        mount.share = share;
        all.push((socket, mount));
    }
    all.extend(others);
    all
}

#[cfg(test)]
mod tests {
    use super::super::protocol::tests::{mount, report};
    use super::*;

    #[test]
    fn device_of_a_mount_is_shown_with_it_and_another_beside_it() {
        let (mut device, mut other) = (report(), report());
        (device.pid, other.pid) = (8, 9);
        let reports = [("m", mount(Some(8))), ("d", device), ("o", other)];
        let all = joined(reports.map(|(path, report)| (path.into(), report)).into());
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].0.as_path(), all[0].1.share.is_some()), (Path::new("d"), true));
        assert_eq!((all[1].0.as_path(), all[1].1.pid), (Path::new("o"), 9));
    }

    #[test]
    fn device_started_by_others_is_named_by_its_socket() {
        let (mut mount, mut device) = (mount(None), report());
        let socket = Some("/run/src.sock".to_owned());
        mount.mount.as_mut().unwrap().socket.clone_from(&socket);
        device.share.as_mut().unwrap().socket = socket;
        let all = joined(vec![("d".into(), device), ("m".into(), mount)]);
        assert_eq!(all.len(), 1);
        assert!(all[0].1.share.is_some());
    }

    #[test]
    fn mount_whose_device_does_not_answer_is_shown_without_it() {
        let all = joined(vec![("m".into(), mount(Some(8)))]);
        assert!(all[0].1.share.is_none());
    }
}
