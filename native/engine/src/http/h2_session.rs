//! A downstream connection that speaks HTTP/2: its streams, polled inside its task, and what concerns all of them.
//!
//! In: a secured connection, after ALPN `h2` or with HTTP/2's preface in front.  Out: one outcome for each stream.
//! Limits: `STREAMS` at a time; a peer that does not speak HTTP/2 at all, or breaks off in the middle of a frame, is waited
//! for as long as for a head; the idle bound without a stream.
//! Fails: a fault of the connection says GOAWAY and ends its streams; a fault or a panic of one stream ends that one alone.
//! A turn: what came is fed to the core, woken streams are polled until none is, then all that they said leaves at once.
//! Source: RFC 9113 §5, §6.8; attack-cases tables 2.2 and 2.11 (LC-04), PR-01.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use meshdp_proto::h2::{Config, ErrorCode, Role};
use meshdp_proto::http1_head::Limits;
use tokio::time::timeout;

use crate::connection::{Failure, Secured};
use crate::h2::driver::{Driver, Ended};
use crate::h2::shared::{Shared, Unrecorded};
use crate::h2::stream::StreamEnd;
use crate::http::caller::Caller;
use crate::http::h2_stream::{self, Arrived};
use crate::http::tasks::{Deadline, Tasks};
use crate::observe::outcome::{Outcome, Reason};
use crate::observe::record;
use crate::worker::{Pinned, Worker};

/// Runs an HTTP/2 connection until either side ends it.
///
/// # Errors
/// What ended the connection, when it was neither side's wish; streams record their own outcomes.
pub(crate) async fn run(secured: Box<Secured>, pinned: &Pinned, worker: &Rc<Worker>) -> Result<(), Failure> {
    let Secured { stream, received, link } = *secured;
    link.entry.protocol.set("http/2");
    let mut caller = Caller::new(link, pinned, worker, "HTTP/2");
    caller.limits = Limits { any_method: true, ..caller.limits };
    let caller = caller;
    let config = Config {
        max_streams: STREAMS,
        limits: caller.limits,
        paced: true,
        extended_connect: true,
        ..Config::default()
    };
    let shared = Shared::new(Role::Server, &config, &worker.buffers, None);
    let driver = Driver::new(stream, Rc::clone(&shared), received);
    let serve = |arrived: Arrived, deadline: Deadline| h2_stream::serve(&caller, arrived, deadline);
    let mut session = H2Session::new(&caller, shared, driver, serve);
    let ended = poll_fn(|context| session.poll(context)).await;
    session.finish().await;
    let _ = timeout(LAST_WORDS, session.driver.stream.shutdown()).await;
    ended
}

/// What the connection waits for, besides its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The peer has not shown that it speaks HTTP/2.
    Greeting,
    /// Requests come.
    Serving,
    /// The peer has been told to open its next streams elsewhere.
    Leaving,
    /// No further stream is taken.
    Left,
}

/// One connection.
struct H2Session<'c, 'w, F, Serve> {
    caller: &'c Caller<'w>,
    shared: Rc<Shared>,
    driver: Driver,
    tasks: Tasks<F>,
    serve: Serve,
    stage: Stage,
    /// When the stage ends, or how long there may be no stream; without meaning while there are some.
    until_ms: u64,
    /// When the memory of streams is given back, unless there are some again.
    shrink_ms: u64,
    /// There were streams when it was looked at last.
    busy: bool,
    /// Since when the first part of a frame has waited for its rest.
    partial_since_ms: Option<u64>,
}

impl<'c, 'w, F: Future<Output = ()>, Serve: Fn(Arrived, Deadline) -> F> H2Session<'c, 'w, F, Serve> {
    fn new(caller: &'c Caller<'w>, shared: Rc<Shared>, driver: Driver, serve: Serve) -> Self {
        let until_ms = caller.worker.coarse_ms() + caller.worker.settings.limits.head_ms;
        caller.link.entry.deadline_ms.set(until_ms);
        let (stage, busy, partial_since_ms) = (Stage::Greeting, false, None);
        let (tasks, shrink_ms) = (Tasks::new(), u64::MAX);
        Self { caller, shared, driver, tasks, serve, stage, until_ms, shrink_ms, busy, partial_since_ms }
    }

    /// One turn. Ready when the connection is no more.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let worker = self.caller.worker;
        self.tasks.begin_turn(context);
        if worker.epoch() != self.caller.accepted_under() {
            self.tasks.wake_all();
            if let Err(failure) = self.caller.pin_accepted() {
                self.shared.go_away(ErrorCode::NO_ERROR);
                let _ = self.driver.poll_flush(context);
                return Poll::Ready(Err(failure));
            }
        }
        self.keep_time();
        let received = self.driver.poll_receive(context, worker.coarse_ms());
        self.record_unrecorded();
        if let Err(ended) = received {
            // What the peer is told of its fault leaves, if the socket takes it at once.
            let _ = self.driver.poll_flush(context);
            return Poll::Ready(ending(&ended));
        }
        for _ in 0..ROUNDS {
            self.accept();
            let polled = self.tasks.poll_woken();
            (0..polled.panicked).for_each(|_| worker.telemetry.borrow().panicked());
            if polled.count == 0 && !self.driver.pass_room_on() {
                break;
            }
        }
        if let Poll::Ready(ended) = self.driver.poll_flush(context) {
            return Poll::Ready(ending(&ended));
        }
        self.look_around();
        if !self.tasks.end_turn() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Records the requests that never became one, because their heads were malformed or above the limits: who asks so large
    /// ones is not idle. The budget of patience bounds how many lines that can be.
    fn record_unrecorded(&mut self) {
        let Unrecorded { large, malformed } = self.shared.take_unrecorded();
        for number in 0..large + malformed {
            let outcome = if number < large {
                Outcome::of(Reason::RequestHeadTooLarge)
            } else {
                Outcome::of(Reason::MalformedRequest).because("h2_head").answered(0)
            };
            record::refused(self.caller, &self.caller.worker.pin(), &outcome);
            self.caller.count_request();
        }
        if large > 0 && self.stage == Stage::Serving {
            self.until_ms = self.caller.worker.coarse_ms() + self.caller.worker.settings.limits.idle_ms;
        }
    }

    /// Begins the streams that have arrived, as long as there is room; the core lets no more of them come.
    fn accept(&mut self) {
        while self.tasks.has_room() {
            let mut text = Vec::new();
            let Some(accepted) = self.shared.accept(&mut text) else { return };
            if self.stage == Stage::Greeting {
                self.stage = Stage::Serving;
            }
            let serve = &self.serve;
            self.tasks.begin(|deadline| serve(Arrived { accepted, text }, deadline));
        }
    }

    /// Notes what the clock is to be asked about.
    fn look_around(&mut self) {
        let (now_ms, limits) = (self.caller.worker.coarse_ms(), &self.caller.worker.settings.limits);
        let busy = self.tasks.live() > 0;
        if self.busy && !busy && self.stage == Stage::Serving {
            self.until_ms = now_ms + limits.idle_ms;
            self.shrink_ms = now_ms + QUIET_MS;
            self.wake_at(self.shrink_ms.min(self.until_ms));
        }
        self.busy = busy;
        if self.driver.is_paused() {
            self.wake_at(now_ms + 1);
        }
        if !self.driver.is_within_frame() {
            self.partial_since_ms = None;
        } else if self.partial_since_ms.is_none() {
            self.partial_since_ms = Some(now_ms);
            self.wake_at(now_ms + limits.head_ms);
        }
    }

    /// What the clock and a drain ask for.
    fn keep_time(&mut self) {
        let worker = self.caller.worker;
        let now_ms = worker.coarse_ms();
        if worker.draining.get() && matches!(self.stage, Stage::Greeting | Stage::Serving) {
            self.leave(now_ms);
        }
        if self.caller.link.entry.deadline_ms.get() > now_ms {
            return;
        }
        let head_ms = worker.settings.limits.head_ms;
        if self.partial_since_ms.is_some_and(|since_ms| since_ms + head_ms <= now_ms) {
            self.shared.abandon(StreamEnd::Lost);
        }
        if self.shrink_ms <= now_ms {
            self.shrink_ms = u64::MAX;
            self.tasks.shrink();
        }
        if self.until_ms <= now_ms {
            self.end_stage(now_ms);
        }
        let own_ms = if self.busy && self.stage == Stage::Serving { u64::MAX } else { self.until_ms };
        let partial_ms = self.partial_since_ms.map_or(u64::MAX, |since_ms| since_ms + head_ms);
        let next_ms = self.tasks.wake_expired(now_ms).min(own_ms).min(partial_ms).min(self.shrink_ms);
        self.caller.link.entry.deadline_ms.set(next_ms.max(now_ms + 1));
    }

    fn end_stage(&mut self, now_ms: u64) {
        match self.stage {
            Stage::Greeting if self.shared.is_greeted() => {
                self.stage = Stage::Serving;
                self.until_ms = now_ms + self.caller.worker.settings.limits.idle_ms;
            }
            Stage::Greeting => {
                self.shared.go_away(ErrorCode::SETTINGS_TIMEOUT);
                self.shared.abandon(StreamEnd::Lost);
            }
            Stage::Serving if !self.busy => self.leave(now_ms),
            Stage::Serving => {}
            Stage::Leaving => {
                self.stage = Stage::Left;
                self.until_ms = now_ms + LEAVE_MS;
                self.shared.go_away(ErrorCode::NO_ERROR);
            }
            Stage::Left if !self.busy => self.shared.abandon(StreamEnd::Lost),
            Stage::Left => self.until_ms = now_ms + LEAVE_MS,
        }
    }

    /// Tells the peer to open its next streams elsewhere; those that are on their way are served.
    fn leave(&mut self, now_ms: u64) {
        self.stage = Stage::Leaving;
        self.until_ms = now_ms + LEAVE_MS;
        self.wake_at(self.until_ms);
        self.shared.drain();
    }

    fn wake_at(&self, at_ms: u64) {
        let deadline = &self.caller.link.entry.deadline_ms;
        deadline.set(deadline.get().min(at_ms));
    }

    /// Lets every stream record how it ended; nothing reaches the peer any more.
    async fn finish(&mut self) {
        let tasks = &mut self.tasks;
        self.shared.abandon(StreamEnd::Lost);
        let all = poll_fn(|context| {
            tasks.begin_turn(context);
            tasks.wake_all();
            for _ in 0..ROUNDS {
                if tasks.live() == 0 {
                    return Poll::Ready(());
                }
                tasks.poll_woken();
            }
            tasks.end_turn();
            Poll::Pending
        });
        let _ = timeout(LAST_WORDS, all).await;
    }
}

/// How the connection is recorded.
fn ending(ended: &Ended) -> Result<(), Failure> {
    match ended {
        Ended::Done | Ended::Closed | Ended::Abandoned => Ok(()),
        Ended::Fault(fault) => Err(Failure::new(Reason::MalformedRequest, fault.why)),
        Ended::Broken(error) => Err(Failure::new(Reason::DownstreamClosed, error.to_string())),
    }
}

/// Streams that a peer may have open.
const STREAMS: u32 = 100;
/// Rounds of a turn: streams that go on waking each other let the worker's other work have its turn.
const ROUNDS: usize = 4;
/// How long a peer that was told to leave may still open streams.
const LEAVE_MS: u64 = 1_000;
/// How long there is no stream before the memory of earlier ones is given back.
const QUIET_MS: u64 = 2_000;
/// How long the end of a connection may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "h2_session_tests.rs"]
mod tests;
