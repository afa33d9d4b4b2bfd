//! One HTTP/2 connection as its streams and its driver share it, in either role.
//!
//! In: calls of the handles (`stream.rs`), bytes that the driver read.  Out: output that the driver writes, tasks woken.
//! Limits: those of the core; the output's buffer is lent while there is something to send.
//! Fails: never by itself: a connection that breaks ends its streams with a [`StreamEnd`].
//! Whoever appends output wakes the driver, which comes to its turn after the tasks that are queued already: what they all
//! have to say leaves in one write.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use meshdp_proto::h2::hpack::Encoder;
use meshdp_proto::h2::{Config, Connection, ConnectionFault, ErrorCode, NotOpened, RequestShape, Role};
use meshdp_proto::http1_response::RequestKind;

use super::slots::{News, Slots};
use super::stream::{StreamEnd, StreamHandle};
use crate::worker::buffers::Buffers;

/// A connection.
pub(crate) struct Shared {
    state: RefCell<State>,
    pub(super) buffers: Rc<Buffers>,
    /// Bytes received so far, to tell life from silence.
    received: Cell<u64>,
    /// Requests that the core answered or refused by itself and nobody has recorded.
    unrecorded: Cell<Unrecorded>,
    /// The peer has said that it wants HTTP/1.1.
    http11: Cell<bool>,
    /// Who waits for a stream to end, or for the peer to allow more.
    openers: Option<Rc<Openers>>,
}

/// Those who wait to open a stream, on any of the connections that may carry theirs: the first to come is the first to go.
pub(crate) struct Openers {
    /// By the order in which they came.
    waiting: RefCell<BTreeMap<u64, Option<Waker>>>,
    next: Cell<u64>,
    /// Streams that are opened on a connection whose peer has not yet said how many it takes: what it said last, on another.
    ungreeted_streams: Cell<usize>,
}

impl Default for Openers {
    fn default() -> Self {
        let ungreeted_streams = Cell::new(UNGREETED_STREAMS);
        Self { waiting: RefCell::default(), next: Cell::new(0), ungreeted_streams }
    }
}

impl Openers {
    /// One more who waits, if there is room for one.
    pub(super) fn enter(&self, most: usize) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= most {
            return None;
        }
        let place = self.next.replace(self.next.get() + 1);
        waiting.insert(place, None);
        Some(Waiting { openers: self, place })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// There may be a place for the first, who passes on what is left.
    pub(super) fn wake_first(&self) {
        if let Some((_, Some(first))) = self.waiting.borrow().first_key_value() {
            first.wake_by_ref();
        }
    }

    /// Something concerns all of them.
    pub(super) fn wake_all(&self) {
        self.waiting.borrow().values().flatten().for_each(Waker::wake_by_ref);
    }
}

/// A place among those who wait.
pub(super) struct Waiting<'o> {
    openers: &'o Openers,
    place: u64,
}

impl Waiting<'_> {
    pub(super) fn is_first(&self) -> bool {
        self.openers.waiting.borrow().first_key_value().is_some_and(|(first, _)| *first == self.place)
    }

    /// Whom to wake.
    pub(super) fn register(&self, context: &Context<'_>) {
        let mut waiting = self.openers.waiting.borrow_mut();
        match waiting.get_mut(&self.place) {
            Some(Some(waker)) if waker.will_wake(context.waker()) => {}
            Some(place) => *place = Some(context.waker().clone()),
            None => {}
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.openers.waiting.borrow_mut().remove(&self.place);
        self.openers.wake_first();
    }
}

pub(super) struct State {
    pub(super) core: Connection,
    pub(super) slots: Slots,
    driver: Option<Waker>,
    /// The driver is about to have its turn.
    scheduled: bool,
    /// Streams of ours are no longer opened; the last one to end closes the connection.
    retired: bool,
    /// Why there is no connection any more.
    gone: Option<StreamEnd>,
    /// The core has a lent buffer.
    lent: bool,
    /// The peer's SETTINGS have come.
    greeted: bool,
}

/// Requests that never became one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unrecorded {
    /// Answered, because their heads were above the limits.
    pub(crate) large: u32,
    /// Reset, because their heads were malformed.
    pub(crate) malformed: u32,
}

/// A request that a peer has begun.
pub(crate) struct Accepted {
    pub(crate) stream: StreamHandle,
    pub(crate) shape: RequestShape,
    /// It has no body.
    pub(crate) end: bool,
}

impl Shared {
    /// A connection at its start: its preface waits to be written.
    pub(crate) fn new(role: Role, config: &Config, buffers: &Rc<Buffers>, openers: Option<Rc<Openers>>) -> Rc<Self> {
        let state = State {
            core: Connection::new(role, config),
            slots: Slots::new(Rc::clone(buffers)),
            driver: None,
            scheduled: false,
            retired: false,
            gone: None,
            lent: true,
            greeted: false,
        };
        let (state, buffers) = (RefCell::new(state), Rc::clone(buffers));
        Rc::new(Self {
            state,
            buffers,
            received: Cell::new(0),
            unrecorded: Cell::default(),
            http11: Cell::default(),
            openers,
        })
    }

    /// Client: opens a stream with its request head; `encode` writes the field block.
    ///
    /// # Errors
    /// Why not; `encode` was not called.
    pub(crate) fn open(
        self: &Rc<Self>,
        kind: RequestKind,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<StreamHandle, NotOpened> {
        let mut state = self.state();
        self.may_open_in(&state)?;
        state.lend_output(&self.buffers);
        let id = state.core.open(kind, end, encode)?;
        let slot = state.slots.take(id);
        state.wake_driver();
        drop(state);
        Ok(StreamHandle::new(Rc::clone(self), id, slot))
    }

    /// Client: whether `open` would work now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_open(&self) -> Result<(), NotOpened> {
        self.may_open_in(&self.state.borrow())
    }

    fn may_open_in(&self, state: &State) -> Result<(), NotOpened> {
        if state.retired || state.gone.is_some() {
            return Err(NotOpened::GoingAway);
        }
        let ungreeted = self.openers.as_ref().filter(|_| !state.greeted);
        if ungreeted.is_some_and(|openers| state.core.active() >= openers.ungreeted_streams.get()) {
            return Err(NotOpened::Limit);
        }
        state.core.may_open()
    }

    /// Server: the next request that has arrived, its head appended to `text` (an empty one is exchanged for the lent buffer
    /// that holds it).
    pub(crate) fn accept(self: &Rc<Self>, text: &mut Vec<u8>) -> Option<Accepted> {
        let arrived = self.state().slots.accept(text)?;
        let stream = StreamHandle::new(Rc::clone(self), arrived.id, arrived.slot);
        Some(Accepted { stream, shape: arrived.shape, end: arrived.end })
    }

    /// Opens no further stream; once the last one has ended the connection says so and closes.
    pub(crate) fn retire(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.retired, true) {
            state.wake_driver_now();
        }
    }

    /// Graceful end in the server's role: the peer is told to open its next streams elsewhere.
    pub(crate) fn drain(&self) {
        let mut state = self.state();
        state.lend_output(&self.buffers);
        state.core.drain();
        state.wake_driver();
    }

    /// Ends the connection with GOAWAY: no further stream of the peer is taken.
    pub(crate) fn go_away(&self, code: ErrorCode) {
        let mut state = self.state();
        state.lend_output(&self.buffers);
        state.core.go_away(code);
        state.wake_driver_now();
    }

    /// Asks the peer whether it is still there; false while it has not answered the last question.
    pub(crate) fn ping(&self) -> bool {
        let mut state = self.state();
        state.lend_output(&self.buffers);
        let sent = state.core.ping();
        state.wake_driver();
        sent
    }

    /// Ends every stream that has not come to its end, and the connection with them.
    pub(crate) fn abandon(&self, end: StreamEnd) {
        let mut state = self.state();
        state.gone.get_or_insert(end);
        state.slots.end_all(end);
        state.wake_driver_now();
    }

    /// Streams that are not over, or whose handle is still held.
    pub(crate) fn active(&self) -> usize {
        let state = self.state.borrow();
        state.core.active().max(state.slots.live())
    }

    /// Whether the peer has shown that it speaks HTTP/2: it has acknowledged our SETTINGS.
    pub(crate) fn is_greeted(&self) -> bool {
        self.state.borrow().core.settings_acknowledged()
    }

    /// The requests that the core has dealt with by itself since this was asked last.
    pub(crate) fn take_unrecorded(&self) -> Unrecorded {
        self.unrecorded.take()
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state.borrow().retired
    }

    pub(super) fn wants_http11(&self) -> bool {
        self.http11.get()
    }

    /// Whether bodies wait for the connection's window, either way: the peer does not read ours, or readers of ours that
    /// stall have left no room for what the others wait for.
    pub(super) fn is_braked(&self) -> bool {
        let core = &self.state.borrow().core;
        core.active() > 0 && (core.connection_window() == 0 || core.receive_room() < LEAST_ROOM)
    }

    /// Client, once per sweep: makes room where readers that stall stand in the way of others (decision 0102). May park `most`
    /// bytes more than the window allows for; how many it parked.
    pub(super) fn relieve(&self, most: u32) -> u32 {
        let mut state = self.state();
        let State { core, slots, lent, .. } = &mut *state;
        if !core.look() {
            return 0;
        }
        if !std::mem::replace(lent, true) {
            core.lend_output(self.buffers.lend());
        }
        let parked = core.relieve(most, slots);
        state.wake_driver();
        parked
    }

    /// Bytes that are kept for readers that stall, beyond what the connection's window allows for.
    pub(super) fn parked(&self) -> u32 {
        self.state.borrow().core.parked()
    }

    /// Whether no stream is there.
    pub(super) fn is_unused(&self) -> bool {
        self.active() == 0
    }

    /// Feeds bytes of the peer to the core; how many it took.
    pub(super) fn receive(&self, input: &[u8]) -> Result<usize, ConnectionFault> {
        let mut state = self.state();
        state.lend_output(&self.buffers);
        let State { core, slots, greeted, .. } = &mut *state;
        let taken = core.receive(input, &mut self.buffers.heads.borrow_mut(), slots);
        let News { settings, going_away, answered, refused, http11, .. } = std::mem::take(&mut slots.news);
        let unrecorded = self.unrecorded.get();
        self.unrecorded
            .set(Unrecorded { large: unrecorded.large + answered, malformed: unrecorded.malformed + refused });
        self.http11.set(self.http11.get() || http11);
        *greeted |= settings;
        if let Some(openers) = self.openers.as_ref().filter(|_| settings || going_away) {
            openers.ungreeted_streams.set(UNGREETED_STREAMS.min(core.peer_max_streams() as usize));
            openers.wake_all();
        }
        drop(state);
        self.received.set(self.received.get() + input.len() as u64);
        taken
    }

    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    pub(super) fn release(&self, id: meshdp_proto::h2::StreamId, slot: usize) {
        let mut state = self.state();
        state.lend_output(&self.buffers);
        state.core.release(id);
        state.slots.release(slot, id);
        if state.retired || state.core.done() {
            state.wake_driver_now();
        } else {
            state.wake_driver();
        }
        state.take_output(&self.buffers);
        drop(state);
        if let Some(openers) = &self.openers {
            openers.wake_first();
        }
    }
}

impl State {
    /// Gives the core a buffer for what is to be sent, unless it has one.
    pub(super) fn lend_output(&mut self, buffers: &Buffers) {
        if !self.lent {
            self.lent = true;
            self.core.lend_output(buffers.lend());
        }
    }

    /// Takes the core's buffer back while it is empty and no stream is likely to need it soon.
    pub(super) fn take_output(&mut self, buffers: &Buffers) {
        if self.lent
            && self.core.active() == 0
            && let Some(buffer) = self.core.take_output()
        {
            self.lent = false;
            buffers.give(buffer);
        }
    }

    /// Has the driver come to its turn when there is something to send.
    pub(super) fn wake_driver(&mut self) {
        if !self.core.output().is_empty() {
            self.wake_driver_now();
        }
    }

    fn wake_driver_now(&mut self) {
        if !self.scheduled
            && let Some(driver) = &self.driver
        {
            self.scheduled = true;
            driver.wake_by_ref();
        }
    }

    /// The driver is at work: nobody need wake it before [`State::end_turn`].
    pub(super) fn begin_turn(&mut self, context: &Context<'_>) {
        self.scheduled = true;
        match &self.driver {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => self.driver = Some(context.waker().clone()),
        }
    }

    /// The driver goes to sleep; whoever has something to send wakes it.
    pub(super) fn end_turn(&mut self) {
        self.scheduled = false;
    }

    pub(super) fn gone(&self) -> Option<StreamEnd> {
        self.gone
    }

    /// Closes a retired connection after its last stream.
    pub(super) fn close_if_spent(&mut self, buffers: &Buffers) {
        if self.retired && self.slots.live() == 0 && self.core.active() == 0 && !self.core.done() {
            self.lend_output(buffers);
            self.core.go_away(ErrorCode::NO_ERROR);
        }
    }
}

/// Less than a frame.
const LEAST_ROOM: usize = 16 << 10;
/// Streams that are opened before the peer has said how many it takes: what RFC 9113 6.5.2 asks of it at least.
const UNGREETED_STREAMS: usize = 100;
