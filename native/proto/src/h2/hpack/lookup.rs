//! Which field of the dynamic table has this name, or this name and value: a guess in constant time that the caller checks.
//!
//! Buckets of four, the hash kept beside the number of the insertion. Entries are never removed: a number that the table
//! has evicted is no answer, and the oldest of a bucket is overwritten. A wrong or missing guess costs bytes, never
//! correctness, so the hash may look at samples of a long value only.
//! In: hashes, numbers. Out: numbers to check. Limits: four checks a search. Source: decision 0080.

/// Slots of a bucket: few enough to look at all of them, enough that hot fields do not chase each other out.
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    number: u32,
}

/// Numbers of insertions by hash, in `BUCKETS` buckets (a power of two).
#[derive(Debug)]
pub(super) struct Lookup<const BUCKETS: usize> {
    buckets: Box<[[Slot; WAYS]; BUCKETS]>,
}

impl<const BUCKETS: usize> Lookup<BUCKETS> {
    pub(super) fn new() -> Self {
        // An empty slot guesses the first insertion, which is wrong and checked like every guess.
        Self { buckets: Box::new([[Slot { hash: 0, number: 0 }; WAYS]; BUCKETS]) }
    }

    /// The numbers that were noted under `hash`.
    pub(super) fn guesses(&self, hash: u32) -> impl Iterator<Item = u32> {
        self.buckets[hash as usize % BUCKETS].iter().filter(move |slot| slot.hash == hash).map(|slot| slot.number)
    }

    /// Notes the insertion `number`, in place of the bucket's oldest.
    pub(super) fn note(&mut self, hash: u32, number: u32) {
        let bucket = &mut self.buckets[hash as usize % BUCKETS];
        bucket.copy_within(..WAYS - 1, 1);
        bucket[0] = Slot { hash, number };
    }
}

/// A hash of up to 24 sampled bytes and the length.
pub(super) const fn hash(bytes: &[u8]) -> u32 {
    let length = bytes.len();
    let (first, last) = match length {
        0 => (0, 0),
        1..=3 => (bytes[0] as u64, (bytes[length / 2] as u64) << 8 | bytes[length - 1] as u64),
        4..=7 => (four(bytes, 0), four(bytes, length - 4)),
        8..=16 => (eight(bytes, 0), eight(bytes, length - 8)),
        _ => (mix(eight(bytes, 0), eight(bytes, (length - 8) / 2)), eight(bytes, length - 8)),
    };
    fold(mix(first ^ (length as u64).wrapping_mul(SEED), last))
}

/// The hash of a field from those of its name and value.
pub(super) const fn pair_hash(name: u32, value: u32) -> u32 {
    fold(mix(name as u64, value as u64))
}

/// Odd, with its bits well spread.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(left: u64, right: u64) -> u64 {
    let product = (left ^ SEED) as u128 * (right.rotate_left(32) ^ 0xd1b5_4a32_d192_ed03) as u128;
    product as u64 ^ (product >> 64) as u64
}

const fn fold(word: u64) -> u32 {
    word as u32 ^ (word >> 32) as u32
}

/// The eight bytes from `start` on, which are there.
const fn eight(bytes: &[u8], start: usize) -> u64 {
    match bytes.split_at(start).1.first_chunk() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}

/// The four bytes from `start` on, which are there.
const fn four(bytes: &[u8], start: usize) -> u64 {
    match bytes.split_at(start).1.first_chunk() {
        Some(chunk) => u32::from_le_bytes(*chunk) as u64,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn values_that_differ_at_an_end_or_in_the_middle_spread() {
        let (mut values, mut hashes) = (BTreeSet::new(), BTreeSet::new());
        for length in 1..40 {
            for at in [0, (length - 1) / 2, length - 1] {
                for byte in b'a'..=b'z' {
                    let mut value = vec![b'.'; length];
                    value[at] = byte;
                    hashes.insert(hash(&value));
                    values.insert(value);
                }
            }
        }
        assert!(hashes.len() + 2 >= values.len(), "{} of {}", hashes.len(), values.len());
    }

    #[test]
    fn the_newest_of_a_bucket_stay() {
        let mut lookup = Lookup::<2>::new();
        (1..=6).for_each(|number| lookup.note(8, number));
        assert_eq!(lookup.guesses(8).collect::<Vec<_>>(), [6, 5, 4, 3]);
        assert_eq!(lookup.guesses(10).count(), 0, "another hash in the same bucket");
    }
}
