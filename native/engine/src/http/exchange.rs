//! One request and its response, both directions pumped by one task.
//!
//! In: an encoded request head, the downstream with what was read beyond the head, an upstream connection.
//! Out: `Exchanged` (what was answered, and whether each connection may be used again) or a `Broken` exchange.
//! Limits: one read per direction is in memory at a time (`buffers::read_limit`), and `AHEAD_BYTES` of the next request;
//! interim responses are counted.
//! Fails: `Broken` says which side ended it and whether response bytes have been sent already.
//! Source: RFC 9112 §6, §9.3; attack-cases H1-17, H1-31, H1-34, H1-41, H1-44 to H1-48.

use std::task::{Context, Poll};

use meshdp_proto::HeadScan;
use meshdp_proto::http1_body::BodyDecoder;
use meshdp_proto::http1_conn::{Answer, Exchange as Turn};
use meshdp_proto::http1_fields::{FieldTable, Span};
use meshdp_proto::http1_forward::{ResponseEdits, encode_response};
use meshdp_proto::http1_head::{Framing, Limits};
use meshdp_proto::http1_response::{RequestKind, parse_response, switches_as_asked};

use crate::http::grpc::Watched;
use crate::observe::outcome::Reason;
use crate::stream::Stream;
use crate::worker::buffers::{Buffers, FIRST, read_limit};

/// Why an exchange stopped before its end.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The reason to record and, if nothing was answered yet, to answer with.
    pub(crate) reason: Reason,
    /// Not one byte of a response was seen: on a reused connection the upstream may never have read the request.
    pub(crate) unanswered: bool,
}

impl Broken {
    /// The upstream ended a connection that it had kept idle, instead of answering; nobody else gave the request up.
    pub(crate) fn lost_to_reuse(&self, reused: bool) -> bool {
        reused && self.unanswered && self.reason == Reason::UpstreamResetBeforeResponse
    }
}

/// What a finished exchange leaves behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchanged {
    /// Status forwarded.
    pub(crate) status: u16,
    /// Request and response ended exactly where their framing said, nothing more was received.
    pub(crate) upstream_reusable: bool,
    /// The downstream may send its next request.
    pub(crate) downstream_reusable: bool,
    /// The response switched protocols: both connections carry opaque bytes from here.
    pub(crate) upgraded: bool,
}

/// The request side: what goes upstream.
pub(crate) struct Upload {
    /// Encoded bytes; kept whole until the first response byte, so that an unread request can be sent again.
    pub(crate) out: Vec<u8>,
    sent: usize,
    body: BodyDecoder,
    /// How far `received` has been decoded; the head before it stays for re-authorization.
    parsed: usize,
    whole_at_start: bool,
    done: bool,
    /// The upstream takes no more; it may have answered all the same.
    failed: bool,
    head_bytes: u64,
    bytes: u64,
}

/// The response side: what goes downstream.
pub(crate) struct Download {
    received: Vec<u8>,
    /// How much of `received` is done with: a head whose body's first bytes lie behind it.
    parsed: usize,
    scan: Option<HeadScan>,
    out: Vec<u8>,
    sent: usize,
    body: Option<BodyDecoder>,
    kind: RequestKind,
    status: u16,
    pub(crate) watched: Watched,
    pub(crate) until_close: bool,
    upgraded: bool,
    /// A head was read from the upstream.
    started: bool,
    head_bytes: u64,
    bytes: u64,
}

/// Both sides with the bounds they share.
pub(crate) struct Exchange {
    pub(crate) upload: Upload,
    pub(crate) download: Download,
    limits: Limits,
    /// The protocols that the request's `Upgrade` names, in the downstream's buffer.
    upgrade: Option<Span>,
    /// What the heads and the ends of bodies mean for both connections.
    turn: Turn,
    close_downstream: bool,
}

/// What the session knows when an exchange starts.
pub(crate) struct Start {
    pub(crate) out: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) head_len: usize,
    pub(crate) kind: RequestKind,
    pub(crate) upgrade: Option<Span>,
    pub(crate) turn: Turn,
    pub(crate) close_downstream: bool,
    pub(crate) limits: Limits,
    pub(crate) watched: Watched,
}

impl Exchange {
    /// Prepares an exchange; `body_prefix` is the downstream buffer with the head still in front.
    pub(crate) fn new(start: Start, downstream: &[u8]) -> Result<Self, Broken> {
        let mut upload = Upload {
            head_bytes: start.out.len() as u64,
            out: start.out,
            sent: 0,
            body: BodyDecoder::new(start.framing),
            parsed: start.head_len,
            whole_at_start: false,
            done: false,
            failed: false,
            bytes: 0,
        };
        upload.decode(downstream).map_err(|reason| Broken { reason, unanswered: true })?;
        upload.whole_at_start = upload.body.done();
        let download = Download {
            received: Vec::new(),
            parsed: 0,
            scan: None,
            out: Vec::new(),
            sent: 0,
            body: None,
            kind: start.kind,
            status: 0,
            watched: start.watched,
            until_close: false,
            upgraded: false,
            started: false,
            head_bytes: 0,
            bytes: 0,
        };
        let Start { limits, upgrade, turn, close_downstream, .. } = start;
        Ok(Self { upload, download, limits, upgrade, turn, close_downstream })
    }

    /// Ready when the downstream leaves before its request has been sent. One that still sends a body is not listened to.
    pub(crate) fn poll_left(&self, context: &mut Context<'_>, down: &mut Downstream<'_>) -> Poll<()> {
        if self.upload.whole_at_start { down.poll_gone(context, self.upload.parsed) } else { Poll::Pending }
    }

    /// Moves bytes both ways until the response has ended or neither side can go on.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        down: &mut Downstream<'_>,
        up: &mut Stream,
        (fields, buffers): (&mut FieldTable, &Buffers),
    ) -> Poll<Result<Exchanged, Broken>> {
        if !self.upload.done && !self.upload.failed {
            match self.upload.poll(context, down, up) {
                Poll::Ready(Ok(())) => {
                    self.upload.done = true;
                    self.turn.end_request();
                }
                // A refusal of the request's own bytes ends it here; a failing upstream may still have answered.
                Poll::Ready(Err(reason)) if reason != Reason::UpstreamResetBeforeResponse => {
                    return Poll::Ready(Err(self.broken(reason)));
                }
                Poll::Ready(Err(_)) => self.upload.failed = true,
                Poll::Pending => {}
            }
        }
        match self.poll_download(context, down, up, (fields, buffers)) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(self.finish())),
            Poll::Ready(Err(reason)) => Poll::Ready(Err(self.broken(reason))),
            // An upstream that takes nothing more is about to be readable: with an answer, with its end or with an error.
            Poll::Pending if self.upload.done => {
                down.poll_gone(context, self.upload.parsed).map(|()| Err(self.broken(Reason::DownstreamClosed)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The answer says `Connection: close`, if its head is not on its way already.
    pub(crate) fn close_after(&mut self) {
        self.close_downstream = true;
    }

    /// Whether the request can be sent again from the start on another connection.
    pub(crate) fn replayable(&self) -> bool {
        self.upload.whole_at_start && !self.download.started && self.download.received.is_empty()
    }

    /// Starts sending again from the first byte; legal only when `replayable`.
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.replayable(), "a request is replayed only when all of it is at hand");
        self.upload.sent = 0;
        self.upload.done = false;
        self.upload.failed = false;
    }

    /// Gives the buffers back: request bytes, response bytes, reply bytes.
    pub(crate) fn into_buffers(self) -> [Vec<u8>; 3] {
        [self.upload.out, self.download.received, self.download.out]
    }

    /// Bytes moved so far, both ways, to tell progress from stillness.
    pub(crate) fn moved(&self) -> u64 {
        self.upload.bytes + self.upload.sent as u64 + self.download.bytes + self.download.received.len() as u64
    }

    /// Who kept the other waiting when nothing moved for the idle bound.
    pub(crate) fn stalled(&self) -> Reason {
        if !self.upload.body.done() {
            Reason::RequestTimeout
        } else if self.download.started {
            Reason::IdleTimeout
        } else {
            Reason::UpstreamTimeout
        }
    }

    /// Why it stops here, and whether anything was answered.
    pub(crate) fn broken(&self, reason: Reason) -> Broken {
        Broken { reason, unanswered: !self.download.started && self.download.received.is_empty() }
    }

    fn finish(&mut self) -> Exchanged {
        self.turn.end_response();
        let upgraded = self.download.upgraded;
        Exchanged {
            status: self.download.status,
            upstream_reusable: !upgraded
                && !self.upload.failed
                && self.turn.upstream_reusable(!self.download.received.is_empty()),
            downstream_reusable: !self.close_downstream && self.turn.downstream_persists(),
            upgraded,
        }
    }

    fn poll_download(
        &mut self,
        context: &mut Context<'_>,
        down: &mut Downstream<'_>,
        up: &mut Stream,
        (fields, buffers): (&mut FieldTable, &Buffers),
    ) -> Poll<Result<(), Reason>> {
        loop {
            std::task::ready!(self.download.poll_send(context, down.stream))?;
            if self.download.body.is_none() {
                match self.read_head(down.received, fields)? {
                    HeadRead::NeedMore => {}
                    HeadRead::Interim => continue,
                    HeadRead::Final => {
                        self.download.decode()?;
                        continue;
                    }
                }
            } else if self.download.ended() {
                return Poll::Ready(Ok(()));
            }
            if std::task::ready!(self.download.poll_receive(context, up, buffers))? {
                self.download.decode()?;
            }
        }
    }

    fn read_head(&mut self, request: &[u8], fields: &mut FieldTable) -> Result<HeadRead, Reason> {
        let download = &mut self.download;
        if download.received.is_empty() {
            return Ok(HeadRead::NeedMore);
        }
        // The table serves every connection of the worker between two reads of this one.
        fields.resume(download.scan.take());
        let parsed = parse_response(&download.received, &self.limits, download.kind, fields);
        let Some(head) = parsed.map_err(|_| Reason::MalformedResponse)? else {
            download.scan = Some(fields.suspend());
            return Ok(HeadRead::NeedMore);
        };
        let answer = self.turn.respond(&head).map_err(|_| Reason::MalformedResponse)?;
        if answer == Answer::Switch && !self.upload.done {
            return Err(Reason::MalformedResponse); // RFC 9110 §7.8: the switch comes after the request, or its rest is lost
        }
        let asked = self.upgrade.map_or(&[][..], |span| span.of(request));
        if answer == Answer::Switch && !switches_as_asked(&download.received, fields, asked) {
            return Err(Reason::MalformedResponse);
        }
        // As Envoy: where the answer overtakes its request, nobody waits for the rest of that, and the client is told.
        self.close_downstream |= answer == Answer::Final && !self.upload.done;
        let close = answer == Answer::Final && (self.close_downstream || head.framing == Framing::UntilClose);
        let edits = ResponseEdits { append: &[], close, ..ResponseEdits::default() };
        encode_response(&download.received, &head, fields, &edits, &mut download.out);
        download.head_bytes += download.out.len() as u64;
        download.started = true;
        if answer == Answer::Interim {
            download.received.drain(..head.len);
            return Ok(HeadRead::Interim);
        }
        download.parsed = head.len;
        download.status = head.status;
        download.watched.read(&download.received, fields);
        download.upgraded = answer == Answer::Switch;
        download.until_close = answer == Answer::Final && head.framing == Framing::UntilClose;
        download.body = Some(BodyDecoder::new(if download.upgraded { Framing::None } else { head.framing }));
        Ok(HeadRead::Final)
    }
}

/// The downstream of an exchange: its stream and what was read from it, head first.
pub(crate) struct Downstream<'a> {
    pub(crate) stream: &'a mut Stream,
    pub(crate) received: &'a mut Vec<u8>,
    pub(crate) head_len: usize,
}

impl Downstream<'_> {
    /// Ready when the downstream has left while its answer is awaited: by a reset, or by its end, as with Envoy. What it
    /// sends before that is the start of its next request, kept behind the `parsed` bytes of this one.
    fn poll_gone(&mut self, context: &mut Context<'_>, parsed: usize) -> Poll<()> {
        while self.received.len() - parsed < AHEAD_BYTES {
            if std::task::ready!(self.stream.tcp().poll_read_ready(context)).is_err() {
                return Poll::Ready(());
            }
            match std::task::ready!(self.stream.poll_read(context, self.received, FIRST)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }
}

enum HeadRead {
    NeedMore,
    Interim,
    Final,
}

impl Upload {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        down: &mut Downstream<'_>,
        up: &mut Stream,
    ) -> Poll<Result<(), Reason>> {
        loop {
            while self.sent < self.out.len() {
                match std::task::ready!(up.poll_write(context, &self.out[self.sent..])) {
                    Ok(written) if written > 0 => self.sent += written,
                    _ => return Poll::Ready(Err(Reason::UpstreamResetBeforeResponse)),
                }
            }
            if std::task::ready!(up.poll_flush(context)).is_err() {
                return Poll::Ready(Err(Reason::UpstreamResetBeforeResponse));
            }
            if self.body.done() {
                return Poll::Ready(Ok(()));
            }
            self.bytes += self.out.len() as u64;
            self.out.clear();
            self.sent = 0;
            let limit = read_limit(self.bytes);
            match std::task::ready!(down.stream.poll_read(context, down.received, limit)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Reason::DownstreamClosed)),
                Ok(_) => self.decode_after(down.received, down.head_len)?,
            }
        }
    }

    fn decode_after(&mut self, received: &mut Vec<u8>, head_len: usize) -> Result<(), Reason> {
        self.decode(received)?;
        // The head stays for re-authorization; decoded body bytes have no further use.
        if !self.body.done() {
            received.drain(head_len..self.parsed);
            self.parsed = head_len;
        }
        Ok(())
    }

    fn decode(&mut self, received: &[u8]) -> Result<(), Reason> {
        while self.parsed < received.len() && !self.body.done() {
            let consumed = self.body.decode(&received[self.parsed..], &mut self.out);
            let consumed = consumed.map_err(|_| Reason::MalformedRequest)?;
            self.parsed += consumed;
            if consumed == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Bytes of the request's body sent, as framed upstream.
    pub(crate) fn body_bytes(&self) -> u64 {
        (self.bytes + self.sent as u64).saturating_sub(self.head_bytes)
    }

    /// The whole request was at hand before a byte of it was sent.
    pub(crate) fn whole_at_start(&self) -> bool {
        self.whole_at_start
    }

    /// How much of the downstream buffer belongs to this request.
    pub(crate) fn consumed(&self) -> usize {
        self.parsed
    }
}

impl Download {
    /// Whether the downstream has been given a byte: from then on nothing else can be answered.
    pub(crate) fn told(&self) -> bool {
        self.bytes > 0 || self.sent > 0
    }

    fn ended(&self) -> bool {
        self.body.as_ref().is_some_and(BodyDecoder::done)
    }

    fn poll_send(&mut self, context: &mut Context<'_>, down: &mut Stream) -> Poll<Result<(), Reason>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.out.len() {
            match std::task::ready!(down.poll_write(context, &self.out[self.sent..])) {
                Ok(written) if written > 0 => self.sent += written,
                _ => return Poll::Ready(Err(Reason::DownstreamClosed)),
            }
        }
        if std::task::ready!(down.poll_flush(context)).is_err() {
            return Poll::Ready(Err(Reason::DownstreamClosed));
        }
        self.bytes += self.out.len() as u64;
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once; true when bytes came, an error when the upstream ended too early.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        up: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<bool, Reason>> {
        let read = up.poll_read_lent(context, &mut self.received, read_limit(self.bytes), buffers);
        if self.out.capacity() == 0 && read.is_ready() {
            self.out = buffers.lend();
        }
        match std::task::ready!(read) {
            Ok(0) => Poll::Ready(self.end_of_stream().map(|()| false)),
            Ok(_) => Poll::Ready(Ok(true)),
            Err(_) if self.started => Poll::Ready(Err(Reason::UpstreamClosedMidResponse)),
            Err(_) => Poll::Ready(Err(Reason::UpstreamResetBeforeResponse)),
        }
    }

    fn end_of_stream(&mut self) -> Result<(), Reason> {
        let Some(body) = &mut self.body else { return Err(Reason::UpstreamResetBeforeResponse) };
        body.finish_on_eof().map_err(|_| Reason::UpstreamClosedMidResponse)
    }

    fn decode(&mut self) -> Result<(), Reason> {
        let Some(body) = &mut self.body else { return Ok(()) };
        let mut parsed = std::mem::take(&mut self.parsed);
        while parsed < self.received.len() && !body.done() {
            let consumed = body.decode(&self.received[parsed..], &mut self.out);
            let consumed = consumed.map_err(|_| Reason::MalformedResponse)?;
            parsed += consumed;
            if consumed == 0 {
                break;
            }
        }
        self.received.drain(..parsed);
        Ok(())
    }

    /// Bytes of the response's body sent, as framed downstream.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.head_bytes)
    }

    /// The status forwarded, 0 before there is one.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Bytes the upstream sent beyond the response head of an upgrade.
    pub(crate) fn surplus(&self) -> &[u8] {
        &self.received
    }
}

/// What is read of the next requests while this one is under way; a downstream that sends more is not seen leaving.
const AHEAD_BYTES: usize = 2 * FIRST;
