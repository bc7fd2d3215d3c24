// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device serves any number of drivers, one after the other. The only test of its process, whose descriptors and threads
//! it counts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/fake_driver.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod fake_driver;
#[path = "common/source.rs"]
#[expect(dead_code, reason = "it has nothing to deliver here")]
mod source;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use fake_driver::FakeDriver;
use farwatch::device::{Device, Ended, StopHandle, Tag, serve};
use farwatch::virtio::{FS_F_NOTIFICATION, RING_F_EVENT_IDX};
use source::Source;
use tempfile::TempDir;
use virtiofsd::passthrough::{Config, PassthroughFs};

const SESSIONS: usize = 500;
/// How long the last session may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors and threads of this process.
fn held() -> [usize; 2] {
    ["/proc/self/fd", "/proc/self/task"].map(|dir| fs::read_dir(dir).unwrap().count())
}

/// What the server has beside what it has before a session: less than the sessions would leave behind.
const SLACK: usize = 20;

/// Waits until this process has about what it had.
fn wait_for(before: [usize; 2]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = held();
        if after[0] <= before[0] + SLACK && after[1] <= before[1] + SLACK {
            return;
        }
        assert!(Instant::now() < deadline, "{before:?} has become {after:?}");
        thread::yield_now();
    }
}

#[test]
fn sessions_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let root_dir = dir.path().to_str().unwrap().to_owned();
    let fs = PassthroughFs::new(Config { root_dir, ..Config::default() }).unwrap();
    let device =
        Device::new(fs, Tag::new("share").unwrap(), 2, Arc::new(Source::default())).unwrap();
    let device = Arc::new(device);
    let stop = StopHandle::new().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = {
        let stop = stop.clone();
        thread::spawn(move || serve(&listener, &device, false, &stop))
    };
    let before = held();
    for nth in 0..SESSIONS {
        let features = if nth % 2 == 0 { FS_F_NOTIFICATION } else { RING_F_EVENT_IDX };
        drop(FakeDriver::connect(&socket, 4, 16, features));
    }
    wait_for(before);
    stop.stop();
    assert_eq!(serving.join().unwrap().unwrap(), Ended::Stopped);
}
