//! Flow control: what the peer may still send, what we may.
//!
//! [`ReceiveWindow`] is a ledger: `available + unread + pending = size`, where `unread` is kept by the engine. Every byte
//! of flow-controlled payload, padding included, goes through it once. It grows with use: when a window was read
//! whole since the last growth, it doubles, up to its bound. Limits: [`MAX_STREAM_WINDOW`], [`MAX_CONNECTION_WINDOW`].
//! Fails: [`Overrun`].
//! Readers that stall: what they leave unread is parked beside the connection's window as far as the engine allows, then those
//! are reset that have stalled longest, so that the others go on. Source: RFC 9113 5.2, 6.9; decisions 0082 and 0102.

use super::connection::Connection;
use super::error::{ErrorCode, Side, StreamId};
use super::events::Events;
use super::frame;
use super::stream::State;

/// How far a stream's receive window grows.
pub(super) const MAX_STREAM_WINDOW: u32 = 1 << 20;
/// How far a connection's receive window grows: the most that all readers together can leave unread.
pub(super) const MAX_CONNECTION_WINDOW: u32 = 4 << 20;
/// A stream's window grows to this part of its connection's at most, so that no reader who stalls can pin the others.
pub(super) const STREAM_SHARE: u32 = 4;
/// The largest window there is.
pub(super) const MAX_WINDOW: i64 = 0x7fff_ffff;
/// The part of a connection's window that is to be free of readers who stall, as long as what they leave may be parked.
const ROOM_SHARE: u32 = 4;
/// The part below which they are reset, until twice as much is free.
const NARROW_SHARE: u32 = 16;
/// Credit to a connection that its readers have nearly used up: no less at a time.
const LEAST_CREDIT: u32 = 64 << 10;
/// Looks, of 100 ms, for which a reader has stalled before its stream may be reset for the sake of others.
const PATIENCE: u32 = 20;
/// Both windows before SETTINGS and `WINDOW_UPDATE` say otherwise.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// A window was exceeded, or raised beyond [`MAX_WINDOW`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

/// What the peer may send us.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveWindow {
    size: u32,
    available: u32,
    pending: u32,
    /// Read since the window last grew.
    used: u32,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self { size, available: size, pending: 0, used: 0 }
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn available(&self) -> u32 {
        self.available
    }

    /// Whether the credit that waits is most of what the peer may send, because much is left unread.
    pub(super) fn is_scarce(&self) -> bool {
        self.pending >= LEAST_CREDIT && self.pending >= self.available
    }

    /// What the peer may send, and what it may once it is told.
    fn room(&self) -> u32 {
        self.available + self.pending
    }

    /// The credit that waits, without waiting for half the window.
    fn give_all(&mut self) -> Option<u32> {
        let credit = std::mem::take(&mut self.pending);
        self.available += credit;
        (credit > 0).then_some(credit)
    }

    /// The peer sent `n` bytes of flow-controlled payload.
    pub(super) fn take(&mut self, n: u32) -> Result<(), Overrun> {
        self.available = self.available.checked_sub(n).ok_or(Overrun)?;
        Ok(())
    }

    /// `n` bytes were read (or were padding, or nobody's). Returns the credit to send now, if it is time:
    /// when half the window waits to be given back.
    pub(super) fn give_back(&mut self, n: u32, most: u32) -> Option<u32> {
        self.pending += n;
        self.used = self.used.saturating_add(n);
        debug_assert!(self.available + self.pending <= self.size, "credit for bytes that never came");
        if self.pending < self.size / 2 || self.pending == 0 {
            return None;
        }
        let mut credit = self.pending;
        if self.used >= self.size && self.size < most {
            let size = most.min(self.size.saturating_mul(2));
            credit += size - self.size;
            self.size = size;
            self.used = 0;
        }
        self.pending = 0;
        self.available += credit;
        Some(credit)
    }
}

impl Connection {
    /// Once per sweep of the engine: notes which readers have not read what was there at the look before. False while nobody
    /// can be in anybody's way.
    pub fn look(&mut self) -> bool {
        if self.receive_window.available >= self.receive_window.size / 2 {
            return false;
        }
        for slot in 0..self.streams.places() {
            let stream = self.streams.at(slot);
            if stream.behind > 0 {
                stream.looks = stream.looks.saturating_add(1);
            } else {
                (stream.behind, stream.looks) = (stream.unread, 0);
            }
        }
        true
    }

    /// Makes room in a window that readers have used up who stall: parks at most `most` bytes; where that is not enough, resets
    /// (CANCEL, by us) those that have stalled longest, if for [`PATIENCE`] looks. How many bytes it parked.
    pub fn relieve(&mut self, most: u32, events: &mut impl Events) -> u32 {
        let (size, mut parked) = (self.receive_window.size, 0);
        if self.failed || self.receive_window.room() >= size / ROOM_SHARE {
            return 0;
        }
        while self.receive_window.room() < size / ROOM_SHARE {
            let more = self.park_one(most - parked);
            if more == 0 {
                break;
            }
            parked += more;
        }
        if self.receive_window.room() < size / NARROW_SHARE {
            while self.receive_window.room() < size / NARROW_SHARE * 2 && self.drop_one(events) {}
        }
        self.credit_all();
        parked
    }

    /// Gives the connection the credit that waits.
    pub(super) fn credit_all(&mut self) {
        if let Some(credit) = self.receive_window.give_all() {
            frame::put_window_update(&mut self.output.bytes, StreamId(0), credit);
        }
    }

    /// Bytes unread beyond what the window allows for.
    pub fn parked(&self) -> u32 {
        self.parked
    }

    /// Parks what the reader that leaves most unread has left, or `most` of it; how many bytes.
    fn park_one(&mut self, most: u32) -> u32 {
        let unparked = |slot: &u32| {
            let stream = self.streams.get(*slot);
            stream.unread - stream.parked
        };
        let stalled = self.streams.all().filter(|slot| self.streams.get(*slot).is_stalled(1));
        let Some(slot) = stalled.max_by_key(unparked) else { return 0 };
        let stream = self.streams.at(slot);
        let more = (stream.unread - stream.parked).min(most);
        stream.parked += more;
        self.parked += more;
        self.credit(more);
        more
    }

    /// Resets the stream whose reader has stalled longest; false where none has for long.
    fn drop_one(&mut self, events: &mut impl Events) -> bool {
        let stalled = self.streams.all().filter(|slot| self.streams.get(*slot).is_stalled(PATIENCE));
        let longest = stalled.max_by_key(|slot| {
            let stream = self.streams.get(*slot);
            (stream.looks, std::cmp::Reverse(stream.id))
        });
        let Some(slot) = longest else { return false };
        let stream = self.streams.get(slot);
        let (id, over) = (stream.id, stream.state.is_over());
        self.give_up(slot, State::RESET_BY_US);
        events.reset(id, ErrorCode::CANCEL, Side::Local);
        if over {
            self.active += 1; // as every stream that was reset, until it is released
        } else {
            frame::put_reset(&mut self.output.bytes, id, ErrorCode::CANCEL);
        }
        true
    }
}

/// What we may send: it goes below zero when the peer lowers `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 6.9.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct SendWindow(i32);

impl SendWindow {
    pub(super) fn new(size: u32) -> Self {
        Self(size.cast_signed())
    }

    /// How many bytes may be sent now.
    pub(super) fn available(self) -> usize {
        self.0.max(0).cast_unsigned() as usize
    }

    /// `n` bytes, at most what is available, are sent.
    pub(super) fn spend(&mut self, n: usize) {
        debug_assert!(n <= self.available());
        self.0 -= (n as u32).cast_signed();
    }

    /// `WINDOW_UPDATE`, or a change of the initial size.
    pub(super) fn change(&mut self, by: i64) -> Result<(), Overrun> {
        let size = i64::from(self.0) + by;
        if size > MAX_WINDOW {
            return Err(Overrun);
        }
        // Lowest: -(2^31-1), from an initial size of 2^31-1 that was used up and then set to 0.
        self.0 = size as i32;
        Ok(())
    }
}
