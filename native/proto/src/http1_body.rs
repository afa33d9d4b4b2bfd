//! Body bytes are checked against their framing and re-framed for the next hop.
//!
//! In: bytes after a head, in any pieces. Out: chunked bodies as plain chunks (same sizes, no extensions, no trailers), or
//! bare for a next hop with frames of its own, trailers kept aside; other bodies as they came. Limits: extension and trailer
//! bytes per body. Fails: [`BodyFault`]; what was already appended must then never be completed. Source: RFC 9112 6 and 7.1.

use crate::http1_head::Framing;
use crate::http1_scan::{is_token_byte, is_value_byte};
use crate::http1_trailers::KeptTrailers;
use crate::refusal::{BodyFault, Refusal};
use std::io::Write;

/// Where in a body the next byte belongs.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    extension_bytes: usize,
    trailer_bytes: usize,
    /// Where trailers are kept in bare mode, in which only payload is appended.
    bare: Option<KeptTrailers>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    Chunk(ChunkPart),
}

/// Which byte of the chunked coding comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPart {
    Size { size: u64, digits: u8 },
    Extension { size: u64, part: ExtensionPart },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
}

/// Which byte of `;name=value` or `;name="value"` comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtensionPart {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
}

impl BodyDecoder {
    /// A decoder at the start of a body framed like this.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunk(ChunkPart::Size { size: 0, digits: 0 }),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0, trailer_bytes: 0, bare: None }
    }

    /// The same for a next hop with frames of its own: only payload is appended, [`trailers`](Self::trailers) are kept.
    pub fn bare(framing: Framing) -> Self {
        Self { bare: Some(KeptTrailers::default()), ..Self::new(framing) }
    }

    /// The trailers of a complete bare body that may go on, as `name: value CRLF` lines with names in lower case.
    pub fn trailers(&self) -> &[u8] {
        self.bare.as_ref().map_or(&[], KeptTrailers::text)
    }

    /// Whether the body is complete; further bytes belong to the next message.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// The bytes still to come of a body with a declared length; they may be copied without [`decode`](Self::decode).
    pub fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Whether the body runs until the peer closes; its bytes may be copied without [`decode`](Self::decode).
    pub fn until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Counts `n` bytes that were copied without [`decode`](Self::decode); `n` is at most [`length_left`](Self::length_left).
    pub fn consume_length(&mut self, n: u64) {
        if let State::Length(left) = self.state {
            assert!(n <= left, "copied {n} bytes of a body with {left} left");
            self.state = if n == left { State::Done } else { State::Length(left - n) };
        }
    }

    /// Takes bytes of the body, appends them re-framed to `out`, and says how many belonged to the body.
    /// A refusal carries 400; for a response body it means that both connections end without completing the message.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        match self.state {
            State::Done => Ok(0),
            State::Length(left) => {
                let taken = left.min(input.len() as u64);
                out.extend_from_slice(&input[..taken as usize]);
                self.consume_length(taken);
                Ok(taken as usize)
            }
            State::UntilClose => {
                out.extend_from_slice(input);
                Ok(input.len())
            }
            State::Chunk(part) => self.decode_chunked(part, input, out).map_err(|fault| Refusal::new(400, fault)),
        }
    }

    /// The peer closed its side: complete only where the framing says so.
    pub fn finish_on_eof(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_) | State::Chunk(_) => Err(Refusal::new(400, BodyFault::Truncated)),
        }
    }

    fn decode_chunked(&mut self, mut part: ChunkPart, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BodyFault> {
        let mut at = 0;
        while at < input.len() {
            if let ChunkPart::Data { left } = part {
                let taken = left.min((input.len() - at) as u64);
                out.extend_from_slice(&input[at..at + taken as usize]);
                at += taken as usize;
                part = if taken == left { ChunkPart::DataCr } else { ChunkPart::Data { left: left - taken } };
                continue;
            }
            let next = self.step(part, input[at], out)?;
            at += 1;
            let Some(next) = next else {
                self.state = State::Done;
                return Ok(at);
            };
            part = next;
        }
        self.state = State::Chunk(part);
        Ok(at)
    }

    /// Takes one byte outside chunk data; `None` after the last byte of the body.
    fn step(&mut self, part: ChunkPart, byte: u8, out: &mut Vec<u8>) -> Result<Option<ChunkPart>, BodyFault> {
        let next = match (part, byte) {
            (ChunkPart::Size { size, digits }, _) => step_size(size, digits, byte)?,
            (ChunkPart::Extension { size, part }, _) => self.step_extension(size, part, byte)?,
            (ChunkPart::SizeLf { size }, b'\n') => self.begin_chunk(size, out),
            (ChunkPart::DataCr, b'\r') => ChunkPart::DataLf,
            (ChunkPart::DataLf, b'\n') => {
                self.end_chunk(out);
                ChunkPart::Size { size: 0, digits: 0 }
            }
            (ChunkPart::FinalLf, b'\n') => {
                self.end_chunk(out);
                return Ok(None);
            }
            (ChunkPart::SizeLf { .. } | ChunkPart::DataCr | ChunkPart::DataLf | ChunkPart::FinalLf, _) => {
                return Err(BodyFault::LineEnd);
            }
            _ => self.step_trailer(part, byte)?,
        };
        Ok(Some(next))
    }

    fn begin_chunk(&self, size: u64, out: &mut Vec<u8>) -> ChunkPart {
        if self.bare.is_none() {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{size:x}\r\n");
        }
        if size == 0 { ChunkPart::TrailerStart } else { ChunkPart::Data { left: size } }
    }

    fn end_chunk(&self, out: &mut Vec<u8>) {
        if self.bare.is_none() {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// RFC 9112 7.1.1, without the white space it lets recipients tolerate.
    fn step_extension(&mut self, size: u64, part: ExtensionPart, byte: u8) -> Result<ChunkPart, BodyFault> {
        use ExtensionPart::{AfterQuoted, Name, NameStart, Quoted, QuotedPair, Value, ValueStart};
        self.extension_bytes += 1;
        if self.extension_bytes > MAX_EXTENSION_BYTES {
            return Err(BodyFault::ExtensionsTooLarge);
        }
        let next = match (part, byte) {
            (Name | Value | AfterQuoted, b'\r') => return Ok(ChunkPart::SizeLf { size }),
            (Name | Value | AfterQuoted, b';') => NameStart,
            (NameStart | Name, _) if is_token_byte(byte) => Name,
            (Name, b'=') => ValueStart,
            (ValueStart, b'"') => Quoted,
            (ValueStart | Value, _) if is_token_byte(byte) => Value,
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if is_value_byte(byte) => Quoted,
            _ => return Err(BodyFault::Extension),
        };
        Ok(ChunkPart::Extension { size, part: next })
    }

    /// Checks a trailer, and keeps or drops it: its fields are never merged into the head. RFC 9110 6.5.1.
    fn step_trailer(&mut self, part: ChunkPart, byte: u8) -> Result<ChunkPart, BodyFault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > MAX_TRAILER_BYTES {
            return Err(BodyFault::TrailersTooLarge);
        }
        let next = match (part, byte) {
            (ChunkPart::TrailerStart, b'\r') => ChunkPart::FinalLf,
            (ChunkPart::TrailerStart | ChunkPart::TrailerName, _) if is_token_byte(byte) => ChunkPart::TrailerName,
            (ChunkPart::TrailerName, b':') => ChunkPart::TrailerValue,
            (ChunkPart::TrailerValue, b'\r') => ChunkPart::TrailerLf,
            (ChunkPart::TrailerValue, _) if is_value_byte(byte) => ChunkPart::TrailerValue,
            (ChunkPart::TrailerLf, b'\n') => ChunkPart::TrailerStart,
            _ => return Err(BodyFault::Trailer),
        };
        match (&mut self.bare, next) {
            (Some(kept), ChunkPart::TrailerName | ChunkPart::TrailerValue) => kept.push(byte),
            (Some(kept), ChunkPart::TrailerLf) => kept.end_line()?,
            _ => {}
        }
        Ok(next)
    }
}

fn step_size(size: u64, digits: u8, byte: u8) -> Result<ChunkPart, BodyFault> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(ChunkPart::SizeLf { size }),
        b';' if digits > 0 => return Ok(ChunkPart::Extension { size, part: ExtensionPart::NameStart }),
        b'\n' if digits > 0 => return Err(BodyFault::LineEnd),
        _ => return Err(BodyFault::Size),
    };
    // A size that passed the check below has room for one more digit.
    let size = size * 16 + u64::from(digit);
    if digits == MAX_SIZE_DIGITS || size >= MAX_CHUNK {
        return Err(BodyFault::Size);
    }
    Ok(ChunkPart::Size { size, digits: digits + 1 })
}

/// Sixteen digits are all a 64-bit size can have; leading zeros count.
const MAX_SIZE_DIGITS: u8 = 16;

/// Chunks from here on are refused. It is far below the wrap of a 16-digit size.
const MAX_CHUNK: u64 = 1 << 59;

/// Extension bytes of all chunks of one body.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;

/// Trailer bytes of one body.
const MAX_TRAILER_BYTES: usize = 16 * 1024;
