// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What programs in the mount do themselves is told once, by their own kernel: the host side sees it
//! too, and must not send it back. Every trial runs with each way to watch the host, and with an agent.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use farwatch_testkit::{Event, Kind, Mount, PATIENCE, Recorder, Share, merge_allowed, render};

const STEPS: [&str; 14] = [
    "mkdir d",
    "echo one > d/f",
    "echo two >> d/f",
    "truncate -s 3 d/f",
    "fallocate -l 9000 d/f",
    "cp d/f d/copy && rm d/copy",
    "touch d/f d",
    "chmod 600 d/f && chown 1:1 d/f && chmod 700 d",
    "ln -s f d/l && mkfifo d/p && rm d/l d/p",
    "ln d/f g",
    "mv d/f f",
    "mv d e",
    "rm f g",
    "rmdir e",
];

fn main() -> ExitCode {
    e2e::run_on_each_path(&[
        ("change_by_a_program_in_the_mount_is_reported_once_and_as_locally", as_locally),
        ("changes_on_both_sides_are_reported_once_each", once_each),
        ("names_created_on_both_sides_at_once_are_reported_once_each", names_at_once),
        ("file_written_on_both_sides_at_once_has_an_event_after_its_last_write", written_at_once),
    ])
}

fn as_locally(mount: &Mount) -> Result<()> {
    let local = told(&mount.local_twin("own")?)?;
    let mounted = told(&mount.share("own")?)?;
    for ((step, local), mounted) in STEPS.iter().zip(&local).zip(&mounted) {
        ensure!(
            merge_allowed(local) == merge_allowed(mounted),
            "{step}\n  local:\n{}  mounted:\n{}",
            render(local),
            render(mounted)
        );
    }
    Ok(())
}

/// The events of each step, which runs in the mount.
fn told(share: &Share) -> Result<Vec<Vec<Event>>> {
    let mut recorder = Recorder::new(share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch_recursively(Path::new("."))?;
    STEPS
        .iter()
        .map(|step| {
            share.run_in_mount(step)?;
            recorder.barrier()?;
            Ok(recorder.take_events())
        })
        .collect()
}

fn once_each(mount: &Mount) -> Result<()> {
    let share = mount.share("both")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch(Path::new("."))?;
    for round in 0..20 {
        share.run_on_host(&format!("mkdir host{round}"))?;
        share.run_in_mount(&format!("mkdir mount{round}"))?;
    }
    recorder.barrier()?;
    let mut told: Vec<String> = recorder.take_events().iter().map(Event::to_string).collect();
    told.sort();
    let mut wanted: Vec<String> = (0..20)
        .flat_map(|round| ["host", "mount"].map(|side| format!("CREATE,ISDIR {side}{round}")))
        .collect();
    wanted.sort();
    ensure!(told == wanted, "{told:?}");
    Ok(())
}

/// Two programs at a time, one on each side.
fn at_once(
    share: &Share,
    host: impl FnOnce(&Path) -> Result<()> + Send,
    inside: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let host = scope.spawn(|| host(share.host()));
        inside(share.mount())?;
        host.join().map_err(|_| anyhow!("the host's side has panicked"))?
    })
}

fn names_at_once(mount: &Mount) -> Result<()> {
    const ROUNDS: usize = 300;
    let share = mount.share("names")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch(Path::new("."))?;
    let churn = |side: &'static str| {
        move |dir: &Path| -> Result<()> {
            for round in 0..ROUNDS {
                let path = |stage: &str| dir.join(format!("{side}-{stage}{round}"));
                fs::create_dir(path("new"))?;
                fs::rename(path("new"), path("moved"))?;
                fs::remove_dir(path("moved"))?;
            }
            Ok(())
        }
    };
    at_once(&share, churn("host"), churn("mount"))?;
    recorder.barrier()?;
    let mut told = BTreeMap::<(Kind, String), usize>::new();
    for event in recorder.take_events() {
        *told.entry((event.kind, event.object)).or_default() += 1;
    }
    for round in 0..ROUNDS {
        for side in ["host", "mount"] {
            for (kind, stage) in [
                (Kind::Create, "new"),
                (Kind::MovedFrom, "new"),
                (Kind::MovedTo, "moved"),
                (Kind::Delete, "moved"),
            ] {
                let object = format!("{side}-{stage}{round}");
                let times = told.remove(&(kind, object.clone())).unwrap_or(0);
                ensure!(times == 1, "{kind:?} {object} was told {times} times");
            }
        }
    }
    ensure!(told.is_empty(), "told as well: {told:?}");
    Ok(())
}

/// Who looks whenever it is told of a change has seen the last one.
fn written_at_once(mount: &Mount) -> Result<()> {
    const ROUNDS: usize = 100;
    const BURST: usize = 20;
    let share = mount.share("written")?;
    fs::write(share.host().join("f"), "")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch(Path::new("f"))?;
    let append = |dir: &Path| -> Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(dir.join("f"))?;
        Ok(file.write_all(b"x")?)
    };
    for round in 1..=ROUNDS {
        // The mount is the first to write and the host the last, at most a few moments apart.
        let (written, first) = mpsc::channel();
        let after = move |dir: &Path| -> Result<()> {
            first.recv()?;
            append(dir)
        };
        at_once(&share, after, |dir| {
            for _ in 0..BURST {
                append(dir)?;
            }
            Ok(written.send(())?)
        })?;
        let (file, wanted) = (share.mount().join("f"), u64::try_from(round * (BURST + 1))?);
        let mut seen = 0;
        recorder
            .wait_until(PATIENCE, |recorder| {
                if recorder.events().iter().any(|event| event.kind == Kind::Modify) {
                    seen = fs::metadata(&file).map_or(0, |metadata| metadata.len());
                }
                seen == wanted
            })
            .with_context(|| format!("round {round}: {seen} bytes were seen last, of {wanted}"))?;
        recorder.barrier()?;
        recorder.take_events();
    }
    Ok(())
}
