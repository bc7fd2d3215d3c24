// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests of every shape, posted as chains in guest memory, against a file system that answers
//! what its test needs.

use std::ffi::CStr;

use farwatch_proto::host::Ticket;
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::abi::{FARWATCH_IOC_SYNC, FUSE_HAVE_FSNOTIFY};
use farwatch_proto::wire::sync::State;
use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use virtiofsd::filesystem::{
    Context, DirEntry, DirectoryIterator, Entry, ZeroCopyReader, ZeroCopyWriter,
};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use super::*;

mod watched;

use crate::device::{AtomicMemory, Chain, QUEUE_SIZE_MAX};
use crate::virtio::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
const READDIR: u32 = 28;
const IOCTL: u32 = 39;
const READDIRPLUS: u32 = 44;

const MEM_LEN: usize = 4 << 20;
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x8000;
const BUFFERS: u64 = 0x1_0000;

/// Knows no file but `known`, panics at `panic`, and remembers what was asked.
struct TestFs(Arc<Seen>);

#[derive(Default)]
struct Seen {
    looked_up: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<(u64, u64)>>,
    capable: Mutex<Vec<FsOptions>>,
    written: Mutex<Vec<u8>>,
}

struct NoEntries;

/// Gives out barrier 7, which is reached, and knows no other. Node 3 can be watched.
#[derive(Default)]
struct Barriers {
    /// What was said of the guest's kernel.
    kernels: Mutex<Vec<(bool, bool)>>,
    watched: Mutex<Vec<(Node, u64)>>,
}

impl NotificationSource for Barriers {
    fn next(&self, _: &mut [u8; Notification::LEN_MAX]) -> Option<usize> {
        None
    }

    fn progress(&self, ticket: Option<Ticket>, _: Option<Instant>) -> Result<sync::Answer, Errno> {
        let known = Ticket::new(7).filter(|known| ticket.is_none_or(|ticket| ticket == *known));
        known
            .map(|ticket| sync::Answer { ticket, state: State::Reached, unwatched: 0 })
            .ok_or(Errno::STALE)
    }

    fn kernel_attached(&self, queue: bool, tells: bool) {
        self.kernels.lock().unwrap().push((queue, tells));
    }

    fn watch(&self, node: Node, mask: u64) -> Result<u64, Errno> {
        self.watched.lock().unwrap().push((node, mask));
        if node.id.get() == 3 { Ok(0x300) } else { Err(Errno::STALE) }
    }

    fn hurry(&self) {}

    fn reset(&self) {}
}

impl DirectoryIterator for NoEntries {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        None
    }
}

impl FileSystem for TestFs {
    type Inode = u64;
    type Handle = u64;
    type DirIter = NoEntries;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.0.capable.lock().unwrap().push(capable);
        Ok(FsOptions::all())
    }

    fn lookup(&self, _ctx: Context, _parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = name.to_str().unwrap_or("not UTF-8");
        assert_ne!(name, "panic", "asked for");
        self.0.looked_up.lock().unwrap().push(name.to_owned());
        if name != "known" {
            return Err(Errno::NOENT.into());
        }
        Ok(Entry {
            inode: 7,
            generation: 0,
            attr: virtiofsd::fuse::Attr::default(),
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
        })
    }

    fn forget(&self, _ctx: Context, inode: u64, count: u64) {
        self.0.forgotten.lock().unwrap().push((inode, count));
    }

    fn readdir(&self, _: Context, _: u64, _: u64, _: u32, _: u64) -> io::Result<NoEntries> {
        Ok(NoEntries)
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _ctx: Context,
        _inode: u64,
        _handle: u64,
        _writer: W,
        _size: u32,
        _offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        Ok(0)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        _ctx: Context,
        _inode: u64,
        _handle: u64,
        mut reader: R,
        size: u32,
        _offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        _kill_priv: bool,
        _flags: u32,
    ) -> io::Result<usize> {
        let file = tempfile::tempfile()?;
        let written = reader.write_to_file_at(&file, size as usize, 0, None)?;
        let mut data = vec![0; written];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, 0)?;
        *self.0.written.lock().unwrap() = data;
        Ok(written)
    }
}

/// The guest's memory, the desk of one queue, and the requests under test.
struct Bench {
    memory: AtomicMemory,
    desk: Desk,
    requests: Requests<TestFs>,
    source: Arc<Barriers>,
    seen: Arc<Seen>,
}

/// One buffer of a chain.
#[derive(Clone, Debug)]
enum Buffer {
    In(Vec<u8>),
    Out(u32),
}
use Buffer::{In, Out};

impl Bench {
    fn new() -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEM_LEN)]).unwrap();
        let seen = Arc::new(Seen::default());
        let source = Arc::new(Barriers::default());
        Self {
            memory: GuestMemoryAtomic::new(mem),
            desk: Desk::new().unwrap(),
            requests: Requests::new(TestFs(Arc::clone(&seen)), Arc::clone(&source) as _),
            source,
            seen,
        }
    }

    /// Makes the chain that starts at the first of `descriptors`.
    fn chain(&self, descriptors: &[Descriptor]) -> Chain {
        let mem = self.memory.memory();
        for (slot, descriptor) in (TABLE..).step_by(16).zip(descriptors) {
            mem.write_obj(*descriptor, GuestAddress(slot)).unwrap();
        }
        mem.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(AVAIL)).unwrap();
        let mut queue = Queue::new(QUEUE_SIZE_MAX).unwrap();
        queue.try_set_desc_table_address(GuestAddress(TABLE)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(AVAIL)).unwrap();
        queue.set_ready(true);
        queue.pop_descriptor_chain(mem).unwrap()
    }

    /// Lays the buffers into memory, one after the other.
    fn lay_out(&self, buffers: &[Buffer]) -> Vec<Descriptor> {
        let mem = self.memory.memory();
        let mut addr = BUFFERS;
        let mut descriptors = Vec::new();
        for (buffer, next) in buffers.iter().zip(1..) {
            let (len, flags) = match buffer {
                In(bytes) => {
                    mem.write_slice(bytes, GuestAddress(addr)).unwrap();
                    (u32::try_from(bytes.len()).unwrap(), 0)
                }
                Out(len) => {
                    let poison = vec![0xaa; *len as usize];
                    mem.write_slice(&poison, GuestAddress(addr)).unwrap();
                    (*len, DESC_F_WRITE)
                }
            };
            let more = if usize::from(next) < buffers.len() { DESC_F_NEXT } else { 0 };
            descriptors.push(Descriptor::new(addr, len, flags | more, next));
            addr += u64::from(len);
        }
        descriptors
    }

    fn serve_raw(&mut self, descriptors: &[Descriptor]) -> u32 {
        let chain = self.chain(descriptors);
        let mem = self.memory.memory();
        self.requests.serve(self.desk.fetch(&mem, chain))
    }

    /// Serves a request and returns what was written to its writable buffers.
    fn serve(&mut self, buffers: &[Buffer]) -> Vec<u8> {
        let descriptors = self.lay_out(buffers);
        let used = self.serve_raw(&descriptors) as usize;
        let mut reply = Vec::new();
        for descriptor in descriptors.iter().filter(|d| d.is_write_only()) {
            let mut part = vec![0; descriptor.len() as usize];
            self.memory.memory().read_slice(&mut part, descriptor.addr()).unwrap();
            reply.extend(part);
        }
        reply.truncate(used);
        assert_eq!(reply.len(), used, "more is said to be written than there is room");
        reply
    }

    /// The proof that the queue goes on: a LOOKUP of a file that is there.
    fn assert_goes_on(&mut self) {
        let reply = self.serve(&[In(request(LOOKUP, b"known\0")), Out(144)]);
        assert_eq!((reply.len(), errno(&reply)), (144, 0));
    }
}

fn request_of_len(len: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut header = InHeader { len, opcode, unique: 99, nodeid: 1, ..InHeader::default() };
    let mut request = header.as_mut_slice().to_vec();
    request.extend(body);
    request
}

fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    request_of_len(u32::try_from(HEADER_LEN + body.len()).unwrap(), opcode, body)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// `fuse_out_header.error`, positive.
fn errno(reply: &[u8]) -> i32 {
    assert_eq!(le32(reply, 0) as usize, reply.len());
    assert_eq!(le32(reply, 8), 99, "unique");
    -i32::from_le_bytes(reply[4..8].try_into().unwrap())
}

fn init(flags: u64) -> Vec<u8> {
    let mut body = vec![0; 64];
    for (at, number) in [
        (0, 7),
        (4, 38),
        (8, 0x2_0000),
        (12, u32::try_from(flags & 0xffff_ffff).unwrap()),
        (16, u32::try_from(flags >> 32).unwrap()),
    ] {
        body[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    request(INIT, &body)
}

fn init_flags(reply: &[u8]) -> u64 {
    u64::from(le32(reply, 16 + 12)) | u64::from(le32(reply, 16 + 32)) << 32
}

#[test]
fn a_request_in_pieces_is_served_and_its_reply_spread_over_the_pieces() {
    let mut bench = Bench::new();
    let bytes = request(LOOKUP, b"known\0");
    let mut buffers: Vec<Buffer> = bytes.iter().map(|byte| In(vec![*byte])).collect();
    buffers.extend([Out(1), Out(15), Out(3), Out(0), Out(125)]);
    let reply = bench.serve(&buffers);
    assert_eq!((reply.len(), errno(&reply)), (144, 0));
    assert_eq!(le32(&reply, 16), 7, "nodeid");
    assert_eq!(*bench.seen.looked_up.lock().unwrap(), ["known"]);
}

/// `fuse_ioctl_in` and the argument.
fn ioctl(cmd: u32, argument: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 32];
    body[12..16].copy_from_slice(&cmd.to_le_bytes());
    for at in [24, 28] {
        body[at..at + 4].copy_from_slice(&u32::try_from(argument.len()).unwrap().to_le_bytes());
    }
    request(IOCTL, &[body, argument.to_vec()].concat())
}

#[test]
fn an_ioctl_that_asks_for_a_barrier_is_answered_and_any_other_is_unknown() {
    let mut bench = Bench::new();
    let ticket = Ticket::new(7);
    for question in [None, ticket] {
        let asked = ioctl(FARWATCH_IOC_SYNC, &sync::ask(question));
        let reply = bench.serve(&[In(asked), Out(64)]);
        assert_eq!((reply.len(), errno(&reply), le32(&reply, 16)), (48, 0, 0));
        let answer = sync::Answer::decode(reply[32..].try_into().unwrap());
        assert_eq!(
            answer,
            ticket.map(|ticket| sync::Answer { ticket, state: State::Reached, unwatched: 0 })
        );
    }
    let asked = |cmd, argument: &[u8], room| [In(ioctl(cmd, argument)), Out(room)];
    let stale = asked(FARWATCH_IOC_SYNC, &sync::ask(Ticket::new(8)), 64);
    for (buffers, refused) in [
        (stale, Errno::STALE),
        (asked(FARWATCH_IOC_SYNC, &sync::ask(None), 47), Errno::INVAL),
        (asked(FARWATCH_IOC_SYNC, &[0; 15], 64), Errno::INVAL),
        (asked(FARWATCH_IOC_SYNC, &[1; 16], 64), Errno::INVAL),
        (asked(FARWATCH_IOC_SYNC + 1, &sync::ask(None), 64), Errno::NOSYS),
    ] {
        assert_eq!(errno(&bench.serve(&buffers)), refused.raw_os_error());
    }
    bench.assert_goes_on();
}

#[test]
fn a_request_behind_an_indirect_descriptor_is_served() {
    let mut bench = Bench::new();
    let descriptors = bench.lay_out(&[In(request(LOOKUP, b"known\0")), Out(144)]);
    let table = 0x9000;
    for (slot, descriptor) in (table..).step_by(16).zip(&descriptors) {
        bench.memory.memory().write_obj(*descriptor, GuestAddress(slot)).unwrap();
    }
    assert_eq!(bench.serve_raw(&[Descriptor::new(table, 32, DESC_F_INDIRECT, 0)]), 144);
}

#[test]
fn the_data_of_a_write_reaches_the_file_system_from_all_its_pieces() {
    let mut bench = Bench::new();
    let data: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut fixed = vec![0; 40];
    fixed[16..20].copy_from_slice(&10_000_u32.to_le_bytes());
    let bytes = request(WRITE, &[fixed, data.clone()].concat());
    // Cut within the header, within fuse_write_in, and within the data.
    let cuts = [0, 10, 79, 81, 4096, bytes.len()];
    let mut buffers: Vec<Buffer> =
        cuts.windows(2).map(|cut| In(bytes[cut[0]..cut[1]].to_vec())).collect();
    buffers.push(Out(24));
    let reply = bench.serve(&buffers);
    assert_eq!((errno(&reply), le32(&reply, 16)), (0, 10_000));
    assert!(*bench.seen.written.lock().unwrap() == data);
}

#[test]
fn change_by_the_guest_after_the_copy_is_not_seen() {
    for (opcode, body) in [(LOOKUP, b"known\0".to_vec()), (WRITE, vec![0; 40])] {
        let mut bench = Bench::new();
        let descriptors = bench.lay_out(&[In(request(opcode, &body)), Out(144)]);
        let chain = bench.chain(&descriptors);
        let mem = bench.memory.memory();
        let fetched = bench.desk.fetch(&mem, chain);
        mem.write_slice(&init(u64::MAX), GuestAddress(BUFFERS)).unwrap();
        bench.memory.memory().write_slice(&[0xff; 32], GuestAddress(TABLE)).unwrap();
        bench.requests.serve(fetched);
        assert!(bench.seen.capable.lock().unwrap().is_empty(), "INIT was executed");
        let looked_up = bench.seen.looked_up.lock().unwrap().len();
        assert_eq!(looked_up, usize::from(opcode == LOOKUP));
    }
}

#[test]
fn a_chain_without_a_whole_header_is_given_back_empty() {
    let mut bench = Bench::new();
    assert!(bench.serve(&[In(vec![0; 39]), Out(144)]).is_empty());
    assert!(bench.serve(&[In(vec![]), Out(144)]).is_empty());
    assert!(bench.serve(&[Out(144)]).is_empty());
    assert_eq!(bench.requests.malformed.get(), 3);
    bench.assert_goes_on();
}

#[test]
fn a_request_whose_length_is_not_that_of_its_chain_is_refused() {
    let mut bench = Bench::new();
    for len in [0, 39, 40, 45, 47, 1 << 20, u32::MAX] {
        let reply = bench.serve(&[In(request_of_len(len, LOOKUP, b"known\0")), Out(144)]);
        assert_eq!(errno(&reply), Errno::INVAL.raw_os_error(), "header.len {len}");
    }
    assert!(bench.seen.looked_up.lock().unwrap().is_empty());
    assert_eq!(bench.requests.refused.get(), 7);
    bench.assert_goes_on();
}

#[test]
fn a_request_longer_than_any_is_answered_with_enomem() {
    let mut bench = Bench::new();
    for opcode in [LOOKUP, WRITE] {
        let reply = bench.serve(&[In(request(opcode, &vec![0; REQUEST_LEN_MAX])), Out(144)]);
        assert_eq!(errno(&reply), Errno::NOMEM.raw_os_error());
    }
    bench.assert_goes_on();
}

#[test]
fn without_room_for_a_reply_header_nothing_is_executed() {
    let mut bench = Bench::new();
    for opcode in [LOOKUP, READ, READDIR, READDIRPLUS, INIT, 0, u32::MAX] {
        for room in [vec![], vec![Out(15)], vec![Out(7), Out(8)], vec![Out(0)]] {
            let mut buffers = vec![In(request(opcode, &[0; 40]))];
            buffers.extend(room);
            assert!(bench.serve(&buffers).is_empty(), "opcode {opcode}");
        }
    }
    assert_eq!(bench.requests.dispatched.get(), 0);
    bench.assert_goes_on();
}

#[test]
fn readers_of_directories_and_files_survive_a_reply_of_just_a_header() {
    let mut bench = Bench::new();
    for opcode in [READ, READDIR, READDIRPLUS] {
        let reply = bench.serve(&[In(request(opcode, &[0; 40])), Out(16)]);
        assert_eq!((reply.len(), errno(&reply)), (16, 0), "opcode {opcode}");
    }
    assert_eq!(bench.requests.panics.get(), 0);
}

#[test]
fn a_forget_needs_no_room_for_a_reply_and_gets_none() {
    let mut bench = Bench::new();
    assert!(bench.serve(&[In(request(FORGET, &5_u64.to_le_bytes()))]).is_empty());
    assert!(bench.serve(&[In(request(FORGET, &6_u64.to_le_bytes())), Out(144)]).is_empty());
    // Not one that can be decoded.
    assert!(bench.serve(&[In(request(FORGET, &[])), Out(144)]).is_empty());
    assert_eq!(*bench.seen.forgotten.lock().unwrap(), [(1, 5), (1, 6)]);
    assert_eq!(bench.requests.malformed.get(), 0);
}

#[test]
fn a_request_that_cannot_be_decoded_is_answered_with_einval() {
    let mut bench = Bench::new();
    for (opcode, body) in [(LOOKUP, &b"no end"[..]), (GETATTR, &[0; 3]), (INIT, &[0; 3])] {
        let reply = bench.serve(&[In(request(opcode, body)), Out(144)]);
        assert_eq!(errno(&reply), Errno::INVAL.raw_os_error(), "opcode {opcode}");
    }
    bench.assert_goes_on();
}

#[test]
fn an_opcode_that_is_none_is_answered_with_enosys() {
    let mut bench = Bench::new();
    let reply = bench.serve(&[In(request(4711, &[])), Out(144)]);
    assert_eq!(errno(&reply), Errno::NOSYS.raw_os_error());
}

#[test]
fn a_panic_of_the_file_system_is_answered_with_eio_and_the_next_request_is_served() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        let reply = bench.serve(&[In(request(LOOKUP, b"panic\0")), Out(144)]);
        assert_eq!(errno(&reply), Errno::IO.raw_os_error());
    }
    assert_eq!(bench.requests.panics.get(), 2);
    bench.assert_goes_on();
}

#[test]
fn chains_that_no_driver_makes_are_given_back_empty() {
    let lookup = [In(request(LOOKUP, b"known\0")), Out(144)];
    type Spoil = fn(&mut Vec<Descriptor>);
    let spoilers: [(&str, Spoil); 9] = [
        ("writable before readable", |d| {
            d.reverse();
            d[0] = Descriptor::new(d[0].addr().0, d[0].len(), DESC_F_WRITE | DESC_F_NEXT, 1);
            d[1] = Descriptor::new(d[1].addr().0, d[1].len(), 0, 0);
        }),
        ("a loop", |d| d[1] = Descriptor::new(d[1].addr().0, 144, DESC_F_WRITE | DESC_F_NEXT, 0)),
        ("itself next", |d| d[0] = Descriptor::new(d[0].addr().0, 46, DESC_F_NEXT, 0)),
        ("next beyond the table", |d| {
            d[1] = Descriptor::new(d[1].addr().0, 144, DESC_F_WRITE | DESC_F_NEXT, u16::MAX);
        }),
        ("request outside memory", |d| d[0] = Descriptor::new(1 << 40, 46, DESC_F_NEXT, 1)),
        ("request over the end of memory", |d| {
            d[0] = Descriptor::new(MEM_LEN as u64 - 1, 46, DESC_F_NEXT, 1);
        }),
        ("reply outside memory", |d| d[1] = Descriptor::new(u64::MAX - 1, 144, DESC_F_WRITE, 0)),
        ("longer than 4 GiB", |d| d[1] = Descriptor::new(d[1].addr().0, u32::MAX, DESC_F_WRITE, 0)),
        ("indirect within indirect", |d| {
            d[0] = Descriptor::new(TABLE, 16, DESC_F_INDIRECT, 0);
        }),
    ];
    let mut bench = Bench::new();
    for (what, spoil) in spoilers {
        let mut descriptors = bench.lay_out(&lookup);
        spoil(&mut descriptors);
        assert_eq!(bench.serve_raw(&descriptors), 0, "{what}");
        bench.assert_goes_on();
    }
    assert_eq!(bench.requests.malformed.get(), 9);
}

#[test]
fn a_chain_longer_than_the_largest_queue_is_given_back_empty() {
    let mut bench = Bench::new();
    let table = 0x10_0000;
    for next in 1..=QUEUE_SIZE_MAX + 1 {
        let flags = if next <= QUEUE_SIZE_MAX { DESC_F_NEXT } else { 0 };
        let slot = table + 16 * u64::from(next - 1);
        let descriptor = Descriptor::new(BUFFERS, 1, flags, next);
        bench.memory.memory().write_obj(descriptor, GuestAddress(slot)).unwrap();
    }
    let len = 16 * (u32::from(QUEUE_SIZE_MAX) + 1);
    assert_eq!(bench.serve_raw(&[Descriptor::new(table, len, DESC_F_INDIRECT, 0)]), 0);
    assert_eq!(bench.requests.malformed.get(), 1);
}

#[test]
fn init_never_grants_allow_idmap_and_grants_all_else_that_the_server_does() {
    const ALLOW_IDMAP: u64 = 1 << 40;
    for offered in [u64::MAX, !ALLOW_IDMAP] {
        let mut bench = Bench::new();
        let whole = bench.serve(&[In(init(offered)), Out(80)]);
        assert_eq!((whole.len(), errno(&whole)), (80, 0));
        let all = FsOptions::all() - FsOptions::ALLOW_IDMAP;
        assert_eq!(init_flags(&whole), all.bits() | FUSE_HAVE_FSNOTIFY);
        let capable = bench.seen.capable.lock().unwrap()[0];
        assert_eq!(capable, all);

        // A second INIT works, and so does a reply cut anywhere.
        for cut in 0..=80 {
            let pieces = bench.serve(&[In(init(offered)), Out(cut), Out(80 - cut)]);
            assert!(pieces == whole, "cut at {cut}");
        }
        let mut buffers = vec![In(init(offered))];
        buffers.extend(vec![Out(1); 80]);
        assert!(bench.serve(&buffers) == whole);
    }
}

#[test]
fn init_of_an_old_kernel_that_has_no_second_flags_is_served() {
    let mut bench = Bench::new();
    let mut bytes = init(0xffff_ffff & !FsOptions::INIT_EXT.bits());
    bytes.truncate(56);
    bytes[0] = 56;
    let reply = bench.serve(&[In(bytes), Out(80)]);
    assert_eq!((reply.len(), errno(&reply)), (80, 0));
}

#[test]
fn an_init_with_too_little_room_for_its_reply_is_refused() {
    let mut bench = Bench::new();
    let reply = bench.serve(&[In(init(u64::MAX)), Out(79)]);
    assert_eq!(errno(&reply), Errno::INVAL.raw_os_error());
}

#[test]
fn fsnotify_is_granted_if_it_was_offered_and_the_kernel_is_attached_with_its_queue_or_without() {
    for (offered, queue, granted) in [
        (u64::MAX, true, FUSE_HAVE_FSNOTIFY),
        (u64::MAX, false, FUSE_HAVE_FSNOTIFY),
        (!FUSE_HAVE_FSNOTIFY, true, 0),
    ] {
        let mut bench = Bench::new();
        bench.requests.set_notifying(queue);
        let reply = bench.serve(&[In(init(offered)), Out(80)]);
        assert_eq!(init_flags(&reply) & FUSE_HAVE_FSNOTIFY, granted);
        let attached = if granted != 0 { vec![(queue, true)] } else { Vec::new() };
        assert_eq!(*bench.source.kernels.lock().unwrap(), attached);
    }
}

#[test]
fn nothing_is_admitted_before_the_session_opens_and_after_it_closes() {
    let bench = Bench::new();
    assert!(bench.requests.gate.admit().is_none());
    bench.requests.gate.open();
    assert!(bench.requests.gate.admit().is_some());
    bench.requests.gate.close();
    assert!(bench.requests.gate.admit().is_none());
}

/// A request with an opcode that exists more often than not, and a length that is mostly right.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![9 => 0..60_u32, 1 => any::<u32>()];
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let len = prop::option::weighted(0.2, any::<u32>());
    (opcode, body, len).prop_map(|(opcode, body, len)| match len {
        Some(len) => request_of_len(len, opcode, &body),
        None => request(opcode, &body),
    })
}

/// Buffers as a driver would cut them.
fn any_buffers() -> impl Strategy<Value = Vec<Buffer>> {
    let cut = prop::collection::vec(1..64_usize, 0..6);
    let room = prop::collection::vec(0..300_u32, 0..6);
    (any_request(), cut, room).prop_map(|(bytes, cuts, room)| {
        let mut rest = bytes.as_slice();
        let mut buffers = Vec::new();
        for cut in cuts {
            let (piece, tail) = rest.split_at(cut.min(rest.len()));
            buffers.push(In(piece.to_vec()));
            rest = tail;
        }
        buffers.push(In(rest.to_vec()));
        buffers.extend(room.into_iter().map(Out));
        buffers
    })
}

/// Descriptors as no driver would write them.
fn any_descriptors() -> impl Strategy<Value = Vec<Descriptor>> {
    let addr = prop_oneof![
        8 => BUFFERS..BUFFERS + 0x1000,
        1 => TABLE..TABLE + 0x100,
        1 => MEM_LEN as u64 - 64..MEM_LEN as u64 + 64,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![8 => 0..256_u32, 1 => any::<u32>()];
    let descriptor = (addr, len, 0..8_u16, 0..8_u16)
        .prop_map(|(addr, len, flags, next)| Descriptor::new(addr, len, flags, next));
    prop::collection::vec(descriptor, 1..8)
}

proptest! {
    #[test]
    fn any_request_is_completed_within_its_room(buffers in any_buffers()) {
        let mut bench = Bench::new();
        bench.serve(&buffers);
        prop_assert_eq!(bench.requests.panics.get(), 0);
        bench.assert_goes_on();
    }

    #[test]
    fn any_chain_is_completed(request in any_request(), descriptors in any_descriptors()) {
        let mut bench = Bench::new();
        bench.memory.memory().write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        bench.serve_raw(&descriptors);
        prop_assert_eq!(bench.requests.panics.get(), 0);
        bench.assert_goes_on();
    }
}
