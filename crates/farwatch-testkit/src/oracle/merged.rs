// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`may_be_merged`]: whether the events of an entry are what is left of others where the host is watched by fanotify.
//!
//! Its queue has no second event that equals one of the newest 128 of its hash bucket, whatever lies between, renames
//! included (`fanotify_should_merge()`). Once the entry is at rest the server compares what it has reported with the host,
//! and sends the difference.

use std::collections::BTreeSet;

use crate::event::{Event, Kind};

/// An event, and how it is shown: with the other name of a rename.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) event: Event,
    pub(super) line: String,
}

/// Whether `told` may be what was received of `wanted`, events of one entry: a move that repeats an earlier one may be
/// missing, and then the difference follows. What is believed in the end must be true.
pub(super) fn may_be_merged(wanted: &[Step], told: &[Step]) -> bool {
    let split = |steps: &[Step]| -> (Vec<Step>, Vec<Step>) {
        steps.iter().cloned().partition(|step| is_of_content(&step.event))
    };
    let ((wrote, wanted), (heard, told)) = (split(wanted), split(told));
    let lines = |steps: &[Step]| -> BTreeSet<String> {
        steps.iter().map(|step| step.line.clone()).collect()
    };
    // A difference says that a file was written.
    let heard_all = lines(&wrote).is_subset(&lines(&heard));
    heard_all && is_there(&wanted) == is_there(&told) && leads_to(&wanted, &told)
}

/// Whether some of `wanted` are missing in `told`, and nothing else is there but the difference.
fn leads_to(wanted: &[Step], told: &[Step]) -> bool {
    let repeats = |i: usize| {
        let repeated = |step: &&Step| step.event.kind.is_move();
        let step = wanted.get(i).filter(repeated);
        step.is_some_and(|step| wanted.iter().take(i).any(|before| before.line == step.line))
    };
    let repairs =
        |step: &Step| matches!(step.event.kind, Kind::Create | Kind::Delete | Kind::MovedFrom);
    // How far both may have been gone through, and whether something was missing by then.
    let mut seen = BTreeSet::new();
    let mut reached = vec![(0, 0, false)];
    while let Some((i, j, lost)) = reached.pop() {
        if !seen.insert((i, j, lost)) {
            continue;
        }
        match (wanted.get(i), told.get(j)) {
            (None, None) => return lost,
            (Some(one), Some(two)) if one.line == two.line => reached.push((i + 1, j + 1, lost)),
            _ => {}
        }
        if repeats(i) {
            reached.push((i + 1, j, true));
        }
        if lost && told.get(j).is_some_and(repairs) {
            reached.push((i, j + 1, lost));
        }
    }
    false
}

/// Whether the entry is there in the end, to whoever adds its events up.
fn is_there(steps: &[Step]) -> bool {
    steps.last().is_some_and(|step| matches!(step.event.kind, Kind::Create | Kind::MovedTo))
}

fn is_of_content(event: &Event) -> bool {
    matches!(event.kind, Kind::Modify | Kind::Attrib | Kind::CloseWrite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_be(wanted: &str, told: &str) -> bool {
        let [wanted, told] = [wanted, told].map(|text| {
            let lines = text.split("; ").map(str::to_owned);
            let step = |line: String| {
                // The line shows the other name in place of the cookie.
                let cookie = if line.starts_with("MOVED") { " c1" } else { "" };
                Step { event: Event::parse(&format!("{line}{cookie}")).unwrap(), line }
            };
            lines.map(step).collect::<Vec<_>>()
        });
        may_be_merged(&wanted, &told)
    }

    #[test]
    fn repeated_move_may_be_missing_if_the_difference_follows() {
        let out = "CREATE f; MOVED_FROM f; MOVED_TO f; MOVED_FROM f";
        assert!(may_be(out, "CREATE f; MOVED_FROM f; MOVED_TO f; DELETE f"));
        assert!(!may_be(out, "CREATE f; MOVED_FROM f; MOVED_TO f"), "what is believed is wrong");
        assert!(!may_be(out, "CREATE f; MOVED_FROM f"), "there was no MOVED_TO before");
        let in_again = "MOVED_TO f; MOVED_FROM f; MOVED_TO f";
        let difference = "MODIFY f; CLOSE_WRITE f; MOVED_TO f; MOVED_FROM f; CREATE f";
        assert!(may_be(in_again, difference));
        assert!(may_be(
            "MOVED_TO f; MOVED_FROM f; MOVED_TO f; MOVED_FROM f",
            "MOVED_TO f; MOVED_FROM f"
        ));
    }

    #[test]
    fn lost_or_invented_event_is_no_merging() {
        let stream = "CREATE f; MOVED_FROM f; MOVED_TO f; MOVED_FROM f; CREATE f; DELETE f";
        assert!(!may_be(stream, "CREATE f; MOVED_FROM f; MOVED_TO f; MOVED_FROM f; DELETE f"));
        assert!(!may_be("CREATE f; DELETE f", "CREATE f; DELETE f; CREATE f; DELETE f"));
        assert!(!may_be(
            "MODIFY f; MOVED_TO f; MOVED_FROM f; MOVED_TO f",
            "MOVED_TO f; MOVED_FROM f; CREATE f"
        ));
    }
}
