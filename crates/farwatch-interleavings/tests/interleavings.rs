// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the models in many orders, drawn by shuttle (`INTERLEAVINGS=N` says how many), or in all, by loom.

use farwatch_interleavings as models;

/// Orders that shuttle draws for each model.
const DRAWN: usize = 2000;

/// Orders, drawn evenly, and by the priorities of threads (PCT), which finds what needs a few switches at certain points.
fn explore(model: fn()) {
    let drawn = std::env::var("INTERLEAVINGS").ok().and_then(|drawn| drawn.parse().ok());
    let drawn = drawn.unwrap_or(DRAWN);
    shuttle::check_random(model, drawn);
    shuttle::check_pct(model, drawn, 3);
}

#[test]
fn read_gets_every_notification_whenever_it_comes() {
    explore(models::read_misses_no_notification);
}

#[test]
fn wait_ends_when_it_is_told_to_hurry() {
    explore(models::hurry_ends_a_wait);
}

#[test]
fn ring_has_stopped_when_all_that_was_taken_is_back() {
    explore(models::ring_stops_when_nothing_is_in_flight);
}

#[test]
fn session_that_has_ended_leaves_no_request_behind() {
    explore(models::requests_end_with_their_session);
}

#[test]
fn driver_and_device_wake_each_other_in_every_order() {
    for event_idx in [false, true] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || models::ring_loses_no_wake_up(event_idx));
    }
}
