//! Frames that must end the connection or a stream, and those that must not: H2-12 to H2-22, H2-28, H2-33.

use super::wire::*;
use meshdp_proto::RequestKind;
use meshdp_proto::h2::{Config, NotOpened, Role, StreamId};

const SERVER: Role = Role::Server;
const CLIENT: Role = Role::Client;

/// Our client with stream 1 opened, its request whole.
fn client() -> Peer {
    let mut peer = Peer::greeted(CLIENT);
    peer.open(RequestKind::Other, true, &GET);
    peer.sent();
    peer
}

fn from_server(bytes: &[u8]) -> Outcome {
    run_with(bytes, client)
}

fn ok(id: u32, flags: u8) -> Vec<u8> {
    headers(id, flags, &[(":status", "200")])
}

#[test]
fn a_request_and_a_response_are_canonical_text() {
    let bytes =
        [headers(1, 0, &with(&POST, &[("x-a", "b")])), data(1, 0, b"hel"), data(1, END, b"lo"), get(3)].concat();
    let lines = run(SERVER, &bytes).lines;
    assert_eq!(lines[0], "1 request POST / HTTP/1.1|host: a|x-a: b|| false");
    assert_eq!(lines[1..3], ["1 data 5 hello", "1 end"]);
    assert_eq!(lines[3], "3 request GET / HTTP/1.1|host: a|| true");
    let bytes = [ok(1, 0), data(1, 0, b"body"), headers(1, END, &[("x-sum", "1")])].concat();
    let lines = from_server(&bytes).clean().to_vec();
    assert_eq!(lines, ["1 response 200 HTTP/1.1 200 OK| false", "1 data 4 body", "1 trailers x-sum: 1|"]);
}

#[test]
fn the_preface_must_be_whole_and_settings_first() {
    let start = || Peer::new(SERVER);
    assert_eq!(run_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", start).connection_fault(), "protocol_error");
    assert_eq!(run_with(b"GET / HTTP/1.1\r\n\r\n", start).connection_fault(), "protocol_error");
    let ping = [MAGIC, &frame(PING, 0, 0, &[0; 8])].concat();
    assert_eq!(run_with(&ping, start).connection_fault(), "protocol_error");
    assert_eq!(run_with(&frame(SETTINGS, ACK, 0, &[]), || Peer::new(CLIENT)).connection_fault(), "protocol_error");
    // H2-29 at this level: a part of the preface is no fault, silence is for the engine's timeout.
    assert_eq!(run_with(b"PRI", start).clean().len(), 0);
    let mut peer = Peer::new(SERVER);
    assert!(!peer.connection.greeted());
    peer.feed(&hello(CLIENT));
    peer.feed(&frame(HEADERS, END, 1, &block(&GET)));
    assert!(peer.connection.greeted() && peer.connection.within_block());
    peer.feed(&frame(CONTINUATION, WHOLE, 1, &[]));
    assert!(!peer.connection.within_block());
}

#[test]
fn our_preface_says_what_we_allow() {
    let mut server = Peer::with(SERVER, &Config { extended_connect: true, ..Config::default() });
    let sent = server.sent();
    assert_eq!((sent[0].kind, sent[0].payload.len()), (SETTINGS, 24));
    assert_eq!(sent[0].payload[..6], [0, 3, 0, 0, 0, 100]);
    assert_eq!((sent[1].kind, sent[1].number(0)), (WINDOW_UPDATE, (1 << 20) - 65_535));
    let mut client = Peer::new(CLIENT);
    assert!(client.connection.output().starts_with(MAGIC));
    assert_eq!(client.sent()[0].payload[..6], [0, 2, 0, 0, 0, 0], "push is refused");
}

#[test]
fn h2_12_a_list_above_the_limit_is_decoded_and_answered() {
    // One entry of 4 KiB in the table, named 16,000 times.
    let mut bomb = block(&GET);
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend_from_slice(&[b'v'; 4_000]);
    let bomb_head = frame(HEADERS, WHOLE | END, 1, &bomb);
    let mut again = block(&GET);
    again.extend_from_slice(&[0xbe; 16_000]);
    let bytes = [bomb_head, frame(HEADERS, WHOLE | END, 3, &again), get(5)].concat();
    let outcome = run(SERVER, &bytes);
    assert_eq!(outcome.clean().len(), 3, "{:?}", outcome.lines);
    assert_eq!(outcome.lines[1], "3 answered 431");
    assert!(outcome.lines[2].starts_with("5 request GET"));
    let crumbs = with(&GET, &[("cookie", "a=b"); 400]);
    assert_eq!(run(SERVER, &headers(1, END, &crumbs)).clean(), ["1 answered 431"]);
}

#[test]
fn h2_12_bombs_end_the_connection() {
    let mut peer = Peer::greeted(SERVER);
    let crumbs = with(&GET, &[("cookie", "a=b"); 400]);
    for id in 0..2_000 {
        peer.feed(&headers(1 + 2 * id, END, &crumbs));
        peer.sent();
        if peer.fault.is_some() {
            break;
        }
    }
    assert_eq!(peer.fault.map(|fault| fault.code.name()), Some("enhance_your_calm"));
}

#[test]
fn h2_13_faults_of_the_table_end_the_connection() {
    let table_above = [0x3f, 0xe2, 0x1f];
    for bad in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &table_above, &[0x82, 0x20], &[0x20, 0x20, 0x20]] {
        let bytes = frame(HEADERS, WHOLE | END, 1, bad);
        assert_eq!(run(SERVER, &bytes).connection_fault(), "compression_error", "{bad:x?}");
        assert_eq!(from_server(&bytes).connection_fault(), "compression_error", "{bad:x?}");
    }
}

#[test]
fn h2_14_a_head_above_the_limit_leaves_the_next_one_whole() {
    let value = "v".repeat(15_000);
    let large = with(&GET, &[("x-1", &value), ("x-2", &value), ("x-3", &value), ("x-4", &value), ("x-5", &value)]);
    let whole = block(&large);
    let mut bytes = frame(HEADERS, END, 1, &whole[..16_000]);
    for (at, part) in whole[16_000..].chunks(16_000).enumerate() {
        let flags = if 16_000 * (at + 2) >= whole.len() { WHOLE } else { 0 };
        bytes.extend_from_slice(&frame(CONTINUATION, flags, 1, part));
    }
    bytes.extend_from_slice(&get(3));
    let outcome = run(SERVER, &bytes);
    assert_eq!(outcome.clean()[0], "1 answered 431");
    assert!(outcome.lines[1].starts_with("3 request"));
    // A body that follows the head is ignored, and its window comes back.
    let open = [headers(1, 0, &with(&GET, &[("x", "y"); 200])), data(1, END, b"body"), get(3)].concat();
    let outcome = run(SERVER, &open);
    assert_eq!(outcome.resets, [(1, "no_error")]);
    assert!(outcome.lines[1].starts_with("3 request"));
}

#[test]
fn h2_15_identifiers() {
    assert_eq!(run(SERVER, &get(2)).connection_fault(), "protocol_error", "even");
    assert_eq!(run(SERVER, &[get(5), get(3)].concat()).connection_fault(), "protocol_error", "lower");
    assert_eq!(run(SERVER, &[get(5), get(5)].concat()).stream_fault(), (5, "stream_closed"), "reused");
    assert_eq!(run(SERVER, &get(0)).connection_fault(), "protocol_error", "zero");
    assert_eq!(from_server(&ok(3, END)).connection_fault(), "protocol_error", "never opened");
    assert_eq!(from_server(&ok(2, END)).connection_fault(), "protocol_error", "never promised");
}

#[test]
fn h2_15_the_last_identifier_is_announced() {
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&get(0x7fff_ff01));
    let sent = peer.sent();
    assert_eq!((sent[0].kind, sent[0].number(0)), (GOAWAY, 0x7fff_ffff));
    peer.feed(&frame(PING, ACK, 0, &sent[1].payload));
    assert_eq!(peer.sent()[0].number(0), 0x7fff_ff01);
    peer.feed(&get(0x7fff_ffff));
    let refused = peer.sent();
    assert_eq!((refused[0].kind, refused[0].id, refused[0].number(0)), (RST_STREAM, 0x7fff_ffff, 7));
    assert!(!peer.connection.done());
    peer.respond(0x7fff_ff01, true);
    peer.connection.release(StreamId(0x7fff_ff01));
    assert!(peer.connection.done());
}

#[test]
fn h2_16_sizes() {
    let long = [&[0, 0x40, 1, DATA, 0, 0, 0, 0, 1][..], &[0; 0x4001]].concat();
    let cases = [
        [post(1), long].concat(),
        frame(PING, 0, 0, &[0; 7]),
        [post(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(SETTINGS, ACK, 0, &[0; 6]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 5]),
        frame(GOAWAY, 0, 0, &[0; 7]),
        frame(PRIORITY, 0, 1, &[0; 4]),
        [post(1), frame(DATA, PADDED, 1, &[])].concat(),
        frame(HEADERS, WHOLE | PADDED, 1, &[]),
        frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[0; 4]),
    ];
    for bytes in &cases {
        assert_eq!(run(SERVER, bytes).connection_fault(), "frame_size_error", "{:x?}", &bytes[..9]);
    }
    for bytes in [frame(PING, 0, 0, &[0; 7]), frame(RST_STREAM, 0, 1, &[0; 3]), frame(SETTINGS, 0, 0, &[0; 5])] {
        assert_eq!(from_server(&bytes).connection_fault(), "frame_size_error");
    }
    // On a stream that is open it is the stream's fault.
    assert_eq!(run(SERVER, &[get(1), frame(PRIORITY, 0, 1, &[0; 4])].concat()).stream_fault(), (1, "frame_size_error"));
}

#[test]
fn frames_on_the_wrong_kind_of_stream_end_the_connection() {
    let zero = [
        data(0, 0, b"x"),
        frame(HEADERS, WHOLE, 0, &block(&GET)),
        frame(RST_STREAM, 0, 0, &[0; 4]),
        frame(PRIORITY, 0, 0, &[0; 5]),
    ];
    let one = [frame(SETTINGS, 0, 1, &[]), frame(PING, 0, 1, &[0; 8]), frame(GOAWAY, 0, 1, &[0; 8])];
    for bytes in zero.iter().chain(&one) {
        assert_eq!(run(SERVER, bytes).connection_fault(), "protocol_error", "{bytes:x?}");
        assert_eq!(from_server(bytes).connection_fault(), "protocol_error", "{bytes:x?}");
    }
}

#[test]
fn settings_are_checked_one_by_one() {
    for (parameter, code) in [
        ((2, 2), "protocol_error"),
        ((4, 0x8000_0000), "flow_control_error"),
        ((5, 16_383), "protocol_error"),
        ((5, 16_777_216), "protocol_error"),
        ((8, 2), "protocol_error"),
    ] {
        assert_eq!(run(SERVER, &settings(&[parameter])).connection_fault(), code, "{parameter:?}");
        assert_eq!(from_server(&settings(&[parameter])).connection_fault(), code, "{parameter:?}");
    }
    assert_eq!(run(SERVER, &settings(&[(2, 1)])).clean().len(), 0, "a client may allow push");
    assert_eq!(from_server(&settings(&[(2, 1)])).connection_fault(), "protocol_error", "a server may not");
    assert_eq!(from_server(&settings(&[(8, 1), (8, 0)])).connection_fault(), "protocol_error");
    assert_eq!(run(SERVER, &settings(&[(0xabcd, 7), (3, 1), (6, 1), (5, 16_777_215)])).clean().len(), 0);
}

#[test]
fn h2_20_padding() {
    let too_long = frame(DATA, PADDED, 1, &[4, 1, 2, 3]);
    assert_eq!(run(SERVER, &[post(1), too_long.clone()].concat()).connection_fault(), "protocol_error");
    assert_eq!(from_server(&[ok(1, 0), too_long].concat()).connection_fault(), "protocol_error");
    let head = frame(HEADERS, WHOLE | PADDED, 1, &[200, 0x82]);
    assert_eq!(run(SERVER, &head).connection_fault(), "protocol_error");
    let bytes = [post(1), padded(1, 0, b"a", 255), padded(1, END, b"", 3)].concat();
    assert_eq!(run(SERVER, &bytes).clean()[1..], ["1 data 1 a", "1 end"]);
    let mut head = vec![2];
    head.extend_from_slice(&block(&GET));
    head.extend_from_slice(&[0, 0]);
    assert_eq!(run(SERVER, &frame(HEADERS, WHOLE | PADDED | END, 1, &head)).clean().len(), 1);
}

#[test]
fn h2_21_the_state_table_of_a_server() {
    let idle =
        [data(1, 0, b"x"), number(RST_STREAM, 1, 8), number(WINDOW_UPDATE, 1, 1), frame(CONTINUATION, WHOLE, 1, &[])];
    for bytes in &idle {
        assert_eq!(run(SERVER, bytes).connection_fault(), "protocol_error", "idle: {bytes:x?}");
    }
    assert_eq!(run(SERVER, &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7])).clean().len(), 0);
    for late in [data(1, 0, b"x"), get(1), post(1)] {
        let outcome = run(SERVER, &[get(1), late].concat());
        assert_eq!(outcome.stream_fault(), (1, "stream_closed"), "half-closed");
        assert_eq!(outcome.lines[1], "1 reset stream_closed Local");
    }
    for late in [number(WINDOW_UPDATE, 1, 1), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7])] {
        assert_eq!(run(SERVER, &[get(1), late].concat()).clean().len(), 1);
    }
    for released in [false, true] {
        let reset = move || {
            let mut peer = Peer::greeted(SERVER);
            peer.feed(&[post(1), number(RST_STREAM, 1, 8)].concat());
            if released {
                peer.release_over();
            }
            peer
        };
        assert_eq!(run_with(&data(1, 0, b"x"), reset).stream_fault(), (1, "stream_closed"), "reset by the peer");
        assert_eq!(run_with(&get(1), reset).stream_fault(), (1, "stream_closed"), "reset by the peer");
        assert_eq!(run_with(&number(WINDOW_UPDATE, 1, 1), reset).resets, []);
        assert_eq!(run_with(&number(RST_STREAM, 1, 1), reset).resets, []);
        let complete = move || {
            let mut peer = Peer::greeted(SERVER);
            peer.feed(&get(1));
            peer.respond(1, true);
            if released {
                peer.connection.release(StreamId(1));
            }
            peer.sent();
            peer
        };
        assert_eq!(run_with(&data(1, 0, b"x"), complete).connection_fault(), "stream_closed");
        assert_eq!(run_with(&get(1), complete).connection_fault(), "stream_closed");
        assert_eq!(run_with(&number(WINDOW_UPDATE, 1, 1), complete).clean().len(), 1);
        assert_eq!(run_with(&number(RST_STREAM, 1, 1), complete).clean().len(), 1);
        let outcome = run_with(&frame(PRIORITY, 0, 1, &[0; 4]), complete);
        assert_eq!((outcome.fault, &outcome.resets[..]), (None, &[(1, "frame_size_error")][..]));
        let given_up = move || {
            let mut peer = Peer::greeted(SERVER);
            peer.feed(&post(1));
            peer.connection.reset(StreamId(1), meshdp_proto::h2::ErrorCode::CANCEL);
            if released {
                peer.connection.release(StreamId(1));
            }
            peer.sent();
            peer
        };
        let late = [data(1, 0, b"x"), headers(1, END, &[("x", "y")]), number(WINDOW_UPDATE, 1, 1), get(3)].concat();
        assert_eq!(run_with(&late, given_up).clean().len(), 2, "late frames are ignored");
    }
}

#[test]
fn h2_21_the_state_table_of_a_client() {
    for bytes in [data(3, 0, b"x"), number(RST_STREAM, 3, 8), number(WINDOW_UPDATE, 3, 1), data(2, 0, b"x")] {
        assert_eq!(from_server(&bytes).connection_fault(), "protocol_error", "idle: {bytes:x?}");
    }
    assert_eq!(from_server(&data(1, 0, b"x")).stream_fault(), (1, "protocol_error"), "DATA before the head");
    let complete = [ok(1, END), data(1, 0, b"x")].concat();
    assert_eq!(from_server(&complete).connection_fault(), "stream_closed");
    let half = || {
        let mut peer = Peer::greeted(CLIENT);
        peer.open(RequestKind::Other, false, &POST);
        peer.sent();
        peer
    };
    assert_eq!(run_with(&[ok(1, END), data(1, 0, b"x")].concat(), half).stream_fault(), (1, "stream_closed"));
    // An early answer, then RST_STREAM(NO_ERROR): the response is whole, only the upload ends (RFC 9113 8.1).
    let outcome = run_with(&[ok(1, END), number(RST_STREAM, 1, 0)].concat(), half);
    assert_eq!(outcome.clean()[1], "1 reset no_error Peer");
}

#[test]
fn h2_22_push_is_refused() {
    let mut promise = vec![0, 0, 0, 2];
    promise.extend_from_slice(&block(&GET));
    let bytes = frame(PUSH_PROMISE, WHOLE, 1, &promise);
    assert_eq!(from_server(&bytes).connection_fault(), "protocol_error");
    assert_eq!(run(SERVER, &[get(1), bytes].concat()).connection_fault(), "protocol_error");
}

#[test]
fn h2_28_unknown_frames_flags_and_settings_are_ignored() {
    let bytes = [
        frame(0xfa, 0xff, 0, b"whatever"),
        frame(0xfb, 0, 77, &[]),
        frame(PING, 0xfe, 0, &[1; 8]),
        settings(&[(0x99, 1)]),
        frame(HEADERS, WHOLE | END | 0xd2, 1, &block(&GET)),
        frame(0xfa, 0, 1, b"between"),
    ];
    assert_eq!(run(SERVER, &bytes.concat()).clean().len(), 1);
    let bytes = [frame(0xfa, 0xff, 0, b"whatever"), ok(1, 0), frame(0xfa, 0, 1, b"between"), data(1, END, b"x")];
    assert_eq!(from_server(&bytes.concat()).clean().len(), 3);
    let reserved = [&[0, 0, 8, PING, 0, 0x80, 0, 0, 0][..], &[0; 8]].concat();
    assert_eq!(run(SERVER, &reserved).clean().len(), 0, "the reserved bit");
}

#[test]
fn h2_33_nothing_stands_inside_a_block() {
    let start = frame(HEADERS, END, 1, &block(&GET));
    let intruders = [
        get(3),
        data(1, 0, b"x"),
        frame(PING, 0, 0, &[0; 8]),
        frame(CONTINUATION, WHOLE, 3, &[]),
        frame(0xfa, 0, 0, &[]),
    ];
    for intruder in intruders {
        let bytes = [start.clone(), intruder].concat();
        assert_eq!(run(SERVER, &bytes).connection_fault(), "protocol_error", "{bytes:x?}");
        let bytes = [frame(HEADERS, 0, 1, &block(&[(":status", "200")])), bytes[start.len()..].to_vec()].concat();
        assert_eq!(from_server(&bytes).connection_fault(), "protocol_error", "{bytes:x?}");
    }
    let whole = block(&GET);
    let (first, rest) = whole.split_at(3);
    let bytes = [frame(HEADERS, END, 1, first), frame(CONTINUATION, 0, 1, &[]), frame(CONTINUATION, WHOLE, 1, rest)];
    assert_eq!(run(SERVER, &bytes.concat()).clean(), ["1 request GET / HTTP/1.1|host: a|| true"]);
    assert_eq!(
        run(SERVER, &[get(1), frame(CONTINUATION, WHOLE, 1, &[])].concat()).connection_fault(),
        "protocol_error"
    );
}

#[test]
fn a_stream_that_depends_on_itself_is_reset() {
    let mut on_itself = vec![0, 0, 0, 1, 7];
    on_itself.extend_from_slice(&block(&GET));
    let bytes = frame(HEADERS, WHOLE | END | WITH_PRIORITY, 1, &on_itself);
    assert_eq!(run(SERVER, &bytes).stream_fault(), (1, "protocol_error"));
    let bytes = [get(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 7])].concat();
    assert_eq!(run(SERVER, &bytes).stream_fault(), (1, "protocol_error"));
}

#[test]
fn pings_are_answered_and_asked() {
    let mut peer = Peer::greeted(CLIENT);
    peer.feed(&frame(PING, 0, 0, b"12345678"));
    let sent = peer.sent();
    assert_eq!((sent[0].kind, sent[0].flags, &sent[0].payload[..]), (PING, ACK, &b"12345678"[..]));
    assert!(peer.connection.ping());
    assert!(!peer.connection.ping(), "one at a time");
    let asked = peer.sent();
    peer.feed(&frame(PING, ACK, 0, &asked[0].payload));
    assert_eq!(peer.lines(), ["pong"]);
    assert!(peer.connection.ping());
}

#[test]
fn h2_15_a_client_runs_out_of_identifiers_or_room() {
    let mut peer = Peer::greeted(CLIENT);
    peer.feed(&settings(&[(3, 1)]));
    peer.open(RequestKind::Other, true, &GET);
    assert_eq!(peer.connection.may_open(), Err(NotOpened::Limit));
    peer.feed(&ok(1, END));
    assert_eq!(peer.connection.may_open(), Ok(()));
    peer.feed(&settings(&[(3, 0)]));
    assert_eq!(peer.connection.may_open(), Err(NotOpened::Limit), "H2-23: zero streams is no fault");
    peer.feed(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert_eq!(peer.connection.may_open(), Err(NotOpened::GoingAway));
}

#[test]
fn h2_29_a_block_whose_rest_is_still_to_come_shows() {
    let mut server = Peer::greeted(SERVER);
    server.feed(&frame(HEADERS, END, 1, &block(&GET)));
    assert!(server.connection.is_within_block(), "its frame was taken whole, its block was not");
    server.feed(&frame(CONTINUATION, 0, 1, &[]));
    assert!(server.connection.is_within_block());
    server.feed(&frame(CONTINUATION, WHOLE, 1, &[]));
    assert!(!server.connection.is_within_block());
}
