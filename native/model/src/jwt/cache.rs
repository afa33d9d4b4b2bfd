//! Tokens that have been proven, by the hash of their text: a caller's second request must not cost a signature again.
//!
//! In: a rule's number and a token.  Out: what was proven of it.
//! Limits: `MAX_ENTRIES`, `MAX_BYTES` of tokens; the oldest go first.
//! Only what was proven is kept, so nobody fills it with forgeries. The time is looked at anew on every hit; other rules or
//! other keys empty it (attack cases JW-18, JW-22; invariant 21 of attack-cases 4.3).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use crate::jwt::{TokenRules, Verified};

/// What a worker remembers.
#[derive(Debug, Default)]
pub struct VerifiedTokens {
    entries: HashMap<Hash, Arc<Verified>>,
    oldest_first: VecDeque<(Hash, usize)>,
    bytes: usize,
    /// Where the keys come from that a token asked for and that were not there.
    missed: Option<Arc<str>>,
    rules: Option<Arc<TokenRules>>,
    generation: u64,
}

/// SHA-256 over the rule's number and the token.
pub(crate) type Hash = [u8; 32];

impl VerifiedTokens {
    /// Forgets everything unless these are the rules and keys that it was proven by.
    pub(crate) fn hold_to(&mut self, rules: &Arc<TokenRules>, generation: u64) {
        let same = self.rules.as_ref().is_some_and(|own| Arc::ptr_eq(own, rules)) && self.generation == generation;
        if !same {
            *self = Self { rules: Some(Arc::clone(rules)), generation, ..Self::default() };
        }
    }

    pub(crate) fn get(&self, hash: &Hash) -> Option<&Arc<Verified>> {
        self.entries.get(hash)
    }

    pub(crate) fn put(&mut self, hash: Hash, size: usize, verified: &Arc<Verified>) {
        if self.entries.insert(hash, Arc::clone(verified)).is_none() {
            self.oldest_first.push_back((hash, size));
            self.bytes += size;
        }
        while self.oldest_first.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some((oldest, size)) = self.oldest_first.pop_front() else { return };
            self.entries.remove(&oldest);
            self.bytes -= size;
        }
    }

    /// Notes that a token names a key which the set from there does not have.
    pub(crate) fn miss(&mut self, address: Arc<str>) {
        self.missed = Some(address);
    }

    /// Where a key was missed since this was asked last.
    pub fn take_missed(&mut self) -> Option<Arc<str>> {
        self.missed.take()
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The name of a token under a rule.
pub(crate) fn hash_of(rule: usize, token: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&(rule as u64).to_be_bytes());
    context.update(token);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Tokens that are remembered.
pub(crate) const MAX_ENTRIES: usize = 1_024;
/// And their length in all; what is kept of one is a small multiple of its length.
pub(crate) const MAX_BYTES: usize = 1 << 20;
