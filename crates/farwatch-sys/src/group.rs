// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The group database (getgrnam(3)), through the C library: groups can come from elsewhere than
//! `/etc/group`.

// UNSAFETY: rustix has system calls only, and this is none.
#![expect(unsafe_code, reason = "getgrnam_r(3)")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;
use rustix::process::Gid;

/// Size of the first buffer for a group's strings, in bytes; it is doubled while it is too small.
const BUF_LEN_MIN: usize = 1 << 10;
/// The largest buffer, in bytes. A group of more members is an error.
const BUF_LEN_MAX: usize = 1 << 20;

/// The id of the group called `name`; `None` if there is no such group.
///
/// # Errors
/// Those of the database, such as EIO; ERANGE for a group of very many members.
pub fn group_id(name: &str) -> Result<Option<Gid>, Errno> {
    // No group has a NUL in its name.
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut len = BUF_LEN_MIN;
    loop {
        match look_up(&name, &mut vec![0; len]) {
            Err(Errno::RANGE) if len < BUF_LEN_MAX => len *= 2,
            // "The given name or gid was not found": besides 0, the manual lists these.
            Err(Errno::NOENT | Errno::SRCH | Errno::BADF | Errno::PERM) => return Ok(None),
            found => return found,
        }
    }
}

/// One call, with room for the group's strings in `buf`.
fn look_up(name: &CString, buf: &mut [libc::c_char]) -> Result<Option<Gid>, Errno> {
    let mut group = MaybeUninit::<libc::group>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: `name` is a C string, `group` is room for a `struct group` and `buf` has the given length,
    // all three until the call returns; it "stores" the group there and a pointer to it in `found`.
    let error = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            group.as_mut_ptr(),
            buf.as_mut_ptr(),
            buf.len(),
            &raw mut found,
        )
    };
    match error {
        0 if found.is_null() => Ok(None),
        // SAFETY: "on success, \*result is set to grp", so the call has filled `group` in.
        0 => Ok(Some(Gid::from_raw(unsafe { group.assume_init() }.gr_gid))),
        error => Err(Errno::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_root_has_id_0_and_an_unknown_group_has_none() {
        assert_eq!(group_id("root"), Ok(Some(Gid::ROOT)));
        assert_eq!(group_id("no-such-group"), Ok(None));
        assert_eq!(group_id("ro\0ot"), Ok(None));
    }

    #[test]
    fn a_buffer_that_is_too_small_for_a_group_is_reported_as_such() {
        let name = CString::new("root").unwrap();
        assert_eq!(look_up(&name, &mut [0; 1]), Err(Errno::RANGE));
    }
}
