//! Frames by hand, a connection fed in every way, and what came of it as text.
//!
//! In: bytes of a peer. Out: [`Peer`] with a log of events, the frames that the connection sent, its fault.

use meshdp_proto::RequestKind;
use meshdp_proto::h2::hpack::{Encoder, Indexing};
use meshdp_proto::h2::{
    Config, Connection, ConnectionFault, ErrorCode, Events, RequestShape, ResponseShape, Role, Scratch, Side, StreamId,
};

pub(crate) const MAGIC: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const WHOLE: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in parameters {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn number(kind: u8, id: u32, value: u32) -> Vec<u8> {
    frame(kind, 0, id, &value.to_be_bytes())
}

/// A block that changes no table.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Without, &mut out);
    }
    out
}

pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
pub(crate) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

pub(crate) fn with<'a>(start: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [start, more].concat()
}

pub(crate) fn headers(id: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE | flags, id, &block(fields))
}

pub(crate) fn get(id: u32) -> Vec<u8> {
    headers(id, END, &GET)
}

pub(crate) fn post(id: u32) -> Vec<u8> {
    headers(id, 0, &POST)
}

pub(crate) fn data(id: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, id, bytes)
}

pub(crate) fn padded(id: u32, flags: u8, bytes: &[u8], padding: u8) -> Vec<u8> {
    let payload = [&[padding], bytes, &vec![0; usize::from(padding)]].concat();
    frame(DATA, flags | PADDED, id, &payload)
}

/// What a client, or a server, sends first.
pub(crate) fn hello(from: Role) -> Vec<u8> {
    let magic = if from == Role::Client { MAGIC } else { b"" };
    [magic, &settings(&[])].concat()
}

/// A frame that the connection sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
    pub(crate) payload: Vec<u8>,
}

impl Sent {
    /// The number at this place of the payload.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// What happened, one line each; DATA of one stream in a row is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) lines: Vec<String>,
    /// Body bytes not consumed yet, in order.
    pub(crate) unread: Vec<(StreamId, usize)>,
    pub(crate) writable: Vec<StreamId>,
    pub(crate) over: Vec<StreamId>,
    open_data: Option<(StreamId, Vec<u8>)>,
}

impl Log {
    fn line(&mut self, line: String) {
        if let Some((id, bytes)) = self.open_data.take() {
            self.lines.push(format!("{id} data {} {}", bytes.len(), brief(&bytes)));
        }
        self.lines.push(line);
    }
}

fn brief(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned()
}

impl Events for Log {
    fn request(&mut self, id: StreamId, text: &[u8], _: RequestShape, end: bool) {
        self.line(format!("{id} request {} {end}", String::from_utf8_lossy(text).replace("\r\n", "|")));
    }

    fn response(&mut self, id: StreamId, text: &[u8], shape: ResponseShape, end: bool) {
        let text = String::from_utf8_lossy(text).replace("\r\n", "|");
        self.line(format!("{id} response {} {text} {end}", shape.status));
    }

    fn data(&mut self, id: StreamId, bytes: &[u8], end: bool) {
        self.unread.push((id, bytes.len()));
        match &mut self.open_data {
            Some((of, all)) if *of == id => all.extend_from_slice(bytes),
            _ => {
                let before = self.open_data.replace((id, bytes.to_vec()));
                if let Some((id, bytes)) = before {
                    self.lines.push(format!("{id} data {} {}", bytes.len(), brief(&bytes)));
                }
            }
        }
        if end {
            self.line(format!("{id} end"));
        }
    }

    fn trailers(&mut self, id: StreamId, text: &[u8]) {
        self.line(format!("{id} trailers {}", String::from_utf8_lossy(text).replace("\r\n", "|")));
    }

    fn reset(&mut self, id: StreamId, code: ErrorCode, by: Side) {
        self.over.push(id);
        self.line(format!("{id} reset {} {by:?}", code.name()));
    }

    fn writable(&mut self, id: StreamId) {
        self.writable.push(id);
    }

    fn go_away(&mut self, last: StreamId, code: ErrorCode) {
        self.line(format!("goaway {last} {}", code.name()));
    }

    fn pong(&mut self) {
        self.line("pong".to_owned());
    }

    fn answered(&mut self, id: StreamId, status: u16) {
        self.line(format!("{id} answered {status}"));
    }
}

/// The connection under test, as its peer and its engine see it.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) log: Log,
    pub(crate) fault: Option<ConnectionFault>,
    scratch: Scratch,
    input: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(role: Role) -> Self {
        Self::with(role, &Config::default())
    }

    pub(crate) fn with(role: Role, config: &Config) -> Self {
        let connection = Connection::new(role, config);
        Self { connection, log: Log::default(), fault: None, scratch: Scratch::new(), input: Vec::new() }
    }

    /// A connection that has seen the other side's preface, and whose own output was read.
    pub(crate) fn greeted(role: Role) -> Self {
        let mut peer = Self::new(role);
        peer.feed(&hello(other(role)));
        peer.feed(&frame(SETTINGS, ACK, 0, &[]));
        peer.sent();
        peer
    }

    /// A server whose input waits while its peer is hasty.
    pub(crate) fn paced() -> Self {
        let mut peer = Self::with(Role::Server, &Config { paced: true, ..Config::default() });
        peer.feed(&hello(Role::Client));
        peer.feed(&frame(SETTINGS, ACK, 0, &[]));
        peer.sent();
        peer
    }

    /// Gives these bytes; how many of them were taken. What was not is the caller's.
    pub(crate) fn feed_once(&mut self, bytes: &[u8]) -> usize {
        match self.connection.receive(bytes, &mut self.scratch, &mut self.log) {
            Ok(taken) => taken,
            Err(fault) => {
                self.fault = Some(fault);
                bytes.len()
            }
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        match self.connection.receive(&self.input, &mut self.scratch, &mut self.log) {
            Ok(taken) => drop(self.input.drain(..taken)),
            Err(fault) => {
                assert_eq!(self.fault, None, "a second fault");
                self.fault = Some(fault);
                self.input.clear();
            }
        }
    }

    /// Client: opens a GET, or what `fields` say.
    pub(crate) fn open(&mut self, kind: RequestKind, end: bool, fields: &[(&str, &str)]) -> u32 {
        self.connection.open(kind, end, |_, out| out.extend_from_slice(&block(fields))).unwrap().0
    }

    pub(crate) fn respond(&mut self, id: u32, end: bool) -> bool {
        self.connection.send_head(StreamId(id), end, |_, out| out.extend_from_slice(&block(&[(":status", "200")])))
    }

    /// The engine reads everything it was given.
    pub(crate) fn consume(&mut self) {
        for (id, n) in std::mem::take(&mut self.log.unread) {
            self.connection.consumed(id, n);
        }
    }

    /// The engine's work for streams that were reset is over.
    pub(crate) fn release_over(&mut self) {
        for id in std::mem::take(&mut self.log.over) {
            self.connection.release(id);
        }
    }

    /// Reads all output, as frames.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let mut bytes = self.connection.output().to_vec();
        self.connection.sent(bytes.len(), &mut self.log);
        if bytes.starts_with(MAGIC) {
            bytes.drain(..MAGIC.len());
        }
        parse(&bytes)
    }

    pub(crate) fn lines(&mut self) -> Vec<String> {
        if self.log.open_data.is_some() {
            self.log.line(String::new());
            self.log.lines.pop();
        }
        std::mem::take(&mut self.log.lines)
    }

    /// The code of the connection's fault, which must be in the GOAWAY too.
    pub(crate) fn fault_code(&mut self) -> &'static str {
        let fault = self.fault.expect("a connection fault");
        let last = self.sent().pop().expect("GOAWAY");
        assert_eq!((last.kind, last.number(4)), (GOAWAY, fault.code.0));
        fault.code.name()
    }
}

pub(crate) fn other(role: Role) -> Role {
    if role == Role::Server { Role::Client } else { Role::Server }
}

pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Sent> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let id = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        frames.push(Sent { kind: bytes[3], flags: bytes[4], id, payload: bytes[9..9 + length].to_vec() });
        bytes = &bytes[9 + length..];
    }
    frames
}

/// What bytes amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) lines: Vec<String>,
    pub(crate) fault: Option<&'static str>,
    /// `RST_STREAM` that was sent: stream and code.
    pub(crate) resets: Vec<(u32, &'static str)>,
    frames: Vec<Sent>,
}

/// What these bytes amount to behind a preface, the same for every way of cutting them (U7).
pub(crate) fn run(role: Role, bytes: &[u8]) -> Outcome {
    run_with(bytes, || Peer::greeted(role))
}

/// The same from a connection that `start` makes.
pub(crate) fn run_with(bytes: &[u8], start: impl Fn() -> Peer) -> Outcome {
    let whole = run_pieces(&[bytes], &start);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(run_pieces(&single, &start), whole, "byte by byte");
    let step = 1 + bytes.len() / 512;
    for at in (1..bytes.len()).step_by(step) {
        let (first, second) = bytes.split_at(at);
        assert_eq!(run_pieces(&[first, second], &start), whole, "cut at {at}");
    }
    whole
}

fn run_pieces(pieces: &[&[u8]], start: &impl Fn() -> Peer) -> Outcome {
    let mut peer = start();
    for piece in pieces {
        peer.feed(piece);
    }
    let lines = peer.lines();
    let frames = peer.sent();
    let resets = frames.iter().filter(|sent| sent.kind == RST_STREAM);
    let resets = resets.map(|sent| (sent.id, ErrorCode(sent.number(0)).name())).collect();
    Outcome { lines, fault: peer.fault.map(|fault| fault.code.name()), resets, frames }
}

impl Outcome {
    /// The one fault of one stream.
    pub(crate) fn stream_fault(&self) -> (u32, &'static str) {
        assert_eq!(self.fault, None, "{self:?}");
        assert_eq!(self.resets.len(), 1, "{self:?}");
        self.resets[0]
    }

    pub(crate) fn connection_fault(&self) -> &'static str {
        assert_eq!(self.frames.iter().filter(|sent| sent.kind == GOAWAY).count(), 1, "{self:?}");
        self.fault.unwrap_or_else(|| panic!("no connection fault: {self:?}"))
    }

    /// Nothing wrong at all.
    pub(crate) fn clean(&self) -> &[String] {
        assert_eq!((self.fault, self.resets.len()), (None, 0), "{self:?}");
        &self.lines
    }
}

/// A small generator: xorshift, for tests that must come again.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below.max(1)
    }
}
