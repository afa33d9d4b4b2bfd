//! Heads that go out over HTTP/2: DG-15, RT-09, what the dynamic table may hold.

use super::{decoded, latin, limits, list, shown, text_of};
use meshdp_proto::h2::hpack::{Encoder, FieldList};
use meshdp_proto::h2::message::{
    Message, RequestMapping, ResponseMapping, Scheme, encode_local_reply, encode_request, encode_response,
    encode_response_text, encode_trailers, grpc_status, is_grpc, write_grpc_message,
};
use meshdp_proto::http1_fields::Known;
use meshdp_proto::{
    FieldTable, LocalReply, RequestEdits, RequestKind, ResponseEdits, local_reply, parse_request, parse_response,
};

/// The block of an HTTP/1.1 request as it would go out.
fn request_block(encoder: &mut Encoder, text: &str, (edits, mapping): (&RequestEdits, &RequestMapping)) -> Vec<u8> {
    let mut fields = FieldTable::new();
    let head = parse_request(text.as_bytes(), &limits(), &mut fields).unwrap().unwrap();
    let target = head.target.of(text.as_bytes()).to_vec();
    let edits = RequestEdits { target: if edits.target.is_empty() { &target } else { edits.target }, ..*edits };
    let mut out = Vec::new();
    encode_request(encoder, &Message { buf: text.as_bytes(), head: &head, fields: &fields }, &edits, mapping, &mut out);
    out
}

fn request(text: &str, edits: &RequestEdits, mapping: RequestMapping) -> Vec<String> {
    shown(&decoded(&request_block(&mut Encoder::new(), text, (edits, &mapping))))
}

fn plain_request(text: &str) -> Vec<String> {
    request(text, &RequestEdits::default(), RequestMapping::default())
}

fn response(text: &str, kind: RequestKind, edits: &ResponseEdits) -> Vec<String> {
    let mut fields = FieldTable::new();
    let head = parse_response(text.as_bytes(), &limits(), kind, &mut fields).unwrap().unwrap();
    let message = Message { buf: text.as_bytes(), head: &head, fields: &fields };
    let mut out = Vec::new();
    encode_response(&mut Encoder::new(), &message, edits, &ResponseMapping::default(), &mut out);
    shown(&decoded(&out))
}

#[test]
fn dg_15_a_request_goes_out_without_what_belongs_to_its_connection() {
    let text = "POST /a?b HTTP/1.1\r\nAccept: x\r\nHOST: a:80\r\nConnection: keep-alive, X-Gone, TE\r\nX-Gone: 1\r\n\
                Keep-Alive: timeout=5\r\nTE: gzip, trailers\r\nProxy-Connection: x\r\nTransfer-Encoding: chunked\r\n\
                HTTP2-Settings: AAA\r\nTrailer: x-t\r\nUpgrade: h2c\r\nX-Meshdp-Forged: y\r\nExpect: 100-continue\r\n\
                Cookie: a=1; b=2\r\n\r\n";
    let expected = [
        ":method: POST",
        ":scheme: http",
        ":authority: a:80",
        ":path: /a?b",
        "accept: x",
        "te: trailers",
        "trailer: x-t",
        "expect: 100-continue",
        "cookie: a=1; b=2",
    ];
    assert_eq!(plain_request(text), expected);
}

#[test]
fn dg_15_edits_mean_the_same_over_http2() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: forged\r\nContent-Length: 007\r\nExpect: 100-continue\r\n\r\n";
    let edits = RequestEdits {
        target: b"/b",
        host: Some(b"b"),
        drop: &[Known::XForwardedClientCert, Known::Expect],
        append: &[("X-Request-Id", b"1")],
        ..RequestEdits::default()
    };
    let mapping = RequestMapping { scheme: Scheme::Https, ..RequestMapping::default() };
    let expected =
        [":method: GET", ":scheme: https", ":authority: b", ":path: /b", "content-length: 7", "x-request-id: 1"];
    assert_eq!(request(text, &edits, mapping), expected);
}

#[test]
fn dg_15_upgrades_and_tunnels() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(plain_request(upgrade), [":method: GET", ":scheme: http", ":authority: a", ":path: /chat"]);
    let mapping = RequestMapping { extended_connect: true, ..RequestMapping::default() };
    let extended = [":method: CONNECT", ":protocol: websocket", ":scheme: http", ":authority: a", ":path: /chat"];
    assert_eq!(request(upgrade, &RequestEdits::default(), mapping), extended);
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\n";
    assert_eq!(plain_request(connect), [":method: CONNECT", ":authority: a:443", "x: y"]);
    let empty_host = "GET / HTTP/1.1\r\nA: b\r\nHost:\r\n\r\n";
    assert_eq!(plain_request(empty_host), [":method: GET", ":scheme: http", ":path: /", "a: b", "host: "]);
}

#[test]
fn what_came_over_http2_goes_on_the_same() {
    let fields = [
        (":method", "get"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/x"),
        ("te", "trailers"),
        ("x", "\u{e9}"),
        ("content-type", "application/grpc"),
    ];
    let (text, _) = text_of(&list(&fields)).unwrap();
    let text: String = text;
    let bytes: Vec<u8> = text.chars().map(|character| character as u8).collect();
    let mut table = FieldTable::new();
    let head = parse_request(&bytes, &limits(), &mut table).unwrap().unwrap();
    let mut out = Vec::new();
    let edits = RequestEdits { target: b"/x", ..RequestEdits::default() };
    let message = Message { buf: &bytes, head: &head, fields: &table };
    encode_request(&mut Encoder::new(), &message, &edits, &RequestMapping::default(), &mut out);
    assert_eq!(shown(&decoded(&out)), shown(&list(&fields)));
}

#[test]
fn responses_go_out_without_what_belongs_to_their_connection() {
    let text = "HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nTransfer-Encoding: chunked\r\n\
                Set-Cookie: a\r\nset-cookie: b\r\nX-Meshdp-Http1: 1.1\r\n\r\n";
    let edits = ResponseEdits { drop: &[Known::Server], append: &[("server", b"meshdp")], ..ResponseEdits::default() };
    let expected = [":status: 200", "set-cookie: a", "set-cookie: b", "server: meshdp"];
    assert_eq!(response(text, RequestKind::Other, &edits), expected);
    let plain = ResponseEdits::default();
    let sized = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(response(&sized("200 OK"), RequestKind::Head, &plain), [":status: 200", "content-length: 5"]);
    assert_eq!(response(&sized("304 Not Modified"), RequestKind::Other, &plain), [":status: 304", "content-length: 5"]);
    assert_eq!(response(&sized("204 No Content"), RequestKind::Other, &plain), [":status: 204"]);
    assert_eq!(response(&sized("200 OK"), RequestKind::Connect, &plain), [":status: 200"], "a tunnel has no length");
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    assert_eq!(response(interim, RequestKind::Other, &plain), [":status: 103", "link: </a>"]);
}

#[test]
fn response_text_goes_out_as_it_came() {
    let text =
        b"HTTP/1.1 404 Not Found\r\nserver: x\r\nx-meshdp-http1: 1.1\r\ntrailer: t\r\nempty: \r\ncolon: a:b\xff\r\n";
    for ending in ["", "\r\n"] {
        let text = [&text[..], ending.as_bytes()].concat();
        let edits = ResponseEdits { drop: &[Known::Server], append: &[("via", b"m")], ..ResponseEdits::default() };
        let mut out = Vec::new();
        encode_response_text(&mut Encoder::new(), &text, &edits, &ResponseMapping::default(), &mut out);
        let expected = [":status: 404", "trailer: t", "empty: ", "colon: a:b\u{ff}", "via: m"];
        assert_eq!(shown(&decoded(&out)), expected);
    }
}

#[test]
fn trailers_go_out_as_they_came() {
    let mut out = Vec::new();
    encode_trailers(&mut Encoder::new(), b"grpc-status: 0\r\ngrpc-message: \r\nx: a: b\r\n", &mut out);
    assert_eq!(shown(&decoded(&out)), ["grpc-status: 0", "grpc-message: ", "x: a: b"]);
}

#[test]
fn the_dynamic_table_holds_what_comes_again_and_no_secrets() {
    let text = "GET /some/path HTTP/1.1\r\nHost: a.example\r\nUser-Agent: agent/1\r\nX-Custom: custom\r\n\
                Authorization: secret-1\r\nCookie: secret-2\r\nX-Request-Id: 123456\r\nX-B3-TraceId: 99\r\n\r\n";
    let mut encoder = Encoder::new();
    let plain = (&RequestEdits::default(), &RequestMapping::default());
    request_block(&mut encoder, text, plain);
    let again = latin(&request_block(&mut encoder, text, plain));
    for repeated in ["agent/1", "custom", "a.example"] {
        assert!(!again.contains(repeated), "{repeated} is indexed");
    }
    for literal in ["secret-1", "secret-2", "/some/path"] {
        assert!(again.contains(literal), "{literal} is not indexed");
    }
    let block = decoded(&request_block(&mut Encoder::new(), text, plain));
    assert_eq!(sensitive(&block), ["authorization", "cookie"]);
    let mapping = RequestMapping { sensitive: true, ..RequestMapping::default() };
    let block = decoded(&request_block(&mut Encoder::new(), text, (&RequestEdits::default(), &mapping)));
    assert_eq!(
        sensitive(&block),
        [":authority", ":path", "user-agent", "x-custom", "authorization", "cookie", "x-request-id", "x-b3-traceid"]
    );
}

fn sensitive(fields: &FieldList) -> Vec<String> {
    let names = fields.iter().map(|(name, _)| latin(name)).enumerate();
    names.filter(|(position, _)| fields.is_sensitive(*position)).map(|(_, name)| name).collect()
}

#[test]
fn local_replies_over_http2() {
    let mut out = Vec::new();
    let reply = LocalReply {
        status: 403,
        body: b"RBAC: access denied",
        content_type: "text/plain",
        extra: &[("date", b"now")],
        ..LocalReply::default()
    };
    assert!(encode_local_reply(&mut Encoder::new(), &reply, &mut out), "the body follows");
    let expected = [":status: 403", "content-length: 19", "content-type: text/plain", "date: now"];
    assert_eq!(shown(&decoded(&out)), expected);
    out.clear();
    assert!(!encode_local_reply(&mut Encoder::new(), &LocalReply { to_head: true, ..reply }, &mut out));
    assert_eq!(shown(&decoded(&out)), expected);
}

#[test]
fn rt_09_grpc_clients_are_answered_in_their_terms() {
    let mapped = [400, 401, 403, 404, 429, 502, 503, 504, 500, 418].map(grpc_status);
    assert_eq!(mapped, [13, 16, 7, 12, 14, 14, 14, 4, 2, 2]);
    for (kind, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("Application/gRPC;charset=x", true),
        ("application/grpc-web", false),
        ("application/grp", false),
        ("text/plain", false),
        ("", false),
    ] {
        assert_eq!(is_grpc(kind.as_bytes()), expected, "{kind}");
    }
    let mut message = Vec::new();
    write_grpc_message("50% \u{e9}\n~ ok".as_bytes(), &mut message);
    assert_eq!(latin(&message), "50%25 %C3%A9%0A~ ok");
    let reply = LocalReply { status: 403, body: b"RBAC: 100%", grpc: true, ..LocalReply::default() };
    let mut out = Vec::new();
    assert!(!encode_local_reply(&mut Encoder::new(), &reply, &mut out), "trailers only");
    let expected = [":status: 200", "content-type: application/grpc", "grpc-status: 7", "grpc-message: RBAC: 100%25"];
    assert_eq!(shown(&decoded(&out)), expected);
    out.clear();
    local_reply(&reply, &mut out);
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: application/grpc\r\ngrpc-status: 7\r\n\
                    grpc-message: RBAC: 100%25\r\n\r\n";
    assert_eq!(latin(&out), expected);
}
