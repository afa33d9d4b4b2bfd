//! The bytes of a TLS `ClientHello` become its server name and its protocol list.
//!
//! In: the first bytes of a connection. Out: [`ClientHello`]. Limits: [`MAX_HELLO_BYTES`].
//! Fails: bytes that are not a `ClientHello` are [`Hello::NotTls`]. Source: RFC 8446 4.1.2 and 5.1, RFC 6066 3, RFC 7301 3.1.

use std::borrow::Cow;

/// What a `ClientHello` says before any key exchange. Owned only where the hello spans several TLS records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    sni: Option<Cow<'a, str>>,
    alpn: Cow<'a, [u8]>,
}

impl ClientHello<'_> {
    /// The server name as sent; compare it in lower case.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// The offered application protocols, in the client's order.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.alpn;
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let (protocol, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            Some(protocol)
        })
    }

    fn into_owned(self) -> ClientHello<'static> {
        ClientHello {
            sni: self.sni.map(|name| Cow::Owned(name.into_owned())),
            alpn: Cow::Owned(self.alpn.into_owned()),
        }
    }
}

/// What the first bytes are, as far as TLS is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello<'a> {
    /// They may still become a `ClientHello`.
    NeedMore,
    /// A whole, well-formed `ClientHello`.
    Complete(ClientHello<'a>),
    /// Not a `ClientHello`.
    NotTls,
}

/// Reads a `ClientHello` from the first bytes of a connection.
pub fn read_client_hello(bytes: &[u8]) -> Hello<'_> {
    match gather(bytes) {
        Gathered::NeedMore => Hello::NeedMore,
        Gathered::NotTls => Hello::NotTls,
        Gathered::Whole(body) => parse_body(body).map_or(Hello::NotTls, Hello::Complete),
        Gathered::Joined(body) => parse_body(&body).map_or(Hello::NotTls, |hello| Hello::Complete(hello.into_owned())),
    }
}

enum Gathered<'a> {
    NeedMore,
    NotTls,
    /// The handshake body lies in one record.
    Whole(&'a [u8]),
    /// The handshake body was put together from several records.
    Joined(Vec<u8>),
}

/// Walks the handshake records until the `ClientHello`'s body is complete.
fn gather(bytes: &[u8]) -> Gathered<'_> {
    let mut joined = Vec::new();
    let mut rest = bytes;
    while bytes.len() - rest.len() <= MAX_RECORD_BYTES {
        let Some(header) = rest.get(..RECORD_HEADER) else {
            return if could_be_record(rest) { Gathered::NeedMore } else { Gathered::NotTls };
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if !could_be_record(header) || length == 0 || length > MAX_RECORD {
            return Gathered::NotTls;
        }
        let available = &rest[RECORD_HEADER..rest.len().min(RECORD_HEADER + length)];
        let whole_record = available.len() == length;
        let gathered = if joined.is_empty() && whole_record { check_message(available) } else { Gathered::NeedMore };
        match gathered {
            Gathered::NeedMore => {}
            decided => return decided,
        }
        joined.extend_from_slice(available);
        match check_message(&joined) {
            Gathered::Whole(body) => return Gathered::Joined(body.to_vec()),
            Gathered::NeedMore if whole_record => rest = &rest[RECORD_HEADER + length..],
            Gathered::NotTls => return Gathered::NotTls,
            Gathered::NeedMore | Gathered::Joined(_) => return Gathered::NeedMore,
        }
    }
    Gathered::NotTls
}

/// Whether a complete `ClientHello` message stands at the start of the handshake stream.
fn check_message(stream: &[u8]) -> Gathered<'_> {
    if stream.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Gathered::NotTls;
    }
    let Some(header) = stream.get(..MESSAGE_HEADER) else { return Gathered::NeedMore };
    let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    if length > MAX_HELLO_BYTES {
        return Gathered::NotTls;
    }
    stream.get(MESSAGE_HEADER..MESSAGE_HEADER + length).map_or(Gathered::NeedMore, Gathered::Whole)
}

/// Content type handshake, legacy version 3.x.
fn could_be_record(start: &[u8]) -> bool {
    start.first().is_none_or(|kind| *kind == HANDSHAKE)
        && start.get(1).is_none_or(|major| *major == 3)
        && start.get(2).is_none_or(|minor| *minor <= 4)
}

fn parse_body(body: &[u8]) -> Option<ClientHello<'_>> {
    let mut reader = Reader(body);
    let version = reader.take(2)?;
    reader.take(RANDOM)?;
    let session = reader.vector8()?;
    let suites = reader.vector16()?;
    let compression = reader.vector8()?;
    if version[0] != 3 || session.len() > 32 || suites.len() < 2 || suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    let mut hello = ClientHello { sni: None, alpn: Cow::Borrowed(&[]) };
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return None;
    }
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let content = extensions.vector16()?;
        match kind {
            SERVER_NAME => hello.sni = Some(Cow::Borrowed(parse_server_name(content)?)),
            ALPN => hello.alpn = Cow::Borrowed(parse_alpn(content)?),
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066 3: a list with one host name, which is ASCII.
fn parse_server_name(content: &[u8]) -> Option<&str> {
    let mut reader = Reader(content);
    let mut names = Reader(reader.vector16()?);
    let kind = names.take(1)?;
    let name = names.vector16()?;
    let good = kind == [0] && names.0.is_empty() && reader.0.is_empty() && !name.is_empty();
    std::str::from_utf8(name).ok().filter(|name| good && name.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// RFC 7301 3.1: a list of non-empty names.
fn parse_alpn(content: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(content);
    let list = reader.vector16()?;
    let mut names = Reader(list);
    while !names.0.is_empty() {
        names.vector8().filter(|name| !name.is_empty())?;
    }
    (reader.0.is_empty() && !list.is_empty()).then_some(list)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.take(1)?[0]);
        self.take(length)
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([length[0], length[1]])))
    }
}

/// The largest `ClientHello` that is looked at; post-quantum key shares and many extensions fit many times.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// Records looked at: a hello cut into absurdly small ones is not waited for.
const MAX_RECORD_BYTES: usize = 2 * MAX_HELLO_BYTES;
/// RFC 8446 5.1.
const MAX_RECORD: usize = 16 * 1024;
const RANDOM: usize = 32;
const SERVER_NAME: &[u8] = &[0, 0];
const ALPN: &[u8] = &[0, 16];
