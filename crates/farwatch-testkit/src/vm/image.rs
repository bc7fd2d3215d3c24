// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels, and the initial file system that a machine runs from.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Names the directory of kernels; without it, the cache that `./test` fills is looked into.
const KERNELS_VARIABLE: &str = "FARWATCH_KERNELS";
/// Names the directory of what `cargo xtask guest` builds; without it, the one beside the tests.
const PROGRAMS_VARIABLE: &str = "FARWATCH_GUEST_BIN";
/// In the order in which they are loaded. A kernel may have one built in.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "fuse",
    "virtiofs",
    "overlay",
];
const BUSYBOX: &str = "/bin/busybox";
/// What `cargo xtask guest` builds.
const PROGRAMS: [&str; 5] = [
    "farwatch-agent",
    "farwatch-converge",
    "farwatch-hostile",
    "farwatch-observer",
    "notify-client",
];
/// Programs of this machine that are taken along with their libraries, if they are there.
const EXTRAS: [&str; 5] = [
    "/usr/bin/inotifywait",
    "/usr/bin/fsnotifywait",
    "/usr/bin/entr",
    "/usr/bin/reflex",
    "/usr/bin/tail",
];
/// The superuser, and one without any rights.
const PASSWD: &str = "root::0:0::/:/bin/sh\nnobody::65534:65534::/:/bin/sh\n";

/// A stock kernel, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As in the name of its directory: `6.1`.
    pub version: String,
    /// What is booted.
    pub image: PathBuf,
    modules: PathBuf,
    /// Loaded after its own.
    further: Vec<PathBuf>,
}

impl Kernel {
    /// The kernel of a version, if it is there.
    #[must_use]
    pub fn find(version: &str) -> Option<Self> {
        let dir = kernels()?.join(version);
        let (image, modules) = (dir.join("vmlinuz"), dir.join("modules"));
        let is_there = image.is_file() && modules.is_dir();
        is_there.then(|| Self { version: version.to_owned(), image, modules, further: Vec::new() })
    }

    /// The same with a module that is not its own.
    #[must_use]
    pub fn with_module(mut self, module: &Path) -> Self {
        self.further.push(module.to_owned());
        self
    }
}

/// Where `./test` keeps kernels.
pub(super) fn kernels() -> Option<PathBuf> {
    let cache = || {
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
        Some(cache.join("farwatch/kernels"))
    };
    std::env::var_os(KERNELS_VARIABLE).map(PathBuf::from).or_else(cache)
}

/// The statically linked programs for the guest, if they have been built.
pub(crate) fn programs() -> Result<PathBuf> {
    let dir = match std::env::var_os(PROGRAMS_VARIABLE) {
        Some(dir) => PathBuf::from(dir),
        // Test programs lie in target/<profile>/deps, others in target/<profile>.
        None => {
            let own = std::env::current_exe()?;
            let nth = if own.parent().is_some_and(|dir| dir.ends_with("deps")) { 3 } else { 2 };
            own.ancestors().nth(nth).context("a program lies in target/<profile>")?.join("guest")
        }
    };
    let shown = dir.display();
    ensure!(
        PROGRAMS.iter().all(|program| dir.join(program).is_file()),
        "no guest programs in {shown}: build them with `cargo xtask guest`, or set {PROGRAMS_VARIABLE}"
    );
    Ok(dir)
}

/// Makes the initial file system of a machine in `dir`: busybox, the programs of `programs`, and those
/// of this machine that are there. Its first process loads the modules and then does what `then`, a
/// shell script, says.
pub fn initrd(kernel: &Kernel, programs: &Path, then: &str, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    fill(&root, programs)?;
    let modules = modules(kernel, &root.join("lib"))?;
    init(&root, &modules, then)?;
    pack(&root, &dir.join("initrd"))
}

/// The same as a directory, for a kernel that needs no modules.
pub(super) fn root(programs: &Path, then: &str, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    fill(&root, programs)?;
    init(&root, &[], then)?;
    Ok(root)
}

fn fill(root: &Path, programs: &Path) -> Result<()> {
    for sub in ["bin", "etc", "proc", "sys", "dev", "lib", "share", "tmp", "run"] {
        fs::create_dir_all(root.join(sub))?;
    }
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::copy(BUSYBOX, root.join("bin/busybox")).context(BUSYBOX)?;
    for program in PROGRAMS {
        fs::copy(programs.join(program), root.join("bin").join(program)).context(program)?;
    }
    applets(root)?;
    for (program, files) in extras()? {
        for file in files {
            let to = root.join(file.strip_prefix("/").unwrap_or(&file));
            fs::create_dir_all(to.parent().unwrap_or(root))?;
            fs::copy(&file, &to).with_context(|| format!("{program}: {}", file.display()))?;
        }
    }
    Ok(())
}

fn init(root: &Path, modules: &[String], then: &str) -> Result<()> {
    let init = root.join("init");
    fs::write(&init, script(modules, then))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What the first process of the machine does.
fn script(modules: &[String], then: &str) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         export PATH=/bin:/usr/bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mkdir -p /dev/pts && mount -t devpts pts /dev/pts\n\
         mount -t tmpfs tmp /tmp\n",
    );
    for module in modules {
        script += &format!("insmod /lib/{module}.ko\n");
    }
    script + then
}

fn applets(root: &Path) -> Result<()> {
    let list = Command::new(BUSYBOX).arg("--list").output().context(BUSYBOX)?;
    for applet in String::from_utf8(list.stdout)?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| applet.to_owned())?;
    }
    Ok(())
}

/// The files of [`EXTRAS`].
fn extras() -> Result<BTreeMap<&'static str, Vec<PathBuf>>> {
    let mut extras = BTreeMap::new();
    for program in EXTRAS {
        if !Path::new(program).is_file() {
            continue;
        }
        let ldd = Command::new("ldd").arg(program).output().context("ldd")?;
        let ldd = String::from_utf8(ldd.stdout)?;
        let libraries = ldd.split_whitespace().filter(|word| word.starts_with('/'));
        let files = libraries.map(PathBuf::from).chain([PathBuf::from(program)]);
        extras.insert(program, files.collect());
    }
    Ok(extras)
}

/// Unpacks those of [`MODULES`] that are modules, and returns their names in order.
fn modules(kernel: &Kernel, to: &Path) -> Result<Vec<String>> {
    let found = find_modules(&kernel.modules)?;
    let mut loaded = Vec::new();
    for module in MODULES {
        let Some(file) = found.get(module) else { continue };
        let plain = to.join(format!("{module}.ko"));
        if file.extension().is_some_and(|extension| extension == "xz") {
            let out = fs::File::create(&plain)?;
            let status = Command::new("xz").arg("-dc").arg(file).stdout(out).status();
            ensure!(status.context("xz")?.success(), "{} cannot be unpacked", file.display());
        } else {
            fs::copy(file, &plain)?;
        }
        loaded.push(module.to_owned());
    }
    for module in &kernel.further {
        let name = module.file_stem().context("a module's name")?.to_string_lossy().into_owned();
        fs::copy(module, to.join(format!("{name}.ko")))
            .with_context(|| module.display().to_string())?;
        loaded.push(name);
    }
    Ok(loaded)
}

fn find_modules(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(find_modules(&path)?);
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((module, _)) = name.split_once(".ko")
            && MODULES.contains(&module)
        {
            found.insert(module.to_owned(), path);
        }
    }
    Ok(found)
}

fn pack(root: &Path, initrd: &Path) -> Result<PathBuf> {
    let mut find = Command::new("find")
        .arg(".")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("find")?;
    let names = find.stdout.take().context("a pipe")?;
    let cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(names)
        .stdout(fs::File::create(initrd)?)
        .status()
        .context("cpio")?;
    ensure!(cpio.success() && find.wait()?.success(), "the initial file system cannot be packed");
    Ok(initrd.to_owned())
}
