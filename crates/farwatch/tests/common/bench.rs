// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Bench`]: a host that must stay as it is, to the nanosecond, while its guest sends requests that
//! bear an agent's marks.

use std::path::PathBuf;

use farwatch_proto::Mask;
use rustix::io::Errno;

use crate::guest::{AGENT_TID, Caller, Guest, ROOT, Reply, Told};
use crate::mutations::{Mutation, mutations, populate};
use crate::requests::{self, Request};
use crate::served::Host;
use crate::snapshot::Snapshot;

/// What every request gets that is refused.
pub(crate) const EPERM: Reply = Err(Errno::PERM);

/// A host, its guest, and the state that must not change.
pub(crate) struct Bench {
    pub(crate) host: Host,
    pub(crate) guest: Guest,
    watched: Vec<PathBuf>,
    before: Vec<Snapshot>,
    /// Those that the guest has left. The first one's directory is shared.
    left: Vec<Host>,
}

impl Bench {
    /// Mounted, without an agent.
    pub(crate) fn new() -> Self {
        Self::on(Host::new(populate))
    }

    fn on(host: Host) -> Self {
        let guest = host.mount();
        let share = host.served.share_dir();
        let watched = vec![share.with_file_name("outside"), share];
        let mut bench = Self { host, guest, watched, before: Vec::new(), left: Vec::new() };
        bench.look();
        bench
    }

    /// With an agent whose notifications have begun.
    pub(crate) fn attached() -> Self {
        let mut bench = Self::new();
        bench.guest.attach();
        bench
    }

    /// With an agent that is told of reads too.
    pub(crate) fn attached_to_reads() -> Self {
        let mut bench = Self::on(Host::new_telling(populate, Mask::DEFAULT | Mask::READS));
        bench.guest.attach();
        bench
    }

    /// The same host after the guest has gone and come again.
    pub(crate) fn reconnected(self) -> Self {
        let Self { host, guest, .. } = self;
        drop(guest);
        let guest = host.mount();
        Self { host, guest, ..self }
    }

    /// The guest on another server of the same directory, by live migration.
    pub(crate) fn moved(self) -> Self {
        let Self { host, mut guest, mut left, watched, before } = self;
        let to = host.second();
        guest.driver.log_writes(true);
        let state = guest.driver.save().unwrap();
        let mut guest = guest.moved(&to.served.socket());
        guest.driver.load(&state).unwrap();
        guest.driver.resume();
        left.push(host);
        Self { host: to, guest, watched, before, left }
    }

    /// The same on one that knows nothing of the guest.
    pub(crate) fn restarted(self) -> Self {
        let Self { host, guest, mut left, watched, before } = self;
        drop(guest);
        let to = host.second();
        let guest = to.mount();
        left.push(host);
        Self { host: to, guest, watched, before, left }
    }

    /// From now on it must stay as it is now.
    pub(crate) fn look(&mut self) {
        self.before = self.watched.iter().map(|dir| Snapshot::of(dir)).collect();
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.watched.iter().zip(&self.before).any(|(dir, before)| Snapshot::of(dir) != *before)
    }

    pub(crate) fn assert_still(&self, after: &str) {
        for (dir, before) in self.watched.iter().zip(&self.before) {
            before.assert_still(dir, after);
        }
    }

    /// Sends a request that must change nothing.
    pub(crate) fn send(&mut self, from: Caller, request: &Request) -> Reply {
        let reply = self.guest.send(from, request);
        self.assert_still(&format!("{request:?} from {from:?}, answered {reply:?}"));
        reply
    }

    pub(crate) fn assert_refused(&mut self, from: Caller, name: &str, request: &Request) {
        let reply = self.send(from, request);
        assert_eq!(reply, EPERM, "{name} from {from:?}");
    }

    /// Sends every request of [`mutations`] with each of `callers`.
    pub(crate) fn assert_all_refused(&mut self, callers: &[Caller]) {
        let mutations = mutations(&mut self.guest);
        for caller in callers {
            for Mutation { name, request, .. } in &mutations {
                self.assert_refused(*caller, name, request);
            }
        }
    }

    /// The host changes something: what is now must stay. Returns the notifications of it.
    pub(crate) fn change(&mut self, script: &str) -> Told {
        self.host.run(script);
        let told = self.host.told(&mut self.guest);
        self.look();
        told
    }

    /// The proof that the device goes on, and that requests without a mark are executed.
    pub(crate) fn assert_goes_on(mut self) {
        assert_eq!(self.host.served.device.stats().panics, 0);
        self.guest.ask(&requests::mkdir(ROOT, "made by a program"));
        assert!(self.host.root.join("made by a program").is_dir());
    }
}

/// The uid of an agent, from a thread that is none.
pub(crate) fn uid_alone(gid: u32) -> Caller {
    Caller { pid: AGENT_TID + 1, ..Caller::agent(gid) }
}

/// The thread of an agent, under the uid of a program.
pub(crate) fn pid_alone(gid: u32) -> Caller {
    Caller { uid: 0, ..Caller::agent(gid) }
}
