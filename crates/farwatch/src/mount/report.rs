// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `farwatch mount` has to say of itself. Its device, another process, says the rest.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::dev_fuse::Counts;
use crate::meter::Histogram;
use crate::monitor::protocol::{MountReport, RaisedBy, Report};
use crate::monitor::{Listeners, Monitor, Process, Source, StatusSocket};

/// A mount, for a monitor.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) process: Process,
    /// All but the count of requests, which grows.
    pub(super) report: MountReport,
    pub(super) counts: Arc<Counts>,
}

/// The report of a mount of which it is not known yet what raises its events. `source` is the socket of a device that
/// this process has not started.
pub(super) fn of(mount_point: &Path, device: Option<u32>, source: &Path) -> MountReport {
    let socket = device.is_none().then(|| source.canonicalize().ok()).flatten();
    MountReport {
        mount_point: mount_point.to_string_lossy().into_owned(),
        device,
        socket: socket.map(|path| path.to_string_lossy().into_owned()),
        raised_by: RaisedBy::Nothing,
        requests: None,
    }
}

impl Mounted {
    /// Answers on the status socket until the result is dropped.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(super) fn monitored(self) -> anyhow::Result<(Monitor, StatusSocket)> {
        let (listeners, status) = Listeners::bind("mount", None)?;
        let monitor = Monitor::start(listeners, self).context("the monitor thread")?;
        Ok((monitor, status))
    }
}

impl Source for Mounted {
    fn report(&self) -> Report {
        let requests = self.report.device.is_none().then(|| self.counts.total());
        let mount = MountReport { requests, ..self.report.clone() };
        Report { mount: Some(mount), ..self.process.report() }
    }

    fn latency(&self) -> Option<Histogram> {
        None
    }
}
