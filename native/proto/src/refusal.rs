//! Why a message is refused: one status to answer with, one stable code for logs, one sentence for people.
//!
//! Fails: never; these are plain values. Reasons are grouped by the part of the message that broke the rule.

use std::fmt;

/// A refused message: the status to answer (a response to a refused *response* is 502) and the broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status for the local reply; the connection closes after it.
    pub status: u16,
    /// The broken rule.
    pub reason: RefusalReason,
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: impl Into<RefusalReason>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// A stable `snake_case` code for logs and metrics.
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason.sentence(), self.code())
    }
}

impl std::error::Error for Refusal {}

/// The broken rule, grouped by the part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The first line of a message.
    Line(LineFault),
    /// One header or trailer line.
    Field(FieldFault),
    /// How the body's length is declared.
    Framing(FramingFault),
    /// The Host header.
    Host(HostFault),
    /// The request target.
    Target(TargetFault),
    /// The body.
    Body(BodyFault),
}

impl RefusalReason {
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
            Self::Line(fault) => fault.text(),
            Self::Field(fault) => fault.text(),
            Self::Framing(fault) => fault.text(),
            Self::Host(fault) => fault.text(),
            Self::Target(fault) => fault.text(),
            Self::Body(fault) => fault.text(),
        }
    }
}

/// What is wrong with a request or status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// A CR or LF that is not part of CRLF.
    LineEnd,
    /// More empty lines before the message than are skipped.
    LeadingLines,
    /// Not `method SP target SP version`, or not `version SP status SP reason`.
    Shape,
    /// A method outside the known list.
    Method,
    /// A version that is not HTTP/1.0 or HTTP/1.1.
    Version,
    /// HTTP/1.0, which asks for an upgrade.
    LowVersion,
    /// Longer than the bound.
    TooLong,
    /// A status that is not three digits from 100.
    Status,
    /// A 101 that answers no upgrade.
    UnaskedSwitch,
    /// More interim responses than are forwarded.
    TooManyInterim,
}

impl LineFault {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::LineEnd => ("line_end", "A line must end with CRLF, and CR or LF may not stand alone."),
            Self::LeadingLines => ("leading_lines", "At most four empty lines may come before a message."),
            Self::Shape => ("first_line", "The first line must have three parts with one space between them."),
            Self::Method => ("unknown_method", "The method must be a registered HTTP method in capitals."),
            Self::Version => ("unknown_version", "The version must be HTTP/1.1."),
            Self::LowVersion => ("low_version", "HTTP/1.0 is not served; use HTTP/1.1."),
            Self::TooLong => ("first_line_too_long", "The first line is longer than its bound."),
            Self::Status => ("status", "The status must be three digits, 100 or above."),
            Self::UnaskedSwitch => ("unasked_switch", "A 101 must answer a request that asked for an upgrade."),
            Self::TooManyInterim => {
                ("too_many_interim", "At most ten interim responses may come before the final one.")
            }
        }
    }
}

/// What is wrong with a field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldFault {
    /// A line that begins with white space.
    Folded,
    /// A line without a colon.
    NoColon,
    /// An empty name, or a byte that is not a token in it.
    Name,
    /// A control byte in a value.
    Value,
    /// More fields than the bound.
    TooMany,
    /// More bytes than the bound.
    TooLarge,
    /// An underscore spelling of a framing or trusted name.
    Alias,
    /// `Connection` names a field that may not be dropped by a peer, or too many of them.
    Connection,
    /// An expectation other than one `100-continue`.
    Expect,
}

impl FieldFault {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Folded => ("folded_field", "A field line may not begin with white space."),
            Self::NoColon => ("no_colon", "A field line must be name, colon, value."),
            Self::Name => ("field_name", "A field name must be a token, with nothing before its colon."),
            Self::Value => ("field_value", "A field value may not hold control bytes."),
            Self::TooMany => ("too_many_fields", "The message has more fields than the bound."),
            Self::TooLarge => ("head_too_large", "The fields are larger than the bound."),
            Self::Alias => ("field_alias", "A framing or trusted field may not be spelled with underscores."),
            Self::Connection => ("connection_lists_protected", "Connection may not list framing or trusted fields."),
            Self::Expect => ("expectation", "The only expectation understood is one 100-continue."),
        }
    }
}

/// What is wrong with the declared body length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingFault {
    /// Both `Content-Length` and `Transfer-Encoding`.
    Both,
    /// `Content-Length` more than once.
    RepeatedLength,
    /// `Content-Length` that is not a plain decimal number in range.
    Length,
    /// `Transfer-Encoding` more than once.
    RepeatedCoding,
    /// `Transfer-Encoding` other than `chunked`.
    Coding,
    /// `Transfer-Encoding` in HTTP/1.0.
    CodingVersion,
}

impl FramingFault {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Both => ("length_and_coding", "Content-Length and Transfer-Encoding may not come together."),
            Self::RepeatedLength => ("repeated_length", "Content-Length may be given once."),
            Self::Length => ("content_length", "Content-Length must be a decimal number below 2^60."),
            Self::RepeatedCoding => ("repeated_coding", "Transfer-Encoding may be given once."),
            Self::Coding => ("transfer_coding", "The only Transfer-Encoding understood is chunked."),
            Self::CodingVersion => ("coding_in_http10", "HTTP/1.0 has no Transfer-Encoding."),
        }
    }
}

/// What is wrong with the Host header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFault {
    /// None in HTTP/1.1.
    Missing,
    /// More than one.
    Repeated,
    /// Not a host with an optional port.
    Invalid,
}

impl HostFault {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Missing => ("missing_host_header", "HTTP/1.1 needs a Host header."),
            Self::Repeated => ("repeated_host", "Host may be given once."),
            Self::Invalid => ("host", "Host must be a host name or address with an optional port."),
        }
    }
}

/// What is wrong with the request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFault {
    /// Neither a path nor an absolute http target (nor `*` for OPTIONS, nor host:port for CONNECT).
    Form,
    /// A byte that may not stand in a target.
    Byte,
    /// An absolute target with a bad authority.
    Authority,
    /// A path that cannot be normalised: it hides a NUL.
    Normalisation,
    /// `OPTIONS *`, which no route serves.
    Asterisk,
}

impl TargetFault {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Form => ("target_form", "The target must be a path beginning with a slash, or an http URL."),
            Self::Byte => ("target_byte", "The target may not hold control bytes, spaces or bytes above 0x7e."),
            Self::Authority => ("target_authority", "The target's authority must be a host with an optional port."),
            Self::Normalisation => ("path_normalization_failed", "The path may not hide a NUL."),
            Self::Asterisk => ("absolute_path_rejected", "The asterisk target is not routed."),
        }
    }
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// A chunk size that is not 1 to 16 hexadecimal digits below 2^59.
    Size,
    /// A malformed chunk extension.
    Extension,
    /// More extension bytes than the bound.
    ExtensionsTooLarge,
    /// Something other than CRLF after a chunk line or chunk data.
    LineEnd,
    /// A malformed trailer.
    Trailer,
    /// More trailers than the bound.
    TrailersTooLarge,
    /// The peer closed before the end.
    Truncated,
}

impl BodyFault {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Size => ("chunk_size", "A chunk size must be plain hexadecimal digits below 2^59."),
            Self::Extension => ("chunk_extension", "A chunk extension must be name or name=value."),
            Self::ExtensionsTooLarge => ("chunk_extensions_too_large", "Chunk extensions are larger than the bound."),
            Self::LineEnd => ("chunk_line_end", "Chunk lines and chunk data must end with CRLF."),
            Self::Trailer => ("trailer", "A trailer must be a well-formed field line."),
            Self::TrailersTooLarge => ("trailers_too_large", "Trailers are larger than the bound."),
            Self::Truncated => ("truncated_body", "The peer closed before the body ended."),
        }
    }
}

impl From<LineFault> for RefusalReason {
    fn from(fault: LineFault) -> Self {
        Self::Line(fault)
    }
}

impl From<FieldFault> for RefusalReason {
    fn from(fault: FieldFault) -> Self {
        Self::Field(fault)
    }
}

impl From<FramingFault> for RefusalReason {
    fn from(fault: FramingFault) -> Self {
        Self::Framing(fault)
    }
}

impl From<HostFault> for RefusalReason {
    fn from(fault: HostFault) -> Self {
        Self::Host(fault)
    }
}

impl From<TargetFault> for RefusalReason {
    fn from(fault: TargetFault) -> Self {
        Self::Target(fault)
    }
}

impl From<BodyFault> for RefusalReason {
    fn from(fault: BodyFault) -> Self {
        Self::Body(fault)
    }
}
