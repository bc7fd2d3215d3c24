// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fault`]: a rule that is broken on purpose in what a client's queue gives, to show that a judge
//! notices it. Each trial has one.

use std::collections::BTreeSet;

use fastrand::Rng;

use clap::ValueEnum;

use super::queue::Received;
use crate::event::Kind;

/// Which rule is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Fault {
    /// An event about a name is lost
    Drop,
    /// Two events about names of one directory change places
    Swap,
    /// Half of a rename loses its cookie
    Cookie,
    /// A rename is merged with an earlier one of the same names, as fanotify does
    Merge,
    /// What repairs a name does not come: the last event that adds or removes it, and all after that
    SkipRepair,
}

/// The fault happens to one of so many events about names.
const AMONG: usize = 6;

/// Both names of a rename, each with the watch of its directory.
type Rename = ((i32, Option<String>), (i32, Option<String>));

/// Breaks the rule.
#[derive(Debug)]
pub(super) struct Saboteur {
    fault: Fault,
    /// Events about names that are passed on first.
    left: usize,
    done: bool,
    held: Vec<Received>,
    seen: BTreeSet<Rename>,
}

impl Saboteur {
    pub(super) fn new(fault: Fault, seed: u64) -> Self {
        let left = Rng::with_seed(seed).usize(..AMONG);
        Self { fault, left, done: false, held: Vec::new(), seen: BTreeSet::new() }
    }

    /// What becomes of some events.
    pub(super) fn pass(&mut self, events: Vec<Received>) -> Vec<Received> {
        let mut passed = Vec::new();
        for event in events {
            match self.fault {
                Fault::Drop => self.drop_one(event, &mut passed),
                Fault::Swap => self.swap(event, &mut passed),
                Fault::Cookie => self.lose_cookie(event, &mut passed),
                Fault::Merge => self.merge(event, &mut passed),
                Fault::SkipRepair => self.skip_repair(event, &mut passed),
            }
        }
        passed
    }

    /// Whether it is this event's turn.
    fn is_time(&mut self, event: &Received) -> bool {
        if self.done || !is_of_a_name(event) {
            return false;
        }
        self.done = self.left == 0;
        self.left = self.left.saturating_sub(1);
        self.done
    }

    fn drop_one(&mut self, event: Received, passed: &mut Vec<Received>) {
        if !self.is_time(&event) {
            passed.push(event);
        }
    }

    fn swap(&mut self, event: Received, passed: &mut Vec<Received>) {
        if self.is_time(&event) {
            self.held.push(event);
            return;
        }
        let other = |held: &Received| {
            is_of_a_name(&event)
                && event.watch == held.watch
                && (event.kind, &event.name) != (held.kind, &held.name)
        };
        let release = self.held.first().is_some_and(other);
        passed.push(event);
        if release {
            passed.append(&mut self.held);
        }
    }

    fn lose_cookie(&mut self, mut event: Received, passed: &mut Vec<Received>) {
        // The event that ends the count need not be half of a rename.
        let was_done = self.done;
        let is_time = self.is_time(&event) || was_done;
        if is_time && event.kind == Kind::MovedTo && self.held.is_empty() {
            self.held.push(event.clone());
            event.cookie = u32::MAX;
        }
        passed.push(event);
    }

    fn merge(&mut self, event: Received, passed: &mut Vec<Received>) {
        let Some(from) = self.held.pop() else {
            if event.kind == Kind::MovedFrom {
                self.held.push(event);
            } else {
                passed.push(event);
            }
            return;
        };
        let key = |event: &Received| (event.watch, event.name.clone());
        let is_pair = event.kind == Kind::MovedTo && event.cookie == from.cookie;
        if is_pair && !self.seen.insert((key(&from), key(&event))) {
            return;
        }
        passed.push(from);
        if event.kind == Kind::MovedFrom {
            self.held.push(event);
        } else {
            passed.push(event);
        }
    }

    fn skip_repair(&mut self, event: Received, passed: &mut Vec<Received>) {
        let begins = self.is_time(&event);
        let victim = self.held.first().is_some_and(|held| {
            held.watch == event.watch && held.name == event.name && held.name.is_some()
        });
        if victim && is_of_a_name(&event) {
            passed.append(&mut self.held);
        }
        if begins || victim {
            self.held.push(event);
        } else {
            passed.push(event);
        }
    }
}

/// Whether the event adds or removes a name. Others may be missing for good reasons.
fn is_of_a_name(event: &Received) -> bool {
    event.name.is_some()
        && matches!(event.kind, Kind::Create | Kind::Delete | Kind::MovedFrom | Kind::MovedTo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, name: &str, cookie: u32) -> Received {
        let name = Some(name.to_owned());
        Received { watch: 1, kind, is_dir: false, name, cookie, at: std::time::Duration::ZERO }
    }

    fn rename(from: &str, to: &str, cookie: u32) -> [Received; 2] {
        [event(Kind::MovedFrom, from, cookie), event(Kind::MovedTo, to, cookie)]
    }

    fn passed(fault: Fault, events: &[Received]) -> Vec<Received> {
        // One event at a time, as a client that keeps up reads them.
        let mut saboteur = Saboteur { left: 0, ..Saboteur::new(fault, 1) };
        events.iter().flat_map(|event| saboteur.pass(vec![event.clone()])).collect()
    }

    #[test]
    fn dropped_event_is_missing() {
        let events = [event(Kind::Create, "a", 0), event(Kind::Modify, "a", 0)];
        assert_eq!(passed(Fault::Drop, &events), events[1..]);
    }

    #[test]
    fn swapped_events_come_in_the_other_order() {
        let events = [event(Kind::Create, "a", 0), event(Kind::Delete, "a", 0)];
        assert_eq!(passed(Fault::Swap, &events), [events[1].clone(), events[0].clone()]);
    }

    #[test]
    fn lost_cookie_leaves_half_of_a_rename_alone() {
        let received = passed(Fault::Cookie, &rename("a", "b", 7));
        assert_eq!(received.iter().map(|event| event.cookie).collect::<Vec<_>>(), [7, u32::MAX]);
    }

    #[test]
    fn third_rename_is_merged_with_the_first() {
        let events = [rename("a", "b", 1), rename("b", "a", 2), rename("a", "b", 3)].concat();
        assert_eq!(passed(Fault::Merge, &events), events[..4]);
    }

    #[test]
    fn last_events_about_a_name_are_missing_without_its_repair() {
        let events = [
            event(Kind::Create, "a", 0),
            event(Kind::Create, "b", 0),
            event(Kind::Delete, "a", 0),
            event(Kind::Create, "a", 0),
            event(Kind::Modify, "a", 0),
        ];
        let wanted = [events[1].clone(), events[0].clone(), events[2].clone()];
        assert_eq!(passed(Fault::SkipRepair, &events), wanted);
    }
}
