// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system calls that serving needs, as a filter for all others (`seccomp(2)`). `--seccomp` says
//! what happens at one of them.
//!
//! It is loaded when all is opened and bound that serving needs from outside the shared directory,
//! and before there are other threads; those inherit it. What is missing here: to start a program, to
//! open or connect a socket, to mount, to trace, to load code into the kernel.

use anyhow::Context as _;
use seccompiler::BpfProgram;
use serde_json::{Value, json};

use crate::options::Seccomp;

/// Of the process itself: memory, threads, signals, time.
const PROCESS: &[&str] = &[
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "clone",
    "clone3",
    "exit",
    "exit_group",
    "futex",
    "getcpu",
    "getpid",
    "getrandom",
    "gettid",
    "gettimeofday",
    "madvise",
    "membarrier",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "prctl",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
    "tgkill",
    "tkill",
];

/// Of the connection to the client, and of the threads among themselves.
const CONNECTION: &[&str] = &[
    "accept4",
    "close",
    "dup",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "eventfd2",
    "fcntl",
    "memfd_create",
    "pipe2",
    "ppoll",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "shutdown",
    "write",
    "writev",
];

/// Of files: what the guest asks for, with the credentials of its users.
const FILES: &[&str] = &[
    "capget",
    "capset",
    "copy_file_range",
    "fallocate",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchownat",
    "fdatasync",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getdents64",
    "getegid",
    "geteuid",
    "getxattr",
    "linkat",
    "listxattr",
    "lseek",
    "mkdirat",
    "mknodat",
    "name_to_handle_at",
    "newfstatat",
    "open_by_handle_at",
    "openat",
    "openat2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "readlinkat",
    "removexattr",
    "renameat2",
    "setgroups",
    "setresgid",
    "setresuid",
    "setxattr",
    "statx",
    "symlinkat",
    "syncfs",
    "umask",
    "unlinkat",
    "unshare",
    "utimensat",
];

/// Of the socket over which the driver of `farwatch mount` gives its device the FUSE connection, with MSG_NOSIGNAL, and
/// of the one to syslog. Both are connected before the filter is loaded, and no other can be opened.
const MESSAGES: &[&str] = &["sendto"];

/// Of a panic that tells where it was. It ends one request, and must not end the process.
const BACKTRACE: &[&str] = &["getcwd"];

/// Calls that newer architectures do not have any more.
const OLD: &[&str] = if cfg!(target_arch = "x86_64") {
    &[
        "epoll_create",
        "epoll_wait",
        "getdents",
        "open",
        "poll",
        "readlink",
        "renameat",
        "time",
        "unlink",
    ]
} else if cfg!(target_arch = "aarch64") {
    &["renameat"]
} else {
    &[]
};

/// The `ioctl(2)`s that are needed: whether a descriptor blocks (FIONBIO), and how much there is to read
/// (FIONREAD).
const REQUESTS: [u64; 2] = [0x5421, 0x541b];

/// Loads the filter into all threads of this process, for good. `watching` are the system calls of the
/// watch backend in use; `messages` says whether there is a socket to syslog or to a driver of this machine.
///
/// # Errors
/// When the kernel has no seccomp, or the architecture no list.
pub(super) fn load(action: Seccomp, watching: &[&str], messages: bool) -> anyhow::Result<()> {
    let action = match action {
        Seccomp::None => return Ok(()),
        Seccomp::Kill => "kill_process",
        Seccomp::Log => "log",
        Seccomp::Trap => "trap",
    };
    let program =
        compile(action, watching, messages).context("the seccomp filter cannot be made")?;
    seccompiler::apply_filter_all_threads(&program)
        .context("the seccomp filter cannot be loaded (`--seccomp none` runs without)")
}

fn compile(action: &str, watching: &[&str], messages: bool) -> anyhow::Result<BpfProgram> {
    let filter = json!({
        "serve": { "mismatch_action": action, "match_action": "allow", "filter": rules(watching, messages) }
    });
    let arch = std::env::consts::ARCH.try_into()?;
    let mut programs = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch)?;
    programs.remove("serve").context("a filter that was named is there")
}

fn rules(watching: &[&str], messages: bool) -> Vec<Value> {
    let messages = if messages { MESSAGES } else { &[] };
    let all =
        [PROCESS, CONNECTION, FILES, watching, BACKTRACE, OLD, messages].into_iter().flatten();
    let mut rules: Vec<_> = all.map(|name| json!({ "syscall": name })).collect();
    // Of the calling thread alone.
    let own = json!({ "index": 0, "type": "dword", "op": "eq", "val": 0 });
    rules.push(json!({ "syscall": "sched_setaffinity", "args": [own] }));
    for request in REQUESTS {
        let request = json!({ "index": 1, "type": "dword", "op": "eq", "val": request });
        rules.push(json!({ "syscall": "ioctl", "args": [request] }));
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::{env, fs, thread};

    use clap::ValueEnum;
    use signal_hook::consts::SIGSYS;

    use super::*;
    use crate::watch::{FanotifyBackend, InotifyBackend};

    /// Names the action to the child.
    const ACTION_VARIABLE: &str = "FARWATCH_TEST_SECCOMP";
    /// What the child ends with when both parts of it have been done.
    const DONE: i32 = 17;

    #[test]
    fn every_call_of_the_list_is_known_and_named_once() {
        let backends = [FanotifyBackend::SYSTEM_CALLS, InotifyBackend::SYSTEM_CALLS];
        for (watching, messages) in backends.into_iter().zip([false, true]) {
            assert!(!compile("kill_process", watching, messages).unwrap().is_empty());
            let mut names: Vec<_> =
                rules(watching, messages).iter().map(ToString::to_string).collect();
            let len = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), len);
        }
    }

    #[test]
    fn a_forbidden_call_ends_the_process_where_that_was_asked_for() {
        assert_eq!(child("kill").signal(), Some(SIGSYS));
        assert_eq!(child("trap").signal(), Some(SIGSYS));
        assert_eq!(child("log").code(), Some(DONE));
        assert_eq!(child("none").code(), Some(DONE));
    }

    /// This test program once more, with nothing but the test below.
    fn child(action: &str) -> ExitStatus {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "serve::seccomp::tests::in_a_child_under_the_filter"]);
        command.env(ACTION_VARIABLE, action).env("RUST_BACKTRACE", "1");
        command.output().unwrap().status
    }

    /// Does nothing but in a child of the test above.
    #[test]
    fn in_a_child_under_the_filter() {
        let Ok(action) = env::var(ACTION_VARIABLE) else { return };
        load(Seccomp::from_str(&action, false).unwrap(), &[], false).unwrap();
        // An error here ends the child with another code than either expects.
        let allowed = thread::spawn(|| {
            let file = env::temp_dir().join(format!("farwatch-seccomp-{}", std::process::id()));
            fs::write(&file, "allowed").unwrap();
            fs::remove_file(file).unwrap();
        });
        allowed.join().unwrap();
        let panicked = thread::spawn(|| panic!("this shows a backtrace"));
        assert!(panicked.join().is_err());
        drop(UnixDatagram::unbound());
        std::process::exit(DONE);
    }
}
