//! What the relay does with its legs when it is told to: commands of the gateway, events of the session, the dial of another
//! endpoint.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp::code;
use model::{EndpointId, Time};
use session::{Abort, AmqpEvent, AmqpLeg, AmqpPin, Fallback, MigrateSpec, Retiree};

use super::dial::{Dial, dial};
use super::reach;
use super::relay::Relay;
use super::retire::retire;
use super::side::Side;
use crate::io::Io;
use crate::pool::{RetiredCount, Ticket};
use crate::slot::{Command, CutReason};
use crate::telemetry::{self, Migration};

/// With less than this left before its deadline a session is closed rather than tried again: its client may need that long
/// for its acks.
const LAST_TRY: Duration = Duration::from_secs(5);

/// The move under way, if any.
#[derive(Default)]
pub struct Moving {
    /// What was asked for. `None` while a lost endpoint is replaced.
    spec: Option<Arc<MigrateSpec>>,
    dial: Option<Dial>,
    /// The next endpoint's pick, until the session has gone over.
    ticket: Option<Ticket>,
    /// The session is there already, but not yet its own.
    switched: bool,
}

impl Relay {
    pub(super) fn obey(&mut self, now: Time, command: Command) {
        let settings = self.settings();
        match command {
            Command::Migrate(spec) => match self.begin_migration(now, &spec) {
                Ok(()) => self.rare.moving.spec = Some(spec),
                // It says so when it ends.
                Err(AmqpPin::Ending) => {}
                Err(pin) => self.fall_back(now, &spec, Abort::Pinned(pin)),
            },
            Command::Shed(spec) => {
                let deadline = now + spec.wait;
                // One that is over the switch, or ending, has another slot, or none, in a moment.
                self.session.begin_shed(now, &settings, deadline, true).ok();
            }
            Command::Hasten(spec) => {
                if self.session.end().is_none() {
                    let text = format!("CONNECTION_FORCED - {}; connect again", spec.reason);
                    self.session.cut(now, &settings, code::CONNECTION_FORCED, &text);
                }
            }
            Command::CutIdle(limit) if now.since(self.active_at()) < limit => {
                self.stay.slot.touch(self.active_at());
            }
            Command::CutIdle(_) => self.obey(now, Command::Cut(CutReason::Idle)),
            Command::Cut(reason) => {
                self.stay.cut(reason);
                let text = format!("CONNECTION_FORCED - {}", telemetry::cut_reason(reason));
                self.session.cut(now, &settings, code::CONNECTION_FORCED, &text);
                if reason == CutReason::WriteStall {
                    // It would not take a Close either.
                    for leg in [AmqpLeg::Downstream, AmqpLeg::Upstream] {
                        if self.side(leg).is_some_and(|side| side.waits() > 0) {
                            self.broken(now, leg);
                        }
                    }
                }
            }
        }
    }

    /// A session that has to go has more time for its acks than one that only should.
    fn begin_migration(&mut self, now: Time, spec: &MigrateSpec) -> Result<(), AmqpPin> {
        let settings = self.settings();
        match (spec.fallback, spec.deadline) {
            (Fallback::Close, Some(deadline)) => self.session.begin_evacuation(now, &settings, deadline),
            _ => self.session.begin_migration(now, &settings),
        }
    }

    /// What was asked for can not be had: the session is closed where that is wanted, and else stays.
    fn fall_back(&mut self, now: Time, spec: &MigrateSpec, why: Abort) {
        let lasts = matches!(why, Abort::Pinned(pin) if is_lasting(pin));
        let is_late = spec.deadline.is_some_and(|deadline| deadline <= now + LAST_TRY);
        if spec.fallback == Fallback::Close && (lasts || is_late) {
            let settings = self.settings();
            let deadline = spec.deadline.unwrap_or(now + settings.settle_timeout);
            if self.session.begin_shed(now, &settings, deadline, true).is_ok() {
                return;
            }
        }
        self.stay.aborted(now, spec);
    }

    /// Does what the session wants done, and writes what it has to say.
    pub(super) fn carry_out(&mut self, cx: &mut Context<'_>, now: Time) {
        loop {
            while let Some(event) = self.session.poll_event() {
                self.acted = true;
                self.carry(now, event);
            }
            if self.session.end().is_some() {
                // Before the client can know: it may be back at once.
                let outcome = self.outcome();
                self.stay.leaving(now, || outcome);
            }
            let mut is_quiet = true;
            for leg in [AmqpLeg::Downstream, AmqpLeg::Upstream, AmqpLeg::Next] {
                if let Some(bytes) = self.session.poll_transmit(leg) {
                    (is_quiet, self.acted) = (false, true);
                    self.emit(Some(cx), now, leg, &bytes);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn carry(&mut self, now: Time, event: AmqpEvent) {
        let pool = self.stay.slot.pool.clone();
        match event {
            AmqpEvent::Dial => {
                let donor = self.stay.slot.endpoint.clone();
                let (policy, caller) = (self.rare.policy.clone(), self.rare.caller);
                self.rare.moving.dial = Some(dial(pool, policy, caller, donor));
            }
            AmqpEvent::Switched { retiree } => {
                let next = self.rare.next.take();
                let former = self.take_up();
                self.put_up(next);
                self.rare.moving.switched = true;
                self.retire(former, retiree, self.stay.slot.endpoint.clone());
            }
            AmqpEvent::NextDropped { retiree } => {
                self.rare.moving.dial = None;
                let next = self.rare.next.take();
                if let Some(ticket) = self.rare.moving.ticket.take() {
                    self.retire(next, retiree, ticket.endpoint.clone());
                }
            }
            AmqpEvent::UpstreamDropped { retiree } => {
                let former = self.take_up();
                let switched = self.rare.moving.ticket.as_ref().filter(|_| self.rare.moving.switched);
                let endpoint = switched.map_or(&self.stay.slot.endpoint, |ticket| &ticket.endpoint).clone();
                self.retire(former, retiree, endpoint);
            }
            AmqpEvent::Migrated { freeze, replaced } => {
                if replaced {
                    telemetry::upstream_replaced(&pool.name, true);
                } else {
                    telemetry::migration(&pool.name, Migration::Switched);
                    telemetry::migration_freeze(&pool.name, freeze);
                }
                let moving = std::mem::take(&mut self.rare.moving);
                tracing::debug!(pool = %pool.name, from = %self.stay.slot.endpoint,
                    to = moving.ticket.as_ref().map(|ticket| ticket.endpoint.as_str()),
                    freeze_us = freeze.as_micros() as u64, replaced, "session migrated");
                if let Some(ticket) = moving.ticket {
                    self.stay.migrated(ticket, freeze);
                }
            }
            AmqpEvent::Aborted { reason, rolled_back } => {
                let outcome = if rolled_back { Migration::RolledBack } else { Migration::Aborted };
                telemetry::migration(&pool.name, outcome);
                telemetry::migration_aborted(&pool.name, reason.as_str());
                tracing::debug!(pool = %pool.name, endpoint = %self.stay.slot.endpoint, reason = reason.as_str(),
                    rolled_back, "migration given up");
                let moving = std::mem::take(&mut self.rare.moving);
                if let Some(spec) = moving.spec {
                    self.fall_back(now, &spec, reason);
                }
            }
            AmqpEvent::Forced { reason, lost } => {
                self.lost |= lost;
                if lost {
                    telemetry::upstream_replaced(&pool.name, false);
                } else {
                    telemetry::migration(&pool.name, Migration::Forced);
                }
                tracing::debug!(pool = %pool.name, endpoint = %self.stay.slot.endpoint, reason = reason.as_str(), lost,
                    "client is closed: its session could not be brought over");
                self.rare.moving = Moving::default();
            }
        }
    }

    fn retire(&self, side: Option<Side>, retiree: Option<Retiree>, endpoint: EndpointId) {
        if let (Some(side), Some(retiree)) = (side, retiree) {
            let counted = RetiredCount::new(&self.stay.slot.pool, endpoint);
            retire(side, retiree, self.stay.worker.clock, counted);
        }
    }

    /// Looks whether the dial is over. True: it is.
    pub(super) fn poll_dial(&mut self, cx: &mut Context<'_>, now: Time) -> bool {
        let Some(dial) = &mut self.rare.moving.dial else { return false };
        let Poll::Ready(dialed) = dial.as_mut().poll(cx) else { return false };
        self.rare.moving.dial = None;
        let settings = self.settings();
        match dialed {
            Some((stream, ticket)) => {
                let mut side = Side::new(Io::Plain(stream), &[]);
                let preamble = reach::preamble(&self.rare.policy, self.rare.origin);
                let sent = side.send(Some(cx), &preamble);
                self.rare.next = Some(side);
                self.rare.moving.ticket = Some(ticket);
                self.session.handle_connected(now, &settings);
                if sent.is_err() {
                    self.broken(now, AmqpLeg::Next);
                }
            }
            None => self.session.handle_no_endpoint(now, &settings),
        }
        self.carry_out(cx, now);
        true
    }
}

/// True for what does not pass by itself soon.
const fn is_lasting(pin: AmqpPin) -> bool {
    !matches!(pin, AmqpPin::Moving | AmqpPin::Blocked | AmqpPin::Transaction | AmqpPin::Ending)
}
