//! All frames but DATA and field blocks: SETTINGS, PING, GOAWAY, `RST_STREAM`, `WINDOW_UPDATE`, PRIORITY, `PUSH_PROMISE`.
//!
//! In: whole frames. Out: [`Events`], replies in the output. Limits: each takes points of the budget, each reply counts.
//! Fails: [`ConnectionFault`]. Source: RFC 9113 6.3 to 6.9.

use super::budget;
use super::connection::{Connection, DRAIN_PING, Goodbye, PING, Role};
use super::error::{ConnectionFault, ErrorCode, Side, StreamId};
use super::events::Events;
use super::frame::{self, Header, flag, kind};
use super::receive::{overrun, protocol, size};
use super::settings::PARAMETER_BYTES;
use super::stream::State;

type Done = Result<(), ConnectionFault>;

/// How many parameters of one SETTINGS frame cost as much as a frame.
const PARAMETERS_PER_POINT: usize = 8;

impl Connection {
    pub(super) fn take_control(&mut self, header: Header, payload: &[u8], events: &mut impl Events) -> Done {
        match header.kind {
            kind::SETTINGS => self.take_settings(header, payload, events),
            kind::PING => self.take_ping(header, payload, events),
            kind::GOAWAY => self.take_go_away(header, payload, events),
            kind::RST_STREAM => self.take_reset(header.id, payload, events),
            kind::WINDOW_UPDATE => self.take_window_update(header.id, payload, events),
            kind::PRIORITY => self.take_priority(header.id, payload, events),
            // 0x5, the only type left below CONTINUATION.
            _ => Err(protocol("PUSH_PROMISE must not be sent: servers may not push here, clients never.")),
        }
    }

    fn take_settings(&mut self, header: Header, payload: &[u8], events: &mut impl Events) -> Done {
        if header.id.0 != 0 {
            return Err(protocol("SETTINGS must belong to the connection."));
        }
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(size("An acknowledgement of SETTINGS must be empty."));
            }
            // We send SETTINGS once; other acknowledgements mean nothing.
            let expected = !std::mem::replace(&mut self.settings_acknowledged, true);
            return if expected { Ok(()) } else { self.charge(budget::FRAME) };
        }
        if !payload.len().is_multiple_of(PARAMETER_BYTES) {
            return Err(size("SETTINGS must be made of parameters of 6 bytes."));
        }
        let count = payload.len() / PARAMETER_BYTES;
        self.charge(budget::FRAME + (count / PARAMETERS_PER_POINT) as u32)?;
        let before = self.peer;
        if !self.greeted {
            self.peer.max_streams = u32::MAX;
        }
        for parameter in payload.chunks_exact(PARAMETER_BYTES) {
            self.peer.apply(self.role, parameter)?;
        }
        self.greeted = true;
        if self.peer.header_table != before.header_table {
            self.encoder.set_table_size(self.peer.header_table as usize);
        }
        self.change_windows(i64::from(self.peer.initial_window) - i64::from(before.initial_window), events)?;
        self.reply()?;
        self.output.bytes.extend_from_slice(&frame::header(0, kind::SETTINGS, flag::ACK, StreamId(0)));
        events.settings();
        Ok(())
    }

    /// A new initial window is a change of all windows (6.9.2); they may become negative.
    fn change_windows(&mut self, by: i64, events: &mut impl Events) -> Done {
        if by == 0 || self.streams.len() == 0 {
            return Ok(());
        }
        for slot in self.streams.in_use() {
            if self.streams.at(slot).send.change(by).is_err() {
                return Err(overrun());
            }
            self.unblock(slot, events);
        }
        Ok(())
    }

    /// The stream's window may have opened: it waits for its turn, or has it at once when nobody else waits.
    fn unblock(&mut self, slot: u32, events: &mut impl Events) {
        let stream = self.streams.at(slot);
        if stream.state.is(State::BLOCKED) && stream.send.available() > 0 {
            stream.state.clear(State::BLOCKED);
            self.enqueue(slot);
            self.offer(events);
        }
    }

    fn take_ping(&mut self, header: Header, payload: &[u8], events: &mut impl Events) -> Done {
        if header.id.0 != 0 {
            return Err(protocol("PING must belong to the connection."));
        }
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(size("PING must carry 8 bytes."));
        };
        if !header.has(flag::ACK) {
            self.charge(budget::FRAME)?;
            self.reply()?;
            frame::put_ping(&mut self.output.bytes, flag::ACK, payload);
            return Ok(());
        }
        if payload == PING && self.ping_under_way {
            self.ping_under_way = false;
            events.pong();
        } else if payload == DRAIN_PING && self.goodbye == Goodbye::Announced {
            // All streams that the client opened before it knew are here: now the last one can be named (6.8).
            self.go_away(ErrorCode::NO_ERROR);
        } else {
            self.charge(budget::FRAME)?;
        }
        Ok(())
    }

    fn take_go_away(&mut self, header: Header, payload: &[u8], events: &mut impl Events) -> Done {
        if header.id.0 != 0 {
            return Err(protocol("GOAWAY must belong to the connection."));
        }
        if payload.len() < 8 {
            return Err(size("GOAWAY must carry a stream and a code."));
        }
        self.charge(budget::FRAME)?;
        let last = StreamId(frame::number(payload) & StreamId::MAX.0);
        let code = ErrorCode(frame::number(&payload[4..]));
        self.peer_goes_away = true;
        if self.role == Role::Client {
            self.give_up_above(last, events);
        }
        events.go_away(last, code);
        Ok(())
    }

    /// Our streams that the peer did not and will not process: callers may send them elsewhere (6.8, H2-24).
    fn give_up_above(&mut self, last: StreamId, events: &mut impl Events) {
        for slot in self.streams.in_use() {
            let stream = self.streams.get(slot);
            let id = stream.id;
            if id > last && !stream.state.is_over() {
                self.give_up(slot, State::RESET_BY_PEER);
                events.reset(id, ErrorCode::REFUSED_STREAM, Side::Peer);
            }
        }
    }

    fn take_reset(&mut self, id: StreamId, payload: &[u8], events: &mut impl Events) -> Done {
        if payload.len() != 4 {
            return Err(size("RST_STREAM must carry 4 bytes."));
        }
        if self.is_idle(id) {
            return Err(protocol("RST_STREAM must belong to a stream that was opened."));
        }
        let Some(slot) = self.streams.find(id).filter(|slot| !self.streams.get(*slot).state.is_over()) else {
            return self.charge(budget::FRAME);
        };
        // Given up before a byte of body: work for nothing (H2-01; interim heads cost nobody anything). As a client we
        // lose what we asked for; that pays.
        let answered = self.streams.get(slot).state.is(State::ANSWERED);
        self.give_up(slot, State::RESET_BY_PEER);
        events.reset(id, ErrorCode(frame::number(payload)), Side::Peer);
        if answered { Ok(()) } else { self.charge(budget::RESET) }
    }

    fn take_window_update(&mut self, id: StreamId, payload: &[u8], events: &mut impl Events) -> Done {
        if payload.len() != 4 {
            return Err(size("WINDOW_UPDATE must carry 4 bytes."));
        }
        let increment = frame::number(payload) & StreamId::MAX.0;
        self.charge(budget::FRAME)?;
        if id.0 == 0 {
            if increment == 0 {
                return Err(protocol("WINDOW_UPDATE must raise the window."));
            }
            return self.send_window.change(i64::from(increment)).map_err(|_| overrun());
        }
        if self.is_idle(id) {
            return Err(protocol("WINDOW_UPDATE must belong to a stream that was opened."));
        }
        let Some(slot) = self.streams.find(id).filter(|slot| !self.streams.get(*slot).state.is_over()) else {
            return Ok(());
        };
        if increment == 0 {
            return self.fault_stream(slot, ErrorCode::PROTOCOL_ERROR, events);
        }
        if self.streams.at(slot).send.change(i64::from(increment)).is_err() {
            return self.fault_stream(slot, ErrorCode::FLOW_CONTROL_ERROR, events);
        }
        self.unblock(slot, events);
        Ok(())
    }

    /// Priorities are ignored (5.3.2); only what would break the framing of others is looked at.
    fn take_priority(&mut self, id: StreamId, payload: &[u8], events: &mut impl Events) -> Done {
        if id.0 == 0 {
            return Err(protocol("PRIORITY must belong to a stream."));
        }
        self.charge(budget::FRAME)?;
        let on_itself = payload.len() == 5 && frame::number(payload) & StreamId::MAX.0 == id.0;
        let code = match payload.len() {
            5 if on_itself => ErrorCode::PROTOCOL_ERROR,
            5 => return Ok(()),
            _ => ErrorCode::FRAME_SIZE_ERROR,
        };
        match self.streams.find(id).filter(|slot| !self.streams.get(*slot).state.is_over()) {
            Some(slot) => self.fault_stream(slot, code, events),
            // RST_STREAM may not answer on a stream that nobody opened.
            None if self.is_idle(id) => {
                Err(ConnectionFault { code, why: "PRIORITY must carry 5 bytes and not name its own stream." })
            }
            None => self.put_fault(id, code),
        }
    }
}
