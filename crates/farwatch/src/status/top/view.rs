// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`View`]: what the screen shows, made of one sample after another. It asks nobody and draws nothing.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use crate::monitor::protocol::{Busiest, Report};
use crate::status::judge::{self, Finding};

/// Samples of which rates are kept.
pub(super) const HISTORY_MAX: usize = 120;

/// What was asked at one time.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// In seconds since 1970.
    pub(super) now: f64,
    pub(super) reports: Vec<(PathBuf, Report)>,
    /// How many processes do not answer.
    pub(super) silent: usize,
    /// How many are of other users.
    pub(super) others: usize,
    /// Of the share that was chosen.
    pub(super) busiest: Busiest,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) sample: Sample,
    /// The socket of the share that is chosen; the first if it has gone.
    selected: Option<PathBuf>,
    history: BTreeMap<PathBuf, History>,
}

/// What has become of a share.
#[derive(Debug, Default)]
pub(super) struct History {
    last: Option<(f64, u64, u64)>,
    /// Reports and events a second, from one sample to the next.
    pub(super) reported: VecDeque<u64>,
    pub(super) sent: VecDeque<u64>,
}

impl View {
    /// Takes in the next sample.
    pub(super) fn take(&mut self, sample: Sample) {
        self.history.retain(|socket, _| sample.reports.iter().any(|(other, _)| other == socket));
        for (socket, report) in &sample.reports {
            self.history.entry(socket.clone()).or_default().take(sample.now, report);
        }
        self.sample = sample;
    }

    /// Chooses the share so many rows further down, if there is one.
    pub(super) fn select(&mut self, by: isize) {
        let reports = &self.sample.reports;
        let nth = self.selected_of(reports).unwrap_or_default();
        let last = reports.len().saturating_sub(1);
        let nth = nth.saturating_add_signed(by).min(last);
        self.selected = reports.get(nth).map(|(socket, _)| socket.clone());
    }

    /// Which of these is chosen.
    pub(super) fn selected_of(&self, reports: &[(PathBuf, Report)]) -> Option<usize> {
        let chosen = self.selected.as_ref();
        let nth = reports.iter().position(|(socket, _)| Some(socket) == chosen);
        nth.or_else(|| (!reports.is_empty()).then_some(0))
    }

    /// The share that is chosen.
    pub(super) fn selected(&self) -> Option<(&Report, &History, Vec<Finding>)> {
        let (socket, report) = self.sample.reports.get(self.selected_of(&self.sample.reports)?)?;
        Some((report, self.history.get(socket)?, judge::findings(report)))
    }
}

impl History {
    fn take(&mut self, now: f64, report: &Report) {
        let Some(share) = &report.share else { return };
        let (observed, sent) = (share.events.observed, share.events.sent);
        if let Some((at, observed_then, sent_then)) = self.last {
            push(&mut self.reported, observed.saturating_sub(observed_then), now - at);
            push(&mut self.sent, sent.saturating_sub(sent_then), now - at);
        }
        self.last = Some((now, observed, sent));
    }
}

fn push(rates: &mut VecDeque<u64>, more: u64, secs: f64) {
    if rates.len() >= HISTORY_MAX {
        rates.pop_front();
    }
    let millis = std::time::Duration::try_from_secs_f64(secs).unwrap_or_default().as_millis();
    let millis = u64::try_from(millis).unwrap_or(u64::MAX).max(1);
    // A change a minute is to be seen, too.
    rates.push_back(more.saturating_mul(1000).div_ceil(millis));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::tests::report;

    /// Shares of which so many events were sent.
    fn sample(now: f64, shares: &[(&str, u64)]) -> Sample {
        let reports = shares.iter().map(|(socket, sent)| {
            let mut report = report();
            report.share.as_mut().unwrap().events.sent = *sent;
            (PathBuf::from(socket), report)
        });
        Sample { now, reports: reports.collect(), ..Sample::default() }
    }

    fn chosen(view: &View) -> Option<usize> {
        view.selected_of(&view.sample.reports)
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let mut view = View::default();
        for (now, sent) in [(1.0, 10), (2.0, 15), (4.0, 16), (5.0, 16)] {
            view.take(sample(now, &[("a", sent)]));
        }
        let (_, history, _) = view.selected().unwrap();
        assert_eq!(history.sent, [5, 1, 0]);
    }

    #[test]
    fn old_rates_make_room_for_new_ones() {
        let mut rates = VecDeque::new();
        for nth in 0..=HISTORY_MAX {
            push(&mut rates, u64::try_from(nth).unwrap(), 1.0);
        }
        assert_eq!((rates.len(), rates[0]), (HISTORY_MAX, 1));
    }

    #[test]
    fn choice_stays_with_its_share_and_falls_back_to_the_first() {
        let mut view = View::default();
        assert_eq!(chosen(&view), None);
        view.take(sample(1.0, &[("a", 0), ("c", 0)]));
        assert_eq!(chosen(&view), Some(0));
        view.select(1);
        view.take(sample(2.0, &[("a", 0), ("b", 0), ("c", 0)]));
        assert_eq!(chosen(&view), Some(2), "c is where it was");
        view.select(5);
        assert_eq!(chosen(&view), Some(2));
        view.select(-1);
        assert_eq!(chosen(&view), Some(1));
        view.take(sample(3.0, &[("a", 0)]));
        assert_eq!(chosen(&view), Some(0));
    }
}
