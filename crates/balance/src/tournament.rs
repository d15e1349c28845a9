//! Two trees over the endpoints that make a pick cheap: the smallest key with fair ties, and a draw by weight.
//!
//! Both are arrays of nodes as in a binary heap: the leaves are the endpoints in order, and a change climbs to the
//! root. A change and a pick cost the logarithm of the number of endpoints and allocate nothing.

use std::cmp::Ordering;

use crate::random::Random;

/// The smallest of many keys; one of several equals is picked evenly at random.
#[derive(Clone, Debug)]
pub(crate) struct Tournament<K> {
    /// Leaves, a power of two. They are the upper half of `nodes`.
    width: usize,
    nodes: Vec<Node<K>>,
}

#[derive(Clone, Copy, Debug)]
struct Node<K> {
    /// The smallest key below; `None` when nobody takes part.
    best: Option<K>,
    /// Leaves below that have it.
    ties: u32,
}

impl<K: Copy + Ord> Tournament<K> {
    /// Of `keys`, in order; `None` takes no part.
    pub(crate) fn new(keys: impl ExactSizeIterator<Item = Option<K>>) -> Self {
        let width = keys.len().next_power_of_two();
        let mut nodes = vec![Node { best: None, ties: 0 }; 2 * width];
        for (node, key) in nodes[width..].iter_mut().zip(keys) {
            *node = leaf(key);
        }
        for place in (1..width).rev() {
            nodes[place] = winner(nodes[2 * place], nodes[2 * place + 1]);
        }
        Self { width, nodes }
    }

    /// Changes one key.
    pub(crate) fn set(&mut self, index: usize, key: Option<K>) {
        let mut place = self.width + index;
        self.nodes[place] = leaf(key);
        while place > 1 {
            place /= 2;
            self.nodes[place] = winner(self.nodes[2 * place], self.nodes[2 * place + 1]);
        }
    }

    /// The index of the smallest key that is not in `except`.
    pub(crate) fn pick(&mut self, except: &[usize], random: &mut Random) -> Option<usize> {
        let Some((first, rest)) = except.split_first() else { return self.descend(random) };
        let key = self.nodes[self.width + first].best;
        self.set(*first, None);
        let picked = self.pick(rest, random);
        self.set(*first, key);
        picked
    }

    fn descend(&self, random: &mut Random) -> Option<usize> {
        let best = self.nodes[1].best?;
        let mut number = random.below(u64::from(self.nodes[1].ties));
        let mut place = 1;
        while place < self.width {
            let left = self.nodes[2 * place];
            let on_left = if left.best == Some(best) { u64::from(left.ties) } else { 0 };
            place *= 2;
            if number >= on_left {
                number -= on_left;
                place += 1;
            }
        }
        Some(place - self.width)
    }
}

fn leaf<K>(key: Option<K>) -> Node<K> {
    let ties = u32::from(key.is_some());
    Node { best: key, ties }
}

fn winner<K: Copy + Ord>(left: Node<K>, right: Node<K>) -> Node<K> {
    match (left.best, right.best) {
        (_, None) => left,
        (None, _) => right,
        (Some(l), Some(r)) => match l.cmp(&r) {
            Ordering::Less => left,
            Ordering::Greater => right,
            Ordering::Equal => Node { best: left.best, ties: left.ties + right.ties },
        },
    }
}

/// A draw in which each has the chance that its weight gives it.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    width: usize,
    /// Sums of the weights below.
    sums: Vec<u64>,
}

impl Draw {
    /// With `weights`, in order; 0 is never drawn.
    pub(crate) fn new(weights: impl ExactSizeIterator<Item = u64>) -> Self {
        let width = weights.len().next_power_of_two();
        let mut sums = vec![0; 2 * width];
        for (sum, weight) in sums[width..].iter_mut().zip(weights) {
            *sum = weight;
        }
        for place in (1..width).rev() {
            sums[place] = sums[2 * place] + sums[2 * place + 1];
        }
        Self { width, sums }
    }

    /// Changes one weight.
    pub(crate) fn set(&mut self, index: usize, weight: u64) {
        let mut place = self.width + index;
        self.sums[place] = weight;
        while place > 1 {
            place /= 2;
            self.sums[place] = self.sums[2 * place] + self.sums[2 * place + 1];
        }
    }

    /// One that is not in `except`.
    pub(crate) fn pick(&mut self, except: &[usize], random: &mut Random) -> Option<usize> {
        let Some((first, rest)) = except.split_first() else { return self.descend(random) };
        let weight = self.sums[self.width + first];
        self.set(*first, 0);
        let picked = self.pick(rest, random);
        self.set(*first, weight);
        picked
    }

    fn descend(&self, random: &mut Random) -> Option<usize> {
        if self.sums[1] == 0 {
            return None;
        }
        let mut number = random.below(self.sums[1]);
        let mut place = 1;
        while place < self.width {
            place *= 2;
            if number >= self.sums[place] {
                number -= self.sums[place];
                place += 1;
            }
        }
        Some(place - self.width)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_wins_an_empty_tournament() {
        let mut random = Random::new(1);
        assert_eq!(Tournament::<u8>::new(Vec::new().into_iter()).pick(&[], &mut random), None);
        assert_eq!(Tournament::new(vec![Some(1), None].into_iter()).pick(&[0], &mut random), None);
        assert_eq!(Draw::new(Vec::new().into_iter()).pick(&[], &mut random), None);
        assert_eq!(Draw::new(vec![3, 0].into_iter()).pick(&[0], &mut random), None);
    }

    #[test]
    fn equals_win_equally_often_and_weights_decide_a_draw() {
        let mut random = Random::new(7);
        let mut ties = Tournament::new(vec![Some(2), Some(1), Some(1), None, Some(1)].into_iter());
        let mut draw = Draw::new(vec![1, 0, 3].into_iter());
        let (mut wins, mut drawn) = ([0; 5], [0; 3]);
        for _ in 0..30_000 {
            wins[ties.pick(&[], &mut random).unwrap()] += 1;
            drawn[draw.pick(&[], &mut random).unwrap()] += 1;
        }
        assert!(wins[0] == 0 && wins[3] == 0, "{wins:?}");
        assert!([wins[1], wins[2], wins[4]].iter().all(|n| (9_500..10_500).contains(n)), "{wins:?}");
        assert!((7_000..8_000).contains(&drawn[0]) && drawn[1] == 0, "{drawn:?}");
    }

    proptest! {
        #[test]
        fn the_winner_is_the_smallest_and_exceptions_leave_no_trace(
            keys in prop::collection::vec(prop::option::of(0u8..6), 1..40),
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(0u8..6)), 0..40),
            except in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            seed in any::<u64>(),
        ) {
            let (mut keys, mut random) = (keys, Random::new(seed));
            let mut tree = Tournament::new(keys.clone().into_iter());
            for (index, key) in changes {
                let index = index.index(keys.len());
                keys[index] = key;
                tree.set(index, key);
            }
            let mut except: Vec<usize> = except.iter().map(|index| index.index(keys.len())).collect();
            except.sort_unstable();
            except.dedup();
            let rest = |keys: &[Option<u8>], except: &[usize]| {
                keys.iter().enumerate().filter(|(i, _)| !except.contains(i)).filter_map(|(_, k)| *k).min()
            };
            let picked = tree.pick(&except, &mut random);
            prop_assert_eq!(picked.and_then(|i| keys[i]), rest(&keys, &except));
            prop_assert!(picked.is_none_or(|i| !except.contains(&i)));
            let again = tree.pick(&[], &mut random);
            prop_assert_eq!(again.and_then(|i| keys[i]), rest(&keys, &[]));
        }

        #[test]
        fn a_draw_never_gives_what_has_no_weight(
            weights in prop::collection::vec(0u64..4, 1..40),
            except in any::<prop::sample::Index>(),
            seed in any::<u64>(),
        ) {
            let mut random = Random::new(seed);
            let mut draw = Draw::new(weights.clone().into_iter());
            let except = except.index(weights.len());
            let left: u64 = weights.iter().enumerate().filter(|(i, _)| *i != except).map(|(_, w)| w).sum();
            match draw.pick(&[except], &mut random) {
                None => prop_assert_eq!(left, 0),
                Some(index) => prop_assert!(index != except && weights[index] > 0),
            }
        }
    }
}
