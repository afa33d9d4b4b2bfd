//! One HTTP/2 connection, either role: bytes in, events and bytes out.
//!
//! In: what the peer sent; what the engine wants to send. Out: [`Events`], [`Connection::output`].
//! Limits: [`Config`]. Fails: [`ConnectionFault`]. Source: RFC 9113.

use super::budget::Budget;
use super::error::{ConnectionFault, ErrorCode, StreamId};
use super::events::Events;
use super::frame::{self, MAGIC};
use super::headers::Block;
use super::hpack::{DEFAULT_TABLE_BYTES, DecodeLimits, Decoder, Encoder, FieldList};
use super::output::Output;
use super::receive::Reading;
use super::recent::Recent;
use super::settings::{self, PeerSettings};
use super::stream::Streams;
use super::turn::Queue;
use super::window::{DEFAULT_WINDOW, MAX_CONNECTION_WINDOW, MAX_STREAM_WINDOW, ReceiveWindow, SendWindow};
use crate::http1_head::Limits;

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
    /// The limits of a head, also announced as `SETTINGS_MAX_HEADER_LIST_SIZE`.
    pub limits: Limits,
    /// Server: whether extended CONNECT is announced and taken (RFC 8441).
    pub extended_connect: bool,
    /// Whether [`Connection::receive`] leaves the input of a hasty peer where it is until the next [`Connection::tick`].
    pub paced: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: 65_536,
            connection_window: 1 << 20,
            limits: Limits::default(),
            extended_connect: false,
            paced: false,
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

/// One connection. All calls are made by one task; none waits. What it does with bytes is in `receive.rs`, `headers.rs` and
/// `control.rs`; what the engine sends, in `send.rs` and `turn.rs`.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) max_streams: usize,
    pub(super) extended_connect: bool,
    pub(super) paced: bool,
    /// A stream's receive window at its start.
    pub(super) stream_window: u32,

    pub(super) reading: Reading,
    pub(super) block: Option<Box<Block>>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) output: Output,

    pub(super) streams: Streams,
    pub(super) queue: Queue,
    pub(super) recent: Recent,
    /// Streams that are not over, and those that were reset and not released.
    pub(super) active: usize,
    pub(super) send_window: SendWindow,
    pub(super) receive_window: ReceiveWindow,
    /// Bytes unread that the window has been credited for all the same.
    pub(super) parked: u32,
    pub(super) peer: PeerSettings,
    pub(super) budget: Budget,

    /// Client: the next stream to open.
    pub(super) next_id: u32,
    /// Server: the highest identifier that the peer used, and the highest whose request reached the engine.
    pub(super) last_seen: StreamId,
    pub(super) last_taken: StreamId,
    /// Whether the peer's first frame, SETTINGS, came.
    pub(super) greeted: bool,
    pub(super) settings_acknowledged: bool,
    pub(super) ping_under_way: bool,
    pub(super) goodbye: Goodbye,
    pub(super) peer_goes_away: bool,
    pub(super) failed: bool,
}

/// How far our own GOAWAY has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Nothing was sent.
    Not,
    /// "No new streams, please" was sent, and a ping behind it; streams are still taken.
    Announced,
    /// The last stream was named; later ones are refused.
    Said,
}

impl Connection {
    /// A connection at its start; the output begins with our preface: the client's magic, SETTINGS, the connection window.
    pub fn new(role: Role, config: &Config) -> Self {
        let stream_window = config.stream_window.clamp(DEFAULT_WINDOW, MAX_STREAM_WINDOW);
        let connection_window = config.connection_window.clamp(DEFAULT_WINDOW, MAX_CONNECTION_WINDOW);
        let mut connection = Self {
            role,
            limits: config.limits,
            max_streams: config.max_streams as usize,
            extended_connect: config.extended_connect,
            paced: config.paced,
            stream_window,
            reading: if role == Role::Server { Reading::Magic } else { Reading::Frame },
            block: None,
            decoder: Decoder::new(DEFAULT_TABLE_BYTES),
            encoder: Encoder::new(),
            output: Output::default(),
            streams: Streams::new(),
            queue: Queue::new(),
            recent: Recent::default(),
            active: 0,
            send_window: SendWindow::new(DEFAULT_WINDOW),
            receive_window: ReceiveWindow::new(connection_window),
            parked: 0,
            peer: PeerSettings::new(),
            budget: Budget::new(),
            next_id: 1,
            last_seen: StreamId(0),
            last_taken: StreamId(0),
            greeted: false,
            settings_acknowledged: false,
            ping_under_way: false,
            goodbye: Goodbye::Not,
            peer_goes_away: false,
            failed: false,
        };
        connection.put_preface(config, connection_window - DEFAULT_WINDOW);
        connection
    }

    fn put_preface(&mut self, config: &Config, more_window: u32) {
        let out = &mut self.output.bytes;
        if self.role == Role::Client {
            out.extend_from_slice(MAGIC);
        }
        settings::put_ours(out, self.role, config);
        if more_window > 0 {
            frame::put_window_update(out, StreamId(0), more_window);
        }
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
        let mut at = 0;
        while at < input.len() && !self.failed && !self.is_paused() {
            match self.step(&input[at..], scratch, events) {
                Ok(0) => break,
                Ok(taken) => at += taken,
                Err(fault) => {
                    self.fail(fault.code);
                    return Err(fault);
                }
            }
        }
        if self.failed {
            return Ok(input.len());
        }
        self.offer(events);
        Ok(at)
    }

    /// Whether input waits for the next tick, because the peer was hasty.
    pub fn is_paused(&self) -> bool {
        self.paced && self.budget.is_hasty()
    }

    /// What is to be written to the peer.
    pub fn output(&self) -> &[u8] {
        self.output.waiting()
    }

    /// The first `n` bytes of [`output`](Self::output) were written; who waited for room gets [`Events::writable`].
    pub fn sent(&mut self, n: usize, events: &mut impl Events) {
        self.output.sent(n);
        if !self.failed {
            self.offer(events);
        }
    }

    /// Once per loop turn, after the woken tasks ran and before flushing: passes room on that was offered and not used. True
    /// when somebody was woken: let them run, and come again.
    pub fn turn(&mut self, events: &mut impl Events) -> bool {
        self.queue.forget_offers();
        !self.failed && self.offer(events)
    }

    /// `periods` of 100 ms passed since the last call: patience with oddities grows back (see `budget.rs`). Exactness does not
    /// matter; before [`receive`](Self::receive) is early enough, so no timer is needed for it.
    pub fn tick(&mut self, periods: u32) {
        self.budget.tick(periods);
    }

    /// Takes the output's buffer away while it is empty, for a pool; `None` while bytes wait in it.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        let empty = self.output.len() == 0 && self.output.bytes.capacity() > 0;
        empty.then(|| std::mem::take(&mut self.output.bytes))
    }

    /// Lends an empty buffer for output; used when the connection has none.
    pub fn lend_output(&mut self, buffer: Vec<u8>) {
        if self.output.bytes.capacity() == 0 && buffer.is_empty() {
            self.output.bytes = buffer;
        }
    }

    /// Nothing is expected for a while: gives back what memory streams took, if none is left.
    pub fn shrink(&mut self) {
        self.streams.shrink();
    }

    /// Sends a PING; [`Events::pong`] answers. One at a time: false while one is under way.
    pub fn ping(&mut self) -> bool {
        if self.ping_under_way || self.failed {
            return false;
        }
        self.ping_under_way = true;
        frame::put_ping(&mut self.output.bytes, 0, PING);
        true
    }

    /// Graceful: GOAWAY with 2^31-1, and once a ping came back with the last stream taken. Streams go on to their end.
    /// RFC 9113 6.8.
    pub fn drain(&mut self) {
        if self.goes_away() || self.failed {
            return;
        }
        match self.role {
            Role::Client => self.go_away(ErrorCode::NO_ERROR),
            Role::Server => {
                self.goodbye = Goodbye::Announced;
                frame::put_go_away(&mut self.output.bytes, StreamId::MAX, ErrorCode::NO_ERROR);
                frame::put_ping(&mut self.output.bytes, 0, DRAIN_PING);
            }
        }
    }

    /// GOAWAY at once: no further stream of the peer is taken.
    pub fn go_away(&mut self, code: ErrorCode) {
        if self.goodbye == Goodbye::Said || self.failed {
            return;
        }
        self.goodbye = Goodbye::Said;
        frame::put_go_away(&mut self.output.bytes, self.last_taken, code);
    }

    pub(super) fn goes_away(&self) -> bool {
        self.goodbye != Goodbye::Not
    }

    /// How many streams are not over, streams included that were reset and not released.
    pub fn active(&self) -> usize {
        self.active
    }

    /// Whether the connection has ended its life: it failed, or GOAWAY was sent or received and no stream is left.
    pub fn done(&self) -> bool {
        self.failed || ((self.goodbye == Goodbye::Said || self.peer_goes_away) && self.streams.len() == 0)
    }

    /// Whether the peer's preface and first SETTINGS came: until then the time to begin runs (H2-29).
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Whether a field block is incomplete: the peer owes its rest, and no stream's timeout runs for it.
    pub fn within_block(&self) -> bool {
        self.block.is_some()
    }

    /// Whether the peer acknowledged our SETTINGS.
    pub fn settings_acknowledged(&self) -> bool {
        self.settings_acknowledged
    }

    /// Whether a field block has begun whose last frame is still to come: nothing else may come before it (6.10).
    pub fn is_within_block(&self) -> bool {
        self.block.is_some()
    }

    /// Whether [`open`](Self::open) may be used for extended CONNECT: the peer's SETTINGS said so.
    pub fn peer_takes_extended_connect(&self) -> bool {
        self.peer.extended_connect
    }

    pub(super) fn decode_limits(&self) -> DecodeLimits {
        DecodeLimits { size_bytes: self.limits.head_bytes, fields: self.limits.fields + PSEUDO }
    }

    fn fail(&mut self, code: ErrorCode) {
        self.failed = true;
        self.block = None;
        frame::put_go_away(&mut self.output.bytes, self.last_taken, code);
    }
}

/// Pseudo-headers beside the fields that [`Limits::fields`] counts.
const PSEUDO: usize = 5;

/// What our pings carry, so that their answers are told apart.
pub(super) const PING: [u8; 8] = *b"\0mesh\0dp";
pub(super) const DRAIN_PING: [u8; 8] = *b"\0last\0id";
