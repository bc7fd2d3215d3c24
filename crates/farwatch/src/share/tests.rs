// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The share with a backend that only counts, so that what it does without a host can be seen.

mod figures;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use farwatch_proto::host::{HostChange, HostEntry, Input, Output, Tree};
use farwatch_proto::wire::control::{Delivery, Hello};
use farwatch_proto::{Fid, FileKind, Mask, Name};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::{Identity, Share};
use crate::deliver::{Pulled, Sink, Source};
use crate::watch::{Backend, Intake, Marked, NotMarked, Observed, OwnCalls, Reader};

/// Marks everything, and fails the test where the host's file system would be read.
#[derive(Debug, Default)]
struct NoHost {
    /// It watches no directory.
    is_full: bool,
}

impl Backend for NoHost {
    fn name(&self) -> &'static str {
        "none"
    }

    fn system_calls(&self) -> &'static [&'static str] {
        &[]
    }

    fn events(&self) -> Mask {
        Mask::DEFAULT
    }

    fn pairs_renames(&self) -> bool {
        true
    }

    fn merges(&self) -> bool {
        false
    }

    fn names_objects(&self) -> bool {
        true
    }

    fn uses_handles(&self) -> bool {
        true
    }

    fn fid(&self, _fd: BorrowedFd<'_>) -> io::Result<Fid> {
        panic!("an object on the host is looked at");
    }

    fn mark(&self, _dir: BorrowedFd<'_>, _fid: &Fid) -> Result<Marked, NotMarked> {
        let full = NotMarked { why: "no room".to_owned() };
        if self.is_full { Err(full) } else { Ok(Marked::InKnownQueue) }
    }

    fn unmark(&self, _fid: &Fid, _dir: &mut dyn FnMut() -> Option<Arc<OwnedFd>>) {}

    fn clear(&self) {}

    fn learned(&self, _object: Fid, _nlink: u32, _tree: &Tree) {}

    fn own_calls(&self) -> Option<&dyn OwnCalls> {
        None
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn fds(&self) -> Vec<Arc<dyn AsFd>> {
        Vec::new()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        unreachable!("there is no watch thread")
    }
}

const AGENT: u32 = 7;

fn fid(number: u8) -> Fid {
    Fid::new([7, 0], 1, &[number]).unwrap()
}

/// A share whose agent listens, and the eventfd of its watch thread.
fn listening(delivery: Delivery) -> (Share, Arc<OwnedFd>) {
    attached(delivery, false)
}

/// The same; `raises` says that the agent's kernel raises the events.
fn attached(delivery: Delivery, raises: bool) -> (Share, Arc<OwnedFd>) {
    let share = Share::new(Some(Box::new(NoHost::default())));
    let work = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new).unwrap();
    share.watch_begins(Arc::clone(&work));
    let root = OwnedFd::from(std::fs::File::open("/").unwrap());
    share.reset(Some(Identity { fd: Some(root), fid: fid(1), mounted: false }));
    share.attach(AGENT).unwrap();
    share.listen(&hello(delivery, raises)).unwrap();
    (share, work)
}

fn hello(delivery: Delivery, raises: bool) -> Hello {
    let events = Mask::DEFAULT;
    Hello { version_min: 2, version_max: 2, delivery, raises, submounts: false, events }
}

/// An object of which no one knows the type is created in the root.
fn create(share: &Share) {
    let entry = HostEntry { dir: fid(1), name: Name::parse(b"new").unwrap() };
    let change = HostChange::Entry { entry, mask: Mask::CREATE, object: Some(fid(2)) };
    let mut changes = vec![change];
    share.take_in(&mut |_| Observed {
        changes: std::mem::take(&mut changes),
        ..Observed::default()
    });
}

#[test]
fn pull_of_an_event_to_look_up_wakes_the_watch_thread_and_gives_nothing_until_it_has_looked() {
    let (share, work) = listening(Delivery::Queue);
    create(&share);
    assert_eq!(share.pull(Sink::Queue), Pulled::LookPending);
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&*work, &mut count), Ok(8));
    let Output::Look(look) = share.poll_output() else { panic!("nothing is to be looked at") };
    share.input(Input::Looked(look, FileKind::Fifo));
    assert_eq!(share.poll_output(), Output::Wake);
    let Pulled::Notification(sent) = share.pull(Sink::Queue) else { panic!("nothing was sent") };
    assert_eq!((sent.mask, sent.kind), (Mask::CREATE, FileKind::Fifo));
    assert_eq!(share.pull(Sink::Queue), Pulled::Nothing);
    assert_eq!(rustix::io::read(&*work, &mut count), Err(Errno::AGAIN));
}

#[test]
fn event_is_sent_without_a_look_when_the_watch_thread_has_ended() {
    let (share, _work) = listening(Delivery::Queue);
    create(&share);
    share.watch_ended();
    assert!(matches!(share.pull(Sink::Queue), Pulled::Notification(_)));
}

#[test]
fn only_the_sink_that_the_agent_chose_receives_and_none_after_it_is_gone() {
    let (share, _work) = listening(Delivery::Reads);
    create(&share);
    assert_eq!(share.pull(Sink::Queue), Pulled::NotReceiving);
    assert_eq!(share.pull(Sink::Reads(2)), Pulled::NotReceiving, "another link");
    assert_eq!(share.pull(Sink::Reads(1)), Pulled::LookPending);
    share.detach();
    assert_eq!(share.pull(Sink::Reads(1)), Pulled::NotReceiving);
}

#[test]
fn agent_thread_is_known_while_the_lock_is_held() {
    let (share, _work) = listening(Delivery::Reads);
    let agent = i32::try_from(AGENT).unwrap();
    share.inspect(&mut |_| {
        assert!(share.is_agent_thread(agent));
        assert!(!share.is_agent_thread(agent + 1));
        assert!(!share.is_agent_thread(0) && !share.is_agent_thread(-1));
    });
    share.reset(None);
    assert!(!share.is_agent_thread(agent));
    assert!(!share.is_agent_thread(0), "0 stands for no thread");
}

#[test]
fn a_barrier_says_how_many_directories_that_are_not_watched_have_not_been_compared() {
    for (is_full, unwatched) in [(false, 0), (true, 1)] {
        let share = Share::new(Some(Box::new(NoHost { is_full })));
        let work = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        share.watch_begins(Arc::new(work));
        let root = OwnedFd::from(std::fs::File::open("/").unwrap());
        share.reset(Some(Identity { fd: Some(root), fid: fid(1), mounted: false }));
        share.attach(AGENT).unwrap();
        share.listen(&hello(Delivery::Queue, false)).unwrap();
        let ticket = share.progress(None, None).unwrap().ticket;
        share.input(Input::ReadUpTo(share.to_read().unwrap()));
        assert_eq!(share.progress(Some(ticket), None).unwrap().unwatched, unwatched);
        assert_eq!(share.shown().unwatched_why.is_some(), is_full);
    }
}
