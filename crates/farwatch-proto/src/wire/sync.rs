// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The question how far a barrier is, and its answer: the argument of one `ioctl(2)` on any open file or
//! directory of the mount ([`FARWATCH_IOC_SYNC`]), and the FUSE request
//! that a kernel makes of it.

use zerocopy::{FromBytes, IntoBytes, transmute};

use super::abi::{
    FARWATCH_IOC_SYNC, FARWATCH_SYNC_REACHED, FARWATCH_SYNC_SENT, FARWATCH_SYNC_STALE,
    FARWATCH_SYNC_UNREAD, farwatch_sync, fuse_ioctl_in, fuse_ioctl_out,
};
use crate::host::Ticket;

/// Bytes of the argument.
pub const LEN: usize = size_of::<farwatch_sync>();
/// Bytes of the answer to the request, behind `fuse_out_header`.
pub const REPLY_LEN: usize = size_of::<fuse_ioctl_out>() + LEN;

/// How far a barrier is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// All that happened before it has been replayed.
    Reached,
    /// The watcher has not taken it all in.
    Unread,
    /// Directories of which events were given up are yet to be compared.
    Stale,
    /// The agent has not replayed it all.
    Sent,
}

/// An answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What to ask for next time.
    pub ticket: Ticket,
    /// How far it is.
    pub state: State,
    /// Directories that the guest knows and the host cannot watch, at a limit or for want of rights: what happens in them
    /// is told when somebody looks. Always 0 of a server before 0.2.
    pub unwatched: u32,
}

/// Whether the body of an IOCTL, what follows `fuse_in_header`, is such a question.
pub fn is_question(body: &[u8]) -> bool {
    fuse_ioctl_in::ref_from_prefix(body).is_ok_and(|(ioctl, _)| ioctl.cmd == FARWATCH_IOC_SYNC)
}

/// The ticket that a question asks for; none to begin with. `None` when it is none.
pub fn question(body: &[u8]) -> Option<Option<Ticket>> {
    let (ioctl, argument) = fuse_ioctl_in::ref_from_prefix(body).ok()?;
    let sound = ioctl.cmd == FARWATCH_IOC_SYNC
        && usize::try_from(ioctl.in_size.get()) == Ok(LEN)
        && usize::try_from(ioctl.out_size.get()) == Ok(LEN);
    let raw = farwatch_sync::ref_from_bytes(argument).ok().filter(|_| sound)?;
    (raw.state == 0 && raw.unwatched == 0).then(|| Ticket::new(raw.ticket.get()))
}

/// The argument of a question.
pub fn ask(ticket: Option<Ticket>) -> [u8; LEN] {
    let ticket = ticket.map_or(0, Ticket::get).into();
    transmute!(farwatch_sync { ticket, state: 0.into(), unwatched: 0.into() })
}

impl Answer {
    /// The body of the answer to an IOCTL.
    pub fn encode(self) -> [u8; REPLY_LEN] {
        let state = match self.state {
            State::Reached => FARWATCH_SYNC_REACHED,
            State::Unread => FARWATCH_SYNC_UNREAD,
            State::Stale => FARWATCH_SYNC_STALE,
            State::Sent => FARWATCH_SYNC_SENT,
        };
        let ioctl = fuse_ioctl_out {
            result: 0.into(),
            flags: 0.into(),
            in_iovs: 0.into(),
            out_iovs: 0.into(),
        };
        let ticket = self.ticket.get().into();
        let unwatched = self.unwatched.into();
        let argument = farwatch_sync { ticket, state: state.into(), unwatched };
        let mut bytes = [0; REPLY_LEN];
        let parts = ioctl.as_bytes().iter().chain(argument.as_bytes());
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Reads the argument as the call has left it. `None` when no server of this version wrote it.
    pub fn decode(argument: [u8; LEN]) -> Option<Self> {
        let raw: farwatch_sync = transmute!(argument);
        let state = match raw.state.get() {
            FARWATCH_SYNC_REACHED => State::Reached,
            FARWATCH_SYNC_UNREAD => State::Unread,
            FARWATCH_SYNC_STALE => State::Stale,
            FARWATCH_SYNC_SENT => State::Sent,
            _ => return None,
        };
        Some(Self { ticket: Ticket::new(raw.ticket.get())?, state, unwatched: raw.unwatched.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kernel sends it.
    fn body(argument: &[u8], cmd: u32, in_size: u32) -> Vec<u8> {
        let ioctl = fuse_ioctl_in {
            fh: 3.into(),
            flags: 0.into(),
            cmd: cmd.into(),
            arg: 0x7fff_0000.into(),
            in_size: in_size.into(),
            out_size: 16.into(),
        };
        [ioctl.as_bytes(), argument].concat()
    }

    #[test]
    fn a_question_decodes_to_what_was_asked() {
        for ticket in [None, Ticket::new(1), Ticket::new(u64::MAX)] {
            let body = body(&ask(ticket), FARWATCH_IOC_SYNC, 16);
            assert!(is_question(&body));
            assert_eq!(question(&body), Some(ticket));
        }
    }

    #[test]
    fn malformed_question_is_refused() {
        assert!(!is_question(&body(&ask(None), FARWATCH_IOC_SYNC + 1, 16)));
        assert!(!is_question(&[]));
        for (argument, in_size) in [(&[0; 16][..], 15), (&[0; 17], 16), (&[], 16), (&[1; 16], 16)] {
            assert_eq!(question(&body(argument, FARWATCH_IOC_SYNC, in_size)), None);
        }
    }

    #[test]
    fn an_answer_decodes_to_what_was_encoded() {
        let ticket = Ticket::new(7).unwrap();
        for state in [State::Reached, State::Unread, State::Stale, State::Sent] {
            let answer = Answer { ticket, state, unwatched: 3 };
            let bytes = answer.encode();
            let argument = bytes[REPLY_LEN - LEN..].try_into().unwrap();
            assert_eq!(Answer::decode(argument), Some(answer));
        }
        assert_eq!(Answer::decode([0; LEN]), None);
        assert_eq!(Answer::decode([9; LEN]), None);
    }
}
