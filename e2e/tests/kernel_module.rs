// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's stock kernels with the module of `kernel/dkms`, which raises the events of a share: every
//! scenario, the oracle, mounts that are read-only, and the module's end. No process of ours runs in the
//! guest, and its kernel finds no fault in itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::Need;
use farwatch_testkit::Place;
use farwatch_testkit::oracle::{Oracle, Plan};
use farwatch_testkit::vm::{Kernel, Module, Vm};

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
    let vm = start(version)?;
    let report = Oracle::new(&vm).run(PACED, |_| {})?;
    ensure!(report.events > 0, "nothing was compared");
    if let Some(failure) = report.failure {
        let (seed, difference) = (failure.seed, failure.difference);
        return Err(anyhow!("seed {seed}: {difference}\n{}\n{}", failure.case, vm.log()));
    }
    vm.is_sound()
}

/// Where an agent can replay nothing, since no call that changes something gets as far as the server.
fn read_only(version: &'static str) -> Result<()> {
    let vm = Vm::start_without_agent(&kernel(version)?, &[])?;
    let at = vm.mount_point();
    let again = format!("umount {0}; mount -t virtiofs -o ro {1} {0}", at.display(), vm.tag());
    vm.guest().shell(Path::new("/"), &again)?;
    vm.attach_module().map_err(|error| anyhow!("{error:#}\n{}", vm.log()))?;
    let share = vm.share("read-only")?;
    let mut recorder = vm.recorder(&share)?;
    recorder.watch(Path::new("."))?;
    share.run_on_host("echo new > f; mv f g; rm g")?;
    recorder.barrier()?;
    let told: Vec<String> = recorder.take_events()?.iter().map(ToString::to_string).collect();
    let wanted =
        ["CREATE f", "MODIFY f", "CLOSE_WRITE f", "MOVED_FROM f c1", "MOVED_TO g c1", "DELETE g"];
    ensure!(told == wanted, "{told:?}\n{}", vm.log());
    vm.is_sound()
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
         rmmod {name}",
        name = Module::NAME,
        at = at.display(),
        tag = vm.tag(),
    );
    let done = vm.guest().shell(Path::new("/"), &script);
    done.map_err(|error| anyhow!("{error:#}\n{}", vm.log()))?;
    vm.is_sound()
}
