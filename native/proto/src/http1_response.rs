//! The bytes of an HTTP/1 response head become a [`ResponseHead`], or a reason to answer 502.
//!
//! In: the buffer so far and what was asked. Out: head plus [`FieldTable`]. Limits: [`Limits`]. Fails: [`Refusal`], always 502.
//! Source: RFC 9112 4 and 6.3.

use crate::http1_fields::{ConnectionOptions, FieldTable, Known, Span, list};
use crate::http1_head::{Framing, HttpVersion, Limits, declared_framing, parse_version};
use crate::http1_scan::{HeadExtent, is_value};
use crate::refusal::{LineFault, Refusal};

/// The requests whose responses are framed differently. RFC 9112 6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// HEAD: never a body.
    Head,
    /// CONNECT: a 2xx starts a tunnel.
    Connect,
    /// Everything else.
    Other,
}

/// One response head over the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// How many bytes of the buffer the head takes.
    pub len: usize,
    /// The status code.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Span,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: HttpVersion,
    /// How the body is delimited.
    pub framing: Framing,
    /// The declared length, kept for responses without a body (HEAD, 304); none where a tunnel begins.
    pub declared_length: Option<u64>,
    /// Whether the upstream lets the connection live on.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Whether another head follows for the same request (1xx except 101).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Whether a 101 names the protocols it switches to, and only such as the request's `Upgrade` value `asked` for.
/// RFC 9110 7.8; attack case H1-38.
pub fn switches_as_asked(buf: &[u8], fields: &FieldTable, asked: &[u8]) -> bool {
    let mut chosen = fields.known(Known::Upgrade).flat_map(|field| list(field.value.of(buf))).peekable();
    let was_asked = |protocol: &[u8]| list(asked).any(|each| each.eq_ignore_ascii_case(protocol));
    chosen.peek().is_some() && chosen.all(was_asked)
}

/// Parses the response at the start of `buf`; `None` while its head is incomplete. Refusals carry status 502.
pub fn parse_response(
    buf: &[u8],
    limits: &Limits,
    request: RequestKind,
    fields: &mut FieldTable,
) -> Result<Option<ResponseHead>, Refusal> {
    let parsed = parse_started(buf, limits, request, fields);
    if !matches!(parsed, Ok(None)) {
        fields.scan.reset();
    }
    parsed.map_err(|refusal| Refusal { status: 502, ..refusal })
}

fn parse_started(
    buf: &[u8],
    limits: &Limits,
    request: RequestKind,
    fields: &mut FieldTable,
) -> Result<Option<ResponseHead>, Refusal> {
    check_start(buf)?;
    let Some(extent) = fields.scan.advance(buf, limits)? else { return Ok(None) };
    let (version, status, reason) = parse_status_line(buf, &extent)?;
    fields.read(buf, extent.first_end + 2, limits)?;
    let mut options = ConnectionOptions::default();
    fields.mark_listed(buf, &mut options)?;
    let declared = declared_framing(buf, version, fields)?;
    let framing = response_framing(status, request, declared);
    let persistent = match version {
        HttpVersion::Http11 => !options.close,
        HttpVersion::Http10 => options.keep_alive && !options.close,
    };
    Ok(Some(ResponseHead {
        len: extent.len,
        status,
        reason,
        version,
        framing,
        declared_length: match declared {
            Some(Framing::Length(length)) if !starts_tunnel(status, request) => Some(length),
            _ => None,
        },
        keep_alive: persistent && framing != Framing::UntilClose,
    }))
}

fn check_start(buf: &[u8]) -> Result<(), Refusal> {
    let expected = &b"HTTP/1."[..buf.len().min(7)];
    if buf.starts_with(expected) { Ok(()) } else { Err(Refusal::new(502, LineFault::Version)) }
}

fn parse_status_line(buf: &[u8], extent: &HeadExtent) -> Result<(HttpVersion, u16, Span), Refusal> {
    let line = &buf[extent.first_start..extent.first_end];
    let shape = Refusal::new(502, LineFault::Shape);
    let version = parse_version(line.get(..8).ok_or(shape)?).map_err(|_| Refusal::new(502, LineFault::Version))?;
    let (status, reason) = match &line[8..] {
        [b' ', a, b, c] => ([*a, *b, *c], &[][..]),
        [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
        _ => return Err(shape),
    };
    if !status.iter().all(u8::is_ascii_digit) || status[0] == b'0' {
        return Err(Refusal::new(502, LineFault::Status));
    }
    if !is_value(reason) {
        return Err(shape);
    }
    let code = status.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Ok((version, code, Span::new(extent.first_end - reason.len(), extent.first_end)))
}

/// What follows is a byte stream; a length says nothing there and is not handed on. RFC 9110 9.3.6.
fn starts_tunnel(status: u16, request: RequestKind) -> bool {
    request == RequestKind::Connect && (200..300).contains(&status)
}

fn response_framing(status: u16, request: RequestKind, declared: Option<Framing>) -> Framing {
    let no_body = request == RequestKind::Head || status < 200 || status == 204 || status == 304;
    if no_body || starts_tunnel(status, request) {
        return Framing::None;
    }
    declared.unwrap_or(Framing::UntilClose)
}
