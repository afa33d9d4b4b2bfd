//! What an exchange costs a server: printed, not judged. `cargo test --release -p meshdp-proto h2::cost -- --ignored --nocapture`.

use super::wire::*;
use meshdp_proto::Limits;
use meshdp_proto::h2::hpack::{DecodeLimits, Decoder, Encoder, FieldList, Indexing};
use meshdp_proto::h2::message::write_request;
use meshdp_proto::h2::{
    Config, Connection, ErrorCode, Events, RequestShape, ResponseShape, Role, Scratch, Side, StreamId,
};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 300_000;

struct Silent;

impl Events for Silent {
    fn request(&mut self, _: StreamId, text: &[u8], _: RequestShape, _: bool) {
        black_box(text);
    }
    fn response(&mut self, _: StreamId, _: &[u8], _: ResponseShape, _: bool) {}
    fn data(&mut self, _: StreamId, bytes: &[u8], _: bool) {
        black_box(bytes);
    }
    fn trailers(&mut self, _: StreamId, _: &[u8]) {}
    fn reset(&mut self, id: StreamId, _: ErrorCode, _: Side) {
        panic!("{id} was reset");
    }
    fn writable(&mut self, _: StreamId) {}
}

fn blocks() -> [Vec<u8>; 2] {
    let (add, without) = (Indexing::Add, Indexing::Without);
    let fields = [
        (":method", "GET", add),
        (":scheme", "http", add),
        (":authority", "reviews.default.svc.cluster.local:9080", add),
        (":path", "/reviews/7", without),
        ("user-agent", "curl/8.1.2", add),
        ("accept", "*/*", add),
        ("accept-encoding", "gzip, deflate", add),
        ("x-request-id", "2f1c6a3e-8d6f-4a10-9a63-0a2b6d9f7b11", without),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", without),
        ("x-forwarded-proto", "http", add),
    ];
    let mut encoder = Encoder::new();
    [(); 2].map(|()| {
        let mut block = Vec::new();
        for (name, value, kind) in fields {
            encoder.field(name.as_bytes(), value.as_bytes(), kind, &mut block);
        }
        block
    })
}

/// Nanoseconds for each call.
#[allow(clippy::disallowed_methods)] // a measurement is the purpose
fn measure(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

#[test]
#[ignore = "a measurement"]
fn the_connection_costs_little_beside_its_head() {
    let [first, again] = blocks();
    let (mut decoder, mut fields, mut text) = (Decoder::new(4_096), FieldList::new(), Vec::new());
    let (block_limits, limits) = (DecodeLimits { size_bytes: 61_440, fields: 105 }, Limits::default());
    decoder.decode(&first, &block_limits, &mut fields).unwrap();
    let head = measure(|| {
        decoder.decode(&again, &block_limits, &mut fields).unwrap();
        write_request(&fields, &limits, &mut text).unwrap();
        black_box(&text);
    });
    let (mut connection, mut scratch) = (Connection::new(Role::Server, &Config::default()), Scratch::new());
    let window = number(WINDOW_UPDATE, 0, 0x7fff_ffff - 65_535);
    let hello = [hello(Role::Client), window, frame(HEADERS, WHOLE | END, 1, &first)].concat();
    connection.receive(&hello, &mut scratch, &mut Silent).unwrap();
    connection.release(StreamId(1));
    let (mut request, mut id, body) = (frame(HEADERS, WHOLE | END, 0, &again), 1, [b'x'; 1_024]);
    let exchange = measure(|| {
        id += 2;
        request[5..9].copy_from_slice(&u32::to_be_bytes(id));
        connection.receive(&request, &mut scratch, &mut Silent).unwrap();
        connection.send_head(StreamId(id), false, |_, out| out.push(0x88));
        assert_eq!(connection.send_data(StreamId(id), &body, true), body.len());
        connection.release(StreamId(id));
        connection.sent(connection.output().len(), &mut Silent);
    });
    request = frame(HEADERS, WHOLE, id + 2, &again);
    connection.receive(&request, &mut scratch, &mut Silent).unwrap();
    let chunk = data(id + 2, 0, &[b'x'; 16_384]);
    let transfer = measure(|| {
        connection.receive(&chunk, &mut scratch, &mut Silent).unwrap();
        connection.consumed(StreamId(id + 2), 16_384);
        connection.sent(connection.output().len(), &mut Silent);
    });
    println!(
        "head alone {head:.0} ns, exchange with 1 KiB {exchange:.0} ns, frame of 16 KiB received {transfer:.0} ns"
    );
}
