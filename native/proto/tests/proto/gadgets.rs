//! H1-65: lines that some reader takes for `Transfer-Encoding` or `Content-Length` and another does not, by a grammar of our own.
//!
//! In: every gadget beside the framing it contradicts (CL.TE and TE.CL), in both orders, whole, byte by byte and cut at every place.
//! Fails: one is forwarded with two framings, with a line that is almost a framing field, or with a control byte.
//! Source: attack-cases 2.1 H1-65; RFC 9112 6.1 and 6.3.

use crate::feed::{End, requests};

/// Every gadget: one or more header lines without the final line end.
fn gadgets() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (name, value) in [("Transfer-Encoding", "chunked"), ("Content-Length", "4")] {
        for byte in 0..=255_u8 {
            all.extend(around(name.as_bytes(), value.as_bytes(), byte));
        }
        all.extend(written(name, value));
    }
    all
}

/// One byte at each place where readers disagree about what it means.
fn around(name: &[u8], value: &[u8], byte: u8) -> Vec<Vec<u8>> {
    let dash = name.iter().position(|each| *each == b'-').unwrap();
    let byte = &[byte][..];
    vec![
        [byte, name, b": ", value].concat(),
        [name, byte, b": ", value].concat(),
        [name, b":", byte, value].concat(),
        [name, b": ", value, byte].concat(),
        [name, b": ", byte, b" ", value].concat(),
        [&name[..dash], byte, &name[dash + 1..], b": ", value].concat(),
        [b"X: y", byte, name, b": ", value].concat(),
        [b"X: y\r", byte, name, b": ", value].concat(),
        [name, b": ", value, b"\r\n", byte, b"x"].concat(),
    ]
}

/// Spellings, lists, folds and hiding places.
fn written(name: &str, value: &str) -> Vec<Vec<u8>> {
    let values = [
        "{}",
        "{},",
        ",{}",
        "{},{}",
        "{}, {}",
        "{};",
        "{};a=b",
        "\"{}\"",
        "'{}'",
        "{} x",
        "x {}",
        "{},identity",
        "identity,{}",
        "{}\r\n x",
        "\r\n {}",
        "\r\n\t{}",
        " \r\n {}",
        "{}\r\n ",
        "x\r\n {}",
        "\\{}",
        "{}\\",
        "({})",
        "{}=",
        "={}",
        "{}\u{a0}",
        "{}\u{ff}",
        "\u{feff}{}",
        "{}\u{0}",
        "%{}",
        "{}{}",
        "x, {}, y",
        "{}\u{b}",
        "\u{c}{}",
        "0{}",
        "+{}",
        "-{}",
        "{}.0",
        "0x{}",
        "{}e0",
        "{}_",
        "{} {}",
    ];
    let names = [
        "{}",
        "{} ",
        " {}",
        "{}\t",
        "\t{}",
        "{}\u{0}",
        "X-{}",
        "{}-X",
        "{}:",
        "\"{}\"",
        "{}\r\n ",
        "{}\r",
        "{}\n",
        "\r{}",
        "\n{}",
        "Foo\r\n{}",
        "X: a\r\n{}",
        "X: a\r{}",
        "X: a\n{}",
        "X: a\n\r{}",
        "X:\r\n {}",
        "X: a\\r\\n{}",
        "X: a%0d%0a{}",
        "X\u{0}: {}",
        "{}\\",
        "({})",
    ];
    let cases =
        [name.to_owned(), name.to_lowercase(), name.to_uppercase(), name.replace('-', "_"), name.replace('-', " ")];
    let mut all = Vec::new();
    for spelled in &cases {
        let valued = values.iter().map(|form| format!("{spelled}: {}", form.replace("{}", value)));
        let named = names.iter().map(|form| format!("{}: {value}", form.replace("{}", spelled)));
        let tight = values.iter().map(|form| format!("{spelled}:{}", form.replace("{}", value)));
        all.extend(valued.chain(named).chain(tight).map(String::into_bytes));
    }
    all
}

/// The gadget beside the framing that it contradicts, in both orders, and what follows the head.
fn requests_with(gadget: &[u8]) -> Vec<Vec<u8>> {
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = b"POST /p HTTP/1.1\r\nHost: a.example\r\n";
    let long = [b"0\r\n\r\n", &smuggled[..]].concat();
    let by_length = format!("Content-Length: {}", long.len());
    let chunks = [b"4\r\nabcd\r\n0\r\n\r\n", &smuggled[..]].concat();
    let beside = [(by_length.as_bytes(), long), (&b"Transfer-Encoding: chunked"[..], chunks)];
    let mut all = Vec::new();
    for (framing, body) in beside {
        for lines in [[framing, gadget], [gadget, framing]] {
            all.push([&head[..], lines[0], b"\r\n", lines[1], b"\r\n\r\n", &body].concat());
        }
    }
    all
}

/// A name as the most lenient reader takes it: bytes that are no token are dropped, `_` and `-` are the same. Other punctuation
/// makes another name, to every reader.
fn bare(name: &str) -> String {
    let kept = |each: &char| each.is_ascii_alphanumeric() || "!#$%&'*+.^`|~-_".contains(*each);
    let one = |each: char| if each == '_' { '-' } else { each.to_ascii_lowercase() };
    name.chars().filter(kept).map(one).collect()
}

/// Whether what is forwarded can be read in one way alone.
fn is_plain(message: &str) -> bool {
    let (head, _) = message.split_once("\r\n\r\n").unwrap();
    let mut framings = 0;
    for line in head.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { return false };
        let canonical = matches!((name, value), ("transfer-encoding", " chunked"))
            || (name == "content-length" && value[1..].bytes().all(|byte| byte.is_ascii_digit()));
        framings += usize::from(canonical);
        let framing = matches!(bare(name).as_str(), "transfer-encoding" | "content-length");
        if (framing && !canonical) || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return false;
        }
    }
    framings == 1 && !head.contains('\0')
}

#[test]
fn h1_65_no_gadget_is_forwarded_in_a_form_that_two_readers_read_differently() {
    let (mut tried, mut forwarded) = (0, 0);
    for gadget in gadgets() {
        for input in requests_with(&gadget) {
            tried += 1;
            let transcript = requests(&input);
            let told = || String::from_utf8_lossy(&input).into_owned();
            for message in &transcript.messages {
                if message.contains("/p HTTP/1.1") && message.contains("\r\n\r\n") {
                    assert!(is_plain(message), "{:?} became {message:?}", told());
                    forwarded += 1;
                }
            }
            // What a gadget hides is a message of its own only where the framing we forwarded says so.
            if matches!(transcript.end, End::Refused(..)) {
                assert!(transcript.messages.len() <= 2, "{:?}: {transcript:?}", told());
            }
        }
    }
    assert!(tried > 10_000, "{tried}");
    // The control: lines that are nobody's framing (other names, quoted text in values) do pass.
    assert!(forwarded > 100 && forwarded < tried / 3, "{forwarded} of {tried}");
}

#[test]
fn the_judge_of_gadgets_can_fail() {
    for bad in [
        "POST /p HTTP/1.1\r\nHost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: a\r\ncontent-length: 4\r\nTransfer_Encoding: chunked\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: a\r\ncontent-length: 4\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
    ] {
        assert!(!is_plain(bad), "{bad:?}");
    }
    assert!(is_plain("POST /p HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nX: chunked\r\n\r\n"));
}
