// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What travels on the status socket: a request is a line of JSON, and so is its reply. `docs/STATUS.md` has the
//! fields. A field may be added in a version; whoever reads ignores what it does not know.

use serde::{Deserialize, Serialize};

use crate::meter::Part;

/// The version of this protocol.
pub(crate) const VERSION: u32 = 1;
/// The longest request, with its newline.
pub(crate) const REQUEST_LEN_MAX: usize = 4096;
/// The longest reply. A reader need not have room for more.
pub(crate) const REPLY_LEN_MAX: usize = 8 << 20;
/// The most paths of a [`Ask::Busiest`].
pub(crate) const BUSIEST_MAX: usize = 100;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) ask: Ask,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// What the process is doing.
    Status,
    /// What was reported and delivered, from record `from` on; without it from now on.
    Journal {
        #[serde(default)]
        from: Option<u64>,
    },
    /// The paths with the most reports.
    Busiest { len: usize },
    /// Whether a directory, relative to the shared one, is watched.
    Known { path: String },
}

/// A reply.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) answer: Answer,
}

/// What it says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Status(Box<Report>),
    Journal(Part),
    Busiest(Busiest),
    Known(Known),
    Error(String),
}

/// The state of a process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The release of farwatch.
    pub(crate) release: String,
    pub(crate) command: Command,
    pub(crate) pid: u32,
    /// The user that it runs as.
    pub(crate) uid: u32,
    /// Since when it runs, in seconds since 1970.
    pub(crate) since: f64,
    /// Of `farwatch mount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mount: Option<MountReport>,
    /// Of `farwatch serve`. A client puts that of a mount's device here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<ShareReport>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    Mount,
    Serve,
}

/// What a driver has to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MountReport {
    pub(crate) mount_point: String,
    /// The process that is its device; `None` when that was started by others.
    pub(crate) device: Option<u32>,
    /// The socket of a device that was started by others.
    pub(crate) socket: Option<String>,
    pub(crate) raised_by: RaisedBy,
    /// FUSE requests of the kernel, since it was mounted, if this process forwards them. The device that it has started
    /// counts its own.
    pub(crate) requests: Option<u64>,
}

/// What raises the events of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RaisedBy {
    /// The agent in the driver's process.
    Agent,
    /// The kernel.
    Kernel,
    /// Nothing in this process. A `farwatch-agent` may.
    Nothing,
}

/// What a device has to say.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct ShareReport {
    pub(crate) shared_dir: String,
    /// The vhost-user socket, if it was bound by this process.
    pub(crate) socket: Option<String>,
    pub(crate) watch: Watching,
    /// Since when a driver has the share mounted.
    pub(crate) driver_since: Option<f64>,
    pub(crate) client: Option<Client>,
    pub(crate) events: Events,
    pub(crate) latency: Latency,
    pub(crate) device: DeviceCounts,
}

/// How the host is watched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Watching {
    /// `inotify` or `fanotify`; `None` when nothing is watched.
    pub(crate) backend: Option<String>,
    /// The thread that reads the reports runs.
    pub(crate) is_running: bool,
    /// Nodes that the guest knows.
    pub(crate) known: usize,
    /// Directories among them.
    pub(crate) directories: usize,
    /// Those that cannot be watched, and are compared again and again instead.
    pub(crate) unwatched: usize,
    /// Some of them, from the shared directory on.
    #[serde(default)]
    pub(crate) unwatched_paths: Vec<String>,
    /// Why there are any, and what to do: the limit that was reached.
    #[serde(default)]
    pub(crate) unwatched_why: Option<String>,
    /// How often they are compared, in seconds.
    #[serde(default)]
    pub(crate) poll_interval_s: u64,
    /// The shared directory has been deleted.
    #[serde(default)]
    pub(crate) deleted: bool,
}

/// What receives the events.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Client {
    /// `agent`, `module` (an agent whose kernel has farwatch's module) or `kernel`.
    pub(crate) kind: String,
    /// `queue` or `reads`.
    pub(crate) delivery: String,
    /// Since when, in seconds since 1970.
    pub(crate) since: f64,
}

/// Counts since the process began, unless it says otherwise.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Events {
    /// Changes that the host reported.
    pub(crate) observed: u64,
    pub(crate) observed_per_second: f64,
    /// Events sent to the guest.
    pub(crate) sent: u64,
    pub(crate) sent_per_second: f64,
    /// Of those, the ones that a comparison with the host has found.
    pub(crate) resynced: u64,
    /// Events replayed to the end by an agent.
    pub(crate) replayed: u64,
    /// Replays that never came to their end.
    pub(crate) unreplayed: u64,
    /// Events that wait now.
    pub(crate) backlog: usize,
    /// How long the oldest of them has waited, in seconds; `None` when none waits.
    pub(crate) behind_s: Option<f64>,
    pub(crate) backlog_max: usize,
    /// Notifications that are with the agent now.
    pub(crate) in_replay: usize,
    /// Events that were dropped.
    pub(crate) dropped: u64,
    /// Directories that are marked for rescan now.
    pub(crate) rescans_due: usize,
    /// How often the kernel's queue was full.
    pub(crate) overflows: u64,
}

/// How long events of the last minute took.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Of how many.
    pub(crate) count: u64,
    pub(crate) p50_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
    pub(crate) until: Until,
}

/// Up to when it is measured. It begins when the host's report was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// The last request of the replay.
    Replayed,
    /// The event was sent: a kernel that raises events itself says nothing more of it.
    Sent,
}

/// Counts of the device.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceCounts {
    /// FUSE requests.
    pub(crate) requests: u64,
    /// Answered with an error before the file system was asked.
    pub(crate) refused: u64,
    /// Descriptor chains of which no request could be made.
    pub(crate) malformed: u64,
    /// Requests that made the file system panic.
    pub(crate) panics: u64,
    /// Notification buffers that could not be used.
    pub(crate) bad_buffers: u64,
}

/// The paths with the most reports in the last 10 to 20 seconds, relative to the shared directory.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Busiest {
    pub(crate) paths: Vec<Busy>,
    /// The directories that these are in.
    pub(crate) directories: Vec<Busy>,
    /// Reports of paths that were too many to count.
    pub(crate) others: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Busy {
    pub(crate) path: String,
    pub(crate) reports: u64,
}

/// Whether a directory is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Known {
    Watched,
    /// Known to the guest, and the watch could not be set.
    Unwatched,
    /// Nothing in the guest has looked there.
    Unknown,
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it, for the reply.
pub(crate) fn parse(line: &[u8]) -> Result<Ask, String> {
    let Request { version, ask } = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    if version != VERSION {
        return Err(format!("protocol version {version} is not known: this is version {VERSION}"));
    }
    Ok(ask)
}

/// Writes a line.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    // Every type here has string keys, and no number is refused: NaN and infinity become null.
    let mut line = serde_json::to_vec(message).expect("types of this protocol can be encoded");
    line.push(b'\n');
    line
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A share with an agent, of which nothing is wrong.
    pub(crate) fn report() -> Report {
        Report {
            release: "0.1.0".to_owned(),
            command: Command::Serve,
            pid: 1240,
            uid: 0,
            since: 1_000_000.0,
            mount: None,
            share: Some(ShareReport {
                shared_dir: "/home/me/src".to_owned(),
                socket: None,
                watch: Watching {
                    backend: Some("inotify".to_owned()),
                    is_running: true,
                    known: 5210,
                    directories: 1204,
                    unwatched: 0,
                    unwatched_paths: Vec::new(),
                    unwatched_why: None,
                    poll_interval_s: 1,
                    deleted: false,
                },
                driver_since: Some(1_000_001.0),
                client: Some(Client {
                    kind: "agent".to_owned(),
                    delivery: "queue".to_owned(),
                    since: 1_000_002.0,
                }),
                events: Events {
                    observed: 1300,
                    observed_per_second: 0.5,
                    sent: 1234,
                    sent_per_second: 0.4,
                    replayed: 1230,
                    backlog_max: 131_072,
                    ..Events::default()
                },
                latency: Latency {
                    count: 24,
                    p50_us: Some(800),
                    p99_us: Some(4000),
                    until: Until::Replayed,
                },
                device: DeviceCounts { requests: 9000, ..DeviceCounts::default() },
            }),
        }
    }

    /// A mount, whose device is process `device`.
    pub(crate) fn mount(device: Option<u32>) -> Report {
        let mount = MountReport {
            mount_point: "/mnt/src".to_owned(),
            device,
            socket: None,
            raised_by: RaisedBy::Agent,
            requests: Some(9000),
        };
        Report { command: Command::Mount, pid: 1234, mount: Some(mount), share: None, ..report() }
    }

    #[test]
    fn requests_have_the_form_that_the_document_shows() {
        for (line, ask) in [
            (r#"{"version":1,"ask":"status"}"#, Ask::Status),
            (r#"{"version":1,"ask":"journal"}"#, Ask::Journal { from: None }),
            (r#"{"version":1,"ask":"journal","from":12}"#, Ask::Journal { from: Some(12) }),
            (r#"{"version":1,"ask":"busiest","len":20}"#, Ask::Busiest { len: 20 }),
            (r#"{"version":1,"ask":"known","path":"a/b"}"#, Ask::Known { path: "a/b".to_owned() }),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(ask));
        }
    }

    #[test]
    fn request_of_another_version_is_refused_by_its_number() {
        let refused = parse(br#"{"version":2,"ask":"status"}"#);
        assert_eq!(refused, Err("protocol version 2 is not known: this is version 1".to_owned()));
        for line in ["", "{}", "[1]", r#"{"version":1}"#, r#"{"version":1,"ask":"reboot"}"#] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn report_of_another_release_is_read_without_the_counts_that_it_does_not_have() {
        let mut value = serde_json::to_value(report()).unwrap();
        value["share"]["events"].as_object_mut().unwrap().remove("resynced");
        value["share"]["news"] = serde_json::json!({ "of": "tomorrow" });
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), report());
    }

    #[test]
    fn replies_are_read_back_as_they_were_written() {
        let error = Reply { version: VERSION, answer: Answer::Error("why".to_owned()) };
        let journal = Reply { version: VERSION, answer: Answer::Journal(Part::default()) };
        let known = Reply { version: VERSION, answer: Answer::Known(Known::Unknown) };
        for reply in [error, journal, known] {
            let line = encode(&reply);
            assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
        }
        let line = encode(&Reply { version: 1, answer: Answer::Known(Known::Watched) });
        assert_eq!(line, b"{\"version\":1,\"known\":\"watched\"}\n");
    }
}
