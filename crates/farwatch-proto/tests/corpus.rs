// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays the fuzz corpus on a stable compiler, with the functions that the fuzzers call, and feeds
//! random steps to the join.

use proptest::collection::vec;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[path = "../../../fuzz/src/lib.rs"]
pub mod targets;

#[test]
fn the_corpus_of_notification_decode_passes() {
    for (file, data) in corpus("notification_decode") {
        println!("{}", file.display());
        targets::notification_decode(&data);
    }
}

#[test]
fn the_corpus_of_control_decode_passes() {
    for (file, data) in corpus("control_decode") {
        println!("{}", file.display());
        targets::control_decode(&data);
    }
}

#[test]
fn the_corpus_of_state_decode_passes() {
    for (file, data) in corpus("state_decode") {
        println!("{}", file.display());
        targets::state_decode(&data);
    }
}

#[test]
fn the_corpus_of_join_passes() {
    for (file, data) in corpus("join") {
        println!("{}", file.display());
        targets::join(start(), &data);
    }
}

#[test]
fn the_corpus_of_agent_plan_passes() {
    for (file, data) in corpus("agent_plan") {
        println!("{}", file.display());
        targets::agent_plan(start(), &data);
    }
}

proptest! {
    #[test]
    fn whatever_comes_the_join_gives_every_message_once_and_in_time(
        steps in vec((any::<u8>(), 0..100u8, 0..4u8, Just(0)), 0..300),
    ) {
        let data: Vec<u8> = steps.into_iter().flat_map(<[u8; 4]>::from).collect();
        targets::join(start(), &data);
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
fn start() -> Instant {
    Instant::now()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("the corpus can be listed").path())
        .map(|path| (path.clone(), fs::read(path).expect("a corpus file can be read")))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}
