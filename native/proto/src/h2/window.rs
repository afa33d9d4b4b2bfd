//! Flow control: what the peer may still send, what we may.
//!
//! [`ReceiveWindow`] is a ledger: `available + unread + pending = size`, where `unread` is kept by the engine. Every byte
//! of flow-controlled payload, padding included, goes through it once. It grows with use: when a window was read
//! whole since the last growth, it doubles, up to its bound. Limits: [`MAX_STREAM_WINDOW`], [`MAX_CONNECTION_WINDOW`].
//! Fails: [`Overrun`]. Source: RFC 9113 5.2, 6.9; decision 0082.

/// How far a stream's receive window grows.
pub(super) const MAX_STREAM_WINDOW: u32 = 1 << 20;
/// How far a connection's receive window grows: the most that all readers together can leave unread.
pub(super) const MAX_CONNECTION_WINDOW: u32 = 4 << 20;
/// A stream's window grows to this part of its connection's at most, so that no reader who stalls can pin the others.
pub(super) const STREAM_SHARE: u32 = 4;
/// The largest window there is.
pub(super) const MAX_WINDOW: i64 = 0x7fff_ffff;
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
