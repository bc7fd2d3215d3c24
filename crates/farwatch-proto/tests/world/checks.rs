// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must be true when everything is at rest.

use std::collections::BTreeSet;

use farwatch_proto::{Mask, Name};

use crate::programs::View;
use crate::sim::World;

impl World {
    /// What is wrong, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        for view in &self.programs.borrow().views {
            self.check_names(view)?;
        }
        Ok(())
    }

    /// What the program believes to be in a directory, from its listing and the events since.
    fn believed(&self, view: &View) -> BTreeSet<Name> {
        let mut names = view.names.clone();
        let kernel = self.kernel();
        for event in kernel.events.iter().skip(view.events).filter(|event| event.watch == view.node)
        {
            let Some(name) = &event.name else { continue };
            if event.mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
                names.insert(name.clone());
            }
            if event.mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
                names.remove(name);
            }
        }
        names
    }

    fn check_names(&self, view: &View) -> Result<(), String> {
        let host = self.host.borrow();
        let object = host.object(view.object);
        let watched = self.kernel().inode(view.node).is_some_and(|inode| inode.watched);
        if object.removed || object.was_out_of_view || !watched {
            return Ok(());
        }
        let (believed, is) = (self.believed(view), object.entries.keys().cloned().collect());
        if believed == is {
            return Ok(());
        }
        let node = view.node;
        Err(format!("names of {node}: events add up to {believed:?}, and there are {is:?}"))
    }
}
