//! Heads become HTTP/2 field blocks: the same fields in the same order, without those of one connection.
//!
//! In: a parsed HTTP/1.1 head or canonical text, the edits that the HTTP/1 encoder takes too. Out: a block appended to the
//! caller's buffer. Host becomes `:authority`; names are lowered. Nothing here allocates once that buffer has grown.
//! Fails: never. Source: RFC 9113 8.2.2, 8.3; attack case DG-15; decisions 0083, 0084.

use super::grpc::{GRPC_TYPE, grpc_status, write_grpc_message};
use super::indexing::indexing_of;
use super::origin::{NOTE_NAME, NoteWriter};
use super::request::Scheme;
use crate::h2::hpack::{Encoder, Indexing};
use crate::http1_fields::{Field, FieldTable, Known, list};
use crate::http1_forward::{LocalReply, RequestEdits, ResponseEdits};
use crate::http1_head::{Framing, RequestHead};
use crate::http1_reason::reason_phrase;
use crate::http1_response::ResponseHead;

/// A parsed head with the bytes it points into.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a, H> {
    /// The buffer it was parsed from.
    pub buf: &'a [u8],
    /// First line and framing.
    pub head: &'a H,
    /// Its fields.
    pub fields: &'a FieldTable,
}

/// What a request says over HTTP/2 beyond its head and its edits.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestMapping {
    /// `:scheme`
    pub scheme: Scheme,
    /// Add the origin note. Only towards meshdp peers, for a request that came as HTTP/1.1.
    pub note: bool,
    /// Make an upgrade into an extended CONNECT. Only where the peer allows it; otherwise an upgrade is left out.
    pub extended_connect: bool,
    /// The shape's `sensitive`: no value stays in a table here or on a later hop, as we do not know which one is the secret.
    pub sensitive: bool,
}

/// The same for a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseMapping {
    /// Add the origin note. Only towards meshdp peers, for a response that came as HTTP/1.1.
    pub note: bool,
    /// The shape's `sensitive`.
    pub sensitive: bool,
}

/// Appends the block of a request. `edits.origin` has no meaning here.
pub fn encode_request(
    encoder: &mut Encoder,
    request: &Message<RequestHead>,
    edits: &RequestEdits,
    mapping: &RequestMapping,
    out: &mut Vec<u8>,
) {
    let Message { buf, head, fields } = *request;
    let mut block = Block::new(encoder, mapping.sensitive, out);
    let host = edits.host.or(head.host.map(|span| span.of(buf))).unwrap_or_default();
    let upgrade = head.upgrade.filter(|_| mapping.extended_connect && !edits.drop.contains(&Known::Upgrade));
    if head.is_connect(buf) {
        block.exact(b":method", b"CONNECT");
        block.literal(b":authority", edits.target, Indexing::Add);
    } else {
        block.exact(b":method", if upgrade.is_some() { b"CONNECT" } else { head.method.of(buf) });
        if let Some(protocol) = upgrade {
            block.exact(b":protocol", protocol.of(buf));
        }
        block.exact(b":scheme", mapping.scheme.name().as_bytes());
        if !host.is_empty() {
            block.literal(b":authority", host, Indexing::Add);
        }
        block.literal(b":path", edits.target, Indexing::Without);
    }
    let framing = edits.framing.unwrap_or(head.framing);
    let mut note = mapping.note.then(NoteWriter::new);
    let mut host_noted: (&[u8], usize) = (b"Host", 0);
    for field in fields {
        if field.known == Known::Host {
            host_noted = (field.name.of(buf), note.as_ref().map_or(0, NoteWriter::place));
            if host.is_empty() && !head.is_connect(buf) {
                block.exact(b"host", b""); // an empty `:authority` is not legal, an empty Host is
            }
        } else {
            block.carry(buf, field, edits.drop, (framing, note.as_mut()));
        }
    }
    block.append(edits.append);
    if let Some(value) = note.as_mut().and_then(|note| note.finish_request(host_noted.0, host_noted.1)) {
        block.exact(NOTE_NAME, value);
    }
}

/// Appends the block of a response, an interim one too. `edits.close` and `edits.origin` have no meaning here.
pub fn encode_response(
    encoder: &mut Encoder,
    response: &Message<ResponseHead>,
    edits: &ResponseEdits,
    mapping: &ResponseMapping,
    out: &mut Vec<u8>,
) {
    let Message { buf, head, fields } = *response;
    let mut block = Block::new(encoder, mapping.sensitive, out);
    block.status(head.status);
    let framing = match (edits.framing.unwrap_or(head.framing), head.declared_length) {
        // HEAD and 304 may tell the length of the body they leave out; 1xx and 204 may not (RFC 9110 8.6).
        (Framing::None, Some(length)) if head.status >= 200 && head.status != 204 => Framing::Length(length),
        (framing, _) => framing,
    };
    let mut note = mapping.note.then(NoteWriter::new);
    for field in fields {
        block.carry(buf, field, edits.drop, (framing, note.as_mut()));
    }
    block.append(edits.append);
    let reason = head.reason.of(buf);
    let told = (reason != reason_phrase(head.status).as_bytes()).then_some(reason);
    if let Some(value) = note.as_mut().and_then(|note| note.finish_response(told)) {
        block.exact(NOTE_NAME, value);
    }
}

/// Appends the block of a response that is canonical text (`write_response`), final empty line or not.
pub fn encode_response_text(
    encoder: &mut Encoder,
    text: &[u8],
    edits: &ResponseEdits,
    mapping: &ResponseMapping,
    out: &mut Vec<u8>,
) {
    let mut block = Block::new(encoder, mapping.sensitive, out);
    let mut lines = lines(text);
    let status = lines.next().and_then(|line| line.get(9..12)).unwrap_or_default();
    block.exact(b":status", status);
    for (name, value) in lines.filter_map(split_line) {
        let known = Known::classify(name);
        let dropped = known == Known::XMeshdp || known.is_hop_by_hop() && known != Known::Trailer;
        if !dropped && !edits.drop.contains(&known) {
            block.field(known, name, value);
        }
    }
    block.append(edits.append);
}

/// Appends the block of an answer of ours and says whether its body follows as DATA; otherwise the block ends the stream.
pub fn encode_local_reply(encoder: &mut Encoder, reply: &LocalReply, out: &mut Vec<u8>) -> bool {
    let mut block = Block::new(encoder, false, out);
    if reply.grpc {
        block.status(200);
        block.exact(b"content-type", GRPC_TYPE);
        block.exact(b"grpc-status", Decimal::new(u64::from(grpc_status(reply.status))).text());
        block.grpc_message(reply.body);
    } else {
        block.status(reply.status);
        block.exact_length(reply.body.len() as u64);
        if !reply.content_type.is_empty() {
            block.exact(b"content-type", reply.content_type.as_bytes());
        }
    }
    block.append(reply.extra);
    !reply.grpc && !reply.to_head && !reply.body.is_empty()
}

/// Appends the block of trailers that are `name: value CRLF` lines with names in lower case.
pub fn encode_trailers(encoder: &mut Encoder, text: &[u8], out: &mut Vec<u8>) {
    let mut block = Block::new(encoder, false, out);
    for (name, value) in lines(text).filter_map(split_line) {
        block.field(Known::classify(name), name, value);
    }
}

/// A block that is being written.
struct Block<'b> {
    encoder: &'b mut Encoder,
    sensitive: bool,
    lowered: [u8; MAX_LOWERED],
    te: bool,
    cookie: bool,
    out: &'b mut Vec<u8>,
}

impl<'b> Block<'b> {
    fn new(encoder: &'b mut Encoder, sensitive: bool, out: &'b mut Vec<u8>) -> Self {
        Self { encoder, sensitive, lowered: [0; MAX_LOWERED], te: false, cookie: false, out }
    }

    /// A name and a value that are ours or are constants of the protocol.
    fn exact(&mut self, name: &[u8], value: &[u8]) {
        self.encoder.field(name, value, Indexing::Add, self.out);
    }

    /// A value of the message under a name in lower case.
    fn literal(&mut self, name: &[u8], value: &[u8], kind: Indexing) {
        let kind = if self.sensitive { Indexing::Never } else { kind };
        self.encoder.field(name, value, kind, self.out);
    }

    fn exact_length(&mut self, length: u64) {
        self.encoder.field(b"content-length", Decimal::new(length).text(), Indexing::Without, self.out);
    }

    fn status(&mut self, status: u16) {
        self.exact(b":status", Decimal::new(u64::from(status)).text());
    }

    /// A field of a received head, Host apart, unless it ends at this hop.
    fn carry(
        &mut self,
        buf: &[u8],
        field: &Field,
        drop: &[Known],
        (framing, note): (Framing, Option<&mut NoteWriter>),
    ) {
        let (name, value) = (field.name.of(buf), field.value.of(buf));
        match field.known {
            Known::XMeshdp => return,
            Known::Te => {
                // Connection lists it in every proper HTTP/1.1 request; over HTTP/2 it needs no such listing.
                if self.te || !list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")) {
                    return;
                }
                self.te = true;
                self.exact(b"te", b"trailers");
            }
            _ if field.listed_in_connection || drop.contains(&field.known) => return,
            Known::ContentLength => match framing {
                Framing::Length(length) => self.exact_length(length),
                _ => return,
            },
            Known::Trailer => self.field(field.known, name, value),
            known if known.is_hop_by_hop() => return,
            known => self.field(known, name, value),
        }
        let joined = field.known == Known::Cookie && std::mem::replace(&mut self.cookie, true);
        if let Some(note) = note.filter(|_| !joined) {
            note.add(name);
        }
    }

    fn field(&mut self, known: Known, name: &[u8], value: &[u8]) {
        if !name.iter().fold(false, |upper, byte| upper | byte.is_ascii_uppercase()) {
            return self.lowered_field(known, name, value);
        }
        let mut lowered = self.lowered;
        match lowered.get_mut(..name.len()) {
            Some(lowered) => {
                lowered.copy_from_slice(name);
                lowered.make_ascii_lowercase();
                self.lowered_field(known, lowered, value);
            }
            // Only limits far above the default let such a name in.
            None => self.lowered_field(known, &name.to_ascii_lowercase(), value),
        }
    }

    fn lowered_field(&mut self, known: Known, name: &[u8], value: &[u8]) {
        self.literal(name, value, indexing_of(known, name));
    }

    fn append(&mut self, fields: &[(&str, &[u8])]) {
        for (name, value) in fields {
            self.field(Known::classify(name.as_bytes()), name.as_bytes(), value);
        }
    }

    /// A refusal is rare, so its text may cost an allocation.
    fn grpc_message(&mut self, message: &[u8]) {
        if message.is_empty() {
            return;
        }
        let mut encoded = Vec::with_capacity(message.len());
        write_grpc_message(message, &mut encoded);
        self.encoder.field(b"grpc-message", &encoded, Indexing::Without, self.out);
    }
}

/// The lines of a text, without the empty one at its end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    Some((&line[..colon], line.get(colon + 2..).unwrap_or_default()))
}

/// A number in decimal digits, without an allocation.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(mut number: u64) -> Self {
        let (mut digits, mut start) = ([b'0'; 20], 20);
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start };
            }
        }
    }

    fn text(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// Names up to here are lowered in place; the default limit for names.
const MAX_LOWERED: usize = 256;
