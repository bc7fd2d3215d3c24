// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Superblocks`]: a share, and the submounts that the guest's kernel has made in it where the server has announced that
//! something is mounted (`--announce-submounts`).
//!
//! Each is a superblock of its own, with inodes and watches of its own; so an event is replayed in each that has its
//! submount. They are found in the mount table, which is looked at again before an event of a submount is replayed if it has
//! changed: who watches there has come there before the event.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd;

use farwatch_proto::guest::join::Joined;
use farwatch_proto::wire::abi::{FARWATCH_AGAIN_NAME, FARWATCH_NOWHERE_NAME};
use farwatch_proto::{GuestEvent, Node, Submount};
use farwatch_sys::{handle, mountinfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;
use crate::replay::{Outcome, Replayer};
use crate::root::MountRoot;
use crate::submounts::{self, Device};

/// See the module's documentation.
#[derive(Debug)]
pub struct Superblocks {
    share: Replayer,
    submounts: Vec<Held>,
    /// The mount table, once it has been looked at.
    table: Option<File>,
}

/// A superblock of a submount.
#[derive(Debug)]
struct Held {
    device: Device,
    submount: Submount,
    replayer: Replayer,
}

impl Superblocks {
    /// The most that are kept. In further ones, those that are found last, nothing is told.
    pub const LEN_MAX: usize = 1024;

    /// The share whose mount `root` is open on.
    pub fn new(root: MountRoot) -> Self {
        Self { share: Replayer::new(root, Node::ROOT), submounts: Vec::new(), table: None }
    }

    /// The mount of the share itself.
    pub fn root(&self) -> &MountRoot {
        self.share.root()
    }

    /// Closes what is kept open, since the closes on the host will not be told.
    pub fn close_files(&mut self) {
        self.share.close_files();
        self.submounts.iter_mut().for_each(|held| held.replayer.close_files());
    }

    /// Replays one event.
    pub fn replay(&mut self, joined: &Joined) -> Outcome {
        match joined.submount {
            None if joined.event == GuestEvent::Overflow => {
                self.close_files();
                Outcome::default()
            }
            // Of a node without a name it is not known where it is.
            None if joined.event.is_end() => {
                let outcome = self.share.replay(joined);
                replay_in(&mut self.submounts.iter_mut(), joined, outcome, true)
            }
            None => self.share.replay(joined),
            Some(submount) => {
                if let Err(error) = self.look() {
                    tracing::warn!(%error, "the mount table cannot be read");
                }
                let mut held =
                    self.submounts.iter_mut().filter(|held| held.submount == submount).peekable();
                if held.peek().is_none() {
                    self.share.look_up(joined.seq, FARWATCH_NOWHERE_NAME);
                }
                replay_in(&mut held, joined, Outcome::default(), false)
            }
        }
    }

    /// Lets go of submounts that nobody in the guest has mounted any more. To be called now and then: until then they stay.
    pub(crate) fn release(&mut self) {
        if !self.submounts.is_empty()
            && let Err(error) = self.look()
        {
            tracing::warn!(%error, "the mount table cannot be read");
        }
    }

    /// Takes over what the mount table has, if it has changed.
    fn look(&mut self) -> io::Result<()> {
        let table = match &mut self.table {
            Some(table) if !has_changed(table)? => return Ok(()),
            Some(table) => table,
            table @ None => table.insert(File::open(mountinfo::PATH)?),
        };
        let mut text = Vec::new();
        table.rewind()?;
        table.read_to_end(&mut text)?;
        let mounts: Vec<_> = mountinfo::mounts(&text).collect();
        let share = self.share.root().device().map_err(io::Error::other)?;
        let found = submounts::find(&mounts, share);
        self.submounts.retain(|held| found.iter().any(|mount| mount.device == held.device));
        for mount in found {
            let is_held = self.submounts.iter().any(|held| held.device == mount.device);
            if is_held || self.submounts.len() >= Self::LEN_MAX {
                continue;
            }
            match Held::open(mount) {
                Ok(held) => self.submounts.push(held),
                // It may have gone, or be covered by another mount.
                Err(error) => tracing::debug!(%error, ?mount, "a submount is not there"),
            }
        }
        Ok(())
    }
}

impl Held {
    fn open(mount: &mountinfo::Mount) -> Result<Self, Error> {
        let root = MountRoot::open_on(&mount.mount_point, mount.device)?;
        let top = handle::fuse_node(root.as_fd()).map_err(Error::NoControlNode)?;
        let submount = Submount::of(top.id);
        tracing::info!(mount_point = %mount.mount_point.display(), "events are delivered there, too");
        Ok(Self { device: mount.device, submount, replayer: Replayer::new(root, top) })
    }
}

/// Replays in some superblocks. The server is told before each but the very first, which the replay may have been in already.
fn replay_in(
    held: &mut dyn Iterator<Item = &mut Held>,
    joined: &Joined,
    mut outcome: Outcome,
    mut is_again: bool,
) -> Outcome {
    for Held { replayer, .. } in held {
        if std::mem::replace(&mut is_again, true) {
            replayer.look_up(joined.seq, FARWATCH_AGAIN_NAME);
        }
        outcome = outcome.and(replayer.replay(joined));
    }
    outcome
}

/// Whether the mount table has changed since this was asked last, or since it was opened (`mounts_poll()`).
fn has_changed(table: &File) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds[0].revents().contains(PollFlags::PRI))
}
