// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`audit`]: the tree of the host, judged by the operations and by what their processes were told. No event is
//! needed for it.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use crate::converge::case::{Case, LEDGER};
use crate::converge::op::Op;
use crate::converge::state::{State, Type};
use crate::converge::worker::Done;

/// Errors after which nobody knows whether the operation was done: the mount or the host has failed in its midst.
const UNKNOWN: [Errno; 6] =
    [Errno::IO, Errno::NOTCONN, Errno::CONNABORTED, Errno::INTR, Errno::NOSPC, Errno::MFILE];

/// What is wrong with the tree, a sentence each: content that no operation wrote, that an operation wrote which was
/// refused, or that is there more than once; and of the ledger, which one process in the mount alone appends to,
/// content that was written and is not there.
pub(in crate::converge) fn audit(
    case: &Case,
    results: &[Vec<Done>],
    tree: &BTreeMap<String, State>,
) -> Vec<String> {
    let mut may_be = setup_versions(case);
    let mut must_be = Vec::new();
    for ((_, ops), results) in case.scripts.iter().zip(results) {
        for (op, done) in ops.iter().zip(results) {
            let (Op::Create(at, version) | Op::Append(at, version)) = op else { continue };
            let is_unknown = UNKNOWN.iter().any(|errno| errno.raw_os_error() == done.errno);
            if done.errno == 0 || is_unknown {
                may_be.insert(version.clone());
            }
            if done.errno == 0 && at == LEDGER {
                must_be.push(version.clone());
            }
        }
    }
    let mut wrong = Vec::new();
    let mut found_in: BTreeMap<String, u64> = BTreeMap::new();
    let files: BTreeMap<u64, (&String, &State)> = tree
        .iter()
        .filter(|(_, state)| state.kind == Type::File)
        .map(|(name, state)| (state.ino, (name, state)))
        .collect();
    for (name, state) in files.values() {
        for version in versions(&state.content) {
            if !may_be.contains(&version) {
                // The first write of a file that was made begins at its beginning, and may overwrite part of what
                // another process has appended in the meantime: locally, too.
                if may_be.iter().any(|whole| whole.ends_with(&version)) {
                    continue;
                }
                wrong.push(format!("{name} has {version:?} on the host, which nobody has written"));
            }
            if found_in.insert(version.clone(), state.ino).is_some() {
                wrong.push(format!("{name} has {version:?} on the host, which is there twice"));
            }
        }
    }
    if case.has_ledger {
        let content = tree.get(LEDGER).map(|state| state.content.clone()).unwrap_or_default();
        wrong.extend(missing(&versions(&content), &must_be));
    }
    wrong
}

/// The versions that the ledger should have, in their order, and has not.
fn missing(found: &[String], wanted: &[String]) -> Option<String> {
    let mut found = found.iter();
    let lost: Vec<&String> =
        wanted.iter().filter(|version| !found.any(|found| found == *version)).collect();
    let lost = lost.first()?;
    Some(format!("{LEDGER} has no {lost:?} on the host at its place, which was written"))
}

fn setup_versions(case: &Case) -> BTreeSet<String> {
    let written = case.setup.iter().filter_map(|op| match op {
        Op::Create(_, version) | Op::Append(_, version) => Some(version.clone()),
        Op::Unlink(_) | Op::Rename(..) | Op::Exchange(..) | Op::Link(..) => None,
        Op::Mkdir(_) | Op::Rmdir(_) | Op::Symlink(_) => None,
    });
    written.collect()
}

fn versions(content: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(content).split_inclusive(';').map(str::to_owned).collect()
}

/// Of one process on the host: where the tree differs from that of a local directory in which the same operations gave
/// the same results. Whatever differs, a replay has changed.
pub(in crate::converge) fn same_tree(
    tree: &BTreeMap<String, State>,
    twin: &BTreeMap<String, State>,
) -> Option<String> {
    let names: BTreeSet<&String> = tree.keys().chain(twin.keys()).collect();
    let what = |state: Option<&State>| state.map(|state| (state.kind, state.content.clone()));
    let name = names.into_iter().find(|name| what(tree.get(*name)) != what(twin.get(*name)))?;
    let [here, there] = [tree, twin].map(|tree| tree.get(name));
    Some(format!("{name} is {here:?} on the host, and {there:?} where nothing is replayed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::case::{Kind, Knobs};

    /// A ledger with this content after appends of `1.0;`, `1.1;`, of which the second gave `errno`.
    fn judged(content: &str, errno: i32) -> Vec<String> {
        let mut case = Case::generate(Kind::Both, Knobs::default(), 1);
        case.setup.clear();
        case.has_ledger = true;
        let append = |version: &str| Op::Append(LEDGER.to_owned(), version.to_owned());
        case.scripts = vec![(case.scripts[0].0, vec![append("1.0;"), append("1.1;")])];
        let done = |errno| Done { errno, at: std::time::Duration::ZERO, linked: Vec::new() };
        let results = [vec![done(0), done(errno)]];
        let state = State { kind: Type::File, ino: 7, content: content.into() };
        audit(&case, &results, &BTreeMap::from([(LEDGER.to_owned(), state)]))
    }

    #[test]
    fn content_of_a_successful_write_must_be_there_and_that_of_a_refused_one_not() {
        let ok = 0;
        assert!(judged("1.0;1.1;", ok).is_empty());
        assert_eq!(judged("1.0;", ok).len(), 1, "lost");
        assert_eq!(judged("1.1;1.0;", ok).len(), 1, "in another order");
        assert_eq!(judged("1.0;1.1;", Errno::NOENT.raw_os_error()).len(), 1, "refused and done");
        assert_eq!(judged("1.0;1.1;1.1;", ok).len(), 1, "written twice");
        assert_eq!(judged("1.0;1.1;2.2;", ok).len(), 1, "written by nobody");
    }

    #[test]
    fn write_that_failed_with_the_mount_may_be_there_or_not() {
        for content in ["1.0;", "1.0;1.1;"] {
            assert!(judged(content, Errno::NOTCONN.raw_os_error()).is_empty());
        }
    }

    #[test]
    fn tree_with_another_name_or_content_is_noticed() {
        let tree = |name: &str, content: &str| {
            let state = State { kind: Type::File, ino: 7, content: content.into() };
            BTreeMap::from([(name.to_owned(), state)])
        };
        assert_eq!(same_tree(&tree("a", "1"), &tree("a", "1")), None);
        assert!(same_tree(&tree("a", "1"), &tree("a", "2")).is_some());
        assert!(same_tree(&tree("a", "1"), &tree("b", "1")).is_some());
    }
}
