//! The engine's settings: the JSON document that the process hands over once, before anything starts.
//!
//! In: `Engine(settings)` from Python's `settings.py`.  Out: one frozen value shared by every thread.
//! Fails: `EngineError::Settings` naming the field.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use socket2::TcpKeepalive;

use crate::EngineError;

/// What one data plane is started with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `namespace/name` of the workload served.
    pub workload: String,
    /// Worker threads; Istio's `concurrency`.
    pub concurrency: usize,
    /// Where captured outbound connections arrive.
    pub outbound: SocketAddr,
    /// Where captured inbound connections arrive.
    pub inbound: SocketAddr,
    /// Admin, loopback only.
    pub admin: SocketAddr,
    /// Probes and merged metrics.
    pub status: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
    /// Own metrics.
    pub metrics: SocketAddr,
    /// Source address of connections to the application (A.5).
    pub inbound_source: IpAddr,
    /// `stdout`, `off`, or a path.
    pub access_log: String,
    /// Unix socket of the feed, if configuration comes from one.
    pub feed: Option<PathBuf>,
    /// Unix socket that signs certificate requests, if certificates come from one and configuration does not.
    #[serde(default)]
    pub csr_socket: Option<PathBuf>,
    /// Expected own identity, if known before the first configuration.
    pub identity: Option<String>,
    /// Version of the product, for the feed and the admin pages.
    pub version: String,
    /// Whether the hybrid X25519MLKEM768 key exchange is offered and preferred.
    pub post_quantum: bool,
    /// Refuse to start when another sidecar holds this network namespace.
    pub single_instance: bool,
    /// Mark of every socket of ours, where no user of our own tells our traffic from the application's.
    #[serde(default)]
    pub mark: Option<NonZeroU32>,
    /// Bounds of waiting and of size.
    #[serde(default)]
    pub limits: Limits,
}

/// Bounds on waiting and on counts; defaults from attack-cases section 4.1.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A TLS handshake must end within this.
    pub handshake_ms: u64,
    /// A request head must be whole within this after its first byte.
    pub head_ms: u64,
    /// A connection without a request, or a stream without a byte, ends after this.
    pub idle_ms: u64,
    /// A pooled upstream connection is closed after this long unused.
    pub pool_idle_ms: u64,
    /// A TCP connection to an endpoint must stand within this unless the cluster says otherwise.
    pub connect_ms: u64,
    /// Bytes of a refused request's body that are read and dropped to keep the connection.
    pub discard_bytes: u64,
    /// Idle upstream connections kept per endpoint and worker.
    pub pool_per_endpoint: usize,
    /// Idle upstream connections kept per worker, whatever they lead to.
    pub pool_total: usize,
    /// A silent peer that has vanished is noticed within this (TCP keep-alive, whole seconds); 0 never asks.
    pub keepalive_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_ms: 10_000,
            head_ms: 10_000,
            idle_ms: 300_000,
            pool_idle_ms: 60_000,
            connect_ms: 10_000,
            discard_bytes: 256 * 1024,
            pool_per_endpoint: 1_024,
            pool_total: 4_096,
            keepalive_ms: 120_000,
        }
    }
}

impl Limits {
    /// How the kernel asks a silent peer whether it is still there: half of the time it waits, then it asks three times.
    pub(crate) fn keepalive(&self) -> Option<TcpKeepalive> {
        let part = |of: u64| Duration::from_millis(self.keepalive_ms / of).max(LEAST_KEEPALIVE);
        let probing = TcpKeepalive::new().with_time(part(2)).with_interval(part(6)).with_retries(KEEPALIVE_PROBES);
        (self.keepalive_ms > 0).then_some(probing)
    }
}

impl Settings {
    /// Reads and checks the settings document.
    ///
    /// # Errors
    /// `EngineError::Settings` with the field and what was expected.
    pub fn decode(json: &[u8]) -> Result<Self, EngineError> {
        let settings: Self = serde_json::from_slice(json).map_err(|error| EngineError::Settings(error.to_string()))?;
        if settings.concurrency == 0 || settings.concurrency > 64 {
            return Err(EngineError::Settings(format!("concurrency: expected 1 to 64, got {}", settings.concurrency)));
        }
        if !settings.admin.ip().is_loopback() {
            return Err(EngineError::Settings(format!("admin: expected a loopback address, got {}", settings.admin)));
        }
        Ok(settings)
    }

    /// The handshake bound as a duration.
    pub(crate) fn handshake(&self) -> Duration {
        Duration::from_millis(self.limits.handshake_ms)
    }
}

const KEEPALIVE_PROBES: u32 = 3;
/// The kernel counts in seconds.
const LEAST_KEEPALIVE: Duration = Duration::from_secs(1);

#[cfg(test)]
impl Settings {
    /// Those of a data plane that binds nothing.
    pub(crate) fn of_tests() -> Self {
        let settings = serde_json::json!({
            "workload": "default/alice", "concurrency": 1, "outbound": "127.0.0.1:1", "inbound": "127.0.0.1:2",
            "admin": "127.0.0.1:3", "status": "127.0.0.1:4", "readiness": "127.0.0.1:5", "metrics": "127.0.0.1:6",
            "inbound_source": "127.0.0.6", "access_log": "off", "feed": null, "identity": null, "version": "0",
            "post_quantum": false, "single_instance": false,
        });
        Self::decode(settings.to_string().as_bytes()).expect("the settings are whole")
    }
}
