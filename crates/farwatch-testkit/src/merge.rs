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
///    host side learns of changes with `--watch fanotify`: the bits of a new event are added to a queued
///    one about the same object. A rename is merged with none of these, so it ends the run of its
///    object. (It is with an equal rename, `fanotify_should_merge()`: that is not undone here, and such
///    a case fails.) A creation starts another object's.
///
/// The order *between* objects, every rename with its cookie, and which events each object has must
/// be the same.
#[must_use]
pub fn merge_allowed(events: &[Event]) -> Vec<Event> {
    let mut runs: Vec<Vec<Event>> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events {
        if !is_mergeable(event) || event.kind == Kind::Create {
            open.remove(event.object.as_str());
        }
        match open.get(event.object.as_str()) {
            Some(&run) => runs[run].push(event.clone()),
            None => runs.push(vec![event.clone()]),
        }
        if !is_mergeable(event) {
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

/// What is kept of a directory's events among several programs that change it at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AmongWriters {
    /// What came, went and moved, in this order: all of it is done under the directory's lock. A DELETE
    /// is among it if nothing else is told of the entry that it could have been merged with.
    pub(crate) order: Vec<Event>,
    /// What each entry was told of, in this order.
    pub(crate) entries: BTreeMap<String, Vec<Event>>,
}

/// The normal form of a directory's events among several programs. More is lost than in
/// [`merge_allowed`]:
///
/// 3. **The order of MODIFY, ATTRIB and CLOSE_WRITE of one entry to what is done to others.** No lock is
///    held while they are told, so that two watchers need not be told in the same order. A DELETE that
///    is merged with one goes where that is.
/// 4. **Which of two files that had a name one after the other was written to.** Programs go on writing
///    to the one that is replaced.
#[must_use]
pub(crate) fn merge_allowed_among_writers(events: &[Event]) -> AmongWriters {
    let mut kept = AmongWriters::default();
    let mut entries: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
    for event in events {
        entries.entry(&event.object).or_default().push(event.clone());
    }
    let named = |event: &&Event| event.kind.is_move() || event.kind == Kind::Create;
    let alone = |event: &&Event| {
        event.kind == Kind::Delete
            && entries[event.object.as_str()]
                .iter()
                .all(|other| !is_mergeable(other) || other == *event)
    };
    kept.order = events.iter().filter(|event| named(event) || alone(event)).cloned().collect();
    kept.order.dedup();
    for (name, events) in entries {
        kept.entries.insert(name.to_owned(), merge_entry(&events));
    }
    kept
}

/// Those of one entry: the changes of content, if another file may have had the name before, in one
/// place.
fn merge_entry(events: &[Event]) -> Vec<Event> {
    let content =
        |event: &Event| matches!(event.kind, Kind::Modify | Kind::Attrib | Kind::CloseWrite);
    let arrives = |event: &Event| matches!(event.kind, Kind::MovedTo | Kind::Create);
    let (mut contents, mut named): (Vec<Event>, Vec<Event>) =
        events.iter().cloned().partition(content);
    let arrivals = named.iter().filter(|event| arrives(event)).count();
    let created = named.first().is_some_and(|event| event.kind == Kind::Create);
    if arrivals == 0 || (arrivals == 1 && created) {
        return merge_allowed(events);
    }
    contents.sort_by_key(|event| event.kind);
    contents.append(&mut named);
    contents.dedup();
    contents
}

fn is_mergeable(event: &Event) -> bool {
    matches!(
        event.kind,
        Kind::Create | Kind::Modify | Kind::Attrib | Kind::CloseWrite | Kind::Delete
    )
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

    fn among_writers(stream: &str) -> AmongWriters {
        let events: Vec<Event> =
            stream.split("; ").map(|line| Event::parse(line).unwrap()).collect();
        merge_allowed_among_writers(&events)
    }

    #[test]
    fn writer_of_a_replaced_file_may_be_reported_earlier() {
        assert_eq!(
            among_writers("MODIFY f; MOVED_TO f c1; MOVED_FROM f c2; CREATE f; CLOSE_WRITE f"),
            among_writers("MODIFY f; CLOSE_WRITE f; MOVED_TO f c1; MOVED_FROM f c2; CREATE f")
        );
    }

    #[test]
    fn of_several_programs_the_changes_of_content_have_no_order() {
        assert_eq!(
            among_writers("CREATE g; ATTRIB f; DELETE f"),
            among_writers("ATTRIB f; DELETE f; CREATE g")
        );
        assert_ne!(among_writers("CREATE g; DELETE f"), among_writers("DELETE f; CREATE g"));
        assert_ne!(among_writers("MODIFY f; CREATE g"), among_writers("CREATE g"));
        assert_ne!(among_writers("CREATE f; CREATE g"), among_writers("CREATE g; CREATE f"));
    }

    #[test]
    fn of_several_programs_nothing_moves_over_a_rename_of_its_object() {
        assert_ne!(
            among_writers("CREATE f; MODIFY f; MOVED_FROM f c1"),
            among_writers("CREATE f; MOVED_FROM f c1; MODIFY f")
        );
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
