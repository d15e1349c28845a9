//! A set of message numbers, kept as ranges: millions of numbers that mostly follow each other cost a few bytes.
//!
//! The accounting of a run is set arithmetic on these. Nothing here knows what the numbers mean.

use serde::{Deserialize, Serialize};

/// Numbers as ascending, disjoint, non-adjacent `[first, last]` pairs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The numbers from 0 on, `count` of them.
    pub fn first(count: u64) -> Self {
        Self(count.checked_sub(1).map(|last| (0, last)).into_iter().collect())
    }

    /// Adds `number`. False: it was there already.
    pub fn insert(&mut self, number: u64) -> bool {
        // Numbers nearly always come in order: extend the last range without a search.
        if let Some(last) = self.0.last_mut()
            && last.1.checked_add(1) == Some(number)
        {
            last.1 = number;
            return true;
        }
        let at = self.0.partition_point(|range| range.1 < number);
        if self.0.get(at).is_some_and(|range| range.0 <= number) {
            return false;
        }
        self.0.insert(at, (number, number));
        self.join(at);
        true
    }

    /// How many numbers it holds.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Adds all of `other`; answers how many of them were there already.
    pub fn absorb(&mut self, other: &Self) -> u64 {
        let before = self.len() + other.len();
        let mut all: Vec<(u64, u64)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        self.0.clear();
        for (first, last) in all {
            match self.0.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => self.0.push((first, last)),
            }
        }
        before - self.len()
    }

    /// How many numbers of `self` are not in `other`.
    pub fn missing_in(&self, other: &Self) -> u64 {
        self.len() - self.shared_with(other)
    }

    fn shared_with(&self, other: &Self) -> u64 {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut shared = 0;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                shared += last - first + 1;
            }
            if a.1 < b.1 {
                mine.next();
            } else {
                theirs.next();
            }
        }
        shared
    }

    fn join(&mut self, at: usize) {
        if self.0.get(at + 1).is_some_and(|next| next.0 == self.0[at].1 + 1) {
            self.0[at].1 = self.0.remove(at + 1).1;
        }
        if at > 0 && self.0[at - 1].1 + 1 == self.0[at].0 {
            self.0[at - 1].1 = self.0.remove(at).1;
        }
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut ranges = Self::default();
        for number in numbers {
            ranges.insert(number);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use scenario::rng::Rng;

    use super::*;

    fn drawn(seed: u64, count: usize) -> Vec<u64> {
        let mut rng = Rng::new(seed, 0);
        (0..count).map(|_| (rng.unit() * 60.0) as u64).collect()
    }

    #[test]
    fn ranges_agree_with_a_plain_set_for_any_order() {
        for seed in 0..200 {
            let (numbers, others) = (drawn(seed, 40), drawn(seed + 1000, 25));
            let mut plain = BTreeSet::new();
            let mut ranges = Ranges::default();
            for number in &numbers {
                assert_eq!(ranges.insert(*number), plain.insert(*number), "seed {seed}, number {number}");
            }
            let theirs: BTreeSet<u64> = others.iter().copied().collect();
            let other: Ranges = others.into_iter().collect();
            assert_eq!(ranges.len(), plain.len() as u64, "seed {seed}");
            assert_eq!(ranges.missing_in(&other), plain.difference(&theirs).count() as u64, "seed {seed}");
            let repeated = ranges.absorb(&other);
            assert_eq!(repeated, plain.intersection(&theirs).count() as u64, "seed {seed}");
            assert_eq!(ranges, plain.union(&theirs).copied().collect(), "seed {seed}");
        }
    }

    #[test]
    fn numbers_in_order_are_one_range() {
        let ranges: Ranges = (5..5_000).collect();
        assert_eq!(serde_json::to_string(&ranges).unwrap(), "[[5,4999]]");
        assert_eq!(Ranges::first(3), (0..3).collect());
        assert_eq!(Ranges::first(0).len(), 0);
    }
}
