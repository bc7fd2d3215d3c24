// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program in the mount that has had a file open, or mapped, since before it was changed: the
//! pages that its kernel keeps of the old content must be gone when the event comes. The new content
//! has the length of the old one, so that nothing but the event tells them apart.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::{Need, trial};
use farwatch_testkit::{Kind, Mount, PATIENCE, Recorder, Share};
use libtest_mimic::Trial;

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
    let promises: [(&str, Option<Need>, Promise); 3] = [
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
    e2e::run(promises.into_iter().flat_map(on_both).collect())
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
