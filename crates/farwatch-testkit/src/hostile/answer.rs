// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the server has, and what it answers: the truth, or one of its lies.

use super::fuse::{
    Bytes, CONTROL, EIO, ENOENT, ENOSYS, ESTALE, FLUSH, FOPEN_DIRECT_IO, FSNOTIFY, GETATTR, LINK,
    LOOKUP, MKDIR, MKNOD, OPEN, OPENDIR, READ, READDIR, RELEASE, RELEASEDIR, RENAME, RENAME2,
    RESERVED, RMDIR, Request, SETATTR, SYMLINK, UNLINK, WRITE, u32_at, u64_at,
};

/// Of every node but the root, which has 0.
pub(super) const GENERATION: u32 = 7;
const ROOT: u64 = 1;
const S_IFDIR: u32 = 0o040_755;
const S_IFREG: u32 = 0o100_644;
const DAY: u64 = 24 * 60 * 60;

/// An object, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) name: &'static str,
    parent: u64,
    is_dir: bool,
}

/// `file` has another name, which is no node of its own.
pub(super) const NODES: [Node; 6] = [
    Node { id: ROOT, name: "root", parent: ROOT, is_dir: true },
    Node { id: 2, name: "file", parent: ROOT, is_dir: false },
    Node { id: 3, name: "dir", parent: ROOT, is_dir: true },
    Node { id: 4, name: "sub", parent: 3, is_dir: true },
    Node { id: 5, name: "leaf", parent: 3, is_dir: false },
    Node { id: 6, name: "deep", parent: 4, is_dir: false },
];
const TWIN: (u64, &[u8], u64) = (ROOT, b"twin", 2);

impl Node {
    pub(super) fn called(name: &str) -> Option<&'static Self> {
        NODES.iter().find(|node| node.name == name)
    }

    fn numbered(id: u64) -> Option<&'static Self> {
        NODES.iter().find(|node| node.id == id)
    }

    fn at(parent: u64, name: &[u8]) -> Option<&'static Self> {
        if name == b"." {
            return Self::numbered(parent);
        }
        if name == b".." {
            return Self::numbered(Self::numbered(parent)?.parent);
        }
        if (parent, name) == (TWIN.0, TWIN.1) {
            return Self::numbered(TWIN.2);
        }
        let is_meant = |node: &&Self| node.parent == parent && node.name.as_bytes() == name;
        NODES.iter().filter(|node| node.id != ROOT).find(is_meant)
    }
}

/// What is said in place of the truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lie {
    /// This error.
    Error(i32),
    /// Another node of the server's, or none that it has.
    Node(u64),
    /// There is nothing, and that may be kept.
    Nothing,
    /// It has so many links.
    Links(u32),
    /// A file is a directory, and the other way round.
    OtherKind,
    /// It is another object with the same nodeid.
    OtherGeneration,
    /// A size that no file can have.
    Huge,
    /// The answer is shorter than it has to be.
    Short,
    /// Or longer.
    Long,
}

impl Lie {
    /// As `cases.txt` spells them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "enoent" => Self::Error(ENOENT),
            "estale" => Self::Error(ESTALE),
            "eio" => Self::Error(EIO),
            "enosys" => Self::Error(ENOSYS),
            "no-errno" => Self::Error(0x7fff_ffff),
            "nothing" => Self::Nothing,
            "gone" => Self::Links(0),
            "many-links" => Self::Links(u32::MAX),
            "other-kind" => Self::OtherKind,
            "other-generation" => Self::OtherGeneration,
            "huge" => Self::Huge,
            "short" => Self::Short,
            "long" => Self::Long,
            name => Self::Node(Node::called(name)?.id),
        })
    }

    pub(super) fn at_random(random: &mut fastrand::Rng) -> Self {
        match random.u8(..16) {
            0..=2 => Self::Error([ENOENT, ESTALE, EIO, ENOSYS][random.usize(..4)]),
            3..=5 => Self::Node(random.u64(1..9)),
            6 => Self::Nothing,
            7..=9 => Self::Links(random.u32(..3)),
            10 => Self::Links(u32::MAX),
            11 => Self::OtherKind,
            12 => Self::OtherGeneration,
            13 => Self::Huge,
            14 => Self::Short,
            _ => Self::Long,
        }
    }
}

/// Where a lie is told, from when it is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Lies {
    /// Of what a name leads to.
    pub(super) lookup: Option<Lie>,
    /// Of attributes.
    pub(super) getattr: Option<Lie>,
    /// Of what is watched.
    pub(super) fsnotify: Option<Lie>,
    /// Or now and then, and now here, now there.
    pub(super) random: Option<fastrand::Rng>,
}

impl Lies {
    /// The root is always told of truly: without it there is nothing left to test.
    fn about(&mut self, request: &Request<'_>) -> Option<Lie> {
        if let Some(random) = &mut self.random {
            let is_honest = request.nodeid == ROOT && request.opcode == GETATTR;
            return (!is_honest && random.u8(..4) == 0).then(|| Lie::at_random(random));
        }
        match request.opcode {
            LOOKUP if request.name() != b"." => self.lookup,
            GETATTR if request.nodeid != ROOT => self.getattr,
            FSNOTIFY => self.fsnotify,
            _ => None,
        }
    }
}

/// The answer to anything but what belongs to the control node.
pub(super) fn answer(request: &Request<'_>, lies: &mut Lies) -> Result<Vec<u8>, i32> {
    let lie = lies.about(request);
    if let Some(Lie::Error(errno)) = lie {
        return Err(errno);
    }
    let mut answer = match request.opcode {
        LOOKUP => entry(Node::at(request.nodeid, request.name()), request.nodeid, lie)?,
        // What a program in the mount makes is what is there already.
        MKNOD | MKDIR | SYMLINK | LINK => {
            let dir = request.opcode == MKDIR;
            let made = NODES.iter().find(|node| node.id != ROOT && node.is_dir == dir);
            entry(made, request.nodeid, lie)?
        }
        GETATTR | SETATTR => {
            let node = Node::numbered(request.nodeid).ok_or(ESTALE)?;
            Bytes::default().u64(DAY).u64(0).bytes(&attr(node.id, node.is_dir, lie)).0
        }
        OPEN | OPENDIR => Bytes::default().u64(0).u32(FOPEN_DIRECT_IO).u32(0).0,
        FSNOTIFY => Bytes::default().u64(u64_at(request.body, 0).unwrap_or(0)).u64(0).0,
        WRITE => Bytes::default().u32(u32_at(request.body, 16).unwrap_or(0)).u32(0).0,
        READ | READDIR | UNLINK | RMDIR | RENAME | RENAME2 | RELEASE | RELEASEDIR | FLUSH => {
            Vec::new()
        }
        _ => return Err(ENOSYS),
    };
    match lie {
        Some(Lie::Short) => answer.truncate(answer.len() / 2),
        Some(Lie::Long) => answer.resize(answer.len() + 16, 0),
        _ => {}
    }
    Ok(answer)
}

/// The control node, as a LOOKUP finds it.
pub(super) fn control() -> Vec<u8> {
    let head = Bytes::default().u64(CONTROL).u64(0).u64(DAY).u64(DAY).u64(0);
    head.bytes(&attr(CONTROL, false, None)).0
}

/// `fuse_entry_out`
fn entry(node: Option<&Node>, asked: u64, lie: Option<Lie>) -> Result<Vec<u8>, i32> {
    if asked >= RESERVED {
        return Err(ESTALE);
    }
    let (id, is_dir) = match lie {
        Some(Lie::Nothing) => (0, false),
        Some(Lie::Node(id)) => (id, Node::numbered(id).is_some_and(|node| node.is_dir)),
        _ => node.map(|node| (node.id, node.is_dir)).ok_or(ENOENT)?,
    };
    let generation = if id == ROOT { 0 } else { GENERATION };
    let generation = generation + u32::from(lie == Some(Lie::OtherGeneration));
    let head = Bytes::default().u64(id).u64(generation.into()).u64(DAY).u64(DAY).u64(0);
    Ok(head.bytes(&attr(id, is_dir, lie)).0)
}

/// `fuse_attr`
fn attr(id: u64, is_dir: bool, lie: Option<Lie>) -> Vec<u8> {
    let links = match lie {
        Some(Lie::Links(links)) => links,
        _ => 2,
    };
    let is_dir = is_dir != (lie == Some(Lie::OtherKind));
    let size = if lie == Some(Lie::Huge) { u64::MAX } else { 0 };
    let mode = if is_dir { S_IFDIR } else { S_IFREG };
    let times = Bytes::default().u64(id).u64(size).u64(0).zeros(36);
    times.u32(mode).u32(links).u32(0).u32(0).u32(0).u32(4096).u32(0).0
}
