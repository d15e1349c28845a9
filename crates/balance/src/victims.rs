//! Which sessions of an endpoint leave: those idle for longest, never one that may not.
//!
//! The planner says how many; the shell knows the sessions and fills in the candidates.

use model::Time;

use crate::MoveReason;

/// A session that might be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The caller's own handle.
    pub key: usize,
    /// Not moved for balance before this moment: see [`crate::Opened`].
    pub cooling_until: Time,
    /// Time of the last byte in either direction.
    pub idle_since: Time,
    /// False: pinned, or already moving.
    pub movable: bool,
}

/// At most `count` keys, idle longest first (equals: by key).
///
/// A draining endpoint loses its sessions either way, so [`MoveReason::Draining`] overrides the cooldown.
/// `candidates` is scratch space: it holds those that could have been chosen afterwards, in no particular order.
/// Cost: linear in the candidates, plus a sort of the chosen.
pub fn choose(now: Time, reason: MoveReason, candidates: &mut Vec<Candidate>, count: usize) -> Vec<usize> {
    candidates.retain(|c| {
        c.movable
            && match reason {
                MoveReason::Draining => true,
                MoveReason::Surplus => c.cooling_until <= now,
            }
    });
    let count = count.min(candidates.len());
    if count == 0 {
        return Vec::new();
    }
    let rank = |c: &Candidate| (c.idle_since, c.key);
    candidates.select_nth_unstable_by_key(count - 1, rank);
    let chosen = &mut candidates[..count];
    chosen.sort_unstable_by_key(rank);
    chosen.iter().map(|c| c.key).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(key: usize, cooling_ms: u64, idle_ms: u64, movable: bool) -> Candidate {
        Candidate {
            key,
            cooling_until: Time::from_millis(cooling_ms),
            idle_since: Time::from_millis(idle_ms),
            movable,
        }
    }

    #[test]
    fn the_longest_idle_are_chosen_first() {
        let mut all = vec![candidate(0, 0, 50, true), candidate(1, 0, 10, true), candidate(2, 0, 30, true)];
        assert_eq!(choose(Time::from_millis(100), MoveReason::Surplus, &mut all, 2), [1, 2]);
    }

    #[test]
    fn a_cooling_session_leaves_only_a_draining_endpoint() {
        let all = vec![candidate(0, 200, 1, true), candidate(1, 100, 2, true)];
        let now = Time::from_millis(100);
        assert_eq!(choose(now, MoveReason::Surplus, &mut all.clone(), 9), [1]);
        assert_eq!(choose(now, MoveReason::Draining, &mut all.clone(), 9), [0, 1]);
    }

    #[test]
    fn nothing_asked_or_nothing_there_gives_nothing() {
        assert!(choose(Time::ZERO, MoveReason::Surplus, &mut vec![], 5).is_empty());
        assert!(choose(Time::ZERO, MoveReason::Draining, &mut vec![candidate(0, 0, 0, true)], 0).is_empty());
    }

    proptest! {
        #[test]
        fn the_choice_equals_a_full_sort(
            rows in prop::collection::vec((0u64..20, 0u64..20, any::<bool>()), 0..40),
            count in 0usize..50,
            draining in any::<bool>(),
        ) {
            let now = Time::from_millis(10);
            let reason = if draining { MoveReason::Draining } else { MoveReason::Surplus };
            let all: Vec<_> =
                rows.iter().enumerate().map(|(key, (cool, idle, ok))| candidate(key, *cool, *idle, *ok)).collect();
            let mut plain: Vec<_> =
                all.iter().filter(|c| c.movable && (draining || c.cooling_until <= now)).collect();
            plain.sort_by_key(|c| (c.idle_since, c.key));
            let expected: Vec<_> = plain.iter().take(count).map(|c| c.key).collect();
            prop_assert_eq!(choose(now, reason, &mut all.clone(), count), expected);
        }
    }
}
