// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of `farwatch mount`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::modcaps::CapabilityChanges;
use super::serve::{InodeFileHandles, Seccomp};
use super::sharing::{SharingArgs, value_name};

/// Arguments of `farwatch mount`.
#[derive(Debug, Args)]
#[command(override_usage = "farwatch mount [OPTIONS] SHARED_DIR MOUNT_POINT\n       \
    farwatch mount [OPTIONS] --socket PATH MOUNT_POINT")]
pub(crate) struct MountArgs {
    /// The directory to share (not with --socket), and the directory to mount it on
    #[arg(value_names = ["SHARED_DIR", "MOUNT_POINT"], num_args = 1..=2, required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Mount the device that listens on this socket: `farwatch serve`, or virtiofsd, which reports
    /// no events
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Buffers in the notification queue
    #[arg(long, value_name = "N", default_value_t = 64, hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) notification_buffers: u16,
    /// Deliver no events: a separate farwatch-agent does
    #[arg(long, hide = true)]
    pub(crate) no_agent: bool,
    /// Log to syslog, not to standard error
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Start a session without a terminal: for mount.farwatch
    #[arg(long, hide = true)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) sharing: SharingArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// How the process that serves the shared directory is isolated, and how it refers to files.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(next_help_heading = "Device process")]
pub(crate) struct DeviceArgs {
    /// Hide everything but the shared directory from the device process (`chroot`), or nothing (`none`)
    #[arg(long, value_enum, value_name = "MODE", default_value = "chroot")]
    pub(crate) sandbox: DeviceSandbox,
    /// What to do on a system call that the device process does not need
    #[arg(long, value_enum, value_name = "ACTION", default_value = "kill")]
    pub(crate) seccomp: Seccomp,
    /// Keep (+) or drop (-) these capabilities of the device process in addition to the default set, such as
    /// `+sys_admin`, which trusted extended attributes need
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) modcaps: Option<CapabilityChanges>,
    /// Refer to files that the mount knows by file handle instead of an open descriptor each. `prefer` does where that
    /// works
    #[arg(long, value_enum, value_name = "MODE", default_value = "prefer")]
    pub(crate) inode_file_handles: InodeFileHandles,
}

impl DeviceArgs {
    /// Arguments of `farwatch serve` that mean the same.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let Self { sandbox, seccomp, modcaps, inode_file_handles } = self;
        let mut args = vec![
            format!("--sandbox={}", value_name(sandbox)),
            format!("--seccomp={}", value_name(seccomp)),
            format!("--inode-file-handles={}", value_name(inode_file_handles)),
        ];
        args.extend(modcaps.as_ref().map(|changes| format!("--modcaps={changes}")));
        args
    }
}

/// `--sandbox` of `farwatch mount`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum DeviceSandbox {
    /// The shared directory is its root directory
    Chroot,
    /// None
    None,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::ServeArgs;

    #[derive(Debug, Parser)]
    struct Mount {
        #[command(flatten)]
        device: DeviceArgs,
    }

    #[derive(Debug, Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn each_option_of_the_device_process_reaches_serve() {
        let options = [
            "--sandbox=none",
            "--seccomp=log",
            "--modcaps=+sys_admin:-chown",
            "--inode-file-handles=never",
        ];
        let of_mount = Mount::try_parse_from(["mount"].iter().chain(&options)).unwrap();
        let fixed = ["serve", "--fd=0", "--shared-dir=/srv"].map(str::to_owned);
        let line = fixed.into_iter().chain(of_mount.device.to_args());
        let of_serve = Serve::try_parse_from(line).unwrap().args;
        assert!(matches!(of_serve.isolation.sandbox, virtiofsd::sandbox::SandboxMode::None));
        assert_eq!(of_serve.isolation.seccomp, Seccomp::Log);
        assert_eq!(of_serve.isolation.modcaps, "+sys_admin:-chown".parse().ok());
        assert_eq!(of_serve.files.inode_file_handles, InodeFileHandles::Never);

        let by_default = Mount::try_parse_from(["mount"]).unwrap().device.to_args();
        let fixed = ["serve", "--fd=0", "--shared-dir=/srv"].map(str::to_owned);
        let of_serve = Serve::try_parse_from(fixed.into_iter().chain(by_default)).unwrap().args;
        assert!(matches!(of_serve.isolation.sandbox, virtiofsd::sandbox::SandboxMode::Chroot));
        assert_eq!(of_serve.isolation.seccomp, Seccomp::Kill);
    }
}
