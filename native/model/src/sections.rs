//! The sections of a snapshot as docs/snapshot.md lists them: JSON into structs whose shape is checked.
//!
//! In:      section bytes, by `snapshot`.      Out: immutable structs, read by every decision and by the engine.
//! Limits:  the size of a transaction.
//! Fails:   `serde_json` errors, for an unknown field, a missing field or a wrong type.
//! Field meanings are given once, in docs/snapshot.md; here stands what a reader of code needs.

mod authn;
mod policy;
mod tls;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use crate::identity::Peer;

pub use authn::{Authn, ClaimHeader, TokenHeader, TokenRule};
pub use policy::{Action, Authz, Field, Policy, Predicate, Rule, Value, ValueKind};
pub use tls::Origination;

/// `mesh`: what holds for the whole mesh.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Trust domain of this mesh.
    pub trust_domain: Arc<str>,
    /// Other names of the trust domain.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Whether a peer must belong to the trust domain or an alias.
    pub validate_trust_domain: bool,
    /// What happens to unknown destinations.
    pub outbound_policy: OutboundPolicy,
    /// How request paths are normalised before policy and forwarding.
    pub path_normalization: PathNormalization,
    /// How long sniffing waits for a first byte; 0 waits for ever.
    pub protocol_detection_timeout_ms: u64,
    /// Lowest TLS version between workloads.
    pub min_tls_version: TlsVersion,
}

impl Mesh {
    /// Whether the mesh accepts peers of this peer's trust domain.
    pub fn trusts(&self, peer: &Peer) -> bool {
        let domain = peer.trust_domain();
        !self.validate_trust_domain
            || domain == &*self.trust_domain
            || self.trust_domain_aliases.iter().any(|alias| domain == &**alias)
    }
}

/// What happens to destinations outside the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundPolicy {
    /// They are passed through.
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// How a request path is normalised (istio-semantics D.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// Only the fragment is cut.
    None,
    /// Dot segments, unreserved escapes and backslashes.
    Base,
    /// `Base`, and repeated slashes become one.
    MergeSlashes,
    /// `%2f` and `%5c` are decoded, then as `MergeSlashes`.
    DecodeAndMergeSlashes,
}

/// A TLS version that can be the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// `workload`: whom this snapshot is for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name of the instance.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its identity, `spiffe://…`.
    pub identity: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Telemetry name.
    pub canonical_name: Arc<str>,
    /// Telemetry revision.
    pub canonical_revision: Arc<str>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The cluster it lives in.
    pub cluster_id: Arc<str>,
}

/// `peers/<block>`: who may call, by address; in schema 1 `peers`, all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peers {
    pub(crate) peers: Vec<PeerEntry>,
}

/// A workload that may call us.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEntry {
    /// Where it calls from.
    pub address: IpAddr,
    /// Its identity; empty outside the mesh.
    pub identity: Arc<str>,
    /// Its name.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Telemetry name.
    pub canonical_name: Arc<str>,
    /// Telemetry revision.
    pub canonical_revision: Arc<str>,
}

/// `telemetry`: what is observed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Form of the access log.
    pub access_log: AccessLog,
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// None.
    Off,
    /// Envoy's text line.
    Text,
    /// One JSON object a line.
    Json,
}

/// `inbound/<port>` and `inbound/passthrough`: how connections to a port of our workload are treated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// The workload port; 0 for passthrough.
    pub port: u16,
    /// Host of the service that declares the port, or empty.
    pub service: Arc<str>,
    /// Name of that service, or empty.
    pub service_name: Arc<str>,
    /// Namespace of that service, or empty.
    pub service_namespace: Arc<str>,
    /// Effective mutual TLS mode.
    pub mode: MtlsMode,
    /// Declared protocol.
    pub protocol: PortProtocol,
    /// Whether a `ClientHello` is looked for.
    pub inspect_tls: bool,
    /// Whether HTTP is looked for in plain bytes.
    pub inspect_http: bool,
    /// Filter chains; the first that matches wins.
    pub chains: Vec<Chain>,
}

/// Effective mode of `PeerAuthentication`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// Mutual TLS only.
    Strict,
    /// Mutual TLS and plaintext.
    Permissive,
    /// No mutual TLS.
    Disable,
}

/// Declared protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// HTTP; the applications speak HTTP/1.1.
    Http,
    /// HTTP; the applications speak HTTP/2 (http2, grpc, grpc-web).
    Http2,
    /// Opaque bytes.
    Tcp,
    /// To be sniffed.
    Auto,
}

impl PortProtocol {
    /// Whether HTTP is declared, of either version.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2)
    }

    /// What a cluster of schema 1 means, which says nothing: whatever the client speaks.
    fn unsaid() -> Self {
        Self::Auto
    }
}

/// A filter chain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Name for people.
    pub name: Arc<str>,
    /// What the connection must look like.
    pub transport: ChainTransport,
    /// One of these must have been detected; empty matches any.
    pub application: Vec<Box<str>>,
    /// Mutual TLS ends here.
    pub terminate: bool,
    /// What is spoken inside.
    pub protocol: ChainProtocol,
}

/// Transport that a filter chain wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainTransport {
    /// A `ClientHello` was seen.
    Tls,
    /// No `ClientHello` was seen.
    Raw,
    /// Either.
    Any,
}

/// Protocol that a filter chain speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainProtocol {
    /// HTTP.
    Http,
    /// Opaque bytes.
    Tcp,
}

/// `service/<namespace>/<host>/<port>`: one port of a service as this client sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Full host name.
    pub host: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its short name.
    pub name: Arc<str>,
    /// The service port.
    pub port: u16,
    /// Declared protocol.
    pub protocol: PortProtocol,
    /// Virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Names in a Host header, lower case, without port.
    pub domains: Vec<Box<str>>,
    /// Ordered; the first that matches wins.
    pub rules: Vec<RouteRule>,
}

/// One rule of a route.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// Name for people.
    pub name: Arc<str>,
    /// Conditions; none yet.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// Where to, by weight.
    pub clusters: Vec<WeightedCluster>,
}

/// Conditions of a route rule. There are none yet: every request matches.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteMatch {}

/// A cluster and its share of the requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedCluster {
    /// Key of the cluster.
    pub key: Arc<str>,
    /// Share; 0 gets nothing.
    pub weight: u32,
}

/// `cluster/<key>`: a group of equal upstreams.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `outbound|<port>|<subset>|<host>`.
    pub key: Arc<str>,
    /// Host of the service.
    pub host: Arc<str>,
    /// Namespace of the service.
    pub namespace: Arc<str>,
    /// Short name of the service.
    pub name: Arc<str>,
    /// The service port.
    pub port: u16,
    /// What the applications there speak. Absent in schema 1.
    #[serde(default = "PortProtocol::unsaid")]
    pub protocol: PortProtocol,
    /// Whether sidecars speak HTTP/2 to each other whatever the applications speak. Absent in schema 1.
    #[serde(default)]
    pub h2_upgrade: bool,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Server name sent in mutual TLS.
    pub sni: Arc<str>,
    /// Expected identities, sorted; empty means chain validation only.
    pub identities: Arc<[Arc<str>]>,
    /// How long a connect may take.
    pub connect_timeout_ms: u64,
    /// TLS towards every endpoint in place of the mesh's own. Absent in schema 1.
    #[serde(default)]
    pub origination: Option<Origination>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Balance {
    /// The less busy of two.
    LeastRequest,
}

/// `endpoints/<key>`: the addresses of a cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoints {
    pub(crate) endpoints: Vec<Endpoint>,
}

/// One address of a cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// The workload port.
    pub port: u16,
    /// Whether it is dialled with mutual TLS.
    pub mtls: bool,
    /// What its `tlsMode` label says.
    pub tls_mode: TlsMode,
    /// Its identity; empty outside the mesh.
    pub identity: Arc<str>,
    /// Its name.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Telemetry name.
    pub canonical_name: Arc<str>,
    /// Telemetry revision.
    pub canonical_revision: Arc<str>,
    /// `region/zone/subzone`.
    pub locality: Arc<str>,
    /// The network it lives in.
    pub network: Arc<str>,
    /// Share of requests; 0 gets nothing.
    pub weight: u32,
    /// Whether it may be chosen.
    pub health: Health,
    /// What it can do beyond Istio.
    pub capabilities: Vec<Arc<str>>,
}

impl Endpoint {
    /// Whether its sidecar is one of ours: requests of many connections may share one to it.
    pub fn is_meshdp(&self) -> bool {
        self.capabilities.iter().any(|capability| **capability == *MESHDP)
    }
}

/// What an endpoint's `security.istio.io/tlsMode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// It has a sidecar.
    Istio,
    /// It has none.
    Disabled,
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// It may.
    Healthy,
    /// It may not.
    Unhealthy,
}

/// The capability of an endpoint whose sidecar is ours.
const MESHDP: &str = "meshdp";
