// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services that look at the files they serve when these change. They run in a Debian of their own, where
//! `programs/in_debian.sh` starts them: installed on this machine, some would start.

use e2e::Need;

use crate::tool::{Tool, saves};

const DEBIAN: Need = Need::Client("services");

/// Four samples of sound, in a form that every program knows, and a directory.
const SOUND: &str = r"mkdir sub; printf 'RIFF\054\000\000\000WAVEfmt \020\000\000\000\001\000\001\000\100\037\000\000%b' \
    '\0200\0076\0000\0000\0002\0000\0020\0000data\0010\0000\0000\0000\0001\0000\0002\0000\0003\0000\0004\0000' > word-one.wav";

pub(crate) const SERVICES: [Tool; 8] = [
    Tool {
        test: "prometheus_reads_its_targets_again",
        needs: &[DEBIAN],
        setup: r#"echo '[{"targets": ["word-one:80"]}]' > targets.json"#,
        shown: "http://127.0.0.1:9090/api/v1/targets",
        command: r#"echo 'scrape_configs: [{job_name: a, file_sd_configs: [
                {files: [/srv/targets.json], refresh_interval: 1d}]}]' > $OWN/prometheus.yml
            exec sh $PROGRAMS/in_debian.sh 'exec prometheus --config.file=/mnt/prometheus.yml \
                --storage.tsdb.path=/tmp/data --web.listen-address=127.0.0.1:9090'"#,
        steps: saves!("targets.json"),
    },
    // It never lists the directory again by itself (`rescanIntervalS`).
    Tool {
        test: "syncthing_finds_changed_files",
        needs: &[DEBIAN],
        setup: "mkdir .stfolder; echo > word-one",
        shown: "-",
        command: r#"mkdir $OWN/home; cp $PROGRAMS/syncthing_events.py $OWN
            echo '<configuration version="35">
                <folder id="a" path="/srv" type="sendonly" rescanIntervalS="0" fsWatcherEnabled="true"
                    fsWatcherDelayS="1"/>
                <gui enabled="true" tls="false"><address>127.0.0.1:8384</address><apikey>key</apikey></gui>
                <options><globalAnnounceEnabled>false</globalAnnounceEnabled><relaysEnabled>false</relaysEnabled>
                    <localAnnounceEnabled>false</localAnnounceEnabled><natEnabled>false</natEnabled>
                    <crashReportingEnabled>false</crashReportingEnabled><urAccepted>-1</urAccepted></options>
                </configuration>' > $OWN/home/config.xml
            exec sh $PROGRAMS/in_debian.sh 'echo word-zero; python3 /mnt/syncthing_events.py key &
                exec syncthing serve --home=/mnt/home --no-browser --no-restart'"#,
        steps: &[
            ("echo > word-two", "word-two"),
            ("echo more > new; mv new word-one", "word-one"),
            ("mkdir d; echo > d/word-three", "word-three"),
            ("echo more > d/word-three", "word-three"),
        ],
    },
    Tool {
        test: "samba_notifies_its_clients",
        needs: &[DEBIAN],
        setup: "mkdir sub",
        shown: "--watched sub -",
        command: r#"printf '%s\n' '[global]' 'map to guest = bad user' 'server role = standalone server' \
                'disable netbios = yes' 'smb ports = 445' 'log file = /tmp/log' 'interfaces = lo' 'load printers = no' \
                'printing = bsd' 'disable spoolss = yes' '[share]' 'path = /srv' 'guest ok = yes' > $OWN/smb.conf
            exec sh $PROGRAMS/in_debian.sh 'mkdir -p /var/lib/samba/private /var/log/samba /var/cache/samba /run/samba
                smbd --foreground --no-process-group --configfile=/mnt/smb.conf &
                ask="smbclient --configfile=/mnt/smb.conf --no-pass //127.0.0.1/share"
                until $ask --command ls >/dev/null 2>&1; do sleep 0.1; done
                echo word-zero; exec stdbuf --output=L $ask --command "notify sub"'"#,
        steps: &[
            ("echo > sub/word-one", "word-one"),
            ("mv sub/word-one sub/word-two", "word-two"),
            ("mkdir sub/word-three", "word-three"),
            ("echo > word-four; mv word-four sub", "word-four"),
        ],
    },
    Tool {
        test: "transmission_adds_torrents_from_its_directory",
        needs: &[DEBIAN],
        setup: "",
        shown: "-",
        command: "exec sh $PROGRAMS/in_debian.sh 'echo word-zero; exec transmission-daemon --foreground --log-info \
            --watch-dir /srv --config-dir /mnt/transmission --download-dir /tmp --no-portmap --no-dht --no-lpd --no-utp'",
        steps: &[
            (
                "printf 'd4:infod6:lengthi1e4:name8:word-one12:piece lengthi16384e6:pieces20:AAAAAAAAAAAAAAAAAAAAee' \
                 > a.torrent",
                "word-one",
            ),
            (
                "printf 'd4:infod6:lengthi1e4:name8:word-two12:piece lengthi16384e6:pieces20:BBBBBBBBBBBBBBBBBBBBee' \
                 > new; mv new b.torrent",
                "word-two",
            ),
        ],
    },
    Tool {
        test: "mpd_updates_its_database",
        needs: &[DEBIAN],
        setup: SOUND,
        shown: "--watched sub $OWN/list",
        command: r#"printf '%s\n' 'music_directory "/srv"' 'db_file "/tmp/database"' 'auto_update "yes"' \
                'bind_to_address "/tmp/socket"' 'audio_output {' 'type "null"' 'name "null"' '}' > $OWN/mpd.conf
            exec sh $PROGRAMS/in_debian.sh 'mpd --no-daemon --stderr /mnt/mpd.conf &
                export MPD_HOST=/tmp/socket
                while :; do mpc listall > /mnt/new && mv /mnt/new /mnt/list; sleep 0.1; done'"#,
        steps: &[
            ("cp word-one.wav word-two.wav", "word-one word-two"),
            ("cp word-one.wav sub/word-three.wav", "word-one word-two word-three"),
            // It keeps the old name of what is renamed, locally too.
            ("cp word-one.wav t; mv t word-four.wav", "word-four word-one word-two word-three"),
        ],
    },
    Tool {
        test: "minidlna_finds_new_files",
        needs: &[DEBIAN],
        setup: SOUND,
        shown: "--watched sub -",
        command: r#"printf '%s\n' media_dir=/srv db_dir=/mnt/minidlna log_dir=/tmp inotify=yes network_interface=lo \
                log_level=general,database,scanner,metadata,http,ssdp=error,inotify=debug > $OWN/minidlna.conf
            exec sh $PROGRAMS/in_debian.sh 'echo word-zero
                exec stdbuf --output=L minidlnad -d -f /mnt/minidlna.conf -P /tmp/pid'"#,
        steps: &[
            ("cp word-one.wav word-two.wav", "word-two"),
            ("mv word-two.wav sub/word-three.wav", "word-three"),
            ("cp word-one.wav sub/word-four.wav", "word-four"),
        ],
    },
    Tool {
        test: "jekyll_builds_again",
        needs: &[DEBIAN],
        setup: r"printf -- '---\n---\nword-one\n' > index.md",
        shown: "$OWN/site/index.html",
        command: "exec sh $PROGRAMS/in_debian.sh 'exec jekyll build --watch --source /srv --destination /mnt/site \
            --disable-disk-cache'",
        steps: saves!("index.md"),
    },
    Tool {
        test: "tracker_indexes_files_again",
        needs: &[DEBIAN],
        setup: "echo > word-one.txt",
        shown: "$OWN/list",
        command: r#"mkdir -p $OWN/config/glib-2.0/settings
            printf '%s\n' '[org/freedesktop/tracker/miner/files]' "index-recursive-directories=['/srv']" \
                'index-single-directories=@as []' 'initial-sleep=0' > $OWN/config/glib-2.0/settings/keyfile
            exec sh $PROGRAMS/in_debian.sh 'export XDG_CONFIG_HOME=/mnt/config GSETTINGS_BACKEND=keyfile XDG_RUNTIME_DIR=/run
                exec dbus-run-session sh -ec "
                    /usr/libexec/tracker-miner-fs-3 --no-daemon &
                    while :; do
                        tracker3 sparql --dbus-service=org.freedesktop.Tracker3.Miner.Files --query \"\
                            SELECT ?file WHERE { ?file a nfo:FileDataObject } ORDER BY ?file\" > /mnt/new &&
                            mv /mnt/new /mnt/list
                        sleep 0.1
                    done"'"#,
        steps: &[
            ("echo > word-two.txt", "word-one word-two"),
            ("mv word-two.txt word-three.txt", "word-one word-three"),
            ("rm word-one.txt", "word-three"),
        ],
    },
];
