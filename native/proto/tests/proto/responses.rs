//! Response heads and bodies: H1-37, H1-44, H1-45, H1-48 as far as bytes decide them.

use crate::feed::{End, Transcript, response};
use meshdp_proto::http1_head::Framing;
use meshdp_proto::{FieldTable, Limits, RequestKind, parse_response};

fn other(input: &str) -> Transcript {
    response(input.as_bytes(), RequestKind::Other)
}

fn framing(input: &str, kind: RequestKind) -> (Framing, bool) {
    let head = parse_response(input.as_bytes(), &Limits::default(), kind, &mut FieldTable::new()).unwrap().unwrap();
    (head.framing, head.keep_alive)
}

#[test]
fn bodies_are_framed_by_status_request_and_fields() {
    let table = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", RequestKind::Other, Framing::Length(3), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", RequestKind::Head, Framing::None, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", RequestKind::Other, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n", RequestKind::Other, Framing::UntilClose, false),
        ("HTTP/1.1 200 OK\r\n\r\n", RequestKind::Connect, Framing::None, true),
        ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", RequestKind::Connect, Framing::Length(0), true),
        ("HTTP/1.1 204 No Content\r\n\r\n", RequestKind::Other, Framing::None, true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", RequestKind::Other, Framing::None, true),
        ("HTTP/1.1 100 Continue\r\n\r\n", RequestKind::Other, Framing::None, true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
            RequestKind::Other,
            Framing::Length(3),
            false,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", RequestKind::Other, Framing::Length(3), false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
            RequestKind::Other,
            Framing::Length(3),
            true,
        ),
    ];
    for (input, kind, expected, keep_alive) in table {
        assert_eq!(framing(input, kind), (expected, keep_alive), "{input:?} {kind:?}");
    }
}

#[test]
fn h1_37_an_upgrade_field_without_101_is_dropped() {
    let transcript = other("HTTP/1.1 200 OK\r\nUpgrade: foo\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(transcript.messages, ["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]);
    let transcript = other("HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n");
    assert_eq!(
        transcript.messages,
        ["HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n"]
    );
}

#[test]
fn h1_44_broken_responses_are_refused_with_502() {
    let table = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "length_and_coding"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "repeated_length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n", "content_length"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer_coding"),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "coding_in_http10"),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "folded_field"),
        ("HTTP/1.1 200 OK\nX: a\r\n\r\n", "line_end"),
        ("HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n", "field_value"),
        ("HTTP/1.1 200 O\0K\r\n\r\n", "first_line"),
        ("HTTP/1.1  200 OK\r\n\r\n", "first_line"),
        ("HTTP/1.1 20 OK\r\n\r\n", "first_line"),
        ("HTTP/1.1 2000 OK\r\n\r\n", "first_line"),
        ("HTTP/1.1 099 OK\r\n\r\n", "status"),
        ("HTTP/1.1 2x0 OK\r\n\r\n", "status"),
        ("HTTP/2.0 200 OK\r\n\r\n", "unknown_version"),
        ("HTTP/1.2 200 OK\r\n\r\n", "unknown_version"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "unknown_version"),
        ("SSH-2.0-x\r\n", "unknown_version"),
    ];
    for (input, code) in table {
        assert_eq!(other(input), Transcript { messages: vec![], end: End::Refused(502, code) }, "{input:?}");
    }
    let bad_chunk = other("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd");
    assert_eq!(bad_chunk.end, End::Refused(400, "chunk_line_end"));
}

#[test]
fn h1_45_bytes_after_a_bodyless_response_are_not_its_body() {
    for status in ["204 No Content", "304 Not Modified"] {
        let transcript = other(&format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nbody"));
        assert_eq!(transcript.end, End::Refused(502, "unknown_version"));
    }
}

#[test]
fn a_declared_length_is_kept_where_the_body_is_left_out() {
    let head = response(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", RequestKind::Head);
    assert_eq!(head.messages, ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"]);
    assert_eq!(
        other("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n").messages,
        ["HTTP/1.1 204 No Content\r\n\r\n"]
    );
}

#[test]
fn h1_48_a_body_until_close_ends_with_the_connection() {
    let transcript = other("HTTP/1.1 200 OK\r\nServer: x\r\n\r\nanything");
    assert_eq!(transcript.messages, ["HTTP/1.1 200 OK\r\nServer: x\r\nconnection: close\r\n\r\nanything"]);
    assert_eq!(transcript.end, End::Clean);
    assert_eq!(other("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nanything").end, End::Truncated);
}

#[test]
fn reason_phrases_pass_as_they_are() {
    for (sent, forwarded) in [("200", "200 "), ("200 ", "200 "), ("299 Ganz \u{e9}igen", "299 Ganz \u{c3}\u{a9}igen")] {
        let transcript = other(&format!("HTTP/1.1 {sent}\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(transcript.messages, [format!("HTTP/1.1 {forwarded}\r\ncontent-length: 0\r\n\r\n")]);
    }
}
