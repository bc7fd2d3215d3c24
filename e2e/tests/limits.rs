// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the host's kernel sets a limit: what cannot be watched is polled, nothing is silent, and it is said which limit
//! it is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{ExitCode, Output};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use e2e::limited::{as_user_limited, set_limit, start_limited};
use farwatch_testkit::{Mount, PATIENCE, Process, Recorder, Share, render};

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount, Need::UserNamespaces];
        events_past_the_limit_of_inotify_watches_are_delivered_when_sync_returns,
        events_past_the_limit_of_fanotify_marks_are_delivered_when_sync_returns,
        events_past_the_limit_are_delivered_without_a_sync,
        limit_is_reported_by_log_and_status_with_its_value_and_a_command,
        directories_are_watched_as_soon_as_the_limit_is_raised,
        directory_that_had_no_room_is_watched_when_others_are_forgotten,
        sync_says_how_many_directories_can_be_neither_watched_nor_listed,
        nothing_is_leased_in_a_directory_that_is_polled,
        fanotify_is_chosen_where_inotify_cannot_be_had_and_the_log_says_so,
        message_without_an_inotify_instance_names_the_limit_to_raise,
        message_without_a_fanotify_group_names_the_limit_to_raise,
    ])
}

/// More than there is room for.
const DIRS: usize = 30;
const ROOM: usize = 10;
const WATCHES: (&str, &str) = ("max_inotify_watches", "inotify");
const MARKS: (&str, &str) = ("max_fanotify_marks", "fanotify");

/// A share with directories `d0` and so on, each with a file `old`, all of them watched in the mount and some of them on
/// the host.
fn past_the_limit(
    (limit, backend): (&str, &str),
    options: &[&str],
) -> Result<(Mount, Share, Recorder)> {
    let options = [&["--watch", backend], options].concat();
    let served = start_limited((limit, ROOM), &options)?;
    let share = served.share("share")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    for nth in 0..DIRS {
        let dir = share.host().join(format!("d{nth}"));
        fs::create_dir(&dir)?;
        fs::write(dir.join("old"), "")?;
        recorder.watch(Path::new(&format!("d{nth}"))).with_context(|| served.log())?;
    }
    served.sync()?;
    recorder.take_events_now()?;
    Ok((served, share, recorder))
}

/// Something happens in each directory: lines of the recorder that must be there.
fn change(share: &Share, round: usize) -> Result<Vec<String>> {
    let mut expected = Vec::new();
    for nth in 0..DIRS {
        let dir = share.host().join(format!("d{nth}"));
        let (last, old) = (round.wrapping_sub(1), dir.join("old"));
        for name in [format!("a{round}"), format!("b{round}")] {
            fs::write(dir.join(&name), "")?;
            expected.push(format!("CREATE d{nth}/{name}"));
        }
        fs::write(old, round.to_string())?;
        expected.push(format!("MODIFY d{nth}/old"));
        if round > 0 {
            fs::remove_file(dir.join(format!("a{last}")))?;
            expected.push(format!("DELETE d{nth}/a{last}"));
        }
    }
    Ok(expected)
}

fn missing<'a>(told: &str, expected: &'a [String]) -> Vec<&'a str> {
    let told: BTreeSet<&str> = told.lines().map(str::trim).collect();
    expected.iter().map(String::as_str).filter(|line| !told.contains(line)).collect()
}

fn delivered_when_sync_returns(limit: (&str, &str)) -> Result<()> {
    // The interval is too long to be of any help.
    let (served, share, mut recorder) = past_the_limit(limit, &["--poll-interval", "1000"])?;
    for round in 0..3 {
        let expected = change(&share, round)?;
        served.sync().with_context(|| served.log())?;
        let told = render(&recorder.take_events_now()?);
        let missing = missing(&told, &expected);
        ensure!(missing.is_empty(), "round {round}: {missing:?} of\n{told}\n{}", served.log());
        served.sync()?;
        let again = recorder.take_events_now()?;
        ensure!(again.is_empty(), "round {round}, delivered again:\n{}", render(&again));
    }
    Ok(())
}

fn events_past_the_limit_of_inotify_watches_are_delivered_when_sync_returns() -> Result<()> {
    delivered_when_sync_returns(WATCHES)
}

fn events_past_the_limit_of_fanotify_marks_are_delivered_when_sync_returns() -> Result<()> {
    delivered_when_sync_returns(MARKS)
}

fn events_past_the_limit_are_delivered_without_a_sync() -> Result<()> {
    let (_served, share, mut recorder) = past_the_limit(WATCHES, &[])?;
    let expected = change(&share, 0)?;
    recorder
        .wait_until(PATIENCE, |recorder| missing(&render(recorder.events()), &expected).is_empty())
}

fn status(served: &Mount) -> Result<String> {
    let output = served.farwatch()?.args(["status", "--json"]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn limit_is_reported_by_log_and_status_with_its_value_and_a_command() -> Result<()> {
    for (limit, backend) in [WATCHES, MARKS] {
        let (served, ..) = past_the_limit((limit, backend), &[])?;
        let why = format!("user.{limit} is reached, at {ROOM}: `sysctl -w user.{limit}=65536`");
        let log = served.log();
        // Once for all directories; again where the first was forgotten before the next came.
        let said = log.matches("cannot watch a directory").count();
        ensure!((1..=3).contains(&said), "said {said} times:\n{log}");
        ensure!(log.contains(&why) && log.contains("every 1 s"), "{log}");
        let said = status(&served)?;
        ensure!(said.contains(&why) && said.contains("polled every 1 second"), "{said}");
        // There are the root, the directory of this test, and the recorder's beside them.
        let polled = format!("\"unwatched\": {}", DIRS + 3 - ROOM);
        ensure!(said.contains(&polled), "{said}");
    }
    Ok(())
}

fn directories_are_watched_as_soon_as_the_limit_is_raised() -> Result<()> {
    for (limit, backend) in [WATCHES, MARKS] {
        let (mut served, share, mut recorder) = past_the_limit((limit, backend), &[])?;
        set_limit(&mut served, (limit, 1000))?;
        let expected = change(&share, 0)?;
        served.sync()?;
        let told = render(&recorder.take_events_now()?);
        let missing = missing(&told, &expected);
        ensure!(missing.is_empty(), "{missing:?} of\n{told}");
        ensure!(!status(&served)?.contains("cannot be watched"), "{}", status(&served)?);
        last_is_watched(&served, &share, &mut recorder)?;
    }
    Ok(())
}

fn directory_that_had_no_room_is_watched_when_others_are_forgotten() -> Result<()> {
    // The guest's kernel gives up what nobody holds, with that cache at once.
    let options = ["--cache", "never", "--poll-interval", "1000"];
    let (served, share, mut recorder) = past_the_limit(WATCHES, &options)?;
    for nth in 0..DIRS - 1 {
        fs::remove_dir_all(share.host().join(format!("d{nth}")))?;
    }
    let begun = Instant::now();
    while status(&served)?.contains("cannot be watched") {
        ensure!(begun.elapsed() < PATIENCE, "{}", status(&served)?);
        served.sync()?;
    }
    last_is_watched(&served, &share, &mut recorder)
}

/// In the last directory, what comes and goes is told: only a watch sees that.
fn last_is_watched(served: &Mount, share: &Share, recorder: &mut Recorder) -> Result<()> {
    let brief = share.host().join(format!("d{}/brief", DIRS - 1));
    fs::write(&brief, "")?;
    fs::remove_file(brief)?;
    served.sync()?;
    let told = render(&recorder.take_events_now()?);
    ensure!(told.contains("/brief\n"), "{told}");
    Ok(())
}

fn sync(served: &Mount) -> Result<Output> {
    Ok(served.farwatch()?.arg("sync").arg(served.mount_point()).output()?)
}

fn sync_says_how_many_directories_can_be_neither_watched_nor_listed() -> Result<()> {
    const STRANGER: u32 = 65_534;
    for (limit, backend) in [WATCHES, MARKS] {
        let served = start_limited((limit, 1000), &["--watch", backend])?;
        let share = served.share("share")?;
        let secret = share.host().join("secret");
        fs::create_dir(&secret)?;
        let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
        recorder.watch(Path::new("secret"))?;
        ensure!(sync(&served)?.status.success(), "it can be listed");
        fs::create_dir(share.host().join("other"))?;
        chown(share.host().join("other"), Some(STRANGER), Some(STRANGER))?;
        fs::set_permissions(share.host().join("other"), fs::Permissions::from_mode(0o700))?;
        let mut other = Recorder::new(&share, Recorder::CHANGES)?;
        other.watch(Path::new("other"))?;
        let output = sync(&served)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(4), "{}: {said}", output.status);
        ensure!(said.contains("1 directory of") && said.contains("cannot be watched"), "{said}");
        let report = status(&served)?;
        ensure!(report.contains("share/other"), "{report}");
    }
    Ok(())
}

/// How long the mount's kernel may keep a name is seen by what it finds when nobody has told it anything.
fn nothing_is_leased_in_a_directory_that_is_polled() -> Result<()> {
    let options = ["--poll-interval", "1000", "--lease", "1000"];
    let (_served, share, _recorder) = past_the_limit(WATCHES, &options)?;
    let last = format!("d{}/old", DIRS - 1);
    ensure!(fs::read(share.mount().join(&last))?.is_empty(), "it was just made");
    fs::remove_file(share.host().join(&last))?;
    let begun = Instant::now();
    while share.mount().join(&last).exists() {
        ensure!(begun.elapsed() < PATIENCE, "the name is kept");
        std::thread::yield_now();
    }
    Ok(())
}

fn fanotify_is_chosen_where_inotify_cannot_be_had_and_the_log_says_so() -> Result<()> {
    let mut served = start_limited(("max_inotify_instances", 0), &[])?;
    served.device().wait_for_line(|line| {
        line.contains("the host is watched by fanotify, which merges events")
            && line.contains("user.max_inotify_instances is reached, at 0")
    })?;
    let share = served.share("share")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    fs::create_dir(share.host().join("d"))?;
    served.sync()?;
    let told = render(&recorder.take_events_now()?);
    ensure!(told.trim() == "CREATE,ISDIR d", "{told}");
    Ok(())
}

fn refused(limit: &str, backend: &str) -> Result<()> {
    let served = Mount::unmounted()?;
    let options = ["--watch", backend];
    let command = as_user_limited(&served, &served.socket(), (limit, 0), &options)?;
    let mut device = Process::start(command)?;
    let status = device.wait()?;
    let said = device.log().lines().skip(1).collect::<Vec<_>>().join("\n");
    ensure!(status.code() == Some(1) && said.lines().count() == 1, "{status}: {said}");
    let why = format!("user.{limit} is reached, at 0: `sysctl -w user.{limit}=128` raises it");
    ensure!(said.contains(&why), "{said}");
    Ok(())
}

fn message_without_an_inotify_instance_names_the_limit_to_raise() -> Result<()> {
    refused("max_inotify_instances", "inotify")
}

fn message_without_a_fanotify_group_names_the_limit_to_raise() -> Result<()> {
    refused("max_fanotify_groups", "fanotify")
}
