// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which of our crates may depend on which: farwatch → guest → sys → proto, never back.

use super::File;

/// Crate directory → the crates of ours that it may name in `[dependencies]`. A new edge is a
/// decision, made here.
const EDGES: [(&str, &[&str]); 7] = [
    ("crates/farwatch-proto", &[]),
    ("crates/farwatch-sys", &["farwatch-proto"]),
    ("crates/farwatch-guest", &["farwatch-proto", "farwatch-sys"]),
    ("crates/farwatch", &["farwatch-proto", "farwatch-sys", "farwatch-guest"]),
    // What std and rustix do not have, a program that watches needs too.
    ("crates/farwatch-testkit", &["farwatch-sys"]),
    ("e2e", &["farwatch-testkit"]),
    // The demonstration boots what the tests boot.
    ("xtask", &["farwatch-testkit"]),
];

pub(super) fn check(files: &[File]) -> Vec<String> {
    files.iter().filter(|file| file.path.ends_with("/Cargo.toml")).flat_map(check_crate).collect()
}

fn check_crate(manifest: &File) -> Vec<String> {
    let dir = manifest.path.trim_end_matches("/Cargo.toml");
    if dir == "fuzz" {
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
    fn an_unknown_crate_is_refused() {
        assert_eq!(check(&[manifest("crates/new/Cargo.toml", "")]).len(), 1);
    }
}
