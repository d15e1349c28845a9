//! Surplus moves: who is above its share, and how many leave now.
//!
//! The target of an endpoint that takes part is its weight's share of every session that is to be somewhere: those on
//! endpoints that take part, those still on draining ones, and moved clients on their way back. So a move under way
//! changes no target, and a fleet that takes seconds to return is not levelled twice. Sessions of unready endpoints,
//! and of those that have not been ready for `min_ready`, stay where they are and count for nobody.
//!
//! Hysteresis, on both sides: levelling starts when an endpoint is above `start_ratio` or as far below its share, and then
//! takes from the fullest endpoint down until none is above `stop_ratio`, and none lower than halfway into the band. The
//! lower side matters: one new endpoint beside ten leaves each of these only a tenth above its share. Who gives how much so that nothing is moved in vain is decided in `flow`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use model::Time;

use crate::flow::{self, Side};
use crate::pace::MOVE_BURST;
use crate::share::{Share, Shares};
use crate::slot::Slot;
use crate::zone::PULL;
use crate::{Move, MoveReason, Planner, Policy, Report, Trigger};

/// How soon a plan looks again while the return guard or the bound of concurrent moves lets nothing more begin.
const WAIT: Duration = Duration::from_millis(250);

/// A donor that had nothing to give so many times in a row is not waited for: the next check will ask it again.
const MISSES_MAX: u32 = 6;

/// Most moves of a plan that needs `moves` when it begins: sessions come and go meanwhile.
const fn allowed(moves: u64) -> u64 {
    moves + moves / 10 + 2
}

/// Levelling that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) since: Time,
    pub(crate) moved: u64,
    /// Its beginning was reported, so its end will be.
    pub(crate) told: bool,
    /// When the next batch can be planned.
    pub(crate) next: Time,
    /// Nothing may begin before a move has ended or a client is back.
    pub(crate) starved: bool,
    /// It ends when so many have been moved, level or not: a replica whose clients land at others that have ended before
    /// would go on for long, for little.
    pub(crate) moves_max: u64,
    /// What set it off, and the moves that it needed then: told when the first of them begins.
    pub(crate) planned: Option<(Trigger, u64)>,
}

/// An endpoint that gives, ordered by fullness: sessions / pull, then the first by id.
#[derive(PartialEq, Eq)]
struct Donor {
    index: usize,
    held: u64,
    pull: u64,
    keep: u64,
    count: u32,
}

impl Ord for Donor {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.held * other.pull).cmp(&(other.held * self.pull)).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Donor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Moves that level the pool.
pub(crate) struct Needed {
    /// As many as are needed.
    pub(crate) moves: u64,
    /// As many as are needed to fill those that are far below their share.
    for_the_low: u64,
    /// Those that take part.
    pub(crate) sides: Vec<Side>,
    /// Who could give how much: places in `sides` and counts.
    pub(crate) gives: Vec<(usize, u64)>,
}

/// The endpoints that give.
struct Donors {
    able: BinaryHeap<Donor>,
    /// What all of them should give together.
    moves: u64,
    /// When the first of those comes back that are left alone for now.
    held_back_until: Option<Time>,
}

impl Planner {
    pub(crate) fn shares(&self) -> Shares {
        let totals = self.slots.totals();
        Shares { total: totals.shared + self.away(), weight: totals.weight, pull: totals.pull }
    }

    /// The ratios that start and stop levelling. With `consistent_hash`, what the bound of the ring allows is no surplus.
    pub(crate) fn ratios(&self) -> (f64, f64) {
        let limits = &self.settings.limits;
        let least = match self.settings.policy {
            Policy::ConsistentHash => self.settings.placement.hash_load_max,
            Policy::LeastConnections | Policy::P2c | Policy::Random | Policy::RoundRobin => 1.0,
        };
        (limits.start_ratio.max(least), limits.stop_ratio.max(least))
    }

    /// True when nothing may be moved for balance or age, whatever the counts say.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.settings.limits.enabled || self.paused || self.slots.rules.panic || self.guard.is_stopped()
    }

    /// Puts the surplus moves that may begin at `now` into the queue.
    pub(crate) fn plan_surplus(&mut self, now: Time) {
        if self.is_blocked() {
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
            let trigger = std::mem::replace(&mut self.trigger, Trigger::Drift);
            match self.run.map(|run| run.moved) {
                None => {
                    if let Some(needed) = self.beyond_band(self.shares()) {
                        self.start(now, trigger, needed.moves);
                        self.plan_batch(now, needed);
                    }
                }
                Some(moved) if trigger == Trigger::Endpoints => {
                    let needed = self.needed(self.shares()).moves;
                    self.run.iter_mut().for_each(|run| run.moves_max = moved + allowed(needed));
                }
                Some(_) => {}
            }
        }
        match self.run.filter(|run| run.next <= now) {
            Some(run) if run.moved >= run.moves_max => self.finish(now),
            Some(_) => {
                let needed = self.needed(self.shares());
                self.plan_batch(now, needed);
            }
            None => {}
        }
    }

    /// Begins to level, which takes so many moves.
    pub(crate) fn start(&mut self, now: Time, trigger: Trigger, moves: u64) {
        for index in 0..self.slots.len() {
            // One that was given up is asked once more.
            self.slots.update(now, index, |slot| slot.misses = slot.misses.min(MISSES_MAX));
        }
        // When endpoints have changed, all replicas have something to move; otherwise perhaps only this one.
        self.guard.set_alone(trigger != Trigger::Endpoints);
        let (moves_max, planned) = (allowed(moves), Some((trigger, moves)));
        self.run =
            Some(Run { since: now, moved: 0, told: false, next: now, starved: false, moves_max, planned });
    }

    fn finish(&mut self, now: Time) {
        if let Some(run) = self.run.take().filter(|run| run.told) {
            self.tell(Report::PlanFinished { moved: run.moved, took: now.since(run.since) });
        }
    }

    /// Moves a second that are allowed now at this replica.
    pub(crate) fn rate(&self) -> f64 {
        let limits = &self.settings.limits;
        let replicas = f64::from(self.replicas);
        // Every replica is taken to have as many sessions as this one.
        let tier = || (0.02 * self.slots.totals().sessions as f64 * replicas).clamp(10.0, 500.0);
        let factor = if limits.adaptive_pace { self.pace.factor() } else { 1.0 };
        limits.moves_per_second_max.unwrap_or_else(tier) / replicas * factor
    }

    /// What it takes when some endpoint is beyond the band in which nothing is done, on either side, and moves would help.
    fn beyond_band(&self, shares: Shares) -> Option<Needed> {
        // Few pools are beyond the band at any time: only those are looked at closely.
        if !self.is_beyond_band(shares) {
            return None;
        }
        let needed = self.needed(shares);
        let below = self.sharers().any(|(_, slot)| self.is_below(slot, shares));
        let mut givers = needed.gives.iter().map(|(place, _)| self.slots.at(needed.sides[*place].index));
        let helps = needed.for_the_low > 0 && below
            || needed.moves > 0 && givers.any(|slot| self.is_above(slot, shares));
        helps.then_some(needed)
    }

    /// True when some endpoint is, whether moves would help or not.
    pub(crate) fn is_beyond_band(&self, shares: Shares) -> bool {
        self.sharers().any(|(_, slot)| self.is_above(slot, shares) || self.is_below(slot, shares))
    }

    fn is_above(&self, slot: &Slot, shares: Shares) -> bool {
        let ((start, _), held) = (self.ratios(), u64::from(slot.held()));
        let share = shares.high(slot);
        let surplus = held.saturating_sub(share.floor());
        held as f64 > share.target() * start && surplus >= u64::from(self.settings.limits.min_surplus)
    }

    fn is_below(&self, slot: &Slot, shares: Shares) -> bool {
        let ((start, _), held) = (self.ratios(), u64::from(slot.held()));
        let share = shares.low(slot);
        let target = share.target();
        // With several replicas as many clients come as chance sends here: a lack of three standard deviations is no news.
        let sigmas = if self.replicas > 1 { 3.0 } else { 0.0 };
        let lack = share.floor().saturating_sub(held);
        (held as f64) < target * (2.0 - start) - sigmas * target.sqrt()
            && lack >= u64::from(self.settings.limits.min_surplus)
    }

    pub(crate) fn needed(&self, shares: Shares) -> Needed {
        self.needed_among(shares, Slot::takes_part, |_| u64::MAX)
    }

    /// What it takes to bring every endpoint that takes part down to the stop ratio from above, or halfway into the band from
    /// below, whichever takes more. Who gives is the same in both cases: everybody above the level, the fullest first.
    /// `movable`: most that the endpoint of an index can give.
    pub(crate) fn needed_among(
        &self,
        shares: Shares,
        takes_part: impl Fn(&Slot) -> bool,
        movable: impl Fn(usize) -> u64,
    ) -> Needed {
        let strict = self.needed_above(shares, &takes_part, &movable, Shares::high);
        let lacking = self.lacking(shares, &takes_part);
        if strict.for_the_low == lacking || !shares.has_preference() {
            return strict;
        }
        // Those that have more than what placement strives for, and no more than their weight's part, are left alone unless
        // others lack what only they can give.
        self.needed_above(shares, takes_part, movable, Shares::of)
    }

    /// The same when everybody keeps the share that `keeps` says.
    fn needed_above(
        &self,
        shares: Shares,
        takes_part: impl Fn(&Slot) -> bool,
        movable: impl Fn(usize) -> u64,
        keeps: impl Fn(Shares, &Slot) -> Share,
    ) -> Needed {
        let (_, stop) = self.ratios();
        let side = |(index, slot): (usize, &Slot)| {
            let held = u64::from(slot.held());
            let most = held.saturating_sub(keeps(shares, slot).ceil()).min(movable(index));
            let (weight, room) = (slot.pull as f64 / PULL as f64, slot.room(&self.slots.rules));
            Side { index, held, weight, most, room }
        };
        let sharers = self.slots.iter().enumerate().filter(|(_, slot)| takes_part(slot));
        let sides: Vec<Side> = sharers.map(side).collect();
        let gives = flow::gives(&sides, self.inbound());
        let above_stop = |(place, count): &(usize, u64)| {
            let side = &sides[*place];
            let keep = shares.high(self.slots.at(side.index)).keep(stop);
            side.held.saturating_sub(keep).min(*count)
        };
        let from_the_full: u64 = gives.iter().map(above_stop).sum();
        let possible: u64 = gives.iter().map(|(_, count)| count).sum();
        let for_the_low = self.lacking(shares, takes_part).min(possible);
        Needed { moves: from_the_full.max(for_the_low), for_the_low, sides, gives }
    }

    /// What those below their share lack, beyond what is on its way to them anyway.
    fn lacking(&self, shares: Shares, takes_part: impl Fn(&Slot) -> bool) -> u64 {
        // A key's place is worth more than an even fill: with `consistent_hash` nobody is moved for the low.
        if self.settings.policy == Policy::ConsistentHash {
            return 0;
        }
        let (start, stop) = self.ratios();
        // Halfway into the band; with several replicas, whose clients land by chance, only into it. Arrivals fill the rest, and
        // while the emptiest is clearly so, nobody lands on a donor.
        let fill = 2.0 - if self.replicas > 1 { start } else { f64::midpoint(start, stop) };
        let lacks = |slot: &Slot| {
            let least = (shares.low(slot).target() * fill) as u64;
            least.saturating_sub(u64::from(slot.held())).min(slot.room(&self.slots.rules))
        };
        let lacking: u64 = self.slots.iter().filter(|slot| takes_part(slot)).map(lacks).sum();
        lacking.saturating_sub(self.inbound())
    }

    /// Clients that will be placed without a further move.
    fn inbound(&self) -> u64 {
        let totals = self.slots.totals();
        self.away() + totals.outbound + totals.to_drain
    }

    /// Those that take part in the shares.
    fn sharers(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.takes_part())
    }

    fn plan_batch(&mut self, now: Time, needed: Needed) {
        let shares = self.shares();
        let mut donors = self.donors(now, needed);
        if donors.able.is_empty() {
            return match donors.held_back_until {
                Some(at) => self.look_at(at),
                None => self.finish(now),
            };
        }
        let rate = self.rate().min(self.receivers_rate(now, shares));
        let allowed = self.may_begin(now);
        let wanted = allowed.min(donors.moves);
        let budget = wanted.min(u64::from(self.bucket.available(now, rate, MOVE_BURST)));
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
            self.ask(now, donor.index, donor.count, MoveReason::Surplus);
        }
        self.bucket.take(now, rate, taken);
        let ready = self.bucket.ready_at(rate, MOVE_BURST);
        self.look_at(if allowed == 0 { now + WAIT } else { ready });
        if let Some(run) = &mut self.run {
            run.starved = allowed == 0;
        }
    }

    /// A move has ended, or a client is back: what waited for it may go on.
    pub(crate) fn wake(&mut self, now: Time) {
        if let Some(run) = self.run.as_mut().filter(|run| run.starved) {
            run.next = now;
        }
    }

    /// Sessions a second that those below their share take: all of them may be in their slow start.
    fn receivers_rate(&self, now: Time, shares: Shares) -> f64 {
        let rules = &self.slots.rules;
        let mut receivers =
            self.sharers().filter(|(_, slot)| u64::from(slot.held()) < shares.of(slot).ceil()).peekable();
        if receivers.peek().is_none() {
            return f64::INFINITY;
        }
        receivers.map(|(_, slot)| slot.arrivals_per_second(now, rules)).sum()
    }

    /// The next batch is planned at `at`.
    fn look_at(&mut self, at: Time) {
        if let Some(run) = &mut self.run {
            run.next = at;
        }
    }

    /// Moves for balance or age that may begin now, as far as those under way and the clients that are away allow.
    /// None while new sessions queue for admission: who is moved may have to queue with them, at another replica.
    pub(crate) fn may_begin(&self, now: Time) -> u64 {
        if self.replicas > 1 && self.gate.is_crowded(now) {
            return 0;
        }
        let under_way = self.slots.totals().surplus_moves;
        let away = self.away() + self.slots.totals().outbound;
        let concurrent = u64::from(self.settings.limits.concurrent_moves_max).saturating_sub(under_way);
        concurrent.min(self.guard.allowance(&self.settings.limits, away))
    }

    /// Puts a move into the queue.
    pub(crate) fn ask(&mut self, now: Time, index: usize, count: u32, reason: MoveReason) {
        let (id, deadline) = self.slots.update(now, index, |slot| {
            slot.asked += count;
            match reason {
                MoveReason::MaxAge => slot.asked_for_age += count,
                MoveReason::Tier => slot.asked_for_tier += count,
                MoveReason::Surplus | MoveReason::Draining | MoveReason::Rehearsal => {}
            }
            (slot.id.clone(), slot.drain_since)
        });
        let deadline = deadline.map(|since| since + self.drain_time(index));
        self.queue.push_back(Move { from: id, count, reason, deadline });
    }

    fn donors(&self, now: Time, needed: Needed) -> Donors {
        let Needed { moves, sides, gives, .. } = needed;
        let mut donors = Donors { able: BinaryHeap::new(), moves, held_back_until: None };
        if moves == 0 {
            return donors;
        }
        for (place, give) in gives {
            let Side { index, held, .. } = sides[place];
            let slot = self.slots.at(index);
            if slot.misses > MISSES_MAX {
                continue;
            }
            if slot.hold_until > now {
                let earlier = donors.held_back_until.map_or(slot.hold_until, |at| at.min(slot.hold_until));
                donors.held_back_until = Some(earlier);
                continue;
            }
            donors.able.push(Donor { index, held, pull: slot.pull, keep: held - give, count: 0 });
        }
        donors
    }
}
