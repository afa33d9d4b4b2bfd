//! How streams and connections end: the codes of the wire, and the one fault that ends a connection.
//!
//! Fails: never; these are plain values. Source: RFC 9113 5.4, 7.

use std::fmt;

/// A stream's identifier; clients open odd ones. RFC 9113 5.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The highest identifier there is; also "no stream is refused yet" in a graceful GOAWAY. RFC 9113 6.8.
    pub const MAX: Self = Self(0x7fff_ffff);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a stream or connection ends. Unknown codes are kept and mean nothing special. RFC 9113 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u32);

#[allow(missing_docs, reason = "the names are the standard's")]
impl ErrorCode {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xa);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    /// The standard's name in `snake_case`, for logs.
    pub fn name(self) -> &'static str {
        match self.0 {
            0x0 => "no_error",
            0x1 => "protocol_error",
            0x2 => "internal_error",
            0x3 => "flow_control_error",
            0x4 => "settings_timeout",
            0x5 => "stream_closed",
            0x6 => "frame_size_error",
            0x7 => "refused_stream",
            0x8 => "cancel",
            0x9 => "compression_error",
            0xa => "connect_error",
            0xb => "enhance_your_calm",
            0xc => "inadequate_security",
            0xd => "http_1_1_required",
            _ => "unknown",
        }
    }
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer said so: `RST_STREAM`, or a GOAWAY below the stream (then the code is `REFUSED_STREAM`: it was not processed).
    Peer,
    /// The core did, because the peer broke a rule on this stream; `RST_STREAM` is in the output.
    Local,
}

/// The peer broke a rule of the connection: GOAWAY is in the output, nothing further is read, every stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFault {
    /// The code in the GOAWAY.
    pub code: ErrorCode,
    /// The broken rule in one sentence, for people.
    pub why: &'static str,
}

impl fmt::Display for ConnectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.code.name())
    }
}

impl std::error::Error for ConnectionFault {}

/// Why no stream can be opened; in every case another connection may take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The peer's `SETTINGS_MAX_CONCURRENT_STREAMS` is reached; a stream may end.
    Limit,
    /// One side sent GOAWAY, or the connection failed.
    GoingAway,
    /// All identifiers are used (RFC 9113 5.1.1).
    Exhausted,
}
