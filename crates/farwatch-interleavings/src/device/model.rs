// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Models of the device: a ring that is stopped, and a session that ends, while requests are on their way.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

use super::gate::Gate;
use super::in_flight::InFlight;
use super::lane::lane;

/// A queue's thread takes chains from a ring, and another gives them back, while the ring is stopped: what was taken is
/// back when it has stopped, and nothing is taken any more.
///
/// # Panics
/// When it is not so, or the stop waits for ever.
pub fn ring_stops_when_nothing_is_in_flight() {
    let in_flight = Arc::new(InFlight::<AtomicBool>::default());
    // What `vhost_user_backend` guards by the lock of the vring: it runs, and so many were taken and given back.
    let ring = Arc::new(Mutex::new((true, 0, 0)));
    let hurried = Arc::new(AtomicBool::new(false));
    let queue = {
        let (in_flight, ring, hurried) = (in_flight.clone(), ring.clone(), hurried.clone());
        thread::spawn(move || {
            let mut waiting = Vec::new();
            for _ in 0..2 {
                let mut state = ring.lock().expect("nothing panics");
                if !state.0 {
                    break;
                }
                in_flight.add();
                state.1 += 1;
                drop(state);
                in_flight.waits_for(&hurried);
                let (in_flight, ring) = (in_flight.clone(), ring.clone());
                waiting.push(thread::spawn(move || {
                    ring.lock().expect("nothing panics").2 += 1;
                    in_flight.remove();
                }));
            }
            waiting.into_iter().for_each(|thread| thread.join().expect("nothing panics"));
        })
    };
    ring.lock().expect("nothing panics").0 = false;
    in_flight.wait_for_none(|hurried| hurried.store(true, Ordering::SeqCst));
    let (_, taken, given_back) = *ring.lock().expect("nothing panics");
    assert_eq!(taken, given_back);
    queue.join().expect("nothing panics");
    assert_eq!(ring.lock().expect("nothing panics").1, taken, "taken after the stop");
}

/// A queue's thread hands requests to one that may wait, while the session ends: afterwards none runs, and none is left.
///
/// # Panics
/// When it is not so, or the end waits for ever.
pub fn requests_end_with_their_session() {
    let gate = Arc::new(Gate::closed());
    let (lane, jobs) = lane(1);
    let lane = Arc::new(lane);
    let running = Arc::new(AtomicUsize::new(0));
    // Each request is dropped when it is answered or forgotten.
    let request = Arc::new(());
    let waiting = {
        let (gate, running) = (gate.clone(), running.clone());
        thread::spawn(move || {
            jobs.serve(&gate, |request: Arc<()>| {
                running.fetch_add(1, Ordering::SeqCst);
                drop(request);
                running.fetch_sub(1, Ordering::SeqCst);
            });
        })
    };
    gate.open();
    let queue = {
        let (gate, lane, request) = (gate.clone(), lane.clone(), request.clone());
        thread::spawn(move || {
            for _ in 0..3 {
                let Some(_admission) = gate.admit() else { break };
                // One that does not find room is served here.
                drop(lane.push(request.clone()));
            }
        })
    };
    gate.close();
    lane.drain();
    assert_eq!(running.load(Ordering::SeqCst), 0);
    queue.join().expect("nothing panics");
    assert_eq!(Arc::strong_count(&request), 1, "a request outlives its session");
    drop(lane);
    waiting.join().expect("nothing panics");
}
