// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch top`: a screen that is drawn again every second. What is on it is `view`'s, which is asked of nobody; here
//! the processes are asked and the keys are read.

mod screen;
mod view;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use farwatch_guest::seconds;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::view::{Sample, View};
use crate::monitor::client::{self, Connection, Found};
use crate::signals;

/// How often the processes are asked.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a signal may wait for a key.
const KEY_WAIT_MAX: Duration = Duration::from_millis(250);
/// Paths that are asked for; a screen has room for fewer.
const BUSIEST_LEN: usize = 40;

/// Runs until a key or a signal ends it.
///
/// # Errors
/// When there is no terminal.
pub(crate) fn run() -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        bail!("standard output is not a terminal: `farwatch status` prints the same once");
    }
    let ended = Arc::new(AtomicBool::new(false));
    let signalled = Arc::clone(&ended);
    signals::on_end(move || signalled.store(true, Ordering::Relaxed))
        .context("signals cannot be waited for")?;
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let result = show(&mut terminal, &ended).context("the terminal");
    ratatui::try_restore().context("the terminal")?;
    result
}

fn show(terminal: &mut DefaultTerminal, ended: &AtomicBool) -> io::Result<()> {
    let mut view = View::default();
    let mut asked: Option<Instant> = None;
    while !ended.load(Ordering::Relaxed) {
        if asked.is_none_or(|asked| asked.elapsed() >= REFRESH) {
            asked = Some(Instant::now());
            view.take(sample(&view));
        }
        terminal.draw(|frame| screen::draw(frame, &view))?;
        if event::poll(KEY_WAIT_MAX)? {
            match action(&event::read()?) {
                Action::Move(by) => {
                    view.select(by);
                    // The busiest paths are of the share that is chosen.
                    asked = None;
                }
                Action::End => return Ok(()),
                Action::None => {}
            }
        }
    }
    Ok(())
}

/// What every process says, and of the chosen share the busiest paths.
fn sample(view: &View) -> Sample {
    let Found { reports, silent, others } = client::find();
    let nth = view.selected_of(&reports);
    let socket = nth.and_then(|nth| reports.get(nth)).map(|(socket, _)| socket);
    let asked = socket.map(|socket| Connection::open(socket)?.busiest(BUSIEST_LEN));
    // A process that has gone meanwhile is missing from the next sample.
    let busiest = asked.and_then(Result::ok).unwrap_or_default();
    let now = seconds(SystemTime::now());
    Sample { now, reports, silent: silent.len(), others, busiest }
}

/// What a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Move(isize),
    End,
    None,
}

fn action(event: &Event) -> Action {
    let Some(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event.as_key_event()
    else {
        return Action::None;
    };
    if code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
        return Action::End;
    }
    if matches!(code, KeyCode::Char('q') | KeyCode::Esc) {
        Action::End
    } else if matches!(code, KeyCode::Up | KeyCode::Char('k')) {
        Action::Move(-1)
    } else if matches!(code, KeyCode::Down | KeyCode::Char('j')) {
        Action::Move(1)
    } else {
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Event {
        Event::Key(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn keys_that_end_and_move_do_so_and_others_nothing() {
        let none = KeyModifiers::NONE;
        assert_eq!(action(&key(KeyCode::Char('q'), none)), Action::End);
        assert_eq!(action(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::End);
        assert_eq!(action(&key(KeyCode::Char('c'), none)), Action::None);
        assert_eq!(action(&key(KeyCode::Down, none)), Action::Move(1));
        assert_eq!(action(&key(KeyCode::Char('k'), none)), Action::Move(-1));
        assert_eq!(action(&Event::Resize(80, 24)), Action::None);
    }
}
