// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Snapshot`]: all that there is to know about a directory tree but the times of access, to tell
//! whether anything in it has changed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Snapshot(BTreeMap<PathBuf, Object>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Object {
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    nlink: u64,
    rdev: u64,
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
    /// The bytes of a file, or where a symbolic link leads.
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Snapshot {
    /// Looks at `root` and everything below it.
    pub(crate) fn of(root: &Path) -> Self {
        let mut objects = BTreeMap::new();
        let mut paths = vec![root.to_owned()];
        while let Some(path) = paths.pop() {
            let object = Object::of(&path);
            if path.symlink_metadata().unwrap().is_dir() {
                paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            objects.insert(path, object);
        }
        Self(objects)
    }

    /// Fails with every object that is not as it was.
    pub(crate) fn assert_still(&self, root: &Path, after: &str) {
        let now = Self::of(root);
        if now == *self {
            return;
        }
        let paths = self.0.keys().chain(now.0.keys());
        let changed: BTreeMap<_, _> = paths
            .map(|path| (path, (self.0.get(path), now.0.get(path))))
            .filter(|(_, (before, after))| before != after)
            .collect();
        panic!("changed by {after}: {changed:#?}");
    }
}

impl Object {
    fn of(path: &Path) -> Self {
        let meta = path.symlink_metadata().unwrap();
        let content = if meta.is_file() {
            fs::read(path).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        Self {
            ino: meta.ino(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            nlink: meta.nlink(),
            rdev: meta.rdev(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            content,
            xattrs: xattrs(path),
        }
    }
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = [0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = [0; 4096];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}
