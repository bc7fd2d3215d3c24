// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For the tests that replay the committed corpus of a fuzz target and draw random inputs beside it. They include this
//! file by its path.

use std::fs;
use std::path::Path;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

/// Calls `run` with each file of the corpus of `target`, in the order of their names. The name is printed first.
pub(crate) fn replay(target: &str, run: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|file| file.expect("the corpus can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    for file in files {
        println!("{}", file.display());
        run(&fs::read(&file).expect("a corpus file can be read"));
    }
}

/// Calls `run` with `count` random inputs, which are the same each time. Each is printed first.
pub(crate) fn draw(count: usize, run: impl Fn(&[u8])) {
    let input = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
    let mut runner = TestRunner::deterministic();
    for _ in 0..count {
        let input = input.new_tree(&mut runner).expect("it has no filter").current();
        println!("{input:?}");
        run(&input);
    }
}
