// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line of mount(8)'s helpers, which `mount.farwatch` is called with, and what its options are for
//! `farwatch mount`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args as _, Parser};

use super::mount::MountArgs;

/// Mount a shared directory with events, as the helper of mount(8) for the type `farwatch`
///
/// Called by `mount -t farwatch SHARED_DIR MOUNT_POINT` and for a line of /etc/fstab. Returns when the share
/// is mounted; a process in the background serves it until it is unmounted, and logs to syslog.
#[derive(Debug, Parser)]
#[command(name = "mount.farwatch", version)]
#[command(after_help = "Example of a line in /etc/fstab:\n  \
    /home/me/src /srv/src farwatch lease=120,x-systemd.requires-mounts-for=/home 0 0")]
pub(crate) struct MountHelperArgs {
    /// The directory to share; with `-o socket`, the socket of the device to mount
    #[arg(value_name = "SHARED_DIR")]
    source: OsString,
    /// The directory to mount it on
    #[arg(value_name = "MOUNT_POINT")]
    mount_point: PathBuf,
    /// Options, separated by commas. Each option of `farwatch mount` is taken without its dashes, such as
    /// `cache=never`, `no-xattr` or `log=info`; `ro` shares the directory read-only; noexec, nosymfollow, noatime,
    /// nodiratime, relatime and strictatime are those of mount(8)
    #[arg(short = 'o', value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Check the options, and mount nothing
    #[arg(short = 'f')]
    fake: bool,
    /// Ignore unknown options
    #[arg(short = 's')]
    sloppy: bool,
    /// The type, which mount(8) may name: has no effect
    #[arg(short = 't', value_name = "TYPE")]
    fs_type: Option<String>,
    /// Has no effect: there is no /etc/mtab
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Has no effect
    #[arg(short = 'v', action = ArgAction::Count)]
    verbose: u8,
}

/// What mount(8) asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountRequest {
    /// The shared directory, or the device's socket.
    pub(crate) source: PathBuf,
    /// Whether it is a socket.
    pub(crate) is_socket: bool,
    pub(crate) mount_point: PathBuf,
    /// Arguments for `farwatch` before `mount`.
    pub(crate) global: Vec<String>,
    /// Arguments for `farwatch mount`, without the paths.
    pub(crate) options: Vec<String>,
    /// Flags of the mount that the kernel keeps.
    pub(crate) flags: Vec<MountFlag>,
    /// Whether to mount nothing.
    pub(crate) fake: bool,
}

/// A flag of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MountFlag {
    NoExec,
    NoSymFollow,
    NoAtime,
    NoDirAtime,
    RelAtime,
    StrictAtime,
}

/// Options that say how and when to mount, which is mount(8)'s and systemd's business, and those that are always so.
const IGNORED: [&str; 19] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "group",
    "nosuid",
    "nodev",
    "exec",
    "async",
    "atime",
    "diratime",
    "symfollow",
];

impl MountHelperArgs {
    /// What is asked for.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub(crate) fn request(self) -> Result<MountRequest, String> {
        let mut request = MountRequest {
            source: self.source.into(),
            is_socket: false,
            mount_point: self.mount_point,
            global: Vec::new(),
            options: Vec::new(),
            flags: Vec::new(),
            fake: self.fake,
        };
        let known = long_options();
        for option in self.options.iter().flat_map(|list| list.split(',')) {
            if !request.take(option, &known)? && !self.sloppy {
                return Err(format!("unknown option '{option}'"));
            }
        }
        Ok(request)
    }
}

impl MountRequest {
    /// Applies one option. False if it is not known.
    fn take(&mut self, option: &str, known: &[String]) -> Result<bool, String> {
        let flag = match option {
            "ro" => {
                self.options.push("--readonly".to_owned());
                return Ok(true);
            }
            "socket" => {
                self.is_socket = true;
                return Ok(true);
            }
            "suid" | "dev" => {
                return Err(format!("'{option}' is not possible: mounts are nosuid and nodev"));
            }
            "noexec" => Some(MountFlag::NoExec),
            "nosymfollow" => Some(MountFlag::NoSymFollow),
            "noatime" => Some(MountFlag::NoAtime),
            "nodiratime" => Some(MountFlag::NoDirAtime),
            "relatime" => Some(MountFlag::RelAtime),
            "strictatime" => Some(MountFlag::StrictAtime),
            _ => None,
        };
        self.flags.extend(flag);
        Ok(flag.is_some() || is_ignored(option) || self.take_own(option, known))
    }

    /// Applies an option of `farwatch mount`.
    fn take_own(&mut self, option: &str, known: &[String]) -> bool {
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        if name == "log" {
            self.global.push(format!("--{option}"));
        } else if known.iter().any(|known| known == name) {
            self.options.push(format!("--{option}"));
        } else {
            return false;
        }
        true
    }
}

fn is_ignored(option: &str) -> bool {
    // For userspace (mount(8), systemd.mount(5)), or what mount(8) notes of who has asked.
    let prefixes = ["x-", "X-", "comment=", "user=", "uhelper=", "helper="];
    option.is_empty()
        || IGNORED.contains(&option)
        || prefixes.iter().any(|prefix| option.starts_with(prefix))
}

/// The options of `farwatch mount` that may be given with `-o`, without their dashes.
fn long_options() -> Vec<String> {
    let command = MountArgs::augment_args(clap::Command::new("mount"));
    let options = command.get_arguments().filter_map(clap::Arg::get_long);
    options
        .filter(|name| !["socket", "detach", "syslog"].contains(name))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<MountRequest, String> {
        let args = ["mount.farwatch"].into_iter().chain(line.split(' '));
        MountHelperArgs::try_parse_from(args).unwrap().request()
    }

    #[test]
    fn options_of_farwatch_mount_are_passed_on_and_those_for_mount_itself_are_not() {
        let request = request(
            "/src /mnt -n -v -o rw,nofail,cache=never,no-xattr,x-systemd.automount -o noexec,log=info,noatime",
        )
        .unwrap();
        assert_eq!(request.options, ["--cache=never", "--no-xattr"]);
        assert_eq!(request.global, ["--log=info"]);
        assert_eq!(request.flags, [MountFlag::NoExec, MountFlag::NoAtime]);
        assert_eq!((request.is_socket, request.fake), (false, false));
    }

    #[test]
    fn ro_shares_the_directory_read_only() {
        assert_eq!(request("/src /mnt -o ro").unwrap().options, ["--readonly"]);
    }

    #[test]
    fn an_unknown_option_is_refused_by_name_unless_mount_is_sloppy() {
        let said = request("/src /mnt -o rw,colour=blue").unwrap_err();
        assert!(said.contains("'colour=blue'"), "{said}");
        assert_eq!(request("/src /mnt -s -o rw,colour=blue").unwrap().options, [""; 0]);
    }

    #[test]
    fn options_that_make_a_mount_trust_the_share_are_refused() {
        for option in ["suid", "dev"] {
            assert!(request(&format!("/src /mnt -o {option}")).unwrap_err().contains(option));
        }
    }

    #[test]
    fn options_that_would_change_the_server_are_refused() {
        for option in ["detach", "syslog", "socket=/run/s"] {
            assert!(request(&format!("/src /mnt -o {option}")).is_err(), "{option}");
        }
        assert!(request("/run/s /mnt -o socket").unwrap().is_socket);
    }
}
