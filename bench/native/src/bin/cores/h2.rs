//! Operations of the HTTP/2 cores: field blocks, canonical heads, and a request and its answer through two connections.
//!
//! In:     nothing.      Out: turns; the state of a connection is kept between them, as between the requests of one.

use std::hint::black_box;

use meshdp_proto::h2::hpack::{DEFAULT_TABLE_BYTES, DecodeLimits, Decoder, Encoder, FieldList};
use meshdp_proto::h2::message::{
    Message, RequestMapping, ResponseMapping, encode_request, encode_response, write_request,
};
use meshdp_proto::h2::{
    Config, Connection, ErrorCode, Events, RequestShape, ResponseShape, Role, Scratch, Side, StreamId,
};
use meshdp_proto::http1_forward::{RequestEdits, ResponseEdits};
use meshdp_proto::http1_head::RequestHead;
use meshdp_proto::http1_response::{RequestKind, ResponseHead, parse_response};
use meshdp_proto::{FieldTable, Limits, parse_request};

use super::{REQUEST, RESPONSE, Turn};

const LIMITS: DecodeLimits = DecodeLimits { size_bytes: 64 << 10, fields: 100 };
const BODY: [u8; 1024] = [b'x'; 1024];

/// The block of a request, from its parsed head; its fields are in the table from the second turn on.
pub(super) fn encoding_a_head() -> Turn {
    let (request, mut encoder, mut out) = (Request::new(), Encoder::new(), Vec::new());
    Box::new(move || {
        out.clear();
        request.encode(&mut encoder, &mut out);
        black_box(&out);
    })
}

/// A block of indexed fields and one literal, into a list.
pub(super) fn decoding_a_block() -> Turn {
    let (blocks, mut decoder, mut fields) = (blocks(), Decoder::new(DEFAULT_TABLE_BYTES), FieldList::new());
    decoder.decode(&blocks[0], &LIMITS, &mut fields).expect("it is well formed");
    Box::new(move || {
        decoder.decode(black_box(&blocks[1]), &LIMITS, &mut fields).expect("it is well formed");
        black_box(fields.len());
    })
}

/// The canonical text of a list of fields.
pub(super) fn writing_a_request() -> Turn {
    let (mut fields, mut text) = (FieldList::new(), Vec::new());
    Decoder::new(DEFAULT_TABLE_BYTES).decode(&blocks()[0], &LIMITS, &mut fields).expect("it is well formed");
    Box::new(move || {
        text.clear();
        write_request(black_box(&fields), &Limits::default(), &mut text).expect("it is well formed");
        black_box(&text);
    })
}

/// One request without a body and its answer with one, as both ends see them.
pub(super) fn exchanging() -> Turn {
    let mut pair = Pair::new();
    pair.pass();
    Box::new(move || pair.exchange())
}

/// Two blocks of the same request, as one encoder makes them.
fn blocks() -> [Vec<u8>; 2] {
    let (request, mut encoder) = (Request::new(), Encoder::new());
    [(); 2].map(|()| {
        let mut block = Vec::new();
        request.encode(&mut encoder, &mut block);
        block
    })
}

struct Request {
    fields: FieldTable,
    head: RequestHead,
}

impl Request {
    fn new() -> Self {
        let mut fields = FieldTable::new();
        let head = parse_request(REQUEST, &Limits::default(), &mut fields);
        Self { head: head.expect("it is well formed").expect("it is whole"), fields }
    }

    fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let message = Message { buf: REQUEST, head: &self.head, fields: &self.fields };
        let edits = RequestEdits { target: b"/item/42?view=full", ..RequestEdits::default() };
        encode_request(encoder, &message, &edits, &RequestMapping { note: true, ..RequestMapping::default() }, out);
    }
}

struct Response {
    fields: FieldTable,
    head: ResponseHead,
}

impl Response {
    fn new() -> Self {
        let mut fields = FieldTable::new();
        let head = parse_response(RESPONSE, &Limits::default(), RequestKind::Other, &mut fields);
        Self { head: head.expect("it is well formed").expect("it is whole"), fields }
    }

    fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let message = Message { buf: RESPONSE, head: &self.head, fields: &self.fields };
        encode_response(encoder, &message, &ResponseEdits::default(), &ResponseMapping::default(), out);
    }
}

/// Both ends of a connection.
struct Pair {
    client: Connection,
    server: Connection,
    scratch: Scratch,
    at_client: Seen,
    at_server: Seen,
    request: Request,
    response: Response,
}

impl Pair {
    fn new() -> Self {
        Self {
            client: Connection::new(Role::Client, &Config::default()),
            server: Connection::new(Role::Server, &Config::default()),
            scratch: Scratch::new(),
            at_client: Seen::default(),
            at_server: Seen::default(),
            request: Request::new(),
            response: Response::new(),
        }
    }

    fn exchange(&mut self) {
        let asked = self.client.open(RequestKind::Other, true, |encoder, out| self.request.encode(encoder, out));
        let asked = asked.expect("there is room");
        self.pass();
        let id = self.at_server.request.take().expect("it came");
        assert!(self.server.send_head(id, false, |encoder, out| self.response.encode(encoder, out)));
        assert_eq!(self.server.send_data(id, &BODY, true), BODY.len());
        self.server.release(id);
        self.pass();
        assert_eq!(std::mem::take(&mut self.at_client.body), BODY.len());
        self.client.consumed(asked, BODY.len());
        self.client.release(asked);
    }

    /// Hands what either has to say to the other, until neither has.
    fn pass(&mut self) {
        let Self { client, server, scratch, at_client, at_server, .. } = self;
        while client.output().len() + server.output().len() > 0 {
            hand_over(&mut (client, at_client), &mut (server, at_server), scratch);
            hand_over(&mut (server, at_server), &mut (client, at_client), scratch);
        }
    }
}

/// A connection and what it was told.
type End<'a> = (&'a mut Connection, &'a mut Seen);

fn hand_over(from: &mut End<'_>, to: &mut End<'_>, scratch: &mut Scratch) {
    let count = from.0.output().len();
    let taken = to.0.receive(from.0.output(), scratch, to.1).expect("it is well formed");
    assert_eq!(taken, count);
    from.0.sent(count, from.1);
}

/// What one end was told.
#[derive(Default)]
struct Seen {
    request: Option<StreamId>,
    body: usize,
}

impl Events for Seen {
    fn request(&mut self, id: StreamId, text: &[u8], _: RequestShape, _: bool) {
        black_box(text);
        self.request = Some(id);
    }

    fn response(&mut self, _: StreamId, text: &[u8], _: ResponseShape, _: bool) {
        black_box(text);
    }

    fn data(&mut self, _: StreamId, bytes: &[u8], _: bool) {
        self.body += bytes.len();
    }

    fn trailers(&mut self, _: StreamId, _: &[u8]) {}

    fn reset(&mut self, _: StreamId, code: ErrorCode, _: Side) {
        panic!("a stream was reset: {code:?}");
    }

    fn writable(&mut self, _: StreamId) {}

    fn settings(&mut self) {}

    fn go_away(&mut self, _: StreamId, _: ErrorCode) {}
}
