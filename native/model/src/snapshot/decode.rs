//! One section: its name and text into the decoded form that snapshots share.
//!
//! In:      a name and JSON, from `snapshot`.      Out: `Decoded`, read by `link`.
//! Fails:   `SnapshotError`: an unknown name, another shape, a name that contradicts the content, a pattern that does
//!          not compile.

use std::sync::Arc;

use serde::Deserialize;

use crate::authz::compile::Policies;
use crate::balance::EndpointSet;
use crate::identity::Identity;
use crate::jwt::TokenRules;
use crate::sections::{Authn, Authz, Cluster, Endpoints, Inbound, Mesh, Peers, Service, Telemetry, Workload};
use crate::snapshot::SnapshotError;
use crate::snapshot::peers::PeerBlock;

/// A decoded section, by kind.
#[derive(Clone, Debug)]
pub(crate) enum Decoded {
    Mesh(Arc<Mesh>),
    Workload(Arc<Workload>),
    Peers(Arc<PeerBlock>),
    Authz(Arc<Policies>),
    Authn(Arc<TokenRules>),
    Telemetry(Arc<Telemetry>),
    Inbound(Arc<Inbound>),
    InboundPassthrough(Arc<Inbound>),
    Service(Arc<Service>),
    Cluster(Arc<Cluster>),
    Endpoints(Arc<EndpointSet>),
}

/// Decodes a section by its name.
pub(crate) fn decode_section(name: &str, text: &str) -> Result<Decoded, SnapshotError> {
    match name.split_once('/') {
        None => decode_single(name, text),
        Some(("inbound", "passthrough")) => {
            let inbound: Inbound = parse(name, text)?;
            named(name, "inbound/passthrough", inbound.port == 0)?;
            Ok(Decoded::InboundPassthrough(Arc::new(inbound)))
        }
        Some(("inbound", _)) => {
            let inbound: Inbound = parse(name, text)?;
            named(name, &format!("inbound/{}", inbound.port), inbound.port != 0)?;
            Ok(Decoded::Inbound(Arc::new(inbound)))
        }
        Some(("peers", block)) => {
            let found = PeerBlock::named(block, parse::<Peers>(name, text)?.peers);
            Ok(Decoded::Peers(Arc::new(found.map_err(|reason| malformed(name, reason))?)))
        }
        Some(("service", _)) => {
            let service: Service = parse(name, text)?;
            named(name, &format!("service/{}/{}/{}", service.namespace, service.host, service.port), true)?;
            Ok(Decoded::Service(Arc::new(service)))
        }
        Some(("cluster", _)) => {
            let cluster: Cluster = parse(name, text)?;
            named(name, &format!("cluster/{}", cluster.key), true)?;
            Ok(Decoded::Cluster(Arc::new(cluster)))
        }
        Some(("endpoints", key)) if !key.is_empty() => {
            let endpoints: Endpoints = parse(name, text)?;
            Ok(Decoded::Endpoints(Arc::new(EndpointSet::new(endpoints.endpoints))))
        }
        Some(_) => Err(SnapshotError::SectionUnknown { name: name.into() }),
    }
}

fn decode_single(name: &str, text: &str) -> Result<Decoded, SnapshotError> {
    Ok(match name {
        "mesh" => Decoded::Mesh(Arc::new(parse::<Mesh>(name, text)?)),
        "workload" => {
            let workload: Workload = parse(name, text)?;
            Identity::parse(&workload.identity).map_err(|error| malformed(name, error.to_string()))?;
            Decoded::Workload(Arc::new(workload))
        }
        "peers" => Decoded::Peers(Arc::new(PeerBlock::whole(parse::<Peers>(name, text)?.peers))),
        "authz" => {
            let section: Authz = parse(name, text)?;
            Decoded::Authz(Arc::new(Policies::compile(section).map_err(|reason| malformed(name, reason))?))
        }
        "authn" => {
            let section: Authn = parse(name, text)?;
            Decoded::Authn(Arc::new(TokenRules::compile(section).map_err(|reason| malformed(name, reason))?))
        }
        "telemetry" => Decoded::Telemetry(Arc::new(parse::<Telemetry>(name, text)?)),
        _ => return Err(SnapshotError::SectionUnknown { name: name.into() }),
    })
}

fn parse<'a, T: Deserialize<'a>>(name: &str, text: &'a str) -> Result<T, SnapshotError> {
    serde_json::from_str(text).map_err(|error| malformed(name, error.to_string()))
}

/// A section states in its fields what its name says; two truths would be one too many.
fn named(name: &str, expected: &str, valid: bool) -> Result<(), SnapshotError> {
    if name == expected && valid {
        return Ok(());
    }
    Err(malformed(name, format!("its content belongs under the name {expected:?}")))
}

fn malformed(name: &str, reason: String) -> SnapshotError {
    SnapshotError::SectionMalformed { name: name.into(), reason }
}
