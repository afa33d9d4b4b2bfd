//! Why a message that came over HTTP/2 is refused: a stable code for logs, one sentence for people, seldom a status.
//!
//! Fails: never; these are plain values. Source: RFC 9113 8.1.1 (a malformed message is a stream error).

use std::fmt;

/// The broken rule of a malformed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFault {
    /// A name that is not a token in lower case.
    Name,
    /// A control byte in a value, or white space around it.
    Value,
    /// An underscore spelling of a framing or trusted name.
    Alias,
    /// A field that belongs to one HTTP/1.1 connection, or `te` other than `trailers`.
    ConnectionSpecific,
    /// A pseudo-header that this message must have is missing, or one that it may not have is there.
    Pseudo,
    /// A pseudo-header given twice.
    RepeatedPseudo,
    /// A pseudo-header that nobody defined, or one of the other direction.
    UnknownPseudo,
    /// A pseudo-header behind a field, or in trailers.
    LatePseudo,
    /// A method that is not a token.
    Method,
    /// A scheme other than http and https.
    Scheme,
    /// Not a path that begins with a slash (nor `*` for OPTIONS), or a byte that may not stand in one.
    Path,
    /// Not a host with an optional port.
    Authority,
    /// `:authority` and `host` name different things, or `host` comes twice, or there is neither.
    Host,
    /// `:protocol` is not a token, or without a meaning.
    Protocol,
    /// `content-length` that is repeated or not a plain decimal number in range.
    ContentLength,
    /// A status that is not three digits from 100, or 101.
    Status,
    /// More fields or more bytes than the bound.
    TooLarge,
    /// A method and path longer than the bound.
    TooLong,
}

impl MessageFault {
    /// The status to answer with where the peer is honest and merely large; otherwise the stream is reset.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::TooLarge => Some(431),
            Self::TooLong => Some(414),
            _ => None,
        }
    }

    /// A stable `snake_case` code for logs and metrics.
    pub fn code(self) -> &'static str {
        self.text().0
    }

    /// One sentence for people.
    pub fn sentence(self) -> &'static str {
        self.text().1
    }

    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => ("field_name", "A field name must be a token in lower case."),
            Self::Value => ("field_value", "A field value may not hold control bytes, nor white space around it."),
            Self::Alias => ("field_alias", "A framing or trusted field may not be spelled with underscores."),
            Self::ConnectionSpecific => ("connection_field", "HTTP/2 has no fields that belong to one connection."),
            Self::Pseudo => ("pseudo_header", "A message must have the pseudo-headers of its kind and no others."),
            Self::RepeatedPseudo => ("repeated_pseudo_header", "A pseudo-header may be given once."),
            Self::UnknownPseudo => ("unknown_pseudo_header", "A pseudo-header must be one of the message's direction."),
            Self::LatePseudo => ("late_pseudo_header", "Pseudo-headers must come before all fields, not in trailers."),
            Self::Method => ("method", "The method must be a token."),
            Self::Scheme => ("scheme", "The scheme must be http or https."),
            Self::Path => ("path", "The path must begin with a slash and hold only visible ASCII."),
            Self::Authority => ("authority", "The authority must be a host with an optional port, at most 255 bytes."),
            Self::Host => ("host", "A request must name one host, the same in :authority and host."),
            Self::Protocol => ("protocol", "The protocol of an extended CONNECT must be a token."),
            Self::ContentLength => ("content_length", "Content-Length must come once, a decimal number below 2^60."),
            Self::Status => ("status", "The status must be three digits, 100 or above, and not 101."),
            Self::TooLarge => ("head_too_large", "The fields are more or larger than the bound."),
            Self::TooLong => ("first_line_too_long", "The method and path are longer than the bound."),
        }
    }
}

impl fmt::Display for MessageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.sentence(), self.code())
    }
}

impl std::error::Error for MessageFault {}
