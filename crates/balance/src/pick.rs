//! Placement: which endpoint a new session gets.
//!
//! Linear in the endpoints and free of allocation; ratios are compared by multiplying crosswise, so equal loads
//! are equal exactly and ties are broken at random instead of by rounding.

use std::cmp::Ordering;
use std::net::SocketAddr;

use model::EndpointId;

use crate::random::Random;
use crate::slot::Slot;
use crate::{Planner, Policy};

/// Where to dial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pick {
    /// Reported back in `handle_opened` or `handle_pick_failed`.
    pub endpoint: EndpointId,
    /// Its address at this moment.
    pub address: SocketAddr,
}

impl Planner {
    /// The index that the policy chooses among ready endpoints that are not in `tried`.
    pub(crate) fn choose(&mut self, tried: &[EndpointId]) -> Option<usize> {
        match self.settings.policy {
            Policy::LeastConnections | Policy::P2c | Policy::ConsistentHash => least(&self.slots, tried, &mut self.random),
            Policy::Random => by_weight(&self.slots, tried, &mut self.random),
            Policy::RoundRobin => in_turn(&mut self.slots, tried),
        }
    }
}

fn may_take(slot: &Slot, tried: &[EndpointId]) -> bool {
    slot.is_ready() && !tried.contains(&slot.id)
}

/// Smallest (sessions + pending + 1) / weight.
fn least(slots: &[Slot], tried: &[EndpointId], random: &mut Random) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut ties = 0u64;
    for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| may_take(slot, tried)) {
        match best.map_or(Ordering::Less, |b| compare_load(slot, &slots[b])) {
            Ordering::Less => (best, ties) = (Some(index), 1),
            Ordering::Equal => {
                // The k-th of k equals replaces the choice with probability 1/k: all are equally likely.
                ties += 1;
                if random.below(ties) == 0 {
                    best = Some(index);
                }
            }
            Ordering::Greater => {}
        }
    }
    best
}

fn compare_load(a: &Slot, b: &Slot) -> Ordering {
    let load = |slot: &Slot| u64::from(slot.sessions) + u64::from(slot.pending) + 1;
    let weight = |slot: &Slot| u64::from(slot.weight.value());
    // At most 2^33 x 1000: no overflow.
    (load(a) * weight(b)).cmp(&(load(b) * weight(a)))
}

fn by_weight(slots: &[Slot], tried: &[EndpointId], random: &mut Random) -> Option<usize> {
    let able = || slots.iter().enumerate().filter(|(_, slot)| may_take(slot, tried));
    let total: u64 = able().map(|(_, slot)| u64::from(slot.weight.value())).sum();
    if total == 0 {
        return None;
    }
    let mut left = random.below(total);
    for (index, slot) in able() {
        let weight = u64::from(slot.weight.value());
        if left < weight {
            return Some(index);
        }
        left -= weight;
    }
    None
}

/// Smooth weighted round robin, as in nginx: all earn their weight, the richest is chosen and pays the sum.
/// Weights 5, 1, 1 give `a a b a c a a` and not `a a a a a b c`.
fn in_turn(slots: &mut [Slot], tried: &[EndpointId]) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut total = 0i64;
    for index in 0..slots.len() {
        if !may_take(&slots[index], tried) {
            continue;
        }
        let weight = i64::from(slots[index].weight.value());
        total += weight;
        slots[index].turn += weight;
        if best.is_none_or(|b| slots[index].turn > slots[b].turn) {
            best = Some(index);
        }
    }
    slots[best?].turn -= total;
    best
}
