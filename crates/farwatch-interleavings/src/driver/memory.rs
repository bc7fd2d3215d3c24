// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of the driver and the device, of loom's atomic numbers of 16 bits. What a ring needs of `driver::memory`.

#[path = "../../../farwatch/src/driver/memory/area.rs"]
mod area;

use std::convert::Infallible;

use loom::sync::atomic::{AtomicU16, Ordering};
use virtio_queue::desc::split::Descriptor;

pub(super) use self::area::{Area, Layout};

impl Layout {
    pub(super) fn map(self) -> Memory {
        Memory((0..self.len.div_ceil(2)).map(|_| AtomicU16::new(0)).collect())
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Memory(Vec<AtomicU16>);

/// See `vm_memory::VolatileSlice`.
pub(super) struct Slice<'a>(&'a [AtomicU16]);

impl Memory {
    pub(super) fn slice(&self, area: Area) -> Slice<'_> {
        Slice(&self.0[area.offset / 2..(area.offset + area.len).div_ceil(2)])
    }

    pub(super) fn guest_address(&self, area: Area) -> u64 {
        area.offset as u64
    }
}

impl Slice<'_> {
    pub(super) fn load(&self, at: usize, order: Ordering) -> Result<u16, Infallible> {
        Ok(self.0[at / 2].load(order))
    }

    pub(super) fn store(&self, value: u16, at: usize, order: Ordering) -> Result<(), Infallible> {
        self.0[at / 2].store(value, order);
        Ok(())
    }

    /// A number whose upper half is never used.
    pub(super) fn read_obj(&self, at: usize) -> Result<u32, Infallible> {
        Ok(self.0[at / 2].load(Ordering::Relaxed).into())
    }

    /// The lowest bits of the address stand for all of a descriptor.
    pub(super) fn write_obj(&self, descriptor: Descriptor, at: usize) -> Result<(), Infallible> {
        let address = u16::try_from(descriptor.addr().0).expect("the memory is small");
        self.0[at / 2].store(address, Ordering::Relaxed);
        Ok(())
    }
}
