// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Report`]: the tables of one run, printed as they come and kept in a file. [`Comparison`]: one table, of the same
//! workloads at several sites.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use farwatch_testkit::bench::{Samples, ratio};

use super::share::{Costs, Share, Site};

/// Everything that was measured, in Markdown.
#[derive(Debug)]
pub(super) struct Report {
    path: PathBuf,
    text: String,
}

impl Report {
    /// An empty report, to be kept at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, text: String::new() }
    }

    /// Prints a table and keeps it: what is there so far is of use also if the run does not end.
    pub(super) fn table(
        &mut self,
        title: &str,
        head: &[&str],
        rows: &[Vec<String>],
    ) -> anyhow::Result<()> {
        let mut text = format!("### {title}\n\n");
        let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
        text.push_str(&line(head));
        text.push_str(&line(&vec!["---"; head.len()]));
        for row in rows {
            text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        text.push('\n');
        print!("{text}");
        self.text.push_str(&text);
        fs::write(&self.path, &self.text).with_context(|| self.path.display().to_string())
    }

    /// Where it is kept.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// One workload at one site, round for round.
#[derive(Debug, Default)]
struct Cell {
    times: Vec<Duration>,
    requests: Vec<u64>,
    sleeps: Vec<u64>,
    /// Those of the last round.
    last: Costs,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Comparison {
    title: String,
    sites: Vec<Site>,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Comparison {
    /// Without measurements yet. Ratios are taken to the sites after the first that is [`Site::Ours`], and to local.
    pub(super) fn new(title: impl Into<String>, sites: &[Site]) -> Self {
        Self { title: title.into(), sites: sites.to_vec(), rows: Vec::new() }
    }

    /// Runs `work` at a share and adds what it took, as it says itself, and what that cost.
    pub(super) fn measure(
        &mut self,
        row: &str,
        share: &Share,
        work: impl FnOnce() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<()> {
        let before = share.costs()?;
        let time = work().with_context(|| format!("{row}, {}", share.site().name()))?;
        let costs = share.costs()? - &before;
        self.add_with(row, share.site(), time, costs);
        Ok(())
    }

    /// Adds what was measured beside something else, of which the costs are known.
    pub(super) fn add(&mut self, row: &str, site: Site, time: Duration) {
        self.add_with(row, site, time, Costs::default());
    }

    fn add_with(&mut self, row: &str, site: Site, time: Duration, costs: Costs) {
        let nth = self.rows.iter().position(|(name, _)| name == row).unwrap_or_else(|| {
            let cells = self.sites.iter().map(|_| Cell::default()).collect();
            self.rows.push((row.to_owned(), cells));
            self.rows.len() - 1
        });
        let column = self.sites.iter().position(|other| *other == site).expect("a site of these");
        let cell = &mut self.rows[nth].1[column];
        cell.times.push(time);
        cell.requests.push(costs.requests());
        cell.sleeps.push(costs.sleeps);
        cell.last = costs;
    }

    /// Medians, ratios of ours to the others, and the counts beside them.
    pub(super) fn report(self, report: &mut Report) -> anyhow::Result<()> {
        let others: Vec<Site> =
            self.sites.iter().copied().filter(|site| *site != Site::Ours).collect();
        let mounted: Vec<Site> =
            self.sites.iter().copied().filter(|site| *site != Site::Local).collect();
        let mut head = vec!["".to_owned()];
        head.extend(self.sites.iter().map(|site| site.name().to_owned()));
        head.extend(others.iter().map(|site| format!("ours / {}", site.name())));
        head.extend(mounted.iter().map(|site| format!("requests, {}", site.name())));
        head.extend(mounted.iter().map(|site| format!("sleeps, {}", site.name())));
        let rows: Vec<_> = self.rows.iter().map(|row| self.row(row, &others, &mounted)).collect();
        let head: Vec<_> = head.iter().map(String::as_str).collect();
        report.table(&self.title, &head, &rows)?;
        self.print_kinds();
        Ok(())
    }

    fn row(
        &self,
        (name, cells): &(String, Vec<Cell>),
        others: &[Site],
        mounted: &[Site],
    ) -> Vec<String> {
        let at = |site: &Site| {
            let column = self.sites.iter().position(|other| other == site).expect("one of these");
            &cells[column]
        };
        let time = |site: &Site| Samples::new(at(site).times.clone()).median();
        let mut row = vec![name.clone()];
        row.extend(self.sites.iter().map(|site| human(time(site))));
        row.extend(
            others.iter().map(|other| format!("{:.2}", ratio(time(&Site::Ours), time(other)))),
        );
        row.extend(mounted.iter().map(|site| median(&at(site).requests).to_string()));
        row.extend(mounted.iter().map(|site| median(&at(site).sleeps).to_string()));
        row
    }

    /// Which requests they were, for whoever works on it; not a part of the report.
    fn print_kinds(&self) {
        for (name, cells) in &self.rows {
            for (site, cell) in self.sites.iter().zip(cells) {
                let mut text = String::new();
                for (kind, count) in &cell.last.by_kind {
                    let _ = write!(text, " {kind}={count}");
                }
                if !text.is_empty() {
                    println!("    {name}, {}:{text}; cpu {:.2?}", site.name(), cell.last.cpu);
                }
            }
        }
        println!();
    }
}

/// How long `work` takes.
pub(super) fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// With three digits that matter.
pub(super) fn human(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        0.0..1e3 => format!("{micros:.1} µs"),
        1e3..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

fn median(counts: &[u64]) -> u64 {
    let mut counts = counts.to_vec();
    counts.sort_unstable();
    counts.get(counts.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}
