// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A stock kernel in QEMU, with a share of ours and an agent, and one of stock virtiofsd beside it.
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::machine::{durations, wait_for_line};
use super::report::Table;
use super::run::Scale;
use super::tree::Tree;
use super::{DONE, micros};
use crate::mount::Mount;
use crate::vm::{Guest, Kernel, mount_point, programs, serve};

/// Debian's, of which `./test` has fetched one.
const VERSION: &str = "6.12";
const OURS: &str = "ours";
const STOCK: &str = "stock";
const AGENT: &str = "agent";
/// In the shared directories.
const PROGRAM: &str = "farwatch-bench";
const TREE: &str = "walked";
/// Walks after the first: as many as a median needs.
const WALKS: usize = 5;

/// Boots the kernel, and walks through the same tree in both shares again and again.
///
/// # Errors
/// When something is missing, or does not work at all.
pub fn run_stock(scale: Scale, virtiofsd: &Path) -> Result<()> {
    let kernel = Kernel::find(VERSION)
        .context("no kernel: `./test` fetches one, and FARWATCH_KERNELS says where it is")?;
    let ours = serve(OURS, &[])?;
    let stock = Mount::start_device(|mount, socket| {
        let mut device = Command::new(virtiofsd);
        device.arg("--socket-path").arg(socket).arg("--shared-dir").arg(mount.host());
        device.args(["--sandbox", "none", "--log-level", "off"]);
        Ok(device)
    })?;
    let (tree, program) = (Tree::of_files(scale.files()), programs()?.join(PROGRAM));
    for share in [&ours, &stock] {
        tree.make(&share.host().join(TREE))?;
        fs::copy(&program, share.host().join(PROGRAM)).context(PROGRAM)?;
    }
    let sockets = [ours.socket(), stock.socket()];
    let shares = [(OURS, sockets[0].as_path()), (STOCK, sockets[1].as_path())];
    let mut guest = Guest::boot(&kernel, &shares)?;
    let mounted = mount_point(OURS);
    guest.start(AGENT, &["farwatch-agent".as_ref(), mounted.as_os_str()])?;
    guest.wait_for_line(AGENT, "events are delivered on ")?;
    let mut table = Table::new(format!(
        "walk: lstat(2) of {} files, again, in a virtual machine with Linux {VERSION}",
        scale.files()
    ));
    for walk in 0..=WALKS {
        for share in [OURS, STOCK] {
            let at = mount_point(share);
            let files = scale.files().to_string();
            let argv = [at.join(PROGRAM), "walk".into(), files.into(), at.join(TREE)];
            let took = measured(&mut guest, &format!("{share}-{walk}"), &argv)?;
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
    guest.is_sound()
}

fn measured(guest: &mut Guest, name: &str, argv: &[PathBuf]) -> Result<Vec<std::time::Duration>> {
    guest.start(name, argv)?;
    durations(&wait_for_line(guest, name, DONE)?)
}
