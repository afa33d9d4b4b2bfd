//! Bytes from the peer, one frame after another; DATA passes through in the pieces it comes in.
//!
//! In: what the socket gave. Out: [`Events`]. Limits: the receive windows; what is kept of a frame under way is
//! [`Reading`]. Fails: [`ConnectionFault`]; what concerns one stream resets that stream. Source: RFC 9113 4, 5.1, 6.1.

use super::budget;
use super::connection::{Connection, Role, Scratch};
use super::error::{ConnectionFault, ErrorCode, Side, StreamId};
use super::events::Events;
use super::frame::{self, HEADER_BYTES, Header, MAGIC, MAX_PAYLOAD, flag, kind};
use super::recent::Ended;
use super::stream::{State, UNDECLARED};

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// The client's magic (RFC 9113 3.4).
    Magic,
    /// A frame's header.
    Frame,
    /// The payload of a DATA frame.
    Data(Data),
    /// Bytes that nobody wants: padding, unknown frames, DATA of streams that are over.
    Skip(u32),
}

/// A DATA frame under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    id: StreamId,
    left: u32,
    padding: u32,
    end: bool,
}

type Taken = Result<usize, ConnectionFault>;

impl Connection {
    /// Takes what comes next from the start of `input`, which is not empty. 0: more must come.
    pub(super) fn step(&mut self, input: &[u8], scratch: &mut Scratch, events: &mut impl Events) -> Taken {
        match self.reading {
            Reading::Frame => self.take_frame(input, scratch, events),
            Reading::Data(data) => Ok(self.take_data(data, input, events)),
            Reading::Skip(left) => {
                let taken = input.len().min(left as usize);
                self.skip(left - taken as u32);
                Ok(taken)
            }
            Reading::Magic => self.take_magic(input),
        }
    }

    fn take_magic(&mut self, input: &[u8]) -> Taken {
        let known = input.len().min(MAGIC.len());
        if input[..known] != MAGIC[..known] {
            return Err(protocol("The connection must begin with the preface of HTTP/2."));
        }
        if known < MAGIC.len() {
            return Ok(0);
        }
        self.reading = Reading::Frame;
        Ok(known)
    }

    fn take_frame(&mut self, input: &[u8], scratch: &mut Scratch, events: &mut impl Events) -> Taken {
        let Some(header) = input.first_chunk::<HEADER_BYTES>() else { return Ok(0) };
        let header = Header::parse(header);
        self.check_frame(header)?;
        if header.kind == kind::DATA {
            return self.begin_data(header, input, events);
        }
        if header.kind > kind::CONTINUATION {
            // Unknown frames are ignored (5.5), and counted: nobody needs many.
            self.charge(budget::FRAME)?;
            self.skip(header.length as u32);
            return Ok(HEADER_BYTES);
        }
        let whole = HEADER_BYTES + header.length;
        let Some(payload) = input.get(HEADER_BYTES..whole) else { return Ok(0) };
        match header.kind {
            kind::HEADERS => self.take_headers(header, payload, scratch, events)?,
            kind::CONTINUATION => self.take_continuation(header, payload, scratch, events)?,
            _ => self.take_control(header, payload, events)?,
        }
        Ok(whole)
    }

    /// What holds of every frame, whatever its kind.
    fn check_frame(&self, header: Header) -> Result<(), ConnectionFault> {
        if header.length > MAX_PAYLOAD {
            let why = "A frame must not be longer than SETTINGS_MAX_FRAME_SIZE.";
            return Err(ConnectionFault { code: ErrorCode::FRAME_SIZE_ERROR, why });
        }
        if !self.greeted && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(protocol("The first frame must be SETTINGS."));
        }
        match &self.block {
            // Nothing may stand inside a field block (6.10).
            Some(block) if header.kind != kind::CONTINUATION || header.id != block.id => {
                Err(protocol("A field block must be continued by CONTINUATION of its stream."))
            }
            None if header.kind == kind::CONTINUATION => {
                Err(protocol("CONTINUATION must follow a field block that is not complete."))
            }
            _ => Ok(()),
        }
    }

    /// Everything about a DATA frame is decided here, from its header and the length of its padding.
    fn begin_data(&mut self, header: Header, input: &[u8], events: &mut impl Events) -> Taken {
        if header.id.0 == 0 {
            return Err(protocol("DATA must belong to a stream."));
        }
        let mut taken = HEADER_BYTES;
        let mut overhead = 0;
        if header.has(flag::PADDED) {
            if header.length == 0 {
                let why = "A padded frame must have room for the length of its padding.";
                return Err(ConnectionFault { code: ErrorCode::FRAME_SIZE_ERROR, why });
            }
            let Some(padding) = input.get(HEADER_BYTES) else { return Ok(0) };
            taken += 1;
            overhead = usize::from(*padding) + 1;
            if overhead > header.length {
                return Err(protocol("Padding must be shorter than its frame."));
            }
        }
        let length = header.length as u32;
        let body = (header.length - overhead) as u32;
        let end = header.has(flag::END_STREAM);
        self.receive_window.take(length).map_err(|_| overrun())?;
        if body == 0 && !end {
            self.charge(budget::EMPTY_DATA)?;
        }
        let padding = (overhead as u32).saturating_sub(1);
        let Some(slot) = self.admit_data(header.id, length, body, end, events)? else {
            self.credit(length);
            self.skip(header.length as u32 - (taken - HEADER_BYTES) as u32);
            return Ok(taken);
        };
        self.credit_stream(slot, overhead as u32);
        self.credit(overhead as u32);
        let data = Data { id: header.id, left: body, padding, end };
        self.reading = Reading::Data(data);
        if body == 0 {
            self.take_data(data, &[], events);
        }
        Ok(taken)
    }

    /// The slot of a stream that may receive this DATA; `None` when it is to be skipped.
    fn admit_data(
        &mut self,
        id: StreamId,
        length: u32,
        body: u32,
        end: bool,
        events: &mut impl Events,
    ) -> Result<Option<u32>, ConnectionFault> {
        let Some(slot) = self.live(id, events)? else { return Ok(None) };
        let stream = self.streams.at(slot);
        let fault = if !stream.state.is(State::HEAD_RECEIVED) {
            Some(ErrorCode::PROTOCOL_ERROR)
        } else if stream.receive.take(length).is_err() {
            Some(ErrorCode::FLOW_CONTROL_ERROR)
        } else if stream.body_left == UNDECLARED {
            None
        } else {
            // What is declared must come, all of it and no more (8.1.1).
            let left = stream.body_left.checked_sub(u64::from(body));
            stream.body_left = left.unwrap_or(0);
            let wrong = left.is_none_or(|left| end && left > 0);
            wrong.then_some(ErrorCode::PROTOCOL_ERROR)
        };
        match fault {
            None => Ok(Some(slot)),
            Some(code) => {
                self.fault_stream(slot, code, events)?;
                Ok(None)
            }
        }
    }

    /// The slot of a stream on which DATA or HEADERS may come; `None` when they are late and to be ignored. RFC 9113 5.1.
    pub(super) fn live(&mut self, id: StreamId, events: &mut impl Events) -> Result<Option<u32>, ConnectionFault> {
        let Some(slot) = self.streams.find(id) else {
            if self.is_idle(id) {
                return Err(protocol("A stream must be opened by HEADERS."));
            }
            return self.late(id).map(|()| None);
        };
        let state = self.streams.get(slot).state;
        if state.is(State::RECEIVES) {
            return Ok(Some(slot));
        }
        match state {
            state if state.is(State::RESET_BY_US) => {}
            state if state.is(State::RESET_BY_PEER) => self.refuse_late(id)?,
            state if state.is(State::SENDS) => self.fault_stream(slot, ErrorCode::STREAM_CLOSED, events)?,
            _ => return Err(closed()),
        }
        Ok(None)
    }

    /// DATA or HEADERS on a stream that has no slot any more.
    fn late(&mut self, id: StreamId) -> Result<(), ConnectionFault> {
        match self.recent.find(id) {
            Some(Ended::Complete) => Err(closed()),
            Some(Ended::ByPeer) => self.refuse_late(id),
            Some(Ended::ByUs) => Ok(()),
            None => self.charge(budget::FRAME),
        }
    }

    fn refuse_late(&mut self, id: StreamId) -> Result<(), ConnectionFault> {
        self.put_fault(id, ErrorCode::STREAM_CLOSED)
    }

    /// Whether nobody opened this stream yet. Streams of a server would be promised ones, which we refuse.
    pub(super) fn is_idle(&self, id: StreamId) -> bool {
        id.0.is_multiple_of(2)
            || match self.role {
                Role::Server => id > self.last_seen,
                Role::Client => id.0 >= self.next_id,
            }
    }

    fn take_data(&mut self, data: Data, input: &[u8], events: &mut impl Events) -> usize {
        let taken = input.len().min(data.left as usize);
        let left = data.left - taken as u32;
        match self.streams.find(data.id) {
            Some(slot) if self.streams.get(slot).state.is(State::RECEIVES) => {
                self.streams.at(slot).unread += taken as u32;
                let end = data.end && left == 0;
                if end {
                    self.end_received(slot);
                }
                if taken > 0 || end {
                    events.data(data.id, &input[..taken], end);
                }
            }
            // It was reset in the middle of the frame.
            _ => self.credit(taken as u32),
        }
        match left {
            0 => self.skip(data.padding),
            left => self.reading = Reading::Data(Data { left, ..data }),
        }
        taken
    }

    pub(super) fn end_received(&mut self, slot: u32) {
        self.streams.at(slot).state.clear(State::RECEIVES);
        self.settle(slot);
    }

    fn skip(&mut self, left: u32) {
        self.reading = if left == 0 { Reading::Frame } else { Reading::Skip(left) };
    }

    /// The peer broke a rule of one stream: it is reset, the engine hears of it, the budget pays.
    pub(super) fn fault_stream(
        &mut self,
        slot: u32,
        code: ErrorCode,
        events: &mut impl Events,
    ) -> Result<(), ConnectionFault> {
        let id = self.streams.get(slot).id;
        self.give_up(slot, State::RESET_BY_US);
        events.reset(id, code, Side::Local);
        self.put_fault(id, code)
    }

    /// `RST_STREAM` for a fault of the peer.
    pub(super) fn put_fault(&mut self, id: StreamId, code: ErrorCode) -> Result<(), ConnectionFault> {
        self.charge(budget::RESET)?;
        self.reply()?;
        frame::put_reset(&mut self.output.bytes, id, code);
        Ok(())
    }

    /// Takes points for an oddity.
    pub(super) fn charge(&mut self, points: u32) -> Result<(), ConnectionFault> {
        if self.budget.take(points) {
            return Ok(());
        }
        let why = "The peer resets, pings, sets, updates or breaks more than its useful streams allow for.";
        Err(ConnectionFault { code: ErrorCode::ENHANCE_YOUR_CALM, why })
    }

    /// Counts a frame that the peer provokes.
    pub(super) fn reply(&mut self) -> Result<(), ConnectionFault> {
        if self.output.reply() {
            return Ok(());
        }
        let why = "The peer provokes more answers than it reads.";
        Err(ConnectionFault { code: ErrorCode::ENHANCE_YOUR_CALM, why })
    }
}

pub(super) fn protocol(why: &'static str) -> ConnectionFault {
    ConnectionFault { code: ErrorCode::PROTOCOL_ERROR, why }
}

pub(super) fn size(why: &'static str) -> ConnectionFault {
    ConnectionFault { code: ErrorCode::FRAME_SIZE_ERROR, why }
}

pub(super) fn overrun() -> ConnectionFault {
    ConnectionFault { code: ErrorCode::FLOW_CONTROL_ERROR, why: "Flow control must be kept." }
}

fn closed() -> ConnectionFault {
    let why = "A stream that both sides ended must stay closed.";
    ConnectionFault { code: ErrorCode::STREAM_CLOSED, why }
}
