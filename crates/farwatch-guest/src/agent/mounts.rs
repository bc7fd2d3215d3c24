// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Mounts`]: which mounts of `--all` have a worker. It only decides; `everywhere` reads the mount table and starts
//! the workers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farwatch_sys::mountinfo::Mount;

/// The device number of a superblock. All mounts of a share have one, and one worker.
pub(super) type Device = (u32, u32);

/// The superblocks in the mount table that a worker has been started for.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    known: BTreeMap<Device, State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A worker serves it.
    Served,
    /// The worker has ended. The next one would fail likewise: no farwatch is behind the mount, or another agent is
    /// there.
    Left,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Start a worker on this mount point.
    Start(Device, PathBuf),
    /// End the worker: nobody can see the share any more, and the worker alone keeps it mounted.
    End(Device),
}

impl Mounts {
    /// Compares with the mount table. `mounts` are those of the file system that is asked for, and not covered by
    /// another mount.
    pub(super) fn update(&mut self, mounts: &[Mount]) -> Vec<Step> {
        let gone: Vec<Device> = self
            .known
            .keys()
            .copied()
            .filter(|device| !mounts.iter().any(|mount| mount.device == *device))
            .collect();
        let mut steps = Vec::new();
        for device in gone {
            if self.known.remove(&device) == Some(State::Served) {
                steps.push(Step::End(device));
            }
        }
        for mount in mounts {
            self.known.entry(mount.device).or_insert_with(|| {
                steps.push(Step::Start(mount.device, mount.mount_point.clone()));
                State::Served
            });
        }
        steps
    }

    /// The worker of this share has ended by itself.
    pub(super) fn left(&mut self, device: Device) {
        if let Some(state) = self.known.get_mut(&device) {
            *state = State::Left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, minor: u32, mount_point: &str) -> Mount {
        Mount {
            id,
            parent: 0,
            device: (0, minor),
            root: "/".into(),
            mount_point: mount_point.into(),
            fs_type: "virtiofs".to_owned(),
            source: "src".into(),
        }
    }

    fn start(minor: u32, mount_point: &str) -> Step {
        Step::Start((0, minor), mount_point.into())
    }

    #[test]
    fn a_share_has_one_worker_however_often_it_is_mounted() {
        let mut mounts = Mounts::default();
        let table = [mount(1, 40, "/a"), mount(2, 41, "/b"), mount(3, 40, "/bind")];
        assert_eq!(mounts.update(&table), [start(40, "/a"), start(41, "/b")]);
        assert_eq!(mounts.update(&table), []);
        assert_eq!(mounts.update(&table[1..]), [], "the bind mount is left");
    }

    #[test]
    fn a_worker_ends_with_the_last_mount_and_the_next_mount_gets_a_new_one() {
        let mut mounts = Mounts::default();
        mounts.update(&[mount(1, 40, "/a")]);
        assert_eq!(mounts.update(&[]), [Step::End((0, 40))]);
        assert_eq!(mounts.update(&[mount(1, 40, "/a")]), [start(40, "/a")]);
    }

    #[test]
    fn a_share_whose_worker_has_failed_is_left_alone_until_it_is_mounted_anew() {
        let mut mounts = Mounts::default();
        mounts.update(&[mount(1, 40, "/a")]);
        mounts.left((0, 40));
        assert_eq!(mounts.update(&[mount(1, 40, "/a")]), []);
        assert_eq!(mounts.update(&[]), [], "there is no worker to end");
        assert_eq!(mounts.update(&[mount(1, 40, "/a")]), [start(40, "/a")]);
    }
}
