//! The feed client: keeps a sidecar's configuration and certificate what the feed says (`docs/feed.md`).
//!
//! In:      the path of the workload's socket and the [`FeedTarget`] that applies what comes.
//! Out:     ACK or NACK for each transaction and each certificate, a certificate request at the start, when told to, and
//!          before half of a certificate's life is gone ([`crate::control::turnover`]).
//! Limits:  back-off from [`FIRST_BACKOFF`] to [`LAST_BACKOFF`], less up to half of it by chance; frames as in
//!          [`crate::control::feed`].
//! Fails:   never for good: what is in force stays, the client reconnects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::control::admin::Answer;
use crate::control::feed::{Decoder, Frame, encode};
use crate::control::turnover::{Renewal, spread, wall_ms};
use crate::tls::facts::Facts;

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
    /// Takes a chain and a trust bundle (PEM); an empty chain leaves the certificate. Says when to ask for the next.
    fn install(&self, chain: &[u8], bundle: &[u8]) -> Result<Renewal, String>;
    /// The certificate and the roots in use.
    fn certificate(&self) -> Option<Facts>;
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
    /// A certificate or a bundle is in use.
    Certified,
    /// No certificate came; the client will ask again.
    NotCertified(&'a str),
    /// The feed reports an error that answers nothing we asked.
    Trouble(&'a str),
}

/// What the other end of a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Configuration and certificates: all frames.
    Feed,
    /// Certificates alone: `H`, `C`, `K` and `E`.
    Certificates,
}

/// Follows the feed for ever; drop the future to stop.
pub async fn follow(path: PathBuf, scope: Scope, target: Arc<dyn FeedTarget>) {
    let mut backoff = Backoff::default();
    let mut ask = Asking::default();
    loop {
        let lost = match UnixStream::connect(&path).await {
            Ok(stream) => {
                target.note(FeedEvent::Connected);
                let mut session =
                    Session { stream, scope, frames: Decoder::default(), target: &*target, ask, heard: false };
                let lost = session.run().await;
                if session.heard {
                    backoff = Backoff::default();
                }
                ask = session.ask;
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
    scope: Scope,
    frames: Decoder,
    target: &'a dyn FeedTarget,
    ask: Asking,
    /// Whether the feed has said anything: it is alive, not merely listening.
    heard: bool,
}

impl Session<'_> {
    /// Serves the connection until it is lost; says why.
    async fn run(&mut self) -> String {
        match self.converse().await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, String> {
        self.say_hello().await?;
        self.say_certificate("").await?;
        self.ask.forget_the_lost();
        loop {
            if self.ask.at.is_due() {
                self.ask_certificate().await?;
            }
            if let Some(frame) = self.frames.frame().map_err(|error| format!("the feed sent {error}"))? {
                self.heard = true;
                self.take(frame).await?;
                continue;
            }
            let pause = self.ask.at.pause();
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
                self.ask.sent();
                self.send_bytes(b'C', &request).await
            }
            Err(message) => {
                self.not_certified(&message);
                Ok(())
            }
        }
    }

    /// Tells the feed what is in use now, and why what it sent is not.
    async fn say_certificate(&mut self, reason: &str) -> Result<(), String> {
        match self.target.certificate() {
            _ if self.scope == Scope::Certificates => Ok(()),
            None if reason.is_empty() => Ok(()),
            facts => self.send(b'I', &InForceBody { certificate: facts.unwrap_or_default(), reason }).await,
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame.kind {
            b'T' if self.scope == Scope::Feed => self.apply(frame.body).await,
            b'R' if self.scope == Scope::Feed => {
                self.ask.now();
                Ok(())
            }
            b'K' => self.install(&frame.body).await,
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

    /// Installs a certificate or a bundle and says what is in use now.
    async fn install(&mut self, body: &[u8]) -> Result<(), String> {
        let read = serde_json::from_slice::<CertificateBody>(body);
        // A bundle answers no request: one that is under way goes on.
        let bundle_alone = read.as_ref().is_ok_and(|body| body.chain.is_empty());
        let installed = read
            .map_err(|error| format!("expected a chain and a bundle: {error}"))
            .and_then(|body| self.target.install(body.chain.as_bytes(), body.bundle.as_bytes()));
        match installed {
            Ok(renewal) => {
                if !bundle_alone {
                    self.ask.answered(renewal);
                }
                self.target.note(FeedEvent::Certified);
                self.say_certificate("").await
            }
            Err(message) => {
                if bundle_alone {
                    self.target.note(FeedEvent::NotCertified(&message));
                } else {
                    self.not_certified(&message);
                }
                self.say_certificate(&message).await
            }
        }
    }

    fn hear_error(&mut self, body: &[u8]) {
        let message = serde_json::from_slice::<ErrorBody>(body).map_or_else(
            |_| "the feed could not serve a request and gave no message".to_owned(),
            |error| error.message,
        );
        if self.ask.awaits {
            self.not_certified(&message);
        } else {
            self.target.note(FeedEvent::Trouble(&message));
        }
    }

    /// Asks again later.
    fn not_certified(&mut self, message: &str) {
        self.ask.refused();
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

/// The certificate that is to be asked for; it outlives a connection.
#[derive(Debug, Default)]
struct Asking {
    at: Ask,
    /// Whether one was asked for and not yet answered.
    awaits: bool,
    retry: Backoff,
}

impl Asking {
    fn now(&mut self) {
        if !self.awaits {
            self.at = Ask::default();
        }
    }

    fn sent(&mut self) {
        self.awaits = true;
        self.at = Ask::At(Instant::now() + ANSWER_PATIENCE);
    }

    fn answered(&mut self, renewal: Renewal) {
        // A certificate that is born old must not make a busy loop.
        let old = renewal.is_due(Instant::now(), wall_ms());
        let at = if old { Ask::At(Instant::now() + LAST_BACKOFF) } else { Ask::Renewal(renewal) };
        *self = Self { at, ..Self::default() };
    }

    fn refused(&mut self) {
        self.awaits = false;
        self.at = Ask::At(Instant::now() + self.retry.pause());
    }

    /// A question that went down with its connection is asked again on the next.
    fn forget_the_lost(&mut self) {
        if std::mem::take(&mut self.awaits) {
            self.at = Ask::default();
        }
    }
}

/// When to ask for a certificate.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// The first, or a retry.
    At(Instant),
    /// The next one.
    Renewal(Renewal),
}

impl Default for Ask {
    /// At once.
    fn default() -> Self {
        Self::At(Instant::now())
    }
}

impl Ask {
    fn is_due(self) -> bool {
        match self {
            Self::At(instant) => instant <= Instant::now(),
            Self::Renewal(renewal) => renewal.is_due(Instant::now(), wall_ms()),
        }
    }

    fn pause(self) -> Duration {
        match self {
            Self::At(instant) => instant.saturating_duration_since(Instant::now()),
            Self::Renewal(renewal) => renewal.pause(Instant::now(), wall_ms()),
        }
    }
}

/// Pauses that double, each cut by chance so that many sidecars do not come back together.
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
        let full = self.next;
        self.next = (full * 2).min(LAST_BACKOFF);
        let permille = 1_000 - (spread() % 500) as u32;
        full * permille / 1_000
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

#[derive(Serialize)]
struct InForceBody<'a> {
    #[serde(flatten)]
    certificate: Facts,
    reason: &'a str,
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

/// The newest version of the snapshot's schema that we read.
const SCHEMA: u32 = 2;

/// The first pause before a new attempt; doubled for each that follows.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The longest pause.
pub const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// How long an answer to a certificate request is awaited before it is sent again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How long the feed may take to read a message.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
