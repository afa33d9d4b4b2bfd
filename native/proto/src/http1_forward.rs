//! Parsed heads become the bytes of the next hop: same fields in the same order, hop-by-hop ones removed, exactly one
//! framing field; and local replies.
//!
//! In: a head, its buffer and the edits. Out: bytes appended to the caller's buffer. Source: RFC 9110 7.6, RFC 9112 6.

use crate::h2::message::{GRPC_TYPE, Origin, grpc_status, write_grpc_message};
use crate::http1_fields::{Field, FieldTable, Known};
use crate::http1_head::{Framing, RequestHead};
use crate::http1_reason::reason_phrase;
use crate::http1_response::ResponseHead;
use std::io::Write;

/// What changes in a forwarded request. Names and values given here must be free of control bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestEdits<'a> {
    /// The normalised target to send.
    pub target: &'a [u8],
    /// Replaces the value of Host, in place.
    pub host: Option<&'a [u8]>,
    /// Classes of fields to leave out.
    pub drop: &'a [Known],
    /// Fields to add at the end.
    pub append: &'a [(&'a str, &'a [u8])],
    /// How the body is framed on the next hop, where that is not how it came.
    pub framing: Option<Framing>,
    /// How the head was spelled before it travelled over HTTP/2.
    pub origin: Option<Origin<'a>>,
}

/// Appends the request head for the next hop.
pub fn encode_request(buf: &[u8], head: &RequestHead, fields: &FieldTable, edits: &RequestEdits, out: &mut Vec<u8>) {
    out.reserve(head.len + EDIT_ROOM);
    out.extend_from_slice(head.method.of(buf));
    out.push(b' ');
    out.extend_from_slice(edits.target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let value = |field: &Field| match (field.known, edits.host) {
        (Known::Host, Some(host)) => Some(host),
        _ => forwards(field, edits.drop).then(|| field.value.of(buf)),
    };
    push_received(buf, fields, (edits.origin, value), out);
    push_framing(out, edits.framing.unwrap_or(head.framing));
    if let Some(upgrade) = head.upgrade.filter(|_| !edits.drop.contains(&Known::Upgrade)) {
        push_field(out, b"connection", b"upgrade");
        push_field(out, b"upgrade", upgrade.of(buf));
    }
    push_all(out, edits.append);
    out.extend_from_slice(b"\r\n");
}

/// What changes in a forwarded response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseEdits<'a> {
    /// Classes of fields to leave out.
    pub drop: &'a [Known],
    /// Fields to add at the end.
    pub append: &'a [(&'a str, &'a [u8])],
    /// Tell the client that the connection closes. A body that runs until close says so by itself.
    pub close: bool,
    /// How the body is framed on the next hop, where that is not how it came.
    pub framing: Option<Framing>,
    /// How the head was spelled before it travelled over HTTP/2.
    pub origin: Option<Origin<'a>>,
}

/// Appends the response head for the client.
pub fn encode_response(buf: &[u8], head: &ResponseHead, fields: &FieldTable, edits: &ResponseEdits, out: &mut Vec<u8>) {
    out.reserve(head.len + EDIT_ROOM);
    let reason = edits.origin.and_then(|origin| origin.reason()).unwrap_or(head.reason.of(buf));
    push_status_line(out, head.status, Some(reason));
    let value = |field: &Field| forwards(field, edits.drop).then(|| field.value.of(buf));
    push_received(buf, fields, (edits.origin, value), out);
    let framing = edits.framing.unwrap_or(head.framing);
    match (framing, head.declared_length) {
        // HEAD and 304 may tell the length of the body they leave out; 1xx and 204 may not (RFC 9110 8.6).
        (Framing::None, Some(length)) if head.status >= 200 && head.status != 204 => push_length(out, length),
        (framing, _) => push_framing(out, framing),
    }
    if head.status == 101 {
        push_field(out, b"connection", b"upgrade");
        for upgrade in fields.known(Known::Upgrade) {
            push_field(out, b"upgrade", upgrade.value.of(buf));
        }
    } else if edits.close || framing == Framing::UntilClose {
        push_field(out, b"connection", b"close");
    }
    push_all(out, edits.append);
    out.extend_from_slice(b"\r\n");
}

/// An answer that we make ourselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalReply<'a> {
    /// The status code.
    pub status: u16,
    /// The body; its length is declared even when it is not sent.
    pub body: &'a [u8],
    /// The type of the body; empty for none.
    pub content_type: &'a str,
    /// Fields to add at the end.
    pub extra: &'a [(&'a str, &'a [u8])],
    /// Tell the client that the connection closes.
    pub close: bool,
    /// The request was HEAD: declare the length, leave the body out.
    pub to_head: bool,
    /// The request was gRPC: status 200, the body goes as `grpc-message`.
    pub grpc: bool,
}

/// Appends a whole local answer.
pub fn local_reply(reply: &LocalReply, out: &mut Vec<u8>) {
    if reply.grpc {
        push_grpc_head(reply, out);
    } else {
        push_status_line(out, reply.status, None);
        push_length(out, reply.body.len() as u64);
        if !reply.content_type.is_empty() {
            push_field(out, b"content-type", reply.content_type.as_bytes());
        }
    }
    push_all(out, reply.extra);
    if reply.close {
        push_field(out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !reply.to_head && !reply.grpc {
        out.extend_from_slice(reply.body);
    }
}

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The refusal of a gRPC request. RFC 9110 has no word for it: the transport says 200, the fields say what happened.
fn push_grpc_head(reply: &LocalReply, out: &mut Vec<u8>) {
    push_status_line(out, 200, None);
    push_length(out, 0);
    push_field(out, b"content-type", GRPC_TYPE);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "grpc-status: {}\r\n", grpc_status(reply.status));
    if !reply.body.is_empty() {
        out.extend_from_slice(b"grpc-message: ");
        write_grpc_message(reply.body, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the received fields that have a value on the next hop, spelled as they came or as they once were.
fn push_received<'b>(
    buf: &'b [u8],
    fields: &FieldTable,
    (origin, value): (Option<Origin>, impl Fn(&Field) -> Option<&'b [u8]>),
    out: &mut Vec<u8>,
) {
    let Some(origin) = origin else {
        for field in fields {
            if let Some(value) = value(field) {
                push_field(out, field.name.of(buf), value);
            }
        }
        return;
    };
    origin.restore(buf, fields, |field, spelling| {
        if let Some(value) = value(field) {
            spelling.push(field.name.of(buf), out);
            push_value(out, value);
        }
    });
}

fn forwards(field: &Field, drop: &[Known]) -> bool {
    // What sidecars tell each other ends at each of them (attack case HD-11), a length is written anew.
    let ours = matches!(field.known, Known::ContentLength | Known::XMeshdp);
    !(ours || field.listed_in_connection || field.known.is_hop_by_hop() || drop.contains(&field.known))
}

/// Appends a status line; without a phrase of its own with the standard one.
pub(crate) fn push_status_line(out: &mut Vec<u8>, status: u16, reason: Option<&[u8]>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |unit: u16| b'0' + (status / unit % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(reason.unwrap_or(reason_phrase(status).as_bytes()));
    out.extend_from_slice(b"\r\n");
}

fn push_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => push_length(out, length),
        Framing::Chunked => push_field(out, b"transfer-encoding", b"chunked"),
        Framing::None | Framing::UntilClose => {}
    }
}

fn push_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    // 2^64 has 20 digits. The formatter of the standard library would cost more than all the rest of a small head.
    let (mut digits, mut at, mut left) = ([0; 20], 20, length);
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

fn push_all(out: &mut Vec<u8>, fields: &[(&str, &[u8])]) {
    for (name, value) in fields {
        push_field(out, name.as_bytes(), value);
    }
}

fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    push_value(out, value);
}

fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Room for edits, so that one reservation is enough for a typical head.
const EDIT_ROOM: usize = 256;
