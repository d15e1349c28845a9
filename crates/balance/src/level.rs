//! Surplus moves: who is above its share, and how many leave now.
//!
//! The target of a ready endpoint is its weight's share of every session that is to be somewhere: those on ready
//! endpoints, those still on draining ones, and moved clients on their way back. So a move under way changes no
//! target, and a fleet that takes seconds to return is not levelled twice. Sessions of unready endpoints stay
//! where they are and count for nobody.
//!
//! Hysteresis: levelling starts above `start_ratio` and then takes from the fullest endpoint down until none is
//! above `stop_ratio`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use model::{EndpointState, Time, Weight};

use crate::{Move, MoveReason, Planner};

/// What is shared, and by how much weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shares {
    /// Sessions that are to be on ready endpoints.
    pub(crate) total: u64,
    /// Of the ready endpoints. 0 when there is none: then every target is 0.
    pub(crate) weight: u64,
}

impl Shares {
    pub(crate) fn target(self, weight: Weight) -> f64 {
        if self.weight == 0 {
            return 0.0;
        }
        self.total as f64 * f64::from(weight.value()) / self.weight as f64
    }

    pub(crate) fn floor(self, weight: Weight) -> u64 {
        (self.total * u64::from(weight.value())).checked_div(self.weight).unwrap_or(0)
    }

    pub(crate) fn ceil(self, weight: Weight) -> u64 {
        if self.weight == 0 {
            return 0;
        }
        (self.total * u64::from(weight.value())).div_ceil(self.weight)
    }

    /// What an endpoint keeps once levelling has started: the stop ratio, and never less than its whole share.
    fn keep(self, weight: Weight, stop_ratio: f64) -> u64 {
        self.ceil(weight).max((self.target(weight) * stop_ratio) as u64)
    }
}

/// An endpoint that gives, ordered by fullness: sessions / weight, then the first by id.
#[derive(PartialEq, Eq)]
struct Donor {
    index: usize,
    held: u64,
    weight: u64,
    keep: u64,
    count: u32,
}

impl Ord for Donor {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.held * other.weight).cmp(&(other.held * self.weight)).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Donor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The endpoints above what they keep.
struct Donors {
    able: BinaryHeap<Donor>,
    /// When the first of those comes back that are left alone for now.
    held_back_until: Option<Time>,
}

impl Planner {
    pub(crate) fn shares(&self, away: usize) -> Shares {
        let mut shares = Shares { total: away as u64, weight: 0 };
        for slot in &self.slots {
            shares.total += u64::from(match slot.state {
                EndpointState::Ready | EndpointState::Terminating => slot.staying(),
                EndpointState::Unready => slot.outbound(),
            });
            if slot.is_ready() {
                shares.weight += u64::from(slot.weight.value());
            }
        }
        shares
    }

    /// Puts the surplus moves that may begin at `now` into the queue.
    pub(crate) fn plan_surplus(&mut self, now: Time) {
        if !self.settings.limits.enabled {
            self.levelling = false;
            return;
        }
        if let Some(settle) = self.settle {
            if now < settle.until {
                return;
            }
            self.settle = None;
            self.next_check = now;
        }
        if self.next_check <= now {
            self.next_check = now + self.settings.limits.interval;
            self.levelling |= self.exceeds();
            self.level_at = Some(now);
        }
        if self.levelling && self.level_at.is_some_and(|at| at <= now) {
            self.plan_batch(now);
        }
    }

    /// Moves a second that are allowed now.
    pub(crate) fn rate(&self) -> f64 {
        let sessions: u64 = self.slots.iter().map(|slot| u64::from(slot.sessions)).sum();
        self.settings.limits.moves_per_second_max.unwrap_or_else(|| (0.02 * sessions as f64).clamp(10.0, 500.0))
    }

    /// True when some endpoint is above the band in which nothing is done.
    fn exceeds(&self) -> bool {
        let shares = self.shares(self.ledger.len());
        self.slots.iter().filter(|slot| slot.is_ready()).any(|slot| {
            let held = u64::from(slot.held());
            held as f64 > shares.target(slot.weight) * self.settings.limits.start_ratio
                && held.saturating_sub(shares.floor(slot.weight)) >= u64::from(self.settings.limits.min_surplus)
                && held > shares.keep(slot.weight, self.settings.limits.stop_ratio)
        })
    }

    fn plan_batch(&mut self, now: Time) {
        let shares = self.shares(self.ledger.len());
        let mut donors = self.donors(now, shares);
        let room = self.room(shares);
        if donors.able.is_empty() || room == 0 {
            self.level_at = donors.held_back_until;
            self.levelling = donors.held_back_until.is_some();
            return;
        }
        let rate = self.rate();
        let allowed = self.bucket.available(now, rate);
        let concurrent = self.settings.limits.concurrent_moves_max.saturating_sub(self.surplus_moves());
        let budget = u64::from(allowed.min(concurrent)).min(room);
        let mut chosen = Vec::new();
        let mut taken = 0;
        while u64::from(taken) < budget
            && let Some(mut donor) = donors.able.pop()
        {
            donor.held -= 1;
            donor.count += 1;
            taken += 1;
            if donor.held > donor.keep { donors.able.push(donor) } else { chosen.push(donor) }
        }
        chosen.extend(donors.able.into_vec().into_iter().filter(|donor| donor.count > 0));
        chosen.sort_unstable_by_key(|donor| donor.index);
        for donor in chosen {
            let slot = &mut self.slots[donor.index];
            slot.asked += donor.count;
            let from = slot.id.clone();
            self.queue.push_back(Move {
                from,
                count: donor.count,
                reason: MoveReason::Surplus,
                deadline: None,
            });
        }
        self.bucket.take(now, rate, taken);
        // Waiting for an end of a move needs no clock: whoever reports it wakes the plan.
        self.level_at = (concurrent > 0).then(|| self.bucket.ready_at(rate));
    }

    fn donors(&self, now: Time, shares: Shares) -> Donors {
        let mut donors = Donors { able: BinaryHeap::new(), held_back_until: None };
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.is_ready()) {
            let held = u64::from(slot.held());
            let keep = shares.keep(slot.weight, self.settings.limits.stop_ratio);
            if held <= keep {
                continue;
            }
            if slot.hold_until > now {
                let earlier = donors.held_back_until.map_or(slot.hold_until, |at| at.min(slot.hold_until));
                donors.held_back_until = Some(earlier);
                continue;
            }
            let weight = u64::from(slot.weight.value());
            donors.able.push(Donor { index, held, weight, keep, count: 0 });
        }
        donors
    }

    /// What the ready endpoints can take below their targets (rounded up), without what is already on its way.
    fn room(&self, shares: Shares) -> u64 {
        let (mut room, mut inbound) = (0u64, self.ledger.len() as u64);
        for slot in &self.slots {
            inbound += u64::from(slot.outbound());
            match slot.state {
                EndpointState::Ready => {
                    room += shares.ceil(slot.weight).saturating_sub(u64::from(slot.held()));
                }
                EndpointState::Terminating => inbound += u64::from(slot.held()),
                EndpointState::Unready => {}
            }
        }
        room.saturating_sub(inbound)
    }

    /// Moves under way or asked for that are not part of a drain.
    fn surplus_moves(&self) -> u32 {
        self.slots
            .iter()
            .filter(|slot| !slot.is_terminating())
            .fold(0u32, |sum, slot| sum.saturating_add(slot.moving).saturating_add(slot.asked))
    }
}
