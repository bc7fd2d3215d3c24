// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tools that are large, or slow to start: `cargo xtask ci --long` runs them.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::Need;
use farwatch_testkit::Process;
use libtest_mimic::Trial;

use crate::client::{Room, program, same_as_locally, start};
use crate::long_services::SERVICES;
use crate::recursive::{self, day};
use crate::tool::{Tool, saves};

/// With this set, these are run and no others. `$FARWATCH_CLIENTS` is then a directory of their own.
pub(crate) const LONG_VARIABLE: &str = "FARWATCH_CLIENTS_LONG";

const NPM: Need = Need::Client("node_modules/jest");
const PYPI: Need = Need::Client("python/mkdocs");

/// A program in TypeScript that goes on, and a module that it imports.
const SCRIPT: &str = "echo 'export const word: string = \"word-one\"' > word.ts
    echo 'import { word } from \"./word.ts\"; console.log(word); setInterval(() => {}, 1000)' > main.ts";

pub(crate) fn trials() -> Vec<Trial> {
    let tables = [&BUNDLERS[..], &RUNTIMES, &SITES, &OTHERS, &APPLICATIONS, &SERVICES];
    let dotnet = e2e::trial(
        "file_system_watcher_of_dotnet_reports_the_same_as_locally",
        &[Need::Mount, Need::Python, PYPI],
        file_system_watcher_of_dotnet_reports_the_same_as_locally,
    );
    tables.into_iter().flatten().map(Tool::trial).chain([dotnet]).collect()
}

fn file_system_watcher_of_dotnet_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut python = Command::new("python3");
        let clients = e2e::clients().context("the clients have gone")?;
        python.env("PYTHONPATH", clients.join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        // Without the libraries that know languages.
        python.env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1");
        python.arg(program("dotnet_client.py")).arg(room.share.mount()).arg(&room.own);
        start(python, |line| line == "ready")
    };
    same_as_locally(
        recursive::SETUP,
        client,
        &day([
            &["changed a"],
            &["created b"],
            &["renamed b c"],
            &["created a.tmp"],
            &["renamed a.tmp a"],
            &["created d"],
            &["changed a"],
            &["created d/e"],
            &["renamed sub lib"],
            &["deleted c"],
            &["changed lib/deep"],
            &["changed d/e"],
            &["deleted d/e"],
            &["deleted d"],
            &["created end"],
        ]),
    )
}

const BUNDLERS: [Tool; 2] = [
    Tool {
        test: "parcel_builds_again",
        needs: &[NPM],
        setup: "echo 'export default \"word-one\"' > word.js
            echo 'import word from \"./word.js\"; console.log(word)' > main.js",
        shown: "$OWN/out/main.js",
        command: "exec parcel watch --no-hmr --no-cache --dist-dir=$OWN/out main.js",
        steps: saves!("word.js"),
    },
    Tool {
        test: "tailwind_compiles_again",
        needs: &[NPM],
        setup: "echo '.a { content: \"word-one\" }' > in.css",
        shown: "$OWN/out.css",
        command: "exec tailwindcss --watch=always --cwd $PWD -i $PWD/in.css -o $OWN/out.css",
        steps: saves!("in.css"),
    },
];

/// A page in React that has the word of a module. Next writes beside it.
const PAGE: &str = r#"mkdir app; echo '{"private": true}' > package.json
    echo 'export default ({ children }) => <html><body>{children}</body></html>;' > app/layout.js
    echo 'import { word } from "./word.js"; export default () => <p>{word}</p>;' > app/page.js
    echo 'export const word = "word-one";' > app/word.js
    echo 'export default { turbopack: { root: "/" } };' > next.config.mjs"#;

const APPLICATIONS: [Tool; 6] = [
    Tool {
        test: "next_serves_the_new_page",
        needs: &[NPM],
        setup: PAGE,
        shown: "--watched app http://127.0.0.1:8000/",
        command: "ln -s $CLIENTS/node_modules node_modules; export NEXT_TELEMETRY_DISABLED=1
            exec next dev --turbopack --port 8000",
        steps: saves!("app/word.js"),
    },
    Tool {
        test: "next_with_webpack_serves_the_new_page",
        needs: &[NPM],
        setup: PAGE,
        shown: "--watched app http://127.0.0.1:8000/",
        command: "ln -s $CLIENTS/node_modules node_modules; export NEXT_TELEMETRY_DISABLED=1
            exec next dev --webpack --port 8000",
        steps: saves!("app/word.js"),
    },
    Tool {
        test: "metro_serves_the_new_bundle",
        needs: &[NPM],
        setup: "echo 'export const word = \"word-one\";' > word.js
            echo 'import { word } from \"./word\"; console.log(word);' > main.js",
        shown: "'http://127.0.0.1:8000/main.bundle?dev=true'",
        command: "export MODULES=$CLIENTS/node_modules
            exec metro serve --config $PROGRAMS/metro.config.cjs --port 8000",
        steps: saves!("word.js"),
    },
    Tool {
        test: "browser_sync_reloads_the_page",
        needs: &[NPM],
        setup: "mkdir sub; echo > sub/page.html",
        shown: "--watched sub --ready 'Watching files' -",
        command: "echo word-zero; cp $PROGRAMS/browser-sync.mjs $OWN; exec node $OWN/browser-sync.mjs",
        steps: &[
            ("echo more > sub/page.html", "word-changed"),
            ("echo > sub/word-one.html", "word-changed word-one"),
            ("mv sub/word-one.html word-two.html", "word-changed word-two"),
        ],
    },
    Tool {
        test: "streamlit_runs_the_script_again",
        needs: &[PYPI],
        // A module is watched only some time after the script has run.
        setup: "echo 'print(\"word-one\", flush=True)' > app.py",
        shown: "-",
        command: "exec python3 $PROGRAMS/streamlit_client.py",
        steps: saves!("app.py"),
    },
    Tool {
        test: "cargo_watch_runs_its_command",
        needs: &[Need::Client("bin/cargo-watch")],
        setup: "mkdir src; touch src/lib.rs; echo 'package.name = \"a\"' > Cargo.toml; echo word-one > src/word",
        shown: "--watched src -",
        command: "exec cargo-watch --no-vcs-ignores --shell 'cat src/word'",
        steps: saves!("src/word"),
    },
];

const RUNTIMES: [Tool; 4] = [
    Tool {
        test: "bun_watch_starts_again",
        needs: &[NPM],
        setup: SCRIPT,
        shown: "-",
        command: "exec $OWN/node_modules/@oven/bun-linux-x64/bin/bun --watch main.ts",
        steps: saves!("word.ts"),
    },
    Tool {
        test: "bun_hot_loads_a_module_again",
        needs: &[NPM],
        setup: SCRIPT,
        shown: "-",
        command: "exec $OWN/node_modules/@oven/bun-linux-x64/bin/bun --hot main.ts",
        steps: saves!("word.ts"),
    },
    Tool {
        test: "deno_starts_again",
        needs: &[NPM],
        setup: SCRIPT,
        shown: "--watched word.ts -",
        command: "exec $OWN/node_modules/@deno/linux-x64-glibc/deno run --watch main.ts",
        steps: saves!("word.ts"),
    },
    Tool {
        test: "jest_runs_the_tests_again",
        needs: &[NPM],
        setup: "echo 'test(\"word-one\", () => {});' > a.test.js",
        // Written when the tests are over: while they run, it does not notice a change.
        shown: "$OWN/result",
        command: "exec jest --rootDir=$PWD --watchAll --no-watchman --config={} --cacheDirectory=$OWN/cache \
            --json --outputFile=$OWN/result",
        steps: saves!("a.test.js"),
    },
];

const SITES: [Tool; 5] = [
    Tool {
        test: "eleventy_builds_again",
        needs: &[NPM],
        setup: "echo word-one > index.md",
        shown: "$OWN/out/index.html",
        command: "exec eleventy --quiet --watch --input=. --output=$OWN/out",
        steps: saves!("index.md"),
    },
    Tool {
        test: "live_server_reloads_the_page",
        needs: &[NPM],
        setup: "mkdir sub; echo > sub/word-zero.html",
        shown: "--watched sub --ready 'Ready for changes' -",
        command: "echo word-zero; exec live-server --no-browser --port=8000 --wait=20 .",
        steps: &[
            ("echo > sub/word-zero.html", "word-zero"),
            ("echo > sub/word-one.html", "word-one"),
            ("mv sub/word-one.html word-two.html", "word-two"),
        ],
    },
    Tool {
        test: "hugo_builds_again",
        needs: &[Need::Program("hugo")],
        setup: "mkdir content layouts; echo 'title=\"a\"' > config.toml
            echo '{{ .Content }}' > layouts/index.html; echo word-one > content/_index.md",
        shown: "--watched content $OWN/out/index.html",
        command: "exec hugo --watch --destination $OWN/out --cacheDir $OWN/cache",
        steps: saves!("content/_index.md"),
    },
    Tool {
        test: "sphinx_autobuild_builds_again",
        needs: &[PYPI],
        setup: r"mkdir docs; touch docs/conf.py; printf 'word-one\n==========\n' > docs/index.rst",
        shown: "--watched docs --ready 'Waiting to detect changes' $OWN/out/index.html",
        command: "exec python3 -m sphinx_autobuild docs $OWN/out",
        steps: saves!("docs/index.rst"),
    },
    // It compares the files' times again and again, everywhere.
    Tool {
        test: "mkdocs_builds_again_and_polls",
        needs: &[PYPI],
        setup: "mkdir docs; echo 'site_name: a' > mkdocs.yml; echo word-one > docs/index.md",
        shown: "--polls http://127.0.0.1:8000/",
        command: "exec python3 -m mkdocs serve --config-file mkdocs.yml",
        steps: saves!("docs/index.md"),
    },
];

const OTHERS: [Tool; 4] = [
    Tool {
        test: "listen_reports_files",
        needs: &[Need::Program(
            "/usr/share/rubygems-integration/all/gems/listen-3.7.0/lib/listen.rb",
        )],
        setup: "mkdir sub; echo word-one > sub/page",
        shown: "--watched sub -",
        command: "echo word-one; exec ruby $PROGRAMS/listen.rb",
        steps: saves!("sub/page"),
    },
    Tool {
        test: "emacs_receives_file_notifications",
        needs: &[Need::Program("emacs")],
        setup: "echo word-one > page",
        shown: "-",
        command: "exec emacs --batch --quick --load $PROGRAMS/emacs.el",
        steps: saves!("page"),
    },
    Tool {
        test: "file_system_watcher_of_qt_reports_changes",
        needs: &[Need::Program("/usr/lib/python3/dist-packages/PySide2/__init__.py")],
        setup: "echo word-one > page",
        shown: "--watched page -",
        command: "exec /usr/bin/python3 $PROGRAMS/qt_client.py",
        steps: saves!("page"),
    },
    Tool {
        test: "mercurial_with_fsmonitor_sees_changes",
        needs: &[Need::Program("/usr/bin/hg"), Need::Program("watchman")],
        setup: "/usr/bin/hg init; mkdir sub; touch sub/word-two; /usr/bin/hg add -q; /usr/bin/hg commit -q -u a -m a
            touch word-one",
        shown: "--watched sub $OWN/status",
        command: r#"printf '[extensions]\nfsmonitor=\n[fsmonitor]\nmode=on\ntimeout=30\n' > $OWN/hgrc
            export HGRCPATH=$OWN/hgrc
            watchman --foreground --sockname=$WATCHMAN_SOCK --statefile=$OWN/state --logfile=$OWN/log --no-spawn &
            until test -S $WATCHMAN_SOCK; do :; done
            while :; do env -u PYTHONPATH /usr/bin/hg status > $OWN/new; mv $OWN/new $OWN/status; done"#,
        // It looks again at what was changed or new before, without events: each step is about another file.
        steps: &[
            ("echo new > sub/word-two", "word-two word-one"),
            ("touch word-three", "word-two word-one word-three"),
            ("mv word-three sub/word-four", "word-two word-four word-one"),
        ],
    },
];
