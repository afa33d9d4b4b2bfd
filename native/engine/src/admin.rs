//! The small HTTP servers beside the traffic: admin (15000), probes and merged metrics (15020), readiness (15021), metrics (15090).
//!
//! In:      a bound listener, which [`Face`] it shows, and the [`AdminState`] that answers.
//! Out:     one response a connection, JSON or text (`docs/admin.md`); never a secret.
//! Limits:  [`MAX_CONNECTIONS`] a listener, [`MAX_HEAD_BYTES`] of a head, [`DEADLINE`] for a whole exchange; bodies are not read.
//! Fails:   every refusal is a status with a JSON error; nothing here can end the control thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

/// An answer that takes a while.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the servers ask of the engine.
pub trait AdminState: Send + Sync + 'static {
    /// Whether traffic may come; otherwise the reason, for people.
    fn ready(&self) -> Result<(), String>;
    /// The configuration in force (JSON).
    fn config(&self) -> String;
    /// The live connections of all workers (JSON).
    fn connections(&self) -> Answer<String>;
    /// The certificates in use, without keys (JSON).
    fn certs(&self) -> String;
    /// The metrics (Prometheus text).
    fn prometheus(&self) -> String;
    /// The metrics (JSON).
    fn stats(&self) -> String;
    /// Changes the access log: `off`, `text` or `json`.
    fn set_access_log(&self, mode: &str) -> Result<(), String>;
    /// Starts to drain.
    fn drain(&self);
    /// Ends the process at once.
    fn quit(&self);
}

/// Which paths a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// 15000, loopback only: everything.
    Admin,
    /// 15020: readiness, merged metrics, quit and drain from loopback.
    Status,
    /// 15021: readiness.
    Readiness,
    /// 15090: metrics.
    Metrics,
}

/// Serves `listener` until it is dropped. Call it inside the control thread's runtime (`tokio::spawn` works).
pub async fn serve(listener: TcpListener, face: Face, state: Arc<dyn AdminState>) {
    let _ = (listener, face, state);
    std::future::pending().await
}

/// Connections a listener serves at once; more are closed.
pub const MAX_CONNECTIONS: usize = 64;

/// The largest request head.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How long one exchange may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
