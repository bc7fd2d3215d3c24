// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`plan()`]: which system calls make the guest's kernel raise an event.
//!
//! Each call is the one that would cause the event on a local file system, in the form that would do
//! the least if a server executed it: an exclusive create, times set to what they are, an open that
//! writes nothing. The table of [`replay`] says which call that is; this adds the arguments. The server
//! answers it without executing it (`docs/PROTOCOL.md`). Whoever carries the plan out adds nothing and
//! leaves nothing out; a call that fails is skipped.

use crate::replay::{self, CallKind};
use crate::{Entry, FileKind, GuestEvent, Mask, Node};

/// One system call on an entry or object of the mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// `mkdirat(2)`, `symlinkat(2)` or `mknodat(2)`, by the type: raises CREATE.
    Create(Entry, FileKind),
    /// A regular file that was made and closed: an exclusive `open(2)` that makes and opens it for writing, `futimens(2)`
    /// for MODIFY and ATTRIB among the bits of [`Mask::CONTENT`], and `close(2)`. That raises CREATE, OPEN, and
    /// CLOSE_WRITE at last, by fewer requests than [`Call::Create`] and [`Call::Content`], which are made if it fails.
    CreateAndClose(Entry, Mask),
    /// `linkat(2)`: raises CREATE in the directory and ATTRIB on the object. An object that has lost
    /// its other names since cannot be linked any more: then the entry is created, with the type.
    Link(Node, Entry, FileKind),
    /// What comes to an object without changing its name: bits of [`Mask::CONTENT`] and
    /// [`Mask::READS`], with ISDIR for a directory. [`Opens`](super::opens::Opens) has the steps.
    Content(Target, Mask),
    /// `unlinkat(2)`, with `AT_REMOVEDIR` when true: raises DELETE, and DELETE_SELF with the last
    /// name.
    Remove(Entry, bool),
    /// `renameat2(2)`: raises MOVED_FROM and MOVED_TO with one cookie, and MOVE_SELF.
    Rename(Place, Place),
}

/// The object of [`Call::Content`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Found by its name, so that the watchers of its directory are told too.
    Entry(Entry),
    /// Found by its handle.
    Node(Node),
}

/// One side of a rename.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the guest's view.
    Entry(Entry),
    /// Out of it: the limbo directory. [`Limbo`](super::limbo::Limbo) has the name, which depends on
    /// whether the guest knows the object.
    Limbo(Option<Node>),
}

impl Place {
    /// The entry, in the guest's view.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Limbo(_) => None,
        }
    }
}

/// The calls for `event`, in order. None for an overflow: no call can raise that.
pub fn plan(event: GuestEvent) -> Vec<Call> {
    match event {
        GuestEvent::Entry { entry, mask, child, kind, link } => {
            entry_calls(&entry, mask, child, link, kind)
        }
        GuestEvent::Object { node, mask } => content(mask, FileKind::Unknown)
            .map(|content| Call::Content(Target::Node(node), content))
            .into_iter()
            .collect(),
        GuestEvent::Rename { from, to, child: _, kind: _ } => {
            vec![Call::Rename(Place::Entry(from), Place::Entry(to))]
        }
        GuestEvent::Overflow => Vec::new(),
    }
}

fn entry_calls(
    entry: &Entry,
    mask: Mask,
    child: Option<Node>,
    link: bool,
    kind: FileKind,
) -> Vec<Call> {
    let linked = child.filter(|_| link);
    let here = || Place::Entry(entry.clone());
    let mut content = content(mask, kind);
    let call = |row: &replay::Row| match row.call {
        CallKind::Mknod | CallKind::Mkdir | CallKind::Symlink => {
            Some(Call::Create(entry.clone(), creatable(kind)))
        }
        CallKind::Link => linked.map(|node| Call::Link(node, entry.clone(), creatable(kind))),
        // One call for all of them, where the first is.
        CallKind::SetTimes(_) | CallKind::Open | CallKind::Read(_) | CallKind::Close(_) => {
            content.take().map(|content| Call::Content(Target::Entry(entry.clone()), content))
        }
        CallKind::Unlink => Some(Call::Remove(entry.clone(), false)),
        CallKind::Rmdir => Some(Call::Remove(entry.clone(), true)),
        CallKind::RenameOut => Some(Call::Rename(here(), Place::Limbo(child))),
        CallKind::RenameIn => Some(Call::Rename(Place::Limbo(child), here())),
        // It has two entries, and an event of its own.
        CallKind::Rename => None,
    };
    let calls = replay::rows(mask, kind, linked.is_some()).filter_map(call).collect();
    if kind == FileKind::Regular { opened_once(calls) } else { calls }
}

/// A file that is made and then opened for writing is made by that open. What is kept open is not opened so: its modes are
/// for [`Opens`](super::opens::Opens).
fn opened_once(mut calls: Vec<Call>) -> Vec<Call> {
    if let [Call::Create(entry, _), Call::Content(_, events), ..] = &calls[..]
        && events.contains(Mask::CLOSE_WRITE)
        && !events.intersects(Mask::READS)
    {
        let call = Call::CreateAndClose(entry.clone(), *events);
        calls.splice(..2, [call]);
    }
    calls
}

/// The type to create. One that is not known is made a plain file: no watcher is told the
/// difference.
fn creatable(kind: FileKind) -> FileKind {
    if kind == FileKind::Unknown { FileKind::Regular } else { kind }
}

/// The events that [`Opens`](super::opens::Opens) raises, with ISDIR for a directory.
fn content(mask: Mask, kind: FileKind) -> Option<Mask> {
    let isdir = mask.intersection(Mask::ISDIR);
    // A message without a name tells no other type.
    let kind = if isdir.is_empty() { kind } else { FileKind::Directory };
    let events = mask.intersection(Mask::CONTENT | Mask::READS);
    let raised: Mask = replay::rows(events, kind, false).map(|row| row.event).collect();
    (!raised.is_empty()).then_some(raised | isdir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    fn entry(name: &str) -> Entry {
        Entry { dir: Node::ROOT, name: Name::parse(name.as_bytes()).unwrap() }
    }

    fn event(mask: Mask, kind: FileKind) -> GuestEvent {
        GuestEvent::Entry { entry: entry("f"), mask, child: None, kind, link: false }
    }

    #[test]
    fn a_whole_life_in_one_message_is_replayed_in_the_order_of_a_program() {
        let mask = Mask::DELETE | Mask::CLOSE_WRITE | Mask::ATTRIB | Mask::MODIFY | Mask::CREATE;
        let content = Mask::CONTENT;
        assert_eq!(
            plan(event(mask, FileKind::Unknown)),
            [
                Call::Create(entry("f"), FileKind::Regular),
                Call::Content(Target::Entry(entry("f")), content),
                Call::Remove(entry("f"), false),
            ]
        );
    }

    #[test]
    fn file_that_is_made_and_closed_is_made_by_the_open_that_is_closed() {
        let mask = Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE;
        let once = Call::CreateAndClose(entry("f"), Mask::MODIFY | Mask::CLOSE_WRITE);
        assert_eq!(plan(event(mask, FileKind::Regular)), std::slice::from_ref(&once));
        let removed = plan(event(mask | Mask::DELETE, FileKind::Regular));
        assert_eq!(removed, [once, Call::Remove(entry("f"), false)]);
        let made = Call::Create(entry("f"), FileKind::Regular);
        for events in [Mask::MODIFY, Mask::OPEN | Mask::CLOSE_WRITE] {
            let content = Call::Content(Target::Entry(entry("f")), events);
            let calls = plan(event(Mask::CREATE | events, FileKind::Regular));
            assert_eq!(calls, [made.clone(), content]);
        }
    }

    #[test]
    fn a_fifo_is_never_opened_for_writing() {
        let mask = Mask::CLOSE_WRITE | Mask::ATTRIB;
        assert_eq!(
            plan(event(mask, FileKind::Fifo)),
            [Call::Content(Target::Entry(entry("f")), Mask::ATTRIB)]
        );
        assert_eq!(plan(event(Mask::CLOSE_WRITE, FileKind::Fifo)), []);
    }

    #[test]
    fn nothing_but_files_and_directories_is_opened_to_be_read() {
        assert_eq!(plan(event(Mask::READS, FileKind::CharDevice)), []);
        let (mask, target) = (Mask::READS | Mask::ISDIR, Target::Entry(entry("f")));
        let listed = plan(event(mask | Mask::CLOSE_WRITE, FileKind::Directory));
        assert_eq!(listed, [Call::Content(target, mask)]);
    }

    #[test]
    fn a_plain_half_moves_through_limbo() {
        assert_eq!(
            plan(event(Mask::MOVED_FROM, FileKind::Regular)),
            [Call::Rename(Place::Entry(entry("f")), Place::Limbo(None))]
        );
        assert_eq!(
            plan(event(Mask::MOVED_TO | Mask::ISDIR, FileKind::Directory)),
            [Call::Rename(Place::Limbo(None), Place::Entry(entry("f")))]
        );
    }

    #[test]
    fn a_directory_is_made_and_removed_as_one() {
        let made = plan(event(Mask::CREATE | Mask::ISDIR, FileKind::Directory));
        assert_eq!(made, [Call::Create(entry("f"), FileKind::Directory)]);
        let removed = plan(event(Mask::DELETE | Mask::ISDIR, FileKind::Directory));
        assert_eq!(removed, [Call::Remove(entry("f"), true)]);
    }

    #[test]
    fn a_further_name_of_a_known_object_is_linked() {
        let child = Node { id: crate::NodeId::new(7).unwrap(), generation: crate::Generation(1) };
        let event = GuestEvent::Entry {
            entry: entry("f"),
            mask: Mask::CREATE,
            child: Some(child),
            kind: FileKind::Regular,
            link: true,
        };
        assert_eq!(plan(event), [Call::Link(child, entry("f"), FileKind::Regular)]);
    }
}
