//! What a sidecar counts: Istio's standard metrics and our own, per worker, summed when somebody asks.
//!
//! In:      connections and requests, from the worker that carries them; swaps and expiry, from the control thread.
//! Out:     Prometheus' text and JSON (`telemetry/render.rs`), read by the admin server.
//! Limits:  [`MAX_SERIES`] label sets a worker, the rest is summed under `other`; [`MAX_POLICIES`] policies.
//!          A known series costs a lookup and a few relaxed stores: no lock, no allocation.
//! Source:  istio-semantics G.2.

mod render;
mod series;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use series::{Party, Protocol, Reporter, Security, SeriesKey};

use meshdp_model::facts::Direction;

use crate::observe::outcome::Reason;
use series::{Cell, Cells, Labels, MICROS_PER_MILLI, OTHER, TcpCells};

/// The counters of the whole sidecar; shared by the control thread and the workers.
#[derive(Debug, Default)]
pub struct Telemetry {
    workers: Mutex<Vec<Arc<Block>>>,
    config: Mutex<String>,
    config_swaps: AtomicU64,
    config_rejected: AtomicU64,
    certificate_expiry: AtomicU64,
    certificate_alarm: AtomicU64,
    certificates_installed: AtomicU64,
    certificate_failures: AtomicU64,
    panics: AtomicU64,
    access_log_dropped: Arc<AtomicU64>,
}

impl Telemetry {
    /// New counters, all zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Counters for one more worker.
    pub fn worker(&self) -> WorkerTelemetry {
        let block = Arc::new(Block::default());
        locked(&self.workers).push(Arc::clone(&block));
        WorkerTelemetry {
            block,
            series: Vec::new(),
            known: HashMap::new(),
            policies: HashMap::new(),
            shadows: HashMap::new(),
        }
    }

    /// A configuration came into force.
    pub fn config_swapped(&self, digest: &str) {
        digest.clone_into(&mut locked(&self.config));
        self.config_swaps.fetch_add(1, Relaxed);
    }

    /// A configuration was refused.
    pub fn config_rejected(&self) {
        self.config_rejected.fetch_add(1, Relaxed);
    }

    /// A certificate was installed that holds until `not_after` (seconds since 1970).
    pub fn certificate_installed(&self, not_after: u64) {
        self.certificate_expiry.store(not_after, Relaxed);
        self.certificates_installed.fetch_add(1, Relaxed);
    }

    /// How much of the certificate's life is gone without a new one, in steps: 0, 50, 80, 95, 100.
    pub fn certificate_alarm(&self, percent: u64) {
        self.certificate_alarm.store(percent, Relaxed);
    }

    /// An attempt to get a certificate failed.
    pub fn certificate_failed(&self) {
        self.certificate_failures.fetch_add(1, Relaxed);
    }

    /// A panic was caught. Any thread may call this.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// The counter that the access log's queue adds its dropped lines to.
    pub fn access_log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.access_log_dropped)
    }

    /// Everything, as Prometheus' text exposition; equal counters give equal bytes.
    pub fn prometheus(&self) -> String {
        render::prometheus(self)
    }

    /// Everything, as JSON (`docs/admin.md`, `/stats`).
    pub fn json(&self) -> serde_json::Value {
        render::json(self)
    }
}

/// The counters that one worker owns and alone writes.
#[derive(Debug)]
pub struct WorkerTelemetry {
    block: Arc<Block>,
    /// The cells by [`SeriesId`]; the same as in the block, reachable without its lock.
    series: Vec<Arc<Series>>,
    /// Hash of a key to its id; of keys with equal hashes the later ones stand at the next free number.
    known: HashMap<u64, SeriesId>,
    policies: HashMap<Box<str>, Arc<Cell>>,
    shadows: HashMap<Box<str>, Arc<Cell>>,
}

/// A series of one worker; meaningless to any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesId(u32);

impl WorkerTelemetry {
    /// The series with these labels, made on first sight. Protocol `Tcp` gives one for the `tcp_*` calls, any other one
    /// for [`Self::record_request`].
    pub fn series(&mut self, key: &SeriesKey<'_>) -> SeriesId {
        self.find(key).unwrap_or_else(|place| {
            if self.series.len() < MAX_SERIES {
                return self.add(key, place);
            }
            self.block.overflowed.add(1);
            let other = key.other();
            self.find(&other).unwrap_or_else(|place| self.add(&other, place))
        })
    }

    /// The id of a known key, or else the number under which it is to be stored.
    fn find(&self, key: &SeriesKey<'_>) -> Result<SeriesId, u64> {
        let mut place = key.hash_with(self.known.hasher());
        while let Some(&id) = self.known.get(&place) {
            if self.at(id).labels.is(key) {
                return Ok(id);
            }
            place = place.wrapping_add(1);
        }
        Err(place)
    }

    fn add(&mut self, key: &SeriesKey<'_>, place: u64) -> SeriesId {
        let id = SeriesId(self.series.len() as u32);
        let series = Arc::new(Series { labels: Labels::of(key), cells: Cells::for_protocol(key.protocol) });
        locked(&self.block.series).push(Arc::clone(&series));
        self.series.push(series);
        self.known.insert(place, id);
        id
    }

    fn at(&self, id: SeriesId) -> &Series {
        &self.series[id.0 as usize]
    }

    fn tcp(&self, id: SeriesId) -> Option<&TcpCells> {
        match &self.at(id).cells {
            Cells::Tcp(cells) => Some(cells),
            Cells::Request(_) => None,
        }
    }

    /// Counts one request that ended. The bytes are those of the bodies.
    pub fn record_request(&self, id: SeriesId, duration_us: u64, bytes_in: u64, bytes_out: u64) {
        let Cells::Request(cells) = &self.at(id).cells else { return debug_assert!(false, "{id:?} is a TCP series") };
        cells.total.add(1);
        cells.duration_us.observe(duration_us, MICROS_PER_MILLI);
        cells.request_bytes.observe(bytes_in, 1);
        cells.response_bytes.observe(bytes_out, 1);
    }

    /// Counts an opaque connection that opened.
    pub fn tcp_opened(&self, id: SeriesId) {
        if let Some(cells) = self.tcp(id) {
            cells.opened.add(1);
        }
    }

    /// Counts bytes of an opaque connection since the last call: received from and sent to the downstream.
    pub fn tcp_moved(&self, id: SeriesId, received: u64, sent: u64) {
        if let Some(cells) = self.tcp(id) {
            cells.received_bytes.add(received);
            cells.sent_bytes.add(sent);
        }
    }

    /// Counts an opaque connection that closed.
    pub fn tcp_closed(&self, id: SeriesId) {
        if let Some(cells) = self.tcp(id) {
            cells.closed.add(1);
        }
    }

    /// An HTTP/2 connection to an upstream takes streams.
    pub(crate) fn upstream_opened(&self) {
        self.block.shared_upstreams.add(1);
    }

    /// It is no more.
    pub(crate) fn upstream_closed(&self) {
        self.block.shared_upstreams.sub(1);
    }

    /// A connection was accepted.
    pub fn connection_opened(&self, direction: Direction) {
        self.block.active[direction as usize].add(1);
    }

    /// A connection ended.
    pub fn connection_closed(&self, direction: Direction, reason: Reason) {
        self.block.active[direction as usize].sub(1);
        self.block.closed[direction as usize].0[reason as usize].add(1);
    }

    /// A policy (`namespace/name`, or `none`) denied a request or a connection.
    pub fn denied(&mut self, policy: &str) {
        count(&mut self.policies, &self.block.policies, policy, OTHER);
    }

    /// A policy in the shadow (or `none` of an action's) said what it would have done.
    pub fn shadowed(&mut self, action: &str, verdict: &str, policy: &str) {
        let labels =
            |policy: &str| format!("action=\"{action}\",result=\"{verdict}\",policy=\"{}\"", render::escape(policy));
        count(&mut self.shadows, &self.block.shadows, &labels(policy), &labels(OTHER));
    }

    /// A TLS handshake failed, on either side.
    pub fn tls_failed(&self, reason: Reason) {
        self.block.tls_failures.0[reason as usize].add(1);
    }

    /// A panic was caught in this worker.
    pub fn panicked(&self) {
        self.block.panics.add(1);
    }
}

/// A few series that one connection uses again and again, found without hashing their labels.
#[derive(Clone, Debug, Default)]
pub struct SeriesCache {
    entries: [Option<(CacheTag, SeriesId)>; CACHE_ENTRIES],
    next: u8,
}

/// What tells the series of one connection apart. All else in a key must be constant for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTag {
    /// The snapshot's number of swaps: addresses below are compared only within one snapshot, which keeps them alive.
    pub epoch: u64,
    /// The address of the endpoint or service that the labels are taken from (`std::ptr::from_ref(x) as usize`).
    pub place: usize,
    /// The status.
    pub status: u16,
    /// Why it ended.
    pub reason: Reason,
    /// What was spoken.
    pub protocol: Protocol,
    /// gRPC's status.
    pub grpc_status: Option<u8>,
}

impl SeriesCache {
    /// The series for `tag`; `make` looks it up in full when it is not among the last few.
    pub fn find(&mut self, tag: CacheTag, make: impl FnOnce() -> SeriesId) -> SeriesId {
        if let Some((_, id)) = self.entries.iter().flatten().find(|(known, _)| *known == tag) {
            return *id;
        }
        let id = make();
        self.entries[usize::from(self.next)] = Some((tag, id));
        self.next = (self.next + 1) % CACHE_ENTRIES as u8;
        id
    }
}

/// One worker's counters as the control thread reads them.
#[derive(Debug, Default)]
struct Block {
    series: Mutex<Vec<Arc<Series>>>,
    policies: Counted,
    shadows: Counted,
    active: [Cell; 2],
    /// Connections to upstreams that speak HTTP/2, which belong to no downstream connection.
    shared_upstreams: Cell,
    closed: [ByReason; 2],
    tls_failures: ByReason,
    panics: Cell,
    overflowed: Cell,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    cells: Cells,
}

#[derive(Debug)]
struct ByReason([Cell; Reason::COUNT]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

/// Counters by a text that only the worker adds to.
type Counted = Mutex<Vec<(Box<str>, Arc<Cell>)>>;

/// Adds one to the counter of a name; where there are as many as may be, to that of `other`.
fn count(known: &mut HashMap<Box<str>, Arc<Cell>>, shared: &Counted, name: &str, full: &str) {
    if let Some(cell) = known.get(name) {
        return cell.add(1);
    }
    let name = if known.len() < MAX_POLICIES { name } else { full };
    let cell = known.entry(name.into()).or_insert_with(|| {
        let cell = Arc::<Cell>::default();
        locked(shared).push((name.into(), Arc::clone(&cell)));
        cell
    });
    cell.add(1);
}

/// The lock's content, also after a panic elsewhere: counters have no invariant that a panic could break.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Label sets a worker keeps apart.
pub const MAX_SERIES: usize = 2_000;

/// Policies a worker keeps apart.
pub const MAX_POLICIES: usize = 500;

const CACHE_ENTRIES: usize = 4;

#[cfg(test)]
#[path = "telemetry_tests.rs"]
mod tests;
