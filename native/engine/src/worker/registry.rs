//! The live connections of one worker: what each one is, and how to interrupt it.
//!
//! In: connections as they start.  Out: rows for the admin page; wake-ups on a swap, a deadline or a drain.
//! Limits: at most half of the process's open-file limit (less a reserve) in connections, shared evenly between workers.
//! A connection task is woken through its registered waker and looks at the worker's epoch and its own deadline itself,
//! so that the hot path pays one comparison and no timer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::SystemTime;

use meshdp_model::facts::Direction;
use serde::Serialize;

/// One live connection as the rest of the worker sees it.
pub(crate) struct Entry {
    /// Number of the connection on this worker, never reused.
    pub(crate) id: u64,
    /// Which side of the workload it is on.
    pub(crate) direction: Direction,
    /// The downstream's address.
    pub(crate) source: SocketAddr,
    /// The original destination.
    pub(crate) destination: SocketAddr,
    /// When it was accepted.
    pub(crate) started: SystemTime,
    /// The peer's identity once TLS has proven it.
    pub(crate) peer: RefCell<Option<Box<str>>>,
    /// What the connection carries: `sniffing`, `tls`, `http/1.1`, `tcp`.
    pub(crate) protocol: Cell<&'static str>,
    /// TLS version and cipher, once known.
    pub(crate) tls: Cell<Option<[&'static str; 2]>>,
    /// What policies in the shadow said of an opaque connection, as the access log has it.
    pub(crate) shadow: RefCell<Option<Box<str>>>,
    /// Requests answered so far.
    pub(crate) requests: Cell<u64>,
    /// Bytes were relayed opaquely, and the access log has its line.
    pub(crate) relayed: Cell<bool>,
    /// Millisecond of the worker's coarse clock after which the connection is interrupted; `u64::MAX` = never.
    pub(crate) deadline_ms: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Entry {
    /// Remembers the task that runs this connection. Called once, from that task.
    pub(crate) async fn register_waker(&self) {
        poll_fn(|context| {
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        })
        .await;
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A row of `GET /connections`.
#[derive(Debug, Serialize)]
pub struct ConnectionRow {
    /// Worker that serves the connection.
    pub worker: usize,
    /// Number of the connection on that worker.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// Downstream address.
    pub source: SocketAddr,
    /// Address before redirection.
    pub original_destination: SocketAddr,
    /// What is carried.
    pub protocol: &'static str,
    /// Proven identity of the peer.
    pub peer: Option<Box<str>>,
    /// TLS version and cipher suite.
    pub tls: Option<String>,
    /// Requests answered so far.
    pub requests: u64,
    /// Unix time of the accept, in seconds.
    pub started_unix_s: u64,
}

/// All live connections of a worker.
pub(crate) struct Registry {
    worker: usize,
    limit: usize,
    next: Cell<u64>,
    entries: RefCell<BTreeMap<u64, Rc<Entry>>>,
}

impl Registry {
    /// An empty registry that admits up to `limit` connections.
    pub(crate) fn new(worker: usize, limit: usize) -> Self {
        Self { worker, limit, next: Cell::new(0), entries: RefCell::default() }
    }

    /// Admits a connection, unless the limit is reached.
    pub(crate) fn admit(self: &Rc<Self>, direction: Direction, source: SocketAddr, to: SocketAddr) -> Option<Admitted> {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= self.limit {
            return None;
        }
        let id = self.next.replace(self.next.get() + 1);
        let entry = Rc::new(Entry {
            id,
            direction,
            source,
            destination: to,
            started: SystemTime::now(),
            peer: RefCell::new(None),
            protocol: Cell::new("sniffing"),
            tls: Cell::new(None),
            shadow: RefCell::default(),
            requests: Cell::new(0),
            relayed: Cell::new(false),
            deadline_ms: Cell::new(u64::MAX),
            waker: RefCell::new(None),
        });
        entries.insert(id, Rc::clone(&entry));
        Some(Admitted { entry, registry: Rc::clone(self) })
    }

    /// How many connections were ever admitted.
    pub(crate) fn admitted(&self) -> u64 {
        self.next.get()
    }

    /// Wakes every connection, in batches so that a large registry does not stall the worker.
    pub(crate) async fn wake_all(&self) {
        let mut after = None;
        loop {
            let batch: Vec<Rc<Entry>> = self.batch_after(after);
            let Some(last) = batch.last() else { return };
            after = Some(last.id);
            for entry in &batch {
                entry.wake();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Wakes the connections whose deadline lies before `now_ms`.
    pub(crate) fn wake_expired(&self, now_ms: u64) {
        for entry in self.entries.borrow().values() {
            if entry.deadline_ms.get() <= now_ms {
                entry.wake();
            }
        }
    }

    /// The rows of the admin page.
    pub(crate) fn rows(&self) -> Vec<ConnectionRow> {
        self.entries.borrow().values().map(|entry| self.row(entry)).collect()
    }

    fn batch_after(&self, after: Option<u64>) -> Vec<Rc<Entry>> {
        let entries = self.entries.borrow();
        let from = after.map_or(0, |id| id + 1);
        entries.range(from..).take(BATCH).map(|(_, entry)| Rc::clone(entry)).collect()
    }

    fn row(&self, entry: &Entry) -> ConnectionRow {
        ConnectionRow {
            worker: self.worker,
            id: entry.id,
            direction: entry.direction.word(),
            source: entry.source,
            original_destination: entry.destination,
            protocol: entry.protocol.get(),
            peer: entry.peer.borrow().clone(),
            tls: entry.tls.get().map(|words| words.join(" ")),
            requests: entry.requests.get(),
            started_unix_s: entry.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

/// A connection's place in the registry; leaving scope takes it out.
pub(crate) struct Admitted {
    pub(crate) entry: Rc<Entry>,
    registry: Rc<Registry>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.registry.entries.borrow_mut().remove(&self.entry.id);
    }
}

/// Connections woken before the worker turns to its other work.
const BATCH: usize = 256;
