// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`put_right`]: what the kernel merged in its queue goes back to where it can have happened.
//!
//! fanotify adds the bits of a new event to a queued one about the same object and entry
//! (`fanotify_merge()`), over renames of that object in between. A name of which an object was taken by
//! DELETE cannot be the one that it is renamed from afterwards: then the DELETE came later, after the
//! rename that brought the object back. Called by the watcher with all that it has read.

use super::change::{HostChange, HostEntry};
use crate::{Fid, Mask};

/// Moves each DELETE that was merged over renames behind the last of them that brought its object to its
/// entry. Everything else stays in its order.
pub fn put_right(changes: &mut Vec<HostChange>) {
    let mut at = 0;
    while at < changes.len() {
        if let Some(after) = deleted_after(changes, at)
            && let Some(late) = take_delete(changes, at)
        {
            changes.insert(after + 1, late);
        }
        at += 1;
    }
}

/// The rename after which the DELETE among the bits of a change really happened.
fn deleted_after(changes: &[HostChange], at: usize) -> Option<usize> {
    let HostChange::Entry { entry, mask, object: Some(object) } = changes.get(at)? else {
        return None;
    };
    if !mask.contains(Mask::DELETE) {
        return None;
    }
    let moves = changes.iter().enumerate().skip(at + 1);
    let mut moves = moves.filter_map(|(nth, change)| {
        let (from, to) = sides(change, object)?;
        (from == Some(entry) || to == Some(entry)).then_some((
            nth,
            from == Some(entry),
            to == Some(entry),
        ))
    });
    let (first, leaves, arrives) = moves.next()?;
    if !leaves {
        // It came back by another of its names, after its deletion.
        return None;
    }
    moves
        .filter(|(_, _, arrives)| *arrives)
        .map(|(nth, ..)| nth)
        .next_back()
        .or_else(|| arrives.then_some(first))
}

/// Both sides of a rename of the object.
fn sides<'a>(
    change: &'a HostChange,
    object: &Fid,
) -> Option<(Option<&'a HostEntry>, Option<&'a HostEntry>)> {
    match change {
        HostChange::Move { from, to, object: Some(moved), .. } if moved == object => {
            Some((from.as_ref(), to.as_ref()))
        }
        HostChange::Move { .. }
        | HostChange::Entry { .. }
        | HostChange::Object { .. }
        | HostChange::Overflow => None,
    }
}

/// Takes the DELETE out of a change, as one of its own. Of one that is nothing else, an empty change is
/// left, which says nothing.
fn take_delete(changes: &mut [HostChange], at: usize) -> Option<HostChange> {
    let HostChange::Entry { entry, mask, object } = changes.get_mut(at)? else { return None };
    let delete = mask.intersection(Mask::DELETE.union(Mask::ISDIR));
    mask.remove(Mask::DELETE);
    Some(HostChange::Entry { entry: entry.clone(), mask: delete, object: object.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    fn entry(name: &str) -> HostEntry {
        let dir = Fid::new([7, 0], 1, &[1]).unwrap();
        HostEntry { dir, name: Name::parse(name.as_bytes()).unwrap() }
    }

    fn object(number: u8) -> Option<Fid> {
        Some(Fid::new([7, 0], 1, &[number]).unwrap())
    }

    fn changed(name: &str, mask: Mask, number: u8) -> HostChange {
        HostChange::Entry { entry: entry(name), mask, object: object(number) }
    }

    fn moved(from: Option<&str>, to: Option<&str>, number: u8) -> HostChange {
        let (from, to) = (from.map(entry), to.map(entry));
        HostChange::Move { from, to, object: object(number), directory: false }
    }

    fn right(mut changes: Vec<HostChange>) -> Vec<HostChange> {
        put_right(&mut changes);
        changes
    }

    #[test]
    fn object_that_left_and_came_back_is_deleted_in_the_end() {
        for (out, back) in [
            (moved(Some("a"), None, 9), moved(None, Some("a"), 9)),
            (moved(Some("a"), Some("b"), 9), moved(Some("b"), Some("a"), 9)),
        ] {
            let others = changed("c", Mask::CREATE, 8);
            let merged = Mask::CREATE | Mask::CLOSE_WRITE | Mask::DELETE;
            assert_eq!(
                right(vec![changed("a", merged, 9), out.clone(), others.clone(), back.clone()]),
                [
                    changed("a", Mask::CREATE | Mask::CLOSE_WRITE, 9),
                    out,
                    others,
                    back,
                    changed("a", Mask::DELETE, 9),
                ]
            );
        }
    }

    #[test]
    fn a_deleted_name_to_which_another_name_of_the_object_was_renamed_was_deleted_before() {
        let changes =
            vec![changed("a", Mask::MODIFY | Mask::DELETE, 9), moved(Some("b"), Some("a"), 9)];
        assert_eq!(right(changes.clone()), changes);
    }

    #[test]
    fn renames_of_other_objects_and_entries_change_nothing() {
        for other in [
            moved(Some("a"), Some("b"), 8),
            moved(Some("b"), Some("c"), 9),
            moved(Some("a"), Some("b"), 9),
        ] {
            let changes = vec![changed("a", Mask::CREATE | Mask::DELETE, 9), other];
            assert_eq!(right(changes.clone()), changes);
        }
    }
}
