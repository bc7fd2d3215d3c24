// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The places of `farwatch` where threads of its own meet, with the primitives of shuttle and loom in the place of std's.
//!
//! The files are those of `farwatch`, included by their path: they take what they need from `crate::sync`. Shuttle draws
//! the orders in which threads that lock and wait can run; a wake-up that is lost is a deadlock there, since nothing times
//! out. Loom goes through all of them for the ring of the driver, with what a processor may do to accesses without
//! an order. Each function here is the body of one such run; `tests` calls them.
#![forbid(unsafe_code)]
// The files that it includes have tests of their own, for the primitives of std.
#![cfg(not(test))]

mod sync {
    pub(crate) use shuttle::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
    pub(crate) use std::sync::PoisonError;

    pub(crate) mod atomic {
        pub(crate) use loom::sync::atomic::{Ordering, fence};
    }
}

#[expect(dead_code, reason = "the models use a part of it")]
mod deliver {
    #[path = "../../../farwatch/src/deliver/outbox.rs"]
    mod outbox;
    #[path = "../../../farwatch/src/deliver/reads.rs"]
    mod reads;

    pub(crate) mod model;

    use outbox::{Outbox, Pulled, Sink, Source};
}

mod device {
    #[path = "../../../farwatch/src/device/gate.rs"]
    #[expect(dead_code, reason = "the model uses a part of it")]
    mod gate;
    #[path = "../../../farwatch/src/device/in_flight.rs"]
    mod in_flight;
    #[path = "../../../farwatch/src/device/lane.rs"]
    mod lane;

    pub(crate) mod model;
}

mod driver {
    mod memory;
    pub(crate) mod model;
    #[path = "../../../farwatch/src/driver/ring.rs"]
    #[expect(dead_code, unused_imports, unreachable_pub, reason = "the model uses a part of it")]
    mod ring;
}

#[path = "../../farwatch/src/virtio.rs"]
#[expect(dead_code, unreachable_pub, reason = "the driver's ring uses a part of it")]
mod virtio;

pub use deliver::model::{hurry_ends_a_wait, read_misses_no_notification};
pub use device::model::{requests_end_with_their_session, ring_stops_when_nothing_is_in_flight};
pub use driver::model::ring_loses_no_wake_up;
