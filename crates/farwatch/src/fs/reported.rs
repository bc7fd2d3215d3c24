// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`reported`]: what the host's kernel will report of a call that is made for the guest.
//!
//! A table without state. It follows from the system calls that the library makes for a request and
//! from where the kernel raises events for them (`fsnotify_change()` and the like). If a report is
//! announced and does not come, the announcement is dropped; if one comes unannounced, the guest gets
//! the event a second time. The interposer calls this; requests that are missing here change nothing
//! that is reported.

use std::ffi::CStr;

use farwatch_proto::{Mask, Name, NodeId};
use rustix::fs::{OFlags, RenameFlags};
use virtiofsd::filesystem::SetattrValid;

use crate::share::{OwnCall, Subject};

/// A request, as far as it matters for what is reported.
#[derive(Debug)]
pub(super) enum Request<'a> {
    /// SETATTR; `open` says that it comes with a file handle.
    SetAttr { node: NodeId, valid: SetattrValid, open: bool },
    /// MKNOD, MKDIR or SYMLINK; with a security label (`--security-label`) or without.
    Make { dir: NodeId, name: &'a Name, labelled: bool },
    /// CREATE.
    Create { dir: NodeId, name: &'a Name, labelled: bool, flags: u32 },
    /// LINK.
    Link { node: NodeId, dir: NodeId, name: &'a Name },
    /// UNLINK.
    Unlink { dir: NodeId, name: &'a Name },
    /// RMDIR.
    RmDir { dir: NodeId, name: &'a Name },
    /// RENAME and RENAME2.
    Rename { from: (NodeId, &'a Name), to: (NodeId, &'a Name), flags: u32 },
    /// OPEN.
    Open { node: NodeId, flags: u32 },
    /// RELEASE; `flags` are those of the open.
    Release { node: NodeId, flags: u32 },
    /// WRITE, FALLOCATE, and COPY_FILE_RANGE into the node.
    Write(NodeId),
    /// SETXATTR.
    SetXattr { node: NodeId, name: &'a CStr },
    /// REMOVEXATTR.
    RemoveXattr(NodeId),
}

/// The list that says who may do what with a file: its mode follows from it (`acl(5)`).
const ACCESS_ACL: &CStr = c"system.posix_acl_access";

/// See the module's documentation.
pub(super) fn reported(request: &Request<'_>) -> OwnCall {
    match *request {
        Request::SetAttr { node, valid, open } => on_node(node, &changes(valid, open)),
        Request::Make { dir, name, labelled } => on_entry(dir, name, made(labelled)),
        Request::Create { dir, name, labelled, flags } => {
            // A file that is there already is opened.
            let truncated = if truncates(flags) { Mask::MODIFY } else { Mask::empty() };
            on_entry(dir, name, made(labelled) | truncated)
        }
        Request::Link { node, dir, name } => {
            on_entry(dir, name, Mask::CREATE).touching(Subject::Node(node))
        }
        Request::Unlink { dir, name } => {
            on_entry(dir, name, Mask::DELETE).touching(Subject::NodeAt(dir, name.clone()))
        }
        Request::RmDir { dir, name } => on_entry(dir, name, Mask::DELETE),
        Request::Rename { from, to, flags } => {
            let exchange = RenameFlags::from_bits_retain(flags).contains(RenameFlags::EXCHANGE);
            renamed(from, to, exchange)
        }
        Request::Open { node, flags } if truncates(flags) => on_node(node, &[Mask::MODIFY]),
        Request::Open { .. } => OwnCall::default(),
        Request::Release { node, flags } if for_writing(flags) => {
            on_node(node, &[Mask::CLOSE_WRITE])
        }
        Request::Release { .. } => OwnCall::default(),
        Request::Write(node) => on_node(node, &[Mask::MODIFY]),
        // An ACL can take a chmod with it.
        Request::SetXattr { node, name } if name == ACCESS_ACL => {
            on_node(node, &[Mask::ATTRIB, Mask::ATTRIB])
        }
        Request::SetXattr { node, .. } => on_node(node, &[Mask::ATTRIB]),
        Request::RemoveXattr(node) => on_node(node, &[Mask::ATTRIB]),
    }
}

fn entry((dir, name): (NodeId, &Name), events: Mask) -> (Subject, Mask) {
    (Subject::Entry(dir, name.clone()), events)
}

fn on_entry(dir: NodeId, name: &Name, events: Mask) -> OwnCall {
    OwnCall { reports: vec![entry((dir, name), events)], object: None }
}

/// Once for each of `events`.
fn on_node(node: NodeId, events: &[Mask]) -> OwnCall {
    let reports = events.iter().map(|event| (Subject::Node(node), *event)).collect();
    OwnCall { reports, object: Some(Subject::Node(node)) }
}

fn renamed(from: (NodeId, &Name), to: (NodeId, &Name), exchange: bool) -> OwnCall {
    let mut reports = vec![entry(from, Mask::MOVED_FROM), entry(to, Mask::MOVED_TO)];
    if exchange {
        reports.extend([entry(to, Mask::MOVED_FROM), entry(from, Mask::MOVED_TO)]);
    } else {
        // A directory that is replaced is reported itself: `fsnotify_link_count()`.
        reports.push((Subject::DirectoryAt(to.0, to.1.clone()), Mask::ATTRIB));
    }
    OwnCall { reports, object: None }.touching(Subject::NodeAt(from.0, from.1.clone()))
}

impl OwnCall {
    /// The same call, which changes the `ctime` of `object` too.
    fn touching(mut self, object: Subject) -> Self {
        self.reports.push((object.clone(), Mask::empty()));
        Self { object: Some(object), ..self }
    }
}

/// What making an object is reported as. A label is set right after.
fn made(labelled: bool) -> Mask {
    if labelled { Mask::CREATE | Mask::ATTRIB } else { Mask::CREATE }
}

/// `fsnotify_change()`, for each of the calls that the library makes.
fn changes(valid: SetattrValid, open: bool) -> Vec<Mask> {
    let mut events = Vec::new();
    if valid.contains(SetattrValid::MODE) {
        events.push(Mask::ATTRIB);
    }
    if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
        events.push(Mask::ATTRIB);
    }
    if valid.contains(SetattrValid::SIZE) {
        events.push(Mask::MODIFY);
        if !open {
            // The library opens the file for it.
            events.push(Mask::CLOSE_WRITE);
        }
    }
    let atime = valid.intersects(SetattrValid::ATIME | SetattrValid::ATIME_NOW);
    let mtime = valid.intersects(SetattrValid::MTIME | SetattrValid::MTIME_NOW);
    match (atime, mtime) {
        (true, true) => events.push(Mask::ATTRIB),
        (false, true) => events.push(Mask::MODIFY),
        (_, false) => {}
    }
    events
}

fn for_writing(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).intersection(OFlags::RWMODE) != OFlags::RDONLY
}

/// Whether an OPEN or CREATE with these flags makes a file empty.
pub(super) fn truncates(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).contains(OFlags::TRUNC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::parse(name.as_bytes()).unwrap()
    }

    /// The events of each report, and what they are about.
    fn events(request: &Request<'_>) -> Vec<(String, Mask)> {
        let subject = |subject: &Subject| match subject {
            Subject::Entry(_, name) => format!("{name:?}"),
            Subject::Node(id) => format!("[{id}]"),
            Subject::NodeAt(_, name) => format!("[at {name:?}]"),
            Subject::DirectoryAt(_, name) => format!("[directory at {name:?}]"),
        };
        reported(request).reports.iter().map(|(about, mask)| (subject(about), *mask)).collect()
    }

    #[test]
    fn setattr_is_reported_once_for_each_call_of_the_library() {
        let of = |valid, open| {
            let node = NodeId::ROOT;
            let reports = reported(&Request::SetAttr { node, valid, open }).reports;
            reports.into_iter().map(|(_, mask)| mask).collect::<Vec<_>>()
        };
        let (attrib, modify) = (Mask::ATTRIB, Mask::MODIFY);
        assert_eq!(of(SetattrValid::MODE | SetattrValid::UID, false), [attrib, attrib]);
        assert_eq!(of(SetattrValid::SIZE, false), [modify, Mask::CLOSE_WRITE]);
        assert_eq!(of(SetattrValid::SIZE, true), [modify]);
        assert_eq!(of(SetattrValid::MTIME_NOW, false), [modify]);
        assert_eq!(of(SetattrValid::MTIME | SetattrValid::ATIME, false), [attrib]);
        assert_eq!(of(SetattrValid::ATIME, false), []);
    }

    #[test]
    fn rename_reports_both_entries_and_an_exchange_all_four() {
        let (a, b) = (name("a"), name("b"));
        let rename =
            |flags| Request::Rename { from: (NodeId::ROOT, &a), to: (NodeId::ROOT, &b), flags };
        let plain: Vec<_> = events(&rename(0)).into_iter().map(|(_, mask)| mask).collect();
        let there = [Mask::MOVED_FROM, Mask::MOVED_TO];
        assert_eq!(plain, [there[0], there[1], Mask::ATTRIB, Mask::empty()]);
        let exchange = events(&rename(RenameFlags::EXCHANGE.bits()));
        let masks: Vec<_> = exchange.iter().map(|(_, mask)| *mask).collect();
        assert_eq!(masks, [there[0], there[1], there[0], there[1], Mask::empty()]);
        assert_eq!(exchange[1].0, exchange[2].0, "what comes to a name is taken from it again");
    }

    #[test]
    fn xattr_is_reported_once_and_an_acl_perhaps_with_its_chmod() {
        let node = NodeId::ROOT;
        assert_eq!(events(&Request::SetXattr { node, name: c"user.name" }).len(), 1);
        assert_eq!(events(&Request::SetXattr { node, name: ACCESS_ACL }).len(), 2);
    }

    #[test]
    fn opening_and_closing_for_reading_is_not_announced() {
        let node = NodeId::ROOT;
        let flags = OFlags::RDONLY.bits();
        assert_eq!(events(&Request::Open { node, flags }), []);
        assert_eq!(events(&Request::Release { node, flags }), []);
    }
}
