//! How the certificate in use ages: when to ask for the next, and how loud to say that none came.
//!
//! In:      installations and refusals with their time, the clock.
//! Out:     [`Renewal`], the moment to ask again; [`Alarm`], which only a new certificate ends.
//! Limits:  a renewal comes after 40 to 48 % of the life that remained at the installation, so that a fleet spreads out and
//!          the first alarm, at 50 %, is never raised by a renewal that is merely on its way.
//! Source:  attack cases CA-02, CA-03: by remaining life, on both clocks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::tls::facts::Facts;

/// When to ask for the next certificate: at `at`, or as soon as the wall clock leaves `wall_ms`. The clock that only runs
/// stands still while the machine sleeps, and the other one may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// By the clock that only runs.
    pub at: Instant,
    /// From the certificate's first millisecond to the planned renewal, since 1970.
    pub wall_ms: (u64, u64),
}

impl Renewal {
    /// The plan for a certificate installed now. `random` is any number; equal ones give equal plans.
    pub fn plan(now: Instant, now_ms: u64, validity_unix: (u64, u64), random: u64) -> Self {
        let (from, until) = validity_unix;
        let remaining_ms = (until.saturating_mul(1_000)).saturating_sub(now_ms);
        let permille = EARLIEST_PERMILLE + random % (LATEST_PERMILLE - EARLIEST_PERMILLE);
        let wait_ms = (u128::from(remaining_ms) * u128::from(permille) / 1_000) as u64;
        let from_ms = from.saturating_mul(1_000);
        Self { at: now + Duration::from_millis(wait_ms).min(LONGEST_WAIT), wall_ms: (from_ms, now_ms + wait_ms) }
    }

    /// Whether it is time.
    pub fn is_due(&self, now: Instant, now_ms: u64) -> bool {
        self.at <= now || !(self.wall_ms.0..self.wall_ms.1).contains(&now_ms)
    }

    /// How long to wait before looking again: never long, for the wall clock may be set meanwhile.
    pub fn pause(&self, now: Instant, now_ms: u64) -> Duration {
        let wall = Duration::from_millis(self.wall_ms.1.saturating_sub(now_ms));
        self.at.saturating_duration_since(now).min(wall).min(WALL_CHECK)
    }
}

/// How much of its life a certificate has spent without a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// As planned.
    #[default]
    None,
    /// Half of it: the renewal is overdue.
    Half,
    /// 80 %.
    Late,
    /// 95 %.
    Last,
    /// All of it: mutual TLS is refused both ways.
    Expired,
}

impl Alarm {
    /// The alarm of a certificate with a life of `life_ms`, of which this remains. Whoever renews from outside does so when
    /// two thirds are gone, and earlier is no news (`renewed_here` false).
    pub fn of(life_ms: u64, remaining_ms: u64, renewed_here: bool) -> Self {
        let spent = |percent: u64| u128::from(remaining_ms) * 100 <= u128::from(life_ms) * u128::from(100 - percent);
        if remaining_ms == 0 {
            Self::Expired
        } else if spent(95) {
            Self::Last
        } else if spent(80) {
            Self::Late
        } else if spent(50) && renewed_here {
            Self::Half
        } else {
            Self::None
        }
    }

    /// For the metric.
    pub fn percent(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Half => 50,
            Self::Late => 80,
            Self::Last => 95,
            Self::Expired => 100,
        }
    }
}

/// The life of what is installed, and what was tried since.
#[derive(Debug, Default)]
pub(crate) struct Turnover {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    serial: String,
    installed_ms: u64,
    until_ms: u64,
    renewals: u64,
    failures: u64,
    error: String,
    said: Alarm,
}

/// What the admin page and the metrics say.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) installed_unix: u64,
    pub(crate) remaining_s: u64,
    /// Certificates that followed the first.
    pub(crate) renewals: u64,
    /// Attempts that brought none.
    pub(crate) failures: u64,
    pub(crate) alarm: Alarm,
    /// Why the last attempt brought none; empty since one did.
    pub(crate) last_error: String,
}

impl Turnover {
    /// Another chain or another bundle is in use. Only another leaf begins a life.
    pub(crate) fn installed(&self, facts: &Facts, now_ms: u64) {
        let mut state = self.state();
        state.error.clear();
        if state.serial == facts.serial {
            return;
        }
        state.renewals += u64::from(!state.serial.is_empty());
        state.serial.clone_from(&facts.serial);
        state.installed_ms = now_ms;
        state.until_ms = facts.not_after_unix * 1_000;
        state.said = Alarm::None;
    }

    /// An attempt brought nothing.
    pub(crate) fn failed(&self, reason: &str) {
        let mut state = self.state();
        state.failures += 1;
        reason.clone_into(&mut state.error);
    }

    /// The authority cannot be reached; no attempt was made.
    pub(crate) fn away(&self, reason: &str) {
        reason.clone_into(&mut self.state().error);
    }

    /// Where things stand.
    pub(crate) fn report(&self, now_ms: u64, renewed_here: bool) -> Report {
        let state = self.state();
        Report {
            installed_unix: state.installed_ms / 1_000,
            remaining_s: state.until_ms.saturating_sub(now_ms).div_ceil(1_000),
            renewals: state.renewals,
            failures: state.failures,
            alarm: state.alarm(now_ms, renewed_here),
            last_error: state.error.clone(),
        }
    }

    /// The alarm, if it is louder than what was said of this certificate.
    pub(crate) fn news(&self, now_ms: u64, renewed_here: bool) -> Option<(Alarm, Report)> {
        let alarm = {
            let mut state = self.state();
            let alarm = state.alarm(now_ms, renewed_here);
            if alarm <= state.said {
                return None;
            }
            state.said = alarm;
            alarm
        };
        Some((alarm, self.report(now_ms, renewed_here)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every field is whole between calls, so a panic elsewhere left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn alarm(&self, now_ms: u64, renewed_here: bool) -> Alarm {
        if self.serial.is_empty() {
            return Alarm::None;
        }
        let life_ms = self.until_ms.saturating_sub(self.installed_ms);
        Alarm::of(life_ms, self.until_ms.saturating_sub(now_ms), renewed_here)
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A number that differs between processes and calls, for spreading out; no secret hangs on it.
pub(crate) fn spread() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

const EARLIEST_PERMILLE: u64 = 400;
const LATEST_PERMILLE: u64 = 480;

/// The longest wait before the wall clock is read again.
const WALL_CHECK: Duration = Duration::from_secs(1);

/// More than any certificate lives, and less than an `Instant` can hold.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 366 * 86_400);

#[cfg(test)]
#[path = "turnover_tests.rs"]
mod tests;
