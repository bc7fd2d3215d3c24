// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Opens`]: the files that an agent has opened because a program on the host has.
//!
//! An OPEN can be raised by opening alone, and the close that the kernel will raise in the end is
//! settled by the mode of that open: CLOSE_WRITE if it could write, else CLOSE_NOWRITE. The host tells
//! of an open without its mode, so it is guessed from what is told along with it: who writes has
//! opened for writing, all others for reading. What was opened stays open until the host tells of the
//! close. A guess that was wrong costs an OPEN and a close more than there were.
//!
//! Without `--events all` nothing is told of opening, and nothing is kept: a CLOSE_WRITE opens and closes.
//! The agent carries out the steps; `F` is its open file.

use super::plan::Target;
use crate::replay::{self, CallKind, OpenMode, Times};
use crate::{Entry, FileKind, GuestEvent, Mask, Node};

/// One system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// `open(2)` in this mode: raises OPEN. The file is kept ([`Opens::keep`]).
    Open(OpenMode),
    /// A read of one byte or entry through a file that is kept: raises ACCESS.
    Access,
    /// `utimensat(2)` of these times: raises MODIFY or ATTRIB.
    SetTimes(Times),
    /// `statx(2)`, so that pages from before are dropped. An open for writing does that too.
    Refresh,
    /// `close(2)` of the file that was kept first, of those that can write when true: raises
    /// CLOSE_WRITE, or CLOSE_NOWRITE.
    Close(bool),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Opens<F> {
    /// In the order in which they were opened.
    kept: Vec<Kept<F>>,
}

#[derive(Debug)]
struct Kept<F> {
    target: Target,
    writes: bool,
    file: F,
}

impl<F> Default for Opens<F> {
    fn default() -> Self {
        Self { kept: Vec::new() }
    }
}

impl<F> Opens<F> {
    /// The most files that are kept. For one more the oldest is closed, and its close is told early.
    pub const LEN_MAX: usize = 256;

    /// The steps for `events`, which are bits of [`Mask::CONTENT`] and [`Mask::READS`].
    pub fn steps(&self, target: &Target, events: Mask) -> Vec<Step> {
        let has = |event| events.contains(event);
        let (readers, writers) = (self.count(target, false), self.count(target, true));
        let writes = events.intersects(Mask::MODIFY | Mask::CLOSE_WRITE) && !has(Mask::ISDIR);
        // If one is kept that can write, it was that one which has written or was closed.
        let new_writer = has(Mask::OPEN) && writes && writers == 0;
        let both = has(Mask::CLOSE_NOWRITE) && readers == 0;
        let new_reader = has(Mask::OPEN) && (!new_writer || both);
        // What is told of a file that nobody was seen to open.
        let late_writer = has(Mask::CLOSE_WRITE) && !new_writer && writers == 0;
        let reads = has(Mask::ACCESS) && !new_writer && writers == 0;
        let late_reader = !new_reader && readers == 0 && (has(Mask::CLOSE_NOWRITE) || reads);
        // Then what was opened for reading was the writer's.
        let mistaken = late_writer && readers > usize::from(has(Mask::CLOSE_NOWRITE));
        let openings = [
            (new_writer, OpenMode::ReadWrite),
            (late_writer, OpenMode::Write),
            (new_reader || late_reader, OpenMode::Read),
        ];
        let opened = openings.into_iter().filter_map(|(taken, mode)| taken.then_some(mode));
        let mut steps: Vec<_> = opened.map(Step::Open).collect();
        let kind = if has(Mask::ISDIR) { FileKind::Directory } else { FileKind::Regular };
        for row in replay::rows(events, kind, false) {
            match row.call {
                CallKind::Read(_) => steps.push(Step::Access),
                CallKind::SetTimes(times) => steps.push(Step::SetTimes(times)),
                CallKind::Close(mode) => {
                    steps.extend((mode.writes() && writers > 0).then_some(Step::Refresh));
                    steps.push(Step::Close(mode.writes()));
                    steps.extend((mode.writes() && mistaken).then_some(Step::Close(false)));
                }
                // What is opened was settled above; the others are about names.
                CallKind::Open
                | CallKind::Mknod
                | CallKind::Mkdir
                | CallKind::Symlink
                | CallKind::Link
                | CallKind::Unlink
                | CallKind::Rmdir
                | CallKind::Rename
                | CallKind::RenameOut
                | CallKind::RenameIn => {}
            }
        }
        steps
    }

    /// Keeps a file that was opened. Returns one that has to be closed for it.
    #[must_use]
    pub fn keep(&mut self, target: Target, mode: OpenMode, file: F) -> Option<F> {
        let oldest = (self.kept.len() >= Self::LEN_MAX).then(|| self.kept.remove(0).file);
        self.kept.push(Kept { target, writes: mode.writes(), file });
        oldest
    }

    /// The file that [`Step::Close`] closes.
    pub fn take(&mut self, target: &Target, writes: bool) -> Option<F> {
        let fits = |kept: &Kept<F>| kept.target == *target && kept.writes == writes;
        let at = self.kept.iter().position(fits)?;
        Some(self.kept.remove(at).file)
    }

    /// A file for [`Step::Access`], one opened for reading if there is one, or for
    /// [`Step::Refresh`].
    pub fn any(&self, target: &Target) -> Option<&F> {
        let kept = self.kept.iter().filter(|kept| kept.target == *target);
        kept.min_by_key(|kept| kept.writes).map(|kept| &kept.file)
    }

    /// The object has another name. Returns what is to be closed, of the object that it has replaced.
    #[must_use]
    pub fn renamed(&mut self, from: &Entry, to: &Entry) -> Vec<F> {
        let replaced = self.removed(to);
        for kept in &mut self.kept {
            if matches!(&kept.target, Target::Entry(entry) if entry == from) {
                kept.target = Target::Entry(to.clone());
            }
        }
        replaced
    }

    /// The entry is gone: returns its files, to be closed. Whoever has one open on the host may never
    /// be heard of again.
    #[must_use]
    pub fn removed(&mut self, entry: &Entry) -> Vec<F> {
        let is_it = |kept: &mut Kept<F>| matches!(&kept.target, Target::Entry(it) if it == entry);
        self.kept.extract_if(.., is_it).map(|kept| kept.file).collect()
    }

    /// After an event: directories are kept by what they are, and have no name to end with. Returns
    /// those that it may have ended, to be closed: the one that it says is gone, or all when one has
    /// come that may have replaced another.
    #[must_use]
    pub fn ended(&mut self, event: &GuestEvent) -> Vec<F> {
        let ends = |node: Node| match event {
            GuestEvent::Entry { mask, child, .. }
                if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) =>
            {
                *child == Some(node)
            }
            GuestEvent::Entry { mask, kind: FileKind::Directory, .. } => {
                mask.contains(Mask::MOVED_TO)
            }
            GuestEvent::Rename { kind, .. } => *kind == FileKind::Directory,
            GuestEvent::Entry { .. } | GuestEvent::Object { .. } | GuestEvent::Overflow => false,
        };
        let is_it = |kept: &mut Kept<F>| matches!(kept.target, Target::Node(node) if ends(node));
        self.kept.extract_if(.., is_it).map(|kept| kept.file).collect()
    }

    /// Closes of files may not have been told: forgets all of them.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    fn count(&self, target: &Target, writes: bool) -> usize {
        let fits = |kept: &&Kept<F>| kept.target == *target && kept.writes == writes;
        self.kept.iter().filter(fits).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    fn entry(name: &str) -> Entry {
        Entry { dir: Node::ROOT, name: Name::parse(name.as_bytes()).unwrap() }
    }

    /// What a watcher sees of the events of each message, and how many files stay open.
    fn stream(messages: &[Mask]) -> (String, usize) {
        let (mut opens, target) = (Opens::default(), Target::Entry(entry("f")));
        let mut seen = Vec::new();
        for message in messages {
            for step in opens.steps(&target, *message) {
                seen.push(match step {
                    Step::Open(mode) => {
                        assert_eq!(opens.keep(target.clone(), mode, mode), None);
                        "OPEN"
                    }
                    Step::Access => {
                        assert_ne!(opens.any(&target), Some(&OpenMode::Write));
                        assert!(opens.any(&target).is_some());
                        "ACCESS"
                    }
                    Step::SetTimes(Times::Mtime) => "MODIFY",
                    Step::SetTimes(Times::Both) => "ATTRIB",
                    Step::Refresh => continue,
                    Step::Close(writes) => match opens.take(&target, writes) {
                        Some(OpenMode::Read) => "CLOSE_NOWRITE",
                        Some(OpenMode::Write | OpenMode::ReadWrite) => "CLOSE_WRITE",
                        None => panic!("nothing to close after {seen:?}"),
                    },
                });
            }
        }
        (seen.join(" "), opens.kept.len())
    }

    const OPEN: Mask = Mask::OPEN;
    const ACCESS: Mask = Mask::ACCESS;
    const MODIFY: Mask = Mask::MODIFY;
    const CLOSE_WRITE: Mask = Mask::CLOSE_WRITE;
    const CLOSE_NOWRITE: Mask = Mask::CLOSE_NOWRITE;

    #[test]
    fn a_cycle_is_the_same_in_one_message_or_several() {
        let read = "OPEN ACCESS CLOSE_NOWRITE";
        for messages in [
            &[OPEN | ACCESS | CLOSE_NOWRITE][..],
            &[OPEN | ACCESS, CLOSE_NOWRITE],
            &[OPEN, ACCESS, CLOSE_NOWRITE],
        ] {
            assert_eq!(stream(messages), (read.to_owned(), 0), "{messages:?}");
        }
        let write = "OPEN MODIFY CLOSE_WRITE";
        for messages in [&[OPEN | MODIFY | CLOSE_WRITE][..], &[OPEN | MODIFY, CLOSE_WRITE]] {
            assert_eq!(stream(messages), (write.to_owned(), 0), "{messages:?}");
        }
        let both = "OPEN ACCESS MODIFY CLOSE_WRITE";
        assert_eq!(stream(&[OPEN | ACCESS | MODIFY, CLOSE_WRITE]), (both.to_owned(), 0));
    }

    #[test]
    fn one_program_may_read_and_write_through_two_descriptors() {
        let (seen, kept) = stream(&[OPEN | ACCESS | MODIFY | CLOSE_WRITE | CLOSE_NOWRITE]);
        assert_eq!(seen, "OPEN OPEN ACCESS MODIFY CLOSE_WRITE CLOSE_NOWRITE");
        assert_eq!(kept, 0);
    }

    #[test]
    fn readers_beside_a_writer_are_distinguished() {
        let (seen, kept) = stream(&[
            OPEN | MODIFY,
            OPEN | ACCESS,
            MODIFY,
            OPEN | ACCESS | CLOSE_NOWRITE,
            // A third opens while the writer closes.
            OPEN | CLOSE_WRITE,
            CLOSE_NOWRITE,
            CLOSE_NOWRITE,
        ]);
        let expected = "OPEN MODIFY OPEN ACCESS MODIFY OPEN ACCESS CLOSE_NOWRITE \
            OPEN CLOSE_WRITE CLOSE_NOWRITE CLOSE_NOWRITE";
        assert_eq!((seen.as_str(), kept), (expected, 0));
    }

    #[test]
    fn a_close_of_what_was_not_seen_to_be_opened_has_an_open_before_it() {
        assert_eq!(stream(&[MODIFY | CLOSE_WRITE]), ("OPEN MODIFY CLOSE_WRITE".to_owned(), 0));
        assert_eq!(stream(&[CLOSE_NOWRITE]), ("OPEN CLOSE_NOWRITE".to_owned(), 0));
        assert_eq!(stream(&[ACCESS, CLOSE_NOWRITE]).0, "OPEN ACCESS CLOSE_NOWRITE");
    }

    #[test]
    fn a_writer_that_was_taken_for_a_reader_leaves_nothing_open() {
        let (seen, kept) = stream(&[OPEN, MODIFY, CLOSE_WRITE]);
        assert_eq!((seen.as_str(), kept), ("OPEN MODIFY OPEN CLOSE_WRITE CLOSE_NOWRITE", 0));
    }

    #[test]
    fn a_directory_is_never_opened_for_writing() {
        let opens = Opens::<()>::default();
        let steps = opens.steps(&Target::Node(Node::ROOT), OPEN | MODIFY | Mask::ISDIR);
        assert_eq!(steps, [Step::Open(OpenMode::Read), Step::SetTimes(Times::Mtime)]);
    }

    #[test]
    fn past_the_limit_the_oldest_is_closed() {
        let mut opens = Opens::default();
        let target = |n: usize| Target::Entry(entry(&n.to_string()));
        for n in 0..Opens::<usize>::LEN_MAX {
            assert_eq!(opens.keep(target(n), OpenMode::Read, n), None);
        }
        assert_eq!(opens.keep(target(1000), OpenMode::Read, 1000), Some(0));
        assert_eq!(opens.take(&target(0), false), None);
        assert_eq!(opens.take(&target(1), false), Some(1));
    }

    #[test]
    fn a_directory_ends_with_its_deletion_and_perhaps_with_a_rename() {
        let node =
            |id| Node { id: crate::NodeId::new(id).unwrap(), generation: Node::ROOT.generation };
        let event = |mask, child| {
            let (entry, kind) = (entry("d"), FileKind::Directory);
            GuestEvent::Entry { entry, mask: mask | Mask::ISDIR, child, kind, link: false }
        };
        let (from, to) = (entry("d"), entry("e"));
        let rename = GuestEvent::Rename { from, to, child: None, kind: FileKind::Directory };
        for (event, closed) in [
            (event(Mask::DELETE, Some(node(7))), vec![7]),
            (event(Mask::MOVED_FROM, Some(node(8))), vec![8]),
            (event(Mask::DELETE, None), vec![]),
            (event(Mask::ATTRIB, Some(node(7))), vec![]),
            (event(Mask::MOVED_TO, None), vec![7, 8]),
            (rename, vec![7, 8]),
        ] {
            let mut opens = Opens::default();
            for id in [7, 8] {
                assert_eq!(opens.keep(Target::Node(node(id)), OpenMode::Read, id), None);
            }
            assert_eq!(opens.ended(&event), closed, "{event:?}");
        }
    }

    #[test]
    fn files_go_with_the_name_of_their_object_and_end_with_it() {
        let mut opens = Opens::default();
        for (name, file) in [("a", 1), ("b", 2)] {
            assert_eq!(opens.keep(Target::Entry(entry(name)), OpenMode::Read, file), None);
        }
        assert_eq!(opens.renamed(&entry("a"), &entry("b")), [2]);
        assert_eq!(opens.any(&Target::Entry(entry("b"))), Some(&1));
        assert_eq!(opens.removed(&entry("b")), [1]);
        assert!(opens.kept.is_empty());
    }
}
