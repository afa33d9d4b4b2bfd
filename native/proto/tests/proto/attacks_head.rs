//! Attack cases H1-01 to H1-27 and the cheap ones of H1-49 to H1-63: what a request head may look like.

use crate::feed::{End, forwarded, refused, requests};

fn with(fields: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: a.example\r\n\r\n")
}

#[track_caller]
fn all_refused(code: &str, fields: &[&str]) {
    for field in fields {
        assert_eq!(refused(with(field)), (400, code), "{field:?}");
    }
}

#[test]
fn h1_01_content_length_and_chunked_is_refused() {
    let input = with("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\nX";
    assert_eq!(refused(&input), (400, "length_and_coding"));
    assert!(requests(input.as_bytes()).messages.is_empty());
}

#[test]
fn h1_02_chunked_and_content_length_is_refused() {
    let input = with("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n";
    assert_eq!(refused(input), (400, "length_and_coding"));
}

#[test]
fn h1_03_two_transfer_encodings_are_refused() {
    all_refused("repeated_coding", &["Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"]);
}

#[test]
fn h1_04_other_codings_are_refused() {
    for coding in ["chunked, chunked", "chunked, gzip", "identity", "gzip", "gzip, chunked, chunked"] {
        assert_eq!(refused(with(&format!("Transfer-Encoding: {coding}\r\n"))), (400, "transfer_coding"), "{coding}");
    }
    assert_eq!(refused(with("Transfer-Encoding: gzip, chunked\r\n")), (501, "transfer_coding"));
}

#[test]
fn h1_05_empty_coding_elements_are_refused() {
    for coding in [",chunked", "chunked,", "", ",", "gzip,,chunked"] {
        assert_eq!(refused(with(&format!("Transfer-Encoding: {coding}\r\n"))), (400, "transfer_coding"), "{coding}");
    }
}

#[test]
fn h1_06_almost_chunked_is_refused() {
    for coding in ["xchunked", "chunked;a=b", "chunked x", "\"chunked\""] {
        assert_eq!(refused(with(&format!("Transfer-Encoding: {coding}\r\n"))), (400, "transfer_coding"), "{coding}");
    }
    for byte in [0x0b, 0x0c, 0x00, 0xa0, 0x85, 0xff] {
        for (before, after) in [(&[byte][..], &[][..]), (&[], &[byte])] {
            let input =
                [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ", before, b"chunked", after, b"\r\n\r\n"].concat();
            assert_eq!(refused(&input).0, 400, "{byte:#x}");
        }
    }
    let out = forwarded(with("Transfer-Encoding: \t chunked \t \r\n") + "0\r\n\r\n");
    assert!(out.contains("\r\ntransfer-encoding: chunked\r\n"), "{out}");
}

#[test]
fn h1_07_chunked_in_capitals_is_normalised() {
    let out = forwarded(with("Transfer-Encoding: CHUNKED\r\n") + "0\r\n\r\n");
    assert_eq!(out, "POST /p HTTP/1.1\r\nHost: a.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn h1_08_folded_transfer_encoding_is_refused() {
    all_refused("folded_field", &["Transfer-Encoding:\r\n chunked\r\n", "Transfer-Encoding: x\r\n\tchunked\r\n"]);
}

#[test]
fn h1_09_space_before_colon_is_refused() {
    all_refused(
        "field_name",
        &["Transfer-Encoding : chunked\r\n", "Transfer-Encoding\t: chunked\r\n", "X-Any : v\r\n"],
    );
}

#[test]
fn h1_10_underscore_aliases_are_refused() {
    let names = [
        "Transfer_Encoding: chunked\r\n",
        "Content_Length: 5\r\n",
        "content-Length_: 1\r\n",
        "X_Forwarded-For: 1.2.3.4\r\n",
    ];
    all_refused("field_alias", &[names[0], names[1], names[3]]);
    assert!(forwarded(with(names[2])).contains("content-Length_: 1"));
    assert!(forwarded(with("x_k: v\r\n")).contains("\r\nx_k: v\r\n"));
}

#[test]
fn h1_11_transfer_encoding_in_http10_is_refused() {
    let input = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refused(input), (400, "coding_in_http10"));
}

#[test]
fn h1_12_http10_is_answered_with_upgrade_required_and_no_body_is_read() {
    let input = "POST / HTTP/1.0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(refused(input), (426, "low_version"));
    assert!(requests(input.as_bytes()).messages.is_empty());
}

#[test]
fn h1_13_repeated_lengths_are_refused() {
    for second in ["5", "6"] {
        let fields = format!("Content-Length: 5\r\nContent-Length: {second}\r\n");
        assert_eq!(refused(with(&fields)), (400, "repeated_length"));
    }
    all_refused("content_length", &["Content-Length: 5, 5\r\n", "Content-Length: 5, 6\r\n", "Content-Length: 5,\r\n"]);
}

#[test]
fn h1_14_lengths_that_are_not_plain_digits_are_refused() {
    for value in ["+5", "-1", "-0", "0x5", "5_0", "1e1", "5 5", "", "5Z", "5\t5", "5;", "\u{0663}"] {
        assert_eq!(refused(with(&format!("Content-Length: {value}\r\n"))), (400, "content_length"), "{value:?}");
    }
}

#[test]
fn h1_15_leading_zeros_are_decimal_and_not_forwarded() {
    assert!(forwarded(with("Content-Length: 005\r\n") + "hello").ends_with("\r\ncontent-length: 5\r\n\r\nhello"));
    assert!(
        forwarded(with("Content-Length: 010\r\n") + "0123456789").ends_with("\r\ncontent-length: 10\r\n\r\n0123456789")
    );
}

#[test]
fn h1_16_huge_lengths_are_refused() {
    let long = "9".repeat(400);
    for value in ["9223372036854775807", "18446744073709551615", "18446744073709551621", &long, "1152921504606846976"] {
        assert_eq!(refused(with(&format!("Content-Length: {value}\r\n"))), (400, "content_length"), "{value}");
    }
    assert_eq!(requests(with("Content-Length: 1152921504606846975\r\n").as_bytes()).end, End::Truncated);
}

#[test]
fn h1_17_a_short_body_is_truncated_not_complete() {
    let transcript = requests((with("Content-Length: 10\r\n") + "only5").as_bytes());
    assert_eq!(transcript.end, End::Truncated);
}

#[test]
fn h1_18_bare_line_feeds_are_refused() {
    let heads = [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
    ];
    for head in heads {
        assert_eq!(refused(head), (400, "line_end"), "{head:?}");
        assert!(requests(head.as_bytes()).messages.is_empty());
    }
    for body in ["5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "0\n\r\n"] {
        assert_eq!(refused(with("Transfer-Encoding: chunked\r\n") + body), (400, "chunk_line_end"), "{body:?}");
    }
    for body in ["0\r\nX: y\n\r\n", "0\r\n\n"] {
        assert_eq!(refused(with("Transfer-Encoding: chunked\r\n") + body), (400, "trailer"), "{body:?}");
    }
}

#[test]
fn h1_19_bare_carriage_returns_are_refused() {
    let heads = [
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\r",
        "GET / HTTP/1.1\r\nHo\rst: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\r: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    ];
    for head in heads {
        assert_eq!(refused(head), (400, "line_end"), "{head:?}");
    }
}

#[test]
fn h1_20_a_few_empty_lines_come_before_a_request() {
    assert!(forwarded(String::from("\r\n") + &with("")).starts_with("POST /p HTTP/1.1\r\n"));
    assert!(forwarded("\r\n".repeat(4) + &with("")).starts_with("POST /p HTTP/1.1\r\n"));
    assert_eq!(refused("\r\n".repeat(5) + &with("")), (400, "leading_lines"));
    assert_eq!(refused("\r\n".repeat(5) + "FOO"), (400, "leading_lines"));
    assert_eq!(refused(String::from("\n") + &with("")), (400, "line_end"));
    assert_eq!(refused(String::from("\r\r\n") + &with("")), (400, "line_end"));
}

#[test]
fn h1_21_folded_fields_are_refused() {
    all_refused("folded_field", &["X: a\r\n b\r\n", "X: a\r\n\tb\r\n", "X: a\r\n \r\n"]);
    all_refused("no_colon", &["X\r\nY: z\r\n"]);
}

#[test]
fn h1_22_white_space_before_the_first_field_is_refused() {
    for space in [" ", "\t"] {
        assert_eq!(refused(format!("GET / HTTP/1.1\r\n{space}X: y\r\nHost: a\r\n\r\n")), (400, "folded_field"));
    }
}

#[test]
fn h1_23_lines_without_name_or_colon_are_refused() {
    all_refused("no_colon", &["nocolon\r\n", "nocolon\r\nContent-Length: 5\r\n"]);
    all_refused("field_name", &[": v\r\n", ":\r\n", ": v\r\nContent-Length: 5\r\n"]);
}

#[test]
fn h1_24_bytes_outside_tokens_in_names_are_refused() {
    let line_ends = [b'\r', b'\n'];
    for byte in (0..=0x20).chain(*b"\"(),/;<=>?@[\\]{}").chain(0x7f..=0xff).filter(|byte| !line_ends.contains(byte)) {
        let input = [b"GET / HTTP/1.1\r\nHost: a\r\nX", &[byte][..], b"Y: v\r\n\r\n"].concat();
        assert_eq!(refused(&input), (400, "field_name"), "{byte:#x}");
    }
}

#[test]
fn h1_25_control_bytes_in_values_are_refused() {
    for byte in (0..=8).chain([0x0b, 0x0c]).chain(0x0e..=0x1f).chain([0x7f]) {
        for value in [[b'a', byte, b'b'].as_slice(), &[byte, b'b'], &[b'a', byte], &[byte]] {
            let input = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", value, b"\r\n\r\n"].concat();
            assert_eq!(refused(&input), (400, "field_value"), "{byte:#x}");
        }
    }
}

#[test]
fn h1_26_high_bytes_pass_untouched_in_ordinary_values_only() {
    let value: Vec<u8> = (0x80..=0xff).collect();
    let out = forwarded([b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &value[..], b"\r\n\r\n"].concat());
    let expected: String = value.iter().map(|byte| char::from(*byte)).collect();
    assert!(out.contains(&format!("\r\nX: {expected}\r\n")));
    for (field, code) in
        [("Host", "repeated_host"), ("Transfer-Encoding", "transfer_coding"), ("Content-Length", "content_length")]
    {
        let input = [b"POST / HTTP/1.1\r\nHost: a\r\n", field.as_bytes(), b": \x85\r\n\r\n"].concat();
        assert_eq!(refused(&input), (400, code));
    }
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\xa0\r\n\r\n"), (400, "host"));
}

#[test]
fn h1_27_long_names_and_values_are_refused_without_wrapping() {
    for (length, fits) in [(255, true), (256, true), (257, false), (50_000, false)] {
        let field = format!("{}: v\r\n", "n".repeat(length));
        if fits {
            assert!(forwarded(with(&field)).contains(&field));
        } else {
            assert_eq!(refused(with(&field)), (431, "head_too_large"));
        }
    }
    assert!(forwarded(with(&format!("X: {}\r\n", "v".repeat(257)))).contains("vvv"));
    for length in [65_535, 65_536, 65_537] {
        assert_eq!(refused(with(&format!("X: {}\r\n", "v".repeat(length)))), (431, "head_too_large"));
        assert_eq!(refused(with(&format!("{}: v\r\n", "n".repeat(length)))), (431, "head_too_large"));
    }
}

#[test]
fn h1_40_connect_targets_must_be_host_and_port() {
    for target in ["/", "h", "http://h:80", "h:", "h:99999", ":80", "u@h:80"] {
        assert_eq!(refused(line(&format!("CONNECT {target} HTTP/1.1"))), (400, "target_form"), "{target}");
    }
    assert!(forwarded(line("CONNECT h:80 HTTP/1.1")).starts_with("CONNECT h:80 HTTP/1.1\r\n"));
}

#[test]
fn h1_42_other_expectations_are_refused() {
    for expect in ["Expect: x\r\n", "Expect: 100-continue, x\r\n", "Expect: 100-continue\r\nExpect: 100-continue\r\n"] {
        assert_eq!(refused(with(expect)), (417, "expectation"), "{expect}");
    }
    assert!(forwarded(with("Expect: 100-Continue\r\n")).contains("\r\nExpect: 100-Continue\r\n"));
}

#[test]
fn h1_49_request_lines_have_one_shape() {
    let lines = [
        "GET /",
        "GET / ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / x HTTP/1.1",
    ];
    for request_line in lines.into_iter().chain([
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/01.1",
        "GET / http/1.1",
        "GET /a\t HTTP/1.1",
    ]) {
        assert_eq!(refused(line(request_line)).0, 400, "{request_line:?}");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0"] {
        assert_eq!(refused(line(&format!("GET / {version}"))), (505, "unknown_version"));
    }
}

#[test]
fn h1_50_methods_are_compared_exactly() {
    let long = "A".repeat(65);
    for method in ["get", "Get", "FOO", "GETX", "GE", "G=\"x\"", &long, "M-SEARCH"] {
        assert_eq!(refused(line(&format!("{method} / HTTP/1.1"))), (400, "unknown_method"), "{method}");
    }
    for method in ["GET", "PATCH", "PROPFIND", "UNSUBSCRIBE", "MSEARCH"] {
        assert!(forwarded(line(&format!("{method} / HTTP/1.1"))).starts_with(&format!("{method} / ")));
    }
}

#[test]
fn h1_51_a_request_has_one_valid_host() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), (400, "missing_host_header"));
    for second in ["a.example", "b.example"] {
        assert_eq!(refused(with(&format!("Host: {second}\r\n"))), (400, "repeated_host"));
    }
    for host in [
        "a,b",
        "a b",
        "u@a",
        "a/b",
        "a#b",
        "a?b",
        "a%00",
        "a:b",
        "a:99999",
        "a:1:2",
        "::1",
        "[::1",
        "[::1%25eth0]",
        "[]",
        "a:+1",
    ] {
        assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), (400, "host"), "{host}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"), (400, "field_value"));
    for host in ["", "a", "a.example.", "a.example:80", "[::1]:80", "10.0.0.1:8080", "A_b.example"] {
        assert!(
            forwarded(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).contains(&format!("\r\nHost: {host}\r\n"))
        );
    }
}

#[test]
fn h1_52_the_authority_of_the_target_wins_over_host() {
    let out = forwarded("GET http://b.example:81/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(out, "GET /x?y HTTP/1.1\r\nHost: b.example:81\r\n\r\n");
    assert!(
        forwarded("GET HTTP://b.example HTTP/1.1\r\nHost: a\r\n\r\n")
            .starts_with("GET / HTTP/1.1\r\nHost: b.example\r\n")
    );
}

#[test]
fn h1_53_broken_absolute_targets_are_refused() {
    for target in [
        "http:///x",
        "http://u:p@h/",
        "http://h#f",
        "ftp://h/",
        "http://h:99999/",
        "http:/x",
        "http://",
        "http://h\\x/",
    ] {
        assert_eq!(refused(line(&format!("GET {target} HTTP/1.1"))).0, 400, "{target}");
    }
}

#[test]
fn h1_54_a_fragment_is_cut() {
    assert!(forwarded(line("GET /a#b?c HTTP/1.1")).starts_with("GET /a HTTP/1.1\r\n"));
    assert!(forwarded(line("GET /a?b#c HTTP/1.1")).starts_with("GET /a?b HTTP/1.1\r\n"));
}

#[test]
fn h1_55_targets_that_are_no_path_are_refused() {
    for request_line in
        ["GET * HTTP/1.1", "GET admin HTTP/1.1", "GET */x HTTP/1.1", "OPTIONS *x HTTP/1.1", "GET \\a HTTP/1.1"]
    {
        assert_eq!(refused(line(request_line)), (400, "target_form"), "{request_line}");
    }
    assert_eq!(refused(line("OPTIONS * HTTP/1.1")), (404, "absolute_path_rejected"));
}

#[test]
fn h1_56_limits_hold_to_the_byte() {
    let path = |length: usize| format!("GET /{} HTTP/1.1", "a".repeat(length - "GET / HTTP/1.1".len()));
    assert_eq!(requests(line(&path(8192)).as_bytes()).end, End::Clean);
    assert_eq!(refused(line(&path(8193))), (414, "first_line_too_long"));
    let fields = |count: usize| with(&"x: y\r\n".repeat(count - 1));
    assert_eq!(requests(fields(100).as_bytes()).end, End::Clean);
    assert_eq!(refused(fields(101)), (431, "too_many_fields"));
    let fixed = with("X: \r\n").len();
    let head = |length: usize| with(&format!("X: {}\r\n", "v".repeat(length - fixed)));
    assert_eq!(requests(head(61_440).as_bytes()).end, End::Clean);
    assert_eq!(refused(head(61_441)), (431, "head_too_large"));
}

#[test]
fn h1_57_pipelined_requests_are_told_apart() {
    let one = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let two = "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let three = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let transcript = requests([one, two, three, one].concat().as_bytes());
    assert_eq!((transcript.messages.len(), transcript.end), (4, End::Clean));
    assert_eq!(transcript.messages[0], transcript.messages[3]);
}

#[test]
fn h1_58_garbage_after_a_request_is_refused_after_it() {
    let transcript = requests(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\x00\x01garbage");
    assert_eq!((transcript.messages.len(), transcript.end), (1, End::Refused(400, "unknown_method")));
}

#[test]
fn h1_59_fields_listed_in_connection_end_here() {
    let out = forwarded(with(
        "Connection: authorization, Cookie ,x-a\r\nAuthorization: b\r\nCookie: c\r\nX-A: d\r\nX-B: e\r\n",
    ));
    assert_eq!(out, "POST /p HTTP/1.1\r\nHost: a.example\r\nX-B: e\r\n\r\n");
    for name in ["x-forwarded-for", "X-Forwarded-Client-Cert", "x-meshdp-any", "x-request-id"] {
        assert_eq!(refused(with(&format!("Connection: close, {name}\r\n"))), (400, "connection_lists_protected"));
    }
}

#[test]
fn h1_60_framing_fields_listed_in_connection_are_refused() {
    for name in ["transfer-encoding", "content-length", "host"] {
        assert_eq!(refused(with(&format!("Connection: {name}\r\n"))), (400, "connection_lists_protected"));
    }
    let many = vec!["a"; 33].join(",");
    assert_eq!(refused(with(&format!("Connection: {many}\r\n"))), (400, "connection_lists_protected"));
}

#[test]
fn h1_61_hop_by_hop_fields_are_consumed() {
    let hops = "Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: trailers\r\nTrailer: x\r\nProxy-Authorization: x\r\nConnection: keep-alive\r\n";
    assert_eq!(forwarded(with(hops)), "POST /p HTTP/1.1\r\nHost: a.example\r\n\r\n");
}

#[test]
fn h1_62_the_http2_preface_is_no_request() {
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (400, "unknown_method"));
}

#[test]
fn h1_63_h2c_upgrades_are_stripped() {
    let out =
        forwarded(with("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"));
    assert_eq!(out, "POST /p HTTP/1.1\r\nHost: a.example\r\n\r\n");
}
