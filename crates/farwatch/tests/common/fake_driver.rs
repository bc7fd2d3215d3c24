// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`FakeDriver`]: a virtual machine in one struct, as far as a virtio-fs device can tell.
//!
//! It is the frontend that sets the device up over its socket, the memory that both share, and the
//! driver that posts chains and reads the used rings. It does what it is told, also what no driver
//! would do; what it finds in a used ring it checks.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use farwatch::virtio::{DESC_F_NEXT, DESC_F_WRITE, F_VERSION_1, RING_F_EVENT_IDX};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What every connection negotiates.
const F_ALWAYS: u64 = F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
const F_LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();

/// Memory of one queue: its ring at the start, buffers from [`BUFFERS`] on.
const QUEUE_SPACE: u64 = 4 << 20;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0xc000;
const BUFFERS: u64 = 0x1_0000;

/// Bytes for which one bit of the dirty log stands (`VHOST_LOG_PAGE`).
const LOG_PAGE_LEN: usize = 0x1000;
/// Enough for 1 GiB.
const LOG_LEN: u64 = 1 << 15;

/// How long a test waits for the device before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// One buffer of a chain.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    /// For the device to read.
    In(Vec<u8>),
    /// For the device to write, so many bytes.
    Out(u32),
}

/// The machine. Dropped, it is gone, and so is its connection.
pub(crate) struct FakeDriver {
    /// The connection to the device.
    pub(crate) frontend: Frontend,
    mem: GuestMemoryMmap<()>,
    queues: Vec<Queue>,
    event_idx: bool,
    features: u64,
    /// The log of pages that the device has written to, a bit each.
    log: File,
    /// Pages that are the device's to write to: used rings and buffers.
    written: BTreeSet<usize>,
}

struct Queue {
    index: usize,
    size: u16,
    base: u64,
    next_avail: u16,
    /// `next_avail` at the last kick.
    kicked: u16,
    last_used: u16,
    next_slot: u16,
    next_buffer: u64,
    /// The writable buffers of the chains in flight, by head.
    posted: Vec<Option<Vec<(u64, u32)>>>,
    kick: EventFd,
    call: EventFd,
    /// The ring's position when it was stopped.
    stopped_at: u32,
}

impl FakeDriver {
    /// Connects, takes those of `features` that the device offers, and starts `queues` queues of
    /// `size` entries.
    pub(crate) fn connect(socket: &Path, queues: usize, size: u16, features: u64) -> Self {
        let frontend = Frontend::connect(socket, queues as u64).unwrap();
        let len = usize::try_from(QUEUE_SPACE).unwrap() * queues;
        let file = tempfile::tempfile().unwrap();
        file.set_len(len as u64).unwrap();
        let range = (GuestAddress(0), len, Some(FileOffset::new(file, 0)));
        let mem = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let queues = (0..queues).map(|index| Queue::new(index, size)).collect();
        let event_idx = features & RING_F_EVENT_IDX != 0;
        let log = tempfile::tempfile().unwrap();
        log.set_len(LOG_LEN).unwrap();
        let mut driver =
            Self { frontend, mem, queues, event_idx, features, log, written: BTreeSet::new() };
        driver.negotiate();
        driver.share_memory();
        driver.start();
        driver
    }

    /// Whether a device takes a region of `len` bytes that lies in a file of `file_len`. The machine is gone afterwards.
    pub(crate) fn shares_memory_of(socket: &Path, len: usize, file_len: u64) -> bool {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len as u64).unwrap();
        let range = (GuestAddress(0), len, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
        let mem = GuestMemoryMmap::<()>::from_ranges_with_files([range]).unwrap();
        file.set_len(file_len).unwrap();
        let region = mem.iter().next().unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        let mut frontend = Frontend::connect(socket, 1).unwrap();
        frontend.set_owner().unwrap();
        frontend.get_features().unwrap();
        frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(VhostUserProtocolFeatures::REPLY_ACK).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(F_ALWAYS).unwrap();
        frontend.set_mem_table(&[region]).is_ok()
    }

    fn negotiate(&mut self) {
        let frontend = &mut self.frontend;
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & F_ALWAYS, F_ALWAYS);
        let protocol = frontend.get_protocol_features().unwrap();
        frontend
            .set_protocol_features(
                protocol
                    & (VhostUserProtocolFeatures::MQ
                        | VhostUserProtocolFeatures::CONFIG
                        | VhostUserProtocolFeatures::REPLY_ACK
                        | VhostUserProtocolFeatures::LOG_SHMFD
                        | VhostUserProtocolFeatures::DEVICE_STATE
                        | VhostUserProtocolFeatures::RESET_DEVICE),
            )
            .unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.features = F_ALWAYS | self.features & offered;
        frontend.set_features(self.features).unwrap();
    }

    fn share_memory(&mut self) {
        let region = self.mem.iter().next().unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        self.frontend.set_mem_table(&[region]).unwrap();
    }

    /// Has the device log what it writes to, as at the beginning of a migration, or not any more.
    pub(crate) fn log_writes(&mut self, on: bool) {
        if on {
            let region = VhostUserDirtyLogRegion {
                mmap_size: LOG_LEN,
                mmap_offset: 0,
                mmap_handle: self.log.as_raw_fd(),
            };
            self.frontend.set_log_base(0, Some(region)).unwrap();
        }
        let logging = if on { F_LOG_ALL } else { 0 };
        self.frontend.set_features(self.features | logging).unwrap();
    }

    /// Forgets what was logged.
    pub(crate) fn forget_log(&mut self) {
        let zeros = vec![0; usize::try_from(LOG_LEN).unwrap()];
        self.log.write_all_at(&zeros, 0).unwrap();
    }

    /// Whether a page was logged as written to.
    pub(crate) fn is_logged(&self, page: usize) -> bool {
        let mut byte = [0];
        self.log.read_exact_at(&mut byte, page as u64 / 8).unwrap();
        byte[0] & 1 << (page % 8) != 0
    }

    /// All of the memory.
    pub(crate) fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(QUEUE_SPACE).unwrap() * self.queues.len()];
        self.mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    /// The pages that are not as they were and that only the device writes to: of the used rings, and
    /// of buffers that are posted for it to write.
    pub(crate) fn changed_pages(&self, before: &[u8]) -> Vec<usize> {
        let now = self.memory();
        let pages = now.chunks(LOG_PAGE_LEN).zip(before.chunks(LOG_PAGE_LEN)).enumerate();
        let changed = pages.filter(|(_, (now, before))| now != before).map(|(page, _)| page);
        changed.filter(|page| self.written.contains(page)).collect()
    }

    /// Stops all queues, as a machine does that pauses, and asks for the device's state.
    pub(crate) fn save(&mut self) -> vhost::Result<Vec<u8>> {
        self.pause();
        let (mut from, to) = io::pipe().unwrap();
        let stopped = VhostTransferStatePhase::STOPPED;
        self.frontend.set_device_state_fd(VhostTransferStateDirection::SAVE, stopped, to.into())?;
        let mut state = Vec::new();
        from.read_to_end(&mut state).unwrap();
        self.frontend.check_device_state()?;
        Ok(state)
    }

    /// Stops all queues, where they are.
    pub(crate) fn pause(&mut self) {
        for queue in &mut self.queues {
            queue.stopped_at = self.frontend.get_vring_base(queue.index).unwrap();
        }
    }

    /// Lets all queues go on where they were.
    pub(crate) fn resume(&mut self) {
        for queue in &self.queues {
            start(&mut self.frontend, &self.mem, queue, queue.stopped_at);
        }
    }

    /// The same machine on another host, paused, with a device that has not been given its state yet.
    pub(crate) fn moved(self, socket: &Path) -> Self {
        let frontend = Frontend::connect(socket, self.queues.len() as u64).unwrap();
        let mut moved = Self { frontend, ..self };
        moved.negotiate();
        moved.share_memory();
        moved
    }

    /// Gives the device a state.
    pub(crate) fn load(&mut self, state: &[u8]) -> vhost::Result<()> {
        drop(self.begin_load(state));
        self.frontend.check_device_state()
    }

    /// Gives the device the beginning of a state, and returns where the rest is to go.
    pub(crate) fn begin_load(&self, state: &[u8]) -> PipeWriter {
        let (from, mut to) = io::pipe().unwrap();
        let (load, stopped) = (VhostTransferStateDirection::LOAD, VhostTransferStatePhase::STOPPED);
        self.frontend.set_device_state_fd(load, stopped, from.into()).unwrap();
        to.write_all(state).unwrap();
        to
    }

    /// Starts all queues afresh, with empty rings.
    pub(crate) fn start(&mut self) {
        for queue in &mut self.queues {
            *queue = Queue::new(queue.index, queue.size);
            let ring = vec![0; usize::try_from(BUFFERS).unwrap()];
            self.mem.write_slice(&ring, GuestAddress(queue.base)).unwrap();
            start(&mut self.frontend, &self.mem, queue, 0);
        }
    }

    /// A part of the config space.
    pub(crate) fn config(&mut self, offset: u32, size: u32) -> Vec<u8> {
        let room = vec![0xff; size as usize];
        let flags = VhostUserConfigFlags::empty();
        self.frontend.get_config(offset, size, flags, &room).unwrap().1
    }

    /// Posts a chain, without a kick, and returns its head.
    pub(crate) fn post(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let queue = &mut self.queues[queue];
        let slots: Vec<u16> = buffers.iter().map(|_| queue.take_slot()).collect();
        let mut writable = Vec::new();
        for (n, buffer) in buffers.iter().enumerate() {
            let (len, flags) = match buffer {
                Buffer::In(bytes) => (u32::try_from(bytes.len()).unwrap(), 0),
                Buffer::Out(len) => (*len, DESC_F_WRITE),
            };
            let addr = queue.take_buffer(len);
            match buffer {
                Buffer::In(bytes) => self.mem.write_slice(bytes, GuestAddress(addr)).unwrap(),
                Buffer::Out(_) => {
                    self.written.extend((addr..addr + u64::from(len)).map(page));
                    writable.push((addr, len));
                }
            }
            let (flags, next) = match slots.get(n + 1) {
                Some(next) => (flags | DESC_F_NEXT, *next),
                None => (flags, 0),
            };
            let slot = queue.base + 16 * u64::from(slots[n]);
            let descriptor = Descriptor::new(addr, len, flags, next);
            self.mem.write_obj(descriptor, GuestAddress(slot)).unwrap();
        }
        self.written.insert(page(queue.base + USED));
        queue.posted[usize::from(slots[0])] = Some(writable);
        queue.offer(&self.mem, slots[0]);
        slots[0]
    }

    /// Offers a head that need not be one, `times` times over.
    pub(crate) fn post_nonsense(&mut self, queue: usize, head: u16, times: u16) {
        for _ in 0..times {
            self.queues[queue].offer(&self.mem, head);
        }
    }

    /// Tells the device to look at the queue, unless it has said that it need not be told.
    pub(crate) fn kick(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if !self.event_idx || queue.needs_kick(&self.mem) {
            queue.kick.write(1).unwrap();
        }
        queue.kicked = queue.next_avail;
    }

    /// The next chain that the device has given back, as what was written to it; `None` if there is
    /// none now.
    pub(crate) fn used(&mut self, queue: usize) -> Option<Vec<u8>> {
        let queue = &mut self.queues[queue];
        let (id, len) = queue.pop(&self.mem)?;
        let writable = queue.posted[id as usize].take().expect("the chain was posted");
        let mut written = Vec::new();
        for (addr, len) in writable {
            let mut part = vec![0; len as usize];
            self.mem.read_slice(&mut part, GuestAddress(addr)).unwrap();
            written.extend(part);
        }
        assert!(written.len() >= len as usize, "the used length exceeds the buffers");
        written.truncate(len as usize);
        Some(written)
    }

    /// Waits for the device to give a chain back.
    pub(crate) fn wait(&mut self, queue: usize) -> Vec<u8> {
        loop {
            if let Some(written) = self.used(queue) {
                return written;
            }
            if self.event_idx {
                self.queues[queue].want_call(&self.mem);
                if let Some(written) = self.used(queue) {
                    return written;
                }
            }
            self.queues[queue].wait_for_call();
        }
    }

    /// Posts a request with room for a reply and returns the reply.
    pub(crate) fn request(&mut self, queue: usize, request: Vec<u8>, room: u32) -> Vec<u8> {
        self.post(queue, &[Buffer::In(request), Buffer::Out(room)]);
        self.kick(queue);
        self.wait(queue)
    }

    /// How often the device has called since the last time this was asked.
    pub(crate) fn calls(&self, queue: usize) -> u64 {
        self.queues[queue].call.read().unwrap_or(0)
    }
}

/// The number of the page that an address is in.
fn page(address: u64) -> usize {
    usize::try_from(address).unwrap() / LOG_PAGE_LEN
}

fn start(frontend: &mut Frontend, mem: &GuestMemoryMmap<()>, queue: &Queue, base: u32) {
    let host = mem.get_host_address(GuestAddress(queue.base)).unwrap() as u64;
    frontend.set_vring_num(queue.index, queue.size).unwrap();
    frontend.set_vring_base(queue.index, base.try_into().unwrap()).unwrap();
    let addresses = VringConfigData {
        queue_max_size: queue.size,
        queue_size: queue.size,
        flags: 0,
        desc_table_addr: host,
        used_ring_addr: host + USED,
        avail_ring_addr: host + AVAIL,
        log_addr: None,
    };
    frontend.set_vring_addr(queue.index, &addresses).unwrap();
    frontend.set_vring_call(queue.index, &queue.call).unwrap();
    frontend.set_vring_kick(queue.index, &queue.kick).unwrap();
    frontend.set_vring_enable(queue.index, true).unwrap();
}

impl Queue {
    fn new(index: usize, size: u16) -> Self {
        let base = QUEUE_SPACE * index as u64;
        Self {
            index,
            size,
            base,
            next_avail: 0,
            kicked: 0,
            last_used: 0,
            next_slot: 0,
            next_buffer: base + BUFFERS,
            posted: vec![None; usize::from(size)],
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            stopped_at: 0,
        }
    }

    /// Descriptors are taken in turn: tests have few chains in flight.
    fn take_slot(&mut self) -> u16 {
        let slot = self.next_slot;
        assert!(self.posted[usize::from(slot)].is_none(), "too much in flight");
        self.next_slot = (slot + 1) % self.size;
        slot
    }

    fn take_buffer(&mut self, len: u32) -> u64 {
        if self.next_buffer + u64::from(len) > self.base + QUEUE_SPACE {
            self.next_buffer = self.base + BUFFERS;
        }
        let addr = self.next_buffer;
        self.next_buffer += u64::from(len);
        addr
    }

    fn offer(&mut self, mem: &GuestMemoryMmap<()>, head: u16) {
        let slot = 4 + 2 * u64::from(self.next_avail % self.size);
        mem.write_obj(head, GuestAddress(self.base + AVAIL + slot)).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        let idx = GuestAddress(self.base + AVAIL + 2);
        mem.store(self.next_avail, idx, Ordering::Release).unwrap();
    }

    fn pop(&mut self, mem: &GuestMemoryMmap<()>) -> Option<(u32, u32)> {
        let used = self.base + USED;
        let idx: u16 = mem.load(GuestAddress(used + 2), Ordering::Acquire).unwrap();
        if idx == self.last_used {
            return None;
        }
        let entry = used + 4 + 8 * u64::from(self.last_used % self.size);
        self.last_used = self.last_used.wrapping_add(1);
        let id = mem.read_obj(GuestAddress(entry)).unwrap();
        Some((id, mem.read_obj(GuestAddress(entry + 4)).unwrap()))
    }

    /// `vring_need_event` of `include/uapi/linux/virtio_ring.h`.
    fn needs_kick(&self, mem: &GuestMemoryMmap<()>) -> bool {
        fence(Ordering::SeqCst);
        let avail_event = self.base + USED + 4 + 8 * u64::from(self.size);
        let event: u16 = mem.load(GuestAddress(avail_event), Ordering::Relaxed).unwrap();
        let since_event = self.next_avail.wrapping_sub(event).wrapping_sub(1);
        since_event < self.next_avail.wrapping_sub(self.kicked)
    }

    /// Sets `used_event`: the next chain given back is to be called for.
    fn want_call(&self, mem: &GuestMemoryMmap<()>) {
        let used_event = self.base + AVAIL + 4 + 2 * u64::from(self.size);
        mem.store(self.last_used, GuestAddress(used_event), Ordering::Relaxed).unwrap();
        fence(Ordering::SeqCst);
    }

    fn wait_for_call(&self) {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.call.as_raw_fd(), event).unwrap();
        let timeout = i32::try_from(PATIENCE.as_millis()).unwrap();
        let ready = epoll.wait(timeout, &mut [EpollEvent::default()]).unwrap();
        assert_eq!(ready, 1, "the device does not give back a chain of queue {}", self.index);
        self.call.read().unwrap();
    }
}
