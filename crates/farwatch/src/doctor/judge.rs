// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From facts to findings: what is good, what it means when it is not, and what to do. Pure.

use farwatch_sys::fanotify::Level;
use farwatch_sys::kernel::KernelRelease;
use farwatch_sys::thread::CapabilitySet;
use rustix::io::Errno;

use super::facts::{Dir, Facts, NoFile, RoundTripError, SYSCTLS, Sysctl};
use super::{Finding, Verdict};
use crate::limits::{Limit, Values};

/// Has all that farwatch asks of a kernel: FAN_REPORT_TARGET_FID and FAN_RENAME.
const KERNEL_FULL: KernelRelease = KernelRelease { major: 5, minor: 17 };

/// Descriptors below which large trees meet the limit.
const NOFILE_FLOOR: u64 = 65_536;

/// Where farwatch is tested.
const FS_GOOD: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

/// Whose files others can change without this kernel seeing it; `fuse.*` is one of them too.
const FS_REMOTE: [&str; 16] = [
    "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "fuse", "virtiofs", "vboxsf", "lustre",
    "orangefs", "coda", "gfs2", "ocfs2", "prl_fs",
];

/// Every line of the report, in its order.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts.kernel)];
    findings.extend(watching(facts));
    findings.push(fuse_device(facts.fuse_device));
    findings.extend(capabilities(facts.capabilities));
    let unlimited = facts.fanotify.is_ok_and(|level| level.unlimited);
    findings.extend(SYSCTLS.iter().zip(facts.sysctls).map(|(s, value)| limit(s, value, unlimited)));
    findings.push(nofile(facts.nofile, facts.capabilities));
    findings
}

/// inotify, which `--watch auto` takes, and fanotify, which it takes where inotify is not available.
fn watching(facts: &Facts) -> Vec<Finding> {
    let mut findings = fanotify(facts.fanotify, &facts.limits);
    findings.push(round_trip(facts.round_trip));
    findings.extend(facts.dir.iter().flat_map(|dir| shared_dir(dir, &facts.limits)));
    let no_directory = matches!(facts.dir, Some(Err(_)));
    if facts.inotify.is_ok() && !no_directory {
        for finding in findings.iter_mut().filter(|it| it.verdict == Verdict::Missing) {
            finding.verdict = Verdict::Limited;
        }
    }
    let fanotify = !findings.iter().any(|finding| finding.verdict == Verdict::Missing);
    findings.push(inotify(facts.inotify, fanotify, &facts.limits));
    findings
}

/// `fanotify` says whether that can take inotify's place.
fn inotify(inotify: Result<(), Errno>, fanotify: bool, limits: &Values) -> Finding {
    const SUBJECT: &str = "inotify";
    let (reason, remedy) = match inotify {
        Ok(()) => return Finding::ok(SUBJECT, "reports every change in its order"),
        Err(Errno::MFILE) => (
            "this user has too many instances already".to_owned(),
            Some(Limit::InotifyInstances.reached_at(limits).to_string()),
        ),
        Err(Errno::NOSPC) => (
            "this user has too many watches already".to_owned(),
            Some(Limit::InotifyWatches.reached_at(limits).to_string()),
        ),
        Err(errno) => (format!("not available: {errno}"), None),
    };
    let place = if fanotify {
        "; fanotify replaces it, which merges events that follow each other quickly"
    } else {
        ""
    };
    let finding = Finding::limited(SUBJECT, reason + place);
    match remedy {
        Some(remedy) => finding.remedy(remedy),
        None => finding,
    }
}

fn kernel(release: Option<KernelRelease>) -> Finding {
    const SUBJECT: &str = "kernel";
    match release {
        Some(release) if release >= KERNEL_FULL => Finding::ok(SUBJECT, release.to_string()),
        Some(release) => Finding::limited(SUBJECT, format!("{release}: older than {KERNEL_FULL}"))
            .remedy(format!("Linux {KERNEL_FULL} or newer")),
        None => Finding::limited(SUBJECT, "unknown release format"),
    }
}

fn fanotify(group: Result<Level, Errno>, limits: &Values) -> Vec<Finding> {
    const SUBJECT: &str = "fanotify";
    let no_group = |meaning: &str| Finding::missing(SUBJECT, meaning);
    match group {
        Ok(level) => level_findings(level).into(),
        Err(Errno::NOSYS) => {
            vec![no_group("not available in this kernel").remedy("a kernel with CONFIG_FANOTIFY")]
        }
        Err(Errno::PERM) => vec![
            no_group("not available to this user: before Linux 5.13 it needs CAP_SYS_ADMIN")
                .remedy("run as root, or Linux 5.13 or newer"),
        ],
        Err(Errno::MFILE) => vec![
            no_group("this user or process has too many groups or descriptors already")
                .remedy(Limit::FanotifyGroups.reached_at(limits).to_string()),
        ],
        Err(errno) => vec![no_group(&format!("cannot be opened: {errno}"))],
    }
}

fn level_findings(level: Level) -> [Finding; 3] {
    let newer = format!("Linux {KERNEL_FULL} or newer");
    let target_fid = if level.target_fid {
        Finding::ok("fanotify", "events name the directory, the entry and the object")
    } else {
        Finding::limited("fanotify", "events name the directory and the entry, not the object")
            .remedy(newer.as_str())
    };
    let rename = if level.rename {
        Finding::ok("FAN_RENAME", "a rename is one event with both names")
    } else {
        Finding::limited("FAN_RENAME", "a rename is seen as two events that are not joined")
            .remedy(newer)
    };
    let unlimited = if level.unlimited {
        Finding::ok("FAN_UNLIMITED_QUEUE", "no limit on waiting events and watched directories")
    } else {
        Finding::limited(
            "FAN_UNLIMITED_QUEUE",
            "unprivileged: the limits below apply, and other processes appear as pid 0",
        )
        .remedy("CAP_SYS_ADMIN, where huge trees are shared")
    };
    [target_fid, rename, unlimited]
}

fn round_trip(result: Result<(), RoundTripError>) -> Finding {
    const SUBJECT: &str = "event round trip";
    match result {
        Ok(()) => Finding::ok(SUBJECT, "a file was created and its event arrived"),
        Err(RoundTripError::NoGroup) => Finding::missing(SUBJECT, "not tried without fanotify"),
        Err(RoundTripError::Failed(errno)) => {
            Finding::missing(SUBJECT, format!("not possible in the temporary directory: {errno}"))
                .remedy("set TMPDIR to a directory on a local file system")
        }
        Err(RoundTripError::NoEvent) => {
            Finding::missing(SUBJECT, "a file was created and its event did not arrive")
                .remedy("set TMPDIR to a directory on a local file system")
        }
    }
}

/// The lines about the directory to be shared.
pub(super) fn shared_dir(dir: &Result<Dir, Errno>, limits: &Values) -> Vec<Finding> {
    match dir {
        Ok(dir) => {
            let mut findings = vec![file_system(dir.fs_type.as_deref()), handle(dir.handle)];
            findings.extend(dir.mark.map(|marked| mark(marked, limits)));
            findings
        }
        Err(errno) => vec![Finding::missing("directory", format!("cannot be opened: {errno}"))],
    }
}

fn file_system(fs_type: Option<&str>) -> Finding {
    const SUBJECT: &str = "file system";
    let Some(fs_type) = fs_type else {
        return Finding::limited(SUBJECT, "unknown type: /proc does not show it");
    };
    if FS_GOOD.contains(&fs_type) {
        return Finding::ok(SUBJECT, fs_type);
    }
    let (meaning, remedy) = if fs_type == "overlay" {
        (
            "changes made directly in its upper or lower directory are not seen, and a watch on \
             a file of the lower directory alone does not report that the file is deleted or \
             replaced",
            "change files through the overlay alone",
        )
    } else if FS_REMOTE.contains(&fs_type) || fs_type.starts_with("fuse.") {
        (
            "only changes made on this host are seen",
            "to see those of others, share the directory from the machine that has the files",
        )
    } else {
        ("farwatch is not tested on it", "share a directory on ext4, xfs, btrfs or tmpfs")
    };
    Finding::limited(SUBJECT, format!("{fs_type}: {meaning}")).remedy(remedy)
}

fn handle(handle: Result<(), Errno>) -> Finding {
    const SUBJECT: &str = "file handles";
    match handle {
        Ok(()) => Finding::ok(SUBJECT, "the directory's file system supports them"),
        Err(Errno::OPNOTSUPP | Errno::OVERFLOW) => {
            Finding::missing(SUBJECT, "the directory's file system does not support them")
                .remedy("overlayfs has them from Linux 6.6 on; else another file system")
        }
        Err(errno) => Finding::missing(SUBJECT, format!("the directory has none: {errno}")),
    }
}

fn mark(mark: Result<(), Errno>, limits: &Values) -> Finding {
    const SUBJECT: &str = "watching";
    let missing = |meaning: &str| Finding::missing(SUBJECT, meaning);
    match mark {
        Ok(()) => Finding::ok(SUBJECT, "fanotify can mark the directory"),
        Err(Errno::ACCESS) => missing("the directory is not readable for this user")
            .remedy("give read and search permission, or run as its owner"),
        Err(Errno::NOSPC) => missing("this user has too many marks already")
            .remedy(Limit::FanotifyMarks.reached_at(limits).to_string()),
        // fanotify_mark(2): an fsid that differs from that of the file system's root, or none.
        Err(Errno::XDEV) => missing("this kernel cannot watch a btrfs subvolume by fanotify")
            .remedy("Linux 6.8 or newer, or share a directory outside of subvolumes"),
        Err(Errno::NODEV) => {
            missing("this kernel's fanotify cannot watch the directory's file system")
                .remedy("Linux 6.8 or newer, or another file system")
        }
        Err(Errno::OPNOTSUPP) => {
            missing("the directory's file system cannot be watched by file handle")
                .remedy("another file system")
        }
        Err(errno) => missing(&format!("the directory cannot be marked: {errno}")),
    }
}

fn fuse_device(device: Result<(), Errno>) -> Finding {
    const SUBJECT: &str = "/dev/fuse";
    let missing = |meaning: &str| Finding::missing(SUBJECT, meaning);
    match device {
        Ok(()) => Finding::ok(SUBJECT, "can be opened"),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            missing("no such device").remedy("modprobe fuse; in a container, pass the device in")
        }
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            missing(&format!("cannot be opened: {errno}"))
                .remedy("permission to read and write it; in a container, pass the device in")
        }
        Err(errno) => missing(&format!("cannot be opened: {errno}")),
    }
}

fn capabilities(effective: CapabilitySet) -> [Finding; 5] {
    use Verdict::{Limited, Missing};
    [
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", Missing, "mounting"),
        (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", Missing, "opening by file handle"),
        (CapabilitySet::SETUID, "CAP_SETUID", Missing, "marking replayed calls"),
        (CapabilitySet::SETGID, "CAP_SETGID", Missing, "numbering replayed calls"),
        (CapabilitySet::MKNOD, "CAP_MKNOD", Limited, "making device nodes"),
    ]
    .map(|(capability, subject, without, use_)| {
        if effective.contains(capability) {
            Finding::ok(subject, format!("for {use_}"))
        } else {
            let meaning = format!("missing, so no {use_}: run as root");
            Finding { verdict: without, ..Finding::limited(subject, meaning) }
        }
    })
}

fn limit(sysctl: &Sysctl, value: Option<u64>, unlimited: bool) -> Finding {
    let Sysctl { name, floor, counts, lifted } = *sysctl;
    let Some(value) = value else {
        return Finding::limited(name, "this kernel has a fixed limit, or /proc does not tell");
    };
    let meaning = format!("{value} {counts}");
    if lifted && unlimited {
        Finding::ok(name, format!("{value}, lifted by CAP_SYS_ADMIN"))
    } else if value >= floor {
        Finding::ok(name, meaning)
    } else {
        Finding::limited(name, meaning).remedy(format!("sysctl -w {name}={floor}"))
    }
}

/// `farwatch` raises the soft limit itself, and the hard one if it may.
fn nofile(NoFile { soft, hard }: NoFile, effective: CapabilitySet) -> Finding {
    const SUBJECT: &str = "RLIMIT_NOFILE";
    let show = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |n| n.to_string());
    let limits = format!("soft limit {}, hard limit {}", show(soft), show(hard));
    if effective.contains(CapabilitySet::SYS_RESOURCE) {
        Finding::ok(SUBJECT, format!("{limits}, lifted by CAP_SYS_RESOURCE"))
    } else if hard.is_none_or(|hard| hard >= NOFILE_FLOOR) {
        Finding::ok(SUBJECT, limits)
    } else {
        Finding::limited(SUBJECT, format!("{limits}: one for each object that the guest knows"))
            .remedy(format!("raise the hard limit to {NOFILE_FLOOR} (limits.conf, LimitNOFILE=)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// root on a recent kernel with nothing to complain about.
    fn good() -> Facts {
        Facts {
            kernel: Some(KernelRelease { major: 6, minor: 12 }),
            fanotify: Ok(Level { unlimited: true, target_fid: true, rename: true }),
            round_trip: Ok(()),
            inotify: Ok(()),
            fuse_device: Ok(()),
            capabilities: CapabilitySet::all(),
            sysctls: SYSCTLS.map(|sysctl| Some(sysctl.floor)),
            limits: Values::default(),
            nofile: NoFile { soft: Some(NOFILE_FLOOR), hard: None },
            dir: Some(Ok(Dir {
                fs_type: Some("ext4".to_owned()),
                handle: Ok(()),
                mark: Some(Ok(())),
            })),
        }
    }

    /// Subject and verdict of every line that is not ok.
    fn complaints(facts: &Facts) -> Vec<(&'static str, Verdict)> {
        let mut findings = findings(facts);
        findings.retain(|finding| finding.verdict != Verdict::Ok);
        findings.iter().map(|finding| (finding.subject, finding.verdict)).collect()
    }

    fn with_dir(fs_type: &str, handle: Result<(), Errno>, mark: Result<(), Errno>) -> Facts {
        let dir = Dir { fs_type: Some(fs_type.to_owned()), handle, mark: Some(mark) };
        Facts { dir: Some(Ok(dir)), ..good() }
    }

    #[test]
    fn root_on_a_recent_kernel_has_nothing_to_complain_about() {
        assert_eq!(complaints(&good()), []);
    }

    #[test]
    fn an_unprivileged_user_can_watch_within_limits_and_cannot_mount() {
        let facts = Facts {
            fanotify: Ok(Level { unlimited: false, target_fid: true, rename: true }),
            capabilities: CapabilitySet::empty(),
            ..good()
        };
        let expected = [
            ("FAN_UNLIMITED_QUEUE", Verdict::Limited),
            ("CAP_SYS_ADMIN", Verdict::Missing),
            ("CAP_DAC_READ_SEARCH", Verdict::Missing),
            ("CAP_SETUID", Verdict::Missing),
            ("CAP_SETGID", Verdict::Missing),
            ("CAP_MKNOD", Verdict::Limited),
        ];
        assert_eq!(complaints(&facts), expected);
    }

    #[test]
    fn old_kernel_is_limited_and_its_missing_features_are_reported() {
        let facts = Facts {
            kernel: Some(KernelRelease { major: 5, minor: 10 }),
            fanotify: Ok(Level { unlimited: true, target_fid: false, rename: false }),
            ..good()
        };
        let subjects = ["kernel", "fanotify", "FAN_RENAME"];
        assert_eq!(complaints(&facts), subjects.map(|subject| (subject, Verdict::Limited)));
    }

    #[test]
    fn without_fanotify_reads_are_missing_and_without_both_watching_is() {
        let dir = Dir { fs_type: Some("ext4".to_owned()), handle: Ok(()), mark: None };
        let facts = Facts {
            fanotify: Err(Errno::NOSYS),
            round_trip: Err(RoundTripError::NoGroup),
            dir: Some(Ok(dir)),
            ..good()
        };
        let limited = [("fanotify", Verdict::Limited), ("event round trip", Verdict::Limited)];
        assert_eq!(complaints(&facts), limited);
        let facts = Facts { inotify: Err(Errno::MFILE), ..facts };
        let missing = [
            ("fanotify", Verdict::Missing),
            ("event round trip", Verdict::Missing),
            ("inotify", Verdict::Limited),
        ];
        assert_eq!(complaints(&facts), missing);
    }

    #[test]
    fn without_inotify_fanotify_replaces_it() {
        let facts = Facts { inotify: Err(Errno::MFILE), ..good() };
        assert_eq!(complaints(&facts), [("inotify", Verdict::Limited)]);
        let meaning = findings(&facts).into_iter().find(|finding| finding.subject == "inotify");
        assert!(meaning.is_some_and(|finding| finding.meaning.contains("fanotify replaces it")));
    }

    #[test]
    fn marks_and_queue_limits_matter_only_to_the_unprivileged() {
        let sysctls = SYSCTLS.map(|sysctl| Some(sysctl.floor - 1));
        let privileged = Facts { sysctls, ..good() };
        let level = Level { unlimited: false, target_fid: true, rename: true };
        let unprivileged = Facts { fanotify: Ok(level), ..privileged.clone() };
        let lifted: Vec<_> =
            SYSCTLS.iter().filter(|s| s.lifted).map(|s| (s.name, Verdict::Limited)).collect();
        let [privileged, unprivileged] = [privileged, unprivileged].map(|f| complaints(&f));
        assert_eq!(lifted.len(), 2);
        for limit in lifted {
            assert!(!privileged.contains(&limit) && unprivileged.contains(&limit), "{limit:?}");
        }
        assert_eq!(privileged.len(), 4);
    }

    #[test]
    fn network_and_overlay_file_systems_are_limited() {
        for fs_type in ["nfs4", "9p", "cifs", "fuse.sshfs", "fuse", "overlay", "vfat"] {
            let facts = with_dir(fs_type, Ok(()), Ok(()));
            assert_eq!(complaints(&facts), [("file system", Verdict::Limited)], "{fs_type}");
        }
    }

    #[test]
    fn each_problem_of_the_directory_has_advice() {
        let marks = [Errno::ACCESS, Errno::NOSPC, Errno::XDEV, Errno::NODEV, Errno::OPNOTSUPP];
        let all = marks.map(|errno| with_dir("9p", Err(Errno::OPNOTSUPP), Err(errno)));
        for facts in all {
            let complaints = facts.dir.iter().flat_map(|dir| shared_dir(dir, &facts.limits));
            let remedies: Vec<_> = complaints.map(|finding| finding.remedy).collect();
            assert!(remedies.len() == 3 && remedies.iter().all(Option::is_some), "{remedies:?}");
        }
    }

    #[test]
    fn directory_without_handles_or_marks_needs_inotify_and_a_missing_one_cannot_be_watched() {
        let facts = with_dir("ext4", Err(Errno::OPNOTSUPP), Err(Errno::NODEV));
        let subjects = ["file handles", "watching"];
        assert_eq!(complaints(&facts), subjects.map(|subject| (subject, Verdict::Limited)));
        let facts = Facts { dir: Some(Err(Errno::NOENT)), inotify: Err(Errno::NOENT), ..good() };
        let expected = [("directory", Verdict::Missing), ("inotify", Verdict::Limited)];
        assert_eq!(complaints(&facts), expected);
    }

    #[test]
    fn open_files_are_limited_by_the_hard_limit_and_only_for_those_who_cannot_raise_it() {
        let verdict =
            |hard, effective| nofile(NoFile { soft: Some(1024), hard }, effective).verdict;
        assert_eq!(verdict(Some(4096), CapabilitySet::empty()), Verdict::Limited);
        assert_eq!(verdict(Some(4096), CapabilitySet::SYS_RESOURCE), Verdict::Ok);
        assert_eq!(verdict(Some(524_288), CapabilitySet::empty()), Verdict::Ok);
        assert_eq!(verdict(None, CapabilitySet::empty()), Verdict::Ok);
    }

    #[test]
    fn whatever_is_missing_comes_with_words_on_what_it_means() {
        let limits = Values::default();
        for errno in [Errno::NOSYS, Errno::PERM, Errno::MFILE, Errno::NOMEM, Errno::ACCESS] {
            let findings = [
                fanotify(Err(errno), &limits),
                vec![fuse_device(Err(errno)), mark(Err(errno), &limits)],
            ]
            .concat();
            for finding in findings {
                assert_eq!(finding.verdict, Verdict::Missing, "{errno}");
                assert!(!finding.meaning.is_empty(), "{errno}");
            }
        }
    }
}
