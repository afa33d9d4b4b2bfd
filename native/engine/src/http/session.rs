//! The requests of one HTTP/1.1 connection, one after the other.
//!
//! In: a secured connection.  Out: every accepted request gets exactly one final outcome, in order.
//! Limits: head and idle bounds of the settings; one request is in memory at a time, pipelined ones wait in the socket.
//! Fails: refusals are answered and end the connection; a lost permit ends the request with `policy_changed`.
//! Each request pins the snapshot in force, so that its route and its policy come from the same version.
//! Source: RFC 9112 §9; attack-cases 2.1; DESIGN section 3.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use meshdp_model::authz::{ConnectionContext, Denial, Permit};
use meshdp_model::facts::Direction;
use meshdp_model::listener::Outbound;
use meshdp_model::route::Route;
use meshdp_proto::HeadScan;
use meshdp_proto::http1_head::Limits;
use meshdp_proto::refusal::Refusal;

use crate::connection::{Failure, Secured, still_accepted};
use crate::http::decide::{Head, View, path_mode, read_head_from};
use crate::http::forward;
use crate::http::reply::{self, Reply};
use crate::http::upstream::{self, Served};
use crate::observe::outcome::{Outcome, Reason};
use crate::observe::record::{self, RequestRecord};
use crate::observe::telemetry::SeriesCache;
use crate::tls::ClientAlpn;
use crate::upstream::Target;
use crate::worker::buffers::FIRST;
use crate::worker::registry::Entry;
use crate::worker::{Pinned, Worker};

/// Runs an HTTP connection until either side closes it.
///
/// # Errors
/// What ended the connection, when it was not the end of a request; requests record their own outcomes.
pub(crate) async fn run(secured: Secured, pinned: &Pinned, worker: &Rc<Worker>) -> Result<(), Failure> {
    let mut session = HttpSession::open(secured, pinned, worker);
    loop {
        match session.request().await? {
            Next::Request => {}
            Next::Close => {
                Box::pin(reply::linger(&mut session.secured.stream)).await;
                return Ok(());
            }
            Next::Cut => return Ok(()),
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
}

/// One HTTP connection.
pub(crate) struct HttpSession<'w> {
    pub(crate) secured: Secured,
    /// Header values that are the same for every request of this connection.
    pub(crate) forwarded: forward::Forwarded,
    pub(crate) worker: &'w Rc<Worker>,
    pub(crate) limits: Limits,
    pub(crate) series: RefCell<SeriesCache>,
    /// What of the policies no request of this connection can change.
    policy_context: RefCell<ConnectionContext>,
    accepted_under: u64,
}

/// A request whose head has been read.
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) pinned: Rc<Pinned>,
    pub(crate) started: Instant,
}

impl<'w> HttpSession<'w> {
    fn open(secured: Secured, pinned: &Pinned, worker: &'w Rc<Worker>) -> Box<Self> {
        Box::new(Self {
            forwarded: forward::Forwarded::new(&secured, pinned),
            policy_context: RefCell::new(pinned.snapshot.connection_context(&secured.facts)),
            secured,
            accepted_under: pinned.epoch,
            worker,
            limits: Limits::default(),
            series: RefCell::default(),
        })
    }

    /// Answers of our own are boxed: idle connections must not keep room for them.
    async fn request(&mut self) -> Result<Next, Failure> {
        let request = match self.receive_head().await? {
            Received::Head(request) => request,
            Received::Refused(outcome, pinned) => return Ok(Box::pin(self.refuse(&outcome, &pinned)).await),
            Received::Closed => {
                Box::pin(reply::hang_up(&mut self.secured.stream)).await;
                return Ok(Next::Cut);
            }
        };
        let permit = match self.authorize(&request) {
            Ok(permit) => permit,
            Err(denial) => return Box::pin(self.deny(&request, &denial)).await,
        };
        let next = match self.route(&permit, &request) {
            Ok(target) => match upstream::serve(self, &request, &permit, target).await? {
                Served::Next(next) => next,
                Served::Unanswered(reason) => Box::pin(self.answer(&request, reason)).await?,
                Served::UnansweredMidBody(reason) => Box::pin(self.answer_and_close(&request, reason)).await,
            },
            Err(reason) => Box::pin(self.answer(&request, reason)).await?,
        };
        let requests = &self.secured.entry.requests;
        requests.set(requests.get() + 1);
        Ok(if self.worker.draining.get() && next == Next::Request { Next::Close } else { next })
    }

    /// Reads one head, holding no buffer until its first byte.
    async fn receive_head(&mut self) -> Result<Received, Failure> {
        let entry = Rc::clone(&self.secured.entry);
        let limits = &self.worker.settings.limits;
        entry.deadline_ms.set(self.worker.coarse_ms() + limits.idle_ms);
        let mut started = None;
        let mut scan = None;
        loop {
            if self.secured.received.is_empty() && self.wait_for_bytes().await? == Waited::Closed {
                return Ok(Received::Closed);
            }
            let started = *started.get_or_insert_with(|| {
                entry.deadline_ms.set(self.worker.coarse_ms() + limits.head_ms);
                Instant::now()
            });
            if let Some(received) = self.read_head(started, &mut scan)? {
                return Ok(received);
            }
            match self.read_more().await? {
                Waited::Bytes => {}
                Waited::Closed => return Ok(Received::Closed),
                Waited::TimedOut => {
                    return Ok(Received::Refused(Outcome::of(Reason::RequestTimeout), self.pin_accepted()?));
                }
            }
        }
    }

    /// What the bytes received so far are; `None` while they are part of a head.
    fn read_head(&mut self, started: Instant, scan: &mut Option<HeadScan>) -> Result<Option<Received>, Failure> {
        let pinned = self.pin_accepted()?;
        let mode = path_mode(pinned.snapshot.mesh().path_normalization);
        let mut scratch = self.worker.scratch.borrow_mut();
        let reading = (scan, &mut *scratch);
        Ok(match read_head_from(&self.secured.received, &self.limits, mode, reading) {
            Ok(None) => None,
            Ok(Some(head)) => {
                let worker = self.worker;
                self.secured.entry.deadline_ms.set(worker.coarse_ms() + worker.settings.limits.idle_ms);
                Some(Received::Head(Request { head, pinned, started }))
            }
            Err(refusal) => Some(Received::Refused(refused_as(refusal), pinned)),
        })
    }

    /// The snapshot in force, once this connection is known to be acceptable under it.
    fn pin_accepted(&mut self) -> Result<Rc<Pinned>, Failure> {
        let pinned = self.worker.pin();
        if pinned.epoch != self.accepted_under {
            still_accepted(&self.secured, &pinned, self.worker)?;
            self.accepted_under = pinned.epoch;
        }
        Ok(pinned)
    }

    async fn wait_for_bytes(&mut self) -> Result<Waited, Failure> {
        let worker = self.worker;
        let entry = Rc::clone(&self.secured.entry);
        let mut checked = self.accepted_under;
        loop {
            let Secured { stream, received, .. } = &mut self.secured;
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
            checked = worker.epoch();
            let pinned = worker.pin();
            still_accepted(&self.secured, &pinned, self.worker)?;
            self.accepted_under = checked;
        }
    }

    async fn read_more(&mut self) -> Result<Waited, Failure> {
        let worker = self.worker;
        let entry = Rc::clone(&self.secured.entry);
        let Secured { stream, received, .. } = &mut self.secured;
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

    fn authorize(&self, request: &Request) -> Result<Permit, Denial> {
        let snapshot = &request.pinned.snapshot;
        match self.secured.facts.direction {
            Direction::Outbound => Ok(snapshot.permit_outbound(&self.secured.facts)),
            Direction::Inbound => {
                let scratch = self.worker.scratch.borrow();
                let view = self.view(&request.head, &scratch);
                let facts = &self.secured.facts;
                snapshot.authorize_request_in(&mut self.policy_context.borrow_mut(), facts, &view.facts(facts))
            }
        }
    }

    fn route(&self, permit: &Permit, request: &Request) -> Result<Target, Reason> {
        let facts = &self.secured.facts;
        if facts.direction == Direction::Inbound {
            return Ok(Target::application(permit, facts.destination, self.worker));
        }
        let snapshot = &request.pinned.snapshot;
        let (port, restrict) = match snapshot.outbound(facts.destination) {
            Outbound::Http { port } => (port, None),
            Outbound::Auto(service) | Outbound::Service(service) => (service.port, Some(service)),
            Outbound::Unknown => (facts.destination.port(), None),
        };
        let scratch = self.worker.scratch.borrow();
        let authority = self.view(&request.head, &scratch).authority();
        match snapshot.route_request(permit, port, authority, restrict, self.worker.random()) {
            Route::Cluster { cluster, endpoints, .. } => {
                Target::endpoint(cluster, endpoints, ClientAlpn::Http11, self.worker)
            }
            Route::Passthrough => Ok(Target::passthrough(permit, facts.destination, self.worker)),
            Route::Blocked => Err(Reason::RegistryOnlyBlocked),
            Route::NoEndpoints { .. } => Err(Reason::NoHealthyUpstream),
            Route::NoCluster { .. } => Err(Reason::ClusterNotFound),
            Route::NoRule { .. } => Err(Reason::NoRoute),
        }
    }

    /// The head together with the bytes it points into; valid until the next head is read into the scratch.
    pub(crate) fn view<'a>(&'a self, head: &'a Head, scratch: &'a crate::http::decide::Scratch) -> View<'a> {
        View { buffer: &self.secured.received, head, fields: &scratch.fields, target: &scratch.target }
    }

    async fn deny(&mut self, request: &Request, denial: &Denial) -> Result<Next, Failure> {
        self.worker.telemetry.borrow_mut().denied(&record::policy_name(denial));
        let outcome = Outcome::of(Reason::RbacDenied).because(denial.explanation());
        self.reply(request, outcome, reply::RBAC_DENIED).await
    }

    async fn answer(&mut self, request: &Request, reason: Reason) -> Result<Next, Failure> {
        self.reply(request, Outcome::of(reason), reply::body_of(reason)).await
    }

    /// Answers when part of the request's body has been handed on: the rest of it is not worth reading.
    async fn answer_and_close(&mut self, request: &Request, reason: Reason) -> Next {
        let outcome = Outcome::of(reason);
        reply::refuse(&mut self.secured, outcome.status, self.worker).await;
        RequestRecord { session: self, request, target: None, outcome }.write();
        Next::Close
    }

    /// Answers a request ourselves and keeps the connection if its body can be read away within bounds.
    async fn reply(&mut self, request: &Request, outcome: Outcome, body: &'static str) -> Result<Next, Failure> {
        let head = &request.head.head;
        let close = self.worker.draining.get() || !head.keep_alive || head.expect_continue;
        // A body that breaks its framing has no end behind which a request could begin.
        let close = close || outcome.reason == Reason::MalformedRequest;
        let reply = Reply { status: outcome.status, body, close };
        let answered = reply::send(&mut self.secured, &request.head.head, reply, self.worker).await;
        RequestRecord { session: self, request, target: None, outcome }.write();
        answered.map(|kept| {
            self.consume(kept.consumed);
            kept.next
        })
    }

    /// Answers what is no request, and ends the connection.
    async fn refuse(&mut self, outcome: &Outcome, pinned: &Pinned) -> Next {
        record::refused(self, pinned, outcome);
        reply::refuse(&mut self.secured, outcome.status, self.worker).await;
        Next::Close
    }

    /// Forgets the request's bytes; what follows them is the start of the next request.
    pub(crate) fn consume(&mut self, bytes: usize) {
        let received = &mut self.secured.received;
        if bytes >= received.len() {
            self.worker.buffers.give(std::mem::take(received));
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

fn refused_as(refusal: Refusal) -> Outcome {
    let too_large = matches!(refusal.status, 413 | 414 | 431);
    let reason = if too_large { Reason::RequestHeadTooLarge } else { Reason::MalformedRequest };
    Outcome::of(reason).because(refusal.reason.code()).answered(refusal.status)
}

enum Received {
    Head(Request),
    Refused(Outcome, Rc<Pinned>),
    Closed,
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
