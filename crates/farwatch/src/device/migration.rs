// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Migration`]: moves what the guest knows of the file system to the device of another host, when
//! the frontend says so (`VHOST_USER_SET_DEVICE_STATE_FD`).
//!
//! As virtiofsd's own backend has it: the feature `LOG_ALL`, which a frontend acknowledges when a
//! migration begins, starts the search for where each file is, while the guest goes on; taking it
//! back cancels. Once the rings have stopped, the state goes into a pipe, or comes out of one, on a
//! thread of its own; `VHOST_USER_CHECK_DEVICE_STATE` asks how that went.
//!
//! The pipe's other end may be anybody's, so only this file touches it: whole states of a bounded
//! length lie in a memfd, and the session's end interrupts whoever waits for the pipe.
//!
//! ```text
//! magic "fwMI" | u32 version | u32 flags and u32 flags2 that were granted | u32 bytes of the INIT request | u32 0
//! the INIT request | what the file system writes
//! ```
//!
//! virtiofsd's server keeps what was agreed upon with the guest's kernel to itself, and does not
//! migrate it: it would misread SETXATTR and what creates something. So the guest's INIT is sent
//! along, and served once more, offering what was granted.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tracing::{error, info, warn};
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};

use super::request::{Agreed, Requests};

/// Bytes of the longest state. One of a million files has some 200 MiB.
const STATE_LEN_MAX: u64 = 4 << 30;
/// What is moved at once.
const PIECE_LEN: usize = 64 << 10;

/// How long the pipe may stay open when the frontend asks how it went: it has closed it by then, or has seen its end.
const END_WAIT: Duration = Duration::from_secs(1);

const MAGIC: [u8; 4] = *b"fwMI";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 24;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Migration {
    preparation: Mutex<Option<Preparation>>,
    transfer: Mutex<Option<Transfer>>,
}

struct Preparation {
    thread: JoinHandle<()>,
    cancel: Arc<AtomicBool>,
}

struct Transfer {
    thread: JoinHandle<io::Result<()>>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
    /// An eventfd: the pipe is not to be waited for any longer.
    cancel: Arc<OwnedFd>,
}

impl Migration {
    /// The frontend has said whether memory is logged: whether a migration is going on.
    pub(super) fn logging<F>(&self, on: bool, requests: &Arc<Requests<F>>)
    where
        F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
    {
        let mut preparation = lock(&self.preparation);
        if !on {
            if let Some(begun) = preparation.take() {
                info!("the migration has been cancelled");
                begun.cancel();
            }
        } else if preparation.is_none() {
            let (requests, cancel) = (Arc::clone(requests), Arc::new(AtomicBool::new(false)));
            let cancelled = Arc::clone(&cancel);
            let prepare = move || requests.prepare_serialization(cancelled);
            match thread::Builder::new().name("migration".to_owned()).spawn(prepare) {
                Ok(thread) => {
                    info!("a migration begins");
                    *preparation = Some(Preparation { thread, cancel });
                }
                // Then it is done when the state is asked for.
                Err(error) => warn!(%error, "a migration cannot be prepared"),
            }
        }
    }

    /// The frontend asks for the state, or has one.
    ///
    /// # Errors
    /// When that cannot begin. Later ones are told by [`Migration::outcome`].
    pub(super) fn begin<F>(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        pipe: File,
        requests: &Arc<Requests<F>>,
    ) -> io::Result<()>
    where
        F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
    {
        if phase != VhostTransferStatePhase::STOPPED {
            return Err(other(format!("a state cannot be moved in phase {phase:?}")));
        }
        let mut transfer = lock(&self.transfer);
        if let Some(before) = transfer.take() {
            before.abandon();
        }
        let preparation = lock(&self.preparation).take();
        let cancel = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let pipe = Pipe::new(pipe, Arc::clone(&cancel))?;
        let requests = Arc::clone(requests);
        let (end, ended) = channel::<()>();
        let thread = thread::Builder::new().name("migration".to_owned()).spawn(move || {
            let _end = end;
            match direction {
                VhostTransferStateDirection::SAVE => save(preparation, &requests, pipe),
                VhostTransferStateDirection::LOAD => {
                    preparation.into_iter().for_each(Preparation::cancel);
                    load(&requests, pipe)
                }
            }
        })?;
        *transfer = Some(Transfer { thread, ended, cancel });
        Ok(())
    }

    /// Waits for what was begun, and says how it went. A frontend asks when it has read the state to its end, or has closed
    /// the pipe behind it: one that keeps the pipe open would be waited for here, and no other served.
    ///
    /// # Errors
    /// When the state was not moved.
    pub(super) fn outcome(&self) -> io::Result<()> {
        let transfer = lock(&self.transfer).take();
        let transfer = transfer.ok_or_else(|| other("no state is being moved"))?;
        if transfer.ended.recv_timeout(END_WAIT) == Err(RecvTimeoutError::Timeout) {
            transfer.wait_no_longer();
        }
        transfer.thread.join().unwrap_or_else(|_| Err(other("the file system has panicked")))
    }

    /// The frontend is gone: what is going on ends.
    pub(super) fn abandon(&self) {
        lock(&self.preparation).take().into_iter().for_each(Preparation::cancel);
        lock(&self.transfer).take().into_iter().for_each(Transfer::abandon);
    }
}

impl Preparation {
    fn cancel(self) {
        self.cancel.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            error!("the preparation of a migration has panicked");
        }
    }
}

impl Transfer {
    fn wait_no_longer(&self) {
        // An eventfd that already counts is as good as one that counts now.
        let _counted = rustix::io::write(&*self.cancel, &1_u64.to_ne_bytes());
    }

    fn abandon(self) {
        self.wait_no_longer();
        if let Ok(Err(error)) = self.thread.join() {
            info!(%error, "a state was not moved, and nobody asks for it any more");
        }
    }
}

fn save<F>(
    preparation: Option<Preparation>,
    requests: &Requests<F>,
    mut pipe: Pipe,
) -> io::Result<()>
where
    F: FileSystem + SerializableFileSystem + Send + Sync,
{
    match preparation {
        Some(begun) => {
            begun.thread.join().map_err(|_| other("the preparation has panicked"))?;
        }
        // A snapshot, for which no memory is logged.
        None => requests.prepare_serialization(Arc::default()),
    }
    let mut state = memfd()?;
    let Agreed { request, granted } = requests.agreed();
    let request_len = u32::try_from(request.len()).map_err(io::Error::other)?;
    state.write_all(&MAGIC)?;
    state.write_all(&VERSION.to_le_bytes())?;
    for flags in granted {
        state.write_all(&flags.to_le_bytes())?;
    }
    state.write_all(&request_len.to_le_bytes())?;
    state.write_all(&0_u32.to_le_bytes())?;
    state.write_all(&request)?;
    requests.serialize(state.try_clone()?)?;
    let len = state.seek(SeekFrom::End(0))?;
    if len > STATE_LEN_MAX {
        return Err(other("the state is too long: the guest knows too many files"));
    }
    state.rewind()?;
    pipe.take_all(&mut state)?;
    info!(len, "the state has been saved");
    Ok(())
}

fn load<F>(requests: &Requests<F>, mut pipe: Pipe) -> io::Result<()>
where
    F: FileSystem + SerializableFileSystem + Send + Sync,
{
    let mut state = memfd()?;
    pipe.give_all(&mut state)?;
    let len = state.stream_position()?;
    state.rewind()?;
    let agreed = read_header(&mut state)?;
    requests.load(&agreed, state)?;
    info!(len, "the state has been loaded");
    Ok(())
}

/// The part of a state that is the device's.
fn read_header(state: &mut File) -> io::Result<Agreed> {
    let mut header = [0; HEADER_LEN];
    state.read_exact(&mut header).map_err(|_| foreign())?;
    let (magic, rest) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(foreign());
    }
    let version = le32(rest, 0);
    if version != VERSION {
        return Err(other(format!(
            "the state is of version {version}, and this farwatch knows version {VERSION}: use the \
                same farwatch on both sides"
        )));
    }
    let granted = [le32(rest, 4), le32(rest, 8)];
    let len = usize::try_from(le32(rest, 12)).map_err(io::Error::other)?;
    if len > Agreed::REQUEST_LEN_MAX || le32(rest, 16) != 0 {
        return Err(foreign());
    }
    let mut request = vec![0; len];
    state.read_exact(&mut request).map_err(|_| other("the state ends too soon"))?;
    Ok(Agreed { request, granted })
}

fn foreign() -> io::Error {
    other("what was sent is no state of a farwatch: use the same program on both sides")
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied();
    u32::from_le_bytes(bytes.unwrap_or_default())
}

/// One end of the pipe, which is waited for only until it is cancelled. What can be moved without waiting is moved.
struct Pipe {
    file: File,
    cancel: Arc<OwnedFd>,
}

impl Pipe {
    fn new(file: File, cancel: Arc<OwnedFd>) -> io::Result<Self> {
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
        Ok(Self { file, cancel })
    }

    /// Writes all that is left of `state` into it.
    fn take_all(&mut self, state: &mut File) -> io::Result<()> {
        let mut buf = vec![0; PIECE_LEN];
        loop {
            let len = state.read(&mut buf)?;
            let mut piece = buf.get(..len).unwrap_or_default();
            if piece.is_empty() {
                return Ok(());
            }
            while !piece.is_empty() {
                let written =
                    self.retried(PollFlags::OUT, |file| rustix::io::write(file, piece))?;
                piece = piece.get(written..).unwrap_or_default();
            }
        }
    }

    /// Copies all that comes out of it.
    fn give_all(&mut self, state: &mut File) -> io::Result<()> {
        let (mut buf, mut total) = (vec![0; PIECE_LEN], 0);
        loop {
            let len = self.retried(PollFlags::IN, |file| rustix::io::read(file, &mut buf[..]))?;
            let piece = buf.get(..len).unwrap_or_default();
            if piece.is_empty() {
                return Ok(());
            }
            total += piece.len() as u64;
            if total > STATE_LEN_MAX {
                return Err(other("what was sent is too long for a state"));
            }
            state.write_all(piece)?;
        }
    }

    /// Tries until it need not wait. What has come before the cancellation is moved all the same.
    fn retried(
        &self,
        ready: PollFlags,
        mut transfer: impl FnMut(&File) -> Result<usize, Errno>,
    ) -> io::Result<usize> {
        let mut is_cancelled = false;
        loop {
            match transfer(&self.file) {
                Ok(len) => return Ok(len),
                Err(Errno::AGAIN) if is_cancelled => {
                    return Err(other("the frontend is gone, or has not moved all of the state"));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.file.as_fd(), ready),
                PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => is_cancelled = !fds[1].revents().is_empty(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn memfd() -> io::Result<File> {
    Ok(rustix::fs::memfd_create(c"farwatch-state", MemfdFlags::CLOEXEC)?.into())
}

fn other(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
