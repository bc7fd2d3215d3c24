// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Message`]: the bytes of one notification, or of what is none.

use anyhow::{Context as _, Result, bail};

use super::answer::{GENERATION, Node};
use super::fuse::{Bytes, LIMBO, MESSAGE_MIN, NOTIFY_CODE, u32_at};

/// `docs/PROTOCOL.md` 1.1
const MASKS: [(&str, u64); 12] = [
    ("ACCESS", 0x1),
    ("MODIFY", 0x2),
    ("ATTRIB", 0x4),
    ("CLOSE_WRITE", 0x8),
    ("CLOSE_NOWRITE", 0x10),
    ("OPEN", 0x20),
    ("MOVED_FROM", 0x40),
    ("MOVED_TO", 0x80),
    ("CREATE", 0x100),
    ("DELETE", 0x200),
    ("Q_OVERFLOW", 0x4000),
    ("ISDIR", ISDIR),
];
pub(super) const ISDIR: u64 = 0x4000_0000;
pub(super) const PAIRED: u32 = 1;
pub(super) const CHILD: u32 = 2;
pub(super) const LINK: u32 = 4;
/// The kind of a directory, `DT_DIR`.
pub(super) const KIND_DIR: u32 = 4 << 8;

/// What a read takes.
const READ_MAX: usize = 4096 - 40;

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message(pub(super) Vec<u8>);

/// The fields, as they go together unless something else is said.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) node: (u64, u32),
    pub(super) mask: u64,
    pub(super) cookie: u32,
    pub(super) flags: u32,
    pub(super) child: (u64, u32),
    pub(super) reserved: u32,
    pub(super) name: Vec<u8>,
    /// Where they say otherwise than what there is.
    pub(super) len: Option<u32>,
    pub(super) namelen: Option<u32>,
    pub(super) error: Option<u32>,
    pub(super) unique: u64,
    /// So many bytes at the end are not there.
    pub(super) cut: usize,
    /// So many follow.
    pub(super) more: usize,
}

impl Message {
    /// The first message of a line of `cases.txt`.
    pub(super) fn parse(line: &str) -> Result<Self> {
        Self::nth(line, 0)
    }

    /// The one with that number, of a line that says more than one. `#` in a name is the number.
    pub(super) fn nth(line: &str, number: u32) -> Result<Self> {
        let mut fields = Fields::default();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').with_context(|| word.to_owned())?;
            if key == "noise" {
                return Ok(Self::noise(number, sized(value)?));
            }
            fields.set(key, value, number).with_context(|| word.to_owned())?;
        }
        Ok(fields.message())
    }

    /// Bytes that mean nothing.
    fn noise(seed: u32, len: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed.into());
        Self((0..len).map(|_| random.u8(..)).collect())
    }

    /// Whether what follows it in a read can be found, and it fits into one.
    pub(super) fn is_framed(&self) -> bool {
        self.said() == Some(self.0.len()) && self.is_read()
    }

    /// Whether a message is found at the beginning of a read that begins with it, be it one or not.
    pub(super) fn is_found(&self) -> bool {
        self.said().is_some_and(|said| said <= self.0.len()) && self.is_read()
    }

    fn said(&self) -> Option<usize> {
        let said = u32_at(&self.0, 0).and_then(|len| usize::try_from(len).ok());
        said.filter(|said| *said >= MESSAGE_MIN)
    }

    fn is_read(&self) -> bool {
        self.0.len() <= READ_MAX
    }
}

impl Fields {
    fn set(&mut self, key: &str, value: &str, number: u32) -> Result<()> {
        match key {
            "on" => self.node = node(value)?,
            "child" => {
                self.child = node(value)?;
                self.flags |= CHILD;
            }
            "mask" => self.mask = mask(value)?,
            "pair" => {
                self.cookie = if value == "#" { number + 1 } else { small(value)? };
                self.flags |= PAIRED;
            }
            "cookie" => self.cookie = small(value)?,
            "flags" => self.flags |= small(value)?,
            "reserved" => self.reserved = small(value)?,
            "name" => self.name = unescape(&value.replace('#', &number.to_string()))?,
            "fill" => self.name = vec![b'n'; sized(value)?],
            "len" => self.len = Some(small(value)?),
            "namelen" => self.namelen = Some(small(value)?),
            "error" => self.error = Some(small(value)?),
            "unique" => self.unique = number_of(value)?,
            "cut" => self.cut = sized(value)?,
            "more" => self.more = sized(value)?,
            // How often the line is said.
            "times" => {}
            _ => bail!("no such field"),
        }
        Ok(())
    }

    pub(super) fn message(&self) -> Message {
        let there = u32::try_from(self.name.len()).unwrap_or(u32::MAX);
        let len = self.len.unwrap_or_else(|| there.saturating_add(64));
        let kind = if self.mask & ISDIR == 0 { 0 } else { KIND_DIR };
        let header = Bytes::default().u32(len).u32(self.error.unwrap_or(NOTIFY_CODE));
        let head = header.u64(self.unique).u64(self.node.0).u32(self.node.1).u32(self.reserved);
        let body = head.u64(self.mask).u32(self.namelen.unwrap_or(there)).u32(self.cookie);
        let body = body.u32(self.flags | kind).u32(self.child.1).u64(self.child.0);
        let mut bytes = body.bytes(&self.name).0;
        bytes.truncate(bytes.len().saturating_sub(self.cut));
        bytes.resize(bytes.len() + self.more, 0);
        Message(bytes)
    }
}

/// One of the server's, `limbo`, or `NODEID:GENERATION`.
fn node(text: &str) -> Result<(u64, u32)> {
    if let Some((nodeid, generation)) = text.split_once(':') {
        return Ok((number_of(nodeid)?, small(generation)?));
    }
    if text == "limbo" {
        return Ok((LIMBO, 0));
    }
    let node = Node::called(text).context("no such node")?;
    Ok((node.id, if node.id == 1 { 0 } else { GENERATION }))
}

/// Names with `+` between them, or a number.
fn mask(text: &str) -> Result<u64> {
    text.split('+').try_fold(0, |mask, word| {
        let known = MASKS.iter().find(|(name, _)| *name == word);
        let bit = known.map_or_else(|| number_of(word), |(_, bit)| Ok(*bit))?;
        Ok(mask | bit)
    })
}

fn number_of(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.context("no number")
}

fn small(text: &str) -> Result<u32> {
    Ok(number_of(text)?.try_into()?)
}

fn sized(text: &str) -> Result<usize> {
    Ok(number_of(text)?.try_into()?)
}

/// `\xNN` is a byte.
fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).context("two digits")?;
        bytes.push(u8::from_str_radix(hex, 16)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}
