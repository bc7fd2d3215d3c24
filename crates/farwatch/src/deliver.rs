// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Outbox`]: how notifications leave for the guest.
//!
//! Events wait in the engine's backlog. A sink pulls them out as notifications, one at a time, whenever
//! it has room for one:
//!
//! - `queue`: the notification virtqueue, which has room when the driver has posted a buffer;
//! - `reads`: the READs that an agent posts on the control node.
//!
//! Which sink receives is the agent's choice ([`Sink`]); the others get nothing.
//!
//! Rules: a pull never reads the host's file system, so a host that hangs blocks no ring and no request.
//! What must be looked up before an event can be sent is looked up by the watch thread; until then a
//! pull gives [`Pulled::LookPending`]. After anything that can make a pull succeed there is one call,
//! [`Outbox::wake`], which wakes all sinks. It is made without any lock.
//!
//! Called by `share`, which is the [`Source`]. This room does not know virtqueues or FUSE.

mod outbox;
pub(crate) mod queue;
pub(crate) mod reads;

pub(crate) use outbox::{Outbox, Pulled, Sink, Source};
