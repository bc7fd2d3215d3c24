// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A stock kernel in QEMU, with a share of ours and an agent, and one of stock virtiofsd beside it.
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::latency::Change;
use super::machine::{durations, wait_for_line};
use super::report::Table;
use super::run::Scale;
use super::tree::Tree;
use super::{DONE, micros, per_event};
use crate::mount::Mount;
use crate::process::number_behind;
use crate::vm::{Guest, Kernel, mount_point, programs, serve};

/// Debian's, of which `./test` has fetched one.
const VERSION: &str = "6.12";
const OURS: &str = "ours";
const STOCK: &str = "stock";
/// The directory of [`OURS`] once more, by a server that reports nothing: what is changed there is changed on the host.
const HOST: &str = "host";
const AGENT: &str = "agent";
/// In memory of the guest.
const LOCAL: &str = "/tmp/local";
/// In the shared directories.
const PROGRAM: &str = "farwatch-bench";
const TREE: &str = "walked";
/// Walks after the first: as many as a median needs.
const WALKS: usize = 5;

/// Boots the kernel, takes latencies, and walks through the same tree in both shares again and again.
///
/// # Errors
/// When something is missing, or does not work at all.
pub fn run_stock(scale: Scale, virtiofsd: &Path) -> Result<()> {
    let kernel = Kernel::find(VERSION)
        .context("no kernel: `./test` fetches one, and FARWATCH_KERNELS says where it is")?;
    let ours = serve(OURS, &[])?;
    let start = |shared: Option<PathBuf>| {
        Mount::start_device(|mount, socket| {
            let shared = shared.unwrap_or_else(|| mount.host());
            let mut device = Command::new(virtiofsd);
            device.arg("--socket-path").arg(socket).arg("--shared-dir").arg(shared);
            device.args(["--sandbox", "none", "--log-level", "off"]);
            Ok(device)
        })
    };
    let (stock, host) = (start(None)?, start(Some(ours.host()))?);
    let (tree, program) = (Tree::of_files(scale.files()), programs()?.join(PROGRAM));
    for share in [&ours, &stock] {
        tree.make(&share.host().join(TREE))?;
        fs::copy(&program, share.host().join(PROGRAM)).context(PROGRAM)?;
    }
    let sockets = [ours.socket(), stock.socket(), host.socket()];
    let shares =
        [(OURS, &*sockets[0]), (STOCK, sockets[1].as_path()), (HOST, sockets[2].as_path())];
    let mut guest = Guest::boot(&kernel, &shares)?;
    let mounted = mount_point(OURS);
    guest.start(AGENT, &["farwatch-agent".as_ref(), mounted.as_os_str()])?;
    guest.wait_for_line(AGENT, "events are delivered on ")?;
    for (change, what) in [(Change::Append, "append to a file"), (Change::Create, "create a file")]
    {
        latency(&mut guest, &ours, change, what, scale)?;
    }
    walks(&mut guest, scale)?;
    guest.is_sound()
}

/// From a change to its event, of a program in the guest.
fn latency(
    guest: &mut Guest,
    ours: &Mount,
    change: Change,
    what: &str,
    scale: Scale,
) -> Result<()> {
    let name = format!("{change:?}");
    let own = mount_point(STOCK).join(&name);
    // Of a change on the host, of one that the guest makes in a share itself, and of a local one.
    let sites = [
        (OURS, mount_point(HOST).join(&name), mount_point(OURS).join(&name)),
        ("own change", own.clone(), own),
        ("local", Path::new(LOCAL).join(&name), Path::new(LOCAL).join(&name)),
    ];
    let mut table = Table::new(format!(
        "latency: {what}, {} times each, from the system call to the event",
        scale.turns() * scale.changes()
    ));
    let mut requests = 0;
    for turn in 0..scale.turns() {
        for (site, changed, watched) in &sites {
            let dirs = [changed, watched].map(|dir| dir.display().to_string());
            guest.shell(Path::new("/"), &format!("mkdir -p {}; ls {0} {}", dirs[0], dirs[1]))?;
            let before = served(ours)?;
            let count = scale.changes().to_string();
            let change = name.to_lowercase();
            let argv = ["latency", &*change, &*turn.to_string(), &*count, &*dirs[0], &*dirs[1]];
            let program = mount_point(STOCK).join(PROGRAM);
            let argv: Vec<_> = [program].into_iter().chain(argv.map(PathBuf::from)).collect();
            let samples = measured(guest, &format!("{site}-{name}-{turn}"), &argv)?;
            let (samples, _) = samples.as_chunks();
            for sample in samples {
                table.add_pair(site, *sample);
            }
            if *site == OURS {
                requests += served(ours)? - before;
            }
        }
    }
    table.print_latencies("local");
    let events = scale.turns() * scale.changes();
    println!("  {:.1} requests an event, with the agent's reads\n", per_event(requests, events));
    Ok(())
}

/// Requests that the server of `mount` has had.
fn served(mount: &Mount) -> Result<u64> {
    number_behind(&mount.status()?, "\"requests\":")
}

fn walks(guest: &mut Guest, scale: Scale) -> Result<()> {
    let mut table = Table::new(format!(
        "walk: lstat(2) of {} files, again, in a virtual machine with Linux {VERSION}",
        scale.files()
    ));
    for walk in 0..=WALKS {
        for share in [OURS, STOCK] {
            let at = mount_point(share);
            let files = scale.files().to_string();
            let argv = [at.join(PROGRAM), "walk".into(), files.into(), at.join(TREE)];
            let took = measured(guest, &format!("{share}-{walk}"), &argv)?;
            if walk > 0 {
                table.add(share, took);
            } else {
                println!(
                    "{share}: first walk {}",
                    took.into_iter().map(micros).collect::<String>()
                );
            }
        }
    }
    table.print_totals(STOCK);
    Ok(())
}

fn measured(guest: &mut Guest, name: &str, argv: &[PathBuf]) -> Result<Vec<std::time::Duration>> {
    guest.start(name, argv)?;
    durations(&wait_for_line(guest, name, DONE)?)
}
