// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon does for a request: `fs.rs` and `fs/own.rs`, with the calls that `PassthroughFs`
//! makes on the host. A request of the agent's goes to `marked`.

use std::time::Duration;

use farwatch_proto::host::inotify::CallId;
use farwatch_proto::host::{Learned, OwnChange};
use farwatch_proto::{FileKind, Mask, Name, NodeId};

use crate::dcache::EntryOut;
use crate::host::{DAEMON, Errno, Host, Obj, Way};
use crate::sim::World;
use crate::vfs::{Caller, Side};

impl World {
    /// LOOKUP
    pub(crate) async fn serve_lookup(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &Name,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        if let Caller::Agent(seq) = caller
            && let Some(reply) = self.lookup_marked(seq, dir, name).await
        {
            self.note(|| format!("LOOKUP {dir}/{name:?}, marked: {reply:?}"));
            self.step().await;
            return reply;
        }
        let reply = match self.inner_lookup(dir, name) {
            Ok(entry) => {
                self.step().await;
                Ok(self.learn(dir, name, entry).await)
            }
            Err(error) => {
                self.step().await;
                if error == Errno::NoEnt {
                    self.server.borrow_mut().own_absent(dir, name);
                }
                Err(error)
            }
        };
        self.note(|| format!("LOOKUP {dir}/{name:?}: {reply:?}"));
        self.step().await;
        reply
    }

    /// `PassthroughFs::lookup()`: one more reference on what is there.
    pub(crate) fn inner_lookup(&self, dir: NodeId, name: &Name) -> Result<EntryOut, Errno> {
        let (server, host) = (&mut *self.server.borrow_mut(), &mut *self.host.borrow_mut());
        let above = server.library.object(dir).ok_or(Errno::Stale)?;
        let object = host.at(above, name).ok_or(Errno::NoEnt)?;
        let node = server.library.take(object, || host.open(above, name));
        Ok(self.entry_out(node, host, object))
    }

    fn entry_out(&self, node: NodeId, host: &Host, object: Obj) -> EntryOut {
        let object = host.object(object);
        EntryOut {
            node,
            kind: object.kind,
            nlink: object.links(),
            entry_timeout: self.config.timeout,
            attr_timeout: self.config.timeout,
        }
    }

    /// `Interposer::learn()`: the guest is about to hear of an entry.
    pub(crate) async fn learn(&self, dir: NodeId, name: &Name, entry: EntryOut) -> EntryOut {
        self.share_learns(dir, name, &entry).await;
        self.step().await;
        self.as_told(entry)
    }

    /// `Share::learn()`
    async fn share_learns(&self, dir: NodeId, name: &Name, entry: &EntryOut) {
        let learned =
            Learned { id: entry.node, fid: None, kind: entry.kind, ino: entry.node.get() };
        if self.server.borrow_mut().learn_known(&learned, dir, name) {
            return;
        }
        self.step().await;
        let identity = self.identify(dir, name, entry);
        self.step().await;
        let (server, host) = (&mut *self.server.borrow_mut(), &mut *self.host.borrow_mut());
        server.learn_new(&learned, dir, name, (identity, entry.nlink), host);
    }

    /// `Interposer::identify()`: the name is looked up a second time, and may lead to something else
    /// by now. A directory is then found by its node.
    pub(crate) fn identify(&self, dir: NodeId, name: &Name, entry: &EntryOut) -> Option<Obj> {
        let (server, host) = (self.server.borrow(), self.host.borrow());
        let object = server.library.object(entry.node)?;
        let found = server.library.object(dir).and_then(|dir| host.at(dir, name));
        let directory = entry.kind == FileKind::Directory;
        (found == Some(object) || directory || self.config.identifies).then_some(object)
    }

    /// GETATTR
    pub(crate) async fn serve_getattr(
        &self,
        caller: Caller,
        node: NodeId,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        let reply = self.inner_getattr(node);
        let reply = match caller {
            Caller::Agent(_) => self.getattr_marked(node, reply),
            Caller::Program => {
                self.step().await;
                reply.map(|entry| self.as_told(entry))
            }
        };
        self.note(|| format!("GETATTR {node}: {reply:?}"));
        self.step().await;
        reply
    }

    pub(crate) fn inner_getattr(&self, node: NodeId) -> Result<EntryOut, Errno> {
        let object = self.server.borrow().library.object(node).ok_or(Errno::Stale)?;
        Ok(self.entry_out(node, &self.host.borrow(), object))
    }

    /// The object of a node, for a call that the guest has asked for.
    fn object(&self, node: NodeId) -> Result<Obj, Errno> {
        self.server.borrow().library.object(node).ok_or(Errno::Stale)
    }

    fn expect(
        &self,
        entries: &[(NodeId, &Name, Mask)],
        objects: &[(NodeId, Mask)],
    ) -> Option<CallId> {
        self.server.borrow_mut().expect(entries, objects)
    }

    /// `Share::end()`; `node` is what the call was about.
    async fn end(&self, call: Option<CallId>, succeeded: bool, node: Option<NodeId>) {
        let Some(call) = call else { return };
        self.step().await;
        if self.server.borrow_mut().end_if_quiet(self, call, succeeded, &self.host.borrow()) {
            return;
        }
        self.step().await;
        let object = node.and_then(|node| self.server.borrow().library.object(node));
        let changed = object.map(|object| self.host.borrow().object(object).changed);
        self.step().await;
        self.server.borrow_mut().end(self, call, succeeded, changed);
    }

    /// `Interposer::made()`: the guest has made what it is about to hear of.
    async fn made(&self, (dir, name): Side<'_>, entry: EntryOut) -> EntryOut {
        self.step().await;
        self.share_learns(dir, name, &entry).await;
        self.step().await;
        self.server.borrow_mut().own(OwnChange::Made(dir, name, entry.node));
        self.as_told(entry)
    }

    /// MKNOD, MKDIR, SYMLINK
    pub(crate) async fn serve_make(
        &self,
        caller: Caller,
        at: Side<'_>,
        kind: FileKind,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        let (dir, name) = at;
        let reply = if let Caller::Agent(seq) = caller {
            self.make_marked(seq, at, kind).await
        } else {
            let above = self.object(dir)?;
            let call = self.expect(&[(dir, name, Mask::CREATE)], &[]);
            self.step().await;
            let made = self.host_make(DAEMON, above, name, kind).await;
            // The library looks it up before the call is over.
            let entry = match made {
                Ok(_) => {
                    self.step().await;
                    self.inner_lookup(dir, name)
                }
                Err(error) => Err(error),
            };
            self.end(call, entry.is_ok(), None).await;
            match entry {
                Ok(entry) => Ok(self.made((dir, name), entry).await),
                Err(error) => Err(error),
            }
        };
        self.note(|| format!("MAKE {dir}/{name:?} {kind:?}: {reply:?}"));
        self.step().await;
        reply
    }

    /// CREATE: what is there already is opened.
    pub(crate) async fn serve_create(
        &self,
        caller: Caller,
        at: Side<'_>,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        let (dir, name) = at;
        if let Caller::Agent(seq) = caller {
            let reply = self.create_open_marked(seq, at).await;
            self.step().await;
            return reply;
        }
        let above = self.object(dir)?;
        let call = self.expect(&[(dir, name, Mask::CREATE)], &[]);
        self.step().await;
        let made = self.host_make(DAEMON, above, name, FileKind::Regular).await;
        // `O_NOFOLLOW`: nothing but a file is opened for writing.
        let other = || {
            let host = self.host.borrow();
            host.at(above, name).is_some_and(|it| host.object(it).kind != FileKind::Regular)
        };
        let entry = match made {
            Err(Errno::Exist) if other() => Err(Errno::IsDir),
            Ok(_) | Err(Errno::Exist) => {
                self.step().await;
                self.inner_lookup(dir, name)
            }
            Err(error) => Err(error),
        };
        self.end(call, entry.is_ok(), None).await;
        let reply = match entry {
            Ok(entry) => Ok(self.made(at, entry).await),
            Err(error) => Err(error),
        };
        self.note(|| format!("CREATE {dir}/{name:?}: {reply:?}"));
        self.step().await;
        reply
    }

    /// LINK
    pub(crate) async fn serve_link(
        &self,
        caller: Caller,
        node: NodeId,
        at: Side<'_>,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        let (dir, name) = at;
        let reply = if let Caller::Agent(seq) = caller {
            self.link_marked(seq, node, at).await
        } else {
            let (object, above) = (self.object(node)?, self.object(dir)?);
            let call = self.expect(&[(dir, name, Mask::CREATE)], &[(node, Mask::empty())]);
            self.step().await;
            let linked = self.host_link(DAEMON, object, above, name).await;
            let entry = match linked {
                Ok(()) => {
                    self.step().await;
                    self.inner_lookup(dir, name)
                }
                Err(error) => Err(error),
            };
            self.end(call, entry.is_ok(), Some(node)).await;
            match entry {
                Ok(entry) => Ok(self.made((dir, name), entry).await),
                Err(error) => Err(error),
            }
        };
        self.note(|| format!("LINK {node} {dir}/{name:?}: {reply:?}"));
        self.step().await;
        reply
    }

    /// UNLINK, RMDIR
    pub(crate) async fn serve_remove(
        &self,
        caller: Caller,
        at: Side<'_>,
        directory: bool,
    ) -> Result<(), Errno> {
        self.step().await;
        let (dir, name) = at;
        let reply = if let Caller::Agent(seq) = caller {
            self.remove_marked(seq, at, directory).await
        } else {
            self.own_remove(at, directory).await
        };
        self.note(|| format!("REMOVE {dir}/{name:?}: {reply:?}"));
        self.step().await;
        reply
    }

    /// `Stale::check()`
    async fn check_stale(&self, entries: &[Side<'_>]) -> Result<(), Errno> {
        let program = self.current();
        let stale = self.server.borrow_mut().tells_stale(program, entries, &self.host.borrow());
        if stale {
            return Err(Errno::Stale);
        }
        self.step().await;
        Ok(())
    }

    async fn own_remove(&self, (dir, name): Side<'_>, directory: bool) -> Result<(), Errno> {
        self.check_stale(&[(dir, name)]).await?;
        let above = self.object(dir)?;
        let node = self.server.borrow().engine.tree().current(dir, name).filter(|_| !directory);
        let objects: Vec<_> = node.iter().map(|node| (*node, Mask::empty())).collect();
        let call = self.expect(&[(dir, name, Mask::DELETE)], &objects);
        self.step().await;
        let removed = self.host_remove(DAEMON, above, name, directory).await;
        self.end(call, removed.is_ok(), node).await;
        removed?;
        self.step().await;
        self.server.borrow_mut().own(OwnChange::Removed(dir, name));
        Ok(())
    }

    /// RENAME, RENAME2
    pub(crate) async fn serve_rename(
        &self,
        caller: Caller,
        from: Side<'_>,
        to: Side<'_>,
        way: Way,
    ) -> Result<(), Errno> {
        self.step().await;
        let reply = if let Caller::Agent(seq) = caller {
            self.rename_marked(seq, from, to, way).await
        } else {
            self.own_rename(from, to, way).await
        };
        self.note(|| format!("RENAME {from:?} {to:?} {way:?}: {reply:?}"));
        self.step().await;
        reply
    }

    async fn own_rename(&self, from: Side<'_>, to: Side<'_>, way: Way) -> Result<(), Errno> {
        self.check_stale(&[from, to]).await?;
        let (above, above2) = (self.object(from.0)?, self.object(to.0)?);
        let (node, replaced) = {
            let server = self.server.borrow();
            let tree = server.engine.tree();
            let directory = |id: &NodeId| tree.kind(*id) == Some(FileKind::Directory);
            let replaced = tree.current(to.0, to.1).filter(directory);
            (tree.current(from.0, from.1), replaced.filter(|_| way == Way::Over))
        };
        let there = [(from.0, from.1, Mask::MOVED_FROM), (to.0, to.1, Mask::MOVED_TO)];
        let back = [(to.0, to.1, Mask::MOVED_FROM), (from.0, from.1, Mask::MOVED_TO)];
        let entries = if way == Way::Exchange { [there, back].concat() } else { there.to_vec() };
        let objects = node.map(|node| (node, Mask::empty()));
        let objects: Vec<_> =
            objects.into_iter().chain(replaced.map(|node| (node, Mask::ATTRIB))).collect();
        let call = self.expect(&entries, &objects);
        self.step().await;
        let renamed = self.host_rename(DAEMON, (above, from.1), (above2, to.1), way).await;
        self.end(call, renamed.is_ok(), node).await;
        renamed?;
        self.step().await;
        self.server.borrow_mut().own(match way {
            Way::Over => OwnChange::Renamed(from, to),
            Way::Exchange => OwnChange::Exchanged(from, to),
        });
        if way == Way::Over && self.host.borrow().at(above, from.1).is_some() {
            self.server.borrow_mut().own(OwnChange::Kept(from.0, from.1));
        }
        Ok(())
    }

    /// WRITE through a file that was opened by its node, or its RELEASE, or SETATTR of its mode.
    pub(crate) async fn serve_change(&self, node: NodeId, mask: Mask) -> Result<(), Errno> {
        self.step().await;
        let (object, open) = {
            let server = self.server.borrow();
            let open = server.library.open_of(node).ok_or(Errno::Stale)?;
            (server.library.object(node).ok_or(Errno::Stale)?, open)
        };
        let call = self.expect(&[], &[(node, mask)]);
        self.step().await;
        self.host_change(DAEMON, object, open, mask).await;
        self.end(call, true, Some(node)).await;
        self.note(|| format!("CHANGE {node} {mask:?}"));
        self.step().await;
        Ok(())
    }

    /// READDIR of a whole directory.
    pub(crate) async fn serve_readdir(&self, dir: NodeId) -> Result<Vec<Name>, Errno> {
        self.step().await;
        let object = self.object(dir)?;
        let names = self.host.borrow().object(object).entries.keys().cloned().collect();
        self.step().await;
        Ok(names)
    }

    /// FORGET
    pub(crate) fn serve_forget(&self, node: NodeId, count: u64) {
        self.note(|| format!("FORGET {node} {count}"));
        let (server, host) = (&mut *self.server.borrow_mut(), &mut *self.host.borrow_mut());
        server.forget(node, count, host);
    }

    /// For an answer that is over before anybody can look.
    pub(crate) const BRIEF: Duration = Duration::from_nanos(1);
}
