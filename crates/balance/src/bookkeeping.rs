//! What the planner does behind its contract: time that passes, panic, settling, and who went and came back.

use model::{EndpointId, Time};

use crate::ledger::{Departure, Expired};
use crate::level::Run;
use crate::planner::Settle;
use crate::slot::Rules;
use crate::{ClientKey, Planner, Purpose, Refusal, Report, Request, Trigger, Visitor};

/// Endpoint changes that never pause for `settle` delay a plan by at most this many times `settle`.
const SETTLE_TIMES_MAX: u32 = 12;
/// Endpoints that one request may have tried and are kept from being tried again.
const TRIED_MAX: usize = 15;
/// Reports that wait to be told; older ones give way.
const REPORTS_MAX: usize = 256;
/// Of a plan that goes on after it ended because a donor had too few sessions that may move.
const MOVES_MAX: u64 = 1_000_000;

impl Planner {
    /// Whatever time brings: before anything else at `now`.
    pub(crate) fn advance(&mut self, now: Time) {
        if self.slots.advance(now) {
            self.check_panic(now);
            self.check_when_complete(now);
        }
        let late = self.ledger.mark_late(now, self.guard.late_after(&self.settings.limits));
        self.guard.note_late(late);
        let expired = self.ledger.expire(now, self.settings.limits.return_timeout);
        self.note_expired(expired);
        if let Some(report) = self.guard.judge(now, &self.settings.limits) {
            if report == Report::GuardCleared {
                self.next_check = now;
            }
            self.tell(report);
        }
        let totals = self.slots.totals();
        let is_moving = totals.outbound > 0 || self.away() > 0;
        if let Some(cause) = self.pace.judge(now, is_moving) {
            self.tell(Report::PaceLowered { factor: self.pace.factor(), cause });
        }
    }

    /// Moved clients that are expected here. With other replicas, who is late is most likely back at one of them.
    pub(crate) fn away(&self) -> u64 {
        let late = if self.replicas > 1 { self.ledger.late() } else { 0 };
        self.ledger.away() - late
    }

    /// Counts and indexes everything anew.
    pub(crate) fn rebuild(&mut self, now: Time) {
        let panic = self.slots.rules.panic;
        self.slots.rules = Rules::new(&self.settings.placement, self.replicas, panic);
        self.slots.rebuild(now, self.settings.policy, &self.settings.placement);
        self.check_panic(now);
    }

    /// Begins or ends panic when the endpoints say so.
    pub(crate) fn check_panic(&mut self, now: Time) {
        let panic = self.slots.should_panic(self.settings.placement.panic_threshold);
        if panic == self.slots.rules.panic {
            return;
        }
        self.slots.rules.panic = panic;
        self.slots.rebuild(now, self.settings.policy, &self.settings.placement);
        let totals = self.slots.totals();
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let (ready, of) = (count(totals.ready), count(totals.expected));
        self.tell(if panic { Report::PanicBegan { ready, of } } else { Report::PanicEnded });
    }

    /// New capacity is there. When more is to follow within `settle`, one plan waits for all of it.
    pub(crate) fn check_when_complete(&mut self, now: Time) {
        let soon = now + self.settings.limits.settle;
        let waiting = self.slots.iter().filter(|slot| slot.is_ready() && !slot.is_capacity);
        let last = waiting.map(|slot| slot.capacity_at).filter(|at| *at <= soon).max();
        let settles = self.settle.map(|settle| settle.until);
        self.settle_until(now, last.max(settles).unwrap_or(now));
    }

    /// Endpoints have changed: nothing is planned before `until`, put off by each further change, but not for ever.
    pub(crate) fn settle_until(&mut self, now: Time, until: Time) {
        let first = self.settle.filter(|settle| settle.until > now).map_or(now, |settle| settle.first);
        let latest = first + self.settings.limits.settle.saturating_mul(SETTLE_TIMES_MAX);
        self.settle = Some(Settle { first, until: until.min(latest) });
        self.trigger = Trigger::Endpoints;
    }

    pub(crate) fn find_endpoint(&mut self, now: Time, request: &Request<'_>) -> Result<usize, Refusal> {
        let mut except = [0; TRIED_MAX + 1];
        let mut count = 0;
        for index in request.tried.iter().filter_map(|id| self.slots.find(id)).take(TRIED_MAX) {
            if !except[..count].contains(&index) {
                except[count] = index;
                count += 1;
            }
        }
        let tried = count;
        // Who migrates is not on its way back from anywhere.
        let donor = self.donor_above_share(request.client).filter(|_| request.purpose != Purpose::Migration);
        if let Some(donor) = donor.filter(|i| !except[..count].contains(i)) {
            except[count] = donor;
            count += 1;
        }
        let hash = request.hash.unwrap_or_else(|| crate::hash_key(&request.client.0.to_be_bytes()));
        if let Some(index) = self.slots.choose(now, hash, &except[..count], &mut self.random) {
            return Ok(index);
        }
        let tried = &except[..tried];
        if tried.len() < count
            && let Some(index) = self.slots.choose(now, hash, tried, &mut self.random)
        {
            // Better back to the donor than to one that is down.
            return Ok(index);
        }
        match self.slots.last_resort(tried) {
            Some(index) => Ok(index),
            None if self.slots.any_full(tried) => Err(Refusal::Full),
            None => Err(Refusal::NoEndpoint),
        }
    }

    /// The endpoint from which this client was moved, while that has its share without it.
    pub(crate) fn donor_above_share(&self, client: ClientKey) -> Option<usize> {
        let index = self.slots.find(self.ledger.donor(client)?)?;
        let slot = self.slots.at(index);
        (f64::from(slot.held()) >= self.shares().of(slot).target()).then_some(index)
    }

    /// Of the surplus moves that were asked for, these began; so many could not.
    pub(crate) fn note_surplus(&mut self, now: Time, began: u32, missing: u32) {
        // Levelling is not over: what was counted as on its way is still here, and another may give now.
        let silent = Run {
            since: now,
            moved: 0,
            told: false,
            next: now,
            starved: false,
            moves_max: MOVES_MAX,
            planned: None,
        };
        let run = match (&mut self.run, missing) {
            (Some(run), _) => run,
            (None, 0) => return,
            (none @ None, _) => none.insert(silent),
        };
        run.moved += u64::from(began);
        if began > 0
            && let Some((trigger, moves)) = run.planned.take()
        {
            run.told = true;
            self.tell(Report::PlanStarted { trigger, moves });
            return self.note_missing(now, missing);
        }
        self.note_missing(now, missing);
    }

    /// Of the surplus moves that were asked for, so many could not begin: another may give now.
    pub(crate) fn note_missing(&mut self, now: Time, missing: u32) {
        let Some(run) = &mut self.run else { return };
        if missing > 0 {
            run.next = run.next.min(now);
        }
    }

    /// A moved client is on its way back from now on.
    pub(crate) fn note_departure(&mut self, now: Time, donor: &EndpointId, visitor: Visitor) {
        self.moves.moved += 1;
        self.guard.note_departure(now);
        let moves = visitor.moves.saturating_add(1);
        let departure = Departure { donor: donor.clone(), moved_at: now, moves, passed: false };
        let expired = self.ledger.push(visitor.client, departure);
        self.note_expired(expired);
        self.settle_by_strangers(now);
    }

    /// Strangers beyond the usual stand for clients that are away.
    pub(crate) fn settle_by_strangers(&mut self, now: Time) {
        while self.ledger.away() > 0 && self.guard.take_stranger(now) {
            let was_late = self.ledger.late() > 0;
            self.ledger.credit();
            self.guard.note_return(None, was_late);
        }
    }

    pub(crate) fn note_expired(&mut self, expired: Expired) {
        if expired == Expired::default() {
            return;
        }
        self.moves.outcomes.never_returned += expired.lost;
        self.moves.outcomes.returned_elsewhere += expired.elsewhere;
        self.guard.note_lost(expired.lost, &self.settings.limits);
    }

    /// Counts where a moved client landed; called before its session is counted.
    pub(crate) fn note_return(&mut self, landed: &EndpointId, donor: &EndpointId) {
        let Some(index) = self.slots.find(landed) else { return };
        let slot = self.slots.at(index);
        // The client itself has just left the ledger and is still to be shared out.
        let mut shares = self.shares();
        shares.total += 1;
        let below = f64::from(slot.held()) <= shares.of(slot).target();
        let outcomes = &mut self.moves.outcomes;
        let outcome = match (landed == donor, below) {
            (true, _) => &mut outcomes.returned_to_donor,
            (false, true) => &mut outcomes.returned_to_target,
            (false, false) => &mut outcomes.returned_elsewhere,
        };
        *outcome += 1;
    }

    pub(crate) fn tell(&mut self, report: Report) {
        if self.reports.len() >= REPORTS_MAX {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }

    /// An endpoint that is gone from discovery goes for good some time after its last session.
    pub(crate) fn forget_empty(&mut self, now: Time, index: usize) {
        if self.slots.forget(now, index) {
            self.rebuild(now);
        }
    }
}
