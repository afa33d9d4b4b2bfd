//! Attack cases H1-28 to H1-35: chunked bodies and what stands behind a body.

use crate::feed::{End, forwarded, refused, requests};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const SENT: &str = "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunked(body: &str) -> String {
    format!("{HEAD}{body}")
}

#[test]
fn h1_28_chunk_sizes_are_plain_hexadecimal() {
    let sizes = [
        "0x5",
        "+5",
        "-0",
        "5_0",
        " 5",
        "5 ",
        "",
        "G",
        "00000000000000005",
        "FFFFFFFFFFFFFFFF",
        "10000000000000005",
        "5\t",
        "0800000000000000",
    ];
    for size in sizes {
        assert_eq!(refused(chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n"))), (400, "chunk_size"), "{size:?}");
    }
    assert_eq!(forwarded(chunked("0005\r\nhello\r\n00\r\n\r\n")), format!("{SENT}5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(forwarded(chunked("A\r\n0123456789\r\n0\r\n\r\n")), format!("{SENT}a\r\n0123456789\r\n0\r\n\r\n"));
}

#[test]
fn h1_29_valid_chunk_extensions_are_accepted_bounded_and_dropped() {
    for extension in [";a=b;c=\"d\"", ";a", ";a=\"x\\\"y;z\"", ";a=\"\""] {
        let out = forwarded(chunked(&format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n")));
        assert_eq!(out, format!("{SENT}5\r\nhello\r\n0\r\n\r\n"), "{extension}");
    }
    let long = chunked(&format!("1;{}\r\nx\r\n", "a".repeat(8_000)).repeat(3));
    assert_eq!(refused(long), (400, "chunk_extensions_too_large"));
}

#[test]
fn h1_30_malformed_chunk_extensions_are_refused() {
    for extension in
        [";", ";;", ";a=", ";=b", ";a b", ";a=\"b", ";a=\"b\"c", ";a\0", ";a\x7f", ";a=\"\0\"", "; a", ";a =b", ";a=b,"]
    {
        assert_eq!(
            refused(chunked(&format!("5{extension}\r\nhello\r\n0\r\n\r\n"))),
            (400, "chunk_extension"),
            "{extension:?}"
        );
    }
    assert_eq!(refused(chunked("5;a\nhello\r\n0\r\n\r\n")), (400, "chunk_extension"));
    assert_eq!(refused(chunked("5;a\rX\nhello\r\n0\r\n\r\n")), (400, "chunk_line_end"));
    assert_eq!(refused(chunked("5\rX\nhello\r\n0\r\n\r\n")), (400, "chunk_line_end"));
}

#[test]
fn h1_31_chunk_data_that_spills_is_refused() {
    for body in ["5\r\nhelloX\r\n0\r\n\r\n", "5\r\nhello\rX0\r\n\r\n", "5\r\nhello0\r\n\r\n", "3\r\nhello\r\n0\r\n\r\n"]
    {
        assert_eq!(refused(chunked(body)), (400, "chunk_line_end"), "{body:?}");
    }
}

#[test]
fn h1_32_the_last_chunk_ends_with_an_empty_line() {
    for body in ["0\r\nX\r\n", "0\r\n\rX", "0\r\n\0\0", "0\r\nXYGET / HTTP/1.1\r\n\r\n", "0\r\n : v\r\n\r\n"] {
        assert!(matches!(refused(chunked(body)), (400, "trailer" | "chunk_line_end")), "{body:?}");
    }
    let transcript = requests(chunked("0\r\n\r\n\0").as_bytes());
    assert_eq!((transcript.messages.len(), transcript.end), (1, End::Refused(400, "unknown_method")));
}

#[test]
fn h1_33_trailers_are_dropped_and_bounded() {
    let framing = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: b\r\n";
    let trailers = format!("{framing}Authorization: x\r\nCookie: x\r\nX-Forwarded-For: 1.1.1.1\r\n");
    assert_eq!(forwarded(chunked(&format!("1\r\nx\r\n0\r\n{trailers}\r\n"))), format!("{SENT}1\r\nx\r\n0\r\n\r\n"));
    for trailer in [":path: /x", "a b: c", "nocolon", " folded: x", "a: \0"] {
        assert_eq!(refused(chunked(&format!("0\r\n{trailer}\r\n\r\n"))), (400, "trailer"), "{trailer:?}");
    }
    let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(3_000));
    assert_eq!(refused(chunked(&many)), (400, "trailers_too_large"));
}

#[test]
fn h1_34_bodies_of_any_method_are_read() {
    for method in ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE"] {
        let length = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        assert!(forwarded(&length).ends_with("\r\ncontent-length: 5\r\n\r\nhello"), "{method}");
        let chunks =
            format!("{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        assert!(forwarded(&chunks).ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{method}");
    }
}

#[test]
fn h1_35_a_body_is_never_parsed_as_a_request() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}{next}", hidden.len());
    let chunks = format!("{HEAD}{:x}\r\n{hidden}\r\n0\r\n\r\n{next}", hidden.len());
    for input in [length, chunks] {
        let transcript = requests(input.as_bytes());
        assert_eq!((transcript.messages.len(), transcript.end), (2, End::Clean));
        assert_eq!(transcript.messages[1], next);
    }
}

#[test]
fn an_unfinished_chunked_body_is_truncated() {
    for body in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nx: y\r\n"] {
        assert_eq!(requests(chunked(body).as_bytes()).end, End::Truncated, "{body:?}");
    }
}
