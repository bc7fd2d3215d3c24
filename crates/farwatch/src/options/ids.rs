// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--translate-uid` and `--translate-gid`: the library's rules, where they mean what they say.

use virtiofsd::soft_idmap::cmdline::IdMap;

/// Parses a rule. The library forbids nothing when a forbidden range ends with the last id, since the end of the range
/// wraps to 0.
///
/// # Errors
/// One sentence for the user.
pub(super) fn rule(rule: &str) -> Result<IdMap, String> {
    let parsed: IdMap = rule.parse().map_err(|error| format!("{error}"))?;
    let IdMap::ForbidGuest { from_guest, count } = parsed else { return Ok(parsed) };
    // The id after the last one, 4294967295, is none: setresuid(2) takes it for "unchanged".
    let ids_left = u32::MAX - from_guest;
    match count.checked_sub(ids_left) {
        None | Some(0 | 1) => Ok(IdMap::ForbidGuest { from_guest, count: count.min(ids_left) }),
        Some(_) => Err(format!(
            "the range has {count} ids, and only {ids_left} are left from {from_guest} on"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_that_is_forbidden_to_the_last_id_is_forbidden() {
        let count = |text: &str| match rule(text) {
            Ok(IdMap::ForbidGuest { count, .. }) => Some(count),
            _ => None,
        };
        assert_eq!(count("forbid-guest:65536:4294901760"), Some(4_294_901_759));
        assert_eq!(count("forbid-guest:65536:4294901759"), Some(4_294_901_759));
        assert_eq!(count("forbid-guest:65536:10"), Some(10));
        assert_eq!(count("forbid-guest:65536:4294901761"), None);
        assert_eq!(count("forbid-guest:4294967295:1"), Some(0));
        assert!(matches!(rule("map:0:1000:1"), Ok(IdMap::Bidirectional { .. })));
    }
}
