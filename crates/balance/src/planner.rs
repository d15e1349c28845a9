//! The planner of one pool: counts in, picks and moves out.
//!
//! How it decides is in `pick`, `level` and `drain`; here is its state, the contract, and the bookkeeping.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Endpoint, EndpointId, EndpointState, Time};

use crate::drain::HOLD;
use crate::ledger::{Departure, Ledger};
use crate::pace::Bucket;
use crate::random::Random;
use crate::slot::Slot;
use crate::{MoveCounts, Pick, Refusal, Report, Settings};

/// Endpoint changes that never pause for `settle` delay a plan by at most this many times `settle`.
const SETTLE_TIMES_MAX: u32 = 12;

/// Who a client is, as far as its return can be recognised: its address, opaque here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey(pub u128);

/// Who asks for an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client.
    pub client: ClientKey,
    /// What for.
    pub purpose: Purpose,
    /// With [`Policy::ConsistentHash`](crate::Policy): [`crate::hash_key`] of the key. `None`: the client is the key.
    pub hash: Option<u64>,
    /// Endpoints that have failed this request already.
    pub tried: &'a [EndpointId],
}

/// What an endpoint is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A session, subject to `admission`.
    Session,
    /// A plain request, which is over soon.
    Request,
}

/// Who a session belongs to, and how often it was moved before it opened here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The client.
    pub client: ClientKey,
    /// [`Opened::moves`].
    pub moves: u32,
}

/// What the planner wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Move sessions away.
    Move(Move),
    /// Tell the operator.
    Tell(Report),
}

/// One line of the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Whose sessions.
    pub from: EndpointId,
    /// How many, at least 1. Which ones: [`crate::victims::choose`].
    pub count: u32,
    /// Why.
    pub reason: MoveReason,
    /// When they must be gone; a notice or a wait for quiet must not reach beyond it.
    pub deadline: Option<Time>,
}

/// Why sessions are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveReason {
    /// The endpoint is above its share.
    Surplus,
    /// The endpoint goes away.
    Draining,
    /// The session is older than `max_age`.
    MaxAge,
}

impl MoveReason {
    /// As it is written in metrics, logs and notices.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Surplus => "surplus",
            Self::Draining => "draining",
            Self::MaxAge => "max_age",
        }
    }
}

/// How a session, or its move, ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By itself; no move was under way.
    Left,
    /// The endpoint broke it, with no move under way.
    Lost,
    /// Because of its move: we closed it, or the client left after a notice. It is expected back.
    Moved,
    /// The same, after `handle_leaving` has told of it.
    Gone,
    /// The move was given up; the session lives on where it is.
    MoveAborted,
    /// By itself, before its move had told the client anything. It is not expected back.
    LeftWhileMoving,
}

/// What a new session is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// It may not be moved for balance before this moment.
    pub cooling_until: Time,
    /// How often this client was moved lately, as far as it was recognised.
    pub moves: u32,
    /// With `max_age`: when it is to be moved for its age.
    pub expires_at: Option<Time>,
}

/// One pool at one replica.
///
/// Kinds of methods: `pick` and `handle_*` tell it what happens and change counts; `poll_action` says what to do,
/// `poll_timeout` when to ask again; `status` only looks. `now` never goes backwards.
///
/// Order: after any `handle_*`, and when `poll_timeout` is reached, call `poll_action` until it gives `None`, then
/// `poll_timeout`.
///
/// The caller must
/// - end every [`Pick`] with exactly one `handle_opened` or `handle_pick_failed`,
/// - end every `handle_opened` with exactly one `handle_closed` of an [`Ended`] other than `MoveAborted`,
/// - answer every [`Move`] with `handle_moves_began`, in one or several parts whose `asked` add up to its count,
/// - end every begun move with exactly one `handle_closed` that is not `Left`.
///
/// A caller that fails in this gets wrong numbers, never a panic. Names that the planner does not know are ignored.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(crate) settings: Settings,
    /// Ready gateway replicas that share the tier's budgets, this one included.
    pub(crate) replicas: u32,
    pub(crate) paused: bool,
    pub(crate) random: Random,
    /// Ordered by id.
    pub(crate) slots: Vec<Slot>,
    pub(crate) ledger: Ledger,
    pub(crate) bucket: Bucket,
    pub(crate) moves: MoveCounts,
    /// Planned and counted as asked, not yet handed out.
    pub(crate) queue: VecDeque<Move>,
    /// Present: the endpoint set has changed and nothing is levelled before.
    pub(crate) settle: Option<Settle>,
    /// The next check for drift.
    pub(crate) next_check: Time,
    /// Started and not yet below `stop_ratio`.
    pub(crate) levelling: bool,
    /// While levelling: when the next batch can be planned. `None`: when a move ends.
    pub(crate) level_at: Option<Time>,
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
            settings,
            replicas: 1,
            paused: false,
            random: Random::new(seed),
            slots: Vec::new(),
            ledger: Ledger::default(),
            bucket: Bucket::default(),
            moves: MoveCounts::default(),
            queue: VecDeque::new(),
            settle: None,
            next_check: Time::ZERO,
            levelling: false,
            level_at: None,
        }
    }

    /// Takes other settings; counts, the ledger and moves under way stay. The pool is checked at once.
    pub fn reconfigure(&mut self, now: Time, settings: Settings) {
        if self.settings != settings {
            self.settings = settings;
            self.next_check = now;
        }
    }

    /// So many gateway replicas are ready now, this one included: each has its part of the tier's budgets.
    pub fn handle_replicas(&mut self, _now: Time, ready: u32) {
        self.replicas = ready.max(1);
    }

    /// The endpoints as discovery sees them now: the whole list, in any order; of equal ids the first counts.
    ///
    /// Counts survive. One that is missing and still has sessions is kept and drained like a terminating one.
    pub fn handle_endpoints(&mut self, now: Time, endpoints: &[Endpoint]) {
        let mut listed: Vec<&Endpoint> = endpoints.iter().collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        listed.dedup_by(|later, first| later.id == first.id);
        let mut changed = false;
        let known = self.slots.len();
        for endpoint in &listed {
            match self.slots[..known].binary_search_by(|slot| slot.id.cmp(&endpoint.id)) {
                Ok(index) => changed |= self.slots[index].refresh(now, endpoint),
                Err(_) => {
                    self.slots.push(Slot::new(now, endpoint));
                    changed = true;
                }
            }
        }
        for slot in &mut self.slots[..known] {
            let missing = listed.binary_search_by(|endpoint| endpoint.id.cmp(&slot.id)).is_err();
            changed |= missing && slot.listed;
            slot.listed = !missing;
            if missing {
                slot.enter(now, EndpointState::Terminating);
            }
        }
        self.slots.retain(|slot| slot.listed || !slot.is_empty());
        self.slots.sort_by(|a, b| a.id.cmp(&b.id));
        if changed {
            let first = self.settle.map_or(now, |settle| settle.first);
            let latest = first + self.settings.limits.settle.saturating_mul(SETTLE_TIMES_MAX);
            self.settle = Some(Settle { first, until: (now + self.settings.limits.settle).min(latest) });
        }
    }

    /// Picks an endpoint for a new session or request, and counts it as in flight there.
    ///
    /// # Errors
    /// [`Refusal`]: what to answer instead.
    pub fn pick(&mut self, _now: Time, request: &Request<'_>) -> Result<Pick, Refusal> {
        let index = self.choose(request.tried).ok_or(Refusal::NoEndpoint)?;
        let slot = &mut self.slots[index];
        slot.pending = slot.pending.saturating_add(1);
        Ok(Pick { endpoint: slot.id.clone(), address: slot.address })
    }

    /// A pick ended without a session, and not by the endpoint's fault: a plain request is done, or the client left.
    pub fn handle_released(&mut self, now: Time, endpoint: &EndpointId) {
        self.handle_pick_failed(now, endpoint);
    }

    /// A pick ended without a session because the dial or the handshake failed.
    pub fn handle_pick_failed(&mut self, _now: Time, endpoint: &EndpointId) {
        let Some(slot) = self.slot(endpoint) else { return };
        slot.pending = slot.pending.saturating_sub(1);
        self.forget_empty(endpoint);
    }

    /// A pick became a session after a handshake that took so long. A client that is recognised as moved before is
    /// cooling down.
    pub fn handle_opened(
        &mut self,
        now: Time,
        endpoint: &EndpointId,
        client: ClientKey,
        _took: Duration,
    ) -> Opened {
        self.expire(now);
        let mut cooling_until = now + self.settings.limits.min_age;
        if let Some(departure) = self.ledger.take(client) {
            cooling_until = cooling_until.max(departure.moved_at + self.settings.limits.cooldown);
            self.note_return(endpoint, &departure.donor);
        }
        if let Some(slot) = self.slot(endpoint) {
            slot.pending = slot.pending.saturating_sub(1);
            slot.sessions = slot.sessions.saturating_add(1);
        }
        Opened { cooling_until, moves: 0, expires_at: None }
    }

    /// Answers a [`Move`], whole or in parts: of `asked` sessions, `began` are being moved now. When it is fewer,
    /// not enough may be moved, and the endpoint is left alone for a second.
    pub fn handle_moves_began(&mut self, now: Time, from: &EndpointId, asked: u32, began: u32) {
        let rate = self.rate();
        let Some(slot) = self.slot(from) else { return };
        let began = began.min(asked);
        let missing = asked - began;
        slot.asked = slot.asked.saturating_sub(asked);
        slot.moving = slot.moving.saturating_add(began);
        let drain_since = slot.drain_since;
        self.moves.began += u64::from(began);
        if missing > 0 {
            let hold = drain_since.map_or(HOLD, |since| self.drain_hold(now, since));
            if let Some(slot) = self.slot(from) {
                slot.hold_until = now + hold;
            }
            if drain_since.is_none() {
                self.bucket.give_back(rate, missing);
                // Levelling is not over: what was counted as on its way is still here, and another may give now.
                self.levelling = true;
                self.wake(now);
            }
        }
        self.forget_empty(from);
    }

    /// The client of a session that is being moved has been told to go, or has begun to: it may be back before its
    /// old connection has ended. At most once a session, which then ends with [`Ended::Gone`].
    pub fn handle_leaving(&mut self, now: Time, endpoint: &EndpointId, visitor: Visitor) {
        let Some(slot) = self.slot(endpoint) else { return };
        slot.leaving = slot.leaving.saturating_add(1);
        self.note_departure(now, endpoint, visitor.client);
    }

    /// A session ended, or only its move did: see [`Ended`].
    pub fn handle_closed(&mut self, now: Time, endpoint: &EndpointId, ended: Ended, visitor: Visitor) {
        let Some(slot) = self.slot(endpoint) else { return };
        match ended {
            Ended::Left | Ended::Lost => slot.sessions = slot.sessions.saturating_sub(1),
            Ended::MoveAborted => {
                slot.moving = slot.moving.saturating_sub(1);
                self.moves.aborted += 1;
            }
            Ended::Moved => {
                slot.moving = slot.moving.saturating_sub(1);
                slot.sessions = slot.sessions.saturating_sub(1);
                self.note_departure(now, endpoint, visitor.client);
            }
            Ended::Gone => {
                slot.moving = slot.moving.saturating_sub(1);
                slot.sessions = slot.sessions.saturating_sub(1);
                slot.leaving = slot.leaving.saturating_sub(1);
            }
            Ended::LeftWhileMoving => {
                slot.moving = slot.moving.saturating_sub(1);
                slot.sessions = slot.sessions.saturating_sub(1);
                self.moves.left += 1;
            }
        }
        if ended != Ended::Left && self.level_at.is_none() {
            self.wake(now);
        }
        self.forget_empty(endpoint);
    }

    /// What to do now. Call until `None`.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        self.expire(now);
        if self.queue.is_empty() {
            if let Some(drain) = self.next_drain(now) {
                return Some(Action::Move(drain));
            }
            self.plan_surplus(now);
        }
        self.queue.pop_front().map(Action::Move)
    }

    /// When `poll_action` could next give something without a new event, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let drain = self.drain_timeout().map(|at| (at, "an endpoint drains"));
        let surplus = match (self.settings.limits.enabled, self.settle) {
            (false, _) => None,
            (true, Some(settle)) => Some((settle.until, "endpoint changes settle")),
            (true, None) => {
                let batch = self.level_at.filter(|_| self.levelling).map(|at| (at, "sessions are levelled"));
                batch.into_iter().chain([(self.next_check, "drift check")]).min()
            }
        };
        let planned = (!self.queue.is_empty()).then_some((Time::ZERO, "planned moves wait"));
        [drain, surplus, planned].into_iter().flatten().min()
    }

    fn slot(&mut self, id: &EndpointId) -> Option<&mut Slot> {
        let index = self.slots.binary_search_by(|slot| slot.id.cmp(id)).ok()?;
        Some(&mut self.slots[index])
    }

    /// While levelling: plan again at `at`, or before.
    fn wake(&mut self, at: Time) {
        self.level_at = Some(self.level_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Gives up on clients that have been away for too long.
    fn expire(&mut self, now: Time) {
        self.moves.outcomes.never_returned += self.ledger.expire(now, self.settings.limits.return_timeout);
    }

    /// A moved client is on its way back from now on.
    fn note_departure(&mut self, now: Time, donor: &EndpointId, client: ClientKey) {
        self.moves.moved += 1;
        self.expire(now);
        let departure = Departure { donor: donor.clone(), moved_at: now };
        self.moves.outcomes.never_returned += self.ledger.push(client, departure);
    }

    /// Counts where a moved client landed; called before its session is counted.
    fn note_return(&mut self, landed: &EndpointId, donor: &EndpointId) {
        // The client itself has just left the ledger and is still to be shared out.
        let shares = self.shares(self.ledger.len() + 1);
        let Some(slot) = self.slot(landed) else { return };
        let below = f64::from(slot.held()) <= shares.target(slot.weight);
        let outcomes = &mut self.moves.outcomes;
        let outcome = match (landed == donor, below) {
            (true, _) => &mut outcomes.returned_to_donor,
            (false, true) => &mut outcomes.returned_to_target,
            (false, false) => &mut outcomes.returned_elsewhere,
        };
        *outcome += 1;
    }

    /// An endpoint that is gone from discovery goes for good with its last session.
    fn forget_empty(&mut self, id: &EndpointId) {
        let Ok(index) = self.slots.binary_search_by(|slot| slot.id.cmp(id)) else { return };
        if !self.slots[index].listed && self.slots[index].is_empty() {
            self.slots.remove(index);
        }
    }
}
