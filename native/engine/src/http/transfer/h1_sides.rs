//! The sides of a transfer that speak HTTP/1.1: who asked, on the session's own connection, and who answers, on a pooled one.
//!
//! In: a connection with what was read of it already.  Out: pieces of bodies without their framing, and framed again.
//! Limits: heads by `http1_head::Limits`; one piece waits to be sent, but the first of a request stays until its answer begins.
//! Fails: `DownstreamClosed`, `Upstream…`, `Malformed…`; a body that ends too early is an error, never a last piece.
//! Source: RFC 9112 §6, §7.

use std::task::{Context, Poll, ready};

use meshdp_proto::HeadScan;
use meshdp_proto::h2::ErrorCode;
use meshdp_proto::h2::message::Origin;
use meshdp_proto::http1_body::BodyDecoder;
use meshdp_proto::http1_conn::Answer;
use meshdp_proto::http1_fields::FieldTable;
use meshdp_proto::http1_forward::{ResponseEdits, encode_response};
use meshdp_proto::http1_head::{Framing, Limits};
use meshdp_proto::http1_response::{RequestKind, ResponseHead, parse_response};

use crate::connection::Failure;
use crate::http::transfer::outgoing::Outgoing;
use crate::http::transfer::{Answered, Came, Piece, Reply, RequestSide, ResponseSide, Sink, Source};
use crate::observe::outcome::Reason;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::{Buffers, FIRST};

/// Who asked over HTTP/1.1.
pub(crate) struct H1Request<'s> {
    stream: &'s mut Stream,
    received: &'s mut Vec<u8>,
    buffers: &'s Buffers,
    head_len: usize,
    framing: Framing,
    /// How far `received` belongs to this request; its head stays in front.
    parsed: usize,
    body: BodyDecoder,
    out: Outgoing,
    until_close: bool,
    /// No byte of the body has been taken out of `received`, or past it.
    intact: bool,
}

impl<'s> H1Request<'s> {
    /// The side of a request whose head, framed like this, stands in front of `received`.
    pub(crate) fn new(
        (stream, received): (&'s mut Stream, &'s mut Vec<u8>),
        (head_len, framing): (usize, Framing),
        buffers: &'s Buffers,
    ) -> Self {
        let (body, out) = (BodyDecoder::bare(framing), Outgoing::new(buffers.lend(), false));
        Self {
            stream,
            received,
            buffers,
            head_len,
            framing,
            parsed: head_len,
            body,
            out,
            until_close: false,
            intact: true,
        }
    }

    /// How much of the buffer belongs to this request.
    pub(crate) fn consumed(&self) -> usize {
        self.parsed
    }

    /// Reads what may be the start of the next request, to see the downstream leave.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.received.len() - self.parsed < AHEAD_BYTES {
            if ready!(self.stream.tcp().poll_read_ready(context)).is_err() {
                return Poll::Ready(());
            }
            match ready!(self.stream.poll_read(context, self.received, FIRST)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }
}

impl Drop for H1Request<'_> {
    fn drop(&mut self) {
        self.buffers.give(self.out.take());
    }
}

impl Source for H1Request<'_> {
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Piece, Reason>> {
        let had = out.len();
        loop {
            let taken = decode(&mut self.body, &self.received[self.parsed..], out);
            self.parsed += taken.map_err(|_| Reason::MalformedRequest)?;
            if self.body.done() {
                return Poll::Ready(Ok(Piece::Last));
            }
            // The head stays for re-authorization; decoded body bytes have no further use.
            self.intact &= self.parsed == self.head_len;
            self.received.drain(self.head_len..self.parsed);
            self.parsed = self.head_len;
            if out.len() > had {
                return Poll::Ready(Ok(Piece::Part));
            }
            let read = match self.body.length_left() {
                Some(left) => {
                    let read = self.stream.poll_read(context, out, limit_of(left, limit));
                    self.body.consume_length((out.len() - had) as u64);
                    self.intact &= out.len() == had;
                    read
                }
                None => self.stream.poll_read(context, self.received, limit),
            };
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Reason::DownstreamClosed)),
                Ok(_) => {}
            }
        }
    }

    fn trailers(&self) -> &[u8] {
        self.body.trailers()
    }
}

impl Sink for H1Request<'_> {
    fn hungry(&self) -> bool {
        self.out.hungry()
    }

    fn open_piece(&mut self) -> &mut Vec<u8> {
        self.out.open_piece()
    }

    fn close_piece(&mut self, piece: Piece, trailers: &[u8]) -> usize {
        self.out.close_piece(piece, trailers)
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        self.out.poll_sent(context, self.stream).map_err(|_| Reason::DownstreamClosed)
    }

    fn written(&self) -> u64 {
        self.out.written()
    }
}

impl RequestSide for H1Request<'_> {
    fn text(&self) -> &[u8] {
        self.received
    }

    fn send_head(&mut self, reply: &Reply<'_>) -> Result<(), Reason> {
        let close = reply.close || reply.head.framing == Framing::UntilClose;
        let noted = reply.came == Came::FromMesh && reply.answer == Answer::Final;
        let origin = if noted { Origin::of_response(reply.text, reply.fields) } else { None };
        let edits = ResponseEdits { close, origin, ..ResponseEdits::default() };
        let chunked = reply.head.framing == Framing::Chunked;
        let out = self.out.begin_head(chunked && reply.answer == Answer::Final);
        encode_response(reply.text, reply.head, reply.fields, &edits, out);
        self.until_close = reply.head.framing == Framing::UntilClose;
        Ok(())
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.body.done() { self.poll_left(context) } else { Poll::Pending }
    }

    fn told(&self) -> bool {
        self.out.written() > 0
    }

    fn intact(&self) -> bool {
        self.intact
    }

    fn restart(&mut self) {
        if self.intact {
            self.body = BodyDecoder::bare(self.framing);
            self.parsed = self.head_len;
        }
    }

    fn cut(&mut self, _: ErrorCode) {
        if self.until_close {
            self.stream.abort();
        }
    }
}

/// Who answers over HTTP/1.1.
pub(crate) struct H1Response<'b> {
    stream: Stream,
    buffers: &'b Buffers,
    out: Outgoing,
    received: Vec<u8>,
    scan: Option<HeadScan>,
    body: BodyDecoder,
    started: bool,
}

impl<'b> H1Response<'b> {
    /// A side that is sent `out`: an encoded head, and what of the body goes with it. `chunked`: how the body is framed.
    pub(crate) fn new(stream: Stream, out: Vec<u8>, chunked: bool, buffers: &'b Buffers) -> Self {
        let mut outgoing = Outgoing::new(out, true);
        let _ = outgoing.begin_head(chunked);
        let body = BodyDecoder::bare(Framing::None);
        Self { stream, buffers, out: outgoing, received: Vec::new(), scan: None, body, started: false }
    }

    /// Takes the request's body, all of which is still there while the transfer is replayable.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        self.out.take_payload()
    }

    /// The connection, with nothing of this request on it, or `None` when more came than was asked for.
    pub(crate) fn into_stream(mut self) -> Option<Stream> {
        self.buffers.give(self.out.take());
        let surplus = !self.received.is_empty();
        self.buffers.give(std::mem::take(&mut self.received));
        (!surplus).then_some(self.stream)
    }

    /// The connection after a switch of protocols, and what it has sent behind its answer.
    pub(crate) fn into_switched(mut self) -> (Stream, Vec<u8>) {
        self.buffers.give(self.out.take());
        (self.stream, self.received)
    }

    /// Gives the buffers back and cuts the connection: what has not been sent whole must not look whole.
    pub(crate) fn abort(mut self) {
        self.buffers.give(self.out.take());
        self.buffers.give(std::mem::take(&mut self.received));
        self.stream.abort();
    }

    fn lost(&self) -> Reason {
        if self.started { Reason::UpstreamClosedMidResponse } else { Reason::UpstreamResetBeforeResponse }
    }
}

impl Source for H1Response<'_> {
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Piece, Reason>> {
        let had = out.len();
        loop {
            if !self.received.is_empty() {
                let taken = decode(&mut self.body, &self.received, out).map_err(|_| Reason::MalformedResponse)?;
                self.received.drain(..taken);
            }
            if self.body.done() {
                return Poll::Ready(Ok(Piece::Last));
            }
            if out.len() > had {
                return Poll::Ready(Ok(Piece::Part));
            }
            let read = match self.body.length_left() {
                Some(left) => {
                    let read = self.stream.poll_read(context, out, limit_of(left, limit));
                    self.body.consume_length((out.len() - had) as u64);
                    read
                }
                None => self.stream.poll_read_lent(context, &mut self.received, limit, self.buffers),
            };
            match ready!(read) {
                Ok(0) => self.body.finish_on_eof().map_err(|_| Reason::UpstreamClosedMidResponse)?,
                Ok(_) => {}
                Err(_) => return Poll::Ready(Err(Reason::UpstreamClosedMidResponse)),
            }
        }
    }

    fn trailers(&self) -> &[u8] {
        self.body.trailers()
    }
}

impl Sink for H1Response<'_> {
    fn hungry(&self) -> bool {
        self.out.hungry()
    }

    fn open_piece(&mut self) -> &mut Vec<u8> {
        self.out.open_piece()
    }

    fn close_piece(&mut self, piece: Piece, _trailers: &[u8]) -> usize {
        self.out.close_piece(piece, &[]) // trailers end here (decision 0086)
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        self.out.poll_sent(context, &mut self.stream).map_err(|_| Reason::UpstreamResetBeforeResponse)
    }

    fn written(&self) -> u64 {
        self.out.written()
    }
}

impl ResponseSide for H1Response<'_> {
    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        (kind, limits): (RequestKind, &Limits),
        fields: &mut FieldTable,
    ) -> Poll<Result<Answered, Reason>> {
        loop {
            if !self.received.is_empty() {
                // The table serves every connection of the worker between two reads of this one.
                fields.resume(self.scan.take());
                let parsed = parse_response(&self.received, limits, kind, fields);
                if let Some(head) = parsed.map_err(|_| Reason::MalformedResponse)? {
                    let ends = matches!(head.framing, Framing::None | Framing::Length(0));
                    return Poll::Ready(Ok(Answered { head, ends }));
                }
                self.scan = Some(fields.suspend());
            }
            match ready!(self.stream.poll_read_lent(context, &mut self.received, FIRST, self.buffers)) {
                Ok(1..) => self.started = true,
                Ok(0) | Err(_) => return Poll::Ready(Err(self.lost())),
            }
        }
    }

    fn text(&self) -> &[u8] {
        &self.received
    }

    fn end_head(&mut self, head: &ResponseHead, answer: Answer) {
        self.received.drain(..head.len);
        self.out.forget();
        if answer == Answer::Final {
            self.body = BodyDecoder::bare(head.framing);
        }
    }

    fn started(&self) -> bool {
        self.started
    }

    fn still_trusted(&self, worker: &Worker) -> Result<(), Failure> {
        worker.still_trusts(&self.stream)
    }

    fn came(&self) -> Came {
        Came::AsHttp1
    }
}

/// Decodes all of `input` that belongs to the body; how much that was.
fn decode(body: &mut BodyDecoder, input: &[u8], out: &mut Vec<u8>) -> Result<usize, meshdp_proto::refusal::Refusal> {
    let mut taken = 0;
    while taken < input.len() && !body.done() {
        match body.decode(&input[taken..], out)? {
            0 => break,
            count => taken += count,
        }
    }
    Ok(taken)
}

fn limit_of(left: u64, limit: usize) -> usize {
    usize::try_from(left).map_or(limit, |left| left.min(limit))
}

/// What is read of the next requests while this one is under way; a downstream that sends more is not seen leaving.
const AHEAD_BYTES: usize = 2 * FIRST;
