// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Trial`]: one trial, from its setup to its judgement.

use std::ffi::OsStr;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::case::{Case, Side};
use super::client::Client;
use super::faults::{audit, same_tree};
use super::judge::{Judge, Truth, Wrong, judge};
use super::local::{Local, Twin, set_up};
use super::report::{self, Outcome};
use super::state::{id_of, list, read_all};
use super::stream::Stream;
use super::worker::{Done, Worker, now};
use super::{Plan, Settle};
use crate::PATIENCE;
use crate::place::Place;
use crate::share::Share;

/// The longest that a model may be wrong after the last change.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How often a model that is still wrong is judged again when no event comes.
const JUDGE_EVERY: Duration = Duration::from_millis(20);
/// Events of each directory that are printed.
const SHOWN_MAX: usize = 30;

/// Whether the mount is listed for a judgement. It is not while changes may still be on their way: that
/// makes its kernel learn names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listed {
    Yes,
    No,
}

/// See the module's documentation.
pub(super) struct Trial<'a, P> {
    place: &'a P,
    plan: &'a Plan,
    case: Case,
    share: Share,
    client: Client,
    local: Local,
    /// Where one process makes all changes.
    twin: Option<Twin>,
    results: Vec<Vec<Done>>,
    barriers: u32,
}

impl<'a, P: Place> Trial<'a, P> {
    /// Sets up directories of a new name, and a client that knows them.
    pub(super) fn new(place: &'a P, plan: &'a Plan, case: Case, name: &str) -> Result<Self> {
        let twin = if case.is_of_one_process() {
            let twin = place.local_twin(name)?;
            let run = Twin::run(twin.host(), &case).context("the local twin")?;
            remove(&twin)?;
            Some(run)
        } else {
            None
        };
        let share = place.share(name)?;
        set_up(share.host(), &case)?;
        let client = Client::new(&share, &case, plan)?;
        let local = Local::new(share.host(), &case)?;
        let (results, barriers) = (Vec::new(), 0);
        let mut trial = Self { place, plan, case, share, client, local, twin, results, barriers };
        trial.sync()?;
        trial.client.read()?;
        trial.client.forget_events();
        Ok(trial)
    }

    /// Makes the changes, and judges when they have ended.
    pub(super) fn run(&mut self) -> Result<Outcome> {
        self.run_beside(|| Ok(()))
    }

    /// The same, while another thread does something, which has ended before the judgement.
    pub(super) fn run_beside(
        &mut self,
        disturb: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Outcome> {
        let disturbed = thread::scope(|scope| {
            let disturbance = scope.spawn(disturb);
            let changed = self.change();
            let disturbed = disturbance.join().map_err(|_| anyhow!("a thread has panicked"));
            changed.and(disturbed?.context("the disturbance"))
        });
        disturbed?;
        self.client.look_where_descriptors_were_short();
        self.outcome()
    }

    /// Makes the changes.
    fn change(&mut self) -> Result<()> {
        let mut workers = Vec::new();
        for (side, ops) in &self.case.scripts {
            let base = match side {
                Side::Host => self.share.host(),
                Side::Mount => self.share.mount(),
            };
            workers.push(Worker::start(base, ops)?);
        }
        workers.iter_mut().for_each(Worker::release);
        while !workers.iter().all(Worker::has_ended) {
            self.wait(&mut workers, PATIENCE)?;
        }
        self.results = workers.iter().map(Worker::results).collect::<Result<_>>()?;
        Ok(())
    }

    fn outcome(&mut self) -> Result<Outcome> {
        let end = self.results.iter().flatten().map(|done| done.at).max();
        let (wrong, settled) = self.settle(end.unwrap_or_else(now))?;
        let (client, local) = (&self.client, self.local.stream());
        let received = Stream::new(client.events(), client.dirs(), &client.first_objects());
        let made = self.twin.as_ref().map_or(&local, |twin| &twin.stream);
        Ok(Outcome {
            received: received.names.len(),
            made: made.names.len(),
            settled,
            errors: report::errors(&self.case, &self.results),
            ops: self.results.iter().map(Vec::len).sum(),
            left_out: self.case.left_out,
            text: (!wrong.is_empty()).then(|| self.describe(&wrong)),
            wrong: wrong.iter().map(|wrong| wrong.judge).collect(),
        })
    }

    /// Judges again after a while: a model that was true must stay so. What has been found wrong at the
    /// end of the trial is not changed by it.
    pub(super) fn judge_later(&mut self, outcome: &mut Outcome) -> Result<()> {
        if outcome.text.is_none() {
            self.take()?;
            let wrong = self.judge(Listed::Yes)?;
            if !wrong.is_empty() {
                outcome.text = Some(format!("it was true at first\n{}", self.describe(&wrong)));
                outcome.wrong = wrong.iter().map(|wrong| wrong.judge).collect();
            }
        }
        Ok(())
    }

    /// What is wrong with the tree of the host, whatever was reported.
    pub(super) fn audit(&self) -> Result<Vec<String>> {
        let tree = read_all(self.share.host(), &self.case.dirs)?;
        let mut wrong = audit(&self.case, &self.results, &tree);
        let same_results = |twin: &Twin, results: &Vec<Done>| {
            twin.results.iter().map(|done| done.errno).eq(results.iter().map(|done| done.errno))
        };
        if let (Some(twin), Some(results)) = (&self.twin, self.results.first())
            && same_results(twin, results)
        {
            wrong.extend(same_tree(&tree, &twin.tree));
        }
        Ok(wrong)
    }

    /// What is done.
    pub(super) fn case(&self) -> &Case {
        &self.case
    }

    /// The seed of the operations.
    pub(super) fn seed(&self) -> u64 {
        self.case.seed
    }

    /// Removes the directories.
    pub(super) fn remove(self) -> Result<()> {
        drop(self.client);
        remove(&self.share)
    }

    /// Waits for events or results, and takes them.
    fn wait(&mut self, workers: &mut [Worker], patience: Duration) -> Result<()> {
        let running: Vec<&Worker> = workers.iter().filter(|worker| !worker.has_ended()).collect();
        let mut fds = vec![PollFd::new(&self.client, PollFlags::IN)];
        fds.extend(running.iter().map(|worker| PollFd::new(*worker, PollFlags::IN)));
        let ready = match poll(&mut fds, Some(&Timespec::try_from(patience)?)) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            ready => ready.context("poll")?,
        };
        ensure!(ready > 0 || patience < PATIENCE, "nothing happened for {patience:?}");
        let ready: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let running = workers.iter_mut().filter(|worker| !worker.has_ended());
        for (worker, _) in running.zip(ready).filter(|(_, ready)| *ready) {
            worker.read()?;
        }
        self.take()
    }

    /// Takes the events that are there, on both sides.
    fn take(&mut self) -> Result<()> {
        self.client.read()?;
        self.local.take()
    }

    /// Waits until the model must be true. Returns what is wrong with it then, and for how long after
    /// `end` something was.
    fn settle(&mut self, end: Duration) -> Result<(Vec<Wrong>, Duration)> {
        if self.plan.settle == Settle::Sync {
            self.sync()?;
            self.take()?;
            return Ok((self.judge(Listed::Yes)?, now().saturating_sub(end)));
        }
        loop {
            self.take()?;
            let mut wrong = self.judge(Listed::No)?;
            let since = now().saturating_sub(end);
            if wrong.is_empty() {
                // It may be so by chance, before the events have come.
                self.barrier()?;
                wrong = self.judge(Listed::Yes)?;
            }
            let left = SETTLE_MAX.saturating_sub(now().saturating_sub(end));
            if wrong.is_empty() || left.is_zero() {
                return Ok((self.judge(Listed::Yes)?, since));
            }
            self.wait(&mut [], left.min(JUDGE_EVERY))?;
        }
    }

    /// What is wrong with the model now.
    fn judge(&self, listed: Listed) -> Result<Vec<Wrong>> {
        let tree = read_all(self.share.host(), &self.case.dirs)?;
        let ids = tree.keys().filter_map(|name| id_of(&self.share.host().join(name))).collect();
        let list = || list(self.share.mount(), &self.case.dirs);
        let listed = if listed == Listed::Yes { Some(list()?.into_iter().collect()) } else { None };
        let linked = self.results.iter().flatten().flat_map(|done| &done.linked).copied().collect();
        let stream = self.twin.as_ref().map(|twin| twin.stream.clone());
        let mut wrong = judge(&self.client, &Truth { tree, ids, listed, linked, stream });
        wrong.extend(self.other_results());
        wrong.retain(|wrong| self.plan.judges.contains(&wrong.judge));
        Ok(wrong)
    }

    /// Of one process, each operation must give what it gives locally.
    fn other_results(&self) -> Option<Wrong> {
        let (twin, results) = (self.twin.as_ref()?, self.results.first()?);
        let nth = results.iter().zip(&twin.results).position(|(a, b)| a.errno != b.errno)?;
        let [here, there] = [results, &twin.results].map(|results| results[nth].error());
        let sentence = format!("operation {nth} gave {here:?}, and {there:?} locally");
        Some(Wrong { judge: Judge::Count, name: None, sentence })
    }

    /// Takes events until all that was changed on the host before this call has been reported.
    fn barrier(&mut self) -> Result<()> {
        let name = format!("sentinel-{}", self.barriers);
        self.barriers += 1;
        self.share.make_sentinel(OsStr::new(&name))?;
        while !self.client.has_passed(&name) {
            self.wait(&mut [], PATIENCE)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.plan.local { Ok(()) } else { self.place.sync().context("farwatch sync") }
    }

    /// What is wrong, and all that happened.
    pub(super) fn describe(&self, wrong: &[Wrong]) -> String {
        let mut text = format!("in {}\n", self.share.host().display());
        for Wrong { judge, sentence, .. } in wrong {
            text.push_str(&format!("  {judge}: {sentence}\n"));
        }
        let begin = self.results.iter().flatten().map(|done| done.at).min().unwrap_or_default();
        let is_wrong = |dir: &&String| {
            let below = format!("{dir}/");
            wrong.iter().any(|w| w.name.as_ref().is_none_or(|name| name.starts_with(&below)))
        };
        for dir in self.case.dirs.iter().filter(is_wrong) {
            for (place, events) in [
                ("in the mount", self.client.last_events(dir, begin, SHOWN_MAX)),
                ("on the host", self.local.last_events(dir, begin, SHOWN_MAX)),
            ] {
                text.push_str(&format!("  the last events of {dir} {place}, when read:\n"));
                text.extend(events.iter().map(|event| format!("    {event}\n")));
            }
        }
        text.push_str(&report::operations(&self.case, &self.results, begin));
        text
    }
}

/// Removes the directories of a share.
pub(super) fn remove(share: &Share) -> Result<()> {
    for dir in [share.host(), &share.barrier_on_host(), share.outside()] {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}
