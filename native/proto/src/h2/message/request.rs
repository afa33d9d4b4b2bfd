//! The fields of an HTTP/2 request become the text of an HTTP/1.1 request head that `parse_request` accepts.
//!
//! In: a decoded [`FieldList`]. Out: text and [`RequestShape`], what the text does not say. An extended CONNECT becomes the
//! `GET` with `Upgrade` that means the same, so that policy sees one form. Limits: [`Limits`], `any_method` to be set for
//! parsing. Fails: [`MessageFault`]. Source: RFC 9113 8.2 to 8.5, RFC 8441; attack cases DG-01 to DG-18; decision 0083.

use super::fault::MessageFault;
use super::indexing::is_secret;
use super::rules::{check_field, push_line, take_length};
use crate::h2::hpack::FieldList;
use crate::http1_fields::Known;
use crate::http1_head::{Framing, Limits};
use crate::http1_scan::is_token;
use crate::path;

/// The scheme a request came with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    #[default]
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// As `:scheme` and x-forwarded-proto spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Whether a request asks for a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnel {
    /// A request with a response.
    #[default]
    No,
    /// CONNECT: bytes to an authority.
    Connect,
    /// Extended CONNECT (RFC 8441); only where `SETTINGS_ENABLE_CONNECT_PROTOCOL` was sent.
    Extended,
}

/// What the text of a request does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestShape {
    /// `:scheme`; `Http` for CONNECT, which has none.
    pub scheme: Scheme,
    /// The declared length of the body: what DATA must add up to.
    pub content_length: Option<u64>,
    /// Whether a tunnel is asked for.
    pub tunnel: Tunnel,
    /// A HEAD request, whose response has no body.
    pub to_head: bool,
    /// Some field came as "never indexed" (RFC 7541 6.2.3) that we would not know to be a secret; see
    /// [`RequestMapping`](super::RequestMapping).
    pub sensitive: bool,
}

impl RequestShape {
    /// Whether ending the stream now breaks the declared length (attack case H2-31).
    pub fn ends_short(&self) -> bool {
        self.content_length.is_some_and(|length| length > 0)
    }

    /// How the body is framed for an HTTP/1.1 upstream, given whether the head ended the stream (attack case DG-12).
    pub fn framing(&self, ended: bool) -> Framing {
        match self.content_length {
            _ if self.tunnel != Tunnel::No => Framing::None,
            Some(length) => Framing::Length(length),
            None if ended => Framing::None,
            None => Framing::Chunked,
        }
    }
}

/// The pseudo-headers of a request. RFC 9113 8.3.1.
#[derive(Default)]
struct Pseudo<'f> {
    method: Option<&'f [u8]>,
    scheme: Option<&'f [u8]>,
    authority: Option<&'f [u8]>,
    path: Option<&'f [u8]>,
    protocol: Option<&'f [u8]>,
}

/// Writes the canonical head, final empty line included, to `out`, which it clears first. After a fault `out` is worthless.
pub fn write_request(fields: &FieldList, limits: &Limits, out: &mut Vec<u8>) -> Result<RequestShape, MessageFault> {
    out.clear();
    if fields.too_large() {
        return Err(MessageFault::TooLarge);
    }
    let (pseudo, first) = read_pseudo(fields)?;
    let mut shape = write_first_lines(&pseudo, limits, out)?;
    shape.sensitive = (0..first).any(|position| fields.is_sensitive(position));
    let mut writer = Writer { authority: pseudo.authority, host: false, cookie: false, lines: 0, shape };
    writer.lines += usize::from(pseudo.authority.is_some());
    for (position, (name, value)) in fields.iter().enumerate().skip(first) {
        let known = check_field(name, value, limits)?;
        writer.shape.sensitive |= fields.is_sensitive(position) && !is_secret(known, name);
        writer.write((known, name, value), || rest_of_cookies(fields, position), out)?;
    }
    writer.finish(&pseudo, limits, out)
}

fn read_pseudo(fields: &FieldList) -> Result<(Pseudo<'_>, usize), MessageFault> {
    let mut pseudo = Pseudo::default();
    for (position, (name, value)) in fields.iter().enumerate() {
        let slot = match name {
            b":method" => &mut pseudo.method,
            b":scheme" => &mut pseudo.scheme,
            b":authority" => &mut pseudo.authority,
            b":path" => &mut pseudo.path,
            b":protocol" => &mut pseudo.protocol,
            [b':', ..] => return Err(MessageFault::UnknownPseudo),
            _ => return Ok((pseudo, position)),
        };
        if slot.replace(value).is_some() {
            return Err(MessageFault::RepeatedPseudo);
        }
    }
    Ok((pseudo, fields.len()))
}

/// Writes the request line and, where there is an authority, Host.
fn write_first_lines(pseudo: &Pseudo, limits: &Limits, out: &mut Vec<u8>) -> Result<RequestShape, MessageFault> {
    let method = pseudo.method.ok_or(MessageFault::Pseudo)?;
    if !is_token(method) {
        return Err(MessageFault::Method);
    }
    if pseudo.authority.is_some_and(|authority| authority.len() > MAX_AUTHORITY_BYTES || !path::is_authority(authority))
    {
        return Err(MessageFault::Authority);
    }
    let connect = method == b"CONNECT";
    let (method, target, shape) = match (connect, pseudo.protocol) {
        (false, Some(_)) => return Err(MessageFault::Pseudo),
        (true, None) => {
            (method, connect_target(pseudo)?, RequestShape { tunnel: Tunnel::Connect, ..Default::default() })
        }
        (_, protocol) => {
            let tunnel = if protocol.is_some() { Tunnel::Extended } else { Tunnel::No };
            let method = if protocol.is_some() { &b"GET"[..] } else { method };
            let scheme = read_scheme(pseudo.scheme.ok_or(MessageFault::Pseudo)?)?;
            let target = pseudo.path.ok_or(MessageFault::Pseudo)?;
            check_path(method, target)?;
            (method, target, RequestShape { scheme, tunnel, to_head: method == b"HEAD", ..Default::default() })
        }
    };
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1");
    if out.len() > limits.first_line_bytes {
        return Err(MessageFault::TooLong);
    }
    out.extend_from_slice(b"\r\n");
    if let Some(authority) = pseudo.authority {
        push_line(out, b"host", authority);
    }
    Ok(shape)
}

/// RFC 9113 8.5: an authority with a port, and neither scheme nor path.
fn connect_target<'f>(pseudo: &Pseudo<'f>) -> Result<&'f [u8], MessageFault> {
    let authority = pseudo.authority.ok_or(MessageFault::Pseudo)?;
    if pseudo.scheme.is_some() || pseudo.path.is_some() {
        return Err(MessageFault::Pseudo);
    }
    path::check_authority_form(authority).map_err(|_| MessageFault::Authority)?;
    Ok(authority)
}

fn read_scheme(scheme: &[u8]) -> Result<Scheme, MessageFault> {
    if scheme.eq_ignore_ascii_case(b"http") {
        Ok(Scheme::Http)
    } else if scheme.eq_ignore_ascii_case(b"https") {
        Ok(Scheme::Https)
    } else {
        Err(MessageFault::Scheme)
    }
}

/// The fragment stays for `path::normalise` to cut, as for HTTP/1.1 (attack case H1-54).
fn check_path(method: &[u8], target: &[u8]) -> Result<(), MessageFault> {
    let form = target.first() == Some(&b'/') || (method == b"OPTIONS" && target == b"*");
    let visible = target.iter().fold(true, |good, byte| good & (0x21..=0x7e).contains(byte));
    if form && visible { Ok(()) } else { Err(MessageFault::Path) }
}

/// Writes the fields behind the first lines.
struct Writer<'f> {
    authority: Option<&'f [u8]>,
    host: bool,
    cookie: bool,
    lines: usize,
    shape: RequestShape,
}

impl<'f> Writer<'f> {
    fn write<C: Iterator<Item = &'f [u8]>>(
        &mut self,
        (known, name, value): (Known, &[u8], &[u8]),
        more_cookies: impl FnOnce() -> C,
        out: &mut Vec<u8>,
    ) -> Result<(), MessageFault> {
        match known {
            Known::Host => {
                self.check_host(value)?;
                if self.authority.is_some() {
                    return Ok(());
                }
            }
            Known::Cookie if self.cookie => return Ok(()),
            Known::Cookie => {
                self.cookie = true;
                push_cookies(value, more_cookies(), out);
                self.lines += 1;
                return Ok(());
            }
            Known::ContentLength => take_length(value, &mut self.shape.content_length)?,
            _ => {}
        }
        push_line(out, name, value);
        self.lines += 1;
        Ok(())
    }

    /// One host, and the same as the authority. An empty one is legal where there is no authority, as in HTTP/1.1.
    fn check_host(&mut self, host: &[u8]) -> Result<(), MessageFault> {
        let agrees = match self.authority {
            Some(authority) => authority.eq_ignore_ascii_case(host),
            None => host.is_empty() || (host.len() <= MAX_AUTHORITY_BYTES && path::is_authority(host)),
        };
        if self.host || !agrees {
            return Err(MessageFault::Host);
        }
        self.host = true;
        Ok(())
    }

    fn finish(mut self, pseudo: &Pseudo, limits: &Limits, out: &mut Vec<u8>) -> Result<RequestShape, MessageFault> {
        if self.authority.is_none() && !self.host {
            return Err(MessageFault::Host);
        }
        if self.shape.tunnel != Tunnel::No && self.shape.content_length.is_some() {
            return Err(MessageFault::ContentLength); // what follows is a tunnel, not a body (RFC 9110 9.3.6)
        }
        if let Some(protocol) = pseudo.protocol {
            if !is_token(protocol) || protocol.eq_ignore_ascii_case(b"h2c") {
                return Err(MessageFault::Protocol);
            }
            push_line(out, b"connection", b"upgrade");
            push_line(out, b"upgrade", protocol);
            self.lines += 2;
        }
        out.extend_from_slice(b"\r\n");
        if self.lines > limits.fields || out.len() > limits.head_bytes {
            return Err(MessageFault::TooLarge);
        }
        Ok(self.shape)
    }
}

/// The cookie crumbs behind the one at `position`.
fn rest_of_cookies(fields: &FieldList, position: usize) -> impl Iterator<Item = &[u8]> {
    fields.iter().skip(position + 1).filter(|(name, _)| *name == b"cookie").map(|(_, value)| value)
}

/// Joins crumbs into the one field that HTTP/1.1 has. RFC 9113 8.2.3; attack case DG-11.
fn push_cookies<'f>(first: &[u8], more: impl Iterator<Item = &'f [u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"cookie: ");
    let start = out.len();
    out.extend_from_slice(first);
    for crumb in more.filter(|crumb| !crumb.is_empty()) {
        if out.len() > start {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(crumb);
    }
    out.extend_from_slice(b"\r\n");
}

/// No DNS name is longer; names are made into SNI and map keys (attack case DG-17).
const MAX_AUTHORITY_BYTES: usize = 255;
