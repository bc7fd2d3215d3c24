// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Rng`]: the random numbers of a case, the same for the same seed on every machine.

/// xorshift64* of Vigna, "An experimental exploration of Marsaglia's xorshift generators".
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Any seed will do: neighbouring ones give unrelated numbers.
    pub(crate) fn new(seed: u64) -> Self {
        // splitmix64, so that small seeds do not begin with small numbers; the state must not be 0.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ (z >> 31)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than `end`")
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}
