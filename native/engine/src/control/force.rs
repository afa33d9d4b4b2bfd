//! What is in force for the whole data plane: the snapshot, the credentials, the access log, and how to change them.
//!
//! In: transactions and certificates, from the feed, from Python, or from tests.  Out: swaps acknowledged by every worker.
//! Limits: one swap at a time; a worker that takes longer than `SWAP_TIMEOUT` for one is not waited for.
//! Fails: a refused transaction changes nothing; the reason goes back to the sender and is counted.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use meshdp_model::sections::{self, TlsVersion};
use meshdp_model::snapshot::Snapshot;
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;

use crate::EngineError;
use crate::control::admin::{AdminState, Answer};
use crate::control::client::{FeedEvent, FeedTarget, Hello};
use crate::control::history::History;
use crate::control::memory::Pressure;
use crate::control::turnover::{Alarm, Renewal, Turnover, spread, wall_ms};
use crate::fault;
use crate::keys::Keys;
use crate::observe::access_log::{AccessLog, Mode, Sink};
use crate::observe::notice;
use crate::observe::telemetry::Telemetry;
use crate::settings::Settings;
use crate::tls::credentials::{CredentialError, CredentialStore, Credentials, TrustPolicy};
use crate::tls::facts::Facts;
use crate::worker::Command;
use crate::worker::registry::ConnectionRow;

/// The shared state of a data plane.
pub struct Force {
    pub(crate) settings: Arc<Settings>,
    pub(crate) credentials: Arc<CredentialStore>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) turnover: Turnover,
    snapshot: ArcSwap<Snapshot>,
    swapping: Mutex<()>,
    workers: ArcSwap<Vec<UnboundedSender<Command>>>,
    sink: Mutex<Option<Sink>>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) keys: Arc<Keys>,
    draining: AtomicBool,
    feed_lost: AtomicBool,
    history: History,
}

impl Force {
    pub(crate) fn new(settings: Settings) -> Result<Self, EngineError> {
        let telemetry = Telemetry::new();
        let sink = open_log(&settings, &telemetry)?;
        Ok(Self {
            settings: Arc::new(settings),
            credentials: Arc::new(CredentialStore::new()),
            telemetry,
            turnover: Turnover::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            swapping: Mutex::new(()),
            workers: ArcSwap::default(),
            sink: Mutex::new(Some(sink)),
            pressure: Arc::default(),
            keys: Arc::default(),
            draining: AtomicBool::new(false),
            feed_lost: AtomicBool::new(false),
            history: History::default(),
        })
    }

    /// Decodes a transaction, puts its result in force on every worker, and returns the digest now in force.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub fn swap(&self, transaction: &[u8]) -> Result<String, String> {
        let _one_at_a_time = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let swapped = catch_unwind(AssertUnwindSafe(|| self.swap_alone(transaction))).unwrap_or_else(|_| {
            self.telemetry.panicked();
            Err("taking it met a bug of meshdp: please report what standard error says".to_owned())
        });
        match &swapped {
            Ok(_) => self.history.accepted(),
            Err(reason) => self.history.refused(reason),
        }
        swapped
    }

    fn swap_alone(&self, transaction: &[u8]) -> Result<String, String> {
        let applied = self.snapshot.load().apply(transaction).map_err(|error| {
            self.telemetry.config_rejected();
            error.to_string()
        })?;
        fault::point("apply");
        let snapshot = Arc::new(applied);
        self.credentials.rebuild(&self.trust_policy(&snapshot)).map_err(|error| error.to_string())?;
        self.set_log_mode(&snapshot);
        // What is shown (readiness, digest) follows what every worker does, never the other way round.
        self.put_in_force(&snapshot, SWAP_TIMEOUT);
        self.snapshot.store(Arc::clone(&snapshot));
        self.telemetry.config_swapped(snapshot.digest());
        Ok(snapshot.digest().to_owned())
    }

    /// A certificate request (PEM) for a key that stays inside.
    ///
    /// # Errors
    /// No identity is known yet, or no key could be made.
    pub fn csr(&self) -> Result<Vec<u8>, CredentialError> {
        self.credentials.csr(self.identity().as_deref())
    }

    /// Takes a chain and a trust bundle, an empty chain for the bundle alone; returns when to ask for the next certificate.
    /// New connections have it at once; those whose peer's root is gone from the bundle are ended.
    ///
    /// # Errors
    /// Why they were refused; the old ones stay in use then.
    pub fn install(&self, chain: &[u8], bundle: &[u8], key: Option<&[u8]>) -> Result<Renewal, CredentialError> {
        let _one_at_a_time = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.credentials.load().map(|credentials| credentials.trust_epoch());
        let now_ms = wall_ms();
        let credentials = self.replace_credentials(chain, bundle, key, now_ms / 1_000)?;
        self.turnover.installed(&credentials.facts(), now_ms);
        self.telemetry.certificate_installed(credentials.not_after_unix());
        if before.is_some_and(|epoch| epoch != credentials.trust_epoch()) {
            self.put_in_force(&self.snapshot(), SWAP_TIMEOUT);
        }
        let validity = (credentials.not_before_unix(), credentials.not_after_unix());
        Ok(Renewal::plan(Instant::now(), now_ms, validity, spread()))
    }

    fn replace_credentials(
        &self,
        chain: &[u8],
        bundle: &[u8],
        key: Option<&[u8]>,
        now_unix: u64,
    ) -> Result<Arc<Credentials>, CredentialError> {
        if chain.is_empty() {
            return self.credentials.trust(bundle, now_unix);
        }
        let policy = self.trust_policy(&self.snapshot());
        self.credentials.install(chain, bundle, key, &policy, now_unix)
    }

    /// Says how the certificate ages, each step once; called by the control thread.
    pub(crate) fn watch_certificate(&self) {
        let renewed_here = self.renews();
        let now_ms = wall_ms();
        self.telemetry.certificate_alarm(self.turnover.report(now_ms, renewed_here).alarm.percent());
        if let Some((alarm, report)) = self.turnover.news(now_ms, renewed_here) {
            let why = if report.last_error.is_empty() { "nobody sent one" } else { report.last_error.as_str() };
            let effect = if alarm == Alarm::Expired { "mutual TLS is refused both ways" } else { "trying again" };
            notice::say(&format!(
                "certificate: {} % of its life is gone without a new one, {} s remain: {why}; {effect}",
                alarm.percent(),
                report.remaining_s
            ));
        }
    }

    /// Whether we ask for certificates ourselves; else somebody writes files.
    fn renews(&self) -> bool {
        self.settings.feed.is_some() || self.settings.csr_socket.is_some()
    }

    /// An attempt brought no certificate.
    pub fn not_certified(&self, reason: &str) {
        self.turnover.failed(reason);
        self.telemetry.certificate_failed();
    }

    /// Counters as JSON.
    pub fn stats_json(&self) -> String {
        self.telemetry.json().to_string()
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn attach(&self, workers: Vec<UnboundedSender<Command>>) {
        self.workers.store(Arc::new(workers));
    }

    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.tell_all(|| Command::Drain);
    }

    pub(crate) fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in self.workers.load().iter() {
            let _ = worker.send(command());
        }
    }

    pub(crate) fn live_connections(&self) -> usize {
        self.ask_connections()
            .into_iter()
            .filter_map(|rows| rows.recv_timeout(SWAP_TIMEOUT).ok())
            .map(|rows| rows.len())
            .sum()
    }

    pub(crate) fn access_log_of_worker(&self) -> AccessLog {
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.as_ref().expect("the log is finished only after the workers have ended").worker()
    }

    pub(crate) fn finish_log(&self) {
        if let Some(sink) = self.sink.lock().unwrap_or_else(PoisonError::into_inner).take() {
            sink.finish();
        }
    }

    /// Hands a snapshot to every worker and waits until they have told their connections; whether all did in time. One that
    /// did not is stuck, or has very many connections to tell: what it was told cannot be taken back, it obeys in order, and
    /// it begins with the new snapshot. So the swap holds, and whoever reads the log learns what is the matter.
    fn put_in_force(&self, snapshot: &Arc<Snapshot>, patience: Duration) -> bool {
        let (done, taken) = std_mpsc::channel();
        self.tell_all(|| Command::Swap(Arc::clone(snapshot), done.clone()));
        drop(done);
        let until = Instant::now() + patience;
        let left = || until.saturating_duration_since(Instant::now());
        let workers = self.workers.load();
        let late = workers.iter().filter(|_| taken.recv_timeout(left()).is_err()).count();
        if late > 0 {
            notice::say(&format!(
                "{late} of {} workers take longer than {patience:?} for a new configuration",
                workers.len()
            ));
        }
        late == 0
    }

    fn ask_connections(&self) -> Vec<std_mpsc::Receiver<Vec<ConnectionRow>>> {
        let ask = |worker: &UnboundedSender<Command>| {
            let (send, receive) = std_mpsc::channel();
            let _ = worker.send(Command::Connections(send));
            receive
        };
        self.workers.load().iter().map(ask).collect()
    }

    /// Our identity, once configuration or settings have said it.
    fn identity(&self) -> Option<String> {
        let snapshot = self.snapshot.load();
        let configured = snapshot.workload().map(|workload| workload.identity.to_string());
        configured.or_else(|| self.settings.identity.clone())
    }

    fn trust_policy(&self, snapshot: &Snapshot) -> TrustPolicy {
        let mesh = snapshot.mesh();
        let aliases = mesh.trust_domain_aliases.iter().map(ToString::to_string);
        TrustPolicy {
            trust_domains: std::iter::once(mesh.trust_domain.to_string()).chain(aliases).collect(),
            validate_trust_domain: mesh.validate_trust_domain,
            min_version_13: mesh.min_tls_version == TlsVersion::Tls13,
            post_quantum: self.settings.post_quantum,
        }
    }

    fn set_log_mode(&self, snapshot: &Snapshot) {
        let mode = match snapshot.telemetry().map(|telemetry| telemetry.access_log) {
            Some(sections::AccessLog::Json) => Mode::Json,
            Some(sections::AccessLog::Text) => Mode::Text,
            _ => Mode::Off,
        };
        if let Some(sink) = &*self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            sink.set_mode(if self.settings.access_log == "off" { Mode::Off } else { mode });
        }
    }
}

impl AdminState for Force {
    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining".into());
        }
        if !self.snapshot.load().is_configured() {
            return Err("no configuration yet: is the feed or the directory reachable?".into());
        }
        match self.credentials.load() {
            None => Err("no certificate yet: is the certificate authority reachable?".into()),
            Some(credentials) if credentials.have_expired() => {
                Err("the certificate has expired and could not be renewed".into())
            }
            Some(_) => Ok(()),
        }
    }

    fn config(&self, prefixes: Option<&str>) -> String {
        let snapshot = self.snapshot.load();
        let asked = |name: &str| {
            prefixes.is_none_or(|text| text.split(',').any(|prefix| !prefix.is_empty() && name.starts_with(prefix)))
        };
        let mut sections = serde_json::Map::new();
        for name in snapshot.sections().filter(|name| asked(name)) {
            let bytes = snapshot.section_bytes(name).unwrap_or_default();
            sections.insert(name.to_owned(), serde_json::from_slice(bytes).unwrap_or_default());
        }
        json!({
            "workload": self.settings.workload,
            "version": self.settings.version,
            "digest": snapshot.digest(),
            "since_unix_ms": self.history.since(),
            "refused": self.history.refusal(),
            "feed_lost": self.feed_lost.load(Ordering::Relaxed),
            "sections": sections,
        })
        .to_string()
    }

    fn connections(&self) -> Answer<String> {
        let answers = self.ask_connections();
        Box::pin(async move {
            let mut rows = Vec::new();
            for answer in answers {
                rows.extend(answer.recv_timeout(SWAP_TIMEOUT).unwrap_or_default());
            }
            json!({"connections": rows}).to_string()
        })
    }

    fn certs(&self) -> String {
        let loaded = self.credentials.load();
        let turnover = self.turnover.report(wall_ms(), self.renews());
        json!({
            "certificate": loaded.as_ref().map(|credentials| credentials.facts()),
            "trust_domains": loaded.as_ref().map(|credentials| &credentials.policy().trust_domains),
            "epoch": loaded.as_ref().map(|credentials| credentials.epoch),
            "turnover": turnover,
            "token_keys": self.keys.report(),
        })
        .to_string()
    }

    fn prometheus(&self) -> String {
        self.telemetry.prometheus()
    }

    fn stats(&self) -> String {
        self.stats_json()
    }

    fn set_access_log(&self, mode: &str) -> Result<(), String> {
        let mode = Mode::named(mode).ok_or_else(|| format!("expected off, text or json, got {mode:?}"))?;
        if let Some(sink) = &*self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            sink.set_mode(mode);
        }
        Ok(())
    }

    fn drain(&self) {
        self.begin_drain();
    }

    fn quit(&self) {
        std::process::exit(0);
    }
}

impl FeedTarget for Force {
    fn hello(&self) -> Hello {
        Hello { workload: self.settings.workload.clone(), version: self.settings.version.clone() }
    }

    fn digest(&self) -> String {
        self.snapshot.load().digest().to_owned()
    }

    fn apply(&self, transaction: Vec<u8>) -> Answer<Result<String, String>> {
        // Decoded on the control thread, off the workers; only the exchange of pointers reaches them.
        let result = self.swap(&transaction);
        Box::pin(std::future::ready(result))
    }

    fn csr(&self) -> Result<Vec<u8>, String> {
        Force::csr(self).map_err(|error| error.to_string())
    }

    fn install(&self, chain: &[u8], bundle: &[u8]) -> Result<Renewal, String> {
        Force::install(self, chain, bundle, None).map_err(|error| error.to_string())
    }

    fn certificate(&self) -> Option<Facts> {
        self.credentials.load().map(|credentials| credentials.facts())
    }

    fn note(&self, event: FeedEvent<'_>) {
        match event {
            FeedEvent::Refused(reason) => notice::say(&format!("configuration refused: {reason}")),
            FeedEvent::NotCertified(reason) => {
                self.not_certified(reason);
                notice::say(&format!("no certificate: {reason}"));
            }
            FeedEvent::Lost(reason) => {
                // Said once: the attempts that follow change nothing for a reader.
                self.turnover.away(reason);
                if !self.feed_lost.swap(true, Ordering::Relaxed) {
                    notice::say(&format!("no feed, keeping what is in force and trying again: {reason}"));
                }
            }
            FeedEvent::Trouble(reason) => notice::say(&format!("the feed reports: {reason}")),
            FeedEvent::Connected => {
                self.turnover.away("");
                self.feed_lost.store(false, Ordering::Relaxed);
            }
            FeedEvent::Applied(_) | FeedEvent::Certified => {}
        }
    }
}

fn open_log(settings: &Settings, telemetry: &Telemetry) -> Result<Sink, EngineError> {
    let dropped = telemetry.access_log_dropped();
    let failed = |error: std::io::Error| EngineError::AccessLog(format!("{}: {error}", settings.access_log));
    let mode = if settings.access_log == "off" { Mode::Off } else { Mode::Text };
    match settings.access_log.as_str() {
        // Not Rust's own standard output: it keeps what it could not write and would write it later, out of order.
        "off" | "stdout" => {
            let standard = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
            Sink::start(std::fs::File::from(standard), mode, dropped)
        }
        path => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
            Sink::start(file, mode, dropped)
        }
    }
    .map_err(failed)
}

/// A worker that takes longer than this for a swap or a question is stuck.
const SWAP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn a_worker_that_takes_its_time_does_not_undo_what_the_others_were_told() {
        let force = Force::new(Settings::of_tests()).expect("nothing is opened");
        let (quick, mut obeyed) = unbounded_channel();
        let (stuck, mut unread) = unbounded_channel();
        force.attach(vec![stuck, quick]);
        let worker = std::thread::spawn(move || match obeyed.blocking_recv() {
            Some(Command::Swap(_, done)) => drop(done.send(())),
            _ => panic!("it was told something else"),
        });
        let began = Instant::now();
        assert!(!force.put_in_force(&Arc::new(Snapshot::empty()), Duration::from_millis(50)));
        assert!(began.elapsed() < Duration::from_secs(2), "one patience for all workers");
        worker.join().expect("the quick one was told");
        assert!(matches!(unread.try_recv(), Ok(Command::Swap(..))), "and so will the stuck one be, in its turn");
    }
}
