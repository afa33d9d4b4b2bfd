//! What the engine sends: heads, bodies, trailers, resets, and credit for what it read.
//!
//! In: calls for one stream. Out: frames in the output. Limits: both send windows, the output's watermark, the other
//! streams' turns. Source: RFC 9113 6.1, 6.2, 6.4, 8.1.

use super::connection::{Connection, Role};
use super::error::{ErrorCode, NotOpened, StreamId};
use super::frame::{self, HEADER_BYTES, MAX_PAYLOAD, flag, kind};
use super::hpack::Encoder;
use super::output::WATERMARK;
use super::recent::Ended;
use super::stream::State;
use super::window::{MAX_CONNECTION_WINDOW, MAX_STREAM_WINDOW, ReceiveWindow, STREAM_SHARE, SendWindow};
use crate::http1_response::RequestKind;

impl Connection {
    /// Client: opens a stream with its request head (identifiers must reach the wire in order, so it is one call).
    /// `encode` writes the field block; it is not called when no stream can be opened.
    pub fn open(
        &mut self,
        kind: RequestKind,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<StreamId, NotOpened> {
        self.may_open()?;
        let id = StreamId(self.next_id);
        self.next_id += 2;
        let mut state = State::OPEN;
        state.set(State::ANSWERED);
        match kind {
            RequestKind::Head => state.set(State::HEAD_REQUEST),
            RequestKind::Connect => state.set(State::CONNECT_REQUEST),
            RequestKind::Other => {}
        }
        if end {
            state.clear(State::SENDS);
        }
        let send = SendWindow::new(self.peer.initial_window);
        self.streams.insert(id, state, send, ReceiveWindow::new(self.stream_window));
        self.active += 1;
        self.put_head(id, end, encode);
        Ok(id)
    }

    /// Client: whether [`open`](Self::open) would work now.
    pub fn may_open(&self) -> Result<(), NotOpened> {
        if self.failed || self.peer_goes_away || self.goes_away() || self.role == Role::Server {
            return Err(NotOpened::GoingAway);
        }
        if self.next_id > StreamId::MAX.0 {
            return Err(NotOpened::Exhausted);
        }
        if self.active >= self.peer.max_streams as usize { Err(NotOpened::Limit) } else { Ok(()) }
    }

    /// Client: how many streams the peer takes at a time, as far as it has said.
    pub fn peer_max_streams(&self) -> u32 {
        self.peer.max_streams
    }

    /// Server: sends a response head, interim ones too. False (and `encode` not called) when the stream is over.
    pub fn send_head(&mut self, id: StreamId, end: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> bool {
        let Some(slot) = self.sending(id) else { return false };
        self.put_head(id, end, encode);
        if end {
            self.end_sent(slot);
        }
        true
    }

    /// Sends trailers and the end. False (and `encode` not called) when the stream is over.
    pub fn send_trailers(&mut self, id: StreamId, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> bool {
        let Some(slot) = self.sending(id) else { return false };
        self.put_head(id, true, encode);
        self.end_sent(slot);
        true
    }

    /// Sends body bytes, as many as the windows, our output's watermark and the other streams' turns allow; the rest is for
    /// [`Events::writable`](super::Events::writable). `end` is sent with the last byte, so it is done exactly when all
    /// bytes were taken; an empty end is always taken. 0 when the stream is over.
    pub fn send_data(&mut self, id: StreamId, bytes: &[u8], end: bool) -> usize {
        let Some(slot) = self.sending(id) else { return 0 };
        if bytes.is_empty() {
            if end {
                self.output.bytes.extend_from_slice(&frame::header(0, kind::DATA, flag::END_STREAM, id));
                self.end_sent(slot);
            }
            return 0;
        }
        let taken = self.allowance(slot).min(bytes.len());
        let ends = end && taken == bytes.len();
        self.put_data(id, &bytes[..taken], ends);
        self.send_window.spend(taken);
        let stream = self.streams.at(slot);
        stream.send.spend(taken);
        if taken > 0 {
            stream.state.set(State::ANSWERED);
        }
        if taken < bytes.len() {
            if stream.send.available() == 0 {
                stream.state.set(State::BLOCKED);
            } else {
                self.enqueue(slot);
            }
        } else if ends {
            self.end_sent(slot);
        }
        taken
    }

    /// How much a stream may send now.
    fn allowance(&mut self, slot: u32) -> usize {
        let has_turn = self.use_turn(slot);
        let full = self.output.len() >= WATERMARK;
        if full || (!has_turn && !self.queue.is_empty()) {
            return 0;
        }
        // At least a frame, so that the watermark does not cut frames short; it is exceeded by that at most.
        let room = (WATERMARK - self.output.len()).max(MAX_PAYLOAD);
        let turn = if self.queue.is_empty() { room } else { MAX_PAYLOAD };
        turn.min(self.send_window.available()).min(self.streams.get(slot).send.available())
    }

    /// How many body bytes this stream could send now, were the output empty.
    pub fn send_window(&self, id: StreamId) -> usize {
        let stream = self.streams.find(id).map_or(0, |slot| self.streams.get(slot).send.available());
        stream.min(self.send_window.available())
    }

    /// How many body bytes all streams together could send now, were the output empty.
    pub fn connection_window(&self) -> usize {
        self.send_window.available()
    }

    /// How many body bytes the peer may send now on all streams together.
    pub fn receive_room(&self) -> usize {
        self.receive_window.available() as usize
    }

    /// Ends a stream with `RST_STREAM`; nothing when it is over already.
    pub fn reset(&mut self, id: StreamId, code: ErrorCode) {
        let Some(slot) = self.streams.find(id) else { return };
        let state = self.streams.get(slot).state;
        if state.is_over() || self.failed {
            return;
        }
        // A server that answered whole and does not want the rest of the request did its work (RFC 9113 8.1).
        if self.role == Role::Server && !state.is(State::SENDS) {
            self.budget.completed();
        }
        self.give_up(slot, State::RESET_BY_US);
        frame::put_reset(&mut self.output.bytes, id, code);
    }

    /// The reader took `n` bytes of what [`Events::data`](super::Events::data) gave: credit goes back, windows grow with use.
    pub fn consumed(&mut self, id: StreamId, n: usize) {
        let Some(slot) = self.streams.find(id) else { return };
        let stream = self.streams.at(slot);
        // After a reset all credit has gone back already.
        let n = stream.unread.min(n as u32);
        stream.unread -= n;
        stream.behind = stream.behind.saturating_sub(n);
        let parked = stream.parked.min(n);
        stream.parked -= parked;
        self.parked -= parked;
        self.credit_stream(slot, n);
        self.credit(n - parked);
    }

    /// The engine's work for this stream is over and it will not name it again. Once for each stream; a stream that is
    /// not over is reset (CANCEL; `NO_ERROR` where a server's response is complete), unread bytes are credited.
    pub fn release(&mut self, id: StreamId) {
        let Some(slot) = self.streams.find(id) else { return };
        let answered = self.role == Role::Server && !self.streams.get(slot).state.is(State::SENDS);
        self.reset(id, if answered { ErrorCode::NO_ERROR } else { ErrorCode::CANCEL });
        self.dequeue(slot);
        self.credit_unread(slot);
        let stream = *self.streams.get(slot);
        if stream.state.is(State::RESET) || !stream.state.is_over() {
            self.active -= 1;
        }
        let ended = if stream.state.is(State::RESET_BY_US) {
            Ended::ByUs
        } else if stream.state.is(State::RESET_BY_PEER) {
            Ended::ByPeer
        } else {
            Ended::Complete
        };
        self.recent.note(id, ended);
        self.streams.remove(slot);
    }

    /// A stream is over before its end: it leaves the queue, and what nobody will read is credited. It counts as active
    /// until it is released.
    pub(super) fn give_up(&mut self, slot: u32, by: State) {
        self.dequeue(slot);
        let stream = self.streams.at(slot);
        stream.state.clear(State::OPEN);
        stream.state.clear(State::BLOCKED);
        stream.state.set(by);
        self.credit_unread(slot);
    }

    /// Credit to the connection for all that a stream leaves unread.
    fn credit_unread(&mut self, slot: u32) {
        let stream = self.streams.at(slot);
        let (unread, parked) = (std::mem::take(&mut stream.unread), std::mem::take(&mut stream.parked));
        stream.behind = 0;
        self.parked -= parked;
        self.credit(unread - parked);
    }

    /// Credit to the connection for bytes that were read, or that nobody will read.
    pub(super) fn credit(&mut self, n: u32) {
        let credit = self.receive_window.give_back(n, MAX_CONNECTION_WINDOW);
        if self.failed {
            return;
        }
        match credit {
            Some(credit) => frame::put_window_update(&mut self.output.bytes, StreamId(0), credit),
            None if self.receive_window.is_scarce() => self.credit_all(),
            None => {}
        }
    }

    /// Credit to a stream, as long as its peer may send more.
    pub(super) fn credit_stream(&mut self, slot: u32, n: u32) {
        let most = MAX_STREAM_WINDOW.min(self.receive_window.size() / STREAM_SHARE);
        let stream = self.streams.at(slot);
        if !stream.state.is(State::RECEIVES) || self.failed {
            return;
        }
        if let Some(credit) = stream.receive.give_back(n, most) {
            frame::put_window_update(&mut self.output.bytes, stream.id, credit);
        }
    }

    fn sending(&self, id: StreamId) -> Option<u32> {
        let slot = self.streams.find(id)?;
        (self.streams.get(slot).state.is(State::SENDS) && !self.failed).then_some(slot)
    }

    fn end_sent(&mut self, slot: u32) {
        self.dequeue(slot);
        let state = &mut self.streams.at(slot).state;
        state.clear(State::SENDS);
        self.settle(slot);
    }

    /// A side ended: when both did, the stream was useful and counts no longer.
    pub(super) fn settle(&mut self, slot: u32) {
        if self.streams.get(slot).state.is_over() {
            self.active -= 1;
            self.budget.completed();
        }
    }

    fn put_data(&mut self, id: StreamId, mut bytes: &[u8], end: bool) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(MAX_PAYLOAD));
            let flags = if end && later.is_empty() { flag::END_STREAM } else { 0 };
            self.output.bytes.extend_from_slice(&frame::header(now.len(), kind::DATA, flags, id));
            self.output.bytes.extend_from_slice(now);
            self.budget.sent(now.len());
            bytes = later;
        }
    }

    fn put_head(&mut self, id: StreamId, end: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let out = &mut self.output.bytes;
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        encode(&mut self.encoder, out);
        let block = start + HEADER_BYTES;
        let end = if end { flag::END_STREAM } else { 0 };
        if out.len() - block <= MAX_PAYLOAD {
            let header = frame::header(out.len() - block, kind::HEADERS, end | flag::END_HEADERS, id);
            out[start..block].copy_from_slice(&header);
            return;
        }
        let rest = out.split_off(block + MAX_PAYLOAD);
        out[start..block].copy_from_slice(&frame::header(MAX_PAYLOAD, kind::HEADERS, end, id));
        let count = rest.len().div_ceil(MAX_PAYLOAD);
        for (number, part) in rest.chunks(MAX_PAYLOAD).enumerate() {
            let flags = if number + 1 == count { flag::END_HEADERS } else { 0 };
            out.extend_from_slice(&frame::header(part.len(), kind::CONTINUATION, flags, id));
            out.extend_from_slice(part);
        }
    }
}
