//! Flow control both ways: H2-17 to H2-20, H2-32, and the ledger of credit as a property.

use super::wire::*;
use meshdp_proto::RequestKind;
use meshdp_proto::h2::{ErrorCode, Role, StreamId};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SERVER: Role = Role::Server;
const CLIENT: Role = Role::Client;
const STREAM_WINDOW: usize = 65_536;
const CONNECTION_WINDOW: usize = 1 << 20;

/// Credit that was sent: stream, increment.
fn credit(frames: &[Sent]) -> Vec<(u32, u32)> {
    frames.iter().filter(|sent| sent.kind == WINDOW_UPDATE).map(|sent| (sent.id, sent.number(0))).collect()
}

#[test]
fn h2_17_updates_of_zero_and_beyond_the_largest() {
    let stream_faults = [
        (number(WINDOW_UPDATE, 1, 0), "protocol_error"),
        (number(WINDOW_UPDATE, 1, 0x7fff_ffff), "flow_control_error"),
    ];
    for (bytes, code) in stream_faults {
        assert_eq!(run(SERVER, &[get(1), bytes.clone()].concat()).stream_fault(), (1, code));
        let client = || {
            let mut peer = Peer::greeted(CLIENT);
            peer.open(RequestKind::Other, true, &GET);
            peer.sent();
            peer
        };
        assert_eq!(run_with(&bytes, client).stream_fault(), (1, code));
    }
    assert_eq!(run(SERVER, &number(WINDOW_UPDATE, 0, 0)).connection_fault(), "protocol_error");
    assert_eq!(run(SERVER, &number(WINDOW_UPDATE, 0, 0x7fff_ffff)).connection_fault(), "flow_control_error");
    assert_eq!(run(CLIENT, &number(WINDOW_UPDATE, 0, 0x7fff_ffff)).connection_fault(), "flow_control_error");
    run(SERVER, &[get(1), number(WINDOW_UPDATE, 1, 0x7fff_ffff - 65_535)].concat()).clean();
}

#[test]
fn h2_18_the_initial_window_moves_all_windows() {
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&[settings(&[(4, 100)]), get(1)].concat());
    peer.respond(1, false);
    assert_eq!(peer.connection.send_data(StreamId(1), &[b'x'; 500], false), 100);
    peer.feed(&settings(&[(4, 0)]));
    assert_eq!(peer.connection.send_window(StreamId(1)), 0);
    // 100 below zero now: 99 are not enough, 150 leave 50.
    peer.feed(&number(WINDOW_UPDATE, 1, 99));
    assert_eq!(peer.connection.send_data(StreamId(1), b"x", false), 0);
    peer.feed(&number(WINDOW_UPDATE, 1, 51));
    assert_eq!(peer.log.writable, [StreamId(1)]);
    assert_eq!(peer.connection.send_data(StreamId(1), &[b'x'; 500], false), 50);
    peer.feed(&settings(&[(4, 30)]));
    assert_eq!(peer.connection.send_window(StreamId(1)), 30);
    assert_eq!(peer.log.writable.len(), 2, "raised by SETTINGS");
    peer.feed(&number(WINDOW_UPDATE, 1, 0x7fff_ffff - 30));
    peer.feed(&settings(&[(4, 31)]));
    assert_eq!(peer.fault_code(), "flow_control_error");
}

#[test]
fn h2_19_data_beyond_the_window() {
    let chunk = data(1, 0, &[b'x'; 16_384]);
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&post(1));
    for _ in 0..4 {
        peer.feed(&chunk);
    }
    peer.feed(&data(1, 0, b"x"));
    let last = peer.sent().pop().unwrap();
    assert_eq!((last.kind, last.id, last.number(0)), (RST_STREAM, 1, ErrorCode::FLOW_CONTROL_ERROR.0));
    assert_eq!(peer.fault, None);
    // The connection's: 16 stalled streams of 64 KiB fill it.
    let mut peer = Peer::greeted(SERVER);
    for stream in 0..16 {
        peer.feed(&post(1 + 2 * stream));
        for _ in 0..4 {
            peer.feed(&data(1 + 2 * stream, 0, &[b'x'; 16_384]));
        }
    }
    peer.feed(&post(33));
    assert_eq!(peer.fault, None);
    peer.feed(&data(33, 0, b"x"));
    assert_eq!(peer.fault_code(), "flow_control_error");
}

#[test]
fn h2_20_padding_and_unread_data_come_back() {
    // Padding comes back at once, though nobody reads the byte.
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&post(1));
    let mut back = 0;
    for round in 0..100_000 {
        peer.feed(&padded(1, 0, if round % 1_000 == 0 { b"x" } else { b"" }, 255));
        back +=
            credit(&peer.sent()).iter().filter(|credit| credit.0 == 0).map(|credit| credit.1 as usize).sum::<usize>();
        peer.connection.tick(1);
        assert_eq!(peer.fault, None, "{round}");
    }
    let sent = 100_000 * 256;
    assert!(back <= sent + 3 * CONNECTION_WINDOW && back > sent - 2 * CONNECTION_WINDOW, "{back} of {sent}");
    // DATA on a stream that we reset: padded or not, no window is lost, for ever.
    let mut peer = Peer::greeted(SERVER);
    peer.feed(&post(1));
    peer.connection.reset(StreamId(1), ErrorCode::CANCEL);
    peer.connection.release(StreamId(1));
    for _ in 0..2_000 {
        peer.feed(&padded(1, 0, &[b'x'; 1_000], 255));
        peer.sent();
    }
    assert_eq!(peer.fault, None);
    assert_eq!(peer.log.unread, []);
    // What was given and not read when a stream ends comes back too.
    let mut peer = Peer::greeted(SERVER);
    for round in 0..500 {
        let id = 1 + 2 * round;
        peer.feed(&[post(id), data(id, 0, &[b'x'; 16_384]), number(RST_STREAM, id, 8)].concat());
        peer.release_over();
        peer.sent();
        peer.connection.tick(1);
    }
    assert_eq!(peer.fault, None);
}

#[test]
fn h2_32_a_stalled_reader_pins_nobody() {
    let mut peer = Peer::greeted(SERVER);
    // The stalled stream has read much before: its window has grown as far as it goes.
    peer.feed(&[post(1), post(3)].concat());
    let mut granted = BTreeMap::from([(1, STREAM_WINDOW), (3, STREAM_WINDOW)]);
    for _ in 0..1_000 {
        peer.feed(&data(1, 0, &[b'x'; 16_384]));
        *granted.get_mut(&1).unwrap() -= 16_384;
        peer.consume();
        for (id, n) in credit(&peer.sent()) {
            *granted.entry(id).or_default() += n as usize;
        }
    }
    assert_eq!(peer.fault, None);
    let most = granted[&1];
    assert!(most <= 1 << 20, "{most}");
    assert!(most > 512 * 1024, "it grew with use: {most}");
    while granted[&1] >= 16_384 {
        peer.feed(&data(1, 0, &[b'x'; 16_384]));
        *granted.get_mut(&1).unwrap() -= 16_384;
    }
    // Now it stalls, and 3 moves 64 MiB.
    let stalled = std::mem::take(&mut peer.log.unread);
    for _ in 0..4_000 {
        peer.feed(&data(3, 0, &[b'x'; 16_384]));
        peer.consume();
        assert_eq!(peer.fault, None);
    }
    assert!(peer.lines().iter().all(|line| !line.contains("reset")));
    assert!(!stalled.is_empty());
}

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Data { stream: usize, bytes: usize, padding: Option<u8>, end: bool },
    Consume { stream: usize, part: usize },
    Reset { stream: usize },
    PeerReset { stream: usize },
    Release { stream: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = 0..6usize;
    let step = prop_oneof![
        2 => Just(Step::Open),
        8 => (stream.clone(), 0..16_000usize, proptest::option::of(any::<u8>()), proptest::bool::weighted(0.05))
            .prop_map(|(stream, bytes, padding, end)| Step::Data { stream, bytes, padding, end }),
        6 => (stream.clone(), 1..5usize).prop_map(|(stream, part)| Step::Consume { stream, part }),
        1 => stream.clone().prop_map(|stream| Step::Reset { stream }),
        1 => stream.clone().prop_map(|stream| Step::PeerReset { stream }),
        1 => stream.prop_map(|stream| Step::Release { stream }),
    ];
    proptest::collection::vec(step, 1..300)
}

/// What a model of the peer knows: its windows, and what it sent.
#[derive(Default)]
struct Ledger {
    streams: Vec<u32>,
    window: BTreeMap<u32, i64>,
    unread: BTreeMap<u32, usize>,
    closed: std::collections::BTreeSet<u32>,
    sent: i64,
    credited: i64,
    grown: i64,
}

impl Ledger {
    fn id(&self, stream: usize) -> Option<u32> {
        self.streams.iter().rev().nth(stream).copied()
    }

    /// The peer reads our output; its windows must stay in range.
    fn settle(&mut self, peer: &mut Peer) {
        for (id, n) in credit(&peer.sent()) {
            *self.window.entry(id).or_default() += i64::from(n);
            if id == 0 {
                self.credited += i64::from(n);
            }
        }
        for (id, n) in std::mem::take(&mut peer.log.unread) {
            *self.unread.entry(id.0).or_default() += n;
        }
        for id in std::mem::take(&mut peer.log.over) {
            self.closed.insert(id.0);
        }
        let connection = self.window[&0];
        assert!((0..=4 << 20).contains(&connection), "{connection}");
        assert!(self.window.iter().all(|(id, window)| *id == 0 || *window <= 1 << 20));
        self.grown = self.credited + CONNECTION_WINDOW as i64 - self.sent - connection;
        assert_eq!(self.grown, 0, "the peer's own sum");
    }
}

fn play(steps: &[Step]) {
    let mut peer = Peer::greeted(SERVER);
    let mut ledger = Ledger::default();
    ledger.window.insert(0, CONNECTION_WINDOW as i64);
    for step in steps {
        act(step, &mut peer, &mut ledger);
        assert_eq!(peer.fault, None);
        ledger.settle(&mut peer);
        peer.connection.tick(1);
    }
    // Everything is read or given up: all but less than half a window has come back.
    for id in ledger.streams.clone() {
        peer.connection.release(StreamId(id));
    }
    ledger.settle(&mut peer);
    let window = ledger.window[&0];
    assert!(window > CONNECTION_WINDOW as i64 / 2, "the connection's window leaked: {window}");
    assert_eq!(peer.connection.active(), 0);
}

fn act(step: &Step, peer: &mut Peer, ledger: &mut Ledger) {
    match *step {
        Step::Open if peer.connection.active() < 100 => {
            let id = 1 + 2 * ledger.streams.len() as u32;
            peer.feed(&post(id));
            ledger.streams.push(id);
            ledger.window.insert(id, STREAM_WINDOW as i64);
        }
        Step::Open => {}
        Step::Data { stream, bytes, padding, end } => {
            let Some(id) = ledger.id(stream).filter(|id| !ledger.closed.contains(id)) else { return };
            let length = (bytes + padding.map_or(0, |padding| usize::from(padding) + 1)) as i64;
            if length > ledger.window[&id].min(ledger.window[&0]) || length > 16_384 {
                return;
            }
            let body = vec![b'x'; bytes];
            let flags = u8::from(end);
            peer.feed(&padding.map_or_else(|| data(id, flags, &body), |padding| padded(id, flags, &body, padding)));
            *ledger.window.get_mut(&id).unwrap() -= length;
            *ledger.window.get_mut(&0).unwrap() -= length;
            ledger.sent += length;
            if end {
                ledger.closed.insert(id);
            }
        }
        Step::Consume { stream, part } => {
            let Some(id) = ledger.id(stream) else { return };
            let unread = ledger.unread.entry(id).or_default();
            let n = unread.div_ceil(part);
            *unread -= n;
            peer.connection.consumed(StreamId(id), n);
        }
        Step::Reset { stream } => {
            let Some(id) = ledger.id(stream) else { return };
            peer.connection.reset(StreamId(id), ErrorCode::CANCEL);
            // Data under way goes on for a while: the model peer may still send it.
        }
        Step::PeerReset { stream } => {
            let Some(id) = ledger.id(stream) else { return };
            peer.feed(&number(RST_STREAM, id, 8));
            ledger.closed.insert(id);
        }
        Step::Release { stream } => {
            let Some(id) = ledger.id(stream) else { return };
            peer.connection.release(StreamId(id));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn credit_is_what_was_read_and_windows_stay_in_range(steps in steps()) {
        play(&steps);
    }
}
