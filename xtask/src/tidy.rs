// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask tidy`: the house rules that neither rustc, clippy nor rustfmt checks.
//!
//! Each check takes text and returns complaints; only this file reads the tree.

mod documents;
mod edges;
pub(crate) mod links;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Names of what holds nothing of ours, or bytes that are not text. `.git` is a file in a linked
/// worktree, with a path of that machine in it.
const SKIPPED: [&str; 4] = [".git", "target", "corpus", "artifacts"];

/// One file of the repository.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Checks the tree and prints what is wrong with it; `Ok(false)` when something is.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let files = files(root)?;
    let mut complaints = edges::check(&files);
    complaints.extend(files.iter().flat_map(source::check));
    complaints.extend(source::check_orphans(&files));
    complaints.extend(documents::check(&files));
    complaints.extend(documents::check_glossary(&files));
    complaints.extend(links::check(&files));
    for complaint in &complaints {
        println!("tidy: {complaint}");
    }
    println!("tidy: {} files, {} complaints", files.len(), complaints.len());
    Ok(complaints.is_empty())
}

/// The text files of the repository, sorted by path.
pub(crate) fn files(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    read_tree(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_tree(root: &Path, dir: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            read_tree(root, &path, files)?;
            continue;
        }
        // What is not text has no rules.
        if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root)?.to_string_lossy().into_owned();
            files.push(File { path, text });
        }
    }
    Ok(())
}
