//! Which sessions of an endpoint leave: preferred ones, those moved least, those idle for longest; never one that
//! may not, and never too many of one tenant.
//!
//! The planner says how many; the shell knows the sessions and fills in the candidates.

use std::collections::BTreeMap;

use model::Time;

use crate::{Limits, MoveReason};

/// A session that might be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The caller's own handle.
    pub key: usize,
    /// When it opened.
    pub opened: Time,
    /// Not moved for balance before this moment: see [`crate::Opened`].
    pub cooling_until: Time,
    /// [`crate::Opened::expires_at`].
    pub expires_at: Option<Time>,
    /// Time of the last byte in either direction.
    pub idle_since: Time,
    /// [`crate::Opened::moves`].
    pub moves: u32,
    /// Left alone before this moment, because its last migration was given up: see [`crate::rest`].
    pub resting_until: Time,
    /// Present: it can not be moved, and why. Of our protocols' own reasons, such as `opaque`, `moving`, `ending`.
    pub pin: Option<&'static str>,
    /// What its route wants.
    pub preference: Preference,
    /// Whose session it is: [`crate::hash_key`] of the tenant's name; 0: nobody's.
    pub tenant: u64,
}

/// Whether a route's sessions are moved before or after others.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// Before all others.
    Prefer,
    /// As they come.
    #[default]
    Normal,
    /// Never for balance or age; only when their endpoint goes away.
    Protect,
}

/// How many of each tenant's sessions were moved lately: one for each pool, kept by the shell.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    window_began: Time,
    all: u64,
    each: BTreeMap<u64, u64>,
}

/// Why a session is not moved for `reason` at `now`; `None`: it may be.
///
/// A draining endpoint loses its sessions either way, so [`MoveReason::Draining`] overrides age, cooldown and
/// protection. [`MoveReason::Rehearsal`], in which no client loses anything, overrides a rest as well.
pub fn why_not(now: Time, reason: MoveReason, candidate: &Candidate) -> Option<&'static str> {
    if candidate.pin.is_some() {
        return candidate.pin;
    }
    if candidate.resting_until > now && reason != MoveReason::Rehearsal {
        return Some("resting");
    }
    match reason {
        MoveReason::Draining | MoveReason::Rehearsal => None,
        _ if candidate.preference == Preference::Protect => Some("protected"),
        _ if candidate.cooling_until > now && candidate.moves > 0 => Some("cooldown"),
        _ if candidate.cooling_until > now => Some("min_age"),
        MoveReason::Surplus | MoveReason::Tier => None,
        MoveReason::MaxAge if candidate.expires_at.is_some_and(|at| at <= now) => None,
        MoveReason::MaxAge => Some("not_expired"),
    }
}

/// At most `count` keys, best first: preferred, then least moved, then idle longest (equals: by key). For
/// [`MoveReason::Tier`] the oldest instead of the idle: another replica may have closed the younger ones a moment ago.
///
/// Within `tenant_window` no tenant's sessions are more than `tenant_share_max` of the chosen, but for one; a
/// draining endpoint keeps nobody back. Fewer than `count` are chosen when that leaves no others.
///
/// `candidates` is scratch space: it holds those that could have been chosen afterwards, in no particular order.
/// Cost: linear in the candidates, plus a sort of the chosen; with a cap, a sort of all.
pub fn choose(
    now: Time,
    reason: MoveReason,
    candidates: &mut Vec<Candidate>,
    count: usize,
    tenants: &mut Tenants,
    limits: &Limits,
) -> Vec<usize> {
    candidates.retain(|c| why_not(now, reason, c).is_none());
    let count = count.min(candidates.len());
    if count == 0 {
        return Vec::new();
    }
    let since = |c: &Candidate| if reason == MoveReason::Tier { c.opened } else { c.idle_since };
    let rank = |c: &Candidate| (c.preference, c.moves, since(c), c.key);
    let is_capped = limits.tenant_share_max < 1.0 && reason != MoveReason::Draining;
    if is_capped {
        candidates.sort_unstable_by_key(rank);
        tenants.turn(now, limits);
        return tenants.choose(candidates, count, limits.tenant_share_max);
    }
    candidates.select_nth_unstable_by_key(count - 1, rank);
    let chosen = &mut candidates[..count];
    chosen.sort_unstable_by_key(rank);
    chosen.iter().map(|c| c.key).collect()
}

impl Tenants {
    /// Begins a new window when the old one is over.
    fn turn(&mut self, now: Time, limits: &Limits) {
        if now.since(self.window_began) >= limits.tenant_window {
            *self = Self { window_began: now, ..Self::default() };
        }
    }

    /// Takes from the sorted `candidates` what the cap allows.
    fn choose(&mut self, candidates: &[Candidate], count: usize, share_max: f64) -> Vec<usize> {
        let all = self.all + count as u64;
        // The share of what the window will have seen with this call, and room for one more.
        let most = (share_max * all as f64) as u64;
        let mut chosen = Vec::with_capacity(count);
        for candidate in candidates {
            if chosen.len() == count {
                break;
            }
            if candidate.tenant != 0 {
                let moved = self.each.entry(candidate.tenant).or_default();
                if *moved >= most.max(1) {
                    continue;
                }
                *moved += 1;
            }
            chosen.push(candidate.key);
        }
        self.all += chosen.len() as u64;
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(key: usize, cooling_ms: u64, idle_ms: u64, pin: Option<&'static str>) -> Candidate {
        Candidate {
            key,
            opened: Time::ZERO,
            cooling_until: Time::from_millis(cooling_ms),
            expires_at: None,
            idle_since: Time::from_millis(idle_ms),
            moves: 0,
            resting_until: Time::ZERO,
            pin,
            preference: Preference::Normal,
            tenant: 0,
        }
    }

    fn choose_all(now_ms: u64, reason: MoveReason, all: &[Candidate], count: usize) -> Vec<usize> {
        let (mut tenants, limits) = (Tenants::default(), Limits::default());
        choose(Time::from_millis(now_ms), reason, &mut all.to_vec(), count, &mut tenants, &limits)
    }

    #[test]
    fn the_longest_idle_are_chosen_first() {
        let all = [candidate(0, 0, 50, None), candidate(1, 0, 10, None), candidate(2, 0, 30, None)];
        assert_eq!(choose_all(100, MoveReason::Surplus, &all, 2), [1, 2]);
    }

    #[test]
    fn preferred_ones_go_before_others_and_those_moved_least_before_those_moved_more() {
        let moved = Candidate { moves: 1, ..candidate(0, 0, 1, None) };
        let fresh = candidate(1, 0, 90, None);
        let preferred = Candidate { preference: Preference::Prefer, moves: 3, ..candidate(2, 0, 95, None) };
        assert_eq!(choose_all(100, MoveReason::Surplus, &[moved, fresh, preferred], 3), [2, 1, 0]);
    }

    #[test]
    fn each_reason_that_keeps_a_session_has_a_name() {
        let now = Time::from_millis(100);
        let young = candidate(0, 200, 1, None);
        let cooling = Candidate { moves: 1, ..young };
        let protected = Candidate { preference: Preference::Protect, ..candidate(0, 0, 1, None) };
        let opaque = candidate(0, 0, 1, Some("opaque"));
        let old = Candidate { expires_at: Some(Time::from_millis(99)), ..candidate(0, 0, 1, None) };
        let table = [
            (young, [Some("min_age"), None, Some("min_age")]),
            (cooling, [Some("cooldown"), None, Some("cooldown")]),
            (protected, [Some("protected"), None, Some("protected")]),
            (opaque, [Some("opaque"), Some("opaque"), Some("opaque")]),
            (old, [None, None, None]),
            (candidate(0, 100, 1, None), [None, None, Some("not_expired")]),
            (
                Candidate { resting_until: Time::from_millis(101), ..candidate(0, 0, 1, None) },
                [Some("resting"), Some("resting"), Some("resting")],
            ),
        ];
        for (candidate, expected) in table {
            let reasons = [MoveReason::Surplus, MoveReason::Draining, MoveReason::MaxAge];
            assert_eq!(reasons.map(|reason| why_not(now, reason, &candidate)), expected, "{candidate:?}");
        }
    }

    #[test]
    fn no_tenant_gives_more_than_its_part_of_a_window() {
        let limits = Limits { tenant_share_max: 0.25, ..Limits::default() };
        let mut tenants = Tenants::default();
        // Tenant 1 has the longest idle sessions, and many.
        let all: Vec<_> = (0..100)
            .map(|key| Candidate {
                tenant: if key < 60 { 1 } else { key as u64 },
                ..candidate(key, 0, key as u64, None)
            })
            .collect();
        let mut from_first = 0;
        for call in 0..4 {
            let now = Time::from_millis(1_000 + call);
            let chosen = choose(now, MoveReason::Surplus, &mut all.clone(), 10, &mut tenants, &limits);
            assert_eq!(chosen.len(), 10);
            from_first += chosen.iter().filter(|key| **key < 60).count();
        }
        assert_eq!(from_first, 10, "a quarter of 40");
        let drained = choose(
            Time::from_millis(2_000),
            MoveReason::Draining,
            &mut all.clone(),
            60,
            &mut tenants,
            &limits,
        );
        assert_eq!(drained, (0..60).collect::<Vec<_>>(), "who loses the endpoint is not kept back");
        let next = Time::from_millis(1_000) + limits.tenant_window;
        let chosen = choose(next, MoveReason::Surplus, &mut all.clone(), 8, &mut tenants, &limits);
        assert_eq!(chosen.iter().filter(|key| **key < 60).count(), 2, "a new window");
    }

    #[test]
    fn nothing_asked_or_nothing_there_gives_nothing() {
        assert!(choose_all(0, MoveReason::Surplus, &[], 5).is_empty());
        assert!(choose_all(0, MoveReason::Draining, &[candidate(0, 0, 0, None)], 0).is_empty());
    }

    proptest! {
        #[test]
        fn the_choice_equals_a_full_sort(
            rows in prop::collection::vec((0u64..20, 0u64..20, any::<bool>(), 0u32..3), 0..40),
            count in 0usize..50,
            draining in any::<bool>(),
        ) {
            let reason = if draining { MoveReason::Draining } else { MoveReason::Surplus };
            let all: Vec<_> = rows
                .iter()
                .enumerate()
                .map(|(key, (cool, idle, ok, moves))| {
                    let pin = (!ok).then_some("opaque");
                    Candidate { moves: *moves, ..candidate(key, *cool, *idle, pin) }
                })
                .collect();
            let now = Time::from_millis(10);
            let mut plain: Vec<_> =
                all.iter().filter(|c| c.pin.is_none() && (draining || c.cooling_until <= now)).collect();
            plain.sort_by_key(|c| (c.moves, c.idle_since, c.key));
            let expected: Vec<_> = plain.iter().take(count).map(|c| c.key).collect();
            prop_assert_eq!(choose_all(10, reason, &all, count), expected);
        }
    }
}
