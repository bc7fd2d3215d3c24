// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The documents describe the tree as it is: ARCHITECTURE.md names every crate and room, and every
//! row of docs/SEMANTICS.md, docs/CLIENTS.md and docs/SECURITY.md names tests that exist. docs/SEMANTICS.md has a row for
//! each path on which the scenarios run, with those that are left out there. docs/GLOSSARY.md has its
//! terms in order.

use super::File;

pub(super) fn check(files: &[File]) -> Vec<String> {
    let document = |path: &str| files.iter().find(|file| file.path == path);
    let mut complaints = Vec::new();
    if let Some(architecture) = document("ARCHITECTURE.md") {
        let unnamed = rooms(files).into_iter().filter(|room| !architecture.text.contains(room));
        complaints.extend(unnamed.map(|room| format!("ARCHITECTURE.md does not name {room}")));
    }
    for tested in ["docs/SEMANTICS.md", "docs/CLIENTS.md", "docs/SECURITY.md"]
        .into_iter()
        .filter_map(document)
    {
        complaints.extend(rows(&tested.text).filter_map(|row| check_row(tested, row, files)));
    }
    if let Some(semantics) = document("docs/SEMANTICS.md") {
        complaints.extend(files.iter().filter_map(|file| check_path(semantics, file, files)));
    }
    complaints
}

/// docs/GLOSSARY.md has each term once, in alphabetical order, in a line `- **term**: definition`.
pub(super) fn check_glossary(files: &[File]) -> Vec<String> {
    const PATH: &str = "docs/GLOSSARY.md";
    let Some(glossary) = files.iter().find(|file| file.path == PATH) else {
        return vec![format!("{PATH} is missing")];
    };
    let lines = glossary.text.lines().skip_while(|line| !line.starts_with("- "));
    let mut complaints = Vec::new();
    let mut last = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let entry = line.strip_prefix("- **").and_then(|entry| entry.split_once("**: "));
        let Some((term, _)) = entry.filter(|(_, definition)| !definition.trim().is_empty()) else {
            complaints.push(format!("{PATH}: not of the form `- **term**: definition`: {line}"));
            continue;
        };
        let term = term.to_lowercase();
        if term <= last {
            complaints.push(format!("{PATH}: {term} must come before {last}, and once"));
        }
        last = term;
    }
    if last.is_empty() {
        complaints.push(format!("{PATH} has no term"));
    }
    complaints
}

/// The crates, and the rooms of the product: the directories in its crates' `src`.
fn rooms(files: &[File]) -> Vec<&str> {
    let mut rooms: Vec<&str> = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let Some((crate_dir, inside)) = file.path.split_once("/src/") else { continue };
        rooms.extend(crate_dir.rsplit('/').next());
        let is_product = crate_dir.starts_with("crates/") && !crate_dir.ends_with("-testkit");
        let room = inside.split_once('/').map(|(room, _)| room);
        rooms.extend(room.filter(|room| is_product && *room != "bin"));
    }
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// The rows of all tables, without their heads.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with('|') && line.contains("---");
    let head: Vec<bool> = (0..lines.len())
        .map(|at| is_rule(lines[at]) || lines.get(at + 1).is_some_and(|next| is_rule(next)))
        .collect();
    lines
        .into_iter()
        .zip(head)
        .filter(|(line, head)| line.starts_with('|') && !head)
        .map(|(l, _)| l)
}

/// The last cell of a row names its tests in backquotes: functions, scenario files, or test programs.
fn check_row(document: &File, row: &str, files: &[File]) -> Option<String> {
    let path = &document.path;
    let cell = row.trim().trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return Some(format!("{path}: no test in {row}"));
    }
    let missing = names.into_iter().find(|name| !exists(name, files))?;
    Some(format!("{path}: there is no test {missing}"))
}

/// A test that runs the scenarios is named in a row, which also names those that it leaves out.
fn check_path(semantics: &File, file: &File, files: &[File]) -> Option<String> {
    let name = file.path.strip_prefix("e2e/tests/")?.strip_suffix(".rs")?;
    let runs_every = file.text.contains("e2e::run_every_scenario");
    if !runs_every && !file.text.contains("e2e::run_scenarios") {
        return None;
    }
    let quoted = |name: &str| format!("`{name}`");
    let Some(row) = rows(&semantics.text).find(|row| row.contains(&quoted(name))) else {
        return Some(format!("docs/SEMANTICS.md has no row for the path of {}", file.path));
    };
    if runs_every {
        return None;
    }
    let harness = files.iter().find(|file| file.path == "e2e/src/lib.rs");
    let mut lines = harness.into_iter().flat_map(|harness| harness.text.lines());
    let Some(different) = lines.find(|line| line.starts_with("const DIFFERENT")) else {
        return Some("e2e/src/lib.rs: what is left out is not in one line, const DIFFERENT".into());
    };
    let mut left_out = different.split('"').skip(1).step_by(2);
    let untold = left_out.find(|scenario| !row.contains(&quoted(scenario)))?;
    Some(format!("docs/SEMANTICS.md does not say that {} leaves out {untold}", file.path))
}

fn exists(test: &str, files: &[File]) -> bool {
    let name = test.rsplit("::").next().unwrap_or(test).trim_end_matches(".txt");
    let scenario = format!("/{name}.txt");
    let function = format!("fn {name}(");
    let named = format!("\"{name}\"");
    // A line of `families!`.
    let family = format!("\n    {name}:");
    let program = format!("e2e/tests/{name}.rs");
    files.iter().any(|file| {
        file.path.ends_with(&scenario)
            || file.path == program
            || (file.path.ends_with("/tests/world.rs") && file.text.contains(&family))
            || (file.path.ends_with(".rs")
                && (file.text.contains(&function) || file.text.contains(&named)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_room_that_the_architecture_does_not_name_is_reported() {
        let files = [
            file("ARCHITECTURE.md", "farwatch has `watch`"),
            file("crates/farwatch/src/watch/fanotify.rs", ""),
            file("crates/farwatch/src/deliver/queue.rs", ""),
        ];
        assert_eq!(check(&files), ["ARCHITECTURE.md does not name deliver"]);
    }

    #[test]
    fn a_row_must_name_a_test_that_exists() {
        let semantics = "| what | test |\n|---|---|\n| a | `it_works` |\n| b | `rename` |\n\
            | c | `gone` |\n| d | |\n";
        let files = [
            file("docs/SEMANTICS.md", semantics),
            file("docs/CLIENTS.md", "| client | test |\n|---|---|\n| vim | `runs_on_mars` |\n"),
            file("e2e/scenarios/rename.txt", ""),
            file("crates/farwatch/src/a.rs", "fn it_works() {}"),
        ];
        assert_eq!(
            check(&files),
            [
                "docs/SEMANTICS.md: there is no test gone",
                "docs/SEMANTICS.md: no test in | d | |",
                "docs/CLIENTS.md: there is no test runs_on_mars",
            ]
        );
    }

    #[test]
    fn the_terms_of_the_glossary_must_be_sorted_unique_and_on_one_line_each() {
        let check = |text: &str| check_glossary(&[file("docs/GLOSSARY.md", text)]).len();
        assert_eq!(check("# Glossary\n\nWords.\n\n- **Agent**: a.\n- **backlog**: b.\n"), 0);
        assert_eq!(check("- **backlog**: b.\n- **Agent**: a.\n"), 1);
        assert_eq!(check("- **agent**: a.\n- **agent**: b.\n"), 1);
        assert_eq!(check("- **agent**: a,\n  and more.\n"), 1);
        assert_eq!(check("- **agent**: \n- **backlog**: b.\n"), 1);
        assert_eq!(check("# Glossary\n"), 1);
        assert_eq!(check_glossary(&[]), ["docs/GLOSSARY.md is missing"]);
    }

    #[test]
    fn each_path_has_a_row_with_what_it_leaves_out() {
        let semantics = "| path | left out | tests |\n|---|---|---|\n| VM | | `vm` |\n\
            | inotify | `told` | `inotify` |\n";
        let left_out = "const DIFFERENT: [&str; 2] = [\"told\", \"untold\"];\n";
        let files = [
            file("docs/SEMANTICS.md", semantics),
            file("e2e/src/lib.rs", left_out),
            file("e2e/scenarios/told.txt", ""),
            file("e2e/tests/vm.rs", "e2e::run_every_scenario(&[]"),
            file("e2e/tests/agent.rs", "e2e::run_scenarios(&[]"),
            file("e2e/tests/inotify.rs", "e2e::run_scenarios_in_one_process(&[]"),
        ];
        assert_eq!(
            check(&files),
            [
                "docs/SEMANTICS.md has no row for the path of e2e/tests/agent.rs",
                "docs/SEMANTICS.md does not say that e2e/tests/inotify.rs leaves out untold",
            ]
        );
    }
}
