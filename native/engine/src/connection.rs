//! The map of the data plane: one connection, its stages in order.
//!
//! In: an accepted socket with its original destination.  Out: one `Outcome` per connection (opaque) or per request (HTTP).
//! Limits: `settings::Limits`.  Fails: every stage returns a `Failure`; none forwards a byte without a `Permit`.
//! A panic in a stage ends this connection alone and is counted as `bug`.
//!
//! A task is as large as the largest of its states, and most of its life a connection is idle: what is large travels in boxes,
//! for an async function keeps room for its arguments to its end.

use std::borrow::Cow;
use std::rc::Rc;

use meshdp_model::facts::ConnectionFacts;
use meshdp_model::sections::ChainProtocol;

use crate::downstream;
use crate::fault;
use crate::http::{self, h2_session, session};
use crate::listener::Accepted;
use crate::observe::outcome::Reason;
use crate::observe::record;
use crate::stream::Stream;
use crate::tcp_session;
use crate::tls::verify::RootId;
use crate::worker::registry::{Admitted, Entry};
use crate::worker::{Pinned, Worker};

/// Serves one connection to its end and records how it ended.
pub(crate) async fn serve(accepted: Box<Accepted>, admitted: Admitted, worker: Rc<Worker>) {
    let entry = Rc::clone(&admitted.entry);
    let mut bug = record::BugGuard::new(&worker, &entry);
    entry.register_waker().await;
    let ended = stages(accepted, &worker, &entry).await;
    record::connection_end(&worker, &entry, ended);
    bug.disarm();
    drop(admitted);
}

/// Runs the stages in order. One configuration is pinned for the whole of an opaque connection; an HTTP connection
/// pins anew for each request.
async fn stages(accepted: Box<Accepted>, worker: &Rc<Worker>, entry: &Rc<Entry>) -> Result<(), Failure> {
    let pinned = worker.pin();
    let secured = begin(accepted, &pinned, worker, entry).await?;
    fault::point("connection");
    match secured.link.chain.protocol {
        ChainProtocol::Tcp => tcp_session::run(secured, &pinned, worker).await,
        // Boxed, so that connections which carry one request at a time do not keep room for it.
        ChainProtocol::Http if http::begins_as_http2(&secured) => {
            Box::pin(h2_session::run(secured, &pinned, worker)).await
        }
        ChainProtocol::Http => session::run(secured, &pinned, worker).await,
    }
}

/// From the first byte to a known peer. On its own, so that its room is used again by what follows.
async fn begin(
    accepted: Box<Accepted>,
    pinned: &Pinned,
    worker: &Worker,
    entry: &Rc<Entry>,
) -> Result<Box<Secured>, Failure> {
    let port = downstream::port(pinned, &accepted)?;
    let sniffed = downstream::sniff(accepted, &port, worker).await?;
    let chain = port.filter_chain(&sniffed)?;
    downstream::secure(sniffed, &chain, worker, entry).await
}

/// A connection whose peer is known: what sessions work on.
pub(crate) struct Secured {
    /// Its bytes, plain or decrypted.
    pub(crate) stream: Stream,
    /// Plain bytes that sniffing has read already.
    pub(crate) received: Vec<u8>,
    /// Everything but its bytes.
    pub(crate) link: Link,
}

/// What is known of a connection before it says anything: all that its requests have in common.
pub(crate) struct Link {
    /// What decisions may see of it.
    pub(crate) facts: ConnectionFacts,
    /// What sniffing found, to judge the connection again after a swap.
    pub(crate) sniffed: Detection,
    /// The chain that took it.
    pub(crate) chain: Chain,
    /// SHA-256 of the peer's certificate, for XFCC.
    pub(crate) peer_hash: Option<[u8; 32]>,
    /// The root that its certificate leads to; plain bytes prove nothing.
    pub(crate) peer_root: Option<RootId>,
    /// Its place in the registry.
    pub(crate) entry: Rc<Entry>,
}

/// What sniffing found of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Detection {
    /// A `ClientHello` was seen.
    pub(crate) tls: bool,
    /// ALPN values, or what plain bytes look like.
    pub(crate) application: Names,
}

/// Names of protocols as a `ClientHello` writes them, each behind its length: one small allocation for an idle connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Box<[u8]>);

impl Names {
    /// ALPN has no name of more than 255 bytes.
    pub(crate) fn of<'n>(names: impl Iterator<Item = &'n [u8]>) -> Self {
        let mut all = Vec::new();
        for name in names {
            let Ok(length) = u8::try_from(name.len()) else { continue };
            all.push(length);
            all.extend_from_slice(name);
        }
        Self(all.into())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first()?;
            let (name, after) = behind.split_at(usize::from(*length));
            rest = after;
            Some(name)
        })
    }
}

/// The treatment chosen for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Whether mutual TLS ends here.
    pub(crate) terminate: bool,
    /// What is spoken inside.
    pub(crate) protocol: ChainProtocol,
}

/// Why a stage ended a connection.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The stable reason.
    pub(crate) reason: Reason,
    /// What a person needs beside it: the policy, the field, the identity.
    pub(crate) detail: Cow<'static, str>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: Cow::Borrowed("") }
    }
}

impl Failure {
    /// A failure with its detail.
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Whether a connection that was taken under an older configuration would be taken the same way now.
///
/// # Errors
/// `PolicyChanged` when its chain is gone or another, or its peer's trust domain is no longer accepted; `TrustChanged` when
/// the root of its peer is not.
pub(crate) fn still_accepted(link: &Link, pinned: &Pinned, worker: &Worker) -> Result<(), Failure> {
    worker.still_trusts_root(link.peer_root.as_ref())?;
    let facts = &link.facts;
    let now = downstream::port_of(pinned, facts.direction, facts.destination)
        .and_then(|port| port.filter_chain_for(&link.sniffed))
        .map_err(|failure| Failure::new(Reason::PolicyChanged, failure.detail))?;
    if now != link.chain {
        return Err(Failure::new(Reason::PolicyChanged, "the port now asks for another kind of connection"));
    }
    if facts.peer.as_ref().is_none_or(|peer| pinned.snapshot.mesh().trusts(peer)) {
        return Ok(());
    }
    Err(Failure::new(Reason::PolicyChanged, "the peer's trust domain is no longer accepted"))
}
