//! Key sets for tokens, fetched beside the traffic: wanted by the snapshot's rules, kept while good, asked for again in time.
//!
//! In: the snapshot in force, what workers miss.  Out: the `KeyTable` that workers read, and a report for the admin page.
//! Limits: `FETCHES` at a time, each in a thread of its own with its rule's deadline; `fetch` bounds the bytes; one address
//! is asked at most once in `LEAST_PAUSE`, however many tokens name a key that nobody has (attack cases JW-04, JW-18).
//! Fails: what was fetched last stays, up to `KEPT`; without any, tokens of those rules are refused (attack-cases 2.19).
//! Source: istio-semantics E (refresh); decision 0122.

pub(crate) mod fetch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use meshdp_model::jwt::rules::Wanted;
use meshdp_model::jwt::{KeySet, KeyTable};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::control::force::Force;
use crate::control::turnover::wall_ms;
use crate::keys::fetch::{Reach, fetch_keys};
use crate::observe::notice;

/// What workers and the admin page know of fetched keys.
#[derive(Default)]
pub(crate) struct Keys {
    /// The table in force.
    pub(crate) table: Arc<ArcSwap<KeyTable>>,
    /// Addresses whose keys some token did not match.
    missed: Mutex<BTreeSet<Arc<str>>>,
    report: Mutex<Vec<Value>>,
}

impl Keys {
    /// A token named a key that the set of this address does not have.
    pub(crate) fn miss(&self, address: Arc<str>) {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
    }

    /// One entry for each address that is wanted.
    pub(crate) fn report(&self) -> Vec<Value> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_missed(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Fetches what is wanted, for as long as the data plane lives.
pub(crate) async fn follow(force: Arc<Force>) {
    let (send, mut fetched) = mpsc::unbounded_channel();
    let mut sources = Sources::default();
    loop {
        sources.want(&force);
        let due = sources.due(&force.keys.take_missed(), Instant::now());
        for wanted in due {
            let (send, mark) = (send.clone(), force.settings.mark);
            let reach = Reach { mark, ..Reach::default() };
            let fetching = move || {
                let keys = fetch_keys(&wanted, reach);
                let _ = send.send((wanted.address, keys));
            };
            let started = std::thread::Builder::new().name("meshdp-keys".to_owned()).spawn(fetching);
            if let Err(error) = started {
                notice::say(&format!("keys for tokens cannot be fetched: no thread: {error}"));
            }
        }
        tokio::select! {
            Some((address, keys)) = fetched.recv() => sources.took(&address, keys, Instant::now(), &force),
            () = sleep(LOOK) => {}
        }
    }
}

type Fetched = Result<KeySet, String>;

/// What is known of each address.
#[derive(Default)]
struct Sources {
    wanted: Vec<Wanted>,
    known: HashMap<Arc<str>, Source>,
    generation: u64,
}

struct Source {
    keys: Option<Arc<KeySet>>,
    fetched: Option<Instant>,
    fetched_ms: u64,
    asked: Option<Instant>,
    due: Instant,
    failures: u32,
    under_way: bool,
    error: String,
}

impl Sources {
    /// Follows the snapshot; addresses that no rule names any more are forgotten with their keys.
    fn want(&mut self, force: &Force) {
        let wanted = force.snapshot().token_rules().map(|rules| rules.wanted()).unwrap_or_default();
        if wanted == self.wanted {
            return;
        }
        self.known.retain(|address, _| wanted.iter().any(|one| one.address == *address));
        for one in &wanted {
            self.known.entry(Arc::clone(&one.address)).or_insert_with(|| Source::new(Instant::now()));
        }
        self.wanted = wanted;
        self.publish(force);
    }

    /// What has to be fetched now; it counts as under way from here on.
    fn due(&mut self, missed: &BTreeSet<Arc<str>>, now: Instant) -> Vec<Wanted> {
        let mut room = FETCHES.saturating_sub(self.known.values().filter(|source| source.under_way).count());
        let mut due = Vec::new();
        for wanted in &self.wanted {
            let Some(source) = self.known.get_mut(&wanted.address) else { continue };
            let rested = source.asked.is_none_or(|asked| now.duration_since(asked) >= LEAST_PAUSE);
            let asked_for = source.due <= now || missed.contains(&wanted.address) && rested;
            if asked_for && !source.under_way && room > 0 {
                room -= 1;
                (source.under_way, source.asked) = (true, Some(now));
                due.push(wanted.clone());
            }
        }
        due
    }

    fn took(&mut self, address: &str, fetched: Fetched, now: Instant, force: &Force) {
        let Some(source) = self.known.get_mut(address) else { return };
        source.took(fetched, now, address);
        self.publish(force);
    }

    fn publish(&mut self, force: &Force) {
        self.generation += 1;
        let named = |(address, source): (&Arc<str>, &Source)| Some((Arc::clone(address), source.keys.clone()?));
        let sets = self.known.iter().filter_map(named).collect();
        force.keys.table.store(Arc::new(KeyTable { generation: self.generation, sets }));
        let mut report: Vec<_> = self.known.iter().map(|(address, source)| source.report(address)).collect();
        report.sort_by_key(|entry| entry["address"].to_string());
        *force.keys.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        let (keys, fetched, asked) = (None, None, None);
        Self { keys, fetched, fetched_ms: 0, asked, due: now, failures: 0, under_way: false, error: String::new() }
    }

    fn took(&mut self, fetched: Fetched, now: Instant, address: &str) {
        self.under_way = false;
        match fetched {
            Ok(keys) => {
                if !self.error.is_empty() {
                    notice::say(&format!("keys for tokens: {address} answers again"));
                }
                (self.keys, self.fetched, self.fetched_ms) = (Some(Arc::new(keys)), Some(now), wall_ms());
                (self.failures, self.due) = (0, now + REFRESH);
                self.error.clear();
            }
            Err(error) => {
                if self.error != error {
                    notice::say(&format!("keys for tokens: {address}: {error}"));
                }
                if self.fetched.is_some_and(|fetched| now.duration_since(fetched) > KEPT) {
                    self.keys = None;
                }
                self.due = now + pause_after(self.failures, self.keys.is_some());
                self.failures = self.failures.saturating_add(1);
                self.error = error;
            }
        }
    }

    fn report(&self, address: &str) -> Value {
        json!({
            "address": address,
            "keys": self.keys.as_ref().map_or(0, |keys| keys.len()),
            "fetched_unix_ms": self.fetched_ms,
            "error": self.error,
        })
    }
}

/// How long to wait after a failure: soon while there are no keys at all, as istiod where old ones still serve.
fn pause_after(failures: u32, has_keys: bool) -> Duration {
    let (first, longest) = if has_keys { (RETRY, LONGEST_RETRY) } else { (FIRST_RETRY, RETRY) };
    first.saturating_mul(1 << failures.min(MOST_DOUBLINGS)).min(longest)
}

/// How often the snapshot and what workers miss are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Fetches under way at a time.
const FETCHES: usize = 4;
/// Between two fetches from one address because of tokens.
const LEAST_PAUSE: Duration = Duration::from_secs(5);
/// istiod's `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`.
const REFRESH: Duration = Duration::from_secs(20 * 60);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(60 * 60);
const MOST_DOUBLINGS: u32 = 12;
/// How long keys serve that could not be fetched again.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
