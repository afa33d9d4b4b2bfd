//! One data plane from start to stop: it binds, starts the worker threads and the control thread, and ends them.
//!
//! In: `Settings`.  Out: `Engine`, which the language boundary holds.
//! Limits: one sidecar per network namespace (an exclusive abstract socket), `concurrency` workers.
//! Fails: `EngineError`, each a sentence with its cure; a failed start leaves nothing bound.
//! Source: DESIGN sections 4.3 and 5 ("Runtime").

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meshdp_model::facts::Direction;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::control::admin::{self, Face};
use crate::control::client::{self, Scope};
use crate::control::force::Force;
use crate::control::memory;
use crate::keys;
use crate::lasting::lasting;
use crate::observe::notice;
use crate::settings::Settings;
use crate::sys;
use crate::worker::{self, Command, Setup};

/// A data plane; dropping it stops it.
pub struct Engine {
    force: Arc<Force>,
    running: Mutex<Option<Running>>,
}

/// The capture listeners of one worker.
type Captures = Vec<(Direction, TcpListener)>;

type Thread = JoinHandle<()>;

struct Running {
    /// The process that the threads are in: after a fork without exec there is a child with this value and without them.
    process: u32,
    workers: Vec<Thread>,
    control: Thread,
    stop_control: oneshot::Sender<()>,
    _exclusive: Option<UnixListener>,
}

impl Engine {
    /// Prepares a data plane; nothing is bound yet.
    ///
    /// # Errors
    /// The access log cannot be opened.
    pub fn new(settings: Settings) -> Result<Self, EngineError> {
        sys::forbid_inspection().map_err(EngineError::Inspection)?;
        Ok(Self { force: Arc::new(Force::new(settings)?), running: Mutex::new(None) })
    }

    /// Binds every port and starts the threads.
    ///
    /// # Errors
    /// A second sidecar in the namespace, a port in use, no thread.
    pub fn start(&self) -> Result<(), EngineError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return Err(EngineError::AlreadyStarted);
        }
        let settings = Arc::clone(&self.force.settings);
        let exclusive = if settings.single_instance { Some(hold_namespace()?) } else { None };
        let faces = bind_faces(&settings)?;
        let mut listeners = bind_captures(&settings)?.into_iter();
        let mut setups = Vec::new();
        let mut commands = Vec::new();
        for id in 0..settings.concurrency {
            let (send, receive) = mpsc::unbounded_channel();
            commands.push(send);
            setups.push(self.setup(id, listeners.next().unwrap_or_default(), receive));
        }
        self.force.attach(commands);
        let (stop_control, stopped) = oneshot::channel();
        let force = Arc::clone(&self.force);
        // First, so that what fails after it can be undone by ending it.
        let control = spawn("meshdp-control", move || run_control(&force, faces, stopped))?;
        let mut workers = Vec::new();
        for setup in setups {
            match spawn("meshdp-worker", move || worker::run(setup)) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    self.end((workers, control, stop_control));
                    return Err(error);
                }
            }
        }
        let process = std::process::id();
        *running = Some(Running { process, workers, control, stop_control, _exclusive: exclusive });
        Ok(())
    }

    /// The state that swaps, certificates and statistics act on.
    pub fn force(&self) -> &Arc<Force> {
        &self.force
    }

    /// Says that it is not ready, takes no new work from peers, lets what runs finish and the application connect, and
    /// returns when nothing is left or the deadline has passed.
    pub fn drain(&self, deadline: Duration) {
        if self.is_a_forks_copy() {
            return;
        }
        let until = Instant::now() + deadline;
        self.force.begin_drain();
        self.await_silence(until);
        // The application may have connected since the last look: the kernel's queue is emptied before the port closes.
        self.force.tell_all(|| Command::Close);
        std::thread::sleep(DRAIN_POLL);
        self.await_silence(until);
    }

    /// Ends every thread and closes every socket. What still runs is cut.
    pub fn stop(&self) {
        let copied = self.is_a_forks_copy();
        let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if copied {
            return std::mem::forget(running); // there is nothing to end here, and nothing to wait for
        }
        self.end((running.workers, running.control, running.stop_control));
        self.force.finish_log();
    }

    /// Ends threads that were started, and waits for their ends.
    fn end(&self, (workers, control, stop_control): (Vec<Thread>, Thread, oneshot::Sender<()>)) {
        self.force.tell_all(|| Command::Stop);
        for worker in workers {
            let _ = worker.join();
        }
        let _ = stop_control.send(());
        let _ = control.join();
        self.force.attach(Vec::new());
    }

    fn is_a_forks_copy(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_some_and(|running| running.process != std::process::id())
    }

    fn await_silence(&self, until: Instant) {
        while Instant::now() < until && self.force.live_connections() > 0 {
            std::thread::sleep(DRAIN_POLL);
        }
    }

    fn setup(&self, id: usize, listeners: Captures, commands: mpsc::UnboundedReceiver<Command>) -> Setup {
        let settings = &self.force.settings;
        Setup {
            id,
            settings: Arc::clone(settings),
            snapshot: self.force.snapshot(),
            credentials: Arc::clone(&self.force.credentials),
            listeners,
            commands,
            telemetry: self.force.telemetry.worker(),
            access_log: self.force.access_log_of_worker(),
            connection_limit: connection_limit(sys::open_file_limit(), settings.concurrency),
            pressure: Arc::clone(&self.force.pressure),
            keys: Arc::clone(&self.force.keys),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why the engine could not do what it was asked.
#[derive(Debug)]
pub enum EngineError {
    /// The settings document is wrong.
    Settings(String),
    /// `start` was called twice.
    AlreadyStarted,
    /// Another sidecar holds this network namespace.
    SecondInstance,
    /// A port could not be bound.
    Bind {
        /// What the port is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The kernel's words.
        error: std::io::Error,
    },
    /// The access log could not be opened.
    AccessLog(String),
    /// This process could not be closed to others of its user.
    Inspection(std::io::Error),
    /// A thread could not be started.
    Thread(std::io::Error),
}

impl std::fmt::Display for EngineError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settings(problem) => write!(formatter, "engine settings: {problem}"),
            Self::AlreadyStarted => formatter.write_str("the engine runs already; stop it before starting it again"),
            Self::SecondInstance => formatter.write_str(
                "another sidecar runs in this network namespace; stop it first (two would split the traffic between them)",
            ),
            Self::Bind { what, address, error } => write!(
                formatter,
                "cannot listen on {address} for {what}: {error}; free the port or choose another in the settings"
            ),
            Self::AccessLog(problem) => write!(formatter, "access log: {problem}"),
            Self::Inspection(error) => {
                write!(formatter, "cannot close this process to others of its user: {error}; look at seccomp and the security modules of this machine")
            }
            Self::Thread(error) => write!(formatter, "cannot start a thread: {error}; look at the process limits"),
        }
    }
}

impl std::error::Error for EngineError {}

/// `SO_REUSEPORT` would let a second sidecar share our ports unseen, so an exclusive name guards the namespace.
fn hold_namespace() -> Result<UnixListener, EngineError> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(EXCLUSIVE_NAME).map_err(EngineError::Thread)?;
    UnixListener::bind_addr(&name).map_err(|_| EngineError::SecondInstance)
}

/// The capture listeners of each worker: of its own, or duplicates of the same two where there is a mark.
fn bind_captures(settings: &Settings) -> Result<Vec<Captures>, EngineError> {
    let wanted = [
        (Direction::Outbound, "outbound capture", settings.outbound),
        (Direction::Inbound, "inbound capture", settings.inbound),
    ];
    let mut workers: Vec<Captures> = (0..settings.concurrency).map(|_| Vec::new()).collect();
    for (direction, what, address) in wanted {
        let refused = |error| EngineError::Bind { what, address, error };
        let mut shared: Option<TcpListener> = None;
        for listeners in &mut workers {
            let listener = match &shared {
                Some(listener) => listener.try_clone(),
                None => worker::bind(address, settings),
            };
            let listener = listener.map_err(refused)?;
            if settings.mark.is_some() && shared.is_none() {
                shared = Some(listener.try_clone().map_err(refused)?);
            }
            listeners.push((direction, listener));
        }
    }
    Ok(workers)
}

fn bind_faces(settings: &Settings) -> Result<Vec<(Face, TcpListener)>, EngineError> {
    let wanted = [
        (Face::Admin, "admin", settings.admin),
        (Face::Status, "probes", settings.status),
        (Face::Readiness, "readiness", settings.readiness),
        (Face::Metrics, "metrics", settings.metrics),
    ];
    let bind = |(face, what, address)| {
        let listener = bind_face(address, settings.mark).map_err(|error| EngineError::Bind { what, address, error })?;
        Ok((face, listener))
    };
    wanted.into_iter().map(bind).collect()
}

fn bind_face(address: SocketAddr, mark: Option<NonZeroU32>) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    mark.map_or(Ok(()), |mark| sys::set_mark(listener.as_fd(), mark))?;
    Ok(listener)
}

/// Connections a worker may have open: each needs a descriptor on both sides, and what is not a connection needs some too,
/// so that probes are answered and the feed is heard while all others are taken.
fn connection_limit(open_files: usize, workers: usize) -> usize {
    (open_files.saturating_sub(RESERVED_FILES) / 2 / workers).max(1)
}

fn spawn(name: &'static str, body: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<Thread, EngineError> {
    let guarded = move || {
        // A thread that is lost cannot be replaced: whoever started this process starts it again, and nothing passes meanwhile.
        let Err(why) = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(io::Error::other("a panic"))) else {
            return;
        };
        notice::say(&format!(
            "the thread {name} ended and with it this process: {why}; look at its limits (descriptors, memory)"
        ));
        std::process::abort();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(guarded).map_err(EngineError::Thread)
}

fn run_control(force: &Arc<Force>, faces: Vec<(Face, TcpListener)>, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async move {
        for (face, listener) in faces {
            let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
            last(force, move |force| admin::serve(Arc::clone(&listener), face, force));
        }
        if let Some(feed) = force.settings.feed.clone() {
            last(force, move |force| client::follow(feed.clone(), Scope::Feed, force));
        }
        if let Some(signer) = force.settings.csr_socket.clone() {
            last(force, move |force| client::follow(signer.clone(), Scope::Certificates, force));
        }
        last(force, watch_certificate);
        last(force, keys::follow);
        last(force, |force| memory::watch(Arc::clone(&force.pressure)));
        let _ = stopped.await;
        Ok(())
    })
}

/// Spawns what this process cannot do without.
fn last<Turn: Future<Output = ()> + Send + 'static>(
    force: &Arc<Force>,
    begin: impl Fn(Arc<Force>) -> Turn + Send + 'static,
) {
    let (acting, counting) = (Arc::clone(force), Arc::clone(force));
    tokio::spawn(lasting(move || begin(Arc::clone(&acting)), move || counting.telemetry.panicked()));
}

async fn watch_certificate(force: Arc<Force>) {
    let mut interval = tokio::time::interval(CERTIFICATE_WATCH);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        force.watch_certificate();
    }
}

const EXCLUSIVE_NAME: &[u8] = b"meshdp/sidecar";
/// How often the certificate's age is looked at.
const CERTIFICATE_WATCH: Duration = Duration::from_millis(100);
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Descriptors kept from connections: listeners, event queues, the interpreter's, and a few probes at once.
const RESERVED_FILES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pr_04_some_descriptors_are_never_given_to_connections() {
        assert_eq!(connection_limit(64, 1), 12);
        assert_eq!(connection_limit(1_024, 2), 246);
        assert_eq!(connection_limit(10, 4), 1, "even then it serves, one at a time");
    }
}
