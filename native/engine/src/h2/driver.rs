//! The socket under an HTTP/2 connection: bytes to the core and back, in either role.
//!
//! In: readiness of the socket, output that the streams left.  Out: the core fed, streams woken, output written.
//! Limits: one read at a time (`READ_BYTES`), `TURN_BYTES` before the worker's other work has its turn; output by the core's
//! watermark, written in as few and as full TLS records as there can be. No buffer is held while nothing is in flight.
//! Fails: with [`Ended`]; every stream that was not at its end has been told.
//! Output is flushed once per loop turn: a turn that has read something leaves it to the next one, which comes after the
//! tasks that it woke, so that their answers leave in the same records as the core's.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use meshdp_proto::h2::{ConnectionFault, MAX_INPUT_BYTES};

use super::shared::Shared;
use super::stream::StreamEnd;
use crate::stream::Stream;

/// Why a connection is no more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It came to its end: GOAWAY, and the last stream after it.
    Done,
    /// The peer ended its side.
    Closed,
    /// The peer broke a rule; it has been told, if it still listens.
    Fault(ConnectionFault),
    /// The socket or the TLS session under it broke.
    Broken(io::Error),
    /// We gave it up.
    Abandoned,
}

/// One connection's socket.
pub(crate) struct Driver {
    pub(crate) stream: Stream,
    shared: Rc<Shared>,
    /// Received bytes that the core has not taken yet; no capacity when there are none.
    input: Vec<u8>,
    /// What there is to send waits for the tasks that were woken.
    deferred: bool,
    ticked_ms: u64,
}

impl Driver {
    /// Drives `shared` over `stream`; `received` is what was read of it already.
    pub(crate) fn new(stream: Stream, shared: Rc<Shared>, received: Vec<u8>) -> Self {
        Self { stream, shared, input: received, deferred: false, ticked_ms: 0 }
    }

    /// One turn of a task that does nothing else. Ready when the connection is no more.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, now_ms: u64) -> Poll<Ended> {
        match self.poll_receive(context, now_ms) {
            Err(ended) => return self.poll_last_words(context, ended),
            Ok(received) if received && !self.deferred => {
                self.deferred = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Ok(_) => self.deferred = false,
        }
        if self.pass_room_on() {
            self.deferred = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_flush(context)
    }

    /// Feeds the core with what has come; true when something has. From here to the end of `poll_flush` streams need not wake
    /// the driver.
    ///
    /// # Errors
    /// The connection is no more.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>, now_ms: u64) -> Result<bool, Ended> {
        self.begin_turn(context, now_ms);
        if self.shared.state().gone().is_some() {
            return Err(Ended::Abandoned);
        }
        let mut turn = 0;
        if !self.input.is_empty() {
            self.feed()?;
        }
        while turn < TURN_BYTES && !self.is_paused() {
            let limit = if turn == 0 { self.first_read() } else { READ_BYTES };
            match self.stream.poll_read_lent(context, &mut self.input, limit, &self.shared.buffers) {
                Poll::Pending => return Ok(turn > 0),
                Poll::Ready(Ok(0)) => return Err(self.end_of_input()),
                Poll::Ready(Ok(count)) => turn += count,
                Poll::Ready(Err(error)) => return Err(Ended::Broken(error)),
            }
            self.feed()?;
        }
        if !self.is_paused() {
            context.waker().wake_by_ref();
        }
        Ok(true)
    }

    /// Whether a hasty peer is not read before the next tick: its driver is to be polled again when the clock has moved.
    pub(crate) fn is_paused(&self) -> bool {
        self.shared.state().core.is_paused()
    }

    /// Whether a frame or a field block has begun and its rest is still to come.
    pub(crate) fn is_within_frame(&self) -> bool {
        let begun = !self.input.is_empty() || self.shared.state().core.is_within_block();
        begun && !self.is_paused()
    }

    /// Passes room that a stream did not use on to the others; true when one was woken for it.
    pub(crate) fn pass_room_on(&mut self) -> bool {
        let mut state = self.shared.state();
        let state = &mut *state;
        state.core.turn(&mut state.slots)
    }

    /// Writes what there is to send. Pending when all is said, or when the socket takes no more; ready when the connection
    /// is no more.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        self.shared.state().close_if_spent(&self.shared.buffers);
        let flushed = self.poll_write(context);
        let mut state = self.shared.state();
        state.end_turn();
        match flushed {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Ended::Broken(error)),
            Poll::Ready(Ok(())) if state.core.done() => Poll::Ready(Ended::Done),
            Poll::Ready(Ok(())) => {
                state.take_output(&self.shared.buffers);
                Poll::Pending
            }
        }
    }

    /// Tells the streams and, after a fault, the peer; what the socket does not take at once is lost.
    fn poll_last_words(&mut self, context: &mut Context<'_>, ended: Ended) -> Poll<Ended> {
        self.shared.abandon(StreamEnd::Lost);
        if matches!(ended, Ended::Fault(_) | Ended::Abandoned) {
            let _ = self.poll_write(context);
        }
        Poll::Ready(ended)
    }

    fn begin_turn(&mut self, context: &Context<'_>, now_ms: u64) {
        let mut state = self.shared.state();
        state.begin_turn(context);
        // The clock moves in steps of about a tick, now and then by a little less.
        let ticks = (now_ms.saturating_sub(self.ticked_ms) + TICK_MS / 2) / TICK_MS;
        if ticks > 0 {
            self.ticked_ms = now_ms;
            state.core.tick(ticks.min(TICKS) as u32);
        }
    }

    fn feed(&mut self) -> Result<(), Ended> {
        let taken = self.shared.receive(&self.input).map_err(Ended::Fault)?;
        if taken == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..taken);
            debug_assert!(self.input.len() < MAX_INPUT_BYTES || self.is_paused(), "the core takes every whole frame");
        }
        Ok(())
    }

    /// What is opened in place takes only the room that it needs; a plain read takes it before it knows.
    fn first_read(&self) -> usize {
        if self.stream.plain().is_some() { PLAIN_READ_BYTES } else { READ_BYTES }
    }

    fn end_of_input(&self) -> Ended {
        if self.shared.state().core.done() { Ended::Done } else { Ended::Closed }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut state = self.shared.state();
            let state = &mut *state;
            let output = state.core.output();
            if output.is_empty() {
                break;
            }
            match ready!(self.stream.poll_write(context, output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => state.core.sent(written, &mut state.slots),
            }
        }
        self.stream.poll_flush(context)
    }
}

impl Drop for Driver {
    /// Nobody waits for a connection without a driver.
    fn drop(&mut self) {
        self.shared.abandon(StreamEnd::Lost);
        self.shared.buffers.give(std::mem::take(&mut self.input));
    }
}

/// The plaintext of one read: what the TLS layer opens in place.
const READ_BYTES: usize = 64 << 10;
/// The first read of a turn from a plain socket; what fills it is followed by larger ones.
const PLAIN_READ_BYTES: usize = 16 << 10;
/// What a connection may receive before the worker's other tasks have their turn.
const TURN_BYTES: usize = 256 << 10;
/// How often the core's patience grows back.
const TICK_MS: u64 = 100;
/// Turns of patience after a long silence.
const TICKS: u64 = 1_000;

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
