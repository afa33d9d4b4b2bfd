//! Idle upstream connections of one worker, kept for the next request to the same endpoint with the same security.
//!
//! In: connections whose last exchange ended cleanly.  Out: the most recently used one that is still quiet.
//! Limits: `pool_per_endpoint` idle connections per key, `pool_total` in all (the longest unused one goes first); each is
//! closed after `pool_idle_ms` unused.
//! The key is complete: worker (by owning the pool), own identity and credential epoch, endpoint address, and the cluster,
//! whose section holds SNI, expected identities and TLS settings. A cluster is compared by the address of its shared
//! section, which the pooled connection keeps alive, so a swap that changes it can never match an old connection.
//! Our source address belongs to it: from 127.0.0.6 our own address is the application, from elsewhere it is our listener.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshdp_model::sections::Cluster;
use meshdp_model::wordhash::WordMap;

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

/// A key as a map compares it.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
pub(crate) struct Fingerprint(SocketAddr, Option<IpAddr>, usize, u64);

impl PoolKey {
    /// The key as a map compares it; it holds while the key itself is kept beside it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
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
    buckets: WordMap<Fingerprint, Bucket>,
    /// Idle connections in all buckets.
    count: usize,
    per_endpoint: usize,
    total: usize,
    idle_ms: u64,
}

impl Pool {
    /// An empty pool with its bounds.
    pub(crate) fn new(per_endpoint: usize, total: usize, idle_ms: u64) -> Self {
        Self { buckets: WordMap::default(), count: 0, per_endpoint, total, idle_ms }
    }

    /// Takes the most recently used connection that has nothing unread; surplus bytes or a close retire it.
    pub(crate) fn take(&mut self, key: &PoolKey) -> Option<Stream> {
        let bucket = self.buckets.get_mut(&key.fingerprint())?;
        while let Some(idle) = bucket.idle.pop() {
            self.count -= 1;
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
        if self.count >= self.total {
            self.close_oldest();
        }
        let bucket =
            self.buckets.entry(key.fingerprint()).or_insert_with(|| Bucket { key: key.clone(), idle: Vec::new() });
        if bucket.idle.len() < self.per_endpoint {
            bucket.idle.push(Idle { stream, since_ms: now_ms });
            self.count += 1;
        }
    }

    /// Makes room for one. A bucket is used from its end, so its first connection is the one unused for longest.
    fn close_oldest(&mut self) {
        let since = |bucket: &Bucket| bucket.idle.first().map_or(u64::MAX, |idle| idle.since_ms);
        let oldest = self.buckets.values_mut().min_by_key(|bucket| since(bucket));
        if let Some(bucket) = oldest.filter(|bucket| !bucket.idle.is_empty()) {
            bucket.idle.remove(0);
            self.count -= 1;
        }
    }

    /// Closes what has been idle too long, whose peer's certificate has ended, what the upstream has closed, and what sent
    /// bytes that nobody asked for.
    pub(crate) fn sweep(&mut self, now_ms: u64, wall_s: u64) {
        let oldest = now_ms.saturating_sub(self.idle_ms);
        self.buckets.retain(|_, bucket| {
            bucket.idle.retain(|idle| {
                idle.since_ms >= oldest && idle.stream.is_idle_clean() && !has_ended(&idle.stream, wall_s)
            });
            !bucket.idle.is_empty()
        });
        self.recount();
    }

    /// Closes the connections that `keep` does not name: their cluster or credentials are no longer in force.
    pub(crate) fn retire(&mut self, keep: impl Fn(&PoolKey) -> bool) {
        self.buckets.retain(|_, bucket| keep(&bucket.key));
        self.recount();
    }

    fn recount(&mut self) {
        self.count = self.buckets.values().map(|bucket| bucket.idle.len()).sum();
    }
}

/// A new request deserves a peer that proves itself now; what is open and in use lives on (`docs/certificates.md`).
fn has_ended(stream: &Stream, wall_s: u64) -> bool {
    stream.proof().is_some_and(|(_, until_unix)| until_unix < wall_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> PoolKey {
        PoolKey { address: SocketAddr::new(IpAddr::from([10, 0, 0, last]), 80), source: None, security: None }
    }

    /// A connection to ourselves and its far end, which must live for the connection to be kept.
    async fn idle(listener: &tokio::net::TcpListener) -> (Stream, tokio::net::TcpStream) {
        let address = listener.local_addr().expect("it listens");
        let near = tokio::net::TcpStream::connect(address).await.expect("it listens");
        (Stream::Plain(near), listener.accept().await.expect("it connected").0)
    }

    #[test]
    fn one_sweep_sees_the_end_of_more_connections_than_a_task_may_ask_for_in_a_row() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let mut pool = Pool::new(1_024, 1_024, 60_000);
            for _ in 0..300 {
                let (near, far) = idle(&listener).await;
                pool.give(&key(1), near, (0, 0));
                drop(far);
            }
            tokio::task::yield_now().await; // the ends are known to the runtime
            pool.sweep(0, 0);
            assert_eq!(pool.count, 0);
        });
    }

    #[test]
    fn a_connection_whose_last_read_was_filled_exactly_is_kept_and_one_with_more_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let mut pool = Pool::new(8, 8, 60_000);
            for (sent, kept) in [(8, true), (9, false)] {
                let (mut near, far) = idle(&listener).await;
                far.writable().await.expect("it is open");
                assert_eq!(far.try_write(&[0; 9][..sent]).expect("it has room"), sent);
                assert_eq!(near.read(&mut Vec::new(), 8).await.expect("it is open"), 8);
                pool.give(&key(1), near, (0, 0));
                assert_eq!(pool.take(&key(1)).is_some(), kept, "{sent} bytes came");
            }
        });
    }

    #[test]
    fn above_the_total_the_longest_unused_connection_goes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let mut pool = Pool::new(8, 3, 60_000);
            let mut far = Vec::new();
            for (endpoint, since_ms) in [(2, 20), (1, 10), (2, 30), (3, 40), (3, 50)] {
                let (near, end) = idle(&listener).await;
                far.push(end);
                pool.give(&key(endpoint), near, (since_ms, 0));
                assert!(pool.count <= 3);
            }
            assert!(pool.take(&key(1)).is_none(), "unused since 10");
            assert!(pool.take(&key(2)).is_some() && pool.take(&key(2)).is_none(), "unused since 20");
            assert!(pool.take(&key(3)).is_some() && pool.take(&key(3)).is_some());
            assert_eq!(pool.count, 0);
        });
    }
}
