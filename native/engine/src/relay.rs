//! Opaque bytes both ways between two connections, each direction ending by itself.
//!
//! In: two streams and what was read of the first already.  Out: bytes moved each way.
//! Limits: one buffer per direction, lent while bytes are in flight; it grows with the bytes moved (`buffers::read_limit`).
//! Fails: an error of either side ends both, by a reset, so that what was cut never looks complete (attack-cases TL-22);
//! an end of stream is passed on as a half-close and the other direction goes on.

use std::io;
use std::task::{Context, Poll, ready};

use crate::stream::Stream;
use crate::worker::buffers::{Buffers, read_limit};

/// Both directions of an opaque connection.
pub(crate) struct Relay {
    pub(crate) upstream: Flow,
    pub(crate) downstream: Flow,
}

impl Relay {
    /// Starts with bytes already read from the downstream, and from the upstream.
    pub(crate) fn new(from_downstream: Vec<u8>, from_upstream: Vec<u8>) -> Self {
        Self { upstream: Flow::new(from_downstream), downstream: Flow::new(from_upstream) }
    }

    /// Moves what can be moved; ready when both directions have ended.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        down: &mut Stream,
        up: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), Side>> {
        let there = self.upstream.poll(context, down, up, buffers).map_err(|side| match side {
            End::Read => Side::Downstream,
            End::Write => Side::Upstream,
        })?;
        let back = self.downstream.poll(context, up, down, buffers).map_err(|side| match side {
            End::Read => Side::Upstream,
            End::Write => Side::Downstream,
        })?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Which side ended a relay with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

/// One direction.
pub(crate) struct Flow {
    bytes: Vec<u8>,
    sent: usize,
    pub(crate) moved: u64,
    state: FlowState,
}

#[derive(PartialEq, Eq)]
enum FlowState {
    Moving,
    Closing,
    Closed,
}

enum End {
    Read,
    Write,
}

impl Flow {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0, moved: 0, state: FlowState::Moving }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), End>> {
        loop {
            ready!(self.poll_send(context, to)).map_err(|_| End::Write)?;
            match self.state {
                FlowState::Closed => return Poll::Ready(Ok(())),
                FlowState::Closing => {
                    // The peer may have closed already; a half-close that it cannot hear is no failure.
                    let _ = ready!(to.poll_shutdown(context));
                    self.state = FlowState::Closed;
                }
                FlowState::Moving => ready!(self.poll_receive(context, from, buffers)).map_err(|_| End::Read)?,
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let written = ready!(to.poll_write(context, &self.bytes[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
            self.moved += written as u64;
        }
        self.bytes.clear();
        self.sent = 0;
        to.poll_flush(context)
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers.lend();
        }
        match from.poll_read(context, &mut self.bytes, read_limit(self.moved)) {
            Poll::Pending => {
                buffers.give(std::mem::take(&mut self.bytes));
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.state = FlowState::Closing;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(result) => Poll::Ready(result.map(drop)),
        }
    }
}
