// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Table`]: what was measured at each site, printed.
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::time::Duration;

use super::stats::{Samples, micros, ratio};

/// Rows in the order in which they were begun.
#[derive(Debug)]
pub(super) struct Table {
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    /// Of each turn, or sample, one duration for each column.
    columns: [Vec<Duration>; 2],
}

/// What a duration is divided by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Against {
    /// The first column of the same turn.
    First,
    /// The same column of a row, both medians.
    Row(&'static str),
}

impl Table {
    pub(super) fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Adds samples of one column.
    pub(super) fn add(&mut self, name: &'static str, samples: Vec<Duration>) {
        self.row(name).columns[0].extend(samples);
    }

    /// Adds a turn of two columns.
    pub(super) fn add_pair(&mut self, name: &'static str, pair: [Duration; 2]) {
        let row = self.row(name);
        for (column, duration) in row.columns.iter_mut().zip(pair) {
            column.push(duration);
        }
    }

    fn row(&mut self, name: &'static str) -> &mut Row {
        let nth = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name, columns: Default::default() });
            self.rows.len() - 1
        });
        &mut self.rows[nth]
    }

    fn column(&self, name: &str, nth: usize) -> Samples {
        let row = self.rows.iter().find(|row| row.name == name);
        Samples::new(row.map(|row| row.columns[nth].clone()).unwrap_or_default())
    }

    /// Prints percentiles of the second column beside the median of the first, and how many times those of `baseline` they are.
    pub(super) fn print_latencies(&self, baseline: &str) {
        println!("{}", self.title);
        println!(
            "  {:20} {:>11} {:>11} {:>11}   times {baseline}: p50, p99",
            "", "call p50", "event p50", "p99"
        );
        let baseline = self.column(baseline, 1);
        for row in &self.rows {
            let call = micros(self.column(row.name, 0).median());
            let samples = self.column(row.name, 1);
            let [p50, p99] = [50, 99].map(|percent| samples.percentile(percent));
            let [by50, by99] = [(p50, 50), (p99, 99)]
                .map(|(own, percent)| ratio(own, baseline.percentile(percent)));
            let [p50, p99] = [p50, p99].map(micros);
            println!("  {:20} {call} {p50} {p99}   {by50:5.2} {by99:5.2}", row.name);
        }
        println!();
    }

    /// Prints the median and the range of one column, and how many times that of `baseline` the median is.
    pub(super) fn print_totals(&self, baseline: &str) {
        println!("{}", self.title);
        let baseline = self.column(baseline, 0);
        for row in &self.rows {
            let samples = self.column(row.name, 0);
            println!(
                "  {:20} {:9.1?} ({:.1?} to {:.1?})   {:.2} times",
                row.name,
                samples.median(),
                samples.percentile(0),
                samples.percentile(100),
                ratio(samples.median(), baseline.median()),
            );
        }
        println!();
    }

    /// Prints the medians of two columns, and how many times something else they are.
    pub(super) fn print_pairs(&self, titles: [&str; 2], against: Against) {
        println!("{}", self.title);
        println!("  {:20} {:>10} {:>10}", "", titles[0], titles[1]);
        for row in &self.rows {
            let [first, second] = [0, 1].map(|nth| self.column(row.name, nth).median());
            print!("  {:20} {first:10.1?} {second:10.1?}   ", row.name);
            match against {
                Against::First => println!("{}", row.own_ratios()),
                Against::Row(baseline) => {
                    let [one, two] = [(first, 0), (second, 1)]
                        .map(|(own, nth)| ratio(own, self.column(baseline, nth).median()));
                    println!("{one:.2} and {two:.2} times those of {baseline}");
                }
            }
        }
        println!();
    }
}

impl Row {
    /// How many times its first duration the second is: in the middle, at least and at most.
    fn own_ratios(&self) -> String {
        let [first, second] = &self.columns;
        let mut ratios: Vec<f64> =
            first.iter().zip(second).map(|(one, two)| ratio(*two, *one)).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let [Some(min), Some(max)] = [ratios.first(), ratios.last()] else { return String::new() };
        let median = ratios.get((ratios.len() - 1) / 2).unwrap_or(min);
        format!("{median:.2} times ({min:.2} to {max:.2})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_of_a_row_is_the_middle_of_its_turns() {
        let mut table = Table::new(String::new());
        for (created, read) in [(2, 8), (4, 4), (3, 6)] {
            table.add_pair("row", [created, read].map(Duration::from_secs));
        }
        assert_eq!(table.row("row").own_ratios(), "2.00 times (1.00 to 4.00)");
        assert_eq!(table.column("row", 1).median(), Duration::from_secs(6));
    }
}
