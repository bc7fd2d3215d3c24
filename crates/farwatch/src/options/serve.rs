// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of `farwatch serve`: those of virtiofsd 1.14, with the same names and meanings, and a
//! few additions. `-o`, the older form, is read by `compat`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use virtiofsd::idmap::{GidMap, UidMap};
use virtiofsd::passthrough::xattrmap::XattrMap;
use virtiofsd::passthrough::{MigrationMode, MigrationOnError, NegotiationMode};
use virtiofsd::sandbox::SandboxMode;
use virtiofsd::soft_idmap::cmdline::IdMap;

use super::modcaps::CapabilityChanges;
use super::sharing::SharingArgs;

/// Whose defaults apply to options that are not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defaults {
    /// Those of `farwatch serve`.
    Farwatch,
    /// Those of virtiofsd: extended attributes only on request, and a single client.
    Virtiofsd,
}

/// Arguments of `farwatch serve`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[command(after_help = "A program that starts virtiofsd, such as libvirt, can start a link to \
    farwatch in its place. Under the name virtiofsd or farwatch-virtiofsd it takes these options \
    without `serve`, shares extended attributes only with --xattr, announces submounts, logs from \
    --log-level info on, and ends when its client disconnects.")]
pub(crate) struct ServeArgs {
    /// The directory to share
    #[arg(long, value_name = "PATH")]
    #[arg(required_unless_present_any = ["compat_options", "print_capabilities"])]
    pub(crate) shared_dir: Option<PathBuf>,
    /// The name under which a guest mounts the share: at most 36 bytes. QEMU ignores it and has its
    /// own
    #[arg(long, default_value = "farwatch")]
    pub(crate) tag: String,
    #[command(flatten)]
    pub(crate) sharing: SharingArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    #[command(flatten)]
    pub(crate) isolation: IsolationArgs,
    #[command(flatten)]
    pub(crate) ids: IdArgs,
    #[command(flatten)]
    pub(crate) migration: MigrationArgs,
    #[command(flatten)]
    pub(crate) compat: CompatArgs,
}

/// How the client connects.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Listen on this vhost-user socket; an existing one is replaced. PATH.pid is locked while it is
    /// served
    #[arg(long, visible_alias = "socket-path", value_name = "PATH")]
    #[arg(required_unless_present_any = ["fd", "print_capabilities"])]
    pub(crate) socket: Option<PathBuf>,
    /// Listen on this inherited file descriptor, a listening socket
    #[arg(long, value_name = "N", conflicts_with = "socket")]
    pub(crate) fd: Option<RawFd>,
    /// Serve the FUSE connection that comes over this inherited socket: for the device of `farwatch mount`
    #[arg(long, value_name = "N", hide = true, requires_all = ["fd", "once"])]
    pub(crate) handoff_fd: Option<RawFd>,
    /// Let members of this group connect
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["fd", "print_capabilities"])]
    pub(crate) socket_group: Option<String>,
    /// Exit when the client disconnects, instead of waiting for the next one
    #[arg(long)]
    pub(crate) once: bool,
}

/// What the guest's file system supports.
#[derive(Debug, Args)]
#[command(next_help_heading = "File system")]
pub(crate) struct FileArgs {
    /// Share extended attributes: the default, but not under the name virtiofsd
    #[arg(long, overrides_with = "no_xattr")]
    pub(crate) xattr: bool,
    /// Rename extended attributes between guest and host, such as `:map::user.virtiofs.:`; implies
    /// --xattr
    #[arg(long, value_name = "RULES")]
    #[arg(value_parser = |rules: &str| XattrMap::try_from(rules))]
    pub(crate) xattrmap: Option<XattrMap>,
    /// POSIX ACLs: if the guest supports them (auto), or refuse a guest that does not (always);
    /// implies --xattr
    #[arg(long, require_equals = true, num_args = 0..=1, value_name = "never|auto|always")]
    #[arg(default_value = "never", default_missing_value = "always")]
    pub(crate) posix_acl: NegotiationMode,
    /// Give new files the SELinux label that the guest sends, likewise; implies --xattr
    #[arg(long, require_equals = true, num_args = 0..=1, value_name = "never|auto|always")]
    #[arg(default_value = "never", default_missing_value = "always")]
    pub(crate) security_label: NegotiationMode,
    /// Tell the guest which directories are mount points: the default under the name virtiofsd. The
    /// guest mounts each as a file system of its own
    #[arg(long, overrides_with = "no_announce_submounts")]
    pub(crate) announce_submounts: bool,
    /// Show mounts below the shared directory as part of it: the default, but not under the name
    /// virtiofsd
    #[arg(long, overrides_with = "announce_submounts")]
    pub(crate) no_announce_submounts: bool,
    /// Refer to files that the guest knows by file handle instead of an open descriptor each.
    /// `prefer` does where that works. Needs CAP_DAC_READ_SEARCH
    #[arg(long, value_enum, value_name = "MODE", default_value = "prefer")]
    pub(crate) inode_file_handles: InodeFileHandles,
    /// List directories without looking up their entries
    #[arg(long)]
    pub(crate) no_readdirplus: bool,
    /// Let the guest cache writes. Only for a directory that does not change on the host
    #[arg(long)]
    pub(crate) writeback: bool,
    /// Pass O_DIRECT to the host
    #[arg(long)]
    pub(crate) allow_direct_io: bool,
    /// Allow shared mappings of files with --cache never or metadata. Only for a directory that does
    /// not change on the host
    #[arg(long)]
    pub(crate) allow_mmap: bool,
    /// Pass O_NOATIME to the host, which refuses it for files of other users
    #[arg(long)]
    pub(crate) preserve_noatime: bool,
    /// Let the host clear setuid and setgid bits at a write, if the guest's kernel can (Linux 5.11): the default, but
    /// not under the name virtiofsd. Without it, each write to a share with extended attributes takes two requests
    #[arg(long, overrides_with = "no_killpriv_v2")]
    pub(crate) killpriv_v2: bool,
    /// Let the guest clear them: the default under the name virtiofsd
    #[arg(long, overrides_with = "killpriv_v2")]
    pub(crate) no_killpriv_v2: bool,
}

/// What the process itself is still allowed to do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Isolation")]
pub(crate) struct IsolationArgs {
    /// Hide everything but the shared directory from the daemon: with `namespace`, which also works
    /// for an ordinary user, with `chroot`, which needs root, or not at all (`none`)
    #[arg(long, value_name = "namespace|chroot|none", default_value = "namespace")]
    pub(crate) sandbox: SandboxMode,
    /// What to do on a system call that the daemon does not need
    #[arg(long, value_enum, value_name = "ACTION", default_value = "kill")]
    pub(crate) seccomp: Seccomp,
    /// Keep (+) or drop (-) these capabilities in addition to the default set, such as
    /// `+sys_admin:-chown`
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) modcaps: Option<CapabilityChanges>,
    /// Limit of open files; 0 leaves it unchanged [default: 1000000, or the kernel's maximum]
    #[arg(long, value_name = "N")]
    pub(crate) rlimit_nofile: Option<u64>,
}

/// How users and groups of the guest map to those of the host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Users and groups")]
pub(crate) struct IdArgs {
    /// For an ordinary user with --sandbox namespace: map a range of the host's users into the user
    /// namespace, `:inside:outside:count:`. Any user but the caller needs newuidmap(1)
    #[arg(long, value_name = "MAP")]
    pub(crate) uid_map: Vec<UidMap>,
    /// The same for groups
    #[arg(long, value_name = "MAP")]
    pub(crate) gid_map: Vec<GidMap>,
    /// Translate users without a user namespace, `TYPE:from:to:count`. TYPE is guest, host,
    /// squash-guest, squash-host, forbid-guest (`forbid-guest:from:count`), or map for both ways
    /// (`map:guest:host:count`)
    #[arg(long, value_name = "RULE", value_parser = super::ids::rule)]
    pub(crate) translate_uid: Vec<IdMap>,
    /// The same for groups
    #[arg(long, value_name = "RULE", value_parser = super::ids::rule)]
    pub(crate) translate_gid: Vec<IdMap>,
}

/// How live migration carries the file server's state to another host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Migration")]
pub(crate) struct MigrationArgs {
    /// How the destination finds a file: by its path (find-paths) or file handle (file-handles)
    #[arg(long, value_name = "MODE", default_value = "find-paths")]
    pub(crate) migration_mode: MigrationMode,
    /// When the guest has a deleted file open, which it would lose: abort, or guest-error for that file
    #[arg(long, value_name = "ACTION", default_value = "abort")]
    pub(crate) migration_on_error: MigrationOnError,
    /// With find-paths: send file handles too, and check that the paths lead to the same files
    #[arg(long)]
    pub(crate) migration_verify_handles: bool,
    /// Has no effect: with find-paths, all paths are checked again at the end
    #[arg(long)]
    pub(crate) migration_confirm_paths: bool,
}

/// Options for programs that expect virtiofsd.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compatibility with virtiofsd")]
pub(crate) struct CompatArgs {
    /// Print what this device supports, for a management program, and exit
    #[arg(long)]
    pub(crate) print_capabilities: bool,
    /// What to log: error, warn, info, debug, trace or off; overrides --log
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true, hide_possible_values = true)]
    pub(crate) log_level: Option<LogLevel>,
    /// Log to syslog, not to standard error
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Has no effect: each of the --request-queues has a thread
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) thread_pool_size: usize,
    /// Options in the form of the first virtiofsd, such as `source=PATH,cache=auto,xattr`
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) compat_options: Vec<String>,
    /// The same as --log-level debug
    #[arg(short = 'd')]
    pub(crate) compat_debug: bool,
    /// Has no effect: it always runs in the foreground
    #[arg(short = 'f')]
    pub(crate) compat_foreground: bool,
}

/// `--log-level`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    Off,
}

/// `--inode-file-handles`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum InodeFileHandles {
    /// Keep a descriptor open for each file
    Never,
    /// Use file handles where they work
    #[value(alias = "fallback")]
    Prefer,
    /// Use file handles, or fail
    Mandatory,
}

/// `--seccomp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Seccomp {
    /// Allow every system call (no filter)
    None,
    /// Kill the process
    Kill,
    /// Allow the call and have the kernel log it
    Log,
    /// Send SIGSYS to the process
    Trap,
}

impl LogLevel {
    /// The log filter that lets this level and all above it through.
    pub(crate) fn filter(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
            Self::Off => "off",
        }
    }
}

impl ServeArgs {
    /// Whether the guest sees extended attributes.
    pub(crate) fn xattr(&self, defaults: Defaults) -> bool {
        let files = &self.files;
        let implied = files.xattrmap.is_some()
            || files.posix_acl != NegotiationMode::Never
            || files.security_label != NegotiationMode::Never;
        let default = defaults == Defaults::Farwatch && !self.sharing.no_xattr;
        implied || files.xattr || default
    }

    /// Whether the host clears setuid and setgid bits, not the guest.
    pub(crate) fn kills_privileges(&self, defaults: Defaults) -> bool {
        let files = &self.files;
        files.killpriv_v2 || (defaults == Defaults::Farwatch && !files.no_killpriv_v2)
    }

    /// Whether the guest is told of mounts below the shared directory, so that it mounts each as a file
    /// system of its own.
    pub(crate) fn announces_submounts(&self, defaults: Defaults) -> bool {
        let files = &self.files;
        files.announce_submounts
            || (defaults == Defaults::Virtiofsd && !files.no_announce_submounts)
    }

    /// Rejects the combinations that virtiofsd rejects.
    ///
    /// # Errors
    /// One sentence for the user.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (files, ids, migration) = (&self.files, &self.ids, &self.migration);
        if migration.migration_mode == MigrationMode::FileHandles {
            let needless = [
                (migration.migration_confirm_paths, "--migration-confirm-paths"),
                (migration.migration_verify_handles, "--migration-verify-handles"),
            ];
            if let Some((_, option)) = needless.iter().find(|(given, _)| *given) {
                bail!("{option} is for --migration-mode find-paths: file handles need no check");
            }
        }
        let translates = !ids.translate_uid.is_empty() || !ids.translate_gid.is_empty();
        if files.posix_acl != NegotiationMode::Never && translates {
            bail!(
                "--translate-uid and --translate-gid cannot be used with --posix-acl={}: users \
                 and groups in an ACL are not translated",
                files.posix_acl
            );
        }
        Ok(())
    }

    /// Logs which of the given options have no effect.
    pub(crate) fn warn(&self) {
        if self.compat.thread_pool_size > 0 {
            tracing::info!("--thread-pool-size has no effect: see --request-queues");
        }
        if self.compat.compat_foreground {
            tracing::info!("-f has no effect");
        }
    }
}
