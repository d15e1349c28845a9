//! A small deterministic random source: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014).
//!
//! It breaks ties and spreads picks, so that replicas which see the same counts do not all choose the same
//! endpoint. It is no source of secrets. The seed is an argument of whoever owns it.

use crate::hash::mix;

/// 8 bytes of state; every seed is a good one.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform over all of `u64`.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Below `bound`, which is at least 1. The bias of the multiplication is below `bound` / 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound.max(1));
        u64::try_from(product >> 64).expect("the upper half of a 128 bit product is 64 bits")
    }

    /// Within -1.0 to 1.0, evenly.
    pub(crate) fn spread(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        assert!((0..100).all(|_| a.below(1000) == b.below(1000)));
    }

    #[test]
    fn every_value_below_the_bound_comes_up_about_equally_often() {
        let mut random = Random::new(1);
        let mut hits = [0u32; 5];
        for _ in 0..50_000 {
            hits[random.below(5) as usize] += 1;
        }
        assert!(hits.iter().all(|n| (9_500..10_500).contains(n)), "{hits:?}");
        assert_eq!(random.below(0), 0, "a bound of zero is taken as one");
    }

    #[test]
    fn a_spread_reaches_almost_both_ends_and_no_further() {
        let mut random = Random::new(3);
        let all: Vec<f64> = (0..10_000).map(|_| random.spread()).collect();
        let (least, most) = all.iter().fold((0.0f64, 0.0f64), |(l, m), s| (l.min(*s), m.max(*s)));
        assert!((-1.0..-0.99).contains(&least) && (0.99..=1.0).contains(&most), "{least} {most}");
    }
}
