//! Floods, and the honest clients that look like them: H2-01 to H2-11, both roles where the peer can do it (H2-35).

use super::wire::*;
use meshdp_proto::RequestKind;
use meshdp_proto::h2::{ErrorCode, Role, StreamId};

const SERVER: Role = Role::Server;
const CLIENT: Role = Role::Client;
const ROLES: [Role; 2] = [SERVER, CLIENT];

/// Feeds what `next` makes until the connection gives up, reading its output all the while; how often.
fn until_fault(peer: &mut Peer, most: u32, mut next: impl FnMut(u32) -> Vec<u8>) -> u32 {
    for round in 0..most {
        peer.feed(&next(round));
        if peer.fault.is_some() {
            assert_eq!(peer.fault_code(), "enhance_your_calm");
            return round;
        }
        assert!(peer.connection.output().len() < 64 * 1024);
        peer.sent();
        peer.consume();
        peer.release_over();
    }
    panic!("never cut: {most}");
}

#[test]
fn h2_01_rapid_reset_is_cut_and_bounded() {
    let mut peer = Peer::greeted(SERVER);
    // Work that is not over holds its place: reset streams that are not released are refused above 100.
    let mut requests = 0;
    for round in 0..400 {
        peer.feed(&[get(1 + 2 * round), number(RST_STREAM, 1 + 2 * round, 8)].concat());
        requests += peer.lines().iter().filter(|line| line.contains("request")).count();
        assert!(peer.connection.active() <= 100);
        peer.sent();
    }
    assert_eq!(requests, 100);
    let mut peer = Peer::greeted(SERVER);
    let rounds =
        until_fault(&mut peer, 10_000, |round| [get(1 + 2 * round), number(RST_STREAM, 1 + 2 * round, 8)].concat());
    assert!((400..600).contains(&rounds), "{rounds}");
    // An interim head, which "expect: 100-continue" provokes, buys nothing.
    let mut peer = Peer::greeted(SERVER);
    for round in 0..600 {
        peer.feed(&post(1 + 2 * round));
        let interim = block(&[(":status", "100")]);
        peer.connection.send_head(StreamId(1 + 2 * round), false, |_, out| out.extend_from_slice(&interim));
        peer.feed(&number(RST_STREAM, 1 + 2 * round, 8));
        peer.release_over();
        peer.sent();
    }
    assert_eq!(peer.fault.map(|fault| fault.code.name()), Some("enhance_your_calm"));
}

#[test]
fn h2_01_a_hasty_peer_waits_for_the_next_tick_where_the_engine_asks_for_that() {
    let reset = |id| [get(id), number(RST_STREAM, id, 8)].concat();
    let flood: Vec<u8> = (0..2_000).flat_map(|round| reset(1 + 2 * round)).collect();
    let mut peer = Peer::paced();
    let mut taken = 0;
    for _ in 1..=20 {
        let before = taken;
        taken += peer.feed_once(&flood[taken..]);
        if peer.fault.is_some() {
            break;
        }
        // A hundred resets, and refusals of what is above the number of streams.
        assert!(taken - before <= reset(1).len() * 160, "{}", (taken - before) / reset(1).len());
        assert!(peer.connection.is_paused());
        assert_eq!(peer.feed_once(&flood[taken..]), 0, "nothing is taken before the next tick");
        peer.release_over();
        peer.sent();
        peer.connection.tick(1);
    }
    assert_eq!(peer.fault.map(|fault| fault.code.name()), Some("enhance_your_calm"));
    // A client that gives up a hundred streams at once is not hasty, and neither is one whose streams are of use.
    let mut peer = Peer::paced();
    for id in 0..100 {
        peer.feed(&get(1 + 2 * id));
    }
    let all: Vec<u8> = (0..100).flat_map(|id| number(RST_STREAM, 1 + 2 * id, 8)).collect();
    assert_eq!(peer.feed_once(&all), all.len());
    assert!(!peer.connection.is_paused());
}

#[test]
fn h2_02_honest_cancels_are_never_cut() {
    // An hour of 200 cancels a second: half of them of streams whose body had begun, half before it.
    let mut peer = Peer::greeted(SERVER);
    let mut id = 1;
    for tick in 0..36_000 {
        for call in 0..20 {
            peer.feed(&get(id));
            if call % 2 == 0 {
                peer.respond(id, false);
                peer.connection.send_data(StreamId(id), b"message", false);
            }
            peer.feed(&number(RST_STREAM, id, 8));
            peer.release_over();
            id += 2;
        }
        peer.connection.tick(1);
        peer.sent();
        peer.log.lines.clear();
        assert_eq!(peer.fault, None, "cut in tick {tick}");
    }
    // Without any clock: cancels of streams that were answered cost nothing, however many.
    let mut peer = Peer::greeted(SERVER);
    for round in 0..100_000 {
        let id = 1 + 2 * round;
        peer.feed(&get(id));
        peer.respond(id, false);
        peer.feed(&number(WINDOW_UPDATE, 0, 7));
        assert_eq!(peer.connection.send_data(StreamId(id), b"message", false), 7);
        peer.feed(&number(RST_STREAM, id, 8));
        peer.release_over();
        peer.sent();
        peer.log.lines.clear();
    }
    assert_eq!(peer.fault, None);
}

#[test]
fn h2_02_useful_streams_pay_for_cancelled_ones() {
    let mut peer = Peer::greeted(SERVER);
    for round in 0..20_000 {
        let (useful, cancelled) = (1 + 4 * round, 3 + 4 * round);
        peer.feed(&[get(useful), get(cancelled), number(RST_STREAM, cancelled, 8)].concat());
        peer.respond(useful, true);
        peer.connection.release(StreamId(useful));
        peer.release_over();
        peer.sent();
        peer.log.lines.clear();
    }
    assert_eq!(peer.fault, None);
}

#[test]
fn h2_03_resets_that_we_are_made_to_send_count() {
    let provocations: [fn(u32) -> Vec<u8>; 6] = [
        |id| number(WINDOW_UPDATE, id, 0),
        |id| number(WINDOW_UPDATE, id, 0x7fff_ffff),
        |id| frame(PRIORITY, 0, id, &[0; 4]),
        |id| frame(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[1]].concat()),
        |id| data(id, END, b"x"),
        |id| get(id),
    ];
    for provoke in provocations {
        let mut peer = Peer::greeted(SERVER);
        peer.feed(&[get(1), provoke(1)].concat());
        assert!(peer.lines()[1].starts_with("1 reset"), "the work upstream must end");
        assert_eq!(peer.connection.active(), 1, "and counts until it has");
        let mut peer = Peer::greeted(SERVER);
        let rounds = until_fault(&mut peer, 10_000, |round| [get(1 + 2 * round), provoke(1 + 2 * round)].concat());
        assert!((400..600).contains(&rounds), "{rounds}");
    }
}

#[test]
fn h2_04_blocks_without_end() {
    for role in ROLES {
        let id = 1;
        let start = || {
            let mut peer = Peer::greeted(role);
            if role == CLIENT {
                peer.open(RequestKind::Other, true, &GET);
            }
            peer.feed(&frame(HEADERS, END, id, &[]));
            peer
        };
        let mut peer = start();
        let rounds = until_fault(&mut peer, 1_000, |_| frame(CONTINUATION, 0, id, &[]));
        assert_eq!(rounds, 127, "{role:?}: the 129th frame");
        let mut peer = start();
        let rounds = until_fault(&mut peer, 1_000, |_| frame(CONTINUATION, 0, id, &[0; 16_384]));
        assert_eq!(rounds, 7, "{role:?}: 122,880 bytes");
        // Huffman-heavy, and complete: as large as it may be, decoded once, not above the list's limit.
        let mut peer = start();
        peer.feed(&frame(CONTINUATION, WHOLE, id, &[0; 16_384]));
        assert!(peer.fault.is_some() || peer.lines().len() <= 1);
    }
}

#[test]
fn h2_05_settings_and_acknowledgements() {
    for role in ROLES {
        let mut peer = Peer::greeted(role);
        let rounds = until_fault(&mut peer, 20_000, |_| settings(&[(4, 70_000)]));
        assert!((4_000..6_000).contains(&rounds), "{rounds}");
        let mut peer = Peer::greeted(role);
        until_fault(&mut peer, 20_000, |_| frame(SETTINGS, ACK, 0, &[]));
        let mut peer = Peer::greeted(role);
        let rounds = until_fault(&mut peer, 1_000, |_| settings(&[(0x77, 1); 2_730]));
        assert!(rounds < 20, "{rounds}");
        // 10,000 parameters do not fit a frame.
        let mut peer = Peer::greeted(role);
        peer.feed(&settings(&[(0x77, 1); 10_000])[..9]);
        assert_eq!(peer.fault_code(), "frame_size_error");
    }
}

#[test]
fn h2_06_replies_that_nobody_reads_are_bounded() {
    for role in ROLES {
        for flood in [frame(PING, 0, 0, &[7; 8]), settings(&[])] {
            let mut peer = Peer::greeted(role);
            let mut rounds = 0;
            while peer.fault.is_none() {
                peer.feed(&flood);
                rounds += 1;
            }
            assert_eq!(rounds, 1_001);
            assert!(peer.connection.output().len() < 20_000);
            assert_eq!(peer.fault_code(), "enhance_your_calm");
        }
        let mut peer = Peer::greeted(role);
        let rounds = until_fault(&mut peer, 20_000, |_| frame(PING, 0, 0, &[7; 8]));
        assert!(rounds > 4_000, "a reader of its replies has patience left: {rounds}");
    }
}

#[test]
fn h2_06_replies_are_counted_exactly_enough_when_some_are_read() {
    let mut peer = Peer::greeted(SERVER);
    for _ in 0..400 {
        peer.feed(&frame(PING, 0, 0, &[7; 8]).repeat(10));
        let waiting = peer.connection.output().len();
        peer.connection.sent(waiting - 5, &mut peer.log);
        assert_eq!(peer.fault, None, "never more than twenty wait");
    }
}

#[test]
fn h2_07_empty_data() {
    for role in ROLES {
        for empty in [data(1, 0, b""), padded(1, 0, b"", 200)] {
            let mut peer = Peer::greeted(role);
            if role == CLIENT {
                peer.open(RequestKind::Other, true, &GET);
                peer.feed(&headers(1, 0, &[(":status", "200")]));
            } else {
                peer.feed(&post(1));
            }
            let rounds = until_fault(&mut peer, 10_000, |_| empty.clone());
            assert!(rounds <= 1_000, "{rounds}");
        }
    }
    // Frames that end the stream are no oddity.
    let mut peer = Peer::greeted(SERVER);
    for round in 0..20_000 {
        let id = 1 + 2 * round;
        peer.feed(&[post(id), data(id, END, b"")].concat());
        peer.respond(id, true);
        peer.connection.release(StreamId(id));
        peer.sent();
    }
    assert_eq!(peer.fault, None);
}

#[test]
fn h2_08_names_and_values_of_length_zero() {
    let mut peer = Peer::greeted(SERVER);
    let nameless = with(&GET, &[("", ""), ("", "")]);
    let rounds = until_fault(&mut peer, 10_000, |round| headers(1 + 2 * round, END, &nameless));
    assert!((400..600).contains(&rounds), "{rounds}");
    let valueless = with(&GET, &[("x", "")]);
    assert_eq!(run(SERVER, &headers(1, END, &valueless)).clean().len(), 1);
}

#[test]
fn h2_09_tiny_windows_hold_no_memory_and_cost_patience() {
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&settings(&[(4, 0)]));
    let body = vec![b'x'; 1 << 20];
    for round in 0..100 {
        let id = 1 + 2 * round;
        peer.feed(&get(id));
        peer.respond(id, false);
        assert_eq!(peer.connection.send_data(StreamId(id), &body, true), 0);
    }
    assert!(peer.connection.output().len() < 4_000);
    // Byte by byte costs two updates for each: cut.
    let rounds = until_fault(&mut peer, 20_000, |round| {
        let id = 1 + 2 * (round % 100);
        [number(WINDOW_UPDATE, 0, 1), number(WINDOW_UPDATE, id, 1), number(WINDOW_UPDATE, id, 1)].concat()
    });
    assert!(rounds < 5_000, "{rounds}");
}

#[test]
fn h2_10_internal_resets_while_the_peer_does_not_read() {
    let mut peer = Peer::greeted(SERVER);
    let mut rounds = 0;
    while peer.fault.is_none() {
        peer.feed(&headers(1 + 2 * rounds, 0, &GET[..2]));
        peer.connection.tick(1);
        rounds += 1;
    }
    assert!(rounds <= 1_001, "{rounds}: capped though patience grows back");
    assert!(peer.connection.output().len() < 20_000);
}

#[test]
fn h2_11_priorities_are_counted() {
    for role in ROLES {
        for churn in [frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), frame(0x10, 0, 0, b"\0\0\0\x01u=1")] {
            let mut peer = Peer::greeted(role);
            let rounds = until_fault(&mut peer, 20_000, |_| churn.clone());
            assert!(rounds > 4_000, "{rounds}");
            assert_eq!(peer.connection.active(), 0);
        }
    }
}

#[test]
fn h2_28_unknown_frames_are_counted() {
    for role in ROLES {
        let mut peer = Peer::greeted(role);
        assert!(until_fault(&mut peer, 1_000_000, |_| frame(0xee, 0, 0, b"unknown")) < 6_000);
    }
}

#[test]
fn h2_35_an_upstream_that_only_breaks_rules_is_cut_and_a_useful_one_is_not() {
    let mut peer = Peer::greeted(CLIENT);
    let mut opened = 0;
    while peer.fault.is_none() {
        let id = peer.open(RequestKind::Other, true, &GET);
        peer.feed(&headers(id, END, &[("no", "status")]));
        peer.release_over();
        peer.sent();
        opened += 1;
    }
    assert!((400..600).contains(&opened), "{opened}");
    let mut peer = Peer::greeted(CLIENT);
    for round in 0..20_000 {
        let id = peer.open(RequestKind::Other, true, &GET);
        let status = if round % 3 == 0 { "no" } else { "200" };
        peer.feed(&headers(id, END, &[(":status", status)]));
        peer.connection.release(StreamId(id));
        peer.sent();
        peer.log.lines.clear();
    }
    assert_eq!(peer.fault, None);
    // Refusing everything costs an upstream nothing: it is an answer.
    for _ in 0..20_000 {
        let id = peer.open(RequestKind::Other, true, &GET);
        peer.feed(&number(RST_STREAM, id, ErrorCode::REFUSED_STREAM.0));
        peer.release_over();
        peer.sent();
        peer.log.lines.clear();
    }
    assert_eq!(peer.fault, None);
}

#[test]
fn a_failed_connection_is_silent() {
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&[post(1), frame(PING, 0, 0, &[0; 7])].concat());
    assert_eq!(peer.fault_code(), "frame_size_error");
    assert!(peer.connection.done());
    peer.feed(&[get(3), frame(PING, 0, 0, &[0; 7])].concat());
    assert!(!peer.respond(1, true));
    peer.connection.reset(StreamId(1), ErrorCode::CANCEL);
    peer.connection.go_away(ErrorCode::NO_ERROR);
    peer.connection.drain();
    peer.connection.release(StreamId(1));
    assert_eq!(peer.sent(), []);
    assert_eq!(peer.connection.active(), 0);
}
