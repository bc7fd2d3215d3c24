// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`FileSystem`]: an empty one of a given type, made for a test and gone with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

/// Enough for the smallest XFS that mkfs.xfs makes, 300 MiB. The file is sparse.
const IMAGE_LEN: u64 = 512 << 20;

/// What a directory that is shared can lie on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsType {
    /// On a loop device.
    Ext4,
    /// On a loop device.
    Xfs,
    /// On a loop device.
    Btrfs,
    /// A subvolume of it, on a loop device.
    BtrfsSubvolume,
    /// In memory.
    Tmpfs,
    /// overlayfs with both layers on one ext4, as containers have it. Directories of the lower layer can
    /// be renamed (`redirect_dir`).
    Overlay,
    /// The same with an index, whose file handles open files too.
    IndexedOverlay,
}

impl FsType {
    /// As in `/proc/filesystems`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs | Self::BtrfsSubvolume => "btrfs",
            Self::Tmpfs => "tmpfs",
            Self::Overlay | Self::IndexedOverlay => "overlay",
        }
    }

    /// What lies on the loop device, and what makes it.
    fn image(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Ext4 | Self::Overlay | Self::IndexedOverlay => {
                Some(("ext4", &["mkfs.ext4", "-q", "-F"]))
            }
            Self::Xfs => Some(("xfs", &["mkfs.xfs", "-q"])),
            Self::Btrfs | Self::BtrfsSubvolume => Some(("btrfs", &["mkfs.btrfs", "-q"])),
            Self::Tmpfs => None,
        }
    }

    /// Why this machine cannot have one.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let image = self.image();
        let lower = image.map(|(name, _)| name);
        for name in [Some(self.name()), lower].into_iter().flatten() {
            if !kernel_has(name) {
                return Some(format!("needs a kernel with {name}"));
            }
        }
        let (_, make) = image?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = make.first()?;
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            return Some(format!("needs {program}"));
        }
        (!Path::new("/dev/loop-control").exists()).then(|| "needs loop devices".to_owned())
    }
}

/// A mounted file system. Dropping it unmounts it; the loop device goes with the mount.
#[derive(Debug)]
pub struct FileSystem {
    fs_type: FsType,
    root: PathBuf,
    /// Innermost last.
    mounted: Vec<PathBuf>,
    // Removed last.
    dir: TempDir,
}

impl FileSystem {
    /// Makes and mounts one. To be called in a mount namespace of the test's own, so that nothing stays
    /// behind when the test is killed.
    pub fn make(fs_type: FsType) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("farwatch-fs-").tempdir()?;
        let base = dir.path().join("base");
        let mut made = Self { fs_type, root: base.clone(), mounted: Vec::new(), dir };
        fs::create_dir(&base)?;
        match fs_type.image() {
            Some((name, make)) => {
                let image = made.dir.path().join("image");
                File::create_new(&image)?.set_len(IMAGE_LEN)?;
                let (program, args) = make.split_first().context("no program")?;
                succeed(Command::new(program).args(args).arg(&image))?;
                made.mount(&[name, "-o", "loop"], &image, &base)?;
                // The loop device has it open, and a test that is killed leaves no such file.
                fs::remove_file(&image)?;
            }
            None => made.mount(&[fs_type.name()], Path::new("farwatch-test"), &base)?,
        }
        match fs_type {
            FsType::BtrfsSubvolume => {
                made.root = base.join("subvolume");
                succeed(Command::new("btrfs").args(["subvolume", "create"]).arg(&made.root))?;
            }
            FsType::Overlay | FsType::IndexedOverlay => {
                for layer in ["lower", "upper", "work", "merged"] {
                    fs::create_dir(base.join(layer))?;
                }
                made.root = base.join("merged");
                made.overlay()?;
            }
            FsType::Ext4 | FsType::Xfs | FsType::Btrfs | FsType::Tmpfs => {}
        }
        Ok(made)
    }

    /// What it was made as.
    #[must_use]
    pub fn fs_type(&self) -> FsType {
        self.fs_type
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A layer of overlayfs: `lower` or `upper`.
    #[must_use]
    pub fn layer(&self, layer: &str) -> PathBuf {
        self.dir.path().join("base").join(layer)
    }

    /// Makes all that is on the overlay part of its lower layer, and the upper one empty. Nothing on it may
    /// be in use.
    pub fn lower_all(&mut self) -> Result<()> {
        let merged = self.mounted.pop().context("not mounted")?;
        unmount(&merged, UnmountFlags::empty())?;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|layer| self.layer(layer));
        fs::remove_dir(&lower)?;
        fs::rename(&upper, &lower)?;
        fs::remove_dir_all(&work)?;
        for layer in [upper, work] {
            fs::create_dir(layer)?;
        }
        self.overlay()
    }

    fn overlay(&mut self) -> Result<()> {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|layer| self.layer(layer));
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        if self.fs_type == FsType::IndexedOverlay {
            options += ",index=on,nfs_export=on";
        } else {
            options += ",redirect_dir=on";
        }
        let merged = self.root.clone();
        self.mount(&["overlay", "-o", &options], Path::new("overlay"), &merged)
    }

    fn mount(&mut self, options: &[&str], source: &Path, target: &Path) -> Result<()> {
        succeed(Command::new("mount").arg("-t").args(options).arg(source).arg(target))?;
        self.mounted.push(target.to_owned());
        Ok(())
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            // Whatever still uses it keeps it only as long as it runs.
            let _gone = unmount(target, UnmountFlags::DETACH);
        }
    }
}

/// Whether the kernel has a file system of this name, or gets it with a module.
#[must_use]
pub fn kernel_has(name: &str) -> bool {
    let listed = || {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.split_whitespace().last() == Some(name))
    };
    // A module that is not there cannot be loaded, and that is the answer.
    listed() || Command::new("modprobe").arg(name).output().is_ok() && listed()
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(())
}
