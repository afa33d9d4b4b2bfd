//! Field lines become a reusable table of spans over the message buffer, each name classified once.
//!
//! In: the bytes between a first line and the empty line. Out: [`FieldTable`], in wire order.
//! Limits: [`Limits`]. Fails: [`FieldFault`]. Source: RFC 9112 5, RFC 9110 5 and 7.6.1.

use crate::http1_head::Limits;
use crate::http1_scan::{HeadScan, is_value, token_prefix};
use crate::refusal::{FieldFault, Refusal};
use memchr::memchr;

/// A range of the message buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The bytes of `buf` this span names.
    pub fn of<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        &buf[self.start as usize..self.end as usize]
    }

    /// How many bytes it covers.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Names the data plane treats specially; everything else is [`Known::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the name it stands for
pub enum Known {
    Authorization,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    Other,
    ProxyAuthorization,
    ProxyConnection,
    Server,
    Te,
    Traceparent,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    /// Any name that begins with `x-envoy-`.
    XEnvoy,
    XForwardedClientCert,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    /// Any name that begins with `x-meshdp-`.
    XMeshdp,
    XRequestId,
}

impl Known {
    /// Classifies a field name, which must be a token, without regard to case.
    pub fn classify(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        let (spelling, known): (&[u8], Self) = match (name.len(), first | 0x20) {
            (2, b't') => (b"te", Self::Te),
            (4, b'h') => (b"host", Self::Host),
            (4, b'd') => (b"date", Self::Date),
            (6, b'c') => (b"cookie", Self::Cookie),
            (6, b'e') => (b"expect", Self::Expect),
            (6, b's') => (b"server", Self::Server),
            (7, b't') => (b"trailer", Self::Trailer),
            (7, b'u') => (b"upgrade", Self::Upgrade),
            (9, b'f') => (b"forwarded", Self::Forwarded),
            (10, b'c') => (b"connection", Self::Connection),
            (10, b'k') => (b"keep-alive", Self::KeepAlive),
            (10, b'u') => (b"user-agent", Self::UserAgent),
            (11, b't') => (b"traceparent", Self::Traceparent),
            (12, b'c') => (b"content-type", Self::ContentType),
            (13, b'a') => (b"authorization", Self::Authorization),
            (14, b'c') => (b"content-length", Self::ContentLength),
            (14, b'h') => (b"http2-settings", Self::Http2Settings),
            (16, b'p') => (b"proxy-connection", Self::ProxyConnection),
            (17, b't') => (b"transfer-encoding", Self::TransferEncoding),
            (19, b'p') => (b"proxy-authorization", Self::ProxyAuthorization),
            (_, b'x') => return Self::classify_extension(name),
            _ => return Self::Other,
        };
        if is_spelled(name, spelling) { known } else { Self::Other }
    }

    fn classify_extension(name: &[u8]) -> Self {
        let is = |spelling: &[u8]| is_spelled(name, spelling);
        let begins = |prefix: &[u8]| name.len() >= prefix.len() && is_spelled(&name[..prefix.len()], prefix);
        match name.len() {
            12 if is(b"x-request-id") => Self::XRequestId,
            15 if is(b"x-forwarded-for") => Self::XForwardedFor,
            16 if is(b"x-forwarded-host") => Self::XForwardedHost,
            16 if is(b"x-forwarded-port") => Self::XForwardedPort,
            17 if is(b"x-forwarded-proto") => Self::XForwardedProto,
            23 if is(b"x-forwarded-client-cert") => Self::XForwardedClientCert,
            _ if begins(b"x-envoy-") => Self::XEnvoy,
            _ if begins(b"x-meshdp-") => Self::XMeshdp,
            _ => Self::Other,
        }
    }

    /// Consumed by each hop (RFC 9110 7.6.1); never forwarded as it came.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::ProxyAuthorization
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    /// Framing and trusted names: a peer may neither disguise them nor have them dropped through `Connection`.
    pub fn is_protected(self) -> bool {
        matches!(
            self,
            Self::ContentLength
                | Self::Forwarded
                | Self::Host
                | Self::TransferEncoding
                | Self::XEnvoy
                | Self::XForwardedClientCert
                | Self::XForwardedFor
                | Self::XForwardedHost
                | Self::XForwardedPort
                | Self::XForwardedProto
                | Self::XMeshdp
                | Self::XRequestId
        )
    }
}

/// Compares without regard to case, for names of equal length. Among token bytes, setting bit 5 only lowers letters.
fn is_spelled(name: &[u8], spelling: &[u8]) -> bool {
    name.iter().zip(spelling).fold(0, |difference, (byte, lower)| difference | ((byte | 0x20) ^ lower)) == 0
}

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name as spelled.
    pub name: Span,
    /// The value without the white space around it.
    pub value: Span,
    /// What the name means to us.
    pub known: Known,
    /// Whether a `Connection` field names it, so that it ends at this hop.
    pub listed_in_connection: bool,
}

/// The fields of one message head, in wire order. Reused between messages: it keeps its memory.
///
/// It also remembers how far an incomplete head was scanned. A table that several connections share must be told whose
/// bytes come next: [`resume`](Self::resume) before each parse, [`suspend`](Self::suspend) after one that wants more.
#[derive(Debug, Default)]
pub struct FieldTable {
    fields: Vec<Field>,
    pub(crate) scan: HeadScan,
}

impl FieldTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all fields and any scan position, keeping memory.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.scan.reset();
    }

    /// Goes on where the scan of the same bytes was suspended; with `None` from their start.
    pub fn resume(&mut self, suspended: Option<HeadScan>) {
        match suspended {
            Some(scan) => self.scan = scan,
            None => self.scan.reset(),
        }
    }

    /// Takes out how far an incomplete head was scanned, to be kept beside its bytes.
    pub fn suspend(&mut self) -> HeadScan {
        std::mem::take(&mut self.scan)
    }

    /// The fields in wire order.
    pub fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.fields.iter()
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Every value of the field with this name, in wire order; the name is compared without regard to case.
    /// Fields that `Connection` lists are left out: they end at this hop, so no decision may see them.
    pub fn values<'t, 'b: 't>(&'t self, buf: &'b [u8], name_lower: &'t str) -> impl Iterator<Item = &'b [u8]> + 't {
        let wanted = name_lower.as_bytes();
        self.iter()
            .filter(move |field| !field.listed_in_connection && field.name.of(buf).eq_ignore_ascii_case(wanted))
            .map(move |field| field.value.of(buf))
    }

    /// Every field of this class, in wire order.
    pub fn known(&self, known: Known) -> impl Iterator<Item = &Field> {
        self.iter().filter(move |field| field.known == known)
    }

    /// Ends fields at this hop, as if `Connection` listed them: no decision sees them and they are not forwarded. Host stays.
    pub fn withhold(&mut self, buf: &[u8], mut taken: impl FnMut(&[u8], &[u8]) -> bool) {
        for field in self.fields.iter_mut().filter(|field| field.known != Known::Host && !field.listed_in_connection) {
            field.listed_in_connection = taken(field.name.of(buf), field.value.of(buf));
        }
    }

    /// Reads the field lines that the scan found, the first of which begins at `start`.
    pub(crate) fn read(&mut self, buf: &[u8], start: usize, limits: &Limits) -> Result<(), Refusal> {
        self.fields.clear();
        let mut at = start;
        for line_end in self.scan.line_ends() {
            self.fields.push(read_line(buf, at, *line_end as usize, limits)?);
            at = *line_end as usize + 2;
        }
        Ok(())
    }

    /// Marks every field that a `Connection` value lists. RFC 9110 7.6.1.
    pub(crate) fn mark_listed(&mut self, buf: &[u8], options: &mut ConnectionOptions) -> Result<(), Refusal> {
        for index in 0..self.fields.len() {
            if self.fields[index].known == Known::Connection {
                self.mark_one(buf, self.fields[index].value, options)?;
            }
        }
        Ok(())
    }

    fn mark_one(&mut self, buf: &[u8], value: Span, options: &mut ConnectionOptions) -> Result<(), Refusal> {
        for token in list(value.of(buf)) {
            options.count += 1;
            if options.count > MAX_CONNECTION_OPTIONS || Known::classify(token).is_protected() {
                return Err(Refusal::new(400, FieldFault::Connection));
            }
            if options.note(token) {
                continue;
            }
            for field in &mut self.fields {
                field.listed_in_connection |= field.name.of(buf).eq_ignore_ascii_case(token);
            }
        }
        Ok(())
    }
}

impl<'t> IntoIterator for &'t FieldTable {
    type Item = &'t Field;
    type IntoIter = std::slice::Iter<'t, Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What the `Connection` fields of one message ask for.
#[derive(Default)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    count: usize,
}

impl ConnectionOptions {
    /// Records an option that is not a field name; true when `token` was one.
    fn note(&mut self, token: &[u8]) -> bool {
        if token.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else {
            return false;
        }
        true
    }
}

/// The elements of a comma-separated value, without white space; empty ones are skipped. RFC 9110 5.6.1.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

fn read_line(buf: &[u8], start: usize, end: usize, limits: &Limits) -> Result<Field, Refusal> {
    let line = &buf[start..end];
    let (colon, underscore) = token_prefix(line);
    if colon == 0 || line.get(colon) != Some(&b':') {
        return Err(Refusal::new(400, name_fault(line)));
    }
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    if name.len() > limits.name_bytes || value.len() > limits.value_bytes {
        return Err(Refusal::new(431, FieldFault::TooLarge));
    }
    if !is_value(value) {
        return Err(Refusal::new(400, FieldFault::Value));
    }
    if underscore && is_alias(name) {
        return Err(Refusal::new(400, FieldFault::Alias));
    }
    let leading = line[colon + 1..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let value_start = if value.is_empty() { end } else { start + colon + 1 + leading };
    Ok(Field {
        name: Span::new(start, start + colon),
        value: Span::new(value_start, value_start + value.len()),
        known: Known::classify(name),
        listed_in_connection: false,
    })
}

/// Why a line does not begin with a token and a colon.
fn name_fault(line: &[u8]) -> FieldFault {
    match line.first() {
        Some(b' ' | b'\t') => FieldFault::Folded,
        _ if memchr(b':', line).is_none() => FieldFault::NoColon,
        _ => FieldFault::Name,
    }
}

/// Whether a name with underscores reads as a protected name at an origin that maps `_` and `-` to the same thing.
pub(crate) fn is_alias(name: &[u8]) -> bool {
    if name.len() > LONGEST_ALIAS {
        return false;
    }
    let mut spelled = [0; LONGEST_ALIAS];
    for (to, from) in spelled.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    Known::classify(&spelled[..name.len()]).is_protected()
}

/// Removes SP and HTAB around a value (OWS, RFC 9110 5.6.3), and nothing else.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// No protected name is longer, apart from the prefixes, which are matched at any length up to here.
const LONGEST_ALIAS: usize = 64;

/// How many options all `Connection` fields of a message may list; each costs a walk over the table.
const MAX_CONNECTION_OPTIONS: usize = 32;
