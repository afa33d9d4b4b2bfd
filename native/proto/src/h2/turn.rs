//! Who may send next: a queue of the streams that wait for the connection's window or for room in the output.
//!
//! While nobody waits, a stream sends what windows and watermark allow at once. Once somebody waits, everybody queues, and
//! a turn is one frame, so that a stream with much to send and one with little get on alike. Turns are offered only as far
//! as there is room; who was offered one and does not use it loses it at the next [`super::Connection::turn`].
//! Source: RFC 9113 5.2.2 (progress of all streams).

use super::connection::Connection;
use super::events::Events;
use super::frame::MAX_PAYLOAD;
use super::output::WATERMARK;
use super::stream::{NONE, State};

/// The queue's ends (the streams hold the links), and the turns offered and not used yet.
#[derive(Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
    offered: usize,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { first: NONE, last: NONE, offered: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// Offers that were not used are void.
    pub(super) fn forget_offers(&mut self) {
        self.offered = 0;
    }
}

impl Connection {
    /// Puts a stream at the end of the queue, unless it waits already.
    pub(super) fn enqueue(&mut self, slot: u32) {
        let last = self.queue.last;
        let stream = self.streams.at(slot);
        if stream.state.is(State::QUEUED) {
            return;
        }
        stream.state.set(State::QUEUED);
        (stream.previous, stream.next) = (last, NONE);
        match last {
            NONE => self.queue.first = slot,
            last => self.streams.at(last).next = slot,
        }
        self.queue.last = slot;
    }

    /// Takes a stream out of the queue, if it is there, and its turn, if it has one.
    pub(super) fn dequeue(&mut self, slot: u32) {
        self.use_turn(slot);
        let stream = self.streams.at(slot);
        if !stream.state.is(State::QUEUED) {
            return;
        }
        stream.state.clear(State::QUEUED);
        let (previous, next) = (stream.previous, stream.next);
        (stream.previous, stream.next) = (NONE, NONE);
        match previous {
            NONE => self.queue.first = next,
            previous => self.streams.at(previous).next = next,
        }
        match next {
            NONE => self.queue.last = previous,
            next => self.streams.at(next).previous = previous,
        }
    }

    /// Whether the stream had a turn; it has none any more.
    pub(super) fn use_turn(&mut self, slot: u32) -> bool {
        let state = &mut self.streams.at(slot).state;
        let had = state.is(State::GRANTED);
        state.clear(State::GRANTED);
        if had {
            self.queue.offered = self.queue.offered.saturating_sub(1);
        }
        had
    }

    /// Offers turns to the first in the queue, as far as there is room. Whether there was one.
    pub(super) fn offer(&mut self, events: &mut impl Events) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        let taken = self.queue.offered * MAX_PAYLOAD;
        let mut room = WATERMARK.saturating_sub(self.output.len()).saturating_sub(taken);
        let mut window = self.send_window.available().saturating_sub(taken);
        let mut offered = false;
        while !self.queue.is_empty() && room > 0 && window > 0 {
            let slot = self.queue.first;
            self.dequeue(slot);
            let stream = self.streams.at(slot);
            stream.state.set(State::GRANTED);
            room = room.saturating_sub(MAX_PAYLOAD);
            window = window.saturating_sub(MAX_PAYLOAD);
            let id = stream.id;
            self.queue.offered += 1;
            offered = true;
            events.writable(id);
        }
        offered
    }
}
