//! Field blocks: one HEADERS frame, or several with CONTINUATION, become a request, a response or trailers.
//!
//! In: whole frames. Out: [`Events`] with canonical text. A block is decoded whatever its stream, because the table must
//! keep in step. Limits: [`BLOCK_FACTOR`] times the head's limit and [`MAX_FRAMES`] for a block in pieces, which is kept
//! only while it is incomplete. Fails: [`ConnectionFault`]; a malformed message resets its stream (RFC 9113 8.1.1).
//! Source: RFC 9113 4.3, 5.1, 6.2, 6.10, 8.

use super::budget;
use super::connection::{Connection, Goodbye, Role, Scratch};
use super::error::{ConnectionFault, ErrorCode, StreamId};
use super::events::Events;
use super::frame::{self, Header, flag, kind};
use super::message::{self, MessageFault, RequestShape, ResponseShape};
use super::receive::{protocol, size};
use super::recent::Ended;
use super::stream::{State, UNDECLARED};
use super::window::{ReceiveWindow, SendWindow};

/// How much longer than the head's limit a compressed block may be: a head above the limit is answered with 431, one that
/// is far above ends the connection (H2-04, H2-14).
const BLOCK_FACTOR: usize = 2;
/// How many frames a block may have.
const MAX_FRAMES: u32 = 128;
/// Identifiers left when a server begins to send its client to another connection (H2-15).
const LAST_IDS: u32 = 2_000;
/// `:status` as a literal that no table takes (RFC 7541 6.2.2): entry 8 of the static table names it.
const STATUS_LITERAL: [u8; 2] = [0x08, 0x03];

/// A block under way.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) id: StreamId,
    head: Head,
    frames: u32,
    bytes: Vec<u8>,
}

/// What the HEADERS frame said beside its fields.
#[derive(Clone, Copy, Debug)]
struct Head {
    id: StreamId,
    end: bool,
    /// The stream depends on itself, which is malformed though priorities are ignored (RFC 7540 5.3.1).
    on_itself: bool,
}

type Done = Result<(), ConnectionFault>;

impl Connection {
    pub(super) fn take_headers(
        &mut self,
        header: Header,
        payload: &[u8],
        scratch: &mut Scratch,
        events: &mut impl Events,
    ) -> Done {
        let id = header.id;
        if id.0.is_multiple_of(2) {
            return Err(protocol("HEADERS must belong to a stream that a client opened."));
        }
        let mut fragment = payload;
        if header.has(flag::PADDED) {
            let Some((padding, rest)) = fragment.split_first() else {
                return Err(size("A padded frame must have room for the length of its padding."));
            };
            let Some(length) = rest.len().checked_sub(usize::from(*padding)) else {
                return Err(protocol("Padding must be shorter than its frame."));
            };
            fragment = &rest[..length];
        }
        let mut on_itself = false;
        if header.has(flag::PRIORITY) {
            let Some((priority, rest)) = fragment.split_at_checked(5) else {
                return Err(size("HEADERS with a priority must have room for it."));
            };
            on_itself = frame::number(priority) & StreamId::MAX.0 == id.0;
            fragment = rest;
        }
        let head = Head { id, end: header.has(flag::END_STREAM), on_itself };
        if header.has(flag::END_HEADERS) {
            return self.take_block(head, fragment, scratch, events);
        }
        self.block = Some(Box::new(Block { id, head, frames: 1, bytes: fragment.to_vec() }));
        Ok(())
    }

    /// A piece of the block under way; that there is one was checked with the frame's header.
    pub(super) fn take_continuation(
        &mut self,
        header: Header,
        payload: &[u8],
        scratch: &mut Scratch,
        events: &mut impl Events,
    ) -> Done {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        block.frames += 1;
        if block.bytes.len() + payload.len() > self.limits.head_bytes * BLOCK_FACTOR || block.frames > MAX_FRAMES {
            let why = "A field block must not be far above the head's limit, nor in more than 128 frames.";
            return Err(ConnectionFault { code: ErrorCode::ENHANCE_YOUR_CALM, why });
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.take_block(block.head, &block.bytes, scratch, events);
        }
        self.block = Some(block);
        Ok(())
    }

    fn take_block(&mut self, head: Head, block: &[u8], scratch: &mut Scratch, events: &mut impl Events) -> Done {
        let limits = self.decode_limits();
        self.decoder
            .decode(block, &limits, &mut scratch.fields)
            .map_err(|fault| ConnectionFault { code: ErrorCode::COMPRESSION_ERROR, why: fault.sentence() })?;
        if self.role == Role::Server && head.id > self.last_seen {
            self.last_seen = head.id;
            return self.take_request(head, scratch, events);
        }
        if self.role == Role::Server && self.was_never_open(head.id) {
            return Err(protocol("A new stream must have a higher identifier than all before it."));
        }
        let Some(slot) = self.live(head.id, events)? else { return Ok(()) };
        if head.on_itself {
            return self.fault_stream(slot, ErrorCode::PROTOCOL_ERROR, events);
        }
        let taken = if self.streams.get(slot).state.is(State::HEAD_RECEIVED) {
            self.take_trailers(slot, head, scratch, events)
        } else {
            self.take_response(slot, head, scratch, events)?
        };
        match taken {
            Ok(()) => Ok(()),
            Err(code) => self.fault_stream(slot, code, events),
        }
    }

    /// Whether an identifier below the highest was passed over; those that are long over get the benefit of the doubt.
    fn was_never_open(&self, id: StreamId) -> bool {
        self.streams.find(id).is_none() && self.recent.find(id).is_none() && !self.recent.may_have_forgotten(id)
    }

    /// A stream that the peer opens. It gets a slot when everything about its head is right.
    fn take_request(&mut self, head: Head, scratch: &mut Scratch, events: &mut impl Events) -> Done {
        if self.goodbye == Goodbye::Said
            || self.active >= self.max_streams
            || self.streams.len() >= self.max_streams * 2
        {
            self.charge(budget::REFUSED)?;
            return self.refuse(head.id, ErrorCode::REFUSED_STREAM);
        }
        let shape = match message::write_request(&scratch.fields, &self.limits, &mut scratch.text) {
            Ok(shape) if !head.on_itself && self.takes(head, shape) => shape,
            Err(fault) if fault.status().is_some() => return self.answer(head, fault, events),
            _ => {
                events.refused(head.id);
                self.charge(budget::RESET)?;
                return self.refuse(head.id, ErrorCode::PROTOCOL_ERROR);
            }
        };
        self.last_taken = head.id;
        if head.id.0 > StreamId::MAX.0 - LAST_IDS {
            self.drain();
        }
        let mut state = State::OPEN;
        state.set(State::HEAD_RECEIVED);
        if head.end {
            state.clear(State::RECEIVES);
        }
        let send = SendWindow::new(self.peer.initial_window);
        let slot = self.streams.insert(head.id, state, send, ReceiveWindow::new(self.stream_window));
        let stream = self.streams.at(slot);
        if shape.tunnel == message::Tunnel::No {
            stream.body_left = shape.content_length.unwrap_or(UNDECLARED);
        } else {
            stream.state.set(State::CONNECT_REQUEST);
        }
        self.active += 1;
        events.request(head.id, &scratch.text, shape, head.end);
        Ok(())
    }

    /// What the text of a request cannot show to be wrong.
    fn takes(&self, head: Head, shape: RequestShape) -> bool {
        match shape.tunnel {
            message::Tunnel::No => !(head.end && shape.ends_short()),
            message::Tunnel::Connect => true,
            message::Tunnel::Extended => self.extended_connect,
        }
    }

    /// `RST_STREAM` for a stream that never began here.
    fn refuse(&mut self, id: StreamId, code: ErrorCode) -> Done {
        self.reply()?;
        frame::put_reset(&mut self.output.bytes, id, code);
        self.recent.note(id, Ended::ByUs);
        Ok(())
    }

    /// An honest request that is too large gets its status; the engine cannot, for want of a head it could read.
    fn answer(&mut self, head: Head, fault: MessageFault, events: &mut impl Events) -> Done {
        let status = fault.status().unwrap_or(431);
        self.charge(budget::TOO_LARGE)?;
        self.budget.was_large();
        self.reply()?;
        let out = &mut self.output.bytes;
        out.extend_from_slice(&frame::header(5, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, head.id));
        out.extend_from_slice(&STATUS_LITERAL);
        out.extend_from_slice(&[
            b'0' + (status / 100) as u8,
            b'0' + (status / 10 % 10) as u8,
            b'0' + (status % 10) as u8,
        ]);
        self.last_taken = head.id;
        events.answered(head.id, status);
        if head.end {
            self.recent.note(head.id, Ended::Complete);
            return Ok(());
        }
        self.refuse(head.id, ErrorCode::NO_ERROR)
    }

    /// Client: a final or interim response. The outer fault is the connection's, the inner one the stream's.
    fn take_response(
        &mut self,
        slot: u32,
        head: Head,
        scratch: &mut Scratch,
        events: &mut impl Events,
    ) -> Result<Result<(), ErrorCode>, ConnectionFault> {
        let Ok(shape) = message::write_response(&scratch.fields, &self.limits, &mut scratch.text) else {
            return Ok(Err(ErrorCode::PROTOCOL_ERROR));
        };
        if shape.interim {
            self.charge(budget::INTERIM)?;
            if head.end {
                return Ok(Err(ErrorCode::PROTOCOL_ERROR));
            }
            events.response(head.id, &scratch.text, shape, false);
            return Ok(Ok(()));
        }
        let stream = self.streams.at(slot);
        stream.state.set(State::HEAD_RECEIVED);
        if !(200..300).contains(&shape.status) {
            stream.state.clear(State::CONNECT_REQUEST);
        }
        stream.body_left = body_of_response(stream.state, shape);
        if head.end {
            if stream.body_left != UNDECLARED && stream.body_left > 0 {
                return Ok(Err(ErrorCode::PROTOCOL_ERROR));
            }
            self.end_received(slot);
        }
        events.response(head.id, &scratch.text, shape, head.end);
        Ok(Ok(()))
    }

    fn take_trailers(
        &mut self,
        slot: u32,
        head: Head,
        scratch: &mut Scratch,
        events: &mut impl Events,
    ) -> Result<(), ErrorCode> {
        // Trailers must end the stream (8.1), the body must be whole before them (8.1.1), a tunnel has none (8.5).
        let stream = self.streams.get(slot);
        let (left, tunnel) = (stream.body_left, stream.state.is(State::CONNECT_REQUEST));
        if !head.end || tunnel || (left != UNDECLARED && left > 0) {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        message::write_trailers(&scratch.fields, &self.limits, &mut scratch.text)
            .map_err(|_| ErrorCode::PROTOCOL_ERROR)?;
        self.end_received(slot);
        events.trailers(head.id, &scratch.text);
        Ok(())
    }
}

/// How many bytes of body must come (RFC 9110 6.4.1, RFC 9113 8.1.1, 8.5).
fn body_of_response(state: State, shape: ResponseShape) -> u64 {
    if state.is(State::CONNECT_REQUEST) {
        return UNDECLARED;
    }
    if !shape.has_body(state.is(State::HEAD_REQUEST)) {
        return 0;
    }
    shape.content_length.unwrap_or(UNDECLARED)
}
