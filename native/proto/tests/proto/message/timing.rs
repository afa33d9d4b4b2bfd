//! How long the way through the canonical text takes; printed, not judged: machines differ.

use super::{decoded, limits, list};
use meshdp_proto::h2::hpack::Encoder;
use meshdp_proto::h2::message::{Message, RequestMapping, encode_request, write_request};
use meshdp_proto::{FieldTable, RequestEdits, parse_request};
use std::hint::black_box;
use std::time::Instant;

const FIELDS: [(&str, &str); 12] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "reviews.default.svc.cluster.local:9080"),
    (":path", "/reviews/0?locale=en"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("x-request-id", "6c0b1b5e-2d0c-4c6b-9a53-6c2e1f7f2d11"),
    ("x-forwarded-proto", "https"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-meshdp-http1", "1.1,tttt"),
];

/// Few in a row and often, so that the best of them is one that nobody interrupted.
const ROUNDS: u32 = 500;

const BATCHES: u32 = 2_000;

#[test]
#[allow(clippy::disallowed_methods)] // measuring is what it is for
#[ignore = "prints a figure: cargo test --profile fast -p meshdp-proto timing -- --ignored --nocapture"]
fn timing_of_a_head_of_twelve_fields() {
    let fields = list(&FIELDS);
    let limits = limits();
    let (mut text, mut table, mut block) = (Vec::new(), FieldTable::new(), Vec::new());
    let mut encoder = Encoder::new();
    let mut best = [u128::MAX; 3];
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            write_request(black_box(&fields), &limits, &mut text).unwrap();
        }
        best[0] = best[0].min(start.elapsed().as_nanos() / u128::from(ROUNDS));
        let start = Instant::now();
        for _ in 0..ROUNDS {
            black_box(parse_request(black_box(&text), &limits, &mut table).unwrap().unwrap());
        }
        best[1] = best[1].min(start.elapsed().as_nanos() / u128::from(ROUNDS));
        let head = parse_request(&text, &limits, &mut table).unwrap().unwrap();
        let message = Message { buf: &text, head: &head, fields: &table };
        let edits = RequestEdits { target: b"/reviews/0?locale=en", ..RequestEdits::default() };
        let mapping = RequestMapping { note: true, ..RequestMapping::default() };
        let start = Instant::now();
        for _ in 0..ROUNDS {
            block.clear();
            encode_request(&mut encoder, black_box(&message), &edits, &mapping, &mut block);
        }
        best[2] = best[2].min(start.elapsed().as_nanos() / u128::from(ROUNDS));
    }
    println!("write_request {} ns, parse_request {} ns, encode_request {} ns", best[0], best[1], best[2]);
    assert_eq!(
        decoded(&{
            let mut first = Vec::new();
            let head = parse_request(&text, &limits, &mut table).unwrap().unwrap();
            let message = Message { buf: &text, head: &head, fields: &table };
            let edits = RequestEdits { target: b"/", ..RequestEdits::default() };
            encode_request(&mut Encoder::new(), &message, &edits, &RequestMapping::default(), &mut first);
            first
        })
        .len(),
        11
    );
}
