// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Direct`]: requests that this machine's kernel hands to the device itself, through `/dev/fuse`.
//!
//! This is the device of `farwatch mount`. Without a driver and its virtqueues in between, a request is two system calls
//! and no wake-up of another process. The notification queue is the driver's all the same, and so is the mount.
//!
//! A message is laid out as the chain of a virtqueue in memory of the device's own, so that one way leads through
//! [`desk`] and [`request`](super::request), whoever asks.
//!
//! The threads sleep on one epoll, edge-triggered: a request wakes one of them. A thread that has served a request polls
//! for the next before it sleeps, and meanwhile no request is to wake another: then the epoll is not told of any.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, iter};

use farwatch_proto::wire::abi::MARKER_UID;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, VolatileSlice,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::desk::{self, AVAIL_OF_ONE};
use super::taken::Taken;
use super::{AtomicMemory, Memory};
use crate::busy_poll::BusyPoll;
use crate::dev_fuse::{
    Counts, Error, FuseDevice, Handoff, InHeader, Incoming, MESSAGE_AT, MESSAGE_LEN_MAX, PAGE_LEN,
    SLOT_LEN, reply_at,
};
use crate::virtio::DESC_F_WRITE;

/// The address of the first slot: below that of every [`desk`].
const BASE: u64 = 1 << 32;
/// A page for the descriptors, then message and reply.
const STRIDE: usize = (PAGE_LEN + SLOT_LEN).next_multiple_of(PAGE_LEN);
/// Where the available ring is in the first page of a slot, behind the table of descriptors.
const AVAIL_AT: u64 = 0x100;
/// Descriptors of a table: more than message and reply, and a power of two.
const DESCRIPTORS: u16 = 4;

/// What wakes a thread that sleeps: one thread for each time that a request comes.
const AWAKE: EventSet = EventSet::IN.union(EventSet::EDGE_TRIGGERED);
const TOKEN_FUSE: u64 = 0;
const TOKEN_END: u64 = 1;

/// A FUSE connection that the device serves.
pub(super) struct Direct {
    fuse: FuseDevice,
    memory: AtomicMemory,
    /// Slots that hold no request.
    free: Mutex<Vec<usize>>,
    epoll: Epoll,
    /// Threads that poll.
    polling: Mutex<usize>,
    over: AtomicBool,
    end: EventFd,
    counts: Arc<Counts>,
    /// Shut down with the last thread, which tells the driver.
    handoff: Handoff,
}

/// Where a request of the kernel is, and what its reply must be like.
pub(super) struct Place {
    direct: Arc<Direct>,
    slot: usize,
    reply: Span,
    unique: u64,
    /// The kernel waits for a reply.
    replies: bool,
    is_init: bool,
    /// The uid is the agent's. Nothing but speed depends on this.
    is_of_agent: bool,
}

/// Bytes of a slot.
#[derive(Clone, Copy)]
struct Span {
    at: usize,
    len: usize,
}

impl Direct {
    /// Room for `slots` requests at a time of the connection `fuse`.
    pub(super) fn new(
        fuse: FuseDevice,
        slots: usize,
        counts: Arc<Counts>,
        handoff: Handoff,
    ) -> io::Result<Arc<Self>> {
        let memory = Memory::from_ranges(&[(GuestAddress(BASE), slots * STRIDE)])
            .map_err(io::Error::other)?;
        for slot in 0..slots {
            let avail = address(slot, 0).unchecked_add(AVAIL_AT);
            memory.write_slice(&AVAIL_OF_ONE, avail).map_err(io::Error::other)?;
        }
        let (epoll, end) = (Epoll::new()?, EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        watch(&epoll, ControlOperation::Add, &fuse, AWAKE)?;
        epoll.ctl(
            ControlOperation::Add,
            end.as_raw_fd(),
            EpollEvent::new(EventSet::IN, TOKEN_END),
        )?;
        Ok(Arc::new(Self {
            fuse,
            memory: GuestMemoryAtomic::new(memory),
            free: Mutex::new((0..slots).rev().collect()),
            epoll,
            polling: Mutex::new(0),
            over: AtomicBool::new(false),
            end,
            counts,
            handoff,
        }))
    }

    /// Waits for a request; `None` when there will be no more.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub(super) fn next(self: &Arc<Self>, poll: &mut BusyPoll) -> Result<Option<Taken>, Error> {
        let slot = self.free().pop().expect("each thread that serves or waits has a slot");
        let len = loop {
            match self.look(slot, poll)? {
                Incoming::Message(len) => break len,
                Incoming::Gone => return Ok(None),
                Incoming::Nothing => {}
            }
            if self.over.load(Ordering::SeqCst) {
                return Ok(None);
            }
            self.sleep().map_err(Error::Read)?;
        };
        Ok(Some(self.take(slot, len)))
    }

    /// Has the threads end when they have served what they are at.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
        if let Err(error) = self.end.write(1) {
            tracing::debug!(%error, "the threads have been stopped before");
        }
    }

    /// The memory that the chains lie in.
    pub(super) fn memory(&self) -> &AtomicMemory {
        &self.memory
    }

    /// Reads a message, and if there is none now, polls for one a moment.
    fn look(&self, slot: usize, poll: &mut BusyPoll) -> Result<Incoming, Error> {
        let memory = self.memory.memory();
        let space = Span { at: MESSAGE_AT, len: MESSAGE_LEN_MAX };
        let mut space = slice(&memory, slot, space);
        let mut read = self.fuse.read(&mut space);
        if matches!(read, Ok(Incoming::Nothing)) {
            let _poller = poll.polls().then(|| Poller::new(self));
            poll.wait(|| {
                read = self.fuse.read(&mut space);
                !matches!(read, Ok(Incoming::Nothing))
            });
        }
        read
    }

    fn sleep(&self) -> io::Result<()> {
        match self.epoll.wait(-1, &mut [EpollEvent::default()]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            woken => woken.map(drop),
        }
    }

    fn take(self: &Arc<Self>, slot: usize, len: usize) -> Taken {
        let memory = self.memory.memory();
        let message = Span { at: MESSAGE_AT, len };
        let header = InHeader::read(&slice(&memory, slot, message));
        let [uid, gid] = header.ids;
        tracing::trace!(opcode = header.opcode, uid, gid, header.unique, len);
        self.counts.add(header.opcode);
        let at = reply_at(len);
        let room = SLOT_LEN - at;
        let reply = Span { at, len: room.min(header.reply_len_max.unwrap_or(usize::MAX)) };
        let replies = !header.is_hiprio();
        let reply_span = replies.then_some((reply, DESC_F_WRITE));
        let descriptors = iter::once((message, 0)).chain(reply_span).map(|(span, flags)| {
            let len = u32::try_from(span.len).expect("a slot has little more than 1 MiB");
            (address(slot, PAGE_LEN + span.at).0, len, flags)
        });
        let table = address(slot, 0);
        let avail = table.unchecked_add(AVAIL_AT);
        let chain = desk::lay_out(memory, table, avail, DESCRIPTORS, descriptors)
            .expect("table and ring lie inside the slot");
        let direct = Arc::clone(self);
        let is_init = header.is_init();
        let unique = header.unique;
        let is_of_agent = uid == MARKER_UID;
        let place = Place { direct, slot, reply, unique, replies, is_init, is_of_agent };
        Taken::from_kernel(chain, place)
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has requests wake sleepers, or not.
    fn wake_sleepers(&self, wake: bool) {
        let events = if wake { AWAKE } else { EventSet::empty() };
        if let Err(error) = watch(&self.epoll, ControlOperation::Modify, &self.fuse, events) {
            tracing::error!(%error, "/dev/fuse cannot be watched");
        }
    }
}

/// Has all threads end when one does: the end of the connection wakes one of them only.
pub(super) struct StopOnDrop<'a>(pub(super) &'a Direct);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.handoff.end();
    }
}

impl Place {
    /// Whether an agent asks.
    pub(super) fn is_of_agent(&self) -> bool {
        self.is_of_agent
    }

    /// Writes the reply, of `len` bytes.
    pub(super) fn answer(self, len: u32) {
        let Self { direct, slot, reply, unique, replies, is_init, .. } = self;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(reply.len);
        if replies {
            let memory = direct.memory.memory();
            let reply = slice(&memory, slot, Span { at: reply.at, len });
            if is_init {
                direct.fuse.note_init(&reply);
                direct.handoff.tell_raises(direct.fuse.raises());
            }
            direct.fuse.reply(unique, &reply);
        }
        direct.free().push(slot);
    }
}

/// A thread that polls. Requests wake no sleeper while there is one.
struct Poller<'a>(&'a Direct);

impl<'a> Poller<'a> {
    fn new(direct: &'a Direct) -> Self {
        let mut polling = direct.polling.lock().unwrap_or_else(PoisonError::into_inner);
        *polling += 1;
        if *polling == 1 {
            direct.wake_sleepers(false);
        }
        Self(direct)
    }
}

impl Drop for Poller<'_> {
    fn drop(&mut self) {
        let mut polling = self.0.polling.lock().unwrap_or_else(PoisonError::into_inner);
        *polling -= 1;
        if *polling == 0 {
            // If a request has come meanwhile, this wakes a sleeper for it.
            self.0.wake_sleepers(true);
        }
    }
}

fn watch(
    epoll: &Epoll,
    operation: ControlOperation,
    fuse: &FuseDevice,
    events: EventSet,
) -> io::Result<()> {
    epoll.ctl(operation, fuse.as_raw_fd(), EpollEvent::new(events, TOKEN_FUSE))
}

/// Where byte `at` of a slot's message and reply is; of its descriptors, where the slot starts.
fn address(slot: usize, at: usize) -> GuestAddress {
    let offset = u64::try_from(slot * STRIDE + at).expect("an offset fits 64 bits");
    GuestAddress(BASE + offset)
}

type Bitmap<'a> = vm_memory::bitmap::MS<'a, Memory>;

fn slice(memory: &Memory, slot: usize, span: Span) -> VolatileSlice<'_, Bitmap<'_>> {
    let start = address(slot, PAGE_LEN + span.at);
    memory.get_slice(start, span.len).expect("a span lies inside its slot")
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::thread;

    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use rustix::net::{recv, send, socketpair};
    use virtiofsd::fuse::Opcode;

    use super::*;
    use rustix::io::Errno;

    /// A socket that keeps messages apart in the place of `/dev/fuse`, and the kernel's end of it.
    fn connection(slots: usize) -> (OwnedFd, Arc<Direct>, Handoff) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (kernel, fuse) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (driver, handoff) = Handoff::pair().unwrap();
        let counts = Arc::default();
        let direct = Direct::new(FuseDevice::from(fuse), slots, counts, handoff).unwrap();
        (kernel, direct, driver)
    }

    /// A FUSE message with nothing behind its header.
    fn message(opcode: Opcode, unique: u64) -> [u8; 40] {
        let mut message = [0; 40];
        message[0] = 40;
        message[4..8].copy_from_slice(&(opcode as u32).to_ne_bytes());
        message[8..16].copy_from_slice(&unique.to_ne_bytes());
        message
    }

    fn next(direct: &Arc<Direct>) -> Option<Taken> {
        direct.next(&mut BusyPoll::default()).unwrap()
    }

    #[test]
    fn a_message_is_a_chain_and_what_is_written_to_the_chain_is_the_reply() {
        let (kernel, direct, _driver) = connection(1);
        for unique in [7, 8] {
            let asked = message(Opcode::Statfs, unique);
            send(&kernel, &asked, SendFlags::empty()).unwrap();
            let taken = next(&direct).unwrap();
            let memory = direct.memory().memory();
            let mut chain = taken.chain.clone();
            let (readable, writable) = (chain.next().unwrap(), chain.next().unwrap());
            assert!(chain.next().is_none());
            assert!(!readable.is_write_only() && writable.is_write_only());
            let mut seen = [0; 40];
            assert_eq!(readable.len(), 40);
            memory.read_slice(&mut seen, readable.addr()).unwrap();
            assert_eq!(seen, asked);

            let mut reply = [0; 20];
            reply[0] = 20;
            reply[8..16].copy_from_slice(&unique.to_ne_bytes());
            memory.write_slice(&reply, writable.addr()).unwrap();
            taken.complete(20);
            let mut got = [0; 64];
            let (_, len) = recv(&kernel, &mut got, RecvFlags::empty()).unwrap();
            assert_eq!(&got[..len], &reply);
        }
    }

    #[test]
    fn a_message_that_has_no_reply_gets_none_and_one_that_is_not_answered_fails() {
        let (kernel, direct, _driver) = connection(1);
        for (opcode, unique) in [(Opcode::Forget, 1), (Opcode::Statfs, 2)] {
            send(&kernel, &message(opcode, unique), SendFlags::empty()).unwrap();
            next(&direct).unwrap().complete(0);
        }
        let mut got = [0; 64];
        let (_, len) = recv(&kernel, &mut got, RecvFlags::empty()).unwrap();
        assert_eq!(len, 16);
        assert_eq!(got[4..8], (-Errno::IO.raw_os_error()).to_ne_bytes());
        assert_eq!(got[8], 2);
        assert!(recv(&kernel, &mut got, RecvFlags::empty()).is_err(), "there is one reply");
    }

    #[test]
    fn the_end_of_the_connection_ends_every_thread_and_the_driver_learns_of_it() {
        let (kernel, direct, driver) = connection(3);
        let threads = [(); 3].map(|()| {
            let direct = Arc::clone(&direct);
            thread::spawn(move || {
                let _stop = StopOnDrop(&direct);
                assert!(next(&direct).is_none());
            })
        });
        drop(kernel);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(direct);
        assert_eq!(driver.raises().unwrap(), None);
    }

    #[test]
    fn requests_wake_sleepers_again_when_no_thread_polls() {
        let (kernel, direct, _driver) = connection(1);
        let woken = || direct.epoll.wait(0, &mut [EpollEvent::default()]).unwrap();
        let (polls, also_polls) = (Poller::new(&direct), Poller::new(&direct));
        send(&kernel, &message(Opcode::Statfs, 1), SendFlags::empty()).unwrap();
        assert_eq!(woken(), 0);
        drop(polls);
        assert_eq!(woken(), 0);
        drop(also_polls);
        assert_eq!(woken(), 1, "what has come meanwhile");
        assert_eq!(woken(), 0, "a request wakes one thread");
        next(&direct).unwrap().complete(0);
        send(&kernel, &message(Opcode::Statfs, 2), SendFlags::empty()).unwrap();
        assert_eq!(woken(), 1, "what comes afterwards");
    }
}
