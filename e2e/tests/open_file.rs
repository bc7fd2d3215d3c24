// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program in the mount that has had a file open, or mapped, since before it was changed: the
//! pages that its kernel keeps of the old content must be gone when the event comes. The new content
//! has the length of the old one, so that nothing but the event tells them apart. And one that has a file in another
//! way than by its name, when the host deletes or replaces it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::{Need, trial};
use farwatch_testkit::{Kind, Mount, PATIENCE, Recorder, Share};
use libtest_mimic::Trial;
use rustix::fs::{Mode, OFlags, getxattr, open};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

const ROUNDS: u8 = 30;
/// More than one page.
const LEN: usize = 10_000;

/// Maps `f` and answers each line with the first, a middle and the last byte.
const MAPPED_READER: &str = "
import mmap, sys
with open('f', 'rb') as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for line in sys.stdin:
    print(mapping[0], mapping[len(mapping) // 2], mapping[-1], flush=True)
";

type Promise = fn(&Mount) -> Result<()>;

fn main() -> ExitCode {
    // Where something is mounted on a file.
    e2e::enter_own_mount_namespace();
    let promises: [(&str, Option<Need>, Promise); 4] = [
        (
            "a_write_by_name_goes_to_the_file_that_the_host_has_just_put_there",
            None,
            written_after_the_replacement,
        ),
        ("a_program_with_the_file_open_reads_the_new_content", None, open_before_the_write),
        (
            "a_program_with_the_file_mapped_sees_the_new_content",
            Some(Need::Python),
            mapped_before_the_write,
        ),
        (
            "the_watch_of_a_deleted_file_ends_when_the_last_program_closes_it",
            None,
            closed_after_the_delete,
        ),
    ];
    let mut trials: Vec<_> = promises.into_iter().flat_map(on_both).collect();
    trials.push(trial(
        "with_a_descriptor_for_each_file_one_that_is_mounted_alone_outlives_its_deletion",
        &[Need::Mount],
        || deleted_while_mounted_alone(&Mount::start_with(&["--inode-file-handles", "never"])?),
    ));
    trials.push(trial(
        "a_deleted_file_whose_inode_number_is_used_again_gives_no_enomem",
        &[Need::Mount],
        || reused_while_open(&Mount::start()?),
    ));
    e2e::run(trials)
}

fn on_both((name, need, promise): (&str, Option<Need>, Promise)) -> [Trial; 2] {
    let local: Vec<Need> = need.into_iter().collect();
    let mounted: Vec<Need> = need.into_iter().chain([Need::Mount]).collect();
    [
        trial(&format!("{name}::mounted"), &mounted, move || promise(&Mount::start()?)),
        trial(&format!("{name}::local"), &local, move || promise(&Mount::local()?)),
    ]
}

/// A file full of zeros, watched in the mount.
fn watched_file(mount: &Mount) -> Result<(Share, Recorder)> {
    let share = mount.share("file")?;
    fs::write(share.host().join("f"), [0; LEN])?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    // Otherwise the events of this first write could be taken for those of the next.
    recorder.barrier()?;
    recorder.watch(Path::new("f"))?;
    Ok((share, recorder))
}

fn told(recorder: &mut Recorder, kind: Kind) -> Result<()> {
    recorder.wait_until(PATIENCE, |recorder| {
        recorder.events().iter().any(|event| event.kind == kind)
    })?;
    recorder.take_events();
    Ok(())
}

/// The writer keeps its file open too: MODIFY alone must do.
fn open_before_the_write(mount: &Mount) -> Result<()> {
    let (share, mut recorder) = watched_file(mount)?;
    let reader = fs::File::open(share.mount().join("f"))?;
    let writer = fs::OpenOptions::new().write(true).open(share.host().join("f"))?;
    let mut content = vec![0; LEN];
    for round in 1..=ROUNDS {
        reader.read_exact_at(&mut content, 0)?;
        ensure!(content == [round - 1; LEN], "old content in round {round}");
        writer.write_all_at(&[round; LEN], 0)?;
        told(&mut recorder, Kind::Modify)?;
        reader.read_exact_at(&mut content, 0)?;
        ensure!(content == [round; LEN], "stale content in round {round}");
    }
    Ok(())
}

/// Nothing asks the server when a mapped page is read. What drops it is the close of the writer.
fn mapped_before_the_write(mount: &Mount) -> Result<()> {
    let (share, mut recorder) = watched_file(mount)?;
    let mut python = Command::new("python3");
    python.args(["-c", MAPPED_READER]).current_dir(share.mount());
    let mut reader = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut ask = reader.stdin.take().context("no stdin")?;
    let mut answers = BufReader::new(reader.stdout.take().context("no stdout")?).lines();
    let mut bytes = || -> Result<String> {
        ask.write_all(b"\n")?;
        Ok(answers.next().context("the reader has ended")??)
    };
    for round in 1..=ROUNDS {
        let old = round - 1;
        ensure!(bytes()? == format!("{old} {old} {old}"), "old content in round {round}");
        let writer = fs::OpenOptions::new().write(true).open(share.host().join("f"))?;
        writer.write_all_at(&[round; LEN], 0)?;
        drop(writer);
        told(&mut recorder, Kind::CloseWrite)?;
        let found = bytes()?;
        ensure!(found == format!("{round} {round} {round}"), "stale in round {round}: {found}");
    }
    drop(ask);
    ensure!(reader.wait()?.success(), "the reader failed");
    Ok(())
}

fn closed_after_the_delete(mount: &Mount) -> Result<()> {
    let (share, mut recorder) = watched_file(mount)?;
    let reader = fs::File::open(share.mount().join("f"))?;
    fs::remove_file(share.host().join("f"))?;
    recorder.barrier()?;
    let kinds = |recorder: &mut Recorder| -> Vec<Kind> {
        recorder.take_events().iter().map(|event| event.kind).collect()
    };
    ensure!(kinds(&mut recorder) == [Kind::Attrib], "its link count has changed, no more");
    drop(reader);
    recorder.wait_until(PATIENCE, |recorder| recorder.events().len() >= 2)?;
    ensure!(kinds(&mut recorder) == [Kind::DeleteSelf, Kind::Ignored], "the end of the watch");
    Ok(())
}

/// As a container has a file of the mount (`docker run -v ./app.yml:/app.yml`).
fn deleted_while_mounted_alone(mount: &Mount) -> Result<()> {
    let share = mount.share("alone")?;
    let (host, mounted) = (share.host().join("f"), share.mount().join("f"));
    let target = mount.outside().join("target");
    fs::write(&target, "")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    for change in ["rm f", "echo new > g; mv g f", "rm f; echo new > f"] {
        fs::write(&host, "old")?;
        recorder.barrier()?;
        mount_bind(&mounted, &target)?;
        let by_path = open(&mounted, OFlags::PATH, Mode::empty())?;
        share.run_on_host(change)?;
        recorder.barrier()?;
        let of_mount = fs::read_to_string(&target);
        let of_descriptor = fs::read_to_string(format!("/proc/self/fd/{}", by_path.as_raw_fd()));
        let of_name = fs::read_to_string(&mounted).ok();
        unmount(&target, UnmountFlags::empty())?;
        drop(by_path);
        for (way, content) in [("mounted", of_mount), ("held by path", of_descriptor)] {
            let content = content.with_context(|| format!("{change}: {way}"))?;
            ensure!(content == "old", "{change}: {way}: {content:?}");
        }
        let expected = (change != "rm f").then(|| "new\n".to_owned());
        ensure!(of_name == expected, "{change}: {of_name:?}");
    }
    Ok(())
}

/// The guest's kernel may still believe in the old file, which nobody has open.
/// Of the calls on deleted files, one in thirty on ext4 is made while the host creates a file with the same inode number.
fn reused_while_open(mount: &Mount) -> Result<()> {
    const CALLS: usize = 3_000;
    let share = mount.share("reused")?;
    let replace = |dir: &Path| -> Result<()> {
        fs::write(dir.join("new"), "")?;
        Ok(fs::rename(dir.join("new"), dir.join("f"))?)
    };
    let mut deleted = Vec::new();
    for _ in 0..50 {
        replace(share.host())?;
        deleted.push(open(share.mount().join("f"), OFlags::PATH, Mode::empty())?);
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let replacing = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                replace(share.host())?;
            }
            Ok(())
        });
        let mut results = deleted.iter().cycle().take(CALLS).map(|file| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            getxattr(path, "user.none", &mut [0; 1][..]).err()
        });
        let wrong =
            results.find(|error| ![Some(Errno::STALE), Some(Errno::NODATA)].contains(error));
        is_over.store(true, Ordering::Relaxed);
        replacing.join().map_err(|_| anyhow!("the replacing thread has panicked"))??;
        ensure!(wrong.is_none(), "{wrong:?}");
        Ok(())
    })
}

fn written_after_the_replacement(mount: &Mount) -> Result<()> {
    let share = mount.share("written")?;
    for round in 0..100 {
        let name = format!("f{round}");
        let (host, mounted) = (share.host().join(&name), share.mount().join(&name));
        fs::write(&host, "")?;
        fs::metadata(&mounted)?;
        let new = share.host().join("new");
        fs::write(&new, "")?;
        fs::rename(new, &host)?;
        fs::OpenOptions::new().append(true).open(&mounted)?.write_all(b"x")?;
        let content = fs::read_to_string(&host)?;
        ensure!(content == "x", "round {round}: the write has gone elsewhere: {content:?}");
    }
    Ok(())
}
