//! HTTP/2 as a core without I/O.
//!
//! [`hpack`] turns field blocks into lists of fields and back, [`message`] those into canonical heads and back, and
//! [`connection`] is one connection in either role. Reading order: `error.rs`, `events.rs` (what an engine sees),
//! `connection.rs`; then the way in: `frame.rs`, `receive.rs` (DATA), `headers.rs` (field blocks), `control.rs` (all else) with
//! `settings.rs`, `budget.rs` (patience) and `recent.rs` (streams that are over); then the way out: `send.rs`,
//! `turn.rs` (fairness), `output.rs`. Both ways know `stream.rs` and `window.rs`.
//! Source: RFC 9113, RFC 7541, RFC 8441; decisions 0081, 0082.

mod budget;
pub mod connection;
mod control;
pub mod error;
pub mod events;
mod frame;
mod headers;
pub mod hpack;
pub mod message;
mod output;
mod receive;
mod recent;
mod send;
mod settings;
mod stream;
mod turn;
mod window;

pub use connection::{Config, Connection, Role, Scratch};
pub use error::{ConnectionFault, ErrorCode, NotOpened, Side, StreamId};
pub use events::Events;
pub use message::{RequestShape, ResponseShape};

/// The input buffer that [`Connection::receive`] needs: the largest frame we allow (RFC 9113 6.5.2) and its header.
pub const MAX_INPUT_BYTES: usize = frame::MAX_PAYLOAD + frame::HEADER_BYTES;
