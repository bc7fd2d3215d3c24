// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch status`, `farwatch watch` and `farwatch top`: what the processes on this machine say of themselves, for
//! people. `monitor` asks them; here it is judged (`judge`) and shown (`text`, `follow`, `top`).

mod follow;
mod judge;
mod text;
mod top;

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use farwatch_guest::seconds;
use serde_json::json;

pub(crate) use self::judge::{Finding, Severity};
use crate::monitor::client::{self, Found};
use crate::monitor::protocol::{Report, VERSION};
use crate::options::StatusArgs;
pub(crate) use follow::run as watch;
pub(crate) use top::run as top;

/// What `farwatch status` has found, which is its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Something runs, and nothing is wrong.
    Healthy,
    /// Something is wrong.
    Wrong,
    /// Nothing runs that this user can look at.
    Nothing,
}

/// Everything that is wrong with a share, the worst first.
pub(crate) fn complaints(report: &Report) -> Vec<Finding> {
    judge::findings(report)
}

/// Prints what runs on this machine.
///
/// # Errors
/// Those of writing to `out`.
pub(crate) fn run(args: &StatusArgs, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let mut found = client::find();
    if let Some(path) = &args.path {
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        let nearest = nearest(found.reports.iter().map(|(_, report)| report), &path);
        let pid = nearest.map(|(report, _)| report.pid);
        found.reports.retain(|(_, report)| Some(report.pid) == pid);
        found.silent.clear();
    }
    let now = seconds(SystemTime::now());
    let text = if args.json { to_json(&found) } else { to_text(&found, now) };
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")?;
    Ok(outcome(&found))
}

fn outcome(found: &Found) -> Outcome {
    let mut findings = found.reports.iter().flat_map(|(_, report)| judge::findings(report));
    if found.reports.is_empty() && found.silent.is_empty() {
        Outcome::Nothing
    } else if !found.silent.is_empty()
        || findings.any(|finding| finding.severity == Severity::Problem)
    {
        Outcome::Wrong
    } else {
        Outcome::Healthy
    }
}

fn to_text(found: &Found, now: f64) -> String {
    let mut parts: Vec<String> = found
        .reports
        .iter()
        .map(|(_, report)| text::share(report, &judge::findings(report), now))
        .collect();
    for (socket, error) in &found.silent {
        let line = format!("PROBLEM: {} does not answer: {error}", socket.display());
        parts.push(text::printable(&line) + "\n");
    }
    if parts.is_empty() {
        parts.push("no farwatch runs that you can look at\n".to_owned());
    }
    if found.others > 0 {
        parts.push(format!("{} of other users: run this as root to see them\n", found.others));
    }
    parts.join("\n").trim_end().to_owned()
}

fn to_json(found: &Found) -> String {
    let shares = found.reports.iter().map(|(socket, report)| {
        let findings: Vec<Finding> = judge::findings(report);
        let mut share = json!(report);
        share["findings"] = json!(findings);
        share["status_socket"] = json!(socket.to_string_lossy());
        share
    });
    let silent = found.silent.iter().map(
        |(socket, error)| json!({ "status_socket": socket.to_string_lossy(), "error": error }),
    );
    let all = json!({
        "version": VERSION,
        "shares": shares.collect::<Vec<_>>(),
        "silent": silent.collect::<Vec<_>>(),
        "others": found.others,
    });
    format!("{all:#}")
}

/// The share that a path is in, on the host's side or in its mount, and where in the share. Of several, one in
/// another, the innermost.
fn nearest<'a>(
    reports: impl Iterator<Item = &'a Report>,
    path: &Path,
) -> Option<(&'a Report, &'a Path)> {
    let places = reports.flat_map(|report| {
        let mount = report.mount.as_ref().map(|mount| Path::new(&mount.mount_point));
        let shared = report.share.as_ref().map(|share| Path::new(&share.shared_dir));
        mount.into_iter().chain(shared).map(move |root| (report, root))
    });
    let around = places.filter(|(_, root)| path.starts_with(root));
    around.max_by_key(|(_, root)| root.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::tests::{mount, report};

    fn found(reports: Vec<Report>) -> Found {
        let reports = reports.into_iter().map(|report| ("/s".into(), report)).collect();
        Found { reports, ..Found::default() }
    }

    #[test]
    fn outcome_is_the_worst_of_all_shares() {
        assert_eq!(outcome(&found(vec![])), Outcome::Nothing);
        assert_eq!(outcome(&found(vec![report()])), Outcome::Healthy);
        let mut unused = report();
        unused.share.as_mut().unwrap().driver_since = None;
        assert_eq!(outcome(&found(vec![unused])), Outcome::Healthy, "a note is no problem");
        assert_eq!(outcome(&found(vec![report(), mount(Some(1))])), Outcome::Wrong);
        let silent = vec![("/s".into(), "why".to_owned())];
        assert_eq!(outcome(&Found { silent, ..Found::default() }), Outcome::Wrong);
    }

    #[test]
    fn path_is_in_the_innermost_share_around_it() {
        let (mut inner, outer) = (report(), report());
        inner.share.as_mut().unwrap().shared_dir = "/home/me/src/deep".to_owned();
        let mut mounted = mount(Some(1));
        mounted.pid = 77;
        let all = [outer, inner, mounted];
        let root = |path: &str| {
            nearest(all.iter(), Path::new(path)).map(|(_, root)| root.to_str().unwrap())
        };
        assert_eq!(root("/home/me/src/a"), Some("/home/me/src"));
        assert_eq!(root("/home/me/src/deep/a"), Some("/home/me/src/deep"));
        assert_eq!(root("/home/me/srcs"), None);
        assert_eq!(root("/mnt/src"), Some("/mnt/src"));
    }

    #[test]
    fn without_shares_of_ones_own_those_of_other_users_are_counted() {
        let found = Found { others: 2, ..Found::default() };
        assert_eq!(
            to_text(&found, 0.0),
            "no farwatch runs that you can look at\n\n2 of other users: run this as root to see them"
        );
    }

    #[test]
    fn json_has_each_share_with_its_findings() {
        let all: serde_json::Value =
            serde_json::from_str(&to_json(&found(vec![report(), mount(Some(1))]))).unwrap();
        assert_eq!(all["version"], 1);
        assert_eq!(all["shares"][0]["share"]["events"]["sent"], 1234);
        assert_eq!(all["shares"][0]["findings"], json!([]));
        assert_eq!(all["shares"][1]["findings"][0]["severity"], "problem");
    }
}
