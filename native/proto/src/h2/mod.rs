//! HTTP/2 as a core without I/O.
//!
//! [`hpack`] turns field blocks into lists of fields and back, [`message`] those into canonical heads and back, and
//! [`connection`] is one connection in either role. Reading order: `error.rs`, `events.rs`, `connection.rs`.
//! Source: RFC 9113, RFC 7541, RFC 8441.

pub mod connection;
pub mod error;
pub mod events;
pub mod hpack;
pub mod message;

pub use connection::{Config, Connection, Role, Scratch};
pub use error::{ConnectionFault, ErrorCode, NotOpened, Side, StreamId};
pub use events::Events;
pub use message::{RequestShape, ResponseShape};

/// The input buffer that [`Connection::receive`] needs: the largest frame we allow (RFC 9113 6.5.2) and its header.
pub const MAX_INPUT_BYTES: usize = 16_384 + 9;
