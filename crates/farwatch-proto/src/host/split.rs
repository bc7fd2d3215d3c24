// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`split`]: a guest event becomes one notification, a rename two (S6, S7), so that a buffer holds
//! one name only. The guest's [`join`](crate::guest::join) undoes it. Nothing is remembered here.

use std::{iter, option};

use crate::wire::Notification;
use crate::{Cookie, Entry, FileKind, GuestEvent, Mask, Name, Node};

/// The notifications of one event, in the order in which they are sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// The only one, or the `MOVED_FROM` half.
    pub first: Notification,
    /// The `MOVED_TO` half of a rename.
    pub second: Option<Notification>,
}

impl IntoIterator for Split {
    type Item = Notification;
    type IntoIter = iter::Chain<iter::Once<Notification>, option::IntoIter<Notification>>;

    fn into_iter(self) -> Self::IntoIter {
        iter::once(self.first).chain(self.second)
    }
}

/// What `event` is on the wire. Only a rename uses `cookie`, which no other rename on its way to this
/// guest may have. A plain half, with no mate to wait for, is not paired (S8).
pub fn split(event: &GuestEvent, cookie: Cookie) -> Split {
    let alone = |first| Split { first, second: None };
    match event {
        GuestEvent::Overflow => alone(Notification::OVERFLOW),
        GuestEvent::Object { node, mask } => {
            alone(notification(*node, None, *mask, FileKind::Unknown, None))
        }
        GuestEvent::Entry { entry, mask, child, kind, link } => {
            let name = Some(&entry.name);
            let entry = notification(entry.dir, name, *mask, *kind, *child);
            alone(Notification { link: *link, ..entry })
        }
        GuestEvent::Rename { from, to, child, kind } => {
            let half = |entry: &Entry, side| Notification {
                cookie: Some(cookie),
                paired: true,
                ..notification(entry.dir, Some(&entry.name), side, *kind, *child)
            };
            Split { first: half(from, Mask::MOVED_FROM), second: Some(half(to, Mask::MOVED_TO)) }
        }
    }
}

/// On the wire ISDIR and the file type say the same; here either is enough.
fn notification(
    node: Node,
    name: Option<&Name>,
    mask: Mask,
    kind: FileKind,
    child: Option<Node>,
) -> Notification {
    let is_dir = mask.contains(Mask::ISDIR) || kind == FileKind::Directory;
    Notification {
        node: Some(node),
        submount: None,
        mask: if is_dir { mask | Mask::ISDIR } else { mask },
        cookie: None,
        paired: false,
        link: false,
        child,
        kind: if is_dir { FileKind::Directory } else { kind },
        name: name.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, NodeId};

    fn entry(dir: u64, name: &str) -> Entry {
        let dir = Node { id: NodeId::new(dir).unwrap(), generation: Generation(7) };
        Entry { dir, name: Name::parse(name.as_bytes()).unwrap() }
    }

    #[test]
    fn a_rename_becomes_two_paired_halves_with_one_cookie_and_the_old_name_first() {
        let (from, to) = (entry(2, "a"), entry(3, "b"));
        let event = GuestEvent::Rename {
            from: from.clone(),
            to: to.clone(),
            child: Some(Node::ROOT),
            kind: FileKind::Directory,
        };
        let halves: Vec<_> = split(&event, Cookie::FIRST).into_iter().collect();
        let half = |entry: Entry, side| Notification {
            node: Some(entry.dir),
            submount: None,
            mask: side | Mask::ISDIR,
            cookie: Some(Cookie::FIRST),
            paired: true,
            link: false,
            child: Some(Node::ROOT),
            kind: FileKind::Directory,
            name: Some(entry.name),
        };
        assert_eq!(halves, [half(from, Mask::MOVED_FROM), half(to, Mask::MOVED_TO)]);
    }

    #[test]
    fn a_plain_half_is_not_paired_and_bears_no_cookie() {
        let event = GuestEvent::Entry {
            entry: entry(2, "a"),
            mask: Mask::MOVED_TO,
            child: None,
            kind: FileKind::Regular,
            link: false,
        };
        let Split { first, second } = split(&event, Cookie::FIRST);
        assert_eq!((first.mask, first.paired, first.cookie), (Mask::MOVED_TO, false, None));
        assert_eq!(second, None);
    }

    #[test]
    fn a_directory_event_without_a_file_type_is_sent_with_both() {
        let event = GuestEvent::Object { node: Node::ROOT, mask: Mask::ATTRIB | Mask::ISDIR };
        assert_eq!(split(&event, Cookie::FIRST).first.kind, FileKind::Directory);
    }
}
