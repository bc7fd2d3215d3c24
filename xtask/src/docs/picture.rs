// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask docs picture`: the picture of the README, a recording of a real run. Needs root.
//!
//! A directory is mounted with events, `inotifywait` watches the mount, and each command changes the directory itself. The
//! recording has what `inotifywait` printed. The picture is an SVG that plays in a browser, and shows the last moment where
//! nothing can play.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use farwatch_testkit::{Event, Inotifywait, Mount};

const PATH: &str = "docs/images/demo.svg";
/// How long a reader is given for each command, and at the end. Events come within milliseconds, and are shown with their
/// command's end.
const SECONDS_PER_COMMAND: f64 = 1.8;
const SECONDS_AT_THE_END: f64 = 4.0;
/// The commands, each run in the shared directory.
const COMMANDS: [&str; 7] = [
    "echo hello > notes.txt",
    "mkdir docs",
    "mv notes.txt docs/plan.txt",
    "chmod 600 docs/plan.txt",
    "echo v2 > .new; mv .new docs/plan.txt",
    "truncate -s 0 docs/plan.txt",
    "rm -r docs",
];
const LINE_HEIGHT: usize = 19;
const COLUMN: usize = 430;
const MARGIN: usize = 18;
const HEAD: usize = 62;

/// A command and what was printed of it.
#[derive(Debug)]
struct Scene {
    command: &'static str,
    events: Vec<String>,
}

pub(crate) fn run(root: &Path) -> Result<bool> {
    let scenes = record()?;
    let path = root.join(PATH);
    std::fs::write(&path, draw(&scenes)).with_context(|| PATH)?;
    println!("{PATH}");
    Ok(true)
}

fn record() -> Result<Vec<Scene>> {
    let mount = Mount::start()?;
    let share = mount.share("src")?;
    let mut watcher = Inotifywait::start(&share)?;
    COMMANDS
        .into_iter()
        .map(|command| {
            share.run_on_host(command)?;
            let events: Vec<String> = watcher.events_until_now()?.iter().map(as_printed).collect();
            ensure!(!events.is_empty(), "no event of `{command}`");
            Ok(Scene { command, events })
        })
        .collect()
}

/// The watched object itself is a path with a slash at its end, to `inotifywait --format '%e %w%f'`.
fn as_printed(event: &Event) -> String {
    event.to_string().replace('[', "").replace(']', "/")
}

fn draw(scenes: &[Scene]) -> String {
    let lines: usize = scenes.iter().map(|scene| scene.events.len().max(1)).sum();
    let (width, height) = (2 * COLUMN + 2 * MARGIN, HEAD + lines * LINE_HEIGHT + MARGIN);
    let seconds = seconds(scenes.len()) + SECONDS_AT_THE_END;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" \
         font-size=\"13\">\n<title>Commands on the host, and the events in the mount</title>\n<style>\n"
    );
    for at in 0..scenes.len() {
        let percent = 100.0 * self::seconds(at) / seconds;
        let after = percent + 0.5;
        svg += &format!(
            "@keyframes k{at} {{ 0%, {percent:.1}% {{ opacity: 0 }} {after:.1}%, 100% {{ opacity: 1 }} }}\n\
             .s{at} {{ animation: k{at} {seconds:.1}s infinite }}\n"
        );
    }
    svg += "@media (prefers-reduced-motion) { g { animation: none !important } }\n</style>\n";
    svg += &format!(
        "<rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#1e2430\"/>\n\
         <line x1=\"{COLUMN}\" y1=\"12\" x2=\"{COLUMN}\" y2=\"{}\" stroke=\"#3b4456\"/>\n",
        height - 12
    );
    svg += &text(MARGIN, 26, "#8fa1c7", "host: in ~/src");
    let watcher = "in the mount: inotifywait -m -r /srv/src";
    svg += &text(COLUMN + MARGIN, 26, "#8fa1c7", watcher);
    let mut y = HEAD;
    for (at, scene) in scenes.iter().enumerate() {
        svg += &format!("<g class=\"s{at}\">\n");
        svg += &text(MARGIN, y, "#e8ecf4", &format!("$ {}", scene.command));
        for event in &scene.events {
            svg += &text(COLUMN + MARGIN, y, "#9be28f", event);
            y += LINE_HEIGHT;
        }
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

/// When the command with this number is run.
fn seconds(command: usize) -> f64 {
    (0..command).fold(0.6, |seconds, _| seconds + SECONDS_PER_COMMAND)
}

fn text(x: usize, y: usize, colour: &str, line: &str) -> String {
    let mut text = format!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\" xml:space=\"preserve\">");
    for c in line.chars() {
        match c {
            '<' => text += "&lt;",
            '>' => text += "&gt;",
            '&' => text += "&amp;",
            c => text.push(c),
        }
    }
    writeln!(text, "</text>").expect("a string takes everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_each_command_and_event_and_an_animation_for_each_command() {
        let scene = |command, event: &str| Scene { command, events: vec![event.to_owned()] };
        let svg = draw(&[scene("echo > a", "CREATE a"), scene("rm a", "DELETE a")]);
        for part in ["$ echo &gt; a<", ">CREATE a<", ">DELETE a<", "@keyframes k1 ", "class=\"s1\""]
        {
            assert_eq!(svg.matches(part).count(), 1, "{part}");
        }
        assert!(svg.ends_with("</g>\n</svg>\n"));
    }
}
