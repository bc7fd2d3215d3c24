// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Models of the outbox: a READ of an agent, the watch thread, and the end of a session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farwatch_proto::wire::Notification;
use shuttle::sync::Mutex;
use shuttle::thread;

use super::{Outbox, Pulled, Sink, Source, reads};

/// A share without an engine.
#[derive(Default)]
struct Share {
    outbox: Outbox,
    backlog: Mutex<VecDeque<Looked>>,
}

/// Whether an event's object has been looked up.
#[derive(PartialEq, Eq)]
enum Looked {
    Up,
    NotYet,
}

impl Source for Share {
    fn pull(&self, _sink: Sink) -> Pulled {
        let mut backlog = self.backlog.lock().expect("nothing panics");
        match backlog.front() {
            None => Pulled::Nothing,
            Some(Looked::NotYet) => Pulled::LookPending,
            Some(Looked::Up) => {
                backlog.pop_front();
                Pulled::Notification(Notification::OVERFLOW)
            }
        }
    }

    fn asked(&self, _link: u64) {}
}

/// A deadline that does not come.
fn far() -> Option<Instant> {
    Instant::now().checked_add(Duration::from_secs(3600))
}

/// Two events are handed in and looked up while an agent reads: it gets both, in one READ or in two.
///
/// # Panics
/// When it does not.
pub fn read_misses_no_notification() {
    let share = Arc::new(Share::default());
    let watch = {
        let share = Arc::clone(&share);
        thread::spawn(move || {
            for _ in 0..2 {
                share.backlog.lock().expect("nothing panics").push_back(Looked::NotYet);
                share.outbox.wake_waiters();
                for event in &mut *share.backlog.lock().expect("nothing panics") {
                    *event = Looked::Up;
                }
                share.outbox.wake();
            }
        })
    };
    let len = Notification::OVERFLOW.encode(&mut [0; Notification::LEN_MAX]).len();
    let mut read = 0;
    while read < 2 * len {
        read += reads::read(&*share, &share.outbox, 1, 16 << 10, far()).len();
    }
    assert_eq!(read, 2 * len);
    watch.join().expect("nothing panics");
}

/// Whoever waits is let go when a ring stops, also if news come at the same time.
///
/// # Panics
/// When it waits for ever, which shuttle notices.
pub fn hurry_ends_a_wait() {
    let share = Arc::new(Share::default());
    let mut waiter = share.outbox.waiter(far());
    let others: Vec<_> = [true, false]
        .into_iter()
        .map(|hurries| {
            let share = Arc::clone(&share);
            thread::spawn(move || if hurries { share.outbox.hurry() } else { share.outbox.wake() })
        })
        .collect();
    while waiter.wait() {}
    for other in others {
        other.join().expect("nothing panics");
    }
}
