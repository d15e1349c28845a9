//! Which endpoints give the sessions that a replica closes for the tier's sake: the fullest first, so that the pool stays
//! as level as it is.
//!
//! How many is decided in `tier`. The clients come back to any replica, so the return guard expects only its share of them.

use model::Time;

use crate::tier::Count;
use crate::{MoveReason, Planner};

impl Planner {
    /// What this pool adds to its replica's count. It is still when nothing is moved for balance or emptied, nothing is about
    /// to be, and nothing keeps sessions from being moved.
    pub fn tier_count(&self, now: Time) -> Count {
        let totals = self.slots.totals();
        let moving: u64 = self.slots.iter().map(|slot| u64::from(slot.moving) + u64::from(slot.asked)).sum();
        let is_settling = self.settle.is_some_and(|settle| settle.until > now);
        Count {
            sessions: totals.sessions.saturating_sub(moving),
            away: self.away(),
            is_still: !self.is_blocked()
                && !is_settling
                && self.run.is_none()
                && totals.to_drain == 0
                && totals.unseasoned == 0
                && !self.gate.is_crowded(now),
        }
    }

    /// Puts moves for the tier's sake into the queue: at most `count`, fewer when too many clients are away or the pool is
    /// not still. Returns how many.
    pub fn shed_for_tier(&mut self, now: Time, count: u32) -> u32 {
        self.advance(now);
        if !self.tier_count(now).is_still {
            return 0;
        }
        let count = u64::from(count).min(self.may_begin(now));
        let mut gives = vec![0u32; self.slots.len()];
        let fullest = |gives: &[u32]| {
            let slots = self.slots.iter().enumerate();
            let able = slots.filter(|(_, slot)| !slot.is_terminating() && slot.asked == 0);
            let left = able.map(|(index, slot)| (index, slot, slot.held().saturating_sub(gives[index])));
            let above = left.filter(|(.., left)| *left > 0);
            // Sessions a weight, compared without a division; of equals the first by id.
            let key = |left: u32, weight: u16| u64::from(left) * 1_000_000 / u64::from(weight);
            above
                .max_by_key(|(index, slot, left)| (key(*left, slot.weight.value()), usize::MAX - *index))
                .map(|(index, ..)| index)
        };
        let mut asked = 0;
        while u64::from(asked) < count
            && let Some(index) = fullest(&gives)
        {
            gives[index] += 1;
            asked += 1;
        }
        if asked > 0 {
            // The other replicas may have nothing to close, and most of the clients come back to them.
            self.guard.set_alone(true);
        }
        for (index, give) in gives.into_iter().enumerate().filter(|(_, give)| *give > 0) {
            self.ask(now, index, give, MoveReason::Tier);
        }
        asked
    }
}

/// `count` split over parts as they have it, without one lost to rounding: the larger rests first.
pub fn split(count: u32, parts: &[u64]) -> Vec<u32> {
    let sum: u64 = parts.iter().sum();
    if sum == 0 {
        return vec![0; parts.len()];
    }
    let exact = |part: u64| u128::from(count) * u128::from(part);
    let mut shares: Vec<u32> = parts.iter().map(|part| (exact(*part) / u128::from(sum)) as u32).collect();
    let mut rests: Vec<usize> = (0..parts.len()).collect();
    rests.sort_by_key(|place| std::cmp::Reverse(exact(parts[*place]) % u128::from(sum)));
    let missing = count - shares.iter().sum::<u32>();
    rests.iter().take(missing as usize).for_each(|place| shares[*place] += 1);
    shares
}
