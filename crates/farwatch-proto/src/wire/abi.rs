// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What travels, byte by byte: structs and constants in the kernel's spelling, so that a search for
//! a name of `include/uapi/linux/fuse.h` ends here.
//!
//! Nothing is checked here; [`Notification`](super::Notification) and [`control`](super::control)
//! turn these into typed values. Every private number of the protocol is in this file, except the
//! reserved nodeids ([`NodeId`](crate::NodeId)).
//!
//! FUSE speaks the guest's byte order. farwatch serves little-endian guests only, on any host: the
//! fields are little-endian types of `zerocopy`, without alignment, so a message can be read where
//! it lies.

use std::mem::offset_of;

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Notify code, `fuse_out_header.error` of a notification. Private: the kernel's codes go up from 1
/// (9 in 7.45), and a kernel that does not know the code refuses it with EINVAL.
pub const FUSE_NOTIFY_FSNOTIFY: i32 = 0x4657;

/// Bit of `fuse_init_in.flags | flags2 << 32`: the guest's kernel takes [`FUSE_NOTIFY_FSNOTIFY`].
/// Private: the kernel's bits go up from 0 (42 in 7.45).
pub const FUSE_HAVE_FSNOTIFY: u64 = 1 << 62;
/// The same as it stands in `flags2`.
pub const FUSE_HAVE_FSNOTIFY2: u32 = (FUSE_HAVE_FSNOTIFY >> 32) as u32;

/// Opcode: the guest's kernel says what is watched. Private: the kernel's opcodes go up from 1 (53 in 7.45), and
/// the two of CUSE and byte-swapped INIT are 4096 and 2^24 times 26.
pub const FUSE_FSNOTIFY: u32 = 0x4657;

/// Number of the feature bit by which the device offers its notification queue (virtio 1.2
/// §5.11.3).
pub const VIRTIO_FS_F_NOTIFICATION: u32 = 0;

/// Bytes of the longest notification: both structs and a name of NAME_MAX bytes. What the device
/// announces as `notify_buf_size` (virtio 1.2 §5.11.4).
pub const NOTIFY_BUF_SIZE: usize = 319;

/// Flag: this is one half of a rename, and the other half bears the same cookie (S7).
pub const FUSE_FSNOTIFY_PAIRED: u32 = 1 << 0;
/// Flag: `child_nodeid` and `child_generation` are set (S2).
pub const FUSE_FSNOTIFY_CHILD: u32 = 1 << 1;
/// Flag: the created entry is a further name of the child, which was there before (`link(2)`).
pub const FUSE_FSNOTIFY_LINK: u32 = 1 << 2;
/// The bits of `flags` that hold the object's `DT_*` number.
pub const FUSE_FSNOTIFY_KIND_MASK: u32 = 0xf << FUSE_FSNOTIFY_KIND_SHIFT;
/// Where that number begins.
pub const FUSE_FSNOTIFY_KIND_SHIFT: u32 = 8;

/// The fsuid of an agent's thread, `fuse_in_header.uid`. No account has it, and it is not (uid_t)-1,
/// which `setfsuid(2)` does not take.
pub const MARKER_UID: u32 = 0xffff_fffd;

/// The lowest version of the control frames and of what follows them.
pub const FARWATCH_VERSION_MIN: u16 = 1;
/// The highest. Version 2 gives `flags` of a hello their meaning, version 3 has one more of them.
pub const FARWATCH_VERSION_MAX: u16 = 3;
/// Flag of a hello, from version 2 on: the client's kernel raises the events itself, nothing is replayed.
pub const FARWATCH_HELLO_RAISES: u32 = 1 << 0;
/// Flag of a hello, from version 3 on: notifications are to say in which announced submount they are to be replayed.
pub const FARWATCH_HELLO_SUBMOUNTS: u32 = 1 << 1;
/// The name under which an agent looks up the limbo directory, in the root of a superblock. Nobody else finds it.
pub const FARWATCH_LIMBO_NAME: &[u8] = b".farwatch-limbo";
/// An agent looks this name up before it replays a notification once more, in another superblock of the same submount.
pub const FARWATCH_AGAIN_NAME: &[u8] = b".farwatch-again";
/// An agent looks this name up instead of replaying a notification: it has no superblock of that submount.
pub const FARWATCH_NOWHERE_NAME: &[u8] = b".farwatch-nowhere";
/// First bytes of a hello.
pub const FARWATCH_HELLO_MAGIC: u32 = u32::from_le_bytes(*b"fwHE");
/// First bytes of a welcome.
pub const FARWATCH_WELCOME_MAGIC: u32 = u32::from_le_bytes(*b"fwWE");
/// `delivery` of a hello: notifications are to come through the notification queue.
pub const FARWATCH_DELIVERY_QUEUE: u32 = 0;
/// `delivery` of a hello: notifications are to come as answers to reads on the control node.
pub const FARWATCH_DELIVERY_READS: u32 = 1;
/// Flag of a welcome: the server can give both names of a rename (S12, S13).
pub const FARWATCH_WELCOME_RENAME_PAIRS: u16 = 1 << 0;
/// Flag of a welcome: the read that fetched it arrived with both marks, so replay is safe.
pub const FARWATCH_WELCOME_MARKS_PROVED: u16 = 1 << 1;

/// The head of every message from server to client.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct fuse_out_header {
    /// Bytes of the message, this header included.
    pub len: U32,
    /// The notify code, positive, where a reply has its errno.
    pub error: I32,
    /// 0: an answer to no request.
    pub unique: U64,
}

/// The body of a notification; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct fuse_notify_fsnotify_out {
    /// The directory for an event with a name, else the object; 0 for an overflow.
    pub nodeid: U64,
    /// The generation of `nodeid`, as sent in its `fuse_entry_out`.
    pub generation: U32,
    /// The announced submount in which it is to be replayed, for an agent that has asked for that; else 0.
    pub reserved: U32,
    /// `FS_*` bits.
    pub mask: U64,
    /// Bytes of the name.
    pub namelen: U32,
    /// Joins two halves; 0 for none.
    pub cookie: U32,
    /// `FUSE_FSNOTIFY_*`.
    pub flags: U32,
    /// The generation of `child_nodeid`.
    pub child_generation: U32,
    /// The object that the entry names.
    pub child_nodeid: U64,
}

/// The body of FUSE_FSNOTIFY.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct fuse_fsnotify_in {
    /// `FS_*` bits of all marks on the node; 0 when it is watched no more.
    pub mask: U64,
    /// The generation of the node, as sent in its `fuse_entry_out`.
    pub generation: U32,
    /// 0.
    pub reserved: U32,
}

/// The body of its answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct fuse_fsnotify_out {
    /// `FS_*` bits that the server can deliver for the node.
    pub mask: U64,
    /// 0.
    pub reserved: U64,
}

/// The `ioctl(2)` by which a program asks how far a barrier is: `_IOWR('w', 1, struct farwatch_sync)`.
pub const FARWATCH_IOC_SYNC: u32 = 0xc010_7701;
/// `state` of an answer: all that happened before has been replayed.
pub const FARWATCH_SYNC_REACHED: u32 = 0;
/// `state`: the watcher has not taken in all that happened before.
pub const FARWATCH_SYNC_UNREAD: u32 = 1;
/// `state`: directories of which events were given up are yet to be compared.
pub const FARWATCH_SYNC_STALE: u32 = 2;
/// `state`: the agent has not replayed it all.
pub const FARWATCH_SYNC_SENT: u32 = 3;

/// What an agent writes to the control node first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct farwatch_hello {
    /// [`FARWATCH_HELLO_MAGIC`].
    pub magic: U32,
    /// The lowest version that the agent speaks.
    pub version_min: U16,
    /// The highest.
    pub version_max: U16,
    /// `FARWATCH_DELIVERY_*`.
    pub delivery: U32,
    /// `FARWATCH_HELLO_*`; 0 in version 1.
    pub flags: U32,
    /// `FS_*` bits that the agent wants.
    pub events: U64,
    /// 0.
    pub reserved2: U64,
}

/// The server's answer, which the agent reads from the control node.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct farwatch_welcome {
    /// [`FARWATCH_WELCOME_MAGIC`].
    pub magic: U32,
    /// The version to speak from now on.
    pub version: U16,
    /// `FARWATCH_WELCOME_*`.
    pub flags: U16,
    /// `FS_*` bits that the server can deliver.
    pub events: U64,
    /// The number of the first notification to come.
    pub next_seq: U32,
    /// The generation of every reserved nodeid but the control node's, which is 0.
    pub generation: U32,
    /// The nodeid of the control node.
    pub control_nodeid: U64,
    /// The nodeid of the limbo directory.
    pub limbo_nodeid: U64,
    /// 0.
    pub reserved: U64,
}

/// `struct fuse_ioctl_in`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct fuse_ioctl_in {
    /// Of the open file.
    pub fh: U64,
    /// `FUSE_IOCTL_*`.
    pub flags: U32,
    /// [`FARWATCH_IOC_SYNC`].
    pub cmd: U32,
    /// The argument, an address in the program.
    pub arg: U64,
    /// Bytes that follow.
    pub in_size: U32,
    /// Bytes that the program takes.
    pub out_size: U32,
}

/// `struct fuse_ioctl_out`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct fuse_ioctl_out {
    /// What the call returns.
    pub result: I32,
    /// 0.
    pub flags: U32,
    /// 0.
    pub in_iovs: U32,
    /// 0.
    pub out_iovs: U32,
}

/// Argument of [`FARWATCH_IOC_SYNC`], question and answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct farwatch_sync {
    /// The barrier, 0 in the first question.
    pub ticket: U64,
    /// 0 in a question, `FARWATCH_SYNC_*` in an answer.
    pub state: U32,
    /// Directories that are known and not watched; 0 in the call.
    pub unwatched: U32,
}

const _: () = {
    assert!(size_of::<fuse_ioctl_in>() == 32);
    assert!(size_of::<fuse_ioctl_out>() == 16);
    assert!(size_of::<farwatch_sync>() == 16);
    assert!(FARWATCH_IOC_SYNC == 3 << 30 | 16 << 16 | (b'w' as u32) << 8 | 1);

    assert!(size_of::<fuse_out_header>() == 16);
    assert!(offset_of!(fuse_out_header, error) == 4);
    assert!(offset_of!(fuse_out_header, unique) == 8);

    assert!(size_of::<fuse_notify_fsnotify_out>() == 48);
    assert!(offset_of!(fuse_notify_fsnotify_out, generation) == 8);
    assert!(offset_of!(fuse_notify_fsnotify_out, reserved) == 12);
    assert!(offset_of!(fuse_notify_fsnotify_out, mask) == 16);
    assert!(offset_of!(fuse_notify_fsnotify_out, namelen) == 24);
    assert!(offset_of!(fuse_notify_fsnotify_out, cookie) == 28);
    assert!(offset_of!(fuse_notify_fsnotify_out, flags) == 32);
    assert!(offset_of!(fuse_notify_fsnotify_out, child_generation) == 36);
    assert!(offset_of!(fuse_notify_fsnotify_out, child_nodeid) == 40);

    assert!(size_of::<farwatch_hello>() == 32);
    assert!(offset_of!(farwatch_hello, delivery) == 8);
    assert!(offset_of!(farwatch_hello, events) == 16);
    assert!(size_of::<farwatch_welcome>() == 48);
    assert!(offset_of!(farwatch_welcome, events) == 8);
    assert!(offset_of!(farwatch_welcome, next_seq) == 16);
    assert!(offset_of!(farwatch_welcome, control_nodeid) == 24);
    assert!(offset_of!(farwatch_welcome, limbo_nodeid) == 32);

    let head = size_of::<fuse_out_header>() + size_of::<fuse_notify_fsnotify_out>();
    assert!(NOTIFY_BUF_SIZE == head + crate::Name::LEN_MAX);
};
