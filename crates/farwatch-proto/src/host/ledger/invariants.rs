// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds of the ledger after each input.

use super::record::Message;
use super::{Ledger, Pending};
use crate::Seq;

impl Ledger {
    /// The events that were handed out and are not settled.
    pub(in super::super) fn handed_out(&self) -> impl Iterator<Item = &Pending> {
        self.records
            .iter()
            .filter(|record| record.message == Message::First && !record.state.settled)
            .map(|record| &record.pending)
    }

    /// How many records there are.
    pub(in super::super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Asserts what holds after each input.
    pub(in super::super) fn assert_invariants(&self) {
        assert!(self.records.len() <= Self::LEN_MAX, "{} records", self.records.len());
        for (record, next) in self.records.iter().zip(self.records.iter().skip(1)) {
            let (this, next) = (record.seq, next.seq);
            let steps = next.since(this);
            assert!((1..Seq::MAX.get() / 2).contains(&steps), "{this:?} is before {next:?}");
        }
        assert!(self.unfinished.is_empty(), "{:?} were not taken", self.unfinished);
    }
}
