// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`records`]: the bytes that a fanotify group gives, as [`Record`]s.
//!
//! Pure and free of unsafe code; it does not know where the bytes come from, trusts no length in
//! them, and keeps no state between two reads. What an event means is for the host's watcher.

use farwatch_proto::{Fid, FidError};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Longest event in bytes that a group of ours gets: a rename, with two names and three handles.
pub const EVENT_LEN_MAX: usize = size_of::<fanotify_event_metadata>()
    + 3 * (size_of::<fanotify_event_info_fid>() + Fid::HANDLE_LEN_MAX)
    + 2 * 256;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The events, several bits when the kernel has merged some; [`super::FAN_Q_OVERFLOW`] comes
    /// without any file handle.
    pub mask: u64,
    /// The process that caused it; 0 when it is another than the reader and the group is not
    /// [`unlimited`](super::Level::unlimited).
    pub pid: i32,
    /// The directory and the name of the entry; the name is `.` when the directory itself is the
    /// object.
    pub dir: Option<DirRecord<'a>>,
    /// Where a renamed object was, if that directory is marked.
    pub old: Option<DirRecord<'a>>,
    /// Where a renamed object is, if that directory is marked.
    pub new: Option<DirRecord<'a>>,
    /// The object itself.
    pub object: Option<Fid>,
}

/// A directory and, in most cases, the name of an entry in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirRecord<'a> {
    /// The directory.
    pub fid: Fid,
    /// As the kernel wrote it: an entry's name, `.`, or empty.
    pub name: &'a [u8],
}

/// Why some bytes are not an event. None of these happens with a kernel that keeps to fanotify(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// Fewer bytes than an event's fixed part.
    #[error("{0} bytes are no fanotify event")]
    Short(usize),
    /// `fanotify_event_metadata.vers` is not 3.
    #[error("fanotify metadata of version {0}")]
    Version(u8),
    /// `event_len` or `metadata_len` is smaller than the fixed part or larger than what is there.
    #[error(
        "fanotify event of {event_len} bytes, {metadata_len} of them metadata, in {rest} bytes"
    )]
    EventLen {
        /// Length that the event claims.
        event_len: u32,
        /// Length that its metadata claims.
        metadata_len: u16,
        /// Length of the bytes from the event's start.
        rest: usize,
    },
    /// An info record's length is smaller than its fixed part or larger than what is there; type
    /// and length are 0 when not even its header is there.
    #[error("fanotify info record of type {info_type} and {len} bytes, in {rest} bytes")]
    InfoLen {
        /// Type that the record claims.
        info_type: u8,
        /// Length that the record claims.
        len: u16,
        /// Length of the bytes from the record's start.
        rest: usize,
    },
    /// A file handle is longer than its record.
    #[error("file handle of {0} bytes does not fit its fanotify info record")]
    HandleLen(u32),
    /// A file handle is longer than any.
    #[error("fanotify info record")]
    Fid(#[from] FidError),
    /// A name lacks its NUL.
    #[error("name without an end in a fanotify info record")]
    Name,
}

/// Splits what one [`super::Fanotify::read`] gave into events. After an error there are no further
/// items: where the next event starts is not known any more.
pub fn records(buf: &[u8]) -> Records<'_> {
    Records { rest: buf }
}

/// Iterator over events, made by [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (record, rest) = match event(self.rest) {
            Ok((record, rest)) => (Ok(record), rest),
            Err(error) => (Err(error), [].as_slice()),
        };
        self.rest = rest;
        Some(record)
    }
}

/// `linux/fanotify.h`. `fd` is FAN_NOFD for every event of a group that reports file handles
/// (fanotify(7)), so there is no descriptor to close.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct fanotify_event_metadata {
    event_len: u32,
    vers: u8,
    reserved: u8,
    metadata_len: u16,
    mask: u64,
    fd: i32,
    pid: i32,
}

const _: () = assert!(
    size_of::<fanotify_event_metadata>() == size_of::<libc::fanotify_event_metadata>()
        && size_of::<fanotify_event_metadata>() == 24
);

/// `linux/fanotify.h`
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct fanotify_event_info_header {
    info_type: u8,
    pad: u8,
    len: u16,
}

const _: () = assert!(size_of::<fanotify_event_info_header>() == 4);

/// `linux/fanotify.h`, together with the fixed part of the `struct file_handle` that `handle` is.
/// The handle's bytes follow, and with some types a name.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct fanotify_event_info_fid {
    hdr: fanotify_event_info_header,
    fsid: [u32; 2],
    handle_bytes: u32,
    handle_type: i32,
}

const _: () = assert!(size_of::<fanotify_event_info_fid>() == 20);

/// The first event of `buf`, and what comes after it.
fn event(buf: &[u8]) -> Result<(Record<'_>, &[u8]), RecordError> {
    let Ok((meta, _)) = fanotify_event_metadata::read_from_prefix(buf) else {
        return Err(RecordError::Short(buf.len()));
    };
    if meta.vers != libc::FANOTIFY_METADATA_VERSION {
        return Err(RecordError::Version(meta.vers));
    }
    let fanotify_event_metadata { event_len, metadata_len, .. } = meta;
    let bad_len = RecordError::EventLen { event_len, metadata_len, rest: buf.len() };
    let fixed = usize::from(metadata_len);
    if fixed < size_of::<fanotify_event_metadata>() {
        return Err(bad_len);
    }
    let event_len = usize::try_from(event_len).map_err(|_| bad_len)?;
    let (event, rest) = buf.split_at_checked(event_len).ok_or(bad_len)?;
    let mut infos = event.get(fixed..).ok_or(bad_len)?;
    let mut record =
        Record { mask: meta.mask, pid: meta.pid, dir: None, old: None, new: None, object: None };
    while !infos.is_empty() {
        infos = info(infos, &mut record)?;
    }
    Ok((record, rest))
}

/// Takes the first info record of `buf` into `record` and gives what comes after it. Types that we
/// did not ask for (errors, pidfds, ranges, mounts) or that do not exist yet are skipped.
fn info<'a>(buf: &'a [u8], record: &mut Record<'a>) -> Result<&'a [u8], RecordError> {
    let Ok((hdr, _)) = fanotify_event_info_header::read_from_prefix(buf) else {
        return Err(RecordError::InfoLen { info_type: 0, len: 0, rest: buf.len() });
    };
    let fanotify_event_info_header { info_type, len, .. } = hdr;
    let bad_len = RecordError::InfoLen { info_type, len, rest: buf.len() };
    if usize::from(len) < size_of::<fanotify_event_info_header>() {
        return Err(bad_len);
    }
    let (this, rest) = buf.split_at_checked(usize::from(len)).ok_or(bad_len)?;
    let parse = || fid(this).ok_or(bad_len)?;
    match info_type {
        libc::FAN_EVENT_INFO_TYPE_FID => record.object = Some(parse()?.0),
        libc::FAN_EVENT_INFO_TYPE_DFID => {
            record.dir = Some(DirRecord { fid: parse()?.0, name: &[] });
        }
        libc::FAN_EVENT_INFO_TYPE_DFID_NAME => record.dir = Some(named(parse()?)?),
        libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => record.old = Some(named(parse()?)?),
        libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => record.new = Some(named(parse()?)?),
        _ => {}
    }
    Ok(rest)
}

/// The file handle in an info record, and the bytes after it; `None` when the record is too short
/// to have one.
fn fid(info: &[u8]) -> Option<Result<(Fid, &[u8]), RecordError>> {
    let (fixed, rest) = fanotify_event_info_fid::read_from_prefix(info).ok()?;
    let parts = usize::try_from(fixed.handle_bytes).ok().and_then(|n| rest.split_at_checked(n));
    let Some((handle, rest)) = parts else {
        return Some(Err(RecordError::HandleLen(fixed.handle_bytes)));
    };
    let fid = Fid::new(fixed.fsid, fixed.handle_type, handle).map_err(RecordError::from);
    Some(fid.map(|fid| (fid, rest)))
}

/// "a null terminated name immediately after the file handle" (`linux/fanotify.h`); what follows
/// the NUL is padding.
fn named((fid, rest): (Fid, &[u8])) -> Result<DirRecord<'_>, RecordError> {
    let end = rest.iter().position(|&b| b == 0).ok_or(RecordError::Name)?;
    Ok(DirRecord { fid, name: &rest[..end] })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{FAN_ONDIR, FAN_Q_OVERFLOW, FAN_RENAME};
    use super::*;

    const FSID: [u32; 2] = [0x1234_5678, 9];
    const FID: u8 = libc::FAN_EVENT_INFO_TYPE_FID;
    const DFID: u8 = libc::FAN_EVENT_INFO_TYPE_DFID;
    const DFID_NAME: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
    const OLD: u8 = libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME;
    const NEW: u8 = libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME;

    fn fid_of(handle: &[u8]) -> Fid {
        Fid::new(FSID, 1, handle).unwrap()
    }

    fn dir_of<'a>(handle: &[u8], name: &'a [u8]) -> Option<DirRecord<'a>> {
        Some(DirRecord { fid: fid_of(handle), name })
    }

    /// An info record as `copy_fid_info_to_user()` writes it: padded to 4 bytes with NULs.
    fn info_of(info_type: u8, handle: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(FSID.iter().flat_map(|word| word.to_ne_bytes()));
        body.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        body.extend(1_i32.to_ne_bytes());
        body.extend(handle);
        body.extend(name.into_iter().flat_map(|name| name.iter().copied().chain([0])));
        body.resize(body.len().next_multiple_of(4), 0);
        raw_info(info_type, &body)
    }

    fn raw_info(info_type: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + body.len()).unwrap();
        [&[info_type, 0], &len.to_ne_bytes()[..], body].concat()
    }

    fn event_of(mask: u64, pid: i32, infos: &[Vec<u8>]) -> Vec<u8> {
        let len = u32::try_from(24 + infos.concat().len()).unwrap();
        let fixed: [&[u8]; 6] = [
            &len.to_ne_bytes(),
            &[3, 0],
            &24_u16.to_ne_bytes(),
            &mask.to_ne_bytes(),
            &(-1_i32).to_ne_bytes(),
            &pid.to_ne_bytes(),
        ];
        [fixed.concat(), infos.concat()].concat()
    }

    fn one(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
        let mut records = records(bytes);
        let record = records.next().unwrap();
        assert_eq!(records.next(), None);
        record
    }

    #[test]
    fn an_entry_event_has_directory_name_and_object() {
        let infos = [info_of(DFID_NAME, b"dir1", Some(b"file")), info_of(FID, b"object00", None)];
        let bytes = event_of(0x102, 77, &infos);
        let record = one(&bytes).unwrap();
        assert_eq!((record.mask, record.pid), (0x102, 77));
        assert_eq!(record.dir, dir_of(b"dir1", b"file"));
        assert_eq!(record.object, Some(fid_of(b"object00")));
        assert_eq!((record.old, record.new), (None, None));
    }

    #[test]
    fn an_event_of_the_directory_itself_is_named_dot_or_not_at_all() {
        let named = event_of(4 | FAN_ONDIR, 0, &[info_of(DFID_NAME, b"dir1", Some(b"."))]);
        assert_eq!(one(&named).unwrap().dir, dir_of(b"dir1", b"."));
        let bare = event_of(4 | FAN_ONDIR, 0, &[info_of(DFID, b"dir1", None)]);
        assert_eq!(one(&bare).unwrap().dir, dir_of(b"dir1", b""));
    }

    #[test]
    fn a_rename_has_both_names_and_the_object() {
        let name = [b'n'; 255];
        let infos = [
            info_of(OLD, &[1; 128], Some(&name)),
            info_of(NEW, &[2; 128], Some(&name)),
            info_of(FID, &[3; 128], None),
        ];
        let bytes = event_of(FAN_RENAME, 0, &infos);
        assert_eq!(bytes.len(), EVENT_LEN_MAX);
        let record = one(&bytes).unwrap();
        assert_eq!(record.old, dir_of(&[1; 128], &name));
        assert_eq!(record.new, dir_of(&[2; 128], &name));
        assert_eq!(record.object, Some(fid_of(&[3; 128])));
        assert_eq!(record.dir, None);
    }

    #[test]
    fn an_overflow_has_no_file_handle() {
        let bytes = event_of(FAN_Q_OVERFLOW, 0, &[]);
        let record = one(&bytes).unwrap();
        assert_eq!(record.mask, FAN_Q_OVERFLOW);
        assert_eq!((record.dir, record.object), (None, None));
    }

    #[test]
    fn info_records_of_other_types_are_skipped_by_their_length() {
        let error = raw_info(libc::FAN_EVENT_INFO_TYPE_ERROR, &[0xff; 8]);
        let infos = [error, raw_info(200, &[]), info_of(DFID_NAME, b"dir1", Some(b"f"))];
        assert_eq!(one(&event_of(2, 0, &infos)).unwrap().dir, dir_of(b"dir1", b"f"));
    }

    #[test]
    fn metadata_that_has_grown_is_skipped_by_its_length() {
        let mut bytes = event_of(2, 0, &[vec![0xff; 8], info_of(DFID_NAME, b"dir1", Some(b"f"))]);
        bytes[6..8].copy_from_slice(&32_u16.to_ne_bytes());
        assert_eq!(one(&bytes).unwrap().dir, dir_of(b"dir1", b"f"));
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let good = event_of(2, 0, &[info_of(DFID_NAME, b"dir1", Some(b"f"))]);
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            one(&bad).unwrap_err()
        };
        let rest = good.len();
        let event_len =
            |event_len, metadata_len| RecordError::EventLen { event_len, metadata_len, rest };
        let info_len =
            |len| RecordError::InfoLen { info_type: DFID_NAME, len, rest: good.len() - 24 };
        assert_eq!(one(&good[..23]), Err(RecordError::Short(23)));
        assert_eq!(with(4, &[4]), RecordError::Version(4));
        assert_eq!(with(0, &0_u32.to_ne_bytes()), event_len(0, 24));
        assert_eq!(with(0, &u32::MAX.to_ne_bytes()), event_len(u32::MAX, 24));
        assert_eq!(with(6, &0_u16.to_ne_bytes()), event_len(52, 0));
        assert_eq!(with(6, &99_u16.to_ne_bytes()), event_len(52, 99));
        assert_eq!(with(26, &0_u16.to_ne_bytes()), info_len(0));
        assert_eq!(with(26, &19_u16.to_ne_bytes()), info_len(19));
        assert_eq!(with(26, &99_u16.to_ne_bytes()), info_len(99));
        assert_eq!(with(36, &9_u32.to_ne_bytes()), RecordError::HandleLen(9));
        assert_eq!(with(49, b"fff"), RecordError::Name);
    }

    #[test]
    fn a_handle_longer_than_any_is_an_error() {
        let bytes = event_of(2, 0, &[info_of(FID, &[0; 129], None)]);
        assert_eq!(one(&bytes), Err(RecordError::Fid(FidError::TooLong(129))));
    }

    /// Handle, name and type of an info record, in their real ranges.
    fn infos() -> impl Strategy<Value = Vec<(u8, Vec<u8>, Vec<u8>)>> {
        let info_type = prop_oneof![Just(FID), Just(DFID_NAME), Just(OLD), Just(NEW), Just(5)];
        let name = prop::collection::vec(1..=255_u8, 1..256);
        prop::collection::vec((info_type, prop::collection::vec(any::<u8>(), 0..129), name), 0..4)
    }

    fn event_with(mask: u64, infos: &[(u8, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let infos: Vec<_> = infos
            .iter()
            .map(|(info_type, handle, name)| {
                info_of(*info_type, handle, (*info_type != FID).then_some(name))
            })
            .collect();
        event_of(mask, 1, &infos)
    }

    proptest! {
        #[test]
        fn events_in_one_buffer_come_out_one_by_one(
            events in prop::collection::vec((any::<u64>(), infos()), 0..5)
        ) {
            let encoded: Vec<_> = events.iter().map(|(mask, i)| event_with(*mask, i)).collect();
            let buf = encoded.concat();
            let got: Vec<_> = records(&buf).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(got.len(), events.len());
            for ((record, (mask, infos)), bytes) in got.iter().zip(&events).zip(&encoded) {
                prop_assert_eq!(record.mask, *mask);
                prop_assert_eq!(&one(bytes).unwrap(), record);
                let old = infos.iter().rfind(|(info_type, ..)| *info_type == OLD);
                prop_assert_eq!(&record.old, &old.and_then(|(_, h, name)| dir_of(h, name)));
            }
        }

        #[test]
        fn a_changed_byte_gives_records_or_one_error_at_the_end(
            infos in infos(), at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut buf = [event_with(2, &infos), event_with(2, &infos)].concat();
            let at = at.index(buf.len());
            buf[at] = byte;
            check_any(&buf)?;
        }

        #[test]
        fn arbitrary_bytes_give_records_or_one_error_at_the_end(
            buf in prop::collection::vec(any::<u8>(), 0..400)
        ) {
            check_any(&buf)?;
        }
    }

    fn check_any(buf: &[u8]) -> Result<(), TestCaseError> {
        let got: Vec<_> = records(buf).take(buf.len() + 1).collect();
        prop_assert!(got.len() <= buf.len().div_ceil(24));
        let errors = got.iter().filter(|record| record.is_err()).count();
        prop_assert_eq!(errors, usize::from(got.last().is_some_and(Result::is_err)));
        Ok(())
    }
}
