//! Stand-in until job message is merged: the shapes of heads.
//!
//! Source: RFC 9113 8.

/// What the core needs to know of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestShape {
    /// The declared length of the body.
    pub content_length: Option<u64>,
}

/// What the core needs to know of a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseShape {
    /// The status code.
    pub status: u16,
    /// The declared length of the body.
    pub content_length: Option<u64>,
}
