// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch doctor MOUNT`: whether a change on the host becomes an event in a mount, and if not, which link of the chain
//! is broken.
//!
//! It makes changes of each kind in a directory of its own on the host's side, if that is on this machine, and waits for
//! their events in the mount (`probe`). It also looks who watches there (`watchers`). What follows is in `judge`.

mod judge;
mod probe;
mod watchers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farwatch_guest::{SyncError, sync};
use farwatch_sys::{mount, mountinfo};
use rustix::fs::{CWD, Mode, OFlags, openat};

use self::probe::Step;
use self::watchers::Programs;
use super::Finding;
use crate::monitor::client;
use crate::monitor::protocol::Report;

/// How long a barrier may take.
const BARRIER_WAIT: Duration = Duration::from_secs(10);

/// What is known of a mount.
#[derive(Debug)]
struct Chain {
    mount_point: PathBuf,
    /// With the subtype.
    fs_type: String,
    /// How long a barrier took, which everything that happened on the host before has to pass.
    barrier: Result<Duration, SyncError>,
    /// What its processes say of themselves.
    report: Option<Report>,
    probe: Probe,
    programs: Programs,
}

/// What has become of changes made on the host's side.
#[derive(Debug)]
enum Probe {
    /// What each step has shown.
    Done(Vec<Step>),
    /// It could not be made.
    Failed(String),
    /// The shared directory is not known here.
    Nowhere,
    /// The barrier says enough.
    Needless,
}

/// What is wrong with the mount that `path` is in, if that is one that can have events. `shared` is its shared directory,
/// if the caller knows that.
pub(super) fn findings(path: &Path, shared: Option<&Path>) -> Option<Vec<Finding>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).ok()?;
    let id = mount::mount_id(&fd).ok()?;
    let table = mountinfo::read().ok()?;
    let mount = mountinfo::mounts(&table).find(|mount| mount.id == id)?;
    let barrier = barrier(path);
    let is_ours = !matches!(barrier, Err(SyncError::NotFarwatch(_) | SyncError::Open(..)));
    if !is_ours && mount.fs_type != "virtiofs" {
        return None;
    }
    let report = report(&mount.mount_point);
    let shared = shared.map(Path::to_owned).or_else(|| {
        let share = report.as_ref()?.share.as_ref()?;
        Some(PathBuf::from(&share.shared_dir))
    });
    let delivers = matches!(barrier, Ok(_) | Err(SyncError::Unwatched { .. }));
    let probe = match shared {
        _ if !delivers => Probe::Needless,
        None => Probe::Nowhere,
        Some(shared) => match probe::run(&shared, &mount.mount_point) {
            Ok(steps) => Probe::Done(steps),
            Err(error) => Probe::Failed(error.to_string()),
        },
    };
    let programs = watchers::programs(mount.device, &mount.mount_point);
    let (mount_point, fs_type) = (mount.mount_point, mount.fs_type);
    let chain = Chain { mount_point, fs_type, barrier, report, probe, programs };
    Some(judge::findings(&chain))
}

fn barrier(path: &Path) -> Result<Duration, SyncError> {
    let start = Instant::now();
    sync(path, BARRIER_WAIT).map(|()| start.elapsed())
}

/// What the processes of a mount say, if this user may ask them.
fn report(mount_point: &Path) -> Option<Report> {
    let reports = client::find().reports.into_iter().map(|(_, report)| report);
    reports.into_iter().find(|report| {
        report.mount.as_ref().is_some_and(|mount| Path::new(&mount.mount_point) == mount_point)
    })
}
