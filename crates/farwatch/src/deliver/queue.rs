// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sink of the notification virtqueue. `device::notification` has the ring and calls this for each
//! buffer that the driver has posted, with the ring's lock held.

use farwatch_proto::wire::Notification;

use super::{Pulled, Sink, Source};

/// Encodes the next notification into `buf` and returns its length.
pub(crate) fn next(source: &impl Source, buf: &mut [u8; Notification::LEN_MAX]) -> Option<usize> {
    match source.pull(Sink::Queue) {
        Pulled::Notification(notification) => Some(notification.encode(buf).len()),
        Pulled::Nothing | Pulled::LookPending | Pulled::NotReceiving => None,
    }
}
