//! Requests by attack case: DG-01 to DG-18, H2-08, H2-14, H2-31.

use super::{get_with, latin, limits, list, text_of};
use meshdp_proto::h2::message::{MessageFault, RequestShape, Scheme, Tunnel, write_request};
use meshdp_proto::{FieldTable, Framing, Limits, PathMode, normalise, parse_request};

fn fault(fields: &[(&str, &[u8])]) -> MessageFault {
    text_of(&get_with(fields)).expect_err("must be refused")
}

/// A request with these pseudo-headers.
fn pseudo(pseudo: &[(&str, &str)]) -> Result<(String, RequestShape), MessageFault> {
    text_of(&list(pseudo))
}

#[test]
fn a_request_becomes_a_head_that_the_parser_takes() {
    let (text, shape) = text_of(&get_with(&[("accept", b"*/*"), ("x-k", b""), ("te", b"trailers")])).unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: a\r\naccept: */*\r\nx-k: \r\nte: trailers\r\n\r\n");
    assert_eq!(shape, RequestShape { scheme: Scheme::Https, ..RequestShape::default() });
    let mut fields = FieldTable::new();
    let head = parse_request(text.as_bytes(), &limits(), &mut fields).unwrap().unwrap();
    assert_eq!((head.len, head.framing, fields.len()), (text.len(), Framing::None, 4));
}

#[test]
fn dg_01_control_bytes_in_values() {
    for byte in (0..0x20).chain([0x7f]).filter(|byte| *byte != b'\t') {
        assert_eq!(fault(&[("x", &[b'a', byte, b'b'])]), MessageFault::Value, "byte {byte:#x}");
    }
    assert_eq!(fault(&[("x", b"a\r\nhost: b")]), MessageFault::Value);
    assert!(text_of(&get_with(&[("x", b"a\tb")])).is_ok());
}

#[test]
fn dg_02_names() {
    for name in ["", "a b", "a:b", "a\r\nb", "a\nb", "X-Upper", "a\0", "\u{e9}", "a(b)", "transfer-encoding "] {
        assert_eq!(fault(&[(name, b"v")]), MessageFault::Name, "{name:?}");
    }
    for name in ["content_length", "x_forwarded_for", "x-meshdp_http1", "transfer_encoding"] {
        assert_eq!(fault(&[(name, b"1")]), MessageFault::Alias, "{name}");
    }
    assert!(text_of(&get_with(&[("x_y", b"v")])).is_ok());
}

#[test]
fn dg_03_white_space_around_values() {
    for value in [" v", "v ", "\tv", "v\t", " "] {
        assert_eq!(fault(&[("x", value.as_bytes())]), MessageFault::Value, "{value:?}");
    }
}

#[test]
fn dg_04_fields_of_one_connection() {
    let cases = [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("upgrade", "websocket"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ];
    for (name, value) in cases {
        assert_eq!(fault(&[(name, value.as_bytes())]), MessageFault::ConnectionSpecific, "{name}: {value}");
    }
}

#[test]
fn dg_05_methods() {
    for method in ["", "GET / HTTP/1.1\r\nx: y", "GET /", "G T", "GET\0", "G\u{e9}T"] {
        let fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/")];
        assert_eq!(pseudo(&fields), Err(MessageFault::Method), "{method:?}");
    }
    let fields = [(":method", "get"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let (text, _) = pseudo(&fields).unwrap();
    let mut table = FieldTable::new();
    let head = parse_request(text.as_bytes(), &limits(), &mut table).unwrap().unwrap();
    assert_eq!(head.method.of(text.as_bytes()), b"get", "reaches policy as it is");
    let refusal = parse_request(text.as_bytes(), &Limits::default(), &mut table).unwrap_err();
    assert_eq!((refusal.status, refusal.code()), (400, "unknown_method"), "over HTTP/1.1 it does not");
    assert_eq!(parse_request(b"G(T / HTTP/1.1\r\nhost: a\r\n\r\n", &limits(), &mut table).unwrap_err().status, 400);
}

#[test]
fn dg_06_paths() {
    let with = |method: &str, path: &str| {
        pseudo(&[(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)])
    };
    for path in ["", "a", "/a b", "/\r\nx: y", "/\0", "http://a/", "*", "/\u{e9}", "?a", "/ HTTP/1.1", "/\t", "/\x7f"] {
        assert_eq!(with("GET", path), Err(MessageFault::Path), "{path:?}");
    }
    assert_eq!(with("OPTIONS", "*").unwrap().0, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    let (text, _) = with("GET", "/a#b?c").unwrap();
    let head = parse_request(text.as_bytes(), &limits(), &mut FieldTable::new()).unwrap().unwrap();
    let mut target = Vec::new();
    normalise(head.target.of(text.as_bytes()), PathMode::Base, &mut target).unwrap();
    assert_eq!(target, b"/a", "h1_54: the fragment is cut");
}

#[test]
fn dg_07_schemes() {
    let with = |scheme: &str| pseudo(&[(":method", "GET"), (":scheme", scheme), (":authority", "a"), (":path", "/")]);
    for scheme in ["", "http://evil/?", "ftp", "https ", "ht tp"] {
        assert_eq!(with(scheme), Err(MessageFault::Scheme), "{scheme:?}");
    }
    assert_eq!(with("hTTpS").unwrap().1.scheme, Scheme::Https);
    assert_eq!(with("HTTP").unwrap().1.scheme.name(), "http");
}

#[test]
fn dg_08_authorities() {
    let with =
        |authority: &str| pseudo(&[(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", "/")]);
    for authority in ["", "u@a", "a b", "a/", "a,b", "a:b", "a:65536", "a#", "a?b", "[::1", "a\r\nx: y", "u:p@a"] {
        assert_eq!(with(authority), Err(MessageFault::Authority), "{authority:?}");
    }
    for authority in ["a", "a.b:80", "[::1]:8080", "127.0.0.1"] {
        assert!(with(authority).is_ok(), "{authority}");
    }
    let twice = [(":method", "GET"), (":authority", "a"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    assert_eq!(pseudo(&twice), Err(MessageFault::RepeatedPseudo));
}

#[test]
fn dg_09_authority_and_host() {
    assert_eq!(fault(&[("host", b"b")]), MessageFault::Host);
    assert_eq!(fault(&[("host", b"")]), MessageFault::Host);
    assert_eq!(fault(&[("host", b"a"), ("host", b"a")]), MessageFault::Host);
    let (text, _) = text_of(&get_with(&[("x", b"1"), ("host", b"A")])).unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n\r\n", "one Host, the authority's");
    let bare = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    assert_eq!(pseudo(&bare), Err(MessageFault::Host), "as Envoy: neither is no request");
    let with_host = |host| pseudo(&[&bare[..], &[("x", "1"), ("host", host)]].concat());
    assert_eq!(with_host("b").unwrap().0, "GET / HTTP/1.1\r\nx: 1\r\nhost: b\r\n\r\n");
    assert_eq!(with_host("").unwrap().0, "GET / HTTP/1.1\r\nx: 1\r\nhost: \r\n\r\n", "legal, as in HTTP/1.1");
    assert_eq!(with_host("u@b"), Err(MessageFault::Host));
}

#[test]
fn dg_10_pseudo_headers() {
    let all = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    for missing in [0, 1, 3] {
        let mut fields = all.to_vec();
        fields.remove(missing);
        assert_eq!(pseudo(&fields), Err(MessageFault::Pseudo), "without {}", all[missing].0);
    }
    for repeated in all {
        assert_eq!(pseudo(&[&all[..], &[repeated]].concat()), Err(MessageFault::RepeatedPseudo), "{}", repeated.0);
    }
    for unknown in [":status", ":unknown", ":", ":Path"] {
        assert_eq!(pseudo(&[&all[..], &[(unknown, "200")]].concat()), Err(MessageFault::UnknownPseudo), "{unknown}");
    }
    assert_eq!(pseudo(&[all[0], all[1], ("x", "1"), all[2], all[3]]), Err(MessageFault::Pseudo));
    assert_eq!(pseudo(&[all[0], all[1], all[3], ("x", "1"), all[2]]), Err(MessageFault::LatePseudo));
    assert_eq!(pseudo(&[]), Err(MessageFault::Pseudo));
    assert_eq!(pseudo(&[&all[..], &[(":protocol", "websocket")]].concat()), Err(MessageFault::Pseudo));
}

#[test]
fn dg_11_cookie_crumbs_are_joined_once() {
    let crumbs: [(&str, &[u8]); 4] = [("cookie", b"a=1"), ("x", b"y"), ("cookie", b"b=2"), ("cookie", b"c=\xff")];
    let (text, _) = text_of(&get_with(&crumbs)).unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: a\r\ncookie: a=1; b=2; c=\u{ff}\r\nx: y\r\n\r\n");
    let empty: [(&str, &[u8]); 4] = [("cookie", b""), ("cookie", b"a=1"), ("cookie", b""), ("cookie", b"")];
    assert!(text_of(&get_with(&empty)).unwrap().0.contains("cookie: a=1\r\n"), "no white space at the end");
    let bad: [(&str, &[u8]); 2] = [("cookie", b"a=1"), ("cookie", b"b=2\r\nx: y")];
    assert_eq!(fault(&bad), MessageFault::Value, "every crumb is checked");
}

#[test]
fn dg_12_bodies_without_a_length_are_chunked() {
    let (_, plain) = text_of(&get_with(&[])).unwrap();
    assert_eq!((plain.framing(true), plain.framing(false)), (Framing::None, Framing::Chunked));
    let (text, sized) = text_of(&get_with(&[("content-length", b"5")])).unwrap();
    assert_eq!((sized.content_length, sized.framing(false)), (Some(5), Framing::Length(5)));
    assert!(text.contains("content-length: 5\r\n"));
}

#[test]
fn dg_16_bytes_above_ascii_pass_as_they_are() {
    let value: Vec<u8> = (0x80..=0xff).collect();
    let mut out = Vec::new();
    write_request(&get_with(&[("x", &value)]), &limits(), &mut out).unwrap();
    let mut fields = FieldTable::new();
    parse_request(&out, &limits(), &mut fields).unwrap().unwrap();
    assert_eq!(fields.values(&out, "x").collect::<Vec<_>>(), [&value[..]]);
}

#[test]
fn dg_17_long_authorities() {
    let with = |length: usize| {
        pseudo(&[(":method", "GET"), (":scheme", "http"), (":authority", &"a".repeat(length)), (":path", "/")])
    };
    assert!(with(255).is_ok());
    assert_eq!(with(256), Err(MessageFault::Authority));
}

#[test]
fn dg_18_disguised_framing() {
    for length in ["+5", "-5", "5,5", "5, 5", "0x5", "5 5", "\u{b2}", "", "99999999999999999999", "5;", "1e3", "5\u{b}"]
    {
        let refused = fault(&[("content-length", length.as_bytes())]);
        assert!(matches!(refused, MessageFault::ContentLength | MessageFault::Value), "{length:?} {refused}");
    }
    assert_eq!(fault(&[("content-length", b"5"), ("content-length", b"5")]), MessageFault::ContentLength);
    for coding in ["chunked", "identity", " chunked", "chunked\r\n", "x", ""] {
        let refused = fault(&[("transfer-encoding", coding.as_bytes())]);
        assert!(matches!(refused, MessageFault::ConnectionSpecific | MessageFault::Value), "{coding:?}");
    }
    for name in ["transfer\u{2010}encoding", "transfer-encoding\t", "\u{a0}transfer-encoding", "content-length\0"] {
        assert_eq!(fault(&[(name, b"chunked")]), MessageFault::Name, "{name:?}");
    }
}

#[test]
fn h2_08_empty_names_are_refused_and_empty_values_are_not() {
    assert_eq!(fault(&[("", b"")]), MessageFault::Name);
    assert!(text_of(&get_with(&[("x", b""), ("y", b"")])).is_ok());
}

#[test]
fn h2_14_large_heads_are_answered() {
    let many: Vec<(&str, &[u8])> = vec![("x", b"y"); 101];
    assert_eq!(fault(&many).status(), Some(431));
    let long = vec![b'v'; 61_441];
    assert_eq!(fault(&[("x", &long)]).status(), Some(431));
    assert_eq!(fault(&[("x", &long[..40_000]), ("y", &long[..40_000])]).status(), Some(431));
    let crumbs: Vec<(&str, &[u8])> = vec![("cookie", b"a=b"); 300];
    assert!(text_of(&get_with(&crumbs)).is_ok(), "crumbs are one field");
    let path = format!("/{}", "a".repeat(8_192));
    let refused = pseudo(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", &path)]);
    assert_eq!(refused.unwrap_err().status(), Some(414));
    assert_eq!(MessageFault::Value.status(), None);
}

#[test]
fn h2_31_a_length_must_be_kept() {
    let (_, shape) = text_of(&get_with(&[("content-length", b"5")])).unwrap();
    assert!(shape.ends_short());
    let (_, shape) = text_of(&get_with(&[("content-length", b"0")])).unwrap();
    assert!(!shape.ends_short());
}

#[test]
fn connect_names_an_authority_alone() {
    let (text, shape) = pseudo(&[(":method", "CONNECT"), (":authority", "a:443")]).unwrap();
    assert_eq!((text.as_str(), shape.tunnel), ("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", Tunnel::Connect));
    assert_eq!(shape.framing(false), Framing::None);
    let head = parse_request(text.as_bytes(), &Limits::default(), &mut FieldTable::new()).unwrap().unwrap();
    assert!(head.is_connect(text.as_bytes()));
    let refused = |fields: &[(&str, &str)]| pseudo(&[&[(":method", "CONNECT")][..], fields].concat()).unwrap_err();
    assert_eq!(refused(&[]), MessageFault::Pseudo);
    assert_eq!(refused(&[(":authority", "a")]), MessageFault::Authority);
    assert_eq!(refused(&[(":authority", "a:443"), (":path", "/")]), MessageFault::Pseudo);
    assert_eq!(refused(&[(":authority", "a:443"), (":scheme", "http")]), MessageFault::Pseudo);
    assert_eq!(refused(&[(":authority", "a:443"), ("content-length", "5")]), MessageFault::ContentLength);
}

#[test]
fn an_extended_connect_is_the_upgrade_it_stands_for() {
    let base = [(":method", "CONNECT"), (":scheme", "https"), (":authority", "a"), (":path", "/chat")];
    let with = |protocol| pseudo(&[&base[..], &[(":protocol", protocol), ("sec-websocket-version", "13")]].concat());
    let (text, shape) = with("websocket").unwrap();
    let expected =
        "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-version: 13\r\nconnection: upgrade\r\nupgrade: websocket";
    assert_eq!((text.as_str(), shape.tunnel), (&*format!("{expected}\r\n\r\n"), Tunnel::Extended));
    let head = parse_request(text.as_bytes(), &limits(), &mut FieldTable::new()).unwrap().unwrap();
    assert_eq!(latin(head.upgrade.unwrap().of(text.as_bytes())), "websocket");
    for protocol in ["", "a b", "h2c", "x\r\ny: z"] {
        assert_eq!(with(protocol), Err(MessageFault::Protocol), "{protocol:?}");
    }
    assert_eq!(pseudo(&base), Err(MessageFault::Pseudo), "without :protocol neither scheme nor path");
}

#[test]
fn a_secret_that_only_the_client_knows_of_is_marked() {
    let shape = |name: &str, sensitive: bool| {
        let mut fields = get_with(&[("x", b"y")]);
        fields.push(name.as_bytes(), b"v", sensitive);
        text_of(&fields).unwrap().1
    };
    assert!(shape("x-token", true).sensitive && !shape("x-token", false).sensitive);
    assert!(!shape("authorization", true).sensitive && !shape("cookie", true).sensitive, "are never indexed anyway");
}
