// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Handoff`]: how `farwatch mount` gives the FUSE connection to its device, a process of its own.
//!
//! Only the device can be trusted with a descriptor of the connection for as long as it lives: when it dies, the kernel
//! closes that and fails every request. So the socket also says when the device serves the connection no more.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use std::{io, slice};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown,
    socketpair,
};

use super::FuseDevice;
use crate::replay_cpu::ReplayCpu;

/// A message of the driver that comes with the connection.
const CONNECTION: u8 = 0;
/// A message of the driver that the device answers with the same.
const PING: u8 = 1;
/// A message of the device: what [`Handoff::raises`] returns.
const RAISES: [u8; 2] = [2, 3];

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Handoff(OwnedFd);

impl Handoff {
    /// Both ends.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), Self(theirs)))
    }

    /// The same end once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Gives the connection away, of which `fuse` remains a reference, and says where replays are made.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn give(&self, fuse: &FuseDevice, replay_cpu: &ReplayCpu) -> io::Result<()> {
        let fds = [fuse.as_fd(), replay_cpu.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        sendmsg(&self.0, &[IoSlice::new(&[CONNECTION])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for what the driver gives; `None` if it has gone.
    ///
    /// # Errors
    /// When the message is none of [`Handoff::give`].
    pub(crate) fn take(&self) -> io::Result<Option<(FuseDevice, ReplayCpu)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        if self.receive(&mut ancillary)?.is_none() {
            return Ok(None);
        }
        let fds = ancillary.drain().find_map(|message| {
            let RecvAncillaryMessage::ScmRights(mut fds) = message else { return None };
            fds.next().zip(fds.next())
        });
        let (fuse, replay_cpu) =
            fds.ok_or_else(|| io::Error::other("a message without descriptors"))?;
        Ok(Some((FuseDevice::from(fuse), ReplayCpu::map(replay_cpu)?)))
    }

    /// Tells the driver whether the kernel raises the events of notifications itself.
    pub(crate) fn tell_raises(&self, raises: bool) {
        self.send(RAISES[usize::from(raises)]);
    }

    /// Waits until the kernel and the device have agreed upon that; `None` if the device has gone.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    pub(crate) fn raises(&self) -> io::Result<Option<bool>> {
        while let Some(message) = self.receive(&mut RecvAncillaryBuffer::default())? {
            if let Some(raises) = RAISES.iter().position(|known| *known == message) {
                return Ok(Some(raises == 1));
            }
        }
        Ok(None)
    }

    /// Whether the device answers in time. One that is gone does.
    ///
    /// # Errors
    /// Those of `poll(2)` and `recv(2)`.
    pub(crate) fn answers(&self, wait: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + wait;
        self.send(PING);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(false),
                Err(Errno::INTR) => continue,
                ready => ready?,
            };
            match self.receive(&mut RecvAncillaryBuffer::default())? {
                Some(PING) | None => return Ok(true),
                Some(_) => {}
            }
        }
    }

    /// Answers the driver until that says that it is over, or is gone.
    pub(crate) fn wait_for_end(&self) {
        while let Ok(Some(message)) = self.receive(&mut RecvAncillaryBuffer::default()) {
            if message == PING {
                self.send(PING);
            }
        }
    }

    /// Says that it is over: [`Handoff::wait_for_end`] of the other end returns.
    pub(crate) fn end(&self) {
        if let Err(error) = shutdown(&self.0, Shutdown::Write) {
            tracing::debug!(%error, "the other end is gone");
        }
    }

    fn send(&self, message: u8) {
        if let Err(error) = rustix::net::send(&self.0, &[message], SendFlags::NOSIGNAL) {
            tracing::debug!(%error, "the other end is gone");
        }
    }

    fn receive(&self, ancillary: &mut RecvAncillaryBuffer<'_>) -> io::Result<Option<u8>> {
        let mut byte = 0;
        loop {
            let mut parts = [IoSliceMut::new(slice::from_mut(&mut byte))];
            match recvmsg(&self.0, &mut parts, ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                received => return Ok((received?.bytes > 0).then_some(byte)),
            }
        }
    }
}

impl From<OwnedFd> for Handoff {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Handoff> for OwnedFd {
    fn from(handoff: Handoff) -> Self {
        handoff.0
    }
}

impl AsFd for Handoff {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Handoff {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_handed_over_and_each_side_learns_of_the_end_of_the_other() {
        let (driver, device) = Handoff::pair().unwrap();
        let (kernel, fuse) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        driver.give(&FuseDevice::from(fuse), &ReplayCpu::new().unwrap()).unwrap();
        let (taken, _) = device.take().unwrap().unwrap();
        rustix::io::write(&taken, b"reply").unwrap();
        let mut reply = [0; 5];
        rustix::io::read(&kernel, &mut reply).unwrap();
        assert_eq!(&reply, b"reply");

        device.tell_raises(true);
        assert_eq!(driver.raises().unwrap(), Some(true));
        device.tell_raises(false);
        assert!(!driver.answers(Duration::ZERO).unwrap());
        driver.end();
        device.wait_for_end();
        assert!(driver.answers(Duration::ZERO).unwrap());
        assert!(device.take().unwrap().is_none());
        drop(device);
        assert_eq!(driver.raises().unwrap(), None);
    }

    #[test]
    fn a_message_without_descriptors_is_no_connection() {
        let (driver, device) = Handoff::pair().unwrap();
        driver.tell_raises(false);
        assert!(device.take().is_err());
    }
}
