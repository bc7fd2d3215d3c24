// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cases in `tests/wire` (its README tells how to write one), by our decoder; and that the kernel
//! patches have these cases and those of `tests/join` as they stand here.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use farwatch_proto::wire::Notification;
use farwatch_proto::wire::abi::FUSE_NOTIFY_FSNOTIFY;

/// The file of the kernel that has the cases, made by [`header`].
const HEADER: &str = "fs/fuse/fsnotify_cases.h";

#[test]
fn every_case_is_decoded_or_refused_as_expected() {
    for path in case_files("wire") {
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((fields, verdict)) = line.split_once(" => ") else {
                assert!(line.starts_with('#'), "{}: {line}", path.display());
                continue;
            };
            let bytes = message(fields);
            let decoded = Notification::decode(&bytes);
            assert_eq!(decoded.is_ok(), verdict == "taken", "{line}: {decoded:?}");
            assert!(["taken", "refused"].contains(&verdict), "{line}");
            if let Ok(notification) = decoded {
                let mut buffer = [0; Notification::LEN_MAX];
                assert_eq!(notification.encode(&mut buffer), bytes, "{line}");
            }
        }
    }
}

/// With `FARWATCH_KERNEL_CASES=FILE` in the environment the header is written to that file.
#[test]
fn the_kernel_patches_have_these_cases() {
    let header = header();
    if let Some(file) = std::env::var_os("FARWATCH_KERNEL_CASES") {
        fs::write(file, &header).unwrap();
    }
    let series = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernel/series");
    for version in fs::read_dir(series).unwrap().map(|entry| entry.unwrap().path()) {
        let patches = fs::read_dir(&version).unwrap().map(|entry| entry.unwrap().path());
        let patched: Vec<_> = patches
            .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
            .filter_map(|path| added(&fs::read_to_string(path).unwrap()))
            .collect();
        assert_eq!(patched, [&header[..]], "{}", version.display());
    }
}

/// What a patch that adds [`HEADER`] has in it.
fn added(patch: &str) -> Option<String> {
    let (_, rest) = patch.split_once(&format!("\n+++ b/{HEADER}\n"))?;
    let lines = rest.lines().skip(1).map_while(|line| line.strip_prefix('+'));
    Some(lines.flat_map(|line| [line, "\n"]).collect())
}

fn case_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no case", folder.display());
    files
}

/// The message that the fields of a line say.
fn message(fields: &str) -> Vec<u8> {
    let field = |name: &str| {
        let mut words = fields.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let number = |name: &str, default: u64| {
        field(name).map_or(default, |text| match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).expect("hexadecimal"),
            None => text.parse().expect("decimal"),
        })
    };
    let name = match (field("name"), number("fill", 0)) {
        (Some(name), _) => unescape(name),
        (None, fill) => vec![b'n'; usize::try_from(fill).expect("small")],
    };
    let there = u64::try_from(name.len()).expect("small");
    let mut bytes = Vec::new();
    for (name, size, default) in [
        ("len", 4, 64 + there),
        ("error", 4, u64::try_from(FUSE_NOTIFY_FSNOTIFY).expect("positive")),
        ("unique", 8, 0),
        ("nodeid", 8, 0),
        ("generation", 4, 0),
        ("reserved", 4, 0),
        ("mask", 8, 0),
        ("namelen", 4, there),
        ("cookie", 4, 0),
        ("flags", 4, 0),
        ("child_generation", 4, 0),
        ("child_nodeid", 8, 0),
    ] {
        bytes.extend_from_slice(&number(name, default).to_le_bytes()[..size]);
    }
    bytes.extend_from_slice(&name);
    let sized = |name| usize::try_from(number(name, 0)).expect("small");
    bytes.truncate(bytes.len() - sized("cut"));
    bytes.resize(bytes.len() + sized("more"), 0);
    bytes
}

fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).expect("two digits"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

/// The cases as C: the name of each file and its lines, without remarks.
fn header() -> String {
    let mut out = "/* SPDX-License-Identifier: GPL-2.0 */\n\
                   /* Generated from the case files that other implementations run, too */\n"
        .to_owned();
    for folder in ["wire", "join"] {
        writeln!(out, "\nstatic const struct fsnotify_case {folder}_cases[] = {{")
            .expect("a string takes everything");
        for path in case_files(folder) {
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            writeln!(out, "\t{{\n\t\t\"{name}\",").expect("a string takes everything");
            let text = fs::read_to_string(&path).expect("readable");
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let line = line.replace('\\', "\\\\").replace('"', "\\\"");
                writeln!(out, "\t\t\"{line}\\n\"").expect("a string takes everything");
            }
            out.push_str("\t},\n");
        }
        out.push_str("};\n");
    }
    out
}
