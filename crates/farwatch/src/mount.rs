// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch mount`: a device, a driver and an agent on one machine.
//!
//! The device is a process of its own, so that a request that waits in the kernel never waits for
//! the process that has to answer it. It serves the kernel through `/dev/fuse` itself. The agent is a thread of this
//! process: what it does on the mount is answered by the device.

mod agent;
mod device;
mod place;
mod report;

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use farwatch_guest::Announcement;
use farwatch_sys::thread::{CapabilitySet, keep_capabilities};

use crate::driver::{Driver, Ended, Endpoint, Options};
use crate::monitor::Process;
use crate::monitor::protocol::{Command, MountReport, RaisedBy};
use crate::options::{LogArgs, MountArgs};
use crate::signals;
use agent::{Agent, Raised};
use device::{Connection, Device};
use report::Mounted;

/// What this process keeps once the device is started: what mounting and unmounting take, and reaching a mount point in
/// a directory of another user. The agent's thread keeps [`farwatch_guest::CAPABILITIES`].
const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);

/// Runs until the mount ends.
///
/// # Errors
/// One sentence for the user, and what caused it.
pub(crate) fn run(mut args: MountArgs, log: &LogArgs) -> anyhow::Result<()> {
    if args.detach {
        rustix::process::setsid().context("setsid")?;
    }
    let mount_point = args.paths.pop().context("a mount point is needed")?;
    let shared = args.paths.pop();
    let (shared, socket) = match (shared, args.socket.take()) {
        (Some(shared), None) => (Some(shared), None),
        (None, Some(socket)) => (None, Some(socket)),
        (Some(_), Some(_)) => bail!("--socket cannot be combined with a shared directory"),
        (None, None) => bail!("name the directory to share and the mount point, in this order"),
    };
    place::check(shared.as_deref(), &mount_point)?;
    let mount_point = mount_point.canonicalize().context("the mount point")?;
    let options = Options { notification_buffers: args.notification_buffers, ..Options::default() };
    let on_report: Box<dyn Fn() + Send>;
    let (source, driver, device) = match (shared, socket) {
        (Some(shared), _) => {
            let shared = shared.canonicalize().context("the shared directory")?;
            let (device, Connection { stream, handoff }) = Device::start(&shared, &args, log)?;
            on_report = Box::new(device.report()?);
            let driver = Driver::connect_direct(stream, handoff, device.kill()?, &options);
            (shared, driver, Some(device))
        }
        (None, socket) => {
            let socket = socket.unwrap_or_default();
            let driver = Driver::connect(Endpoint::Path(socket.clone()), &options)?;
            let counts = driver.counts();
            on_report = Box::new(move || tracing::info!("requests: {counts}"));
            (socket, Ok(driver), None)
        }
    };
    rustix::thread::set_no_new_privs(true).context("prctl(PR_SET_NO_NEW_PRIVS)")?;
    // Each thread gives up the rest as soon as the agent's is there.
    keep_capabilities(CAPABILITIES.union(farwatch_guest::CAPABILITIES))?;
    let report = report::of(&mount_point, device.as_ref().map(Device::pid), &source);
    let ended = driver
        .map_err(Into::into)
        .and_then(|driver| serve(&mount_point, &source, driver, &args, report, on_report));
    let device_ended = device.map_or(Ok(()), Device::join);
    // A device that failed is the better explanation of a mount that did.
    device_ended.and(ended)
}

fn serve(
    mount_point: &Path,
    source: &Path,
    mut driver: Driver,
    args: &MountArgs,
    report: MountReport,
    on_report: Box<dyn Fn() + Send>,
) -> anyhow::Result<()> {
    let process = Process::this(Command::Mount);
    let counts = driver.counts();
    let stopper = driver.stopper();
    // Before /dev/fuse is opened: the agent's thread must not hold it.
    let queue = driver.notification_queue().filter(|_| !args.no_agent);
    let cpu = driver.replay_cpu();
    let agent = queue.map(|queue| Agent::prepare(queue, cpu)).transpose()?;
    keep_capabilities(CAPABILITIES)?;
    signals::on_report(on_report).context("SIGUSR1 cannot be waited for")?;
    signals::on_end(move || stopper.stop()).context("signals cannot be waited for")?;
    let session = driver.mount(mount_point, &source.to_string_lossy())?;
    let raised = match agent {
        Some(agent) => agent.attach(mount_point, &session.stopper())?,
        None => Raised::ByNobody,
    };
    let (agent, relay) = match raised {
        Raised::By(agent) => (Some(agent), None),
        Raised::ByAnother(queue) if session.kernel_raises() => {
            tracing::info!("this kernel raises the events itself: no agent is started");
            (None, Some(session.relay(queue)?))
        }
        Raised::ByAnother(_) => {
            session.stopper().stop();
            bail!(farwatch_guest::Error::Busy)
        }
        Raised::ByNobody => (None, None),
    };
    let has_events = agent.is_some() || relay.is_some();
    if !has_events && !args.no_agent {
        tracing::warn!("no events: the device is not farwatch");
    }
    let raised_by = match (&agent, &relay) {
        (Some(_), _) => RaisedBy::Agent,
        (None, Some(_)) => RaisedBy::Kernel,
        (None, None) => RaisedBy::Nothing,
    };
    // The agent's thread announces its own.
    let _announced = relay.as_ref().and_then(|_| announce(mount_point));
    let report = MountReport { raised_by, ..report };
    let _monitored = Mounted { process, report, counts }.monitored()?;
    let mut stdout = io::stdout().lock();
    let events = if has_events { "" } else { ", without events" };
    writeln!(stdout, "mounted {} on {}{events}", source.display(), mount_point.display())
        .and_then(|()| stdout.flush())
        .context("standard output")?;
    drop(stdout);
    signals::notify_ready();
    let ended = session.wait();
    if let Some(agent) = agent {
        agent.join();
    }
    if let Some(relay) = relay {
        relay.join();
    }
    session.close()?;
    match ended {
        Ok(Ended::Stopped | Ended::Unmounted) => Ok(()),
        Ok(Ended::DeviceGone) => {
            bail!("the device exited: {} is unmounted", mount_point.display())
        }
        Err(error) => bail!(error),
    }
}

/// Announces the events that the kernel itself raises.
fn announce(mount_point: &Path) -> Option<Announcement> {
    let announced =
        Announcement::prepare_at(mount_point).and_then(|made| made.publish().map(|()| made));
    announced.inspect_err(|error| tracing::warn!(%error, "{}", agent::NOT_ANNOUNCED)).ok()
}
