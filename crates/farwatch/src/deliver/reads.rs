// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sink of an agent that reads the control node, which is what agents of stock kernels do.
//! `fs::control` calls this for each READ, on a thread that may wait.

use std::time::Instant;

use farwatch_proto::wire::Notification;

use super::{Outbox, Pulled, Sink, Source};

/// Whole notifications for the agent with number `link`, at most `len_max` bytes. Waits for the first
/// until `deadline`; empty when none has come, or the agent is gone.
///
/// While the watch thread looks something up, a READ that has notifications already waits too, so that
/// such an event does not end the batch. `deadline` is the bound of that.
pub(crate) fn read(
    source: &impl Source,
    outbox: &Outbox,
    link: u64,
    len_max: usize,
    deadline: Option<Instant>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut waiter = outbox.waiter(deadline);
    source.asked(link);
    while bytes.len() + Notification::LEN_MAX <= len_max {
        match source.pull(Sink::Reads(link)) {
            Pulled::Notification(notification) => {
                bytes.extend(notification.encode(&mut [0; Notification::LEN_MAX]).iter());
                continue;
            }
            Pulled::NotReceiving => break,
            Pulled::Nothing if !bytes.is_empty() => break,
            Pulled::Nothing | Pulled::LookPending => {}
        }
        if !waiter.wait() {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;

    /// Gives what it was made with, then nothing.
    struct Script<'a> {
        outbox: &'a Outbox,
        pulls: RefCell<VecDeque<Pulled>>,
        asked: Cell<u64>,
    }

    impl Source for Script<'_> {
        fn pull(&self, sink: Sink) -> Pulled {
            assert_eq!(sink, Sink::Reads(7));
            let pulled = self.pulls.borrow_mut().pop_front().unwrap_or(Pulled::Nothing);
            if pulled == Pulled::LookPending {
                // The watch thread has looked.
                self.outbox.wake();
            }
            pulled
        }

        fn asked(&self, link: u64) {
            self.asked.set(link);
        }
    }

    fn notification() -> Pulled {
        Pulled::Notification(Notification::OVERFLOW)
    }

    /// How many notifications a READ gets, and how many pulls are left.
    fn read_of(pulls: Vec<Pulled>, len_max: usize) -> (usize, usize) {
        let outbox = Outbox::default();
        let script =
            Script { outbox: &outbox, pulls: RefCell::new(pulls.into()), asked: Cell::new(0) };
        let deadline = Instant::now().checked_add(Duration::from_secs(60));
        let bytes = read(&script, &outbox, 7, len_max, deadline);
        assert_eq!(script.asked.get(), 7);
        let len = Notification::OVERFLOW.encode(&mut [0; Notification::LEN_MAX]).len();
        (bytes.len() / len, script.pulls.into_inner().len())
    }

    const LEN: usize = 64 << 10;

    #[test]
    fn pending_look_does_not_end_a_batch() {
        let pulls = vec![notification(), Pulled::LookPending, notification(), Pulled::Nothing];
        assert_eq!(read_of(pulls, LEN), (2, 0));
    }

    #[test]
    fn read_ends_when_the_agent_stops_receiving() {
        let pulls = vec![notification(), Pulled::NotReceiving, notification()];
        assert_eq!(read_of(pulls, LEN), (1, 1));
    }

    #[test]
    fn read_takes_no_more_than_fits() {
        let pulls = vec![notification(), notification(), notification()];
        assert_eq!(read_of(pulls, Notification::LEN_MAX), (1, 2));
    }
}
