//! The data plane's decisions as pure functions over a snapshot, for the command line, pytest and the conformance runner.
//!
//! In: a transaction with an empty base, and a request (or many) as JSON.  Out: JSON.
//! Fails: `SnapshotError` for the transaction, `NativeError` for a request document that cannot be read.
//! The stages and their order are those of `engine/connection.rs`, without sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use meshdp_engine::http::decide::{Head, Scratch, View, path_mode, read_head};
use meshdp_engine::http::tokens::judge_tokens;
use meshdp_model::authz::{Denial, Permit};
use meshdp_model::facts::{ConnectionFacts, Direction};
use meshdp_model::identity::Peer;
use meshdp_model::jwt::{Authenticated, KeySet, KeyTable, TokenRefusal, VerifiedTokens};
use meshdp_model::listener::Outbound;
use meshdp_model::route::Route;
use meshdp_model::sections::{Chain, ChainProtocol};
use meshdp_model::snapshot::Snapshot;
use meshdp_proto::h2::hpack::FieldList;
use meshdp_proto::h2::message::{grpc_status, is_grpc, write_request};
use meshdp_proto::http1_fields::Known;
use meshdp_proto::http1_head::{HttpVersion, Limits};
use meshdp_proto::sniff::{Sniff, Wanted, sniff};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::errors::{NativeError, SnapshotError};

/// The digest a transaction leads to, checked section by section.
#[pyfunction]
pub(crate) fn digest(transaction: &[u8]) -> PyResult<String> {
    snapshot(transaction).map(|snapshot| snapshot.digest().to_owned())
}

/// Whether the connection or request is let in, and by which policy.
#[pyfunction]
pub(crate) fn authorize<'py>(python: Python<'py>, transaction: &[u8], request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let (snapshot, asked) = (snapshot(transaction)?, asked(request)?);
    Ok(answer(python, &judge(&snapshot, &asked)))
}

/// The same for many requests of one snapshot, which is decoded once: arrays of the documents that `authorize` takes and gives.
#[pyfunction]
pub(crate) fn authorize_all<'py>(
    python: Python<'py>,
    transaction: &[u8],
    requests: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let snapshot = snapshot(transaction)?;
    let asked: Vec<Asked> = serde_json::from_slice(requests).map_err(|error| unreadable(&error))?;
    let judged = asked.into_iter().map(|asked| asked.written().map(|asked| judge(&snapshot, &asked)));
    Ok(answer(python, &Value::Array(judged.collect::<PyResult<_>>()?)))
}

/// Where an outbound request would go.
#[pyfunction]
pub(crate) fn route<'py>(python: Python<'py>, transaction: &[u8], request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let (snapshot, asked) = (snapshot(transaction)?, asked(request)?);
    let facts = asked.facts()?;
    let permit = snapshot.permit_outbound(&facts);
    let mut scratch = Scratch::default();
    let head = asked.read(&snapshot, &mut scratch).ok().flatten();
    let authority = match &head {
        Some(head) => asked.view(head, &scratch, None).authority().to_vec(),
        None => Vec::new(),
    };
    let route = match snapshot.outbound(facts.destination) {
        Outbound::Http { port } => snapshot.route_request(&permit, port, &authority, None, 0),
        Outbound::Service(service) | Outbound::Auto(service) => snapshot.route_connection(&permit, service, 0),
        Outbound::Unknown => snapshot.route_unknown(&permit),
    };
    Ok(answer(python, &describe_route(&route)))
}

/// The verdict, and every policy, rule and condition with whether it held; nothing of them where it ended before policy.
#[pyfunction]
pub(crate) fn explain<'py>(python: Python<'py>, transaction: &[u8], request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let (snapshot, asked) = (snapshot(transaction)?, asked(request)?);
    let mut scratch = Scratch::default();
    let standing = Standing::of(&snapshot, &asked, &mut scratch);
    let explanation = match &standing {
        Standing::Over(_) => None,
        Standing::Opaque { facts, .. } => Some(snapshot.explain_connection(facts)),
        Standing::Request { facts, head, tokens, .. } => {
            Some(snapshot.explain_request(facts, &asked.view(head, &scratch, tokens.as_ref()).facts(facts)))
        }
    };
    let verdict = standing.verdict(&snapshot, &asked, &scratch);
    Ok(answer(python, &json!({"verdict": verdict, "explanation": explanation})))
}

/// A connection, and a request on it if there is one, as its asker knows it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    direction: Way,
    peer: Option<String>,
    source: std::net::SocketAddr,
    destination: std::net::SocketAddr,
    sni: Option<String>,
    /// The request head (or the first bytes of an opaque connection), one character a byte.
    head: Option<String>,
    /// The fields of an HTTP/2 request instead, pseudo-headers first, one character a byte.
    #[serde(default)]
    fields: Option<Vec<(String, String)>>,
    #[serde(default)]
    detected: Detected,
    /// The time at which tokens are judged, in seconds since 1970; by default now.
    #[serde(default)]
    now_s: Option<u64>,
    /// Key sets by the address that they would be fetched from; without them such tokens are refused.
    #[serde(default)]
    key_sets: HashMap<String, String>,
    #[serde(skip)]
    bytes: Vec<u8>,
    /// The status that the fields are refused with; 0 resets the stream.
    #[serde(skip)]
    malformed: Option<u16>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Way {
    Inbound,
    Outbound,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Detected {
    tls: bool,
    alpn: Vec<String>,
}

impl Asked {
    /// With its bytes as they would come over the wire.
    fn written(mut self) -> PyResult<Self> {
        if let Some(fields) = &self.fields {
            let mut list = FieldList::new();
            for (name, value) in fields {
                list.push(&bytes_of("fields", name)?, &bytes_of("fields", value)?, false);
            }
            let written = write_request(&list, &self.limits(), &mut self.bytes);
            self.malformed = written.err().map(|fault| fault.status().unwrap_or(0));
        } else if let Some(head) = &self.head {
            self.bytes = bytes_of("head", head)?;
        }
        Ok(self)
    }

    fn facts(&self) -> PyResult<ConnectionFacts> {
        let peer = self.peer.as_deref().map(Peer::parse).transpose();
        Ok(ConnectionFacts {
            direction: if self.direction == Way::Inbound { Direction::Inbound } else { Direction::Outbound },
            peer: peer.map_err(|error| NativeError::new_err(format!("peer: {error}")))?,
            source: self.source,
            destination: self.destination,
            sni: self.sni.as_ref().map(|name| name.to_ascii_lowercase().into_boxed_str()),
        })
    }

    /// The parsed head, if there is one; the status of the refusal otherwise.
    fn read(&self, snapshot: &Snapshot, scratch: &mut Scratch) -> Result<Option<Head>, u16> {
        if self.head.is_none() && self.fields.is_none() {
            return Ok(None);
        }
        if let Some(status) = self.malformed {
            return Err(status);
        }
        let mode = path_mode(snapshot.mesh().path_normalization);
        match read_head(&self.bytes, &self.limits(), mode, scratch) {
            Ok(Some(head)) => Ok(Some(head)),
            Ok(None) => Err(400),
            Err(refusal) => Err(refusal.status),
        }
    }

    fn limits(&self) -> Limits {
        Limits { any_method: self.fields.is_some(), ..Limits::default() }
    }

    /// What the request's tokens show, where tokens are asked for; the scratch is changed by it.
    fn authenticate(
        &self,
        snapshot: &Snapshot,
        head: &Head,
        scratch: &mut Scratch,
    ) -> Result<Option<Authenticated>, TokenRefusal> {
        let Some(rules) = snapshot.token_rules() else { return Ok(None) };
        let readable = |(address, text): (&String, &String)| {
            KeySet::parse(text.as_bytes()).ok().map(|keys| (address.as_str().into(), Arc::new(keys)))
        };
        let keys = KeyTable { generation: 0, sets: self.key_sets.iter().filter_map(readable).collect() };
        let now_s = self
            .now_s
            .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
        let mut known = VerifiedTokens::default();
        judge_tokens(rules, (&self.bytes, head), scratch, (&keys, now_s), &mut known).map(Some)
    }

    fn view<'a>(&'a self, head: &'a Head, scratch: &'a Scratch, tokens: Option<&'a Authenticated>) -> View<'a> {
        View::new(head, &self.bytes, scratch, tokens)
    }

    /// The chain that takes the connection, as sniffing would choose it.
    fn chain<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Chain> {
        let inbound = snapshot.inbound(self.destination.port())?;
        if self.detected.tls {
            let offered = |wanted: &[u8]| self.detected.alpn.iter().any(|name| name.as_bytes() == wanted);
            return inbound.filter_chain_where(true, offered);
        }
        if self.fields.is_some() {
            return inbound.filter_chain_where(false, |wanted| wanted == b"h2c");
        }
        let found: &[u8] = match sniff(&self.bytes, Wanted { tls: inbound.inspect_tls, http: inbound.inspect_http }) {
            Sniff::Http1(HttpVersion::Http10) => b"http/1.0",
            Sniff::Http1(HttpVersion::Http11) => b"http/1.1",
            Sniff::Http2Preface => b"h2c",
            _ => b"",
        };
        inbound.filter_chain_where(false, |wanted| wanted == found)
    }
}

fn judge(snapshot: &Snapshot, asked: &Asked) -> Value {
    let mut scratch = Scratch::default();
    Standing::of(snapshot, asked, &mut scratch).verdict(snapshot, asked, &scratch)
}

/// Where something stands once its chain is chosen and its head is read: it is over already, or policy decides.
enum Standing<'a> {
    Over(Value),
    Opaque { chain: &'a Chain, facts: ConnectionFacts },
    Request { chain: &'a Chain, facts: ConnectionFacts, head: Head, tokens: Option<Authenticated> },
}

impl<'a> Standing<'a> {
    fn of(snapshot: &'a Snapshot, asked: &Asked, scratch: &mut Scratch) -> Self {
        let Ok(mut facts) = asked.facts() else { return Self::Over(closed("peer_identity", "")) };
        let Some(chain) = asked.chain(snapshot) else { return Self::Over(closed("filter_chain_not_found", "")) };
        if chain.terminate {
            let Some(peer) = &facts.peer else { return Self::Over(closed("tls_no_client_certificate", &chain.name)) };
            if !snapshot.mesh().trusts(peer) {
                return Self::Over(closed("tls_trust_domain", &chain.name));
            }
        } else {
            // Bytes of a TLS session that does not end here prove nothing to us.
            facts.peer = None;
        }
        if chain.protocol == ChainProtocol::Tcp {
            return Self::Opaque { chain, facts };
        }
        match asked.read(snapshot, scratch) {
            Ok(Some(head)) => match asked.authenticate(snapshot, &head, scratch) {
                Ok(tokens) => Self::Request { chain, facts, head, tokens },
                Err(refusal) => Self::Over(refused(refusal, chain, &asked.view(&head, scratch, None))),
            },
            Ok(None) => Self::Over(closed("no request head", &chain.name)),
            Err(status) => Self::Over(Value::from(Verdict { status, detail: "refused", ..Verdict::of(chain) })),
        }
    }

    fn verdict(&self, snapshot: &Snapshot, asked: &Asked, scratch: &Scratch) -> Value {
        match self {
            Self::Over(verdict) => verdict.clone(),
            Self::Opaque { chain, facts } => {
                let shadow = json!(snapshot.shadow_connection(facts));
                match snapshot.authorize_connection(facts) {
                    Ok(permit) => Verdict { shadow, ..Verdict::permitted(chain, &permit, 0) }.into(),
                    Err(denial) => Verdict { shadow, ..Verdict::of(chain) }.denied(&denial),
                }
            }
            Self::Request { chain, facts, head, tokens } => {
                let view = asked.view(head, scratch, tokens.as_ref());
                let sendable = tokens.as_ref().map_or(Ok(()), Authenticated::sendable);
                let shadow = json!(snapshot.shadow_request(facts, &view.facts(facts)));
                let is_grpc = view.first(Known::ContentType).is_some_and(is_grpc);
                let (status, grpc_status) = if is_grpc { (200, Some(grpc_status(403))) } else { (403, None) };
                match view.authorize(snapshot, facts) {
                    Ok(_) if sendable.is_err() => refused(TokenRefusal::HeaderValue, chain, &view),
                    Ok(permit) => {
                        let upstream_path = Some(latin1(&scratch.target));
                        Verdict { upstream_path, shadow, ..Verdict::permitted(chain, &permit, 200) }.into()
                    }
                    Err(denial) => Verdict { status, grpc_status, shadow, ..Verdict::of(chain) }.denied(&denial),
                }
            }
        }
    }
}

/// One verdict, on its way to JSON.
#[derive(Default)]
struct Verdict<'a> {
    allowed: bool,
    /// What the application's client sees; 0 where it is no HTTP answer.
    status: u16,
    detail: &'a str,
    chain: &'a str,
    /// Of the policies that decided; none where there is none.
    action: Option<&'static str>,
    policy: Option<Value>,
    upstream_path: Option<String>,
    grpc_status: Option<u8>,
    shadow: Value,
}

impl<'a> Verdict<'a> {
    fn of(chain: &'a Chain) -> Self {
        Self { chain: &chain.name, ..Self::default() }
    }

    fn permitted(chain: &'a Chain, permit: &Permit, status: u16) -> Self {
        let policy = permit.policy().map(|policy| json!(policy));
        Self { allowed: true, status, action: policy.as_ref().map(|_| "ALLOW"), policy, ..Self::of(chain) }
    }

    fn denied(self, denial: &Denial) -> Value {
        let action = Some(if denial.policy.is_some() { "DENY" } else { "ALLOW" });
        let policy = denial.policy.as_ref().map(|policy| json!(policy));
        Verdict { detail: &denial.detail(), action, policy, ..self }.into()
    }
}

impl From<Verdict<'_>> for Value {
    fn from(verdict: Verdict<'_>) -> Self {
        json!({"allowed": verdict.allowed, "status": verdict.status, "detail": verdict.detail, "chain": verdict.chain,
               "action": verdict.action, "policy": verdict.policy, "upstream_path": verdict.upstream_path,
               "grpc_status": verdict.grpc_status, "shadow": verdict.shadow})
    }
}

/// A request whose token does not count.
fn refused(refusal: TokenRefusal, chain: &Chain, view: &View<'_>) -> Value {
    let grpc = view.first(Known::ContentType).is_some_and(is_grpc);
    let (status, grpc_status) =
        if grpc { (200, Some(grpc_status(refusal.status()))) } else { (refusal.status(), None) };
    Verdict { status, grpc_status, detail: &refusal.detail(), ..Verdict::of(chain) }.into()
}

fn closed(detail: &str, chain: &str) -> Value {
    Verdict { detail, chain, ..Verdict::default() }.into()
}

fn describe_route(route: &Route<'_>) -> Value {
    match route {
        Route::Cluster { cluster, service, rule, .. } => {
            json!({"kind": "cluster", "cluster": &*cluster.key, "service": &*service.host, "rule": rule})
        }
        Route::Passthrough => json!({"kind": "passthrough"}),
        Route::Blocked => json!({"kind": "blocked"}),
        Route::NoEndpoints { cluster, .. } => json!({"kind": "no_endpoints", "cluster": &*cluster.key}),
        Route::NoCluster { service, rule } => json!({"kind": "no_cluster", "service": &*service.host, "rule": rule}),
        Route::NoRule { service } => json!({"kind": "no_rule", "service": &*service.host}),
    }
}

fn snapshot(transaction: &[u8]) -> PyResult<Snapshot> {
    Snapshot::empty().apply(transaction).map_err(|error| SnapshotError::new_err(error.to_string()))
}

fn asked(request: &[u8]) -> PyResult<Asked> {
    let asked: Asked = serde_json::from_slice(request).map_err(|error| unreadable(&error))?;
    asked.written()
}

fn unreadable(error: &serde_json::Error) -> PyErr {
    NativeError::new_err(format!("request document: {error}; see docs/snapshot.md"))
}

fn bytes_of(what: &str, text: &str) -> PyResult<Vec<u8>> {
    let bytes = text.chars().map(|character| u8::try_from(u32::from(character))).collect::<Result<_, _>>();
    bytes.map_err(|_| NativeError::new_err(format!("{what}: expected one character a byte (Latin-1)")))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn answer<'py>(python: Python<'py>, value: &Value) -> Bound<'py, PyBytes> {
    PyBytes::new(python, value.to_string().as_bytes())
}
