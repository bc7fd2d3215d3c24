// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Client`]: a program that keeps a model of some directories from its events, as an editor's file
//! tree or a bundler does.
//!
//! It watches, lists, and from then on believes its events: CREATE and MOVED_TO add a name, DELETE
//! and MOVED_FROM remove it. After each event about a name it reads that name again. It also watches
//! some of the files and subdirectories themselves, and reads the names of a file again after an event
//! about the file.
//!
//! A *blind* client believes its events and reads nothing, as it was when convergence was first measured:
//! what a client reads makes the mount's kernel learn names, which a replay of a change then meets.
//!
//! Where names are exchanged, events do not add up to names: the kernel reports an exchange of `a` and
//! `b` as a rename of `a` to `b` and then one of `b` to `a`. There the client believes what it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use inotify::WatchMask;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::Plan;
use super::case::Case;
use super::fault::Saboteur;
use super::queue::{Queue, Received};
use super::state::{State, Type, identify, list};
use crate::event::{Event, Kind};
use crate::recorder::Recorder;
use crate::share::Share;

/// When a client began to watch an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Before the changes.
    Setup,
    /// While they were made.
    Changes,
}

/// A watched file or subdirectory.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Its name when the watch was set.
    pub(super) name: String,
    /// The same on the host and in the mount.
    pub(super) ino: u64,
    /// Its identity on the host, which no later object has; `None` where it was gone before it could
    /// be found.
    pub(super) id: Option<String>,
    pub(super) since: Since,
    /// DELETE_SELF was reported.
    pub(super) deleted: bool,
    /// IGNORED was reported.
    pub(super) ended: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Client {
    queue: Queue,
    share: Share,
    barrier: i32,
    /// Sentinels that were seen.
    passed: BTreeSet<String>,
    /// Watch descriptor → the directory's name.
    dirs: BTreeMap<i32, String>,
    objects: BTreeMap<i32, Object>,
    names: BTreeSet<String>,
    /// Whether what is read under a name, and not its last event, says whether the name exists.
    believes_reads: bool,
    is_blind: bool,
    /// What was under each name when it was read last.
    states: BTreeMap<String, Option<State>>,
    /// What was in each file when it was read last, by whatever name.
    contents: BTreeMap<u64, Vec<u8>>,
    events: Vec<Received>,
    saboteur: Option<Saboteur>,
    rng: Rng,
}

impl Client {
    /// A client that watches and has listed the directories of a case.
    ///
    /// # Errors
    /// When something that exists cannot be watched or listed.
    pub(super) fn new(share: &Share, case: &Case, plan: &Plan) -> Result<Self> {
        let mut queue = Queue::new()?;
        let barrier = queue.watch(&share.barrier_in_mount(), WatchMask::CREATE)?;
        let mut client = Self {
            queue,
            share: share.clone(),
            barrier,
            passed: BTreeSet::new(),
            dirs: BTreeMap::new(),
            objects: BTreeMap::new(),
            names: BTreeSet::new(),
            believes_reads: case.exchanges,
            is_blind: plan.blind,
            states: BTreeMap::new(),
            contents: BTreeMap::new(),
            events: Vec::new(),
            saboteur: None,
            rng: Rng::with_seed(case.seed),
        };
        for dir in &case.dirs {
            let watch = client.queue.watch(&share.mount().join(dir), Recorder::CHANGES);
            client.dirs.insert(watch.with_context(|| format!("cannot watch {dir}"))?, dir.clone());
        }
        for name in &case.watched {
            client.watch(name, Since::Setup);
        }
        ensure!(client.objects.len() == case.watched.len(), "a file of the setup is not watched");
        client.names = list(share.mount(), &case.dirs)?.into_iter().collect();
        for name in client.names.clone() {
            client.look(&name, false);
        }
        client.saboteur = plan.fault.map(|fault| Saboteur::new(fault, case.seed));
        Ok(client)
    }

    /// Reads and believes the events that are there.
    pub(super) fn read(&mut self) -> Result<()> {
        let (barriers, received): (Vec<_>, Vec<_>) =
            self.queue.read()?.into_iter().partition(|event| event.watch == self.barrier);
        self.passed.extend(barriers.into_iter().filter_map(|event| event.name));
        let received = match &mut self.saboteur {
            Some(saboteur) => saboteur.pass(received),
            None => received,
        };
        let mut touched = BTreeSet::new();
        for event in received {
            touched.extend(self.believe(&event));
            self.events.push(event);
        }
        if !self.is_blind {
            touched.iter().for_each(|name| self.look(name, true));
        }
        Ok(())
    }

    /// Whether the sentinel `name` was seen.
    pub(super) fn has_passed(&self, name: &str) -> bool {
        self.passed.contains(name)
    }

    /// The names that the events add up to.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// What was under a name when it was read last, after the last event about it.
    pub(super) fn state(&self, name: &str) -> Option<&State> {
        self.states.get(name).and_then(Option::as_ref)
    }

    /// Whether it reads nothing.
    pub(super) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// All names that were ever read.
    pub(super) fn names_read(&self) -> impl Iterator<Item = &String> {
        self.states.keys()
    }

    /// What was in a file when it was read last, by whatever name.
    pub(super) fn content(&self, ino: u64) -> Option<&[u8]> {
        self.contents.get(&ino).map(Vec::as_slice)
    }

    /// All objects that were ever watched.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// Whether the object with this number is watched.
    pub(super) fn is_watched(&self, ino: u64) -> bool {
        self.objects.values().any(|object| object.ino == ino && !object.ended)
    }

    /// All events since the client began, or since [`forget_events`](Self::forget_events).
    pub(super) fn events(&self) -> &[Received] {
        &self.events
    }

    /// Forgets the events so far; the model stays.
    pub(super) fn forget_events(&mut self) {
        self.events.clear();
    }

    /// Watch descriptors of the directories, each with the directory's name.
    pub(super) fn dirs(&self) -> &BTreeMap<i32, String> {
        &self.dirs
    }

    /// Watch descriptors of the objects that were watched before the changes, each with its name.
    pub(super) fn first_objects(&self) -> BTreeMap<i32, String> {
        let first = self.objects.iter().filter(|(_, object)| object.since == Since::Setup);
        first.map(|(watch, object)| (*watch, object.name.clone())).collect()
    }

    /// The last `len_max` events of a directory and of the objects that were watched by a name in it,
    /// as lines of text. Times count from `begin`.
    pub(super) fn last_events(&self, dir: &str, begin: Duration, len_max: usize) -> Vec<String> {
        let below = format!("{dir}/");
        let is_of_dir = |event: &&Received| match self.objects.get(&event.watch) {
            Some(object) => object.name.starts_with(&below),
            None => self.dirs.get(&event.watch).is_none_or(|name| name == dir),
        };
        let events: Vec<&Received> = self.events.iter().filter(is_of_dir).collect();
        let last = events.iter().skip(events.len().saturating_sub(len_max));
        last.map(|event| self.render(event, begin)).collect()
    }

    fn render(&self, event: &Received, begin: Duration) -> String {
        let object = match (self.dirs.get(&event.watch), self.objects.get(&event.watch)) {
            (Some(dir), _) => {
                Event::object_of(dir.as_ref(), event.name.as_ref().map(AsRef::as_ref))
            }
            (None, Some(Object { name, ino, .. })) => format!("[{name}, inode {ino}]"),
            (None, None) => "[?]".to_owned(),
        };
        event.render(object, begin)
    }

    /// Reads again what could not be read while the device had no descriptors, as a program does that goes on: no event
    /// tells it that they are there again.
    pub(super) fn look_where_descriptors_were_short(&mut self) {
        let is_short = |state: &Option<State>| {
            state.as_ref().is_some_and(|state| state.kind == Type::Unreadable(Errno::MFILE))
        };
        let names = self.states.iter().filter(|(_, state)| is_short(state));
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.look(name, false));
    }

    /// Returns the names to read again.
    fn believe(&mut self, event: &Received) -> Vec<String> {
        if let Some(object) = self.objects.get_mut(&event.watch) {
            object.deleted |= event.kind == Kind::DeleteSelf;
            object.ended |= event.kind == Kind::Ignored;
            let ino = object.ino;
            let is_it = |state: &Option<State>| state.as_ref().is_some_and(|s| s.ino == ino);
            let names = self.states.iter().filter(|(_, state)| is_it(state));
            return names.map(|(name, _)| name.clone()).collect();
        }
        let Some((dir, name)) = self.dirs.get(&event.watch).zip(event.name.as_ref()) else {
            return Vec::new();
        };
        let name = format!("{dir}/{name}");
        if matches!(event.kind, Kind::Create | Kind::MovedTo) {
            self.names.insert(name.clone());
        } else if matches!(event.kind, Kind::Delete | Kind::MovedFrom) {
            self.names.remove(&name);
        }
        vec![name]
    }

    /// Reads a name; `may_watch` it if it leads to something new.
    fn look(&mut self, name: &str, may_watch: bool) {
        let path = self.share.mount().join(name);
        let mut state = State::read(&path);
        let is_new = |state: &State| {
            matches!(state.kind, Type::File | Type::Directory) && !self.is_watched(state.ino)
        };
        if may_watch && state.as_ref().is_some_and(is_new) && self.rng.bool() {
            self.watch(name, Since::Changes);
            // Nothing is missed between the watch and this.
            state = State::read(&path);
        }
        if let Some(State { kind: Type::File, ino, content }) = &state {
            self.contents.insert(*ino, content.clone());
        }
        if self.believes_reads && state.is_some() {
            self.names.insert(name.to_owned());
        } else if self.believes_reads {
            self.names.remove(name);
        }
        self.states.insert(name.to_owned(), state);
    }

    /// Watches what a name leads to. What has gone in the meantime is passed over.
    fn watch(&mut self, name: &str, since: Since) {
        let path = self.share.mount().join(name);
        // While it is open, no other object has its number.
        let Ok(open) = rustix::fs::openat(CWD, &path, PATH, Mode::empty()) else { return };
        let Ok(watch) = self.queue.watch_open(open.as_fd(), Recorder::CHANGES) else { return };
        if self.objects.contains_key(&watch) {
            return;
        }
        let stat = || rustix::fs::statx(&open, c"", NOW, StatxFlags::BASIC_STATS);
        let Ok(Statx { stx_ino: ino, .. }) = stat() else { return };
        let id = identify(self.share.host(), name, self.dirs.values(), ino);
        // Only of what still has a name, an object with the same number is the same one.
        let exists = stat().is_ok_and(|stat| stat.stx_nlink > 0);
        let id = id.filter(|_| exists);
        let object = Object { name: name.to_owned(), ino, id, since, deleted: false, ended: false };
        self.objects.insert(watch, object);
    }
}

/// Opens an object to name it, not to read it.
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Asks the server, where the kernel might answer from its cache.
const NOW: AtFlags = AtFlags::EMPTY_PATH.union(AtFlags::STATX_FORCE_SYNC);

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
