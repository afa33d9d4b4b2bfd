//! One permitted request on its way to an upstream, whatever versions of HTTP its two sides speak.
//!
//! In: an [`Errand`] and the side that asked.  Out: [`Carried`]: what to record, and whether there is still something to say.
//! Limits: `ATTEMPTS`; only a request of which no byte can have been processed is sent again, or one whose upstream says so.
//! Fails: before the answer's head whoever asked answers by itself; after it the answer is cut so that it shows (DG-14).
//! A caller that leaves stops the work at every stage (attack-cases H2-37); a swap asks again for the permit.
//! Source: RFC 9110 §9.2.2; RFC 9113 §8.7; attack-cases LC-04, RT-01.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use meshdp_model::version::{Use, Version};
use meshdp_proto::h2::ErrorCode;
use meshdp_proto::h2::hpack::Encoder;
use meshdp_proto::h2::message::{Message, Origin, RequestMapping, Scheme, encode_request as encode_block};
use meshdp_proto::http1_forward::{RequestEdits, encode_request};
use meshdp_proto::http1_head::Framing;

use crate::connection::Failure;
use crate::h2::client::{self, Acquired};
use crate::http::caller::{Caller, Request};
use crate::http::exchange::Broken;
use crate::http::transfer::h1_sides::H1Response;
use crate::http::transfer::h2_sides::H2Response;
use crate::http::transfer::{Came, Piece, RequestSide, ResponseSide, Sink, Start, Transfer, Transferred, broken};
use crate::http::tunnel::Tunnel;
use crate::http::upstream::{ATTEMPTS, acquire};
use crate::observe::outcome::{Outcome, Reason};
use crate::stream::Stream;
use crate::upstream::Target;
use crate::worker::Worker;
use crate::worker::registry::Entry;

/// A permitted request with all that its way depends on.
pub(crate) struct Errand<'e, 'w> {
    pub(crate) caller: &'e Caller<'w>,
    pub(crate) request: &'e Request,
    pub(crate) target: &'e Target,
    pub(crate) clock: Clock<'e>,
    /// What its client spoke, however it came to us.
    pub(crate) spoken: Version,
    pub(crate) scheme: Scheme,
    /// Some of its fields are to stay out of compression tables.
    pub(crate) sensitive: bool,
    /// It came over HTTP/2 from a peer of the mesh: a note on its spelling is honoured.
    pub(crate) from_mesh: bool,
}

/// When a request is given up.
#[derive(Clone, Copy)]
pub(crate) struct Clock<'e> {
    /// Looked at when nothing else wakes the task.
    pub(crate) deadline: &'e Cell<u64>,
    /// The connection's place in the registry, whose own deadline is the first of its streams'.
    pub(crate) entry: &'e Entry,
    /// The end of the request, whatever moves.
    pub(crate) until_ms: u64,
    /// The same where the request names it (`grpc-timeout`), to the millisecond that it is read to.
    pub(crate) due: Option<Instant>,
}

/// What became of a request.
pub(crate) enum Carried {
    /// It was answered to the end.
    Answered(Outcome, Transferred),
    /// Nothing was answered: the side that asked says why.
    Unanswered(Reason),
    /// As `Unanswered`, when part of the request's body has been taken.
    UnansweredMidBody(Reason),
    /// It ended in the middle, or nobody listens any more.
    Cut(Outcome),
}

/// Carries a request to its upstream and the answer back.
pub(crate) async fn carry<D: RequestSide>(errand: &Errand<'_, '_>, down: &mut D, start: &Start) -> Carried {
    let head = &errand.request.head.head;
    let mut transfer = Transfer::new(head, start);
    down.restart();
    let _in_flight = errand.caller.worker.load.begin(errand.target.address);
    let version = errand.version();
    let mut body = Vec::new();
    for attempt in 1..=ATTEMPTS {
        let mut trial = Trial { errand, transfer: &mut transfer, body: &mut body, start, attempt };
        let tried = match version {
            Version::Http1 => trial.over_http1(down).await,
            Version::Http2 => trial.over_http2(down).await,
        };
        match tried {
            Ok(done) => return Carried::Answered(outcome(&transfer, Reason::Completed), done),
            Err(lost) if lost.again => transfer.rewind(),
            Err(lost) => return broken_off(&transfer, &errand.clock, down, lost.reason),
        }
    }
    broken_off(&transfer, &errand.clock, down, Reason::UpstreamResetBeforeResponse)
}

fn broken_off(transfer: &Transfer, clock: &Clock<'_>, down: &mut impl RequestSide, reason: Reason) -> Carried {
    // A server keeps the deadline of a call, too: when it is the first to give it up, that is what its caller is told.
    let given_up = matches!(reason, Reason::UpstreamResetBeforeResponse | Reason::UpstreamClosedMidResponse);
    let late = given_up && clock.is_due();
    let reason = if late { Reason::UpstreamTimeout } else { reason };
    if down.told() || reason == Reason::DownstreamClosed {
        down.cut(if late { ErrorCode::CANCEL } else { ErrorCode::INTERNAL_ERROR });
        return Carried::Cut(outcome(transfer, reason).answered(transfer.status));
    }
    if down.intact() { Carried::Unanswered(reason) } else { Carried::UnansweredMidBody(reason) }
}

fn outcome(transfer: &Transfer, reason: Reason) -> Outcome {
    let mut outcome = Outcome::of(reason).answered(transfer.status);
    outcome.bytes_in = transfer.bytes_in;
    outcome.bytes_out = transfer.bytes_out;
    outcome.grpc_status = transfer.grpc_status;
    outcome
}

/// Why a try failed, and whether another one harms nobody.
struct Lost {
    reason: Reason,
    again: bool,
}

impl From<Reason> for Lost {
    fn from(reason: Reason) -> Self {
        Self { reason, again: false }
    }
}

/// One try.
struct Trial<'t, 'e, 'w> {
    errand: &'t Errand<'e, 'w>,
    transfer: &'t mut Transfer,
    /// The request's body, where a try before this one has taken all of it already.
    body: &'t mut Vec<u8>,
    start: &'t Start,
    attempt: u32,
}

impl Trial<'_, '_, '_> {
    async fn over_http1<D: RequestSide>(&mut self, down: &mut D) -> Result<Transferred, Lost> {
        let Errand { caller, request, target, .. } = self.errand;
        let worker = caller.worker;
        let mut out = worker.buffers.lend();
        self.errand.encode_head(down.text(), &mut out);
        let key = target.pool_key(worker);
        let acquired = self.errand.while_wanted(down, pin!(acquire(&key, target, worker, self.attempt))).await;
        let (stream, reused) = acquired.and_then(|acquired| acquired)?;
        self.errand.confirm(down)?;
        let chunked = request.head.head.framing == Framing::Chunked;
        let mut up = H1Response::new(stream, out, chunked, &worker.buffers);
        if self.attempt > 1 && self.transfer.request_has_ended() && !self.start.ended {
            up.open_piece().append(self.body);
            up.close_piece(Piece::Last, &[]);
        }
        match run(self.errand, self.transfer, down, &mut up).await {
            // Boxed, so that requests do not all keep room for what few of them become.
            Ok(done) if done.switched => {
                let tunnelled = Box::pin(self.tunnel(down, up.into_switched())).await;
                tunnelled.map(|()| done).map_err(Lost::from)
            }
            Ok(done) => {
                if let Some(stream) = up.into_stream().filter(|_| done.upstream_reusable) {
                    worker.pool.borrow_mut().give(&key, stream, (worker.coarse_ms(), worker.wall_s()));
                }
                Ok(done)
            }
            Err(broken) => {
                let lost = broken.lost_to_reuse(reused) && self.errand.is_idempotent(down.text());
                let again = self.may_try_again() && lost;
                if again {
                    *self.body = up.take_body();
                }
                up.abort();
                Err(Lost { reason: broken.reason, again })
            }
        }
    }

    async fn over_http2<D: RequestSide>(&mut self, down: &mut D) -> Result<Transferred, Lost> {
        let Errand { caller, target, .. } = self.errand;
        let worker = caller.worker;
        let acquired = self.errand.while_wanted(down, pin!(client::acquire(target, worker))).await;
        let Acquired::Http2(connection) = acquired.and_then(|acquired| acquired)? else {
            return Box::pin(self.over_http1(down)).await;
        };
        self.errand.confirm(down)?;
        let ended = self.transfer.request_has_ended() && self.body.is_empty();
        let encode = |encoder: &mut Encoder, out: &mut Vec<u8>| self.errand.encode_block(down.text(), encoder, out);
        let Ok(handle) = connection.open(self.start.kind, ended, encode) else {
            let again = self.may_try_again();
            return Err(Lost { reason: Reason::UpstreamResetBeforeResponse, again });
        };
        let all = self.transfer.request_has_ended();
        let came = if target.is_secure() { Came::FromMesh } else { Came::OverHttp2 };
        let mut up = H2Response::new(handle, (std::mem::take(self.body), all), (ended, came), &worker.buffers);
        match run(self.errand, self.transfer, down, &mut up).await {
            Ok(done) => Ok(done),
            Err(broken) => {
                let refused = connection.wants_http11() && broken.unanswered;
                if refused {
                    client::fall_back(&connection, target, worker);
                }
                let lost = refused || broken.lost_to_reuse(connection.reused() && up.lost_with_connection());
                let lost = up.unprocessed() || lost && self.errand.is_idempotent(down.text());
                let again = self.may_try_again() && lost;
                if again {
                    *self.body = up.take_body();
                }
                Err(Lost { reason: broken.reason, again })
            }
        }
    }

    /// Carries what follows a switch of protocols.
    async fn tunnel(
        &mut self,
        down: &mut impl RequestSide,
        (stream, surplus): (Stream, Vec<u8>),
    ) -> Result<(), Reason> {
        let mut tunnel = Tunnel::new(stream, surplus, &self.errand.caller.worker.buffers);
        let ended = tunnel.run(self.errand, down).await;
        self.transfer.bytes_in += tunnel.bytes_in;
        self.transfer.bytes_out += tunnel.bytes_out;
        ended
    }

    fn may_try_again(&self) -> bool {
        self.attempt < ATTEMPTS && self.transfer.replayable()
    }
}

impl<'e, 'w> Errand<'e, 'w> {
    /// The errand of a request that came as HTTP/1.1.
    pub(crate) fn of_http1(caller: &'e Caller<'w>, request: &'e Request, target: &'e Target) -> Self {
        let entry = &caller.link.entry;
        let clock = Clock { deadline: &entry.deadline_ms, entry, until_ms: u64::MAX, due: None };
        let (spoken, scheme) = (Version::Http1, Scheme::Http);
        Self { caller, request, target, clock, spoken, scheme, sensitive: false, from_mesh: false }
    }

    /// The version of HTTP on the next hop.
    pub(crate) fn version(&self) -> Version {
        let head = &self.request.head.head;
        let wanted = if head.upgrade.is_some() { Use::Takeover } else { Use::Exchange };
        self.target.version(self.caller.application_port(&self.request.pinned), self.spoken, wanted)
    }

    /// Appends the head as it goes to an upstream that speaks HTTP/1.1.
    fn encode_head(&self, text: &[u8], out: &mut Vec<u8>) {
        let head = &self.request.head;
        let mut scratch = self.caller.scratch(self.request, text);
        let message = (text, head, self.request.tokens.get());
        self.caller.forwarded.edit(message, &mut scratch, self.caller.worker, |fields, edits| {
            let origin = if self.from_mesh { Origin::of_request(text, fields) } else { None };
            let edits = RequestEdits { framing: Some(head.head.framing), origin, ..*edits };
            encode_request(text, &head.head, fields, &edits, out);
        });
    }

    /// Appends the head as it goes to an upstream that speaks HTTP/2.
    fn encode_block(&self, text: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) {
        let head = &self.request.head;
        let mut scratch = self.caller.scratch(self.request, text);
        let note = self.spoken == Version::Http1 && self.target.is_ours();
        let mapping = RequestMapping { scheme: self.scheme, note, extended_connect: false, sensitive: self.sensitive };
        let message = (text, head, self.request.tokens.get());
        self.caller.forwarded.edit(message, &mut scratch, self.caller.worker, |fields, edits| {
            let edits = RequestEdits { framing: Some(head.head.framing), ..*edits };
            encode_block(encoder, &Message { buf: text, head: &head.head, fields }, &edits, &mapping, out);
        });
    }

    /// Waits for what comes before the request is sent, as long as somebody wants it.
    async fn while_wanted<T>(
        &self,
        down: &mut impl RequestSide,
        mut wait: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Reason> {
        poll_fn(|context| match wait.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending if self.clock.until_ms <= self.caller.worker.coarse_ms() => {
                Poll::Ready(Err(Reason::UpstreamTimeout))
            }
            Poll::Pending => down.poll_gone(context).map(|()| Err(Reason::DownstreamClosed)),
        })
        .await
    }

    /// Nothing is sent under a permit that was taken back while a connection was made.
    fn confirm(&self, down: &impl RequestSide) -> Result<(), Reason> {
        if self.caller.worker.epoch() == self.request.pinned.epoch {
            return Ok(());
        }
        self.caller.reauthorize(self.request, down.text()).map_err(|failure| failure.reason)
    }

    /// RFC 9110 §9.2.2: only idempotent methods are sent again without being asked to.
    fn is_idempotent(&self, text: &[u8]) -> bool {
        let method = self.request.head.head.method.of(text);
        matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }
}

impl Clock<'_> {
    /// A request begins.
    pub(crate) fn begin(&self, worker: &Worker) {
        self.moved(worker.coarse_ms(), worker.settings.limits.idle_ms);
    }

    /// Puts the deadline off: something has moved.
    fn moved(&self, now_ms: u64, idle_ms: u64) {
        let deadline = (now_ms + idle_ms).min(self.until_ms);
        self.deadline.set(deadline);
        if deadline < self.entry.deadline_ms.get() {
            self.entry.deadline_ms.set(deadline);
        }
    }

    pub(crate) fn has_come(&self, now_ms: u64) -> bool {
        self.deadline.get() <= now_ms
    }

    /// Whether the time that the request names is over, on a clock that is finer than the worker's.
    fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now() + DUE_ROUNDING)
    }
}

/// Drives the transfer; a swap on the way asks again whether the request may go on.
async fn run(
    errand: &Errand<'_, '_>,
    transfer: &mut Transfer,
    down: &mut impl RequestSide,
    up: &mut impl ResponseSide,
) -> Result<Transferred, Broken> {
    let (worker, clock) = (errand.caller.worker, &errand.clock);
    let idle_ms = worker.settings.limits.idle_ms;
    let mut epoch = errand.request.pinned.epoch;
    let mut moved = None;
    loop {
        let step = poll_fn(|context| {
            if worker.epoch() != epoch {
                return Poll::Ready(Step::Swapped);
            }
            if worker.draining.get() {
                transfer.close_after();
            }
            let mut scratch = worker.scratch.borrow_mut();
            let polled = transfer.poll(context, down, up, &mut scratch.response_fields);
            let now = transfer.moved(down, up);
            if moved.replace(now) != Some(now) {
                clock.moved(worker.coarse_ms(), idle_ms);
            }
            if polled.is_pending() && clock.has_come(worker.coarse_ms()) {
                let late = clock.until_ms <= worker.coarse_ms();
                let reason = if late { Reason::UpstreamTimeout } else { transfer.stalled() };
                return Poll::Ready(Step::Ended(Err(broken(reason, up))));
            }
            polled.map(Step::Ended)
        });
        match step.await {
            Step::Ended(ended) => return ended,
            Step::Swapped => {
                epoch = worker.epoch();
                let judged = errand.caller.reauthorize(errand.request, down.text());
                if let Err(Failure { reason, .. }) = judged.and_then(|()| up.still_trusted(worker)) {
                    return Err(broken(reason, up));
                }
            }
        }
    }
}

enum Step {
    Swapped,
    Ended(Result<Transferred, Broken>),
}

/// `grpc-timeout` is read to the next whole millisecond.
const DUE_ROUNDING: Duration = Duration::from_millis(1);
