// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--modcaps`: changes to the set of capabilities that the daemon keeps. `serve::capabilities` applies
//! them.

use std::fmt;
use std::str::FromStr;

use rustix::thread::CapabilitySet;

/// `--modcaps`: `+name` or `-name`, separated by colons. The last change of a capability wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CapabilityChanges {
    pub(crate) added: CapabilitySet,
    pub(crate) dropped: CapabilitySet,
}

impl FromStr for CapabilityChanges {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut changes = Self { added: CapabilitySet::empty(), dropped: CapabilitySet::empty() };
        for change in list.split(':') {
            let add = change.starts_with('+');
            let Some(name) = change.strip_prefix(['+', '-']) else {
                return Err(format!("'{change}' is not of the form +NAME or -NAME"));
            };
            let name = name.to_uppercase();
            let capability = CapabilitySet::from_name(&name)
                .ok_or_else(|| format!("there is no capability '{name}'"))?;
            changes.added.set(capability, add);
            changes.dropped.set(capability, !add);
        }
        Ok(changes)
    }
}

/// The list that parses to the same.
impl fmt::Display for CapabilityChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = [('+', self.added), ('-', self.dropped)];
        let changes = changes.into_iter().flat_map(|(sign, set)| {
            set.iter_names().map(move |(name, _)| format!("{sign}{}", name.to_lowercase()))
        });
        f.write_str(&changes.collect::<Vec<_>>().join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_written_parses_to_the_same() {
        for list in ["+sys_admin:-chown:+sys_resource", "-mknod"] {
            let changes: CapabilityChanges = list.parse().unwrap();
            assert_eq!(changes.to_string().parse(), Ok(changes));
        }
    }

    #[test]
    fn a_malformed_list_is_rejected_with_the_offending_item() {
        for (list, word) in [("", "''"), ("chown", "'chown'"), ("+chown:", "''"), ("+x", "'X'")] {
            let error = list.parse::<CapabilityChanges>().unwrap_err();
            assert!(error.contains(word), "{list}: {error}");
        }
    }
}
