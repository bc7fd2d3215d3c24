// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The reference of the command lines as a page of the site, in Markdown.

use std::fmt::{self, Write};

use clap::{Arg, Command};

/// Writes a section for `command`, which has been built, and one for each of its commands.
///
/// # Errors
/// Those of `out`.
pub(crate) fn section(command: &Command, out: &mut impl Write) -> fmt::Result {
    written(command, out, Level::Top)
}

fn written(command: &Command, out: &mut impl Write, level: Level) -> fmt::Result {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    writeln!(out, "## `{name}`\n")?;
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        writeln!(out, "{}\n", escaped(&about.to_string()))?;
    }
    let usage = command.clone().render_usage().to_string();
    writeln!(out, "```text\n{}\n```\n", usage.trim_start_matches("Usage: "))?;
    let is_repeated = |arg: &Arg| {
        let of_every_command = ["help", "version"].contains(&arg.get_id().as_str());
        level == Level::Below && (arg.is_global_set() || of_every_command)
    };
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && !is_repeated(arg));
    let shown: Vec<&Arg> = shown.collect();
    if !shown.is_empty() {
        writeln!(out, "| argument | meaning |\n|---|---|")?;
        for arg in shown {
            writeln!(out, "| `{}` | {} |", cell(&name_of(arg)), cell(&meaning(arg)))?;
        }
        writeln!(out)?;
    }
    if let Some(after) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        writeln!(out, "```text\n{}\n```\n", after.to_string().trim())?;
    }
    let mut below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below.try_for_each(|below| written(below, out, Level::Below))
}

/// Where a command is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// A program.
    Top,
    /// A command of a program, whose global options are not repeated.
    Below,
}

/// `-o, --option <VALUE>`, or `<VALUE>`.
fn name_of(arg: &Arg) -> String {
    let values = || {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ")
    };
    if arg.is_positional() {
        return values();
    }
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let mut name = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() {
        name.push(' ');
        name.push_str(&values());
    }
    name
}

/// The help of an argument, with the values that it may have, its default and its variable.
fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string);
    let mut meaning = escaped(help.unwrap_or_default().trim_end_matches('.'));
    meaning.push('.');
    if arg.get_action().takes_values() {
        let possible = arg.get_possible_values();
        let values: Vec<String> = possible
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !values.is_empty() {
            meaning.push_str(&format!(" Values: {}.", values.join(", ")));
        }
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() && !arg.is_hide_default_value_set() {
            meaning.push_str(&format!(" Default: `{}`.", defaults.join(",")));
        }
    }
    if let Some(variable) = arg.get_env() {
        meaning.push_str(&format!(" Environment: `{}`.", variable.to_string_lossy()));
    }
    meaning
}

/// Text that Markdown would take for a tag.
fn escaped(text: &str) -> String {
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// Text in a cell of a table: on one line.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_usage_and_each_argument_with_its_values() {
        let command = Command::new("mount")
            .about("Mount a directory")
            .arg(Arg::new("DIR").value_name("DIR").help("the directory, or <none>").required(true))
            .arg(
                Arg::new("cache")
                    .long("cache")
                    .value_name("POLICY")
                    .value_parser(["auto", "never"])
                    .default_value("auto")
                    .help("what is cached"),
            )
            .arg(Arg::new("secret").long("secret").hide(true))
            .disable_help_flag(true);
        let mut page = String::new();
        section(&command, &mut page).expect("a string takes everything");
        assert_eq!(
            page,
            "## `mount`\n\nMount a directory\n\n```text\nmount [OPTIONS] <DIR>\n```\n\n\
             | argument | meaning |\n|---|---|\n| `<DIR>` | the directory, or &lt;none&gt;. |\n\
             | `--cache <POLICY>` | what is cached. Values: `auto`, `never`. Default: `auto`. |\n\n"
        );
    }
}
