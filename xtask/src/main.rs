// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The checks and chores of this repository: `cargo xtask <task>`. One file a task; those that run a program of the test kit share one.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod bench;
mod cached;
mod ci;
mod clients;
mod correctness;
mod docs;
mod fuzz;
mod guest;
mod kernel;
mod module;
mod package;
mod processor_time;
mod tally;
mod testkit;
mod tidy;
mod vm_image;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  ci        all that must pass before a commit: fmt, tidy, clippy, doc, every test; with --long, then also what takes too long
            for each commit: packages built for each architecture, tried, booted, and built again to the same, and clients
  clients   the clients that are large or slow, on a local directory and in a mount; installs what is missing (Debian, root)
  tidy      the house rules that no other tool checks
  docs      the site of the documents, built with mdBook into target/docs/book; the first time also mdBook, into the cache
  docs picture
            the picture of the README, recorded in a real run (needs root)
  guest     the programs that run in a virtual machine, linked statically, into target/guest
  vm-image  KERNEL DIR: an initial file system with these programs for a stock kernel that ./test or
            ./demo has fetched, into DIR/initrd; standard input says what to run in it
  kernel    [VERSION]: the patches of kernel/series, those for 6.12 or 7.3 or all, applied to Debian's source and
            built as a User-mode Linux, into the cache, unless that has been done: prints where it is, and
            boots it once
  module    the module of kernel/dkms, built for Debian's stock kernels into the cache, unless that has been done
  package   [amd64|arm64]: packages for Debian, built in a Debian of their own (needs root and mmdebstrap; once a few minutes,
            into the cache), into target/packages
  oracle    random operations, and whether a mount tells of them what a local directory tells (needs
            root): --ops N --seed S [--unpaced] [--path mount|agent|6.1|6.12|uml] [--watch BACKEND]
            [--few] [--fault drop|swap|cookie] [--keep DIR]; or case FILE
  coherence how old what is read in a mount is, and how often an effect is seen before its cause (needs root):
            [--path mount|agent|local] [--cache POLICY] [--watch BACKEND] [--changes N] [--pause-max MICROSECONDS]
            [--readers N] [--no-watcher] [--seed S]
  converge  few names changed at full speed, on the host and in the mount, and whether what a program in
            the mount believes is true afterwards (needs root): [renames solo both many] --trials N
            --seed S [--settle 1s|sync] [--path mount|agent|local] [--watch BACKEND] [--cache POLICY]
            [--names N --dirs N --ops N --exchange] [--blind] [--fault NAME] [--stop] [--repeat]
            [--log FILE]; farwatch-converge run --help says more
  correctness
            tests of file systems in a local directory, in mounts, and in those of stock virtiofsd; installs what is missing
            (Debian, root): [checks posix fsx fio stress] [--quick] [--all]
  faults    parts of a mount killed, stopped, or out of something while both sides change files, and whether anything is lost
            (needs root): [KIND...] --rounds N --seed S [--minutes N] [--stop]; farwatch-faults --help names the kinds
  fuzz      [TARGET...] [--minutes N]: the targets of fuzz/, guided by coverage, each for a minute or so many; what they find goes
            into target/fuzz
  soak      such faults in one mount for hours, and whether descriptors, watches, memory or anything else grows (needs root):
            [--minutes N], 180 without it; writes a table and a picture beside the temporary files
  bench     what farwatch costs on this machine (needs root): [--quick] [GROUP...]; --quick does a tenth, groups are
            git, writes, latency, speed, burst, io, find, busy, programs, memory
  bench stock
            a tree walked again in a virtual machine with a stock kernel, beside stock virtiofsd (needs root): [--quick]
  bench native
            what an event costs where the guest's kernel raises it, beside an agent and a local directory, in
            one User-mode Linux (needs root): [--quick] [--only latency,burst,walk,watch]";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root");
    let tasks: Vec<String> = std::env::args().skip(1).collect();
    let result = match tasks.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ci"] => ci::run(root, ci::Length::Usual),
        ["ci", "--long"] => ci::run(root, ci::Length::Long),
        ["clients"] => clients::run(root),
        ["tidy"] => tidy::run(root),
        ["docs"] => docs::run(root),
        ["docs", "picture"] => docs::picture::run(root),
        ["guest"] => guest::run(root),
        ["module"] => module::run(root),
        ["kernel", ref versions @ ..] => kernel::run(root, versions),
        ["package", "check"] => package::check(root),
        ["package", "boot"] => package::boot(root, "6.12"),
        ["package", "callers"] => package::callers(root, "6.12"),
        ["package", "reproduce", ref architectures @ ..] => package::reproduce(root, architectures),
        ["package", ref architectures @ ..] => package::run(root, architectures),
        ["vm-image", kernel, dir] => vm_image::run(root, kernel, Path::new(dir)),
        ["oracle", ref args @ ..] => testkit::oracle(root, args),
        ["coherence", ref args @ ..] => testkit::coherence(root, args),
        ["converge", ref args @ ..] => testkit::converge(root, args),
        ["correctness", ref args @ ..] => correctness::run(root, args),
        ["faults", ref args @ ..] => testkit::faults(root, args),
        ["fuzz", ref args @ ..] => fuzz::run(root, args),
        ["soak", ref args @ ..] => testkit::soak(root, args),
        ["bench", "stock", ref args @ ..] => bench::stock::run(root, args),
        ["bench", "native", ref args @ ..] => bench::native::run(root, args),
        ["bench", ref args @ ..] => bench::run(root, args),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
