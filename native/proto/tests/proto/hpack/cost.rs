//! What a typical request head costs: printed, not judged. `cargo test --release -p meshdp-proto hpack::cost -- --ignored --nocapture`.

use super::{Field, field};
use meshdp_proto::h2::hpack::{DecodeLimits, Decoder, Encoder, FieldList, Indexing};
use std::hint::black_box;

const ROUNDS: u32 = 10_000;

/// A request between two sidecars; `number` makes what differs from request to request.
fn head(number: usize) -> Vec<(Field, Indexing)> {
    let (add, without) = (Indexing::Add, Indexing::Without);
    let xfcc = "By=spiffe://cluster.local/ns/default/sa/reviews;Hash=4c1b8a0f2d3e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcd;\
                Subject=\"\";URI=spiffe://cluster.local/ns/default/sa/productpage";
    vec![
        (field(":method", "GET"), add),
        (field(":scheme", "https"), add),
        (field(":authority", "reviews.default.svc.cluster.local:9080"), add),
        (field(":path", &format!("/api/v1/reviews/{number}?page=3")), without),
        (field("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"), add),
        (field("accept", "application/json, text/plain, */*"), add),
        (field("accept-encoding", "gzip, deflate"), add),
        (field("content-type", "application/json"), add),
        (field("x-forwarded-proto", "https"), add),
        (field("x-forwarded-client-cert", xfcc), add),
        (field("x-request-id", &format!("6a3f1c52-9d1e-4b7c-8f00-{number:012x}")), without),
        (field("traceparent", &format!("00-4bf92f3577b34da6a3ce929d{number:08x}-00f067aa0ba902b7-01")), without),
    ]
}

#[allow(clippy::disallowed_methods)] // a measurement is the purpose
fn nanoseconds(mut work: impl FnMut(usize)) -> u128 {
    let mut best = u128::MAX;
    for _ in 0..60 {
        let start = std::time::Instant::now();
        (0..ROUNDS as usize).for_each(&mut work);
        best = best.min(start.elapsed().as_nanos() / u128::from(ROUNDS));
    }
    best
}

fn measure(huffman: bool) {
    let limits = DecodeLimits { size_bytes: 60 * 1024, fields: 100 };
    let heads: Vec<_> = (0..64).map(head).collect();
    let mut encoder = Encoder::new().with_huffman(huffman);
    let (mut decoder, mut list) = (Decoder::new(4096), FieldList::new());
    let mut block = Vec::new();
    let mut blocks = Vec::new();
    for round in 0..128 {
        block.clear();
        heads[round % 64].iter().for_each(|((name, value), kind)| encoder.field(name, value, *kind, &mut block));
        if round < 64 {
            decoder.decode(&block, &limits, &mut list).unwrap();
        } else {
            blocks.push(block.clone());
        }
    }
    let bytes: usize = blocks.iter().map(Vec::len).sum();
    let encode = nanoseconds(|round| {
        block.clear();
        heads[round % 64].iter().for_each(|((name, value), kind)| encoder.field(name, value, *kind, &mut block));
        black_box(&block);
    });
    let decode = nanoseconds(|round| {
        decoder.decode(&blocks[round % 64], &limits, &mut list).unwrap();
        black_box(&list);
    });
    println!("12 fields, huffman {huffman}: encode {encode} ns, decode {decode} ns, {} bytes", bytes / blocks.len());
}

#[test]
#[ignore = "a printout of times, for people"]
fn cost_of_a_typical_request_head() {
    measure(false);
    measure(true);
}

#[test]
#[ignore = "a printout of times, for people"]
fn cost_of_the_worst_block() {
    let limits = DecodeLimits { size_bytes: 60 * 1024, fields: 100 };
    let mut list = FieldList::new();
    // A name of nearly half the table, inserted again and again for three octets each.
    let mut first = vec![0x40, 0x7f, 0xb1, 0x1e];
    first.resize(first.len() + 4016, b'n');
    first.push(0);
    let names = b"\x7e\x00".repeat(32 * 1024);
    let mut decoder = Decoder::new(4096);
    decoder.decode(&first, &limits, &mut list).unwrap();
    let per_block = nanoseconds_once(|| decoder.decode(&names, &limits, &mut list).unwrap());
    println!("64 KiB of insertions with a long indexed name: {} us", per_block / 1000);
    let codes = {
        let mut block = vec![0x00, 0x00, 0xff, 0x80, 0xff, 0x03];
        block.resize(block.len() + 65_535, 0);
        block
    };
    let per_block = nanoseconds_once(|| decoder.decode(&codes, &limits, &mut list).unwrap());
    println!("64 KiB of Huffman code: {} us", per_block / 1000);
}

#[allow(clippy::disallowed_methods)] // a measurement is the purpose
fn nanoseconds_once(work: impl FnOnce()) -> u128 {
    let start = std::time::Instant::now();
    work();
    start.elapsed().as_nanos()
}
