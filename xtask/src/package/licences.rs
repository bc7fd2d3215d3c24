// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The licences of what is linked into a program: of each crate, as `cargo metadata` has them, with the texts that lie
//! in the crates' directories.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::iter::Peekable;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// What may be linked. Each asks for no more than to be named.
const ALLOWED: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What a text of the Apache licence begins with, and is not repeated: it is in each package, or in Debian's own place.
const APACHE: &str = "Apache License Version 2.0, January 2004";

/// One crate that is linked.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Linked {
    name: String,
    version: String,
    licence: String,
    /// The texts of its licences.
    texts: Vec<String>,
}

/// The text of Debian's `copyright` for a package whose program is built from the crate `package`. `more` is what is
/// linked beside crates.
///
/// # Errors
/// When a crate has no licence, or one that is not allowed.
pub(super) fn copyright(root: &Path, package: &str, more: &str) -> Result<String> {
    let linked = linked(&metadata(root)?, package)?;
    for one in &linked {
        check(one)?;
    }
    let mut text = own(root)?;
    writeln!(text, "{more}")?;
    writeln!(
        text,
        "The program contains these libraries in Rust, each under the licence beside it:\n"
    )?;
    for Linked { name, version, licence, .. } in &linked {
        writeln!(text, "  {name} {version}: {licence}")?;
    }
    for (licence, names) in texts(&linked) {
        writeln!(text, "\n{}\n\n{}", wrapped(&names), licence.trim_end())?;
    }
    Ok(text)
}

/// What a package without a program has.
pub(super) fn own(root: &Path) -> Result<String> {
    let mit = fs::read_to_string(root.join("LICENSE-MIT")).context("LICENSE-MIT")?;
    Ok(format!(
        "farwatch: file-change notification that works across a shared-directory mount\n\n\
         Copyright (c) 2026 The farwatch authors\n\n\
         Licensed under the Apache License, version 2.0, or the MIT license, at your choice. On Debian the first\n\
         is /usr/share/common-licenses/Apache-2.0, elsewhere LICENSE-APACHE beside this file. The second is:\n\n{mit}\n"
    ))
}

fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["metadata", "--locked", "--format-version", "1"]);
    let output = command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The crates that are linked into a program of `package`, but for our own, by name and version.
fn linked(metadata: &Value, package: &str) -> Result<Vec<Linked>> {
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"])
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let is_start = |found: &&&str| packages[**found]["name"] == package;
    let start = packages.keys().find(is_start).with_context(|| package.to_owned())?;
    let mut found = BTreeSet::from([*start]);
    let mut waiting = vec![*start];
    while let Some(id) = waiting.pop() {
        for dependency in list(&nodes.get(id).context("a node for each package")?["deps"]) {
            let to = dependency["pkg"].as_str().context("an id")?;
            if is_linked(dependency, packages[to]) && found.insert(to) {
                waiting.push(to);
            }
        }
    }
    let foreign =
        found.into_iter().map(|id| packages[id]).filter(|package| !package["source"].is_null());
    let mut linked = foreign.map(of_package).collect::<Result<Vec<_>>>()?;
    linked.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(linked)
}

/// Neither what builds or tests, nor what the compiler loads.
fn is_linked(dependency: &Value, package: &Value) -> bool {
    let normal = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
    let is_macro = |target: &Value| list(&target["kind"]).iter().any(|kind| kind == "proc-macro");
    normal && !list(&package["targets"]).iter().any(is_macro)
}

fn of_package(package: &Value) -> Result<Linked> {
    let string = |key: &str| package[key].as_str().map(str::to_owned);
    let name = string("name").context("a package has a name")?;
    let manifest = string("manifest_path").context("a package has a manifest")?;
    let licence = string("license").with_context(|| format!("{name} names no licence"))?;
    let dir = Path::new(&manifest).parent().context("a manifest has a directory")?;
    let mut files: Vec<_> = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut texts = Vec::new();
    for file in files {
        let upper = file.file_name().to_string_lossy().to_uppercase();
        let is_text = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|prefix| upper.starts_with(prefix));
        if is_text && file.file_type()?.is_file() {
            texts.push(String::from_utf8_lossy(&fs::read(file.path())?).replace("\r\n", "\n"));
        }
    }
    Ok(Linked { version: string("version").context("a version")?, name, licence, texts })
}

/// Whether one may do with it what the licence of farwatch allows.
fn check(linked: &Linked) -> Result<()> {
    let Linked { name, licence, .. } = linked;
    // The old form of crates.io has a slash for the choice.
    let spaced = licence.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = one_of(&mut words);
    // What is left is no expression: then it is read by a person.
    if !allowed || words.next().is_some() {
        bail!("{name} is under {licence}, and that is none of those in {}", file!());
    }
    Ok(())
}

/// `A OR B`, of which one is enough; AND binds tighter (SPDX 2.3, annex D).
fn one_of<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> bool {
    let mut allowed = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words);
    }
    allowed
}

fn all_of<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> bool {
    let mut allowed = single(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= single(words);
    }
    allowed
}

fn single<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> bool {
    match words.next() {
        Some("(") => one_of(words) && words.next() == Some(")"),
        Some(name) => match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
            Some(exception) => ALLOWED.contains(&format!("{name} WITH {exception}").as_str()),
            None => ALLOWED.contains(&name),
        },
        None => false,
    }
}

/// Each text once, with the crates that have it.
fn texts(linked: &[Linked]) -> BTreeMap<&str, Vec<String>> {
    // The same text differs in its line breaks.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in linked {
        for text in one.texts.iter().filter(|text| !words(text).contains(APACHE)) {
            let text: &str = first.entry(words(text)).or_insert(text);
            texts.entry(text).or_default().push(format!("{} {}", one.name, one.version));
        }
    }
    texts
}

/// A headline of names, in lines of a width that is easily read.
fn wrapped(names: &[String]) -> String {
    let mut text = String::from("----");
    let mut width = text.len();
    for (at, name) in names.iter().enumerate() {
        let comma = if at + 1 < names.len() { "," } else { ":" };
        width += name.len() + 2;
        let space = if width > 100 { "\n     " } else { " " };
        if width > 100 {
            width = name.len() + 6;
        }
        text.push_str(space);
        text.push_str(name);
        text.push_str(comma);
    }
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn linked_as(licence: &str) -> Linked {
        let (name, version) = ("some".to_owned(), "1.0.0".to_owned());
        Linked { name, version, licence: licence.to_owned(), texts: Vec::new() }
    }

    #[test]
    fn a_licence_that_asks_for_more_is_refused_by_name() {
        for licence in [
            "MIT",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "BSL-1.0 OR Apache-2.0 WITH LLVM-exception",
            "GPL-2.0 AND MIT OR MIT",
        ] {
            check(&linked_as(licence)).unwrap();
        }
        for licence in
            ["GPL-2.0", "MIT AND MPL-2.0", "(MIT", "MIT MIT", "MIT AND (GPL-2.0 OR MPL-2.0)", ""]
        {
            let said = check(&linked_as(licence)).unwrap_err().to_string();
            assert!(said.contains("some"), "{said}");
        }
    }

    #[test]
    fn a_text_is_there_once_for_all_that_have_it_and_the_apache_licence_not_at_all() {
        let mut all = [linked_as("MIT"), linked_as("MIT")];
        all[0].texts = vec![
            "Do what you\nlike".to_owned(),
            "Apache License\nVersion 2.0, January 2004".to_owned(),
        ];
        all[1].texts = vec!["Do what\nyou like".to_owned()];
        all[1].version = "2.0.0".to_owned();
        let texts = texts(&all);
        assert_eq!(texts.len(), 1);
        assert_eq!(texts["Do what you\nlike"], ["some 1.0.0", "some 2.0.0"]);
    }

    /// What only builds, and what the compiler loads, is in no program.
    #[test]
    fn unlinked_crate_is_not_listed() {
        let package = |name: &str, kind: &str| {
            json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": "registry",
                   "targets": [{"kind": [kind]}], "manifest_path": concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")})
        };
        let dependency =
            |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("program", "bin"), package("linked", "lib"), package("builds", "lib"),
                         package("derives", "proc-macro"), package("below", "lib")],
            "resolve": {"nodes": [
                {"id": "program", "deps": [dependency("linked", Value::Null), dependency("builds", "build".into()),
                                           dependency("derives", Value::Null)]},
                {"id": "linked", "deps": [dependency("below", Value::Null)]},
                {"id": "below", "deps": []},
            ]},
        });
        let names: Vec<String> =
            linked(&metadata, "program").unwrap().into_iter().map(|linked| linked.name).collect();
        assert_eq!(names, ["below", "linked", "program"]);
    }

    #[test]
    fn the_programs_link_nothing_that_is_not_allowed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for package in ["farwatch", "farwatch-guest"] {
            let text = copyright(root, package, "").unwrap();
            assert!(text.contains("\n  rustix 1."), "{text}");
        }
    }
}
