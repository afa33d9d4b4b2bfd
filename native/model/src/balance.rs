//! Balancing: the endpoints of a cluster and a random number into the one to use.
//!
//! In:      an `EndpointSet`, the requests in flight at each endpoint, randomness.      Out: an index into the set.
//! Limits:  none; the cost is logarithmic in the number of endpoints.      Fails: none is healthy.
//! Source:  "power of two choices"; istio-semantics F.3 (`LEAST_REQUEST`).

use std::ops::Deref;

use crate::sections::{Endpoint, Health};

/// The endpoints of a cluster, with the shares of those that may be chosen.
#[derive(Debug, Default)]
pub struct EndpointSet {
    endpoints: Vec<Endpoint>,
    /// Indices of the endpoints that are healthy and have a weight.
    usable: Vec<u32>,
    /// `cumulative[i]` is the weight of `usable[0..=i]`; strictly increasing.
    cumulative: Vec<u64>,
}

impl EndpointSet {
    /// Takes endpoints and sums up their shares.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        let mut set = Self { usable: Vec::new(), cumulative: Vec::new(), endpoints };
        let mut total = 0;
        for (index, endpoint) in (0_u32..).zip(&set.endpoints) {
            if endpoint.health == Health::Healthy && endpoint.weight > 0 {
                total += u64::from(endpoint.weight);
                set.usable.push(index);
                set.cumulative.push(total);
            }
        }
        set
    }

    /// Whether any endpoint may be chosen.
    pub fn has_usable(&self) -> bool {
        !self.usable.is_empty()
    }

    /// The position in `usable` that owns `point`, `0 <= point < total`.
    fn position_of(&self, point: u64) -> usize {
        self.cumulative.partition_point(|&end| end <= point)
    }

    /// The share of `usable[position]`: where it starts, and how wide it is.
    fn share(&self, position: usize) -> (u64, u64) {
        let start = if position == 0 { 0 } else { self.cumulative[position - 1] };
        (start, self.cumulative[position] - start)
    }
}

impl Deref for EndpointSet {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

/// Draws two different endpoints by weight and takes the one with fewer requests in flight for its weight; of equals
/// the one drawn first, so that weights hold exactly when nothing is in flight. `None` when no endpoint is healthy.
pub fn pick(endpoints: &EndpointSet, in_flight: impl Fn(usize) -> u32, random: u64) -> Option<usize> {
    let total = *endpoints.cumulative.last()?;
    let first = endpoints.position_of(scale(random >> 32, total));
    let (start, width) = endpoints.share(first);
    if width == total {
        return Some(endpoints.usable[first] as usize);
    }
    let rest = scale(random & u64::from(u32::MAX), total - width);
    let second = endpoints.position_of(if rest < start { rest } else { rest + width });
    let load = |position: usize| u64::from(in_flight(endpoints.usable[position] as usize));
    let busier = load(first) * endpoints.share(second).1 > load(second) * width;
    Some(endpoints.usable[if busier { second } else { first }] as usize)
}

/// As [`pick`], but no endpoint that `avoided` names, unless it names all of them: then any is better than none.
pub fn pick_avoiding(
    endpoints: &EndpointSet,
    in_flight: impl Fn(usize) -> u32,
    avoided: impl Fn(usize) -> bool,
    mut random: u64,
) -> Option<usize> {
    let first = pick(endpoints, &in_flight, random)?;
    let mut picked = first;
    for _ in 0..RESELECTIONS {
        if !avoided(picked) {
            return Some(picked);
        }
        random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ random;
        picked = pick(endpoints, &in_flight, random)?;
    }
    // Luck has not found one: look at them one after the other, from a place that differs between requests.
    let usable = &endpoints.usable;
    let start = scale(random >> 32, usable.len() as u64) as usize;
    let found =
        (0..usable.len()).map(|step| usable[(start + step) % usable.len()] as usize).find(|index| !avoided(*index));
    found.or(Some(first))
}

/// How often another endpoint is drawn in place of one to be avoided, as Envoy does.
const RESELECTIONS: u32 = 5;

/// Maps a number below 2^32 onto `0..total`, evenly.
pub(crate) fn scale(random: u64, total: u64) -> u64 {
    // 32 bits of randomness times a 64-bit total fit in 128 bits; the quotient is below `total`.
    ((u128::from(random) * u128::from(total)) >> 32) as u64
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
