// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Desk`]: where a request is copied to before anyone looks at it.
//!
//! virtiofsd's `Reader` decodes a request where it lies, in memory that the guest can change at any
//! moment: what was checked need not be what is executed. So each descriptor, and each byte of the
//! request but the data of a WRITE, is read from guest memory once, into private memory of the same
//! type, and the `Reader` is made over that. The data of a WRITE stays in place: it decides nothing,
//! and is written to the file without a copy, as virtiofsd does.
//!
//! Not here: what makes a request acceptable, and what becomes of it (see
//! [`request`](super::request)).

use std::ops::Deref;
use std::sync::Arc;
use std::{io, iter, mem};

use rustix::io::Errno;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestRegionMmap};

use super::{Chain, Memory, QUEUE_SIZE_MAX};
use crate::virtio::{DESC_F_NEXT, DESC_F_WRITE};

/// Bytes of `fuse_in_header`, the least that a request has.
pub(super) const HEADER_LEN: usize = size_of::<InHeader>();
/// Bytes of the longest request: what virtiofsd's server takes (`MAX_BUFFER_SIZE` and
/// `FUSE_BUFFER_HEADER_SIZE` of its server.rs). Longer ones are answered with ENOMEM, as there.
pub(super) const REQUEST_LEN_MAX: usize = (1 << 20) + (1 << 12);
/// Bytes of a WRITE that come before its data: `fuse_in_header` and `fuse_write_in`.
const WRITE_FIXED_LEN: usize = HEADER_LEN + 40;
/// Descriptors of the longest chain. A driver makes none longer than its queue (virtio 1.2
/// §2.7.5.3.1); one that does gets it back empty.
const CHAIN_LEN_MAX: usize = QUEUE_SIZE_MAX as usize;

/// Where the private memory lies among the guest's addresses: beyond all physical addresses of any
/// machine (2^52 on x86-64 and arm64).
const BASE: u64 = 1 << 60;
/// An available ring with one entry, the chain that starts at descriptor 0.
const AVAIL: GuestAddress = GuestAddress(BASE);
/// The descriptor table: the guest's descriptors and one more, for the copy.
const TABLE: GuestAddress = GuestAddress(BASE + 0x1000);
const TABLE_LEN: u16 = 2 * QUEUE_SIZE_MAX;
/// Room for the reply to an INIT.
const REPLY: GuestAddress = GuestAddress(BASE + 0x1_0000);
const REPLY_LEN: u32 = 0x1000;
/// The copy of the request.
const REQUEST: GuestAddress = GuestAddress(BASE + 0x2_0000);
const SIZE: usize = 0x2_0000 + REQUEST_LEN_MAX;

const _: () = assert!(0x1000 + 16 * TABLE_LEN as u64 <= 0x1_0000 && REPLY_LEN <= 0x1_0000);

type PrivateChain = DescriptorChain<Arc<Memory>>;

/// The chain is not one that a driver makes: there is nothing to answer and nowhere to answer to.
#[derive(Debug)]
pub(super) struct Malformed;

/// Private memory for one request at a time. Each queue has its own.
pub(super) struct Desk {
    region: Arc<GuestRegionMmap<BitmapMmapRegion>>,
    /// That region alone.
    mem: Arc<Memory>,
    descriptors: Vec<Descriptor>,
    /// The request, but for the data of a WRITE.
    bytes: Vec<u8>,
}

/// A request that no longer changes under our hands.
pub(super) struct Request<'a> {
    /// The header as it will be executed.
    pub(super) header: InHeader,
    /// Bytes that the chain offers for reading; in a sound request `header.len` says the same.
    pub(super) len: usize,
    /// Where the reply goes. A clone of it starts at the beginning again.
    pub(super) writer: Writer<'a>,
    desk: &'a mut Desk,
    /// Where the readable descriptors of `chain` point into.
    mem: Arc<Memory>,
    chain: PrivateChain,
}

impl Desk {
    /// Maps the private memory: about 1 MiB, of which only what is touched takes room.
    pub(super) fn new() -> io::Result<Self> {
        let region = GuestRegionMmap::from_range(GuestAddress(BASE), SIZE, None)
            .map_err(io::Error::other)?;
        let region = Arc::new(region);
        let mem = Memory::from_arc_regions(vec![Arc::clone(&region)]).map_err(io::Error::other)?;
        mem.write_slice(&AVAIL_OF_ONE, AVAIL).map_err(io::Error::other)?;
        Ok(Self { region, mem: Arc::new(mem), descriptors: Vec::new(), bytes: Vec::new() })
    }

    /// Copies a request out of the guest's memory.
    pub(super) fn fetch<'a>(
        &'a mut self,
        guest: &'a Memory,
        chain: Chain,
    ) -> Result<Request<'a>, Malformed> {
        self.fetch_descriptors(chain)?;
        let len = self.readable().map(|d| d.len() as usize).sum::<usize>();
        if len < HEADER_LEN {
            return Err(Malformed);
        }
        self.bytes.clear();
        self.fetch_bytes(guest, HEADER_LEN)?;
        let mut header = InHeader::default();
        header.as_mut_slice().copy_from_slice(&self.bytes);

        let mem = if matches!(Opcode::try_from(header.opcode), Ok(Opcode::Write)) {
            self.fetch_bytes(guest, len.min(WRITE_FIXED_LEN))?;
            let joined = guest.insert_region(Arc::clone(&self.region)).map_err(|_| Malformed)?;
            Arc::new(joined)
        } else {
            self.fetch_bytes(guest, len.min(REQUEST_LEN_MAX))?;
            Arc::clone(&self.mem)
        };
        let chain = self.lay_out()?;
        let writer = Writer::new(guest, chain.clone()).map_err(|_| Malformed)?;
        Ok(Request { header, len, writer, desk: self, mem, chain })
    }

    /// Serves a request of our own, and returns the reply, of [`REPLY_LEN`] bytes at most.
    pub(super) fn exchange(
        &mut self,
        request: &[u8],
        serve: impl FnOnce(Reader<'_>, Writer<'_>) -> Result<usize, Errno>,
    ) -> Result<Vec<u8>, Errno> {
        if request.len() > REQUEST_LEN_MAX {
            return Err(Errno::NOMEM);
        }
        self.mem.write_slice(request, REQUEST).map_err(|_| Malformed)?;
        let len = u32::try_from(request.len()).map_err(|_| Malformed)?;
        let chain =
            self.chain([(REQUEST.0, len, 0), (REPLY.0, REPLY_LEN, DESC_F_WRITE)].into_iter())?;
        let reader = Reader::new(&self.mem, chain.clone()).map_err(|_| Malformed)?;
        let writer = Writer::new(&self.mem, chain).map_err(|_| Malformed)?;
        let len = serve(reader, writer)?;
        let mut reply = vec![0; len.min(REPLY_LEN as usize)];
        self.mem.read_slice(&mut reply, REPLY).map_err(|_| Malformed)?;
        Ok(reply)
    }

    /// Reads every descriptor of the chain, once.
    fn fetch_descriptors(&mut self, chain: Chain) -> Result<(), Malformed> {
        self.descriptors.clear();
        self.descriptors.extend(chain.take(CHAIN_LEN_MAX));
        // The iterator ends without a word at a bad index, a loop, or memory that is not there:
        // then the last descriptor says that another one follows.
        if self.descriptors.last().is_none_or(Descriptor::has_next) {
            return Err(Malformed);
        }
        // Device-writable descriptors come after all others (virtio 1.2 §2.7.4.2).
        if !self.descriptors.is_sorted_by_key(Descriptor::is_write_only) {
            return Err(Malformed);
        }
        Ok(())
    }

    fn readable(&self) -> impl Iterator<Item = &Descriptor> {
        self.descriptors.iter().filter(|d| !d.is_write_only())
    }

    /// The guest's readable buffers from byte `from` of the request on, as (address, length).
    fn readable_from(&self, from: usize) -> impl Iterator<Item = (u64, u32)> {
        let mut skip = from;
        self.readable().filter_map(move |d| {
            let skipped = u32::try_from(skip).unwrap_or(u32::MAX).min(d.len());
            skip -= skipped as usize;
            let addr = d.addr().0.checked_add(u64::from(skipped))?;
            Some((addr, d.len() - skipped)).filter(|&(_, len)| len > 0)
        })
    }

    /// Copies more of the request, up to byte `to`.
    fn fetch_bytes(&mut self, guest: &Memory, to: usize) -> Result<(), Malformed> {
        let mut bytes = mem::take(&mut self.bytes);
        for (addr, len) in self.readable_from(bytes.len()) {
            let start = bytes.len();
            if start == to {
                break;
            }
            bytes.resize(to.min(start + len as usize), 0);
            guest.read_slice(&mut bytes[start..], GuestAddress(addr)).map_err(|_| Malformed)?;
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The chain that the `Reader` and the `Writer` are made over: the copy, what is left of the
    /// guest's readable buffers if it is a WRITE, the guest's writable buffers.
    fn lay_out(&self) -> Result<PrivateChain, Malformed> {
        let copied = self.bytes.len();
        let copy = (REQUEST.0, u32::try_from(copied).map_err(|_| Malformed)?, 0);
        let data = self.readable_from(copied).map(|(addr, len)| (addr, len, 0));
        let writable = self.descriptors.iter().filter(|d| d.is_write_only());
        let writable = writable.map(|d| (d.addr().0, d.len(), DESC_F_WRITE));
        self.chain(iter::once(copy).chain(data).chain(writable))
    }

    /// Writes a descriptor table and returns the chain that starts at its first descriptor.
    fn chain(
        &self,
        descriptors: impl Iterator<Item = (u64, u32, u16)>,
    ) -> Result<PrivateChain, Malformed> {
        lay_out(Arc::clone(&self.mem), TABLE, AVAIL, TABLE_LEN, descriptors)
    }
}

/// What an available ring with one entry has in it, the chain that starts at descriptor 0: `struct virtq_avail` with flags
/// 0, idx 1 and ring `[0]`.
pub(super) const AVAIL_OF_ONE: [u8; 6] = [0, 0, 1, 0, 0, 0];

/// Writes `descriptors`, each an address, a length and flags, to the descriptor table at `table`, of `table_len`, a power
/// of two and more than there are; returns the chain that starts at the first. [`AVAIL_OF_ONE`] is at `avail`.
pub(super) fn lay_out<M>(
    mem: M,
    table: GuestAddress,
    avail: GuestAddress,
    table_len: u16,
    descriptors: impl Iterator<Item = (u64, u32, u16)>,
) -> Result<DescriptorChain<M>, Malformed>
where
    M: Clone + Deref<Target = Memory>,
{
    let mut descriptors = descriptors.zip(1..table_len).peekable();
    while let Some(((addr, len, flags), next)) = descriptors.next() {
        let flags = flags | if descriptors.peek().is_some() { DESC_F_NEXT } else { 0 };
        let slot = table.0 + 16 * u64::from(next - 1);
        mem.write_obj(Descriptor::new(addr, len, flags, next), GuestAddress(slot))
            .map_err(|_| Malformed)?;
    }
    let mut queue = Queue::new(table_len).map_err(|_| Malformed)?;
    queue.try_set_desc_table_address(table).map_err(|_| Malformed)?;
    queue.try_set_avail_ring_address(avail).map_err(|_| Malformed)?;
    queue.set_ready(true);
    queue.pop_descriptor_chain(mem).ok_or(Malformed)
}

impl Request<'_> {
    /// The request as it will be executed; of a WRITE, without the data.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.desk.bytes
    }

    /// The request, to be changed before it is executed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.desk.bytes
    }

    /// The request as virtiofsd's server takes it. To be called before
    /// [`Request::private_writer`], which lays other descriptors on the desk.
    pub(super) fn reader(&self) -> Result<Reader<'_>, Malformed> {
        self.desk.mem.write_slice(&self.desk.bytes, REQUEST).map_err(|_| Malformed)?;
        Reader::new(&self.mem, self.chain.clone()).map_err(|_| Malformed)
    }

    /// Room in private memory for a reply of at most `len` bytes, and at most [`REPLY_LEN`].
    pub(super) fn private_writer(&self, len: usize) -> Result<Writer<'_>, Malformed> {
        let len = u32::try_from(len).unwrap_or(REPLY_LEN).min(REPLY_LEN);
        let chain = self.desk.chain(iter::once((REPLY.0, len, DESC_F_WRITE)))?;
        Writer::new(&self.desk.mem, chain).map_err(|_| Malformed)
    }

    /// The first `len` bytes of what was written to a [`Request::private_writer`].
    pub(super) fn private_reply(&self, len: usize) -> Result<Vec<u8>, Malformed> {
        let mut reply = vec![0; len.min(REPLY_LEN as usize)];
        self.desk.mem.read_slice(&mut reply, REPLY).map_err(|_| Malformed)?;
        Ok(reply)
    }
}
