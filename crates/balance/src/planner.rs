//! The planner of one pool: counts in, picks and moves out.
//!
//! How it decides is in `pick`, `level`, `drain`, `age`, `returns` and `admission`; here are its state and the contract,
//! in `bookkeeping` what goes on behind it.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Endpoint, EndpointId, Time};

use crate::admission::Gate;
use crate::age::AGE_HOLD;
use crate::drain::HOLD;
use crate::ledger::Ledger;
use crate::level::Run;
use crate::pace::{Adaptive, Bucket};
use crate::random::Random;
use crate::returns::ReturnGuard;
use crate::slots::Slots;
use crate::{
    Action, Admitted, ClientKey, Ended, Move, MoveCounts, Opened, Pick, Purpose, Refusal, Report, Request,
    Settings, Trigger, Visitor,
};

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
/// - end every [`Pick`] with exactly one `handle_opened`, `handle_migrated`, `handle_replaced`, `handle_pick_failed` or
///   `handle_released`; a pick for [`Purpose::Migration`] names the session's own endpoint among the tried,
/// - end every `handle_opened` with exactly one `handle_closed` of an [`Ended`] other than `MoveAborted`; it names the
///   endpoint that the last `handle_migrated` or `handle_replaced` gave the session,
/// - answer every [`Move`] with `handle_moves_began`, in one or several parts whose `asked` add up to its count,
/// - end every begun move with exactly one `handle_migrated`, or `handle_closed` that is not `Left` or `Lost`. A move
///   that begins without a `Move` is told with `begin_moves_unasked`.
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
    pub(crate) reports: VecDeque<Report>,
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
    pub(crate) first: Time,
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
            // A request that is tried again has been let in, and so has a client that we have moved ourselves. One
            // that migrates has never left.
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
        let expires_at = self.expires_at(now);
        let limits = &self.settings.limits;
        let mut opened = Opened { cooling_until: now + limits.min_age, moves: 0, expires_at };
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
        let (for_age, for_tier) = self.slots.update(now, index, |slot| {
            let (for_age, for_tier) = (slot.asked_for_age > 0, slot.asked_for_tier > 0);
            slot.asked = slot.asked.saturating_sub(asked);
            slot.asked_for_age = slot.asked_for_age.saturating_sub(asked);
            slot.asked_for_tier = slot.asked_for_tier.saturating_sub(asked);
            slot.moving = slot.moving.saturating_add(began);
            if for_tier {
                // Whoever levels the tier waits, not the endpoint.
                return (for_age, for_tier);
            }
            slot.misses = if began > 0 { 0 } else { slot.misses.saturating_add(1) };
            if missing > 0 && for_age {
                slot.age_hold_until = now + AGE_HOLD;
            } else if missing > 0 {
                let doublings = slot.misses.saturating_sub(1).min(HOLD_DOUBLINGS_MAX);
                slot.hold_until = now + hold.unwrap_or(HOLD * (1 << doublings));
            }
            (for_age, for_tier)
        });
        self.moves.began += u64::from(began);
        if missing > 0 && drain_since.is_none() && !for_tier {
            let rate = self.rate();
            self.bucket.give_back(rate, missing);
        }
        if drain_since.is_none() && !for_age && !for_tier {
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
            Ended::MoveAborted => self.note_aborted(index),
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
}
