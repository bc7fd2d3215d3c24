// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names, objects and nodes by short numbers.

use farwatch_proto::{Fid, Name, NodeId};

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).expect("a name")
}

pub(crate) fn fid(number: u8) -> Fid {
    Fid::new([7, 0], 1, &[number]).expect("a short handle")
}

pub(crate) fn id(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}
