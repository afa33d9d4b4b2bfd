//! Every end is recorded once: counters with Istio's labels, and one line of the access log.
//!
//! In: outcomes of requests and connections.  Out: `telemetry` and `access_log` of the worker.
//! Limits: labels are borrowed; a connection finds its series again without hashing them.
//! Fails: never; what cannot be recorded is counted as dropped by the access log itself.

use std::net::SocketAddr;
use std::rc::Rc;

use meshdp_model::authz::Denial;
use meshdp_model::authz::shadow::Shadow;
use meshdp_model::facts::{ConnectionFacts, Direction};
use meshdp_model::identity::Peer;
use meshdp_model::snapshot::Snapshot;
use meshdp_proto::http1_fields::Known;
use meshdp_proto::refusal::Refusal;

use crate::connection::{Failure, Link};
use crate::http::caller::{Caller, Refused, Request, view};
use crate::http::{grpc, reply, tokens};
use crate::observe::access_log::{Entry as LogEntry, HttpFields};
use crate::observe::outcome::{Outcome, Reason};
use crate::observe::telemetry::{CacheTag, Party, Protocol, Reporter, Security, SeriesId, SeriesKey};
use crate::upstream::Target;
use crate::worker::registry::Entry;
use crate::worker::{Pinned, Worker};

/// `namespace/name` of the policy that denied; `none` when ALLOW policies exist and none matched.
pub(crate) fn policy_name(denial: &Denial) -> String {
    denial.policy.as_ref().map_or_else(|| "none".to_owned(), |policy| format!("{}/{}", policy.namespace, policy.name))
}

/// What a request that is not let in is answered, counted.
pub(crate) fn denied(worker: &Worker, refused: &Refused) -> (Outcome, &'static str) {
    match refused {
        Refused::Policy(denial) => {
            worker.telemetry.borrow_mut().denied(&policy_name(denial));
            (Outcome::of(Reason::RbacDenied).because(denial.explanation()), reply::RBAC_DENIED)
        }
        Refused::Token(refusal) => {
            (Outcome::of(Reason::TokenRefused).because(refusal.detail()).answered(refusal.status()), refusal.text())
        }
    }
}

/// Counts what policies in the shadow said, and words it for the access log.
pub(crate) fn shadow(shadow: &Shadow, worker: &Worker) -> Box<str> {
    let mut telemetry = worker.telemetry.borrow_mut();
    for (action, verdict, policy) in shadow.findings() {
        let name = policy.map_or_else(|| "none".to_owned(), |policy| format!("{}/{}", policy.namespace, policy.name));
        telemetry.shadowed(action, verdict, &name);
    }
    shadow.to_string().into_boxed_str()
}

/// The end of one request.
pub(crate) struct RequestRecord<'a, 'w> {
    pub(crate) caller: &'a Caller<'w>,
    pub(crate) request: &'a Request,
    /// What the head was read from.
    pub(crate) text: &'a [u8],
    pub(crate) target: Option<&'a Target>,
    pub(crate) outcome: Outcome,
}

impl RequestRecord<'_, '_> {
    /// Counts it and writes its line.
    pub(crate) fn write(mut self) {
        self.outcome.duration_us = self.request.started.elapsed().as_micros() as u64;
        if self.request.grpc {
            let stands_for = grpc::status_of_http(self.outcome.status);
            self.outcome.grpc_status = self.outcome.grpc_status.or(stands_for);
        }
        let worker = self.caller.worker;
        let series = self.series();
        let outcome = &self.outcome;
        let telemetry = worker.telemetry.borrow();
        telemetry.record_request(series, outcome.duration_us, outcome.bytes_in, outcome.bytes_out);
        drop(telemetry);
        if worker.access_log.borrow().on() {
            self.log();
        }
    }

    fn series(&self) -> SeriesId {
        let member = self.target.and_then(|target| target.member.as_ref());
        let protocol = if self.request.grpc { Protocol::Grpc } else { Protocol::Http };
        let tag = CacheTag {
            epoch: self.request.pinned.epoch,
            place: member.map_or(0, |member| std::ptr::from_ref(member.endpoint()).addr()),
            status: self.outcome.status,
            reason: self.outcome.reason,
            protocol,
            grpc_status: self.outcome.grpc_status,
        };
        let make = || {
            let call =
                Call { facts: &self.caller.link.facts, target: self.target, snapshot: &self.request.pinned.snapshot };
            let key = call.key(protocol, &self.outcome);
            self.caller.worker.telemetry.borrow_mut().series(&key)
        };
        self.caller.series.borrow_mut().find(tag, make)
    }

    fn log(&self) {
        let worker = self.caller.worker;
        let head = &self.request.head;
        let scratch = self.caller.scratch(self.request, self.text);
        let view = view(head, self.text, &scratch);
        let http = HttpFields {
            method: view.method(),
            path: tokens::logged(self.request.pinned.snapshot.token_rules(), head.head.target.of(self.text)),
            protocol: self.caller.protocol,
            authority: view.authority(),
            user_agent: view.first(Known::UserAgent).unwrap_or_default(),
            request_id: view.first(Known::XRequestId).unwrap_or_default(),
            forwarded_for: view.first(Known::XForwardedFor).unwrap_or_default(),
            upstream_service_us: None,
        };
        let line = line(&self.caller.link, self.target, &self.outcome);
        let shadow = self.request.shadow.borrow();
        let shadow = shadow.as_deref().unwrap_or_default();
        worker.access_log.borrow_mut().write(&LogEntry { http: Some(http), shadow, ..line });
    }
}

/// The outcome of a head that was refused.
pub(crate) fn refusal(refusal: Refusal) -> Outcome {
    let too_large = matches!(refusal.status, 413 | 414 | 431);
    let reason = if too_large { Reason::RequestHeadTooLarge } else { Reason::MalformedRequest };
    Outcome::of(reason).because(refusal.reason.code()).answered(refusal.status)
}

/// The end of bytes that were no request: no method, no path, the refusal's code as the detail.
pub(crate) fn refused(caller: &Caller<'_>, pinned: &Pinned, outcome: &Outcome) {
    let worker = caller.worker;
    let call = Call { facts: &caller.link.facts, target: None, snapshot: &pinned.snapshot };
    let key = call.key(Protocol::Http, outcome);
    let mut telemetry = worker.telemetry.borrow_mut();
    let series = telemetry.series(&key);
    telemetry.record_request(series, 0, 0, 0);
    drop(telemetry);
    let http = HttpFields { protocol: caller.protocol, ..HttpFields::default() };
    let entry = LogEntry { http: Some(http), ..line(&caller.link, None, outcome) };
    worker.access_log.borrow_mut().write(&entry);
}

/// The counters of one opaque connection that is connected to its upstream.
pub(crate) struct TcpRecord {
    series: SeriesId,
    upstream: SocketAddr,
    cluster: Box<str>,
    started: std::time::Instant,
}

impl TcpRecord {
    /// Counts the connection as opened.
    pub(crate) fn open(link: &Link, target: &Target, pinned: &Pinned, worker: &Worker) -> Self {
        let call = Call { facts: &link.facts, target: Some(target), snapshot: &pinned.snapshot };
        let key = call.key(Protocol::Tcp, &Outcome::of(Reason::Completed));
        let mut telemetry = worker.telemetry.borrow_mut();
        let series = telemetry.series(&key);
        telemetry.tcp_opened(series);
        let cluster = target.member.as_ref().map_or("", |member| &member.cluster.key).into();
        Self { series, upstream: target.address, cluster, started: std::time::Instant::now() }
    }

    /// Counts its end and writes its line.
    pub(crate) fn close(self, link: &Link, ended: Reason, moved: (u64, u64), worker: &Worker) {
        let telemetry = worker.telemetry.borrow();
        telemetry.tcp_moved(self.series, moved.0, moved.1);
        telemetry.tcp_closed(self.series);
        drop(telemetry);
        let mut outcome = Outcome::of(ended).answered(0);
        outcome.bytes_in = moved.0;
        outcome.bytes_out = moved.1;
        outcome.duration_us = self.started.elapsed().as_micros() as u64;
        let shadow = link.entry.shadow.borrow();
        let entry = LogEntry {
            upstream: Some(self.upstream),
            cluster: &self.cluster,
            shadow: shadow.as_deref().unwrap_or_default(),
            ..line(link, None, &outcome)
        };
        worker.access_log.borrow_mut().write(&entry);
    }
}

/// A connection that was refused before it had a task.
pub(crate) fn refused_connection(worker: &Worker, direction: Direction, reason: Reason) {
    let telemetry = worker.telemetry.borrow();
    telemetry.connection_opened(direction);
    telemetry.connection_closed(direction, reason);
}

/// The end of a connection: counted always; written where no request or relay has said it already.
pub(crate) fn connection_end(worker: &Worker, entry: &Entry, ended: Result<(), Failure>) {
    let (reason, detail) = match ended {
        Ok(()) => (Reason::Completed, "".into()),
        Err(failure) => (failure.reason, failure.detail),
    };
    worker.telemetry.borrow().connection_closed(entry.direction, reason);
    let told_already = entry.requests.get() > 0 || entry.relayed.get();
    if reason == Reason::Completed || reason == Reason::DownstreamClosed || told_already {
        return;
    }
    let peer = entry.peer.borrow();
    let shadow = entry.shadow.borrow();
    let outcome = Outcome::of(reason).because(detail).answered(0);
    let line = LogEntry {
        time: entry.started,
        direction: entry.direction,
        http: None,
        outcome: &outcome,
        upstream: None,
        upstream_local: None,
        cluster: "",
        destination: Some(entry.destination),
        remote: entry.source,
        principal: peer.as_deref().unwrap_or_default(),
        sni: "",
        route: "",
        shadow: shadow.as_deref().unwrap_or_default(),
    };
    worker.access_log.borrow_mut().write(&line);
}

fn line<'a>(link: &'a Link, target: Option<&'a Target>, outcome: &'a Outcome) -> LogEntry<'a> {
    let facts = &link.facts;
    LogEntry {
        time: std::time::SystemTime::now(),
        direction: facts.direction,
        http: None,
        outcome,
        upstream: target.map(|target| target.address),
        upstream_local: None,
        cluster: target.and_then(|target| target.member.as_ref()).map_or("", |member| &member.cluster.key),
        destination: Some(facts.destination),
        remote: facts.source,
        principal: facts.peer.as_ref().map_or("", Peer::uri),
        sni: facts.sni.as_deref().unwrap_or_default(),
        route: "",
        shadow: "",
    }
}

/// The two ends of a call, to be labelled.
struct Call<'a> {
    facts: &'a ConnectionFacts,
    target: Option<&'a Target>,
    snapshot: &'a Snapshot,
}

impl<'a> Call<'a> {
    fn key(&self, protocol: Protocol, outcome: &Outcome) -> SeriesKey<'a> {
        let inbound = self.facts.direction == Direction::Inbound;
        let (service, service_name, service_namespace) = self.service();
        SeriesKey {
            reporter: if inbound { Reporter::Destination } else { Reporter::Source },
            source: if inbound { self.peer() } else { self.own() },
            destination: if inbound { self.own() } else { self.endpoint() },
            service,
            service_name,
            service_namespace,
            protocol,
            security: match (inbound, self.facts.peer.is_some()) {
                (false, _) => Security::Unknown,
                (true, true) => Security::MutualTls,
                (true, false) => Security::None,
            },
            response_code: outcome.status,
            response_flags: outcome.reason.flags(),
            grpc_status: grpc::label(outcome.grpc_status),
        }
    }

    fn service(&self) -> (&'a str, &'a str, &'a str) {
        if self.facts.direction == Direction::Inbound {
            let inbound = self.snapshot.inbound(self.facts.destination.port());
            return inbound.map_or(("", "", ""), |port| (&port.service, &port.service_name, &port.service_namespace));
        }
        let cluster = self.target.and_then(|target| target.member.as_ref()).map(|member| &member.cluster);
        cluster.map_or(("PassthroughCluster", "PassthroughCluster", ""), |cluster| {
            (&cluster.host, &cluster.name, &cluster.namespace)
        })
    }

    fn own(&self) -> Party<'a> {
        let Some(workload) = self.snapshot.workload() else { return Party::default() };
        let label = |name: &str| workload.labels.get(name).map_or("", |value| &**value);
        Party {
            workload: &workload.name,
            namespace: &workload.namespace,
            principal: &workload.identity,
            app: label("app"),
            version: label("version"),
            canonical_service: &workload.canonical_name,
            canonical_revision: &workload.canonical_revision,
            cluster: &workload.cluster_id,
        }
    }

    fn peer(&self) -> Party<'a> {
        let identity = self.facts.peer.as_ref().map(Peer::uri);
        let Some(peer) = self.snapshot.peer_at(self.facts.source.ip(), identity) else {
            return Party { principal: self.facts.peer.as_ref().map_or("", Peer::uri), ..Party::default() };
        };
        Party {
            workload: &peer.workload,
            namespace: &peer.namespace,
            principal: self.facts.peer.as_ref().map_or("", Peer::uri),
            app: &peer.canonical_name,
            version: &peer.canonical_revision,
            canonical_service: &peer.canonical_name,
            canonical_revision: &peer.canonical_revision,
            cluster: "",
        }
    }

    fn endpoint(&self) -> Party<'a> {
        let Some(member) = self.target.and_then(|target| target.member.as_ref()) else { return Party::default() };
        let endpoint = member.endpoint();
        Party {
            workload: &endpoint.workload,
            namespace: &endpoint.namespace,
            principal: &endpoint.identity,
            app: &endpoint.canonical_name,
            version: &endpoint.canonical_revision,
            canonical_service: &endpoint.canonical_name,
            canonical_revision: &endpoint.canonical_revision,
            cluster: "",
        }
    }
}

/// Counts a connection whose task panicked: dropped while armed means the stages never returned.
pub(crate) struct BugGuard {
    worker: Rc<Worker>,
    direction: Direction,
    armed: bool,
}

impl BugGuard {
    /// Arms the guard and counts the connection as open.
    pub(crate) fn new(worker: &Rc<Worker>, entry: &Entry) -> Self {
        worker.telemetry.borrow().connection_opened(entry.direction);
        Self { worker: Rc::clone(worker), direction: entry.direction, armed: true }
    }

    /// The stages returned.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for BugGuard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // A worker that stops drops its tasks too; only unwinding is a bug. Borrows may be held by the panicking code.
        if let Ok(telemetry) = self.worker.telemetry.try_borrow() {
            if std::thread::panicking() {
                telemetry.panicked();
            }
            telemetry
                .connection_closed(self.direction, if std::thread::panicking() { Reason::Bug } else { Reason::Drain });
        }
    }
}
