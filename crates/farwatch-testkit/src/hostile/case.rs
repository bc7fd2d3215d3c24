// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Case`]: a case of the table `cases.txt`, which says how it is written.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::answer::{Lie, Lies};
use super::message::Message;

const TABLE: &str = include_str!("cases.txt");

/// What a kernel does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is no message.
    Refused,
    /// It is one, and no event comes of it.
    Silent,
    /// It is one.
    Taken,
    /// It is one, and an event with its name comes when something has been waited for.
    Late,
}

/// A message, or many that differ in a number.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// As it stands in the table.
    pub(super) text: String,
    pub(super) verdict: Verdict,
    /// Of the last message.
    pub(super) name: String,
    messages: Vec<Message>,
}

/// What is told to a mount of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) lies: Lies,
    pub(super) lines: Vec<Line>,
    open: Vec<PathBuf>,
    mounted: Vec<PathBuf>,
    found: Vec<PathBuf>,
}

/// What a case has open and mounted in its mount.
#[derive(Debug, Default)]
pub(super) struct Used {
    _open: Vec<File>,
    mounted: Vec<PathBuf>,
}

impl Case {
    pub(super) fn all() -> Result<Vec<Self>> {
        let mut cases: Vec<Self> = Vec::new();
        for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("case ") {
                cases.push(Self { name: name.to_owned(), ..Self::default() });
                continue;
            }
            let case = cases.last_mut().context("the first line is `case NAME`")?;
            case.add(line).with_context(|| line.to_owned())?;
        }
        Ok(cases)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        if let Some((text, verdict)) = line.split_once(" => ") {
            self.lines.push(Line::parse(text, verdict)?);
            return Ok(());
        }
        for word in line.split(' ') {
            let (key, value) = word.split_once('=').context("`KEY=VALUE`")?;
            let lie = Lie::parse(value);
            match key {
                "lookup" => self.lies.lookup = lie,
                "getattr" => self.lies.getattr = lie,
                "fsnotify" => self.lies.fsnotify = lie,
                "open" => self.open.push(value.into()),
                "mount" => self.mounted.push(value.into()),
                "found" => self.found.push(value.into()),
                _ => bail!("{key}"),
            }
            ensure!(lie.is_some() || ["open", "mount", "found"].contains(&key), "no lie: {value}");
        }
        Ok(())
    }

    /// Looks for what the kernel must have in its cache in the end, since the server has it not.
    pub(super) fn find(&self, at: &Path) -> Result<()> {
        for path in &self.found {
            let path = at.join(path);
            path.symlink_metadata().with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Opens and mounts what the case wants in the mount.
    pub(super) fn use_mount(&self, at: &Path) -> Result<Used> {
        let mut used = Used::default();
        for path in &self.open {
            let path = at.join(path);
            used._open.push(File::open(&path).with_context(|| path.display().to_string())?);
        }
        for path in &self.mounted {
            let path = at.join(path);
            mount("tmp", &path, "tmpfs", MountFlags::empty(), None)
                .with_context(|| path.display().to_string())?;
            used.mounted.push(path);
        }
        Ok(used)
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        for path in &self.mounted {
            // The kernel takes down what is mounted on what has gone.
            unmount(path, UnmountFlags::DETACH).unwrap_or_default();
        }
    }
}

impl Line {
    fn parse(text: &str, verdict: &str) -> Result<Self> {
        let field = |key: &str| {
            let mut words = text.split(' ').filter_map(|word| word.split_once('='));
            words.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let verdict = match verdict {
            "refused" => Verdict::Refused,
            "silent" => Verdict::Silent,
            "taken" => Verdict::Taken,
            "late" => Verdict::Late,
            _ => bail!("no verdict: {verdict}"),
        };
        let times = field("times").map_or(Ok(1), str::parse)?;
        let messages = (0..times).map(|nth| Message::nth(text, nth)).collect::<Result<_>>()?;
        let name = field("name").unwrap_or_default().to_owned();
        Ok(Self { text: text.to_owned(), verdict, name, messages })
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = Message> {
        self.messages.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_can_be_read() {
        let cases = Case::all().unwrap();
        assert!(cases.iter().all(|case| !case.lines.is_empty()), "{cases:?}");
        let mut names: Vec<_> = cases.iter().map(|case| &case.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
    }
}
