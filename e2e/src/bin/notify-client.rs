// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Prints what the `notify` crate tells of a tree, or what its debouncer makes of that:
//! `notify-client [--debounced] DIRECTORY`. The tests run it on a mount and, linked statically, in
//! virtual machines.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test reads it")]

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use notify_debouncer_full::new_debouncer;

const DEBOUNCE: Duration = Duration::from_millis(50);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_debounced = arguments.iter().any(|argument| argument == "--debounced");
    let top = PathBuf::from(arguments.last().context("which directory?")?);
    if is_debounced { debounced(&top) } else { plain(&top) }
}

fn plain(top: &Path) -> Result<()> {
    let (sender, events) = channel();
    let mut watcher = RecommendedWatcher::new(sender, notify::Config::default())?;
    watcher.watch(top, RecursiveMode::Recursive)?;
    println!("ready");
    for event in events {
        say(&event?, top);
    }
    Ok(())
}

fn debounced(top: &Path) -> Result<()> {
    let (sender, events) = channel();
    let mut debouncer = new_debouncer(DEBOUNCE, None, sender)?;
    debouncer.watch(top, RecursiveMode::Recursive)?;
    println!("ready");
    for events in events {
        let events = events.map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        events.iter().for_each(|event| say(event, top));
    }
    Ok(())
}

fn say(event: &Event, top: &Path) {
    let is_close = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
    // A mount tells of an open only with the close after writing, and of no other: SEMANTICS.md.
    if event.kind.is_access() && !is_close {
        return;
    }
    let kind = match event.kind {
        EventKind::Create(kind) => format!("create-{kind:?}"),
        EventKind::Remove(kind) => format!("remove-{kind:?}"),
        EventKind::Access(_) => "close-write".to_owned(),
        EventKind::Modify(ModifyKind::Data(_)) => "modify".to_owned(),
        EventKind::Modify(ModifyKind::Metadata(_)) => "metadata".to_owned(),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => "rename".to_owned(),
        EventKind::Modify(ModifyKind::Name(mode)) => format!("rename-{mode:?}"),
        EventKind::Any | EventKind::Modify(_) | EventKind::Other => format!("{:?}", event.kind),
    };
    let paths = event.paths.iter().map(|path| path.strip_prefix(top).unwrap_or(path));
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    println!("{} {}", kind.to_lowercase(), paths.join(" "));
}
