//! The trailers of a chunked body are kept for a next hop that can carry them.
//!
//! In: the bytes of well-formed trailer lines. Out: `name: value CRLF` lines, names in lower case; names that frame, route,
//! authenticate or are trusted are left out. Limits: [`MAX_TRAILERS`], and the bytes of `http1_body`.
//! Fails: [`BodyFault`]. Source: RFC 9110 6.5.1; attack case H1-33.

use crate::h2::message::forwards_trailer;
use crate::http1_fields::{Known, is_alias, trim};
use crate::refusal::BodyFault;

/// The lines so far.
#[derive(Debug, Default)]
pub(crate) struct KeptTrailers {
    text: Vec<u8>,
    /// Where the line that is being read begins.
    line: usize,
    count: usize,
}

impl KeptTrailers {
    /// The whole lines.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text[..self.line]
    }

    /// Takes a byte of a line.
    pub(crate) fn push(&mut self, byte: u8) {
        self.text.push(byte);
    }

    /// Makes `Name:  value` into `name: value CRLF`, or forgets it.
    pub(crate) fn end_line(&mut self) -> Result<(), BodyFault> {
        self.count += 1;
        if self.count > MAX_TRAILERS {
            return Err(BodyFault::TrailersTooLarge);
        }
        let line = &mut self.text[self.line..];
        let colon = memchr::memchr(b':', line).ok_or(BodyFault::Trailer)?;
        line[..colon].make_ascii_lowercase();
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if is_alias(name) || !forwards_trailer(Known::classify(name), name) {
            self.text.truncate(self.line);
            return Ok(());
        }
        let leading = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let length = trim(value).len();
        let start = self.line + colon + 1;
        self.text.truncate(start + leading + length);
        self.text.splice(start..start + leading, *b" ");
        self.text.extend_from_slice(b"\r\n");
        self.line = self.text.len();
        Ok(())
    }
}

/// As many as fields of a head.
const MAX_TRAILERS: usize = 100;
