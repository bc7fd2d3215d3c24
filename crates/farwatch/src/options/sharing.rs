// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options that `farwatch mount` and `farwatch serve` have in common.
//!
//! `farwatch mount` passes them to the `farwatch serve` that it starts, with
//! [`SharingArgs::to_args`].

use std::time::Duration;

use clap::{Args, ValueEnum};
use farwatch_proto::Mask;

use super::metrics::MetricsAddr;

/// How a directory is shared.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub(crate) struct SharingArgs {
    /// Do not let the client change anything; changes made on the host are still reported
    #[arg(long)]
    pub(crate) readonly: bool,
    /// What the client may cache. With `never`, every access goes to the host
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Cache::Events)]
    #[arg(ignore_case = true)]
    pub(crate) cache: Cache,
    /// With `--cache events`: how long the client may cache what events keep up to date. If the agent is lost and not
    /// replaced, the caches are stale for at most this time
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) lease: u64,
    /// How to watch the host. `auto` is inotify, which reports every change in order, or fanotify if
    /// inotify is not available or `--events all` needs it
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = WatchBackend::Auto)]
    pub(crate) watch: WatchBackend,
    /// Which events to deliver. `all` costs a notification, and several requests by the guest, for
    /// each file that is read on the host
    #[arg(long, value_name = "EVENTS", value_enum, default_value_t = Events::Changes)]
    pub(crate) events: Events,
    /// How often to compare directories that cannot be watched, since a limit is reached or their file system refuses
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) poll_interval: u64,
    /// With inotify: report a rename as two unrelated events, instead of waiting for the second half
    #[arg(long)]
    pub(crate) no_join_renames: bool,
    /// Do not share extended attributes
    #[arg(long)]
    pub(crate) no_xattr: bool,
    /// Request queues of the device, each with a thread
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) request_queues: u16,
    /// Serve metrics for Prometheus at this address and port, or at unix:PATH. Anyone who can connect can read them;
    /// they name the shared directory and no file in it
    #[arg(long, value_name = "ADDR", help_heading = "Monitoring")]
    pub(crate) metrics: Option<MetricsAddr>,
    /// Cap the backlog for a slow client at N events; at the cap, events are dropped and their
    /// directories are rescanned
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) backlog_events_max: Option<usize>,
}

impl SharingArgs {
    /// The command line that parses to `self`. Options with a value are always written, also where
    /// the value is the default.
    pub(crate) fn to_args(&self) -> Vec<String> {
        // No `..`, so that a new option does not compile until it is passed on here.
        let Self {
            readonly,
            cache,
            lease,
            watch,
            events,
            poll_interval,
            no_join_renames,
            no_xattr,
            request_queues,
            metrics,
            backlog_events_max,
        } = self;
        let mut args = vec![
            format!("--cache={}", value_name(cache)),
            format!("--lease={lease}"),
            format!("--watch={}", value_name(watch)),
            format!("--events={}", value_name(events)),
            format!("--poll-interval={poll_interval}"),
            format!("--request-queues={request_queues}"),
        ];
        args.extend(readonly.then(|| "--readonly".to_owned()));
        args.extend(no_join_renames.then(|| "--no-join-renames".to_owned()));
        args.extend(no_xattr.then(|| "--no-xattr".to_owned()));
        args.extend(metrics.as_ref().map(|addr| format!("--metrics={addr}")));
        args.extend(backlog_events_max.map(|max| format!("--backlog-events-max={max}")));
        args
    }
}

/// The name of a value on the command line.
pub(super) fn value_name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("no value is hidden from the command line");
    value.get_name().to_owned()
}

impl SharingArgs {
    /// How long the client may cache what events keep true.
    pub(crate) fn lease(&self) -> Option<Duration> {
        (self.cache == Cache::Events).then(|| Duration::from_secs(self.lease))
    }
}

impl Events {
    /// The events as a mask.
    pub(crate) fn mask(self) -> Mask {
        match self {
            Self::Changes => Mask::DEFAULT,
            Self::All => Mask::DEFAULT | Mask::READS,
        }
    }
}

/// `--watch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WatchBackend {
    /// inotify where it works, else fanotify
    Auto,
    /// fanotify only
    Fanotify,
    /// inotify only
    Inotify,
}

/// `--events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Events {
    /// What changes: CREATE, MODIFY, ATTRIB, CLOSE_WRITE, DELETE and renames
    Changes,
    /// Reads too: OPEN, ACCESS and CLOSE_NOWRITE. Needs fanotify
    All,
}

/// `--cache` of virtiofsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    /// Nothing
    Never,
    /// Names and attributes for a day, and no file data
    Metadata,
    /// For one second, and file data until the file has changed
    Auto,
    /// As `auto`; and as long as `--lease` says where an agent delivers each change
    Events,
    /// For a day: for a directory that changes only through this mount, or is watched in it
    Always,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;
    use crate::options::ServeArgs;

    #[derive(Debug, Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    /// Every combination of values; of a number, the ends of its range.
    fn all_sharing_args() -> Vec<SharingArgs> {
        let mut all = vec![SharingArgs {
            readonly: false,
            cache: Cache::Auto,
            lease: 60,
            watch: WatchBackend::Auto,
            events: Events::Changes,
            poll_interval: 1,
            no_join_renames: false,
            no_xattr: false,
            request_queues: 1,
            metrics: None,
            backlog_events_max: None,
        }];
        all = vary(&all, &[false, true], |args| &mut args.readonly);
        all = vary(&all, Cache::value_variants(), |args| &mut args.cache);
        all = vary(&all, &[1, 86_400], |args| &mut args.lease);
        all = vary(&all, WatchBackend::value_variants(), |args| &mut args.watch);
        all = vary(&all, Events::value_variants(), |args| &mut args.events);
        all = vary(&all, &[1, 86_400], |args| &mut args.poll_interval);
        all = vary(&all, &[false, true], |args| &mut args.no_join_renames);
        all = vary(&all, &[false, true], |args| &mut args.no_xattr);
        all = vary(&all, &[1, 2, 8], |args| &mut args.request_queues);
        let addrs = ["127.0.0.1:1", "unix:/a b"].map(|addr| Some(addr.parse().unwrap()));
        all = vary(&all, &[&[None], &addrs[..]].concat(), |args| &mut args.metrics);
        vary(&all, &[None, Some(0), Some(usize::MAX)], |args| &mut args.backlog_events_max)
    }

    /// Each of `all`, with each of `values` in one field.
    fn vary<T: Clone>(
        all: &[SharingArgs],
        values: &[T],
        field: fn(&mut SharingArgs) -> &mut T,
    ) -> Vec<SharingArgs> {
        let with = |mut args: SharingArgs, value: &T| {
            *field(&mut args) = value.clone();
            args
        };
        all.iter().flat_map(|args| values.iter().map(move |v| with(args.clone(), v))).collect()
    }

    #[test]
    fn sharing_args_turned_into_a_command_line_parse_to_the_same() {
        let all = all_sharing_args();
        assert_eq!(all.len(), 2 * 5 * 2 * 3 * 2 * 2 * 2 * 2 * 3 * 3 * 3);
        // 7 divides none of those numbers: any two values still come together.
        for sharing in all.into_iter().step_by(7) {
            let fixed = ["serve", "--fd=0", "--shared-dir=/srv"].map(str::to_owned);
            let line = fixed.into_iter().chain(sharing.to_args());
            let parsed = Serve::try_parse_from(line).unwrap();
            assert_eq!(parsed.args.sharing, sharing);
        }
    }

    #[test]
    fn sharing_args_turned_into_a_command_line_name_every_option() {
        let all = all_sharing_args();
        let written: BTreeSet<String> = all
            .iter()
            .flat_map(SharingArgs::to_args)
            .filter_map(|arg| arg.split('=').next().map(str::to_owned))
            .collect();
        let command = SharingArgs::augment_args(clap::Command::new("options"));
        let options: BTreeSet<String> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .map(|long| format!("--{long}"))
            .collect();
        assert_eq!(written, options);
    }
}
