//! The origin note: an HTTP/1.1 head crosses two sidecars and comes out as it went in.

use super::{decoded, latin, limits, list, shown};
use meshdp_proto::h2::hpack::Encoder;
use meshdp_proto::h2::message::{
    Message, Origin, RequestMapping, ResponseMapping, encode_request, encode_response, write_request, write_response,
};
use meshdp_proto::{
    FieldTable, RequestEdits, RequestKind, ResponseEdits, encode_request as encode_http1,
    encode_response as encode_http1_response, parse_request, parse_response,
};

/// What one sidecar makes of a request for an HTTP/1.1 upstream, and what two make of it with HTTP/2 between them.
pub(super) fn requests_over_one_and_two(text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut fields, mut direct, mut restored) = (FieldTable::new(), Vec::new(), Vec::new());
    let head = parse_request(text, &limits(), &mut fields).unwrap().unwrap();
    let edits = RequestEdits {
        target: head.target.of(text),
        append: &[("x-request-id", b"1"), ("x-forwarded-proto", b"http")],
        ..RequestEdits::default()
    };
    encode_http1(text, &head, &fields, &edits, &mut direct);
    let mapping = RequestMapping { note: true, ..RequestMapping::default() };
    let mut block = Vec::new();
    let message = Message { buf: text, head: &head, fields: &fields };
    encode_request(&mut Encoder::new(), &message, &edits, &mapping, &mut block);
    let (mut between, mut table) = (Vec::new(), FieldTable::new());
    let shape = write_request(&decoded(&block), &limits(), &mut between).unwrap();
    let received = parse_request(&between, &limits(), &mut table).unwrap().unwrap();
    let edits = RequestEdits {
        target: received.target.of(&between),
        framing: Some(shape.framing(head.framing == meshdp_proto::Framing::None)),
        origin: Some(Origin::of_request(&between, &table).expect("the note fits")),
        ..RequestEdits::default()
    };
    encode_http1(&between, &received, &table, &edits, &mut restored);
    (direct, restored)
}

fn survives(text: &str) {
    let (direct, restored) = requests_over_one_and_two(text.as_bytes());
    let sorted = |head: &[u8]| {
        let mut lines: Vec<String> = latin(head).split("\r\n").map(str::to_owned).collect();
        // Framing stands behind what a sidecar received, so what the first one added changes places with it.
        lines.retain(|line| !line.starts_with("content-length") && !line.starts_with("transfer-encoding"));
        lines
    };
    assert_eq!(sorted(&restored), sorted(&direct));
}

#[test]
fn spelling_and_order_survive() {
    survives("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nAccept: y\r\n\r\n");
    survives("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    survives(
        "GET / HTTP/1.1\r\nUser-Agent: x\r\nx-lower: y\r\nDNT: 1\r\nhOsT: a\r\nETag: z\r\nX-Request-ID: w\r\n\r\n",
    );
    survives("GET / HTTP/1.1\r\nA: 1\r\nHOST: a\r\nsec-CH-ua: b\r\nTE: trailers\r\nx: c\r\n1-aB_c: d\r\n\r\n");
    survives("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Y: z\r\n\r\n");
    survives("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Y: z\r\nHost:\r\n\r\n");
    survives("GET / HTTP/1.1\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKEEP-alive: 2\r\nX-Kept: 3\r\nHost: a\r\n\r\n");
    let many: String = (0..60).map(|number| if number % 2 == 0 { "x-Y: z\r\n" } else { "a-b-C: d\r\n" }).collect();
    survives(&format!("GET / HTTP/1.1\r\n{many}Host: a\r\n\r\n"));
}

#[test]
fn the_note_is_short_and_the_same_for_all_requests_of_a_client() {
    let note = |text: &str| {
        let mut fields = FieldTable::new();
        let head = parse_request(text.as_bytes(), &limits(), &mut fields).unwrap().unwrap();
        let message = Message { buf: text.as_bytes(), head: &head, fields: &fields };
        let mapping = RequestMapping { note: true, ..RequestMapping::default() };
        let mut out = Vec::new();
        let edits = RequestEdits { target: b"/", ..RequestEdits::default() };
        encode_request(&mut Encoder::new(), &message, &edits, &mapping, &mut out);
        shown(&decoded(&out)).last().unwrap().clone()
    };
    let first = "Host: a\r\nUser-Agent: x\r\nAccept: */*\r\nx-lower: y\r\n\r\n";
    assert_eq!(note(&format!("GET /1 HTTP/1.1\r\n{first}")), "x-meshdp-http1: 1.1,tt");
    assert_eq!(note(&format!("POST /2 HTTP/1.1\r\n{first}")), "x-meshdp-http1: 1.1,tt");
    assert_eq!(note("GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n"), "x-meshdp-http1: 1.1");
    assert_eq!(note("GET / HTTP/1.1\r\nx: y\r\nhost: a\r\n\r\n"), "x-meshdp-http1: 1.1,,1l");
    assert_eq!(note("GET / HTTP/1.1\r\nETag: y\r\nDNT: 1\r\nhOst: a\r\n\r\n"), "x-meshdp-http1: 1.1,x3u,2x2");
}

#[test]
fn a_note_that_does_not_fit_is_no_note() {
    let read = |note: &str| {
        let text = format!("GET / HTTP/1.1\r\nhost: a\r\nx-meshdp-http1: {note}\r\nab-cd: 1\r\netag: 2\r\n\r\n");
        let mut fields = FieldTable::new();
        let head = parse_request(text.as_bytes(), &limits(), &mut fields).unwrap().unwrap();
        let origin = Origin::of_request(text.as_bytes(), &fields)?;
        let mut out = Vec::new();
        let edits = RequestEdits { target: b"/", origin: Some(origin), ..RequestEdits::default() };
        encode_http1(text.as_bytes(), &head, &fields, &edits, &mut out);
        Some(latin(&out).replace("\r\n", "|"))
    };
    assert_eq!(read("1.1").unwrap(), "GET / HTTP/1.1|Host: a|ab-cd: 1|etag: 2||");
    assert_eq!(read("1.1,tx3,2u").unwrap(), "GET / HTTP/1.1|Ab-Cd: 1|ETag: 2|HOST: a||");
    assert_eq!(read("1.1,x0au,0l").unwrap_or_default(), "", "a bit beyond the name");
    assert_eq!(read("1.1,x82").unwrap_or_default(), "", "the last name has no second letter more");
    for wrong in [
        "",
        "1.0",
        "1.1,ttt",
        "1.1,z",
        "1.1,x",
        "1.1,x4",
        "1.1,x40",
        "1.1,x00X",
        "1.1,T",
        "1.1,t,3l",
        "1.1,t,",
        "1.1,t,t",
        "1.1,t,0",
        "1.1,t,0lx",
        "1.1,t,0000l",
        "1.1,t,99999999999999999999l",
        "1.1,t,-1l",
        "1.1, t",
        "1.1;t",
        "2",
    ] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
    assert_eq!(read("1.1\r\nx-meshdp-http1: 1.1"), None, "two notes are none");
    assert_eq!(read(&format!("1.1,{}", "l".repeat(400))), None);
}

#[test]
fn hd_11_the_note_ends_at_every_edge() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nX-Meshdp-Http1: 1.1,u\r\nX-MESHDP-other: 1\r\nB: c\r\n\r\n";
    let mut fields = FieldTable::new();
    let head = parse_request(text, &limits(), &mut fields).unwrap().unwrap();
    let mut out = Vec::new();
    encode_http1(text, &head, &fields, &RequestEdits { target: b"/", ..RequestEdits::default() }, &mut out);
    assert_eq!(latin(&out), "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n");
    let text = b"HTTP/1.1 204 No Content\r\nX-Meshdp-Http1: 1.1\r\nB: c\r\n\r\n";
    let head = parse_response(text, &limits(), RequestKind::Other, &mut fields).unwrap().unwrap();
    out.clear();
    encode_http1_response(text, &head, &fields, &ResponseEdits::default(), &mut out);
    assert_eq!(latin(&out), "HTTP/1.1 204 No Content\r\nB: c\r\n\r\n");
}

/// What two sidecars make of an HTTP/1.1 response.
fn response_over_two(text: &str) -> String {
    let mut fields = FieldTable::new();
    let head = parse_response(text.as_bytes(), &limits(), RequestKind::Other, &mut fields).unwrap().unwrap();
    let mut block = Vec::new();
    let message = Message { buf: text.as_bytes(), head: &head, fields: &fields };
    let mapping = ResponseMapping { note: true, ..ResponseMapping::default() };
    encode_response(&mut Encoder::new(), &message, &ResponseEdits::default(), &mapping, &mut block);
    let mut between = Vec::new();
    let shape = write_response(&decoded(&block), &limits(), &mut between).unwrap();
    between.extend_from_slice(b"\r\n");
    let head = parse_response(&between, &limits(), RequestKind::Other, &mut fields).unwrap().unwrap();
    let edits = ResponseEdits {
        framing: Some(shape.framing(RequestKind::Other, false)),
        origin: Origin::of_response(&between, &fields),
        ..ResponseEdits::default()
    };
    let mut out = Vec::new();
    encode_http1_response(&between, &head, &fields, &edits, &mut out);
    latin(&out)
}

#[test]
fn responses_keep_their_spelling_and_phrase() {
    let sized =
        "HTTP/1.1 200 OK\r\nContent-Type: x\r\nETag: y\r\nSet-Cookie: a\r\nSet-cookie: b\r\ncontent-length: 3\r\n\r\n";
    assert_eq!(response_over_two(sized), sized);
    for line in
        ["HTTP/1.1 200 Fine, thanks", "HTTP/1.1 299 ", "HTTP/1.1 200 ", "HTTP/1.1 404 Not Found", "HTTP/1.1 200 \u{e9}"]
    {
        let text = format!("{line}\r\nX-A: b\r\ntransfer-encoding: chunked\r\n\r\n");
        let bytes: String = text.bytes().map(char::from).collect();
        assert_eq!(response_over_two(&text), bytes);
    }
    let trailing = "HTTP/1.1 200 Fine \r\nX-A: b\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(response_over_two(trailing), trailing.replace("Fine ", "OK").replace("X-A", "x-a"), "cannot be told");
}

#[test]
fn a_note_of_a_peer_cannot_be_forged_into_a_line() {
    let fields = list(&[(":status", "200"), ("x-meshdp-http1", "1.1,,a\tb")]);
    let mut text = Vec::new();
    write_response(&fields, &limits(), &mut text).unwrap();
    let fields = list(&[(":status", "200"), ("x-meshdp-http1", "1.1,,a\r\nb: c")]);
    assert!(write_response(&fields, &limits(), &mut text).is_err());
}
