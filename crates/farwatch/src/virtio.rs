// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers of the virtio specification that both sides of a virtqueue use: feature bits as masks, and
//! the flags of a split virtqueue. No logic. Used by the driver and by the tests that play one.

use farwatch_proto::wire::abi::VIRTIO_FS_F_NOTIFICATION;

/// Feature `VIRTIO_FS_F_NOTIFICATION`, virtio 1.2 §5.11.3.
pub const FS_F_NOTIFICATION: u64 = 1 << VIRTIO_FS_F_NOTIFICATION;
/// Feature `VIRTIO_RING_F_INDIRECT_DESC`, virtio 1.2 §6.
pub const RING_F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature `VIRTIO_RING_F_EVENT_IDX`, virtio 1.2 §6.
pub const RING_F_EVENT_IDX: u64 = 1 << 29;
/// Feature `VIRTIO_F_VERSION_1`, virtio 1.2 §6.
pub const F_VERSION_1: u64 = 1 << 32;

/// `VIRTQ_DESC_F_NEXT`, virtio 1.2 §2.7.5: the chain goes on.
pub const DESC_F_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`, virtio 1.2 §2.7.5: the device writes to this buffer.
pub const DESC_F_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`, virtio 1.2 §2.7.5: the buffer holds a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, virtio 1.2 §2.7.6: the driver wants no call.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`, virtio 1.2 §2.7.8: the device wants no kick.
pub const USED_F_NO_NOTIFY: u16 = 1;
