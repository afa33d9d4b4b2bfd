//! Serving one permitted request from an upstream: a connection, the exchange, and what may be tried again.
//!
//! In: a session with a request, its permit and its target.  Out: `Served`, and the connection back in the pool.
//! Limits: `ATTEMPTS` connections that carry the request, each made by `attempts`; only a request of which no byte can have been
//! processed is sent again.
//! Fails: before the first response byte the session answers; after it the downstream sees the truncation.
//! Source: RFC 9112 §9.3.1 (retrying requests); attack-cases H1-46, U3.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use meshdp_model::authz::Permit;
use meshdp_proto::http1_conn::Exchange as Turn;
use meshdp_proto::http1_response::RequestKind;

use crate::attempts;
use crate::connection::Failure;
use crate::http::caller::Request;
use crate::http::exchange::{Broken, Downstream, Exchange, Exchanged, Start};
use crate::http::grpc::Watched;
use crate::http::session::{HttpSession, Next};
use crate::observe::outcome::{Outcome, Reason};
use crate::pool::PoolKey;
use crate::relay::Relay;
use crate::stream::Stream;
use crate::tcp_session::relay_until_end;
use crate::upstream::Target;
use crate::worker::Worker;
use crate::worker::load::InFlight;

/// How far a request got.
pub(crate) enum Served {
    /// It was answered (or visibly cut); this follows.
    Next(Next),
    /// Nothing was answered: the session says why.
    Unanswered(Reason),
    /// As `Unanswered`, when part of the request's body is gone already.
    UnansweredMidBody(Reason),
}

/// Sends the request and forwards the response.
///
/// # Errors
/// The reason when the downstream connection cannot go on.
pub(crate) async fn serve(
    session: &mut HttpSession<'_>,
    request: &Request,
    _permit: &Permit,
    target: &mut Target,
) -> Result<Served, Failure> {
    let worker = session.caller.worker;
    let mut lane = Lane::to(target, worker);
    let mut exchange = match begin(session, request) {
        Ok(exchange) => exchange,
        Err(broken) => return Ok(Served::Unanswered(broken.reason)),
    };
    for attempt in 1..=ATTEMPTS {
        let (mut upstream, reused) = match reach(session, &exchange, &mut lane, attempt).await {
            Ok(acquired) => acquired,
            Err(Reason::DownstreamClosed) => {
                let left = exchange.broken(Reason::DownstreamClosed);
                return Ok(broken_off(session, request, lane.target, (exchange, left)));
            }
            Err(reason) => {
                give_back(exchange, worker);
                return Ok(Served::Unanswered(reason));
            }
        };
        match run(session, request, &mut exchange, &mut upstream).await {
            // Boxed, so that requests do not all keep room for what few of them become.
            Ok(exchanged) if exchanged.upgraded => {
                return Box::pin(upgrade(session, request, lane.target, (exchange, exchanged, upstream))).await;
            }
            Ok(exchanged) => {
                session.record(request, Some(lane.target), completed(&exchange, exchanged));
                session.consume(exchange.upload.consumed());
                give_back(exchange, worker);
                if exchanged.upstream_reusable {
                    worker.pool.borrow_mut().give(&lane.key, upstream, (worker.coarse_ms(), worker.wall_s()));
                }
                let next = if exchanged.downstream_reusable { Next::Request } else { Next::Close };
                return Ok(Served::Next(next));
            }
            // An idle connection that the upstream closed as we took it: nothing was processed.
            Err(broken)
                if broken.lost_to_reuse(reused) && attempt < ATTEMPTS && repeatable(session, request, &exchange) =>
            {
                exchange.rewind();
            }
            Err(broken) => return Ok(broken_off(session, request, lane.target, (exchange, broken))),
        }
    }
    Ok(Served::Unanswered(Reason::UpstreamResetBeforeResponse))
}

fn begin(session: &mut HttpSession<'_>, request: &Request) -> Result<Exchange, Broken> {
    let worker = session.caller.worker;
    let mut out = worker.buffers.lend();
    let mut scratch = session.caller.scratch(request, &session.received);
    let message = (&session.received[..], &request.head, request.tokens.get());
    session.caller.forwarded.encode(message, &mut scratch, worker, &mut out);
    drop(scratch);
    let head = &request.head.head;
    let start = Start {
        out,
        framing: head.framing,
        head_len: head.len,
        kind: kind_of(head.method.of(&session.received)),
        upgrade: head.upgrade,
        turn: Turn::new(head),
        close_downstream: worker.draining.get() || !head.keep_alive,
        limits: session.caller.limits,
        watched: Watched::new(request.grpc),
    };
    Exchange::new(start, &session.received)
}

/// A pooled connection for the first try. The second takes a fresh one: what closed one pooled connection has likely
/// closed its neighbours too.
pub(crate) async fn acquire(
    key: &PoolKey,
    target: &Target,
    worker: &Worker,
    attempt: u32,
) -> Result<(Stream, bool), Reason> {
    let pooled = if attempt == 1 { worker.pool.borrow_mut().take(key) } else { None };
    if let Some(stream) = pooled {
        return Ok((stream, true));
    }
    let stream = Box::pin(target.connect(worker)).await?;
    worker.health.succeeded(target.address);
    Ok((stream, false))
}

/// Where a request is sent: the target, the pool's key for it, and its place among the requests in flight there.
struct Lane<'t, 'w> {
    target: &'t mut Target,
    key: PoolKey,
    in_flight: InFlight<'w>,
}

impl<'t, 'w> Lane<'t, 'w> {
    fn to(target: &'t mut Target, worker: &'w Worker) -> Self {
        Self { key: target.pool_key(worker), in_flight: worker.load.begin(target.address), target }
    }
}

/// As `acquire`, as long as the downstream waits for it; a fresh connection may lead to another endpoint.
async fn reach<'w>(
    session: &mut HttpSession<'w>,
    exchange: &Exchange,
    lane: &mut Lane<'_, 'w>,
    attempt: u32,
) -> Result<(Stream, bool), Reason> {
    let worker = session.caller.worker;
    let pooled = if attempt == 1 { worker.pool.borrow_mut().take(&lane.key) } else { None };
    if let Some(stream) = pooled {
        return Ok((stream, true));
    }
    let address = lane.target.address;
    let stream = Box::pin(connect(session, exchange, lane.target)).await?;
    if lane.target.address != address {
        lane.key = lane.target.pool_key(worker);
        lane.in_flight = worker.load.begin(lane.target.address);
    }
    Ok((stream, false))
}

/// Connects as long as the downstream waits for it (LC-06: no further try for a client that has left).
async fn connect(session: &mut HttpSession<'_>, exchange: &Exchange, target: &mut Target) -> Result<Stream, Reason> {
    let HttpSession { stream, received, caller } = session;
    let mut connecting = pin!(attempts::connect(target, caller.worker));
    poll_fn(|context| {
        if let Poll::Ready(connected) = connecting.as_mut().poll(context) {
            return Poll::Ready(connected);
        }
        let mut down = Downstream { stream, received, head_len: 0 };
        exchange.poll_left(context, &mut down).map(|()| Err(Reason::DownstreamClosed))
    })
    .await
}

/// Drives the exchange; a swap on the way asks again whether the request may go on.
async fn run(
    session: &mut HttpSession<'_>,
    request: &Request,
    exchange: &mut Exchange,
    upstream: &mut Stream,
) -> Result<Exchanged, Broken> {
    let worker = session.caller.worker;
    let mut epoch = request.pinned.epoch;
    loop {
        let HttpSession { stream, received, caller } = &mut *session;
        let entry = &caller.link.entry;
        let mut down = Downstream { stream, received, head_len: request.head.head.len };
        let step = poll_fn(|context| {
            if worker.epoch() != epoch {
                return Poll::Ready(Step::Swapped);
            }
            if worker.draining.get() {
                exchange.close_after();
            }
            let mut scratch = worker.scratch.borrow_mut();
            let moved = exchange.moved();
            let lent = (&mut scratch.response_fields, &*worker.buffers);
            let polled = exchange.poll(context, &mut down, upstream, lent);
            if exchange.moved() != moved {
                entry.deadline_ms.set(worker.coarse_ms() + worker.settings.limits.idle_ms);
            } else if polled.is_pending() && entry.deadline_ms.get() <= worker.coarse_ms() {
                return Poll::Ready(Step::Ended(Err(exchange.broken(exchange.stalled()))));
            }
            polled.map(Step::Ended)
        });
        match step.await {
            Step::Ended(ended) => return ended,
            Step::Swapped => {
                epoch = worker.epoch();
                let judged = session.caller.reauthorize(request, &session.received);
                let may_go_on = judged.and_then(|()| worker.still_trusts(upstream));
                if let Err(failure) = may_go_on {
                    return Err(exchange.broken(failure.reason));
                }
            }
        }
    }
}

/// RFC 9110 §9.2.2: only idempotent methods are sent again without being asked to.
fn repeatable(session: &HttpSession<'_>, request: &Request, exchange: &Exchange) -> bool {
    let method = request.head.head.method.of(&session.received);
    exchange.replayable() && matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

fn completed(exchange: &Exchange, exchanged: Exchanged) -> Outcome {
    let mut outcome = Outcome::of(Reason::Completed).answered(exchanged.status);
    outcome.bytes_in = exchange.upload.body_bytes();
    outcome.bytes_out = exchange.download.body_bytes();
    outcome.grpc_status = exchange.download.watched.status;
    outcome
}

async fn upgrade(
    session: &mut HttpSession<'_>,
    request: &Request,
    target: &Target,
    (exchange, exchanged, mut upstream): (Exchange, Exchanged, Stream),
) -> Result<Served, Failure> {
    let mut outcome = completed(&exchange, exchanged);
    let from_upstream = exchange.download.surplus().to_vec();
    let from_downstream = session.received.split_off(exchange.upload.consumed());
    give_back(exchange, session.caller.worker);
    session.caller.link.entry.protocol.set("upgraded");
    let mut relay = Relay::new(from_downstream, from_upstream);
    let HttpSession { stream, received, caller } = session;
    let may_go_on = || caller.reauthorize(request, received);
    let both = (stream, &mut upstream, &mut relay);
    let ended = relay_until_end(both, &caller.link.entry, caller.worker, request.pinned.epoch, may_go_on).await;
    outcome.bytes_in += relay.upstream.moved;
    outcome.bytes_out += relay.downstream.moved;
    if let Err(failure) = ended {
        outcome.reason = failure.reason;
        outcome.detail = failure.detail;
    }
    session.record(request, Some(target), outcome);
    Ok(Served::Next(Next::Cut))
}

fn broken_off(
    session: &HttpSession<'_>,
    request: &Request,
    target: &Target,
    (exchange, broken): (Exchange, Broken),
) -> Served {
    let told = exchange.download.told();
    let until_close = exchange.download.until_close;
    let mut outcome = Outcome::of(broken.reason).answered(exchange.download.status());
    outcome.bytes_in = exchange.upload.body_bytes();
    outcome.bytes_out = exchange.download.body_bytes();
    let request_at_hand = exchange.upload.whole_at_start();
    give_back(exchange, session.caller.worker);
    if !told && broken.reason != Reason::DownstreamClosed {
        let unanswered = if request_at_hand { Served::Unanswered } else { Served::UnansweredMidBody };
        return unanswered(broken.reason);
    }
    // Part of a response is already out: only a visible cut is honest.
    if until_close {
        session.stream.abort();
    }
    session.record(request, Some(target), outcome);
    Served::Next(Next::Cut)
}

fn give_back(exchange: Exchange, worker: &Worker) {
    for buffer in exchange.into_buffers() {
        worker.buffers.give(buffer);
    }
}

pub(crate) fn kind_of(method: &[u8]) -> RequestKind {
    match method {
        b"HEAD" => RequestKind::Head,
        b"CONNECT" => RequestKind::Connect,
        _ => RequestKind::Other,
    }
}

enum Step {
    Swapped,
    Ended(Result<Exchanged, Broken>),
}

/// The first try and one more, on a fresh connection, when the one taken from the pool had just been closed.
pub(crate) const ATTEMPTS: u32 = 2;
