//! One request and its response between two sides of which one speaks HTTP/2 at least, both directions pumped by one task.
//!
//! In: the two sides, as [`RequestSide`] (who asked) and [`ResponseSide`] (who answers): `h1_sides` with what waits to be sent
//! on them (`outgoing`), and `h2_sides`. The request's head is on its way.
//! Out: [`Transferred`], or a [`Broken`] transfer. `exchange` is the same for HTTP/1.1 on both sides, without these seams.
//! Limits: one piece per direction is in memory (`buffers::read_limit`): a side takes the next when the last has gone;
//! interim responses are counted.
//! Fails: a body that ends too early is never completed on the other side: the sides are cut (attack-cases DG-13, DG-14).
//! Source: RFC 9110 §6, §15.2; RFC 9113 §8.1; attack-cases table 2.3.

pub(crate) mod h1_sides;
pub(crate) mod h2_sides;
pub(crate) mod outgoing;

use std::task::{Context, Poll, ready};

use meshdp_proto::h2::ErrorCode;
use meshdp_proto::http1_conn::{Answer, Exchange as Turn};
use meshdp_proto::http1_fields::FieldTable;
use meshdp_proto::http1_head::{Limits, RequestHead};
use meshdp_proto::http1_response::{RequestKind, ResponseHead, switches_as_asked};

use crate::connection::Failure;
use crate::http::exchange::Broken;
use crate::http::grpc;
use crate::observe::outcome::Reason;
use crate::worker::Worker;
use crate::worker::buffers::read_limit;

/// Where a piece stands in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// More may follow.
    Part,
    /// The body is whole; trailers, if any, are known.
    Last,
}

/// Where a body comes from.
pub(crate) trait Source {
    /// Appends at most `limit` bytes of the body to `out`; ready with what came, nothing at all only with the last piece.
    fn poll_piece(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>, limit: usize)
    -> Poll<Result<Piece, Reason>>;

    /// What followed the last piece: `name: value` lines, or nothing.
    fn trailers(&self) -> &[u8];
}

/// Where a body goes.
pub(crate) trait Sink {
    /// Whether nothing waits to be sent, but for a head that a first piece may go with.
    fn hungry(&self) -> bool;

    /// The buffer that the next piece is to be appended to.
    fn open_piece(&mut self) -> &mut Vec<u8>;

    /// Frames what was appended since [`Sink::open_piece`], which may be nothing; how many bytes that was.
    fn close_piece(&mut self, piece: Piece, trailers: &[u8]) -> usize;

    /// Ready once everything has been handed to the kernel or to the connection's driver.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Reason>>;

    /// Bytes handed on so far, to tell progress from stillness.
    fn written(&self) -> u64;
}

/// The side that asked: its request's body, and the way back.
pub(crate) trait RequestSide: Source + Sink {
    /// The text that the request's head was read from, head first.
    fn text(&self) -> &[u8];

    /// Sends a response head, interim ones too.
    fn send_head(&mut self, reply: &Reply<'_>) -> Result<(), Reason>;

    /// Ready when it has given its request up.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Whether it has been told anything that no other answer may follow.
    fn told(&self) -> bool;

    /// Whether the request's body is still there as it came: it can be read away behind an answer of ours, or read again.
    fn intact(&self) -> bool;

    /// Begins again with the body, if it is intact.
    fn restart(&mut self);

    /// Ends a response that has begun so that it cannot be taken for a whole one; `code` says why where that can be said.
    fn cut(&mut self, code: ErrorCode);
}

/// The side that answers.
pub(crate) trait ResponseSide: Source + Sink {
    /// Reads the next response head, interim ones too; its text is then in [`ResponseSide::text`].
    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        asked: (RequestKind, &Limits),
        fields: &mut FieldTable,
    ) -> Poll<Result<Answered, Reason>>;

    /// The text of the head that was read.
    fn text(&self) -> &[u8];

    /// The head was handed on: the body follows, or after an interim one the next head.
    fn end_head(&mut self, head: &ResponseHead, answer: Answer);

    /// Whether a byte of an answer has come.
    fn started(&self) -> bool;

    /// Whether its certificate still leads to a root that is trusted.
    fn still_trusted(&self, worker: &Worker) -> Result<(), Failure>;

    /// Ready once the end of the answer will never come, where that is known without reading what comes before.
    fn poll_cut(&mut self, _context: &mut Context<'_>) -> Poll<Reason> {
        Poll::Pending
    }

    /// How its heads come.
    fn came(&self) -> Came;
}

/// A response head as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) head: ResponseHead,
    /// Neither a body nor trailers follow it.
    pub(crate) ends: bool,
}

/// A response head on its way to the side that asked.
pub(crate) struct Reply<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) head: &'a ResponseHead,
    pub(crate) fields: &'a FieldTable,
    pub(crate) answer: Answer,
    /// Whether the connection is to end with it, where it carries one request at a time.
    pub(crate) close: bool,
    /// Nothing follows it.
    pub(crate) ends: bool,
    /// How the head came.
    pub(crate) came: Came,
}

/// How a response head came, which says what of its spelling is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// As HTTP/1.1: it is worth a note on its spelling.
    AsHttp1,
    /// Over HTTP/2.
    OverHttp2,
    /// Over HTTP/2 from a peer of the mesh, whose note on its spelling is honoured.
    FromMesh,
}

/// What a finished transfer leaves behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transferred {
    /// An HTTP/1.1 connection to the upstream may carry another request.
    pub(crate) upstream_reusable: bool,
    /// An HTTP/1.1 downstream may send its next request.
    pub(crate) downstream_reusable: bool,
    /// The upstream has switched protocols, and who asked has been told: bytes follow both ways.
    pub(crate) switched: bool,
}

/// What is known when a transfer starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) kind: RequestKind,
    /// Whether gRPC's status is looked for.
    pub(crate) grpc: bool,
    /// Nothing follows the request's head.
    pub(crate) ended: bool,
    pub(crate) limits: Limits,
    /// The downstream's connection ends with the request.
    pub(crate) close: bool,
    /// An extended CONNECT for WebSocket: a switch is an answer, and nothing follows the head before it.
    pub(crate) tunnel: bool,
}

/// Both directions.
pub(crate) struct Transfer {
    turn: Turn,
    kind: RequestKind,
    limits: Limits,
    /// The last piece of the request was taken from the side that asked.
    request_ended: bool,
    /// All of the request is with the upstream, or it takes no more.
    upload_over: bool,
    upload_failed: bool,
    /// What was taken of the request's body is at hand: nothing yet, or all of it in one piece.
    whole_at_start: bool,
    response: Response,
    close_downstream: bool,
    tunnel: bool,
    switched: bool,
    /// Whether gRPC's status is looked for.
    grpc: bool,
    /// The status forwarded, 0 before there is one.
    pub(crate) status: u16,
    /// What gRPC said of the call.
    pub(crate) grpc_status: Option<u8>,
    /// Bytes of the request's body.
    pub(crate) bytes_in: u64,
    /// Bytes of the response's body.
    pub(crate) bytes_out: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    Awaited,
    Body,
    Ended,
}

impl Transfer {
    /// A transfer of a request with this head.
    pub(crate) fn new(head: &RequestHead, start: &Start) -> Self {
        let Start { kind, grpc, ended, limits, close, tunnel } = *start;
        Self {
            turn: Turn::new(head),
            kind,
            limits,
            request_ended: ended,
            upload_over: false,
            upload_failed: false,
            whole_at_start: true,
            response: Response::Awaited,
            close_downstream: close,
            tunnel,
            switched: false,
            grpc,
            status: 0,
            grpc_status: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Moves bytes both ways until the response has ended or neither side can go on.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        down: &mut impl RequestSide,
        up: &mut impl ResponseSide,
        fields: &mut FieldTable,
    ) -> Poll<Result<Transferred, Broken>> {
        if !self.upload_over {
            match self.poll_upload(context, down, up) {
                Poll::Ready(Ok(())) => {
                    self.upload_over = true;
                    self.turn.end_request();
                }
                // A refusal of the request's own bytes ends it here; a failing upstream may still have answered.
                Poll::Ready(Err(reason)) if reason != Reason::UpstreamResetBeforeResponse => {
                    return Poll::Ready(Err(broken(reason, up)));
                }
                Poll::Ready(Err(_)) => (self.upload_over, self.upload_failed) = (true, true),
                Poll::Pending => {}
            }
        }
        match self.poll_download(context, down, up, fields) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(self.finish())),
            Poll::Ready(Err(reason)) => Poll::Ready(Err(broken(reason, up))),
            Poll::Pending => match up.poll_cut(context) {
                // While what was read waits for its reader, too.
                Poll::Ready(reason) if self.response == Response::Body => Poll::Ready(Err(broken(reason, up))),
                _ => down.poll_gone(context).map(|()| Err(broken(Reason::DownstreamClosed, up))),
            },
        }
    }

    /// The answer says `Connection: close`, if its head is not on its way already.
    pub(crate) fn close_after(&mut self) {
        self.close_downstream = true;
    }

    /// Whether all of the request is still at hand, and nothing has come back, not even an interim response.
    pub(crate) fn replayable(&self) -> bool {
        self.whole_at_start && self.response == Response::Awaited
    }

    /// Whether all of the request was taken from the side that asked.
    pub(crate) fn request_has_ended(&self) -> bool {
        self.request_ended
    }

    /// Begins again with another upstream; legal only when `replayable`.
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.replayable(), "a request is replayed only when all of it is at hand");
        (self.upload_over, self.upload_failed) = (false, false);
    }

    /// Bytes moved so far, both ways.
    pub(crate) fn moved(&self, down: &impl Sink, up: &impl Sink) -> u64 {
        self.bytes_in + self.bytes_out + down.written() + up.written() + u64::from(self.response != Response::Awaited)
    }

    /// Who kept the other waiting when nothing moved for the idle bound.
    pub(crate) fn stalled(&self) -> Reason {
        match self.response {
            Response::Awaited if !self.request_ended => Reason::RequestTimeout,
            Response::Awaited => Reason::UpstreamTimeout,
            Response::Body | Response::Ended => Reason::IdleTimeout,
        }
    }

    fn finish(&mut self) -> Transferred {
        self.turn.end_response();
        Transferred {
            upstream_reusable: !self.upload_failed && self.turn.upstream_reusable(false),
            downstream_reusable: !self.close_downstream && self.turn.downstream_persists(),
            switched: self.switched,
        }
    }

    fn poll_upload(
        &mut self,
        context: &mut Context<'_>,
        down: &mut impl RequestSide,
        up: &mut impl ResponseSide,
    ) -> Poll<Result<(), Reason>> {
        loop {
            let mut waits = false;
            if !self.request_ended && up.hungry() {
                let limit = read_limit(self.bytes_in);
                let polled = down.poll_piece(context, up.open_piece(), limit);
                let piece = if let Poll::Ready(Ok(piece)) = &polled { *piece } else { Piece::Part };
                let first = self.bytes_in == 0;
                self.bytes_in += up.close_piece(piece, down.trailers()) as u64;
                self.request_ended = piece == Piece::Last;
                let whole = self.request_ended && first && down.trailers().is_empty();
                self.whole_at_start &= whole || self.bytes_in == 0 && !self.request_ended;
                match polled {
                    Poll::Ready(read) => drop(read?),
                    Poll::Pending => waits = true,
                }
            }
            ready!(up.poll_sent(context))?;
            if self.request_ended {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    fn poll_download(
        &mut self,
        context: &mut Context<'_>,
        down: &mut impl RequestSide,
        up: &mut impl ResponseSide,
        fields: &mut FieldTable,
    ) -> Poll<Result<(), Reason>> {
        while self.response == Response::Awaited {
            ready!(down.poll_sent(context))?;
            let head = ready!(up.poll_head(context, (self.kind, &self.limits), fields))?;
            self.forward_head(&head, fields, down, up)?;
        }
        loop {
            let mut waits = false;
            if self.response == Response::Body && down.hungry() {
                let polled = up.poll_piece(context, down.open_piece(), read_limit(self.bytes_out));
                let piece = if let Poll::Ready(Ok(piece)) = &polled { *piece } else { Piece::Part };
                self.bytes_out += down.close_piece(piece, up.trailers()) as u64;
                match polled {
                    Poll::Ready(read) => drop(read?),
                    Poll::Pending => waits = true,
                }
                if piece == Piece::Last {
                    self.end_body(up.trailers());
                }
            }
            ready!(down.poll_sent(context))?;
            if self.response == Response::Ended {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    fn forward_head(
        &mut self,
        answered: &Answered,
        fields: &FieldTable,
        down: &mut impl RequestSide,
        up: &mut impl ResponseSide,
    ) -> Result<(), Reason> {
        let head = &answered.head;
        let answer = self.turn.respond(head).map_err(|_| Reason::MalformedResponse)?;
        // Upgrades of HTTP/1.1 have their own connections: here nothing else than an extended CONNECT asks for a switch.
        let switches = answer == Answer::Switch;
        if switches && !(self.tunnel && switches_as_asked(up.text(), fields, WEBSOCKET)) {
            return Err(Reason::MalformedResponse);
        }
        let last = answer == Answer::Final;
        // As Envoy: where the answer overtakes its request, nobody waits for the rest of that, and the client is told.
        self.close_downstream |= last && (!self.upload_over || self.upload_failed);
        let reply = Reply {
            text: up.text(),
            head,
            fields,
            answer,
            close: last && self.close_downstream,
            ends: last && answered.ends,
            came: up.came(),
        };
        down.send_head(&reply)?;
        // Whoever has said anything has begun with the request; and what was sent of it is no longer kept.
        self.whole_at_start = false;
        if last {
            self.status = head.status;
            self.response = if reply.ends { Response::Ended } else { Response::Body };
            if self.grpc {
                self.grpc_status = grpc::status_in_head(reply.text, fields);
            }
        }
        if switches {
            (self.switched, self.status, self.response) = (true, SWITCHED, Response::Ended);
        }
        up.end_head(head, answer);
        Ok(())
    }

    fn end_body(&mut self, trailers: &[u8]) {
        self.response = Response::Ended;
        if self.grpc && !trailers.is_empty() {
            self.grpc_status = grpc::status_in_trailers(trailers).or(self.grpc_status);
        }
    }
}

/// Why a transfer stops, and whether anything was answered.
pub(crate) fn broken(reason: Reason, up: &impl ResponseSide) -> Broken {
    Broken { reason, unanswered: !up.started() }
}

/// The protocol that is bridged between the two versions (decision 0112).
pub(crate) const WEBSOCKET: &[u8] = b"websocket";
/// What HTTP/2 says where HTTP/1.1 says 101 (RFC 8441 §5).
pub(crate) const SWITCHED: u16 = 200;
