//! One connection to a target, or to another endpoint of its cluster where that cannot be connected to.
//!
//! In: a target.  Out: a fresh connection, and the target that it leads to; what was learnt of endpoints on the way.
//! Limits: `retry::TRIES` connects, each with its own time-outs; pauses of `retry::LONGEST_PAUSE_MS` at most.
//! Fails: the reason of the last try. Nothing of a request was sent in any of them, so that every method may be tried again.
//! Each try asks the snapshot in force for endpoints; a cluster that has changed meanwhile is not tried again (RT-08).
//! Source: istio-semantics F.4 (retries on connect failures by default, for clusters only); attack-cases RT-01, LC-14.

use std::time::Duration;

use meshdp_model::retry::{self, Failure, Next};

use crate::observe::outcome::Reason;
use crate::stream::Stream;
use crate::upstream::Target;
use crate::worker::Worker;

/// Connects, and leaves in `target` where to.
///
/// # Errors
/// The reason of the last try.
pub(crate) async fn connect(target: &mut Target, worker: &Worker) -> Result<Stream, Reason> {
    let mut attempts = Attempts::default();
    loop {
        match target.connect(worker).await {
            Ok(stream) => {
                worker.health.succeeded(target.address);
                return Ok(stream);
            }
            Err(reason) => attempts.again(target, reason, worker).await?,
        }
    }
}

/// The tries made for one request or one connection.
#[derive(Default)]
pub(crate) struct Attempts {
    made: u32,
}

impl Attempts {
    /// Turns `target` into the next one to try, when its time has come.
    ///
    /// # Errors
    /// The reason why the last try failed, when there is to be no other.
    pub(crate) async fn again(&mut self, target: &mut Target, reason: Reason, worker: &Worker) -> Result<(), Reason> {
        self.made += 1;
        // The application has no other endpoint, and nothing is known of what is outside the registry.
        let Some((failure, _)) = failure_of(reason).zip(target.member.as_ref()) else { return Err(reason) };
        worker.health.failed(target.address, worker.coarse_ms());
        let Some(other) = target.again(worker) else { return Err(reason) };
        match retry::next(self.made, failure, other.address != target.address, worker.random()) {
            Next::GiveUp => return Err(reason),
            Next::After(0) => {}
            Next::After(pause_ms) => tokio::time::sleep(Duration::from_millis(pause_ms)).await,
        }
        *target = other;
        Ok(())
    }
}

/// What a reason says of the endpoint; `None` where the failure is our own.
fn failure_of(reason: Reason) -> Option<Failure> {
    match reason {
        Reason::UpstreamConnectFailed | Reason::UpstreamTlsFailed => Some(Failure::Refused),
        Reason::UpstreamConnectTimeout
        | Reason::UpstreamTlsTimeout
        | Reason::UpstreamTlsUntrusted
        | Reason::UpstreamTlsIdentity => Some(Failure::Lasting),
        _ => None,
    }
}
