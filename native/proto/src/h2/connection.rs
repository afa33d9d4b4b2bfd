//! One HTTP/2 connection, either role: bytes in, events and bytes out.
//!
//! In: what the peer sent; what the engine wants to send. Out: [`Events`], [`Connection::output`].
//! Limits: [`Config`]. Fails: [`ConnectionFault`]. Source: RFC 9113.

use super::error::{ConnectionFault, ErrorCode, NotOpened, StreamId};
use super::events::Events;
use super::hpack::{Encoder, FieldList};
use crate::http1_head::Limits;
use crate::http1_response::RequestKind;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accepted it: the peer opens streams.
    Server,
    /// We dialled it: we open streams.
    Client,
}

/// What a connection promises its peer and allows it. One for many connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many streams the peer may have open, streams included that were reset and whose work goes on here (RFC 9113 5.1.2).
    pub max_streams: u32,
    /// A stream's receive window at its start, at least 65,535.
    pub stream_window: u32,
    /// The connection's receive window at its start, at least 65,535.
    pub connection_window: u32,
    /// The limits of a head, also announced as SETTINGS_MAX_HEADER_LIST_SIZE.
    pub limits: Limits,
    /// Server: whether extended CONNECT is announced and taken (RFC 8441).
    pub extended_connect: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: 65_536,
            connection_window: 1 << 20,
            limits: Limits::default(),
            extended_connect: false,
        }
    }
}

/// Working memory for heads; one per worker serves all its connections.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) fields: FieldList,
    pub(super) text: Vec<u8>,
}

impl Scratch {
    /// Empty; it grows to the largest head seen, which [`Config::limits`] bounds.
    pub fn new() -> Self {
        Self::default()
    }
}

/// One connection. All calls are made by one task; none waits.
#[derive(Debug)]
pub struct Connection {
    _todo: (),
}

impl Connection {
    /// A connection at its start; the output begins with our preface: the client's magic, SETTINGS, the connection window.
    pub fn new(role: Role, config: &Config) -> Self {
        let _ = (role, config);
        todo!()
    }

    /// Takes bytes from the peer and says how many; nothing of them is kept. DATA is taken in any pieces, every other frame
    /// only whole: the caller's buffer must hold [`super::MAX_INPUT_BYTES`], and leftovers are given again with more
    /// behind them. After a fault, input is taken and ignored.
    pub fn receive(
        &mut self,
        input: &[u8],
        scratch: &mut Scratch,
        events: &mut impl Events,
    ) -> Result<usize, ConnectionFault> {
        let _ = (input, scratch, events);
        todo!()
    }

    /// What is to be written to the peer.
    pub fn output(&self) -> &[u8] {
        todo!()
    }

    /// The first `n` bytes of [`output`](Self::output) were written; who waited for room gets [`Events::writable`].
    pub fn sent(&mut self, n: usize, events: &mut impl Events) {
        let _ = (n, events);
        todo!()
    }

    /// Once per loop turn, before flushing: passes room on that was offered and not used. True when somebody was woken:
    /// let them run, and come again.
    pub fn turn(&mut self, events: &mut impl Events) -> bool {
        let _ = events;
        todo!()
    }

    /// About every 100 ms while anything is open: patience with oddities grows back (see `budget.rs`).
    pub fn tick(&mut self) {
        todo!()
    }

    /// Takes the output's buffer away while it is empty, for a pool; `None` while bytes wait in it.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        todo!()
    }

    /// Lends a buffer for output; used when the connection has none.
    pub fn lend_output(&mut self, buffer: Vec<u8>) {
        let _ = buffer;
        todo!()
    }

    /// Client: opens a stream with its request head (identifiers must reach the wire in order, so it is one call).
    /// `encode` writes the field block; it is not called when no stream can be opened.
    pub fn open(
        &mut self,
        kind: RequestKind,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<StreamId, NotOpened> {
        let _ = (kind, end, encode);
        todo!()
    }

    /// Client: whether [`open`](Self::open) would work now.
    pub fn may_open(&self) -> Result<(), NotOpened> {
        todo!()
    }

    /// Server: sends a response head, interim ones too. False (and `encode` not called) when the stream is over.
    pub fn send_head(&mut self, id: StreamId, end: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> bool {
        let _ = (id, end, encode);
        todo!()
    }

    /// Sends body bytes, as many as the windows, our output's watermark and the other streams' turns allow; the rest is for
    /// [`Events::writable`]. `end` is sent with the last byte, so it is done exactly when all bytes were taken; an empty
    /// end is always taken. 0 when the stream is over.
    pub fn send_data(&mut self, id: StreamId, bytes: &[u8], end: bool) -> usize {
        let _ = (id, bytes, end);
        todo!()
    }

    /// Sends trailers and the end. False (and `encode` not called) when the stream is over.
    pub fn send_trailers(&mut self, id: StreamId, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> bool {
        let _ = (id, encode);
        todo!()
    }

    /// Ends a stream with RST_STREAM; nothing when it is over already.
    pub fn reset(&mut self, id: StreamId, code: ErrorCode) {
        let _ = (id, code);
        todo!()
    }

    /// The reader took `n` bytes of what [`Events::data`] gave: credit goes back, windows grow with use.
    pub fn consumed(&mut self, id: StreamId, n: usize) {
        let _ = (id, n);
        todo!()
    }

    /// The engine's work for this stream is over and it will not name it again. Once for each stream; a stream that is
    /// not over is reset (CANCEL; NO_ERROR where a server's response is complete), unread bytes are credited.
    pub fn release(&mut self, id: StreamId) {
        let _ = id;
        todo!()
    }

    /// Sends a PING; [`Events::pong`] answers. One at a time: false while one is under way.
    pub fn ping(&mut self) -> bool {
        todo!()
    }

    /// Graceful: GOAWAY with 2^31-1, and once a ping came back with the last stream taken. Streams go on to their end.
    pub fn drain(&mut self) {
        todo!()
    }

    /// GOAWAY at once: no further stream of the peer is taken.
    pub fn go_away(&mut self, code: ErrorCode) {
        let _ = code;
        todo!()
    }

    /// How many streams are not over, streams included that were reset and not released.
    pub fn active(&self) -> usize {
        todo!()
    }

    /// Whether the connection has ended its life: GOAWAY was sent or received (or it failed), no stream is left.
    pub fn done(&self) -> bool {
        todo!()
    }

    /// Whether the peer acknowledged our SETTINGS.
    pub fn settings_acknowledged(&self) -> bool {
        todo!()
    }

    /// Whether [`open`](Self::open) may be used for extended CONNECT: the peer's SETTINGS said so.
    pub fn peer_takes_extended_connect(&self) -> bool {
        todo!()
    }

    /// How many body bytes this stream could send now, were the output empty.
    pub fn send_window(&self, id: StreamId) -> usize {
        let _ = id;
        todo!()
    }
}
