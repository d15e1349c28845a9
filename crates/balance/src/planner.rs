//! The planner of one pool: counts in, picks and moves out.
//!
//! How it decides is in `pick`, `level`, `drain`, `age`, `returns` and `admission`; here is its state, the contract, and
//! the bookkeeping.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Endpoint, EndpointId, Time};

use crate::admission::Gate;
use crate::age::AGE_HOLD;
use crate::drain::HOLD;
use crate::ledger::{Departure, Expired, Ledger};
use crate::level::Run;
use crate::pace::{Adaptive, Bucket};
use crate::random::Random;
use crate::returns::ReturnGuard;
use crate::slot::Rules;
use crate::slots::Slots;
use crate::{
    Action, Admitted, ClientKey, Ended, Move, MoveCounts, Opened, Pick, Purpose, Refusal, Report, Request,
    Settings, Trigger, Visitor,
};

/// Endpoint changes that never pause for `settle` delay a plan by at most this many times `settle`.
const SETTLE_TIMES_MAX: u32 = 12;
/// Endpoints that one request may have tried and are kept from being tried again.
const TRIED_MAX: usize = 15;
/// Reports that wait to be told; older ones give way.
const REPORTS_MAX: usize = 256;
/// Of a plan that goes on after it ended because a donor had too few sessions that may move.
const MOVES_MAX: u64 = 1_000_000;
/// Doublings of the time for which an endpoint is left alone that has nothing to give.
const HOLD_DOUBLINGS_MAX: u32 = 4;

/// One pool at one replica.
///
/// Kinds of methods: `pick` and `handle_*` tell it what happens and change counts; `pause`, `resume`, `rebalance`,
/// `drain` are an operator's; `poll_action` says what to do, `poll_timeout` when to ask again; `status` and `explain`
/// only look. `now` does not go backwards, but for what lies between
/// reading a clock and taking a lock.
///
/// Order: after any `handle_*` or command, and when `poll_timeout` is reached, call `poll_action` until it gives
/// `None`, then `poll_timeout`.
///
/// The caller must
/// - end every [`Pick`] with exactly one `handle_opened`, `handle_pick_failed` or `handle_released`,
/// - end every `handle_opened` with exactly one `handle_closed` of an [`Ended`] other than `MoveAborted`,
/// - answer every [`Move`] with `handle_moves_began`, in one or several parts whose `asked` add up to its count,
/// - end every begun move with exactly one `handle_closed` that is not `Left` or `Lost`.
///
/// A caller that fails in this gets wrong numbers, never a panic. Names that the planner does not know are ignored.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(crate) settings: Settings,
    /// Ready gateway replicas that share the tier's budgets, this one included.
    pub(crate) replicas: u32,
    pub(crate) paused: bool,
    pub(crate) random: Random,
    pub(crate) slots: Slots,
    pub(crate) ledger: Ledger,
    pub(crate) guard: ReturnGuard,
    pub(crate) bucket: Bucket,
    pub(crate) pace: Adaptive,
    pub(crate) gate: Gate,
    pub(crate) moves: MoveCounts,
    pub(crate) admitted: Admitted,
    /// Planned and counted as asked, not yet handed out.
    pub(crate) queue: VecDeque<Move>,
    /// To be told.
    reports: VecDeque<Report>,
    /// Present: the endpoint set has changed and nothing is levelled before.
    pub(crate) settle: Option<Settle>,
    /// The next check for drift, and what it will be called if it finds something.
    pub(crate) next_check: Time,
    pub(crate) trigger: Trigger,
    /// Present: levelling has begun and not come below `stop_ratio`.
    pub(crate) run: Option<Run>,
    /// When old sessions are asked for next.
    pub(crate) next_age: Time,
}

/// A run of endpoint changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settle {
    first: Time,
    pub(crate) until: Time,
}

impl Planner {
    /// A pool without endpoints. Replicas should have different seeds, so that they break ties differently.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            replicas: 1,
            paused: false,
            random: Random::new(seed),
            slots: Slots::new(settings.policy, &settings.placement, &settings.limits),
            ledger: Ledger::default(),
            guard: ReturnGuard::new(&settings.limits),
            bucket: Bucket::default(),
            pace: Adaptive::default(),
            gate: Gate::default(),
            moves: MoveCounts::default(),
            admitted: Admitted::default(),
            queue: VecDeque::new(),
            reports: VecDeque::new(),
            settle: None,
            next_check: Time::ZERO,
            trigger: Trigger::Drift,
            run: None,
            next_age: Time::ZERO,
            settings,
        }
    }

    /// Takes other settings; counts, the ledger and moves under way stay. The pool is checked at once.
    pub fn reconfigure(&mut self, now: Time, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.slots.set_limits(&self.settings.limits);
            self.guard.restart(&self.settings.limits, self.replicas);
            self.next_check = now;
            self.rebuild(now);
        }
    }

    /// So many gateway replicas are ready now, this one included: each has its part of the tier's budgets.
    pub fn handle_replicas(&mut self, now: Time, ready: u32) {
        let ready = ready.max(1);
        if self.replicas != ready {
            self.replicas = ready;
            self.guard.restart(&self.settings.limits, ready);
            self.rebuild(now);
        }
    }

    /// The endpoints as discovery sees them now: the whole list, in any order; of equal ids the first counts.
    ///
    /// Counts survive. One that is missing is unready for `settle`; if it still has sessions then, it is drained like a
    /// terminating one. The first endpoints of a pool are its capacity; later ones have to be ready for `min_ready`.
    pub fn handle_endpoints(&mut self, now: Time, endpoints: &[Endpoint]) {
        self.advance(now);
        let mut listed: Vec<&Endpoint> = endpoints.iter().collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        listed.dedup_by(|later, first| later.id == first.id);
        let at_start = self.slots.len() == 0;
        let replaced = self.slots.replace(now, &listed, at_start);
        if replaced.changed || replaced.forgotten {
            self.rebuild(now);
        }
        if replaced.changed {
            let settle = self.settings.limits.settle;
            self.settle_until(now, now + settle);
        }
    }

    /// Picks an endpoint for a new session or request, and counts it as in flight there.
    ///
    /// # Errors
    /// [`Refusal`]: what to answer instead.
    pub fn pick(&mut self, now: Time, request: &Request<'_>) -> Result<Pick, Refusal> {
        self.advance(now);
        let picked = self.find_endpoint(now, request).and_then(|index| {
            // A request that is tried again has been let in, and so has a client that we have moved ourselves.
            let is_new = request.purpose == Purpose::Session && request.tried.is_empty();
            if is_new && !self.ledger.pass(request.client) {
                let enter = self.gate.enter(now, &self.settings.admission, self.replicas, &mut self.random);
                enter.map_err(|retry_after| Refusal::Admission { retry_after })?;
            }
            Ok(index)
        });
        let is_session = request.purpose == Purpose::Session;
        let index = match picked {
            Ok(index) => index,
            Err(refusal) => {
                let counter = match refusal {
                    Refusal::NoEndpoint => &mut self.admitted.no_endpoint,
                    Refusal::Full => &mut self.admitted.full,
                    Refusal::Admission { .. } => &mut self.admitted.deferred,
                };
                *counter += u64::from(is_session);
                return Err(refusal);
            }
        };
        let rules = self.slots.rules;
        self.slots.update(now, index, |slot| slot.arrive(now, &rules));
        let slot = self.slots.at(index);
        Ok(Pick { endpoint: slot.id.clone(), address: slot.address })
    }

    /// A pick ended without a session, and not by the endpoint's fault: a plain request is done, or the client left.
    pub fn handle_released(&mut self, now: Time, endpoint: &EndpointId) {
        let Some(index) = self.slots.find(endpoint) else { return };
        self.slots.update(now, index, |slot| {
            slot.pending = slot.pending.saturating_sub(1);
            slot.succeed();
        });
        self.forget_empty(now, index);
    }

    /// A pick ended without a session because the dial or the handshake failed.
    pub fn handle_pick_failed(&mut self, now: Time, endpoint: &EndpointId) {
        self.pace.failed();
        let Some(index) = self.slots.find(endpoint) else { return };
        let placement = &self.settings.placement;
        let ejected = self.slots.update(now, index, |slot| {
            slot.pending = slot.pending.saturating_sub(1);
            slot.fail(now, placement)
        });
        if let Some((failures, pause)) = ejected {
            self.tell(Report::Ejected { endpoint: endpoint.clone(), failures, pause });
        }
        self.forget_empty(now, index);
    }

    /// A pick became a session after a handshake that took so long. A client that is recognised as moved before is
    /// cooling down.
    pub fn handle_opened(
        &mut self,
        now: Time,
        endpoint: &EndpointId,
        client: ClientKey,
        took: Duration,
    ) -> Opened {
        self.advance(now);
        self.pace.succeeded(took);
        self.admitted.admitted += 1;
        self.wake(now);
        let limits = &self.settings.limits;
        let mut opened = Opened { cooling_until: now + limits.min_age, moves: 0, expires_at: None };
        if let Some(age) = limits.max_age {
            let own = age.mul_f64((1.0 + limits.max_age_jitter * self.random.spread()).max(0.0));
            opened.expires_at = Some(now + own);
        }
        if let Some((departure, was_late)) = self.ledger.take(client) {
            opened.cooling_until = opened.cooling_until.max(departure.moved_at + limits.cooldown);
            opened.moves = departure.moves;
            self.guard.note_return(Some(now.since(departure.moved_at)), was_late);
            self.note_return(endpoint, &departure.donor);
        } else {
            self.guard.note_stranger(now);
            self.settle_by_strangers(now);
        }
        if let Some(index) = self.slots.find(endpoint) {
            self.slots.update(now, index, |slot| {
                slot.pending = slot.pending.saturating_sub(1);
                slot.sessions = slot.sessions.saturating_add(1);
                slot.succeed();
            });
        }
        opened
    }

    /// Answers a [`Move`], whole or in parts: of `asked` sessions, `began` are being moved now. When it is fewer,
    /// not enough may be moved, and the endpoint is left alone for a while, the longer the more often it happens.
    pub fn handle_moves_began(&mut self, now: Time, from: &EndpointId, asked: u32, began: u32) {
        let Some(index) = self.slots.find(from) else { return };
        let began = began.min(asked);
        let missing = asked - began;
        let drain_time = self.drain_time(index);
        let drain_since = self.slots.at(index).drain_since;
        let hold = drain_since.map(|since| self.drain_hold(now, since, drain_time));
        let for_age = self.slots.update(now, index, |slot| {
            let for_age = slot.asked_for_age > 0;
            slot.asked = slot.asked.saturating_sub(asked);
            slot.asked_for_age = slot.asked_for_age.saturating_sub(asked);
            slot.moving = slot.moving.saturating_add(began);
            slot.misses = if began > 0 { 0 } else { slot.misses.saturating_add(1) };
            if missing > 0 && for_age {
                slot.age_hold_until = now + AGE_HOLD;
            } else if missing > 0 {
                let doublings = slot.misses.saturating_sub(1).min(HOLD_DOUBLINGS_MAX);
                slot.hold_until = now + hold.unwrap_or(HOLD * (1 << doublings));
            }
            for_age
        });
        self.moves.began += u64::from(began);
        if missing > 0 && drain_since.is_none() {
            let rate = self.rate();
            self.bucket.give_back(rate, missing);
        }
        if drain_since.is_none() && !for_age {
            self.note_surplus(now, began, missing);
        }
        self.forget_empty(now, index);
    }

    /// The client of a session that is being moved has been told to go, or has begun to: it may be back before its
    /// old connection has ended. At most once a session, which then ends with [`Ended::Gone`].
    pub fn handle_leaving(&mut self, now: Time, endpoint: &EndpointId, visitor: Visitor) {
        let Some(index) = self.slots.find(endpoint) else { return };
        self.slots.update(now, index, |slot| slot.leaving = slot.leaving.saturating_add(1));
        self.note_departure(now, endpoint, visitor);
    }

    /// A session ended, or only its move did: see [`Ended`].
    pub fn handle_closed(&mut self, now: Time, endpoint: &EndpointId, ended: Ended, visitor: Visitor) {
        let Some(index) = self.slots.find(endpoint) else { return };
        let was_moving = !matches!(ended, Ended::Left | Ended::Lost);
        self.slots.update(now, index, |slot| {
            slot.moving = slot.moving.saturating_sub(u32::from(was_moving));
            slot.leaving =
                slot.leaving.saturating_sub(u32::from(matches!(ended, Ended::Gone | Ended::Unanswered)));
            slot.sessions = slot.sessions.saturating_sub(u32::from(ended != Ended::MoveAborted));
        });
        match ended {
            Ended::Left | Ended::Gone => {}
            Ended::Lost => self.pace.broken(),
            Ended::MoveAborted => self.moves.aborted += 1,
            Ended::LeftWhileMoving => self.moves.left += 1,
            Ended::Moved => self.note_departure(now, endpoint, visitor),
            Ended::Unanswered => {
                if let Some(was_late) = self.ledger.withdraw(visitor.client) {
                    self.guard.note_withdrawn(was_late);
                    self.moves.moved -= 1;
                    self.moves.left += 1;
                }
            }
        }
        if was_moving {
            self.wake(now);
        }
        self.forget_empty(now, index);
    }

    /// What to do now. Call until `None`.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        self.advance(now);
        if self.queue.is_empty() {
            self.plan_drains(now);
        }
        if self.queue.is_empty() {
            self.plan_surplus(now);
        }
        if self.queue.is_empty() {
            self.plan_age(now);
        }
        if let Some(report) = self.reports.pop_front() {
            return Some(Action::Tell(report));
        }
        self.queue.pop_front().map(Action::Move)
    }

    /// When `poll_action` could next give something without a new event, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        if !self.queue.is_empty() || !self.reports.is_empty() {
            return Some((Time::ZERO, "there is something to do"));
        }
        let limits = &self.settings.limits;
        let surplus = match (self.is_blocked(), self.settle, self.run) {
            (true, ..) => None,
            (false, Some(settle), _) => Some((settle.until, "endpoint changes settle")),
            (false, None, Some(run)) => {
                Some((run.next, "sessions are levelled")).min(Some((self.next_check, "drift check")))
            }
            (false, None, None) => Some((self.next_check, "drift check")),
        };
        let age = limits.max_age.filter(|_| !self.is_blocked());
        [
            self.drain_timeout().map(|at| (at, "an endpoint drains")),
            surplus,
            age.map(|_| (self.next_age, "sessions grow old")),
            self.slots.next_change().map(|at| (at, "an endpoint changes")),
            self.ledger.expires_at(limits.return_timeout).map(|at| (at, "a client has been away for long")),
            self.guard.retries_at().map(|at| (at, "the return guard tries again")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // ---- inside

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
    fn check_panic(&mut self, now: Time) {
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
    fn check_when_complete(&mut self, now: Time) {
        let soon = now + self.settings.limits.settle;
        let waiting = self.slots.iter().filter(|slot| slot.is_ready() && !slot.is_capacity);
        let last = waiting.map(|slot| slot.capacity_at).filter(|at| *at <= soon).max();
        let settles = self.settle.map(|settle| settle.until);
        self.settle_until(now, last.max(settles).unwrap_or(now));
    }

    /// Endpoints have changed: nothing is planned before `until`, put off by each further change, but not for ever.
    fn settle_until(&mut self, now: Time, until: Time) {
        let first = self.settle.filter(|settle| settle.until > now).map_or(now, |settle| settle.first);
        let latest = first + self.settings.limits.settle.saturating_mul(SETTLE_TIMES_MAX);
        self.settle = Some(Settle { first, until: until.min(latest) });
        self.trigger = Trigger::Endpoints;
    }

    fn find_endpoint(&mut self, now: Time, request: &Request<'_>) -> Result<usize, Refusal> {
        let mut except = [0; TRIED_MAX + 1];
        let mut count = 0;
        for index in request.tried.iter().filter_map(|id| self.slots.find(id)).take(TRIED_MAX) {
            if !except[..count].contains(&index) {
                except[count] = index;
                count += 1;
            }
        }
        let tried = count;
        if let Some(donor) = self.donor_above_share(request.client).filter(|i| !except[..count].contains(i)) {
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
    fn donor_above_share(&self, client: ClientKey) -> Option<usize> {
        let index = self.slots.find(self.ledger.donor(client)?)?;
        let slot = self.slots.at(index);
        (f64::from(slot.held()) >= self.shares().target(slot.weight)).then_some(index)
    }

    /// Of the surplus moves that were asked for, these began; so many could not.
    fn note_surplus(&mut self, now: Time, began: u32, missing: u32) {
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
    fn note_missing(&mut self, now: Time, missing: u32) {
        let Some(run) = &mut self.run else { return };
        if missing > 0 {
            run.next = run.next.min(now);
        }
    }

    /// A moved client is on its way back from now on.
    fn note_departure(&mut self, now: Time, donor: &EndpointId, visitor: Visitor) {
        self.moves.moved += 1;
        self.guard.note_departure(now);
        let moves = visitor.moves.saturating_add(1);
        let departure = Departure { donor: donor.clone(), moved_at: now, moves, passed: false };
        let expired = self.ledger.push(visitor.client, departure);
        self.note_expired(expired);
        self.settle_by_strangers(now);
    }

    /// Strangers beyond the usual stand for clients that are away.
    fn settle_by_strangers(&mut self, now: Time) {
        while self.ledger.away() > 0 && self.guard.take_stranger(now) {
            let was_late = self.ledger.late() > 0;
            self.ledger.credit();
            self.guard.note_return(None, was_late);
        }
    }

    fn note_expired(&mut self, expired: Expired) {
        if expired == Expired::default() {
            return;
        }
        self.moves.outcomes.never_returned += expired.lost;
        self.moves.outcomes.returned_elsewhere += expired.elsewhere;
        self.guard.note_lost(expired.lost, &self.settings.limits);
    }

    /// Counts where a moved client landed; called before its session is counted.
    fn note_return(&mut self, landed: &EndpointId, donor: &EndpointId) {
        let Some(index) = self.slots.find(landed) else { return };
        let slot = self.slots.at(index);
        // The client itself has just left the ledger and is still to be shared out.
        let mut shares = self.shares();
        shares.total += 1;
        let below = f64::from(slot.held()) <= shares.target(slot.weight);
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
    fn forget_empty(&mut self, now: Time, index: usize) {
        if self.slots.forget(now, index) {
            self.rebuild(now);
        }
    }
}
