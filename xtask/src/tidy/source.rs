// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules for one source file, and for the tree of modules.

use super::File;

/// Lines of code, without blank lines and comments.
const CODE_LINES_MAX: usize = 600;
const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0 OR MIT";

/// Words that must not be in a file, written in two halves so that they are not in this one.
const UNFINISHED: [(&str, &str); 4] =
    [("FIX", "ME"), ("XX", "X"), ("todo", "!("), ("unimplemented", "!(")];
const MACHINES: [(&str, &str); 2] = [("/ro", "ot/"), ("/wo", "rk/")];

const LIBC: &str = concat!("li", "bc::");

pub(super) fn check(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: String| complaints.push(format!("{}: {what}", file.path));
    for (start, end) in MACHINES {
        if file.text.contains(&format!("{start}{end}")) {
            complain(format!("a path of one machine: {start}{end}"));
        }
    }
    if !file.path.ends_with(".rs") {
        return complaints;
    }
    for (start, end) in UNFINISHED {
        if file.text.contains(&format!("{start}{end}")) {
            complain(format!("unfinished: {start}{end}"));
        }
    }
    let mut lines = file.text.lines();
    if lines.next() != Some(LICENCE) {
        complain(format!("the first line must be `{LICENCE}`"));
    }
    if !lines.next().is_some_and(|line| line.starts_with("//! ") || line.starts_with("#![no_main]"))
    {
        complain("no module documentation below the licence".to_owned());
    }
    if file.path.ends_with("/mod.rs") && !file.path.contains("/tests/") {
        complain("foo.rs and foo/, not mod.rs".to_owned());
    }
    if !file.path.starts_with("crates/farwatch-sys/") && has_code(&file.text, LIBC) {
        complain("only farwatch-sys names libc".to_owned());
    }
    if has_code(test_code(file), concat!("sleep", "(")) {
        complain("a test waits for the thing, it does not sleep".to_owned());
    }
    if has_code(test_code(file), concat!("print", "ln!(\"skip")) {
        complain("a test that is skipped calls farwatch_testkit::skip, which counts it".to_owned());
    }
    if is_crate_root(&file.path) && !file.text.contains("#![forbid(unsafe_code)]") {
        complain("a crate without unsafe code forbids it".to_owned());
    }
    let code_lines = file.text.lines().filter(|line| is_code(line)).count();
    if code_lines > CODE_LINES_MAX {
        complain(format!("{code_lines} lines of code, more than {CODE_LINES_MAX}"));
    }
    complaints
}

/// Every file below a `src` must be a module of the file above it, of a module that the root of the crate has in braces, or
/// of a file that includes it by its path.
pub(super) fn check_orphans(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| is_orphan(file, files))
        .map(|f| f.path.clone() + ": orphan")
        .collect()
}

fn is_orphan(file: &File, files: &[File]) -> bool {
    let Some((crate_dir, module)) = file.path.split_once("/src/") else { return false };
    let Some(module) = module.strip_suffix(".rs") else { return false };
    let parents = match module.rsplit_once('/') {
        Some(("bin", _)) => return false,
        Some((parent, _)) => vec![format!("{crate_dir}/src/{parent}.rs")],
        None if ["lib", "main"].contains(&module) => return false,
        None => ["lib", "main"].map(|root| format!("{crate_dir}/src/{root}.rs")).to_vec(),
    };
    let name = module.rsplit('/').next().unwrap_or_default();
    let declaration = format!("mod {name};");
    let in_braces = module.rsplit_once('/').map(|(parent, _)| format!("mod {parent} {{"));
    let roots = ["lib", "main"].map(|root| format!("{crate_dir}/src/{root}.rs"));
    let ends = [format!("/{name}.rs\"]"), format!("\"{name}.rs\"]")];
    let includes = |line: &str| {
        line.trim_start().starts_with("#[path") && ends.iter().any(|end| line.ends_with(end))
    };
    !files.iter().any(|f| {
        let declares = f.text.contains(&declaration);
        let of_root = in_braces.as_ref().is_some_and(|module| f.text.contains(module));
        (declares && parents.contains(&f.path))
            || (declares && of_root && roots.contains(&f.path))
            || (f.path.starts_with(crate_dir) && f.text.lines().any(includes))
    })
}

/// The part of a file that is only compiled for tests.
fn test_code(file: &File) -> &str {
    // A benchmark is none: it leaves the machine time to become idle.
    let is_benchmark = file.path.starts_with("crates/farwatch-testkit/src/bench/");
    let is_of_tests = |dir: &&str| file.path.starts_with(*dir) && !is_benchmark;
    let all_tests = ["e2e/", "crates/farwatch-testkit/"].iter().any(is_of_tests)
        || file.path.contains("/tests/")
        || file.path.ends_with("/tests.rs");
    if all_tests {
        return &file.text;
    }
    file.text.find("#[cfg(test)]\nmod ").map_or("", |start| &file.text[start..])
}

fn is_crate_root(path: &str) -> bool {
    (path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs"))
        && !path.starts_with("crates/farwatch-sys/")
}

fn has_code(text: &str, word: &str) -> bool {
    text.lines().any(|line| is_code(line) && line.contains(word))
}

fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "// SPDX-License-Identifier: Apache-2.0 OR MIT\n//! A module.\n\nfn f() {}\n";

    fn complaints(path: &str, text: &str) -> usize {
        check(&File { path: path.to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(complaints("crates/farwatch/src/a.rs", GOOD), 0);
    }

    #[test]
    fn each_rule_complains_once() {
        let path = "crates/farwatch/src/a.rs";
        for line in [LIBC, "// XX\u{58}", "\"/wo\u{72}k/x\""] {
            assert_eq!(complaints(path, &format!("{GOOD}{line}\n")), 1, "{line}");
        }
        assert_eq!(complaints(path, &GOOD.replacen("// SPDX", "// spdx", 1)), 1);
        assert_eq!(complaints(path, &GOOD.replacen("//! A", "// A", 1)), 1);
        assert_eq!(complaints(path, &format!("{GOOD}{}", "x;\n".repeat(CODE_LINES_MAX))), 1);
        assert_eq!(complaints("crates/farwatch/src/a/mod.rs", GOOD), 1);
        assert_eq!(complaints("crates/farwatch/src/lib.rs", GOOD), 1);
    }

    #[test]
    fn a_test_that_sleeps_is_refused_but_not_the_product() {
        let sleep = concat!("thread::sle", "ep(d);\n");
        assert_eq!(complaints("crates/farwatch/src/a.rs", &format!("{GOOD}{sleep}")), 0);
        let test = format!("{GOOD}#[cfg(test)]\nmod tests {{\n{sleep}}}\n");
        assert_eq!(complaints("crates/farwatch/src/a.rs", &test), 1);
        assert_eq!(complaints("e2e/tests/a.rs", &format!("{GOOD}{sleep}")), 1);
        let benchmark = "crates/farwatch-testkit/src/bench/a.rs";
        assert_eq!(complaints(benchmark, &format!("{GOOD}{sleep}")), 0);
    }

    #[test]
    fn a_test_that_prints_by_itself_that_it_is_skipped_is_reported() {
        let skip = concat!("eprint", "ln!(\"skipped: needs root\");\n");
        assert_eq!(complaints("crates/farwatch/tests/a.rs", &format!("{GOOD}{skip}")), 1);
    }

    #[test]
    fn a_file_that_no_module_names_is_an_orphan() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("crates/x/src/lib.rs", "mod a;\nmod d {\n    mod e;\n}\n"),
            file("crates/x/src/d/e.rs", ""),
            file("crates/x/src/d/f.rs", ""),
            file("crates/x/targets/g.rs", "#[path = \"../src/g.rs\"]\nmod g;\n"),
            file("crates/x/src/g.rs", ""),
            file("crates/x/src/h.rs", ""),
            file("crates/x/src/a.rs", "mod b;\n"),
            file("crates/x/src/a/b.rs", ""),
            file("crates/x/src/a/c.rs", ""),
            file("crates/x/src/bin/tool.rs", ""),
        ];
        let orphans = ["d/f", "h", "a/c"].map(|orphan| format!("crates/x/src/{orphan}.rs: orphan"));
        assert_eq!(check_orphans(&files), orphans);
    }
}
