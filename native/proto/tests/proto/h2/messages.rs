//! Messages and their order: H2-24 to H2-27, H2-31, H2-34, and table 2.3 as far as streams show it.

use super::wire::*;
use meshdp_proto::RequestKind;
use meshdp_proto::h2::{Config, ErrorCode, Role, StreamId};

const SERVER: Role = Role::Server;
const CLIENT: Role = Role::Client;

fn client(kind: RequestKind, fields: &[(&str, &str)]) -> impl Fn() -> Peer + use<> {
    let fields: Vec<(String, String)> = fields.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    move || {
        let mut peer = Peer::greeted(CLIENT);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        peer.open(kind, true, &fields);
        peer.sent();
        peer
    }
}

fn from_server(bytes: &[u8]) -> Outcome {
    run_with(bytes, client(RequestKind::Other, &GET))
}

fn status(id: u32, flags: u8, status: &str, more: &[(&str, &str)]) -> Vec<u8> {
    headers(id, flags, &with(&[(":status", status)], more))
}

#[test]
fn h2_24_streams_above_the_last_are_unprocessed() {
    let mut peer = Peer::greeted(CLIENT);
    for _ in 0..3 {
        peer.open(RequestKind::Other, true, &GET);
    }
    peer.feed(&frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]));
    assert_eq!(peer.lines(), ["5 reset refused_stream Peer", "goaway 3 no_error"]);
    peer.feed(&[status(1, END, "200", &[]), status(3, END, "200", &[])].concat());
    assert_eq!(peer.lines().len(), 2, "those below finish");
    assert!(!peer.connection.done());
    for id in [1, 3, 5] {
        peer.connection.release(StreamId(id));
    }
    assert!(peer.connection.done());
}

#[test]
fn h2_24_a_server_drains_with_a_ping_between() {
    let mut peer = Peer::greeted(SERVER);
    peer.connection.drain();
    peer.connection.drain();
    let sent = peer.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0].kind, sent[0].number(0), sent[0].number(4)), (GOAWAY, 0x7fff_ffff, 0));
    peer.feed(&get(1));
    assert_eq!(peer.lines().len(), 1, "opened before the client knew");
    peer.feed(&frame(PING, ACK, 0, &sent[1].payload));
    let last = peer.sent();
    assert_eq!((last[0].kind, last[0].number(0)), (GOAWAY, 1));
    peer.feed(&get(3));
    assert_eq!((peer.lines().len(), peer.sent()[0].number(0)), (0, 7), "REFUSED_STREAM");
}

#[test]
fn h2_25_more_streams_than_allowed_are_refused() {
    let mut peer = Peer::with(SERVER, &Config { max_streams: 2, ..Config::default() });
    peer.feed(&hello(CLIENT));
    peer.feed(&[get(1), get(3), get(5)].concat());
    let refused: Vec<Sent> = peer.sent().into_iter().filter(|sent| sent.kind == RST_STREAM).collect();
    assert_eq!((refused.len(), refused[0].id, refused[0].number(0)), (1, 5, 7));
    peer.respond(1, true);
    peer.feed(&get(7));
    assert_eq!(peer.lines().len(), 3, "a stream that ended makes room, released or not");
    // A stream that was reset makes room once its work is over (H2-01).
    peer.feed(&number(RST_STREAM, 3, 8));
    peer.feed(&get(9));
    assert_eq!(peer.lines(), ["3 reset cancel Peer"]);
    peer.release_over();
    peer.feed(&get(11));
    assert_eq!(peer.lines().len(), 1);
    assert_eq!(peer.connection.active(), 2);
}

#[test]
fn h2_25_a_refused_stream_is_reported_as_such() {
    assert_eq!(from_server(&number(RST_STREAM, 1, 7)).clean(), ["1 reset refused_stream Peer"]);
}

#[test]
fn h2_26_trailers_end_the_stream() {
    let bytes = [post(1), data(1, 0, b"x"), headers(1, 0, &[("x-a", "b")])].concat();
    assert_eq!(run(SERVER, &bytes).stream_fault(), (1, "protocol_error"));
    let bytes = [status(1, 0, "200", &[]), data(1, 0, b"x"), headers(1, 0, &[("x-a", "b")])].concat();
    assert_eq!(from_server(&bytes).stream_fault(), (1, "protocol_error"));
    let bytes = [post(1), headers(1, END, &[("x-a", "b")])].concat();
    assert_eq!(run(SERVER, &bytes).clean()[1], "1 trailers x-a: b|");
}

#[test]
fn h2_27_trailers_have_no_pseudo_headers_and_come_once() {
    let bytes = [post(1), headers(1, END, &[(":path", "/x")])].concat();
    assert_eq!(run(SERVER, &bytes).stream_fault(), (1, "protocol_error"));
    let bytes = [status(1, 0, "200", &[]), headers(1, END, &[(":status", "200")])].concat();
    assert_eq!(from_server(&bytes).stream_fault(), (1, "protocol_error"));
    let third = [post(1), headers(1, END, &[("a", "b")]), headers(1, END, &[("a", "b")])].concat();
    assert_eq!(run(SERVER, &third).stream_fault(), (1, "stream_closed"));
}

#[test]
fn h2_31_the_declared_length_is_kept_by_clients() {
    let declared = |length: &'static str, flags| headers(1, flags, &with(&POST, &[("content-length", length)]));
    for bytes in [
        [declared("4", 0), data(1, END, b"hello")].concat(),
        [declared("6", 0), data(1, END, b"hello")].concat(),
        [declared("6", 0), data(1, 0, b"hello"), headers(1, END, &[("a", "b")])].concat(),
        declared("1", END),
    ] {
        assert_eq!(run(SERVER, &bytes).stream_fault(), (1, "protocol_error"));
    }
    let surplus = [declared("4", 0), data(1, 0, b"hello")].concat();
    let outcome = run(SERVER, &surplus);
    assert_eq!(outcome.lines[1], "1 reset protocol_error Local", "nothing of a frame too many is passed on");
    for bytes in [[declared("5", 0), data(1, 0, b"hel"), data(1, END, b"lo")].concat(), declared("0", END)] {
        run(SERVER, &bytes).clean();
    }
}

#[test]
fn h2_31_the_declared_length_is_kept_by_servers() {
    let declared = |code, flags| status(1, flags, code, &[("content-length", "5")]);
    for bytes in [
        [declared("200", 0), data(1, END, b"four")].concat(),
        [declared("200", 0), data(1, END, b"sixsix")].concat(),
        declared("200", END),
    ] {
        assert_eq!(from_server(&bytes).stream_fault(), (1, "protocol_error"));
    }
    from_server(&[declared("200", 0), data(1, END, b"fives")].concat()).clean();
    from_server(&declared("304", END)).clean();
    let head = client(RequestKind::Head, &with(&[(":method", "HEAD")], &GET[1..]));
    run_with(&declared("200", END), &head).clean();
    run_with(&[declared("200", 0), data(1, END, b"")].concat(), &head).clean();
    assert_eq!(run_with(&[declared("200", 0), data(1, END, b"fives")].concat(), &head).stream_fault().0, 1);
    assert_eq!(from_server(&[declared("304", 0), data(1, END, b"fives")].concat()).stream_fault().0, 1);
}

#[test]
fn h2_34_extended_connect_only_where_it_was_announced() {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/chat"),
    ];
    let bytes = headers(1, 0, &fields);
    assert_eq!(run(SERVER, &bytes).stream_fault(), (1, "protocol_error"));
    let config = Config { extended_connect: true, ..Config::default() };
    let on = || {
        let mut peer = Peer::with(SERVER, &config);
        peer.feed(&hello(CLIENT));
        peer
    };
    let lines = run_with(&[bytes, data(1, 0, b"frames")].concat(), on).clean().to_vec();
    assert!(lines[0].starts_with("1 request"), "{lines:?}");
    assert_eq!(lines[1], "1 data 6 frames");
    let mut peer = Peer::greeted(CLIENT);
    assert!(!peer.connection.peer_takes_extended_connect());
    peer.feed(&settings(&[(8, 1)]));
    assert!(peer.connection.peer_takes_extended_connect());
}

#[test]
fn late_trailers_of_streams_that_are_long_over_are_ignored() {
    let mut peer = Peer::greeted(SERVER);
    for round in 0..1_000 {
        let id = 1 + 2 * round;
        peer.feed(&post(id));
        peer.respond(id, true);
        peer.connection.release(StreamId(id));
        peer.sent();
    }
    for id in [1, 501, 1_997] {
        peer.feed(&[data(id, 0, b"late"), headers(id, END, &[("x-a", "b")])].concat());
    }
    assert_eq!((peer.fault, peer.log.unread.len(), peer.sent().len()), (None, 0, 0));
}

#[test]
fn a_tunnel_has_neither_length_nor_trailers() {
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    let trailers = headers(1, END, &[("x-a", "b")]);
    let bytes = [headers(1, 0, &connect), data(1, 0, b"bytes"), trailers.clone()].concat();
    let outcome = run(SERVER, &bytes);
    assert_eq!(outcome.stream_fault(), (1, "protocol_error"));
    assert_eq!(outcome.lines[1], "1 data 5 bytes");
    let tunnel = client(RequestKind::Connect, &connect);
    let open = [status(1, 0, "200", &[]), data(1, 0, b"bytes")].concat();
    run_with(&[open.clone(), data(1, END, b"")].concat(), &tunnel).clean();
    assert_eq!(run_with(&[open, trailers.clone()].concat(), &tunnel).stream_fault(), (1, "protocol_error"));
    let refused = [status(1, 0, "403", &[("content-length", "2")]), data(1, 0, b"no"), trailers].concat();
    run_with(&refused, &tunnel).clean();
}

#[test]
fn interim_responses_come_before_the_final_one() {
    let bytes = [status(1, 0, "103", &[("link", "x")]), status(1, 0, "200", &[]), data(1, END, b"x")].concat();
    let lines = from_server(&bytes).clean().to_vec();
    assert!(lines[0].starts_with("1 response 103"), "{lines:?}");
    assert!(lines[1].starts_with("1 response 200"));
    assert_eq!(from_server(&status(1, END, "100", &[])).stream_fault(), (1, "protocol_error"));
    assert_eq!(
        from_server(&[status(1, 0, "100", &[]), data(1, 0, b"x")].concat()).stream_fault(),
        (1, "protocol_error")
    );
    assert_eq!(from_server(&status(1, END, "101", &[])).stream_fault(), (1, "protocol_error"));
}

#[test]
fn dg_malformed_heads_reset_their_stream_alone() {
    let cases: [&[(&str, &str)]; 16] = [
        &with(&GET, &[("x", "a\rb")]),
        &with(&GET, &[("x", "a\nb")]),
        &with(&GET, &[("x", "a\0b")]),
        &with(&GET, &[("X-Upper", "a")]),
        &with(&GET, &[("", "a")]),
        &with(&GET, &[("a b", "a")]),
        &with(&GET, &[("x", " a")]),
        &with(&GET, &[("transfer-encoding", "chunked")]),
        &with(&GET, &[("connection", "close")]),
        &with(&GET, &[("te", "gzip")]),
        &with(&[(":method", "GET / HTTP/1.1")], &GET[1..]),
        &with(&GET[..3], &[(":path", "")]),
        &with(&GET[..3], &[(":path", "x")]),
        &GET[..3],
        &with(&GET, &[(":path", "/twice")]),
        &with(&GET, &[("a", "b"), (":authority", "late")]),
    ];
    for fields in cases {
        let outcome = run(SERVER, &[headers(1, END, fields), get(3)].concat());
        assert_eq!(outcome.stream_fault(), (1, "protocol_error"), "{fields:?}");
        assert_eq!(outcome.lines.len(), 1, "only the good request is seen: {fields:?}");
    }
    for fields in [&[("x", "y")][..], &[(":status", "200"), ("A", "b")], &[(":status", "abc")], &[(":path", "/")]] {
        assert_eq!(from_server(&headers(1, END, fields)).stream_fault(), (1, "protocol_error"), "{fields:?}");
    }
}

#[test]
fn what_is_sent_on_streams_that_are_over_is_nothing() {
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&[post(1), number(RST_STREAM, 1, 8)].concat());
    assert!(!peer.respond(1, false));
    assert_eq!(peer.connection.send_data(StreamId(1), b"x", true), 0);
    peer.connection.reset(StreamId(1), ErrorCode::CANCEL);
    peer.connection.consumed(StreamId(1), 100);
    peer.connection.release(StreamId(1));
    peer.connection.release(StreamId(1));
    assert_eq!(peer.sent(), []);
    // Dropped before its end: CANCEL; a server that answered whole: NO_ERROR (RFC 9113 8.1).
    peer.feed(&[post(3), post(5)].concat());
    peer.respond(5, true);
    peer.sent();
    peer.connection.release(StreamId(3));
    peer.connection.release(StreamId(5));
    let sent = peer.sent();
    assert_eq!((sent[0].id, sent[0].number(0), sent[1].id, sent[1].number(0)), (3, 8, 5, 0));
    assert_eq!(peer.connection.active(), 0);
}

#[test]
fn heads_above_a_frame_are_continued() {
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&get(1));
    let large = vec![0x61; 40_000];
    peer.connection.send_head(StreamId(1), true, |_, out| out.extend_from_slice(&large));
    let sent = peer.sent();
    let shape: Vec<_> = sent.iter().map(|sent| (sent.kind, sent.flags, sent.payload.len())).collect();
    assert_eq!(shape, [(HEADERS, END, 16_384), (CONTINUATION, 0, 16_384), (CONTINUATION, WHOLE, 7_232)]);
    assert_eq!(sent.iter().flat_map(|sent| sent.payload.clone()).collect::<Vec<u8>>(), large);
}
