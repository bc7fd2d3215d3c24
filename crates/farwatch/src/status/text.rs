// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports as text for people.

use std::fmt::Write as _;

use farwatch_guest::duration;

use super::judge::{Finding, Severity};
use crate::monitor::protocol::{Latency, RaisedBy, Report, ShareReport, Until};

/// How far the values of a share are to the right.
const INDENT: usize = 12;

/// What is known of one share at `now`, in seconds since 1970.
pub(super) fn share(report: &Report, findings: &[Finding], now: f64) -> String {
    let mut text = title(report);
    let mut row = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _written = writeln!(text, "  {name:INDENT$}{}", printable(&value));
    };
    row("running", running(report, now));
    if let Some(share) = &report.share {
        row("watched by", watched(share));
        row("events by", events_by(report, share, now));
        row("events", events(share));
        row("waiting", waiting(share));
        row("dropped", dropped(share));
        row("latency", latency(&share.latency));
    }
    for Finding { severity, what, remedy } in findings {
        let name = match severity {
            Severity::Problem => "PROBLEM",
            Severity::Note => "note",
        };
        row(name, what.clone());
        if !remedy.is_empty() {
            row("", format!("→ {remedy}"));
        }
    }
    text
}

fn title(report: &Report) -> String {
    let shared = report.share.as_ref().map_or("?", |share| &share.shared_dir);
    let socket = report.share.as_ref().and_then(|share| share.socket.as_deref());
    let title = match (&report.mount, socket) {
        (Some(mount), _) => format!("{shared} on {}", mount.mount_point),
        (None, Some(socket)) => format!("{shared} for a virtual machine, at {socket}"),
        (None, None) => format!("{shared} for a virtual machine"),
    };
    printable(&title) + "\n"
}

fn running(report: &Report, now: f64) -> String {
    let device = report.mount.as_ref().and_then(|mount| mount.device);
    let device = device.map(|pid| format!(", its device {pid}")).unwrap_or_default();
    let for_ = duration(now - report.since);
    format!("for {for_}, as process {}{device}, farwatch {}", report.pid, report.release)
}

fn watched(share: &ShareReport) -> String {
    let watch = &share.watch;
    let Some(backend) = &watch.backend else { return "nothing".to_owned() };
    let known = directories(watch.directories);
    let unwatched = match watch.unwatched {
        0 => String::new(),
        unwatched => format!(", {} of them polled", number(unwatched)),
    };
    format!("{backend}; known: {known}{unwatched}, {} objects in all", number(watch.known))
}

fn events_by(report: &Report, share: &ShareReport, now: f64) -> String {
    let Some(client) = &share.client else { return "nothing".to_owned() };
    let by = match (&*client.kind, &report.mount) {
        ("kernel", _) => "the kernel of the guest",
        ("module", _) => "an agent and the kernel module",
        (_, Some(mount)) if mount.raised_by == RaisedBy::Agent => "the mount's own agent",
        _ => "an agent",
    };
    format!("{by} ({}), attached for {}", client.delivery, duration(now - client.since))
}

fn events(share: &ShareReport) -> String {
    let events = &share.events;
    format!(
        "{} reported by the host, {:.1}/s; {} sent, {:.1}/s; {} replayed",
        number(events.observed),
        events.observed_per_second,
        number(events.sent),
        events.sent_per_second,
        number(events.replayed)
    )
}

fn waiting(share: &ShareReport) -> String {
    let events = &share.events;
    let oldest = match events.behind_s {
        Some(behind) if behind >= 1.0 => format!(", the oldest for {}", duration(behind)),
        Some(_) | None => String::new(),
    };
    format!(
        "{} in the backlog{oldest}, {} in replay",
        number(events.backlog),
        number(events.in_replay)
    )
}

fn dropped(share: &ShareReport) -> String {
    let events = &share.events;
    format!(
        "{}; {} to rescan, {} events found by rescans; {} replays not finished",
        number(events.dropped),
        directories(events.rescans_due),
        number(events.resynced),
        number(events.unreplayed)
    )
}

fn latency(latency: &Latency) -> String {
    let (Some(p50), Some(p99)) = (latency.p50_us, latency.p99_us) else {
        return "no events in the last minute".to_owned();
    };
    let until = match latency.until {
        Until::Replayed => "replayed",
        Until::Sent => "sent",
    };
    let [p50, p99] = [p50, p99].map(micros);
    let count = number(latency.count);
    format!("p50 {p50}, p99 {p99}, from reported to {until} ({count} events of the last minute)")
}

/// Three digits or so of a duration.
pub(super) fn micros(us: u64) -> String {
    let scaled = |unit: u64| {
        let (whole, hundredths) = (us / unit, us % unit * 100 / unit);
        match whole {
            0..10 => format!("{whole}.{hundredths:02}"),
            10..100 => format!("{whole}.{}", hundredths / 10),
            _ => whole.to_string(),
        }
    };
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{} ms", scaled(1000)),
        _ => format!("{} s", scaled(1_000_000)),
    }
}

/// A name without control characters, which would be the terminal's to obey.
pub(super) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1 directory`, `2 directories`.
pub(super) fn directories(n: usize) -> String {
    if n == 1 { "1 directory".to_owned() } else { format!("{} directories", number(n)) }
}

/// A number with its thousands apart.
pub(super) fn number(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::judge::findings;
    use super::*;
    use crate::monitor::protocol::tests::{mount, report};

    const NOW: f64 = 1_008_000.0;

    fn shown(report: &Report) -> String {
        share(report, &findings(report), NOW)
    }

    #[test]
    fn mount_that_works_is_shown_in_eight_lines() {
        let mut mount = mount(Some(1240));
        mount.share = report().share;
        insta::assert_snapshot!(shown(&mount));
    }

    #[test]
    fn share_without_an_agent_is_shown_with_what_to_do() {
        let mut report = report();
        let share = report.share.as_mut().unwrap();
        share.socket = Some("/run/src.sock".to_owned());
        share.client = None;
        share.watch.unwatched = 2;
        share.events.dropped = 12_000;
        share.latency.p50_us = None;
        insta::assert_snapshot!(shown(&report));
    }

    #[test]
    fn kernel_that_raises_events_is_measured_until_they_are_sent() {
        let mut report = report();
        let share = report.share.as_mut().unwrap();
        share.client.as_mut().unwrap().kind = "kernel".to_owned();
        share.latency.until = Until::Sent;
        assert!(shown(&report).contains("events by   the kernel of the guest (queue), attached"));
        assert!(shown(&report).contains("from reported to sent (24 events"));
    }

    #[test]
    fn mount_whose_device_is_silent_is_shown_without_numbers() {
        insta::assert_snapshot!(shown(&mount(Some(1240))));
    }

    #[test]
    fn durations_have_two_units_and_numbers_their_thousands_apart() {
        let durations = [-5.0, 0.4, 59.0, 61.0, 7980.0, 86_400.0, 1e9].map(duration);
        assert_eq!(
            durations,
            ["0 s", "0 s", "59 s", "1 min 1 s", "2 h 13 min", "1 d 0 h", "11574 d 1 h"]
        );
        assert_eq!([0_u64, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        let times = [0, 999, 1000, 12_500, 125_000, 2_500_000].map(micros);
        assert_eq!(times, ["0 µs", "999 µs", "1.00 ms", "12.5 ms", "125 ms", "2.50 s"]);
    }
}
