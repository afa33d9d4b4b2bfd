//! The first bytes of a connection become the protocol it speaks; the same bytes in any pieces give the same answer.
//!
//! In: everything read so far. Out: [`Sniff`]. Limits: a `ClientHello` up to 16 KiB, a request line up to 8 KiB; beyond is raw.
//! Fails: never; what is not recognised is [`Sniff::Raw`].

use crate::client_hello::{ClientHello, Hello, read_client_hello};
use crate::http1_head::{HttpVersion, Limits, is_method, method_may_become, parse_version};
use crate::http1_scan::MAX_LEADING_LINES;

/// What a connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff<'a> {
    /// Not decided yet: read more, or let the detection timeout decide for [`Sniff::Raw`].
    NeedMore,
    /// TLS, with what the `ClientHello` says.
    Tls(ClientHello<'a>),
    /// HTTP/1, by its request line.
    Http1(HttpVersion),
    /// HTTP/2 with prior knowledge.
    Http2Preface,
    /// Anything else.
    Raw,
}

/// Which inspectors run on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Look for a `ClientHello`.
    pub tls: bool,
    /// Look for HTTP.
    pub http: bool,
}

/// Decides what `bytes`, the first of a connection, are. TLS is looked for first, as in Istio.
pub fn sniff(bytes: &[u8], wanted: Wanted) -> Sniff<'_> {
    if wanted.tls {
        match read_client_hello(bytes) {
            Hello::NeedMore => return Sniff::NeedMore,
            Hello::Complete(hello) => return Sniff::Tls(hello),
            Hello::NotTls => {}
        }
    }
    if wanted.http { sniff_http(bytes) } else { Sniff::Raw }
}

fn sniff_http(bytes: &[u8]) -> Sniff<'_> {
    if bytes.starts_with(PREFACE) {
        return Sniff::Http2Preface;
    }
    if PREFACE.starts_with(bytes) {
        return Sniff::NeedMore;
    }
    let mut line = bytes;
    for _ in 0..MAX_LEADING_LINES {
        line = line.strip_prefix(b"\r\n").unwrap_or(line);
    }
    if b"\r\n".starts_with(line) {
        return Sniff::NeedMore;
    }
    sniff_request_line(line).unwrap_or(Sniff::Raw)
}

/// `None` once the line cannot be a request line any more.
fn sniff_request_line(line: &[u8]) -> Option<Sniff<'static>> {
    let window = &line[..line.len().min(Limits::default().first_line_bytes + 2)];
    let Some(space) = window.iter().position(|byte| !byte.is_ascii_alphabetic() && *byte != b'-') else {
        return (method_may_become(window) && window.len() == line.len()).then_some(Sniff::NeedMore);
    };
    if window[space] != b' ' || !is_method(&window[..space]) {
        return None;
    }
    let Some(end) = memchr::memchr2(b'\r', b'\n', window) else {
        return (window.len() == line.len()).then_some(Sniff::NeedMore);
    };
    let version = window[..end].rsplit(|byte| *byte == b' ').next()?;
    parse_version(version).ok().map(Sniff::Http1)
}

/// RFC 9113 3.4.
/// What an HTTP/2 client says first (RFC 9113 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
