//! What the first bytes of a connection are: SN-02, SN-03, SN-04, SN-06, SN-09, TL-17 as far as bytes decide them.

use meshdp_proto::http1_head::HttpVersion;
use meshdp_proto::{Sniff, Wanted, sniff};
use proptest::prelude::*;

const BOTH: Wanted = Wanted { tls: true, http: true };

/// The decision, and that every prefix was undecided until some length and then decided the same (SN-09).
fn decide(bytes: &[u8], wanted: Wanted) -> Sniff<'_> {
    let last = sniff(bytes, wanted);
    let mut decided = false;
    for end in 0..=bytes.len() {
        let seen = sniff(&bytes[..end], wanted);
        assert!(!decided || seen == last, "changed its mind at {end}: {seen:?} then {last:?}");
        decided |= seen != Sniff::NeedMore;
    }
    last
}

fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    extension(16, &vector(2, &names.iter().flat_map(|name| vector(1, name)).collect::<Vec<u8>>()))
}

/// A `ClientHello` handshake message with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 1, 0x13, 2]),
        &vector(1, &[0]),
        &vector(2, extensions),
    ];
    [&[1][..], &vector(3, &body.concat())].concat()
}

/// The message cut into records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|piece| [&[22, 3, 1][..], &vector(2, piece)].concat()).collect()
}

fn hello() -> Vec<u8> {
    let extensions = [
        extension(10, &[0, 2, 0, 29]),
        server_name(b"Outbound_.80_._.a.example"),
        alpn(&[b"istio-peer-exchange", b"istio"]),
    ];
    message(&extensions.concat())
}

#[test]
fn a_client_hello_tells_name_and_protocols_however_it_is_cut_into_records() {
    for size in [usize::MAX, 100, 5, 1] {
        let bytes = records(&hello(), size.min(16_384));
        let Sniff::Tls(seen) = decide(&bytes, BOTH) else { panic!("not TLS in records of {size}") };
        assert_eq!(seen.sni(), Some("Outbound_.80_._.a.example"));
        assert_eq!(seen.alpn().collect::<Vec<_>>(), [b"istio-peer-exchange".as_slice(), b"istio"]);
    }
}

#[test]
fn a_client_hello_may_offer_nothing() {
    let bytes = records(&message(&[]), 16_384);
    let Sniff::Tls(seen) = decide(&bytes, BOTH) else { panic!("not TLS") };
    assert_eq!((seen.sni(), seen.alpn().count()), (None, 0));
}

#[test]
fn bytes_behind_a_client_hello_do_not_matter() {
    let bytes = [records(&hello(), 16_384), b"GET / HTTP/1.1\r\n".to_vec()].concat();
    assert!(matches!(decide(&bytes, BOTH), Sniff::Tls(_)));
}

#[test]
fn broken_client_hellos_are_raw() {
    let bad_name = message(&server_name(b"a b"));
    let empty_name = message(&server_name(b""));
    let empty_protocol = message(&alpn(&[b""]));
    let cut_extension = message(&[0, 16, 0, 9, 1]);
    let server_hello = [&[2][..], &hello()[1..]].concat();
    let mut long_session = message(&[]);
    long_session.splice(38..39, [33, 0]);
    long_session[3] += 1;
    for broken in [long_session, bad_name, empty_name, empty_protocol, cut_extension, server_hello] {
        assert_eq!(decide(&records(&broken, 16_384), BOTH), Sniff::Raw);
    }
    let too_long = records(&message(&extension(21, &vec![0; 17_000])), 16_384);
    assert_eq!(decide(&too_long, BOTH), Sniff::Raw);
    let too_small = records(&message(&extension(21, &vec![0; 16_000])), 1);
    assert_eq!(decide(&too_small, BOTH), Sniff::Raw);
    for start in [&[22, 2][..], &[22, 3, 5], &[22, 3, 1, 0, 0], &[22, 3, 1, 0x40, 1], &[22, 3, 1, 0, 4, 9], &[21, 3, 1]]
    {
        assert_eq!(decide(start, BOTH), Sniff::Raw, "{start:?}");
    }
}

#[test]
fn sn_02_a_record_start_waits_and_text_behind_it_is_raw() {
    assert_eq!(decide(&[0x16], BOTH), Sniff::NeedMore);
    assert_eq!(decide(&[0x16, 3, 1], BOTH), Sniff::NeedMore);
    assert_eq!(decide(b"\x16\x03\x01GET / HTTP/1.1\r\n\r\n", BOTH), Sniff::Raw);
}

#[test]
fn sn_03_http_is_told_from_its_first_line() {
    assert_eq!(decide(b"GE", BOTH), Sniff::NeedMore);
    assert_eq!(decide(b"GET / HTTP/1.1\r", BOTH), Sniff::Http1(HttpVersion::Http11));
    assert_eq!(decide(b"POST /x HTTP/1.0\r\n", BOTH), Sniff::Http1(HttpVersion::Http10));
    assert_eq!(decide(b"PRI * HT", BOTH), Sniff::NeedMore);
    assert_eq!(decide(b"PROPFIND / HTTP/1.1\r\n", BOTH), Sniff::Http1(HttpVersion::Http11));
    assert_eq!(decide(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", BOTH), Sniff::Http2Preface);
    assert_eq!(decide(b"PRI * HTTP/2.0\r\n\r\nXX", BOTH), Sniff::Raw);
}

#[test]
fn sn_04_lax_http_is_http_or_raw_but_never_undecided() {
    assert_eq!(decide(b"\r\n\r\nGET / HTTP/1.1\r\n", BOTH), Sniff::Http1(HttpVersion::Http11));
    assert_eq!(decide(b"GET / HTTP/1.1\n", BOTH), Sniff::Http1(HttpVersion::Http11));
    for raw in [
        "get / HTTP/1.1\r\n",
        "FOO / HTTP/1.1\r\n",
        "GET\t/ HTTP/1.1\r\n",
        "GET /\r\n",
        "GET / HTTP/2.0\r\n",
        "GET / x\r\n",
    ] {
        assert_eq!(decide(raw.as_bytes(), BOTH), Sniff::Raw, "{raw:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(9_000));
    assert_eq!(decide(long.as_bytes(), BOTH), Sniff::Raw);
    let fits = format!("GET /{} HTTP/1.1\r\n", "a".repeat(8_000));
    assert_eq!(decide(fits.as_bytes(), BOTH), Sniff::Http1(HttpVersion::Http11));
}

#[test]
fn sn_06_binary_is_raw() {
    for raw in [&b"GET\0"[..], b"\0", b"SSH-2.0-OpenSSH\r\n", b"\x4a\x00\x00\x00\x0a", b"\xff\xff", b"P\0"] {
        assert_eq!(decide(raw, BOTH), Sniff::Raw, "{raw:?}");
    }
}

#[test]
fn only_what_is_wanted_is_looked_for() {
    let tls = records(&hello(), 16_384);
    let http = b"GET / HTTP/1.1\r\n";
    assert!(matches!(decide(&tls, Wanted { tls: true, http: false }), Sniff::Tls(_)));
    assert_eq!(decide(&tls, Wanted { tls: false, http: true }), Sniff::Raw);
    assert_eq!(decide(http, Wanted { tls: true, http: false }), Sniff::Raw);
    assert_eq!(decide(http, Wanted { tls: false, http: true }), Sniff::Http1(HttpVersion::Http11));
    assert_eq!(decide(http, Wanted { tls: false, http: false }), Sniff::Raw);
    assert_eq!(decide(b"", BOTH), Sniff::NeedMore);
}

#[test]
fn sn_09_the_preface_waits_until_its_last_byte() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for end in 0..preface.len() {
        assert_eq!(sniff(&preface[..end], BOTH), Sniff::NeedMore, "{end}");
        let mut other = preface.to_vec();
        other[end] ^= 0x20;
        assert_ne!(decide(&other, BOTH), Sniff::Http2Preface, "{other:?}");
    }
    assert_eq!(sniff(preface, BOTH), Sniff::Http2Preface);
}

#[test]
fn tl_17_a_client_hello_of_a_modern_client_is_read() {
    let grease = [&[0x0a, 0x0a, 0, 0][..], &extension(0x1a1a, &[0]), &alpn(&[b"\x2a\x2a", b"istio-h2", b"h2"])];
    // Key shares of X25519MLKEM768 and X25519: longer than one segment.
    let shares = extension(
        51,
        &vector(2, &[&[0x11, 0xec][..], &vector(2, &[7; 1_216]), &[0, 29], &vector(2, &[8; 32])].concat()),
    );
    let bytes = records(&message(&[grease.concat(), shares, server_name(b"a.example")].concat()), 16_384);
    let Sniff::Tls(seen) = decide(&bytes, BOTH) else { panic!("not TLS") };
    assert_eq!(seen.alpn().collect::<Vec<_>>(), [&b"\x2a\x2a"[..], b"istio-h2", b"h2"]);
    assert_eq!(seen.sni(), Some("a.example"));
}

#[test]
fn tl_17_declared_sizes_beyond_the_cap_are_raw_at_once() {
    // A handshake message of 16 MiB, and one of 64 KiB, by their declared lengths alone.
    for length in [[0xff, 0xff, 0xff], [1, 0, 0]] {
        let start = [&[22, 3, 1, 0x40, 0, 1][..], &length].concat();
        assert_eq!(decide(&start, BOTH), Sniff::Raw, "{length:?}");
    }
}

/// Pieces that beginnings of connections are made of.
fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let hello = records(&hello(), 40);
    let pieces = prop::sample::select(vec![
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n".to_vec(),
        b"PRI * HTTP/1.1\r\n".to_vec(),
        b"PRI".to_vec(),
        b"GET ".to_vec(),
        b"PROPFIND /".to_vec(),
        b" HTTP/1.1".to_vec(),
        b" HTTP/1.0".to_vec(),
        b"\r\n".to_vec(),
        b"\r".to_vec(),
        b"\n".to_vec(),
        b"get / ".to_vec(),
        hello.clone(),
        hello[..50].to_vec(),
        vec![22, 3, 1],
        vec![0, 40, 1, 0],
    ]);
    prop::collection::vec(prop_oneof![4 => pieces, 1 => prop::collection::vec(any::<u8>(), 0..4)], 0..6)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sn_09_a_decision_is_the_same_at_every_split(bytes in beginnings(), tls: bool, http: bool) {
        decide(&bytes, Wanted { tls, http });
    }

    #[test]
    fn sn_09_the_whole_is_decided_as_any_of_its_prefixes_that_is(head in prop::sample::select(vec![
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), b"GET /a HTTP/1.1\r\n".to_vec(), records(&hello(), 16_384),
    ]), rest in prop::collection::vec(any::<u8>(), 0..40)) {
        let whole = [&head[..], &rest].concat();
        prop_assert_eq!(decide(&whole, BOTH), sniff(&head, BOTH));
    }
}
