// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The judges: each compares one thing that a client believes with the truth on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use clap::ValueEnum;

use super::client::{Client, Object, Since};
use super::state::{State, Type};
use super::stream::{Stream, difference};

/// What a judge looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Judge {
    /// The names that the events add up to are the names that exist
    Names,
    /// The mount lists the names that exist
    Listing,
    /// A watched object that exists is still watched, and one that is gone had its DELETE_SELF and its
    /// IGNORED. For objects that were watched before the changes
    Objects,
    /// The same for objects that the client began to watch while the changes were made
    NewObjects,
    /// What the client read after the last event about a name is what is there
    Content,
    /// Of one process, the events about names are those of a local directory
    Count,
    /// Of one process, the events about each object are those of a local one
    #[value(name = "self")]
    SelfEvents,
}

impl Judge {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Names,
        Self::Listing,
        Self::Objects,
        Self::NewObjects,
        Self::Content,
        Self::Count,
        Self::SelfEvents,
    ];
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Names => "names",
            Self::Listing => "listing",
            Self::Objects => "objects",
            Self::NewObjects => "new-objects",
            Self::Content => "content",
            Self::Count => "count",
            Self::SelfEvents => "self",
        })
    }
}

/// What a judge found wrong.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    pub(super) judge: Judge,
    /// The name that it is about, where it is about one.
    pub(super) name: Option<String>,
    /// In one sentence.
    pub(super) sentence: String,
}

/// What is so, when the changes have ended.
#[derive(Debug)]
pub(super) struct Truth {
    /// On the host: the names, and what is under each.
    pub(super) tree: BTreeMap<String, State>,
    /// The identities of what exists, by inode number.
    pub(super) ids: BTreeMap<u64, String>,
    /// The names that the mount lists, if it was asked.
    pub(super) listed: Option<BTreeSet<String>>,
    /// Files that have had several names.
    pub(super) linked: BTreeSet<u64>,
    /// What a local directory reports, where one process makes all changes.
    pub(super) stream: Option<Stream>,
}

/// All that the judges find wrong with what a client believes.
pub(super) fn judge(client: &Client, truth: &Truth) -> Vec<Wrong> {
    let mut wrong = names(client, truth);
    wrong.extend(client.objects().filter_map(|object| judge_object(object, truth)));
    if !client.is_blind() {
        wrong.extend(contents(client, truth));
    }
    wrong.extend(truth.stream.iter().flat_map(|wanted| streams(client, wanted)));
    wrong
}

fn names(client: &Client, truth: &Truth) -> Vec<Wrong> {
    let exist: BTreeSet<String> = truth.tree.keys().cloned().collect();
    let compare = |judge: Judge, found: &BTreeSet<String>, how: [&str; 2]| {
        let wrong = |name: &String, how: &str| Wrong {
            judge,
            name: Some(name.clone()),
            sentence: format!("{name} {how}"),
        };
        let extra = found.difference(&exist).map(|name| wrong(name, how[0]));
        let missing = exist.difference(found).map(|name| wrong(name, how[1]));
        extra.chain(missing).collect::<Vec<_>>()
    };
    let received = ["was reported and does not exist", "exists and was not reported"];
    let listed = ["is listed in the mount and does not exist", "is not listed in the mount"];
    let mut wrong = compare(Judge::Names, client.names(), received);
    if let Some(names) = &truth.listed {
        wrong.extend(compare(Judge::Listing, names, listed));
    }
    wrong
}

fn judge_object(object: &Object, truth: &Truth) -> Option<Wrong> {
    let Object { name, ino, id, since, deleted, ended } = object;
    let now = truth.ids.get(ino);
    let how = match (id, now) {
        // Another object may have its number by now.
        (None, Some(_)) if *ended => return None,
        (Some(id), Some(now)) if id == now => match (deleted, ended) {
            (false, false) => return None,
            (_, true) => "exists, and its watch has ended",
            (true, false) => "exists, and DELETE_SELF was reported",
        },
        (None, Some(_)) if *deleted => "exists, and DELETE_SELF was reported",
        (None, Some(_)) => return None,
        (_, None) | (Some(_), Some(_)) => match (deleted, ended) {
            (true, true) => return None,
            (true, false) => "is gone, and after its DELETE_SELF no IGNORED was reported",
            (false, true) => "is gone, and its watch has ended without a DELETE_SELF",
            (false, false) => "is gone, and neither DELETE_SELF nor IGNORED was reported",
        },
    };
    let sentence = format!("inode {ino}, which was {name} when it was watched, {how}");
    let judge = match since {
        Since::Setup => Judge::Objects,
        Since::Changes => Judge::NewObjects,
    };
    Some(Wrong { judge, name: Some(name.clone()), sentence })
}

fn contents(client: &Client, truth: &Truth) -> Vec<Wrong> {
    let names: BTreeSet<&String> = client.names_read().chain(truth.tree.keys()).collect();
    let wrong = names.into_iter().filter_map(|name| {
        let (read, is) = (client.state(name), truth.tree.get(name));
        let sentence = match (read, is) {
            (None, None) => return None,
            (Some(read), Some(is)) if is_read(client, truth, read, is) => return None,
            (Some(read), None) => format!("{name} was last read as {read:?} and does not exist"),
            (None, Some(is)) => format!("{name} was last read as nothing and is {is:?}"),
            (Some(read), Some(is)) => format!("{name} was last read as {read:?} and is {is:?}"),
        };
        Some(Wrong { judge: Judge::Content, name: Some(name.clone()), sentence })
    });
    wrong.collect()
}

/// Whether the last read of a name has found what is there.
fn is_read(client: &Client, truth: &Truth, read: &State, is: &State) -> bool {
    if (read.kind, read.ino) != (is.kind, is.ino) {
        return false;
    }
    if is.kind != Type::File || read.content == is.content {
        return true;
    }
    // An event names a file by the name that was written to, which may be another one than this, and
    // one that the file has lost before it is read. inotify(7) reports no more of a file with several
    // names that is not watched itself.
    truth.linked.contains(&is.ino)
        && (client.content(is.ino) == Some(&is.content) || !client.is_watched(is.ino))
}

fn streams(client: &Client, wanted: &Stream) -> Vec<Wrong> {
    let received = Stream::new(client.events(), client.dirs(), &client.first_objects());
    let mut wrong = Vec::new();
    if let Some(sentence) = difference(&wanted.names, &received.names) {
        wrong.push(Wrong { judge: Judge::Count, name: None, sentence });
    }
    let none = Vec::new();
    for name in client.first_objects().values() {
        let [one, two] =
            [wanted, &received].map(|stream| stream.objects.get(name).unwrap_or(&none));
        if let Some(difference) = difference(one, two) {
            let (judge, name) = (Judge::SelfEvents, Some(name.clone()));
            wrong.push(Wrong { judge, name, sentence: difference });
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of an object that is still there, or not, after DELETE_SELF and IGNORED, or not.
    fn said(id: Option<&str>, now: Option<&str>, deleted: bool, ended: bool) -> String {
        let object = Object {
            name: "d0/n0".to_owned(),
            ino: 7,
            id: id.map(str::to_owned),
            since: Since::Setup,
            deleted,
            ended,
        };
        let truth = Truth {
            tree: BTreeMap::new(),
            ids: now.map(|id| (7, id.to_owned())).into_iter().collect(),
            listed: None,
            linked: BTreeSet::new(),
            stream: None,
        };
        judge_object(&object, &truth).map(|wrong| wrong.sentence).unwrap_or_default()
    }

    #[test]
    fn object_that_exists_must_be_watched() {
        let (a, b) = (Some("a"), Some("b"));
        assert_eq!(said(a, a, false, false), "");
        assert!(said(a, a, true, false).ends_with("exists, and DELETE_SELF was reported"));
        assert!(said(a, a, true, true).ends_with("exists, and its watch has ended"));
        assert_eq!(said(a, b, true, true), "", "another object has its number");
    }

    #[test]
    fn object_that_is_gone_must_have_had_its_last_events() {
        for now in [None, Some("b")] {
            assert_eq!(said(Some("a"), now, true, true), "");
            assert!(said(Some("a"), now, true, false).ends_with("no IGNORED was reported"));
            assert!(said(Some("a"), now, false, true).ends_with("without a DELETE_SELF"));
            assert!(said(Some("a"), now, false, false).contains("neither"));
        }
    }

    #[test]
    fn object_that_is_not_known_is_not_judged_by_a_number_alone() {
        assert_eq!(said(None, Some("b"), true, true), "");
        assert_eq!(said(None, Some("b"), false, false), "");
        assert!(said(None, None, false, false).contains("neither"));
    }
}
