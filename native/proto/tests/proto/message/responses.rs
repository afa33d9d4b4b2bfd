//! Responses and trailers that come over HTTP/2: H2-27, H2-31, H1-33.

use super::{latin, limits, list};
use meshdp_proto::h2::message::{MessageFault, ResponseShape, write_response, write_trailers};
use meshdp_proto::http1_head::Framing;
use meshdp_proto::{BodyDecoder, FieldTable, RequestKind, parse_response};

fn response(fields: &[(&str, &str)]) -> Result<(String, ResponseShape), MessageFault> {
    let mut out = b"left over".to_vec();
    let shape = write_response(&list(fields), &limits(), &mut out)?;
    Ok((latin(&out), shape))
}

fn trailers(fields: &[(&str, &str)]) -> Result<String, MessageFault> {
    let mut out = b"left over".to_vec();
    write_trailers(&list(fields), &limits(), &mut out)?;
    Ok(latin(&out))
}

#[test]
fn a_response_becomes_lines_without_an_end() {
    let (text, shape) = response(&[(":status", "200"), ("content-type", "a/b"), ("content-length", "3")]).unwrap();
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 3\r\n");
    assert_eq!((shape.status, shape.content_length, shape.interim), (200, Some(3), false));
    let whole = format!("{text}\r\n");
    let mut fields = FieldTable::new();
    let head = parse_response(whole.as_bytes(), &limits(), RequestKind::Other, &mut fields).unwrap().unwrap();
    assert_eq!((head.framing, fields.len()), (Framing::Length(3), 2));
    assert_eq!(response(&[(":status", "299")]).unwrap().0, "HTTP/1.1 299 \r\n");
}

#[test]
fn statuses_are_strict() {
    for status in ["", "20", "2000", "0200", "099", "20x", "101", "+20", "200 OK", "\u{b2}00"] {
        assert_eq!(response(&[(":status", status)]), Err(MessageFault::Status), "{status:?}");
    }
    assert_eq!(response(&[]), Err(MessageFault::Pseudo));
    assert_eq!(response(&[("x", "y")]), Err(MessageFault::Pseudo));
    assert_eq!(response(&[("x", "y"), (":status", "200")]), Err(MessageFault::Pseudo));
    assert_eq!(response(&[(":status", "200"), (":status", "200")]), Err(MessageFault::RepeatedPseudo));
    for pseudo in [":method", ":path", ":x"] {
        assert_eq!(response(&[(":status", "200"), (pseudo, "/")]), Err(MessageFault::UnknownPseudo));
        assert_eq!(response(&[(pseudo, "/"), (":status", "200")]), Err(MessageFault::UnknownPseudo));
        assert_eq!(response(&[(":status", "200"), ("x", "y"), (pseudo, "/")]), Err(MessageFault::LatePseudo));
    }
}

#[test]
fn fields_of_responses_are_as_strict_as_of_requests() {
    let refused = |name, value| response(&[(":status", "200"), (name, value)]).unwrap_err();
    assert_eq!(refused("X", "y"), MessageFault::Name);
    assert_eq!(refused("x", "y\r\nz: 1"), MessageFault::Value);
    assert_eq!(refused("connection", "close"), MessageFault::ConnectionSpecific);
    assert_eq!(refused("transfer-encoding", "chunked"), MessageFault::ConnectionSpecific);
    assert_eq!(refused("content_length", "1"), MessageFault::Alias);
    assert_eq!(refused("content-length", "1,1"), MessageFault::ContentLength);
    let twice = [(":status", "200"), ("content-length", "1"), ("content-length", "1")];
    assert_eq!(response(&twice), Err(MessageFault::ContentLength));
}

#[test]
fn h2_31_lengths_and_bodies_of_responses() {
    let shape = |status, length| response(&[(":status", status), ("content-length", length)]).unwrap().1;
    assert!(shape("200", "5").ends_short(false) && !shape("200", "0").ends_short(false));
    assert!(!shape("200", "5").ends_short(true), "an answer to HEAD");
    assert!(!shape("304", "5").ends_short(false) && !shape("304", "5").has_body(false));
    assert_eq!(shape("204", "5").content_length, None);
    assert_eq!(shape("200", "5").framing(RequestKind::Head, true), Framing::None);
    let plain = response(&[(":status", "200")]).unwrap().1;
    assert_eq!(plain.framing(RequestKind::Other, true), Framing::Length(0));
    assert_eq!(plain.framing(RequestKind::Other, false), Framing::Chunked);
    assert_eq!(plain.framing(RequestKind::Connect, false), Framing::None);
    let interim = response(&[(":status", "103"), ("link", "</a>")]).unwrap().1;
    assert!(interim.interim && !interim.has_body(false));
}

#[test]
fn h2_27_trailers_hold_no_pseudo_headers() {
    assert_eq!(trailers(&[("grpc-status", "0"), (":path", "/")]), Err(MessageFault::LatePseudo));
    assert_eq!(trailers(&[(":status", "200")]), Err(MessageFault::LatePseudo));
    assert_eq!(trailers(&[("X", "y")]), Err(MessageFault::Name));
    assert_eq!(trailers(&[("x", "y\n")]), Err(MessageFault::Value));
    assert_eq!(trailers(&[("connection", "close")]), Err(MessageFault::ConnectionSpecific));
    assert_eq!(trailers(&vec![("x", "y"); 101]), Err(MessageFault::TooLarge));
    let grpc = [("grpc-status", "0"), ("grpc-message", ""), ("grpc-status-details-bin", "CAA"), ("x", "\u{e9}")];
    let expected = "grpc-status: 0\r\ngrpc-message: \r\ngrpc-status-details-bin: CAA\r\nx: \u{c3}\u{a9}\r\n";
    assert_eq!(trailers(&grpc).unwrap(), expected);
}

const FORBIDDEN: [&str; 12] = [
    "content-length",
    "host",
    "authorization",
    "cookie",
    "set-cookie",
    "x-forwarded-for",
    "x-forwarded-client-cert",
    "x-meshdp-http1",
    "x-envoy-original-path",
    "x-request-id",
    "content-type",
    "expect",
];

#[test]
fn h1_33_forbidden_trailers_end_here() {
    for name in FORBIDDEN {
        assert_eq!(trailers(&[("a", "1"), (name, "5"), ("b", "2")]).unwrap(), "a: 1\r\nb: 2\r\n", "{name}");
        let body = format!("0\r\nA:1\r\n{name}: 5\r\nb: \t 2 \r\n\r\n");
        assert_eq!(bare(body.as_bytes(), 1000), (String::new(), "a: 1\r\nb: 2\r\n".to_owned()), "{name}");
    }
    let disguised = "0\r\nTransfer-Encoding: x\r\nX_Forwarded_For: y\r\nTE: trailers\r\nx_y: kept\r\n\r\n";
    assert_eq!(bare(disguised.as_bytes(), 1000).1, "x_y: kept\r\n");
}

/// Payload and trailers of a chunked body that is fed in pieces.
fn bare(body: &[u8], piece: usize) -> (String, String) {
    let mut decoder = BodyDecoder::bare(Framing::Chunked);
    let mut out = Vec::new();
    for piece in body.chunks(piece) {
        assert_eq!(decoder.decode(piece, &mut out), Ok(piece.len()));
    }
    assert!(decoder.done());
    (latin(&out), latin(decoder.trailers()))
}

#[test]
fn bare_bodies_are_payload_alone_in_any_pieces() {
    let body = b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nGrpc-Status:  0 \r\nX:\r\nY: a\tb\r\n\r\n";
    for piece in 1..=body.len() {
        assert_eq!(bare(body, piece), ("abcdefg".to_owned(), "grpc-status: 0\r\nx: \r\ny: a\tb\r\n".to_owned()));
    }
    let mut out = Vec::new();
    let mut decoder = BodyDecoder::bare(Framing::Length(3));
    assert_eq!(decoder.decode(b"abcd", &mut out), Ok(3));
    assert_eq!((out.as_slice(), decoder.trailers()), (&b"abc"[..], &b""[..]));
}

#[test]
fn kept_trailers_are_bounded() {
    let mut decoder = BodyDecoder::bare(Framing::Chunked);
    let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    let refusal = decoder.decode(many.as_bytes(), &mut Vec::new()).unwrap_err();
    assert_eq!(refusal.code(), "trailers_too_large");
    let mut decoder = BodyDecoder::bare(Framing::Chunked);
    let long = format!("0\r\na: {}\r\n", "b".repeat(17_000));
    assert_eq!(decoder.decode(long.as_bytes(), &mut Vec::new()).unwrap_err().code(), "trailers_too_large");
}
