// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A report as Prometheus's text format, version 0.0.4. `docs/METRICS.md` has a row for each name, and the dashboard
//! of `contrib/grafana` uses no others: tests compare them.

use std::fmt::Write as _;

use super::protocol::{Report, ShareReport};
use crate::meter::Histogram;

/// What a metric is to Prometheus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It only grows.
    Counter,
    Gauge,
}

struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&ShareReport) -> Option<f64>,
}

/// The labels of every metric.
#[cfg(test)]
const LABEL: &str = "shared_dir";
const INFO: &str = "farwatch_info";
const START: &str = "farwatch_start_time_seconds";
const LATENCY: &str = "farwatch_event_latency_seconds";

const METRICS: [Metric; 24] = [
    counter("farwatch_host_changes_total", "Changes that the host reported.", |share| {
        float(share.events.observed)
    }),
    counter("farwatch_events_sent_total", "Events sent to the guest or mount.", |share| {
        float(share.events.sent)
    }),
    counter("farwatch_events_replayed_total", "Events that an agent has replayed.", |share| {
        float(share.events.replayed)
    }),
    counter("farwatch_events_unreplayed_total", "Replays that were not finished.", |share| {
        float(share.events.unreplayed)
    }),
    counter("farwatch_events_resynced_total", "Events found by a comparison.", |share| {
        float(share.events.resynced)
    }),
    counter("farwatch_events_dropped_total", "Events dropped; a rescan follows.", |share| {
        float(share.events.dropped)
    }),
    counter("farwatch_queue_overflows_total", "Times the host kernel's queue was full.", |share| {
        float(share.events.overflows)
    }),
    gauge("farwatch_backlog_events", "Events that wait to be sent.", |share| {
        count(share.events.backlog)
    }),
    gauge("farwatch_backlog_age_seconds", "How long the oldest of them has waited.", |share| {
        Some(share.events.behind_s.unwrap_or_default())
    }),
    gauge("farwatch_backlog_events_max", "The most events that may wait.", |share| {
        count(share.events.backlog_max)
    }),
    gauge("farwatch_replays_in_progress", "Notifications sent and not replayed yet.", |share| {
        count(share.events.in_replay)
    }),
    gauge("farwatch_rescans_due", "Directories marked for rescan.", |share| {
        count(share.events.rescans_due)
    }),
    gauge("farwatch_known_nodes", "Files and directories that the guest knows.", |share| {
        count(share.watch.known)
    }),
    gauge("farwatch_known_directories", "Directories that the guest knows.", |share| {
        count(share.watch.directories)
    }),
    gauge(
        "farwatch_unwatched_directories",
        "Known directories that cannot be watched and are polled.",
        |share| count(share.watch.unwatched),
    ),
    gauge("farwatch_watching", "1 while the host's reports are read.", |share| {
        flag(share.watch.is_running)
    }),
    gauge("farwatch_driver_attached", "1 while a driver has the share mounted.", |share| {
        flag(share.driver_since.is_some())
    }),
    gauge("farwatch_client_attached", "1 while an agent or kernel receives events.", |share| {
        flag(share.client.is_some())
    }),
    gauge("farwatch_client_attached_time_seconds", "Since when, as Unix time.", |share| {
        share.client.as_ref().map(|client| client.since)
    }),
    counter("farwatch_requests_total", "FUSE requests handed to the file server.", |share| {
        float(share.device.requests)
    }),
    counter("farwatch_requests_refused_total", "FUSE requests that were refused.", |share| {
        float(share.device.refused)
    }),
    counter("farwatch_malformed_chains_total", "Descriptor chains without a request.", |share| {
        float(share.device.malformed)
    }),
    counter("farwatch_panics_total", "Requests that made the file server panic.", |share| {
        float(share.device.panics)
    }),
    counter("farwatch_bad_buffers_total", "Notification buffers of no use.", |share| {
        float(share.device.bad_buffers)
    }),
];

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&ShareReport) -> Option<f64>,
) -> Metric {
    Metric { name, kind: Kind::Counter, help, value }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&ShareReport) -> Option<f64>,
) -> Metric {
    Metric { name, kind: Kind::Gauge, help, value }
}

/// Exact up to 2^53, as all numbers of Prometheus are.
#[expect(clippy::unnecessary_wraps, reason = "every metric has a function of one type")]
fn float(count: u64) -> Option<f64> {
    let (high, low) = (count >> 32, count & u64::from(u32::MAX));
    let [high, low] = [high, low].map(|half| f64::from(u32::try_from(half).unwrap_or(u32::MAX)));
    Some(high * 4_294_967_296.0 + low)
}

fn count(count: usize) -> Option<f64> {
    float(u64::try_from(count).unwrap_or(u64::MAX))
}

fn flag(is: bool) -> Option<f64> {
    float(is.into())
}

/// The metrics of a process. `latency` is since it began.
pub(super) fn text(report: &Report, latency: Option<&Histogram>) -> String {
    let mut text = String::new();
    let dir = report.share.as_ref().map_or("", |share| &share.shared_dir);
    let label = format!("shared_dir=\"{}\"", escaped(dir));
    head(&mut text, INFO, "gauge", "Always 1: which release runs, and what it watches with.");
    let watch = report.share.as_ref().and_then(|share| share.watch.backend.as_deref());
    let (release, watch) = (escaped(&report.release), escaped(watch.unwrap_or("none")));
    line(&mut text, INFO, &format!("{label},release=\"{release}\",watch=\"{watch}\""), 1.0);
    head(&mut text, START, "gauge", "When the process started, as Unix time.");
    line(&mut text, START, &label, report.since);
    let Some(share) = &report.share else { return text };
    for Metric { name, kind, help, value } in &METRICS {
        let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
        head(&mut text, name, kind, help);
        if let Some(value) = value(share) {
            line(&mut text, name, &label, value);
        }
    }
    if let Some(latency) = latency {
        histogram(&mut text, &label, latency);
    }
    text
}

fn histogram(text: &mut String, label: &str, latency: &Histogram) {
    let help = "From the read of the host's report to the last request of the replay; to the send, where the guest's kernel raises events.";
    head(text, LATENCY, "histogram", help);
    let bucket = format!("{LATENCY}_bucket");
    for (limit, count) in latency.cumulative() {
        let label = format!("{label},le=\"{}\"", limit.as_secs_f64());
        line(text, &bucket, &label, float(count).unwrap_or_default());
    }
    let count = float(latency.count()).unwrap_or_default();
    line(text, &bucket, &format!("{label},le=\"+Inf\""), count);
    line(text, &format!("{LATENCY}_sum"), label, latency.sum().as_secs_f64());
    line(text, &format!("{LATENCY}_count"), label, count);
}

// Writing to a string does not fail.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _written = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    let _written = writeln!(text, "{name}{{{labels}}} {value}");
}

/// The value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::monitor::protocol::tests::report;

    const DOCUMENT: &str = include_str!("../../../../docs/METRICS.md");
    const DASHBOARD: &str = include_str!("../../../../contrib/grafana/farwatch.json");

    fn names() -> BTreeSet<&'static str> {
        METRICS.iter().map(|metric| metric.name).chain([INFO, START, LATENCY]).collect()
    }

    /// Every word of a text that begins as our metrics do.
    fn named(text: &str) -> BTreeSet<&str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("farwatch_")).collect()
    }

    #[test]
    fn metrics_of_a_share_look_as_prometheus_reads_them() {
        let mut latency = Histogram::default();
        latency.add(Duration::from_micros(700));
        let text = text(&report(), Some(&latency));
        assert!(text.contains(
            "farwatch_info{shared_dir=\"/home/me/src\",release=\"0.1.0\",watch=\"inotify\"} 1\n"
        ));
        assert!(text.contains("# TYPE farwatch_events_sent_total counter\n"));
        assert!(text.contains("farwatch_events_sent_total{shared_dir=\"/home/me/src\"} 1234\n"));
        let bucket = "farwatch_event_latency_seconds_bucket{shared_dir=\"/home/me/src\",le=";
        assert!(text.contains(&format!("{bucket}\"0.0005\"}} 0\n")));
        assert!(text.contains(&format!("{bucket}\"0.001\"}} 1\n")));
        assert!(text.contains(&format!("{bucket}\"+Inf\"}} 1\n")));
    }

    #[test]
    fn every_line_has_a_name_that_was_introduced_and_a_number() {
        let text = text(&report(), Some(&Histogram::default()));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.split_once('{').unwrap();
            let name = ["_bucket", "_sum", "_count"].iter().fold(name, |name, end| {
                if name.starts_with(LATENCY) { name.trim_end_matches(end) } else { name }
            });
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
            assert!(rest.starts_with(LABEL), "{line}");
            assert!(rest.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn path_with_quotes_stays_one_label() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn counters_end_in_total_and_gauges_do_not() {
        for Metric { name, kind, .. } in &METRICS {
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn document_names_every_metric_and_no_other() {
        assert_eq!(named(DOCUMENT), names());
    }

    #[test]
    fn dashboard_uses_metrics_that_there_are() {
        let used = named(DASHBOARD);
        let ends = ["_bucket", "_sum", "_count"];
        let base =
            |name: &str| ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
        for name in &used {
            let is_known = names().contains(name) || base(name).as_deref() == Some(LATENCY);
            assert!(is_known, "{name}");
        }
        assert!(used.len() > 10, "it shows something");
        serde_json::from_str::<serde_json::Value>(DASHBOARD).unwrap();
    }
}
