//! The bookkeeping of one session: its slot, its place in the counts, and what is told when it ends.
//!
//! Whatever way the relay is dropped, the counts are given back: they can not leak.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use balance::Ended;
use model::Time;
use session::{Initiator, Leg, PinReason, Session};

use crate::admission::Permit;
use crate::slot::{CutReason, Slot, Standing};
use crate::telemetry;
use crate::worker::{LoadGuard, Worker};

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

    /// The session has begun to end. One that is being moved may have its client back before its streams are done,
    /// so the planner is told now.
    pub fn leaving(&mut self, now: Time, session: &Session) {
        if self.detail.is_leaving || self.how_it_ended(session, self.slot.standing()) != Ended::Moved {
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
        telemetry::opaque(&self.slot.pool.name);
        tracing::debug!(pool = %self.slot.pool.name, endpoint = %self.slot.endpoint,
            request_id = %self.detail.request_id, "malformed frame: the session is relayed as raw bytes from here on");
    }

    /// The relay has a deadline: its worker should look after it.
    pub fn watch_deadline(&self) {
        self.worker.watch(self.slot.clone());
    }

    /// The relay is gone.
    pub fn ended(&mut self, now: Time, session: &Session) {
        self.touch(now);
        self.slot.detach();
        self.worker.remove(self.key);
        let slot = &self.slot;
        let stood = slot.pool.plan(|planner| {
            let stood = slot.end();
            let ended = match self.detail.is_leaving {
                true if session.has_client_answered() => Ended::Gone,
                true => Ended::Unanswered,
                false => self.how_it_ended(session, stood),
            };
            planner.handle_closed(now, &slot.endpoint, ended, slot.visitor());
            stood
        });
        slot.pool.gauges.closed();
        let undeliverable = [Leg::Downstream, Leg::Upstream].map(|leg| session.undeliverable_to(leg));
        for (leg, count) in [Leg::Downstream, Leg::Upstream].into_iter().zip(undeliverable) {
            telemetry::undeliverable(
                &slot.pool.name,
                leg,
                u64::from(count),
                self.detail.lost_bytes[index(leg)],
            );
            self.worker.traffic.messages[index(leg)].fetch_add(u64::from(session.messages_to(leg)), Relaxed);
        }
        let (initiator, code) = match session.end() {
            Some(end) => (end.initiator, end.code),
            None => (Initiator::Gateway, None),
        };
        slot.pool.metrics.ended(&slot.pool.name, initiator, self.detail.cut);
        let moved = stood == Standing::Moving;
        self.log_access(now, session, (initiator, code), moved, undeliverable);
    }

    fn how_it_ended(&self, session: &Session, stood: Standing) -> Ended {
        let by_us = session.end().is_none_or(|end| end.initiator == Initiator::Gateway);
        let told = self.slot.terms.may_notify;
        match stood {
            Standing::Moving if by_us || told => Ended::Moved,
            Standing::Moving => Ended::LeftWhileMoving,
            Standing::Open | Standing::Pinned | Standing::Ending if session.is_lost() => Ended::Lost,
            Standing::Open | Standing::Pinned | Standing::Ending => Ended::Left,
        }
    }

    fn log_access(
        &self,
        now: Time,
        session: &Session,
        (initiator, code): (Initiator, Option<u16>),
        moved: bool,
        undeliverable: [u32; 2],
    ) {
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
            messages_to_endpoint = session.messages_to(Leg::Upstream),
            messages_to_client = session.messages_to(Leg::Downstream),
            undeliverable_to_endpoint = undeliverable[1],
            undeliverable_to_client = undeliverable[0],
            ended_by = telemetry::initiator(initiator),
            cut = self.detail.cut.map(telemetry::cut_reason),
            moved,
            close_code = code,
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
