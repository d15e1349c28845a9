//! The bookkeeping of one session: its slot, its place in the counts, and what is told when it ends.
//!
//! Whatever way the relay is dropped, the counts are given back: they can not leak. A session that migrates keeps its stay
//! and gets another slot. The relays of all protocols use the same stay, and say how a session ended by an [`Outcome`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use balance::Ended;
use model::Time;
use session::{Initiator, Leg, MigrateSpec, PinReason, Session};

use crate::admission::Permit;
use crate::pool::{PinCount, Ticket};
use crate::slot::{CutReason, Slot, Standing};
use crate::telemetry;
use crate::worker::{LoadGuard, Worker};

/// How a session ended, or is ending, as far as it has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Who began it. We, when the relay is dropped amid the session.
    pub initiator: Initiator,
    /// The code of the first Close, if there was one.
    pub code: Option<u16>,
    /// The endpoint broke it, without a Close.
    pub is_lost: bool,
    /// The client has answered our Close, or left by itself: it was there.
    pub has_client_answered: bool,
    /// Messages by leg.
    pub messages: [u64; 2],
    /// Messages by the leg that they were meant for and never came to.
    pub undeliverable: [u64; 2],
}

impl Outcome {
    /// Of a WebSocket session.
    pub fn of(session: &Session) -> Self {
        let (initiator, code) = match session.end() {
            Some(end) => (end.initiator, end.code),
            None => (Initiator::Gateway, None),
        };
        Self {
            initiator,
            code,
            is_lost: session.is_lost(),
            has_client_answered: session.has_client_answered(),
            messages: LEGS.map(|leg| session.messages_to(leg).into()),
            undeliverable: LEGS.map(|leg| session.undeliverable_to(leg).into()),
        }
    }
}

/// In the order of pairs of counts.
const LEGS: [Leg; 2] = [Leg::Downstream, Leg::Upstream];

/// Held by a relay for as long as its session lives.
pub struct Stay {
    /// What others see of the session.
    pub slot: Arc<Slot>,
    /// The thread it lives on.
    pub worker: Arc<Worker>,
    key: usize,
    /// Read for each leg.
    bytes: [u64; 2],
    detail: Box<Detail>,
}

/// What is needed at the end only.
struct Detail {
    _permit: Permit,
    _load: Arc<LoadGuard>,
    request_id: String,
    /// How much of what was read the worker's counters know.
    told_bytes: [u64; 2],
    lost_bytes: [u64; 2],
    cut: Option<CutReason>,
    /// The planner knows that the client is on its way back.
    is_leaving: bool,
    /// Why it can not be moved, if so: counted.
    pin: Option<PinCount>,
    /// Migrations that were given up since the last that was not.
    aborts: u32,
    /// Endpoints that it has left.
    migrations: u32,
    /// How long its client was not read for that.
    frozen: Duration,
}

impl Stay {
    /// Registers `slot` with `worker`.
    pub fn begin(
        worker: Arc<Worker>,
        slot: Arc<Slot>,
        permit: Permit,
        load: Arc<LoadGuard>,
        request_id: String,
    ) -> Self {
        let key = worker.insert(slot.clone());
        slot.pool.gauges.opened();
        let detail = Box::new(Detail {
            _permit: permit,
            _load: load,
            request_id,
            told_bytes: [0; 2],
            lost_bytes: [0; 2],
            cut: None,
            is_leaving: false,
            pin: None,
            aborts: 0,
            migrations: 0,
            frozen: Duration::ZERO,
        });
        Self { slot, worker, key, bytes: [0; 2], detail }
    }

    /// `n` bytes were read for `leg`.
    pub fn count_bytes(&mut self, leg: Leg, n: usize) {
        self.bytes[index(leg)] += n as u64;
    }

    /// Tells of what has happened since the last time.
    pub fn touch(&mut self, now: Time) {
        self.slot.touch(now);
        for ((counter, all), told) in
            self.worker.traffic.bytes.iter().zip(self.bytes).zip(&mut self.detail.told_bytes)
        {
            counter.fetch_add(all - *told, Relaxed);
            *told = all;
        }
    }

    /// `n` bytes that were meant for `leg` are lost.
    pub fn count_lost_bytes(&mut self, leg: Leg, n: usize) {
        self.detail.lost_bytes[index(leg)] += n as u64;
    }

    /// The session could not be shed. One that is ending anyway says so when it ends, and one whose client was told to
    /// go is gone whatever it sends.
    pub fn shed_refused(&mut self, now: Time, pin: PinReason) {
        if pin != PinReason::Opaque || self.detail.is_leaving {
            return;
        }
        let slot = &self.slot;
        slot.pool.plan(|planner| {
            if slot.change(&[Standing::Moving], Standing::Pinned).is_some() {
                planner.handle_closed(now, &slot.endpoint, Ended::MoveAborted, slot.visitor());
            }
        });
    }

    /// The session can not be moved for `reason` until it says otherwise. What passes by itself soon (a reply that is
    /// awaited, an ack) is no pin: it is found when a migration is tried.
    pub fn pin(&mut self, reason: &'static str) {
        if self.detail.pin.as_ref().is_some_and(|pin| pin.reason == reason) {
            return;
        }
        self.detail.pin = Some(PinCount::new(&self.slot.pool, reason));
        self.slot.pin(reason);
    }

    /// The session may be moved again.
    pub fn unpin(&mut self) {
        if self.detail.pin.take().is_some() {
            self.slot.unpin();
        }
    }

    /// A migration was given up, and the session goes on where it is. It is left alone for a while.
    pub fn aborted(&mut self, now: Time, spec: &MigrateSpec) {
        let detail = &mut self.detail;
        detail.aborts = detail.aborts.saturating_add(1);
        let left = spec.deadline.map(|deadline| deadline.since(now));
        let slot = &self.slot;
        // Before it may be chosen again.
        slot.rest_until(now + balance::rest(detail.aborts, left));
        let to = if detail.pin.is_some() { Standing::Pinned } else { Standing::Open };
        slot.pool.plan(|planner| {
            if slot.change(&[Standing::Moving], to).is_some() {
                planner.handle_closed(now, &slot.endpoint, Ended::MoveAborted, slot.visitor());
            }
        });
    }

    /// The session goes on at the endpoint of `ticket`: call it once nothing can bring it back to where it was, and never
    /// after [`Self::leaving`]. It has another slot from now on, which wakes the same task. A command that the old one
    /// still holds is dropped: it was about the old endpoint, and who still wants it finds the new slot.
    pub fn migrated(&mut self, ticket: Ticket, frozen: Duration) {
        let old = self.slot.clone();
        let waker = old.detach();
        let was_moving = || old.end() == Standing::Moving;
        let (endpoint, opened) = ticket.took_over(&old.endpoint, old.visitor(), was_moving);
        let pin = self.detail.pin.as_ref().map(|pin| pin.reason);
        let new = Arc::new(old.successor(endpoint, opened, pin));
        if let Some(waker) = waker {
            new.attach(&waker);
        }
        self.worker.replace(self.key, new.clone());
        let deadline = old.deadline();
        old.set_deadline(None);
        if new.set_deadline(deadline) {
            self.worker.watch(new.clone());
        }
        self.slot = new;
        self.detail.aborts = 0;
        self.detail.migrations += 1;
        self.detail.frozen += frozen;
    }

    /// The session has begun to end. One that is being moved may have its client back before its streams are done,
    /// so the planner is told now.
    pub fn leaving(&mut self, now: Time, outcome: impl FnOnce() -> Outcome) {
        if self.detail.is_leaving || self.how_it_ended(&outcome(), self.slot.standing()) != Ended::Moved {
            return;
        }
        self.detail.is_leaving = true;
        let slot = &self.slot;
        slot.pool.plan(|planner| planner.handle_leaving(now, &slot.endpoint, slot.visitor()));
    }

    /// The session is being cut.
    pub fn cut(&mut self, reason: CutReason) {
        self.detail.cut = Some(reason);
    }

    /// A malformed frame was seen: the session stays where it is, a move under way is given up.
    pub fn became_opaque(&mut self, now: Time) {
        self.shed_refused(now, PinReason::Opaque);
        let from = [Standing::Open, Standing::Moving];
        self.slot.change(if self.detail.is_leaving { &from } else { &from[..1] }, Standing::Pinned);
        self.detail.pin = Some(PinCount::new(&self.slot.pool, "opaque"));
        telemetry::opaque(&self.slot.pool.name);
        tracing::debug!(pool = %self.slot.pool.name, endpoint = %self.slot.endpoint,
            request_id = %self.detail.request_id, "malformed frame: the session is relayed as raw bytes from here on");
    }

    /// The relay has a deadline: its worker should look after it.
    pub fn watch_deadline(&self) {
        self.worker.watch(self.slot.clone());
    }

    /// The relay is gone.
    pub fn ended(&mut self, now: Time, outcome: &Outcome) {
        self.touch(now);
        self.slot.detach();
        self.worker.remove(self.key);
        let slot = &self.slot;
        let stood = slot.pool.plan(|planner| {
            let stood = slot.end();
            let ended = match self.detail.is_leaving {
                true if outcome.has_client_answered => Ended::Gone,
                true => Ended::Unanswered,
                false => self.how_it_ended(outcome, stood),
            };
            planner.handle_closed(now, &slot.endpoint, ended, slot.visitor());
            stood
        });
        slot.pool.gauges.closed();
        for leg in LEGS {
            let (lost, count) = (self.detail.lost_bytes[index(leg)], outcome.undeliverable[index(leg)]);
            telemetry::undeliverable(&slot.pool.name, leg, count, lost);
            self.worker.traffic.messages[index(leg)].fetch_add(outcome.messages[index(leg)], Relaxed);
        }
        slot.pool.metrics.ended(&slot.pool.name, outcome.initiator, self.detail.cut);
        self.log_access(now, outcome, stood == Standing::Moving);
    }

    fn how_it_ended(&self, outcome: &Outcome, stood: Standing) -> Ended {
        let by_us = outcome.initiator == Initiator::Gateway;
        let told = self.slot.terms.may_notify;
        match stood {
            Standing::Moving if by_us || told => Ended::Moved,
            Standing::Moving => Ended::LeftWhileMoving,
            Standing::Open | Standing::Pinned | Standing::Ending if outcome.is_lost => Ended::Lost,
            Standing::Open | Standing::Pinned | Standing::Ending => Ended::Left,
        }
    }

    fn log_access(&self, now: Time, outcome: &Outcome, moved: bool) {
        if !self.worker.logs_access() {
            return;
        }
        let slot = &self.slot;
        tracing::info!(
            target: "access",
            pool = %slot.pool.name,
            endpoint = %slot.endpoint,
            client = %slot.client,
            request_id = %self.detail.request_id,
            duration_ms = now.since(slot.opened).as_millis() as u64,
            bytes_to_endpoint = self.bytes[1],
            bytes_to_client = self.bytes[0],
            messages_to_endpoint = outcome.messages[1],
            messages_to_client = outcome.messages[0],
            undeliverable_to_endpoint = outcome.undeliverable[1],
            undeliverable_to_client = outcome.undeliverable[0],
            ended_by = telemetry::initiator(outcome.initiator),
            cut = self.detail.cut.map(telemetry::cut_reason),
            moved,
            migrations = self.detail.migrations,
            frozen_ms = self.detail.frozen.as_millis() as u64,
            close_code = outcome.code,
            "session ended"
        );
    }
}

/// The place of a leg in pairs of counts.
pub const fn index(leg: Leg) -> usize {
    match leg {
        Leg::Downstream => 0,
        Leg::Upstream => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use balance::MoveReason;
    use model::EndpointId;
    use session::Fallback;

    use super::*;
    use crate::clock::Clock;
    use crate::pool::RetiredCount;
    use crate::slot::Command;
    use crate::testing::{begin, begin_move, next, pool, status, sums};

    const SPEC: MigrateSpec = MigrateSpec { reason: "surplus", deadline: None, fallback: Fallback::Stay };

    struct Woken;

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {}
    }

    fn outcome(initiator: Initiator) -> Outcome {
        let (messages, undeliverable) = ([0; 2], [0; 2]);
        Outcome { initiator, code: None, is_lost: false, has_client_answered: true, messages, undeliverable }
    }

    #[test]
    fn a_session_that_migrates_keeps_its_stay_and_gets_another_slot() {
        let clock = Clock::start();
        let (pool, worker) = (pool(clock), Worker::new(clock));
        let mut stay = begin(&pool, &worker);
        let old = stay.slot.clone();
        old.attach(&Waker::from(Arc::new(Woken)));
        let deadline = clock.now() + Duration::from_secs(1);
        assert!(old.set_deadline(Some(deadline)));
        assert!(begin_move(&old));
        let ticket = next(&stay);
        assert_eq!(sums(&pool), (1, 1, 1));
        stay.migrated(ticket, Duration::ZERO);
        assert_eq!(sums(&pool), (1, 0, 0));
        let new = stay.slot.clone();
        assert_ne!(new.endpoint, old.endpoint);
        assert_eq!((new.standing(), new.terms.moves, new.deadline()), (Standing::Open, 1, Some(deadline)));
        assert!(!new.set_deadline(Some(deadline)), "its worker looks after it already");
        assert_eq!((old.standing(), old.deadline()), (Standing::Ending, None));
        let mut seen = Vec::new();
        worker.for_each(|slot| seen.push(slot.endpoint.clone()));
        assert_eq!(seen, std::slice::from_ref(&new.endpoint));
        assert!(new.detach().is_some(), "the same task is woken");
        // Without an order, because its endpoint failed.
        let ticket = next(&stay);
        stay.migrated(ticket, Duration::ZERO);
        let moves = status(&pool).moves;
        assert_eq!((moves.began, moves.migrated), (1, 1));
        stay.ended(clock.now(), &outcome(Initiator::Client));
        assert_eq!((sums(&pool), pool.gauges.sessions()), ((0, 0, 0), 0));
        assert_eq!(status(&pool).away, 0);
    }

    #[test]
    fn a_migration_that_was_given_up_leaves_the_session_where_it_was_and_at_rest() {
        let clock = Clock::start();
        let (pool, worker) = (pool(clock), Worker::new(clock));
        let mut stay = begin(&pool, &worker);
        let before = stay.slot.endpoint.clone();
        assert!(begin_move(&stay.slot));
        drop(next(&stay));
        let now = clock.now();
        stay.aborted(now, &SPEC);
        assert_eq!((sums(&pool), stay.slot.standing()), ((1, 0, 0), Standing::Open));
        let candidate = stay.slot.candidate(0, MoveReason::Draining, false);
        assert_eq!((candidate.pin, candidate.resting_until), (None, now + balance::rest(1, None)));
        assert!(begin_move(&stay.slot));
        stay.pin("exclusive_queue");
        stay.aborted(now, &SPEC);
        assert_eq!((stay.slot.standing(), &stay.slot.endpoint), (Standing::Pinned, &before));
        assert_eq!(
            stay.slot.candidate(0, MoveReason::Draining, false).resting_until,
            now + balance::rest(2, None)
        );
        assert_eq!(status(&pool).moves.aborted, 2);
        stay.ended(now, &outcome(Initiator::Client));
        assert_eq!(sums(&pool), (0, 0, 0));
    }

    #[test]
    fn pins_are_counted_by_reason_and_vanish_with_the_session() {
        let clock = Clock::start();
        let (pool, worker) = (pool(clock), Worker::new(clock));
        let mut stay = begin(&pool, &worker);
        stay.pin("exclusive_queue");
        stay.pin("exclusive_queue");
        assert_eq!(pool.gauges.pinned(), [("exclusive_queue", 1)].into());
        stay.pin("stream");
        assert_eq!(pool.gauges.pinned(), [("exclusive_queue", 0), ("stream", 1)].into());
        stay.migrated(next(&stay), Duration::ZERO);
        assert_eq!(stay.slot.standing(), Standing::Pinned);
        stay.unpin();
        assert_eq!((stay.slot.standing(), pool.gauges.pinned()["stream"]), (Standing::Open, 0));
        stay.pin("stream");
        stay.ended(clock.now(), &outcome(Initiator::Client));
        drop(stay);
        assert_eq!(pool.gauges.pinned()["stream"], 0);
    }

    #[test]
    fn an_endpoint_is_empty_when_the_connections_that_sessions_left_are_closed_too() {
        let clock = Clock::start();
        let (pool, worker) = (pool(clock), Worker::new(clock));
        let mut stay = begin(&pool, &worker);
        let from = stay.slot.endpoint.clone();
        let ticket = next(&stay);
        let (to, retired) = (ticket.endpoint.clone(), RetiredCount::new(&pool, from.clone()));
        let left = |endpoint: &EndpointId| pool.left(clock.now(), endpoint);
        assert_eq!((left(&from), left(&to)), (2, 1));
        stay.migrated(ticket, Duration::ZERO);
        assert_eq!((left(&from), left(&to)), (1, 1));
        drop(retired);
        assert_eq!((left(&from), left(&"nobody".into())), (0, 0));
        stay.ended(clock.now(), &outcome(Initiator::Client));
        assert_eq!(left(&to), 0);
    }

    #[test]
    fn a_client_that_is_closed_amid_its_migration_is_expected_back_and_one_that_leaves_is_not() {
        let clock = Clock::start();
        for (initiator, away) in [(Initiator::Gateway, 1), (Initiator::Client, 0)] {
            let (pool, worker) = (pool(clock), Worker::new(clock));
            let mut stay = begin(&pool, &worker);
            assert!(begin_move(&stay.slot));
            let ticket = next(&stay);
            stay.leaving(clock.now(), || outcome(initiator));
            stay.ended(clock.now(), &outcome(initiator));
            drop(ticket);
            assert_eq!((sums(&pool), status(&pool).away), ((0, 0, 0), away), "{initiator:?}");
        }
    }

    #[test]
    fn no_count_leaks_when_migrations_race_with_moves_and_commands() {
        let clock = Clock::start();
        let (pool, worker) = (pool(clock), Worker::new(clock));
        let mut stay = begin(&pool, &worker);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    let mut slots = Vec::new();
                    worker.for_each(|slot| slots.push(slot.clone()));
                    for slot in slots {
                        let command = match begin_move(&slot) {
                            true => Command::Migrate(Arc::new(SPEC)),
                            false => Command::CutIdle(Duration::from_secs(1)),
                        };
                        slot.command(command);
                    }
                }
            });
            let mut round = 0;
            let is_enough = |moves: balance::MoveCounts| moves.migrated >= 200 && moves.aborted >= 50;
            while !is_enough(status(&pool).moves) {
                round += 1;
                assert!(round < 10_000_000, "nobody moves the session: {:?}", status(&pool).moves);
                let ticket = next(&stay);
                match (stay.slot.take_command(), round % 3) {
                    (Some(Command::Migrate(spec)), 0) => stay.aborted(clock.now(), &spec),
                    _ => stay.migrated(ticket, Duration::ZERO),
                }
            }
            done.store(true, Relaxed);
        });
        stay.ended(clock.now(), &outcome(Initiator::Client));
        assert_eq!((sums(&pool), worker.unread.load(Relaxed)), ((0, 0, 0), 0));
        let moves = status(&pool).moves;
        assert_eq!(moves.began, moves.migrated + moves.aborted + moves.left);
    }
}
