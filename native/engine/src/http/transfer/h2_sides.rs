//! The sides of a transfer that speak HTTP/2: who asked on a stream of ours, and who answers on one that we opened.
//!
//! In: a stream's handle and the canonical text of its head.  Out: pieces of bodies as DATA, trailers as they are.
//! Limits: the windows of the stream; one piece waits until they take it.
//! Fails: a stream that ended before its end says why; ours is reset when the other side of the transfer breaks (DG-14).
//! Source: RFC 9113 §5.1, §8.1.

use std::task::{Context, Poll, ready};

use meshdp_proto::h2::ErrorCode;
use meshdp_proto::h2::message::{Message, ResponseMapping, encode_response, encode_response_text, encode_trailers};
use meshdp_proto::http1_conn::Answer;
use meshdp_proto::http1_fields::{FieldTable, Known};
use meshdp_proto::http1_forward::ResponseEdits;
use meshdp_proto::http1_head::Limits;
use meshdp_proto::http1_response::{RequestKind, ResponseHead, parse_response};

use crate::connection::Failure;
use crate::h2::stream::{StreamEnd, StreamHandle};
use crate::http::transfer::{Answered, Came, Piece, Reply, RequestSide, ResponseSide, Sink, Source};
use crate::observe::outcome::Reason;
use crate::worker::Worker;
use crate::worker::buffers::Buffers;

/// A stream with what waits to be sent on it.
struct Flow<'b> {
    handle: StreamHandle,
    buffers: &'b Buffers,
    out: Vec<u8>,
    sent: usize,
    /// The last piece is in `out`.
    last: bool,
    /// The end has been sent.
    ended: bool,
    trailers_out: Vec<u8>,
    trailers_in: Vec<u8>,
    written: u64,
    /// What was sent is kept, in case that it must be sent again.
    kept: bool,
}

impl<'b> Flow<'b> {
    fn new(handle: StreamHandle, (out, last): (Vec<u8>, bool), buffers: &'b Buffers) -> Self {
        let (trailers_out, trailers_in) = (Vec::new(), Vec::new());
        let (sent, written, ended, kept) = (0, 0, false, true);
        Self { handle, buffers, out, sent, last, ended, trailers_out, trailers_in, written, kept }
    }

    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Piece, StreamEnd>> {
        let got = ready!(self.handle.poll_data(context, out, limit))?;
        if !got.end {
            return Poll::Ready(Ok(Piece::Part));
        }
        self.handle.take_trailers(&mut self.trailers_in);
        Poll::Ready(Ok(Piece::Last))
    }

    fn hungry(&self) -> bool {
        self.sent == self.out.len() && !self.last
    }

    fn open_piece(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = self.buffers.lend();
        }
        &mut self.out
    }

    /// While nothing has come, no buffer is held.
    fn close_piece(&mut self, piece: Piece, trailers: &[u8]) -> usize {
        let count = self.out.len() - self.sent;
        if self.out.is_empty() {
            self.buffers.give(std::mem::take(&mut self.out));
        }
        self.last = piece == Piece::Last;
        self.kept &= self.last || count == 0;
        if !trailers.is_empty() {
            self.trailers_out = self.buffers.lend();
            self.trailers_out.extend_from_slice(trailers);
        }
        count
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        let end = self.last && self.trailers_out.is_empty();
        while self.sent < self.out.len() || (end && !self.ended) {
            let count = ready!(self.handle.poll_send_data(context, &self.out[self.sent..], end))?;
            self.sent += count;
            self.written += count as u64;
            self.ended = end && self.sent == self.out.len();
        }
        if self.last && !self.ended {
            let Self { handle, trailers_out, .. } = self;
            handle.send_trailers(|encoder, out| encode_trailers(encoder, trailers_out, out))?;
            self.ended = true;
        }
        if !self.kept {
            self.out.clear();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        for buffer in [&mut self.out, &mut self.trailers_out, &mut self.trailers_in] {
            self.buffers.give(std::mem::take(buffer));
        }
    }
}

/// Who asked over HTTP/2.
pub(crate) struct H2Request<'b> {
    flow: Flow<'b>,
    text: Vec<u8>,
    /// Whether the request came with a note on its spelling: so will the answer, for the same peer.
    noted: bool,
    told: bool,
    /// No byte of the body has been taken.
    intact: bool,
}

impl<'b> H2Request<'b> {
    /// The side of a request with this head.
    pub(crate) fn new(handle: StreamHandle, text: Vec<u8>, buffers: &'b Buffers) -> Self {
        let mut flow = Flow::new(handle, (Vec::new(), false), buffers);
        flow.kept = false;
        Self { flow, text, noted: false, told: false, intact: true }
    }

    /// The answer's head is to say how it was spelled.
    pub(crate) fn note_answer(&mut self, noted: bool) {
        self.noted = noted;
    }

    /// Tells that the upstream has switched: what is a status and two fields of HTTP/1.1 is 200 here.
    fn send_switch(&mut self, reply: &Reply<'_>) -> Result<(), Reason> {
        let mut text = self.flow.buffers.lend();
        text.extend_from_slice(SWITCHED_LINE);
        for field in reply.fields {
            let (name, value) = (field.name.of(reply.text), field.value.of(reply.text));
            if !field.listed_in_connection && !name.eq_ignore_ascii_case(ACCEPT) {
                for part in [name, b": ", value, b"\r\n"] {
                    text.extend_from_slice(part);
                }
            }
        }
        let edits = ResponseEdits { drop: &[Known::ContentLength], ..ResponseEdits::default() };
        let encode = |encoder: &mut _, out: &mut _| {
            encode_response_text(encoder, &text, &edits, &ResponseMapping::default(), out);
        };
        let sent = self.flow.handle.send_head(false, encode);
        self.flow.buffers.give(text);
        self.told = true;
        sent.map_err(|_| Reason::DownstreamClosed)
    }

    /// The stream, to answer on it ourselves.
    pub(crate) fn handle(&mut self) -> &mut StreamHandle {
        &mut self.flow.handle
    }
}

impl Drop for H2Request<'_> {
    fn drop(&mut self) {
        self.flow.buffers.give(std::mem::take(&mut self.text));
    }
}

impl Source for H2Request<'_> {
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Piece, Reason>> {
        let polled = self.flow.poll_piece(context, out, limit);
        self.intact &= polled.is_pending();
        polled.map_err(|end| match end {
            StreamEnd::Fault(_) => Reason::MalformedRequest,
            StreamEnd::Distrusted => Reason::TrustChanged,
            _ => Reason::DownstreamClosed,
        })
    }

    fn trailers(&self) -> &[u8] {
        &self.flow.trailers_in
    }
}

impl Sink for H2Request<'_> {
    fn hungry(&self) -> bool {
        self.flow.hungry()
    }

    fn open_piece(&mut self) -> &mut Vec<u8> {
        self.flow.open_piece()
    }

    fn close_piece(&mut self, piece: Piece, trailers: &[u8]) -> usize {
        self.flow.close_piece(piece, trailers)
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        self.flow.poll_sent(context).map_err(|_| Reason::DownstreamClosed)
    }

    fn written(&self) -> u64 {
        self.flow.written
    }
}

impl RequestSide for H2Request<'_> {
    fn text(&self) -> &[u8] {
        &self.text
    }

    fn send_head(&mut self, reply: &Reply<'_>) -> Result<(), Reason> {
        if reply.answer == Answer::Switch {
            return self.send_switch(reply);
        }
        let message = Message { buf: reply.text, head: reply.head, fields: reply.fields };
        let note = self.noted && reply.came == Came::AsHttp1 && reply.answer == Answer::Final;
        let mapping = ResponseMapping { note, ..ResponseMapping::default() };
        let edits = ResponseEdits::default();
        let encode = |encoder: &mut _, out: &mut _| encode_response(encoder, &message, &edits, &mapping, out);
        self.flow.handle.send_head(reply.ends, encode).map_err(|_| Reason::DownstreamClosed)?;
        self.told |= reply.answer == Answer::Final;
        Ok(())
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.flow.handle.poll_broken(context).map(drop)
    }

    fn told(&self) -> bool {
        self.told
    }

    fn intact(&self) -> bool {
        self.intact
    }

    fn restart(&mut self) {} // what has come waits with the stream

    fn cut(&mut self, code: ErrorCode) {
        self.flow.handle.reset(code);
    }
}

/// Who answers over HTTP/2.
pub(crate) struct H2Response<'b> {
    flow: Flow<'b>,
    text: Vec<u8>,
    started: bool,
    came: Came,
    /// Why it broke off.
    end: Option<StreamEnd>,
}

impl<'b> H2Response<'b> {
    /// A side whose stream was opened with the request's head. `out`: what of the body is at hand, and whether it is all;
    /// `ended`: the head ended the stream.
    pub(crate) fn new(
        handle: StreamHandle,
        out: (Vec<u8>, bool),
        (ended, came): (bool, Came),
        buffers: &'b Buffers,
    ) -> Self {
        let mut flow = Flow::new(handle, out, buffers);
        flow.ended = ended;
        Self { flow, text: Vec::new(), started: false, came, end: None }
    }

    /// Whether the peer has certainly not acted on the request, which may then be sent again whatever it is.
    pub(crate) fn unprocessed(&self) -> bool {
        self.end == Some(StreamEnd::Unprocessed)
    }

    /// Whether the connection broke under it.
    pub(crate) fn lost_with_connection(&self) -> bool {
        self.end == Some(StreamEnd::Lost)
    }

    /// Takes the body, all of which is still there while the transfer is replayable.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.flow.out)
    }

    fn lost(&mut self, end: StreamEnd) -> Reason {
        self.end = Some(end);
        match end {
            StreamEnd::Distrusted => Reason::TrustChanged,
            StreamEnd::Fault(_) => Reason::MalformedResponse,
            StreamEnd::Stalled => Reason::Overload,
            _ if self.started => Reason::UpstreamClosedMidResponse,
            _ => Reason::UpstreamResetBeforeResponse,
        }
    }
}

impl Drop for H2Response<'_> {
    fn drop(&mut self) {
        self.flow.buffers.give(std::mem::take(&mut self.text));
    }
}

impl Source for H2Response<'_> {
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Piece, Reason>> {
        self.flow.poll_piece(context, out, limit).map_err(|end| self.lost(end))
    }

    fn trailers(&self) -> &[u8] {
        &self.flow.trailers_in
    }
}

impl Sink for H2Response<'_> {
    fn hungry(&self) -> bool {
        self.flow.hungry()
    }

    fn open_piece(&mut self) -> &mut Vec<u8> {
        self.flow.open_piece()
    }

    fn close_piece(&mut self, piece: Piece, trailers: &[u8]) -> usize {
        self.flow.close_piece(piece, trailers)
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        // Whether it answered all the same, the head's reader finds out.
        self.flow.poll_sent(context).map_err(|_| Reason::UpstreamResetBeforeResponse)
    }

    fn written(&self) -> u64 {
        self.flow.written
    }
}

impl ResponseSide for H2Response<'_> {
    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        (kind, limits): (RequestKind, &Limits),
        fields: &mut FieldTable,
    ) -> Poll<Result<Answered, Reason>> {
        let read = ready!(self.flow.handle.poll_head(context, &mut self.text)).map_err(|end| self.lost(end))?;
        self.started = true;
        self.text.extend_from_slice(b"\r\n");
        fields.resume(None);
        let limits = if self.came == Came::FromMesh { limits.of_mesh_peer() } else { *limits };
        let parsed = parse_response(&self.text, &limits, kind, fields);
        let Ok(Some(mut head)) = parsed else { return Poll::Ready(Err(Reason::MalformedResponse)) };
        head.framing = read.shape.framing(kind, read.end);
        head.keep_alive = true;
        let ends = read.end || !read.shape.has_body(kind == RequestKind::Head);
        Poll::Ready(Ok(Answered { head, ends }))
    }

    fn text(&self) -> &[u8] {
        &self.text
    }

    fn end_head(&mut self, _head: &ResponseHead, _answer: Answer) {
        self.flow.buffers.give(std::mem::take(&mut self.text));
        self.flow.kept = false;
    }

    fn started(&self) -> bool {
        self.started
    }

    fn still_trusted(&self, _worker: &Worker) -> Result<(), Failure> {
        Ok(()) // the pool ends the streams of a connection whose peer is not (`StreamEnd::Distrusted`)
    }

    fn poll_cut(&mut self, context: &mut Context<'_>) -> Poll<Reason> {
        self.flow.handle.poll_cut(context).map(|end| self.lost(end))
    }

    fn came(&self) -> Came {
        self.came
    }
}

/// How a WebSocket server shows that it has read the key that HTTP/2 has no use for (RFC 8441 §5.1).
const ACCEPT: &[u8] = b"sec-websocket-accept";
/// What 101 is over HTTP/2.
const SWITCHED_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";
