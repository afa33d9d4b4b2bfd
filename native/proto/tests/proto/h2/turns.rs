//! Sending: windows, the watermark, turns between streams (H2-09), and memory when nothing is sent.

use super::wire::*;
use meshdp_proto::h2::{Connection, Role, StreamId};

const WATERMARK: usize = 64 * 1024;

/// A server with these streams answered and all windows wide open.
fn wide(streams: u32) -> Peer {
    let mut peer = Peer::greeted(Role::Server);
    peer.feed(&[settings(&[(4, 0x7fff_ffff)]), number(WINDOW_UPDATE, 0, 0x7fff_ffff - 65_535)].concat());
    for stream in 0..streams {
        peer.feed(&get(1 + 2 * stream));
        peer.respond(1 + 2 * stream, false);
    }
    peer.sent();
    peer
}

#[test]
fn small_responses_never_wait() {
    let mut peer = wide(60);
    for stream in 0..60 {
        assert_eq!(peer.connection.send_data(StreamId(1 + 2 * stream), &[b'x'; 1_024], true), 1_024);
    }
    assert_eq!(peer.log.writable, []);
    assert_eq!(peer.connection.active(), 0);
}

#[test]
fn output_is_bounded_and_streams_take_turns() {
    let mut peer = wide(10);
    let body = vec![b'x'; 1 << 20];
    let ids: Vec<StreamId> = (0..10).map(|stream| StreamId(1 + 2 * stream)).collect();
    let mut taken = vec![0usize; 10];
    for (at, id) in ids.iter().enumerate() {
        taken[at] += peer.connection.send_data(*id, &body, false);
    }
    assert!(peer.connection.output().len() <= WATERMARK + 16_384 + 1_000, "{}", peer.connection.output().len());
    assert!(taken[0] > 0 && taken[9] == 0);
    for _ in 0..200 {
        let waiting = peer.connection.output().len();
        peer.connection.sent(waiting, &mut peer.log);
        let turns = std::mem::take(&mut peer.log.writable);
        assert!(!turns.is_empty());
        for id in turns {
            let n = peer.connection.send_data(id, &body, false);
            assert!(n > 0 && n <= 16_384, "a turn is a frame: {n}");
            taken[id.0 as usize / 2] += n;
        }
        assert!(peer.connection.output().len() <= WATERMARK + 16_384 + 1_000);
    }
    let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
    assert!(most - least <= 2 * WATERMARK, "{taken:?}");
    assert!(*least > 900_000, "{taken:?}");
}

#[test]
fn a_small_stream_gets_its_turn_between_large_ones() {
    let mut peer = wide(5);
    let body = vec![b'x'; 1 << 20];
    for stream in 0..4 {
        peer.connection.send_data(StreamId(1 + 2 * stream), &body, false);
    }
    assert_eq!(peer.connection.send_data(StreamId(9), b"small", true), 0);
    for round in 0.. {
        assert!(round < 3, "it waits for two rounds at most");
        let waiting = peer.connection.output().len();
        peer.connection.sent(waiting, &mut peer.log);
        let turns = std::mem::take(&mut peer.log.writable);
        if turns.contains(&StreamId(9)) {
            break;
        }
        for id in turns {
            peer.connection.send_data(id, &body, false);
        }
    }
    assert_eq!(peer.connection.send_data(StreamId(9), b"small", true), 5);
}

#[test]
fn a_turn_that_is_not_used_goes_to_the_next() {
    let mut peer = wide(12);
    let body = vec![b'x'; 1 << 20];
    for stream in 0..12 {
        peer.connection.send_data(StreamId(1 + 2 * stream), &body, false);
    }
    let waiting = peer.connection.output().len();
    peer.connection.sent(waiting, &mut peer.log);
    let mut seen = std::mem::take(&mut peer.log.writable);
    assert_eq!(seen.len(), 4, "as many as there is room for");
    // None of them sends; output is empty, so nothing else would wake the rest.
    while peer.connection.turn(&mut peer.log) {
        seen.append(&mut peer.log.writable);
    }
    assert_eq!(seen.len(), 12);
    // Streams that end while they wait leave the queue whole.
    let mut peer = wide(12);
    for stream in 0..12 {
        peer.connection.send_data(StreamId(1 + 2 * stream), &body, false);
    }
    for stream in [0, 11, 5, 6] {
        peer.feed(&number(RST_STREAM, 1 + 2 * stream, 8));
    }
    peer.release_over();
    peer.sent();
    while peer.connection.turn(&mut peer.log) {}
    assert_eq!(peer.log.writable.len(), 8);
}

#[test]
fn the_connection_window_is_shared_in_turns() {
    let mut peer = Peer::greeted(Role::Server);
    peer.feed(&[get(1), get(3)].concat());
    peer.respond(1, false);
    peer.respond(3, false);
    peer.sent();
    assert_eq!(peer.connection.send_data(StreamId(1), &[b'x'; 70_000], true), 65_535);
    peer.feed(&number(WINDOW_UPDATE, 1, 100_000));
    assert_eq!(peer.connection.send_data(StreamId(1), &[b'x'; 4_465], true), 0);
    assert_eq!(peer.connection.send_data(StreamId(3), b"hello", true), 0);
    peer.sent();
    assert_eq!(peer.log.writable, []);
    peer.feed(&number(WINDOW_UPDATE, 0, 10_000));
    assert_eq!(peer.log.writable, [StreamId(1)], "the window is one frame's worth");
    assert_eq!(peer.connection.send_data(StreamId(1), &[b'x'; 4_465], true), 4_465);
    peer.sent();
    assert_eq!(peer.log.writable, [StreamId(1), StreamId(3)]);
    assert_eq!(peer.connection.send_data(StreamId(3), b"hello", true), 5);
}

#[test]
fn an_idle_connection_is_small() {
    let size = size_of::<Connection>();
    assert!(size <= 1_024, "{size}");
    let mut peer = wide(50);
    for stream in 0..50 {
        peer.connection.send_data(StreamId(1 + 2 * stream), b"x", true);
        peer.connection.release(StreamId(1 + 2 * stream));
    }
    assert!(peer.connection.take_output().is_none(), "not while bytes wait");
    peer.sent();
    let buffer = peer.connection.take_output().unwrap();
    assert!(buffer.is_empty() && peer.connection.take_output().is_none());
    peer.connection.shrink();
    peer.feed(&get(201));
    assert_eq!(peer.lines().len(), 51);
    let mut fresh = Peer::greeted(Role::Server);
    fresh.connection.take_output();
    fresh.connection.lend_output(buffer);
    fresh.feed(&frame(PING, 0, 0, &[0; 8]));
    assert_eq!(fresh.sent().len(), 1);
}
