//! The handle on one HTTP/2 stream, the same in both roles: what the engine reads, writes and ends.
//!
//! In: heads, body bytes and trailers of the peer; ours.  Out: [`Got`], and output of the connection, flushed by its driver.
//! Limits: reads by what came, writes by the windows and the output's watermark: a write that takes nothing waits.
//! Fails: with the [`StreamEnd`], after what came before it was read. Dropping a handle ends the stream: unfinished, it is
//! reset (CANCEL); unread bytes are credited.
//! Source: RFC 9113 5.1, 8.1.

use std::rc::Rc;
use std::task::{Context, Poll};

use meshdp_proto::h2::hpack::Encoder;
use meshdp_proto::h2::{ErrorCode, ResponseShape, StreamId};

use super::shared::Shared;

/// Why a stream ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The peer has certainly not acted on it (GOAWAY below it, `REFUSED_STREAM`): it may be sent again, whatever it is.
    Unprocessed,
    /// The peer reset it.
    Reset(ErrorCode),
    /// The peer broke a rule on it, and we reset it.
    Fault(ErrorCode),
    /// Its reader has stalled for long and stood in the way of others (decision 0102).
    Stalled,
    /// The connection broke under it, or the peer broke a rule of the connection.
    Lost,
    /// The peer's certificate no longer leads to a root that is trusted.
    Distrusted,
    /// We had ended it ourselves.
    Over,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Got {
    /// Bytes appended.
    pub(crate) count: usize,
    /// The body is whole; trailers, if any, wait in [`StreamHandle::take_trailers`].
    pub(crate) end: bool,
}

/// A response head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseHead {
    pub(crate) shape: ResponseShape,
    /// Nothing follows it.
    pub(crate) end: bool,
}

/// One stream.
pub(crate) struct StreamHandle {
    shared: Rc<Shared>,
    id: StreamId,
    slot: usize,
}

impl StreamHandle {
    pub(super) fn new(shared: Rc<Shared>, id: StreamId, slot: usize) -> Self {
        Self { shared, id, slot }
    }

    /// Client: appends the text of the next response head to `text`, interim ones too. An empty `text` is exchanged for the
    /// buffer that holds it, which is lent.
    pub(crate) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        text: &mut Vec<u8>,
    ) -> Poll<Result<ResponseHead, StreamEnd>> {
        let mut state = self.shared.state();
        let slot = state.slots.at(self.slot);
        if let Some(mark) = slot.take_head(text, &self.shared.buffers) {
            return Poll::Ready(Ok(ResponseHead { shape: mark.shape, end: mark.end }));
        }
        slot.register(context);
        slot.end.map_or(Poll::Pending, |end| Poll::Ready(Err(end)))
    }

    /// Appends at most `limit` body bytes to `into`; an empty `into` may be exchanged as in `poll_head`. What came before the
    /// stream broke is read before its end is told.
    pub(crate) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Got, StreamEnd>> {
        let mut state = self.shared.state();
        let slot = state.slots.at(self.slot);
        let count = slot.take_body(into, limit, &self.shared.buffers);
        let end = slot.ended && slot.unread() == 0;
        if count == 0 && !end {
            let broken = slot.end;
            slot.register(context);
            return broken.map_or(Poll::Pending, |end| Poll::Ready(Err(end)));
        }
        if count > 0 {
            state.core.consumed(self.id, count);
            state.wake_driver();
        }
        Poll::Ready(Ok(Got { count, end }))
    }

    /// Appends the trailers to `into` once the body is whole; false where there were none.
    pub(crate) fn take_trailers(&mut self, into: &mut Vec<u8>) -> bool {
        self.shared.state().slots.at(self.slot).take_trailers(into, &self.shared.buffers)
    }

    /// Server: sends a response head, interim ones too. `encode` writes the field block.
    ///
    /// # Errors
    /// The stream is over; `encode` was not called.
    pub(crate) fn send_head(
        &mut self,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<(), StreamEnd> {
        self.send(|core, id| core.send_head(id, end, encode))
    }

    /// Sends some of `bytes`; with the last of them the end, if it is one. An empty end is always taken.
    pub(crate) fn poll_send_data(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        end: bool,
    ) -> Poll<Result<usize, StreamEnd>> {
        let mut state = self.shared.state();
        let slot = state.slots.at(self.slot);
        if let Some(end) = slot.end {
            return Poll::Ready(Err(end));
        }
        slot.register(context);
        state.lend_output(&self.shared.buffers);
        let sent = state.core.send_data(self.id, bytes, end);
        state.wake_driver();
        if sent > 0 || bytes.is_empty() { Poll::Ready(Ok(sent)) } else { Poll::Pending }
    }

    /// Sends trailers and the end.
    ///
    /// # Errors
    /// The stream is over; `encode` was not called.
    pub(crate) fn send_trailers(&mut self, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Result<(), StreamEnd> {
        self.send(|core, id| core.send_trailers(id, encode))
    }

    /// Ends the stream now.
    pub(crate) fn reset(&mut self, code: ErrorCode) {
        let mut state = self.shared.state();
        state.lend_output(&self.shared.buffers);
        state.core.reset(self.id, code);
        state.slots.at(self.slot).end.get_or_insert(StreamEnd::Over);
        state.wake_driver();
    }

    /// Ready once the stream has ended before its end, for whoever neither reads nor writes it just now.
    pub(crate) fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<StreamEnd> {
        let mut state = self.shared.state();
        let slot = state.slots.at(self.slot);
        slot.register(context);
        slot.end.map_or(Poll::Pending, Poll::Ready)
    }

    /// Ready once the stream has ended and the end of what was to be read will never come.
    pub(crate) fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<StreamEnd> {
        let mut state = self.shared.state();
        let slot = state.slots.at(self.slot);
        slot.register(context);
        slot.end.filter(|_| !slot.ended).map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether the stream has ended before its end.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared.state().slots.at(self.slot).end.is_some()
    }

    fn send(
        &mut self,
        with: impl FnOnce(&mut meshdp_proto::h2::Connection, StreamId) -> bool,
    ) -> Result<(), StreamEnd> {
        let mut state = self.shared.state();
        if let Some(end) = state.slots.at(self.slot).end {
            return Err(end);
        }
        state.lend_output(&self.shared.buffers);
        let sent = with(&mut state.core, self.id);
        state.wake_driver();
        if sent { Ok(()) } else { Err(StreamEnd::Over) }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.shared.release(self.id, self.slot);
    }
}
