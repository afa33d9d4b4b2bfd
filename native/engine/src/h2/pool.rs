//! The HTTP/2 connections of one worker to its upstreams, by the key under which requests may share them.
//!
//! In: connections that were made, sweeps, swaps.  Out: the connection that a new stream goes to.
//! Limits: `CONNECTIONS` per key, `total` in all (the one unused for longest goes first); one that has been without streams
//! for `idle_ms` is closed. A peer without HTTP/2 is remembered for `FALLBACK_MS`.
//! The key is that of `crate::pool`: worker, own identity and credential epoch, endpoint, the cluster with SNI, expected
//! identities and TLS settings, our source address; protocols do not mix, for each has its own pool.
//! A connection whose key no longer holds takes no new stream; those under way end as they would, then it says GOAWAY.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use meshdp_model::wordhash::WordMap;
use meshdp_proto::h2::NotOpened;
use tokio::time::{sleep, timeout};

use super::client::ClientConnection;
use super::shared::Openers;
use crate::observe::outcome::Reason;
use crate::pool::{Fingerprint, PoolKey};
use crate::tls::verify::RootId;

/// All connections.
pub(crate) struct Connections {
    groups: RefCell<WordMap<Fingerprint, Rc<Group>>>,
    total: usize,
    idle_ms: u64,
}

/// Those of one key.
pub(super) struct Group {
    pub(super) key: PoolKey,
    /// Whoever waits for a stream to one of them.
    pub(super) openers: Rc<Openers>,
    connections: RefCell<Vec<Rc<ClientConnection>>>,
    attempt: RefCell<Option<Rc<Attempt>>>,
    /// No other connect is begun before, while there is a connection to wait for.
    pause_until_ms: Cell<u64>,
    http11_until_ms: Cell<u64>,
}

/// A connect that is under way.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    pub(super) outcome: Cell<Option<Result<(), Reason>>>,
}

/// What there is for a new stream.
pub(super) enum Found {
    /// A connection that takes it.
    Http2(Rc<ClientConnection>),
    /// One that takes it; a second one would serve those that come.
    Another(Rc<ClientConnection>),
    /// The peer speaks HTTP/1.1 alone.
    Http11,
    /// Nothing yet.
    Nothing,
}

impl Connections {
    /// None yet.
    pub(crate) fn new(total: usize, idle_ms: u64) -> Self {
        Self { groups: RefCell::default(), total, idle_ms }
    }

    /// The group of a key.
    pub(super) fn group(&self, key: &PoolKey) -> Rc<Group> {
        let mut groups = self.groups.borrow_mut();
        Rc::clone(groups.entry(key.fingerprint()).or_insert_with(|| Rc::new(Group::new(key.clone()))))
    }

    /// Lets no new stream onto the connections that `keep` does not name.
    pub(crate) fn retire(&self, keep: impl Fn(&PoolKey) -> bool) {
        for group in self.groups.borrow().values().filter(|group| !keep(&group.key)) {
            group.connections.borrow().iter().for_each(|connection| connection.retire());
        }
    }

    /// Has every connection say GOAWAY and close once it carries no stream; waits for those that carry none now.
    pub(crate) async fn leave(&self) {
        self.retire(|_| false);
        let left = async {
            while self.groups.borrow().values().any(|group| group.has_unused()) {
                sleep(LEAVE_STEP).await;
            }
        };
        let _ = timeout(LEAVE, left).await;
    }

    /// Ends the connections, and what is under way on them, whose peers' roots are no longer trusted.
    pub(crate) fn distrust(&self, trusted: impl Fn(&RootId) -> bool) {
        for group in self.groups.borrow().values() {
            let connections = group.connections.borrow();
            let distrusted =
                connections.iter().filter(|connection| connection.root().is_some_and(|root| !trusted(root)));
            distrusted.for_each(|connection| connection.distrust());
        }
    }

    /// Looks after all of them and forgets what is no more.
    pub(crate) fn sweep(&self, (now_ms, wall_s): (u64, u64), saving: bool) {
        self.groups.borrow_mut().retain(|_, group| {
            for connection in &*group.connections.borrow() {
                connection.sweep(now_ms, wall_s, self.idle_ms);
            }
            group.relieve(if saving { 0 } else { PARKED_BYTES });
            group.openers.wake_first(); // a pause may be over; one is enough to begin a connect
            // Whoever is about to use a group that is otherwise forgotten holds it.
            !group.is_empty() || Rc::strong_count(group) > 1 || group.http11_until_ms.get() > now_ms
        });
    }

    /// Has the connection that was unused for longest close, where there are as many as may be.
    pub(super) fn make_room(&self) {
        let groups = self.groups.borrow();
        let mut count = 0;
        let mut oldest: Option<(u64, Rc<ClientConnection>)> = None;
        for connection in groups.values().flat_map(|group| group.connections.borrow().clone()) {
            count += 1;
            let since = connection.life.quiet_since_ms.get().filter(|_| !connection.is_retired());
            if let Some(since) = since.filter(|since| oldest.as_ref().is_none_or(|(earliest, _)| since < earliest)) {
                oldest = Some((since, connection));
            }
        }
        if let Some((_, connection)) = oldest.filter(|_| count >= self.total) {
            connection.retire();
        }
    }
}

impl Group {
    fn new(key: PoolKey) -> Self {
        Self {
            key,
            openers: Rc::default(),
            connections: RefCell::default(),
            attempt: RefCell::default(),
            pause_until_ms: Cell::new(0),
            http11_until_ms: Cell::new(0),
        }
    }

    /// The connection for a new stream: the first that has room, so that requests gather on few.
    pub(super) fn find(&self, now_ms: u64) -> Found {
        let connections = self.connections.borrow();
        let mut open = connections.iter().filter(|connection| connection.may_open().is_ok());
        let Some(first) = open.next() else {
            let old = self.http11_until_ms.get() > now_ms && !connections.iter().any(|each| is_live(each));
            return if old { Found::Http11 } else { Found::Nothing };
        };
        if !first.is_braked() {
            return Found::Http2(Rc::clone(first));
        }
        match open.find(|connection| !connection.is_braked()) {
            Some(free) => Found::Http2(Rc::clone(free)),
            None => Found::Another(Rc::clone(first)),
        }
    }

    /// Whether no connection is left that may ever take a stream.
    pub(super) fn is_empty(&self) -> bool {
        !self.connections.borrow().iter().any(|connection| is_live(connection))
    }

    fn has_unused(&self) -> bool {
        self.connections.borrow().iter().any(|connection| connection.is_unused())
    }

    /// Whether a stream is under way whose end lets another one begin.
    pub(super) fn is_busy(&self) -> bool {
        self.connections.borrow().iter().any(|connection| is_live(connection) && !connection.is_unused())
    }

    /// The connect that is under way.
    pub(super) fn attempt(&self) -> Option<Rc<Attempt>> {
        self.attempt.borrow().clone()
    }

    /// Begins a connect, unless there are connections enough: one that takes no stream at all hardly gets better by another.
    pub(super) fn begin(&self, now_ms: u64) -> Option<Rc<Attempt>> {
        let connections = self.connections.borrow();
        let live = || connections.iter().filter(|connection| is_live(connection));
        let shut = live().filter(|connection| connection.may_open().is_err() && connection.is_unused()).count();
        let paused = live().next().is_some() && self.pause_until_ms.get() > now_ms;
        if live().count() >= CONNECTIONS || shut >= SHUT || paused {
            return None;
        }
        let attempt = Rc::<Attempt>::default();
        *self.attempt.borrow_mut() = Some(Rc::clone(&attempt));
        Some(attempt)
    }

    /// The connect is over; its outcome stands in it.
    pub(super) fn ended(&self, attempt: &Rc<Attempt>, now_ms: u64) {
        self.attempt.borrow_mut().take_if(|current| Rc::ptr_eq(current, attempt));
        if matches!(attempt.outcome.get(), Some(Err(_))) {
            self.pause_until_ms.set(now_ms + PAUSE_MS);
        }
        self.openers.wake_all();
    }

    /// Makes room for the others where readers stall; what these leave unread may be `most` bytes in all beyond the windows.
    fn relieve(&self, most: u32) {
        let connections = self.connections.borrow();
        let parked: u32 = connections.iter().map(|connection| connection.parked()).sum();
        let mut left = most.saturating_sub(parked);
        for connection in &*connections {
            left -= connection.relieve(left);
        }
    }

    /// The peer chose no HTTP/2.
    pub(super) fn falls_back(&self, now_ms: u64) {
        self.http11_until_ms.set(now_ms + FALLBACK_MS);
    }

    pub(super) fn add(&self, connection: Rc<ClientConnection>) {
        self.connections.borrow_mut().push(connection);
        self.openers.wake_all();
    }

    pub(super) fn remove(&self, connection: &Rc<ClientConnection>) {
        self.connections.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, connection));
        self.openers.wake_all();
    }
}

fn is_live(connection: &ClientConnection) -> bool {
    matches!(connection.may_open(), Ok(()) | Err(NotOpened::Limit))
}

/// Connections per key that take new streams.
const CONNECTIONS: usize = 16;
/// Bytes that readers who stall may leave beside the windows of the connections of one key before the longest of them is reset.
const PARKED_BYTES: u32 = 16 << 20;
/// How long the last words of connections may take when the worker stops, and how often they are looked at.
const LEAVE: Duration = Duration::from_millis(500);
const LEAVE_STEP: Duration = Duration::from_millis(1);
/// Connections on which the peer allows no stream at all before no further one is tried.
const SHUT: usize = 2;
/// How long those who have a connection to wait for wait before another connect is tried after one failed.
const PAUSE_MS: u64 = 1_000;
/// How long a peer without HTTP/2 is spoken to in HTTP/1.1 before it is asked again.
const FALLBACK_MS: u64 = 60_000;
