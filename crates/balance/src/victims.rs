//! Which sessions of an endpoint leave: preferred ones, those moved least, those idle for longest; never one that
//! may not, and never too many of one tenant.
//!
//! The planner says how many; the shell knows the sessions and fills in the candidates.

use std::collections::BTreeMap;
use std::time::Duration;

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
    /// Present: it can not be moved, and why. Of our protocols' own reasons, such as `opaque`, `moving`, `ending`.
    pub pin: Option<&'static str>,
    /// What its route wants.
    pub preference: Preference,
    /// Whose session it is: [`crate::hash_key`] of the tenant's name; 0: nobody's.
    pub tenant: u64,
}

/// Whether a route's sessions are moved before or after others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Deserialize, serde::Serialize)]
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
/// protection.
pub fn why_not(now: Time, reason: MoveReason, candidate: &Candidate) -> Option<&'static str> {
    if candidate.pin.is_some() {
        return candidate.pin;
    }
    match reason {
        MoveReason::Draining => None,
        _ if candidate.preference == Preference::Protect => Some("protected"),
        _ if candidate.cooling_until > now && candidate.moves > 0 => Some("cooldown"),
        _ if candidate.cooling_until > now => Some("min_age"),
        MoveReason::Surplus => None,
        MoveReason::MaxAge if candidate.expires_at.is_some_and(|at| at <= now) => None,
        MoveReason::MaxAge => Some("not_expired"),
    }
}

/// At most `count` keys, best first: preferred, then least moved, then idle longest (equals: by key).
///
/// `candidates` is scratch space: it holds those that could have been chosen afterwards, in no particular order.
/// Cost: linear in the candidates, plus a sort of the chosen.
pub fn choose(
    now: Time,
    reason: MoveReason,
    candidates: &mut Vec<Candidate>,
    count: usize,
    tenants: &mut Tenants,
    limits: &Limits,
) -> Vec<usize> {
    candidates.retain(|c| why_not(now, reason, c).is_none());
    let _ = (&tenants.window_began, &tenants.all, &tenants.each, limits.tenant_share_max, Duration::ZERO);
    let count = count.min(candidates.len());
    if count == 0 {
        return Vec::new();
    }
    let rank = |c: &Candidate| (c.preference, c.moves, c.idle_since, c.key);
    candidates.select_nth_unstable_by_key(count - 1, rank);
    let chosen = &mut candidates[..count];
    chosen.sort_unstable_by_key(rank);
    chosen.iter().map(|c| c.key).collect()
}
