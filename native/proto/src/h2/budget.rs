//! One budget of patience for everything a peer may legally do and nobody needs much of.
//!
//! Every oddity takes points: streams given up before we answered, faults that make us reset a stream, PING, SETTINGS,
//! PRIORITY, unknown frames, `WINDOW_UPDATE`, empty DATA. Useful progress gives points back: a stream that both sides ended,
//! DATA that we sent. So does time, through [`Budget::tick`]: the core has no clock, the engine ticks about every
//! 100 ms. No points left: `ENHANCE_YOUR_CALM`.
//!
//! Why one budget: an attacker who spreads over ten counters gets ten times the patience. Why points come back: a client
//! that cancels 200 calls a second for an hour is honest (H2-02); a stream whose body had begun costs nothing to
//! cancel, because it cost its client as much as us, and of the others 500 a second are paid for by the ticks alone.
//! An attack comes at line rate, a hundred times that, and is over after 500 resets. What even those resets can cost
//! upstream is bounded elsewhere: a reset stream counts as open until the engine releases it. And a peer that uses up
//! [`HASTY`] points more than it earns within one tick waits for the next, if the engine asks for that: what it costs is
//! then spread over time, and others have their turn in between (decision 0098).
//! Source: decision 0081; CVE-2023-44487, CVE-2025-8671, CVE-2019-9511 to 9518.

/// What is in a fresh budget, and the most it ever holds.
pub(super) const FULL: u32 = 5_000;
/// A stream that the peer gave up before a byte of its response's body, or that its fault made us reset.
pub(super) const RESET: u32 = 10;
/// DATA without bytes and without end: no honest sender needs it, some send a few.
pub(super) const EMPTY_DATA: u32 = 5;
/// A stream above the announced limit: clients may open some before they have read the limit.
pub(super) const REFUSED: u32 = 3;
/// An interim response.
pub(super) const INTERIM: u32 = 5;
/// A frame that asks for little work: PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, unknown ones, frames on closed streams.
pub(super) const FRAME: u32 = 1;

/// A head that had to be decoded and was above a limit: a bomb of a few KiB costs as much as dozens of resets.
pub(super) const TOO_LARGE: u32 = 100;

/// What one tick bears: above the 1,000 points of a client that gives up all its streams at once.
const HASTY: u32 = 1_200;
/// A stream that both sides ended as they should.
const COMPLETED: u32 = 20;
/// One tick, about 100 ms.
const TICK: u32 = 500;
/// A DATA frame of ours pays for the two updates of windows that some peers answer each with. A smaller one pays for one:
/// tiny windows make us send byte by byte (H2-09).
const TINY: usize = 32;
/// So many bytes of DATA pay for one more: some peers send an update for each 4 KiB.
const SENT_BYTES: usize = 1_024;

/// Points left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    points: u32,
    /// Points taken since the last tick, less what came back.
    spent: u32,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { points: FULL, spent: 0 }
    }

    /// Takes points; false when the peer has used all.
    #[must_use]
    pub(super) fn take(&mut self, points: u32) -> bool {
        let left = self.points.checked_sub(points);
        self.points = left.unwrap_or(0);
        self.spent = self.spent.saturating_add(points);
        left.is_some()
    }

    pub(super) fn completed(&mut self) {
        self.give(COMPLETED);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        let frame = if bytes < TINY { 1 } else { 2 };
        self.give(frame + (bytes / SENT_BYTES) as u32);
    }

    pub(super) fn tick(&mut self, periods: u32) {
        self.give(periods.saturating_mul(TICK));
        self.spent = 0;
    }

    /// Whether the peer has used up what one tick bears.
    pub(super) fn is_hasty(self) -> bool {
        self.spent >= HASTY
    }

    fn give(&mut self, points: u32) {
        self.points = self.points.saturating_add(points).min(FULL);
        self.spent = self.spent.saturating_sub(points);
    }
}
