// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The extended attribute by which a program finds out whether changes on the host raise events in the mount
//! (docs/TYPES.md). Nothing is stored on the host.
//!
//! It exists on every file and directory while events are delivered, and is in no listing, so that it is not copied.

use std::ffi::CStr;
use std::io;

use farwatch_proto::Mask;
use rustix::io::Errno;
use virtiofsd::filesystem::GetxattrReply;

/// Ordinary users may read an attribute of this namespace where they may read the object (xattr(7)).
const NAME: &CStr = c"user.farwatch.events";

/// What `getxattr(2)` is answered, or none if the attribute is another one. `delivered` are the events that are
/// delivered, none where there are not any.
pub(super) fn get(
    name: &CStr,
    size: u32,
    delivered: impl FnOnce() -> Option<Mask>,
) -> Option<io::Result<GetxattrReply>> {
    if name != NAME {
        return None;
    }
    let Some(events) = delivered() else { return Some(Err(Errno::NODATA.into())) };
    let value = if events.intersects(Mask::READS) { "all" } else { "changes" };
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    Some(match size {
        0 => Ok(GetxattrReply::Count(len)),
        size if size < len => Err(Errno::RANGE.into()),
        _ => Ok(GetxattrReply::Value(value.into())),
    })
}

/// Refuses to set or remove it.
pub(super) fn check_change(name: &CStr) -> io::Result<()> {
    if name == NAME { Err(Errno::PERM.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(size: u32, delivered: Option<Mask>) -> Result<String, Option<i32>> {
        match get(NAME, size, || delivered).unwrap() {
            Ok(GetxattrReply::Value(value)) => Ok(String::from_utf8(value).unwrap()),
            Ok(GetxattrReply::Count(len)) => Ok(len.to_string()),
            Err(error) => Err(error.raw_os_error()),
        }
    }

    #[test]
    fn value_names_the_events_that_are_delivered() {
        assert_eq!(value(100, Some(Mask::DEFAULT)).unwrap(), "changes");
        assert_eq!(value(100, Some(Mask::DEFAULT.union(Mask::READS))).unwrap(), "all");
        assert_eq!(value(0, Some(Mask::DEFAULT)).unwrap(), "7");
        assert_eq!(value(6, Some(Mask::DEFAULT)), Err(Some(Errno::RANGE.raw_os_error())));
    }

    #[test]
    fn attribute_is_missing_while_no_events_are_delivered() {
        assert_eq!(value(100, None), Err(Some(Errno::NODATA.raw_os_error())));
    }

    #[test]
    fn other_attributes_are_left_to_the_file_server() {
        assert!(get(c"user.other", 100, || unreachable!("not asked for")).is_none());
        check_change(c"user.other").unwrap();
        assert_eq!(
            check_change(NAME).unwrap_err().raw_os_error(),
            Some(Errno::PERM.raw_os_error())
        );
    }
}
