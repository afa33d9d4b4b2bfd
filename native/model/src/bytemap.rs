//! A map from byte strings that answers equality, longest and all prefixes and suffixes, with or without regard to
//! ASCII case.
//!
//! In:      keys of a configuration.
//! Out:     lookups that never allocate; the cost follows the text looked up, not the number of keys.
//! Keys come from configuration and never from a peer, so the hash needs no secret.

use std::collections::{BTreeSet, HashMap};

/// A map by bytes.
#[derive(Debug)]
pub(crate) struct ByteMap<T> {
    fold_case: bool,
    /// Keys by their hash.
    buckets: HashMap<u64, Bucket<T>>,
    /// Lengths of the keys, to be tried for prefixes and suffixes.
    lengths: BTreeSet<usize>,
}

/// Keys of one hash, with their values.
type Bucket<T> = Vec<(Box<[u8]>, T)>;

impl<T> ByteMap<T> {
    /// Compares bytes as they are.
    pub(crate) fn exact_case() -> Self {
        Self { fold_case: false, buckets: HashMap::new(), lengths: BTreeSet::new() }
    }

    /// Compares without regard to ASCII case.
    pub(crate) fn folding_case() -> Self {
        Self { fold_case: true, ..Self::exact_case() }
    }

    /// The value of a key, made if it is new.
    pub(crate) fn entry(&mut self, key: &[u8], make: impl FnOnce() -> T) -> &mut T {
        let (hash, fold_case) = (self.hash(key), self.fold_case);
        self.lengths.insert(key.len());
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
        let bucket = self.buckets.get(&self.hash(text))?;
        bucket.iter().find(|(key, _)| same(key, text, self.fold_case)).map(|(_, value)| value)
    }

    /// The values of all keys that the text starts with, shortest first.
    pub(crate) fn prefixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        self.lengths.range(..=text.len()).filter_map(|&length| self.get(&text[..length]))
    }

    /// The values of all keys that the text ends with, shortest first.
    pub(crate) fn suffixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        self.lengths.range(..=text.len()).filter_map(|&length| self.get(&text[text.len() - length..]))
    }

    /// The value of the longest key that the text ends with.
    pub(crate) fn longest_suffix_of(&self, text: &[u8]) -> Option<&T> {
        self.lengths.range(..=text.len()).rev().find_map(|&length| self.get(&text[text.len() - length..]))
    }

    /// FNV-1a.
    fn hash(&self, text: &[u8]) -> u64 {
        let fold = |byte: u8| if self.fold_case { byte.to_ascii_lowercase() } else { byte };
        text.iter().fold(FNV_OFFSET, |hash, &byte| (hash ^ u64::from(fold(byte))).wrapping_mul(FNV_PRIME))
    }
}

fn same(a: &[u8], b: &[u8], fold_case: bool) -> bool {
    if fold_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
