// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Moving to another host: the state of the interposer, in front of that of the library.
//!
//! ```text
//! u64 bytes of ours | u64 bytes of the library's | ours (`farwatch_proto::host::State`) | the library's
//! ```
//!
//! The device hands in a file of a bounded length, which can be sought in; the way to the other host
//! is its affair.
//!
//! The library finds the guest's files again, by the nodeids that the guest knows them by. What it
//! does not tell is how this host names them to fanotify. So each node is looked for where the guest
//! believes it to be, and taken for it if it is the same that the library has; directories are opened
//! through the library, wherever they are. They are marked at once. What had changed before is in
//! nobody's queue: every directory is stale, and its difference is told to the next agent.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use farwatch_proto::host::{State, StateError};
use farwatch_proto::{FileKind, Name, NodeId};
use rustix::io::Errno;
use virtiofsd::filesystem::{Entry, FileSystem, SerializableFileSystem};

use super::{Interposer, identify, own_context};

impl Interposer {
    /// Writes the state to `file`, from where it stands.
    pub(super) fn save(&self, mut file: File) -> io::Result<()> {
        self.check_opens()?;
        let own = self.share.save(self.control.opened()).encode();
        let start = file.stream_position()?;
        file.write_all(&(own.len() as u64).to_le_bytes())?;
        file.write_all(&[0; 8])?;
        file.write_all(&own)?;
        let library = file.stream_position()?;
        self.inner.serialize(file.try_clone()?)?;
        let len = file.seek(SeekFrom::End(0))? - library;
        file.write_all_at(&len.to_le_bytes(), start + 8)
    }

    /// What the guest has open and has no name on the host is not found by another one.
    fn check_opens(&self) -> io::Result<()> {
        if self.may_lose_opens {
            return Ok(());
        }
        let ctx = own_context();
        let is_deleted = |inode: &u64| match self.inner.getattr(ctx, *inode, None) {
            Ok((attr, _)) => attr.nlink == 0,
            Err(error) => Errno::from_io_error(&error) == Some(Errno::STALE),
        };
        match self.opens.inodes().iter().filter(|inode| is_deleted(inode)).count() {
            0 => Ok(()),
            lost => Err(io::Error::other(format!(
                "the guest has {lost} deleted files open, which it would lose: have them closed, or move it without them \
                 (--migration-on-error guest-error)"
            ))),
        }
    }

    /// Takes a state over that stands in `file`, from where it stands.
    pub(super) fn load(&self, mut file: File) -> io::Result<()> {
        // All that can be seen to be wrong is seen before anything changes.
        let state = read(&mut file).map_err(io::Error::other)?;
        self.inner.deserialize_and_apply(file)?;
        self.control.load(state.control_opened());
        self.share.load(state, identify::root(&self.share, &self.root));
        self.find_again();
        Ok(())
    }

    /// Finds what the host has for the nodes that were loaded, a directory before what is in it.
    fn find_again(&self) {
        let mut found = BTreeSet::from([NodeId::ROOT]);
        let mut dirs = VecDeque::from([NodeId::ROOT]);
        let nameless = self.share.nameless();
        for id in nameless {
            let kind = self.share.kind(id).unwrap_or_default();
            // There is no place to look for anything else.
            if kind == FileKind::Directory && self.find_node(id, None, kind) && found.insert(id) {
                dirs.push_back(id);
            }
        }
        while let Some(dir) = dirs.pop_front() {
            let entries = self.share.entries_in(dir);
            for (id, name, kind) in entries {
                if found.contains(&id) || !self.find_node(id, Some((dir, &name)), kind) {
                    continue;
                }
                found.insert(id);
                if kind == FileKind::Directory {
                    dirs.push_back(id);
                }
            }
        }
    }

    /// Finds one, if it is (still) there.
    fn find_node(&self, id: NodeId, place: Option<(NodeId, &Name)>, kind: FileKind) -> bool {
        let ctx = own_context();
        let Ok((attr, _)) = self.inner.getattr(ctx, id.get(), None) else {
            // The library has not found it either, and was told that the guest can live with that.
            return false;
        };
        if FileKind::from_mode(attr.mode) != kind {
            // Another object, whatever it is called.
            return false;
        }
        let ino = attr.ino;
        let timeout = Duration::ZERO;
        let entry = Entry {
            inode: id.get(),
            generation: 0,
            attr,
            attr_timeout: timeout,
            entry_timeout: timeout,
        };
        let identity = match place {
            Some((dir, name)) => self.identify(dir, name, &entry),
            None => self.identify_nameless(&entry),
        };
        match identity {
            Some(identity) => {
                self.share.identify(id, ino, identity);
                true
            }
            None => {
                if kind == FileKind::Directory {
                    self.share.unidentified(id);
                }
                false
            }
        }
    }
}

/// Our part of the state, when the library's follows and nothing else.
fn read(file: &mut File) -> Result<State, Unread> {
    let mut lengths = [0; 16];
    file.read_exact(&mut lengths).map_err(|_| StateError::Short)?;
    let (own, library) = (le64(&lengths, 0), le64(&lengths, 8));
    let left = file.metadata()?.len().saturating_sub(file.stream_position()?);
    if own.checked_add(library) != Some(left) {
        return Err(StateError::Short.into());
    }
    let mut bytes = Vec::new();
    file.take(own).read_to_end(&mut bytes)?;
    Ok(State::decode(&bytes)?)
}

/// Why there is no state in a file.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("the state cannot be read")]
    File(#[from] io::Error),
    #[error(transparent)]
    State(#[from] StateError),
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied();
    u64::from_le_bytes(bytes.unwrap_or_default())
}
