// SPDX-License-Identifier: Apache-2.0 OR MIT
//! FUSE_FSNOTIFY.

use farwatch_proto::Generation;

use super::*;

#[test]
fn watch_of_the_kernel_is_passed_on_and_answered_with_deliverable_events() {
    let mut bench = Bench::new();
    let mut watch = |nodeid: u64, body: &[u8], room| {
        let mut bytes = request(FUSE_FSNOTIFY, body);
        bytes[16..24].copy_from_slice(&nodeid.to_le_bytes());
        bench.serve(&[In(bytes), Out(room)])
    };
    let body = [[0, 2, 0, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]].concat();
    let reply = watch(3, &body, 32);
    assert_eq!(
        (errno(&reply), &reply[16..]),
        (0, &[[0, 3, 0, 0, 0, 0, 0, 0], [0; 8]].concat()[..])
    );
    for (refused, why) in [
        (watch(4, &body, 32), Errno::STALE),
        (watch(0, &body, 32), Errno::STALE),
        (watch(3, &body[..15], 32), Errno::INVAL),
        (watch(3, &body, 31), Errno::INVAL),
    ] {
        assert_eq!(errno(&refused), why.raw_os_error());
    }
    let node = |id| Node { id: NodeId::new(id).unwrap(), generation: Generation(9) };
    let passed_on = vec![(node(3), 0x200), (node(4), 0x200), (node(3), 0x200)];
    assert_eq!(*bench.source.watched.lock().unwrap(), passed_on);
}
