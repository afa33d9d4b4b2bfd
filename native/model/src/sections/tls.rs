//! TLS that the client side begins for an application, as docs/snapshot.md lists it under `cluster`.
//!
//! In:      section bytes, by `snapshot`.      Out: `Origination`, read by the engine when it connects.
//! Files are named here and never carried: secrets do not travel in a snapshot.

use std::sync::Arc;

use serde::Deserialize;

/// What a `DestinationRule` of mode SIMPLE or MUTUAL asks for towards every endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origination {
    /// Why nothing may be sent to the cluster: what is asked for cannot be honoured. Empty when it can.
    pub refused: Arc<str>,
    /// The server name; what the certificate must be for where `names` is empty.
    pub sni: Arc<str>,
    /// Names of which the certificate must have one: DNS, IP or URI.
    pub names: Arc<[Arc<str>]>,
    /// File of the authorities; empty takes those of the operating system.
    pub authorities: Arc<str>,
    /// File of our certificate; empty where we prove nothing.
    pub certificate: Arc<str>,
    /// File of its key.
    pub key: Arc<str>,
    /// Whether the server's certificate is looked at.
    pub verify: bool,
}
