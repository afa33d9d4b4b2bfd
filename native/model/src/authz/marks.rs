//! Marks: which value lists hold, and by which values they were found.
//!
//! In:      values that match, from `matching`.      Out: `Marks`, which rules are tested against and found by.
//! Limits:  up to `INLINE_NUMBERS` lists nothing is allocated; of more than `HITS_LIMIT` values that match, the rest is not
//!          remembered, and every rule is asked.

/// A set of small numbers.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    few: [u64; INLINE_NUMBERS / 64],
    many: Vec<u64>,
}

impl Numbers {
    /// An empty set for numbers below `count`.
    pub(crate) fn new(count: usize) -> Self {
        let many = if count > INLINE_NUMBERS { vec![0; count.div_ceil(64)] } else { Vec::new() };
        Self { few: [0; INLINE_NUMBERS / 64], many }
    }

    /// Adds a number.
    pub(crate) fn set(&mut self, number: u32) {
        self.words_mut()[number as usize / 64] |= 1 << (number % 64);
    }

    /// Takes a number out.
    pub(crate) fn clear(&mut self, number: u32) {
        self.words_mut()[number as usize / 64] &= !(1 << (number % 64));
    }

    /// Whether the set holds a number.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.words()[number as usize / 64] >> (number % 64) & 1 == 1
    }

    /// The numbers in the set, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..).zip(self.words()).flat_map(|(index, &word)| {
            let next = |rest: &u64| Some(rest & (rest - 1)).filter(|rest| *rest != 0);
            let rests = std::iter::successors(Some(word).filter(|word| *word != 0), next);
            rests.map(move |rest| index * 64 + rest.trailing_zeros())
        })
    }

    fn words(&self) -> &[u64] {
        if self.many.is_empty() { &self.few } else { &self.many }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        if self.many.is_empty() { &mut self.few } else { &mut self.many }
    }
}

/// Numbers that are added or taken out together: one by one while they are few, by words once they are many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    numbers: Vec<u32>,
    words: Vec<u64>,
}

impl Group {
    /// Takes in a number.
    pub(crate) fn push(&mut self, number: u32) {
        self.numbers.push(number);
    }

    /// What was taken in.
    pub(crate) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Makes the words where they are fewer than the numbers.
    pub(crate) fn settle(&mut self) {
        self.words.clear();
        let length = self.numbers.iter().max().map_or(0, |&last| last as usize / 64 + 1);
        if self.numbers.len() > length {
            self.words.resize(length, 0);
            self.numbers.iter().for_each(|&number| self.words[number as usize / 64] |= 1 << (number % 64));
        }
    }

    /// Adds all to a set.
    pub(crate) fn add_to(&self, set: &mut Numbers) {
        if self.words.is_empty() {
            self.numbers.iter().for_each(|&number| set.set(number));
        } else {
            set.words_mut().iter_mut().zip(&self.words).for_each(|(word, own)| *word |= own);
        }
    }

    /// Takes all out of a set.
    pub(crate) fn take_from(&self, set: &mut Numbers) {
        if self.words.is_empty() {
            self.numbers.iter().for_each(|&number| set.clear(number));
        } else {
            set.words_mut().iter_mut().zip(&self.words).for_each(|(word, own)| *word &= !own);
        }
    }
}

/// The value lists that one distinct value is in.
#[derive(Debug)]
pub(crate) struct Lists {
    /// The value's own number; `UNNUMBERED` until it has one.
    value: u32,
    lists: Group,
}

impl Lists {
    pub(crate) fn new() -> Self {
        Self { value: UNNUMBERED, lists: Group::default() }
    }

    pub(crate) fn push(&mut self, list: u32) {
        self.lists.push(list);
    }

    /// Gives the value its number; the lists that it is in.
    pub(crate) fn settle(&mut self, value: u32) -> &[u32] {
        self.value = value;
        self.lists.settle();
        self.lists.numbers()
    }
}

/// The lists that hold, and the values that said so.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    lists: Numbers,
    hits: [u32; HITS_LIMIT],
    hit_count: usize,
    /// Not every value that matches is among the hits.
    is_more: bool,
}

impl Marks {
    /// No marks, for so many lists.
    pub(crate) fn new(list_count: usize) -> Self {
        Self { lists: Numbers::new(list_count), hits: [0; HITS_LIMIT], hit_count: 0, is_more: false }
    }

    /// Marks the lists of values that match.
    pub(crate) fn set_all<'a>(&mut self, values: impl IntoIterator<Item = &'a Lists>) {
        values.into_iter().for_each(|value| self.hit(value));
    }

    /// Whether a list holds.
    pub(crate) fn has(&self, list: u32) -> bool {
        self.lists.has(list)
    }

    /// The values that match; `None` when they are too many to be remembered.
    pub(crate) fn hits(&self) -> Option<&[u32]> {
        if self.is_more { None } else { Some(&self.hits[..self.hit_count]) }
    }

    fn hit(&mut self, value: &Lists) {
        value.lists.add_to(&mut self.lists);
        if self.hit_count == HITS_LIMIT || value.value == UNNUMBERED {
            self.is_more = true;
            return;
        }
        self.hits[self.hit_count] = value.value;
        self.hit_count += 1;
    }
}

/// How many numbers fit without an allocation.
const INLINE_NUMBERS: usize = 1024;

/// How many matching values are remembered: a request has a few dozen attributes, each of which few values match.
const HITS_LIMIT: usize = 48;

/// Nothing may be concluded from such a value but its marks.
const UNNUMBERED: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_a_set(
            numbers in prop::collection::btree_set(0_u32..3000, 0..40),
            group in prop::collection::btree_set(0_u32..3000, 0..200),
            count in prop::sample::select(vec![100_u32, 1024, 1025, 3000]),
        ) {
            let within = |numbers: BTreeSet<u32>| numbers.into_iter().filter(|&number| number < count).collect();
            let (expected, others): (BTreeSet<u32>, BTreeSet<u32>) = (within(numbers), within(group));
            let mut made = Numbers::new(count as usize);
            for &number in &expected {
                made.set(number);
            }
            prop_assert!(made.iter().eq(expected.iter().copied()));
            prop_assert!((0..count).all(|number| made.has(number) == expected.contains(&number)));
            let mut group = Group::default();
            for &number in &others {
                group.push(number);
            }
            group.settle();
            let mut with = made.clone();
            group.add_to(&mut with);
            prop_assert!(with.iter().eq(expected.union(&others).copied()));
            group.take_from(&mut made);
            prop_assert!(made.iter().eq(expected.difference(&others).copied()));
        }
    }

    #[test]
    fn what_is_not_remembered_is_said_to_be_missing() {
        let mut value = Lists::new();
        value.push(3);
        let mut marks = Marks::new(8);
        marks.set_all([&value]);
        assert!(marks.has(3) && marks.hits().is_none(), "a value without a number leads to no rule");
        value.settle(7);
        let mut marks = Marks::new(8);
        for _ in 0..HITS_LIMIT {
            marks.set_all([&value]);
        }
        assert_eq!(marks.hits().map(<[u32]>::len), Some(HITS_LIMIT));
        marks.set_all([&value]);
        assert!(marks.hits().is_none());
    }
}
