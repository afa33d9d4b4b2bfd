//! The small HTTP servers beside the traffic: admin (15000), probes and merged metrics (15020), readiness (15021), metrics (15090).
//!
//! In:      a bound listener, which [`Face`] it shows, and the [`AdminState`] that answers.
//! Out:     one response a connection, JSON or text (`docs/admin.md`); never a secret.
//! Limits:  [`MAX_CONNECTIONS`] a listener, [`MAX_HEAD_BYTES`] of a head, [`DEADLINE`] for a whole exchange; bodies are not read.
//! Fails:   every refusal is a status with a JSON error; nothing here can end the control thread.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::control::admin_routes;

/// An answer that takes a while.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the servers ask of the engine.
pub trait AdminState: Send + Sync + 'static {
    /// Whether traffic may come; otherwise the reason, for people.
    fn ready(&self) -> Result<(), String>;
    /// The configuration in force (JSON): of its sections those whose names begin with one of these, separated by commas.
    fn config(&self, prefixes: Option<&str>) -> String;
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
    /// 15000, loopback only: all of `docs/admin.md`.
    Admin,
    /// 15020: readiness, merged metrics, quit and drain from loopback.
    Status,
    /// 15021: readiness.
    Readiness,
    /// 15090: metrics.
    Metrics,
}

/// Serves `listener` for ever; drop the future to stop, which also ends what it is answering.
pub async fn serve(listener: Arc<TcpListener>, face: Face, state: Arc<dyn AdminState>) {
    let mut running = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = running.join_next(), if !running.is_empty() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        oldest_first.retain(|handle| !handle.is_finished());
        if oldest_first.len() >= MAX_CONNECTIONS {
            // The oldest is the one that is slow, so probes get through while somebody holds all the others.
            oldest_first.pop_front().inspect(AbortHandle::abort);
        }
        let exchange = exchange(stream, peer.ip(), face, Arc::clone(&state));
        oldest_first.push_back(running.spawn(async { drop(timeout(DEADLINE, exchange).await) }));
    }
}

/// One request, one response, the end.
async fn exchange(mut stream: TcpStream, peer: IpAddr, face: Face, state: Arc<dyn AdminState>) {
    let response = match read_head(&mut stream).await {
        Head::Complete(head) => match parse_head(&head) {
            Some(request) => admin_routes::answer(&request, peer, face, &*state).await,
            None => Response::error(400, "expected an HTTP/1.x request with at most one Host"),
        },
        Head::TooLarge => Response::error(431, "the request head is larger than 8192 bytes"),
        Head::Gone => return,
    };
    let written = stream.write_all(&response.encode()).await.is_ok() && stream.shutdown().await.is_ok();
    if response.quits {
        state.quit();
    }
    if written {
        linger(&mut stream).await;
    }
}

enum Head {
    Complete(Vec<u8>),
    TooLarge,
    Gone,
}

async fn read_head(stream: &mut TcpStream) -> Head {
    let mut head = Vec::with_capacity(1024);
    loop {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return Head::Gone,
            Ok(_) => {}
        }
        let end = head.windows(4).position(|window| window == b"\r\n\r\n");
        match end {
            Some(end) if end + 4 <= MAX_HEAD_BYTES => {
                head.truncate(end + 2);
                return Head::Complete(head);
            }
            None if head.len() < MAX_HEAD_BYTES => {}
            _ => return Head::TooLarge,
        }
    }
}

/// What is needed of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) host: Option<&'a str>,
    /// Whether a browser says on whose behalf it asks.
    pub(crate) has_origin: bool,
}

/// Reads a head whose every line ends with CR LF; `None` when it is not one.
pub(crate) fn parse_head(head: &[u8]) -> Option<Request<'_>> {
    let mut lines = std::str::from_utf8(head).ok()?.strip_suffix("\r\n")?.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !target.starts_with('/') {
        return None;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request { method, path, query, host: None, has_origin: false };
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("host") && request.host.replace(value.trim()).is_some() {
            return None;
        }
        request.has_origin |= name.eq_ignore_ascii_case("origin");
    }
    Some(request)
}

/// A response; the connection always ends after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    /// The method that would have been right, on a 405.
    pub(crate) allow: &'static str,
    /// Whether the process ends once this is written.
    pub(crate) quits: bool,
}

impl Response {
    pub(crate) fn json(status: u16, body: String) -> Self {
        Self { status, content_type: "application/json", body, allow: "", quits: false }
    }

    pub(crate) fn error(status: u16, message: &str) -> Self {
        Self::json(status, serde_json::json!({ "error": message }).to_string())
    }

    fn encode(&self) -> Vec<u8> {
        let allow = if self.allow.is_empty() { String::new() } else { format!("allow: {}\r\n", self.allow) };
        format!(
            "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{allow}cache-control: no-store\r\n\
             x-content-type-options: nosniff\r\nconnection: close\r\n\r\n{}",
            self.status,
            phrase(self.status),
            self.content_type,
            self.body.len(),
            self.body
        )
        .into_bytes()
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

/// Reads what the peer still sends, for a moment: closing over unread bytes would reset the response away.
async fn linger(stream: &mut TcpStream) {
    let mut rest = Vec::with_capacity(1024);
    let drained = async {
        for _ in 0..LINGER_READS {
            rest.clear();
            if !matches!(stream.read_buf(&mut rest).await, Ok(1..)) {
                return;
            }
        }
    };
    let _ = timeout(LINGER, drained).await;
}

/// Connections a listener serves at once; beyond it the oldest is closed.
pub const MAX_CONNECTIONS: usize = 64;

/// The largest request head.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How long one exchange may take.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// How long unread bytes are awaited after a response, and how many reads they get.
const LINGER: Duration = Duration::from_millis(200);
const LINGER_READS: usize = 64;

/// The pause after a failed accept (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
