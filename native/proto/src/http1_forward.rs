//! Parsed heads become the bytes of the next hop: same fields in the same order, hop-by-hop ones removed, exactly one
//! framing field; and local replies.
//!
//! In: a head, its buffer and the edits. Out: bytes appended to the caller's buffer. Source: RFC 9110 7.6, RFC 9112 6.

use crate::http1_fields::{Field, FieldTable, Known};
use crate::http1_head::{Framing, RequestHead};
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
}

/// Appends the request head for the next hop.
pub fn encode_request(buf: &[u8], head: &RequestHead, fields: &FieldTable, edits: &RequestEdits, out: &mut Vec<u8>) {
    out.reserve(head.len + EDIT_ROOM);
    out.extend_from_slice(head.method.of(buf));
    out.push(b' ');
    out.extend_from_slice(edits.target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for field in fields {
        match (field.known, edits.host) {
            (Known::Host, Some(host)) => push_field(out, field.name.of(buf), host),
            _ if forwards(field, edits.drop) => push_field(out, field.name.of(buf), field.value.of(buf)),
            _ => {}
        }
    }
    push_framing(out, head.framing);
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
}

/// Appends the response head for the client.
pub fn encode_response(buf: &[u8], head: &ResponseHead, fields: &FieldTable, edits: &ResponseEdits, out: &mut Vec<u8>) {
    out.reserve(head.len + EDIT_ROOM);
    push_status_line(out, head.status, head.reason.of(buf));
    for field in fields.iter().filter(|field| forwards(field, edits.drop)) {
        push_field(out, field.name.of(buf), field.value.of(buf));
    }
    match (head.framing, head.declared_length) {
        // HEAD and 304 may tell the length of the body they leave out; 1xx and 204 may not (RFC 9110 8.6).
        (Framing::None, Some(length)) if head.status >= 200 && head.status != 204 => push_length(out, length),
        (framing, _) => push_framing(out, framing),
    }
    if head.status == 101 {
        push_field(out, b"connection", b"upgrade");
        for upgrade in fields.known(Known::Upgrade) {
            push_field(out, b"upgrade", upgrade.value.of(buf));
        }
    } else if edits.close || head.framing == Framing::UntilClose {
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
}

/// Appends a whole local answer.
pub fn local_reply(reply: &LocalReply, out: &mut Vec<u8>) {
    push_status_line(out, reply.status, reason_phrase(reply.status).as_bytes());
    push_length(out, reply.body.len() as u64);
    if !reply.content_type.is_empty() {
        push_field(out, b"content-type", reply.content_type.as_bytes());
    }
    push_all(out, reply.extra);
    if reply.close {
        push_field(out, b"connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !reply.to_head {
        out.extend_from_slice(reply.body);
    }
}

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The standard phrase of a status; empty for one we never make.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

fn forwards(field: &Field, drop: &[Known]) -> bool {
    let framing = field.known == Known::ContentLength;
    !(framing || field.listed_in_connection || field.known.is_hop_by_hop() || drop.contains(&field.known))
}

fn push_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} ");
    out.extend_from_slice(reason);
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
    // Writing to a Vec cannot fail.
    let _ = write!(out, "content-length: {length}\r\n");
}

fn push_all(out: &mut Vec<u8>, fields: &[(&str, &[u8])]) {
    for (name, value) in fields {
        push_field(out, name.as_bytes(), value);
    }
}

fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Room for edits, so that one reservation is enough for a typical head.
const EDIT_ROOM: usize = 256;
