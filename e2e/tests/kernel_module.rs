// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's stock kernels with the module of `kernel/dkms`, which raises the events of a share: every
//! scenario, the oracle, mounts that are read-only, the module's end, and a server that lies. No process of ours
//! delivers events in the guest, and its kernel finds no fault in itself.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::oracle::equal;
use e2e::{Need, hostile};
use farwatch_testkit::Place;
use farwatch_testkit::oracle::Plan;
use farwatch_testkit::vm::{Guest, Kernel, Module, Vm};

const PACED: Plan = Plan {
    ops: 1000,
    seed: 1,
    paced: true,
    in_mount: false,
    by_name: true,
    few: false,
    fault: None,
    shrink: true,
};

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for version in ["6.1", "6.12"] {
        let needs = [Need::Mount, Need::Vm(version), Need::Module(version)];
        type Test = fn(&'static str) -> Result<()>;
        let tests: [(&str, Test); 4] = [
            ("scenarios", scenarios),
            ("paced_operations_are_reported_as_locally", paced),
            ("read_only_mount_has_its_events", read_only),
            ("module_goes_when_its_share_is_unmounted", ends),
        ];
        for (name, test) in tests {
            trials.push(e2e::trial(&format!("{name}::{version}"), &needs, move || test(version)));
        }
        let tests: [(&str, Test); 3] = [
            ("kernel_survives_forbidden_messages_of_a_hostile_server", hostile_cases),
            ("kernel_survives_random_messages_of_a_hostile_server", hostile_at_random),
            ("hostile_server_stops_to_answer", hostile_stops),
        ];
        for (name, test) in tests {
            let needs = &needs[1..];
            trials.push(e2e::trial(&format!("{name}::{version}"), needs, move || test(version)));
        }
        let needs = [needs[2], Need::Program("dkms")];
        let name = format!("dkms_builds_and_installs_it::{version}");
        trials.push(e2e::trial(&name, &needs, move || dkms(version)));
    }
    e2e::run(trials)
}

fn kernel(version: &str) -> Result<Kernel> {
    let module = Module::find(version).context("the module has gone")?;
    Ok(Kernel::find(version).context("the kernel has gone")?.with_module(&module))
}

fn start(version: &str) -> Result<Vm> {
    let vm = Vm::start_without_agent(&kernel(version)?, &[])?;
    vm.attach_module().map_err(|error| anyhow!("{error:#}\n{}", vm.log()))?;
    Ok(vm)
}

fn scenarios(version: &'static str) -> Result<()> {
    let (ready, _) = e2e::scenarios_by_readiness();
    e2e::run_all(&ready, || start(version))
}

fn paced(version: &'static str) -> Result<()> {
    equal(&start(version)?, PACED)
}

/// Where an agent can replay nothing, since no call that changes something gets as far as the server.
fn read_only(version: &'static str) -> Result<()> {
    let vm = Vm::start_without_agent(&kernel(version)?, &[])?;
    e2e::mount_again(&vm, "ro")?;
    vm.attach_module().map_err(|error| anyhow!("{error:#}\n{}", vm.log()))?;
    e2e::tells_once(&vm, "read-only")
}

/// It keeps no mount, can be unloaded while it waits, and refuses what it is not made for.
fn ends(version: &'static str) -> Result<()> {
    let vm = start(version)?;
    let at = vm.mount_point();
    let script = format!(
        "module=/sys/module/{name}/parameters
         refused() {{
             if echo $2 2>/dev/null >$module/$1; then echo \"$2 was taken\"; exit 1; fi
         }}
         grep -q raised $module/attach
         refused attach {at}
         refused attach /tmp
         refused attach /nonexistent
         echo {at} >$module/detach
         test -z \"$(cat $module/attach)\"
         refused detach {at}
         echo {at} >$module/attach
         umount {at}
         while grep -q . $module/attach; do usleep 10000; done
         mount -t virtiofs {tag} {at}
         echo {at} >$module/attach
         rmmod {name}
         ls {at} >/dev/null
         umount {at}
         insmod /lib/{name}.ko
         if insmod /lib/{name}.ko 2>/dev/null; then exit 1; fi
         rmmod {name}
         mount -t virtiofs {tag} {at}
         insmod /lib/{name}.ko mounts={at}
         grep -q raised $module/attach
         rmmod {name} &
         while ! grep -q Unloading /proc/modules; do usleep 1000; done
         if echo {at} 2>/dev/null >$module/attach; then echo \"taken while it goes\"; exit 1; fi
         wait $!",
        name = Module::NAME,
        at = at.display(),
        tag = vm.tag(),
    );
    let done = vm.guest().shell(Path::new("/"), &script);
    done.map_err(|error| anyhow!("{error:#}\n{}", vm.log()))?;
    vm.is_sound()
}

/// Another number is as good.
const SEED: u64 = 1;

fn alone(version: &str) -> Result<Guest> {
    Guest::boot(&kernel(version)?, &[])
}

fn hostile_cases(version: &'static str) -> Result<()> {
    hostile::cases(&mut alone(version)?, hostile::Way::Reads)
}

fn hostile_at_random(version: &'static str) -> Result<()> {
    hostile::random(&mut alone(version)?, hostile::Way::Reads, SEED, 20_000)
}

fn hostile_stops(version: &'static str) -> Result<()> {
    hostile::stops(&mut alone(version)?, hostile::Way::Reads)
}

/// As its documentation says, in directories of the test's.
fn dkms(version: &str) -> Result<()> {
    const PACKAGE: &str = "farwatch-fsnotify/0.1.0";
    let module = Module::of(version)?;
    let headers = module.headers().context("no cache directory")?;
    let release = std::fs::read_to_string(headers.join("release"))?.trim().to_owned();
    let dir = tempfile::Builder::new().prefix("farwatch-dkms-").tempdir()?;
    let [sources, trees, installed] = ["src", "dkms", "modules"].map(|sub| dir.path().join(sub));
    for dir in [&sources, &trees, &installed.join(&release)] {
        std::fs::create_dir_all(dir)?;
    }
    succeed(Command::new(module.maker()).arg(sources.join(PACKAGE.replace('/', "-"))))?;
    for verb in ["add", "build", "install"] {
        let mut dkms = Command::new("dkms");
        dkms.arg(verb).arg("--sourcetree").arg(&sources).arg("--dkmstree").arg(&trees);
        dkms.arg("--installtree").arg(&installed).args(["--no-depmod", "-k", &release]);
        succeed(dkms.arg("--kernelsourcedir").arg(headers.join("build")).arg(PACKAGE))?;
    }
    let file = format!("updates/dkms/{}.ko", Module::NAME);
    ensure!(installed.join(&release).join(&file).is_file(), "there is no {file}");
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&said));
    Ok(())
}
