//! Finds the end of a message head and checks its line ends, without rescanning when more bytes arrive.
//!
//! In: the buffer so far. Out: where the head ends. Limits: first line and head bytes.
//! Fails: a CR or LF outside CRLF, too many leading empty lines, a bound. Source: RFC 9112 2.2 (its leniency is declined).

use crate::http1_head::Limits;
use crate::refusal::{FieldFault, LineFault, Refusal};
use memchr::memchr2;

/// How far an incomplete head has been scanned. It belongs to the bytes of one connection.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// Every byte before this one has been looked at.
    scanned: usize,
    /// Where the current line starts.
    line_start: usize,
    /// Where the first line starts, after skipped empty lines.
    first_start: usize,
    /// Where the first line ends (its CR), once seen.
    first_end: Option<usize>,
    /// Where each field line ends (its CR).
    line_ends: Vec<u32>,
}

/// A whole head of `len` bytes, whose first line is `buf[first_start..first_end]`.
pub(crate) struct HeadExtent {
    pub(crate) first_start: usize,
    pub(crate) first_end: usize,
    pub(crate) len: usize,
}

impl HeadScan {
    /// Forgets everything but its memory.
    pub(crate) fn reset(&mut self) {
        self.line_ends.clear();
        *self = Self { line_ends: std::mem::take(&mut self.line_ends), ..Self::default() };
    }

    /// Where each field line of a whole head ends (its CR).
    pub(crate) fn line_ends(&self) -> &[u32] {
        &self.line_ends
    }

    /// Looks at the bytes it has not seen; `None` while the head is incomplete.
    pub(crate) fn advance(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<HeadExtent>, Refusal> {
        if self.scanned > buf.len() {
            self.reset();
        }
        while let Some(offset) = memchr2(b'\r', b'\n', &buf[self.scanned..]) {
            let at = self.scanned + offset;
            self.check_bounds(at, limits)?;
            match (buf[at], buf.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    if let Some(extent) = self.end_line(at, limits)? {
                        return Ok(Some(extent));
                    }
                }
                (b'\r', None) => {
                    self.scanned = at;
                    return Ok(None);
                }
                _ => return Err(Refusal::new(400, LineFault::LineEnd)),
            }
        }
        self.scanned = buf.len();
        self.check_bounds(buf.len(), limits)?;
        Ok(None)
    }

    /// Takes the CRLF whose CR stands at `at`.
    fn end_line(&mut self, at: usize, limits: &Limits) -> Result<Option<HeadExtent>, Refusal> {
        let empty = at == self.line_start;
        self.scanned = at + 2;
        self.line_start = at + 2;
        let Some(first_end) = self.first_end else {
            if !empty {
                self.first_end = Some(at);
                return Ok(None);
            }
            self.first_start = at + 2;
            if self.first_start > 2 * MAX_LEADING_LINES {
                return Err(Refusal::new(400, LineFault::LeadingLines));
            }
            return Ok(None);
        };
        if empty {
            return Ok(Some(HeadExtent { first_start: self.first_start, first_end, len: at + 2 }));
        }
        if self.line_ends.len() == limits.fields {
            return Err(Refusal::new(431, FieldFault::TooMany));
        }
        self.line_ends.push(at as u32);
        Ok(None)
    }

    fn check_bounds(&self, at: usize, limits: &Limits) -> Result<(), Refusal> {
        match self.first_end {
            None if at - self.first_start > limits.first_line_bytes => Err(Refusal::new(414, LineFault::TooLong)),
            _ if at + 2 > limits.head_bytes => Err(Refusal::new(431, FieldFault::TooLarge)),
            _ => Ok(()),
        }
    }
}

/// Whether every byte is a token byte and there is at least one. RFC 9110 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| TOKEN[*byte as usize])
}

/// How many bytes at the start are token bytes, and whether an underscore is among them.
pub(crate) fn token_prefix(bytes: &[u8]) -> (usize, bool) {
    let mut underscore = false;
    for (length, byte) in bytes.iter().enumerate() {
        if !TOKEN[*byte as usize] {
            return (length, underscore);
        }
        underscore |= *byte == b'_';
    }
    (bytes.len(), underscore)
}

/// Whether one byte may stand in a token.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether every byte may stand in a field value: HTAB, SP, VCHAR, obs-text. RFC 9110 5.5.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    // No branch in the loop, so that it is done many bytes at a time.
    bytes.iter().fold(true, |good, byte| good & is_value_byte(*byte))
}

/// Whether one byte may stand in a field value.
pub(crate) fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// How many empty lines before a first line are skipped. RFC 9112 2.2 asks for at least one.
pub(crate) const MAX_LEADING_LINES: usize = 4;

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&'
            | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};
