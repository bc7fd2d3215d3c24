// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory that driver and device share: one memfd, laid out once, then carved up no more.
//!
//! [`Layout`] plans the areas, [`Layout::map`] makes a memory of exactly that size. Everything in it
//! can be rewritten by the device at any time, so nothing here hands out a reference: an access is a
//! copy through `vm-memory`. Used by every other room of the driver.

mod area;

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
    VolatileSlice,
};

pub(super) use self::area::{Area, Layout};
use crate::shared_memory;

/// The address of the first byte as the device sees it: not 0, which reads like "none" in a dump.
const BASE: GuestAddress = GuestAddress(1 << 32);

impl Layout {
    /// Makes the memory, all zero.
    ///
    /// # Errors
    /// When the memfd cannot be made or mapped.
    pub(super) fn map(self) -> io::Result<Arc<Memory>> {
        let file = File::from(shared_memory::of_fixed_length("farwatch-queues", self.len)?);
        let region = GuestRegionMmap::from_range(BASE, self.len, Some(FileOffset::new(file, 0)))
            .map_err(io::Error::other)?;
        Ok(Arc::new(Memory { region: Arc::new(region) }))
    }
}

/// The shared memory.
#[derive(Debug)]
pub(super) struct Memory {
    region: Arc<GuestRegionMmap<()>>,
}

impl Memory {
    /// The bytes of `area`, to be copied from and to.
    pub(super) fn slice(&self, area: Area) -> VolatileSlice<'_> {
        let start = MemoryRegionAddress(self.guest_address(area) - BASE.0);
        self.region.get_slice(start, area.len).expect("an area lies inside the memory")
    }

    /// Where the device finds `area`: what a descriptor holds.
    pub(super) fn guest_address(&self, area: Area) -> u64 {
        BASE.0 + u64::try_from(area.offset).expect("an offset fits 64 bits")
    }

    /// Where `area` is in this process: what `VHOST_USER_SET_VRING_ADDR` takes.
    pub(super) fn host_address(&self, area: Area) -> u64 {
        let start = u64::try_from(self.region.as_ptr().addr()).expect("an address fits 64 bits");
        start + self.guest_address(area) - BASE.0
    }

    /// The one entry of `VHOST_USER_SET_MEM_TABLE`; the fd in it is borrowed from this memory.
    pub(super) fn table_entry(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo::from_guest_region(&self.region)
            .expect("the region is backed by a file")
    }

    /// The memory as the device's crates see it.
    #[cfg(test)]
    pub(super) fn guest(&self) -> vm_memory::GuestMemoryMmap<()> {
        vm_memory::GuestMemoryMmap::from_arc_regions(vec![Arc::clone(&self.region)]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev_fuse::PAGE_LEN;
    use vm_memory::{Bytes, GuestMemory};

    #[test]
    fn an_area_is_the_same_bytes_for_driver_and_device() {
        let mut layout = Layout::default();
        let (first, second) = (layout.take(3, 1), layout.take(4, PAGE_LEN));
        let memory = layout.map().unwrap();
        memory.slice(first).copy_from(b"abc");
        memory.slice(second).copy_from(b"defg");
        let mut seen = [0; 4];
        let at = GuestAddress(memory.guest_address(second));
        memory.guest().read_slice(&mut seen, at).unwrap();
        assert_eq!(&seen, b"defg");
        assert!(at.0.is_multiple_of(u64::try_from(PAGE_LEN).unwrap()));
        assert_eq!(memory.guest().num_regions(), 1);
    }

    #[test]
    #[should_panic(expected = "part is inside")]
    fn a_part_outside_its_area_is_refused() {
        Layout::default().take(8, 1).part(4, 5);
    }
}
