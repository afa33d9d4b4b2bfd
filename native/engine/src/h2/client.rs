//! An HTTP/2 connection to an upstream: made once for all who wait for it, shared by their streams, ended without losing one.
//!
//! In: a target.  Out: [`Acquired`], a connection on which a stream may be opened at once.
//! Limits: one connect under way per key; `pool.rs` bounds connections, `WAITERS` those who wait (decision 0110). Nobody waits
//! for a connection longer than a connect and a handshake may take, nor for a stream to end longer than the idle bound.
//! Fails: with the reason of the connect, for each of those who waited for it. A waiter that leaves harms nobody: connects
//! and connections run in tasks of their own.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use meshdp_proto::h2::hpack::Encoder;
use meshdp_proto::h2::{Config, NotOpened, Role};
use meshdp_proto::http1_head::Limits;
use meshdp_proto::http1_response::RequestKind;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::driver::Driver;
use super::pool::{Attempt, Found, Group};
use super::shared::Shared;
use super::stream::{StreamEnd, StreamHandle};
use crate::observe::outcome::Reason;
use crate::stream::Stream;
use crate::tls::verify::RootId;
use crate::upstream::Target;
use crate::worker::Worker;

/// What may carry a request.
pub(crate) enum Acquired {
    /// A connection that takes a stream now; nothing may be awaited in between.
    Http2(Rc<ClientConnection>),
    /// The peer speaks no HTTP/2: an HTTP/1.1 connection, as the pool of those has them.
    Http11,
}

/// One connection to an upstream.
pub(crate) struct ClientConnection {
    shared: Rc<Shared>,
    /// What the peer's certificate led to, and its last second; `None` over plain bytes.
    proof: Option<(RootId, u64)>,
    pub(super) life: Life,
}

/// What the sweeps have seen of a connection.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Since when no stream has been there at any sweep.
    pub(super) quiet_since_ms: Cell<Option<u64>>,
    /// Streams opened, at the last sweep and now.
    pub(super) opened_then: Cell<u64>,
    pub(super) opened: Cell<u64>,
    /// Bytes received, at the last sweep that saw some, and when that was.
    pub(super) heard: Cell<u64>,
    pub(super) heard_ms: Cell<u64>,
    /// The connection's window was used up at the last sweep.
    pub(super) braked: Cell<bool>,
    /// Since when it has been retired without a stream.
    pub(super) spent_since_ms: Cell<Option<u64>>,
    /// When we asked whether the peer is still there.
    pub(super) asked_ms: Cell<Option<u64>>,
}

/// Finds a connection to the target, or has one made.
///
/// # Errors
/// Why there is none, before any byte of the request was sent.
pub(crate) async fn acquire(target: &Target, worker: &Rc<Worker>) -> Result<Acquired, Reason> {
    let key = target.pool_key(worker);
    let group = worker.h2.group(&key);
    // Nobody overtakes those who wait.
    let found = if group.openers.is_empty() { group.find(worker.coarse_ms()) } else { Found::Nothing };
    match found {
        Found::Http2(connection) => return Ok(Acquired::Http2(connection)),
        Found::Another(connection) => {
            let _ = attempt(&group, target, worker);
            return Ok(Acquired::Http2(connection));
        }
        Found::Http11 => return Ok(Acquired::Http11),
        Found::Nothing => {}
    }
    drop(key);
    // Boxed, so that requests do not all keep room for a wait that few of them have.
    Box::pin(wait_in_time(&group, target, worker)).await
}

async fn wait_in_time(group: &Rc<Group>, target: &Target, worker: &Rc<Worker>) -> Result<Acquired, Reason> {
    let bound = target.connect_timeout + worker.settings.handshake();
    let last_ms = worker.coarse_ms() + worker.settings.limits.idle_ms;
    let mut waiting = pin!(wait(group, target, worker));
    loop {
        match timeout(bound, waiting.as_mut()).await {
            Ok(acquired) => return acquired,
            Err(_) if group.is_empty() => return Err(Reason::UpstreamConnectTimeout),
            // It is served, only not yet: a burst waits its turn, as long as its callers do.
            Err(_) if group.is_busy() && worker.coarse_ms() < last_ms => {}
            Err(_) => return Err(Reason::Overload),
        }
    }
}

/// The peer has said on this connection that it wants HTTP/1.1: no new stream goes onto it, and the endpoint is remembered.
pub(crate) fn fall_back(connection: &ClientConnection, target: &Target, worker: &Worker) {
    connection.retire();
    worker.h2.group(&target.pool_key(worker)).falls_back(worker.coarse_ms());
}

/// Waits for a connection that is being made, or for a stream to end on those that are there.
async fn wait(group: &Rc<Group>, target: &Target, worker: &Rc<Worker>) -> Result<Acquired, Reason> {
    let most = if worker.pressure.is_saving() { WAITERS_WHILE_SHORT } else { WAITERS };
    let waiting = group.openers.enter(most).ok_or(Reason::Overload)?;
    let mut awaited: Option<Rc<Attempt>> = None;
    poll_fn(|context| {
        waiting.register(context);
        if let Some(Err(reason)) = awaited.as_ref().and_then(|attempt| attempt.outcome.get())
            && group.is_empty()
        {
            return Poll::Ready(Err(reason));
        }
        if waiting.is_first() {
            match group.find(worker.coarse_ms()) {
                Found::Http2(connection) | Found::Another(connection) => {
                    return Poll::Ready(Ok(Acquired::Http2(connection)));
                }
                Found::Http11 => return Poll::Ready(Ok(Acquired::Http11)),
                Found::Nothing => {}
            }
            awaited = attempt(group, target, worker);
        } else if let Some(attempt) = group.attempt() {
            // Whether it takes another connection is for the first to find out: there may be room that he has not taken yet.
            awaited = Some(attempt);
        }
        Poll::Pending
    })
    .await
}

/// The connect that is under way, or a new one where another connection may be made.
fn attempt(group: &Rc<Group>, target: &Target, worker: &Rc<Worker>) -> Option<Rc<Attempt>> {
    if let Some(attempt) = group.attempt() {
        return Some(attempt);
    }
    let attempt = group.begin(worker.coarse_ms())?;
    // Those who wait are to know what becomes of it.
    group.openers.wake_all();
    let ending = Ending { group: Rc::clone(group), attempt: Rc::clone(&attempt), worker: Rc::clone(worker) };
    spawn_local(connect(ending, target.clone()));
    Some(attempt)
}

async fn connect(ending: Ending, target: Target) {
    let (group, worker) = (&ending.group, &ending.worker);
    let connected = target.connect_http2(worker).await;
    if connected.is_ok() {
        worker.health.succeeded(target.address);
    }
    let outcome = match connected {
        Err(reason) => Err(reason),
        Ok(stream) if stream.takes_http2(target.declares_http2()) => {
            begin(stream, group, worker);
            Ok(())
        }
        Ok(stream) => {
            group.falls_back(worker.coarse_ms());
            worker.pool.borrow_mut().give(&group.key, stream, (worker.coarse_ms(), worker.wall_s()));
            Ok(())
        }
    };
    ending.attempt.outcome.set(Some(outcome));
}

/// Puts a connection at the disposal of the group.
fn begin(stream: Stream, group: &Rc<Group>, worker: &Rc<Worker>) {
    let proof = stream.proof().map(|(root, until)| (*root, until));
    let openers = Some(Rc::clone(&group.openers));
    let limits = Limits::default();
    let limits = if proof.is_some() { limits.of_mesh_peer() } else { limits };
    let config = Config { connection_window: CONNECTION_WINDOW, limits, ..Config::default() };
    let shared = Shared::new(Role::Client, &config, &worker.buffers, openers);
    let connection = Rc::new(ClientConnection { shared: Rc::clone(&shared), proof, life: Life::default() });
    connection.life.heard_ms.set(worker.coarse_ms());
    let driver = Driver::new(stream, shared, Vec::new());
    worker.h2.make_room();
    group.add(Rc::clone(&connection));
    spawn_local(run(driver, connection, Rc::clone(group), Rc::clone(worker)));
}

/// Drives a connection to its end.
async fn run(mut driver: Driver, connection: Rc<ClientConnection>, group: Rc<Group>, worker: Rc<Worker>) {
    let _counted = Counted::new(&worker);
    let _ended = poll_fn(|context| driver.poll(context, worker.coarse_ms())).await;
    group.remove(&connection);
    let _ = timeout(HANG_UP, driver.stream.shutdown()).await;
}

/// A connection as the metrics count it, however it ends.
struct Counted<'w>(&'w Worker);

impl<'w> Counted<'w> {
    fn new(worker: &'w Worker) -> Self {
        worker.telemetry.borrow().upstream_opened();
        Self(worker)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.telemetry.borrow().upstream_closed();
    }
}

/// However a connect ends, those who wait for it are told.
struct Ending {
    group: Rc<Group>,
    attempt: Rc<Attempt>,
    worker: Rc<Worker>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.attempt.outcome.get().is_none() {
            self.attempt.outcome.set(Some(Err(Reason::Bug)));
        }
        self.group.ended(&self.attempt, self.worker.coarse_ms());
    }
}

impl ClientConnection {
    /// Opens a stream with its request head; `encode` writes the field block.
    ///
    /// # Errors
    /// Why not; `encode` was not called, another connection may take the request.
    pub(crate) fn open(
        &self,
        kind: RequestKind,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<StreamHandle, NotOpened> {
        let stream = self.shared.open(kind, end, encode)?;
        self.life.opened.set(self.life.opened.get() + 1);
        Ok(stream)
    }

    /// A request that began after another had come to its end here: what an idle connection's end took with it may be sent
    /// again.
    pub(crate) fn reused(&self) -> bool {
        self.life.opened.get() > 1
    }

    /// Whether the peer has said, of a stream or of all, that it wants HTTP/1.1 instead (RFC 9113 7).
    pub(crate) fn wants_http11(&self) -> bool {
        self.shared.wants_http11()
    }

    pub(super) fn may_open(&self) -> Result<(), NotOpened> {
        self.shared.may_open()
    }

    pub(super) fn retire(&self) {
        self.shared.retire();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.shared.is_retired()
    }

    /// Whether a new stream would wait for the windows of the old ones.
    pub(super) fn is_braked(&self) -> bool {
        self.life.braked.get() && self.shared.is_braked()
    }

    pub(super) fn parked(&self) -> u32 {
        self.shared.parked()
    }

    pub(super) fn relieve(&self, most: u32) -> u32 {
        self.shared.relieve(most)
    }

    pub(super) fn is_unused(&self) -> bool {
        self.shared.is_unused()
    }

    pub(super) fn root(&self) -> Option<&RootId> {
        self.proof.as_ref().map(|(root, _)| root)
    }

    pub(super) fn distrust(&self) {
        self.shared.abandon(StreamEnd::Distrusted);
    }

    /// What happens to it as time goes by.
    pub(super) fn sweep(&self, now_ms: u64, wall_s: u64, idle_ms: u64) {
        if self.proof.as_ref().is_some_and(|(_, until_unix)| *until_unix < wall_s) {
            self.retire();
        }
        let active = self.shared.active();
        let unused = active == 0 && self.life.opened_then.replace(self.life.opened.get()) == self.life.opened.get();
        let since = if unused { self.life.quiet_since_ms.get().unwrap_or(now_ms) } else { now_ms };
        self.life.quiet_since_ms.set(unused.then_some(since));
        let quiet_ms = if unused { now_ms.saturating_sub(since) } else { 0 };
        if quiet_ms >= idle_ms {
            self.retire();
        }
        let spent = unused && self.is_retired();
        let since = spent.then(|| self.life.spent_since_ms.get().unwrap_or(now_ms));
        self.life.spent_since_ms.set(since);
        // Its GOAWAY would have left long ago: the peer takes nothing any more.
        if since.is_some_and(|since| now_ms.saturating_sub(since) >= LEAVE_MS) {
            self.shared.abandon(StreamEnd::Lost);
        }
        self.life.braked.set(self.shared.is_braked());
        self.look_after(now_ms, active);
    }

    /// Asks a peer of the mesh that has been silent for long, with streams under way, whether it is still there. Others are
    /// left to TCP's keep-alive: a gRPC server takes such questions amiss (decision 0089).
    fn look_after(&self, now_ms: u64, active: usize) {
        let received = self.shared.received();
        if self.life.heard.replace(received) != received || active == 0 {
            self.life.heard_ms.set(now_ms);
            self.life.asked_ms.set(None);
        } else if let Some(asked_ms) = self.life.asked_ms.get() {
            if now_ms.saturating_sub(asked_ms) >= ANSWER_MS {
                self.shared.abandon(StreamEnd::Lost);
            }
        } else if self.proof.is_some() && now_ms.saturating_sub(self.life.heard_ms.get()) >= SILENCE_MS {
            self.life.asked_ms.set(self.shared.ping().then_some(now_ms));
        }
    }
}

/// Requests that may wait for a stream to the same endpoint; each is a request of a downstream that is held anyway.
const WAITERS: usize = 65_536;
/// The same while memory is short.
const WAITERS_WHILE_SHORT: usize = 1_024;
/// The largest that there is: callers share the connection, and those that do not read are to pin as little of it as can be.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long a peer of the mesh may be silent, with streams under way, before it is asked.
const SILENCE_MS: u64 = 15_000;
/// How long it may take to answer.
const ANSWER_MS: u64 = 10_000;
/// How long a retired connection may take to say GOAWAY after its last stream.
const LEAVE_MS: u64 = 5_000;
/// How long the end of a connection may take.
const HANG_UP: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
