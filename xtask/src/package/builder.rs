// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Root`]: a root directory with a Debian in it, made with mmdebstrap and kept in the cache under a name made of what
//! is in it. The machine's own packages are left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use farwatch_testkit::vm::hash_of_parts;

use crate::cached;

/// The oldest Debian that packages are for: what is built there runs on those that follow.
const BUILD_SUITE: &str = "bookworm";

/// A compiler for both architectures with its source, since the standard library for musl is built, what makes packages,
/// and what runs programs of the other processor. `rustc-web` is the newest Rust that Debian has for the suite.
const BUILD_PACKAGES: &str = "ca-certificates,debhelper,dpkg-dev,rpm,pkg-config,gcc,libc6-dev,libcap-ng-dev,\
    musl-tools,cargo-web,rustc-web,rust-web-src,gcc-aarch64-linux-gnu,libc6-dev:arm64,libcap-ng-dev:arm64,\
    musl-dev:arm64,libstd-rust-web-dev:arm64,qemu-user-static";

/// What packages are tried in: one that can boot, with programs that watch and check.
const TEST_PACKAGES: &str = "inotify-tools,kmod,libcap-ng0,mount,procps,systemd,systemd-sysv,udev";

/// What starts virtiofsd there, by its own means.
const CALLER_PACKAGES: &str = "inotify-tools,libcap-ng0,libvirt-clients,libvirt-daemon-driver-qemu,libvirt-daemon-system,\
    mount,procps,qemu-system-x86";

/// The suites that packages are tried in, and what else each has: virtiofsd is a package from trixie on.
const TEST_SUITES: [(&str, &str); 2] =
    [("bookworm", ",openrc,rpm"), ("trixie", ",lintian,virtiofsd")];

/// Lays a layer over the root directory `$1`, so that what is written is gone afterwards: `$root`.
const LAYER: &str = r#"
    set -e
    root=$1 layer=$(mktemp -d)
    trap 'umount -Rl "$layer"; rmdir "$layer"' EXIT
    mount -t tmpfs none "$layer" && mkdir "$layer"/{upper,work,root}
    mount -t overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" none "$layer/root"
    root=$layer/root
    mount -t proc none "$root/proc" && mount --rbind /dev "$root/dev"
"#;

const ENTER_TO_BUILD: &str = r#"
    mkdir -p "$root"/{src,target,packages,build,cargo/registry}
    mount --bind "$2" "$root/src" && mount -o remount,bind,ro "$root/src"
    mount --bind "$3" "$root/target"
    mount --bind "$4" "$root/packages"
    mount --bind "$5" "$root/cargo/registry"
    cp /etc/resolv.conf "$root/etc/" && cp "$6" "$root$6"
    shift 6
    chroot "$root" /usr/bin/env -i HOME=/root CARGO_HOME=/cargo PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 "$@"
"#;

/// The directory that is shared there is on a file system of its own: an overlay gives a file another inode when it is
/// first written.
const ENTER_TO_TEST: &str = r#"
    mkdir -p "$root"/{src,packages,scripts}
    mount -t tmpfs none "$root/src"
    mount --bind "$2" "$root/packages"
    mount --bind "$3" "$root/scripts"
    shift 3
    chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 "$@"
"#;

/// The suite whose root has rpm and OpenRC.
pub(super) const RPM_SUITE: &str = "bookworm";

/// The suite whose root has lintian.
pub(super) const LINTIAN_SUITE: &str = "trixie";

/// The suite that is booted.
const BOOT_SUITE: &str = "trixie";

/// The suite of the programs that start virtiofsd.
const CALLER_SUITE: &str = "trixie";

/// Where the system has the certificates that it trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    /// The one in which packages are built.
    pub(super) fn builder() -> Result<Self> {
        Self::make("package-builder", BUILD_SUITE, "amd64,arm64", BUILD_PACKAGES)
    }

    /// Those in which packages are installed, used and removed, with the names of their suites.
    pub(super) fn tests() -> Result<Vec<(&'static str, Self)>> {
        let make = |(suite, more): (&'static str, &str)| {
            let packages = format!("{TEST_PACKAGES}{more}");
            Ok((suite, Self::make("package-test", suite, "amd64", &packages)?))
        };
        TEST_SUITES.into_iter().map(make).collect()
    }

    /// The one with programs that start virtiofsd.
    pub(super) fn callers() -> Result<Self> {
        Self::make("package-callers", CALLER_SUITE, "amd64", CALLER_PACKAGES)
    }

    /// Boots that Debian in a virtual machine, by `packaging/boot.sh`.
    pub(super) fn boot_command(scripts: &Path, packages: &Path) -> Result<Command> {
        let tests = Self::tests()?;
        let (_, Self(root)) =
            tests.iter().find(|(suite, _)| *suite == BOOT_SUITE).context(BOOT_SUITE)?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]);
        unshare.arg("bash").arg(scripts.join("boot.sh")).arg(root).arg(packages);
        Ok(unshare)
    }

    fn make(name: &str, suite: &str, architectures: &str, packages: &str) -> Result<Self> {
        let version = hash_of_parts(&[suite, architectures, packages]);
        let cache = cached::dir()?;
        fs::create_dir_all(&cache)?;
        let built = cache.join(format!("{name}-{suite}-{version}"));
        let is_there = built.is_dir();
        cached::build(
            &built,
            || is_there,
            |new| {
                println!("a Debian {suite} to work in, once, into {}", built.display());
                let mut mmdebstrap = Command::new("mmdebstrap");
                mmdebstrap.args(["--quiet", "--variant=minbase"]);
                mmdebstrap.arg(format!("--architectures={architectures}"));
                mmdebstrap.arg(format!("--include={packages}")).arg(suite).arg(new);
                let status = mmdebstrap.status().context("mmdebstrap (install it)")?;
                ensure!(status.success(), "mmdebstrap: {status}");
                Ok(())
            },
        )?;
        Ok(Self(built))
    }

    /// A command that runs what is added to it, `NAME=VALUE` first, in the root, in a mount namespace of its own: with
    /// the checkout `source` as /src, which cannot be written, `target` as /target and `into` as /packages.
    pub(super) fn build_command(
        &self,
        source: &Path,
        target: &Path,
        into: &Path,
    ) -> Result<Command> {
        let registry = cargo_home()?.join("registry");
        fs::create_dir_all(&registry)?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "bash", "-c"]);
        unshare.arg(format!("{LAYER}{ENTER_TO_BUILD}")).arg("bash");
        unshare.arg(&self.0).args([source, target, into]).arg(registry).arg(CERTIFICATES);
        Ok(unshare)
    }

    /// A command that runs what is added to it, in namespaces of its own for mounts and processes: with `packages` as
    /// /packages and `scripts` as /scripts. All that it changes is gone afterwards, and so is what it starts.
    pub(super) fn test_command(&self, packages: &Path, scripts: &Path) -> Command {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--pid", "--fork", "bash", "-c"]);
        unshare.arg(format!("{LAYER}{ENTER_TO_TEST}")).arg("bash");
        unshare.arg(&self.0).args([packages, scripts]);
        unshare
    }
}

/// `$CARGO_HOME`, whose registry is used: what is there is not fetched again.
fn cargo_home() -> Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(PathBuf::from(std::env::var_os("HOME").context("$HOME")?).join(".cargo")),
    }
}
