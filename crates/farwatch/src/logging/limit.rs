// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Limit`]: no place in the code writes more than one warning or error a second to the log, after a few at once.
//!
//! Much of what is logged, by this program and by libraries, a guest can cause as often as it likes. What is left out is
//! counted, and the number is logged with the next line.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that one place may write at once.
const BURST: u32 = 5;
/// How long it takes until it may write one more.
const REFILL: Duration = Duration::from_secs(1);
/// Places that are told apart. Those beyond share what one may write.
const PLACES_MAX: usize = 256;
/// The name under which the number of lines left out is logged, which is not limited.
const TARGET: &str = "farwatch::logging::limit";

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<Limiter>);

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::WARN || event.metadata().target() == TARGET {
            return true;
        }
        let decision = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .decide(place(event), Instant::now());
        if let Decision::Pass { left_out: lines @ 1.. } = decision {
            tracing::warn!(target: TARGET, lines, "suppressed lines like those before or the next");
        }
        matches!(decision, Decision::Pass { .. })
    }
}

/// Where in the code an event comes from. Those of the `log` crate all come from one, and say where they are from.
fn place(event: &Event<'_>) -> u64 {
    let normalized = event.normalized_metadata();
    let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
    let mut hasher = DefaultHasher::new();
    (metadata.target(), metadata.level().as_str(), metadata.file(), metadata.line())
        .hash(&mut hasher);
    hasher.finish()
}

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    /// It is written; and so many were not since that was last said.
    Pass { left_out: u64 },
    /// It is left out.
    LeaveOut,
}

/// Decides, by what the clock says.
#[derive(Debug, Default)]
struct Limiter {
    places: BTreeMap<u64, Bucket>,
    left_out: u64,
}

/// What a place may still write.
#[derive(Debug)]
struct Bucket {
    lines: u32,
    refilled: Instant,
}

impl Limiter {
    fn decide(&mut self, place: u64, now: Instant) -> Decision {
        let is_known = self.places.contains_key(&place);
        if !is_known && self.places.len() >= PLACES_MAX {
            // Full again is as good as unknown.
            self.places.retain(|_, bucket| {
                bucket.refill(now);
                bucket.lines < BURST
            });
        }
        let place = if is_known || self.places.len() < PLACES_MAX { place } else { u64::MAX };
        let bucket = self.places.entry(place).or_insert(Bucket { lines: BURST, refilled: now });
        bucket.refill(now);
        match bucket.lines.checked_sub(1) {
            Some(left) => {
                bucket.lines = left;
                Decision::Pass { left_out: std::mem::take(&mut self.left_out) }
            }
            None => {
                self.left_out += 1;
                Decision::LeaveOut
            }
        }
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let lines = u32::try_from(passed).unwrap_or(u32::MAX);
        if lines > 0 {
            self.lines = self.lines.saturating_add(lines).min(BURST);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PASS: Decision = Decision::Pass { left_out: 0 };

    #[test]
    fn a_place_writes_a_few_lines_at_once_and_then_one_a_second_with_the_number_left_out() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(limiter.decide(1, start), PASS);
        }
        for second in 1..10 {
            for _ in 0..1000 {
                assert_eq!(limiter.decide(1, start + REFILL * (second - 1)), Decision::LeaveOut);
            }
            let next = limiter.decide(1, start + REFILL * second);
            assert_eq!(next, Decision::Pass { left_out: 1000 });
        }
        assert_eq!(limiter.decide(2, start), PASS, "another place");
        for _ in 0..BURST {
            assert_eq!(limiter.decide(1, start + REFILL * 1000), PASS);
        }
    }

    #[test]
    fn places_are_forgotten_when_they_may_write_again_and_too_many_share_one_bucket() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for place in 0..10_000 {
            limiter.decide(place, start);
            assert!(limiter.places.len() <= PLACES_MAX + 1);
        }
        assert_eq!(limiter.decide(20_000, start), Decision::LeaveOut);
        let later = limiter.decide(20_000, start + REFILL * BURST);
        assert!(matches!(later, Decision::Pass { left_out: 9_000.. }), "{later:?}");
        assert!(limiter.places.len() <= 2);
    }

    /// Counts the lines that are written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn errors_are_limited_and_debug_lines_are_not() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish()
            .with(Limit::default());
        tracing::subscriber::with_default(subscriber, || {
            for nth in 0..100 {
                tracing::error!(nth, "an error");
                tracing::info!(nth, "a detail");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("a detail").count(), 100);
        assert_eq!(text.matches("an error").count(), 5);
    }
}
