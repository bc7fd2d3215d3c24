// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-agent status`: what the agents on this machine are attached to, and how they are.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;

use super::answer::ask_all;
use super::state::State;

/// Exit codes.
const WRONG: u8 = 3;
const NOTHING: u8 = 4;

/// Prints it.
///
/// # Errors
/// Those of standard output.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let (states, closed) = ask_all();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (text, code) = shown(&states, closed, now.as_secs_f64());
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("standard output")?;
    Ok(ExitCode::from(code))
}

fn shown(states: &[State], closed: usize, now: f64) -> (String, u8) {
    let code = if states.is_empty() {
        NOTHING
    } else if states.iter().any(|state| state.problem(now).is_some()) {
        WRONG
    } else {
        0
    };
    let mut parts: Vec<String> = states.iter().map(|state| state.show(now)).collect();
    if closed > 0 {
        parts.push(format!("{closed} that you may not look at: run as root\n"));
    } else if states.is_empty() {
        parts.push("no farwatch-agent runs\n".to_owned());
    }
    (parts.join("\n"), code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_distinguishes_problems_from_none() {
        let fine = State { since: Some(1.0), answered: Some(9.0), ..State::default() };
        assert_eq!(shown(&[], 0, 10.0), ("no farwatch-agent runs\n".to_owned(), NOTHING));
        assert_eq!(shown(&[], 1, 10.0).0, "1 that you may not look at: run as root\n");
        assert_eq!(shown(std::slice::from_ref(&fine), 0, 10.0).1, 0);
        assert_eq!(shown(&[fine, State::default()], 0, 10.0).1, WRONG);
    }
}
