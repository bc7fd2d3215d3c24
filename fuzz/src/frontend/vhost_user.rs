// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages of vhost-user as no frontend sends them, and states of a migration.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

use super::bytes::Bytes;
use super::machine::{MEMORY, Machine, USER, message, table};

const SET_LOG_BASE: u32 = 6;
const GET_CONFIG: u32 = 24;
const RESET_DEVICE: u32 = 34;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;
const SET_DEVICE_STATE_FD: u32 = 42;
const CHECK_DEVICE_STATE: u32 = 43;

/// What a frontend has of a session that is over.
#[derive(Default)]
pub(super) struct Left {
    pipes: Vec<OwnedFd>,
    machines: Vec<(File, Vec<OwnedFd>)>,
}

impl Left {
    /// The connection is closed, and memory and eventfds are kept.
    pub(super) fn add(&mut self, machine: Machine) {
        let events = machine.queues.into_iter().flat_map(|queue| [queue.kick, queue.call]);
        self.machines.push((machine.memory, events.collect()));
    }
}

/// A message with arguments that may be any.
pub(super) fn message(machine: &mut Machine, left: &mut Left, input: &mut Bytes<'_>) {
    let kind = input.below(16);
    let number = u32::from(input.u8() % 8);
    let state = |value: u32| [number.to_le_bytes(), value.to_le_bytes()].concat();
    machine.queues.iter_mut().for_each(|queue| queue.sane = false);
    match kind {
        0 => drop(machine.ask(message::SET_FEATURES, &features(input).to_le_bytes(), &[])),
        1 => drop(machine.ask(message::SET_VRING_NUM, &state(input.number32()), &[])),
        2 => drop(machine.ask(message::SET_VRING_BASE, &state(input.number32()), &[])),
        3 => drop(machine.ask(message::SET_VRING_ENABLE, &state(input.u8().into()), &[])),
        4 => drop(machine.ask(message::GET_VRING_BASE, &state(0), &[])),
        5 => {
            let mut body = state(input.u8().into());
            for _ in 0..4 {
                let address = u64::from(input.u32()) % (MEMORY + 0x1000);
                body.extend((USER.wrapping_add(address)).to_le_bytes());
            }
            drop(machine.ask(message::SET_VRING_ADDR, &body, &[]));
        }
        6 => {
            let request = 12 + u32::from(input.u8() % 3);
            let fd = descriptor_of(machine, input);
            let value = u64::from(number) | if input.bool() { 0x100 } else { 0 };
            let fds = if value & 0x100 == 0 { &[fd.as_fd()][..] } else { &[] };
            drop(machine.ask(request, &value.to_le_bytes(), fds));
            left.pipes.push(fd);
        }
        7 => mem_table(machine, input),
        8 => {
            let request = if input.bool() { ADD_MEM_REG } else { REM_MEM_REG };
            let fd = descriptor_of(machine, input);
            let mut body = 0_u64.to_le_bytes().to_vec();
            body.extend(region(input).iter().flat_map(|number| number.to_le_bytes()));
            let fds = if request == ADD_MEM_REG { &[fd.as_fd()][..] } else { &[] };
            drop(machine.ask(request, &body, fds));
        }
        9 => {
            let (offset, size) = (input.number32(), u32::from(input.u8()));
            let mut body = [offset, size, 0].map(u32::to_le_bytes).concat();
            body.resize(12 + size as usize, 0);
            drop(machine.ask(GET_CONFIG, &body, &[]));
        }
        10 => {
            let fd = descriptor_of(machine, input);
            let body = [input.number(), 0].map(u64::to_le_bytes).concat();
            drop(machine.ask(SET_LOG_BASE, &body, &[fd.as_fd()]));
        }
        11 => drop(machine.ask(RESET_DEVICE, &[], &[])),
        12 => drop(machine.ask(CHECK_DEVICE_STATE, &[], &[])),
        13 => {
            let fd = descriptor_of(machine, input);
            let body = [u32::from(input.u8() % 3), u32::from(input.u8() % 2)];
            machine.ask(SET_DEVICE_STATE_FD, &body.map(u32::to_le_bytes).concat(), &[fd.as_fd()]);
            left.pipes.push(fd);
        }
        _ => {
            // Its arguments are none, or a number.
            let request = u32::from(input.u8() % 48);
            let body = input.number().to_le_bytes();
            let body = if input.bool() { &body[..] } else { &[] };
            machine.send_nonsense(&whole(request, 1, body), &[]);
        }
    }
}

/// Bytes that need not be a message.
pub(super) fn nonsense(machine: &mut Machine, input: &mut Bytes<'_>) {
    let request = input.u8();
    let flags = if input.bool() { 9 } else { input.number32() };
    let fds: Vec<_> = (0..input.below(4)).map(|_| descriptor_of(machine, input)).collect();
    let mut bytes = whole(request.into(), flags, input.blob());
    if input.bool() {
        bytes[8] = input.u8();
        bytes[11] = input.u8();
    }
    bytes.truncate(bytes.len() - input.below(4).min(bytes.len()));
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    machine.send_nonsense(&bytes, &fds);
}

/// A state is saved, spoilt, and loaded.
pub(super) fn migrate(machine: &mut Machine, left: &mut Left, input: &mut Bytes<'_>) {
    for index in 0..3 {
        machine.stop(index);
    }
    let mut state = if input.bool() { save(machine) } else { input.blob().to_vec() };
    for _ in 0..input.below(6) {
        if let Some(byte) = state.len().checked_sub(1).and_then(|last| {
            let at = usize::from(input.u16()).min(last);
            state.get_mut(at)
        }) {
            *byte = input.u8();
        }
    }
    if input.bool() {
        state.truncate(usize::from(input.u16()));
    }
    load(machine, left, &state, !input.u8().is_multiple_of(4));
    for index in 0..3 {
        machine.start(index);
    }
}

fn save(machine: &mut Machine) -> Vec<u8> {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let body = [0_u32, 0].map(u32::to_le_bytes).concat();
    let answer = machine.ask(SET_DEVICE_STATE_FD, &body, &[to.as_fd()]);
    drop(to);
    let mut state = Vec::new();
    if !answer.is_empty() {
        File::from(from).read_to_end(&mut state).unwrap();
        machine.ask(CHECK_DEVICE_STATE, &[], &[]);
    }
    state
}

/// `closes` the pipe, so that the device knows that this is all.
fn load(machine: &mut Machine, left: &mut Left, state: &[u8], closes: bool) {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    let body = [1_u32, 0].map(u32::to_le_bytes).concat();
    machine.ask(SET_DEVICE_STATE_FD, &body, &[from.as_fd()]);
    drop(from);
    let mut to = File::from(to);
    // Nobody may be there to take it, or not at once.
    let _written = to.write_all(state);
    if closes {
        drop(to);
        machine.ask(CHECK_DEVICE_STATE, &[], &[]);
    } else {
        machine.send(CHECK_DEVICE_STATE, &[], &[]);
        machine.send_nonsense(&[], &[]);
        left.pipes.push(to.into());
    }
}

fn features(input: &mut Bytes<'_>) -> u64 {
    const ALWAYS: u64 = 1 << 32 | 1 << 30;
    match input.u8() {
        0xff => input.u64(),
        bits => {
            let bits = u64::from(bits);
            // Notifications, EVENT_IDX, INDIRECT_DESC, and that writes are logged.
            ALWAYS | bits & 1 | (bits >> 1 & 3) << 28 | (bits >> 3 & 1) << 26
        }
    }
}

fn region(input: &mut Bytes<'_>) -> [u64; 4] {
    let mut region = [0, MEMORY, USER, 0];
    for _ in 0..input.below(3) {
        region[input.below(4)] = input.number() << (input.u8() % 48);
    }
    region
}

fn mem_table(machine: &mut Machine, input: &mut Bytes<'_>) {
    let regions: Vec<_> = (0..input.below(4)).map(|_| region(input)).collect();
    let fds: Vec<_> = regions.iter().map(|_| descriptor_of(machine, input)).collect();
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    machine.ask(message::SET_MEM_TABLE, &table(&regions), &fds);
}

/// Something that a frontend can pass on: its memory, an eventfd, a file without content, an end of a pipe.
fn descriptor_of(machine: &Machine, input: &mut Bytes<'_>) -> OwnedFd {
    match input.u8() % 6 {
        0 | 1 => machine.memory.try_clone().unwrap().into(),
        2 => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
        3 => {
            let file = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, u64::from(input.u16())).unwrap();
            file
        }
        4 => pipe_with(PipeFlags::CLOEXEC).unwrap().0,
        _ => pipe_with(PipeFlags::CLOEXEC).unwrap().1,
    }
}

fn whole(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    [&[request, flags, len].map(u32::to_le_bytes).concat(), body].concat()
}
