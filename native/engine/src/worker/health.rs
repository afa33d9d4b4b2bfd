//! Which endpoints could not be connected to lately, as this worker has seen it: balancing leaves them alone for a while.
//!
//! In:     the outcome of each connect.  Out: whether an address is to be avoided now.
//! Limits: [`MAX_ROWS`] addresses; those whose time is over make room. Nothing is kept, or asked, while all is well.
//! Source: attack-cases LC-14; how long is `meshdp_model::retry`'s to say.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;

use meshdp_model::retry;

/// The failing endpoints.
#[derive(Default)]
pub(crate) struct Health {
    rows: RefCell<HashMap<SocketAddr, Row>>,
    count: Cell<usize>,
}

#[derive(Clone, Copy)]
struct Row {
    failures: u32,
    until_ms: u64,
}

impl Health {
    /// A connection could not be made.
    pub(crate) fn failed(&self, address: SocketAddr, now_ms: u64) {
        let mut rows = self.rows.borrow_mut();
        if rows.len() >= MAX_ROWS && !rows.contains_key(&address) {
            rows.retain(|_, row| row.until_ms > now_ms);
        }
        if rows.len() < MAX_ROWS || rows.contains_key(&address) {
            let row = rows.entry(address).or_insert(Row { failures: 0, until_ms: 0 });
            // Requests that were under way together are one failure: the endpoint has not been given another chance.
            if row.until_ms <= now_ms {
                row.failures = row.failures.saturating_add(1);
                row.until_ms = now_ms + retry::avoided_ms(row.failures);
            }
        }
        self.count.set(rows.len());
    }

    /// A connection was made.
    pub(crate) fn succeeded(&self, address: SocketAddr) {
        if !self.is_quiet() {
            let mut rows = self.rows.borrow_mut();
            rows.remove(&address);
            self.count.set(rows.len());
        }
    }

    /// Nothing has failed: there is no need to ask.
    pub(crate) fn is_quiet(&self) -> bool {
        self.count.get() == 0
    }

    /// Whether this endpoint is left alone now.
    pub(crate) fn avoids(&self, address: SocketAddr, now_ms: u64) -> bool {
        self.rows.borrow().get(&address).is_some_and(|row| row.until_ms > now_ms)
    }

    /// Forgets endpoints that nobody has tried for long: they may be gone.
    pub(crate) fn sweep(&self, now_ms: u64) {
        if !self.is_quiet() {
            let mut rows = self.rows.borrow_mut();
            rows.retain(|_, row| row.until_ms + FORGOTTEN_MS > now_ms);
            self.count.set(rows.len());
        }
    }
}

const MAX_ROWS: usize = 1_024;
/// So long after its time of being avoided, an endpoint's failures no longer count as in a row.
const FORGOTTEN_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], last))
    }

    #[test]
    fn lc_14_a_failing_endpoint_is_avoided_tried_again_and_forgiven() {
        let health = Health::default();
        health.failed(address(1), 0);
        health.failed(address(1), 10); // the same moment of weakness
        assert!(health.avoids(address(1), 999) && !health.avoids(address(1), 1_000) && !health.avoids(address(2), 0));
        health.failed(address(1), 1_000);
        assert!(health.avoids(address(1), 2_999) && !health.avoids(address(1), 3_000));
        health.succeeded(address(1));
        assert!(health.is_quiet() && !health.avoids(address(1), 2_000));
    }

    #[test]
    fn rows_are_bounded_and_old_ones_forgotten() {
        let health = Health::default();
        for port in 0..=u16::MAX {
            health.failed(address(port), 0);
        }
        assert_eq!(health.count.get(), MAX_ROWS);
        health.failed(address(u16::MAX), 5_000);
        assert_eq!(health.count.get(), 1, "those whose time is over made room");
        health.sweep(5_000 + 1_000 + FORGOTTEN_MS);
        assert!(health.is_quiet());
    }
}
