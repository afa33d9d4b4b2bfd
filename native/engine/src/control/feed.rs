//! The frames of the feed (`docs/feed.md`): a length, a kind, a body; without sockets.
//!
//! In:      bytes in pieces of any size.
//! Out:     [`Frame`]s in their order; [`encode`] makes the bytes of one.
//! Limits:  [`MAX_FRAME_BYTES`] of kind and body; memory follows what has arrived, never what a length promises.
//! Fails:   [`FrameError`], after which the stream means nothing any more and is closed.

use std::fmt;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which message, a capital letter.
    pub kind: u8,
    /// Its body.
    pub body: Vec<u8>,
}

/// Gathers bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Where a reader may append at least [`READ_BYTES`].
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next whole frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// [`FrameError`] as soon as a length is seen that no frame has.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((&length, rest)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let after = self.buffer.split_off(LENGTH_BYTES + length);
        let mut body = std::mem::replace(&mut self.buffer, after);
        let kind = body[LENGTH_BYTES];
        body.drain(..=LENGTH_BYTES);
        Ok(Some(Frame { kind, body }))
    }
}

/// The bytes of one frame.
///
/// # Errors
/// [`FrameError::TooLarge`] when the body does not fit.
pub fn encode(kind: u8, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let length = body.len() + 1;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(length));
    }
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + length);
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// A length that no frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Zero: not even a kind.
    Empty,
    /// Above [`MAX_FRAME_BYTES`].
    TooLarge(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(out, "a frame of length 0; expected at least its kind"),
            Self::TooLarge(length) => write!(out, "a frame of {length} bytes; expected at most {MAX_FRAME_BYTES}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The largest kind and body together.
pub const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// The room that a reader gets.
pub const READ_BYTES: usize = 16 * 1024;

const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            while let Some(frame) = decoder.frame().expect("good frames") {
                found.push(frame);
            }
        }
        assert!(decoder.buffer.is_empty(), "nothing is left over");
        found
    }

    #[test]
    fn frames_come_out_the_same_at_every_split() {
        let expected = [(b'T', b"{}".to_vec()), (b'K', Vec::new()), (b'E', vec![0, 0, 0, 9])]
            .map(|(kind, body)| Frame { kind, body });
        let bytes: Vec<u8> = expected.iter().flat_map(|f| encode(f.kind, &f.body).expect("it fits")).collect();
        assert_eq!(&bytes[..7], b"\x00\x00\x00\x03T{}");
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                assert_eq!(frames(&[&bytes[..first], &bytes[first..second], &bytes[second..]]), expected);
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(frames(&single), expected);
    }

    #[test]
    fn lengths_are_refused_from_their_four_bytes_alone() {
        let refused = |length: u32| {
            let mut decoder = Decoder::default();
            decoder.feed(&length.to_be_bytes());
            decoder.frame()
        };
        let limit = MAX_FRAME_BYTES as u32;
        assert_eq!(refused(0), Err(FrameError::Empty));
        assert_eq!(refused(limit), Ok(None));
        assert_eq!(refused(limit + 1), Err(FrameError::TooLarge(MAX_FRAME_BYTES + 1)));
        assert_eq!(refused(u32::MAX), Err(FrameError::TooLarge(u32::MAX as usize)));
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let body = vec![0; MAX_FRAME_BYTES];
        assert_eq!(encode(b'T', &body), Err(FrameError::TooLarge(MAX_FRAME_BYTES + 1)));
        assert_eq!(encode(b'T', &body[1..]).map(|bytes| bytes.len()), Ok(MAX_FRAME_BYTES + LENGTH_BYTES));
    }

    #[test]
    fn a_promised_length_takes_no_memory() {
        let mut decoder = Decoder::default();
        decoder.feed(&(MAX_FRAME_BYTES as u32).to_be_bytes());
        assert_eq!(decoder.frame(), Ok(None));
        assert!(decoder.room().capacity() < 2 * READ_BYTES);
    }
}
