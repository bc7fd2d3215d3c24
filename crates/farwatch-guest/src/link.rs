// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Link`]: the agent's session on the control node, from hello to close.
//!
//! Opening it gives the calling thread its marks: everything that it does on the mount from then on
//! is recognised by the server and never executed there. The marks belong to the thread for the rest
//! of its life.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use farwatch_proto::wire::abi::{FARWATCH_VERSION_MIN, MARKER_UID};
use farwatch_proto::wire::control::{Delivery, Hello, Welcome};
use farwatch_proto::{Generation, Mask, Node, NodeId};
use farwatch_sys::thread::CapabilitySet;
use farwatch_sys::{handle, thread};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::Error;
use crate::root::MountRoot;

/// The capabilities that a thread keeps which replays. The others are gone when [`Link::open`] returns, for good.
///
/// - DAC_READ_SEARCH: `open_by_handle_at(2)`, by which it finds directories and files, and `linkat(2)` of a descriptor
/// - DAC_OVERRIDE: directories and files of all users
/// - FOWNER: to set times, to remove and rename in a sticky directory, and to link what is not its own
///   (`protected_hardlinks`)
/// - MKNOD: CREATE of a device node
/// - SETUID and SETGID: its marks, the fsuid, and the fsgid of each event
pub const CAPABILITIES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// The same for an agent that is fed by reads, in a virtual machine.
///
/// - SYS_ADMIN: `open_tree(2)`, by which it comes to submounts that appear, and keeps none of them from being unmounted
pub const CAPABILITIES_IN_GUEST: CapabilitySet = CAPABILITIES.union(CapabilitySet::SYS_ADMIN);

/// The first version in which an agent can ask for submounts.
const VERSION_OF_SUBMOUNTS: u16 = 3;

/// See the module's documentation.
#[derive(Debug)]
pub struct Link {
    control: OwnedFd,
    welcome: Welcome,
}

impl Link {
    /// Marks the calling thread, says hello and reads the welcome, which proves that both marks
    /// arrive at the server.
    ///
    /// # Errors
    /// See [`Error`]. Nothing has been replayed then, and nothing may be.
    pub fn open(root: &MountRoot, delivery: Delivery) -> Result<Self, Error> {
        let keep = match delivery {
            Delivery::Reads => CAPABILITIES_IN_GUEST,
            Delivery::Queue => CAPABILITIES,
        };
        thread::set_fsuid(MARKER_UID)
            // The number of a notification: whether it can be changed at all shows now, or never.
            .and_then(|()| thread::set_fsgid(1))
            .and_then(|()| thread::set_fsgid(0))
            .and_then(|()| thread::keep_capabilities(keep))
            .map_err(Error::Marks)?;
        let control = open_control(root)?;
        let control_error = |errno: Errno| Error::Control(errno.into());
        say_hello(&control, delivery).map_err(control_error)?;
        let mut frame = [0; Welcome::LEN];
        let len = rustix::io::read(&control, &mut frame).map_err(control_error)?;
        let frame = frame.get(..len).unwrap_or_default();
        let welcome = Welcome::decode(frame).map_err(Error::Welcome)?;
        if !welcome.marks_proved {
            return Err(Error::NotProved);
        }
        // S12: who wants FAN_RENAME has to know that there is none.
        if welcome.rename_pairs {
            tracing::info!("the server reports both names of a rename");
        } else {
            tracing::warn!(
                "the server cannot report both names of a rename: its halves are separate \
                 events, and there is no FAN_RENAME"
            );
        }
        Ok(Self { control, welcome })
    }

    /// What the server said.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// Submounts are told from version 3 on, and no driver but virtiofs has any. A server that knows no such version refuses the
/// hello, and has not taken it for one.
fn say_hello(control: &OwnedFd, delivery: Delivery) -> Result<(), Errno> {
    let say = |version, submounts| {
        let (version_min, version_max) = (version, version);
        let events = Mask::DEFAULT | Mask::READS;
        let hello = Hello { version_min, version_max, delivery, raises: false, submounts, events };
        rustix::io::write(control, &hello.encode()).map(drop)
    };
    if delivery == Delivery::Queue {
        return say(FARWATCH_VERSION_MIN, false);
    }
    match say(VERSION_OF_SUBMOUNTS, true) {
        Err(Errno::INVAL | Errno::PROTONOSUPPORT) => say(FARWATCH_VERSION_MIN, false),
        said => said,
    }
}

fn open_control(root: &MountRoot) -> Result<OwnedFd, Error> {
    let node = Node { id: NodeId::CONTROL, generation: Generation(0) };
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let handle = handle::fuse_handle(node);
    handle::open(root.as_fd(), handle::FUSE_HANDLE_TYPE, &handle, flags).map_err(
        |error| match error.errno() {
            Errno::BUSY => Error::Busy,
            _ => Error::NoControlNode(error),
        },
    )
}
