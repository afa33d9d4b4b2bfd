//! What follows an extended CONNECT that was accepted: the bytes of a WebSocket, as DATA on one side and raw on the other.
//!
//! In: the stream of who asked, a connection that answered 101, and what it sent behind that.  Out: bytes moved each way.
//! Limits: the windows of the stream one way, one read the other; the idle bound when neither way moves.
//! Fails: an error of either side ends both, by a reset, so that what was cut never looks complete; an end of one direction
//! is passed on and the other goes on. A swap asks again for the permit.
//! Source: RFC 8441 §5; RFC 9113 §8.5; attack case H2-34; decision 0112.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use crate::http::carry::Errand;
use crate::http::transfer::{Piece, RequestSide};
use crate::observe::outcome::Reason;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::{Buffers, read_limit};

/// Both directions behind a switch of protocols.
pub(crate) struct Tunnel<'b> {
    stream: Stream,
    buffers: &'b Buffers,
    /// From the upstream, read together with its head.
    surplus: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    there: Way,
    back: Way,
    /// Bytes moved to the upstream.
    pub(crate) bytes_in: u64,
    /// Bytes moved from it.
    pub(crate) bytes_out: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Its last byte was read.
    Ending,
    Closed,
}

impl<'b> Tunnel<'b> {
    /// A tunnel to this upstream, which has sent `surplus` already.
    pub(crate) fn new(stream: Stream, surplus: Vec<u8>, buffers: &'b Buffers) -> Self {
        let (there, back) = (Way::Open, Way::Open);
        Self { stream, buffers, surplus, out: Vec::new(), sent: 0, there, back, bytes_in: 0, bytes_out: 0 }
    }

    /// Moves bytes until both directions have ended.
    ///
    /// # Errors
    /// What ended it before that; the upstream has been reset.
    pub(crate) async fn run(&mut self, errand: &Errand<'_, '_>, down: &mut impl RequestSide) -> Result<(), Reason> {
        let ended = self.run_until_end(errand, down).await;
        if ended.is_err() {
            self.stream.abort();
        }
        ended
    }

    async fn run_until_end(&mut self, errand: &Errand<'_, '_>, down: &mut impl RequestSide) -> Result<(), Reason> {
        let worker = errand.caller.worker;
        let mut epoch = errand.request.pinned.epoch;
        loop {
            let step = poll_fn(|context| {
                if worker.epoch() != epoch {
                    return Poll::Ready(None);
                }
                self.poll_step(context, errand, down).map(Some)
            });
            if let Some(ended) = step.await {
                return ended;
            }
            epoch = worker.epoch();
            self.confirm(errand, down, worker)?;
        }
    }

    fn confirm(&self, errand: &Errand<'_, '_>, down: &impl RequestSide, worker: &Worker) -> Result<(), Reason> {
        let judged = errand.caller.reauthorize(errand.request, down.text());
        judged.and_then(|()| worker.still_trusts(&self.stream)).map_err(|failure| failure.reason)
    }

    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
        errand: &Errand<'_, '_>,
        down: &mut impl RequestSide,
    ) -> Poll<Result<(), Reason>> {
        let had = self.moved(down);
        let polled = self.poll(context, down);
        let now_ms = errand.caller.worker.coarse_ms();
        if self.moved(down) != had {
            errand.clock.begin(errand.caller.worker);
        } else if polled.is_pending() && errand.clock.has_come(now_ms) {
            return Poll::Ready(Err(Reason::IdleTimeout));
        }
        polled
    }

    fn moved(&self, down: &impl RequestSide) -> u64 {
        self.bytes_in + self.bytes_out + down.written()
    }

    fn poll(&mut self, context: &mut Context<'_>, down: &mut impl RequestSide) -> Poll<Result<(), Reason>> {
        let there = self.poll_there(context, down)?;
        let back = self.poll_back(context, down)?;
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(Ok(()));
        }
        down.poll_gone(context).map(|()| Err(Reason::DownstreamClosed))
    }

    fn poll_there(&mut self, context: &mut Context<'_>, down: &mut impl RequestSide) -> Poll<Result<(), Reason>> {
        while self.there != Way::Closed {
            while self.sent < self.out.len() {
                match ready!(self.stream.poll_write(context, &self.out[self.sent..])) {
                    Ok(count) if count > 0 => {
                        self.sent += count;
                        self.bytes_in += count as u64;
                    }
                    _ => return Poll::Ready(Err(Reason::UpstreamClosedMidResponse)),
                }
            }
            ready!(self.stream.poll_flush(context)).map_err(|_| Reason::UpstreamClosedMidResponse)?;
            self.buffers.give(std::mem::take(&mut self.out));
            self.sent = 0;
            if self.there == Way::Ending {
                // The upstream may have closed already; an end that it cannot hear is no failure.
                let _ = ready!(self.stream.poll_shutdown(context));
                self.there = Way::Closed;
            } else if ready!(down.poll_piece(context, &mut self.out, read_limit(self.bytes_in)))? == Piece::Last {
                self.there = Way::Ending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_back(&mut self, context: &mut Context<'_>, down: &mut impl RequestSide) -> Poll<Result<(), Reason>> {
        while self.back != Way::Closed {
            ready!(down.poll_sent(context))?;
            if self.back == Way::Ending {
                self.back = Way::Closed;
                continue;
            }
            let piece = down.open_piece();
            let polled = if self.surplus.is_empty() {
                self.stream.poll_read(context, piece, read_limit(self.bytes_out))
            } else {
                piece.append(&mut self.surplus);
                Poll::Ready(Ok(piece.len()))
            };
            let ends = matches!(polled, Poll::Ready(Ok(0)));
            self.bytes_out += down.close_piece(if ends { Piece::Last } else { Piece::Part }, &[]) as u64;
            ready!(polled).map_err(|_| Reason::UpstreamClosedMidResponse)?;
            if ends {
                self.back = Way::Ending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        for buffer in [&mut self.out, &mut self.surplus] {
            self.buffers.give(std::mem::take(buffer));
        }
    }
}
