// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control node: a file that no directory lists, by which an agent makes itself known.
//!
//! Opening it registers the thread, writing a hello and reading the welcome begins the session,
//! closing it ends it: `docs/PROTOCOL.md`. There is one agent at a time. What is decided about it is
//! the engine's; this is the file.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farwatch_proto::wire::Notification;
use farwatch_proto::wire::abi::MARKER_UID;
use farwatch_proto::wire::control::{Delivery, Hello, Welcome};
use farwatch_proto::{FileKind, Generation, NodeId, Seq};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use virtiofsd::filesystem::{Context, Entry, OpenOptions, ZeroCopyReader, ZeroCopyWriter};
use virtiofsd::soft_idmap::Id;

use super::{Handle, attr};
use crate::device::may_wait;
use crate::share::Share;

/// How long a READ waits for the first notification: an agent that is to end can be kept from it so
/// long, and one that was killed from being followed by another.
const READ_WAIT: Duration = Duration::from_millis(500);
/// The most bytes that one READ returns. So many notifications are far fewer than the engine keeps
/// answers for.
const READ_LEN_MAX: usize = 64 << 10;

/// File handles from here up are ours: the file server counts its own from 0.
const HANDLE_MIN: Handle = 1 << 62;
/// The handle of every file that a replay has opened: it stands for no file on the host.
pub(super) const REPLAY_HANDLE: Handle = HANDLE_MIN;

/// The same for a directory.
pub(super) const REPLAY_DIR_HANDLE: Handle = HANDLE_MIN << 1;

/// Whether a file handle is the control node's or a replay's.
pub(super) fn is_ours(handle: Handle) -> bool {
    handle >= HANDLE_MIN
}

/// The reply that makes the node known. Its generation is 0 by definition: an agent has to know its
/// handle before it has heard anything.
pub(super) fn entry() -> Entry {
    let attr = attr::of_reserved(NodeId::CONTROL, true).unwrap_or_default();
    attr::passing(NodeId::CONTROL, Generation(0), attr)
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Control {
    session: Mutex<Session>,
}

#[derive(Debug, Default)]
struct Session {
    /// The handle of the open file; the next one is higher, so that a late RELEASE of an earlier
    /// agent's ends nobody else's session.
    handle: Option<Handle>,
    opened: u64,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Waits for the hello.
    #[default]
    Opened,
    /// Has the hello; the version is agreed.
    Greeted { version: u16, hello: Hello },
    /// The welcome has been read. Reads of this link return notifications.
    Welcomed { reads: Option<u64> },
}

impl Session {
    /// The node has been opened: the reply.
    fn begin(&mut self, state: State) -> (Option<Handle>, OpenOptions) {
        self.opened += 1;
        self.handle = Some(HANDLE_MIN + self.opened);
        self.state = state;
        (self.handle, OpenOptions::DIRECT_IO | OpenOptions::NOFLUSH)
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session of the file system ends, and the agent's with it.
    pub(super) fn close(&self) {
        self.lock().handle = None;
    }

    /// How often the node has been opened, on this host and those before.
    pub(super) fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// The session was one on another host: no handle of that is any good here, and none is given out
    /// again, since the guest's kernel closes the old one after it has opened a new one.
    pub(super) fn load(&self, opened: u64) {
        let mut session = self.lock();
        session.handle = None;
        session.opened = session.opened.max(opened);
    }

    /// OPEN: registers the thread. It must come with the marker uid, which proves that it is the
    /// guest's root and that uids arrive at all.
    pub(super) fn open(
        &self,
        share: &Share,
        ctx: &Context,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        if share.is_kernel(ctx.uid.into_inner(), ctx.pid) {
            return self.open_by_kernel(share);
        }
        if ctx.uid.into_inner() != MARKER_UID {
            return Err(Errno::PERM.into());
        }
        // 0 is what the kernel sends for a thread outside of the mount's pid namespace, and for nobody.
        let tid = u32::try_from(ctx.pid).ok().filter(|tid| *tid != 0).ok_or(Errno::INVAL)?;
        let mut session = self.lock();
        share.attach(tid).map_err(|_| Errno::BUSY)?;
        tracing::info!(tid, "an agent has opened the control node");
        Ok(session.begin(State::Opened))
    }

    /// The same by the guest's kernel, which takes notifications itself and has said so at INIT: its reads return
    /// them from the first one on.
    fn open_by_kernel(&self, share: &Share) -> io::Result<(Option<Handle>, OpenOptions)> {
        let mut session = self.lock();
        let link = share.kernel_reads().ok_or(Errno::BUSY)?;
        tracing::info!("the guest's kernel raises events itself, and reads the notifications");
        Ok(session.begin(State::Welcomed { reads: Some(link) }))
    }

    /// WRITE: the hello.
    pub(super) fn write<R: ZeroCopyReader>(
        &self,
        handle: Handle,
        mut reader: R,
        size: u32,
    ) -> io::Result<usize> {
        let mut session = self.lock();
        if session.handle != Some(handle) || !matches!(session.state, State::Opened) {
            return Err(Errno::BADF.into());
        }
        if usize::try_from(size) != Ok(Hello::LEN) {
            return Err(Errno::INVAL.into());
        }
        let frame = memfd()?;
        reader.write_to_file_at(&frame, Hello::LEN, 0, None)?;
        let mut bytes = [0; Hello::LEN];
        rustix::io::pread(&frame, &mut bytes, 0)?;
        let hello = Hello::decode(&bytes).map_err(|_| Errno::INVAL)?;
        let version = hello.negotiate().ok_or(Errno::PROTONOSUPPORT)?;
        session.state = State::Greeted { version, hello };
        Ok(Hello::LEN)
    }

    /// READ: the welcome, then notifications. `proved` says that this very request carries both
    /// marks; only then does the session begin.
    pub(super) fn read<W: ZeroCopyWriter>(
        &self,
        share: &Share,
        handle: Handle,
        proved: bool,
        mut writer: W,
        size: u32,
    ) -> io::Result<usize> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut session = self.lock();
        if session.handle != Some(handle) {
            return Err(Errno::BADF.into());
        }
        let (version, hello) = match session.state {
            State::Greeted { version, hello } => (version, hello),
            State::Welcomed { reads: Some(link) } => {
                // Whoever opens or closes the node does not wait for this.
                drop(session);
                return read_notifications(share, link, writer, size);
            }
            State::Opened | State::Welcomed { reads: None } => return Err(Errno::AGAIN.into()),
        };
        if size < Welcome::LEN {
            return Err(Errno::INVAL.into());
        }
        let welcome = Welcome {
            version,
            rename_pairs: share.pairs_renames(),
            marks_proved: proved,
            events: share.events(),
            next_seq: Seq::FIRST,
            generation: share.generation(),
            control: NodeId::CONTROL,
            limbo: NodeId::LIMBO,
        };
        let len = send(&mut writer, &welcome.encode())?;
        let link = if proved { share.listen(&hello) } else { None };
        let reads = link.filter(|_| hello.delivery == Delivery::Reads);
        session.state = State::Welcomed { reads };
        if proved {
            let Hello { delivery, raises, submounts, .. } = hello;
            tracing::info!(
                version,
                ?delivery,
                raises,
                submounts,
                "agent attached: notifications begin"
            );
        } else {
            tracing::warn!("the agent's tags do not arrive together: it receives nothing");
        }
        Ok(len)
    }

    /// RELEASE: of the agent's descriptor, or of a file that a replay has opened.
    pub(super) fn release(&self, share: &Share, handle: Handle) {
        let mut session = self.lock();
        if session.handle == Some(handle) {
            session.handle = None;
            share.detach();
            tracing::info!("the agent has closed the control node");
        }
    }
}

fn read_notifications<W: ZeroCopyWriter>(
    share: &Share,
    link: u64,
    mut writer: W,
    size: usize,
) -> io::Result<usize> {
    if size < Notification::LEN_MAX {
        return Err(Errno::INVAL.into());
    }
    let deadline = if may_wait() { Instant::now().checked_add(READ_WAIT) } else { None };
    let bytes = share.read(link, size.min(READ_LEN_MAX), deadline);
    if bytes.is_empty() { Ok(0) } else { send(&mut writer, &bytes) }
}

/// What a replay reads from a file.
pub(super) fn send_byte<W: ZeroCopyWriter>(mut writer: W, size: u32) -> io::Result<usize> {
    if size == 0 { Ok(0) } else { send(&mut writer, &[0]) }
}

fn send<W: ZeroCopyWriter>(writer: &mut W, bytes: &[u8]) -> io::Result<usize> {
    let frame = memfd()?;
    rustix::io::pwrite(&frame, bytes, 0)?;
    writer.read_from_file_at(&frame, bytes.len(), 0, None)
}

/// The library moves data between a request and a file, and nothing else.
fn memfd() -> io::Result<std::fs::File> {
    Ok(rustix::fs::memfd_create(c"farwatch-frame", MemfdFlags::CLOEXEC)?.into())
}

/// The directory into which replay moves what leaves the guest's view.
pub(super) fn limbo(generation: Generation) -> Entry {
    let attr = attr::phantom(NodeId::LIMBO, FileKind::Directory);
    attr::passing(NodeId::LIMBO, generation, attr)
}
