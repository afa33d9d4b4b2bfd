//! The feed client: keeps a sidecar's configuration and certificate what the feed says (`docs/feed.md`).
//!
//! In:      the path of the workload's socket and the [`FeedTarget`] that applies what comes.
//! Out:     ACK or NACK for each transaction, a certificate request at the start and at half of a certificate's life.
//! Limits:  back-off from [`FIRST_BACKOFF`] to [`LAST_BACKOFF`]; frames as in [`crate::control::feed`].
//! Fails:   never for good: what is in force stays, the client reconnects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::control::admin::Answer;
use crate::control::feed::{Decoder, Frame, encode};

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
    /// The feed reports an error that answers nothing we asked.
    Trouble(&'a str),
}

/// Follows the feed for ever; drop the future to stop.
pub async fn follow(path: PathBuf, target: Arc<dyn FeedTarget>) {
    let mut backoff = Backoff::default();
    loop {
        let lost = match UnixStream::connect(&path).await {
            Ok(stream) => {
                target.note(FeedEvent::Connected);
                let mut session = Session::new(stream, &*target);
                let lost = session.run().await;
                if session.heard {
                    backoff = Backoff::default();
                }
                lost
            }
            Err(error) => format!("cannot connect to the feed at {}: {error}", path.display()),
        };
        target.note(FeedEvent::Lost(&lost));
        sleep(backoff.pause()).await;
    }
}

/// One connection to the feed.
struct Session<'a> {
    stream: UnixStream,
    frames: Decoder,
    target: &'a dyn FeedTarget,
    /// When to ask for a certificate.
    ask: Ask,
    /// Whether a certificate was asked for and not yet answered.
    awaits: bool,
    retry: Backoff,
    /// Whether the feed has said anything: it is alive, not merely listening.
    heard: bool,
}

impl<'a> Session<'a> {
    fn new(stream: UnixStream, target: &'a dyn FeedTarget) -> Self {
        let (frames, retry) = (Decoder::default(), Backoff::default());
        Self { stream, frames, target, ask: Ask::At(Instant::now()), awaits: false, retry, heard: false }
    }

    /// Serves the connection until it is lost; says why.
    async fn run(&mut self) -> String {
        match self.converse().await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, String> {
        self.say_hello().await?;
        loop {
            if self.ask.is_due() {
                self.ask_certificate().await?;
            }
            if let Some(frame) = self.frames.frame().map_err(|error| format!("the feed sent {error}"))? {
                self.heard = true;
                self.take(frame).await?;
                continue;
            }
            let pause = self.ask.pause();
            tokio::select! {
                read = self.stream.read_buf(self.frames.room()) => match read {
                    Ok(0) => return Err("the feed closed the connection".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(format!("reading from the feed: {error}")),
                },
                () = sleep(pause) => {}
            }
        }
    }

    async fn say_hello(&mut self) -> Result<(), String> {
        let Hello { workload, version } = self.target.hello();
        let digest = self.target.digest();
        self.send(b'H', &HelloBody { workload: &workload, schema: SCHEMA, version: &version, digest: &digest }).await
    }

    /// Sends a certificate request made from a fresh key.
    async fn ask_certificate(&mut self) -> Result<(), String> {
        match self.target.csr() {
            Ok(request) => {
                self.awaits = true;
                self.ask = Ask::At(Instant::now() + ANSWER_PATIENCE);
                self.send_bytes(b'C', &request).await
            }
            Err(message) => {
                self.not_certified(&message);
                Ok(())
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame.kind {
            b'T' => self.apply(frame.body).await,
            b'K' => {
                self.install(&frame.body);
                Ok(())
            }
            b'E' => {
                self.hear_error(&frame.body);
                Ok(())
            }
            kind => Err(format!("the feed sent a frame of the unknown kind {:?}", char::from(kind))),
        }
    }

    /// Applies a transaction and answers ACK or NACK.
    async fn apply(&mut self, transaction: Vec<u8>) -> Result<(), String> {
        let claimed = serde_json::from_slice::<Claimed>(&transaction).unwrap_or_default().digest;
        match self.target.apply(transaction).await {
            Ok(digest) => {
                self.target.note(FeedEvent::Applied(&digest));
                self.send(b'A', &AckBody { digest: &digest }).await
            }
            Err(reason) => {
                self.target.note(FeedEvent::Refused(&reason));
                let in_force = self.target.digest();
                self.send(b'N', &NackBody { digest: &claimed, in_force: &in_force, reason: &reason }).await
            }
        }
    }

    fn install(&mut self, body: &[u8]) {
        let installed = serde_json::from_slice::<CertificateBody>(body)
            .map_err(|error| format!("expected a chain and a bundle: {error}"))
            .and_then(|certificate| self.target.install(certificate.chain.as_bytes(), certificate.bundle.as_bytes()));
        match installed {
            Ok(renew_at) => {
                self.awaits = false;
                self.retry = Backoff::default();
                self.ask = Ask::from_wall(renew_at);
                self.target.note(FeedEvent::Certified(renew_at));
            }
            Err(message) => self.not_certified(&message),
        }
    }

    fn hear_error(&mut self, body: &[u8]) {
        let message = serde_json::from_slice::<ErrorBody>(body).map_or_else(
            |_| "the feed could not serve a request and gave no message".to_owned(),
            |error| error.message,
        );
        if self.awaits {
            self.not_certified(&message);
        } else {
            self.target.note(FeedEvent::Trouble(&message));
        }
    }

    /// Asks again later.
    fn not_certified(&mut self, message: &str) {
        self.awaits = false;
        self.ask = Ask::At(Instant::now() + self.retry.pause());
        self.target.note(FeedEvent::NotCertified(message));
    }

    async fn send(&mut self, kind: u8, body: &impl Serialize) -> Result<(), String> {
        let body = serde_json::to_vec(body).map_err(|error| format!("writing a message for the feed: {error}"))?;
        self.send_bytes(kind, &body).await
    }

    async fn send_bytes(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        let bytes = encode(kind, body).map_err(|error| format!("a message for the feed is {error}"))?;
        match timeout(WRITE_DEADLINE, self.stream.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("writing to the feed: {error}")),
            Err(_) => Err("the feed did not take a message in time".to_owned()),
        }
    }
}

/// When to ask for a certificate.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// A retry, by the clock that only runs.
    At(Instant),
    /// A renewal, in seconds since 1970: certificates expire by the wall clock, also while the machine sleeps.
    Wall(u64),
}

impl Ask {
    /// A renewal at this time, yet not at once: a certificate that is born old must not make a busy loop.
    fn from_wall(renew_at: u64) -> Self {
        if renew_at > wall_s() { Self::Wall(renew_at) } else { Self::At(Instant::now() + LAST_BACKOFF) }
    }

    fn is_due(self) -> bool {
        match self {
            Self::At(instant) => instant <= Instant::now(),
            Self::Wall(second) => second <= wall_s(),
        }
    }

    fn pause(self) -> Duration {
        match self {
            Self::At(instant) => instant.saturating_duration_since(Instant::now()),
            Self::Wall(second) => Duration::from_secs(second.saturating_sub(wall_s())).min(WALL_CHECK),
        }
    }
}

fn wall_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Pauses that double.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_BACKOFF }
    }
}

impl Backoff {
    fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LAST_BACKOFF);
        pause
    }
}

#[derive(Serialize)]
struct HelloBody<'a> {
    workload: &'a str,
    schema: u32,
    version: &'a str,
    digest: &'a str,
}

#[derive(Serialize)]
struct AckBody<'a> {
    digest: &'a str,
}

#[derive(Serialize)]
struct NackBody<'a> {
    digest: &'a str,
    in_force: &'a str,
    reason: &'a str,
}

/// The digest that a transaction claims to result in; empty when it cannot be read.
#[derive(Default, Deserialize)]
struct Claimed {
    digest: String,
}

#[derive(Deserialize)]
struct CertificateBody {
    chain: String,
    bundle: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
}

/// The version of the snapshot's schema that we read.
const SCHEMA: u32 = 1;

/// The first pause before a new attempt; doubled for each that follows.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The longest pause.
pub const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// How long an answer to a certificate request is awaited before it is sent again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How long the feed may take to read a message.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// The longest wait for a renewal before the wall clock is read again.
const WALL_CHECK: Duration = Duration::from_secs(60);

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
