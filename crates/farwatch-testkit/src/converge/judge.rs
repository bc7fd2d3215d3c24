// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The judges: each compares one thing that a client believes with the truth on the host.

use std::collections::BTreeSet;
use std::fmt;

/// What a judge looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// The names that the events add up to are the names that exist.
    Names,
    /// The mount lists the names that exist.
    Listing,
}

impl Judge {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Names, Self::Listing];
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "names",
            Self::Listing => "listing",
        })
    }
}

/// What a judge found wrong, in one sentence.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    pub(super) judge: Judge,
    pub(super) sentence: String,
}

/// Compares sets of names.
pub(super) fn names(
    judge: Judge,
    found: &BTreeSet<String>,
    truth: &BTreeSet<String>,
) -> Vec<Wrong> {
    let how = match judge {
        Judge::Names => ["was reported and does not exist", "exists and was not reported"],
        Judge::Listing => ["is listed and does not exist", "exists and is not listed"],
    };
    let wrong = |name: &String, how: &str| Wrong { judge, sentence: format!("{name} {how}") };
    let extra = found.difference(truth).map(|name| wrong(name, how[0]));
    extra.chain(truth.difference(found).map(|name| wrong(name, how[1]))).collect()
}
