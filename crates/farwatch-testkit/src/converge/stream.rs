// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Stream`]: the events of one process's changes in a form that can be compared. Identical neighbours
//! are one event, since `inotify(7)` merges an event with an identical one at the end of the queue.

use std::collections::BTreeMap;

use super::queue::Received;
use crate::event::Event;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// About names of the directories, in the order of the queue. Cookies are numbered in the order of
    /// their appearance.
    pub(super) names: Vec<Event>,
    /// About each object that was watched before the changes. How far they are apart from the others
    /// depends on whether a program has the object open.
    pub(super) objects: BTreeMap<String, Vec<Event>>,
}

impl Stream {
    /// The stream of a queue in which these directories and objects were watched.
    pub(super) fn new(
        events: &[Received],
        dirs: &BTreeMap<i32, String>,
        objects: &BTreeMap<i32, String>,
    ) -> Self {
        let mut stream = Self::default();
        let mut cookies: BTreeMap<u32, usize> = BTreeMap::new();
        for event in events {
            let Received { kind, is_dir, .. } = *event;
            if let Some(dir) = dirs.get(&event.watch) {
                let next = cookies.len() + 1;
                let cookie = kind.is_move().then(|| *cookies.entry(event.cookie).or_insert(next));
                let name = event.name.as_ref().map(AsRef::as_ref);
                let object = Event::object_of(dir.as_ref(), name);
                stream.names.push(Event { kind, is_dir, object, cookie });
            } else if let Some(name) = objects.get(&event.watch) {
                let object = format!("[{name}]");
                let events = stream.objects.entry(name.clone()).or_default();
                events.push(Event { kind, is_dir, object, cookie: None });
            }
        }
        stream.names.dedup();
        stream.objects.values_mut().for_each(Vec::dedup);
        stream
    }
}

/// Where two streams begin to differ, in words; `None` when they do not.
pub(super) fn difference(wanted: &[Event], received: &[Event]) -> Option<String> {
    let same = wanted.iter().zip(received).take_while(|(one, two)| one == two).count();
    if same == wanted.len() && same == received.len() {
        return None;
    }
    let around = |events: &[Event]| {
        let shown = events.iter().skip(same.saturating_sub(2)).take(8);
        let shown: Vec<String> = shown.map(ToString::to_string).collect();
        if shown.is_empty() { "nothing".to_owned() } else { shown.join("; ") }
    };
    Some(format!(
        "{} events where a local directory has {}, from event {same} on: {} where it has {}",
        received.len(),
        wanted.len(),
        around(received),
        around(wanted)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_is_shown_with_what_comes_before_and_after() {
        let events = |stream: &str| -> Vec<Event> {
            stream.split("; ").map(|line| Event::parse(line).unwrap()).collect()
        };
        let wanted = events("CREATE a; DELETE a; CREATE b; DELETE b");
        assert_eq!(difference(&wanted, &wanted), None);
        let text = difference(&wanted, &events("CREATE a; DELETE a; DELETE b")).unwrap();
        assert!(text.contains("3 events where a local directory has 4, from event 2 on"), "{text}");
        assert!(text.ends_with("has CREATE a; DELETE a; CREATE b; DELETE b"), "{text}");
    }
}
