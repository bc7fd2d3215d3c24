// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask docs`: builds the site of the documents with mdBook, into `target/docs/book`.
//!
//! The pages are those of the repository, in the same directories, so that a link works in both. What `docs/SUMMARY.md`
//! links is relative to its own directory there, and to the root of the pages on the site. The program that builds it is
//! `book`, kept in the cache under a name made of its source, its dependencies and the compiler.

pub(crate) mod picture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use farwatch_testkit::vm::hash_of_parts;

use crate::kernel::succeed;
use crate::tidy::links::{self, GENERATED, SUMMARY};
use crate::tidy::{self, File};
use crate::{cached, guest};

/// Builds the site; `Ok(false)` when a link between the documents is broken.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let files = tidy::files(root)?;
    let complaints = links::check(&files);
    for complaint in &complaints {
        println!("docs: {complaint}");
    }
    let site = root.join("target/docs");
    assemble(root, &files, &site)?;
    // As part of the workspace, since by itself it would be built with other features, and so once more.
    let mut build = Command::new(cargo());
    build.current_dir(root).args(["build", "--quiet", "--workspace", "--bin", "farwatch-pages"]);
    succeed(&mut build)?;
    let mut pages = Command::new(guest::target_dir(root).join("debug/farwatch-pages"));
    succeed(pages.arg("--markdown").arg(site.join("src").join(GENERATED)))?;
    let built = Command::new(builder(root)?).arg(&site).output()?;
    let said = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success() && said.is_empty(), "mdBook: {}\n{said}", built.status);
    println!("{}", site.join("book/index.html").display());
    Ok(complaints.is_empty())
}

/// Puts the pages, and the files that they link to, into `site/src`.
fn assemble(root: &Path, files: &[File], site: &Path) -> Result<()> {
    let src = site.join("src");
    if src.exists() {
        fs::remove_dir_all(&src).with_context(|| src.display().to_string())?;
    }
    fs::create_dir_all(src.join("docs"))?;
    fs::copy(root.join("book/book.toml"), site.join("book.toml"))?;
    let documents = || files.iter().filter(|file| links::is_document(&file.path));
    let linked = documents().flat_map(links::links).map(|link| link.path);
    for path in documents().map(|file| file.path.clone()).chain(linked) {
        let (from, to) = (root.join(&path), src.join(&path));
        if path == SUMMARY || !from.is_file() {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        fs::copy(&from, &to).with_context(|| path)?;
    }
    let summary = documents().find(|file| file.path == SUMMARY).context(SUMMARY)?;
    let rooted = summary.text.replace("](", "](docs/").replace("](docs/../", "](");
    Ok(fs::write(src.join("SUMMARY.md"), rooted)?)
}

/// The program that builds the site.
fn builder(root: &Path) -> Result<PathBuf> {
    let dir = root.join("book");
    let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| name.to_owned());
    let compiler = Command::new("rustc").arg("-V").output().context("rustc")?.stdout;
    let version = hash_of_parts(&[
        &read("Cargo.toml")?,
        &read("Cargo.lock")?,
        &read("src/main.rs")?,
        &String::from_utf8(compiler)?,
    ]);
    let built = cached::dir()?.join(format!("book-{version}"));
    let program = built.join("bin/farwatch-book");
    cached::build(
        &built,
        || program.is_file(),
        |new| {
            println!("building mdBook, once, into {}", built.display());
            let mut install = Command::new(cargo());
            install.args(["install", "--quiet", "--locked", "--debug", "--no-track", "--path"]);
            // Its own target directory: that of the workspace is locked while `cargo xtask` runs tests.
            let target = new.join("target");
            succeed(install.arg(&dir).arg("--root").arg(new).arg("--target-dir").arg(&target))?;
            Ok(fs::remove_dir_all(target)?)
        },
    )?;
    Ok(program)
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
