// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`agent`]: an agent on a mount whose server lies, on this machine's kernel.
//!
//! The server is a FUSE server of a few lines that knows no files: what it answers to a request, and what it sends as
//! notifications and frames of the control node, is in the input. Whatever it is:
//!
//! - nothing panics, and the agent ends when the server lets its link go;
//! - what the agent makes of a message is a bounded number of requests;
//! - it changes nothing but in the mount, wherever symbolic links lead, and mounts nothing.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

#[path = "bytes.rs"]
#[expect(dead_code, reason = "other targets need the rest")]
mod bytes;
#[path = "agent/server.rs"]
mod server;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use farwatch_guest::{Link, MountRoot, Progress, Reads, Superblocks, run, sync};
use farwatch_proto::wire::control::Delivery;
use tempfile::TempDir;

use self::server::Server;

/// How long the agent may take to end. Whoever stops the process for a while takes one.
const PAUSES_MAX: u32 = 200_000;
const PAUSE: Duration = Duration::from_micros(100);
/// The most requests that a message may lead to, and those that an agent makes before the first.
const REQUESTS_MAX: u64 = 400;

/// See the module's documentation.
pub(crate) fn agent(data: &[u8]) {
    let place = Place::new();
    let before = place.outside();
    let server = Server::mount(&place.mount, &place.outside, data);
    let progress = Arc::new(Progress::default());
    let agent = {
        let (mount, progress) = (place.mount.clone(), Arc::clone(&progress));
        // A thread of its own, which is an agent's for the rest of its life.
        thread::spawn(move || follow(&mount, &progress))
    };
    let mut left = PAUSES_MAX;
    while !agent.is_finished() && left > 0 {
        left -= 1;
        thread::sleep(PAUSE);
    }
    let requests = server.unmount();
    agent.join().unwrap();
    assert!(left > 0, "the agent goes on: {:?}", progress.report());
    let received = progress.report().received;
    assert!(
        requests <= REQUESTS_MAX * (1 + received),
        "{requests} requests of {received} messages"
    );
    assert_eq!(place.outside(), before, "something outside of the mount has changed");
}

/// Has the mount end with a panic: whoever aborts the process then would wait for it for ever.
pub(crate) fn unmount_in_panics() {
    let then = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        server::abort();
        then(panic);
    }));
}

/// What `farwatch-agent` does on a mount, until its link ends.
fn follow(mount: &Path, progress: &Progress) {
    // Any answer will do.
    drop(sync(mount, Duration::ZERO));
    let Ok(root) = MountRoot::open(mount) else { return };
    let Ok(link) = Link::open(&root, Delivery::Reads) else { return };
    let mut superblocks = Superblocks::new(root);
    let seq = link.welcome().next_seq;
    drop(run(&mut Reads::new(&link, || {}), &mut superblocks, seq, progress));
}

/// A directory to mount on, and one beside it.
struct Place {
    mount: PathBuf,
    outside: PathBuf,
    _dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let [mount, outside] = ["mount", "outside"].map(|name| dir.path().join(name));
        fs::create_dir(&mount).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "outside").unwrap();
        fs::create_dir(outside.join("dir")).unwrap();
        Self { mount, outside, _dir: dir }
    }

    /// All that is to be known about what is outside.
    fn outside(&self) -> Vec<(PathBuf, [i64; 6])> {
        let mut paths = vec![self.outside.clone()];
        paths.extend(fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().path()));
        paths.sort();
        let of = |path: PathBuf| {
            let meta = path.symlink_metadata().unwrap();
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
            let [links, size] = [meta.nlink(), meta.size()].map(|n| i64::try_from(n).unwrap());
            (path, [times[0], times[1], times[2], times[3], links, size])
        };
        paths.into_iter().map(of).collect()
    }
}
