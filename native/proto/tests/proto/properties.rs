//! Properties: normalisation is idempotent, splits change nothing, what we write we read back the same.

use crate::feed::{End, requests};
use meshdp_proto::http1_head::Framing;
use meshdp_proto::{BodyDecoder, PathMode, Wanted, normalise, sniff};
use proptest::prelude::*;

fn modes() -> impl Strategy<Value = PathMode> {
    prop_oneof![
        Just(PathMode::None),
        Just(PathMode::Base),
        Just(PathMode::MergeSlashes),
        Just(PathMode::DecodeAndMergeSlashes)
    ]
}

/// Pieces that matter to the normaliser, in any order.
fn paths() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "/", "//", ".", "..", ";", "\\", "%", "%2", "%2e", "%2E", "%2f", "%5C", "%25", "%32", "%65", "%66", "%5",
        "%63", "%41", "%7e", "2", "5", "e", "f", "c", "a", "{", "?", "#", "%00", "%c0", "*",
    ]);
    prop::collection::vec(pieces, 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn chunked_bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6)
}

/// Text near HTTP: mostly valid pieces, now and then a byte that is not.
fn near_http() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "GET ",
        "POST ",
        "/",
        "/a?b",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "Host: a",
        "Content-Length: 3",
        "abc",
        "Transfer-Encoding: chunked",
        "Connection: close",
        ": ",
        " ",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
        ";a=b",
        "X: y\r\n",
        "\0",
        "\u{e9}",
    ]);
    prop::collection::vec(pieces, 0..16).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn normalise_is_idempotent(path in paths(), mode in modes()) {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        if let Ok(parts) = normalise(path.as_bytes(), mode, &mut once) {
            let again = normalise(&once, mode, &mut twice).expect("what was accepted stays accepted");
            prop_assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice));
            prop_assert_eq!(parts.path_len, again.path_len);
            prop_assert!(once.len() <= 3 * path.len() && once[0] == b'/');
        }
    }

    #[test]
    fn normalised_paths_hold_no_dot_segments(path in paths()) {
        let mut out = Vec::new();
        if let Ok(parts) = normalise(path.as_bytes(), PathMode::DecodeAndMergeSlashes, &mut out) {
            let path = std::str::from_utf8(&out[..parts.path_len]).unwrap();
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{}", path);
            prop_assert!((path == "//" || !path.contains("//")) && !path.to_ascii_lowercase().contains("%2f"), "{}", path);
        }
    }

    #[test]
    fn chunked_bodies_decode_the_same_in_any_pieces(chunks in chunked_bodies(), cuts in prop::collection::vec(1_usize..20, 1..30)) {
        let mut sent = Vec::new();
        for chunk in &chunks {
            sent.extend_from_slice(format!("{:X};e=1\r\n", chunk.len()).as_bytes());
            sent.extend_from_slice(chunk);
            sent.extend_from_slice(b"\r\n");
        }
        sent.extend_from_slice(b"00\r\nt: v\r\n\r\nNEXT");
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let taken = BodyDecoder::new(Framing::Chunked).decode(&sent, &mut whole).unwrap();
        prop_assert_eq!(&sent[taken..], b"NEXT");
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        let (mut at, mut cut) = (0, cuts.iter().cycle());
        while !decoder.done() {
            let end = sent.len().min(at + cut.next().unwrap());
            at += decoder.decode(&sent[at..end], &mut pieces).unwrap();
        }
        prop_assert_eq!((at, &pieces), (taken, &whole));
        let mut again = Vec::new();
        prop_assert_eq!(BodyDecoder::new(Framing::Chunked).decode(&whole, &mut again), Ok(whole.len()));
        prop_assert_eq!(again, whole);
    }

    #[test]
    fn bodies_with_a_length_are_copied(body in prop::collection::vec(any::<u8>(), 0..200), length in 0_u64..200, skip in 0_u64..50) {
        let mut decoder = BodyDecoder::new(Framing::Length(length));
        let skip = skip.min(decoder.length_left().unwrap_or(0));
        decoder.consume_length(skip);
        let mut out = Vec::new();
        let taken = decoder.decode(&body, &mut out).unwrap();
        prop_assert_eq!(taken as u64, (length - skip).min(body.len() as u64));
        prop_assert_eq!(&out, &body[..taken]);
        prop_assert_eq!(decoder.done(), taken as u64 == length - skip);
        prop_assert_eq!(decoder.finish_on_eof().is_ok(), decoder.done());
    }

    #[test]
    fn request_bytes_mean_the_same_in_any_pieces_and_survive_a_second_hop(input in near_http()) {
        let first = requests(&input);
        let complete = if first.end == End::Clean { first.messages.len() } else { first.messages.len().saturating_sub(1) };
        for message in &first.messages[..complete] {
            let bytes: Vec<u8> = message.chars().map(|character| character as u8).collect();
            let second = requests(&bytes);
            prop_assert_eq!(&second.end, &End::Clean);
            prop_assert_eq!(&second.messages, std::slice::from_ref(message));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        requests(&bytes);
        sniff(&bytes, Wanted { tls: true, http: true });
        sniff(&[&[22, 3, 1, 1, 0, 1, 0][..], &bytes].concat(), Wanted { tls: true, http: true });
        let mut out = Vec::new();
        let _ = normalise(&bytes, PathMode::Base, &mut out);
    }
}
