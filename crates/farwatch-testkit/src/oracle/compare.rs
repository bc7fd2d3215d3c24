// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which streams are equal.
//!
//! Those of a paced run are compared as they are. Of an unpaced one, what docs/SEMANTICS.md allows is
//! undone first: see [`merge_allowed_among_writers`], and the order between directories, of which nothing is
//! promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::ValueEnum;

use super::merged::{Step, may_be_merged};
use crate::event::{Event, Kind, render};
use crate::merge::{AmongWriters, merge_allowed_among_writers};

/// A rule that is broken on purpose, to see that it is noticed: once in every thousand events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Fault {
    /// An event is lost
    Drop,
    /// Two events of a directory change places
    Swap,
    /// Half of a rename loses its cookie
    Cookie,
}

/// Breaks the rule.
#[derive(Debug)]
pub(super) struct Saboteur {
    fault: Fault,
    seen: usize,
    broken: usize,
}

impl Saboteur {
    const EVERY: usize = 1000;

    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, seen: 0, broken: 0 }
    }

    /// Breaks it in some events, if it is time and they can be used for that.
    pub(super) fn pass(&mut self, events: &mut Vec<Event>) {
        self.seen += events.len();
        if self.seen / Self::EVERY > self.broken && self.break_in(events) {
            self.broken += 1;
        }
    }

    fn break_in(&self, events: &mut Vec<Event>) -> bool {
        // Of other events some may be repeated or merged.
        let names = |event: &Event| {
            matches!(event.kind, Kind::Create | Kind::Delete | Kind::MovedFrom | Kind::MovedTo)
        };
        match self.fault {
            Fault::Drop => {
                let once = |event: &&Event| {
                    names(event) && {
                        let same = |other: &&Event| {
                            (other.kind, &other.object) == (event.kind, &event.object)
                        };
                        events.iter().filter(same).count() == 1
                    }
                };
                let Some(lost) = events.iter().find(once).cloned() else { return false };
                events.retain(|event| *event != lost);
                true
            }
            Fault::Swap => {
                let pair = (0..events.len()).find_map(|one| {
                    let first = &events[one];
                    let other = (one + 1..events.len()).find(|two| {
                        let second = &events[*two];
                        names(second)
                            && second.object != first.object
                            && directory(second) == directory(first)
                    });
                    other.filter(|_| names(first)).map(|two| (one, two))
                });
                let Some((one, two)) = pair else { return false };
                events.swap(one, two);
                true
            }
            Fault::Cookie => {
                let mates = |event: &&mut Event| event.cookie.is_some();
                let Some(half) = events.iter_mut().find(mates) else { return false };
                half.cookie = Some(usize::MAX);
                true
            }
        }
    }
}

/// What is different, in words; `None` when nothing is. `native` as in [`super::Delivery`].
pub(super) fn paced(wanted: &[Event], told: &[Event], native: bool) -> Option<String> {
    let [one, two] = [wanted, told].map(|events| {
        let mut events: Vec<Event> = events.iter().map(without_number).collect();
        if native {
            put_replaced_first(&mut events);
        }
        without_repeats(events)
    });
    (one != two).then(|| format!("  locally:\n{}  in the mount:\n{}", render(wanted), render(told)))
}

/// Puts the ATTRIB of a file that a rename has replaced before the MOVE_SELF of what was moved, as `fsnotify_move()`
/// raises them: a kernel that does not have the replaced file under that name is told of it in a message that
/// follows (docs/SEMANTICS.md).
fn put_replaced_first(events: &mut [Event]) {
    for nth in 2..events.len() {
        let kinds = [nth - 2, nth - 1, nth].map(|nth| events[nth].kind);
        if kinds == [Kind::MovedTo, Kind::MoveSelf, Kind::Attrib] {
            events.swap(nth - 1, nth);
        }
    }
}

/// How many of an event there are in a row depends on how fast the reader is: `inotify(7)`.
fn without_repeats(mut events: Vec<Event>) -> Vec<Event> {
    events.dedup();
    events
}

/// A file without a name is told of by its inode number, which is another in another directory.
fn without_number(event: &Event) -> Event {
    let object = match event.object.rsplit_once('/') {
        _ if !is_unnamed(&event.object) => event.object.clone(),
        Some((directory, _)) => format!("{directory}/#"),
        None => "#".to_owned(),
    };
    Event { object, ..event.clone() }
}

/// A file made with `O_TMPFILE`: `d_tmpfile()` in the kernel's `fs/dcache.c`.
fn is_unnamed(object: &str) -> bool {
    let name = object.rsplit_once('/').map_or(object, |(_, name)| name);
    name.strip_prefix('#').is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The same for a run that nobody waited in. `merges` as in [`super::Oracle::expect_merges`].
pub(super) fn unpaced(wanted: &[Event], told: &[Event], merges: bool) -> Option<String> {
    let mut untold = written_after_removal(wanted);
    untold.retain(|(kind, object)| {
        let is_it = |event: &Event| event.kind == *kind && event.object == *object;
        !told.iter().any(|event| is_it(event) && !is_of_a_directory(event))
    });
    let heard: Vec<Event> = wanted
        .iter()
        .filter(|event| !untold.contains(&(event.kind, event.object.as_str())))
        .cloned()
        .collect();
    let (mut wanted, mut told) = (by_directory(&heard), by_directory(told));
    if merges {
        for (directory, wanted) in &mut wanted {
            if let Some(told) = told.get_mut(directory) {
                excuse(wanted, told);
            }
        }
    }
    let lines = |directories: BTreeMap<String, Told>| -> BTreeMap<String, Vec<String>> {
        directories.into_iter().map(|(directory, told)| (directory, told.into_lines())).collect()
    };
    let (wanted, told) = (lines(wanted), lines(told));
    if wanted == told {
        return None;
    }
    let mut differences = String::new();
    let empty = Vec::new();
    for directory in wanted.keys().chain(told.keys().filter(|dir| !wanted.contains_key(*dir))) {
        let (one, two) =
            (wanted.get(directory).unwrap_or(&empty), told.get(directory).unwrap_or(&empty));
        let same = one.iter().zip(two).take_while(|(one, two)| one == two).count();
        if same == one.len() && same == two.len() {
            continue;
        }
        let around = |events: &[String]| {
            let from = same.saturating_sub(3);
            let shown = events.iter().skip(from).take(12);
            shown.map(|event| format!("    {event}\n")).collect::<String>()
        };
        write!(
            differences,
            "in {directory}, from event {same} on:\n  locally:\n{}  in the mount:\n{}",
            around(one),
            around(two)
        )
        .expect("writing to a string cannot fail");
    }
    Some(differences)
}

/// What was told of a directory.
struct Told {
    /// See [`AmongWriters`].
    order: Vec<Step>,
    entries: BTreeMap<String, Vec<Step>>,
}

impl Told {
    fn into_lines(self) -> Vec<String> {
        let entries = self.entries.into_values().flatten();
        let entries = entries.map(|step| format!("{} (of this entry)", step.line));
        self.order.into_iter().map(|step| step.line).chain(entries).collect()
    }

    fn leave_out(&mut self, object: &str) {
        self.entries.remove(object);
        self.order.retain(|step| step.event.object != object);
    }
}

/// Leaves out the entries of which the host's kernel may have merged events.
fn excuse(wanted: &mut Told, told: &mut Told) {
    let objects: Vec<String> = wanted.entries.keys().cloned().collect();
    for object in objects {
        let (one, two) = (wanted.entries.get(&object), told.entries.get(&object));
        let (Some(one), Some(two)) = (one, two) else { continue };
        if one != two && may_be_merged(one, two) {
            wanted.leave_out(&object);
            told.leave_out(&object);
        }
    }
}

/// The normal form of each directory's events. A cookie is written as what it leads to: the other
/// half's name, if that was told and not merged with another.
fn by_directory(events: &[Event]) -> BTreeMap<String, Told> {
    let mut directories: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| !is_of_a_directory(event)) {
        directories.entry(directory(event)).or_default().push(event.clone());
    }
    // inotify's own merging does not look at cookies: `inotify_merge()`.
    let merge = |events: &mut Vec<Event>| {
        events.dedup_by_key(|event| (event.kind, event.is_dir, event.object.clone()));
    };
    let normal = |mut events: Vec<Event>| {
        merge(&mut events);
        let AmongWriters { mut order, mut entries } = merge_allowed_among_writers(&events);
        merge(&mut order);
        entries.values_mut().for_each(merge);
        AmongWriters { order, entries }
    };
    let directories: BTreeMap<String, AmongWriters> =
        directories.into_iter().map(|(directory, events)| (directory, normal(events))).collect();
    let mut halves: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
    for event in directories.values().flat_map(|events| &events.order) {
        halves.entry(event.cookie.unwrap_or_default()).or_default().push(event);
    }
    let line = |event: &Event| {
        let Some(cookie) = event.cookie else { return event.to_string() };
        let other = halves.get(&cookie).and_then(|halves| {
            halves.iter().find(|half| half.kind != event.kind).map(|half| half.object.as_str())
        });
        format!("{} with {}", Event { cookie: None, ..event.clone() }, other.unwrap_or("nowhere"))
    };
    let step = |event: &Event| Step { event: event.clone(), line: line(event) };
    let steps = |events: &AmongWriters| Told {
        order: events.order.iter().map(step).collect(),
        entries: events
            .entries
            .iter()
            .map(|(object, events)| (object.clone(), events.iter().map(step).collect()))
            .collect(),
    };
    directories.iter().map(|(directory, events)| (directory.clone(), steps(events))).collect()
}

/// What may be missing: what was written to files without a name, or that were deleted or replaced, of
/// directories that have been removed. A local directory lives, and with it the watch, as long as somebody has such a
/// file open; in the mount nobody has. Which of them were written to after the removal is not to be seen:
/// the watcher of the mount need not have been told in this order.
fn written_after_removal(events: &[Event]) -> BTreeSet<(Kind, &str)> {
    let ended = |event: &&Event| event.kind == Kind::DeleteSelf;
    let removed: BTreeSet<String> = events.iter().filter(ended).map(directory).collect();
    let mut there: BTreeMap<&str, bool> = BTreeMap::new();
    for event in events {
        match event.kind {
            Kind::Create | Kind::MovedTo => there.insert(&event.object, true),
            Kind::Delete | Kind::MovedFrom => there.insert(&event.object, false),
            _ => None,
        };
    }
    let written = events.iter().filter(|event| {
        let gone = there.get(event.object.as_str()) == Some(&false) || is_unnamed(&event.object);
        matches!(event.kind, Kind::Modify | Kind::Attrib | Kind::CloseWrite)
            && !event.is_dir
            && gone
            && removed.contains(&format!("[{}]", directory(event)))
    });
    written.map(|event| (event.kind, event.object.as_str())).collect()
}

/// A change of a directory's own attributes. fanotify names such a directory by itself alone, so that
/// it merges two of them over a rename in between, and where the second was is lost.
fn is_of_a_directory(event: &Event) -> bool {
    event.is_dir && matches!(event.kind, Kind::Modify | Kind::Attrib)
}

/// The watch that told of it. What is told of a watched object itself is a stream of its own.
fn directory(event: &Event) -> String {
    if event.object.starts_with('[') || event.kind == Kind::QOverflow {
        return event.object.clone();
    }
    event.object.rsplit_once('/').map_or(".", |(directory, _)| directory).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Vec<Event> {
        text.split("; ").map(|line| Event::parse(line).unwrap()).collect()
    }

    #[test]
    fn attrib_of_what_a_rename_replaces_may_follow_move_self_in_a_kernel_that_raises_events() {
        let locally = stream("MOVED_FROM a c1; MOVED_TO b c1; ATTRIB [other]; MOVE_SELF [a]");
        let natively = stream("MOVED_FROM a c1; MOVED_TO b c1; MOVE_SELF [a]; ATTRIB [other]");
        assert_eq!(paced(&locally, &natively, true), None);
        assert!(paced(&locally, &natively, false).is_some());
        assert!(paced(&locally, &natively[..3], true).is_some());
        let early = stream("ATTRIB [other]; MOVED_FROM a c1; MOVED_TO b c1; MOVE_SELF [a]");
        assert!(paced(&locally, &early, true).is_some());
    }

    #[test]
    fn the_order_between_directories_is_nothing() {
        let (one, two) = (stream("CREATE a/x; CREATE b/y"), stream("CREATE b/y; CREATE a/x"));
        assert_eq!(unpaced(&one, &two, false), None);
        assert!(paced(&one, &two, false).is_some());
    }

    #[test]
    fn write_to_a_deleted_file_of_a_removed_directory_may_be_missing() {
        let one = stream("CREATE d/f; DELETE d/f; MODIFY d/f; DELETE_SELF [d]; IGNORED [d]");
        let two = stream("CREATE d/f; DELETE d/f; DELETE_SELF [d]; IGNORED [d]");
        assert_eq!(unpaced(&one, &two, false), None);
        assert!(unpaced(&two, &one, false).is_some(), "but not invented");
        assert!(unpaced(&one[..3], &two[..2], false).is_some(), "the directory is there");
        let end = "MOVED_TO d/f c1; MOVED_FROM d/f c2; DELETE_SELF [d]; IGNORED [d]";
        let one = stream(&format!("CREATE d/f; CLOSE_WRITE d/f; {end}"));
        let two = stream(&format!("CREATE d/f; {end}"));
        assert_eq!(unpaced(&one, &two, false), None, "what had replaced it was moved away");
        let end = "CREATE,ISDIR d/f; ATTRIB,ISDIR d/f; MOVED_FROM,ISDIR d/f c1; DELETE_SELF [d]; IGNORED [d]";
        let one = stream(&format!("CREATE d/f; DELETE d/f; ATTRIB d/f; {end}"));
        let two = stream(&format!("CREATE d/f; DELETE d/f; {end}"));
        assert_eq!(unpaced(&one, &two, false), None, "a directory that had its name is not it");
    }

    #[test]
    fn the_mate_of_a_half_that_was_merged_is_nowhere() {
        let one = stream("MOVED_FROM a/x c1; MOVED_FROM a/x c2; MOVED_TO b/y c2");
        let two = stream("MOVED_FROM a/x c1; MOVED_TO b/y c2");
        assert_eq!(unpaced(&one, &two, false), None);
        assert!(unpaced(&one, &stream("MOVED_FROM a/x c2; MOVED_TO b/y c2"), false).is_some());
    }

    #[test]
    fn lost_invented_misnamed_or_swapped_event_is_a_difference() {
        let told = stream("CREATE a/x; CREATE a/y; MOVED_FROM a/x c1; MOVED_TO b/z c1");
        for other in [
            "CREATE a/y; MOVED_FROM a/x c1; MOVED_TO b/z c1",
            "CREATE a/x; CREATE a/y; CREATE a/w; MOVED_FROM a/x c1; MOVED_TO b/z c1",
            "CREATE a/x; CREATE a/v; MOVED_FROM a/x c1; MOVED_TO b/z c1",
            "CREATE a/y; CREATE a/x; MOVED_FROM a/x c1; MOVED_TO b/z c1",
            "CREATE a/x; CREATE a/y; MOVED_FROM a/x c1; MOVED_TO b/z c2",
        ] {
            assert!(unpaced(&told, &stream(other), false).is_some(), "{other}");
        }
    }
}
