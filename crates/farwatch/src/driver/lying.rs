// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`lies`]: a driver that faces a device which lies. For the fuzz target `driver`, and the test that replays its corpus.
//!
//! The device answers the handshake as the input says, and then does to the rings and buffers what the input says, between
//! requests that it serves as it should. A socket is in the place of `/dev/fuse`. Whatever comes:
//!
//! - nothing panics;
//! - the kernel gets one reply to a request at most, with its number, as long as it says, and none to anything else;
//! - when device and kernel are gone, every thread of the driver ends.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

#[path = "../../../../fuzz/src/bytes.rs"]
#[expect(dead_code, reason = "other targets need the rest")]
mod bytes;
#[cfg(test)]
#[path = "../../../../fuzz/corpus.rs"]
#[expect(dead_code, reason = "random inputs are drawn by proptest's macro")]
mod corpus;
mod device;

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use self::bytes::Bytes;
use self::device::{Lies, serve_handshake};
use super::unmounted::Unmounted;
use super::{Driver, Endpoint, Options};

/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a reply may take of which it is not known whether it comes.
const MOMENT: Duration = Duration::from_millis(2);
/// Requests that are sent, in all: no more than fit into the socket.
const REQUESTS_MAX: u64 = 100;

/// See the module's documentation.
pub fn lies(data: &[u8]) {
    let mut input = Bytes::new(data);
    let handshake = input.blob().to_vec();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let end = theirs.try_clone().unwrap();
    let device = thread::spawn(move || serve_handshake(theirs, &mut Bytes::new(&handshake)));
    let buffers = 1 + u16::from(input.u8() % 4);
    let options = Options { notification_buffers: buffers, ..Options::default() };
    match Driver::connect(Endpoint::Stream(ours), &options) {
        Ok(driver) => Session::new(driver, &device_of(&end, device)).run(&mut input),
        Err(_) => {
            // It has shut the connection down, or never begun.
            drop(end.shutdown(std::net::Shutdown::Both));
            drop(device.join().unwrap());
        }
    }
}

/// What the device has been given, once it has answered all of the setup. It goes on to answer.
fn device_of(end: &UnixStream, device: JoinHandle<Lies>) -> (Lies, UnixStream) {
    // The driver asks no more before its end: a device that hears of an end of the stream gives back what it has.
    end.shutdown(std::net::Shutdown::Read).unwrap();
    (device.join().unwrap(), end.try_clone().unwrap())
}

/// The driver, and what has become of its requests.
struct Session<'a> {
    driver: Unmounted,
    lies: &'a Lies,
    stream: &'a UnixStream,
    waiting: BTreeSet<u64>,
    sent: u64,
}

impl<'a> Session<'a> {
    fn new(driver: Driver, (lies, stream): &'a (Lies, UnixStream)) -> Self {
        Self { driver: Unmounted::new(driver), lies, stream, waiting: BTreeSet::new(), sent: 0 }
    }

    fn run(mut self, input: &mut Bytes<'_>) {
        while !input.is_empty() {
            match input.u8() % 8 {
                0 | 1 => self.send(input),
                2 | 3 => self.serve(input),
                4 => self.lies.tamper(input),
                5 => self.lies.call(usize::from(input.u8())),
                6 => self.notify(input),
                _ => self.receive_replies(Duration::ZERO),
            }
        }
        self.end();
    }

    /// The kernel makes a request.
    fn send(&mut self, input: &mut Bytes<'_>) {
        if self.sent == REQUESTS_MAX {
            return;
        }
        self.sent += 1;
        let opcode = u32::from(input.u8() % 64);
        let body = input.blob();
        let mut message = vec![0; 40];
        let len = u32::try_from(message.len() + body.len()).unwrap();
        message[..4].copy_from_slice(&len.to_ne_bytes());
        message[4..8].copy_from_slice(&opcode.to_ne_bytes());
        message[8..16].copy_from_slice(&self.sent.to_ne_bytes());
        message.extend(body);
        // FORGET, INTERRUPT and BATCH_FORGET have no reply.
        if ![2, 36, 42].contains(&opcode) {
            self.waiting.insert(self.sent);
        }
        if self.driver.workers.iter().all(JoinHandle::is_finished) {
            return;
        }
        match send(&self.driver.kernel, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The device serves a request, and may say something else about it than there is.
    fn serve(&mut self, input: &mut Bytes<'_>) {
        let queue = usize::from(input.u8());
        let deadline = Instant::now() + MOMENT;
        while !self.lies.serve(queue, input) && Instant::now() < deadline {
            thread::yield_now();
        }
        self.receive_replies(MOMENT);
    }

    fn notify(&mut self, input: &mut Bytes<'_>) {
        self.lies.serve(1, input);
        if let Some(queue) = &mut self.driver.notifications {
            let mut message = [0; 512];
            if queue.receive(Some(Instant::now()), &mut message).is_err() {
                self.driver.notifications = None;
            }
        }
    }

    /// Takes what the kernel has got, and waits for the first a moment.
    fn receive_replies(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut reply = vec![0; 2 << 20];
        loop {
            match recv(&self.driver.kernel, &mut reply[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return,
                Ok((len, _)) => self.take(&reply[..len]),
                Err(Errno::AGAIN) if Instant::now() < deadline && !self.waiting.is_empty() => {
                    thread::yield_now();
                }
                Err(Errno::AGAIN) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn take(&mut self, reply: &[u8]) {
        let unique = u64::from_ne_bytes(reply[8..16].try_into().unwrap());
        assert!(self.waiting.remove(&unique), "a reply to {unique}, which waits for none");
    }

    fn end(mut self) {
        self.receive_replies(Duration::ZERO);
        drop(self.stream.shutdown(std::net::Shutdown::Both));
        self.driver.closed.raise();
        self.driver.halt.at_once.raise();
        self.driver.halt.stop.raise();
        drop(self.driver.kernel);
        let deadline = Instant::now() + PATIENCE;
        while !self.driver.workers.iter().all(JoinHandle::is_finished) {
            assert!(Instant::now() < deadline, "a worker does not end");
            thread::yield_now();
        }
        for worker in self.driver.workers {
            // An error is its way to say that the device has broken its queue.
            drop(worker.join().unwrap());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn the_corpus_of_driver_passes() {
        super::corpus::replay("driver", super::lies);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn whatever_a_device_does_the_driver_ends(data in vec(any::<u8>(), 0..300)) {
            super::lies(&data);
        }
    }
}
