// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tools that `./test` runs.

use e2e::Need;
use libtest_mimic::Trial;

use crate::tool::{Tool, saves};

const NPM: Need = Need::Client("node_modules/tsx");
const PYPI: Need = Need::Client("python/uvicorn");

pub(crate) fn trials() -> Vec<Trial> {
    TOOLS.iter().map(Tool::trial).collect()
}

const TOOLS: [Tool; 13] = [
    // It compares the files' times and lengths again and again, everywhere.
    Tool {
        test: "esbuild_builds_again_and_polls",
        needs: &[NPM],
        setup: "echo 'export default \"word-one\"' > word.js
            echo 'import word from \"./word.js\"; console.log(word)' > main.js",
        shown: "--polls $OWN/out.js",
        command: "esbuild main.js --bundle --watch=forever --outfile=$OWN/out.js",
        steps: saves!("word.js"),
    },
    Tool {
        test: "rollup_builds_again",
        needs: &[NPM],
        setup: "echo 'export default \"word-one\"' > word.js
            echo 'import word from \"./word.js\"; console.log(word)' > main.js",
        shown: "--watched word.js --ready 'waiting for changes' $OWN/out.js",
        command: "rollup main.js --watch --file $OWN/out.js",
        steps: saves!("word.js"),
    },
    Tool {
        test: "sass_compiles_again",
        needs: &[NPM],
        setup: "echo '$word: \"word-one\";' > _word.scss
            echo '@use \"word\"; a { content: word.$word }' > main.scss",
        shown: "--ready 'Sass is watching' $OWN/out.css",
        command: "sass --watch main.scss:$OWN/out.css",
        steps: saves!("_word.scss"),
    },
    Tool {
        test: "tsx_starts_again",
        needs: &[NPM],
        setup: "echo 'export const word: string = \"word-one\"' > word.ts
            echo 'import { word } from \"./word\"; console.log(word)' > main.ts",
        shown: "--watched word.ts -",
        command: "exec tsx watch --clear-screen=false main.ts",
        steps: saves!("word.ts"),
    },
    Tool {
        test: "node_dev_starts_again",
        needs: &[NPM],
        setup: "echo 'module.exports = \"word-one\"' > word.js
            echo 'console.log(require(\"./word.js\")); setInterval(() => {}, 1000)' > main.js",
        shown: "--watched word.js -",
        command: "exec node-dev --notify=false main.js",
        steps: saves!("word.js"),
    },
    Tool {
        test: "supervisor_starts_again",
        needs: &[NPM],
        setup: "echo 'console.log(\"word-one\"); setInterval(() => {}, 1000)' > main.js",
        shown: "--ready 'Watching directory' -",
        command: "exec supervisor --force-watch --watch . main.js",
        steps: saves!("main.js"),
    },
    Tool {
        test: "onchange_runs_its_command",
        needs: &[NPM],
        setup: "mkdir sub; echo word-one > sub/page.txt",
        shown: "--watched sub -",
        command: "exec onchange --initial --await-write-finish 20 'sub/*.txt' -- cat sub/page.txt",
        steps: saves!("sub/page.txt"),
    },
    Tool {
        test: "uvicorn_loads_the_application_again",
        needs: &[PYPI],
        setup: "mkdir lib; echo 'WORD = b\"word-one\"' > lib/word.py; cat > app.py <<'end'
from lib.word import WORD
async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': WORD})
end",
        shown: "--watched lib http://127.0.0.1:8000/",
        command: "exec python3 -m uvicorn --reload --reload-delay 0.05 --no-access-log --lifespan off app:app",
        steps: saves!("lib/word.py"),
    },
    Tool {
        test: "gunicorn_loads_the_application_again",
        needs: &[PYPI],
        setup: "mkdir lib; echo 'WORD = b\"word-one\"' > lib/word.py; cat > app.py <<'end'
from lib.word import WORD
def app(environ, start_response):
    start_response('200 OK', [])
    return [WORD]
end",
        shown: "--watched lib http://127.0.0.1:8000/",
        command: "exec python3 -m gunicorn --reload --reload-engine inotify app:app",
        steps: saves!("lib/word.py"),
    },
    Tool {
        test: "dnsmasq_reads_its_hosts_again",
        needs: &[Need::Program("dnsmasq")],
        setup: "mkdir hosts; echo '10.0.0.1 word-one' > hosts/word-one",
        shown: "--watched hosts -",
        command: "exec dnsmasq --no-daemon --conf-file=/dev/null --user= --port=5300 --hostsdir=$PWD/hosts",
        steps: &[
            ("echo '10.0.0.2 word-one' > hosts/word-one", "word-one"),
            ("echo '10.0.0.3 b' > hosts/word-two", "word-two"),
            ("echo '10.0.0.3 c' > new; mv new hosts/word-three", "word-three"),
        ],
    },
    Tool {
        test: "lsyncd_copies_what_changes",
        needs: &[Need::Program("lsyncd"), Need::Program("rsync")],
        setup: "mkdir sub; echo word-one > sub/page",
        shown: "--watched sub $OWN/copy/sub/page",
        command: "exec lsyncd -nodaemon -log all -delay 0 -rsync $PWD $OWN/copy",
        steps: saves!("sub/page"),
    },
    Tool {
        test: "incron_runs_its_commands",
        needs: &[Need::Client("debian/usr/sbin/incrond")],
        setup: "echo word-one > page",
        shown: "$OWN/copy",
        command: r#"mkdir $OWN/tables $OWN/users; cp page $OWN/copy
            echo "$PWD IN_CLOSE_WRITE,IN_MOVED_TO cp -f \$@/page $OWN/copy" > $OWN/tables/table
            printf '%s\n' "system_table_dir=$OWN/tables" "user_table_dir=$OWN/users" "lockfile_dir=$OWN" > $OWN/config
            exec $CLIENTS/debian/usr/sbin/incrond --foreground --config=$OWN/config"#,
        steps: saves!("page"),
    },
    Tool {
        test: "git_with_the_hook_of_watchman_sees_changes",
        needs: &[
            Need::Program("git"),
            Need::Program("watchman"),
            Need::Program("/usr/share/git-core/templates/hooks/fsmonitor-watchman.sample"),
        ],
        setup: "git init -q; mkdir sub; echo one > word-one; echo two > sub/word-two; git add .
            git -c user.name=a -c user.email=a commit -q -m a; rm word-one",
        shown: "--watched sub $OWN/status",
        command: r#"mkdir $OWN/bin; export PATH=$OWN/bin:$PATH
            printf '#!/bin/sh\nexec /usr/bin/watchman --sockname=%s "$@"' $WATCHMAN_SOCK > $OWN/bin/watchman
            chmod +x $OWN/bin/watchman
            watchman --foreground --statefile=$OWN/state --logfile=$OWN/log --no-spawn &
            until test -S $WATCHMAN_SOCK; do :; done
            install /usr/share/git-core/templates/hooks/fsmonitor-watchman.sample $OWN/hook
            while :; do
                git -c core.fsmonitor=$OWN/hook -c core.fsmonitorHookVersion=2 status --short > $OWN/new
                mv $OWN/new $OWN/status
            done"#,
        steps: &[
            ("echo new > sub/word-two", "word-two word-one"),
            ("echo one > word-one", "word-two"),
            ("touch word-three", "word-two word-three"),
            ("mv word-three sub/word-four", "word-two word-four"),
        ],
    },
];
