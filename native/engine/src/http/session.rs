//! The requests of one HTTP/1.1 connection, one after the other.
//!
//! In: a secured connection.  Out: every accepted request gets exactly one final outcome, in order.
//! Limits: head and idle bounds of the settings; one request is in memory at a time, pipelined ones wait in the socket.
//! Fails: refusals are answered and end the connection; a lost permit ends the request with `policy_changed`.
//! Each request pins the snapshot in force, so that its route and its policy come from the same version.
//! Source: RFC 9112 §9; attack-cases 2.1; DESIGN section 3.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use meshdp_model::authz::Permit;
use meshdp_model::sections::PortProtocol;
use meshdp_model::version::Version;
use meshdp_proto::HeadScan;
use meshdp_proto::h2::message::{grpc_status, is_grpc};
use meshdp_proto::http1_fields::Known;
use meshdp_proto::http1_head::Framing;
use meshdp_proto::sniff::PREFACE;

use crate::attempts::Attempts;
use crate::connection::{Failure, Secured};
use crate::http::caller::{Caller, Refused, Request, view};
use crate::http::carry::{Carried, Errand, carry};
use crate::http::decide::{path_mode, read_head_from};
use crate::http::h2_session;
use crate::http::reply::{self, Reply};
use crate::http::transfer::Start;
use crate::http::transfer::h1_sides::H1Request;
use crate::http::upstream::{self, Served};
use crate::observe::outcome::{Outcome, Reason};
use crate::observe::record::{self, RequestRecord};
use crate::stream::Stream;
use crate::upstream::Target;
use crate::worker::buffers::FIRST;
use crate::worker::registry::Entry;
use crate::worker::{Pinned, Worker};

/// Runs an HTTP connection until either side closes it.
///
/// # Errors
/// What ended the connection, when it was not the end of a request; requests record their own outcomes.
pub(crate) async fn run(secured: Box<Secured>, pinned: &Pinned, worker: &Rc<Worker>) -> Result<(), Failure> {
    let mut session = HttpSession::open(secured, pinned, worker);
    loop {
        match session.request().await? {
            Next::Request => {}
            Next::Close => {
                Box::pin(reply::linger(&mut session.stream)).await;
                return Ok(());
            }
            Next::Cut => return Ok(()),
            Next::Http2 => {
                let HttpSession { stream, received, caller } = *session;
                let secured = Box::new(Secured { stream, received, link: caller.link });
                return Box::pin(h2_session::run(secured, pinned, worker)).await;
            }
        }
    }
}

/// What follows a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The connection takes another request.
    Request,
    /// The connection ends after an answer that must arrive whole.
    Close,
    /// The connection ends at once: there is nothing left to say, or what is missing must be seen to be missing.
    Cut,
    /// It is no HTTP/1.1 connection: what was received is the start of an HTTP/2 one.
    Http2,
}

/// One HTTP connection.
pub(crate) struct HttpSession<'w> {
    pub(crate) stream: Stream,
    /// Bytes of the request under way, its head in front, and of those that follow it.
    pub(crate) received: Vec<u8>,
    pub(crate) caller: Caller<'w>,
}

impl<'w> HttpSession<'w> {
    fn open(secured: Box<Secured>, pinned: &Pinned, worker: &'w Rc<Worker>) -> Box<Self> {
        let Secured { stream, received, link } = *secured;
        Box::new(Self { stream, received, caller: Caller::new(link, pinned, worker, "HTTP/1.1") })
    }

    /// Answers of our own are boxed, and what is large is matched where it lies: idle connections must not keep room for the
    /// former, nor twice for the latter.
    async fn request(&mut self) -> Result<Next, Failure> {
        let mut received = self.receive_head().await;
        let request = match &mut received {
            Ok(request) => &*request,
            Err(why) => return Box::pin(self.without_request(why)).await,
        };
        let mut permitted = self.permitted(request);
        let served = match &mut permitted {
            Permitted::Carry(target) => self.carry(request, target).await,
            Permitted::Serve(permit, target) => upstream::serve(self, request, permit, target).await,
            Permitted::Unreachable(reason) => Ok(Served::Unanswered(*reason)),
            Permitted::Denied(refused) => return Box::pin(self.deny(request, refused)).await,
        };
        let next = match served {
            Ok(Served::Next(next)) => next,
            unserved => Box::pin(self.unserved(request, unserved)).await?,
        };
        self.caller.count_request();
        Ok(if self.caller.worker.draining.get() && next == Next::Request { Next::Close } else { next })
    }

    /// What becomes of a request, and by which way.
    fn permitted(&self, request: &Request) -> Permitted {
        let permit = match self.caller.authorize(request, &self.received) {
            Ok(permit) => permit,
            Err(refused) => return Permitted::Denied(refused),
        };
        match self.caller.route(&permit, request, &self.received) {
            Ok(target) if Errand::of_http1(&self.caller, request, &target).version() == Version::Http2 => {
                Permitted::Carry(target)
            }
            Ok(target) => Permitted::Serve(permit, target),
            Err(reason) => Permitted::Unreachable(reason),
        }
    }

    /// What follows when there is no request to serve.
    async fn without_request(&mut self, why: &mut NoRequest) -> Result<Next, Failure> {
        match std::mem::replace(why, NoRequest::Closed) {
            NoRequest::Refused(outcome, pinned) => Ok(self.refuse(&outcome, &pinned).await),
            NoRequest::Preface => Ok(Next::Http2),
            NoRequest::Closed => {
                reply::hang_up(&mut self.stream).await;
                Ok(Next::Cut)
            }
            NoRequest::Broken(failure) => Err(failure),
        }
    }

    /// Answers a request that its upstream has not answered.
    async fn unserved(&mut self, request: &Request, served: Result<Served, Failure>) -> Result<Next, Failure> {
        match served? {
            Served::Next(next) => Ok(next),
            Served::Unanswered(reason) => self.answer(request, reason).await,
            Served::UnansweredMidBody(reason) => Ok(self.answer_and_close(request, reason).await),
        }
    }

    /// Reads one head, holding no buffer until its first byte.
    async fn receive_head(&mut self) -> Result<Request, NoRequest> {
        let entry = Rc::clone(&self.caller.link.entry);
        let limits = &self.caller.worker.settings.limits;
        entry.deadline_ms.set(self.caller.worker.coarse_ms() + limits.idle_ms);
        let mut started = None;
        let mut scan = None;
        loop {
            if self.received.is_empty() && self.wait_for_bytes().await? == Waited::Closed {
                return Err(NoRequest::Closed);
            }
            let started = *started.get_or_insert_with(|| {
                entry.deadline_ms.set(self.caller.worker.coarse_ms() + limits.head_ms);
                Instant::now()
            });
            match self.preface() {
                Preface::Whole => return Err(NoRequest::Preface),
                Preface::Part => {}
                Preface::No => {
                    if let Some(request) = self.read_head(started, &mut scan)? {
                        return Ok(request);
                    }
                }
            }
            match self.read_more().await? {
                Waited::Bytes => {}
                Waited::Closed => return Err(NoRequest::Closed),
                Waited::TimedOut => {
                    return Err(NoRequest::Refused(Outcome::of(Reason::RequestTimeout), self.caller.pin_accepted()?));
                }
            }
        }
    }

    /// Whether a connection whose version nothing has told begins as HTTP/2.
    fn preface(&self) -> Preface {
        let first = self.caller.link.entry.requests.get() == 0 && self.received.first() == Some(&b'P');
        if !first || !self.stream.may_speak_http2() {
            return Preface::No;
        }
        if self.received.starts_with(PREFACE) {
            Preface::Whole
        } else if self.received.len() > 1 && PREFACE.starts_with(&self.received) {
            Preface::Part
        } else {
            Preface::No
        }
    }

    /// What the bytes received so far are; `None` while they are part of a head.
    fn read_head(&mut self, started: Instant, scan: &mut Option<HeadScan>) -> Result<Option<Request>, NoRequest> {
        let pinned = self.caller.pin_accepted()?;
        let mode = path_mode(pinned.snapshot.mesh().path_normalization);
        let mut scratch = self.caller.worker.scratch.borrow_mut();
        let reading = (scan, &mut *scratch);
        match read_head_from(&self.received, &self.caller.limits, mode, reading) {
            Ok(None) => Ok(None),
            Ok(Some(head)) => {
                let worker = self.caller.worker;
                self.caller.link.entry.deadline_ms.set(worker.coarse_ms() + worker.settings.limits.idle_ms);
                let read = Cell::new(scratch.reads);
                let content_type = view(&head, &self.received, &scratch).first(Known::ContentType);
                let grpc = content_type.is_some_and(is_grpc);
                let (tokens, shadow) = (OnceCell::new(), RefCell::default());
                Ok(Some(Request { head, pinned, started, read, grpc, tokens, shadow }))
            }
            Err(refusal) => Err(NoRequest::Refused(record::refusal(refusal), pinned)),
        }
    }

    async fn wait_for_bytes(&mut self) -> Result<Waited, Failure> {
        let worker = self.caller.worker;
        let entry = Rc::clone(&self.caller.link.entry);
        let mut checked = self.caller.accepted_under();
        loop {
            let Self { stream, received, .. } = self;
            let woken = poll_fn(|context| {
                if worker.epoch() != checked {
                    return Poll::Ready(Woken::Swapped);
                }
                // A request that is here already is answered, also while draining.
                let read = stream.poll_read_lent(context, received, FIRST, &worker.buffers).map(Woken::Read);
                if read.is_pending() && has_waited_enough(&entry, worker) {
                    return Poll::Ready(Woken::Ended);
                }
                read
            });
            match woken.await {
                Woken::Read(Ok(1..)) => return Ok(Waited::Bytes),
                Woken::Read(_) | Woken::Ended => return Ok(Waited::Closed),
                Woken::Swapped => {}
            }
            checked = self.caller.pin_accepted()?.epoch;
        }
    }

    async fn read_more(&mut self) -> Result<Waited, Failure> {
        let worker = self.caller.worker;
        let entry = Rc::clone(&self.caller.link.entry);
        let Self { stream, received, .. } = self;
        let read = poll_fn(|context| {
            if entry.deadline_ms.get() <= worker.coarse_ms() {
                return Poll::Ready(None);
            }
            stream.poll_read(context, received, FIRST).map(Some)
        });
        match read.await {
            None | Some(Ok(0)) if received.is_empty() => Ok(Waited::Closed),
            None => Ok(Waited::TimedOut),
            Some(Ok(0) | Err(_)) => Err(Reason::DownstreamClosed.into()),
            Some(Ok(_)) => Ok(Waited::Bytes),
        }
    }

    /// Serves a request whose upstream speaks HTTP/2.
    async fn carry(&mut self, request: &Request, target: &mut Target) -> Result<Served, Failure> {
        let Self { stream, received, caller } = self;
        let head = &request.head.head;
        let start = Start {
            kind: upstream::kind_of(head.method.of(received)),
            grpc: request.grpc,
            ended: matches!(head.framing, Framing::None | Framing::Length(0)),
            limits: caller.limits,
            close: caller.worker.draining.get() || !head.keep_alive,
            tunnel: false,
        };
        let mut down = H1Request::new((stream, received), (head.len, head.framing), &caller.worker.buffers);
        let mut attempts = Attempts::default();
        let carried = loop {
            match carry(&Errand::of_http1(caller, request, target), &mut down, &start).await {
                Carried::Unanswered(reason) => {
                    if let Err(reason) = Box::pin(attempts.again(target, reason, caller.worker)).await {
                        break Carried::Unanswered(reason);
                    }
                }
                carried => break carried,
            }
        };
        let consumed = down.consumed();
        drop(down);
        Ok(match carried {
            Carried::Answered(outcome, done) => {
                self.record(request, Some(target), outcome);
                self.consume(consumed);
                Served::Next(if done.downstream_reusable { Next::Request } else { Next::Close })
            }
            Carried::Unanswered(reason) => Served::Unanswered(reason),
            Carried::UnansweredMidBody(reason) => Served::UnansweredMidBody(reason),
            Carried::Cut(outcome) => {
                self.record(request, Some(target), outcome);
                Served::Next(Next::Cut)
            }
        })
    }

    async fn deny(&mut self, request: &Request, refused: &Refused) -> Result<Next, Failure> {
        let (outcome, body) = record::denied(self.caller.worker, refused);
        let challenge = match refused {
            Refused::Token(_) => self.caller.challenge(request, &self.received),
            Refused::Policy(_) => Vec::new(),
        };
        self.reply(request, outcome, (body, &challenge)).await
    }

    async fn answer(&mut self, request: &Request, reason: Reason) -> Result<Next, Failure> {
        self.reply(request, Outcome::of(reason), (reply::body_of(reason), &[])).await
    }

    /// Answers when part of the request's body has been handed on: the rest of it is not worth reading.
    async fn answer_and_close(&mut self, request: &Request, reason: Reason) -> Next {
        let outcome = Outcome::of(reason);
        reply::refuse(&mut self.stream, outcome.status, self.caller.worker).await;
        self.record(request, None, outcome);
        Next::Close
    }

    /// Answers a request ourselves and keeps the connection if its body can be read away within bounds.
    async fn reply(
        &mut self,
        request: &Request,
        mut outcome: Outcome,
        (body, challenge): (&'static str, &[u8]),
    ) -> Result<Next, Failure> {
        let head = &request.head.head;
        let close = self.caller.worker.draining.get() || !head.keep_alive || head.expect_continue;
        // A body that breaks its framing has no end behind which a request could begin.
        let close = close || outcome.reason == Reason::MalformedRequest;
        let grpc = request.grpc;
        let reply = Reply { status: outcome.status, body, challenge, close, grpc };
        let answered =
            reply::send((&mut self.stream, &mut self.received), &request.head.head, reply, self.caller.worker).await;
        if grpc {
            outcome.grpc_status = Some(grpc_status(outcome.status));
            outcome.status = 200;
        }
        self.record(request, None, outcome);
        answered.map(|kept| {
            self.consume(kept.consumed);
            kept.next
        })
    }

    /// Records the end of a request.
    pub(crate) fn record(&self, request: &Request, target: Option<&Target>, outcome: Outcome) {
        RequestRecord { caller: &self.caller, request, text: &self.received, target, outcome }.write();
    }

    /// Answers what is no request, and ends the connection.
    async fn refuse(&mut self, outcome: &Outcome, pinned: &Pinned) -> Next {
        record::refused(&self.caller, pinned, outcome);
        if outcome.reason == Reason::MalformedRequest && self.was_meant_as_http2(pinned) {
            return Next::Cut; // RFC 9113 §3.4: such a peer does not speak HTTP/2, no GOAWAY need be sent
        }
        reply::refuse(&mut self.stream, outcome.status, self.caller.worker).await;
        Next::Close
    }

    /// Whether the client began with neither version on a port that was declared HTTP/2 (decision 0095).
    fn was_meant_as_http2(&self, pinned: &Pinned) -> bool {
        let first = self.caller.link.entry.requests.get() == 0 && self.stream.may_speak_http2();
        let mut line =
            self.received.split(|byte| *byte == b'\n').next().unwrap_or_default().windows(HTTP_VERSION.len());
        first && !line.any(|part| part == HTTP_VERSION) && self.caller.declared(pinned) == PortProtocol::Http2
    }

    /// Forgets the request's bytes; what follows them is the start of the next request.
    pub(crate) fn consume(&mut self, bytes: usize) {
        let received = &mut self.received;
        if bytes >= received.len() {
            self.caller.worker.buffers.give(std::mem::take(received));
        } else {
            received.drain(..bytes);
        }
    }
}

/// Idle connections end with a drain. One that has brought no request yet may have been made for one that is on its way.
fn has_waited_enough(entry: &Entry, worker: &Worker) -> bool {
    if worker.draining.get() && entry.requests.get() > 0 {
        return true;
    }
    if worker.draining.get() {
        entry.deadline_ms.set(entry.deadline_ms.get().min(worker.coarse_ms() + FIRST_REQUEST_MS));
    }
    entry.deadline_ms.get() <= worker.coarse_ms()
}

/// The verdict on a request, and its way.
enum Permitted {
    /// Over HTTP/2.
    Carry(Target),
    /// HTTP/1.1 on both sides.
    Serve(Permit, Target),
    /// There is no way.
    Unreachable(Reason),
    Denied(Refused),
}

enum Preface {
    No,
    Part,
    Whole,
}

/// Why there is no request to serve.
enum NoRequest {
    Refused(Outcome, Rc<Pinned>),
    Preface,
    Closed,
    Broken(Failure),
}

impl From<Failure> for NoRequest {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure)
    }
}

#[derive(PartialEq, Eq)]
enum Waited {
    Bytes,
    Closed,
    TimedOut,
}

enum Woken {
    Read(std::io::Result<usize>),
    Swapped,
    Ended,
}

/// How long a drain waits for the first request of a connection.
const FIRST_REQUEST_MS: u64 = 1_000;
/// What stands in every request line of HTTP/1.
const HTTP_VERSION: &[u8] = b" HTTP/";
