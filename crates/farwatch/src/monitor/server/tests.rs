// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread over real sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use farwatch_sys::status_socket::bind_own;

use super::super::client::Connection;
use super::super::protocol::tests::report;
use super::super::protocol::{Ask, Report};
use super::*;
use crate::meter::Histogram;

struct Fixed(Report);

impl Source for Fixed {
    fn report(&self) -> Report {
        self.0.clone()
    }

    fn latency(&self) -> Option<Histogram> {
        Some(Histogram::default())
    }
}

/// A monitor, the directory of its sockets, and these: for status and for metrics.
fn monitor() -> (Monitor, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let [status, metrics] =
        ["status", "metrics"].map(|name| Some(bind_own(&dir.path().join(name)).unwrap()));
    let monitor = Monitor::start(Listeners { status, metrics }, Fixed(report())).unwrap();
    (monitor, dir)
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn client_receives_the_report_at_each_query() {
    let (_monitor, dir) = monitor();
    let mut connection = Connection::open(&dir.path().join("status")).unwrap();
    assert_eq!(connection.report().unwrap(), report());
    let error = connection.ask(Ask::Busiest { len: 1 }).unwrap_err();
    assert_eq!(error.to_string(), "this process shares nothing: ask its device");
    assert_eq!(connection.report().unwrap(), report());
}

#[test]
fn stalled_client_does_not_delay_other_clients() {
    let (_monitor, dir) = monitor();
    let status = dir.path().join("status");
    let mut stalled = connect(&status);
    // More replies than the socket has room for, of which it takes none.
    stalled.set_nonblocking(true).unwrap();
    let request = b"{\"version\":1,\"ask\":\"status\"}\n".repeat(100);
    while stalled.write(&request).is_ok() {}
    let mut silent = connect(&status);
    silent.write_all(b"{\"version\":1,").unwrap();
    assert_eq!(Connection::open(&status).unwrap().report().unwrap(), report());
}

#[test]
fn connection_past_the_limit_takes_the_place_of_the_quietest() {
    let (_monitor, dir) = monitor();
    let status = dir.path().join("status");
    let mut all: Vec<_> = (0..CONNECTIONS_MAX)
        .map(|_| {
            let mut connection = Connection::open(&status).unwrap();
            connection.report().unwrap();
            connection
        })
        .collect();
    assert_eq!(Connection::open(&status).unwrap().report().unwrap(), report());
    assert!(all[0].report().is_err(), "the first has been quiet for longest");
    assert!(all[CONNECTIONS_MAX - 1].report().is_ok());
}

#[test]
fn metrics_are_served_to_a_scraper_and_the_connection_ends() {
    let (_monitor, dir) = monitor();
    let mut scraper = connect(&dir.path().join("metrics"));
    scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut response = String::new();
    scraper.read_to_string(&mut response).unwrap();
    assert!(response.contains("\nfarwatch_events_sent_total{"), "{response}");
}

#[test]
fn thread_ends_when_the_monitor_is_dropped() {
    let (monitor, dir) = monitor();
    let status = dir.path().join("status");
    drop(monitor);
    assert!(UnixStream::connect(&status).is_err(), "nobody listens any more");
}
