// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`run`]: the agent's loop. Receive, join, replay; it waits in one place only.

use std::io;
use std::time::Instant;

use farwatch_proto::Seq;
use farwatch_proto::guest::join::Join;
use farwatch_proto::wire::Notification;

use crate::error::Error;
use crate::progress::Progress;
use crate::superblocks::Superblocks;

/// Where an agent gets its notifications from: the notification queue, or the control node.
pub trait Receive {
    /// Waits for the next message, until `deadline` at the latest, and copies it to `buf`. Its
    /// buffer has been given back to the device when this returns (S10).
    ///
    /// # Errors
    /// When no message will ever come again for another reason than an orderly end.
    fn receive(
        &mut self,
        deadline: Option<Instant>,
        buf: &mut [u8; Notification::LEN_MAX],
    ) -> io::Result<Received>;
}

/// What [`Receive::receive`] returned for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A message of so many bytes.
    Message(usize),
    /// The deadline has passed, or there was nothing for a while.
    TimedOut,
    /// The end of this link.
    Closed,
}

/// What an agent has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Messages received.
    pub received: u64,
    /// Messages that could not be decoded: the server is another version, or broken.
    pub undecoded: u64,
    /// Calls that raised an event.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Times the server gave up single events.
    pub overflows: u64,
}

/// Works until the notifications end. `seq` is the number of the first one; what is done is added to `progress`.
///
/// # Errors
/// When the notifications end otherwise than in order.
pub fn run(
    source: &mut impl Receive,
    superblocks: &mut Superblocks,
    mut seq: Seq,
    progress: &Progress,
) -> Result<(), Error> {
    let mut join = Join::new();
    let mut buf = [0; Notification::LEN_MAX];
    loop {
        let received = source.receive(join.poll_timeout(), &mut buf).map_err(Error::Receive)?;
        let now = Instant::now();
        let mut report = Report::default();
        match received {
            Received::Message(len) => {
                report.received += 1;
                match Notification::decode_with_submount(buf.get(..len).unwrap_or_default()) {
                    Ok(notification) => join.handle(now, seq, notification),
                    Err(error) => {
                        report.undecoded += 1;
                        tracing::debug!(%error, "message not understood");
                    }
                }
                seq = seq.next();
            }
            Received::TimedOut => join.handle_timeout(now),
            Received::Closed => return Ok(()),
        }
        while let Some(joined) = join.poll_output() {
            if joined.event == farwatch_proto::GuestEvent::Overflow {
                report.overflows += 1;
                tracing::warn!(
                    "events were dropped: too many changes on the host at once; the difference follows"
                );
            }
            let outcome = superblocks.replay(&joined);
            report.calls += u64::from(outcome.done);
            report.failed += u64::from(outcome.failed);
            if let Some(error) = outcome.error {
                progress.failed(error);
            }
        }
        progress.add(&report);
        superblocks.release();
    }
}
