// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which of our crates may depend on which: farwatch → guest → sys → proto, never back. And the rooms of
//! farwatch that may import no other.

use super::File;

/// Crate directory → the crates of ours that it may name in `[dependencies]`. A new edge is a
/// decision, made here.
const EDGES: [(&str, &[&str]); 9] = [
    ("crates/farwatch-proto", &[]),
    ("crates/farwatch-sys", &["farwatch-proto"]),
    ("crates/farwatch-guest", &["farwatch-proto", "farwatch-sys"]),
    ("crates/farwatch", &["farwatch-proto", "farwatch-sys", "farwatch-guest"]),
    // What std and rustix do not have, a program that watches needs too.
    ("crates/farwatch-testkit", &["farwatch-sys"]),
    // It includes files of farwatch by their path.
    ("crates/farwatch-interleavings", &["farwatch-proto"]),
    ("e2e", &["farwatch-testkit"]),
    // Manual pages and completions are made of the definitions of the command lines.
    ("packaging", &["farwatch", "farwatch-guest"]),
    // The demonstration boots what the tests boot.
    ("xtask", &["farwatch-testkit"]),
];

/// Rooms of farwatch that every other room may import, so they must import none: that would be a cycle.
const LEAVES: [&str; 1] = ["options"];

pub(super) fn check(files: &[File]) -> Vec<String> {
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests.flat_map(check_crate).chain(files.iter().filter_map(check_leaf)).collect()
}

/// A file of a leaf room names no other room of its crate.
fn check_leaf(file: &File) -> Option<String> {
    let inside = file.path.strip_prefix("crates/farwatch/src/")?.strip_suffix(".rs")?;
    let room = inside.split('/').next()?;
    if !LEAVES.contains(&room) {
        return None;
    }
    let mut imported = file.text.split("crate::").skip(1).filter_map(|rest| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| *name != room)
    });
    let other = imported.next()?;
    Some(format!("{}: {room} imports no other room, and so not {other}", file.path))
}

fn check_crate(manifest: &File) -> Vec<String> {
    let dir = manifest.path.trim_end_matches("/Cargo.toml");
    if ["book", "fuzz"].contains(&dir) {
        return Vec::new();
    }
    let Some((_, allowed)) = EDGES.iter().find(|(crate_dir, _)| *crate_dir == dir) else {
        return vec![format!("{}: a crate without a row in {}", manifest.path, file!())];
    };
    let dependencies = manifest
        .text
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    dependencies
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| name.starts_with("farwatch") && !allowed.contains(name))
        .map(|name| format!("{}: must not depend on {name}", manifest.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn an_edge_against_the_direction_is_refused() {
        let text = "[dependencies]\nlibc = \"1\"\nfarwatch-guest.workspace = true\n";
        assert_eq!(check(&[manifest("crates/farwatch-sys/Cargo.toml", text)]).len(), 1);
        assert!(check(&[manifest("crates/farwatch/Cargo.toml", text)]).is_empty());
    }

    #[test]
    fn dependencies_of_tests_alone_are_free() {
        let text = "[dependencies]\n\n[dev-dependencies]\nfarwatch.workspace = true\n";
        assert!(check(&[manifest("crates/farwatch-sys/Cargo.toml", text)]).is_empty());
    }

    #[test]
    fn a_leaf_room_that_imports_another_room_is_reported() {
        let check = |path: &str, text: &str| check(&[manifest(path, text)]);
        let leaf = "crates/farwatch/src/options/serve.rs";
        assert_eq!(check(leaf, "use crate::options::Cache;\nuse crate::serve::run;").len(), 1);
        assert!(check(leaf, "use crate::options::Cache;\nuse super::sharing;").is_empty());
        assert!(check("crates/farwatch/src/cli.rs", "use crate::serve::run;").is_empty());
    }

    #[test]
    fn an_unknown_crate_is_refused() {
        assert_eq!(check(&[manifest("crates/new/Cargo.toml", "")]).len(), 1);
    }
}
