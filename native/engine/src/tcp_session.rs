//! An opaque connection: authorized once, connected, and relayed to its end.
//!
//! In: a secured connection and the snapshot pinned for it.  Out: bytes moved; recorded by `connection::serve`.
//! Limits: the idle bound of the settings.  Fails: denial, no upstream, an error of either side, a lost permit.
//! Deviation: a denied connection is closed at once; Envoy waits for the first byte (D.6).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use meshdp_model::authz::Permit;
use meshdp_model::facts::Direction;
use meshdp_model::listener::Outbound;
use meshdp_model::route::Route;

use crate::attempts;
use crate::connection::{Failure, Link, Secured, still_accepted};
use crate::observe::outcome::Reason;
use crate::observe::record::{self, TcpRecord};
use crate::relay::{Relay, Side};
use crate::stream::Stream;
use crate::tls::ClientAlpn;
use crate::upstream::Target;
use crate::worker::registry::Entry;
use crate::worker::{Pinned, Worker};

/// Runs an opaque connection to its end.
///
/// # Errors
/// The failure that ended it; `Completed` ends are `Ok`.
pub(crate) async fn run(secured: Box<Secured>, pinned: &Rc<Pinned>, worker: &Rc<Worker>) -> Result<(), Failure> {
    let Secured { mut stream, received, link } = *secured;
    let permit = authorize(&link, pinned, worker)?;
    let mut target = route(&permit, &link, pinned, worker)?;
    let mut upstream = attempts::connect(&mut target, worker).await?;
    let record = TcpRecord::open(&link, &target, pinned, worker);
    let mut relay = Relay::new(received, Vec::new());
    let both = (&mut stream, &mut upstream, &mut relay);
    let ended = relay_until_end(both, &link.entry, worker, pinned.epoch, || reauthorize(&link, worker)).await;
    let reason = ended.as_ref().map_or_else(|failure| failure.reason, |()| Reason::Completed);
    record.close(&link, reason, (relay.upstream.moved, relay.downstream.moved), worker);
    link.entry.relayed.set(true);
    ended
}

fn authorize(link: &Link, pinned: &Pinned, worker: &Worker) -> Result<Permit, Failure> {
    let facts = &link.facts;
    match facts.direction {
        Direction::Outbound => Ok(pinned.snapshot.permit_outbound(facts)),
        Direction::Inbound => {
            let shadow = pinned.snapshot.shadow_connection(facts);
            if !shadow.is_empty() {
                *link.entry.shadow.borrow_mut() = Some(record::shadow(&shadow, worker));
            }
            pinned.snapshot.authorize_connection(facts).map_err(|denial| {
                worker.telemetry.borrow_mut().denied(&record::policy_name(&denial));
                Failure::new(Reason::RbacDenied, denial.explanation())
            })
        }
    }
}

fn route(permit: &Permit, link: &Link, pinned: &Pinned, worker: &Worker) -> Result<Target, Failure> {
    let destination = link.facts.destination;
    if link.facts.direction == Direction::Inbound {
        return Ok(Target::application(permit, destination, worker));
    }
    let snapshot = &pinned.snapshot;
    let route = match snapshot.outbound(destination) {
        Outbound::Service(service) | Outbound::Auto(service) => {
            snapshot.route_connection(permit, service, worker.random())
        }
        Outbound::Http { .. } | Outbound::Unknown => snapshot.route_unknown(permit),
    };
    match route {
        Route::Cluster { cluster, endpoints, .. } => Ok(Target::endpoint(cluster, endpoints, ClientAlpn::Tcp, worker)?),
        Route::Passthrough => Ok(Target::passthrough(permit, destination, worker)),
        Route::Blocked => Err(Reason::RegistryOnlyBlocked.into()),
        Route::NoEndpoints { .. } => Err(Reason::NoHealthyUpstream.into()),
        Route::NoCluster { .. } => Err(Reason::ClusterNotFound.into()),
        Route::NoRule { .. } => Err(Reason::NoRoute.into()),
    }
}

/// Relays until both directions have ended; a swap since `epoch`, under which the permit was given, asks `reauthorize`
/// whether the connection may go on.
///
/// # Errors
/// The side that ended it, idleness, or a lost permit.
pub(crate) async fn relay_until_end(
    (downstream, upstream, relay): (&mut Stream, &mut Stream, &mut Relay),
    entry: &Entry,
    worker: &Worker,
    mut epoch: u64,
    reauthorize: impl Fn() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let idle_ms = worker.settings.limits.idle_ms;
    let mut moved = u64::MAX;
    loop {
        let step = poll_fn(|context| {
            if worker.epoch() != epoch {
                return Poll::Ready(Step::Swapped);
            }
            let ended = relay.poll(context, downstream, upstream, &worker.buffers);
            let now = relay.upstream.moved + relay.downstream.moved;
            if now != moved {
                moved = now;
                entry.deadline_ms.set(worker.coarse_ms() + idle_ms);
            } else if entry.deadline_ms.get() <= worker.coarse_ms() {
                return Poll::Ready(Step::Idle);
            }
            ended.map(Step::Ended)
        });
        let cut = match step.await {
            Step::Swapped => {
                epoch = worker.epoch();
                match reauthorize().and_then(|()| worker.still_trusts(upstream)) {
                    Ok(()) => continue,
                    Err(failure) => failure,
                }
            }
            Step::Idle => Reason::IdleTimeout.into(),
            Step::Ended(Ok(())) => return Ok(()),
            Step::Ended(Err(Side::Downstream)) => Reason::DownstreamClosed.into(),
            Step::Ended(Err(Side::Upstream)) => Reason::UpstreamClosedMidResponse.into(),
        };
        downstream.abort();
        upstream.abort();
        return Err(cut);
    }
}

fn reauthorize(link: &Link, worker: &Worker) -> Result<(), Failure> {
    let pinned = worker.pin();
    still_accepted(link, &pinned, worker)?;
    if link.facts.direction == Direction::Inbound {
        let judged = pinned.snapshot.authorize_connection(&link.facts);
        judged.map_err(|denial| Failure::new(Reason::PolicyChanged, denial.explanation()))?;
    }
    Ok(())
}

enum Step {
    Swapped,
    Idle,
    Ended(Result<(), Side>),
}
