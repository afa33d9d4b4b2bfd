//! The request head as it goes upstream: received bytes with the edits a mesh makes.
//!
//! In: the parsed head, the connection's constants.  Out: the encoded head at the front of the upload buffer.
//! Limits: bounded by the received head plus a few fixed fields.  Fails: never.
//! Source: istio-semantics (XFCC appended for mesh peers, x-request-id and x-forwarded-proto when absent); decision 0003.

use meshdp_model::facts::Direction;
use meshdp_model::jwt::Authenticated;
use meshdp_model::jwt::rules::MAX_OUTPUTS;
use meshdp_proto::http1_fields::{FieldTable, Known};
use meshdp_proto::http1_forward::{RequestEdits, encode_request};

use crate::connection::Link;
use crate::http::decide::{Head, Scratch};
use crate::worker::{Pinned, Worker};

/// Header values that are the same for every request of one connection.
pub(crate) struct Forwarded {
    /// Our element of x-forwarded-client-cert; empty when the peer proved nothing.
    client_certificate: Vec<u8>,
    inbound: bool,
}

impl Forwarded {
    /// Prepares the constants of a connection.
    pub(crate) fn new(link: &Link, pinned: &Pinned) -> Self {
        let inbound = link.facts.direction == Direction::Inbound;
        Self { client_certificate: if inbound { xfcc(link, pinned) } else { Vec::new() }, inbound }
    }

    /// Appends the encoded head to `out`; `text` is what `head` was read from, into this scratch.
    pub(crate) fn encode(
        &self,
        (text, head, tokens): (&[u8], &Head, Option<&Authenticated>),
        scratch: &mut Scratch,
        worker: &Worker,
        out: &mut Vec<u8>,
    ) {
        let message = (text, head, tokens);
        self.edit(message, scratch, worker, |fields, edits| encode_request(text, &head.head, fields, edits, out));
    }

    /// Hands the edits that the mesh makes to an encoder.
    pub(crate) fn edit(
        &self,
        (text, head, tokens): (&[u8], &Head, Option<&Authenticated>),
        scratch: &mut Scratch,
        worker: &Worker,
        encode: impl FnOnce(&FieldTable, &RequestEdits<'_>),
    ) {
        let Scratch { fields, target, composed, cookie, .. } = scratch;
        let present = |known: Known| fields.iter().find(|field| field.known == known).map(|field| field.value.of(text));
        composed.clear();
        if !self.client_certificate.is_empty() {
            // A mesh peer may hand on what it was told; what comes without a proven identity is dropped.
            if let Some(earlier) = present(Known::XForwardedClientCert) {
                composed.extend_from_slice(earlier);
                composed.push(b',');
            }
            composed.extend_from_slice(&self.client_certificate);
        }
        let request_id = request_id(worker);
        let mut append: [(&str, &[u8]); 3] = [("", b""); 3];
        let mut count = 0;
        let mut add = |name, value| {
            append[count] = (name, value);
            count += 1;
        };
        if present(Known::XForwardedProto).is_none() {
            add("x-forwarded-proto", b"http" as &[u8]);
        }
        if present(Known::XRequestId).is_none() {
            add("x-request-id", &request_id[..]);
        }
        if !composed.is_empty() {
            add("x-forwarded-client-cert", &composed[..]);
        }
        let drop: &[Known] = match (self.inbound, self.client_certificate.is_empty()) {
            (false, _) => &[],
            (true, false) => &[Known::XForwardedClientCert],
            // Envoy's words to itself, from somebody who proved nothing (HD-09, PN-17).
            (true, true) => &[Known::XForwardedClientCert, Known::XEnvoy],
        };
        let host = if head.authority_in_target { head.authority.map(|span| span.of(text)) } else { None };
        let edits = RequestEdits { target, host, drop, append: &append[..count], ..RequestEdits::default() };
        match tokens.filter(|tokens| tokens.changes_request()) {
            None => encode(fields, &edits),
            Some(tokens) => {
                let cookie = Some(("cookie", &cookie[..])).filter(|(_, cookie)| !cookie.is_empty());
                let mut all: [(&str, &[u8]); MAX_OUTPUTS + 4] = [("", b""); MAX_OUTPUTS + 4];
                let mut filled = 0;
                for field in edits.append.iter().copied().chain(cookie).chain(tokens.headers()) {
                    all[filled] = field;
                    filled += 1;
                }
                encode(fields, &RequestEdits { append: &all[..filled], ..edits });
            }
        }
    }
}

fn xfcc(link: &Link, pinned: &Pinned) -> Vec<u8> {
    let (Some(peer), Some(hash)) = (&link.facts.peer, &link.peer_hash) else { return Vec::new() };
    let own = pinned.snapshot.workload().map_or("", |workload| &*workload.identity);
    let mut hex = String::with_capacity(64);
    for byte in hash {
        hex.push(char::from(HEX[usize::from(byte >> 4)]));
        hex.push(char::from(HEX[usize::from(byte & 15)]));
    }
    format!("By={own};Hash={hex};Subject=\"\";URI={}", peer.uri()).into_bytes()
}

/// A random version 4 UUID (RFC 9562 §5.4) in text form.
fn request_id(worker: &Worker) -> [u8; 36] {
    let bits = (u128::from(worker.random()) << 64) | u128::from(worker.random());
    let bits = (bits & !(0xf << 76)) | (0x4 << 76);
    let bits = (bits & !(0x3 << 62)) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut at = 0;
    for nibble in 0..32 {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        text[at] = HEX[(bits >> (124 - 4 * nibble)) as usize & 15];
        at += 1;
    }
    text
}

const HEX: &[u8; 16] = b"0123456789abcdef";
