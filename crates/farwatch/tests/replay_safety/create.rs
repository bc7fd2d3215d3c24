// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CREATE with both of an agent's tags: a file that is made and closed is replayed by one open.

use farwatch_proto::Mask;

use super::bench::Bench;
use super::guest::{Caller, ROOT};
use super::requests::{self, file_type, open_flags};
use super::served::skip_without_root;

#[test]
fn create_that_opens_is_granted_once_if_the_message_has_the_close_and_makes_nothing_on_the_host() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::attached();
    let exclusive = open_flags::WRONLY | open_flags::EXCL;
    let mut created = 0;
    for nth in 0..100 {
        let name = format!("thing-{nth}");
        for (seq, told) in bench.change(&format!(": > {name}; rm {name}")) {
            let agent = Caller::agent(seq.get());
            let other = requests::create(ROOT, "bystander", exclusive);
            bench.assert_refused(agent, "create of another name", &other);
            for flags in [0, open_flags::EXCL, open_flags::WRONLY, exclusive | open_flags::TRUNC] {
                bench.assert_refused(agent, "create", &requests::create(ROOT, &name, flags));
            }
            let request = requests::create(ROOT, &name, exclusive);
            if told.mask.contains(Mask::CREATE | Mask::CLOSE_WRITE) {
                assert!(bench.send(agent, &request).is_ok());
                created += 1;
                let mknod = requests::mknod(ROOT, &name, file_type::REGULAR);
                bench.assert_refused(agent, "mknod after it", &mknod);
            }
            bench.assert_refused(agent, "create", &request);
        }
        bench.assert_still("the replay of a create");
    }
    assert!(created > 0, "the watcher was never late enough to find both in its queue");
    bench.assert_goes_on();
}
