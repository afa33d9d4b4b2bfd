//! What the requests of one downstream connection share, whichever version of HTTP carries them, and the verdicts on one.
//!
//! In: what is known of the connection, the text of a request head.  Out: `Request`, its `Permit` and its `Target`.
//! Limits: those of `http1_head::Limits`; a label set or a policy context is looked up once per connection, not per request.
//! Fails: a denial, a reason why there is no target, or the failure that ends the connection after a swap.
//! The text of a head lives with whoever read it: the buffer of an HTTP/1.1 connection, or that of an HTTP/2 stream.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use meshdp_model::authz::{ConnectionContext, Denial, Permit};
use meshdp_model::facts::Direction;
use meshdp_model::jwt::{Authenticated, TokenRefusal, TokenRules};
use meshdp_model::listener::Outbound;
use meshdp_model::route::Route;
use meshdp_model::sections::PortProtocol;
use meshdp_proto::http1_head::Limits;

use crate::connection::{Failure, Link, still_accepted};
use crate::http::decide::{Head, Scratch, View, is_normalised_alike, path_mode, read_head};
use crate::http::forward;
use crate::http::tokens;
use crate::observe::outcome::Reason;
use crate::observe::record;
use crate::observe::telemetry::SeriesCache;
use crate::tls::ClientAlpn;
use crate::upstream::Target;
use crate::worker::{Pinned, Worker};

/// The peer of one HTTP connection.
pub(crate) struct Caller<'w> {
    pub(crate) link: Link,
    /// Header values that are the same for every request of this connection.
    pub(crate) forwarded: forward::Forwarded,
    pub(crate) worker: &'w Rc<Worker>,
    pub(crate) limits: Limits,
    pub(crate) series: RefCell<SeriesCache>,
    /// What it speaks, as the access log has it.
    pub(crate) protocol: &'static str,
    /// What of the policies no request of this connection can change.
    policy_context: RefCell<ConnectionContext>,
    accepted_under: Cell<u64>,
}

/// A request whose head has been read.
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) pinned: Rc<Pinned>,
    pub(crate) started: Instant,
    /// Which read of the worker's scratch it was.
    pub(crate) read: Cell<u64>,
    /// It is a call of gRPC.
    pub(crate) grpc: bool,
    /// What its tokens have shown, where tokens are asked for.
    pub(crate) tokens: OnceCell<Authenticated>,
    /// What policies in the shadow said of it, as the access log has it.
    pub(crate) shadow: RefCell<Option<Box<str>>>,
}

/// Why a request is not let in.
pub(crate) enum Refused {
    /// Policy says so.
    Policy(Denial),
    /// Its token does not count.
    Token(TokenRefusal),
}

impl<'w> Caller<'w> {
    /// The caller of a connection that was accepted under `pinned`.
    pub(crate) fn new(link: Link, pinned: &Pinned, worker: &'w Rc<Worker>, protocol: &'static str) -> Self {
        let limits = Limits::default();
        let limits = if link.facts.peer.is_some() { limits.of_mesh_peer() } else { limits };
        Self {
            forwarded: forward::Forwarded::new(&link, pinned),
            policy_context: RefCell::new(pinned.snapshot.connection_context(&link.facts)),
            accepted_under: Cell::new(pinned.epoch),
            link,
            worker,
            limits,
            series: RefCell::default(),
            protocol,
        }
    }

    /// The snapshot in force, once this connection is known to be acceptable under it.
    ///
    /// # Errors
    /// As `still_accepted`.
    pub(crate) fn pin_accepted(&self) -> Result<Rc<Pinned>, Failure> {
        let pinned = self.worker.pin();
        if pinned.epoch != self.accepted_under.get() {
            still_accepted(&self.link, &pinned, self.worker)?;
            self.accepted_under.set(pinned.epoch);
        }
        Ok(pinned)
    }

    /// The epoch under which this connection was last found acceptable.
    pub(crate) fn accepted_under(&self) -> u64 {
        self.accepted_under.get()
    }

    /// The worker's scratch with the request's head in it; it is read again if another one has been read since.
    pub(crate) fn scratch(&self, request: &Request, text: &[u8]) -> RefMut<'w, Scratch> {
        let mut scratch = self.worker.scratch.borrow_mut();
        if scratch.reads != request.read.get() {
            let mode = path_mode(request.pinned.snapshot.mesh().path_normalization);
            let read = read_head(&text[..request.head.head.len], &self.limits, mode, &mut scratch);
            debug_assert!(matches!(read, Ok(Some(_))), "a head that was read once is read again");
            request.read.set(scratch.reads);
            if let Some(authenticated) = request.tokens.get() {
                tokens::change(authenticated, (text, &request.head), &mut scratch);
            }
        }
        scratch
    }

    /// Judges a request: its tokens, then policy.
    pub(crate) fn authorize(&self, request: &Request, text: &[u8]) -> Result<Permit, Refused> {
        let snapshot = &request.pinned.snapshot;
        let facts = &self.link.facts;
        match facts.direction {
            Direction::Outbound => Ok(snapshot.permit_outbound(facts)),
            Direction::Inbound => {
                let mut scratch = self.scratch(request, text);
                if let Some(rules) = snapshot.token_rules() {
                    let judged = self.judge_tokens(rules, (text, &request.head), &mut scratch, self.worker.wall_s());
                    let _ = request.tokens.set(judged.map_err(Refused::Token)?);
                }
                let view = View::new(&request.head, text, &scratch, request.tokens.get());
                let asked = view.facts(facts);
                let shadow = snapshot.shadow_request(facts, &asked);
                if !shadow.is_empty() {
                    *request.shadow.borrow_mut() = Some(record::shadow(&shadow, self.worker));
                }
                let context = &mut *self.policy_context.borrow_mut();
                let judged = snapshot.authorize_request_in(context, facts, &asked);
                let permit = judged.map_err(Refused::Policy)?;
                request.tokens.get().map_or(Ok(()), Authenticated::sendable).map_err(Refused::Token)?;
                Ok(permit)
            }
        }
    }

    /// Judges the tokens of the request in the scratch by the keys that are there now; a key that is not is asked for.
    fn judge_tokens(
        &self,
        rules: &Arc<TokenRules>,
        head: (&[u8], &Head),
        scratch: &mut Scratch,
        now_s: u64,
    ) -> Result<Authenticated, TokenRefusal> {
        let keys = self.worker.keys.table.load();
        let known = &mut *self.worker.tokens.borrow_mut();
        let judged = tokens::judge_tokens(rules, head, scratch, (&**keys, now_s), known);
        if let Some(address) = known.take_missed() {
            self.worker.keys.miss(address);
        }
        judged
    }

    /// What a client whose token does not count is told, besides the status.
    pub(crate) fn challenge(&self, request: &Request, text: &[u8]) -> Vec<u8> {
        let scratch = self.scratch(request, text);
        tokens::challenge(&view(&request.head, text, &scratch))
    }

    /// Where a permitted request goes.
    pub(crate) fn route(&self, permit: &Permit, request: &Request, text: &[u8]) -> Result<Target, Reason> {
        let facts = &self.link.facts;
        if facts.direction == Direction::Inbound {
            return Ok(Target::application(permit, facts.destination, self.worker));
        }
        let snapshot = &request.pinned.snapshot;
        let (port, restrict) = match snapshot.outbound(facts.destination) {
            Outbound::Http { port } => (port, None),
            Outbound::Auto(service) | Outbound::Service(service) => (service.port, Some(service)),
            Outbound::Unknown => (facts.destination.port(), None),
        };
        let scratch = self.scratch(request, text);
        let authority = view(&request.head, text, &scratch).authority();
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

    /// Whether a request that is under way would be permitted under the snapshot now in force.
    ///
    /// # Errors
    /// What took its permit away.
    pub(crate) fn reauthorize(&self, request: &Request, text: &[u8]) -> Result<(), Failure> {
        let pinned = self.worker.pin();
        still_accepted(&self.link, &pinned, self.worker)?;
        let facts = &self.link.facts;
        if facts.direction == Direction::Outbound {
            return Ok(());
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        let mode = path_mode(pinned.snapshot.mesh().path_normalization);
        let head = read_head(&text[..request.head.head.len], &self.limits, mode, &mut scratch);
        let Ok(Some(head)) = head else { return Err(Reason::PolicyChanged.into()) };
        let shown = match pinned.snapshot.token_rules() {
            None => None,
            Some(rules) => {
                // A token counts from the arrival of its request to its end: rules and keys may take it away, time does not.
                let arrived_s = self.worker.wall_s().saturating_sub(request.started.elapsed().as_secs());
                let judged = self.judge_tokens(rules, (text, &head), &mut scratch, arrived_s);
                Some(judged.map_err(|refusal| Failure::new(Reason::PolicyChanged, refusal.detail()))?)
            }
        };
        let judged = View::new(&head, text, &scratch, shown.as_ref()).authorize(&pinned.snapshot, facts);
        judged.map(drop).map_err(|denial| Failure::new(Reason::PolicyChanged, denial.explanation()))?;
        let went = path_mode(request.pinned.snapshot.mesh().path_normalization);
        if went == mode || is_normalised_alike(head.head.target.of(text), (went, mode)) {
            return Ok(());
        }
        // What goes, or went, upstream is another path than the one that was judged now.
        Err(Failure::new(Reason::PolicyChanged, "path_normalization"))
    }

    /// What was declared of the application's port, or of nothing for what goes elsewhere.
    pub(crate) fn application_port(&self, pinned: &Pinned) -> PortProtocol {
        let facts = &self.link.facts;
        let inbound = match facts.direction {
            Direction::Inbound => pinned.snapshot.inbound(facts.destination.port()),
            Direction::Outbound => None,
        };
        inbound.map_or(PortProtocol::Auto, |inbound| inbound.protocol)
    }

    /// What was declared of the port that the client asked for.
    pub(crate) fn declared(&self, pinned: &Pinned) -> PortProtocol {
        match self.link.facts.direction {
            Direction::Inbound => self.application_port(pinned),
            Direction::Outbound => pinned.snapshot.declared(self.link.facts.destination),
        }
    }

    /// Counts a request that has been answered.
    pub(crate) fn count_request(&self) {
        let requests = &self.link.entry.requests;
        requests.set(requests.get() + 1);
    }
}

/// A head together with the text it points into; valid until the next head is read into the scratch.
pub(crate) fn view<'a>(head: &'a Head, text: &'a [u8], scratch: &'a Scratch) -> View<'a> {
    View::new(head, text, scratch, None)
}
