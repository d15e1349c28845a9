//! The share of an endpoint: which part of all sessions is meant to be there.
//!
//! Without zones that is its weight's part. Where endpoints of the own zone are preferred there are two: the part by weight
//! alone, and the part that placement strives for, in which the own zone pulls more. Whatever is between the two is as it
//! should be: sessions that were there before the zone was known stay, and placement is not undone by a plan.

use crate::slot::Slot;
use crate::zone::PULL;

/// What is shared, among how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shares {
    /// Sessions that are to be on ready endpoints.
    pub(crate) total: u64,
    /// Weights of the ready endpoints. 0 when there is none: then every share is 0.
    pub(crate) weight: u64,
    /// Their pulls: see [`Slot::pull`].
    pub(crate) pull: u64,
}

impl Shares {
    /// What placement strives for.
    pub(crate) fn of(self, slot: &Slot) -> Share {
        Share { total: self.total, part: slot.pull, whole: self.pull }
    }

    /// The larger of the two: nobody has more than its share who has not more than this.
    pub(crate) fn high(self, slot: &Slot) -> Share {
        self.either(slot, |by_pull, by_weight| by_pull >= by_weight)
    }

    /// The smaller of the two: nobody lacks anything who has this.
    pub(crate) fn low(self, slot: &Slot) -> Share {
        self.either(slot, |by_pull, by_weight| by_pull < by_weight)
    }

    /// False: the two are one for everybody.
    pub(crate) fn has_preference(self) -> bool {
        self.pull != self.weight * PULL
    }

    /// The share by pull when `takes` says so of the two fractions, brought to the same denominator.
    fn either(self, slot: &Slot, takes: impl Fn(u128, u128) -> bool) -> Share {
        if !self.has_preference() {
            return self.of(slot);
        }
        let weight = u64::from(slot.weight.value());
        let by_pull = u128::from(slot.pull) * u128::from(self.weight);
        let by_weight = u128::from(weight) * u128::from(self.pull);
        if takes(by_pull, by_weight) {
            return self.of(slot);
        }
        Share { total: self.total, part: weight, whole: self.weight }
    }
}

/// A part of `total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    total: u64,
    part: u64,
    whole: u64,
}

impl Share {
    /// In sessions.
    pub(crate) fn target(self) -> f64 {
        if self.whole == 0 {
            return 0.0;
        }
        self.total as f64 * self.part as f64 / self.whole as f64
    }

    /// In whole sessions, rounded down.
    pub(crate) fn floor(self) -> u64 {
        (self.total * self.part).checked_div(self.whole).unwrap_or(0)
    }

    /// In whole sessions, rounded up.
    pub(crate) fn ceil(self) -> u64 {
        if self.whole == 0 {
            return 0;
        }
        (self.total * self.part).div_ceil(self.whole)
    }

    /// What an endpoint keeps once levelling has started: the stop ratio, and never less than its whole share.
    pub(crate) fn keep(self, stop_ratio: f64) -> u64 {
        self.ceil().max((self.target() * stop_ratio) as u64)
    }
}
