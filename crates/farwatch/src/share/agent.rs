// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the file system room asks about the agent and the notifications that it replays. The decisions
//! are the engine's; the control node itself is `fs::control`.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use farwatch_proto::host::{Answer, AttachError, Ending, MarkedRequest};
use farwatch_proto::wire::control::{Delivery, Hello};
use farwatch_proto::{Fid, FileKind, Generation, Mask, Name, Node, NodeId, Seq};

use super::{Share, State};

impl Share {
    /// Registers thread `tid` of the guest as the agent's. It is not 0, which stands for no thread.
    ///
    /// # Errors
    /// When an agent is attached already.
    pub(crate) fn attach(&self, tid: u32) -> Result<(), AttachError> {
        let mut state = self.lock();
        let attached = state.engine.attach(tid);
        self.publish_agent(&state);
        attached
    }

    /// The agent has proved its tags: notifications begin, as it has asked for them, of the events that are watched for.
    /// Returns the number of the link.
    pub(crate) fn listen(&self, hello: &Hello) -> Option<u64> {
        let mut state = self.lock();
        if hello.raises {
            state.engine.raises();
        }
        if hello.submounts {
            state.engine.tell_submounts();
        } else if state.announces_submounts && hello.delivery == Delivery::Reads {
            // The driver of `farwatch mount` has no submounts: all is part of its mount.
            tracing::warn!(
                "this agent does not reach what is mounted below the shared directory: no events are delivered there. \
                 Use the agent of this version, or `--no-announce-submounts`"
            );
        }
        self.begin_delivery(&mut state, hello.delivery, hello.events)
    }

    /// Notifications begin for the client that is attached, of those of `events` that are watched for. Returns the number
    /// of its link.
    pub(super) fn begin_delivery(
        &self,
        state: &mut State,
        delivery: Delivery,
        events: Mask,
    ) -> Option<u64> {
        state.engine.want(events.intersection(self.events()));
        state.engine.listen(SystemTime::now());
        self.wake_for_work(state);
        state.delivery = Some(delivery);
        state.client_since = Some(SystemTime::now());
        self.publish_agent(state);
        state.engine.link()
    }

    /// The agent is gone. A READ of it that waits ends.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.engine.detach();
        state.delivery = None;
        self.publish_agent(&state);
        drop(state);
        self.outbox.wake_waiters();
    }

    /// The events that are delivered now, or none: no client is attached, the host is not watched, or the shared directory
    /// has been deleted.
    pub(crate) fn delivered_events(&self) -> Option<Mask> {
        let has_lost_root = self.has_lost_root();
        let state = self.lock();
        let is_delivered = state.delivery.is_some() && state.looks && !has_lost_root;
        is_delivered.then(|| state.engine.wanted())
    }

    /// Makes the agent's thread readable without the lock. Called with the lock held after each change
    /// of it, so that the two agree whenever the lock is free.
    pub(super) fn publish_agent(&self, state: &State) {
        self.agent_tid.store(state.engine.agent_tid().unwrap_or(0), Ordering::Release);
        self.flags.publish(state);
    }

    /// The thread that is registered as the agent's. Does not take the lock: each request asks.
    pub fn agent_tid(&self) -> Option<u32> {
        let tid = self.agent_tid.load(Ordering::Acquire);
        (tid != 0).then_some(tid)
    }

    /// Whether a request of the guest's thread `pid` comes from the agent. Does not take the lock.
    pub(crate) fn is_agent_thread(&self, pid: i32) -> bool {
        u32::try_from(pid).is_ok_and(|pid| self.agent_tid() == Some(pid))
    }

    /// Whether changes on the host become notifications.
    pub fn is_listening(&self) -> bool {
        self.lock().engine.is_listening()
    }

    /// The answer to a request with both tags; `seq` is the number of the notification that it carries.
    pub(crate) fn answer(&self, seq: Option<Seq>, request: MarkedRequest<'_>) -> Answer {
        let mut state = self.lock();
        state.pace.goes_on();
        let answer = state.engine.answer(seq, request);
        state.count_finished();
        let has_work = state.engine.has_work();
        drop(state);
        if has_work {
            self.wake();
        }
        answer
    }

    /// The object that the replay of notification `seq` is about.
    pub(crate) fn replayed_object(&self, seq: Seq) -> Option<Fid> {
        self.lock().engine.object_of(seq).cloned()
    }

    /// [`Engine::removes_unasked`](farwatch_proto::host::Engine::removes_unasked).
    pub(crate) fn removes_unasked(&self, seq: Seq) -> Option<NodeId> {
        self.lock().engine.removes_unasked(seq)
    }

    /// [`Engine::replaces_unasked`](farwatch_proto::host::Engine::replaces_unasked).
    pub(crate) fn replaces_unasked(&self, seq: Seq) -> Option<NodeId> {
        self.lock().engine.replaces_unasked(seq)
    }

    /// [`Engine::has_more_links`](farwatch_proto::host::Engine::has_more_links).
    pub(crate) fn has_more_links(&self, id: NodeId) -> bool {
        self.lock().engine.has_more_links(id)
    }

    /// [`Engine::told_stale`](farwatch_proto::host::Engine::told_stale).
    pub(crate) fn told_stale(&self, seq: Seq) {
        self.lock().engine.told_stale(seq);
    }

    /// [`Engine::ending`](farwatch_proto::host::Engine::ending).
    pub(crate) fn ending_at(&self, seq: Seq, dir: NodeId, name: &Name) -> Option<Ending> {
        self.lock().engine.ending(seq, dir, name)
    }

    /// [`Engine::ending_nodes`](farwatch_proto::host::Engine::ending_nodes).
    pub(crate) fn ending_nodes(&self, seq: Seq, dir: NodeId, name: &Name) -> Vec<NodeId> {
        self.lock().engine.ending_nodes(seq, dir, name)
    }

    /// What the guest's kernel holds under a name.
    pub(crate) fn current(&self, dir: NodeId, name: &Name) -> Option<NodeId> {
        self.lock().engine.tree().current(dir, name)
    }

    /// [`Engine::ended`](farwatch_proto::host::Engine::ended).
    pub(crate) fn ended(&self, dir: NodeId, name: &Name, id: NodeId) {
        self.lock().engine.ended(dir, name, id);
    }

    /// [`Engine::mistaken_ending`](farwatch_proto::host::Engine::mistaken_ending).
    pub(crate) fn mistaken_ending(
        &self,
        seq: Seq,
        entry: (NodeId, &Name),
        id: NodeId,
        links: u32,
    ) -> Option<Ending> {
        self.lock().engine.mistaken_ending(seq, entry, id, links)
    }

    /// The type of that object, as far as the change tells it.
    pub(crate) fn replayed_kind(&self, seq: Seq) -> FileKind {
        self.lock().engine.kind_of(seq)
    }

    /// A new phantom that the agent's kernel is about to find under a name.
    pub(crate) fn phantom(&self, dir: NodeId, name: &Name, kind: FileKind) -> Node {
        self.lock().engine.phantom(dir, name, kind)
    }

    /// The agent's kernel is about to find known node `id` under a name, which need not lead to it any
    /// more. `None` if the guest has forgotten the node.
    pub(crate) fn lend(
        &self,
        id: NodeId,
        dir: NodeId,
        name: &Name,
    ) -> Option<(Generation, FileKind)> {
        let engine = &mut self.lock().engine;
        let lent = engine.lend(id, dir, name);
        let tree = engine.tree();
        Some((lent.then(|| tree.node(id).generation)?, tree.kind(id)?))
    }
}
