//! Routing: a permitted request or connection into a cluster and its endpoints.
//!
//! In:      a `Permit`, the Host header or the service found by address, randomness.      Out: `Route`.
//! Fails:   each way of having nowhere to go is a variant of `Route`.
//! Source:  istio-semantics F.1 and F.2.

use std::sync::Arc;

use crate::authz::Permit;
use crate::balance::{EndpointSet, scale};
use crate::sections::{Cluster, OutboundPolicy, RouteRule, Service};
use crate::snapshot::Snapshot;

/// Where a request or connection goes.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// To one of these endpoints.
    Cluster {
        /// The cluster.
        cluster: &'a Arc<Cluster>,
        /// Its endpoints; at least one is healthy.
        endpoints: &'a Arc<EndpointSet>,
        /// The service it was found by.
        service: &'a Service,
        /// Name of the rule that matched.
        rule: &'a str,
    },
    /// To the original destination as it is: the registry does not know it and need not.
    Passthrough,
    /// Nowhere: the registry does not know it and must.
    Blocked,
    /// Nowhere: the cluster has no healthy endpoint.
    NoEndpoints {
        /// The cluster.
        cluster: &'a Arc<Cluster>,
        /// The service it was found by.
        service: &'a Service,
    },
    /// Nowhere: a rule matched, and it names no cluster.
    NoCluster {
        /// The service it was found by.
        service: &'a Service,
        /// Name of the rule that matched.
        rule: &'a str,
    },
    /// Nowhere: no rule of the service matches.
    NoRule {
        /// The service it was found by.
        service: &'a Service,
    },
}

impl Snapshot {
    /// Routes a request that came to `port` by its authority. With `restrict` the destination has named the service,
    /// and any authority goes there.
    pub fn route_request<'a>(
        &'a self,
        permit: &Permit,
        port: u16,
        authority: &[u8],
        restrict: Option<&'a Service>,
        random: u64,
    ) -> Route<'a> {
        match restrict.or_else(|| self.services().by_authority(port, authority)) {
            Some(service) => self.route_connection(permit, service, random),
            None => self.route_unknown(permit),
        }
    }

    /// Routes a connection to a service that its destination named.
    pub fn route_connection<'a>(&'a self, _permit: &Permit, service: &'a Service, random: u64) -> Route<'a> {
        // Rules have no conditions yet, so the first matches.
        let Some(rule) = service.rules.first() else { return Route::NoRule { service } };
        let Some(key) = choose_cluster(rule, random) else { return Route::NoCluster { service, rule: &rule.name } };
        let Some((cluster, endpoints)) = self.cluster(key) else {
            return Route::NoCluster { service, rule: &rule.name };
        };
        if endpoints.has_usable() {
            Route::Cluster { cluster, endpoints, service, rule: &rule.name }
        } else {
            Route::NoEndpoints { cluster, service }
        }
    }

    /// Routes what the registry does not know.
    pub fn route_unknown(&self, _permit: &Permit) -> Route<'_> {
        match self.mesh().outbound_policy {
            OutboundPolicy::AllowAny => Route::Passthrough,
            OutboundPolicy::RegistryOnly => Route::Blocked,
        }
    }
}

/// Chooses a cluster by weight; entries without weight are skipped, and a single destination takes all whatever its
/// weight.
fn choose_cluster(rule: &RouteRule, random: u64) -> Option<&str> {
    if let [only] = &rule.clusters[..] {
        return Some(&only.key);
    }
    let total: u64 = rule.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let mut point = scale(random >> 32, total);
    for cluster in &rule.clusters {
        let weight = u64::from(cluster.weight);
        if point < weight {
            return Some(&cluster.key);
        }
        point -= weight;
    }
    None
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
