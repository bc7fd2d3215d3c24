// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The differences that are allowed between the stream of a mount and that of a local directory.
//!
//! Kept apart and small: whatever is not undone here fails a test.

use std::collections::BTreeMap;

use crate::event::{Event, Kind};

/// The normal form of the events of one step: equal streams have equal normal forms, and so have
/// streams that differ only in what the kernel itself gives up.
///
/// 1. **Identical neighbours are one event.** `inotify(7)`: an event identical to the last one in
///    the queue is merged with it, so their number depends on how fast the reader was.
/// 2. **The order among CREATE, MODIFY, ATTRIB, CLOSE_WRITE and DELETE of one object is lost, and
///    a later one of them may be reported next to an earlier one.** `fanotify(7)`, from which the
///    host side learns of changes: the bits of a new event are added to a queued one about the same
///    object. A rename is never merged (`fs/notify/fanotify/fanotify.c`, `fanotify_merge`), so it
///    ends the run of its object. A creation starts another object's.
///
/// The order *between* objects, every rename with its cookie, and which events each object has must
/// be the same.
#[must_use]
pub fn merge_allowed(events: &[Event]) -> Vec<Event> {
    merge(events, false)
}

/// The same for programs that keep writing to a file over which others have renamed another.
///
/// 3. **What is written to a file that has lost its name may be told before that,** since its earlier
///    events were about the same name and object. Another file has the name then, so that from its
///    coming on nothing is known of when the contents of either changed.
#[must_use]
pub(crate) fn merge_allowed_among_writers(events: &[Event]) -> Vec<Event> {
    merge(events, true)
}

fn merge(events: &[Event], replaced_are_open: bool) -> Vec<Event> {
    let mut runs: Vec<Vec<Event>> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    // The first run of each name, and the one in which something else has come to it last.
    let mut firsts: BTreeMap<&str, (usize, Option<usize>)> = BTreeMap::new();
    for event in events {
        let mergeable = matches!(
            event.kind,
            Kind::Create | Kind::Modify | Kind::Attrib | Kind::CloseWrite | Kind::Delete
        );
        let content = matches!(event.kind, Kind::Modify | Kind::Attrib | Kind::CloseWrite);
        if replaced_are_open {
            match firsts.get(event.object.as_str()) {
                Some((first, Some(_))) if content => {
                    runs[*first].push(event.clone());
                    continue;
                }
                Some((_, Some(last))) if event.kind == Kind::Delete => {
                    runs[*last].push(event.clone());
                    continue;
                }
                Some((first, _)) if matches!(event.kind, Kind::MovedTo | Kind::Create) => {
                    firsts.insert(&event.object, (*first, Some(runs.len())));
                }
                Some(_) => {}
                None => {
                    firsts.insert(&event.object, (runs.len(), None));
                }
            }
        }
        if !mergeable || event.kind == Kind::Create {
            open.remove(event.object.as_str());
        }
        match open.get(event.object.as_str()) {
            Some(&run) => runs[run].push(event.clone()),
            None => runs.push(vec![event.clone()]),
        }
        if !mergeable {
            open.remove(event.object.as_str());
        } else {
            open.entry(&event.object).or_insert(runs.len() - 1);
        }
    }
    let mut merged: Vec<Event> = Vec::new();
    for mut run in runs {
        run.sort_by_key(|event| event.kind);
        merged.append(&mut run);
    }
    merged.dedup();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(stream: &str) -> String {
        let events: Vec<Event> =
            stream.split("; ").map(|line| Event::parse(line).unwrap()).collect();
        merge_allowed(&events).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn identical_neighbours_are_one_event() {
        assert_eq!(merged("MODIFY f; MODIFY f; MODIFY g"), "MODIFY f; MODIFY g");
    }

    #[test]
    fn bits_of_one_object_have_no_order_among_them() {
        let canonical = "CREATE f; MODIFY f; ATTRIB f; CLOSE_WRITE f";
        assert_eq!(merged("CREATE f; CLOSE_WRITE f; MODIFY f; ATTRIB f"), canonical);
    }

    #[test]
    fn a_later_event_may_join_an_earlier_one_of_the_same_object() {
        assert_eq!(
            merged("MODIFY f; MODIFY g; CLOSE_WRITE f"),
            "MODIFY f; CLOSE_WRITE f; MODIFY g"
        );
    }

    #[test]
    fn nothing_moves_over_a_rename_of_its_object() {
        let stream = "MODIFY a; MOVED_FROM a c1; MOVED_TO b c1; MODIFY b; ATTRIB a";
        assert_eq!(merged(stream), stream);
    }

    #[test]
    fn who_writes_to_a_replaced_file_may_be_told_of_before() {
        let stream = |text: &str| -> Vec<Event> {
            text.split("; ").map(|line| Event::parse(line).unwrap()).collect()
        };
        let (one, two) = (
            stream("MODIFY f; MOVED_TO f c1; MOVED_FROM f c2; CREATE f; CLOSE_WRITE f"),
            stream("MODIFY f; CLOSE_WRITE f; MOVED_TO f c1; MOVED_FROM f c2; CREATE f"),
        );
        assert_ne!(merge_allowed(&one), merge_allowed(&two));
        assert_eq!(merge_allowed_among_writers(&one), merge_allowed_among_writers(&two));
    }

    #[test]
    fn a_name_that_was_deleted_and_made_again_is_another_object() {
        let stream = "ATTRIB f; DELETE f; CREATE f; MODIFY f";
        assert_eq!(merged(stream), stream);
    }

    #[test]
    fn a_writer_may_close_a_file_before_or_after_its_deletion() {
        assert_eq!(merged("DELETE f; CLOSE_WRITE f"), merged("CLOSE_WRITE f; DELETE f"));
    }

    #[test]
    fn the_order_of_two_objects_is_kept() {
        assert_ne!(merged("CREATE f; CREATE g"), merged("CREATE g; CREATE f"));
    }
}
