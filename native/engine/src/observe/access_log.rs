//! The access log: one line for each request and each opaque connection, in Istio's text format or in JSON.
//!
//! In:      [`Entry`], borrowed from the connection, written by its worker.
//! Out:     lines on a writer (standard output), from one background thread.
//! Limits:  [`BUFFER_BYTES`] a worker before it hands over, [`QUEUE_BUFFERS`] handed over and not yet written, [`MAX_FIELD_BYTES`] of one field.
//! Fails:   never towards a worker: what the queue does not take, or the disk refuses, is dropped and counted by the line.
//!          A reader that has stopped is waited for [`FINISH_WAIT`] at the end, and not longer.
//! Source:  istio-semantics G.3; attack H1-64 (no byte of a peer ends a line or leaves its quotes).

mod format;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::observe::outcome::Outcome;
use meshdp_model::facts::Direction;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Off,
    /// Istio's default text format and two more columns.
    Text,
    /// Istio's JSON keys and ours.
    Json,
}

impl Mode {
    /// The mode with this name (`off`, `text`, `json`).
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// One line's content. Empty texts are missing values (`-` or `null`). Bytes chosen by peers are escaped here.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When it began.
    pub time: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// The HTTP part; `None` for an opaque connection.
    pub http: Option<HttpFields<'a>>,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// The endpoint that served it.
    pub upstream: Option<SocketAddr>,
    /// Our own address on the connection to it.
    pub upstream_local: Option<SocketAddr>,
    /// The cluster's key.
    pub cluster: &'a str,
    /// The original destination.
    pub destination: Option<SocketAddr>,
    /// Who connected.
    pub remote: SocketAddr,
    /// The caller's proven identity.
    pub principal: &'a str,
    /// The server name in the `ClientHello`.
    pub sni: &'a str,
    /// The rule of the service that was taken.
    pub route: &'a str,
    /// What policies in dry run would have decided, and which AUDIT rule matched.
    pub shadow: &'a str,
}

/// What a line says of an HTTP request, as the peer sent it.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpFields<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Request target.
    pub path: &'a [u8],
    /// `HTTP/1.1` and the like.
    pub protocol: &'a str,
    /// `Host`.
    pub authority: &'a [u8],
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// `X-Request-Id`.
    pub request_id: &'a [u8],
    /// `X-Forwarded-For`.
    pub forwarded_for: &'a [u8],
    /// From the end of the request head to the upstream's first byte, in microseconds.
    pub upstream_service_us: Option<u64>,
}

/// The writing end that all workers share.
#[derive(Debug)]
pub struct Sink {
    queue: SyncSender<Batch>,
    mode: Arc<AtomicU8>,
    dropped: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sink {
    /// Starts the thread that writes to `out`; lines that it cannot take are added to `dropped`.
    pub fn start(out: impl Write + Send + 'static, mode: Mode, dropped: Arc<AtomicU64>) -> std::io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE_BUFFERS);
        let lost = Arc::clone(&dropped);
        let thread =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write_batches(out, &batches, &lost))?;
        let mode = Arc::new(AtomicU8::new(mode as u8));
        Ok(Self { queue, mode, dropped, thread: Mutex::new(Some(thread)) })
    }

    /// A log for one more worker.
    pub fn worker(&self) -> AccessLog {
        let (give_back, spare) = sync_channel(SPARE_BUFFERS);
        AccessLog {
            mode: Arc::clone(&self.mode),
            queue: self.queue.clone(),
            dropped: Arc::clone(&self.dropped),
            give_back,
            spare,
            buffer: Vec::new(),
            lines: 0,
            clock: format::Clock::default(),
        }
    }

    /// Changes how lines are written, on all workers, from the next line on.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Relaxed);
    }

    /// Waits until everything that workers have handed over is written, unless whoever reads it has stopped. Call it after
    /// the workers have ended: a live [`AccessLog`] keeps the thread, and this call, waiting.
    pub fn finish(self) {
        drop(self.queue);
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let until = Instant::now() + FINISH_WAIT;
        while !thread.is_finished() {
            if Instant::now() >= until {
                return; // the process ends all the same, and the thread with it
            }
            std::thread::sleep(FINISH_POLL);
        }
        let _ = thread.join();
    }
}

/// One worker's access log.
#[derive(Debug)]
pub struct AccessLog {
    mode: Arc<AtomicU8>,
    queue: SyncSender<Batch>,
    dropped: Arc<AtomicU64>,
    give_back: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    buffer: Vec<u8>,
    lines: u32,
    clock: format::Clock,
}

impl AccessLog {
    /// Whether lines are written at all; asked before an [`Entry`] is put together.
    pub fn on(&self) -> bool {
        self.mode.load(Relaxed) != Mode::Off as u8
    }

    /// Formats one line into the worker's buffer and hands the buffer over when it is full.
    pub fn write(&mut self, entry: &Entry<'_>) {
        match self.mode.load(Relaxed) {
            mode if mode == Mode::Text as u8 => format::text(&mut self.buffer, &mut self.clock, entry),
            mode if mode == Mode::Json as u8 => format::json(&mut self.buffer, &mut self.clock, entry),
            _ => return,
        }
        self.lines += 1;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Whether lines wait to be handed over.
    pub fn waits(&self) -> bool {
        self.lines > 0
    }

    /// Hands the buffer over, without ever waiting; the worker calls it at least every 100 ms while [`Self::waits`].
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let fresh = self.spare.try_recv().unwrap_or_default();
        let bytes = std::mem::replace(&mut self.buffer, fresh);
        let batch = Batch { bytes, lines: std::mem::take(&mut self.lines), give_back: self.give_back.clone() };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = self.queue.try_send(batch) {
            self.dropped.fetch_add(u64::from(batch.lines), Relaxed);
            self.buffer = batch.bytes;
            self.buffer.clear();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Lines on their way to the thread, with the way back for their buffer.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    lines: u32,
    give_back: SyncSender<Vec<u8>>,
}

fn write_batches(mut out: impl Write, batches: &Receiver<Batch>, dropped: &AtomicU64) {
    let mut torn = false;
    while let Ok(mut batch) = batches.recv() {
        // A full disk cuts anywhere: what follows must not look like the end of the line that was cut.
        torn = torn && out.write_all(b"\n").is_err();
        let written = if torn { 0 } else { write_while_it_goes(&mut out, &batch.bytes) };
        if written < batch.bytes.len() {
            let whole = batch.bytes[..written].split(|byte| *byte == b'\n').count() as u64 - 1;
            dropped.fetch_add(u64::from(batch.lines).saturating_sub(whole), Relaxed);
            torn |= written > 0 && batch.bytes[written - 1] != b'\n';
        } else if out.flush().is_err() {
            dropped.fetch_add(u64::from(batch.lines), Relaxed);
        }
        batch.bytes.clear();
        let _ = batch.give_back.try_send(batch.bytes);
    }
}

/// How many of the bytes the writer took before it failed.
fn write_while_it_goes(out: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(taken) if taken > 0 => written += taken,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    written
}

/// How long the end waits for a reader that does not read.
const FINISH_WAIT: Duration = Duration::from_secs(1);
const FINISH_POLL: Duration = Duration::from_millis(2);

/// Bytes a worker gathers before it hands them over.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers that may wait for the thread.
pub const QUEUE_BUFFERS: usize = 64;

/// The longest field in a line; the rest of it is cut and marked by `...`.
pub const MAX_FIELD_BYTES: usize = 4 * 1024;

/// Empty buffers kept for one worker.
const SPARE_BUFFERS: usize = 4;

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;
