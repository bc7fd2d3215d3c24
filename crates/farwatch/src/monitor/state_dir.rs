// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory with the status sockets: which one a process makes its socket in, and in which ones `farwatch status`
//! looks.
//!
//! Each user has one. Only that user and root can connect to what is in it: a user's own directory lets nobody else
//! in, and in root's, whose names anybody may see, the sockets have no permissions for others.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use farwatch_sys::status_socket::{DIR_VARIABLE, SYSTEM_DIR};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;

const RUNTIME_DIR_VARIABLE: &str = "XDG_RUNTIME_DIR";
/// Where each user has a directory that ends with the session.
const USERS: &str = "/run/user";
/// The name of ours in it.
const NAME: &str = "farwatch";
/// What status sockets end with. Others are in the same directory: systemd's units have vhost-user sockets there, and
/// whoever connects to such a socket is its client.
const EXTENSION: &str = "status";
/// The most sockets that a process looks at when it starts.
const STALE_MAX: usize = 1000;

/// What a choice depends on.
#[derive(Clone, Debug, Default)]
struct Surroundings {
    uid: u32,
    /// [`DIR_VARIABLE`].
    chosen: Option<PathBuf>,
    /// [`RUNTIME_DIR_VARIABLE`].
    runtime: Option<PathBuf>,
    /// `/run/user/UID` is there.
    has_user_dir: bool,
    temp: PathBuf,
}

impl Surroundings {
    fn find() -> Self {
        let uid = geteuid().as_raw();
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            uid,
            chosen: variable(DIR_VARIABLE).map(PathBuf::from),
            runtime: variable(RUNTIME_DIR_VARIABLE).map(PathBuf::from),
            has_user_dir: Path::new(USERS).join(uid.to_string()).is_dir(),
            temp: std::env::temp_dir(),
        }
    }

    fn own(&self) -> PathBuf {
        if let Some(chosen) = &self.chosen {
            return chosen.clone();
        }
        if self.uid == 0 {
            return SYSTEM_DIR.into();
        }
        let user_dir = self.has_user_dir.then(|| Path::new(USERS).join(self.uid.to_string()));
        match self.runtime.clone().or(user_dir) {
            Some(runtime) => runtime.join(NAME),
            None => self.temp.join(format!("{NAME}-{}", self.uid)),
        }
    }

    /// Root's temporary directory may be another than the users'.
    fn is_of_a_user(&self, temp_name: &OsStr) -> bool {
        let uid = temp_name.to_str().and_then(|name| name.strip_prefix(NAME)?.strip_prefix('-'));
        uid.is_some_and(|uid| uid.parse::<u32>().is_ok())
    }
}

/// The directory of this user's sockets, which is made if it is not there.
///
/// # Errors
/// When it cannot be made, or others could put something in it.
pub(super) fn own() -> io::Result<PathBuf> {
    let surroundings = Surroundings::find();
    let dir = surroundings.own();
    // In root's, users see that there is something that they may not look at.
    let mode = if dir == Path::new(SYSTEM_DIR) { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let found = dir.symlink_metadata()?;
    let others_write = found.mode() & 0o022 != 0;
    if !found.is_dir() || found.uid() != surroundings.uid || others_write {
        let shown = dir.display();
        return Err(io::Error::other(format!(
            "{shown} is no directory that this user alone may write to"
        )));
    }
    Ok(dir)
}

/// The sockets of all processes that this user can see, and the directories that this user may not look into.
pub(crate) fn sockets() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut sockets, mut closed) = (Vec::new(), Vec::new());
    for dir in visible(&Surroundings::find()) {
        match std::fs::read_dir(&dir) {
            Ok(entries) => {
                let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
                sockets.extend(paths.filter(|path| is_status_socket(path)));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed.push(dir),
            Err(_) => {}
        }
    }
    sockets.sort();
    (sockets, closed)
}

/// Removes the sockets of a directory at which nobody listens. A process in a sandbox cannot remove its own, and nobody
/// may ever call `farwatch status`.
pub(super) fn remove_stale(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let sockets = entries.map(|entry| entry.path()).filter(|path| is_status_socket(path));
    for socket in sockets.take(STALE_MAX).filter(|socket| is_stale(socket)) {
        tracing::debug!(socket = %socket.display(), "removing the socket of a dead process");
        // Another may remove it at the same time.
        drop(std::fs::remove_file(socket));
    }
}

/// Removes the status socket that a process of this user has left which has ended, if there is one. `command` is what
/// [`Listeners::bind`](super::Listeners::bind) was called with there.
pub(crate) fn remove_status_socket(command: &str, pid: u32) {
    // An error means that there is none.
    drop(own().and_then(|dir| std::fs::remove_file(dir.join(socket_name(command, pid)))));
}

/// Waits for nobody: the queue of a live process may be full.
fn is_stale(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?));
    connected == Err(Errno::CONNREFUSED)
}

fn is_status_socket(path: &Path) -> bool {
    path.extension() == Some(EXTENSION.as_ref())
        && path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

fn visible(surroundings: &Surroundings) -> Vec<PathBuf> {
    let mut dirs = vec![surroundings.own()];
    if surroundings.chosen.is_some() {
        return dirs;
    }
    dirs.push(SYSTEM_DIR.into());
    if surroundings.uid == 0 {
        let children = |dir: &Path| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
            entries.collect::<Vec<_>>()
        };
        dirs.extend(children(Path::new(USERS)).iter().map(|user| user.path().join(NAME)));
        let temps = children(&surroundings.temp);
        let of_users = temps.iter().filter(|entry| surroundings.is_of_a_user(&entry.file_name()));
        dirs.extend(of_users.map(std::fs::DirEntry::path));
    }
    dirs.sort();
    dirs.dedup();
    // A user's directory is a directory: a link in a directory that all may write to could lead anywhere.
    dirs.retain(|dir| dir.symlink_metadata().is_ok_and(|found| found.is_dir()));
    dirs
}

/// The name of a process's socket.
pub(super) fn socket_name(command: &str, pid: u32) -> String {
    format!("{command}-{pid}.{EXTENSION}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn user() -> Surroundings {
        Surroundings { uid: 1000, temp: "/tmp".into(), ..Surroundings::default() }
    }

    #[test]
    fn root_has_the_systems_directory_whatever_its_session_has() {
        let runtime = Some(PathBuf::from("/run/user/0"));
        let root = Surroundings { uid: 0, runtime, ..user() };
        assert_eq!(root.own(), Path::new("/run/farwatch"));
    }

    #[test]
    fn user_has_a_directory_of_the_session_or_else_a_temporary_one() {
        assert_eq!(user().own(), Path::new("/tmp/farwatch-1000"));
        let with_dir = Surroundings { has_user_dir: true, ..user() };
        assert_eq!(with_dir.own(), Path::new("/run/user/1000/farwatch"));
        let runtime = Some(PathBuf::from("/run/mine"));
        let with_variable = Surroundings { runtime, ..with_dir };
        assert_eq!(with_variable.own(), Path::new("/run/mine/farwatch"));
    }

    #[test]
    fn directory_that_was_chosen_is_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let chosen = Some(dir.path().to_owned());
        let surroundings = Surroundings { uid: 0, chosen, ..user() };
        assert_eq!(visible(&surroundings), [dir.path()]);
    }

    #[test]
    fn socket_of_another_protocol_is_no_status_socket() {
        let dir = tempfile::tempdir().unwrap();
        let [status, vhost_user] =
            [socket_name("serve", 7), "vm.sock".to_owned()].map(|name| dir.path().join(name));
        let _listeners = [&status, &vhost_user].map(|path| UnixListener::bind(path).unwrap());
        assert!(is_status_socket(&status));
        assert!(!is_status_socket(&vhost_user));
        assert!(!is_status_socket(dir.path()));
    }

    #[test]
    fn socket_of_a_dead_process_is_removed_and_that_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [dead, live] = [1, 2].map(|pid| dir.path().join(socket_name("serve", pid)));
        drop(UnixListener::bind(&dead).unwrap());
        let _listener = UnixListener::bind(&live).unwrap();
        remove_stale(dir.path());
        assert!(!dead.exists() && live.exists());
    }

    #[test]
    fn temporary_directory_of_a_user_is_recognised_by_its_name() {
        for (name, is) in [
            ("farwatch-1000", true),
            ("farwatch-test-x", false),
            ("farwatch-", false),
            ("x", false),
        ] {
            assert_eq!(user().is_of_a_user(name.as_ref()), is, "{name}");
        }
    }
}
