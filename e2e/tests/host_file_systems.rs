// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The shared directory on each file system that farwatch is meant for, made for the test; and what
//! `farwatch doctor` and the log say where one has less to give.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::{
    FileSystem, FsType, Mount, Place, Record, Recorder, Scenario, Share, Submount, render,
};
use libtest_mimic::Trial;

use FsType::{Btrfs, BtrfsSubvolume, Ext4, IndexedOverlay, Overlay, Tmpfs, Xfs};

const BACKENDS: [&str; 2] = ["inotify", "fanotify"];

fn main() -> ExitCode {
    e2e::enter_own_mount_namespace();
    let trials = [
        on(Ext4, "every_scenario_on_ext4", every_scenario),
        on(Xfs, "every_scenario_on_xfs", every_scenario),
        on(Btrfs, "every_scenario_on_btrfs", every_scenario),
        on(BtrfsSubvolume, "every_scenario_on_a_btrfs_subvolume", every_scenario),
        on(Tmpfs, "every_scenario_on_tmpfs", every_scenario),
        on(Overlay, "every_scenario_on_overlayfs", every_scenario),
        on(IndexedOverlay, "every_scenario_on_overlayfs_with_an_index", every_scenario),
        on(Ext4, "events_come_out_of_a_sandbox_on_ext4", sandboxed),
        on(Xfs, "events_come_out_of_a_sandbox_on_xfs", sandboxed),
        on(Btrfs, "events_come_out_of_a_sandbox_on_btrfs", sandboxed),
        on(BtrfsSubvolume, "events_come_out_of_a_sandbox_on_a_btrfs_subvolume", sandboxed),
        on(Tmpfs, "events_come_out_of_a_sandbox_on_tmpfs", sandboxed),
        on(Overlay, "events_come_out_of_a_sandbox_on_overlayfs", sandboxed),
        on(IndexedOverlay, "events_come_out_of_a_sandbox_on_overlayfs_with_an_index", sandboxed),
        on(Btrfs, "subvolumes_in_the_share", subvolumes),
        on(BtrfsSubvolume, "subvolumes_in_a_shared_subvolume", subvolumes),
        on(Btrfs, "the_watch_of_a_deleted_subvolume_ends", deleted_subvolumes),
        on(BtrfsSubvolume, "a_file_system_mounted_in_a_shared_subvolume", mounted_below),
        on(Overlay, "files_of_the_lower_layer_are_changed", |_| {
            lower_layer(&["attrib-", "save-", "self-", "write-"])
        }),
        on(Overlay, "files_of_the_lower_layer_go_elsewhere", |_| {
            lower_layer(&["delete-", "move-", "recursive-", "rename-"])
        }),
        on(Overlay, "end_of_a_replaced_file_of_the_lower_layer_is_not_reported", |_| replaced()),
        on(Overlay, "change_in_a_layer_beside_an_overlay_is_not_reported", beside_an_overlay),
        on(Overlay, "doctor_and_log_report_missing_features_of_an_overlay", overlay_is_limited),
        on(Tmpfs, "log_reports_missing_features_of_a_fuse_file_system", fuse_is_limited),
    ];
    e2e::run(trials.into_iter().collect())
}

fn on(
    fs_type: FsType,
    name: &str,
    run: impl FnOnce(&FileSystem) -> Result<()> + Send + 'static,
) -> Trial {
    let needs = [Need::Mount, Need::FileSystem(fs_type)];
    e2e::trial(name, &needs, move || run(&FileSystem::make(fs_type)?))
}

/// Those whose programs are missing are counted as skipped where each is a trial.
fn every_scenario(fs: &FileSystem) -> Result<()> {
    let (ready, _) = e2e::scenarios_by_readiness();
    for watch in BACKENDS {
        e2e::run_all(&ready, || Mount::start_in(fs.root(), &["--watch", watch]))
            .with_context(|| watch)?;
    }
    only_an_overlay_is_warned_of(fs)
}

/// A directory of a file system that has all is shared without a word.
fn only_an_overlay_is_warned_of(fs: &FileSystem) -> Result<()> {
    let served = Mount::start_in(fs.root(), &[])?;
    let log = served.log();
    let warnings = log.matches("WARN").count();
    let expected = usize::from(fs.fs_type().name() == "overlay");
    ensure!(warnings == expected, "{warnings} warnings:\n{log}");
    Ok(())
}

/// Handles are opened there where the file system can, and the sandbox has mounts of its own.
fn sandboxed(fs: &FileSystem) -> Result<()> {
    BACKENDS.iter().try_for_each(|watch| sandboxed_by(fs, watch).with_context(|| *watch))
}

fn sandboxed_by(fs: &FileSystem, watch: &str) -> Result<()> {
    let served = start_sandboxed(fs, watch)?;
    let share = served.share("share")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    for (dir, name) in [(share.host(), "on-host"), (share.mount(), "in-mount")] {
        fs::create_dir(dir.join(name))?;
        recorder.barrier()?;
        told(&mut recorder, &format!("CREATE,ISDIR {name}\n"))?;
    }
    share.run_on_host("echo old > f; mv f g")?;
    recorder.barrier()?;
    recorder.take_events();
    share.run_on_host("echo new >> g")?;
    recorder.barrier()?;
    told(&mut recorder, "MODIFY g\nCLOSE_WRITE g\n")?;
    share.run_in_mount(
        r#"test "$(cat g)" = "old
new""#,
    )?;
    ensure!(fs::read_dir(share.mount())?.count() == 3, "another listing");
    Ok(())
}

fn start_sandboxed(fs: &FileSystem, watch: &str) -> Result<Mount> {
    Mount::start_through_socket_in(fs.root(), |served, socket| {
        let mut command = served.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(served.host());
        command.args(["--inode-file-handles", "prefer", "--sandbox", "namespace"]);
        command.args(["--seccomp", "kill", "--watch", watch]);
        Ok(command)
    })
}

fn subvolumes(fs: &FileSystem) -> Result<()> {
    let scenarios = Scenario::load_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("subvolumes"))?;
    let lacking = scenarios.iter().find_map(Scenario::missing_need);
    ensure!(lacking.is_none() && scenarios.len() == 2, "{scenarios:?}");
    e2e::run_all(&scenarios, || Mount::local_in(fs.root())).context("on a local directory")?;
    for watch in BACKENDS {
        let mounted = || Mount::start_in(fs.root(), &["--watch", watch]);
        e2e::run_all(&scenarios, mounted).with_context(|| format!("{watch}, in a mount"))?;
        e2e::run_all(&scenarios, || start_sandboxed(fs, watch))
            .with_context(|| format!("{watch}, out of a sandbox"))?;
    }
    Ok(())
}

/// Locally DELETE_SELF comes when btrfs has cleaned up. What was deleted in it before is told before.
fn deleted_subvolumes(fs: &FileSystem) -> Result<()> {
    BACKENDS.iter().try_for_each(|watch| deleted_subvolumes_by(fs, watch).with_context(|| *watch))
}

fn deleted_subvolumes_by(fs: &FileSystem, watch: &str) -> Result<()> {
    let served = Mount::start_in(fs.root(), &["--watch", watch])?;
    let share = served.share("share")?;
    share.run_on_host("btrfs subvolume create a; btrfs subvolume create b; touch b/1 b/2 b/3")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch_recursively(Path::new("."))?;
    // Or the recorder hears of them while they are deleted, and looks at them once more.
    recorder.barrier()?;
    recorder.take_events();
    share.run_on_host("btrfs subvolume delete a; rm b/1 b/2 b/3; rmdir b")?;
    recorder.barrier()?;
    let told = render(&recorder.take_events());
    for (name, before) in [("a", vec![]), ("b", vec!["DELETE b/1", "DELETE b/2", "DELETE b/3"])] {
        let [own, ignored, gone] = ["DELETE_SELF [", "IGNORED [", "DELETE,ISDIR "]
            .map(|event| format!("{event}{name}{}", if event.ends_with('[') { "]" } else { "" }));
        let ends = [own.as_str(), &ignored, &gone];
        let found =
            before.iter().chain(&ends).map(|event| told.find(event)).collect::<Option<Vec<_>>>();
        ensure!(found.is_some_and(|found| found.is_sorted()), "of {name}:\n{told}");
    }
    Ok(())
}

/// The two cannot be marked in one fanotify group.
fn mounted_below(fs: &FileSystem) -> Result<()> {
    BACKENDS.iter().try_for_each(|watch| mounted_below_by(fs, watch).with_context(|| *watch))
}

fn mounted_below_by(fs: &FileSystem, watch: &str) -> Result<()> {
    let served = Mount::start_in(fs.root(), &["--watch", watch])?;
    let share = served.share("share")?;
    let below = share.host().join("below");
    fs::create_dir(&below)?;
    let _below = Submount::tmpfs(&below)?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    for dir in [".", "below"] {
        recorder.watch(Path::new(dir))?;
    }
    for step in ["mkdir below/dir", "mkdir dir", "mv below/dir below/moved", "mv dir moved"] {
        share.run_on_host(step)?;
        recorder.barrier()?;
    }
    told(
        &mut recorder,
        "CREATE,ISDIR below/dir\nCREATE,ISDIR dir\nMOVED_FROM,ISDIR below/dir c1\n\
         MOVED_TO,ISDIR below/moved c1\nMOVED_FROM,ISDIR dir c2\nMOVED_TO,ISDIR moved c2\n",
    )
}

/// What is watched is copied up while it is watched. The scenarios are those about things that were
/// there before: what is new lies in the upper layer.
fn lower_layer(about: &[&str]) -> Result<()> {
    /// Not as on any other file system, with farwatch or without: each name of a file gets a copy.
    const NAMES_COME_APART: [&str; 3] = [
        "delete-one-of-two-names",
        "rename-over-watched-file-with-another-name",
        "write-through-hard-link",
    ];
    let (mut ready, _) = e2e::scenarios_by_readiness();
    let others = [NAMES_COME_APART, REPLACED].concat();
    ready.retain(|Scenario { name, .. }| {
        about.iter().any(|about| name.starts_with(about)) && !others.contains(&name.as_str())
    });
    ensure!(!ready.is_empty(), "no scenarios of these names");
    for scenario in &mut ready {
        scenario.fresh_mount = true;
    }
    e2e::run_all(&ready, || Lowered::make(Overlay))
}

/// Scenarios in which a file of the lower layer is replaced while it is watched.
const REPLACED: [&str; 3] =
    ["move-into-share-over-existing", "rename-over-watched-file", "save-temp-and-rename"];

/// overlayfs goes on saying that such a file has a name. If this begins to pass, the row of
/// docs/SEMANTICS.md goes.
fn replaced() -> Result<()> {
    for mut scenario in e2e::scenarios().into_iter().filter(|s| REPLACED.contains(&s.name.as_str()))
    {
        scenario.fresh_mount = true;
        let told =
            scenario.run(&Lowered::make(Overlay)?).err().context("there is no difference")?;
        let told = format!("{told:#}");
        let (wanted, recorded) = told.split_once("recorded:").context(told.clone())?;
        let all_but_the_end = recorded.contains("MOVED_TO f c1") && recorded.contains("ATTRIB [f]");
        ensure!(wanted.contains("DELETE_SELF [f]") && all_but_the_end, "{told}");
        ensure!(!recorded.contains("DELETE_SELF"), "{told}");
    }
    Ok(())
}

fn beside_an_overlay(fs: &FileSystem) -> Result<()> {
    let served = Mount::start_in(fs.root(), &[])?;
    let (share, mut recorder) = watched(&served)?;
    let in_upper = fs.layer("upper").join(share.host().strip_prefix(fs.root())?);
    fs::write(in_upper.join("beside"), "")?;
    fs::write(share.host().join("through"), "")?;
    recorder.barrier()?;
    told(&mut recorder, "CREATE through\nCLOSE_WRITE through\n")
}

fn overlay_is_limited(fs: &FileSystem) -> Result<()> {
    const WORDS: &str = "changes made directly in its upper or lower directory are not seen";
    let served = Mount::unmounted_in(fs.root())?;
    let report = doctor(&served, &served.host())?;
    ensure!(line(&report, WORDS)?.starts_with("limited  file system"), "{report}");
    for served in [Mount::start_in(fs.root(), &[])?, start_sandboxed(fs, "auto")?] {
        let log = served.log();
        ensure!(line(&log, WORDS)?.contains("(change files through the overlay alone)"), "{log}");
    }
    Ok(())
}

/// The FUSE file system is a mount of our own.
fn fuse_is_limited(fs: &FileSystem) -> Result<()> {
    const WORDS: &str = "only changes made on this host are seen";
    let inner = Mount::start_in(fs.root(), &[])?;
    let outer = Mount::start_in(&inner.mount_point(), &[])?;
    let log = outer.log();
    ensure!(line(&log, WORDS)?.contains("share the directory from the machine"), "{log}");
    let (share, mut recorder) = watched(&outer)?;
    fs::create_dir(share.host().join("dir"))?;
    recorder.barrier()?;
    told(&mut recorder, "CREATE,ISDIR dir\n")
}

fn doctor(served: &Mount, dir: &Path) -> Result<String> {
    let output = served.farwatch()?.arg("doctor").arg(dir).output()?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The one line of `text` with `words`.
fn line<'a>(text: &'a str, words: &str) -> Result<&'a str> {
    let mut lines = text.lines().filter(|line| line.contains(words));
    let line = lines.next().with_context(|| format!("not a word of it in\n{text}"))?;
    ensure!(lines.next().is_none(), "said twice:\n{text}");
    Ok(line)
}

fn watched(served: &Mount) -> Result<(Share, Recorder)> {
    let share = served.share("share")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    Ok((share, recorder))
}

/// What has happened since, and nothing else.
fn told(recorder: &mut Recorder, wanted: &str) -> Result<()> {
    let told = render(&recorder.take_events());
    let told: String = told.lines().map(|line| format!("{}\n", line.trim())).collect();
    ensure!(told == wanted, "expected:\n{wanted}told:\n{told}");
    Ok(())
}

/// An overlay on which all that a scenario sets up lies in the lower layer when it begins.
struct Lowered {
    state: Mutex<LoweredState>,
}

struct LoweredState {
    /// Not mounted until there is something to watch.
    served: Option<Mount>,
    // Unmounted last.
    fs: FileSystem,
}

impl Lowered {
    fn make(fs_type: FsType) -> Result<Self> {
        let fs = FileSystem::make(fs_type)?;
        let served = Some(Mount::unmounted_in(fs.root())?);
        Ok(Self { state: Mutex::new(LoweredState { served, fs }) })
    }

    fn served<T>(&self, ask: impl FnOnce(&Mount) -> Result<T>) -> Result<T> {
        ask(self.state().served.as_ref().context("farwatch was not started")?)
    }

    fn state(&self) -> MutexGuard<'_, LoweredState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place for Lowered {
    fn share(&self, name: &str) -> Result<Share> {
        self.served(|served| served.share(name))
    }

    fn local_twin(&self, name: &str) -> Result<Share> {
        self.served(|served| served.local_twin(name))
    }

    fn recorder(&self, share: &Share) -> Result<Box<dyn Record>> {
        let LoweredState { served, fs } = &mut *self.state();
        fs.lower_all()?;
        let unmounted = served.take().context("farwatch was not started")?;
        *served = Some(unmounted.started_with(&[])?);
        Ok(Box::new(Recorder::new(share, Recorder::CHANGES)?))
    }

    fn run_in_mount(&self, share: &Share, script: &str) -> Result<()> {
        share.run_in_mount(script)
    }

    fn sync(&self) -> Result<()> {
        self.served(Mount::sync)
    }

    fn log(&self) -> String {
        self.served(|served| Ok(served.log())).unwrap_or_default()
    }
}
