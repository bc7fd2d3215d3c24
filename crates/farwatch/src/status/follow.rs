// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch watch`: what the host reports of a path and what is delivered of it, as it happens.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::{judge, nearest, text};
use crate::meter::{Kind, Part, Record};
use crate::monitor::client::{self, Connection};
use crate::monitor::protocol::{Events, Known, Report};
use crate::options::WatchArgs;

/// How often new records are asked for. A person sees no difference, and the ring has room for more than can be
/// delivered in this time.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How often counts are.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Prints until the process that is asked ends.
///
/// # Errors
/// When the path is in no share, when the process stopped answering, and those of writing.
pub(crate) fn run(args: &WatchArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let path = resolved(&args.path).with_context(|| args.path.display().to_string())?;
    let found = client::find();
    let reports = found.reports.iter().map(|(_, report)| report);
    let Some((report, root)) = nearest(reports, &path) else {
        bail!("{} is not in a share that you may look at; see `farwatch status`", path.display())
    };
    let below =
        path.strip_prefix(root).unwrap_or_else(|_| Path::new("")).to_string_lossy().into_owned();
    let socket = found.reports.iter().find(|(_, other)| other.pid == report.pid);
    let (socket, _) = socket.context("the share was among these")?;
    let mut connection = Connection::open(socket).with_context(|| socket.display().to_string())?;
    // From here on records are kept, so that what happens after the first line is shown.
    let from = connection.journal(None)?.next;
    if !args.json {
        for line in preface(&mut connection, report, &path, &below)? {
            writeln!(out, "{line}").context("standard output")?;
        }
    }
    follow(&mut connection, from, &below, args.json, out)
}

/// A path without symbolic links; its last part need not exist.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        (resolved, _, _) => resolved,
    }
}

/// What explains that nothing is to be seen.
fn preface(
    connection: &mut Connection,
    report: &Report,
    path: &Path,
    below: &str,
) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for finding in judge::findings(report) {
        let remedy = if finding.remedy.is_empty() { "" } else { " → " };
        lines.push(format!("# {}{remedy}{}", finding.what, finding.remedy));
    }
    let dir = if path.is_dir() { below } else { below.rsplit_once('/').map_or("", |(dir, _)| dir) };
    let known = connection.known(dir)?;
    let dir = text::printable(dir);
    let shown = if dir.is_empty() { "the shared directory" } else { &dir };
    lines.push(match known {
        Known::Watched => format!("# watching {shown}; Ctrl-C ends"),
        Known::Unwatched => format!("# {shown} cannot be watched: it is polled, so its events are late"),
        Known::Unknown => format!(
            "# no program on the other side has looked into {shown}, so it is not watched: a program that watches it \
             there makes it known"
        ),
    });
    Ok(lines)
}

fn follow(
    connection: &mut Connection,
    mut from: u64,
    below: &str,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut counts = Counted::default();
    let mut counted: Option<Instant> = None;
    loop {
        let part = connection.journal(Some(from)).context("the process stopped answering")?;
        from = part.next;
        let mut lines = shown(&part, below, json);
        if !json && counted.is_none_or(|counted| counted.elapsed() >= COUNT_EVERY) {
            let report = connection.report().context("the process stopped answering")?;
            let events = report.share.map(|share| share.events).unwrap_or_default();
            lines.extend(counts.changed(&events));
            counted = Some(Instant::now());
        }
        for line in lines {
            writeln!(out, "{line}").context("standard output")?;
        }
        out.flush().context("standard output")?;
        thread::sleep(ASK_EVERY);
    }
}

/// The records about a path and what is below it, and how many were missed.
fn shown(part: &Part, below: &str, json: bool) -> Vec<String> {
    let records = part.records.iter().filter(|record| is_about(record, below));
    if json {
        return records.filter_map(|record| serde_json::to_string(record).ok()).collect();
    }
    let missed =
        format!("# {} records are missing here: more happened than could be recorded", part.missed);
    let missed = (part.missed > 0).then_some(missed);
    missed.into_iter().chain(records.map(line)).collect()
}

fn is_about(record: &Record, below: &str) -> bool {
    let is_in = |path: &str| {
        let rest = path.strip_prefix(below);
        rest.is_some_and(|rest| below.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    record.kind == Kind::Overflow || is_in(&record.path) || record.to.as_deref().is_some_and(is_in)
}

fn line(record: &Record) -> String {
    let kind = match record.kind {
        Kind::Reported => "reported",
        Kind::Sent => "sent",
        Kind::Replayed => "delivered",
        Kind::Overflow => "OVERFLOW",
    };
    let path = match &record.to {
        Some(to) => format!("{} → {to}", record.path),
        None => record.path.clone(),
    };
    let took =
        record.latency_us.map_or_else(String::new, |us| format!("after {}", text::micros(us)));
    let time = time_of_day(record.time);
    text::printable(&format!("{time}  {kind:9}  {took:14}  {:24}  {path}", record.events))
}

/// UTC, with microseconds.
fn time_of_day(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let of_day = time.as_secs() % 86_400;
    let (hours, minutes) = (of_day / 3600, of_day / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", of_day % 60, time.subsec_micros())
}

/// Counts that were shown.
#[derive(Debug, Default)]
struct Counted(Option<(u64, u64)>);

impl Counted {
    /// Lines for those that have grown since they were last shown.
    fn changed(&mut self, events: &Events) -> Vec<String> {
        let now = (events.dropped, events.unreplayed);
        let (dropped, unreplayed) = self.0.replace(now).unwrap_or(now);
        let grown = |new: u64, old: u64, what: &str| {
            let more = new.saturating_sub(old);
            (more > 0).then(|| format!("# {} more {what}", text::number(more)))
        };
        let dropped = grown(now.0, dropped, "events of the share were dropped; rescans compensate");
        let unreplayed = grown(
            now.1,
            unreplayed,
            "replays of the share were not finished: the objects were gone",
        );
        dropped.into_iter().chain(unreplayed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, path: &str, latency_us: Option<u64>) -> Record {
        let (events, path) = ("CREATE".to_owned(), path.to_owned());
        Record { time: 35_205.5, kind, events, path, to: None, latency_us }
    }

    #[test]
    fn change_is_shown_from_its_report_to_its_delivery() {
        let mut rename = record(Kind::Replayed, "a/b", Some(1200));
        rename.events = "MOVED_FROM,MOVED_TO".to_owned();
        rename.to = Some("a/c".to_owned());
        let records = vec![
            record(Kind::Reported, "a/b", None),
            record(Kind::Sent, "a/b", None),
            record(Kind::Replayed, "a/b", Some(640)),
            rename,
        ];
        let part = Part { next: 9, missed: 0, records };
        insta::assert_snapshot!(shown(&part, "a", false).join("\n"));
    }

    #[test]
    fn missed_records_are_reported_before_those_that_follow() {
        let part = Part { next: 9, missed: 3, records: vec![record(Kind::Sent, "a", None)] };
        let lines = shown(&part, "", false);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("# 3 records are missing here"));
    }

    #[test]
    fn record_is_about_a_path_if_either_name_is_there_or_below() {
        let mut record = record(Kind::Reported, "src/a", None);
        for (below, is) in [("", true), ("src", true), ("src/a", true), ("sr", false), ("b", false)]
        {
            assert_eq!(is_about(&record, below), is, "{below}");
        }
        record.to = Some("b/a".to_owned());
        assert!(is_about(&record, "b"));
        assert!(is_about(&Record { kind: Kind::Overflow, path: String::new(), ..record }, "c"));
    }

    #[test]
    fn json_has_one_record_a_line_and_nothing_else() {
        let part = Part { next: 9, missed: 3, records: vec![record(Kind::Sent, "a", Some(7))] };
        let lines = shown(&part, "", true);
        assert_eq!(
            lines,
            [r#"{"time":35205.5,"kind":"sent","events":"CREATE","path":"a","latency_us":7}"#]
        );
    }

    #[test]
    fn counts_are_shown_when_they_grow_and_not_at_first() {
        let mut counted = Counted::default();
        let mut events = Events { dropped: 5, unreplayed: 5, ..Events::default() };
        assert_eq!(counted.changed(&events), [""; 0]);
        events.dropped = 1007;
        let lines = counted.changed(&events);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("# 1,002 more events of the share were dropped"));
        assert_eq!(counted.changed(&events), [""; 0]);
    }
}
