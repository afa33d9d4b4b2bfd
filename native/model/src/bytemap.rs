//! A map from byte strings that answers equality and all keys that a text starts with or ends with.
//!
//! In:      keys of a configuration.
//! Out:     lookups that never allocate; the cost follows the length of the text, not the number of keys.
//! Keys come from configuration and never from a peer, so the hash needs no secret: every distinct length of a prefix
//! is one lookup for each request, and a keyed hash of the hash would be more than half of it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by bytes.
#[derive(Debug)]
pub(crate) struct ByteMap<T> {
    /// ASCII letters are equal in either case.
    fold_case: bool,
    /// Keys are read from their end, so that `affixes_of` finds suffixes.
    from_end: bool,
    /// Keys by their hash.
    buckets: HashMap<u64, Bucket<T>, BuildHasherDefault<Hashed>>,
    /// Lengths of the keys, ascending, each once.
    lengths: Vec<usize>,
}

/// Keys of one hash, with their values.
type Bucket<T> = Vec<(Box<[u8]>, T)>;

impl<T> ByteMap<T> {
    /// A map for equality and prefixes.
    pub(crate) fn of_prefixes(fold_case: bool) -> Self {
        Self { fold_case, from_end: false, buckets: HashMap::default(), lengths: Vec::new() }
    }

    /// A map for equality and suffixes.
    pub(crate) fn of_suffixes(fold_case: bool) -> Self {
        Self { from_end: true, ..Self::of_prefixes(fold_case) }
    }

    /// The value of a key, made if it is new.
    pub(crate) fn entry(&mut self, key: &[u8], make: impl FnOnce() -> T) -> &mut T {
        let (hash, fold_case) = (self.hash_on(FNV_OFFSET, key), self.fold_case);
        if let Err(place) = self.lengths.binary_search(&key.len()) {
            self.lengths.insert(place, key.len());
        }
        let bucket = self.buckets.entry(hash).or_default();
        let found = bucket.iter().position(|(own, _)| same(own, key, fold_case));
        let position = found.unwrap_or_else(|| {
            bucket.push((key.into(), make()));
            bucket.len() - 1
        });
        &mut bucket[position].1
    }

    /// The value of the key that equals the text.
    pub(crate) fn get(&self, text: &[u8]) -> Option<&T> {
        self.find(self.hash_on(FNV_OFFSET, text), text)
    }

    /// The values of all keys that the text starts with (or ends with, in a map of suffixes), shortest first.
    pub(crate) fn affixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        // The hash of an affix goes on from that of the next shorter one, so the text is hashed once.
        let (mut hash, mut hashed) = (FNV_OFFSET, 0);
        self.lengths.iter().take_while(|&&length| length <= text.len()).filter_map(move |&length| {
            let rest = text.len() - length;
            let (affix, added) = if self.from_end {
                (&text[rest..], &text[rest..text.len() - hashed])
            } else {
                (&text[..length], &text[hashed..length])
            };
            hash = self.hash_on(hash, added);
            hashed = length;
            self.find(hash, affix)
        })
    }

    fn find(&self, hash: u64, text: &[u8]) -> Option<&T> {
        let bucket = self.buckets.get(&hash)?;
        bucket.iter().find(|(key, _)| same(key, text, self.fold_case)).map(|(_, value)| value)
    }

    /// FNV-1a, going on from another hash.
    fn hash_on(&self, hash: u64, text: &[u8]) -> u64 {
        let fold = |byte: u8| if self.fold_case { byte.to_ascii_lowercase() } else { byte };
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(fold(*byte))).wrapping_mul(FNV_PRIME);
        if self.from_end { text.iter().rev().fold(hash, step) } else { text.iter().fold(hash, step) }
    }
}

/// The hash of a key that is a hash already: only its bits are spread, for the table asks the highest and the lowest.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = (self.0 ^ hash ^ (hash >> 32)).wrapping_mul(SPREAD);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn same(a: &[u8], b: &[u8], fold_case: bool) -> bool {
    if fold_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// 2^64 by the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lookups_are_those_of_a_plain_list(
            keys in prop::collection::btree_set("[abA]{0,4}", 0..12),
            text in "[abA]{0,5}",
            fold_case: bool,
        ) {
            let fold = |text: &str| if fold_case { text.to_ascii_lowercase() } else { text.to_owned() };
            let (mut prefixes, mut suffixes) = (ByteMap::of_prefixes(fold_case), ByteMap::of_suffixes(fold_case));
            for key in &keys {
                prefixes.entry(key.as_bytes(), || fold(key));
                suffixes.entry(key.as_bytes(), || fold(key));
            }
            let mut folded: Vec<String> = keys.iter().map(|key| fold(key)).collect();
            folded.sort_by_key(|key| (key.len(), key.clone()));
            folded.dedup();
            let (text, asked) = (fold(&text), text);
            let starts: Vec<_> = folded.iter().filter(|key| text.starts_with(*key)).collect();
            let ends: Vec<_> = folded.iter().filter(|key| text.ends_with(*key)).collect();
            prop_assert_eq!(prefixes.affixes_of(asked.as_bytes()).collect::<Vec<_>>(), starts);
            prop_assert_eq!(suffixes.affixes_of(asked.as_bytes()).collect::<Vec<_>>(), ends);
            let equal = folded.iter().find(|key| **key == text);
            prop_assert_eq!(prefixes.get(asked.as_bytes()), equal);
            prop_assert_eq!(suffixes.get(asked.as_bytes()), equal);
        }
    }
}
