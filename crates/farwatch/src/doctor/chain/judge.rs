// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From what is known of a mount to findings. Pure.

use std::time::Duration;

use farwatch_guest::SyncError;

use super::probe::Step;
use super::watchers::{Program, Programs};
use super::{Chain, Probe};
use crate::doctor::Finding;
use crate::status::{Severity, complaints};

/// A program that looks at the file-system type or at the path before it watches.
struct Picky {
    /// `comm` of its process.
    name: &'static str,
    does: &'static str,
    remedy: &'static str,
}

/// As read in their sources (`docs/TYPES.md`).
const PICKY: [Picky; 4] = [
    Picky {
        name: "tail",
        does: "polls once a second, since it has FUSE among the file systems without events",
        remedy: "nothing is lost; use `inotifywait -m` if a second is too long",
    },
    Picky {
        name: "fsnotifier",
        does: "(of JetBrains' programs) watches nothing on types that begin with `fuse`",
        remedy: "share with a virtual machine, where the type is virtiofs",
    },
    Picky {
        name: "git",
        does: "refuses fsmonitor on FUSE unless configured",
        remedy: "git config fsmonitor.allowRemote true",
    },
    Picky {
        name: "emacs",
        does: "does not watch files below /mnt, /media, /net and /afs for auto-revert",
        remedy: "mount elsewhere, or change auto-revert-notify-exclude-dir-regexp",
    },
];

/// Every line of the report, in the order of the chain.
pub(super) fn findings(chain: &Chain) -> Vec<Finding> {
    let mut findings = vec![mount(chain)];
    findings.extend(barrier(&chain.barrier, &chain.fs_type));
    if let Some(report) = &chain.report {
        findings.extend(complaints(report).into_iter().map(|complaint| {
            let finding = match complaint.severity {
                Severity::Note => Finding::ok("status", complaint.what),
                Severity::Problem => Finding::limited("status", complaint.what),
            };
            if complaint.remedy.is_empty() { finding } else { finding.remedy(complaint.remedy) }
        }));
    }
    findings.extend(probe(&chain.probe));
    findings.extend(programs(&chain.programs));
    findings
}

fn mount(chain: &Chain) -> Finding {
    Finding::ok("mount", format!("{}, type {}", chain.mount_point.display(), chain.fs_type))
}

fn barrier(barrier: &Result<Duration, SyncError>, fs_type: &str) -> Vec<Finding> {
    const SERVER: &str = "server";
    const EVENTS: &str = "events";
    let is_ours = || Finding::ok(SERVER, "farwatch");
    match barrier {
        Ok(took) => vec![
            is_ours(),
            Finding::ok(EVENTS, format!("all up to now are delivered (barrier: {})", ms(*took))),
        ],
        Err(SyncError::NotFarwatch(_)) => {
            let remedy = if fs_type == "virtiofs" {
                "on the host, start `farwatch serve` in place of virtiofsd"
            } else {
                "mount it by `farwatch mount`"
            };
            vec![Finding::missing(SERVER, "not farwatch: it sends no events").remedy(remedy)]
        }
        Err(SyncError::NoAgent(_)) => vec![
            is_ours(),
            Finding::missing(EVENTS, "nothing raises them: no agent is attached")
                .remedy("start `farwatch-agent`, or mount without --no-agent"),
        ],
        Err(SyncError::NotWatched(_)) => vec![
            is_ours(),
            Finding::missing(EVENTS, "the host does not watch the shared directory").remedy(
                "on the host: the log of the server, and `farwatch doctor` of the directory",
            ),
        ],
        Err(error @ SyncError::TimedOut { .. }) => vec![
            is_ours(),
            Finding::limited(EVENTS, format!("late: {error}")).remedy(
                "`farwatch status` on the host has the backlog, and its log what is dropped",
            ),
        ],
        Err(error @ SyncError::Unwatched { .. }) => {
            vec![is_ours(), Finding::limited(EVENTS, error.to_string())]
        }
        Err(error) => vec![Finding::missing(SERVER, error.to_string())],
    }
}

fn probe(probe: &Probe) -> Vec<Finding> {
    const SUBJECT: &str = "probe";
    match probe {
        Probe::Done(steps) => steps.iter().map(step).collect(),
        Probe::Failed(error) => vec![
            Finding::limited(SUBJECT, format!("no change could be made on the host's side: {error}"))
                .remedy("run this as a user who may write to the shared directory"),
        ],
        Probe::Nowhere => vec![
            Finding::ok(SUBJECT, "none: the shared directory is not known here").remedy(
                "on the machine that has it: `farwatch doctor MOUNT --shared-dir DIR`, as the user who \
                 mounted it or as root",
            ),
        ],
        Probe::Needless => vec![],
    }
}

fn step(step: &Step) -> Finding {
    match step.took {
        Some(took) => Finding::ok(step.events, format!("after {}", ms(took))),
        None => Finding::missing(step.events, "not delivered").remedy(
            "`farwatch watch MOUNT` shows whether the host has reported it and what became of it",
        ),
    }
}

fn programs(programs: &Programs) -> Vec<Finding> {
    const SUBJECT: &str = "programs";
    let mut watching: Vec<_> = programs.watching.iter().collect();
    watching.sort_by_key(|(program, watches)| (std::cmp::Reverse(*watches), program.pid));
    let named = watching.iter().map(|(Program { pid, name }, watches)| {
        format!("{name} ({pid}) with {watches} watch{}", if *watches == 1 { "" } else { "es" })
    });
    let list = named.collect::<Vec<_>>().join(", ");
    let hidden = match programs.hidden {
        0 => String::new(),
        hidden => format!("; {hidden} of other users are not seen"),
    };
    let who = if list.is_empty() { "no program watches here".to_owned() } else { list };
    let mut findings = vec![Finding::ok(SUBJECT, who + &hidden)];
    findings.extend(programs.inside.iter().filter_map(|program| {
        let picky = PICKY.iter().find(|picky| picky.name == program.name)?;
        let meaning = format!("{} ({}) {}", program.name, program.pid, picky.does);
        Some(Finding::limited(SUBJECT, meaning).remedy(picky.remedy))
    }));
    findings
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::doctor::report;

    fn chain() -> Chain {
        let program = |pid, name: &str| Program { pid, name: name.to_owned() };
        Chain {
            mount_point: "/mnt/src".into(),
            fs_type: "fuse.virtiofs".to_owned(),
            barrier: Ok(Duration::from_micros(2100)),
            report: None,
            probe: Probe::Done(vec![
                Step { events: "CREATE, ISDIR", took: Some(Duration::from_micros(310)) },
                Step { events: "MODIFY", took: None },
            ]),
            programs: Programs {
                watching: vec![(program(7, "node"), 1), (program(9, "watchman"), 120)],
                inside: vec![program(7, "node"), program(12, "tail")],
                hidden: 3,
            },
        }
    }

    fn text(chain: &Chain) -> String {
        let mut out = Vec::new();
        report(&findings(chain), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_report_has_a_line_for_each_link() {
        insta::assert_snapshot!(text(&chain()));
    }

    #[test]
    fn each_link_that_is_broken_is_named_with_what_to_do() {
        let path = || PathBuf::from("/mnt/src");
        for (error, wanted) in [
            (SyncError::NotFarwatch(path()), "`farwatch mount`"),
            (SyncError::NoAgent(path()), "farwatch-agent"),
            (SyncError::NotWatched(path()), "does not watch"),
        ] {
            let broken = Chain { barrier: Err(error), probe: Probe::Needless, ..chain() };
            let text = text(&broken);
            assert!(text.contains(wanted), "{text}");
            assert!(text.contains("missing"), "{text}");
        }
    }

    #[test]
    fn message_in_a_guest_without_a_server_names_what_to_start_on_the_host() {
        let barrier = Err(SyncError::NotFarwatch(PathBuf::from("/mnt")));
        let guest =
            Chain { barrier, fs_type: "virtiofs".to_owned(), probe: Probe::Needless, ..chain() };
        assert!(text(&guest).contains("start `farwatch serve`"));
    }

    #[test]
    fn failed_probe_is_reported() {
        let failed = Chain { probe: Probe::Failed("read-only".to_owned()), ..chain() };
        assert!(text(&failed).contains("read-only"));
        let nowhere = Chain { probe: Probe::Nowhere, ..chain() };
        assert!(text(&nowhere).contains("--shared-dir"));
    }
}
