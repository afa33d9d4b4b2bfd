//! Opaque bytes both ways between two connections, each direction ending by itself.
//!
//! In: two streams and what was read of the first already.  Out: bytes moved each way.
//! Limits: one buffer per direction, lent while bytes are in flight; it grows with the bytes moved (`buffers::read_limit`).
//! Between two plaintext sockets the kernel moves what follows the first `COPIED_BYTES` of a direction, through a lent pipe
//! (`splice.rs`). A direction gives way to the worker's other work after `TURN_BYTES`.
//! Fails: an error of either side ends both, by a reset, so that what was cut never looks complete (attack-cases TL-22);
//! an end of stream is passed on as a half-close and the other direction goes on.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use crate::splice::Pipe;
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
    /// Holds what the kernel took and has not handed on yet; `None` while there is no such thing.
    pipe: Option<Pipe>,
    /// Bytes come too thinly for a pipe: the next ones are read.
    thin: bool,
    /// Received since the source last had nothing.
    burst: u64,
    /// Where `moved` may come to before others have their turn.
    turn_ends: u64,
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
        let state = FlowState::Moving;
        Self { bytes, sent: 0, moved: 0, state, pipe: None, thin: false, burst: 0, turn_ends: 0 }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), End>> {
        self.turn_ends = self.moved + TURN_BYTES;
        loop {
            ready!(self.poll_send(context, to, buffers)).map_err(|_| End::Write)?;
            match self.state {
                FlowState::Closed => return Poll::Ready(Ok(())),
                FlowState::Closing => {
                    // The peer may have closed already; a half-close that it cannot hear is no failure.
                    let _ = ready!(to.poll_shutdown(context));
                    self.state = FlowState::Closed;
                }
                FlowState::Moving if self.moved >= self.turn_ends => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                FlowState::Moving => ready!(self.poll_receive(context, from, to, buffers)).map_err(|_| End::Read)?,
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, to: &mut Stream, buffers: &Buffers) -> Poll<io::Result<()>> {
        while let (Some(pipe), Some(socket)) = (&mut self.pipe, to.plain()) {
            if pipe.held() > 0 {
                self.moved += ready!(pipe.poll_drain(context, socket))? as u64;
            } else if let Some(empty) = self.pipe.take() {
                buffers.pipes.give(empty);
            }
        }
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
        to: &Stream,
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        let transfer = self.moved >= COPIED_BYTES && !self.thin && to.plain().is_some();
        if let Some(source) = from.plain().filter(|_| transfer) {
            ready!(source.poll_read_ready(context))?;
            if let Some(spliced) = self.splice_from(source, buffers)? {
                self.received(spliced);
                return Poll::Ready(Ok(()));
            }
        }
        let limit = if self.thin { read_limit(self.moved).min(THIN_READ) } else { read_limit(self.moved) };
        match from.poll_read_lent(context, &mut self.bytes, limit, buffers) {
            Poll::Pending => {
                self.thin = self.burst < WORTH_A_PIPE;
                self.burst = 0;
                Poll::Pending
            }
            Poll::Ready(read) => {
                let read = read?;
                self.thin &= read < limit.min(WORTH_A_PIPE as usize);
                self.received(read);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Has the kernel take what there is; `None` where a read must show what there is.
    fn splice_from(&mut self, source: &TcpStream, buffers: &Buffers) -> io::Result<Option<usize>> {
        let Some(mut pipe) = buffers.pipes.lend() else { return Ok(None) };
        buffers.give(std::mem::take(&mut self.bytes));
        match pipe.fill(source) {
            Ok(spliced @ 1..) => {
                // So little is probably all; the read that comes next remembers it, and a splice would not.
                self.thin = spliced < WORTH_A_PIPE as usize;
                self.pipe = Some(pipe);
                Ok(Some(spliced))
            }
            // Nothing is no end yet: TCP's urgent mark stops a splice just so, with bytes behind it.
            nothing => {
                buffers.pipes.give(pipe);
                self.thin = true;
                match nothing {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(None),
                }
            }
        }
    }

    fn received(&mut self, count: usize) {
        self.burst += count as u64;
        if count == 0 {
            self.state = FlowState::Closing;
        }
    }
}

/// What a direction must have moved before its bytes are worth a pipe.
const COPIED_BYTES: u64 = 64 << 10;
/// A burst of less is read: two system calls and a pipe cost more than the copy.
const WORTH_A_PIPE: u64 = 16 << 10;
/// A read that only shows what there is need not be larger: what fills it is worth a pipe.
const THIN_READ: usize = 64 << 10;
/// What a direction may move before the worker's other connections have their turn.
const TURN_BYTES: u64 = 1 << 20;

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
