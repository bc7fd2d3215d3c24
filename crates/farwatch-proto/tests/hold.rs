// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How an OPEN waits for what tells its mode.

use std::time::Instant;

use farwatch_proto::host::{Hold, HostChange, HostEntry};
use farwatch_proto::{Fid, Mask, Name};

const OPEN: Mask = Mask::OPEN;
const ACCESS: Mask = Mask::ACCESS;

fn changed(name: &str, mask: Mask) -> HostChange {
    let dir = Fid::new([7, 0], 1, &[1]).expect("a short one");
    let entry = HostEntry { dir, name: Name::parse(name.as_bytes()).expect("a short one") };
    let object = Fid::new([7, 0], 1, name.as_bytes()).ok();
    HostChange::Entry { entry, mask, object }
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn open_is_sent_with_the_event_that_shows_its_mode_and_others_overtake_it() {
    let (mut hold, now) = (Hold::default(), now());
    assert_eq!(hold.handle(now, [changed("f", OPEN), changed("f", ACCESS)]), []);
    let others = [changed("g", Mask::MODIFY)];
    assert_eq!(hold.handle(now, others.clone()), others);
    for tells in [Mask::MODIFY, Mask::CLOSE_WRITE, Mask::CLOSE_NOWRITE] {
        let gone = hold.handle(now, [changed("f", tells), changed("f", OPEN | ACCESS)]);
        assert_eq!(gone, [changed("f", OPEN | ACCESS | tells)]);
    }
}

#[test]
fn half_that_must_be_of_another_program_is_not_joined() {
    let (mut hold, now) = (Hold::default(), now());
    let cycle = changed("f", OPEN | Mask::MODIFY | Mask::CLOSE_WRITE);
    assert_eq!(hold.handle(now, [changed("f", OPEN), cycle.clone()]), [changed("f", OPEN), cycle]);
    assert_eq!(hold.handle(now, [changed("f", OPEN), changed("f", OPEN)]), [changed("f", OPEN)]);
}

#[test]
fn nothing_waits_longer_than_it_may_or_past_a_name() {
    let (mut hold, now) = (Hold::default(), now());
    assert_eq!(hold.poll_timeout(), None);
    assert_eq!(hold.handle(now, [changed("f", OPEN)]), []);
    let until = hold.poll_timeout().expect("one waits");
    assert_eq!(hold.handle_timeout(now), []);
    assert_eq!(hold.handle_timeout(until), [changed("f", OPEN)]);
    assert_eq!(hold.handle(now, [changed("f", OPEN)]), []);
    let created = changed("g", Mask::CREATE);
    assert_eq!(hold.handle(now, [created.clone()]), [changed("f", OPEN), created]);
    assert_eq!(hold.poll_timeout(), None);
}

#[test]
fn an_open_that_has_come_with_the_name_waits_behind_it() {
    let (mut hold, now) = (Hold::default(), now());
    let gone = hold.handle(now, [changed("f", Mask::CREATE | OPEN)]);
    assert_eq!(gone, [changed("f", Mask::CREATE)]);
    let tells = hold.handle(now, [changed("f", Mask::MODIFY)]);
    assert_eq!(tells, [changed("f", OPEN | Mask::MODIFY)]);
}

#[test]
fn past_the_limit_the_oldest_goes_on() {
    let (mut hold, now) = (Hold::default(), now());
    for n in 0..Hold::LEN_MAX {
        assert_eq!(hold.handle(now, [changed(&n.to_string(), OPEN)]), []);
    }
    assert_eq!(hold.handle(now, [changed("f", OPEN)]), [changed("0", OPEN)]);
}
