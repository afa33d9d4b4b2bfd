//! What a connection tells its engine while it eats bytes.
//!
//! In: calls from [`super::Connection::receive`], [`super::Connection::sent`] and [`super::Connection::turn`].
//! Out: whatever the engine does with them; it must not wait, and cannot reach the connection meanwhile.

use super::error::{ErrorCode, Side, StreamId};
use super::message::{RequestShape, ResponseShape};

/// What happened on a connection, in wire order. Every slice is borrowed: keep a copy or lose it.
///
/// A stream begins with `request` (server) or with [`super::Connection::open`] (client) and ends for receiving with exactly one of:
/// an `end` that is true, `trailers`, or `reset`. After an end, `reset` may still come for the half that we send (with
/// `NO_ERROR` it means: the answer is whole, spare the rest). After `reset` nothing comes for it. In every case the engine ends with
/// [`super::Connection::release`].
pub trait Events {
    /// A peer's request, as canonical HTTP/1.1 head with its final empty line. Server only.
    fn request(&mut self, id: StreamId, text: &[u8], shape: RequestShape, end: bool);
    /// A response head, interim ones too, without its final empty line. Client only.
    fn response(&mut self, id: StreamId, text: &[u8], shape: ResponseShape, end: bool);
    /// Body bytes; they count against the windows until [`super::Connection::consumed`].
    fn data(&mut self, id: StreamId, bytes: &[u8], end: bool);
    /// Checked trailers, `name: value\r\n` each; nothing follows.
    fn trailers(&mut self, id: StreamId, text: &[u8]);
    /// The stream is over before its end.
    fn reset(&mut self, id: StreamId, code: ErrorCode, by: Side);
    /// [`super::Connection::send_data`] took less than it was given before; now it takes more.
    fn writable(&mut self, id: StreamId);
    /// The peer's SETTINGS are in force: [`super::Connection::may_open`] may have changed.
    fn settings(&mut self) {}
    /// The peer sent GOAWAY. Streams of ours above `last` were already given up with `reset` and `REFUSED_STREAM`.
    fn go_away(&mut self, last: StreamId, code: ErrorCode) {
        let _ = (last, code);
    }
    /// The answer to [`super::Connection::ping`].
    fn pong(&mut self) {}
    /// A request that the core answered itself, because its head was above the limits (431). For the log; no stream began.
    fn answered(&mut self, id: StreamId, status: u16) {
        let _ = (id, status);
    }
    /// A request that the core refused with `RST_STREAM`, because its head was malformed. For the log; no stream began. The
    /// budget of patience bounds how often this comes.
    fn refused(&mut self, id: StreamId) {
        let _ = id;
    }
}
