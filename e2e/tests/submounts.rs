// SPDX-License-Identifier: Apache-2.0 OR MIT
//! File systems that are mounted on directories of the share, and unmounted again, while programs watch
//! there: what they are told is held against a local directory, up to what `docs/SEMANTICS.md` says.
//!
//! The mounts are made in a namespace of this process's own. What is looked up is kept nowhere
//! (`--cache never`), so that a name leads to a new file system at once.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{Need, trial, until};
use farwatch_testkit::{
    Event, FileSystem, FsType, Mount, PATIENCE, Process, Recorder, Share, Submount, merge_allowed,
    render,
};
use libtest_mimic::Trial;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::Signal;

/// In a part of the share that is in two places. What is told in each place is compared.
const IN_TWO_PLACES: [&str; 24] = [
    "echo new > a/f",
    "echo more >> b/f",
    "chmod 600 b/f",
    "ln b/f b/h",
    "mv b/f b/sub/f",
    "mv a/sub/f a/f",
    "rm a/h",
    "ln b/f b/k",
    "mv b/k b/sub/k",
    "rm a/sub/k",
    "mv b/g b/f",
    "rm b/f",
    "mkdir b/made",
    "rmdir a/made",
    "chmod 700 b/sub",
    "mv a/d a/e",
    "mv b/e/dd b/sub/dd",
    "echo new > b/sub/dd/f",
    "mv a/sub/dd .",
    "mv dd a/dd",
    "rm -r b/dd",
    "rmdir b/e",
    "mv a/l $OUT",
    "mv $OUT/l a",
];

fn main() -> ExitCode {
    e2e::enter_own_mount_namespace();
    let on_each: [(&str, e2e::Test); 8] = [
        ("lookup_finds_a_new_mount_and_earlier_watches_stay_beneath_it", covered),
        ("a_file_system_may_come_and_go_again_and_again", again_and_again),
        ("directory_beneath_a_mount_has_its_name_again_after_umount", beneath),
        ("part_of_the_share_in_two_places_has_events_in_both", two_places),
        ("end_of_a_place_is_not_reported_there", end_of_a_place),
        ("file_in_two_places_has_events_only_in_its_directory", file_in_two_places),
        ("change_by_a_program_in_the_mount_is_reported_in_the_place_that_it_used", own_changes),
        ("change_of_a_mounts_root_is_also_reported_to_the_directory_above", root_changed),
    ];
    let mut trials: Vec<Trial> = on_each.iter().flat_map(on_each_path).collect();
    for (watch, handles) in [("fanotify", "never"), ("fanotify", "prefer"), ("inotify", "prefer")] {
        let name = "a_mount_is_busy_as_long_as_the_guest_knows_it";
        let name = format!("{name}::{watch}_{handles}");
        trials.push(trial(&name, &[Need::Mount], || busy(watch, handles)));
    }
    for watch in ["fanotify", "inotify"] {
        let name = "mount_on_a_new_directory_is_not_mistaken_for_the_directory";
        trials.push(trial(&format!("{name}::{watch}"), &[Need::Mount], || on_a_new_one(watch)));
    }
    let needs = [Need::Mount, Need::StockVirtiofsd];
    trials.push(trial("a_mount_is_as_busy_with_a_stock_virtiofsd", &needs, busy_with_stock));
    let name = "a_mount_is_seen_when_the_kernel_looks_its_name_up_again";
    trials.push(trial(name, &[Need::Mount], seen_later));
    trials.push(trial(
        "mount_or_umount_during_an_overflow_is_reported_as_a_difference",
        &[Need::Mount],
        unseen,
    ));
    trials.push(trial(
        "a_lookup_in_the_mount_has_a_directory_automounted_and_its_events_come",
        &[Need::Mount, Need::Python, Need::Autofs],
        automounted,
    ));
    let needs = [Need::Mount, Need::FileSystem(FsType::Tmpfs)];
    trials.extend([
        trial("mounts_come_to_a_sandbox_where_they_propagate", &needs, || sandboxed(true)),
        trial("no_mount_comes_to_a_sandbox_where_none_propagates", &needs, || sandboxed(false)),
    ]);
    e2e::run(trials)
}

fn on_each_path(&(name, test): &(&str, e2e::Test)) -> [Trial; 3] {
    type Start = fn() -> Result<Mount>;
    let starts: [(&str, Start); 3] = [
        ("fanotify", || Mount::start_with(&["--cache", "never", "--watch", "fanotify"])),
        ("inotify", || Mount::start_with(&["--cache", "never", "--watch", "inotify"])),
        ("agent", || Mount::start_with_agent_and(&["--cache", "never"])),
    ];
    starts.map(|(path, start)| {
        trial(&format!("{name}::{path}"), &[Need::Mount], move || {
            let mount = start()?;
            test(&mount)?;
            let log = mount.log();
            ensure!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
            Ok(())
        })
    })
}

fn covered(mount: &Mount) -> Result<()> {
    /// `$OUT/view` is the share without the mounts in it.
    const WHILE_COVERED: [&str; 6] = [
        "echo new > below/f",
        "echo new > below/dir/f",
        "mv below/f below/dir/g",
        "echo new > $OUT/view/below/f; echo new > $OUT/view/below/sub/f",
        "chmod 700 $OUT/view/below",
        "rm below/dir/g",
    ];
    const UNCOVERED: [&str; 4] =
        ["echo newer > below/f", "rm below/sub/f", "mv below moved", "rm -r moved"];
    told_as_locally(mount, "covered", |share, told| {
        share.run_on_host("mkdir -p below/sub $OUT/view")?;
        let view = Submount::bind(share.host(), &share.outside().join("view"))?;
        let mut outer = recorder(share, &[".", "below", "below/sub"])?;
        let below = Submount::tmpfs(&share.host().join("below"))?;
        fs::create_dir(share.host().join("below/dir"))?;
        let mut inner = recorder(share, &["below", "below/dir"])?;
        for step in WHILE_COVERED {
            told.step(share, step, &mut [&mut outer, &mut inner])?;
        }
        below.detach()?;
        outer.barrier()?;
        ensure!(outer.take_events().is_empty(), "the mount's end is told beside it");
        let ends = "UNMOUNT,ISDIR [below/dir]\nIGNORED [below/dir]\nUNMOUNT,ISDIR [below]\n\
                    IGNORED [below]\n";
        inner.barrier()?;
        is_told(&mut inner, if told.locally { ends } else { "" })?;
        drop(view);
        let mut again = recorder(share, &["below", "below/sub"])?;
        for step in UNCOVERED {
            told.step(share, step, &mut [&mut outer, &mut again])?;
        }
        inner.barrier()?;
        is_told(&mut inner, "")
    })
}

fn again_and_again(mount: &Mount) -> Result<()> {
    told_as_locally(mount, "again", |share, told| {
        fs::create_dir(share.host().join("below"))?;
        let mut outer = recorder(share, &[".", "below"])?;
        for _ in 0..3 {
            let below = Submount::tmpfs(&share.host().join("below"))?;
            fs::write(share.host().join("below/f"), "")?;
            let mut inner = recorder(share, &["below", "below/f"])?;
            let mut all = [&mut outer, &mut inner];
            told.step(share, "echo more >> below/f; mkdir below/dir", &mut all)?;
            below.detach()?;
            told.step(share, "echo new > below/beneath; rm below/beneath", &mut [&mut outer])?;
        }
        Ok(())
    })
}

/// The mount was there first. The kernel does not report that it has gone.
fn beneath(mount: &Mount) -> Result<()> {
    const STEPS: [&str; 4] =
        ["chmod 700 below", "mv below moved", "mkdir below; mv -T moved below", "rmdir below"];
    told_as_locally(mount, "beneath", |share, told| {
        fs::create_dir(share.host().join("below"))?;
        let below = Submount::tmpfs(&share.host().join("below"))?;
        let mut inner = recorder(share, &["below"])?;
        below.detach()?;
        let mut again = recorder(share, &[".", "below"])?;
        inner.barrier()?;
        inner.take_events();
        for step in STEPS {
            told.step(share, step, &mut [&mut again, &mut inner])?;
        }
        // Another directory, which takes a name that was a mount's.
        share.run_on_host("mkdir below other")?;
        let below = Submount::tmpfs(&share.host().join("below"))?;
        let mut inner = recorder(share, &["below"])?;
        below.detach()?;
        let mut beneath = recorder(share, &["below", "other"])?;
        inner.barrier()?;
        inner.take_events();
        told.step(share, "mv -T other below", &mut [&mut beneath, &mut inner])
    })
}

fn two_places(mount: &Mount) -> Result<()> {
    told_as_locally(mount, "places", |share, told| {
        let _b = in_two_places(share)?;
        let mut first = recorder(share, &[".", "a", "a/f", "a/sub", "a/d", "a/d/dd", "a/l"])?;
        let mut second = recorder(share, &["b", "b/f", "b/sub", "b/d", "b/d/dd", "b/l"])?;
        for step in IN_TWO_PLACES {
            told.step(share, step, &mut [&mut first, &mut second])?;
        }
        Ok(())
    })
}

/// Locally it is one directory, which has one end.
fn end_of_a_place(mount: &Mount) -> Result<()> {
    let share = mount.share("end")?;
    let b = in_two_places(&share)?;
    let mut first = recorder(&share, &["a"])?;
    let mut second = recorder(&share, &["b"])?;
    b.detach()?;
    share.run_on_host("rm a/g; echo > b/beneath; rm -r a")?;
    for (recorder, name, ends) in [(&mut first, "a", true), (&mut second, "b", false)] {
        recorder.barrier()?;
        let told = render(&recorder.take_events());
        ensure!(told.contains(&format!("DELETE {name}/g")), "{told}");
        ensure!(told.contains(&format!("DELETE,ISDIR {name}/sub")), "{told}");
        ensure!(!told.contains("beneath"), "{told}");
        ensure!(told.contains(&format!("DELETE_SELF [{name}]")) == ends, "{told}");
    }
    Ok(())
}

/// `mount --bind` of a file. Locally both watches are one.
fn file_in_two_places(mount: &Mount) -> Result<()> {
    let share = mount.share("file")?;
    share.run_on_host("mkdir a b; echo old > a/f; touch b/g")?;
    let bound = Submount::bind(&share.host().join("a/f"), &share.host().join("b/g"))?;
    let mut first = recorder(&share, &["a/f"])?;
    let mut second = recorder(&share, &["b", "b/g"])?;
    for step in ["chmod 600 a/f", "chmod 640 b/g"] {
        share.run_on_host(step)?;
        first.barrier()?;
        is_told(&mut first, "ATTRIB [a/f]\n")?;
        second.barrier()?;
        is_told(&mut second, "")?;
    }
    bound.detach()?;
    share.run_on_host("chmod 600 b/g")?;
    second.barrier()?;
    is_told(&mut second, "ATTRIB b/g\n")
}

fn own_changes(mount: &Mount) -> Result<()> {
    let share = mount.share("own")?;
    let _b = in_two_places(&share)?;
    let mut first = recorder(&share, &["a"])?;
    let mut second = recorder(&share, &["b"])?;
    share.run_in_mount("mkdir b/made")?;
    for (recorder, wanted) in [(&mut first, ""), (&mut second, "CREATE,ISDIR b/made\n")] {
        recorder.barrier()?;
        is_told(recorder, wanted)?;
    }
    Ok(())
}

fn root_changed(mount: &Mount) -> Result<()> {
    let share = mount.share("root")?;
    fs::create_dir(share.host().join("below"))?;
    let mut above = recorder(&share, &["."])?;
    let _below = Submount::tmpfs(&share.host().join("below"))?;
    let mut root = recorder(&share, &["below"])?;
    share.run_on_host("chmod 700 below")?;
    for (recorder, wanted) in
        [(&mut above, "ATTRIB,ISDIR below\n"), (&mut root, "ATTRIB,ISDIR [below]\n")]
    {
        recorder.barrier()?;
        is_told(recorder, wanted)?;
    }
    Ok(())
}

/// The device is stopped until it is mounted, and then looks what has been made.
fn on_a_new_one(watch: &'static str) -> Result<()> {
    let mut served = serve(&["--watch", watch, "--cache", "never"])?;
    let share = served.share("new")?;
    share.run_on_host("mkdir a; touch a/f")?;
    let mut recorder = recorder(&share, &[".", "a"])?;
    let new = share.host().join("b");
    served.device().signal(Signal::STOP)?;
    let mounted = fs::create_dir(&new)
        .map_err(anyhow::Error::from)
        .and_then(|()| Submount::bind(&share.host().join("a"), &new));
    served.device().signal(Signal::CONT)?;
    let mounted = mounted?;
    recorder.barrier()?;
    is_told(&mut recorder, "CREATE,ISDIR b\n")?;
    unmounted(&new)?;
    drop(mounted);
    share.run_on_host("rmdir b; rm a/f")?;
    recorder.barrier()?;
    is_told(&mut recorder, "DELETE,ISDIR b\nDELETE a/f\n")
}

/// By descriptors of the file server's, with handles too: it opens what they are of.
fn busy(watch: &'static str, handles: &'static str) -> Result<()> {
    is_busy_until_forgotten(&serve(&["--watch", watch, "--inode-file-handles", handles])?)
}

fn serve(options: &[&str]) -> Result<Mount> {
    Mount::start_through_socket(|served, socket| {
        let mut command = served.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(served.host());
        command.args(["--sandbox", "none"]).args(options);
        Ok(command)
    })
}

fn automounted() -> Result<()> {
    // The mount knows the directory beneath, and looks its name up again each time.
    let served = serve(&["--cache", "never"])?;
    let share = served.share("automounted")?;
    let dir = share.host().join("auto");
    fs::create_dir(&dir)?;
    fs::metadata(share.mount().join("auto"))?;
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/automounter.py")).arg(&dir);
    let mut automounter = Process::start(python)?;
    automounter.wait_for_line(|line| line == "ready")?;
    let _mounted = [Submount::already(&dir.join("disk")), Submount::already(&dir)];
    let missing = fs::metadata(share.mount().join("auto/missing"));
    ensure!(missing.as_ref().is_err_and(|error| error.kind() == NotFound), "{missing:?}");
    let mut inner = recorder(&share, &["auto/disk"])?;
    share.run_on_host("echo new > auto/disk/f; mv auto/disk/f auto/disk/g; rm auto/disk/g")?;
    inner.barrier()?;
    is_told(
        &mut inner,
        "CREATE auto/disk/f\nMODIFY auto/disk/f\nCLOSE_WRITE auto/disk/f\nMOVED_FROM auto/disk/f c1\n\
         MOVED_TO auto/disk/g c1\nDELETE auto/disk/g\n",
    )
}

fn busy_with_stock() -> Result<()> {
    let served = Mount::start_through_socket(|served, socket| {
        let program = e2e::stock_virtiofsd().context("virtiofsd has gone")?;
        let mut command = Command::new(program);
        command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(served.host());
        command.args(["--inode-file-handles=prefer", "--sandbox", "none", "--seccomp", "none"]);
        Ok(command)
    })?;
    is_busy_until_forgotten(&served)
}

/// The sandbox has mounts of its own, which follow the host's if those propagate (`mount_namespaces(7)`).
fn sandboxed(propagates: bool) -> Result<()> {
    let fs = FileSystem::make(FsType::Tmpfs)?;
    if propagates {
        mount_change(fs.root(), MountPropagationFlags::SHARED)?;
    }
    let served = Mount::start_through_socket_in(fs.root(), |served, socket| {
        let mut command = served.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(served.host());
        command.args(["--cache", "never", "--sandbox", "namespace"]);
        Ok(command)
    })?;
    let share = served.share("sandbox")?;
    let dir = share.host().join("below");
    fs::create_dir(&dir)?;
    let mut beneath = recorder(&share, &[".", "below"])?;
    let _below = Submount::tmpfs(&dir)?;
    let mut inner = recorder(&share, &["below"])?;
    fs::create_dir(dir.join("inner"))?;
    inner.barrier()?;
    is_told(&mut inner, if propagates { "CREATE,ISDIR below/inner\n" } else { "" })?;
    let busy = unmount(&dir, UnmountFlags::empty()) == Err(Errno::BUSY);
    ensure!(busy == propagates, "busy: {busy}");
    drop(inner);
    if busy {
        unmounted(&dir)?;
    }
    fs::create_dir(dir.join("beneath"))?;
    beneath.barrier()?;
    is_told(&mut beneath, "CREATE,ISDIR below/beneath\n")
}

/// With the cache that a mount has if nothing is said.
fn seen_later() -> Result<()> {
    let served = Mount::start()?;
    let share = served.share("later")?;
    fs::create_dir(share.host().join("below"))?;
    let mut covered = recorder(&share, &[".", "below"])?;
    let _below = Submount::tmpfs(&share.host().join("below"))?;
    fs::create_dir(share.host().join("below/dir"))?;
    let deadline = Instant::now() + PATIENCE;
    while !share.mount().join("below/dir").exists() {
        ensure!(Instant::now() < deadline, "it is not seen");
    }
    let mut inner = recorder(&share, &["below"])?;
    fs::create_dir(share.host().join("below/new"))?;
    inner.barrier()?;
    is_told(&mut inner, "CREATE,ISDIR below/new\n")?;
    is_told(&mut covered, "")
}

/// While no agent listens nothing is told, and the next one is told the difference.
fn unseen() -> Result<()> {
    let mut served = Mount::start_with_agent_and(&["--cache", "never"])?;
    let share = served.share("unseen")?;
    fs::create_dir(share.host().join("below"))?;
    let mut outer = recorder(&share, &[".", "below"])?;
    // Or what is under the name is soon forgotten, and is told to be deleted.
    let mut inner = recorder(&share, &[])?;
    let mut below = None;
    for wanted in [
        "MOVED_FROM,ISDIR below c1\nMOVE_SELF [below]\nCREATE,ISDIR below\n",
        "MOVED_FROM,ISDIR below c2\nCREATE,ISDIR below\n",
    ] {
        served.agent().signal(Signal::TERM)?;
        served.agent().wait()?;
        // It ends before the server has seen it go, and what happens until then is taken for delivered.
        until("no agent is attached", || Ok(served.status()?.contains("\"client\": null")))?;
        below = match below {
            None => Some(Submount::tmpfs(&share.host().join("below"))?),
            Some(mounted) => Submount::detach(mounted).map(|()| None)?,
        };
        served.start_agent(&[])?;
        served.sync()?;
        outer.barrier()?;
        // The directory beneath has no name in the mount then. It gets ATTRIB, unless another test has the kernel drop
        // its dentry: a known fault of docs/SEMANTICS.md.
        let mut told = lines(&outer.take_events());
        told = told.replace("ATTRIB,ISDIR [below]\n", "");
        ensure!(told == wanted, "expected:\n{wanted}told:\n{told}");
        inner.watch(Path::new("below"))?;
    }
    fs::create_dir(share.host().join("below/dir"))?;
    let made = "CREATE,ISDIR below/dir\n";
    outer.barrier()?;
    is_told(&mut outer, made)?;
    inner.barrier()?;
    is_told(&mut inner, &format!("MOVE_SELF [below]\n{made}"))
}

fn is_busy_until_forgotten(served: &Mount) -> Result<()> {
    let share = served.share("busy")?;
    let dir = share.host().join("below");
    fs::create_dir(&dir)?;
    let _below = Submount::tmpfs(&dir)?;
    fs::create_dir(dir.join("dir"))?;
    // Without a barrier: a stock virtiofsd sends no events.
    let mut watching = Recorder::new(&share, Recorder::CHANGES)?;
    for path in ["below", "below/dir"] {
        watching.watch(Path::new(path))?;
    }
    fs::write("/proc/sys/vm/drop_caches", "2")?;
    ensure!(unmount(&dir, UnmountFlags::empty()) == Err(Errno::BUSY), "it is not busy");
    drop(watching);
    unmounted(&dir)
}

/// The guest's kernel forgets what nobody uses when it needs the memory, or is asked to. It says so to
/// the file server later.
fn unmounted(dir: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        match unmount(dir, UnmountFlags::empty()) {
            Err(Errno::BUSY) if Instant::now() < deadline => {}
            unmounted => return unmounted.context("umount"),
        }
    }
}

/// `b` is `a` again.
fn in_two_places(share: &Share) -> Result<Submount> {
    share
        .run_on_host("mkdir -p a/sub a/d/dd b; for f in f g l d/dd/f; do echo old > a/$f; done")?;
    Submount::bind(&share.host().join("a"), &share.host().join("b"))
}

/// Nothing of what has happened before is told to it.
fn recorder(share: &Share, watched: &[&str]) -> Result<Recorder> {
    let mut recorder = Recorder::new(share, Recorder::CHANGES)?;
    recorder.barrier()?;
    for path in watched {
        recorder.watch(Path::new(path))?;
    }
    Ok(recorder)
}

/// What has happened since, and nothing else.
fn is_told(recorder: &mut Recorder, wanted: &str) -> Result<()> {
    let told = lines(&recorder.take_events());
    ensure!(told == wanted, "expected:\n{wanted}told:\n{told}");
    Ok(())
}

fn lines(events: &[Event]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

/// What recorders were told, a step after the other.
struct Told {
    locally: bool,
    steps: Vec<(&'static str, Vec<Vec<Event>>)>,
}

impl Told {
    fn step(
        &mut self,
        share: &Share,
        step: &'static str,
        recorders: &mut [&mut Recorder],
    ) -> Result<()> {
        share.run_on_host(step)?;
        let mut events = Vec::new();
        for recorder in recorders {
            recorder.barrier().context(step)?;
            events.push(merge_allowed(&recorder.take_events()));
        }
        self.steps.push((step, events));
        Ok(())
    }
}

/// Does the same in a local directory and in the mount, and compares step by step.
fn told_as_locally(
    mount: &Mount,
    name: &str,
    run: impl Fn(&Share, &mut Told) -> Result<()>,
) -> Result<()> {
    let told = |share: &Share, locally| {
        let mut told = Told { locally, steps: Vec::new() };
        run(share, &mut told)?;
        anyhow::Ok(told.steps)
    };
    let local = told(&mount.local_twin(name)?, true).context("locally")?;
    let mounted = told(&mount.share(name)?, false)?;
    for ((step, local), (_, mounted)) in local.iter().zip(&mounted) {
        for (local, mounted) in local.iter().zip(mounted) {
            let [local, mounted] = [local, mounted].map(|events| lines(events));
            ensure!(local == mounted, "{step}\n  locally:\n{local}  in the mount:\n{mounted}");
        }
    }
    ensure!(local.len() == mounted.len() && !local.is_empty(), "some steps were not compared");
    Ok(())
}
