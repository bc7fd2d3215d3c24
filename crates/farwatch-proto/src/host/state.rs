// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`State`]: what moves with a guest to another host (live migration), beside the file server's own
//! state: what the guest knows, and what it is owed.
//!
//! Nothing by which the host names an object moves, since another host has other names: who takes a
//! state over finds each object again ([`Tree::identify`](super::Tree::identify)). An agent's link does
//! not move either: it opens the control node again, and is told the difference.
//!
//! The bytes are ours alone, of the same program on both sides: numbers are little-endian, lists are
//! counted. [`State::decode`] takes bytes from anywhere: it refuses what [`State::encode`] does not
//! make, and needs no more memory than the bytes themselves are worth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::{Cookie, FileKind, Generation, Mask, Name, NodeId};

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(super) generation: Generation,
    pub(super) phantoms: u64,
    pub(super) cookie: Cookie,
    /// How often the control node has been opened. Its file handles are counted by it.
    pub(super) control_opened: u64,
    /// Until when the client was in step, by the clock of the host that it leaves; `None` when no
    /// agent listened.
    pub(super) in_step: Option<SystemTime>,
    pub(super) nodes: BTreeMap<NodeId, NodeState>,
    pub(super) entries: BTreeMap<(NodeId, Name), EntryState>,
    /// Directories of which events were given up before.
    pub(super) stale: BTreeMap<NodeId, StaleState>,
}

/// A node of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NodeState {
    pub(super) kind: FileKind,
    pub(super) ino: u64,
    pub(super) nlookup: u64,
    pub(super) borrowed: u64,
}

/// What the guest was told about a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct EntryState {
    pub(super) current: Option<NodeId>,
    /// The type of an object that the guest was shown and does not hold.
    pub(super) shown: Option<FileKind>,
    /// Each with the place of this name among those of the node, the one told last being the last.
    pub(super) nodes: Vec<(NodeId, u32)>,
}

/// A stale directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StaleState {
    pub(super) since: SystemTime,
    pub(super) itself: Mask,
}

/// Why some bytes are not a [`State`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum StateError {
    /// No state of ours at all.
    #[error("what was sent is no state of a farwatch: use the same program on both sides")]
    Foreign,
    /// Of another program version.
    #[error(
        "the state is of version {0}, and this farwatch knows version {known}: use the same \
            farwatch on both sides",
        known = State::VERSION
    )]
    Version(u32),
    /// Something is missing at the end.
    #[error("the state ends too soon")]
    Short,
    /// Something is left over.
    #[error("the state has {0} bytes too many")]
    Long(usize),
    /// A value that no state has.
    #[error("the state is damaged: {0}")]
    Bad(&'static str),
}

impl State {
    /// The version of the bytes.
    pub const VERSION: u32 = 1;

    const MAGIC: [u8; 4] = *b"fwST";
    /// Beyond this a count makes no sense, and adding to it is safe.
    const COUNT_MAX: u64 = 1 << 60;
    /// Stands for no type.
    const NO_KIND: u8 = 0xff;

    /// How often the control node has been opened.
    pub fn control_opened(&self) -> u64 {
        self.control_opened
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(Self::MAGIC);
        out.extend(Self::VERSION.to_le_bytes());
        out.extend(self.generation.0.to_le_bytes());
        out.extend(self.cookie.0.get().to_le_bytes());
        out.extend(self.phantoms.to_le_bytes());
        out.extend(self.control_opened.to_le_bytes());
        out.push(u8::from(self.in_step.is_some()));
        put_time(&mut out, self.in_step.unwrap_or(SystemTime::UNIX_EPOCH));
        put_count(&mut out, self.nodes.len());
        for (id, node) in &self.nodes {
            out.push(kind_byte(node.kind));
            for number in [id.get(), node.ino, node.nlookup, node.borrowed] {
                out.extend(number.to_le_bytes());
            }
        }
        put_count(&mut out, self.entries.len());
        for ((dir, name), entry) in &self.entries {
            out.extend(dir.get().to_le_bytes());
            let len = name.as_bytes().len();
            out.push(u8::try_from(len).expect("a name has at most 255 bytes"));
            out.extend(name.as_bytes());
            out.extend(entry.current.map_or(0, NodeId::get).to_le_bytes());
            out.push(entry.shown.map_or(Self::NO_KIND, kind_byte));
            put_count(&mut out, entry.nodes.len());
            for (id, place) in &entry.nodes {
                out.extend(id.get().to_le_bytes());
                out.extend(place.to_le_bytes());
            }
        }
        put_count(&mut out, self.stale.len());
        for (dir, stale) in &self.stale {
            out.extend(dir.get().to_le_bytes());
            put_time(&mut out, stale.since);
            out.extend(stale.itself.bits().to_le_bytes());
        }
        out
    }

    /// The state that [`State::encode`] made these bytes of.
    ///
    /// # Errors
    /// When it made none of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut bytes = Bytes(bytes);
        if bytes.take().map_err(|_| StateError::Foreign)? != Self::MAGIC {
            return Err(StateError::Foreign);
        }
        match bytes.u32()? {
            Self::VERSION => {}
            other => return Err(StateError::Version(other)),
        }
        let generation = Generation(bytes.u32()?);
        let cookie =
            bytes.u32()?.try_into().map(Cookie).map_err(|_| StateError::Bad("cookie 0"))?;
        let (phantoms, control_opened) = (bytes.u64()?, bytes.count()?);
        let in_step = match (bytes.u8()?, bytes.time()?) {
            (0, SystemTime::UNIX_EPOCH) => None,
            (1, time) => Some(time),
            _ => return Err(StateError::Bad("a time of no use")),
        };
        let nodes = bytes.map(Self::node)?;
        let entries = bytes.map(Self::entry)?;
        let stale = bytes.map(|bytes| {
            let (dir, since) = (bytes.id()?, bytes.time()?);
            let itself =
                Mask::from_bits(bytes.u64()?).ok_or(StateError::Bad("an unknown event"))?;
            Ok((dir, StaleState { since, itself }))
        })?;
        if !bytes.0.is_empty() {
            return Err(StateError::Long(bytes.0.len()));
        }
        let state =
            Self { generation, phantoms, cookie, control_opened, in_step, nodes, entries, stale };
        state.check()?;
        Ok(state)
    }

    fn node(bytes: &mut Bytes<'_>) -> Result<(NodeId, NodeState), StateError> {
        let kind = bytes.kind()?.ok_or(StateError::Bad("a node without a type"))?;
        let (id, ino) = (bytes.id()?, bytes.u64()?);
        let (nlookup, borrowed) = (bytes.count()?, bytes.count()?);
        Ok((id, NodeState { kind, ino, nlookup, borrowed }))
    }

    fn entry(bytes: &mut Bytes<'_>) -> Result<((NodeId, Name), EntryState), StateError> {
        let dir = bytes.id()?;
        let len = bytes.u8()?;
        let name = Name::parse(bytes.slice(len.into())?);
        let name = name.map_err(|_| StateError::Bad("what cannot be a name"))?;
        let current = match bytes.u64()? {
            0 => None,
            id => Some(known(id)?),
        };
        let shown = bytes.kind()?;
        let mut nodes = Vec::new();
        for _ in 0..bytes.u32()? {
            nodes.push((bytes.id()?, bytes.u32()?));
        }
        if current.is_none() && shown.is_none() && nodes.is_empty() {
            return Err(StateError::Bad("an entry of nothing"));
        }
        Ok(((dir, name), EntryState { current, shown, nodes }))
    }

    /// What goes beyond a single value.
    fn check(&self) -> Result<(), StateError> {
        let root = self.nodes.get(&NodeId::ROOT);
        let is_directory = root.is_some_and(|root| root.kind == FileKind::Directory);
        if !self.nodes.is_empty() && !is_directory {
            return Err(StateError::Bad("no root"));
        }
        let mut names = BTreeSet::new();
        for ((dir, _), entry) in &self.entries {
            let in_directory =
                self.nodes.get(dir).is_some_and(|node| node.kind == FileKind::Directory);
            if !in_directory {
                return Err(StateError::Bad("an entry of no directory"));
            }
            for (id, place) in &entry.nodes {
                if !self.nodes.contains_key(id) {
                    return Err(StateError::Bad("an entry of an unknown node"));
                }
                // This finds one that is told twice under one name, too: it has one place there.
                if !names.insert((*id, *place)) {
                    return Err(StateError::Bad("two names in one place"));
                }
            }
            let ids: BTreeSet<_> = entry.nodes.iter().map(|(id, _)| id).collect();
            if ids.len() < entry.nodes.len() {
                return Err(StateError::Bad("a node that is told twice"));
            }
        }
        Ok(())
    }
}

/// A nodeid that the tree can have.
fn known(raw: u64) -> Result<NodeId, StateError> {
    NodeId::new(raw).filter(|id| !id.is_reserved()).ok_or(StateError::Bad("a nodeid of no node"))
}

fn kind_byte(kind: FileKind) -> u8 {
    u8::try_from(kind.dt()).expect("the numbers of `DT_*` go up to 12")
}

fn put_count(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    out.extend(len.to_le_bytes());
}

/// What is before 1970 is as good as 1970.
fn put_time(out: &mut Vec<u8>, time: SystemTime) {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    out.extend(since_epoch.as_secs().to_le_bytes());
    out.extend(since_epoch.subsec_nanos().to_le_bytes());
}

/// What is left to decode.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let (slice, rest) = self.0.split_at_checked(len).ok_or(StateError::Short)?;
        self.0 = rest;
        Ok(slice)
    }

    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN], StateError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(StateError::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, StateError> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, StateError> {
        self.take().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Result<NodeId, StateError> {
        known(self.u64()?)
    }

    fn count(&mut self) -> Result<u64, StateError> {
        let count = self.u64()?;
        if count > State::COUNT_MAX { Err(StateError::Bad("a count too high")) } else { Ok(count) }
    }

    fn kind(&mut self) -> Result<Option<FileKind>, StateError> {
        match self.u8()? {
            State::NO_KIND => Ok(None),
            dt => FileKind::from_dt(dt.into()).map(Some).ok_or(StateError::Bad("an unknown type")),
        }
    }

    fn time(&mut self) -> Result<SystemTime, StateError> {
        let (secs, nanos) = (self.u64()?, self.u32()?);
        if nanos >= 1_000_000_000 {
            return Err(StateError::Bad("no time"));
        }
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::new(secs, nanos))
            .ok_or(StateError::Bad("a time too late"))
    }

    /// A list in ascending order, without doubles. Nothing is set aside for what is merely claimed.
    fn map<K: Ord, V>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(K, V), StateError>,
    ) -> Result<BTreeMap<K, V>, StateError> {
        let mut map = BTreeMap::new();
        for _ in 0..self.u32()? {
            let (key, value) = item(self)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(StateError::Bad("a list out of order"));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}
