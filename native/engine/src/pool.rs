//! Idle upstream connections of one worker, kept for the next request to the same endpoint with the same security.
//!
//! In: connections whose last exchange ended cleanly.  Out: the most recently used one that is still quiet.
//! Limits: `pool_per_endpoint` idle connections per key; each is closed after `pool_idle_ms` unused.
//! The key is complete: worker (by owning the pool), own identity and credential epoch, endpoint address, and the cluster,
//! whose section holds SNI, expected identities and TLS settings. A cluster is compared by the address of its shared
//! section, which the pooled connection keeps alive, so a swap that changes it can never match an old connection.
//! Our source address belongs to it: from 127.0.0.6 our own address is the application, from elsewhere it is our listener.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshdp_model::sections::Cluster;

use crate::stream::Stream;

/// What two requests must share to share a connection.
#[derive(Debug, Clone)]
pub(crate) struct PoolKey {
    /// The endpoint.
    pub(crate) address: SocketAddr,
    /// Our address on the connection, where we chose it: towards the application.
    pub(crate) source: Option<IpAddr>,
    /// TLS to this cluster under this credential epoch; `None` for plaintext.
    pub(crate) security: Option<(Arc<Cluster>, u64)>,
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Fingerprint(SocketAddr, Option<IpAddr>, usize, u64);

impl PoolKey {
    fn fingerprint(&self) -> Fingerprint {
        match &self.security {
            None => Fingerprint(self.address, self.source, 0, 0),
            Some((cluster, epoch)) => Fingerprint(self.address, self.source, Arc::as_ptr(cluster).addr(), *epoch),
        }
    }
}

struct Idle {
    stream: Stream,
    since_ms: u64,
}

struct Bucket {
    key: PoolKey,
    idle: Vec<Idle>,
}

/// The idle connections of one worker.
pub(crate) struct Pool {
    buckets: HashMap<Fingerprint, Bucket>,
    per_endpoint: usize,
    idle_ms: u64,
}

impl Pool {
    /// An empty pool with its bounds.
    pub(crate) fn new(per_endpoint: usize, idle_ms: u64) -> Self {
        Self { buckets: HashMap::new(), per_endpoint, idle_ms }
    }

    /// Takes the most recently used connection that has nothing unread; surplus bytes or a close retire it.
    pub(crate) fn take(&mut self, key: &PoolKey) -> Option<Stream> {
        let bucket = self.buckets.get_mut(&key.fingerprint())?;
        while let Some(idle) = bucket.idle.pop() {
            if idle.stream.is_idle_clean() {
                return Some(idle.stream);
            }
        }
        None
    }

    /// Keeps a connection whose exchange ended cleanly, unless its peer's certificate has ended meanwhile.
    pub(crate) fn give(&mut self, key: &PoolKey, stream: Stream, (now_ms, wall_s): (u64, u64)) {
        if has_ended(&stream, wall_s) {
            return;
        }
        let bucket =
            self.buckets.entry(key.fingerprint()).or_insert_with(|| Bucket { key: key.clone(), idle: Vec::new() });
        if bucket.idle.len() < self.per_endpoint {
            bucket.idle.push(Idle { stream, since_ms: now_ms });
        }
    }

    /// Closes what has been idle too long, whose peer's certificate has ended, what the upstream has closed, and what sent bytes that nobody asked for.
    pub(crate) fn sweep(&mut self, now_ms: u64, wall_s: u64) {
        let oldest = now_ms.saturating_sub(self.idle_ms);
        self.buckets.retain(|_, bucket| {
            bucket.idle.retain(|idle| {
                idle.since_ms >= oldest && idle.stream.is_idle_clean() && !has_ended(&idle.stream, wall_s)
            });
            !bucket.idle.is_empty()
        });
    }

    /// Closes the connections that `keep` does not name: their cluster or credentials are no longer in force.
    pub(crate) fn retire(&mut self, keep: impl Fn(&PoolKey) -> bool) {
        self.buckets.retain(|_, bucket| keep(&bucket.key));
    }
}

/// A new request deserves a peer that proves itself now; what is open and in use lives on (`docs/certificates.md`).
fn has_ended(stream: &Stream, wall_s: u64) -> bool {
    stream.proof().is_some_and(|(_, until_unix)| until_unix < wall_s)
}
