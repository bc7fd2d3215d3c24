// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The invariants: what must hold at rest, after any history.

use std::collections::BTreeSet;
use std::time::Duration;

use farwatch_proto::{FileKind, Mask, Name};

use crate::config::Objects;
use crate::host::{Host, Obj};
use crate::programs::View;
use crate::sim::World;
use crate::watches::Event;

/// What changes names.
const NAMES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);

impl World {
    /// What is wrong at rest, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_names_now()?;
        for view in &self.programs.borrow().views {
            self.check_content(view)?;
            if self.config.objects != Objects::Unchecked {
                self.check_object(view)?;
            }
        }
        if self.config.exact {
            self.check_stream()?;
        }
        self.check_time()
    }

    /// For each watched directory, that the events since its listing add up to the names that exist.
    pub(crate) fn check_names_now(&self) -> Result<(), String> {
        self.programs.borrow().views.iter().try_for_each(|view| self.check_names(view))
    }

    fn events<T>(&self, view: &View, of: impl FnOnce(&mut dyn Iterator<Item = &Event>) -> T) -> T {
        let kernel = self.kernel();
        let mut events =
            kernel.events.iter().skip(view.events).filter(|event| event.watch == view.node);
        of(&mut events)
    }

    /// What a program believes to be in a directory.
    fn believed(&self, view: &View) -> BTreeSet<Name> {
        let mut names = view.names.clone();
        self.events(view, |events| {
            for event in events {
                let Some(name) = &event.name else { continue };
                if event.mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
                    names.insert(name.clone());
                }
                if event.mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
                    names.remove(name);
                }
            }
        });
        names
    }

    fn check_names(&self, view: &View) -> Result<(), String> {
        let host = self.host.borrow();
        let object = host.object(view.object);
        if object.kind != FileKind::Directory || object.removed || !self.is_watched(view) {
            return Ok(());
        }
        let (mut believed, mut is) = (self.believed(view), BTreeSet::new());
        is.extend(object.entries.keys().cloned());
        for (_, name) in host.exchanged.iter().filter(|(dir, _)| *dir == view.object) {
            believed.remove(name);
            is.remove(name);
        }
        if believed == is {
            return Ok(());
        }
        let node = view.node;
        Err(format!("names in {node}: the events add up to {believed:?}, there are {is:?}"))
    }

    fn is_watched(&self, view: &View) -> bool {
        self.kernel().inode(view.node).is_some_and(|inode| inode.watched)
    }

    /// A watched object that exists is still watched; the watch on one that is gone has ended. An object
    /// that had a name in an unwatched directory may be gone without the knowledge of the daemon.
    fn check_object(&self, view: &View) -> Result<(), String> {
        let host = self.host.borrow();
        let object = host.object(view.object);
        let node = view.node;
        match (object.links() > 0, self.is_watched(view)) {
            (true, false) => Err(format!("the watch on {node} has ended, and the object exists")),
            (false, true)
                if self.config.objects == Objects::LiveAndEnd && !object.was_out_of_view =>
            {
                Err(format!("{node} is gone, and the watch on it has not ended"))
            }
            (true, true) | (false, false | true) => Ok(()),
        }
    }

    /// Each entry had an event after its object came there, and each file one after its last change of
    /// content.
    fn check_content(&self, view: &View) -> Result<(), String> {
        let host = &*self.host.borrow();
        let directory = host.object(view.object);
        if directory.removed || !self.is_watched(view) {
            return Ok(());
        }
        let arrives = Mask::CREATE | Mask::MOVED_TO;
        for (name, object) in &directory.entries {
            let Some(fresh) = host.fresh.get(&(view.object, name.clone())) else { continue };
            if *fresh < view.step {
                continue;
            }
            let regular = host.object(*object).kind == FileKind::Regular;
            let wanted = if regular { arrives | Mask::MODIFY | Mask::CLOSE_WRITE } else { arrives };
            let last = self.events(view, |events| {
                let fits = |event: &&Event| {
                    event.name.as_ref() == Some(name) && event.mask.intersects(wanted)
                };
                events.filter(fits).last().map(|event| event.step)
            });
            if last.is_none_or(|last| last < *fresh) {
                return Err(format!(
                    "{}/{name:?} was changed in step {fresh}, its last event is of {last:?}",
                    view.node
                ));
            }
        }
        Ok(())
    }

    /// Everything was reported within a second of the last change, unless time jumps or the agent was
    /// away. A resync that was disturbed is tried again after a second (`Nets::RETRY`).
    fn check_time(&self) -> Result<(), String> {
        let quiet = self.quiet_since.get();
        let last = self.kernel().events.last().map_or(quiet, |event| event.at);
        let limit = quiet + Duration::from_millis(1100);
        let free = !self.config.calm || self.link.borrow().was_away;
        if free || last <= limit {
            return Ok(());
        }
        Err(format!("the last event came at {last:?}, all had been quiet since {quiet:?}"))
    }

    /// Without any change made in the guest, watchers there receive what a watcher on the host receives,
    /// except for equal neighbours. Where several programs change the host, changes of content have no order, and
    /// each directory has an order of its own.
    fn check_stream(&self) -> Result<(), String> {
        let views = &self.programs.borrow().views;
        let host: &Host = &self.host.borrow();
        let dir_of = |node| views.iter().find(|view| view.node == node).map(|view| view.object);
        let watched = |dir| views.iter().any(|view| view.object == dir);
        let in_order = |mask: Mask| self.config.alone || mask.intersects(NAMES);
        let in_directories = |events: &mut Vec<(Obj, Mask, Name)>| {
            events.dedup();
            if !self.config.alone {
                events.sort_by_key(|(dir, ..)| *dir);
                events.dedup();
            }
        };
        let local = host.local.iter().filter(|(dir, mask, _)| watched(*dir) && in_order(*mask));
        let mut local: Vec<_> = local.cloned().collect();
        in_directories(&mut local);
        let kernel = self.kernel();
        let named = kernel
            .events
            .iter()
            .filter_map(|event| Some((dir_of(event.watch)?, event.mask, event.name.clone()?)));
        let mut mount: Vec<_> = named.filter(|(_, mask, _)| in_order(*mask)).collect();
        in_directories(&mut mount);
        if local == mount {
            return Ok(());
        }
        let nth = local.iter().zip(&mount).take_while(|(one, two)| one == two).count();
        let (here, there) = (local.get(nth..), mount.get(nth..));
        Err(format!("from event {nth} on the host has {here:?}, the mount {there:?}"))
    }

    /// After everything else: the guest gives back everything that it holds, and then the server holds
    /// nothing either. So both sides have counted the same references.
    pub(crate) fn check_references(&self) -> Result<(), String> {
        self.kernel().unwatch_all();
        self.kernel().drop_caches();
        let known = self.kernel().inodes.len();
        if known != 1 {
            return Err(format!("{known} inodes are in use after every use has ended"));
        }
        let forgets = std::mem::take(&mut self.kernel().forgets);
        let leaked = std::mem::take(&mut self.kernel().leaked);
        for (node, count) in forgets.into_iter().chain(leaked) {
            self.serve_forget(node, count);
        }
        // What a replay has emptied goes with the next FORGET.
        self.serve_forget(farwatch_proto::NodeId::ROOT, 0);
        let (tree, nodes) = {
            let server = self.server.borrow();
            (server.tree_len(), server.library.len())
        };
        if (tree, nodes) == (1, 1) {
            return Ok(());
        }
        Err(format!("the guest holds nothing; the tree has {tree} nodes, the file server {nodes}"))
    }
}
