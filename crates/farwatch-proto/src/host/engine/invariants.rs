// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds of the engine after each input, answer and notification. Debug builds assert it, as far as it does
//! not take long; so every test of the engine checks it.

use super::Engine;

impl Engine {
    /// The most nodes or records that are looked at each time.
    const ASSERTED_MAX: usize = 128;

    /// Asserts the invariants, in debug builds.
    pub(super) fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            self.assert_invariants();
        }
    }

    /// The same, and passes a result on.
    pub(super) fn checked<T>(&self, result: T) -> T {
        self.check_invariants();
        result
    }

    fn assert_invariants(&self) {
        if !self.is_listening() {
            let nothing = self.second_half.is_none()
                && self.backlog.is_empty()
                && self.ledger.len() == 0
                && self.contested.is_empty();
            assert!(nothing, "nothing is kept for an agent that does not listen");
        }
        self.barriers.assert_invariants();
        if self.nets.polls.len() <= Self::ASSERTED_MAX {
            self.nets.polls.assert_invariants();
        }
        if self.tree.len() <= Self::ASSERTED_MAX {
            self.tree.assert_invariants();
            self.contested.assert_invariants();
        }
        if self.ledger.len().max(self.backlog.len()) <= Self::ASSERTED_MAX {
            self.ledger.assert_invariants();
            self.backlog.assert_invariants(self.ledger.handed_out());
        }
    }
}
