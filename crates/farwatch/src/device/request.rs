// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Requests`]: from one descriptor chain to one completion, around virtiofsd's server.
//!
//! Whatever the guest puts into a chain, the outcome is a length for the used ring: never a panic,
//! never an error that reaches the queue's thread. This module decides what is handed on; the copy
//! that it decides about is made by [`desk`](super::desk), the queue's mechanics are in
//! [`device`](super).
//!
//! What virtiofsd's `server.rs` does not bear, and where it is kept away from it:
//! - `read`, `readdir` and `readdirplus` cut the reply at byte 16 with an `unwrap` after
//!   `split_at`: a guest that gives less room than an `fuse_out_header` would panic the thread. No
//!   request that has a reply gets there with less.
//! - `handle_message` trusts `fuse_in_header.len` to size its buffers (bounded by its own 1 MiB)
//!   and to tell where the arguments end: it must equal what the chain holds.
//! - `tmpfile` panics if the file system's `tmpfile` succeeds, and a lock of the file system that
//!   was poisoned by a panic panics again: `catch_unwind`, and EIO.
//! - A request that it cannot decode ends in `Err` without a reply, which upstream's device takes
//!   as the end of the process: EINVAL.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farwatch_proto::wire::abi::{FUSE_FSNOTIFY, FUSE_HAVE_FSNOTIFY2};
use farwatch_proto::wire::{interest, sync};
use farwatch_proto::{Node, NodeId};
use farwatch_sys::thread::unshare_fs;
use rustix::io::Errno;
use tracing::{error, trace, warn};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{FileSystem, FsOptions, SerializableFileSystem};
use virtiofsd::fuse::{InHeader, Opcode, OutHeader};
use virtiofsd::server::Server;
use vm_memory::ByteValued;

use super::desk::{Desk, HEADER_LEN, Malformed, REQUEST_LEN_MAX, Request};
use super::gate::Gate;
use super::notification::NotificationSource;
use super::stats::Counter;
use super::waiting::may_wait;

/// Bytes of `fuse_out_header`, the least that a reply has.
const REPLY_HEADER_LEN: usize = 16;
const _: () = assert!(REPLY_HEADER_LEN == size_of::<OutHeader>());

/// `fuse_init_in.flags` and `flags2` within an INIT request.
const INIT_IN_FLAGS: Range<usize> = HEADER_LEN + 12..HEADER_LEN + 16;
const INIT_IN_FLAGS2: Range<usize> = HEADER_LEN + 16..HEADER_LEN + 20;
/// `fuse_init_out.flags` and `flags2` within the reply.
const INIT_OUT_FLAGS: Range<usize> = REPLY_HEADER_LEN + 12..REPLY_HEADER_LEN + 16;
const INIT_OUT_FLAGS2: Range<usize> = REPLY_HEADER_LEN + 32..REPLY_HEADER_LEN + 36;
/// `FUSE_ALLOW_IDMAP` (bit 40) as it stands in `flags2`.
const ALLOW_IDMAP2: u32 = 1 << (40 - 32);
/// `FUSE_INIT_EXT`: `flags2` counts.
const INIT_EXT: u32 = 1 << 30;

/// How long a question for a barrier waits. A ring that is stopped waits for all that were asked.
const SYNC_WAIT: Duration = Duration::from_millis(100);

thread_local! {
    /// This thread has a working directory and a umask of its own.
    static HAS_OWN_FS: Cell<bool> = const { Cell::new(false) };
}

/// The file server and what is counted about it, shared by the threads of all queues.
pub(super) struct Requests<F: FileSystem + Sync> {
    server: Server<F>,
    /// Whom questions for barriers are passed on to.
    source: Arc<dyn NotificationSource>,
    /// Whether requests may run.
    pub(super) gate: Gate,
    /// Whether there is a notification queue, for a kernel that takes notifications.
    notifying: AtomicBool,
    agreed: Mutex<Agreed>,
    pub(super) dispatched: Counter,
    pub(super) malformed: Counter,
    pub(super) refused: Counter,
    pub(super) panics: Counter,
    trouble_logged: AtomicBool,
}

/// What the guest's kernel and the file server have agreed upon.
#[derive(Clone, Default)]
pub(super) struct Agreed {
    /// The INIT as it was served; empty when the guest has not mounted.
    pub(super) request: Vec<u8>,
    /// `flags` and `flags2` of the reply.
    pub(super) granted: [u32; 2],
}

impl Agreed {
    /// Bytes of the longest INIT. A kernel's has 104.
    pub(super) const REQUEST_LEN_MAX: usize = 1024;
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waits {
    /// A READ on the control node, for something to tell.
    Read,
    /// An IOCTL, for a barrier.
    Sync,
    /// What shows how something is on the host may wait for events of the past.
    Ahead,
}

impl<F: FileSystem + Sync> Requests<F> {
    pub(super) fn new(fs: F, source: Arc<dyn NotificationSource>) -> Self {
        Self {
            server: Server::new(fs),
            source,
            gate: Gate::closed(),
            notifying: AtomicBool::new(false),
            agreed: Mutex::default(),
            dispatched: Counter::default(),
            malformed: Counter::default(),
            refused: Counter::default(),
            panics: Counter::default(),
            trouble_logged: AtomicBool::new(false),
        }
    }

    /// Tells whether the driver has taken the notification queue.
    pub(super) fn set_notifying(&self, notifying: bool) {
        self.notifying.store(notifying, Ordering::Relaxed);
    }

    /// Forgets what the guest knows and has open, as FUSE_DESTROY does. No request may be running.
    pub(super) fn reset(&self) {
        *self.lock_agreed() = Agreed::default();
        if catch_unwind(AssertUnwindSafe(|| self.server.destroy())).is_err() {
            self.note_panic();
        }
    }

    /// Executes one request and returns the number of bytes written to its chain.
    pub(super) fn serve(&self, fetched: Result<Request<'_>, Malformed>) -> u32 {
        let Ok(mut request) = fetched else {
            self.malformed.add();
            return 0;
        };
        if has_reply(&request.header) && request.writer.available_bytes() < REPLY_HEADER_LEN {
            self.malformed.add();
            return 0;
        }
        let written = self.execute(&mut request);
        let written = written.unwrap_or_else(|errno| self.refuse(&request, errno));
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    fn execute(&self, request: &mut Request<'_>) -> Result<usize, Errno> {
        if request.len > REQUEST_LEN_MAX {
            return Err(Errno::NOMEM);
        }
        if usize::try_from(request.header.len) != Ok(request.len) {
            return Err(Errno::INVAL);
        }
        self.prepare_thread()?;
        self.dispatched.add();
        if is(&request.header, Opcode::Init) {
            self.init(request)
        } else if is_sync(request) {
            self.sync(request)
        } else if request.header.opcode == FUSE_FSNOTIFY {
            self.watch(request)
        } else {
            self.dispatch(request.reader()?, request.writer.clone())
        }
    }

    /// Answers a request with an error; not one that has no reply.
    fn refuse(&self, request: &Request<'_>, errno: Errno) -> usize {
        self.refused.add();
        if !has_reply(&request.header) {
            return 0;
        }
        let reply =
            OutHeader { len: 16, error: -errno.raw_os_error(), unique: request.header.unique };
        // A clone starts at the beginning: what was written before the error is overwritten.
        match request.writer.clone().write_all(reply.as_slice()) {
            Ok(()) => REPLY_HEADER_LEN,
            Err(_) => 0,
        }
    }

    /// INIT, whose flags virtiofsd's server knows only in part.
    ///
    /// `FUSE_ALLOW_IDMAP` is taken out of what the guest offers: the server would grant it, and the
    /// kernel would then send no uid with most requests, so that the marks of a replay were gone.
    /// `FUSE_HAVE_FSNOTIFY` is ours: the server drops it, so it is put into the reply. The reply is
    /// made in private memory, since the guest may have cut its buffer anywhere.
    fn init(&self, request: &mut Request<'_>) -> Result<usize, Errno> {
        if request.len > Agreed::REQUEST_LEN_MAX {
            return Err(Errno::INVAL);
        }
        let flags2 = request.bytes_mut().get_mut(INIT_IN_FLAGS2);
        let offered = flags2.map_or(0, |flags2| change_le32(flags2, |flags| flags & !ALLOW_IDMAP2));

        let room = request.writer.available_bytes();
        let written = self.dispatch(request.reader()?, request.private_writer(room)?)?;
        let mut reply = request.private_reply(written)?;
        if let Some(flags2) = reply.get_mut(INIT_OUT_FLAGS2) {
            change_le32(flags2, |flags| flags | offered & FUSE_HAVE_FSNOTIFY2);
        }
        request.writer.clone().write_all(&reply).map_err(|_| Errno::INVAL)?;
        if let Some(granted) = granted(&reply) {
            self.attach_kernel(granted, true);
            *self.lock_agreed() = Agreed { request: request.bytes_mut().to_vec(), granted };
        }
        Ok(reply.len())
    }

    /// An IOCTL that asks for a barrier. virtiofsd's server passes no IOCTL's arguments on.
    fn sync(&self, request: &Request<'_>) -> Result<usize, Errno> {
        let body = request.bytes().get(HEADER_LEN..).unwrap_or_default();
        let ticket = sync::question(body).ok_or(Errno::INVAL)?;
        let deadline = if may_wait() { Instant::now().checked_add(SYNC_WAIT) } else { None };
        answer(request, &self.source.progress(ticket, deadline)?.encode())
    }

    /// FUSE_FSNOTIFY, which virtiofsd's server does not know.
    fn watch(&self, request: &Request<'_>) -> Result<usize, Errno> {
        let body = request.bytes().get(HEADER_LEN..).unwrap_or_default();
        let (generation, mask) = interest::question(body).ok_or(Errno::INVAL)?;
        let id = NodeId::new(request.header.nodeid).ok_or(Errno::STALE)?;
        answer(request, &interest::answer(self.source.watch(Node { id, generation }, mask)?))
    }

    /// If the guest's kernel takes notifications, it is the client from now on. One that comes from another host does
    /// not say again what is watched.
    fn attach_kernel(&self, granted: [u32; 2], tells: bool) {
        if granted[1] & FUSE_HAVE_FSNOTIFY2 != 0 {
            self.source.kernel_attached(self.notifying.load(Ordering::Relaxed), tells);
        }
    }

    /// What was agreed upon with the guest.
    pub(super) fn agreed(&self) -> Agreed {
        self.lock_agreed().clone()
    }

    fn lock_agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dispatch(&self, reader: Reader<'_>, writer: Writer<'_>) -> Result<usize, Errno> {
        let handle = || self.server.handle_message(reader, writer, None::<&mut ()>);
        match catch_unwind(AssertUnwindSafe(handle)) {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(error)) => {
                trace!(%error, "a request could not be decoded");
                Err(Errno::INVAL)
            }
            Err(_) => {
                self.note_panic();
                Err(Errno::IO)
            }
        }
    }

    /// Gives the calling thread a working directory and a umask of its own, since the file system
    /// changes both while it serves a request: once in a thread's life.
    fn prepare_thread(&self) -> Result<(), Errno> {
        if HAS_OWN_FS.get() {
            return Ok(());
        }
        unshare_fs().map_err(|error| {
            if !self.trouble_logged.swap(true, Ordering::Relaxed) {
                error!(%error, "a thread cannot get a working directory of its own");
            }
            Errno::IO
        })?;
        HAS_OWN_FS.set(true);
        Ok(())
    }

    /// Every panic is counted; the first is an error that somebody should look at, and the guest
    /// must not be able to fill the log with more.
    fn note_panic(&self) {
        self.panics.add();
        if !self.trouble_logged.swap(true, Ordering::Relaxed) {
            error!("the file system panicked during a request, which is answered with EIO");
        }
    }
}

impl<F: FileSystem + SerializableFileSystem + Sync> Requests<F> {
    /// Finds out where the guest's files are, while requests go on.
    pub(super) fn prepare_serialization(&self, cancel: Arc<AtomicBool>) {
        self.server.prepare_serialization(cancel);
    }

    /// Has the file system write its state, from where the file stands.
    pub(super) fn serialize(&self, state: File) -> io::Result<()> {
        self.server.serialize(state)
    }

    /// Takes over what another device agreed upon with the guest, and the state of its file system,
    /// from where the file stands. No request runs meanwhile. When it fails, the guest knows nothing.
    pub(super) fn load(&self, agreed: &Agreed, state: File) -> io::Result<()> {
        let _nothing_runs = self.gate.alone();
        self.reset();
        let load = || {
            self.agree_again(agreed)?;
            self.server.deserialize_and_apply(state)?;
            self.attach_kernel(agreed.granted, false);
            Ok(())
        };
        let loaded = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| {
            self.note_panic();
            Err(io::Error::other("the file system has panicked"))
        });
        if loaded.is_err() {
            self.reset();
        }
        loaded
    }

    /// Serves the guest's INIT once more, with no more on offer than was granted.
    fn agree_again(&self, agreed: &Agreed) -> io::Result<()> {
        let mut request = agreed.request.clone();
        if request.is_empty() {
            return Ok(());
        }
        let [low, high] = agreed.granted;
        let header = InHeader::from_slice(request.get(..HEADER_LEN).unwrap_or_default());
        if !header.is_some_and(|header| is(header, Opcode::Init)) {
            return Err(io::Error::other("the guest's INIT is malformed"));
        }
        for (flags, granted) in [(INIT_IN_FLAGS, low | INIT_EXT), (INIT_IN_FLAGS2, high)] {
            if let Some(flags) = request.get_mut(flags) {
                change_le32(flags, |flags| flags & granted);
            }
        }
        let reply = Desk::new()?
            .exchange(&request, |reader, writer| self.dispatch(reader, writer))
            .map_err(|errno| io::Error::other(format!("the guest's INIT is refused: {errno}")))?;
        let granted = granted(&reply).ok_or_else(|| {
            io::Error::other("this farwatch was started with options that the guest cannot do with")
        })?;
        let missing = [low & !granted[0], high & !granted[1] & !FUSE_HAVE_FSNOTIFY2];
        if missing != [0; 2] {
            let missing = FsOptions::from_bits_truncate(join(missing));
            warn!(?missing, "the guest relies on what this farwatch was started without");
        }
        *self.lock_agreed() = agreed.clone();
        Ok(())
    }
}

impl From<Malformed> for Errno {
    fn from(Malformed: Malformed) -> Self {
        Self::INVAL
    }
}

/// Answers a request that the library does not know with this body.
fn answer(request: &Request<'_>, body: &[u8]) -> Result<usize, Errno> {
    let len = u32::try_from(REPLY_HEADER_LEN + body.len()).map_err(|_| Errno::INVAL)?;
    let header = OutHeader { len, error: 0, unique: request.header.unique };
    let reply = [header.as_slice(), body].concat();
    request.writer.clone().write_all(&reply).map_err(|_| Errno::INVAL)?;
    Ok(reply.len())
}

/// Whether a request is answered when something happens.
pub(super) fn waits(request: &Request<'_>) -> Option<Waits> {
    if is(&request.header, Opcode::Read) && request.header.nodeid == NodeId::CONTROL.get() {
        Some(Waits::Read)
    } else if is_sync(request) {
        Some(Waits::Sync)
    } else if SHOWS.iter().any(|opcode| is(&request.header, *opcode)) {
        Some(Waits::Ahead)
    } else {
        None
    }
}

/// The requests whose reply shows what has become of an object, or leads to what the guest's kernel has cached of it. A listing
/// comes after its OPENDIR; a READ holds the lock of a page, which a replay may need.
const SHOWS: [Opcode; 4] = [Opcode::Lookup, Opcode::Getattr, Opcode::Open, Opcode::Opendir];

fn is_sync(request: &Request<'_>) -> bool {
    is(&request.header, Opcode::Ioctl)
        && request.bytes().get(HEADER_LEN..).is_some_and(sync::is_question)
}

/// False for the requests that the kernel sends without room for a reply.
fn has_reply(header: &InHeader) -> bool {
    !(is(header, Opcode::Forget)
        || is(header, Opcode::BatchForget)
        || is(header, Opcode::Interrupt))
}

fn is(header: &InHeader, opcode: Opcode) -> bool {
    header.opcode == opcode as u32
}

/// `flags` and `flags2` in the reply to an INIT, if it was not refused.
fn granted(reply: &[u8]) -> Option<[u32; 2]> {
    let error = reply.get(4..8)?;
    let le32 = |range| Some(u32::from_le_bytes(reply.get::<Range<usize>>(range)?.try_into().ok()?));
    let granted = [le32(INIT_OUT_FLAGS)?, le32(INIT_OUT_FLAGS2)?];
    (error == [0; 4]).then_some(granted)
}

fn join([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Changes the number that the four bytes are, and returns what it was.
fn change_le32(bytes: &mut [u8], change: impl FnOnce(u32) -> u32) -> u32 {
    let Ok(old) = <[u8; 4]>::try_from(&*bytes) else { return 0 };
    let old = u32::from_le_bytes(old);
    bytes.copy_from_slice(&change(old).to_le_bytes());
    old
}

#[cfg(test)]
mod tests;
