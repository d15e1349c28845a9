//! All endpoints of a pool: their counts summed, and an index for the pick, both kept in step with every change.
//!
//! The one way to change an endpoint is [`Slots::update`]. It costs the logarithm of the number of endpoints; only
//! a change of the set itself costs all of them.

use std::collections::BTreeSet;

use model::{Endpoint, EndpointId, EndpointState, Time, Zone};

use crate::pick::Index;
use crate::slot::{Rules, Slot};
use crate::zone::Near;
use crate::{Limits, Placement, Policy};

/// Sums over the endpoints of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Totals {
    /// Open sessions.
    pub(crate) sessions: u64,
    /// Handshakes and plain requests in flight.
    pub(crate) pending: u64,
    /// Sessions to be shared out: see `level`.
    pub(crate) shared: u64,
    /// Weight of those that take part in the shares.
    pub(crate) weight: u64,
    /// Their pulls.
    pub(crate) pull: u64,
    /// Moves under way or asked for whose client is not away yet.
    pub(crate) outbound: u64,
    /// Moves under way or asked for that are not part of a drain.
    pub(crate) surplus_moves: u64,
    /// Sessions of terminating endpoints that nobody has been asked to move.
    pub(crate) to_drain: u64,
    /// Ready endpoints.
    pub(crate) ready: u64,
    /// Endpoints that should be: ready, unready, or just vanished.
    pub(crate) expected: u64,
    /// Ready ones that do not take part in the shares yet.
    pub(crate) unseasoned: u64,
}

impl Totals {
    fn of(slot: &Slot) -> Self {
        let (held, outbound) = (u64::from(slot.held()), u64::from(slot.outbound()));
        let under_way = u64::from(slot.moving) + u64::from(slot.asked);
        let takes_part = slot.takes_part();
        let is_draining = slot.is_terminating();
        Self {
            sessions: u64::from(slot.sessions),
            pending: u64::from(slot.pending),
            shared: if takes_part || is_draining { u64::from(slot.staying()) } else { outbound },
            weight: if takes_part { u64::from(slot.weight.value()) } else { 0 },
            pull: if takes_part { slot.pull } else { 0 },
            outbound,
            surplus_moves: if is_draining { 0 } else { under_way },
            to_drain: if is_draining { held } else { 0 },
            ready: u64::from(slot.is_ready()),
            expected: u64::from(!is_draining),
            unseasoned: u64::from(slot.is_ready() && !slot.is_capacity),
        }
    }

    /// `self` with `after` in the place of `before`, field by field.
    fn replace(&mut self, before: &Self, after: &Self) {
        let put = |sum: &mut u64, before: u64, after: u64| *sum = *sum + after - before;
        put(&mut self.sessions, before.sessions, after.sessions);
        put(&mut self.pending, before.pending, after.pending);
        put(&mut self.shared, before.shared, after.shared);
        put(&mut self.weight, before.weight, after.weight);
        put(&mut self.pull, before.pull, after.pull);
        put(&mut self.outbound, before.outbound, after.outbound);
        put(&mut self.surplus_moves, before.surplus_moves, after.surplus_moves);
        put(&mut self.to_drain, before.to_drain, after.to_drain);
        put(&mut self.ready, before.ready, after.ready);
        put(&mut self.expected, before.expected, after.expected);
        put(&mut self.unseasoned, before.unseasoned, after.unseasoned);
    }
}

/// What a new list has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    /// Endpoints came, went or are other ones.
    pub(crate) changed: bool,
    /// One that went long ago is no longer remembered.
    pub(crate) forgotten: bool,
}

/// The endpoints of a pool, ordered by id.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    pub(crate) list: Vec<Slot>,
    totals: Totals,
    pub(crate) index: Index,
    pub(crate) rules: Rules,
    /// Where this replica runs, when that is known.
    pub(crate) own_zone: Option<Zone>,
    /// When which endpoint changes by itself.
    wakes: BTreeSet<(Time, usize)>,
    limits: Limits,
}

impl Slots {
    pub(crate) fn new(policy: Policy, placement: &Placement, limits: &Limits) -> Self {
        let mut slots = Self {
            list: Vec::new(),
            totals: Totals::default(),
            index: Index::new(policy, placement, &[]),
            rules: Rules::new(placement, 1, false),
            own_zone: None,
            wakes: BTreeSet::new(),
            limits: limits.clone(),
        };
        slots.rebuild(Time::ZERO, policy, placement);
        slots
    }

    // ---- looking

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.list.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn at(&self, index: usize) -> &Slot {
        &self.list[index]
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    pub(crate) fn find(&self, id: &EndpointId) -> Option<usize> {
        self.list.binary_search_by(|slot| slot.id.cmp(id)).ok()
    }

    /// The listed endpoint with that id, or of the Pod with that name.
    pub(crate) fn find_listed(&self, name: &EndpointId) -> Option<usize> {
        let is_pod = |slot: &Slot| slot.pod.as_ref().is_some_and(|pod| pod.name == name.as_str());
        let by_id = self.find(name).filter(|index| self.list[*index].listed);
        by_id.or_else(|| self.list.iter().position(|slot| slot.listed && is_pod(slot)))
    }

    // ---- changing

    /// Changes one endpoint.
    pub(crate) fn update<R>(&mut self, now: Time, index: usize, change: impl FnOnce(&mut Slot) -> R) -> R {
        let before = Totals::of(&self.list[index]);
        let result = change(&mut self.list[index]);
        let after = Totals::of(&self.list[index]);
        self.totals.replace(&before, &after);
        self.look_again(now, index);
        result
    }

    /// Takes the whole list that discovery sees now. `at_start`: see [`Slot::settle_state`].
    pub(crate) fn replace(&mut self, now: Time, listed: &[&Endpoint], at_start: bool) -> Replaced {
        let mut changed = false;
        let known = self.list.len();
        for endpoint in listed {
            match self.list[..known].binary_search_by(|slot| slot.id.cmp(&endpoint.id)) {
                Ok(index) => changed |= self.list[index].refresh(endpoint),
                Err(_) => {
                    self.list.push(Slot::new(endpoint));
                    changed = true;
                }
            }
        }
        for slot in &mut self.list[..known] {
            let missing = listed.binary_search_by(|endpoint| endpoint.id.cmp(&slot.id)).is_err();
            if missing && slot.listed {
                slot.vanish(now);
                changed = true;
            }
        }
        for slot in &mut self.list {
            slot.settle_state(now, &self.limits, &self.rules, at_start);
        }
        let before = self.list.len();
        self.list.retain(|slot| !slot.is_forgotten(now));
        Replaced { changed, forgotten: self.list.len() != before }
    }

    /// Lets time pass: endpoints become capacity, are given up, are no longer ejected. True when a share may have
    /// changed by it.
    pub(crate) fn advance(&mut self, now: Time) -> bool {
        let mut changed = false;
        while let Some((at, index)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, index));
            self.list[index].wake = None;
            let before = (self.list[index].is_capacity, self.list[index].state);
            let (limits, rules) = (self.limits.clone(), self.rules);
            self.update(now, index, |slot| slot.settle_state(now, &limits, &rules, false));
            changed |= before != (self.list[index].is_capacity, self.list[index].state);
        }
        changed
    }

    /// When [`Self::advance`] has something to do next.
    pub(crate) fn next_change(&self) -> Option<Time> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Counts and indexes everything anew: after a change of the set, the settings, or panic.
    pub(crate) fn rebuild(&mut self, now: Time, policy: Policy, placement: &Placement) {
        self.list.sort_by(|a, b| a.id.cmp(&b.id));
        self.totals = Totals::default();
        self.wakes.clear();
        let near = Near::new(policy, placement, self.own_zone.as_ref());
        for slot in &mut self.list {
            slot.wake = None;
            slot.prefer(near.as_ref());
            self.totals.replace(&Totals::default(), &Totals::of(slot));
        }
        self.index = Index::new(policy, placement, &self.list);
        for index in 0..self.list.len() {
            self.look_again(now, index);
        }
    }

    /// Takes other settings; [`Self::rebuild`] has to follow.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.limits = limits.clone();
    }

    /// Removes one that is gone for good. True when it was.
    pub(crate) fn forget(&mut self, now: Time, index: usize) -> bool {
        let is_forgotten = self.list[index].is_forgotten(now);
        if is_forgotten {
            self.list.remove(index);
        }
        is_forgotten
    }

    /// Puts the index and the wakes in step with one endpoint.
    fn look_again(&mut self, now: Time, index: usize) {
        let slot = &self.list[index];
        let is_open = slot.withheld(now, &self.rules).is_none();
        self.index.refresh(index, slot, is_open);
        let wake = slot.next_change(now, &self.limits, &self.rules);
        if wake != slot.wake {
            if let Some(old) = slot.wake {
                self.wakes.remove(&(old, index));
            }
            if let Some(new) = wake {
                self.wakes.insert((new, index));
            }
            self.list[index].wake = wake;
        }
    }

    /// True when fewer than `threshold` of the endpoints that should be ready are.
    pub(crate) fn should_panic(&self, threshold: f64) -> bool {
        let Totals { ready, expected, .. } = self.totals;
        expected > 0 && (ready as f64) < threshold * expected as f64
    }

    /// The least loaded endpoint that is up and not in `except`, whatever else speaks against it. Linear.
    pub(crate) fn last_resort(&self, except: &[usize]) -> Option<usize> {
        let is_up = |slot: &Slot| {
            slot.listed
                && !slot.is_full(&self.rules)
                && match slot.state {
                    EndpointState::Ready => true,
                    EndpointState::Unready => self.rules.panic,
                    EndpointState::Terminating => false,
                }
        };
        let able =
            self.list.iter().enumerate().filter(|(index, slot)| is_up(slot) && !except.contains(index));
        able.min_by_key(|(_, slot)| crate::pick::Load::of(slot)).map(|(index, _)| index)
    }

    /// True when an endpoint that is up is full, `except` those.
    pub(crate) fn any_full(&self, except: &[usize]) -> bool {
        let full = |slot: &Slot| slot.is_ready() && slot.is_full(&self.rules);
        self.list.iter().enumerate().any(|(index, slot)| full(slot) && !except.contains(&index))
    }
}
