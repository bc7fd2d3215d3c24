// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the packages have beside the programs, made from the definitions of the command lines: manual pages, and
//! completions for bash, zsh and fish.
//!
//! Nothing in here is part of a program. `cargo xtask package` runs `farwatch-pages`; the other files of the packages
//! are in `contrib`, and tested here.
#![forbid(unsafe_code)]

mod markdown;
mod page;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;
use clap_complete::aot::generate_to;

use page::{Page, Section};

/// The shells that completions are made for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes the pages into `dir/man` and the completions into `dir/completions`.
///
/// # Errors
/// When something cannot be written.
pub fn write(dir: &Path) -> Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    for page in pages() {
        let path = man.join(page.file_name());
        fs::write(&path, page.render()?).with_context(|| path.display().to_string())?;
    }
    for mut command in [farwatch::cli::command(), farwatch_guest::agent::command()] {
        let name = command.get_name().to_owned();
        for shell in SHELLS {
            generate_to(shell, &mut command, &name, &completions)
                .with_context(|| completions.display().to_string())?;
        }
    }
    Ok(())
}

/// Writes the reference of the command lines, a page of the site, to `path`.
///
/// # Errors
/// When it cannot be written.
pub fn write_markdown(path: &Path) -> Result<()> {
    let mut page =
        "# Command line\n\nMade from the definitions of the command lines, as `--help` is.\n\n"
            .to_owned();
    let commands = [
        farwatch::cli::command(),
        farwatch_guest::agent::command(),
        farwatch::cli::mount_helper_command(),
    ];
    for command in commands {
        markdown::section(&built(command), &mut page)?;
    }
    fs::write(path, page).with_context(|| path.display().to_string())
}

/// A page for each name under which a program is called, and for each command of `farwatch`.
fn pages() -> Vec<Page> {
    let farwatch = built(farwatch::cli::command());
    let agent = built(farwatch_guest::agent::command());
    let mut pages = Vec::new();
    let of_farwatch: Vec<String> =
        commands(&farwatch).map(|command| format!("farwatch-{}(1)", command.get_name())).collect();
    let mut see = of_farwatch.clone();
    see.extend(["mount.farwatch(8)", "farwatch-agent(8)"].map(str::to_owned));
    for command in commands(&farwatch) {
        let name = format!("farwatch-{}", command.get_name());
        pages.push(Page::new(command.clone(), name, Section::Programs, ["farwatch(1)".to_owned()]));
    }
    for command in commands(&agent) {
        let name = format!("farwatch-agent-{}", command.get_name());
        let see = ["farwatch-agent(8)".to_owned()];
        pages.push(Page::new(command.clone(), name, Section::Administration, see));
    }
    pages.push(Page::new(farwatch, "farwatch", Section::Programs, see));
    let see = ["farwatch-serve(1)", "inotify(7)"].map(str::to_owned);
    pages.push(Page::new(agent, "farwatch-agent", Section::Administration, see));
    let see = ["farwatch-mount(1)", "mount(8)", "fstab(5)"].map(str::to_owned);
    let helper = built(farwatch::cli::mount_helper_command());
    pages.push(Page::new(helper, "mount.farwatch", Section::Administration, see));
    pages
}

fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// With what clap adds to each command, `--help` and global options; but for the command `help`, which has no page.
fn built(command: Command) -> Command {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    command
}
