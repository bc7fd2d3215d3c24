// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The links between the documents: each leads to a file of the repository, and to a heading that is in it. A source file
//! that is named by its path exists. docs/SUMMARY.md, the contents of the site, has every page.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

use super::File;

/// The contents of the site.
pub(crate) const SUMMARY: &str = "docs/SUMMARY.md";
/// The page that `cargo xtask docs` makes.
pub(crate) const GENERATED: &str = "docs/COMMANDS.md";
/// The endings of files that a document may name by path.
const NAMED: [&str; 5] = [".rs", ".md", ".sh", ".toml", ".txt"];

/// A link of a document.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// The path that it leads to, from the root of the repository.
    pub(crate) path: String,
    /// The heading in there.
    anchor: Option<String>,
}

pub(crate) fn check(files: &[File]) -> Vec<String> {
    let documents: Vec<&File> = files.iter().filter(|file| is_document(&file.path)).collect();
    let mut complaints = Vec::new();
    for document in &documents {
        let broken = links(document).filter_map(|link| check_link(&link, files));
        complaints.extend(broken.map(|what| format!("{}: {what}", document.path)));
        let missing = named(document).into_iter().filter(|path| !exists(path, files));
        complaints.extend(missing.map(|path| format!("{}: there is no {path}", document.path)));
    }
    if let Some(summary) = documents.iter().find(|document| document.path == SUMMARY) {
        let listed: Vec<String> = links(summary).map(|link| link.path).collect();
        let unlisted =
            documents.iter().filter(|page| page.path != SUMMARY && !listed.contains(&page.path));
        complaints.extend(unlisted.map(|page| format!("{SUMMARY} does not list {}", page.path)));
    }
    complaints
}

/// The pages of the site: the documents in the root and in `docs`.
pub(crate) fn is_document(path: &str) -> bool {
    path.ends_with(".md") && (!path.contains('/') || path.starts_with("docs/"))
}

/// The links to files, without those to other hosts.
pub(crate) fn links(document: &File) -> impl Iterator<Item = Link> {
    let target = |event| {
        let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = event else {
            return None;
        };
        Some(dest_url)
    };
    Parser::new(&document.text).filter_map(target).filter_map(|url| resolve(&document.path, &url))
}

/// What `url` in the document `from` leads to; none of another host.
fn resolve(from: &str, url: &str) -> Option<Link> {
    if url.contains("://") || url.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = match url.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (url, None),
    };
    if path.is_empty() {
        return Some(Link { path: from.to_owned(), anchor });
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    Some(Link { path: parts.join("/"), anchor })
}

fn check_link(link: &Link, files: &[File]) -> Option<String> {
    let Link { path, anchor } = link;
    if path == GENERATED {
        return None;
    }
    let Some(target) = files.iter().find(|file| file.path == *path) else {
        return Some(format!("a link to {path}, which is no file"));
    };
    let anchor = anchor.as_ref()?;
    let is_missing = !headings(&target.text).contains(anchor);
    is_missing.then(|| format!("a link to {path}#{anchor}, which is no heading"))
}

/// The anchors that the headings of a document get: letters and digits in lower case, hyphens for blanks. Headings of one
/// text get numbers.
fn headings(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    let mut heading: Option<String> = None;
    for event in Parser::new(text) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
            (Event::Text(part) | Event::Code(part), Some(text)) => text.push_str(&part),
            (Event::End(TagEnd::Heading(_)), _) => {
                let plain = heading.take().unwrap_or_default();
                let same = anchors.iter().filter(|anchor| **anchor == slug(&plain)).count();
                let numbered = format!("{}-{same}", slug(&plain));
                anchors.push(if same == 0 { slug(&plain) } else { numbered });
            }
            _ => {}
        }
    }
    anchors
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

/// The paths of source files that a document has in backquotes: `share/source.rs`.
fn named(document: &File) -> Vec<String> {
    let code = Parser::new(&document.text).filter_map(|event| {
        let Event::Code(code) = event else { return None };
        Some(code.into_string())
    });
    code.filter(|code| is_path(code)).collect()
}

fn is_path(code: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    // A part in capitals stands for a name that the reader chooses.
    let stem = |part: &str| part.split('.').next().unwrap_or_default().to_owned();
    let is_placeholder =
        |part: &str| part.ends_with(".rs") && stem(part).chars().all(char::is_uppercase);
    let has_placeholder = code.split('/').any(is_placeholder);
    code.contains('/')
        && !code.starts_with("target/")
        && code.chars().all(is_plain)
        && NAMED.iter().any(|ending| code.ends_with(ending))
        && !has_placeholder
}

/// Whether a path, or the end of one, is that of a file.
fn exists(path: &str, files: &[File]) -> bool {
    let end = format!("/{path}");
    path == GENERATED || files.iter().any(|file| file.path == path || file.path.ends_with(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_link_to_a_missing_file_or_heading_is_reported() {
        let text = "# A\n[a](B.md#two-words) [b](B.md#three) [c](gone.md) [d](../README.md)\n\
            [e](https://example.org/x) [f](#a) [g](#b) `[h](gone.md)`\n";
        let files =
            [file("README.md", ""), file("docs/A.md", text), file("docs/B.md", "## Two, `words`!")];
        assert_eq!(
            check(&files),
            [
                "docs/A.md: a link to docs/B.md#three, which is no heading",
                "docs/A.md: a link to docs/gone.md, which is no file",
                "docs/A.md: a link to docs/A.md#b, which is no heading",
            ]
        );
    }

    #[test]
    fn headings_of_one_text_get_numbers() {
        assert_eq!(headings("# A b\n## A b\n## S1: c\n"), ["a-b", "a-b-1", "s1-c"]);
    }

    #[test]
    fn a_named_source_file_must_exist() {
        let text = "`watch/look.rs` `watch/gone.rs` `watch/NAME.rs` `a/b` `cp a/b.rs c`";
        let files = [file("docs/A.md", text), file("crates/farwatch/src/watch/look.rs", "")];
        assert_eq!(check(&files), ["docs/A.md: there is no watch/gone.rs"]);
    }

    #[test]
    fn a_page_that_the_contents_do_not_list_is_reported() {
        let files = [file(SUMMARY, "- [A](A.md)\n"), file("docs/A.md", ""), file("docs/B.md", "")];
        assert_eq!(check(&files), ["docs/SUMMARY.md does not list docs/B.md"]);
    }
}
