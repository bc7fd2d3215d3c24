// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Limbo`]: under which name something is in the limbo directory, where a one-sided move comes from or goes
//! to.
//!
//! What has gone there and comes back is taken from the name under which it went: from any other the kernel
//! would get a second dentry for it, and a kernel that raises DELETE_SELF no sooner than with the last dentry of
//! a file would keep that back (seen in 6.12.117, not in 6.1 and 6.18).

use std::collections::BTreeMap;

use crate::{Name, Node};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Limbo {
    /// The number that was the last name.
    last: u64,
    /// Where known objects are.
    held: BTreeMap<Node, u64>,
}

impl Limbo {
    /// The most objects whose names are kept. Past it all are forgotten, which is no more than if it were
    /// another name that they come back from.
    pub const HELD_MAX: usize = 1024;

    /// A name under which nothing is yet, for an object that is known as `child`.
    pub fn enter(&mut self, child: Option<Node>) -> Name {
        self.last += 1;
        if let Some(child) = child {
            if self.held.len() >= Self::HELD_MAX {
                self.held.clear();
            }
            self.held.insert(child, self.last);
        }
        name(self.last)
    }

    /// The name under which `child` has gone there, or a new one.
    pub fn leave(&mut self, child: Option<Node>) -> Name {
        match child.and_then(|child| self.held.remove(&child)) {
            Some(number) => name(number),
            None => self.enter(None),
        }
    }
}

fn name(number: u64) -> Name {
    Name::parse(number.to_string().as_bytes()).expect("decimal digits make a name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, NodeId};

    fn node(id: u64) -> Option<Node> {
        Some(Node { id: NodeId::new(id).unwrap(), generation: Generation(1) })
    }

    #[test]
    fn object_that_moves_back_in_is_taken_from_its_limbo_name() {
        let mut limbo = Limbo::default();
        let (one, two) = (limbo.enter(node(7)), limbo.enter(node(8)));
        assert_ne!(one, two);
        assert_eq!([limbo.leave(node(8)), limbo.leave(node(7))], [two, one]);
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut limbo = Limbo::default();
        let mut names = vec![limbo.enter(None), limbo.enter(node(7)), limbo.enter(node(7))];
        assert_eq!(limbo.leave(node(7)), names[2], "the last");
        names.extend([limbo.leave(node(7)), limbo.leave(node(9)), limbo.leave(None)]);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn of_too_many_the_names_are_forgotten() {
        let mut limbo = Limbo::default();
        let first = limbo.enter(node(1));
        for id in 0..u64::try_from(Limbo::HELD_MAX).unwrap() {
            limbo.enter(node(2 + id));
        }
        assert_ne!(limbo.leave(node(1)), first);
        assert!(limbo.held.len() <= Limbo::HELD_MAX);
    }
}
