//! Nine bytes say what a frame is; a few more make the frames that we send.
//!
//! In: the first nine bytes of a frame. Out: [`Header`]; bytes of control frames. Fails: never; what a frame may be is
//! decided where it is treated. Source: RFC 9113 4.1, 6.

use super::error::{ErrorCode, StreamId};

/// The length of every frame's header.
pub(super) const HEADER_BYTES: usize = 9;
/// The largest payload we take: the standard's default, never raised (RFC 9113 4.2).
pub(super) const MAX_PAYLOAD: usize = 16_384;
/// What a client sends before its first frame (RFC 9113 3.4).
pub(super) const MAGIC: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 6).
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

/// Flags; ACK and `END_STREAM` are the same bit of different frames.
pub(super) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) id: StreamId,
}

impl Header {
    /// The reserved bit is ignored (RFC 9113 4.1).
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [a, b, c, kind, flags, id @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            id: StreamId(u32::from_be_bytes(id) & StreamId::MAX.0),
        }
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The header of a frame that we send.
pub(super) fn header(length: usize, kind: u8, flags: u8, id: StreamId) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
    bytes[3] = kind;
    bytes[4] = flags;
    bytes[5..].copy_from_slice(&id.0.to_be_bytes());
    bytes
}

/// Appends `RST_STREAM`.
pub(super) fn put_reset(out: &mut Vec<u8>, id: StreamId, code: ErrorCode) {
    out.extend_from_slice(&header(4, kind::RST_STREAM, 0, id));
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends `WINDOW_UPDATE`.
pub(super) fn put_window_update(out: &mut Vec<u8>, id: StreamId, increment: u32) {
    out.extend_from_slice(&header(4, kind::WINDOW_UPDATE, 0, id));
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Appends PING.
pub(super) fn put_ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    out.extend_from_slice(&header(8, kind::PING, flags, StreamId(0)));
    out.extend_from_slice(&payload);
}

/// Appends GOAWAY without debug data.
pub(super) fn put_go_away(out: &mut Vec<u8>, last: StreamId, code: ErrorCode) {
    out.extend_from_slice(&header(8, kind::GOAWAY, 0, StreamId(0)));
    out.extend_from_slice(&last.0.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// The big-endian number at the start of `bytes`, which are at least four.
pub(super) fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
