//! What has come for the streams of one connection and has not been taken yet.
//!
//! In: the core's events, in wire order.  Out: heads, body bytes, trailers and ends per stream; the task of a stream is woken.
//! Limits: body bytes by the stream's receive window, heads by `WAITING_HEADS`; buffers are lent while they hold something.
//! Fails: a stream that floods us with interim responses ends with [`StreamEnd::Fault`].

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Context, Waker};

use meshdp_proto::h2::{ErrorCode, Events, RequestShape, ResponseShape, Side, StreamId};

use super::stream::StreamEnd;
use crate::worker::buffers::Buffers;

/// The streams of one connection that have a handle, or wait for theirs.
pub(super) struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
    by_id: HashMap<StreamId, usize, BuildHasherDefault<IdHasher>>,
    /// Requests that nobody has accepted yet.
    arrived: VecDeque<Arrived>,
    buffers: Rc<Buffers>,
    pub(super) news: News,
}

/// What concerns the connection as a whole; whoever looks clears it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    /// The peer's SETTINGS came or went: more or fewer streams may be opened.
    pub(super) settings: bool,
    /// The peer sent GOAWAY.
    pub(super) going_away: bool,
    /// The peer wants HTTP/1.1, for a stream or for all.
    pub(super) http11: bool,
    /// Our PING was answered.
    pub(super) pong: bool,
    /// Requests that the core answered by itself, for their heads were above the limits.
    pub(super) answered: u32,
    /// Requests that the core refused, for their heads were malformed.
    pub(super) refused: u32,
}

/// A request that has just begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) slot: usize,
    pub(super) id: StreamId,
    pub(super) shape: RequestShape,
    pub(super) end: bool,
}

/// A response head in a slot's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    length: usize,
    pub(super) shape: ResponseShape,
    pub(super) end: bool,
}

/// One stream.
#[derive(Default)]
pub(super) struct Slot {
    /// Heads that were not taken yet, one after the other.
    head: Vec<u8>,
    marks: VecDeque<Mark>,
    body: Vec<u8>,
    /// How much of `body` has been taken.
    taken: usize,
    trailers: Vec<u8>,
    /// The peer has said all that it will say.
    pub(super) ended: bool,
    /// The stream ended before its end.
    pub(super) end: Option<StreamEnd>,
    /// The task that reads and writes this stream: both directions are polled by one.
    waker: Option<Waker>,
}

impl Slots {
    pub(super) fn new(buffers: Rc<Buffers>) -> Self {
        let (by_id, arrived, news) = (HashMap::default(), VecDeque::new(), News::default());
        Self { all: Vec::new(), free: Vec::new(), by_id, arrived, buffers, news }
    }

    /// A slot for a new stream; slots are used again, with what they have grown to.
    pub(super) fn take(&mut self, id: StreamId) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Slot::default());
            self.all.len() - 1
        });
        self.by_id.insert(id, index);
        index
    }

    /// Forgets a stream; its buffers go back.
    pub(super) fn release(&mut self, index: usize, id: StreamId) {
        let slot = &mut self.all[index];
        for buffer in [&mut slot.head, &mut slot.body, &mut slot.trailers] {
            self.buffers.give(std::mem::take(buffer));
        }
        slot.marks.clear();
        (slot.taken, slot.ended, slot.end, slot.waker) = (0, false, None, None);
        self.by_id.remove(&id);
        self.free.push(index);
    }

    pub(super) fn at(&mut self, index: usize) -> &mut Slot {
        &mut self.all[index]
    }

    /// The next request that was not accepted yet, its head appended to `text`.
    pub(super) fn accept(&mut self, text: &mut Vec<u8>) -> Option<Arrived> {
        let arrived = self.arrived.pop_front()?;
        move_whole(&mut self.all[arrived.slot].head, text, &self.buffers);
        Some(arrived)
    }

    /// Ends every stream: the connection is gone. What has come can still be read, to its end where that has come.
    pub(super) fn end_all(&mut self, end: StreamEnd) {
        for &index in self.by_id.values() {
            let slot = &mut self.all[index];
            slot.end.get_or_insert(end);
            slot.wake();
        }
    }

    /// Streams with a handle or waiting for one.
    pub(super) fn live(&self) -> usize {
        self.by_id.len()
    }

    fn of(&mut self, id: StreamId) -> Option<&mut Slot> {
        self.by_id.get(&id).map(|&index| &mut self.all[index])
    }
}

impl Events for Slots {
    fn request(&mut self, id: StreamId, text: &[u8], shape: RequestShape, end: bool) {
        let slot = self.take(id);
        let at = &mut self.all[slot];
        keep(&mut at.head, text, &self.buffers);
        at.ended = end;
        self.arrived.push_back(Arrived { slot, id, shape, end });
    }

    fn response(&mut self, id: StreamId, text: &[u8], shape: ResponseShape, end: bool) {
        let Some(&index) = self.by_id.get(&id) else { return };
        let slot = &mut self.all[index];
        if slot.marks.len() >= WAITING_HEADS {
            slot.end = Some(StreamEnd::Fault(ErrorCode::ENHANCE_YOUR_CALM));
        } else if slot.end.is_none() {
            keep(&mut slot.head, text, &self.buffers);
            slot.marks.push_back(Mark { length: text.len(), shape, end });
            slot.ended = end;
        }
        slot.wake();
    }

    fn data(&mut self, id: StreamId, bytes: &[u8], end: bool) {
        let Some(&index) = self.by_id.get(&id) else { return };
        let slot = &mut self.all[index];
        if slot.end.is_none() {
            slot.make_room();
            keep(&mut slot.body, bytes, &self.buffers);
            slot.ended = end;
        }
        slot.wake();
    }

    fn trailers(&mut self, id: StreamId, text: &[u8]) {
        let Some(&index) = self.by_id.get(&id) else { return };
        let slot = &mut self.all[index];
        if slot.end.is_none() {
            keep(&mut slot.trailers, text, &self.buffers);
            slot.ended = true;
        }
        slot.wake();
    }

    fn reset(&mut self, id: StreamId, code: ErrorCode, by: Side) {
        self.news.http11 |= code == ErrorCode::HTTP_1_1_REQUIRED && by == Side::Peer;
        let Some(&index) = self.by_id.get(&id) else { return };
        let slot = &mut self.all[index];
        slot.end = Some(match by {
            Side::Peer if code == ErrorCode::REFUSED_STREAM => StreamEnd::Unprocessed,
            Side::Peer => StreamEnd::Reset(code),
            Side::Local if code == ErrorCode::CANCEL => StreamEnd::Stalled,
            Side::Local => StreamEnd::Fault(code),
        });
        if slot.end == Some(StreamEnd::Stalled) {
            // What its reader has left is what was in the way.
            (slot.taken, slot.ended) = (0, false);
            self.buffers.give(std::mem::take(&mut slot.body));
        }
        slot.wake();
    }

    fn writable(&mut self, id: StreamId) {
        if let Some(slot) = self.of(id) {
            slot.wake();
        }
    }

    fn settings(&mut self) {
        self.news.settings = true;
    }

    fn go_away(&mut self, _last: StreamId, code: ErrorCode) {
        self.news.going_away = true;
        self.news.http11 |= code == ErrorCode::HTTP_1_1_REQUIRED;
    }

    fn pong(&mut self) {
        self.news.pong = true;
    }

    fn answered(&mut self, _id: StreamId, _status: u16) {
        self.news.answered += 1;
    }

    fn refused(&mut self, _id: StreamId) {
        self.news.refused += 1;
    }
}

impl Slot {
    /// The next response head, appended to `text`.
    pub(super) fn take_head(&mut self, text: &mut Vec<u8>, buffers: &Buffers) -> Option<Mark> {
        let mark = self.marks.pop_front()?;
        if self.marks.is_empty() {
            move_whole(&mut self.head, text, buffers);
        } else {
            text.extend_from_slice(&self.head[..mark.length]);
            self.head.drain(..mark.length);
        }
        Some(mark)
    }

    /// Appends at most `limit` body bytes to `into`; how many.
    pub(super) fn take_body(&mut self, into: &mut Vec<u8>, limit: usize, buffers: &Buffers) -> usize {
        let count = self.unread().min(limit);
        if self.taken == 0 && count == self.body.len() {
            move_whole(&mut self.body, into, buffers);
            return count;
        }
        into.extend_from_slice(&self.body[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.body.len() {
            self.taken = 0;
            buffers.give(std::mem::take(&mut self.body));
        }
        count
    }

    /// Body bytes that were not taken yet.
    pub(super) fn unread(&self) -> usize {
        self.body.len() - self.taken
    }

    /// Appends the trailers to `into`; false where there were none.
    pub(super) fn take_trailers(&mut self, into: &mut Vec<u8>, buffers: &Buffers) -> bool {
        let some = !self.trailers.is_empty();
        move_whole(&mut self.trailers, into, buffers);
        some
    }

    /// Whom to wake when something comes.
    pub(super) fn register(&mut self, context: &Context<'_>) {
        match &self.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => self.waker = Some(context.waker().clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Moves what is unread to the front once what was taken is the larger part.
    fn make_room(&mut self) {
        if self.taken > self.unread() {
            self.body.drain(..self.taken);
            self.taken = 0;
        }
    }
}

/// Appends, in a lent buffer.
fn keep(kept: &mut Vec<u8>, bytes: &[u8], buffers: &Buffers) {
    if kept.capacity() == 0 && !bytes.is_empty() {
        *kept = buffers.lend_for(bytes.len());
    }
    kept.extend_from_slice(bytes);
}

/// Appends all of `from` to `into`, by exchanging the buffers where it can.
fn move_whole(from: &mut Vec<u8>, into: &mut Vec<u8>, buffers: &Buffers) {
    if from.is_empty() {
        return;
    }
    if into.is_empty() {
        std::mem::swap(from, into);
    } else {
        into.extend_from_slice(from);
    }
    from.clear();
    buffers.give(std::mem::take(from));
}

/// Identifiers come in order, so a multiplication spreads them well enough; a peer that leaves gaps fills a bounded table.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(8) ^ u64::from(value)).wrapping_mul(GOLDEN);
    }
}

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Response heads that may wait for the task of a stream: final ones and the interim ones before them.
const WAITING_HEADS: usize = 16;
