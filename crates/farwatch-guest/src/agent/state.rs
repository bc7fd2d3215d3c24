// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`State`]: what a worker says of itself, as text: a line for each value, with a tab behind its name. It is made in
//! the worker (`answer`) and read by `farwatch-agent status`.

use std::fmt::Write as _;

use crate::duration;
use crate::run::Report;

/// See the module's documentation. Times are in seconds since 1970.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct State {
    pub(super) target: String,
    pub(super) pid: u32,
    /// Since when events are delivered; `None` before.
    pub(super) since: Option<f64>,
    /// When the server has answered last.
    pub(super) answered: Option<f64>,
    pub(super) report: Report,
    /// The last call that failed, and when.
    pub(super) last_error: Option<(f64, String)>,
}

/// How long the server of a live agent leaves a read unanswered, with much to spare.
const ANSWER_MAX: f64 = 15.0;

impl State {
    /// The text.
    pub(super) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let mut put = |name: &str, value: String| {
            let _written = writeln!(text, "{name}\t{}", value.replace(['\n', '\t'], " "));
        };
        let Report { received, undecoded, calls, failed, overflows } = self.report;
        put("target", self.target.clone());
        put("pid", self.pid.to_string());
        for (name, time) in [("since", self.since), ("answered", self.answered)] {
            if let Some(time) = time {
                put(name, time.to_string());
            }
        }
        for (name, count) in [
            ("received", received),
            ("undecoded", undecoded),
            ("calls", calls),
            ("failed", failed),
            ("overflows", overflows),
        ] {
            put(name, count.to_string());
        }
        if let Some((time, error)) = &self.last_error {
            put("error_time", time.to_string());
            put("error", error.clone());
        }
        text
    }

    /// Reads it back; what is not known is left out.
    pub(super) fn decode(text: &str) -> Self {
        let mut state = Self::default();
        let (mut error_time, mut error) = (0.0, None);
        for (name, value) in text.lines().filter_map(|line| line.split_once('\t')) {
            let count = || value.parse().unwrap_or_default();
            match name {
                "target" => value.clone_into(&mut state.target),
                "pid" => state.pid = value.parse().unwrap_or_default(),
                "since" => state.since = value.parse().ok(),
                "answered" => state.answered = value.parse().ok(),
                "received" => state.report.received = count(),
                "undecoded" => state.report.undecoded = count(),
                "calls" => state.report.calls = count(),
                "failed" => state.report.failed = count(),
                "overflows" => state.report.overflows = count(),
                "error_time" => error_time = value.parse().unwrap_or_default(),
                "error" => error = Some(value.to_owned()),
                _ => {}
            }
        }
        state.last_error = error.map(|error| (error_time, error));
        state
    }

    /// What is wrong at `now`, and what to do.
    pub(super) fn problem(&self, now: f64) -> Option<&'static str> {
        if self.since.is_none() {
            Some("it is not attached yet: is another agent? See the log")
        } else if self.answered.is_none_or(|answered| now - answered > ANSWER_MAX) {
            Some("the server does not answer: look at `farwatch status` on the host")
        } else {
            None
        }
    }

    /// For people.
    pub(super) fn show(&self, now: f64) -> String {
        let Report { received, undecoded, calls, failed, overflows } = self.report;
        let mut text = format!("{}\n", self.target);
        let mut row = |name: &str, value: String| {
            let _written = writeln!(text, "  {name:12}{value}");
        };
        let attached = match self.since {
            Some(since) => format!("for {}", duration(now - since)),
            None => "not yet".to_owned(),
        };
        row("attached", format!("{attached}, by process {}", self.pid));
        if let Some(answered) = self.answered {
            row("server", format!("answered {} ago", duration(now - answered)));
        }
        row("received", format!("{received} notifications, {undecoded} not understood"));
        row("replayed", format!("{calls} calls, {failed} failed"));
        if overflows > 0 {
            row(
                "dropped",
                format!("{overflows} times events were dropped on the host, and resynced"),
            );
        }
        if let Some((time, error)) = &self.last_error {
            row("last error", format!("{} ago: {error}", duration(now - time)));
        }
        if let Some(problem) = self.problem(now) {
            row("PROBLEM", problem.to_owned());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            target: "/mnt/src".to_owned(),
            pid: 77,
            since: Some(1000.0),
            answered: Some(8979.5),
            report: Report { received: 1234, undecoded: 0, calls: 1230, failed: 2, overflows: 0 },
            last_error: Some((8800.0, "Remove(…): ENOENT".to_owned())),
        }
    }

    #[test]
    fn state_is_read_back_as_it_was_written() {
        for state in [state(), State::default()] {
            assert_eq!(State::decode(&state.encode()), state);
        }
    }

    #[test]
    fn name_with_a_newline_does_not_become_a_line() {
        let target = "a\npid\t1".to_owned();
        let state = State { target, pid: 7, ..State::default() };
        assert_eq!(State::decode(&state.encode()).pid, 7);
    }

    #[test]
    fn state_is_shown_with_how_long_ago_things_were() {
        let shown = "\
/mnt/src
  attached    for 2 h 13 min, by process 77
  server      answered 0 s ago
  received    1234 notifications, 0 not understood
  replayed    1230 calls, 2 failed
  last error  3 min 0 s ago: Remove(…): ENOENT
";
        assert_eq!(state().show(8980.0), shown);
    }

    #[test]
    fn server_that_does_not_answer_is_a_problem_and_so_is_no_link() {
        assert_eq!(state().problem(8980.0), None);
        assert!(
            state().problem(8996.0).is_some_and(|what| what.starts_with("the server does not"))
        );
        let unattached = State { since: None, ..state() };
        assert!(unattached.show(8980.0).contains("  PROBLEM     it is not attached yet"));
    }
}
