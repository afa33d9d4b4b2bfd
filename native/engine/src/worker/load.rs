//! Requests in flight per endpoint on this worker, which least-request balancing compares.
//!
//! In: sessions that begin and end a request.  Out: counts for `balance::pick`.
//! Limits: one row per endpoint address with a request in flight.

use std::cell::RefCell;
use std::net::SocketAddr;

use meshdp_model::wordhash::WordMap;

/// Counts per endpoint address.
#[derive(Default)]
pub(crate) struct Load {
    in_flight: RefCell<WordMap<SocketAddr, u32>>,
}

impl Load {
    /// Counts a request until the returned guard leaves scope.
    pub(crate) fn begin(&self, address: SocketAddr) -> InFlight<'_> {
        *self.in_flight.borrow_mut().entry(address).or_insert(0) += 1;
        InFlight { load: self, address }
    }

    /// Requests in flight to `address`.
    pub(crate) fn of(&self, address: SocketAddr) -> u32 {
        self.in_flight.borrow().get(&address).copied().unwrap_or(0)
    }
}

/// One request in flight.
pub(crate) struct InFlight<'a> {
    load: &'a Load,
    address: SocketAddr,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.load.in_flight.borrow_mut();
        if let Some(count) = in_flight.get_mut(&self.address) {
            *count -= 1;
            // Rows of quiet endpoints stay while the map is small, so that steady traffic does not allocate.
            if *count == 0 && in_flight.len() > KEPT_ROWS {
                in_flight.remove(&self.address);
            }
        }
    }
}

const KEPT_ROWS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_counts_while_it_lives() {
        let load = Load::default();
        let address: SocketAddr = "10.0.0.1:80".parse().expect("a literal address");
        let guard = load.begin(address);
        assert_eq!(load.of(address), 1);
        drop(guard);
        assert_eq!(load.of(address), 0);
    }
}
