// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Soak: rounds of faults in one mount for hours, and whether anything grows. `cargo xtask soak` calls it.
//!
//! Between two rounds, when nothing is on its way and the directories of the last round are gone, the processes are as
//! they were after the first. What they hold then is sampled, and `trend` decides whether it grows.

mod sample;
mod trend;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;

use super::Kind;
use super::survivable::Stand;
use crate::converge::Failure;
pub(super) use sample::Sample;
pub use trend::grows;

/// The faults of one mount that delivers its events itself.
const KINDS: [Kind; 4] = [Kind::StopDriver, Kind::StopDevice, Kind::Descriptors, Kind::Submount];

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// For how long.
    pub time: Duration,
    /// How often a sample is taken, at least.
    pub every: Duration,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Soaked {
    samples: Vec<Sample>,
    /// Rounds that were run.
    pub rounds: u64,
    /// Rounds in which something was lost.
    pub wrong: u64,
    /// Rounds in which watches on objects alone were wrong.
    pub watches: u64,
}

impl Soaked {
    /// The quantities that grow.
    #[must_use]
    pub fn growing(&self) -> Vec<&'static str> {
        let grows = |nth: &usize| {
            let series: Vec<_> = self.samples.iter().map(|s| (s.at, s.values[*nth])).collect();
            grows(&series, Sample::NOISE[*nth])
        };
        (0..Sample::NAMES.len()).filter(grows).map(|nth| Sample::NAMES[nth]).collect()
    }

    /// Writes `soak.csv`, with a line for each sample, and `soak.svg` into a directory.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        let mut csv = format!("s,{}\n", Sample::NAMES.join(","));
        for Sample { at, values } in &self.samples {
            let values: Vec<_> = values.iter().map(f64::to_string).collect();
            writeln!(csv, "{at:.1},{}", values.join(","))?;
        }
        fs::write(dir.join("soak.csv"), csv)?;
        fs::write(dir.join("soak.svg"), self.svg()?).context("soak.svg")
    }

    /// A strip for each quantity, from 0 to its greatest value.
    fn svg(&self) -> Result<String> {
        const WIDTH: f64 = 800.0;
        const HEIGHT: f64 = 80.0;
        const STRIP: f64 = 110.0;
        let height = STRIP * f64::from(u8::try_from(Sample::NAMES.len())?);
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' \
             font-family='sans-serif' font-size='12'>\n"
        );
        let end = self.samples.last().map_or(1.0, |sample| sample.at.max(1.0));
        for (nth, name) in Sample::NAMES.iter().enumerate() {
            let values = self.samples.iter().map(|sample| sample.values[nth]);
            let max = values.clone().fold(0.0, f64::max);
            let base = STRIP * f64::from(u8::try_from(nth)?) + HEIGHT + 20.0;
            let points: Vec<_> = self
                .samples
                .iter()
                .zip(values)
                .map(|(sample, value)| {
                    let up = if max > 0.0 { value / max * HEIGHT } else { 0.0 };
                    format!("{:.1},{:.1}", sample.at / end * WIDTH, base - up)
                })
                .collect();
            writeln!(svg, "<text x='4' y='{}'>{name}, at most {max}</text>", base - HEIGHT - 6.0)?;
            writeln!(svg, "<polyline fill='none' stroke='black' points='{}'/>", points.join(" "))?;
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    /// First, median and last value of each quantity, as a table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table =
            "| quantity | first | median | last | grows |\n|---|---|---|---|---|\n".to_owned();
        let growing = self.growing();
        for (nth, name) in Sample::NAMES.iter().enumerate() {
            let values: Vec<f64> = self.samples.iter().map(|sample| sample.values[nth]).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let value =
                |of: Option<&f64>| of.map_or_else(String::new, |value| format!("{value:.0}"));
            let [first, median, last] =
                [values.first(), sorted.get(sorted.len() / 2), values.last()].map(value);
            let grows = if growing.contains(name) { "yes" } else { "no" };
            table.push_str(&format!("| {name} | {first} | {median} | {last} | {grows} |\n"));
        }
        table
    }
}

/// Runs it. `progress` is called with each round that failed.
///
/// # Errors
/// When the mount does not go on.
pub fn run(soak: &Soak, mut progress: impl FnMut(&Failure)) -> Result<Soaked> {
    let begin = Instant::now();
    let mut soaked = Soaked::default();
    let mut rng = Rng::with_seed(soak.seed);
    let mut stand = Stand::new(KINDS[0])?;
    let mut last = begin;
    while begin.elapsed() < soak.time {
        let (kind, seed) = (KINDS[rng.usize(..KINDS.len())], soak.seed + soaked.rounds);
        stand.set_kind(kind);
        let name = format!("round{}", soaked.rounds);
        let judged = stand.round(&name, seed).with_context(|| stand.log())?;
        soaked.rounds += 1;
        soaked.watches += u64::from(judged.watches);
        if let Some(text) = judged.text {
            soaked.wrong += 1;
            progress(&Failure { seed, text: format!("{} {text}", kind.name()) });
        }
        if last.elapsed() >= soak.every {
            last = Instant::now();
            soaked.samples.push(stand.sample(begin)?);
        }
    }
    Ok(soaked)
}
