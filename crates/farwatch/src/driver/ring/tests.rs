// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ring against the device's side of `virtio-queue`, on the same memory; and against a device
//! that writes what it likes.

use std::collections::VecDeque;

use proptest::prelude::*;
use virtio_queue::{Queue as DeviceQueue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;

/// Length of the one buffer that all chains share.
const BUFFER_LEN: usize = 64;

/// A ring, and a device that has it.
struct Bench {
    ring: Ring<u32>,
    buffer: Area,
    guest: GuestMemoryMmap<()>,
    device: DeviceQueue,
}

impl Bench {
    fn new(size: u16, features: u64) -> Self {
        let mut layout = Layout::default();
        let areas = RingAreas::plan(&mut layout, size, 1);
        let buffer = layout.take(BUFFER_LEN, 8);
        let memory = layout.map().unwrap();
        let guest = memory.guest();
        let mut device = DeviceQueue::new(areas.size()).unwrap();
        let [desc, avail, used] = [areas.desc, areas.avail, areas.used]
            .map(|area| GuestAddress(memory.guest_address(area)));
        device.try_set_desc_table_address(desc).unwrap();
        device.try_set_avail_ring_address(avail).unwrap();
        device.try_set_used_ring_address(used).unwrap();
        device.set_event_idx(features & RING_F_EVENT_IDX != 0);
        device.set_ready(true);
        assert!(device.is_valid(&guest), "the device accepts the ring");
        Self { ring: Ring::new(memory, areas, features), buffer, guest, device }
    }

    /// Writes what a device must not.
    fn forge_used(&self, idx: u16, elements: &[(u32, u32)]) {
        let used = self.ring.memory.slice(self.ring.areas.used);
        for (nth, (id, len)) in elements.iter().enumerate() {
            used.write_obj(id.to_le(), RING_HEADER_LEN + nth * USED_ELEM_LEN).unwrap();
            used.write_obj(len.to_le(), RING_HEADER_LEN + nth * USED_ELEM_LEN + 4).unwrap();
        }
        used.store(idx.to_le(), IDX, Ordering::Release).unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver adds chains of (readable, writable) buffers and kicks if asked to.
    Add(Vec<(usize, usize)>),
    /// The device takes what is there, if it is awake, and sleeps when there is no more.
    Take,
    /// The device uses the chain it has had for so long, modulo, with this length.
    Use(usize, u32),
    /// The driver takes what is used, if it is awake, and sleeps when there is no more.
    Pop,
}

fn step() -> impl Strategy<Value = Step> {
    let chain = (0usize..=2, 0usize..=2).prop_filter("not empty", |(r, w)| r + w > 0);
    prop_oneof![
        prop::collection::vec(chain, 1..4).prop_map(Step::Add),
        Just(Step::Take),
        (any::<usize>(), 0u32..200).prop_map(|(which, len)| Step::Use(which, len)),
        Just(Step::Pop),
    ]
}

/// A chain in the model.
#[derive(Clone, Debug)]
struct Out {
    token: u32,
    readable: usize,
    writable: usize,
    /// Once the device has taken it.
    head: u16,
    /// What the driver must be told, once the device has used it.
    len: u32,
}

struct Model {
    bench: Bench,
    next_token: u32,
    /// Added, not taken by the device.
    available: VecDeque<Out>,
    /// The device has it.
    taken: Vec<Out>,
    /// Used, not popped.
    used: VecDeque<Out>,
    device_awake: bool,
    driver_awake: bool,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Add(chains) => self.add(chains),
            Step::Take => self.take(),
            Step::Use(which, len) => self.use_chain(*which, *len),
            Step::Pop => self.pop(),
        }
        assert!(self.device_awake || self.available.is_empty(), "a kick is missing");
        assert!(self.driver_awake || self.used.is_empty(), "a call is missing");
        let in_flight = self.available.len() + self.taken.len() + self.used.len();
        assert_eq!(usize::from(self.bench.ring.in_flight()), in_flight);
    }

    fn add(&mut self, chains: &[(usize, usize)]) {
        let buffer = self.bench.buffer;
        for (readable, writable) in chains.iter().copied() {
            let token = self.next_token;
            let free = self.free();
            let buffers = [buffer; 2];
            match self.bench.ring.add(&buffers[..readable], &buffers[..writable], token) {
                Ok(()) => {
                    assert!(free >= self.descriptors(readable, writable), "there was no room");
                    self.next_token += 1;
                    self.available.push_back(Out { token, readable, writable, head: 0, len: 0 });
                }
                Err(back) => {
                    assert_eq!(back, token);
                    assert!(free < self.descriptors(readable, writable), "there was room");
                }
            }
        }
        self.device_awake |= self.bench.ring.should_kick();
    }

    /// How many descriptors of the table a chain takes.
    fn descriptors(&self, readable: usize, writable: usize) -> usize {
        if self.bench.ring.indirect { 1 } else { readable + writable }
    }

    /// How many descriptors are free.
    fn free(&self) -> usize {
        let out = self.available.iter().chain(&self.taken).chain(&self.used);
        let taken: usize = out.map(|out| self.descriptors(out.readable, out.writable)).sum();
        usize::from(self.bench.ring.areas.size) - taken
    }

    fn take(&mut self) {
        let Bench { device, guest, buffer, ring, .. } = &mut self.bench;
        if !self.device_awake {
            return;
        }
        while let Some(chain) = device.pop_descriptor_chain(&*guest) {
            let out = self.available.pop_front().expect("nothing appears from nowhere");
            let (readable, writable) =
                (chain.clone().readable().count(), chain.clone().writable().count());
            assert_eq!((readable, writable), (out.readable, out.writable));
            let address = ring.memory.guest_address(*buffer);
            assert!(chain.clone().all(|d| d.addr().0 == address && d.len() == 64));
            self.taken.push(Out { head: chain.head_index(), ..out });
        }
        assert!(self.available.is_empty(), "the device sees all that was added");
        self.device_awake = device.enable_notification(&*guest).unwrap();
    }

    fn use_chain(&mut self, which: usize, len: u32) {
        if self.taken.is_empty() {
            return;
        }
        let mut out = self.taken.remove(which % self.taken.len());
        let Bench { device, guest, .. } = &mut self.bench;
        device.add_used(&*guest, out.head, len).unwrap();
        out.len = len.min(u32::try_from(out.writable * BUFFER_LEN).unwrap());
        self.used.push_back(out);
        self.driver_awake |= device.needs_notification(&*guest).unwrap();
    }

    fn pop(&mut self) {
        if !self.driver_awake {
            return;
        }
        while let Some(popped) = self.bench.ring.pop().unwrap() {
            let out = self.used.pop_front().expect("nothing appears from nowhere");
            assert_eq!(popped, (out.token, out.len));
        }
        self.driver_awake = self.bench.ring.arm();
    }
}

proptest! {
    #[test]
    fn driver_and_device_agree_and_neither_sleeps_on_work(
        size in 1u16..=9,
        event_idx: bool,
        indirect: bool,
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let features = if event_idx { RING_F_EVENT_IDX } else { 0 }
            | if indirect { RING_F_INDIRECT_DESC } else { 0 };
        let mut model = Model {
            bench: Bench::new(size, features),
            next_token: 0,
            available: VecDeque::new(),
            taken: Vec::new(),
            used: VecDeque::new(),
            device_awake: true,
            driver_awake: true,
        };
        for step in &steps {
            model.apply(step);
        }
    }

    #[test]
    fn a_device_that_writes_anything_gets_an_error_and_causes_no_panic(
        features in prop::sample::select(vec![0, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC]),
        rounds in prop::collection::vec(
            (any::<u16>(), prop::collection::vec((0u32..8, any::<u32>()), 4)),
            1..20,
        ),
    ) {
        let mut bench = Bench::new(4, features);
        let buffer = bench.buffer;
        for (idx, elements) in rounds {
            // A full ring is no concern here.
            let _full = bench.ring.add(&[buffer], &[buffer], 0);
            bench.forge_used(bench.ring.last_used.wrapping_add(idx % 6), &elements);
            bench.ring.should_kick();
            for _ in 0..=bench.ring.areas.size() {
                match bench.ring.pop() {
                    Ok(Some((_, len))) => prop_assert!(len <= 64),
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}

#[test]
fn indices_wrap_around() {
    for features in [0, RING_F_EVENT_IDX | RING_F_INDIRECT_DESC] {
        let mut bench = Bench::new(2, features);
        let buffer = bench.buffer;
        for token in 0..70_000 {
            bench.ring.add(&[buffer], &[buffer], token).unwrap();
            let chain = bench.device.pop_descriptor_chain(&bench.guest).unwrap();
            bench.device.add_used(&bench.guest, chain.head_index(), 1).unwrap();
            assert_eq!(bench.ring.pop(), Ok(Some((token, 1))));
        }
    }
}

#[test]
fn without_event_idx_calls_are_wanted_only_from_arming_to_the_next_used_chain() {
    let mut bench = Bench::new(4, 0);
    let buffer = bench.buffer;
    let flags = |bench: &Bench| bench.ring.load(bench.ring.areas.avail, FLAGS, Ordering::Relaxed);
    bench.ring.add(&[buffer], &[], 7).unwrap();
    assert_eq!(flags(&bench), AVAIL_F_NO_INTERRUPT);
    assert!(!bench.ring.arm());
    assert_eq!(flags(&bench), 0);
    bench.forge_used(1, &[(0, 0)]);
    assert!(bench.ring.arm(), "there is something already");
    bench.ring.pop().unwrap();
    assert_eq!(flags(&bench), AVAIL_F_NO_INTERRUPT);
}

#[test]
fn a_length_beyond_the_writable_buffers_is_cut() {
    let mut bench = Bench::new(4, 0);
    let buffer = bench.buffer;
    bench.ring.add(&[buffer], &[buffer], 7).unwrap();
    bench.forge_used(1, &[(0, u32::MAX)]);
    assert_eq!(bench.ring.pop(), Ok(Some((7, 64))));
}

#[test]
fn a_used_id_that_is_no_head_in_flight_is_an_error() {
    // Out of range, beyond 16 bits, free, and in the middle of a chain.
    for id in [4, 0x1_0000, 3, 1] {
        let mut bench = Bench::new(4, 0);
        let buffer = bench.buffer;
        bench.ring.add(&[buffer], &[buffer], 7).unwrap();
        bench.forge_used(1, &[(id, 0)]);
        assert_eq!(bench.ring.pop(), Err(RingError::UsedId(id)));
    }
}

#[test]
fn a_used_id_that_comes_twice_is_an_error() {
    let mut bench = Bench::new(4, 0);
    let buffer = bench.buffer;
    bench.ring.add(&[buffer], &[], 7).unwrap();
    bench.ring.add(&[buffer], &[], 8).unwrap();
    bench.forge_used(2, &[(0, 0), (0, 0)]);
    assert_eq!(bench.ring.pop(), Ok(Some((7, 0))));
    assert_eq!(bench.ring.pop(), Err(RingError::UsedId(0)));
}

#[test]
fn a_used_index_beyond_the_chains_in_flight_is_an_error() {
    let mut bench = Bench::new(4, 0);
    let buffer = bench.buffer;
    bench.ring.add(&[buffer], &[], 7).unwrap();
    for index in [2, u16::MAX] {
        bench.forge_used(index, &[(0, 0)]);
        let expected = RingError::UsedIndex { index, expected: 0, in_flight: 1 };
        assert_eq!(bench.ring.pop(), Err(expected));
    }
}
