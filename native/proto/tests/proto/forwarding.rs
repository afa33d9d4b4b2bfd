//! Heads as they leave: order, spelling, edits, upgrades and local replies.

use crate::feed::forwarded;
use meshdp_proto::http1_fields::Known;
use meshdp_proto::{
    FieldTable, Limits, LocalReply, RequestEdits, RequestHead, RequestKind, ResponseEdits, encode_request,
    encode_response, local_reply, parse_request, parse_response,
};

fn parse(input: &[u8], fields: &mut FieldTable) -> RequestHead {
    parse_request(input, &Limits::default(), fields).unwrap().unwrap()
}

#[test]
fn names_values_and_order_are_kept() {
    let out = forwarded("GET /a?b HTTP/1.1\r\nB:  1 \r\nhOsT:a\r\nA:\r\nb: 2\t3\r\nContent-Length: 1\r\nZ: z\r\n\r\nx");
    assert_eq!(out, "GET /a?b HTTP/1.1\r\nB: 1\r\nhOsT: a\r\nA: \r\nb: 2\t3\r\nZ: z\r\ncontent-length: 1\r\n\r\nx");
}

#[test]
fn edits_replace_drop_and_append() {
    let input =
        b"GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: forged\r\nX-Envoy-Retry-On: 5xx\r\nK: v\r\n\r\n";
    let mut fields = FieldTable::new();
    let head = parse(input, &mut fields);
    let edits = RequestEdits {
        target: b"/b",
        host: Some(b"b"),
        drop: &[Known::XForwardedClientCert, Known::XEnvoy],
        append: &[("x-forwarded-client-cert", b"By=x"), ("x-request-id", b"1")],
        ..RequestEdits::default()
    };
    let mut out = b"before ".to_vec();
    encode_request(input, &head, &fields, &edits, &mut out);
    let expected =
        "before GET /b HTTP/1.1\r\nHost: b\r\nK: v\r\nx-forwarded-client-cert: By=x\r\nx-request-id: 1\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn upgrades_are_forwarded_only_when_asked_for_properly() {
    let ask = |fields: &str| forwarded(format!("GET /chat HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let out = ask("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n");
    assert_eq!(
        out,
        "GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    let plain = "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(ask("Upgrade: websocket\r\n"), plain);
    assert_eq!(ask("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"), plain);
    assert_eq!(ask("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n"), plain);
}

#[test]
fn a_request_head_says_how_its_connection_goes_on() {
    let mut fields = FieldTable::new();
    let head = parse(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\nExpect: 100-continue\r\n\r\n", &mut fields);
    assert!(!head.keep_alive && head.expect_continue && head.upgrade.is_none());
    assert!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut fields).keep_alive);
}

#[test]
fn values_skip_what_connection_lists_and_join_nothing() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nX-K: a\r\nx-k: v1\r\nY: 1\r\nConnection: y\r\n\r\n";
    let mut fields = FieldTable::new();
    parse(input, &mut fields);
    assert_eq!(fields.values(input, "x-k").collect::<Vec<_>>(), [b"a".as_slice(), b"v1"]);
    assert_eq!(fields.values(input, "y").count(), 0);
    assert_eq!(fields.known(Known::Host).count(), 1);
}

#[test]
fn a_table_is_reused_between_messages_and_connections() {
    let mut fields = FieldTable::new();
    assert_eq!(parse_request(b"GET /a HTTP/1.1\r\nHost: a\r\nX: y", &Limits::default(), &mut fields), Ok(None));
    fields.clear();
    parse(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", &mut fields);
    assert_eq!(fields.len(), 1);
    assert_eq!(
        parse_request(b"GET /a HTTP/1.1\r\nHost: a\r\nX: a long value", &Limits::default(), &mut fields),
        Ok(None)
    );
    parse(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", &mut fields);
    assert_eq!(fields.len(), 1, "a buffer that shrank is scanned from its start");
}

#[test]
fn responses_take_edits() {
    let input = b"HTTP/1.1 200 OK\r\nServer: x\r\nX: y\r\nContent-Length: 0\r\n\r\n";
    let mut fields = FieldTable::new();
    let head = parse_response(input, &Limits::default(), RequestKind::Other, &mut fields).unwrap().unwrap();
    let mut out = Vec::new();
    let edits =
        ResponseEdits { drop: &[Known::Server], append: &[("server", b"meshdp")], close: true, ..Default::default() };
    encode_response(input, &head, &fields, &edits, &mut out);
    let expected = "HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 0\r\nconnection: close\r\nserver: meshdp\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn local_replies_are_whole_messages() {
    let reply =
        LocalReply { status: 403, body: b"RBAC: access denied", content_type: "text/plain", ..LocalReply::default() };
    let mut out = Vec::new();
    local_reply(&reply, &mut out);
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-length: 19\r\ncontent-type: text/plain\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), format!("{head}\r\nRBAC: access denied"));
    let mut out = Vec::new();
    local_reply(&LocalReply { to_head: true, close: true, extra: &[("date", b"now")], ..reply }, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), format!("{head}date: now\r\nconnection: close\r\n\r\n"));
}
