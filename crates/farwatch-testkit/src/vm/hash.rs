// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A name for what is built of some files.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Another one for other contents, in any of the files.
pub(super) fn hash_of<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<String> {
    let mut hash = Fnv::default();
    for file in files {
        hash.add(&std::fs::read(file).with_context(|| file.display().to_string())?);
    }
    Ok(format!("{:016x}", hash.0))
}

/// The same of parts that are at hand.
#[must_use]
pub fn hash_of_parts(parts: &[&str]) -> String {
    let mut hash = Fnv::default();
    for part in parts {
        hash.add(part.as_bytes());
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a, of parts that cannot run into one another. It tells builds apart, and keeps nothing safe.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, part: &[u8]) {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_where_a_part_ends() {
        let hash = |parts: &[&str]| {
            let mut hash = Fnv::default();
            parts.iter().for_each(|part| hash.add(part.as_bytes()));
            hash.0
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }
}
