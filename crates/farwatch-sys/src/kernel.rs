// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which kernel this is, for people. What it can do is found out by asking it, not from here.

use std::fmt;

/// The first two numbers of `uname -r`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KernelRelease {
    /// 6 of 6.12.
    pub major: u32,
    /// 12 of 6.12.
    pub minor: u32,
}

impl KernelRelease {
    /// From the text of `uname -r`; `None` when it does not start with two numbers.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self { major: next()?, minor: next()? })
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The running kernel's release (`uname(2)`); `None` when it is not spelt as Linux spells it.
pub fn release() -> Option<KernelRelease> {
    KernelRelease::parse(rustix::system::uname().release().to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_two_numbers_whatever_follows() {
        let parse = KernelRelease::parse;
        assert_eq!(parse("6.12.117-cloud-amd64"), Some(KernelRelease { major: 6, minor: 12 }));
        assert_eq!(parse("5.15-rc1"), Some(KernelRelease { major: 5, minor: 15 }));
        assert_eq!(parse("6"), None);
        assert_eq!(parse("v6.1"), None);
        assert!(parse("5.9") < parse("5.13"));
        assert!(release().is_some());
    }
}
