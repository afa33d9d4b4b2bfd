//! Linking: the sections of a snapshot into the tables that decisions read, with every reference checked.
//!
//! In:      decoded sections (`set`), callers (`peers`), and the tables of the snapshot before, from `snapshot`.      Out: `Linked`.
//! Fails:   `SnapshotError`: a section that must exist is missing, or a reference dangles.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::authz::compile::Policies;
use crate::balance::EndpointSet;
use crate::jwt::TokenRules;
use crate::sections::{
    Cluster, Inbound, Mesh, OutboundPolicy, PathNormalization, Service, Telemetry, TlsVersion, Workload,
};
use crate::snapshot::SnapshotError;
use crate::snapshot::decode::Decoded;
use crate::snapshot::peers::PeerTable;
use crate::snapshot::services::ServiceIndex;
use crate::snapshot::set::SectionSet;
use crate::snapshot::transaction::Transaction;
use crate::wordhash::WordMap;

/// The tables of one snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Linked {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    pub(crate) peers: PeerTable,
    pub(crate) policies: Arc<Policies>,
    pub(crate) tokens: Option<Arc<TokenRules>>,
    pub(crate) inbound: WordMap<u16, Arc<Inbound>>,
    pub(crate) passthrough: Option<Arc<Inbound>>,
    pub(crate) services: Arc<ServiceIndex>,
    pub(crate) clusters: HashMap<Arc<str>, (Arc<Cluster>, Arc<EndpointSet>)>,
}

impl Linked {
    /// The tables before there is a configuration: everything is denied.
    pub(crate) fn closed() -> Self {
        Self {
            mesh: Arc::new(closed_mesh()),
            workload: None,
            telemetry: None,
            peers: PeerTable::default(),
            policies: Arc::new(Policies::closed()),
            tokens: None,
            inbound: WordMap::default(),
            passthrough: None,
            services: Arc::new(ServiceIndex::default()),
            clusters: HashMap::new(),
        }
    }

    /// Links sections; tables that would come out the same are taken over from the snapshot before.
    pub(crate) fn link(sections: &SectionSet, before: &Self) -> Result<Self, SnapshotError> {
        let mut linked = Self::closed();
        let mut found = Found::default();
        for section in sections.iter() {
            linked.place(&section.name, &section.decoded, &mut found);
        }
        if let Some(missing) = ALWAYS.iter().find(|name| sections.get(name).is_none()) {
            return Err(SnapshotError::SectionMissing { name: (*missing).into() });
        }
        linked.join_clusters(found.clusters, found.endpoints)?;
        linked.check_routes(&found.services)?;
        linked.services = before.services.unless_changed(found.services);
        Ok(linked)
    }

    /// The tables before with other endpoints and callers, where the transaction changes nothing but those, of clusters that
    /// stay: what happens most often must not cost what the whole mesh does. No reference can come to dangle by it.
    pub(crate) fn with_endpoints(&self, transaction: &Transaction<'_>, sections: &SectionSet) -> Option<Self> {
        let of_few = |name: &String| name.starts_with(PEERS) || name.starts_with(ENDPOINTS);
        if transaction.base.is_empty() || !transaction.put.keys().chain(&transaction.drop).all(of_few) {
            return None;
        }
        let mut linked = self.clone();
        for name in &transaction.drop {
            linked.peers.remove(name.strip_prefix(PEERS)?);
        }
        for name in transaction.put.keys() {
            match &sections.get(name)?.decoded {
                Decoded::Peers(block) => linked.peers.put(block),
                Decoded::Endpoints(endpoints) => {
                    linked.clusters.get_mut(name.strip_prefix(ENDPOINTS)?)?.1 = Arc::clone(endpoints);
                }
                _ => return None,
            }
        }
        Some(linked)
    }

    fn place(&mut self, name: &str, decoded: &Decoded, found: &mut Found) {
        match decoded {
            Decoded::Mesh(mesh) => self.mesh = Arc::clone(mesh),
            Decoded::Workload(workload) => self.workload = Some(Arc::clone(workload)),
            Decoded::Peers(block) => self.peers.put(block),
            Decoded::Authz(policies) => self.policies = Arc::clone(policies),
            Decoded::Authn(rules) => self.tokens = Some(Arc::clone(rules)),
            Decoded::Telemetry(telemetry) => self.telemetry = Some(Arc::clone(telemetry)),
            Decoded::Inbound(inbound) => drop(self.inbound.insert(inbound.port, Arc::clone(inbound))),
            Decoded::InboundPassthrough(inbound) => self.passthrough = Some(Arc::clone(inbound)),
            Decoded::Service(service) => found.services.push(Arc::clone(service)),
            Decoded::Cluster(cluster) => found.clusters.push(Arc::clone(cluster)),
            Decoded::Endpoints(endpoints) => {
                let key = name.strip_prefix(ENDPOINTS).unwrap_or(name);
                found.endpoints.insert(key.to_owned(), Arc::clone(endpoints));
            }
        }
    }

    /// Joins each cluster with its endpoints: neither may be without the other.
    fn join_clusters(
        &mut self,
        clusters: Vec<Arc<Cluster>>,
        mut endpoints: BTreeMap<String, Arc<EndpointSet>>,
    ) -> Result<(), SnapshotError> {
        for cluster in clusters {
            let Some(set) = endpoints.remove(&cluster.key[..]) else {
                return Err(dangling(format!("cluster/{}", cluster.key), format!("endpoints/{}", cluster.key)));
            };
            self.clusters.insert(Arc::clone(&cluster.key), (cluster, set));
        }
        match endpoints.into_keys().next() {
            Some(key) => Err(dangling(format!("endpoints/{key}"), format!("cluster/{key}"))),
            None => Ok(()),
        }
    }

    fn check_routes(&self, services: &[Arc<Service>]) -> Result<(), SnapshotError> {
        for service in services {
            let mut keys = service.rules.iter().flat_map(|rule| &rule.clusters).map(|cluster| &cluster.key);
            if let Some(key) = keys.find(|key| !self.clusters.contains_key(*key)) {
                let from = format!("service/{}/{}/{}", service.namespace, service.host, service.port);
                return Err(dangling(from, format!("cluster/{key}")));
            }
        }
        Ok(())
    }
}

/// Sections that come many, collected while placing.
#[derive(Default)]
struct Found {
    services: Vec<Arc<Service>>,
    clusters: Vec<Arc<Cluster>>,
    endpoints: BTreeMap<String, Arc<EndpointSet>>,
}

fn dangling(from: String, to: String) -> SnapshotError {
    SnapshotError::ReferenceDangling { from, to }
}

fn closed_mesh() -> Mesh {
    Mesh {
        trust_domain: "".into(),
        trust_domain_aliases: Vec::new(),
        validate_trust_domain: true,
        outbound_policy: OutboundPolicy::RegistryOnly,
        path_normalization: PathNormalization::DecodeAndMergeSlashes,
        protocol_detection_timeout_ms: 0,
        min_tls_version: TlsVersion::Tls13,
    }
}

/// What the name of a section of endpoints begins with; the cluster's key follows.
const ENDPOINTS: &str = "endpoints/";
/// And of a block of callers.
const PEERS: &str = "peers/";
const ALWAYS: [&str; 5] = ["authz", "inbound/passthrough", "mesh", "telemetry", "workload"];
