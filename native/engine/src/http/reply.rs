//! Answers of our own: denials, refusals, and what could not be sent upstream.
//!
//! In: a status, its body, the request it answers.  Out: the bytes, and whether the connection can go on.
//! Limits: a body we do not want is read away up to `discard_bytes`, else the connection closes (attack-cases H1-35); an
//! answer that is not taken within the idle bound ends it too (LC-03).
//! Fails: a downstream that is gone; nothing else.
//! Source: istio-semantics D.6 (403 body); RFC 9112 §9.6 (lingering close).

use std::time::Duration;

use meshdp_proto::http1_body::BodyDecoder;
use meshdp_proto::http1_forward::{LocalReply, local_reply};
use meshdp_proto::http1_head::RequestHead;
use tokio::time::timeout;

use crate::connection::Failure;
use crate::http::session::Next;
use crate::observe::outcome::Reason;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::worker::buffers::FIRST;

/// What a denied request is told; Istio's words.
pub(crate) const RBAC_DENIED: &str = "RBAC: access denied";

/// The body for a reason, in the words users of Envoy know where there are such.
pub(crate) fn body_of(reason: Reason) -> &'static str {
    match reason {
        Reason::NoHealthyUpstream => "no healthy upstream",
        Reason::RegistryOnlyBlocked | Reason::NoRoute => "",
        Reason::PolicyChanged => RBAC_DENIED,
        _ => reason.row().sentence,
    }
}

/// One answer.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'r> {
    pub(crate) status: u16,
    pub(crate) body: &'static str,
    /// The value of `www-authenticate`; empty for none.
    pub(crate) challenge: &'r [u8],
    pub(crate) close: bool,
    /// The request was gRPC, over whichever version: the status goes as `grpc-status` (istio-semantics D.6).
    pub(crate) grpc: bool,
}

/// What is left after an answer.
pub(crate) struct Kept {
    pub(crate) next: Next,
    /// How much of the downstream buffer belonged to the answered request.
    pub(crate) consumed: usize,
}

/// Answers a request that will not be forwarded.
///
/// # Errors
/// `DownstreamClosed` when the answer could not be written.
pub(crate) async fn send(
    (stream, received): (&mut Stream, &mut Vec<u8>),
    head: &RequestHead,
    mut reply: Reply<'_>,
    worker: &Worker,
) -> Result<Kept, Failure> {
    let mut body = BodyDecoder::new(head.framing);
    let mut consumed = head.len;
    let limit = worker.settings.limits.discard_bytes;
    // A body already known to be too long is not worth reading.
    reply.close |= body.length_left().is_some_and(|left| left > limit);
    let mut out = worker.buffers.lend();
    let content_type = if reply.body.is_empty() { "" } else { "text/plain" };
    let extra = [(CHALLENGE, reply.challenge)];
    let answer = LocalReply {
        status: reply.status,
        body: reply.body.as_bytes(),
        content_type,
        extra: if reply.challenge.is_empty() { &[] } else { &extra },
        close: reply.close,
        to_head: head.is_head(received),
        grpc: reply.grpc,
    };
    local_reply(&answer, &mut out);
    let written = write(stream, &out, worker).await;
    worker.buffers.give(out);
    written?;
    if !reply.close {
        let discarded = discard((stream, received), (head.len, &mut body), &mut consumed, limit);
        let in_time = timeout(DISCARD_TIMEOUT, discarded).await;
        reply.close = !matches!(in_time, Ok(true));
    }
    Ok(Kept { next: if reply.close { Next::Close } else { Next::Request }, consumed })
}

/// Answers bytes that are no request; the connection is to be closed: nothing behind them is looked at.
pub(crate) async fn refuse(stream: &mut Stream, status: u16, worker: &Worker) {
    let mut out = worker.buffers.lend();
    let answer = LocalReply { status, body: b"", content_type: "", extra: &[], close: true, ..LocalReply::default() };
    local_reply(&answer, &mut out);
    let _ = write(stream, &out, worker).await;
    worker.buffers.give(out);
}

async fn write(stream: &mut Stream, out: &[u8], worker: &Worker) -> Result<(), Failure> {
    let bound = Duration::from_millis(worker.settings.limits.idle_ms);
    match timeout(bound, stream.write_all(out)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Reason::DownstreamClosed.into()),
        Err(_) => Err(Reason::IdleTimeout.into()),
    }
}

/// Reads the rest of a body away; true when the next request begins right behind it. The head stays: it is still to be
/// recorded.
async fn discard(
    (stream, received): (&mut Stream, &mut Vec<u8>),
    (head_len, body): (usize, &mut BodyDecoder),
    consumed: &mut usize,
    limit: u64,
) -> bool {
    let mut dropped = Vec::new();
    let mut read = 0;
    loop {
        while *consumed < received.len() && !body.done() {
            dropped.clear();
            match body.decode(&received[*consumed..], &mut dropped) {
                Ok(0) => break,
                Ok(count) => *consumed += count,
                Err(_) => return false,
            }
        }
        if body.done() {
            return true;
        }
        received.drain(head_len..*consumed);
        *consumed = head_len;
        if read > limit {
            return false;
        }
        match stream.read(received, FIRST).await {
            Ok(count) if count > 0 => read += count as u64,
            _ => return false,
        }
    }
}

/// Half-closes and reads on for a moment, so that the answer is not destroyed by a reset.
pub(crate) async fn linger(stream: &mut Stream) {
    let close = async {
        let _ = stream.shutdown().await;
        let mut dropped = Vec::new();
        let mut read = 0;
        while read < LINGER_BYTES {
            dropped.clear();
            match stream.read(&mut dropped, LINGER_READ).await {
                Ok(count) if count > 0 => read += count,
                _ => return,
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, close).await;
}

/// Ends a connection on which nothing is under way.
pub(crate) async fn hang_up(stream: &mut Stream) {
    let _ = timeout(LINGER_TIMEOUT, stream.shutdown()).await;
}

/// The header that says how to prove who one is (RFC 9110 §11.6.1).
pub(crate) const CHALLENGE: &str = "www-authenticate";

const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// A caller that uploads while it is answered is listened to for this long.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_READ: usize = 64 << 10;
