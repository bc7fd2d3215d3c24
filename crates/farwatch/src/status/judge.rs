// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is wrong with a share, by what its processes say, and what to do about it.

use serde::Serialize;

use super::text::{directories, number};
use crate::monitor::protocol::{RaisedBy, Report, ShareReport};

/// A latency that somebody notices.
const SLOW_US: u64 = 1_000_000;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Worth knowing; events are delivered.
    Note,
    /// Events are missing, or late.
    Problem,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What it is, with its consequence.
    pub(crate) what: String,
    /// What to do; empty if nothing.
    pub(crate) remedy: String,
}

fn finding(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { severity, what: what.into(), remedy: remedy.into() }
}

fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(Severity::Problem, what, remedy)
}

fn note(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(Severity::Note, what, remedy)
}

/// Everything that is wrong, the worst first.
pub(crate) fn findings(report: &Report) -> Vec<Finding> {
    let mut findings = match &report.share {
        Some(share) => {
            [watching(share), client(report, share), queues(share), device(share)].concat()
        }
        None => vec![problem(
            "the device of this mount does not answer",
            "see its log; if it has stopped, `umount` the mount and start it again",
        )],
    };
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn watching(share: &ShareReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dir = &share.shared_dir;
    match &share.watch.backend {
        None => findings.push(problem(
            "changes on the host are not watched: no events",
            format!("run `farwatch doctor {dir}`, fix what it reports, then restart it"),
        )),
        Some(_) if !share.watch.is_running => findings.push(problem(
            "reading the host's reports has failed: no events",
            "see its log, then restart it",
        )),
        Some(_) => {}
    }
    if share.watch.deleted {
        findings.push(problem(
            "the shared directory has been deleted: a new directory of the same name is not shared",
            "mount it again, or restart `farwatch serve`",
        ));
    }
    let unwatched = share.watch.unwatched;
    if unwatched > 0 {
        let named = match &*share.watch.unwatched_paths {
            [] => String::new(),
            paths if paths.len() < unwatched => format!(" ({}, …)", paths.join(", ")),
            paths => format!(" ({})", paths.join(", ")),
        };
        let interval = count(share.watch.poll_interval_s, "second");
        findings.push(problem(
            format!(
                "{} cannot be watched{named}: polled every {interval}, so their events are late, \
                 and changes undone in between have none",
                directories(unwatched)
            ),
            share.watch.unwatched_why.clone().unwrap_or_default(),
        ));
    }
    if share.events.overflows > 0 {
        let times = share.events.overflows;
        findings.push(note(
            format!(
                "the kernel's event queue was full {}: directories were rescanned",
                count(times, "time")
            ),
            "if it happens often, raise fs.inotify.max_queued_events with sysctl(8) and restart it",
        ));
    }
    findings
}

fn client(report: &Report, share: &ShareReport) -> Vec<Finding> {
    if share.driver_since.is_none() {
        return vec![note("no guest has mounted the share yet", "")];
    }
    if share.client.is_some() {
        return Vec::new();
    }
    let nothing = "no agent is attached: no events";
    let finding = match &report.mount {
        Some(mount) if mount.raised_by == RaisedBy::Nothing => {
            problem(nothing, format!("start `farwatch-agent {}`", mount.mount_point))
        }
        Some(_) => problem(
            "the mount's agent has lost its connection: no events",
            "see the log; unmount, and mount again",
        ),
        None => problem(
            nothing,
            "in the guest, mount the share read-write and start `farwatch-agent TAG`; \
             `farwatch-agent status` there shows its state",
        ),
    };
    vec![finding]
}

fn queues(share: &ShareReport) -> Vec<Finding> {
    let (events, latency) = (&share.events, &share.latency);
    let mut findings = Vec::new();
    let waiting = count(events.backlog, "event");
    if events.backlog > 0 && events.in_replay > 0 && events.sent_per_second <= 0.0 {
        findings.push(problem(
            format!("{waiting} waiting, and the agent does not read them"),
            "see the agent's log; if it hangs, restart it",
        ));
    } else if events.backlog > events.backlog_max / 2 {
        findings.push(problem(
            format!(
                "{waiting} waiting, of at most {}: more will be dropped",
                number(events.backlog_max)
            ),
            "more changes than can be delivered: `farwatch top` shows where",
        ));
    }
    if events.rescans_due > 0 {
        findings.push(note(
            format!(
                "events were dropped; {} still to be rescanned",
                directories(events.rescans_due)
            ),
            "",
        ));
    } else if events.dropped > 0 {
        findings.push(note(
            format!(
                "{} dropped since the start, compensated by rescans",
                count(events.dropped, "event")
            ),
            "expected while no agent is attached, and during very large changes",
        ));
    }
    if latency.p99_us.is_some_and(|p99| p99 > SLOW_US) {
        findings.push(note(
            "one event in a hundred took longer than a second",
            "`farwatch top` shows what is busy",
        ));
    }
    findings
}

fn device(share: &ShareReport) -> Vec<Finding> {
    let device = &share.device;
    let mut findings = Vec::new();
    if device.panics > 0 {
        findings.push(problem(
            format!("the file server panicked {}", count(device.panics, "time")),
            "please report this with the log",
        ));
    }
    let unusable = device.malformed + device.bad_buffers;
    if unusable > 0 {
        findings.push(note(
            format!("{} of the guest's driver could not be used", count(unusable, "buffer")),
            "this is a bug of the driver, or the guest is hostile",
        ));
    }
    findings
}

/// `1 event`, `2 events`.
fn count(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", number(n)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::tests::{mount, report};

    /// What is found of a share that `change` has changed.
    fn found(change: impl FnOnce(&mut ShareReport)) -> Vec<(Severity, String)> {
        let mut report = report();
        change(report.share.as_mut().unwrap());
        findings(&report).into_iter().map(|finding| (finding.severity, finding.what)).collect()
    }

    fn problem(what: &str) -> Vec<(Severity, String)> {
        vec![(Severity::Problem, what.to_owned())]
    }

    fn note(what: &str) -> Vec<(Severity, String)> {
        vec![(Severity::Note, what.to_owned())]
    }

    #[test]
    fn nothing_is_found_of_a_share_that_works() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn share_without_a_watcher_has_no_events() {
        assert_eq!(
            found(|share| share.watch.backend = None),
            problem("changes on the host are not watched: no events")
        );
        assert_eq!(
            found(|share| share.watch.is_running = false),
            problem("reading the host's reports has failed: no events")
        );
        assert_eq!(
            found(|share| share.watch.deleted = true),
            problem(
                "the shared directory has been deleted: a new directory of the same name is not shared"
            )
        );
        assert_eq!(
            found(|share| share.watch.unwatched = 3),
            problem(
                "3 directories cannot be watched: polled every 1 second, so their events are \
                 late, and changes undone in between have none"
            )
        );
    }

    #[test]
    fn missing_agent_is_a_problem_only_once_the_share_is_mounted() {
        let unmounted = found(|share| (share.driver_since, share.client) = (None, None));
        assert_eq!(unmounted, note("no guest has mounted the share yet"));
        assert_eq!(found(|share| share.client = None), problem("no agent is attached: no events"));
    }

    #[test]
    fn message_of_a_mount_without_agent_names_the_one_to_start() {
        let mut share = report().share.unwrap();
        share.client = None;
        let mut mount = mount(Some(1));
        mount.share = Some(share);
        mount.mount.as_mut().unwrap().raised_by = RaisedBy::Nothing;
        assert_eq!(findings(&mount)[0].remedy, "start `farwatch-agent /mnt/src`");
        mount.mount.as_mut().unwrap().raised_by = RaisedBy::Agent;
        assert!(findings(&mount)[0].what.starts_with("the mount's agent has lost"));
    }

    #[test]
    fn events_that_wait_are_a_problem_when_none_is_taken_or_half_the_room_is_full() {
        let waiting = |backlog, in_replay, rate| {
            found(|share| {
                let events = &mut share.events;
                (events.backlog, events.in_replay, events.sent_per_second) =
                    (backlog, in_replay, rate);
            })
        };
        assert_eq!(waiting(10, 0, 0.0), [], "they may just have come");
        assert_eq!(waiting(10, 4, 100.0), [], "it goes on");
        assert_eq!(
            waiting(10, 4, 0.0),
            problem("10 events waiting, and the agent does not read them")
        );
        assert_eq!(
            waiting(70_000, 4, 100.0),
            problem("70,000 events waiting, of at most 131,072: more will be dropped")
        );
    }

    #[test]
    fn dropped_events_are_a_note_since_rescans_make_up_for_them() {
        let dropped = found(|share| share.events.dropped = 1);
        assert_eq!(dropped, note("1 event dropped since the start, compensated by rescans"));
        let due = found(|share| (share.events.dropped, share.events.rescans_due) = (5, 1));
        assert_eq!(due, note("events were dropped; 1 directory still to be rescanned"));
    }

    #[test]
    fn problems_come_before_notes() {
        let both = found(|share| {
            share.events.overflows = 2;
            share.device.panics = 1;
        });
        assert_eq!(both[0], (Severity::Problem, "the file server panicked 1 time".to_owned()));
        assert_eq!(both[1].0, Severity::Note);
    }

    #[test]
    fn mount_whose_device_is_silent_has_a_problem() {
        assert_eq!(findings(&mount(Some(1)))[0].what, "the device of this mount does not answer");
    }
}
