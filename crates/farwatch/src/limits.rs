// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Limit`]: the limits that the host's kernel sets to this process, and what is said where one is reached: which it is,
//! its value, and the command that raises it. What is lost until then is added by whoever has reached it.
//!
//! `watch`, `serve` and `doctor` call this. Nothing here sets a limit.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// See the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// EMFILE of `inotify_init1(2)`.
    InotifyInstances,
    /// ENOSPC of `inotify_add_watch(2)`.
    InotifyWatches,
    /// EMFILE of `fanotify_init(2)`.
    FanotifyGroups,
    /// ENOSPC of `fanotify_mark(2)`.
    FanotifyMarks,
    /// ENOSPC of `unshare(2)`.
    UserNamespaces,
    /// EMFILE of any other call.
    OpenFiles,
    /// ENFILE of any call.
    SystemFiles,
}

/// Every limit that has a file below `/proc/sys`, and a value that is comfortable.
const FILES: [(&str, u64); 10] = [
    ("fs.inotify.max_user_instances", 128),
    ("user.max_inotify_instances", 128),
    ("fs.inotify.max_user_watches", 65_536),
    ("user.max_inotify_watches", 65_536),
    ("fs.fanotify.max_user_groups", 128),
    ("user.max_fanotify_groups", 128),
    ("fs.fanotify.max_user_marks", 65_536),
    ("user.max_fanotify_marks", 65_536),
    ("user.max_user_namespaces", 1024),
    ("fs.file-max", 1 << 20),
];
/// The descriptors that are comfortable.
const OPEN_FILES: u64 = 1 << 16;

/// What a sandbox hides: the files below `/proc/sys`, and a system call that the filter does not allow.
struct Held {
    files: [Option<File>; FILES.len()],
    open_files: Option<u64>,
}

static HELD: OnceLock<Held> = OnceLock::new();

/// Opens what says how high the limits are, so that it can be said in a sandbox too. RLIMIT_NOFILE must have been set.
pub(crate) fn hold() {
    HELD.get_or_init(|| Held {
        files: FILES.map(|(name, _)| File::open(path(name)).ok()),
        open_files: getrlimit(Resource::Nofile).current,
    });
}

fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// The values of all limits at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    files: [Option<u64>; FILES.len()],
    open_files: Option<u64>,
    /// This process has as many descriptors as it may.
    is_out_of_files: bool,
}

impl Values {
    /// Reads them.
    pub(crate) fn read() -> Self {
        Self::read_where(|_| true)
    }

    /// Reads those of the files with these names alone.
    fn read_where(is_wanted: impl Fn(&str) -> bool) -> Self {
        let held = HELD.get();
        let value = |nth: usize| {
            let read = |file: &File| {
                let mut text = [0; 32];
                let len = file.read_at(&mut text, 0)?;
                let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default());
                text.trim().parse().map_err(io::Error::other)
            };
            let opened = || File::open(path(FILES[nth].0));
            match held.and_then(|held| held.files[nth].as_ref()) {
                Some(file) => read(file).ok(),
                None => opened().and_then(|file| read(&file)).ok(),
            }
        };
        let one_more = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 0);
        Self {
            files: std::array::from_fn(|nth| is_wanted(FILES[nth].0).then(|| value(nth)).flatten()),
            open_files: match held {
                Some(held) => held.open_files,
                None => getrlimit(Resource::Nofile).current,
            },
            is_out_of_files: one_more.is_err_and(|errno| errno == Errno::MFILE),
        }
    }

    fn of(&self, name: &str) -> Option<u64> {
        let nth = FILES.iter().position(|(file, _)| *file == name)?;
        self.files[nth]
    }
}

impl Limit {
    /// The limit that a call has reached, by what it said.
    pub(crate) fn of_files(errno: Errno) -> Option<Self> {
        match errno {
            Errno::MFILE => Some(Self::OpenFiles),
            Errno::NFILE => Some(Self::SystemFiles),
            _ => None,
        }
    }

    /// What can be at its end. Each limit of a user is counted again in each user namespace (`ucounts`), so the lowest
    /// is the one that was reached.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::InotifyInstances => {
                &["fs.inotify.max_user_instances", "user.max_inotify_instances"]
            }
            Self::InotifyWatches => &["fs.inotify.max_user_watches", "user.max_inotify_watches"],
            Self::FanotifyGroups => &["fs.fanotify.max_user_groups", "user.max_fanotify_groups"],
            Self::FanotifyMarks => &["fs.fanotify.max_user_marks", "user.max_fanotify_marks"],
            Self::UserNamespaces => &["user.max_user_namespaces"],
            Self::SystemFiles => &["fs.file-max"],
            Self::OpenFiles => &[],
        }
    }

    /// What to say of it now.
    pub(crate) fn reached(self) -> Reached {
        // Each directory that cannot be watched asks.
        self.reached_at(&Values::read_where(|name| self.names().contains(&name)))
    }

    /// The same, by values that were read before.
    pub(crate) fn reached_at(self, values: &Values) -> Reached {
        let takes_a_file = matches!(self, Self::InotifyInstances | Self::FanotifyGroups);
        if self == Self::OpenFiles || (takes_a_file && values.is_out_of_files) {
            return Reached { name: "RLIMIT_NOFILE", value: values.open_files, enough: OPEN_FILES };
        }
        let lowest = |name: &&&str| values.of(name).unwrap_or(u64::MAX);
        let name = self.names().iter().min_by_key(lowest).copied().unwrap_or_default();
        let comfortable = FILES.iter().find(|(file, _)| *file == name).map_or(0, |(_, n)| *n);
        let value = values.of(name);
        let enough = comfortable.max(value.map_or(0, |value| value.saturating_mul(2)));
        Reached { name, value, enough }
    }
}

/// A limit that was reached: which, at how much, and how to raise it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reached {
    name: &'static str,
    value: Option<u64>,
    enough: u64,
}

impl Reached {
    /// The command, or the place, that raises it.
    pub(crate) fn remedy(&self) -> String {
        let Self { name, enough, .. } = self;
        match *name {
            "RLIMIT_NOFILE" => format!(
                "`--rlimit-nofile {enough}`, `ulimit -n {enough}` or LimitNOFILE={enough} raises it"
            ),
            // There it counts, and there it is written.
            name if name.starts_with("user.") => {
                format!(
                    "`sysctl -w {name}={enough}` raises it, in the user namespace of this process"
                )
            }
            name => format!("`sysctl -w {name}={enough}` raises it"),
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, .. } = self;
        match value {
            Some(value) => write!(f, "{name} is reached, at {value}: {}", self.remedy()),
            None => write!(f, "{name} is reached: {}", self.remedy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(all: &[(&str, u64)]) -> Values {
        let mut values = Values::default();
        for (nth, (name, _)) in FILES.iter().enumerate() {
            values.files[nth] = all.iter().find(|(file, _)| file == name).map(|(_, n)| *n);
        }
        values
    }

    #[test]
    fn limit_is_reported_with_its_value_and_the_command_that_raises_it() {
        let all = [("fs.inotify.max_user_watches", 100_000), ("user.max_inotify_watches", 1 << 31)];
        let said = Limit::InotifyWatches.reached_at(&values(&all)).to_string();
        let expected = "fs.inotify.max_user_watches is reached, at 100000: \
            `sysctl -w fs.inotify.max_user_watches=200000` raises it";
        assert_eq!(said, expected);
    }

    #[test]
    fn the_lower_of_two_limits_of_a_user_is_reported() {
        let all = [("fs.inotify.max_user_watches", 100_000), ("user.max_inotify_watches", 8)];
        let said = Limit::InotifyWatches.reached_at(&values(&all)).to_string();
        assert!(said.starts_with("user.max_inotify_watches is reached, at 8: "), "{said}");
        assert!(said.contains("`sysctl -w user.max_inotify_watches=65536`"), "{said}");
        assert!(said.ends_with("in the user namespace of this process"), "{said}");
    }

    #[test]
    fn process_without_descriptors_is_not_advised_to_raise_the_number_of_groups() {
        let mut values = values(&[("fs.fanotify.max_user_groups", 128)]);
        values.open_files = Some(64);
        let groups = Limit::FanotifyGroups.reached_at(&values).to_string();
        assert!(groups.starts_with("fs.fanotify.max_user_groups is reached, at 128: "), "{groups}");
        values.is_out_of_files = true;
        let files = Limit::FanotifyGroups.reached_at(&values).to_string();
        assert!(files.starts_with("RLIMIT_NOFILE is reached, at 64: "), "{files}");
        assert!(files.contains("LimitNOFILE=65536"), "{files}");
        let marks = Limit::FanotifyMarks.reached_at(&values).to_string();
        assert!(!marks.contains("RLIMIT"), "a mark takes no descriptor: {marks}");
    }

    #[test]
    fn every_limit_has_a_command() {
        use Limit::{
            FanotifyGroups, FanotifyMarks, InotifyInstances, InotifyWatches, OpenFiles,
            SystemFiles, UserNamespaces,
        };
        let all = [
            InotifyInstances,
            InotifyWatches,
            FanotifyGroups,
            FanotifyMarks,
            UserNamespaces,
            OpenFiles,
            SystemFiles,
        ];
        let names = all.map(|limit| limit.reached_at(&Values::default()).name);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        for limit in all {
            let reached = limit.reached();
            assert!(reached.remedy().contains(&reached.enough.to_string()), "{reached}");
            assert!(reached.enough > 0, "{reached}");
        }
    }

    #[test]
    fn values_are_those_of_this_kernel() {
        hold();
        let text = std::fs::read_to_string("/proc/sys/fs/file-max").unwrap();
        assert_eq!(Values::read().of("fs.file-max"), text.trim().parse().ok());
    }
}
