//! The bytes of an HTTP/1.1 request head become a [`RequestHead`] of spans, or a reason to refuse.
//!
//! In: the buffer so far. Out: head plus [`FieldTable`]. Limits: [`Limits`]. Fails: [`Refusal`]; nothing refused is forwarded.
//! Source: RFC 9112 2 to 6; where it lets a recipient be lenient we are not, since two lenient readers disagree.

use crate::http1_fields::{ConnectionOptions, FieldTable, Known, Span, list, trim};
use crate::http1_scan::{HeadExtent, MAX_LEADING_LINES, is_token};
use crate::path;
use crate::refusal::{FieldFault, FramingFault, HostFault, LineFault, Refusal, TargetFault};

/// A version of the HTTP/1 family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Bounds of a message head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole head, first line and final empty line included.
    pub head_bytes: usize,
    /// How many fields.
    pub fields: usize,
    /// The request or status line without its CRLF.
    pub first_line_bytes: usize,
    /// One field name.
    pub name_bytes: usize,
    /// One field value.
    pub value_bytes: usize,
    /// Take any token as a method. Only for heads that `write_request` made of HTTP/2 fields, where the method may be any.
    pub any_method: bool,
}

impl Default for Limits {
    /// Envoy's: 60 KiB, 100 fields; 8 KiB for the first line, names up to 256 bytes.
    fn default() -> Self {
        Self {
            head_bytes: 61_440,
            fields: 100,
            first_line_bytes: 8_192,
            name_bytes: 256,
            value_bytes: 61_440,
            any_method: false,
        }
    }
}

impl Limits {
    /// The same for heads that another sidecar hands on, which has added to one that kept these.
    #[must_use]
    pub fn of_mesh_peer(self) -> Self {
        Self { head_bytes: self.head_bytes + ADDED_BYTES, fields: self.fields + ADDED_FIELDS, ..self }
    }
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the peer closes (responses only).
    UntilClose,
}

/// One request head over the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// How many bytes of the buffer the head takes; the body begins there.
    pub len: usize,
    /// The method, exactly as sent.
    pub method: Span,
    /// The target, exactly as sent; [`normalise`](crate::path::normalise) makes the path of it.
    pub target: Span,
    /// Always HTTP/1.1: HTTP/1.0 is answered with 426.
    pub version: HttpVersion,
    /// The value of Host; it may be empty. An authority in the target wins over it.
    pub host: Option<Span>,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub expect_continue: bool,
    /// The protocol asked for by `Upgrade`, when `Connection` lists it and it is not h2c.
    pub upgrade: Option<Span>,
}

impl RequestHead {
    /// Whether this is a HEAD request, whose response has no body.
    pub fn is_head(&self, buf: &[u8]) -> bool {
        self.method.of(buf) == b"HEAD"
    }

    /// Whether this is a CONNECT request; its target is `host:port` and has no path.
    pub fn is_connect(&self, buf: &[u8]) -> bool {
        self.method.of(buf) == b"CONNECT"
    }
}

/// Parses the request at the start of `buf`; `None` while its head is incomplete.
///
/// Call it again with the same `fields` and the grown buffer: bytes already seen are not scanned again.
pub fn parse_request(buf: &[u8], limits: &Limits, fields: &mut FieldTable) -> Result<Option<RequestHead>, Refusal> {
    let parsed = parse_started(buf, limits, fields);
    if !matches!(parsed, Ok(None)) {
        fields.scan.reset();
    }
    parsed
}

fn parse_started(buf: &[u8], limits: &Limits, fields: &mut FieldTable) -> Result<Option<RequestHead>, Refusal> {
    if !limits.any_method {
        check_method_start(buf)?;
    }
    let Some(extent) = fields.scan.advance(buf, limits)? else { return Ok(None) };
    let (method, target, version) = parse_request_line(buf, &extent)?;
    if limits.any_method && !is_token(method.of(buf)) {
        return Err(Refusal::new(400, LineFault::Method));
    }
    fields.read(buf, extent.first_end + 2, limits)?;
    let mut options = ConnectionOptions::default();
    fields.mark_listed(buf, &mut options)?;
    let framing = declared_framing(buf, version, fields)?;
    if version == HttpVersion::Http10 {
        return Err(Refusal::new(426, LineFault::LowVersion));
    }
    check_target(method.of(buf), target.of(buf))?;
    Ok(Some(RequestHead {
        len: extent.len,
        method,
        target,
        version,
        host: Some(the_host(buf, fields)?),
        framing: framing.unwrap_or(Framing::None),
        keep_alive: !options.close,
        expect_continue: expects_continue(buf, fields)?,
        upgrade: asked_upgrade(buf, fields, &options),
    }))
}

/// Refuses bytes that cannot begin a request as soon as they show it, so that a peer that speaks something else is
/// answered at once. RFC 9112 3; the list of methods is the one Envoy's parser knows.
fn check_method_start(buf: &[u8]) -> Result<(), Refusal> {
    let mut start = buf;
    for _ in 0..MAX_LEADING_LINES {
        start = start.strip_prefix(b"\r\n").unwrap_or(start);
    }
    if matches!(start.first(), None | Some(b'\r' | b'\n')) {
        return Ok(());
    }
    let window = &start[..start.len().min(LONGEST_METHOD + 1)];
    let known = match window.iter().position(|byte| *byte == b' ') {
        Some(space) => is_method(&window[..space]),
        None => method_may_become(window),
    };
    if known { Ok(()) } else { Err(Refusal::new(400, LineFault::Method)) }
}

/// Whether these bytes are a known method.
pub(crate) fn is_method(bytes: &[u8]) -> bool {
    METHODS.contains(&bytes)
}

/// Whether these bytes begin a known method.
pub(crate) fn method_may_become(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| method.starts_with(bytes))
}

fn parse_request_line(buf: &[u8], extent: &HeadExtent) -> Result<(Span, Span, HttpVersion), Refusal> {
    let shape = || Refusal::new(400, LineFault::Shape);
    let line = &buf[extent.first_start..extent.first_end];
    let first = memchr::memchr(b' ', line).ok_or_else(shape)?;
    let last = memchr::memrchr(b' ', line).ok_or_else(shape)?;
    if first == last || last == first + 1 {
        return Err(shape());
    }
    let target = &line[first + 1..last];
    if !target.iter().fold(true, |good, byte| good & (0x21..=0x7e).contains(byte)) {
        return Err(Refusal::new(400, TargetFault::Byte));
    }
    let at = |offset: usize| extent.first_start + offset;
    let version = parse_version(&line[last + 1..]).map_err(|status| Refusal::new(status, LineFault::Version))?;
    Ok((Span::new(at(0), at(first)), Span::new(at(first + 1), at(last)), version))
}

/// Reads `HTTP/1.0` or `HTTP/1.1`; otherwise the status to refuse with.
pub(crate) fn parse_version(bytes: &[u8]) -> Result<HttpVersion, u16> {
    match bytes {
        b"HTTP/1.1" => Ok(HttpVersion::Http11),
        b"HTTP/1.0" => Ok(HttpVersion::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && *major != b'1' && minor.is_ascii_digit() =>
        {
            Err(505)
        }
        _ => Err(400),
    }
}

/// The framing the fields declare, if any. RFC 9112 6.1 to 6.3.
pub(crate) fn declared_framing(
    buf: &[u8],
    version: HttpVersion,
    fields: &FieldTable,
) -> Result<Option<Framing>, Refusal> {
    let refuse = |fault: FramingFault| Err(Refusal::new(400, fault));
    let (mut length, mut coding) = (None, None);
    for field in fields {
        match field.known {
            Known::ContentLength if length.is_some() => return refuse(FramingFault::RepeatedLength),
            Known::ContentLength => length = Some(field.value.of(buf)),
            Known::TransferEncoding if coding.is_some() => return refuse(FramingFault::RepeatedCoding),
            Known::TransferEncoding => coding = Some(field.value.of(buf)),
            _ => {}
        }
    }
    match (length, coding) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => refuse(FramingFault::Both),
        (Some(value), None) => match parse_length(value) {
            Some(length) => Ok(Some(Framing::Length(length))),
            None => refuse(FramingFault::Length),
        },
        (None, Some(_)) if version == HttpVersion::Http10 => refuse(FramingFault::CodingVersion),
        (None, Some(value)) if value.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        (None, Some(value)) => Err(Refusal::new(unknown_coding_status(value), FramingFault::Coding)),
    }
}

/// A well-formed list of codings that ends in the one `chunked` is framed but not understood: 501. RFC 9112 6.1.
fn unknown_coding_status(value: &[u8]) -> u16 {
    let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let well_formed = value.split(|byte| *byte == b',').all(|coding| is_token(trim(coding)));
    let ends_in_chunked = list(value).last().is_some_and(chunked);
    if well_formed && ends_in_chunked && list(value).filter(|coding| chunked(coding)).count() == 1 { 501 } else { 400 }
}

/// A plain decimal number below 2^60: no sign, no list, no white space; leading zeros are read as decimal.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > MAX_LENGTH_DIGITS {
        return None;
    }
    let mut length: u64 = 0;
    for byte in value {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        length = length.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (length < MAX_LENGTH).then_some(length)
}

/// Checks the forms of RFC 9112 3.2 that depend on the method; the path itself is checked by `path::normalise`.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Refusal> {
    let good = match (method, target) {
        (b"CONNECT", _) => return path::check_authority_form(target),
        (_, [b'/', ..]) | (b"OPTIONS", b"*") => true,
        _ => path::has_http_scheme(target),
    };
    if good { Ok(()) } else { Err(Refusal::new(400, TargetFault::Form)) }
}

fn the_host(buf: &[u8], fields: &FieldTable) -> Result<Span, Refusal> {
    let refuse = |fault: HostFault| Refusal::new(400, fault);
    let mut hosts = fields.known(Known::Host);
    let host = hosts.next().ok_or_else(|| refuse(HostFault::Missing))?;
    // Deviation: Envoy joins repeated Host fields with a comma; RFC 9112 3.2 asks for 400, and a joined host evades notHosts.
    if hosts.next().is_some() {
        return Err(refuse(HostFault::Repeated));
    }
    // An empty Host is legal (RFC 9112 3.2) and Istio serves it.
    if !host.value.is_empty() && !path::is_authority(host.value.of(buf)) {
        return Err(refuse(HostFault::Invalid));
    }
    Ok(host.value)
}

fn expects_continue(buf: &[u8], fields: &FieldTable) -> Result<bool, Refusal> {
    let mut expectations = fields.known(Known::Expect).filter(|field| !field.listed_in_connection);
    let Some(expectation) = expectations.next() else { return Ok(false) };
    if expectations.next().is_some() || !expectation.value.of(buf).eq_ignore_ascii_case(b"100-continue") {
        return Err(Refusal::new(417, FieldFault::Expect));
    }
    Ok(true)
}

fn asked_upgrade(buf: &[u8], fields: &FieldTable, options: &ConnectionOptions) -> Option<Span> {
    let mut upgrades = fields.known(Known::Upgrade);
    let upgrade = upgrades.next().filter(|_| options.upgrade)?;
    let h2c = list(upgrade.value.of(buf)).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"));
    (upgrades.next().is_none() && !h2c && !upgrade.value.is_empty()).then_some(upgrade.value)
}

/// The methods Envoy's HTTP/1 parser knows; any other is answered 400 before policy.
const METHODS: [&[u8]; 34] = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"MSEARCH",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

/// `UNSUBSCRIBE`.
const LONGEST_METHOD: usize = 11;

/// Longer numbers are refused even when they are zeros.
const MAX_LENGTH_DIGITS: usize = 19;

/// Lengths from here on are refused, so that no counter of ours or of a peer wraps.
const MAX_LENGTH: u64 = 1 << 60;
/// Fields that a sidecar adds to a head: ours three and a note, Envoy's about ten.
const ADDED_FIELDS: usize = 16;
/// Bytes of them.
const ADDED_BYTES: usize = 4_096;
