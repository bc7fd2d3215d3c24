// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Bytes`]: bytes that are kept in place if they are few, and shared by all clones if not. What
//! [`Name`](crate::Name) and [`Fid`](crate::Fid) are made of: of either there is one for each object that the guest
//! knows, and most are short.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// See the module's documentation.
#[derive(Clone)]
pub(crate) enum Bytes {
    /// The first `len` of them.
    Few { len: u8, bytes: [u8; Self::FEW] },
    /// More than [`Bytes::FEW`].
    Many(Arc<[u8]>),
}

const _: () = assert!(size_of::<Bytes>() == 24);

impl Bytes {
    /// How many fit beside a length and a tag in the room of a pointer, a length and a tag.
    const FEW: usize = 22;

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Few { len, bytes } => &bytes[..usize::from(*len)],
            Self::Many(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Bytes {
    fn from(from: &[u8]) -> Self {
        match u8::try_from(from.len()) {
            Ok(len) if from.len() <= Self::FEW => {
                let mut bytes = [0; Self::FEW];
                bytes[..from.len()].copy_from_slice(from);
                Self::Few { len, bytes }
            }
            Ok(_) | Err(_) => Self::Many(from.into()),
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_come_out_as_they_went_in() {
        for len in 0..100 {
            let all = vec![7; len];
            let bytes = Bytes::from(&all[..]);
            assert_eq!(bytes.as_slice(), all);
            assert_eq!(matches!(bytes, Bytes::Few { .. }), len <= Bytes::FEW);
        }
    }

    #[test]
    fn few_and_many_bytes_are_ordered_as_slices_are() {
        let (few, many) = ([2; 22], [1; 23]);
        assert!(Bytes::from(&few[..]) > Bytes::from(&many[..]));
        assert!(Bytes::from(&many[..22]) < Bytes::from(&many[..]));
    }
}
