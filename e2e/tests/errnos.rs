// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which errors a program in the mount meets that looks at what the host is just changing.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use e2e::{Need, trial};
use farwatch_testkit::{Mount, Share};
use inotify::{Inotify, WatchMask};
use rustix::io::Errno;

/// How often each of the names is looked at.
const LOOKS: usize = 200;
/// Of a thousand looks, so many may meet ESTALE. Measured with directories that move all the time: 2 to 4.
const STALE_PER_THOUSAND_MAX: usize = 50;

fn main() -> ExitCode {
    let trials = [
        ("a_listing_ends_when_the_host_deletes_the_directory", listing as fn(&Mount) -> Result<()>),
        (
            "access_to_files_that_the_host_creates_and_deletes_fails_with_enoent_only",
            made_and_deleted,
        ),
    ];
    let on_both = trials.into_iter().flat_map(|(name, test)| {
        [
            trial(&format!("{name}::mounted"), &[Need::Mount], move || test(&Mount::start()?)),
            trial(&format!("{name}::local"), &[], move || test(&Mount::local()?)),
        ]
    });
    let mounted = trial(
        "a_look_at_directories_that_move_in_meets_enoent_or_sometimes_estale",
        &[Need::Mount],
        moved_in,
    );
    e2e::run(on_both.chain([mounted]).collect())
}

/// getdents(2) gives ENOENT for a deleted directory, which readdir(3) takes for the end.
fn listing(mount: &Mount) -> Result<()> {
    let share = mount.share("listing")?;
    for round in 0..20 {
        share.run_on_host("mkdir d; touch d/f")?;
        let mut listed = fs::read_dir(share.mount().join("d"))?;
        listed.next().context("an entry")??;
        share.run_on_host("rm -r d")?;
        let rest = listed.collect::<Result<Vec<_>, _>>();
        let rest = rest.with_context(|| format!("round {round}"))?;
        ensure!(rest.is_empty(), "round {round}: {rest:?}");
    }
    Ok(())
}

/// What each way to look at `path` meets.
fn look(inotify: &Inotify, path: &Path, met: &mut HashMap<Errno, usize>) {
    let watched = || inotify.watches().add(path, WatchMask::ALL_EVENTS).map(drop);
    let listed = || fs::read_dir(path)?.try_for_each(|entry| entry.map(drop));
    let looks: [std::io::Result<()>; 4] =
        [path.metadata().map(drop), fs::File::open(path).map(drop), listed(), watched()];
    for error in looks.into_iter().filter_map(Result::err) {
        *met.entry(Errno::from_io_error(&error).unwrap_or(Errno::IO)).or_default() += 1;
    }
}

/// Looks at each of `names` in turn while the host does one change after another: a change begins with a look.
fn look_meanwhile(
    share: &Share,
    names: &[&str],
    changes: &[&(dyn Fn(&Path) + Sync)],
) -> Result<HashMap<Errno, usize>> {
    let (mut met, inotify) = (HashMap::new(), Inotify::init()?);
    thread::scope(|scope| -> Result<()> {
        let (begin, begun) = sync_channel(0);
        scope.spawn(move || {
            for change in changes.iter().cycle() {
                match begun.recv() {
                    Ok(()) => change(share.host()),
                    Err(_) => break,
                }
            }
        });
        for _ in 0..LOOKS {
            for name in names {
                begin.send(()).context("the host's side has panicked")?;
                look(&inotify, &share.mount().join(name), &mut met);
            }
        }
        drop(begin);
        Ok(())
    })?;
    Ok(met)
}

fn made_and_deleted(mount: &Mount) -> Result<()> {
    let share = mount.share("made")?;
    let changes: [&(dyn Fn(&Path) + Sync); 3] = [
        &|host| fs::create_dir(host.join("d")).expect("nobody else makes it"),
        &|host| fs::write(host.join("d/f"), "x").expect("the directory is there"),
        &|host| fs::remove_dir_all(host.join("d")).expect("nobody else deletes it"),
    ];
    let met = look_meanwhile(&share, &["d", "d/f"], &changes)?;
    // A file that is listed.
    let expected = [Errno::NOENT, Errno::NOTDIR];
    ensure!(met.keys().all(|errno| expected.contains(errno)), "{met:?}");
    ensure!(met.contains_key(&Errno::NOENT), "nothing was ever missing: {met:?}");
    Ok(())
}

fn moved_in() -> Result<()> {
    let mount = Mount::start()?;
    let (share, outside) = (mount.share("moved")?, mount.outside());
    fs::create_dir_all(outside.join("d/s"))?;
    fs::write(outside.join("d/f"), "x")?;
    let names = ["p", "p/f", "p/s", "q", "q/f", "q/s"];
    let moved = |from: &Path, to: &Path| fs::rename(from, to).expect("nobody else moves it");
    let changes: [&(dyn Fn(&Path) + Sync); 3] = [
        &|host| moved(&outside.join("d"), &host.join("p")),
        &|host| moved(&host.join("p"), &host.join("q")),
        &|host| moved(&host.join("q"), &outside.join("d")),
    ];
    let met = look_meanwhile(&share, &names, &changes)?;
    let stale = met.get(&Errno::STALE).copied().unwrap_or(0);
    let others = [Errno::NOENT, Errno::NOTDIR, Errno::STALE];
    ensure!(met.keys().all(|errno| others.contains(errno)), "{met:?}");
    let looks = LOOKS * names.len() * 4;
    ensure!(stale * 1000 <= looks * STALE_PER_THOUSAND_MAX, "{stale} of {looks}: {met:?}");
    Ok(())
}
