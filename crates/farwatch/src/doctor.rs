// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch doctor`: what farwatch can do with this kernel, as this user, in this directory; and of a mount, whether
//! changes on the host become events in it (`chain`).
//!
//! It looks (`probe`), judges (`judge`) and prints; it repairs nothing
//! and leaves nothing behind. The command line calls [`run`]; `serve` has what concerns its directory in
//! its log.

mod chain;
mod facts;
mod judge;
mod probe;

use std::io;
use std::path::Path;

use crate::limits::Values;

/// How good one thing is, or the worst of all. Only [`Verdict::Missing`] is a failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// farwatch works, but not with everything or not for everyone.
    Limited,
    /// `farwatch mount` cannot work without it.
    Missing,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// One line of the report.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    /// What is so, and what follows from it.
    meaning: String,
    /// What to do about it.
    remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, meaning: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Ok, meaning: meaning.into(), remedy: None }
    }

    fn limited(subject: &'static str, meaning: impl Into<String>) -> Self {
        Self { verdict: Verdict::Limited, ..Self::ok(subject, meaning) }
    }

    fn missing(subject: &'static str, meaning: impl Into<String>) -> Self {
        Self { verdict: Verdict::Missing, ..Self::ok(subject, meaning) }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// Looks at kernel, user and limits, and at `path` if there is one: at a mount of farwatch, or at a directory to be shared.
/// Writes what it finds to `out` and returns the worst of it.
///
/// Nothing is written into a directory to be shared. On the host's side of a mount, which is `shared` if that is given, a
/// directory is made and removed.
///
/// # Errors
/// When `out` cannot be written to. What cannot be looked at is part of the report.
pub fn run(
    path: Option<&Path>,
    shared: Option<&Path>,
    out: &mut impl io::Write,
) -> io::Result<Verdict> {
    let mount = path.and_then(|path| chain::findings(path, shared));
    let (findings, [ok, limited, missing]) = match mount {
        Some(findings) => (findings, OF_A_MOUNT),
        None => (judge::findings(&probe::facts(path)), OF_A_DIRECTORY),
    };
    let verdict = report(&findings, out)?;
    let summary = match verdict {
        Verdict::Ok => ok,
        Verdict::Limited => limited,
        Verdict::Missing => missing,
    };
    writeln!(out, "\n{summary}")?;
    Ok(verdict)
}

/// The last line of a report on a mount, by its verdict.
const OF_A_MOUNT: [&str; 3] = [
    "Changes on the host are events in this mount.",
    "Changes on the host are events in this mount, within the limits above.",
    "Changes on the host are not events in this mount: see what is missing above.",
];
/// The same on a directory to be shared, or on none.
const OF_A_DIRECTORY: [&str; 3] = [
    "farwatch has all it needs here.",
    "farwatch works here, within the limits above.",
    "`farwatch mount` cannot work here: see what is missing above.",
];

/// What [`run`] would complain about in `dir`, which is about to be shared: a sentence each.
pub(crate) fn complaints(dir: &Path) -> Vec<String> {
    sentences(&judge::shared_dir(&probe::shared_dir(dir), &Values::read()))
}

fn sentences(findings: &[Finding]) -> Vec<String> {
    let complaints = findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
    let sentence = |Finding { subject, meaning, remedy, .. }: &Finding| match remedy {
        Some(remedy) => format!("{subject}: {meaning} ({remedy})"),
        None => format!("{subject}: {meaning}"),
    };
    complaints.map(sentence).collect()
}

fn report(findings: &[Finding], out: &mut impl io::Write) -> io::Result<Verdict> {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or_default();
    for Finding { subject, verdict, meaning, remedy } in findings {
        writeln!(out, "{:<8} {subject:<width$}  {meaning}", verdict.word())?;
        if let Some(remedy) = remedy {
            writeln!(out, "{:<8} {:<width$}  -> {remedy}", "", "")?;
        }
    }
    Ok(findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_the_worst_verdict_is_the_result() {
        let findings = [
            Finding::ok("kernel", "6.12"),
            Finding::missing("/dev/fuse", "no such device").remedy("modprobe fuse"),
            Finding::limited("CAP_MKNOD", "no device nodes"),
        ];
        let mut out = Vec::new();
        assert_eq!(report(&findings, &mut out).unwrap(), Verdict::Missing);
        let expected = "\
ok       kernel     6.12
missing  /dev/fuse  no such device
                    -> modprobe fuse
limited  CAP_MKNOD  no device nodes
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_complaint_is_a_sentence_with_what_to_do_and_what_is_good_is_none() {
        let findings = [
            Finding::limited("file system", "9p: half of it").remedy("all of it"),
            Finding::ok("file handles", "there are"),
            Finding::missing("watching", "cannot be"),
        ];
        let expected = ["file system: 9p: half of it (all of it)", "watching: cannot be"];
        assert_eq!(sentences(&findings), expected);
    }

    #[test]
    fn a_directory_to_be_shared_is_looked_at_and_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let before = dir.path().metadata().unwrap().modified().unwrap();
        let mut out = Vec::new();
        run(Some(dir.path()), None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("file system"), "{text}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert_eq!(dir.path().metadata().unwrap().modified().unwrap(), before);
    }
}
