// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Reads`]: notifications as answers to reads on the control node, which need nothing of the guest's
//! kernel but FUSE.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use farwatch_proto::wire::Notification;
use rustix::io::Errno;

use crate::link::Link;
use crate::run::{Receive, Received};

/// Room for a read: some 200 notifications, four pages.
const READ_LEN: usize = 16 << 10;
/// An empty answer that comes sooner is one of a server that could not wait.
const WAIT_MIN: Duration = Duration::from_millis(20);
/// How long to leave such a server alone.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub struct Reads<'a, F> {
    link: &'a Link,
    buf: Vec<u8>,
    /// The messages of the last read that have not been fetched.
    rest: Range<usize>,
    /// Called whenever the server has answered.
    answered: F,
}

impl<'a, F: FnMut()> Reads<'a, F> {
    /// Reads on `link`, which must be open for [`Delivery::Reads`]. `answered` is called after every
    /// answer of the server, which gives one within a second or is gone.
    ///
    /// [`Delivery::Reads`]: farwatch_proto::wire::control::Delivery::Reads
    pub fn new(link: &'a Link, answered: F) -> Self {
        Self { link, buf: vec![0; READ_LEN], rest: 0..0, answered }
    }

    fn take(&mut self, buf: &mut [u8; Notification::LEN_MAX]) -> io::Result<Option<usize>> {
        let rest = self.buf.get(self.rest.clone()).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let (message, _) = Notification::split_first(rest)
            .filter(|(message, _)| message.len() <= buf.len())
            .ok_or_else(|| io::Error::other("an answer of the server is no message"))?;
        let len = message.len();
        for (to, from) in buf.iter_mut().zip(message) {
            *to = *from;
        }
        self.rest.start += len;
        Ok(Some(len))
    }
}

impl<F: FnMut()> Receive for Reads<'_, F> {
    /// As the server answers within a bounded time and not before, this can return that much after
    /// the deadline. [`Received::Closed`] means that a new link is to be opened.
    fn receive(
        &mut self,
        deadline: Option<Instant>,
        buf: &mut [u8; Notification::LEN_MAX],
    ) -> io::Result<Received> {
        loop {
            if let Some(len) = self.take(buf)? {
                return Ok(Received::Message(len));
            }
            let before = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= before) {
                return Ok(Received::TimedOut);
            }
            let len = match rustix::io::read(self.link.as_fd(), &mut self.buf[..]) {
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                // This server knows nothing of the link: it has taken the guest over.
                Err(Errno::BADF) => return Ok(Received::Closed),
                Err(errno) => return Err(errno.into()),
            };
            (self.answered)();
            self.rest = 0..len;
            if len == 0 {
                if before.elapsed() < WAIT_MIN {
                    thread::sleep(PAUSE);
                }
                return Ok(Received::TimedOut);
            }
        }
    }
}
