//! The origin note: how a head was spelled that came as HTTP/1.1 and travels between two sidecars over HTTP/2.
//!
//! `x-meshdp-http1: 1.1[,CODES[,REST]]`. CODES has one code for each field behind Host in order: `l` for lower, `t` for
//! Title-Case, `u` for UPPER, `x` and hexadecimal digits for anything else (bit i of digit n: letter 4n + i is a capital);
//! what is not told is lower. REST of a request is Host's place and code where it is not `0t`, of a response the reason phrase
//! where it is not the standard one. It is the same for all requests of one client program, so the dynamic table holds it.
//! In: names as they leave; a parsed head. Out: a value; [`Origin`]. Limits: [`MAX_CODES_BYTES`]. Fails: a note that does not
//! fit its head is no note: spelling is then lower case, which HTTP allows. Source: decision 0084.

use crate::http1_fields::{Field, FieldTable, Known};

/// A note that fits the head it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    codes: &'a [u8],
    host_place: usize,
    host: Code<'a>,
    reason: Option<&'a [u8]>,
}

impl<'a> Origin<'a> {
    /// Reads the note of a request. Only for heads that came from a mesh peer over HTTP/2.
    pub fn of_request(buf: &'a [u8], fields: &FieldTable) -> Option<Self> {
        let (codes, rest) = read_note(buf, fields)?;
        let told = check_codes(codes, buf, fields)?;
        let (host_place, host) = rest.map_or(Some((0, Code::Title)), read_host)?;
        (host_place <= told).then_some(Self { codes, host_place, host, reason: None })
    }

    /// Reads the note of a response. Only for heads that came from a mesh peer over HTTP/2.
    pub fn of_response(buf: &'a [u8], fields: &FieldTable) -> Option<Self> {
        let (codes, reason) = read_note(buf, fields)?;
        check_codes(codes, buf, fields)?;
        Some(Self { codes, host_place: 0, host: Code::Title, reason })
    }

    /// The reason phrase where it was not the standard one.
    pub(crate) fn reason(&self) -> Option<&'a [u8]> {
        self.reason
    }

    /// Calls `push` for every field as it stood in the original head: the field, and how its name was spelled.
    pub(crate) fn restore<'t>(&self, buf: &[u8], fields: &'t FieldTable, mut push: impl FnMut(&'t Field, Code<'a>)) {
        let host = fields.known(Known::Host).next();
        let mut codes = self.codes;
        let mut place = 0;
        for field in spelled(fields) {
            if let Some(host) = host.filter(|_| place == self.host_place) {
                push(host, self.host);
            }
            push(field, Code::take(&mut codes, field.name.of(buf)).unwrap_or(Code::Lower));
            place += 1;
        }
        if let Some(host) = host.filter(|_| place == self.host_place) {
            push(host, self.host);
        }
    }
}

/// The fields that codes are told for.
fn spelled(fields: &FieldTable) -> impl Iterator<Item = &Field> {
    fields.iter().filter(|field| !matches!(field.known, Known::Host | Known::XMeshdp))
}

/// Splits the one note of a head.
fn read_note<'a>(buf: &'a [u8], fields: &FieldTable) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let mut notes = fields.known(Known::XMeshdp).filter(|field| field.name.of(buf) == NOTE_NAME);
    let note = notes.next().filter(|_| notes.next().is_none())?;
    let mut parts = note.value.of(buf).splitn(3, |byte| *byte == b',');
    let version = parts.next()?;
    let codes = parts.next().unwrap_or_default();
    (version == VERSION && codes.len() <= MAX_CODES_BYTES).then(|| (codes, parts.next()))
}

/// How many fields may be told of, when every code fits its name and none is left over.
fn check_codes(mut codes: &[u8], buf: &[u8], fields: &FieldTable) -> Option<usize> {
    let mut told = 0;
    for field in spelled(fields) {
        Code::take(&mut codes, field.name.of(buf))?;
        told += 1;
    }
    codes.is_empty().then_some(told)
}

/// Reads Host's place among the fields and its code.
fn read_host(rest: &[u8]) -> Option<(usize, Code<'_>)> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut code = &rest[digits..];
    if digits == 0 || digits > MAX_PLACE_DIGITS || code.is_empty() {
        return None;
    }
    let place = rest[..digits].iter().fold(0, |place, digit| place * 10 + usize::from(digit - b'0'));
    let spelling = Code::take(&mut code, b"host")?;
    code.is_empty().then_some((place, spelling))
}

/// How one name is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code<'a> {
    Lower,
    Title,
    Upper,
    /// A digit for every four bytes of the name.
    Pattern(&'a [u8]),
}

impl<'a> Code<'a> {
    /// Takes the code of `name` off the front; at the end of the codes every name is lower.
    fn take(codes: &mut &'a [u8], name: &[u8]) -> Option<Self> {
        let Some((first, rest)) = codes.split_first() else { return Some(Self::Lower) };
        *codes = rest;
        match first {
            b'l' => Some(Self::Lower),
            b't' => Some(Self::Title),
            b'u' => Some(Self::Upper),
            b'x' => {
                let (digits, rest) = rest.split_at_checked(name.len().div_ceil(4))?;
                *codes = rest;
                let fits = |(digit, letters): (&u8, &[u8])| hex_value(*digit).is_some_and(|bits| fits(bits, letters));
                digits.iter().zip(name.chunks(4)).all(fits).then_some(Self::Pattern(digits))
            }
            _ => None,
        }
    }

    /// Appends `name`, which is in lower case, in this spelling.
    pub(crate) fn push(self, name: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(name);
        let spelled = &mut out[start..];
        match self {
            Self::Lower => {}
            Self::Upper => spelled.make_ascii_uppercase(),
            Self::Title => {
                let mut begins = true;
                for byte in spelled {
                    if begins {
                        byte.make_ascii_uppercase();
                    }
                    begins = *byte == b'-';
                }
            }
            Self::Pattern(digits) => {
                for (letters, digit) in spelled.chunks_mut(4).zip(digits) {
                    let bits = hex_value(*digit).unwrap_or(0);
                    for (place, byte) in letters.iter_mut().enumerate() {
                        if bits >> place & 1 == 1 {
                            byte.make_ascii_uppercase();
                        }
                    }
                }
            }
        }
    }
}

/// Whether every bit that is set stands for a letter.
fn fits(bits: u8, letters: &[u8]) -> bool {
    (0..4).all(|place| bits >> place & 1 == 0 || letters.get(place).is_some_and(u8::is_ascii_lowercase))
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Collects the codes of the fields that are sent.
pub(super) struct NoteWriter {
    text: [u8; NOTE_ROOM],
    len: usize,
    /// Where the last code ends that is not `l`.
    told: usize,
    /// How many fields were sent.
    place: usize,
    /// Codes did not fit.
    full: bool,
}

impl NoteWriter {
    pub(super) fn new() -> Self {
        let mut text = [0; NOTE_ROOM];
        text[..VERSION.len()].copy_from_slice(VERSION);
        text[VERSION.len()] = b',';
        Self { text, len: VERSION.len() + 1, told: VERSION.len(), place: 0, full: false }
    }

    /// Notes how a field is spelled that is sent.
    pub(super) fn add(&mut self, name: &[u8]) {
        self.place += 1;
        self.push_code(name, NOTE_ROOM - REST_ROOM);
    }

    /// How many fields were sent so far.
    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// The value for a request whose Host was spelled like this at this place; nothing when it would be too long.
    pub(super) fn finish_request(&mut self, host: &[u8], place: usize) -> Option<&[u8]> {
        if place != 0 || host != b"Host" {
            self.begin_rest();
            if place >= 100 {
                self.put(b'0' + (place / 100 % 10) as u8, NOTE_ROOM);
            }
            if place >= 10 {
                self.put(b'0' + (place / 10 % 10) as u8, NOTE_ROOM);
            }
            self.put(b'0' + (place % 10) as u8, NOTE_ROOM);
            self.full |= place >= 1000;
            self.push_code(host, NOTE_ROOM);
            self.told = self.len;
        }
        (!self.full).then_some(&self.text[..self.told])
    }

    /// The value for a response; `reason` where it is not the standard one.
    pub(super) fn finish_response(&mut self, reason: Option<&[u8]>) -> Option<&[u8]> {
        if let Some(reason) = reason {
            self.begin_rest();
            // White space at the end of a value is a fault in HTTP/2, so such a phrase cannot be told.
            self.full |= matches!(reason.last(), Some(b' ' | b'\t')) || self.len + reason.len() > NOTE_ROOM;
            if !self.full {
                self.text[self.len..self.len + reason.len()].copy_from_slice(reason);
                self.told = self.len + reason.len();
            }
        }
        (!self.full).then_some(&self.text[..self.told])
    }

    /// Drops the codes that need not be told and begins the third part.
    fn begin_rest(&mut self) {
        self.len = self.told.max(VERSION.len() + 1);
        self.put(b',', NOTE_ROOM);
    }

    fn push_code(&mut self, name: &[u8], room: usize) {
        let (mut upper, mut lower, mut title, mut begins) = (false, false, true, true);
        for byte in name {
            upper |= byte.is_ascii_uppercase();
            lower |= byte.is_ascii_lowercase();
            title &= if begins { !byte.is_ascii_lowercase() } else { !byte.is_ascii_uppercase() };
            begins = *byte == b'-';
        }
        match (upper, lower) {
            (false, _) => self.put(b'l', room),
            (true, _) if title => self.put(b't', room),
            (true, false) => self.put(b'u', room),
            (true, true) => self.push_pattern(name, room),
        }
        if upper {
            self.told = self.len;
        }
    }

    fn push_pattern(&mut self, name: &[u8], room: usize) {
        self.put(b'x', room);
        for letters in name.chunks(4) {
            let bits = letters.iter().rev().fold(0, |bits, byte| bits << 1 | usize::from(byte.is_ascii_uppercase()));
            self.put(b"0123456789abcdef"[bits], room);
        }
    }

    fn put(&mut self, byte: u8, room: usize) {
        if self.len < room {
            self.text[self.len] = byte;
            self.len += 1;
        } else {
            self.full = true;
        }
    }
}

/// The field's name.
pub(crate) const NOTE_NAME: &[u8] = b"x-meshdp-http1";

const VERSION: &[u8] = b"1.1";

/// How long the codes of a note that is read may be.
const MAX_CODES_BYTES: usize = NOTE_ROOM;

/// How long a note may be that is written; with more to tell there is none.
const NOTE_ROOM: usize = 320;

/// What codes leave for the third part.
const REST_ROOM: usize = 64;

/// There are fewer than a thousand fields.
const MAX_PLACE_DIGITS: usize = 3;
