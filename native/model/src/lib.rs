//! The model: what a configuration says (a snapshot of sections) and every decision made from it, as pure functions.
//!
//! In:      transactions (docs/snapshot.md) and plain facts about a connection or a request. No socket, clock, thread
//!          or Python here.
//! Out:     filter chains, permits and denials, routes, endpoints; read by the engine, the command line and the pytest
//!          plugin.
//! Limits:  see `snapshot` (bytes of a transaction) and `authz::patterns` (size of a compiled pattern).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics is a test that fails"))]

pub mod authz;
pub mod balance;
mod bytemap;
pub mod facts;
#[cfg(test)]
mod fixtures;
pub mod identity;
pub mod jwt;
pub mod listener;
pub mod retry;
pub mod route;
pub mod sections;
pub mod snapshot;
pub mod version;
pub mod wordhash;

pub use authz::explain::{Explanation, PolicyExplanation, PredicateExplanation, RuleExplanation};
pub use authz::{ConnectionContext, Denial, Permit, PolicyRef};
pub use balance::{EndpointSet, pick};
pub use facts::{ConnectionFacts, Detected, Direction, HeaderValues, RequestFacts};
pub use identity::{Identity, IdentityError, Peer};
pub use listener::Outbound;
pub use route::Route;
pub use sections::{
    AccessLog, Action, Balance, Chain, ChainProtocol, ChainTransport, Cluster, Endpoint, Health, Inbound, Mesh,
    MtlsMode, OutboundPolicy, PathNormalization, PeerEntry, PortProtocol, Service, Telemetry, TlsMode, TlsVersion,
    Workload,
};
pub use snapshot::{Snapshot, SnapshotError};
pub use version::{Use, Version};

/// The ordered treatment of a connection: an alias for what the section calls a chain.
pub use sections::Chain as FilterChain;
