//! HTTP/2 as a core without I/O.
//!
//! [`hpack`] turns field blocks into lists of fields and back, [`message`] lists of fields into heads and back.
//! Source: RFC 9113, RFC 7541.

pub mod hpack;
pub mod message;
