// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Replayer`]: makes the calls of the plan in the guest, as `farwatch-guest` does (`replay.rs`).

use farwatch_proto::guest::join::Joined;
use farwatch_proto::guest::limbo::Limbo;
use farwatch_proto::guest::opens::{Opens, Step};
use farwatch_proto::guest::plan::{Call, Place, Target, plan};
use farwatch_proto::replay::{CallKind, OpenMode, rows};
use farwatch_proto::wire::abi::FARWATCH_LIMBO_NAME;
use farwatch_proto::{Entry, FileKind, GuestEvent, Mask, Name, Node, NodeId};

use crate::host::{Errno, Way};
use crate::sim::World;
use crate::vfs::{Caller, Held};

/// How often a name is looked up again to which programs in the mount bring other objects at the same time.
const LOOKS_MAX: u32 = 8;

/// How often a rename is tried while programs keep looking up its new name.
const RENAME_TRIES_MAX: u32 = 8;

/// What one agent remembers from one event to the next.
pub(crate) struct Replayer<'a> {
    world: &'a World,
    limbo: Limbo,
    limbo_dir: Option<Held<'a>>,
    opens: Opens<Held<'a>>,
    caller: Caller,
}

impl<'a> Replayer<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        Self {
            world,
            limbo: Limbo::default(),
            limbo_dir: None,
            opens: Opens::default(),
            caller: Caller::Agent(None),
        }
    }

    pub(crate) async fn replay(&mut self, joined: Joined) {
        let Joined { seq, mate, event, .. } = joined;
        if event == GuestEvent::Overflow {
            self.opens.clear();
        }
        self.caller = Caller::Agent(Some(seq));
        let is_question = is_question(&event);
        for call in plan(event.clone()) {
            let result = self.call(&call).await;
            self.world.note(|| format!("{call:?}: {result:?}"));
            match (result, &call, mate) {
                (Err(Errno::Stale), Call::Rename(from, to), Some(mate)) => {
                    let limbo = Place::Limbo(child_of(&event));
                    let out = self.call(&Call::Rename(from.clone(), limbo.clone())).await;
                    self.caller = Caller::Agent(Some(mate));
                    let back = self.call(&Call::Rename(limbo, to.clone())).await;
                    self.world.note(|| format!("in two halves: {out:?}, {back:?}"));
                }
                (Err(_), ..) if is_question => {}
                // The kernel has found something else there, and has not asked the server.
                (result, Call::Remove(..) | Call::Rename(..), _) if found_another(result) => {
                    self.call_again(&call).await;
                }
                _ => {}
            }
            self.world.step().await;
            if self.world.agent_dies() {
                return;
            }
        }
        drop(self.opens.ended(&event));
    }

    async fn call(&mut self, call: &Call) -> Result<(), Errno> {
        match call {
            Call::Create(entry, kind) => self.create(entry, *kind).await,
            Call::CreateAndClose(entry, events) => self.create_and_close(entry, *events).await,
            Call::Link(node, entry, kind) => match self.link(*node, entry).await {
                Err(Errno::NoEnt | Errno::Stale) => self.create(entry, *kind).await,
                linked => linked,
            },
            Call::Content(target, events) => self.content(target, *events).await,
            Call::Remove(entry, directory) => {
                let dir = match entry.dir.id {
                    NodeId::LIMBO => self.limbo_dir().await?,
                    _ => self.open(entry.dir).await?,
                };
                let at = (dir.node().ok_or(Errno::Stale)?, &entry.name);
                let removed = self.world.sys_remove(self.caller, at, *directory).await;
                drop(self.opens.removed(entry));
                removed
            }
            Call::Rename(from, to) => {
                let renamed = self.rename(from, to).await;
                match (from, to) {
                    (Place::Entry(from), Place::Entry(to)) => drop(self.opens.renamed(from, to)),
                    (Place::Entry(entry), Place::Limbo(_))
                    | (Place::Limbo(_), Place::Entry(entry)) => drop(self.opens.removed(entry)),
                    (Place::Limbo(_), Place::Limbo(_)) => {}
                }
                renamed
            }
        }
    }

    async fn create(&self, entry: &Entry, kind: FileKind) -> Result<(), Errno> {
        let dir = self.open(entry.dir).await?;
        self.create_in(&dir, entry, kind).await
    }

    async fn create_and_close(&mut self, entry: &Entry, events: Mask) -> Result<(), Errno> {
        let target = Target::Entry(entry.clone());
        let dir = self.open(entry.dir).await?;
        let at = (dir.node().ok_or(Errno::Stale)?, &entry.name);
        let Ok(file) = self.world.sys_create(self.caller, at, true).await else {
            let created = self.create(entry, FileKind::Regular).await;
            let changed = self.content(&target, events).await;
            return created.and(changed);
        };
        let mut result = Ok(());
        for row in rows(events, FileKind::Regular, false) {
            let CallKind::SetTimes(times) = row.call else { continue };
            let mut set = self.world.sys_set_times(self.caller, &file, times).await;
            if set.is_err() {
                set = self.content(&target, times.event()).await;
            }
            result = result.and(set);
        }
        self.world.kernel().raise_both(file.id, Mask::CLOSE_WRITE);
        result
    }

    async fn create_in(&self, dir: &Held<'a>, entry: &Entry, kind: FileKind) -> Result<(), Errno> {
        let at = (dir.node().ok_or(Errno::Stale)?, &entry.name);
        self.world.sys_make(self.caller, at, kind, None).await
    }

    async fn link(&self, node: Node, entry: &Entry) -> Result<(), Errno> {
        let object = self.open(node).await?;
        let dir = self.open(entry.dir).await?;
        let at = (dir.node().ok_or(Errno::Stale)?, &entry.name);
        let node = object.node().ok_or(Errno::Stale)?;
        let kind = self.world.kernel().inode(node).map(|inode| inode.kind).ok_or(Errno::Stale)?;
        self.world.sys_make(self.caller, at, kind, Some(node)).await
    }

    async fn content(&mut self, target: &Target, events: Mask) -> Result<(), Errno> {
        let mut object = None;
        let mut looks = LOOKS_MAX;
        let mut result = Ok(());
        for step in self.opens.steps(target, events) {
            if result.is_err() && !matches!(step, Step::Close(_)) {
                continue;
            }
            let mut done = self.step(target, step, &mut object, looks == 0).await;
            while done == Err(Errno::Stale)
                && looks > 0
                && let Target::Entry(entry) = target
            {
                looks -= 1;
                object = None;
                let dir = self.open(entry.dir).await?;
                done = match self.look_again(&dir, entry).await {
                    Ok(()) => self.step(target, step, &mut object, looks == 0).await,
                    Err(error) => Err(error),
                };
            }
            result = result.and(done);
        }
        result
    }

    async fn step(
        &mut self,
        target: &Target,
        step: Step,
        object: &mut Option<Held<'a>>,
        is_last: bool,
    ) -> Result<(), Errno> {
        match step {
            Step::Open(mode) => {
                let kind = {
                    let node = self.object(target, object).await?.node().ok_or(Errno::Stale)?;
                    self.world.kernel().inode(node).map(|inode| inode.kind)
                };
                let opens = match kind {
                    Some(FileKind::Regular) => true,
                    Some(FileKind::Directory) => mode == OpenMode::Read,
                    _ => false,
                };
                if !opens {
                    let settled = is_last || matches!(target, Target::Node(_));
                    return if settled { Ok(()) } else { Err(Errno::Stale) };
                }
                let held = self.object(target, object).await?.again();
                self.world.sys_open_marked(self.caller, &held, mode).await?;
                drop(self.opens.keep(target.clone(), mode, held));
                Ok(())
            }
            Step::SetTimes(times) => {
                let (world, caller) = (self.world, self.caller);
                world.sys_set_times(caller, self.object(target, object).await?, times).await
            }
            Step::Close(writes) => {
                if let Some(held) = self.opens.take(target, writes)
                    && writes
                {
                    self.world.kernel().raise_both(held.id, Mask::CLOSE_WRITE);
                }
                Ok(())
            }
            Step::Access | Step::Refresh => unreachable!("this agent does not ask for reads"),
        }
    }

    async fn object<'h>(
        &self,
        target: &Target,
        opened: &'h mut Option<Held<'a>>,
    ) -> Result<&'h Held<'a>, Errno> {
        let object = match opened.take() {
            Some(object) => object,
            None => match target {
                Target::Entry(entry) => {
                    let dir = self.open(entry.dir).await?;
                    let at = (dir.node().ok_or(Errno::Stale)?, &entry.name);
                    self.world.find(self.caller, at).await?
                }
                Target::Node(node) => self.open(*node).await?,
            },
        };
        Ok(opened.insert(object))
    }

    /// Repeats a call, and has the kernel ask the server before it does.
    async fn call_again(&mut self, call: &Call) {
        let mut looks = LOOKS_MAX;
        loop {
            self.look_again_for(call).await;
            let result = self.call(call).await;
            self.world.note(|| format!("{call:?}, again: {result:?}"));
            looks -= 1;
            if looks == 0 || !found_another(result) {
                return;
            }
        }
    }

    /// Has the kernel ask the server for the names of a call, whatever it believes.
    async fn look_again_for(&self, call: &Call) {
        let entries = match call {
            Call::Remove(entry, _) => [Some(entry), None],
            Call::Rename(from, to) => [from.entry(), to.entry()],
            Call::Create(..) | Call::CreateAndClose(..) | Call::Link(..) | Call::Content(..) => {
                [None, None]
            }
        };
        for entry in entries.into_iter().flatten() {
            if let Ok(dir) = self.open(entry.dir).await {
                let looked = self.look_again(&dir, entry).await;
                self.world.note(|| format!("looks again for {entry:?}: {looked:?}"));
            }
        }
    }

    async fn look_again(&self, dir: &Held<'a>, entry: &Entry) -> Result<(), Errno> {
        match self.create_in(dir, entry, FileKind::Regular).await {
            Ok(()) | Err(Errno::Exist) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn rename(&mut self, from: &Place, to: &Place) -> Result<(), Errno> {
        let (old_dir, old_name) = self.place(from, Limbo::leave).await?;
        let (new_dir, new_name) = self.place(to, Limbo::enter).await?;
        let from = (old_dir.node().ok_or(Errno::Stale)?, &old_name);
        let to = (new_dir.node().ok_or(Errno::Stale)?, &new_name);
        let mut tries = RENAME_TRIES_MAX;
        loop {
            let renamed = self.world.sys_rename(self.caller, from, to, Way::Over).await;
            tries -= 1;
            if renamed != Err(Errno::Stale) || tries == 0 {
                return renamed;
            }
            self.world.step().await;
            self.world.find(self.caller, from).await?;
        }
    }

    async fn place(
        &mut self,
        place: &Place,
        pass: fn(&mut Limbo, Option<Node>) -> Name,
    ) -> Result<(Held<'a>, Name), Errno> {
        match place {
            Place::Entry(entry) => Ok((self.open(entry.dir).await?, entry.name.clone())),
            Place::Limbo(child) => {
                let dir = self.limbo_dir().await?;
                Ok((dir, pass(&mut self.limbo, *child)))
            }
        }
    }

    async fn limbo_dir(&mut self) -> Result<Held<'a>, Errno> {
        let dir = match &self.limbo_dir {
            Some(dir) => dir,
            None => {
                let name = Name::parse(FARWATCH_LIMBO_NAME).expect("a name");
                let dir = self.world.find(self.caller, (NodeId::ROOT, &name)).await?;
                self.limbo_dir.insert(dir)
            }
        };
        Ok(dir.again())
    }

    async fn open(&self, node: Node) -> Result<Held<'a>, Errno> {
        self.world.open_by_handle(self.caller, node.id).await
    }
}

/// Whether the server wants to be asked: for a node that nobody has, or for one that may be gone.
fn is_question(event: &GuestEvent) -> bool {
    let is_probe = matches!(event, GuestEvent::Object { node, .. } if node.id.is_reserved());
    is_probe || event.is_end()
}

/// Whether a call that removes or renames has failed for what the kernel has found under the name.
fn found_another(result: Result<(), Errno>) -> bool {
    matches!(result, Err(Errno::IsDir | Errno::NotDir | Errno::NotEmpty | Errno::NoEnt))
}

fn child_of(event: &GuestEvent) -> Option<Node> {
    match event {
        GuestEvent::Entry { child, .. } | GuestEvent::Rename { child, .. } => *child,
        GuestEvent::Object { .. } | GuestEvent::Overflow => None,
    }
}
