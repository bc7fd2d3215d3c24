// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System calls on what is open: `open_by_handle_at(2)` (`fs/exportfs/expfs.c`), `utimensat(2)`, writes.

use std::pin::Pin;

use farwatch_proto::replay::{OpenMode, Times};
use farwatch_proto::{FileKind, Mask, Name, NodeId};

use crate::dcache::EntryOut;
use crate::host::Errno;
use crate::sim::{Lock, World};
use crate::vfs::{Caller, Held};

impl World {
    /// `exportfs_decode_fh()`, `fuse_get_dentry()`
    pub(crate) async fn open_by_handle(
        &self,
        caller: Caller,
        node: NodeId,
    ) -> Result<Held<'_>, Errno> {
        if self.kernel().inode(node).is_none() {
            let asked = self.kernel().attr_version();
            let entry = self.serve_dot(node).await?;
            self.kernel().iget(&entry, asked);
        }
        let held = self.obtain_alias(node);
        if !self.kernel().isdir(node).is_empty() {
            self.reconnect(caller, held.id).await?;
        }
        Ok(held)
    }

    /// `d_obtain_alias()`
    fn obtain_alias(&self, node: NodeId) -> Held<'_> {
        let mut kernel = self.kernel();
        let id = match kernel.alias(node) {
            Some(id) => {
                kernel.get(id);
                id
            }
            None => {
                let id = kernel.alloc(None, Name::parse(b"?").expect("a name"));
                kernel.add(id, Some(node));
                id
            }
        };
        self.hold(id)
    }

    /// `reconnect_path()`: finds the place of a directory, and of the one that it is in.
    fn reconnect(
        &self,
        caller: Caller,
        id: u64,
    ) -> Pin<Box<dyn Future<Output = Result<(), Errno>> + '_>> {
        Box::pin(async move {
            let node = {
                let kernel = self.kernel();
                let dentry = kernel.dentry(id);
                if dentry.parent.is_some() || dentry.inode == Some(NodeId::ROOT) {
                    return Ok(());
                }
                dentry.inode.ok_or(Errno::Stale)?
            };
            let asked = self.kernel().attr_version();
            let parent: EntryOut = {
                let _lock = self.lock(Lock::Dir(node)).await;
                self.serve_parent(node).await?
            };
            self.kernel().iget(&parent, asked);
            let parent = self.obtain_alias(parent.node);
            let above = parent.node().ok_or(Errno::Stale)?;
            if let Some(name) = self.serve_name(above).await {
                drop(self.find(caller, (above, &name)).await?);
            }
            // Somebody may have found it in another place in the meantime.
            if self.kernel().dentry(id).parent.is_none() {
                return Err(Errno::Stale);
            }
            self.reconnect(caller, parent.id).await
        })
    }

    /// `utimensat(2)` of what is open: of the mtime alone, or of both times.
    pub(crate) async fn sys_set_times(
        &self,
        caller: Caller,
        held: &Held<'_>,
        times: Times,
    ) -> Result<(), Errno> {
        let set = self.set_times(caller, held, times).await;
        // `retry_estale()`
        if set == Err(Errno::Stale) { self.set_times(caller, held, times).await } else { set }
    }

    async fn set_times(&self, caller: Caller, held: &Held<'_>, times: Times) -> Result<(), Errno> {
        let node = held.node().ok_or(Errno::NoEnt)?;
        let directory = !self.kernel().isdir(node).is_empty();
        let _lock = if directory { Some(self.lock(Lock::Dir(node)).await) } else { None };
        let attr = match caller {
            Caller::Agent(seq) => Some(self.serve_set_times(seq, node, times).await?),
            Caller::Program => {
                self.serve_change(node, times.event()).await?;
                self.inner_getattr(node).ok().map(|entry| self.as_told(entry))
            }
        };
        let mut kernel = self.kernel();
        if let Some(attr) = attr {
            // `fuse_do_setattr()` takes the attributes over whatever came in between.
            kernel.change_attributes(node, attr.nlink, attr.attr_timeout, 0);
        }
        kernel.raise_both(held.id, times.event());
        Ok(())
    }

    /// `open(2)` of a file that is held with `O_PATH`, through `/proc`.
    pub(crate) async fn sys_open_marked(
        &self,
        caller: Caller,
        held: &Held<'_>,
        mode: OpenMode,
    ) -> Result<(), Errno> {
        let Caller::Agent(seq) = caller else { return Err(Errno::Perm) };
        let node = held.node().ok_or(Errno::NoEnt)?;
        let opened = self.serve_open_marked(seq, node, mode).await;
        // `do_filp_open()`
        if opened == Err(Errno::Stale) {
            return self.serve_open_marked(seq, node, mode).await;
        }
        opened
    }

    /// A program writes to a file that it has opened.
    pub(crate) async fn sys_write(&self, held: &Held<'_>) -> Result<(), Errno> {
        let node = held.node().ok_or(Errno::NoEnt)?;
        if self.kernel().inode(node).is_none_or(|inode| inode.kind != FileKind::Regular) {
            return Err(Errno::Inval);
        }
        self.serve_change(node, Mask::MODIFY).await?;
        self.kernel().raise_both(held.id, Mask::MODIFY);
        Ok(())
    }

    /// It closes the file. RELEASE is sent when the event has been raised.
    pub(crate) async fn sys_close(&self, held: Held<'_>) {
        let Some(node) = held.node() else { return };
        self.kernel().raise_both(held.id, Mask::CLOSE_WRITE);
        let released = self.serve_change(node, Mask::CLOSE_WRITE).await;
        self.note(|| format!("RELEASE {node}: {released:?}"));
    }
}
