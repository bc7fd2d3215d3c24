// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests with both of an agent's tags: the engine decides the answer to each, this makes the reply. Of the file system below only `lookup`, `getattr` and `getxattr` are called here, which read.

use std::ffi::{CStr, CString};
use std::io;
use std::time::Duration;

use farwatch_proto::host::{Answer, Ending, MarkedRequest, Object, Refusal};
use farwatch_proto::replay::{OpenMode, Times};
use farwatch_proto::{FileKind, Name, Node, NodeId, Seq};
use rustix::io::Errno;
use virtiofsd::filesystem::{Context, Entry, FileSystem, GetxattrReply, OpenOptions, SetattrValid};
use virtiofsd::fuse::Attr;
use virtiofsd::soft_idmap::Id;

use super::{Handle, Inode, Interposer, attr, control, entry, node};
use crate::share::Share;

/// Over before anybody can look, and yet a lifetime: the kernel rounds it up to one or two ticks
/// (`timespec64_to_jiffies()`).
const BRIEF: Duration = Duration::from_nanos(1);

/// The attributes that the guest's kernel reads by itself (acl(5)).
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// The number of the notification that a request belongs to: the agent's fsgid.
fn seq(ctx: &Context) -> Option<Seq> {
    Seq::new(ctx.gid.into_inner())
}

fn refusal(refusal: Refusal) -> io::Error {
    match refusal {
        Refusal::NotAsked => Errno::PERM,
        Refusal::NoEntry => Errno::NOENT,
        Refusal::Stale => Errno::STALE,
    }
    .into()
}

fn not_asked() -> io::Error {
    refusal(Refusal::NotAsked)
}

impl Interposer {
    fn ask(&self, ctx: &Context, request: MarkedRequest<'_>) -> Answer {
        let answer = self.share.answer(seq(ctx), request);
        tracing::trace!(seq = ctx.gid.into_inner(), ?request, ?answer, "marked");
        answer
    }

    /// `None` when the notification being replayed has nothing to say about this entry: the agent
    /// looks for something on its way, and finds what is there. But the name of a directory that it
    /// is looking for leads to that, as the guest believes.
    pub(super) fn lookup_marked(
        &self,
        ctx: Context,
        dir: NodeId,
        name: &Name,
    ) -> Option<io::Result<Entry>> {
        match self.ask(&ctx, MarkedRequest::Lookup(dir, name)) {
            Answer::Entry(object) => {
                let object = self.dead_at(ctx, dir, name).unwrap_or(object);
                Some(self.entry_of(ctx, dir, name, &object))
            }
            Answer::Refused(Refusal::NoEntry) if self.replaces(ctx, dir, name) => {
                match self.dead_at(ctx, dir, name) {
                    Some(object) => Some(self.entry_of(ctx, dir, name, &object)),
                    None => Some(Err(refusal(Refusal::NoEntry))),
                }
            }
            Answer::Refused(Refusal::NotAsked) => {
                let id = self.reconnect.found(&self.share, dir, name)?;
                let object = Object::Known { id, links: 0, here: true };
                let found = self.entry_of(ctx, dir, name, &object);
                Some(found.map(|entry| Entry { attr: attr::on_the_way(entry.attr), ..entry }))
            }
            Answer::Refused(refused) => Some(Err(refusal(refused))),
            Answer::Attr(_) | Answer::Opened | Answer::Done => Some(Err(not_asked())),
        }
    }

    pub(super) fn create_marked(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        kind: FileKind,
    ) -> io::Result<Entry> {
        let (dir, name) = entry(parent, name)?;
        let answer = self.ask(&ctx, MarkedRequest::Create(dir, &name, kind));
        self.entry_or_refusal(ctx, dir, &name, answer)
    }

    /// A file that is made by a replay, which opens it for writing and closes it: as [`Interposer::create_marked`] and
    /// [`Interposer::open_marked`] in one.
    pub(super) fn create_open_marked(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        (mode, flags): (u32, u32),
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let is_file = FileKind::from_mode(mode) == FileKind::Regular;
        if !is_file || OpenMode::from_create_flags(flags) != Some(OpenMode::Write) {
            return Err(not_asked());
        }
        let (dir, name) = entry(parent, name)?;
        let answer = self.ask(&ctx, MarkedRequest::CreateOpen(dir, &name));
        let entry = self.entry_or_refusal(ctx, dir, &name, answer)?;
        Ok((entry, Some(control::REPLAY_HANDLE), OpenOptions::NOFLUSH))
    }

    pub(super) fn link_marked(
        &self,
        ctx: Context,
        inode: Inode,
        parent: Inode,
        name: &CStr,
    ) -> io::Result<Entry> {
        let (dir, name) = entry(parent, name)?;
        let answer = self.ask(&ctx, MarkedRequest::Link(node(inode)?, dir, &name));
        self.entry_or_refusal(ctx, dir, &name, answer)
    }

    pub(super) fn remove_marked(
        &self,
        parent: Inode,
        name: &CStr,
        ctx: Context,
        directory: bool,
    ) -> io::Result<()> {
        let (dir, name) = entry(parent, name)?;
        self.look_again_at_links(ctx, Share::removes_unasked)?;
        let removed = self.share.current(dir, &name);
        done(&self.ask(&ctx, MarkedRequest::Remove(dir, &name, directory)))?;
        if let Some(id) = removed {
            self.share.ended(dir, &name, id);
        }
        Ok(())
    }

    pub(super) fn rename_marked(
        &self,
        ctx: Context,
        old: (Inode, &CStr),
        new: (Inode, &CStr),
        flags: u32,
    ) -> io::Result<()> {
        if flags != 0 {
            return Err(not_asked());
        }
        let (old, old_name) = entry(old.0, old.1)?;
        let (new, new_name) = entry(new.0, new.1)?;
        let (moved, replaced) =
            (self.share.current(old, &old_name), self.share.current(new, &new_name));
        if new != NodeId::LIMBO && replaced != moved {
            self.look_again_at_links(ctx, Share::replaces_unasked)?;
        }
        done(&self.ask(&ctx, MarkedRequest::Rename(old, &old_name, new, &new_name)))?;
        if let Some(id) = replaced.filter(|_| replaced != moved) {
            self.share.ended(new, &new_name, id);
        }
        Ok(())
    }

    pub(super) fn setattr_marked(
        &self,
        ctx: Context,
        inode: Inode,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let id = node(inode)?;
        let times = Times::from_fattr(valid.bits()).ok_or_else(not_asked)?;
        match self.ask(&ctx, MarkedRequest::SetTimes(id, times)) {
            Answer::Attr(Object::Phantom(kind)) => Ok((attr::phantom(id, kind), Duration::ZERO)),
            Answer::Attr(_) => Ok((self.attr_of(ctx, id, 0, true), Duration::ZERO)),
            Answer::Refused(refused) => Err(refusal(refused)),
            Answer::Entry(_) | Answer::Opened | Answer::Done => Err(not_asked()),
        }
    }

    /// A file that is opened by a replay is not opened on the host. What is read through it must not get
    /// into the guest's cache: it says nothing (`FOPEN_DIRECT_IO`).
    pub(super) fn open_marked(
        &self,
        ctx: &Context,
        inode: Inode,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let mode = OpenMode::from_flags(flags).ok_or_else(not_asked)?;
        let id = node(inode)?;
        // Without KEEP_CACHE the guest's kernel drops the pages of the old content.
        let options = match mode {
            OpenMode::Write => OpenOptions::empty(),
            OpenMode::ReadWrite => OpenOptions::DIRECT_IO,
            OpenMode::Read => OpenOptions::DIRECT_IO | OpenOptions::KEEP_CACHE,
        };
        match self.ask(ctx, MarkedRequest::Open(id, mode)) {
            Answer::Opened => Ok((Some(control::REPLAY_HANDLE), options | OpenOptions::NOFLUSH)),
            Answer::Refused(refused) => Err(refusal(refused)),
            Answer::Entry(_) | Answer::Attr(_) | Answer::Done => Err(not_asked()),
        }
    }

    /// A directory that is opened by a replay is not opened on the host. One that nothing asks for is
    /// another's way: `None`.
    pub(super) fn opendir_marked(&self, ctx: &Context, inode: Inode) -> Option<Handle> {
        let request = MarkedRequest::Open(node(inode).ok()?, OpenMode::Read);
        (self.ask(ctx, request) == Answer::Opened).then_some(control::REPLAY_DIR_HANDLE)
    }

    /// A read of what a replay has opened: the kernel raises ACCESS if it is allowed.
    pub(super) fn read_marked(&self, ctx: &Context, inode: Inode) -> io::Result<()> {
        done(&self.ask(ctx, MarkedRequest::Read(node(inode)?)))
    }

    /// With ACLs (`--posix-acl`) the guest's kernel asks for that of each object before it lets anybody do something to it,
    /// and keeps the answer for all (`get_inode_acl()`).
    pub(super) fn getxattr_marked(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        if !ACLS.contains(&name) {
            return Err(not_asked());
        }
        if node(inode)?.is_reserved() {
            return Err(Errno::NODATA.into());
        }
        self.inner.getxattr(ctx, inode, name, size)
    }

    fn entry_or_refusal(
        &self,
        ctx: Context,
        dir: NodeId,
        name: &Name,
        answer: Answer,
    ) -> io::Result<Entry> {
        match answer {
            Answer::Entry(object) => self.entry_of(ctx, dir, name, &object),
            Answer::Refused(refused) => Err(refusal(refused)),
            Answer::Attr(_) | Answer::Opened | Answer::Done => Err(not_asked()),
        }
    }

    fn entry_of(
        &self,
        ctx: Context,
        dir: NodeId,
        name: &Name,
        object: &Object,
    ) -> io::Result<Entry> {
        match *object {
            Object::Known { id, links, here: true } => {
                let found = self.found_here(ctx, dir, name, |entry| entry.inode == id.get());
                if let Some(mut entry) = found {
                    entry.attr.nlink = linked(entry.attr.nlink, links);
                    return Ok(self.learn(dir, name, entry));
                }
                let known = self.known(ctx, dir, name, id, links);
                Ok(known.unwrap_or_else(|| self.adopt(ctx, dir, name, self.kind_of(&ctx))))
            }
            // The end of a node that may be gone.
            Object::Known { id, .. }
                if self.is_end(ctx, dir, name) && self.lives(ctx, id) != Some(false) =>
            {
                Err(Errno::NOENT.into())
            }
            Object::Known { id, links, here: false } => match self.mistaken_end(ctx, dir, name, id)
            {
                Some(Ending::Replaced) => {
                    self.share.learn_missing(dir, name);
                    Err(Errno::NOENT.into())
                }
                Some(Ending::Removed) => {
                    let kind = self.share.kind(id).unwrap_or_default();
                    Ok(self.phantom(dir, name, kind))
                }
                None => {
                    let known = self.known(ctx, dir, name, id, links);
                    Ok(known.unwrap_or_else(|| self.phantom(dir, name, self.kind_of(&ctx))))
                }
            },
            Object::Adopt(kind) => Ok(self.adopt(ctx, dir, name, kind)),
            Object::Phantom(kind) => Ok(self.phantom(dir, name, kind)),
            Object::Limbo => Ok(control::limbo(self.share.generation())),
        }
    }

    /// The file server's own entry, when it is the one that the replay is about. Otherwise the
    /// reference is given back, and the guest hears nothing of it.
    ///
    /// The guest may keep the name, but the attributes for no longer than its kernel needs to open the file without
    /// asking for them again: nobody there has asked for them, and the host may be just about to write what it has created.
    fn found_here(
        &self,
        ctx: Context,
        dir: NodeId,
        name: &Name,
        is_it: impl FnOnce(&Entry) -> bool,
    ) -> Option<Entry> {
        let c_name = CString::new(name.as_bytes()).ok()?;
        let mut entry = self.inner.lookup(ctx, dir.get(), &c_name).ok()?;
        if is_it(&entry) {
            entry.attr_timeout = entry.attr_timeout.min(BRIEF);
            return Some(entry);
        }
        self.inner.forget(ctx, entry.inode, 1);
        None
    }

    /// A node that the guest knows, by a name that need not lead to it any more. `None` if its kernel
    /// has forgotten it since the answer was found, which a FORGET on another queue can do.
    fn known(
        &self,
        ctx: Context,
        dir: NodeId,
        name: &Name,
        id: NodeId,
        links: i64,
    ) -> Option<Entry> {
        let (generation, kind) = self.share.lend(id, dir, name)?;
        let entry = attr::passing(id, generation, self.attr_of(ctx, id, links, false));
        // virtiofs drops a dentry that was never to be kept with its last user (`fuse_dentry_delete()`),
        // and what is below a directory in limbo is found by its dentry alone.
        let brief = if kind == FileKind::Directory { BRIEF } else { Duration::ZERO };
        Some(Entry { entry_timeout: brief, ..entry })
    }

    /// What the guest was told of under a name that the replay ends, and what is gone on the host: where the
    /// watcher names no objects, which one that was is guessed, and this is known.
    fn dead_at(&self, ctx: Context, dir: NodeId, name: &Name) -> Option<Object> {
        let nodes = self.share.ending_nodes(seq(&ctx)?, dir, name);
        let id = nodes.into_iter().find(|id| self.lives(ctx, *id) == Some(false))?;
        Some(Object::Known { id, links: 1, here: false })
    }

    fn replaces(&self, ctx: Context, dir: NodeId, name: &Name) -> bool {
        self.ending(ctx, dir, name) == Some(Ending::Replaced)
    }

    /// Whether the replay ends a node without a name: its watches are all that it has left in the guest.
    fn is_end(&self, ctx: Context, dir: NodeId, name: &Name) -> bool {
        dir == NodeId::LIMBO && self.ending(ctx, dir, name).is_some()
    }

    fn ending(&self, ctx: Context, dir: NodeId, name: &Name) -> Option<Ending> {
        seq(&ctx).and_then(|seq| self.share.ending_at(seq, dir, name))
    }

    /// The kernel is about to take a name from an object for whose link count it has not asked. If that lives,
    /// or was given a count that is too high by now, it is to ask first.
    ///
    /// # Errors
    /// ESTALE for that.
    fn look_again_at_links(
        &self,
        ctx: Context,
        loses: impl FnOnce(&Share, Seq) -> Option<NodeId>,
    ) -> io::Result<()> {
        if let Some(seq) = seq(&ctx)
            && let Some(id) = loses(&self.share, seq)
            && (self.lives(ctx, id) == Some(true) || self.share.has_more_links(id))
        {
            self.share.told_stale(seq);
            return Err(refusal(Refusal::Stale));
        }
        Ok(())
    }

    /// How the replay would end an object by mistake.
    fn mistaken_end(&self, ctx: Context, dir: NodeId, name: &Name, id: NodeId) -> Option<Ending> {
        let links = self.links(ctx, id)?;
        self.share.mistaken_ending(seq(&ctx)?, (dir, name), id, links)
    }

    /// Whether an object is still in the host's file system, where that can be told.
    fn lives(&self, ctx: Context, id: NodeId) -> Option<bool> {
        self.links(ctx, id).map(|links| links > 0)
    }

    /// The names that an object has on the host, where they are counted.
    fn links(&self, ctx: Context, id: NodeId) -> Option<u32> {
        let attr = || self.inner.getattr(ctx, id.get(), None);
        self.counts_links.then(|| attr().map_or(0, |(attr, _)| attr.nlink))
    }

    fn kind_of(&self, ctx: &Context) -> FileKind {
        seq(ctx).map(|seq| self.share.replayed_kind(seq)).unwrap_or_default()
    }

    /// Makes an object known to the guest if it is still where the change left it.
    fn adopt(&self, ctx: Context, dir: NodeId, name: &Name, kind: FileKind) -> Entry {
        let object = match seq(&ctx) {
            Some(seq) if self.adopts => self.share.replayed_object(seq),
            Some(_) | None => None,
        };
        let Some(fid) = object else { return self.phantom(dir, name, kind) };
        let mut identity = None;
        let found = self.found_here(ctx, dir, name, |entry| {
            let found = FileKind::from_mode(entry.attr.mode);
            let fits = found == kind || (kind == FileKind::Unknown && found != FileKind::Directory);
            identity = if fits { self.identify(dir, name, entry) } else { None };
            identity.as_ref().is_some_and(|identity| identity.fid == fid)
        });
        let Some(entry) = found else { return self.phantom(dir, name, kind) };
        if let Some(id) = NodeId::new(entry.inode) {
            self.share.learn(id, &entry.attr, dir, name, || identity);
        }
        self.stamped(entry)
    }

    fn phantom(&self, dir: NodeId, name: &Name, kind: FileKind) -> Entry {
        let Node { id, generation } = self.share.phantom(dir, name, kind);
        attr::passing(id, generation, attr::phantom(id, kind))
    }

    /// What is true of a known node now, or a stand-in's attributes if it is gone. `links` is added
    /// to its link count.
    ///
    /// After a SETATTR the guest's kernel takes the mtime over without a look at the pages that it
    /// has cached, so it would never find out that they are old: `fuse_do_setattr()`, unlike
    /// `fuse_change_attributes()`. With `other_mtime` it gets one that is a nanosecond off, at once
    /// out of date, and drops the pages when it asks for the true one.
    pub(super) fn attr_of(&self, ctx: Context, id: NodeId, links: i64, other_mtime: bool) -> Attr {
        let mut attr = match self.inner.getattr(ctx, id.get(), None) {
            Ok((attr, _)) => attr,
            Err(error) => {
                tracing::trace!(%id, %error, "gone");
                let kind = self.share.kind(id).unwrap_or_default();
                let ino = self.share.ino(id).unwrap_or_else(|| id.get());
                Attr { ino, nlink: 0, ..attr::phantom(id, kind) }
            }
        };
        attr.nlink = linked(attr.nlink, links);
        if other_mtime {
            attr.mtimensec ^= 1;
        }
        attr.nlink = self.share.links_named(id, attr.nlink);
        attr
    }

    /// The attributes of a node for anybody but the agent, with the link count that the guest is to have now. The kernel
    /// keeps one that is not the host's no longer than it must.
    pub(super) fn as_told(&self, id: NodeId, attr: Attr, timeout: Duration) -> (Attr, Duration) {
        let nlink = self.share.links_told(id, attr.nlink);
        tracing::trace!(%id, ino = attr.ino, links = attr.nlink, told = nlink, "attributes");
        if nlink == attr.nlink {
            return (attr, timeout);
        }
        (Attr { nlink, ..attr }, Duration::ZERO)
    }
}

/// A link count, with the names that the guest has not lost or won yet.
fn linked(nlink: u32, links: i64) -> u32 {
    let nlink = i64::from(nlink).saturating_add(links).max(0);
    u32::try_from(nlink).unwrap_or(u32::MAX)
}

fn done(answer: &Answer) -> io::Result<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Refused(refused) => Err(refusal(*refused)),
        Answer::Entry(_) | Answer::Attr(_) | Answer::Opened => Err(not_asked()),
    }
}
