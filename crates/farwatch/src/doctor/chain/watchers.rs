// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which programs watch a file system, by what `/proc` shows of their descriptors (proc_pid_fdinfo(5)), and which of those
//! that are known to poll there are at work in it.

use std::path::Path;
use std::{fs, io};

/// What programs do in a file system.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Programs {
    /// Those that watch it, with the number of their watches.
    pub(super) watching: Vec<(Program, usize)>,
    /// Those that are at work in it, watching or not.
    pub(super) inside: Vec<Program>,
    /// Processes that this user may not look at.
    pub(super) hidden: usize,
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Program {
    pub(super) pid: u32,
    /// `comm`: at most 15 bytes.
    pub(super) name: String,
}

/// Looks at all processes but this one. `device` is that of the file system, as in the mount table, which has it at
/// `mount_point`. Asks no file system but `/proc`.
pub(super) fn programs(device: (u32, u32), mount_point: &Path) -> Programs {
    let mut programs = Programs::default();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != std::process::id()) {
        let root = Path::new("/proc").join(pid.to_string());
        let Ok(name) = fs::read_to_string(root.join("comm")) else { continue };
        let program = Program { pid, name: name.trim_end().to_owned() };
        let descriptors = match fs::read_dir(root.join("fdinfo")) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                // Else it has just ended.
                programs.hidden += usize::from(error.kind() == io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        let watches: usize = descriptors
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .map(|info| watches(&info, device))
            .sum();
        if is_inside(&root, mount_point) {
            programs.inside.push(program.clone());
        }
        if watches > 0 {
            programs.watching.push((program, watches));
        }
    }
    programs
}

/// Its working directory is there, or a file that it has open.
fn is_inside(process: &Path, mount_point: &Path) -> bool {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let mut paths = files.map(|entry| entry.path()).chain([process.join("cwd")]);
    paths.any(|path| fs::read_link(path).is_ok_and(|target| target.starts_with(mount_point)))
}

/// The watches and marks on a file system in the text of a descriptor's `fdinfo`.
fn watches(info: &str, (major, minor): (u32, u32)) -> usize {
    // As the kernel has it in itself: `MKDEV()` of include/linux/kdev_t.h.
    let device = format!("sdev:{:x}", major << 20 | minor);
    let marks =
        info.lines().filter(|line| line.starts_with("inotify ") || line.starts_with("fanotify "));
    marks.filter(|mark| mark.split(' ').any(|field| field == device)).count()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn watches_of_one_file_system_are_counted_and_those_of_others_are_not() {
        let info = "\
pos:\t0
flags:\t02004000
inotify wd:2 ino:7ef82a sdev:2d mask:800afff ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:2af87e00220ffd73
inotify wd:1 ino:192627 sdev:800001 mask:800afff ignored_mask:0
fanotify flags:0 event-flags:88002
fanotify ino:12d45 sdev:2d mflags:0 mask:3b ignored_mask:0
";
        assert_eq!(watches(info, (0, 0x2d)), 2);
        assert_eq!(watches(info, (8, 1)), 1);
        assert_eq!(watches(info, (0, 0x2)), 0);
    }

    #[test]
    fn a_program_is_inside_by_its_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut cat = Command::new("cat");
        let mut cat = cat.current_dir(&dir).stdin(Stdio::piped()).spawn().unwrap();
        let programs = programs((u32::MAX, 0), dir.path());
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert_eq!(programs.inside, [Program { pid: cat.id(), name: "cat".to_owned() }]);
        assert_eq!(programs.watching, []);
    }
}
