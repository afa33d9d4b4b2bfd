//! Runs one operation of the sans-IO cores so many times: what `tests/cost` counts instructions of, and `bench` times.
//!
//! In:     `cores list`, or `cores OPERATION COUNT [SNAPSHOT]`; SNAPSHOT is a file with a transaction that has an empty base.
//! Out:    the names of all operations, a line each; or the nanoseconds that one took, on average.
//! Fails:  with a sentence on stderr and exit code 2.
//! A new operation is one line of `OPERATIONS`; `h2` and `swap` hold those of more than a few lines. Everything is prepared before the first turn, nothing is kept between turns
//! but buffers, as in the data plane.

mod h2;
mod swap;

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use meshdp_model::facts::{ConnectionFacts, Direction, HeaderValues, RequestFacts};
use meshdp_model::identity::Peer;
use meshdp_model::snapshot::Snapshot;
use meshdp_proto::http1_forward::{RequestEdits, ResponseEdits, encode_request, encode_response};
use meshdp_proto::http1_response::{RequestKind, parse_response};
use meshdp_proto::path::{PathMode, normalise};
use meshdp_proto::sniff::{Wanted, sniff};
use meshdp_proto::{BodyDecoder, FieldTable, Framing, Limits, parse_request};

type Turn = Box<dyn FnMut()>;
/// Prepares an operation; `None` where it lacks its snapshot.
type Begin = fn(Option<&Arc<Snapshot>>) -> Option<Turn>;

/// An operation by name; the snapshot is there for those that decide something.
const OPERATIONS: &[(&str, Begin)] = &[
    ("sniff", |_| Some(sniffing())),
    ("parse_request", |_| Some(parsing_a_request())),
    ("forward_request", |_| Some(forwarding_a_request())),
    ("forward_response", |_| Some(forwarding_a_response())),
    ("decode_chunks", |_| Some(decoding_chunks())),
    ("authorize_request", |snapshot| snapshot.map(|snapshot| authorizing(snapshot, 7))),
    ("authorize_last", |snapshot| snapshot.map(|snapshot| authorizing(snapshot, 99))),
    ("route_request", |snapshot| snapshot.map(routing)),
    ("h2_encode_head", |_| Some(h2::encoding_a_head())),
    ("h2_decode_block", |_| Some(h2::decoding_a_block())),
    ("h2_write_request", |_| Some(h2::writing_a_request())),
    ("h2_exchange", |_| Some(h2::exchanging())),
    ("swap_one_endpoint", |snapshot| snapshot.and_then(swap::moving_an_endpoint)),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<&str> = words.iter().map(String::as_str).collect();
    match asked[..] {
        ["list"] => {
            for (name, _) in OPERATIONS {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        [name, count] => run(name, count, None),
        [name, count, file] => run(name, count, Some(file)),
        _ => refuse("expected: cores list | cores OPERATION COUNT [SNAPSHOT]"),
    }
}

fn run(name: &str, count: &str, file: Option<&str>) -> ExitCode {
    let Ok(count) = count.parse::<u32>() else { return refuse("COUNT: expected a number") };
    let snapshot = match file.map(load).transpose().map(|found| found.map(Arc::new)) {
        Ok(snapshot) => snapshot,
        Err(why) => return refuse(&why),
    };
    let Some((_, begin)) = OPERATIONS.iter().find(|(known, _)| *known == name) else {
        return refuse("OPERATION: `cores list` names them");
    };
    let Some(mut turn) = begin(snapshot.as_ref()) else {
        return refuse("this operation needs a SNAPSHOT");
    };
    let start = Instant::now();
    for _ in 0..count {
        turn();
    }
    println!("{:.1}", start.elapsed().as_secs_f64() * 1e9 / f64::from(count.max(1)));
    ExitCode::SUCCESS
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

fn load(file: &str) -> Result<Snapshot, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    Snapshot::empty().apply(&bytes).map_err(|error| format!("{file}: {error}"))
}

fn sniffing() -> Turn {
    Box::new(|| {
        black_box(sniff(black_box(REQUEST), Wanted { tls: true, http: true }));
    })
}

fn parsing_a_request() -> Turn {
    let (mut fields, mut target) = (FieldTable::new(), Vec::new());
    Box::new(move || {
        let head = parse_request(black_box(REQUEST), &Limits::default(), &mut fields);
        let head = head.expect("it is well formed").expect("it is whole");
        target.clear();
        let parts = normalise(head.target.of(REQUEST), PathMode::Base, &mut target);
        black_box(parts.expect("it is a path").path_len);
    })
}

fn forwarding_a_request() -> Turn {
    let mut fields = FieldTable::new();
    let head = parse_request(REQUEST, &Limits::default(), &mut fields);
    let head = head.expect("it is well formed").expect("it is whole");
    let mut out = Vec::new();
    let append: [(&str, &[u8]); 1] = [("x-forwarded-proto", b"http")];
    Box::new(move || {
        out.clear();
        let edits = RequestEdits { target: b"/item/42?view=full", append: &append, ..RequestEdits::default() };
        encode_request(black_box(REQUEST), &head, &fields, &edits, &mut out);
        black_box(&out);
    })
}

fn forwarding_a_response() -> Turn {
    let (mut fields, mut out) = (FieldTable::new(), Vec::new());
    Box::new(move || {
        let head = parse_response(black_box(RESPONSE), &Limits::default(), RequestKind::Other, &mut fields);
        let head = head.expect("it is well formed").expect("it is whole");
        out.clear();
        encode_response(RESPONSE, &head, &fields, &ResponseEdits::default(), &mut out);
        black_box(&out);
    })
}

fn decoding_chunks() -> Turn {
    let mut body = Vec::new();
    for _ in 0..8 {
        body.extend_from_slice(b"80\r\n");
        body.extend_from_slice(&[b'x'; 128]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        let taken = BodyDecoder::new(Framing::Chunked).decode(black_box(&body), &mut out);
        assert_eq!(taken.expect("it is well formed"), body.len());
    })
}

/// What a request's parsed head shows of its fields.
struct Fields<'a>(&'a FieldTable);

impl HeaderValues for Fields<'_> {
    fn visit(&self, name_lower: &str, each: &mut dyn FnMut(&[u8]) -> bool) {
        let _ = self.0.values(REQUEST, name_lower).any(each);
    }
}

fn connection(direction: Direction, caller: u32) -> ConnectionFacts {
    let address = |text: &str| text.parse::<SocketAddr>().expect("a literal address");
    ConnectionFacts {
        direction,
        peer: Peer::parse(&format!("spiffe://cluster.local/ns/default/sa/caller-{caller}")).ok(),
        source: address("10.0.0.9:40000"),
        destination: address("10.0.0.1:8080"),
        sni: None,
    }
}

/// A request that one of the policies lets in.
fn authorizing(snapshot: &Arc<Snapshot>, caller: u32) -> Turn {
    let (snapshot, facts) = (Arc::clone(snapshot), connection(Direction::Inbound, caller));
    let mut fields = FieldTable::new();
    parse_request(REQUEST, &Limits::default(), &mut fields).expect("it is well formed");
    let mut context = snapshot.connection_context(&facts);
    let path = format!("/api/{caller}/item");
    Box::new(move || {
        let request = RequestFacts {
            method: b"GET",
            path: path.as_bytes(),
            authority: b"web.default",
            remote_ip: facts.source.ip(),
            headers: &Fields(&fields),
            claims: None,
        };
        let judged = snapshot.authorize_request_in(&mut context, &facts, black_box(&request));
        assert!(judged.is_ok(), "a policy names this caller");
    })
}

fn routing(snapshot: &Arc<Snapshot>) -> Turn {
    let (snapshot, facts) = (Arc::clone(snapshot), connection(Direction::Outbound, 0));
    let permit = snapshot.permit_outbound(&facts);
    Box::new(move || {
        let route = snapshot.route_request(&permit, 80, black_box(b"service-3.default"), None, 7);
        black_box(matches!(route, meshdp_model::route::Route::Cluster { .. }));
    })
}

/// A browser-like request: twelve fields.
const REQUEST: &[u8] = b"GET /item/42?view=full HTTP/1.1\r\nHost: shop.default.svc.cluster.local:9080\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=6f1c2a; theme=dark\r\n\
Authorization: Bearer abcdefghijklmnopqrstuvwxyz\r\nX-Request-Id: 5f2b6f3e-7a3a-4b79-9d7c-1f0c2f6d8e11\r\n\
X-Forwarded-For: 203.0.113.9\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
Cache-Control: no-cache\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: application\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\nContent-Length: 1024\r\nVary: Accept-Encoding\r\n\
Cache-Control: private, max-age=0\r\nX-Response-Time: 12\r\n\r\n";
