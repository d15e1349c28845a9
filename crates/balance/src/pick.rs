//! Placement: which endpoint a new session gets.
//!
//! Ratios are compared by multiplying crosswise, so equal loads are equal exactly and ties are broken at random
//! instead of by rounding. No policy looks at every endpoint, and none allocates.

use std::cmp::Ordering;
use std::net::SocketAddr;

use model::{EndpointId, Time};

use crate::hash::Ring;
use crate::random::Random;
use crate::slot::Slot;
use crate::slots::Slots;
use crate::tournament::{Draw, Tournament};
use crate::{Placement, Policy};

/// Owners on the ring that are asked before the least loaded endpoint is taken.
const OWNERS_ASKED_MAX: usize = 200;
/// The golden ratio's fraction of 2^32: multiples of it, modulo 2^32, are spread evenly however many there are.
const GOLDEN: u64 = 0x9E37_79B9;

/// What a turn of round robin costs at weight 1.
const STRIDE: u64 = 1 << 24;

/// What a turn of round robin costs.
fn stride(slot: &Slot) -> u64 {
    STRIDE / u64::from(slot.weight.value())
}

/// Where to dial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pick {
    /// Reported back in `handle_opened`, `handle_pick_failed` or `handle_released`.
    pub endpoint: EndpointId,
    /// Its address at this moment.
    pub address: SocketAddr,
}

/// (sessions + pending + 1) / pull. Of equal ones that of the own zone is less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    sessions: u64,
    pull: u64,
    is_far: bool,
}

impl Load {
    pub(crate) fn of(slot: &Slot) -> Self {
        Self {
            sessions: u64::from(slot.sessions) + u64::from(slot.pending) + 1,
            pull: slot.pull,
            is_far: !slot.is_near,
        }
    }
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        // At most 2^33 x 10,000,000: no overflow.
        let by_load = (self.sessions * other.pull).cmp(&(other.sessions * self.pull));
        by_load.then(self.is_far.cmp(&other.is_far))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Load {}

/// What a policy needs to pick fast, kept in step by `Slots`.
#[derive(Clone, Debug)]
pub(crate) enum Index {
    Least(Tournament<Load>),
    Pairs(Draw),
    Weights(Draw),
    /// Weighted stride scheduling: who has the smallest pass is next, and pays for it. It begins anew when the set of
    /// endpoints changes.
    Turns {
        turns: Tournament<u64>,
        passes: Vec<u64>,
        /// The pass of the last turn: whoever joins begins behind it.
        present: u64,
    },
    Hash {
        ring: Ring,
        least: Tournament<Load>,
        load_max: f64,
    },
}

impl Index {
    /// Nobody takes part before [`Self::refresh`].
    pub(crate) fn new(policy: Policy, placement: &Placement, slots: &[Slot]) -> Self {
        let loads = || Tournament::new(slots.iter().map(|_| None));
        let nothing = || Draw::new(slots.iter().map(|_| 0));
        match policy {
            Policy::LeastConnections => Self::Least(loads()),
            Policy::P2c => Self::Pairs(nothing()),
            Policy::Random => Self::Weights(nothing()),
            Policy::RoundRobin => {
                let turns = Tournament::new(slots.iter().map(|_| None));
                Self::Turns { turns, passes: vec![0; slots.len()], present: 1 }
            }
            Policy::ConsistentHash => {
                Self::Hash { ring: Ring::new(slots), least: loads(), load_max: placement.hash_load_max }
            }
        }
    }

    /// Takes what has changed about an endpoint. `is_open`: it may be picked.
    pub(crate) fn refresh(&mut self, index: usize, slot: &Slot, is_open: bool) {
        match self {
            Self::Least(least) | Self::Hash { least, .. } => {
                least.set(index, is_open.then(|| Load::of(slot)));
            }
            Self::Pairs(draw) => draw.set(index, u64::from(is_open)),
            Self::Weights(draw) => draw.set(index, if is_open { u64::from(slot.weight.value()) } else { 0 }),
            Self::Turns { turns, passes, present } => {
                if is_open && passes[index] < *present {
                    // The starts are spread, so that the turns of light ones do not come in a row.
                    let phase = (index as u64).wrapping_mul(GOLDEN) & 0xFFFF_FFFF;
                    // Both are below 2^32.
                    passes[index] = *present + ((stride(slot) * phase) >> 32);
                }
                turns.set(index, is_open.then(|| passes[index]));
            }
        }
    }
}

impl Slots {
    /// The endpoint that the policy chooses among those that may be picked and are not in `except`.
    pub(crate) fn choose(
        &mut self,
        now: Time,
        hash: u64,
        except: &[usize],
        random: &mut Random,
    ) -> Option<usize> {
        if let Index::Hash { ring, load_max, .. } = &self.index
            && let Some(index) = self.owner(now, ring, *load_max, hash, except)
        {
            return Some(index);
        }
        match &mut self.index {
            Index::Least(least) | Index::Hash { least, .. } => least.pick(except, random),
            Index::Weights(draw) => draw.pick(except, random),
            Index::Turns { turns, passes, present } => {
                let index = turns.pick(except, random)?;
                *present = passes[index];
                passes[index] += stride(&self.list[index]);
                Some(index)
            }
            Index::Pairs(draw) => {
                let first = draw.pick(except, random)?;
                draw.set(first, 0);
                let second = draw.pick(except, random);
                draw.set(first, 1);
                let Some(second) = second else { return Some(first) };
                let is_less = Load::of(&self.list[second]) < Load::of(&self.list[first]);
                Some(if is_less { second } else { first })
            }
        }
    }

    /// The first owner of the key that may be picked and is below its bound.
    fn owner(&self, now: Time, ring: &Ring, load_max: f64, hash: u64, except: &[usize]) -> Option<usize> {
        let totals = self.totals();
        let fair = (totals.sessions + totals.pending + 1) as f64 * load_max / totals.weight.max(1) as f64;
        ring.owners(hash).take(OWNERS_ASKED_MAX).find(|index| {
            let slot = self.at(*index);
            let bound = (fair * f64::from(slot.weight.value())).ceil();
            let load = f64::from(slot.sessions) + f64::from(slot.pending) + 1.0;
            load <= bound && slot.withheld(now, &self.rules).is_none() && !except.contains(index)
        })
    }
}
