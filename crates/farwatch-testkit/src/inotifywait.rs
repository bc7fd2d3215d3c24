// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The real `inotifywait -m -r`, read line by line.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::event::{Event, Kind};
use crate::process::Process;
use crate::share::Share;

/// A running `inotifywait` over the mount side of a [`Share`].
///
/// It prints no cookies, so the halves of a rename have none here. Names with control characters
/// are not for this reader.
#[derive(Debug)]
pub struct Inotifywait {
    process: Process,
    share: Share,
    barriers_made: u32,
}

impl Inotifywait {
    /// Starts it and waits until it has set up its watches.
    pub fn start(share: &Share) -> Result<Self> {
        let mut command = Command::new("inotifywait");
        command.args(["-m", "-r", "--format", "%e\t%w\t%f"]).current_dir(share.mount());
        for event in [
            "create",
            "modify",
            "attrib",
            "close_write",
            "delete",
            "moved_from",
            "moved_to",
            "delete_self",
            "move_self",
        ] {
            command.args(["-e", event]);
        }
        command.arg(".");
        let mut process = Process::start(command)?;
        process.wait_for_line(|line| line == "Watches established.")?;
        Ok(Self { process, share: share.clone(), barriers_made: 0 })
    }

    /// What it has printed since the last call, up to and without a file that this call makes and
    /// removes in the watched directory.
    pub fn events_until_now(&mut self) -> Result<Vec<Event>> {
        self.barriers_made += 1;
        let name = format!("sentinel-{}", self.barriers_made);
        let sentinel = self.share.host().join(&name);
        fs::File::create_new(&sentinel)?;
        fs::remove_file(&sentinel)?;
        let mut events = Vec::new();
        loop {
            let line = self.process.next_line()?.context("inotifywait has ended")?;
            let event = parse(&line).with_context(|| format!("what is {line:?}?"))?;
            if event.object != name {
                events.push(event);
            } else if event.kind == Kind::Delete {
                return Ok(events);
            }
        }
    }
}

fn parse(line: &str) -> Result<Event> {
    let mut fields = line.split('\t');
    let mut field = || fields.next().context("three fields expected");
    let (mask, watched, name) = (field()?, field()?, field()?);
    // It names CLOSE_WRITE twice: `CLOSE_WRITE,CLOSE`.
    let is_dir = mask.split(',').any(|word| word == "ISDIR");
    let kind = mask.split(',').find_map(Kind::from_name).context("an unknown event")?;
    let watched: std::path::PathBuf =
        Path::new(watched).iter().filter(|part| *part != ".").collect();
    let name = Some(OsStr::new(name)).filter(|name| !name.is_empty());
    Ok(Event { kind, is_dir, object: Event::object_of(&watched, name), cookie: None })
}
