//! Byte buffers and pipes lent by a worker while data is in flight, so that idle connections hold none.
//!
//! In: sessions that are about to read.  Out: empty vectors with capacity; empty pipes (`splice.rs` bounds those).
//! Limits: `KEPT` spare buffers per worker, none larger than `LARGEST_KEPT` bytes; after a burst the surplus goes.

use std::cell::{Cell, RefCell};

use crate::splice::Pipes;

/// The spare buffers of one worker.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Its pipes.
    pub(crate) pipes: Pipes,
    spare: RefCell<Vec<Vec<u8>>>,
    /// The fewest spares at hand since the last sweep: so many lay about unused.
    unused: Cell<usize>,
}

impl Buffers {
    /// Lends an empty buffer with room for a usual message.
    pub(crate) fn lend(&self) -> Vec<u8> {
        let mut spare = self.spare.borrow_mut();
        let buffer = spare.pop();
        self.unused.set(self.unused.get().min(spare.len()));
        buffer.unwrap_or_else(|| Vec::with_capacity(FIRST))
    }

    /// Takes a buffer back; its bytes are forgotten.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() == 0 || buffer.capacity() > LARGEST_KEPT || spare.len() >= KEPT {
            return;
        }
        buffer.clear();
        spare.push(buffer);
    }

    /// Drops what lay about unused since the last sweep.
    pub(crate) fn sweep(&self) {
        let mut spare = self.spare.borrow_mut();
        let needed = spare.len() - self.unused.get().min(spare.len());
        spare.truncate(needed.max(KEPT_IDLE));
        spare.shrink_to(KEPT_IDLE);
        self.unused.set(spare.len());
        self.pipes.sweep();
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
const KEPT: usize = 256;
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
    fn a_sweep_drops_what_was_not_needed_since_the_last_one() {
        let buffers = Buffers::default();
        let lent: Vec<_> = (0..100).map(|_| buffers.lend()).collect();
        for buffer in lent {
            buffers.give(buffer);
        }
        buffers.sweep();
        assert_eq!(buffers.spare.borrow().len(), 100, "all were needed");
        let lent: Vec<_> = (0..40).map(|_| buffers.lend()).collect();
        for buffer in lent {
            buffers.give(buffer);
        }
        buffers.sweep();
        assert_eq!(buffers.spare.borrow().len(), 40);
        buffers.sweep();
        assert_eq!(buffers.spare.borrow().len(), KEPT_IDLE);
    }

    #[test]
    fn large_buffers_are_not_kept() {
        let buffers = Buffers::default();
        buffers.give(Vec::with_capacity(LARGEST_KEPT + 1));
        assert!(buffers.spare.borrow().is_empty());
    }
}
