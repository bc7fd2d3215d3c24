// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes of content, opens and reads: which of them are told, and what their replay may ask for.

use super::*;

#[test]
fn create_that_opens_stands_for_both_requests_and_is_granted_once() {
    let create_open = MarkedRequest::CreateOpen(NodeId::ROOT, &name("f"));
    let mut host = Host::new();
    host.changed("f", Mask::CREATE, 9);
    host.next();
    assert_eq!(host.ask(create_open), EPERM, "nothing is closed");
    assert_eq!(host.mknod("f"), Answer::Entry(Object::Adopt(FileKind::Regular)));
    host.changed("f", Mask::CLOSE_WRITE, 9);
    host.next();
    assert_eq!(host.ask(create_open), EPERM, "nothing is made");

    let mut host = Host::new();
    host.changed("f", Mask::CREATE | Mask::CLOSE_WRITE, 9);
    host.next();
    let other = MarkedRequest::CreateOpen(NodeId::ROOT, &name("g"));
    assert_eq!(host.ask(other), EPERM);
    assert_eq!(host.ask(create_open), Answer::Entry(Object::Adopt(FileKind::Regular)));
    assert_eq!(host.ask(create_open), EPERM);
    assert_eq!(host.mknod("f"), EPERM);
    assert_eq!(host.ask(MarkedRequest::Open(id(5), OpenMode::Write)), EPERM);
}

#[test]
fn each_content_event_of_a_message_is_answered_once_and_for_its_own_object() {
    let mut host = Host::new();
    host.knows_file("f", 5);
    host.knows_file("g", 6);
    host.changed("f", Mask::MODIFY | Mask::CLOSE_WRITE, 5);
    host.next();
    assert_eq!(host.lookup("f"), known(5, 0, true));
    assert_eq!(host.ask(MarkedRequest::SetTimes(id(6), Times::Mtime)), EPERM);
    let five = Object::Known { id: id(5), links: 0, here: false };
    assert_eq!(host.ask(MarkedRequest::SetTimes(id(5), Times::Mtime)), Answer::Attr(five));
    assert_eq!(host.ask(MarkedRequest::SetTimes(id(5), Times::Mtime)), EPERM);
    assert_eq!(host.ask(MarkedRequest::SetTimes(id(5), Times::Both)), EPERM);
    assert_eq!(host.ask(MarkedRequest::Open(id(5), OpenMode::Write)), Answer::Opened);
    assert_eq!(host.ask(MarkedRequest::Open(id(5), OpenMode::Write)), EPERM);
}

#[test]
fn event_of_a_file_is_not_raised_at_a_directory_that_now_has_its_name() {
    let nobody = Answer::Entry(Object::Adopt(FileKind::Unknown));
    for known_when_observed in [true, false] {
        let mut host = Host::new();
        if known_when_observed {
            host.guest_knows("f", 5, FileKind::Directory);
        }
        host.changed("f", Mask::MODIFY, 5);
        if !known_when_observed {
            host.guest_knows("f", 5, FileKind::Directory);
        }
        host.next();
        assert_eq!(host.ask(MarkedRequest::SetTimes(id(5), Times::Mtime)), ESTALE);
        assert_eq!(host.lookup("f"), nobody);
    }
}

#[test]
fn change_of_an_unknown_object_is_not_raised_at_the_directory_with_its_name() {
    let mut host = Host::new();
    let entry = HostEntry { dir: fid(1), name: name("f") };
    let change = HostChange::Entry { entry, mask: Mask::MODIFY, object: None };
    host.take_in(change);
    host.guest_knows("f", 5, FileKind::Directory);
    host.next();
    assert_eq!(host.ask(MarkedRequest::SetTimes(id(5), Times::Mtime)), ESTALE);
    assert_eq!(host.lookup("f"), Answer::Entry(Object::Phantom(FileKind::Unknown)));
}

#[test]
fn close_of_a_special_file_is_raised_at_a_stand_in() {
    let nobody = Answer::Entry(Object::Adopt(FileKind::Regular));
    for known_when_observed in [true, false] {
        let mut host = Host::new();
        let both = Mask::MODIFY | Mask::CLOSE_WRITE;
        if known_when_observed {
            host.guest_knows("f", 5, FileKind::Fifo);
            host.changed("f", both, 5);
            assert_eq!(summary(host.next()), Some(("\"f\"".to_owned(), Mask::MODIFY)));
            assert_eq!(host.lookup("f"), known(5, 0, true));
            assert_eq!(summary(host.next()), Some(("\"f\"".to_owned(), Mask::CLOSE_WRITE)));
        } else {
            host.changed("f", both, 5);
            host.guest_knows("f", 5, FileKind::Fifo);
            assert_eq!(summary(host.next()), Some(("\"f\"".to_owned(), both)));
        }
        assert_eq!(host.lookup("f"), nobody);
    }
}

#[test]
fn client_receives_reads_only_if_it_asked_for_them() {
    let mut host = Host::new();
    host.knows_file("a", 5);
    host.changed("a", Mask::READS, 5);
    host.directory_changed(1, Mask::READS);
    assert_eq!(host.next(), None);
    host.engine.want(Mask::DEFAULT | Mask::READS);
    host.changed("a", Mask::READS, 5);
    host.directory_changed(1, Mask::READS);
    assert_eq!(host.next().map(|told| told.mask), Some(Mask::READS));
    assert_eq!(host.next().map(|told| told.mask), Some(Mask::READS | Mask::ISDIR));
}

#[test]
fn each_open_and_read_is_granted_once_and_only_for_reads() {
    let mut host = Host::new();
    host.knows_file("a", 5);
    host.engine.want(Mask::DEFAULT | Mask::READS);
    let five = id(5);
    let read = MarkedRequest::Read(five);
    let [to_read, to_write, for_both] = [OpenMode::Read, OpenMode::Write, OpenMode::ReadWrite]
        .map(|mode| MarkedRequest::Open(five, mode));
    for (mask, granted) in [
        (Mask::MODIFY | Mask::ATTRIB, &[][..]),
        (Mask::CLOSE_WRITE, &[to_write]),
        (Mask::CLOSE_NOWRITE, &[to_read]),
        (Mask::ACCESS, &[to_read, read]),
        (Mask::OPEN, &[to_read, to_write]),
    ] {
        host.changed("a", mask, 5);
        assert!(host.next().is_some());
        for request in [to_read, to_write, for_both, read] {
            let answer = if request == read { Answer::Done } else { Answer::Opened };
            let expected = if granted.contains(&request) { answer } else { EPERM };
            assert_eq!(host.ask(request), expected, "{mask:?} {request:?}");
            assert_eq!(host.ask(request), EPERM, "{mask:?} {request:?} again");
        }
    }
}

#[test]
fn reads_are_in_no_difference() {
    let mut host = Host::new();
    host.engine.want(Mask::DEFAULT | Mask::READS);
    host.engine.limit_backlog(4);
    for n in 10..16 {
        host.changed(&n.to_string(), Mask::READS, n);
        host.directory_changed(1, Mask::READS);
    }
    assert_eq!((host.engine.stale_len(), host.engine.events_forgotten()), (0, 8));
    host.changed("16", Mask::MODIFY | Mask::READS, 16);
    assert_eq!(host.engine.stale_len(), 1);
}
