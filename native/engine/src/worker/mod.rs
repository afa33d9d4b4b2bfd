//! One worker thread: its share of the listeners, its pools, timers and counters, and the snapshot it has in force.
//!
//! In: bound sockets, commands from the control thread.  Out: connections served, acknowledgements of swaps.
//! Limits: commands queue without bound but are made only by the control thread, one swap at a time.
//! Nothing is shared between workers but the snapshot, the credentials and what telemetry sums on a scrape.

pub(crate) mod buffers;
pub(crate) mod health;
pub(crate) mod load;
pub(crate) mod registry;

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use meshdp_model::facts::Direction;
use meshdp_model::jwt::VerifiedTokens;
use meshdp_model::snapshot::Snapshot;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::connection::Failure;
use crate::control::memory::Pressure;
use crate::control::turnover;
use crate::fault;
use crate::h2::pool::Connections;
use crate::http::decide::Scratch;
use crate::keys::Keys;
use crate::lasting::lasting;
use crate::listener::{self, Doors};
use crate::observe::access_log::AccessLog;
use crate::observe::outcome::Reason;
use crate::observe::telemetry::WorkerTelemetry;
use crate::pool::{Pool, PoolKey};
use crate::settings::Settings;
use crate::stream::Stream;
use crate::sys;
use crate::tls::credentials::{CredentialStore, Credentials};
use crate::tls::origination::Originations;
use crate::tls::verify::RootId;
use crate::worker::buffers::Buffers;
use crate::worker::health::Health;
use crate::worker::load::Load;
use crate::worker::registry::{ConnectionRow, Registry};

/// What the control thread asks of a worker.
pub(crate) enum Command {
    /// Put a snapshot in force; answer once every live connection has been told.
    Swap(Arc<Snapshot>, Sender<()>),
    /// Answer with the live connections.
    Connections(Sender<Vec<ConnectionRow>>),
    /// No new work from peers; the application may still connect, and what runs may finish.
    Drain,
    /// Accept nothing more.
    Close,
    /// End now.
    Stop,
}

/// The configuration a connection or a request runs under, from its start to its end.
pub(crate) struct Pinned {
    /// The snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Counts swaps on this worker; a permit given under another epoch must be asked for again.
    pub(crate) epoch: u64,
}

/// What a worker is made of before its thread starts.
pub(crate) struct Setup {
    pub(crate) id: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) credentials: Arc<CredentialStore>,
    pub(crate) listeners: Vec<(Direction, StdListener)>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) telemetry: WorkerTelemetry,
    pub(crate) access_log: AccessLog,
    pub(crate) connection_limit: usize,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) keys: Arc<Keys>,
}

/// The state every connection task of this thread shares.
pub(crate) struct Worker {
    pub(crate) settings: Arc<Settings>,
    pub(crate) credentials: Arc<CredentialStore>,
    pub(crate) registry: Rc<Registry>,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) pool: RefCell<Pool>,
    /// HTTP/2 connections to upstreams, shared by requests.
    pub(crate) h2: Connections,
    pub(crate) load: Load,
    pub(crate) health: Health,
    /// TLS begun for applications.
    pub(crate) originations: RefCell<Originations>,
    pub(crate) scratch: RefCell<Scratch>,
    pub(crate) telemetry: RefCell<WorkerTelemetry>,
    pub(crate) access_log: RefCell<AccessLog>,
    pub(crate) draining: Cell<bool>,
    pub(crate) pressure: Arc<Pressure>,
    /// Key sets that are fetched.
    pub(crate) keys: Arc<Keys>,
    /// Tokens that were proven.
    pub(crate) tokens: RefCell<VerifiedTokens>,
    pinned: RefCell<Rc<Pinned>>,
    started: Instant,
    coarse_ms: Cell<u64>,
    wall_s: Cell<u64>,
    random: Cell<u64>,
    /// Connections admitted at the last sweep, and when memory was last given back.
    admitted: Cell<u64>,
    settled: Cell<u64>,
    quiet_sweeps: Cell<u32>,
    saved_ms: Cell<u64>,
}

impl Worker {
    fn new(setup: Setup) -> Self {
        let Setup {
            id, settings, snapshot, credentials, telemetry, access_log, connection_limit, pressure, keys, ..
        } = setup;
        let limits = &settings.limits;
        // Idle connections may not take the descriptors that live ones need.
        let pool_total = limits.pool_total.min(connection_limit / 2);
        Self {
            registry: Rc::new(Registry::new(id, connection_limit)),
            buffers: Rc::default(),
            pool: RefCell::new(Pool::new(limits.pool_per_endpoint, pool_total, limits.pool_idle_ms)),
            h2: Connections::new(pool_total, limits.pool_idle_ms),
            load: Load::default(),
            health: Health::default(),
            originations: RefCell::default(),
            scratch: RefCell::default(),
            telemetry: RefCell::new(telemetry),
            access_log: RefCell::new(access_log),
            draining: Cell::new(false),
            pressure,
            keys,
            tokens: RefCell::default(),
            pinned: RefCell::new(Rc::new(Pinned { snapshot, epoch: 0 })),
            started: Instant::now(),
            coarse_ms: Cell::new(0),
            wall_s: Cell::new(turnover::wall_ms() / 1_000),
            random: Cell::new(seed()),
            admitted: Cell::new(0),
            settled: Cell::new(0),
            quiet_sweeps: Cell::new(0),
            saved_ms: Cell::new(0),
            credentials,
            settings,
        }
    }

    /// The configuration in force, to be kept for one connection or one request.
    pub(crate) fn pin(&self) -> Rc<Pinned> {
        Rc::clone(&self.pinned.borrow())
    }

    /// The epoch in force.
    pub(crate) fn epoch(&self) -> u64 {
        self.pinned.borrow().epoch
    }

    /// Milliseconds since the worker started, up to one sweep old: good for idle bounds, costs nothing.
    pub(crate) fn coarse_ms(&self) -> u64 {
        self.coarse_ms.get()
    }

    /// Seconds since 1970, up to one sweep old.
    pub(crate) fn wall_s(&self) -> u64 {
        self.wall_s.get()
    }

    /// The next number of a fast generator (xorshift64*); for balancing and request ids, never for secrets.
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The ports of our own capture listeners, to which nothing may be forwarded.
    pub(crate) fn capture_ports(&self) -> [u16; 2] {
        [self.settings.outbound.port(), self.settings.inbound.port()]
    }

    /// What we prove ourselves with. An expired certificate proves nothing: mutual TLS is refused both ways
    /// (attack-cases 2.19).
    pub(crate) fn own_credentials(&self) -> Result<Arc<Credentials>, Reason> {
        let credentials = self.credentials.load().ok_or(Reason::NotReady)?;
        if credentials.have_expired() { Err(Reason::CredentialsExpired) } else { Ok(credentials) }
    }

    /// Whether the peer's certificate still leads to a root that is trusted.
    ///
    /// # Errors
    /// `TrustChanged` when its root has left the bundle since.
    pub(crate) fn still_trusts(&self, stream: &Stream) -> Result<(), Failure> {
        self.still_trusts_root(stream.proof().map(|(root, _)| root))
    }

    /// As `still_trusts`, for the root that a certificate led to.
    ///
    /// # Errors
    /// `TrustChanged` when it has left the bundle since.
    pub(crate) fn still_trusts_root(&self, root: Option<&RootId>) -> Result<(), Failure> {
        let Some(root) = root else { return Ok(()) };
        if self.credentials.load().is_none_or(|credentials| credentials.trusts(root)) {
            return Ok(());
        }
        Err(Failure::new(Reason::TrustChanged, "the root of the peer's certificate is no longer trusted"))
    }

    async fn swap(&self, snapshot: Arc<Snapshot>) {
        let epoch = self.epoch() + 1;
        *self.pinned.borrow_mut() = Rc::new(Pinned { snapshot, epoch });
        let pinned = self.pin();
        self.retire(|key| match &key.security {
            None => true,
            Some((cluster, _)) => {
                pinned.snapshot.cluster(&cluster.key).is_some_and(|(now, _)| Arc::ptr_eq(now, cluster))
            }
        });
        self.retire_old_credentials();
        self.registry.wake_all().await;
    }

    /// Closes pooled connections that were opened with credentials which are no longer ours: their age is bounded by
    /// our own renewals.
    fn retire_old_credentials(&self) {
        let in_use = self.credentials.load().map_or(0, |credentials| credentials.epoch);
        self.retire(|key| key.security.as_ref().is_none_or(|(_, epoch)| *epoch == in_use));
        self.h2.distrust(|root| self.still_trusts_root(Some(root)).is_ok());
    }

    /// Has no new request take an upstream connection that `keep` does not name.
    fn retire(&self, keep: impl Fn(&PoolKey) -> bool) {
        self.pool.borrow_mut().retire(&keep);
        self.h2.retire(keep);
    }

    fn sweep(&self) {
        fault::point("timer");
        self.wall_s.set(turnover::wall_ms() / 1_000);
        self.coarse_ms.set(self.started.elapsed().as_millis() as u64);
        self.registry.wake_expired(self.coarse_ms());
        self.pool.borrow_mut().sweep(self.coarse_ms(), self.wall_s.get());
        self.health.sweep(self.coarse_ms());
        self.h2.sweep((self.coarse_ms(), self.wall_s.get()), self.pressure.is_saving());
        self.retire_old_credentials();
        if matches!(self.own_credentials(), Err(Reason::CredentialsExpired)) {
            self.retire(|key| key.security.is_none());
        }
        let calm = self.buffers.sweep();
        self.settle(calm);
        self.save();
        self.access_log.borrow_mut().flush();
    }

    /// While memory is short: keeps nothing for later, and once a second gives back what the heap holds for nobody, so that
    /// what connections have left behind does not keep new ones out.
    fn save(&self) {
        if !self.pressure.is_saving() {
            return;
        }
        self.pool.borrow_mut().retire(|_| false);
        self.buffers.drop_spares();
        if self.coarse_ms() - self.saved_ms.get() >= SAVING_MS {
            self.saved_ms.set(self.coarse_ms());
            sys::release_free_memory();
        }
    }

    /// Gives memory back once a burst of connections is over: handshakes leave the heap full of holes.
    fn settle(&self, calm: bool) {
        let admitted = self.registry.admitted();
        let quiet = admitted == self.admitted.replace(admitted) && calm;
        self.quiet_sweeps.set(if quiet { self.quiet_sweeps.get() + 1 } else { 0 });
        // By then the newcomers' requests are answered, and the buffers that they needed dropped.
        if self.quiet_sweeps.get() >= SETTLED_SWEEPS && admitted - self.settled.get() >= BURST {
            self.settled.set(admitted);
            sys::release_free_memory();
        }
    }
}

#[cfg(test)]
impl Worker {
    /// A worker without listeners and without a thread of its own.
    pub(crate) fn of_tests(credentials: Arc<CredentialStore>) -> Rc<Self> {
        Self::of_tests_under(Snapshot::empty(), credentials)
    }

    /// The same with a configuration.
    pub(crate) fn of_tests_under(snapshot: Snapshot, credentials: Arc<CredentialStore>) -> Rc<Self> {
        use crate::observe::{access_log, telemetry::Telemetry};
        let log = access_log::Sink::start(std::io::sink(), access_log::Mode::Off, Arc::default()).expect("a thread");
        Rc::new(Self::new(Setup {
            id: 0,
            settings: Arc::new(Settings::of_tests()),
            snapshot: Arc::new(snapshot),
            credentials,
            listeners: Vec::new(),
            commands: mpsc::unbounded_channel().1,
            telemetry: Telemetry::new().worker(),
            access_log: log.worker(),
            connection_limit: 1_024,
            pressure: Arc::default(),
            keys: Arc::default(),
        }))
    }
}

/// Runs a worker until it is told to stop. Called on the worker's own thread.
pub(crate) fn run(mut setup: Setup) -> std::io::Result<()> {
    // Tasks of a local runtime are queued where it looks anyway; a `LocalSet` would be woken for each as a task of its own.
    let runtime = Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
    let listeners = std::mem::take(&mut setup.listeners);
    let commands = std::mem::replace(&mut setup.commands, mpsc::unbounded_channel().1);
    let worker = Rc::new(Worker::new(setup));
    runtime.block_on(async move {
        let (doors, seen) = tokio::sync::watch::channel(Doors::Open);
        for (direction, listener) in listeners {
            let listener = Rc::new(TcpListener::from_std(listener)?);
            let (serving, seen) = (Rc::clone(&worker), seen.clone());
            last(&worker, move || listener::accept(direction, Rc::clone(&listener), Rc::clone(&serving), seen.clone()));
        }
        drop(seen);
        let ticking = Rc::clone(&worker);
        // tokio would set the kernel's timer for each wait, as long as it had one of ours to think of.
        let ticker = Rc::new(sys::ticker(SWEEP)?);
        last(&worker, move || tick(Rc::clone(&ticking), Rc::clone(&ticker)));
        obey(&worker, commands, &doors).await;
        worker.access_log.borrow_mut().flush();
        Ok(())
    })
}

/// Spawns what this worker cannot do without.
fn last<Turn: Future<Output = ()> + 'static>(worker: &Rc<Worker>, begin: impl Fn() -> Turn + 'static) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(lasting(begin, move || worker.telemetry.borrow().panicked()));
}

async fn obey(
    worker: &Worker,
    mut commands: mpsc::UnboundedReceiver<Command>,
    doors: &tokio::sync::watch::Sender<Doors>,
) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Swap(snapshot, done) => {
                worker.swap(snapshot).await;
                let _ = done.send(());
            }
            Command::Connections(answer) => drop(answer.send(worker.registry.rows())),
            Command::Drain => {
                worker.draining.set(true);
                let _ = doors.send(Doors::OutboundOnly);
                worker.registry.wake_all().await;
            }
            Command::Close => {
                let _ = doors.send(Doors::Closed);
                // Whoever asks for the connections after this sees those that were still in the queue.
                doors.closed().await;
                worker.h2.retire(|_| false);
            }
            Command::Stop => return worker.h2.leave().await,
        }
    }
}

async fn tick(worker: Rc<Worker>, ticker: Rc<AsyncFd<OwnedFd>>) {
    loop {
        let Ok(mut ticked) = ticker.readable().await else { return }; // the runtime ends
        // Ticks that were missed count as one.
        if let Ok(Ok(_)) = ticked.try_io(|timer| sys::ticks(timer.as_fd())) {
            worker.sweep();
        }
    }
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() | 1
}

/// Binds one listener of a capture port; Linux hands its options on to the sockets it accepts. Workers share the port
/// through `SO_REUSEPORT`, which is open to every process of our user: where the application is one, there is a mark, and
/// the workers share the listener itself.
pub(crate) fn bind(address: SocketAddr, settings: &Settings) -> std::io::Result<StdListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec().nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match settings.mark {
        Some(mark) => sys::set_mark(socket.as_fd(), mark)?,
        None => socket.set_reuse_port(true)?,
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(probing) = settings.limits.keepalive() {
        socket.set_tcp_keepalive(&probing)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How often deadlines, idle pools and the access log are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// Connections that the kernel may greet before we take them.
pub(crate) const BACKLOG: i32 = 1_024;
const SETTLED_SWEEPS: u32 = 3;
/// Looking for free memory takes milliseconds.
const SAVING_MS: u64 = 1_000;
/// Connections after which looking for free memory is worth its milliseconds.
const BURST: u64 = 128;
