//! Placement that prefers the own zone: an endpoint there is taken until its load would exceed `imbalance_max` times that of
//! the least loaded endpoint anywhere.
//!
//! That is the same as the least loaded one when an endpoint of the own zone counts as `imbalance_max` times as heavy: its
//! pull. So a pick stays a look at the top of a tree, and shares (`share`) can follow what placement does.

use model::{Time, Zone};

use crate::slot::Slot;
use crate::{Placement, Planner, Policy};

/// The pull of an endpoint of weight 1 that is not preferred.
pub(crate) const PULL: u64 = 1000;

/// The own zone, and how much more its endpoints pull.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Near {
    zone: Zone,
    pull: u64,
}

impl Near {
    /// `None`: no endpoint is preferred. Only policies that compare loads can prefer up to a bound of them.
    pub(crate) fn new(policy: Policy, placement: &Placement, own: Option<&Zone>) -> Option<Self> {
        match policy {
            Policy::LeastConnections | Policy::P2c => {}
            Policy::Random | Policy::RoundRobin | Policy::ConsistentHash => return None,
        }
        let zone_aware = placement.zone_aware.as_ref()?;
        // At most ten times: exact enough.
        let pull = (zone_aware.imbalance_max.clamp(1.0, 10.0) * PULL as f64) as u64;
        Some(Self { zone: own?.clone(), pull })
    }
}

impl Slot {
    /// Takes what the preference makes of it.
    pub(crate) fn prefer(&mut self, near: Option<&Near>) {
        let of_own_zone = near.filter(|near| self.zone.as_ref() == Some(&near.zone));
        self.is_near = of_own_zone.is_some();
        self.pull = u64::from(self.weight.value()) * of_own_zone.map_or(PULL, |near| near.pull);
    }
}

impl Planner {
    /// The zone of this replica, as far as it is known: see `Placement::zone_aware`. Sessions stay where they are.
    pub fn handle_zone(&mut self, now: Time, own: Option<Zone>) {
        if self.slots.own_zone != own {
            self.slots.own_zone = own;
            self.rebuild(now);
        }
    }
}
