//! A map for small keys that are looked up for each request: addresses, ports, hashes of names.
//!
//! In:      keys of a configuration, and addresses that the application dials.
//! Out:     a [`WordMap`], as the standard map but for the cost of a lookup: a multiplication for each word of the key.
//! Limits:  a secret of its own for each map, but no cryptographic hash: no key may be of a remote peer's choosing.
//! Source:  decision 0097.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map by words.
pub type WordMap<K, V> = HashMap<K, V, WordState>;

/// The secret of one map.
#[derive(Debug, Clone)]
pub struct WordState(u64);

impl Default for WordState {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0_u8))
    }
}

impl BuildHasher for WordState {
    type Hasher = WordHasher;

    fn build_hasher(&self) -> WordHasher {
        WordHasher(self.0)
    }
}

/// Both halves of a product, folded: each bit of a word reaches those that a table looks at.
#[derive(Debug, Clone)]
pub struct WordHasher(u64);

impl WordHasher {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(ODD);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(last));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.add(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.add(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }
}

/// The fraction of pi, made odd.
const ODD: u64 = 0x243f_6a88_85a3_08d3;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    /// Neighbours, as addresses and ports of a cluster are, spread over the bits that a table of 1,024 places and its tags use.
    #[test]
    fn neighbouring_keys_spread() {
        let state = WordState::default();
        let address = |number: u32| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 80));
        let hashes: Vec<u64> = (0..1_024).map(|number| state.hash_one(address(number))).collect();
        let ports: Vec<u64> = (0..1_024_u16).map(|port| state.hash_one(port)).collect();
        for (keys, hashes) in [("addresses", hashes), ("ports", ports)] {
            let places: HashSet<u64> = hashes.iter().map(|hash| hash & 1_023).collect();
            let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            // Chance fills about 647 places of 1,024, and all of the 128 tags.
            assert!(places.len() > 500, "{keys} fill {} places", places.len());
            assert!(tags.len() > 100, "{keys} have {} tags", tags.len());
        }
    }

    #[test]
    fn a_map_finds_what_was_put_in_and_nothing_else() {
        let mut map = WordMap::default();
        for port in 0..1_000_u16 {
            map.insert((Ipv4Addr::LOCALHOST, port), port);
        }
        assert!((0..1_000).all(|port| map.get(&(Ipv4Addr::LOCALHOST, port)) == Some(&port)));
        assert_eq!((map.len(), map.get(&(Ipv4Addr::UNSPECIFIED, 1))), (1_000, None));
    }
}
