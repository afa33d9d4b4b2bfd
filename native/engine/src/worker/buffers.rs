//! Byte buffers, pipes and working memory lent by a worker while data is in flight, so that idle connections hold none.
//!
//! In: sessions that are about to read.  Out: empty vectors with capacity; empty pipes (`splice.rs` bounds those).
//! Limits: `KEPT` spare buffers per worker of at most `LARGEST_KEPT` bytes and `KEPT_LARGE` above; after a burst they go.

use std::cell::{Cell, RefCell};

use meshdp_proto::h2::Scratch;

use crate::splice::Pipes;

/// The spare buffers of one worker.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Its pipes.
    pub(crate) pipes: Pipes,
    /// Working memory for HTTP/2 heads.
    pub(crate) heads: RefCell<Scratch>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// Those of transfers.
    large: RefCell<Vec<Vec<u8>>>,
    /// The fewest spares at hand since the last sweep: so many lay about unused.
    unused: Cell<usize>,
}

impl Buffers {
    /// Lends an empty buffer with room for a usual message.
    ///
    /// New ones are made in batches, which lie together: single ones would lie between what lives on, and leave holes of less
    /// than a page there, which no allocator gives back.
    pub(crate) fn lend(&self) -> Vec<u8> {
        let mut spare = self.spare.borrow_mut();
        if spare.is_empty() {
            spare.extend((0..BATCH).map(|_| Vec::with_capacity(FIRST)));
        }
        let buffer = spare.pop();
        self.unused.set(self.unused.get().min(spare.len()));
        buffer.unwrap_or_default()
    }

    /// Lends an empty buffer to a reader that will ask for so much; a large one if there is one.
    pub(crate) fn lend_for(&self, limit: usize) -> Vec<u8> {
        let large = if limit > LARGEST_KEPT { self.large.borrow_mut().pop() } else { None };
        large.unwrap_or_else(|| self.lend())
    }

    /// Takes a buffer back; its bytes are forgotten. Those that are smaller than lent ones would make reads small.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let (mut kept, limit) = match buffer.capacity() {
            ..FIRST => return,
            FIRST..=LARGEST_KEPT => (self.spare.borrow_mut(), KEPT),
            _ => (self.large.borrow_mut(), KEPT_LARGE),
        };
        if kept.len() < limit {
            buffer.clear();
            kept.push(buffer);
        }
    }

    /// Drops all that nobody uses.
    pub(crate) fn drop_spares(&self) {
        *self.spare.borrow_mut() = Vec::new();
        *self.large.borrow_mut() = Vec::new();
        self.unused.set(0);
    }

    /// Drops what lay about unused since the last sweep; true when there was nothing to drop.
    pub(crate) fn sweep(&self) -> bool {
        let mut spare = self.spare.borrow_mut();
        let had = spare.len();
        let needed = had - self.unused.get().min(had);
        spare.truncate(needed.max(KEPT_IDLE));
        spare.shrink_to(KEPT_IDLE);
        self.unused.set(spare.len());
        self.pipes.sweep();
        // One a sweep: a transfer that goes on takes it again long before.
        self.large.borrow_mut().pop();
        spare.len() == had
    }
}

/// How much to read next, given the bytes moved so far in this direction: small while a message may be all there is,
/// large once it is clearly a transfer.
pub(crate) const fn read_limit(moved: u64) -> usize {
    match moved {
        0..=8_191 => FIRST,
        8_192..=262_143 => 16 * 1024,
        _ => 256 * 1024,
    }
}

/// Room of a fresh buffer: a head and a small body.
pub(crate) const FIRST: usize = 4 * 1024;
const LARGEST_KEPT: usize = 64 * 1024;
const KEPT: usize = 1_024;
const BATCH: usize = 16;
const KEPT_LARGE: usize = 4;
const KEPT_IDLE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again_and_empty() {
        let buffers = Buffers::default();
        let mut buffer = buffers.lend();
        buffer.extend_from_slice(b"secret");
        let address = buffer.as_ptr();
        buffers.give(buffer);
        let again = buffers.lend();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn a_small_buffer_is_not_lent_again() {
        let buffers = Buffers::default();
        drop(buffers.lend());
        buffers.give(Vec::with_capacity(FIRST - 1));
        assert!((0..BATCH).all(|_| buffers.lend().capacity() >= FIRST));
    }

    #[test]
    fn a_sweep_drops_what_was_not_needed_since_the_last_one() {
        let buffers = Buffers::default();
        let lent: Vec<_> = (0..6 * BATCH).map(|_| buffers.lend()).collect();
        for buffer in lent {
            buffers.give(buffer);
        }
        assert!(buffers.sweep());
        assert_eq!(buffers.spare.borrow().len(), 6 * BATCH, "all were needed");
        let lent: Vec<_> = (0..3 * BATCH).map(|_| buffers.lend()).collect();
        for buffer in lent {
            buffers.give(buffer);
        }
        let _ = buffers.sweep();
        assert_eq!(buffers.spare.borrow().len(), 3 * BATCH);
        let _ = buffers.sweep();
        assert_eq!(buffers.spare.borrow().len(), KEPT_IDLE);
    }

    #[test]
    fn what_is_too_small_for_a_message_is_not_kept() {
        let buffers = Buffers::default();
        buffers.give(Vec::with_capacity(FIRST - 1));
        assert_eq!(buffers.spare.borrow().len(), 0);
    }

    #[test]
    fn few_large_buffers_are_kept_and_lent_to_transfers_alone() {
        let buffers = Buffers::default();
        for _ in 0..=KEPT_LARGE {
            buffers.give(Vec::with_capacity(LARGEST_KEPT + 1));
        }
        assert_eq!((buffers.spare.borrow().len(), buffers.large.borrow().len()), (0, KEPT_LARGE));
        assert!(buffers.lend().capacity() <= LARGEST_KEPT);
        assert!(buffers.lend_for(LARGEST_KEPT + 1).capacity() > LARGEST_KEPT);
    }
}
