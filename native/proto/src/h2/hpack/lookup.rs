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
        // No table has a field of the number that it inserts next, so these slots are empty ones until 2^32 have passed,
        // and then they are wrong guesses.
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
    let mixed = if length >= 8 {
        let (_, second_half) = bytes.split_at((length - 8) / 2);
        mix(mix(eight(bytes), last_eight(bytes)), eight(second_half))
    } else {
        let mut word = 0_u64;
        let mut at = 0;
        while at < length {
            word = word << 8 | bytes[at] as u64;
            at += 1;
        }
        mix(word, SEED)
    };
    fold(mix(mixed, length as u64))
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

const fn eight(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}

const fn last_eight(bytes: &[u8]) -> u64 {
    match bytes.last_chunk() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}
