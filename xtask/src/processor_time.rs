// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The time that processes spent on a processor, for themselves and in the kernel (`proc_pid_stat(5)`).

use std::fs;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::param::clock_ticks_per_second;

/// Of a process.
pub(crate) fn of(pid: u32) -> Result<Duration> {
    // utime and stime
    sum(&format!("/proc/{pid}/stat"), 11..13)
}

/// Of the children of this process that have ended, and were waited for.
pub(crate) fn of_ended_children() -> Result<Duration> {
    // cutime and cstime
    sum("/proc/self/stat", 13..15)
}

/// The sum of these fields, counted from field 3.
fn sum(path: &str, fields: Range<usize>) -> Result<Duration> {
    let stat = fs::read_to_string(path)?;
    // The name before it may have spaces and parentheses. What follows is field 3.
    let all: Vec<_> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks = all.get(fields).context("times in clock ticks")?.iter();
    let ticks: u64 = ticks.map(|field| field.parse::<u64>()).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / clock_ticks_per_second()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn time_of_this_process_and_of_its_children_is_counted() {
        while of_ended_children().unwrap().is_zero() {
            assert!(Command::new("true").status().unwrap().success());
        }
        while of(std::process::id()).unwrap().is_zero() {
            std::hint::black_box(0);
        }
    }
}
