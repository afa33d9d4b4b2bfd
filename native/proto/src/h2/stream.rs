//! What is known of each stream, in slots that are used again, and a table from identifiers to slots.
//!
//! Identifiers come in order, so a table of twice as many places finds most streams at the first look; nothing is
//! allocated per stream once slots and table have grown. Limits: the caller bounds the number of streams.
//! Source: RFC 9113 5.1.

use super::error::StreamId;
use super::window::{ReceiveWindow, SendWindow};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;
/// The length of a body that was not declared.
pub(super) const UNDECLARED: u64 = u64::MAX;
/// The first table's places.
const SMALLEST_TABLE: usize = 16;

/// One stream from its head to its release.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) state: State,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// Given to the engine and not yet consumed.
    pub(super) unread: u32,
    /// Of `unread`, what the connection's window has been credited for already: its reader stalls.
    pub(super) parked: u32,
    /// Of `unread`, what was there when the reader's lag began, and the looks since.
    pub(super) behind: u32,
    pub(super) looks: u32,
    /// Neighbours in the queue of those who wait for their turn; `next` also chains free slots.
    pub(super) previous: u32,
    pub(super) next: u32,
    /// What the declared length says is still to come, or [`UNDECLARED`].
    pub(super) body_left: u64,
}

impl Stream {
    /// Whether its reader has not read for so many looks what was there before them.
    pub(super) fn is_stalled(&self, looks: u32) -> bool {
        self.behind > 0 && self.looks >= looks && !self.state.is(State::RESET)
    }
}

/// The facts of a stream's state, each a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State(u16);

impl State {
    /// The peer has not ended its side.
    pub(super) const RECEIVES: Self = Self(1);
    /// We have not ended ours.
    pub(super) const SENDS: Self = Self(1 << 1);
    pub(super) const RESET_BY_US: Self = Self(1 << 2);
    pub(super) const RESET_BY_PEER: Self = Self(1 << 3);
    /// The final head was received: what comes next are trailers.
    pub(super) const HEAD_RECEIVED: Self = Self(1 << 4);
    /// Cancelling it costs its peer what it costs us: a body was begun, or it is ours.
    pub(super) const ANSWERED: Self = Self(1 << 5);
    /// The request was HEAD: its response has no body, whatever it declares.
    pub(super) const HEAD_REQUEST: Self = Self(1 << 6);
    /// A tunnel, or CONNECT whose answer is awaited: no declared length, no trailers.
    pub(super) const CONNECT_REQUEST: Self = Self(1 << 7);
    /// Waits for its own window.
    pub(super) const BLOCKED: Self = Self(1 << 8);
    /// Waits for its turn at the connection's window and the output.
    pub(super) const QUEUED: Self = Self(1 << 9);
    /// Was told that it is its turn.
    pub(super) const GRANTED: Self = Self(1 << 10);

    pub(super) const OPEN: Self = Self(Self::RECEIVES.0 | Self::SENDS.0);
    pub(super) const RESET: Self = Self(Self::RESET_BY_US.0 | Self::RESET_BY_PEER.0);

    /// Whether any of these facts holds.
    pub(super) fn is(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    pub(super) fn set(&mut self, facts: Self) {
        self.0 |= facts.0;
    }

    pub(super) fn clear(&mut self, facts: Self) {
        self.0 &= !facts.0;
    }

    /// Whether something may still be sent or received.
    pub(super) fn is_over(self) -> bool {
        !self.is(Self::OPEN)
    }
}

/// All streams that have a slot.
#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: u32,
    /// Slot plus one at the place of its identifier or behind it; 0 is an empty place. Power of two, at most half full.
    table: Vec<u32>,
    count: usize,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, table: Vec::new(), count: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn find(&self, id: StreamId) -> Option<u32> {
        let place = self.place(id)?;
        Some(self.table[place] - 1)
    }

    pub(super) fn at(&mut self, slot: u32) -> &mut Stream {
        &mut self.slots[slot as usize]
    }

    pub(super) fn get(&self, slot: u32) -> &Stream {
        &self.slots[slot as usize]
    }

    /// The slots in use, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.table.iter().filter_map(|slot| slot.checked_sub(1))
    }

    /// How many slots there are, in use or free.
    pub(super) fn places(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slots in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = u32> + use<> {
        let mut slots: Vec<u32> = self.table.iter().filter(|slot| **slot != 0).map(|slot| slot - 1).collect();
        slots.sort_unstable_by_key(|slot| self.slots[*slot as usize].id);
        slots.into_iter()
    }

    pub(super) fn insert(&mut self, id: StreamId, state: State, send: SendWindow, receive: ReceiveWindow) -> u32 {
        let (previous, next) = (NONE, NONE);
        let (unread, parked, behind, looks) = (0, 0, 0, 0);
        let stream =
            Stream { id, state, send, receive, unread, parked, behind, looks, previous, next, body_left: UNDECLARED };
        if (self.count + 1) * 2 > self.table.len() {
            self.grow();
        }
        let slot = if self.free == NONE {
            self.slots.push(stream);
            self.slots.len() as u32 - 1
        } else {
            let slot = self.free;
            self.free = self.slots[slot as usize].next;
            self.slots[slot as usize] = stream;
            slot
        };
        self.link(slot);
        self.count += 1;
        slot
    }

    /// Frees a slot; the stream must not be queued.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(mut hole) = self.place(self.slots[slot as usize].id) else { return };
        let mask = self.table.len() - 1;
        let mut place = hole;
        // Whoever stands behind its own place moves up, so that no look-up stops at the hole.
        loop {
            place = (place + 1) & mask;
            let Some(other) = self.table[place].checked_sub(1) else { break };
            let home = self.home(self.slots[other as usize].id);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.table[hole] = self.table[place];
                hole = place;
            }
        }
        self.table[hole] = 0;
        self.slots[slot as usize].next = self.free;
        self.free = slot;
        self.count -= 1;
    }

    /// Gives all memory back, when no stream is left.
    pub(super) fn shrink(&mut self) {
        if self.count == 0 {
            *self = Self::new();
        }
    }

    fn home(&self, id: StreamId) -> usize {
        (id.0 >> 1) as usize & (self.table.len() - 1)
    }

    fn place(&self, id: StreamId) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let mut place = self.home(id);
        while self.table[place] != 0 {
            if self.slots[self.table[place] as usize - 1].id == id {
                return Some(place);
            }
            place = (place + 1) & (self.table.len() - 1);
        }
        None
    }

    fn link(&mut self, slot: u32) {
        let mut place = self.home(self.slots[slot as usize].id);
        while self.table[place] != 0 {
            place = (place + 1) & (self.table.len() - 1);
        }
        self.table[place] = slot + 1;
    }

    fn grow(&mut self) {
        let used: Vec<u32> = self.table.iter().copied().filter(|slot| *slot != 0).collect();
        let places = (self.table.len() * 2).max(SMALLEST_TABLE);
        self.table.clear();
        self.table.resize(places, 0);
        for slot in used {
            self.link(slot - 1);
        }
    }
}
