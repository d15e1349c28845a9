//! What would be level: how many sessions each endpoint gives, and how many each gets.
//!
//! Everything is put in terms of one level, in sessions by weight: whoever is above gives down to it, whoever is below
//! takes up to it. The lowest level at which all that is given, and all that is on its way anyway, finds room below it
//! is the plan. So every move goes from an endpoint that is above the level before it to one that is not above it after:
//! moves that only swap the roles of two endpoints, as rounding invites with small counts and unequal weights, are never
//! planned.

/// Less than any difference between two levels that whole sessions can make.
const EPSILON: f64 = 1e-6;
/// Halvings of a search at most.
const HALVINGS_MAX: u32 = 60;

/// One endpoint that takes part.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Side {
    /// In the caller's list.
    pub(crate) index: usize,
    pub(crate) held: u64,
    pub(crate) weight: f64,
    /// Most that it may give.
    pub(crate) most: u64,
    /// Most that it may take.
    pub(crate) room: u64,
}

impl Side {
    /// What it gives to come down to `level`.
    fn give(&self, level: f64) -> u64 {
        let exact = level * self.weight - EPSILON;
        // Rounded up; `f64::ceil` is a call on processors without a rounding instruction.
        let whole = exact as u64;
        let down_to = whole + u64::from((whole as f64) < exact);
        self.held.saturating_sub(down_to).min(self.most)
    }

    /// What it takes without going beyond `level`.
    fn take(&self, level: f64) -> u64 {
        ((level * self.weight + EPSILON) as u64).saturating_sub(self.held).min(self.room)
    }

    fn load(&self) -> f64 {
        self.held as f64 / self.weight
    }
}

/// The lowest level at which everybody's `give`, and `inbound` beside it, finds room.
fn level(sides: &[Side], inbound: u64) -> f64 {
    let top = sides.iter().map(Side::load).fold(0.0, f64::max);
    let fits = |level: f64| {
        let (mut given, mut room) = (inbound, 0);
        for side in sides {
            given += side.give(level);
            room += side.take(level);
        }
        given <= room
    };
    if fits(top) {
        return lowest(sides, top, fits);
    }
    // What is on its way fills everybody beyond the fullest, or there is no room: nobody has anything to give.
    top
}

/// How much each gives so that all are level, as far as they may: places in `sides` and counts, none of them 0.
pub(crate) fn gives(sides: &[Side], inbound: u64) -> Vec<(usize, u64)> {
    let level = level(sides, inbound);
    let sum = |of: fn(&Side, f64) -> u64| sides.iter().map(|side| of(side, level)).sum::<u64>();
    // Donors that would give one more just below the level, but not all of them: they share the room that is left.
    let mut left = sum(Side::take).saturating_sub(sum(Side::give) + inbound);
    let give = |(place, side): (usize, &Side)| {
        let count = side.give(level);
        let more = u64::from(left > 0 && side.give(level - 2.0 * EPSILON) > count);
        left -= more;
        (place, count + more)
    };
    sides.iter().enumerate().map(give).filter(|(_, count)| *count > 0).collect()
}

/// The part of `gives` that `moves` allow: the fullest give first.
pub(crate) fn cap(sides: &[Side], gives: Vec<(usize, u64)>, moves: u64) -> Vec<(usize, u64)> {
    let top = sides.iter().map(Side::load).fold(0.0, f64::max);
    let part = |level: f64, (place, count): &(usize, u64)| sides[*place].give(level).min(*count);
    if gives.iter().map(|(_, count)| count).sum::<u64>() <= moves {
        return gives;
    }
    let level = lowest(sides, top, |level| gives.iter().map(|give| part(level, give)).sum::<u64>() <= moves);
    let mut left = moves - gives.iter().map(|give| part(level, give)).sum::<u64>();
    let capped = gives.iter().map(|give| {
        // Those at the level itself share what is left.
        let count = part(level, give);
        let more = u64::from(left > 0 && count < give.1);
        left -= more;
        (give.0, count + more)
    });
    capped.filter(|(_, count)| *count > 0).collect()
}

/// Where `count` sessions go when each goes to the emptiest: places in `sides` and counts, none of them 0. They may add
/// up to more than `count`.
pub(crate) fn takes(sides: &[Side], count: u64) -> Vec<(usize, u64)> {
    let top = sides.iter().map(Side::load).fold(0.0, f64::max) + count as f64 + 1.0;
    let level = lowest(sides, top, |level| sides.iter().map(|side| side.take(level)).sum::<u64>() >= count);
    let take = |(place, side): (usize, &Side)| (place, side.take(level));
    sides.iter().enumerate().map(take).filter(|(_, count)| *count > 0).collect()
}

/// The lowest level from 0 to `top` at which `holds`, which holds at `top` and above each level where it does: so close
/// that no side sees the difference.
fn lowest(sides: &[Side], top: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let heaviest = sides.iter().map(|side| side.weight).fold(1.0, f64::max);
    let (mut low, mut high) = (0.0, top);
    for _ in 0..HALVINGS_MAX {
        if (high - low) * heaviest < EPSILON / 2.0 {
            break;
        }
        let middle = f64::midpoint(low, high);
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sides(rows: &[(u64, u16)]) -> Vec<Side> {
        let side = |(index, (held, weight)): (usize, &(u64, u16))| Side {
            index,
            held: *held,
            weight: f64::from(*weight),
            most: *held,
            room: u64::MAX,
        };
        rows.iter().enumerate().map(side).collect()
    }

    #[test]
    fn few_sessions_are_spread_as_far_as_whole_ones_can_be() {
        assert_eq!(gives(&sides(&[(2, 1), (0, 1), (0, 1), (0, 1), (0, 1)]), 0), [(0, 1)]);
        assert_eq!(gives(&sides(&[(5, 1), (0, 1)]), 0), [(0, 2)]);
        assert_eq!(gives(&sides(&[(3, 1), (2, 1)]), 0), []);
        assert_eq!(gives(&sides(&[(100, 1), (100, 1), (0, 1)]), 0), [(0, 33), (1, 33)]);
    }

    #[test]
    fn donors_that_tie_share_the_room_that_is_not_enough_for_both() {
        assert_eq!(gives(&sides(&[(8, 4), (8, 5), (8, 4), (0, 1)]), 0), [(0, 1)]);
        assert_eq!(gives(&sides(&[(7, 4), (8, 5), (8, 4), (1, 1)]), 0), [], "and then it rests");
    }

    #[test]
    fn what_is_on_its_way_is_not_given_again() {
        assert_eq!(gives(&sides(&[(10, 1), (0, 1)]), 10), [], "those ten fill the other");
        assert_eq!(gives(&sides(&[(10, 1), (0, 1)]), 4), [(0, 3)]);
        assert_eq!(gives(&sides(&[(10, 1), (0, 1)]), 500), []);
        assert_eq!(gives(&[], 7), []);
    }

    #[test]
    fn nothing_is_given_for_an_endpoint_that_has_no_room() {
        let mut sides = sides(&[(100, 1), (80, 1), (0, 1)]);
        sides[2].room = 0;
        assert_eq!(gives(&sides, 0), [(0, 10)]);
        sides[1].room = 0;
        assert_eq!(gives(&sides, 0), []);
    }

    #[test]
    fn the_fullest_give_first() {
        let sides = sides(&[(100, 1), (80, 1), (70, 1), (0, 1), (0, 1)]);
        let gives = gives(&sides, 0);
        assert_eq!(gives, [(0, 50), (1, 30), (2, 20)]);
        assert_eq!(cap(&sides, gives.clone(), 200), gives);
        assert_eq!(cap(&sides, gives.clone(), 20), [(0, 20)]);
        assert_eq!(cap(&sides, gives.clone(), 41), [(0, 31), (1, 10)]);
        assert_eq!(cap(&sides, gives, 0), []);
    }

    proptest! {
        #[test]
        fn no_move_only_swaps_two_roles(rows in prop::collection::vec((0u64..60, 1u16..8), 1..8), inbound in 0u64..30) {
            let sides = sides(&rows);
            let given = gives(&sides, inbound);
            let mut after: Vec<u64> = sides.iter().map(|side| side.held).collect();
            for (place, count) in &given {
                after[*place] -= count;
            }
            // Everything that is on its way goes where the load would be least.
            let arrivals = inbound + given.iter().map(|(_, count)| count).sum::<u64>();
            for _ in 0..arrivals {
                let load = |place: &usize| (after[*place] + 1) as f64 / sides[*place].weight;
                let least = (0..after.len()).min_by(|a, b| load(a).total_cmp(&load(b))).unwrap();
                after[least] += 1;
            }
            let gained = after.iter().zip(&sides).filter(|(n, side)| **n > side.held);
            let fullest = gained.map(|(n, side)| *n as f64 / side.weight).fold(0.0, f64::max);
            for (place, _) in &given {
                let before = sides[*place].load();
                prop_assert!(fullest < before, "{rows:?} became {after:?}, and {place} gave for nothing");
            }
        }

        #[test]
        fn a_greedy_placement_gives_nothing(weights in prop::collection::vec(1u16..8, 1..8), sessions in 0u64..200) {
            let mut held = vec![0u64; weights.len()];
            for _ in 0..sessions {
                let load = |place: &usize| (held[*place] + 1) as f64 / f64::from(weights[*place]);
                let least = (0..held.len()).min_by(|a, b| load(a).total_cmp(&load(b))).unwrap();
                held[least] += 1;
            }
            let rows: Vec<_> = held.into_iter().zip(weights).collect();
            prop_assert_eq!(gives(&sides(&rows), 0), []);
        }
    }
}
