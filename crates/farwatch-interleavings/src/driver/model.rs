// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A model of the driver's ring: a device that sleeps when it has found nothing, as virtio 1.2 §2.7 has it.

use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{Ordering, fence};
use loom::thread;

use super::memory::{Area, Layout, Memory};
use super::ring::{Ring, RingAreas};
use crate::virtio::{RING_F_EVENT_IDX, USED_F_NO_NOTIFY};

/// Buffers that the driver gives away, one after the other.
const CHAINS: u16 = 2;

/// What the device knows of a ring of two descriptors.
struct Device {
    memory: Arc<Memory>,
    areas: RingAreas,
    event_idx: bool,
    taken: u16,
}

impl Device {
    fn load(&self, area: Area, at: usize, order: Ordering) -> u16 {
        let Ok(value) = self.memory.slice(area).load(at, order);
        value
    }

    fn store(&self, at: usize, value: u16, order: Ordering) {
        let Ok(()) = self.memory.slice(self.areas.used).store(value, at, order);
    }

    /// Takes the next chain and gives it back; `None` if there is none.
    fn serve(&mut self, buffer: u16) -> Option<bool> {
        if self.load(self.areas.avail, 2, Ordering::Acquire) == self.taken {
            return None;
        }
        let slot = usize::from(self.taken % self.areas.size());
        let head = self.load(self.areas.avail, 4 + 2 * slot, Ordering::Relaxed);
        let address = self.load(self.areas.desc, 16 * usize::from(head), Ordering::Relaxed);
        assert_eq!(address, buffer, "the descriptor is there before it is offered");
        self.store(4 + 8 * slot, head, Ordering::Relaxed);
        self.taken += 1;
        self.store(2, self.taken, Ordering::Release);
        fence(Ordering::SeqCst);
        Some(if self.event_idx {
            let at = 4 + 2 * usize::from(self.areas.size());
            self.load(self.areas.avail, at, Ordering::Relaxed) == self.taken - 1
        } else {
            self.load(self.areas.avail, 0, Ordering::Relaxed) == 0
        })
    }

    /// Asks for a kick; true if something has come in the meantime.
    fn arm(&self) -> bool {
        if self.event_idx {
            let at = 4 + 8 * usize::from(self.areas.size());
            self.store(at, self.taken, Ordering::Relaxed);
        } else {
            self.store(0, 0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.load(self.areas.avail, 2, Ordering::Acquire) != self.taken
    }

    fn disarm(&self) {
        if !self.event_idx {
            self.store(0, USED_F_NO_NOTIFY, Ordering::Relaxed);
        }
    }
}

/// The driver gives buffers away and sleeps until it is called, the device sleeps until it is kicked. Neither sleeps for
/// ever, and the driver gets back what it has given away.
///
/// # Panics
/// When it is not so; loom takes sleep for ever for a deadlock.
pub fn ring_loses_no_wake_up(event_idx: bool) {
    let mut layout = Layout::default();
    let areas = RingAreas::plan(&mut layout, 2, 1);
    let buffer = layout.take(2, 2);
    let memory = Arc::new(layout.map());
    let (kick, call) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let address = u16::try_from(memory.guest_address(buffer)).expect("the memory is small");
    let mut device = Device { memory: Arc::clone(&memory), areas, event_idx, taken: 0 };
    let serving = {
        let (kick, call) = (Arc::clone(&kick), Arc::clone(&call));
        thread::spawn(move || {
            while device.taken < CHAINS {
                device.disarm();
                while let Some(calls) = device.serve(address) {
                    if calls {
                        call.notify();
                    }
                }
                if device.taken < CHAINS && !device.arm() {
                    kick.wait();
                }
            }
        })
    };
    let features = if event_idx { RING_F_EVENT_IDX } else { 0 };
    let mut ring = Ring::new(memory, areas, features);
    for nth in 0..CHAINS {
        ring.add(&[buffer], &[], nth).expect("there is room");
        if ring.should_kick() {
            kick.notify();
        }
        loop {
            if let Some((token, _)) = ring.pop().expect("the device keeps to the rules") {
                assert_eq!(token, nth);
                break;
            }
            if !ring.arm() {
                call.wait();
            }
        }
    }
    serving.join().expect("nothing panics");
}
