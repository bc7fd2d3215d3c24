// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Source`]: whoever a monitor asks. [`ServedShare`] is that of `farwatch serve`; `mount` has one of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farwatch_guest::seconds;
use farwatch_proto::wire::control::Delivery;

use super::protocol::{
    Answer, Ask, BUSIEST_MAX, Busiest, Busy, Client, Command, DeviceCounts, Events, Known, Latency,
    Report, ShareReport, Until, Watching,
};
use crate::device::Stats;
use crate::meter::{Histogram, Totals};
use crate::share::{self, ClientKind, Share, Shown};

/// See the module's documentation. No method waits for the guest, nor for the host's file system.
pub(crate) trait Source: Send {
    /// The state of the process.
    fn report(&self) -> Report;

    /// How long events took since the process began, for metrics.
    fn latency(&self) -> Option<Histogram>;

    /// Answers a request.
    ///
    /// # Errors
    /// Why there is no answer.
    fn answer(&self, ask: Ask) -> Result<Answer, String> {
        match ask {
            Ask::Status => Ok(Answer::Status(Box::new(self.report()))),
            Ask::Journal { .. } | Ask::Busiest { .. } | Ask::Known { .. } => {
                Err("this process shares nothing: ask its device".to_owned())
            }
        }
    }
}

/// What `farwatch serve` shares.
pub(crate) struct ServedShare<D> {
    pub(crate) process: Process,
    pub(crate) shared_dir: String,
    pub(crate) socket: Option<String>,
    pub(crate) share: Arc<Share>,
    /// Counts of the device.
    pub(crate) device: D,
}

/// Who runs. It is found out before a sandbox is entered, where it looks different.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    command: Command,
    pid: u32,
    uid: u32,
    since: f64,
}

impl Process {
    /// This process, which has just started.
    pub(crate) fn this(command: Command) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self { command, pid: std::process::id(), uid, since: seconds(SystemTime::now()) }
    }

    /// A report that says no more than that.
    pub(crate) fn report(self) -> Report {
        let Self { command, pid, uid, since } = self;
        let release = env!("CARGO_PKG_VERSION").to_owned();
        Report { release, command, pid, uid, since, mount: None, share: None }
    }
}

impl<D: Fn() -> Stats + Send> Source for ServedShare<D> {
    fn report(&self) -> Report {
        let shown = self.share.shown();
        let backend = self.share.backend().map(|backend| backend.name().to_owned());
        let share = ShareReport {
            shared_dir: self.shared_dir.clone(),
            socket: self.socket.clone(),
            watch: Watching {
                backend,
                is_running: shown.is_watched,
                known: shown.figures.nodes,
                directories: shown.figures.directories,
                unwatched: shown.unwatched,
                poll_interval_s: shown.poll_interval.as_secs(),
                unwatched_paths: shown.unwatched_paths.clone(),
                unwatched_why: shown.unwatched_why.clone(),
                deleted: shown.has_lost_root,
            },
            driver_since: shown.session_since.map(seconds),
            client: shown.client.map(client),
            events: events(&shown),
            latency: latency(&shown),
            device: counts((self.device)()),
        };
        Report { share: Some(share), ..self.process.report() }
    }

    fn latency(&self) -> Option<Histogram> {
        Some(self.share.shown().reading.latency)
    }

    fn answer(&self, ask: Ask) -> Result<Answer, String> {
        Ok(match ask {
            Ask::Status => Answer::Status(Box::new(self.report())),
            Ask::Journal { from } => Answer::Journal(self.share.journal(from)),
            Ask::Busiest { len } => {
                let ranking = self.share.ranking(len.min(BUSIEST_MAX));
                let busy = |counts: Vec<(String, u64)>| {
                    counts.into_iter().map(|(path, reports)| Busy { path, reports }).collect()
                };
                let (paths, directories) = (busy(ranking.paths), busy(ranking.directories));
                Answer::Busiest(Busiest { paths, directories, others: ranking.others })
            }
            Ask::Known { path } => {
                let names = path.as_bytes().split(|byte| *byte == b'/');
                let names = names.filter(|name| !matches!(*name, b"" | b"."));
                Answer::Known(match self.share.known(names) {
                    share::Known::Watched => Known::Watched,
                    share::Known::Unwatched => Known::Unwatched,
                    share::Known::Unknown => Known::Unknown,
                })
            }
        })
    }
}

fn client(client: share::Client) -> Client {
    let kind = match client.kind {
        ClientKind::Agent => "agent",
        ClientKind::Module => "module",
        ClientKind::Kernel => "kernel",
    };
    let delivery = match client.delivery {
        Delivery::Queue => "queue",
        Delivery::Reads => "reads",
    };
    let (kind, delivery) = (kind.to_owned(), delivery.to_owned());
    Client { kind, delivery, since: seconds(client.since) }
}

fn events(shown: &Shown) -> Events {
    let (figures, reading) = (&shown.figures, &shown.reading);
    let Totals { observed, sent, resynced, replayed, overflows } = reading.totals;
    Events {
        observed,
        observed_per_second: reading.observed_per_second,
        sent,
        sent_per_second: reading.sent_per_second,
        resynced,
        replayed,
        unreplayed: figures.unreplayed,
        backlog: figures.backlog,
        behind_s: figures.oldest.map(|at| at.elapsed().as_secs_f64()),
        backlog_max: figures.backlog_max,
        in_replay: figures.in_replay,
        dropped: figures.dropped,
        rescans_due: figures.stale,
        overflows,
    }
}

fn latency(shown: &Shown) -> Latency {
    let latency = &shown.reading.latency_of_minute;
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let kind = shown.client.map(|client| client.kind);
    let until = match kind {
        Some(ClientKind::Module | ClientKind::Kernel) => Until::Sent,
        Some(ClientKind::Agent) | None => Until::Replayed,
    };
    let [p50_us, p99_us] = [50, 99].map(|percent| latency.percentile(percent).map(micros));
    Latency { count: latency.count(), p50_us, p99_us, until }
}

fn counts(stats: Stats) -> DeviceCounts {
    let Stats { requests, malformed, refused, panics, bad_buffers, notifications: _ } = stats;
    DeviceCounts { requests, refused, malformed, panics, bad_buffers }
}
