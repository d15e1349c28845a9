//! The phases of a move, and what leads from one to the next (docs/amqp.md has them with their reasons).
//!
//! Until the switch the client is served by the old endpoint, and giving up costs it a pause at most.

use std::time::Duration;

use amqp::{code, write};
use model::Time;

use crate::Initiator;

use super::channel::{By, Channel, ChannelState, Consumer, Place, Subscription, Want};
use super::mover::{Goal, Mover, Phase};
use super::retiree::Former;
use super::{Abort, AmqpEvent, AmqpLeg, AmqpPin, AmqpSession, AmqpSettings, MessageOrder, Retiree, frames};

const UPSTREAM: usize = AmqpLeg::Upstream as usize;
const NEXT: usize = AmqpLeg::Next as usize;

/// What was published without confirms travels to its queue for about this long (measured: docs/amqp.md, R1).
const REST: Duration = Duration::from_millis(20);
/// Endpoints that may be lost one after the other before the client is told.
const LOSSES_MAX: u8 = 3;

impl AmqpSession {
    /// Goes as far as things allow now.
    pub(super) fn advance(&mut self, now: Time, settings: &AmqpSettings) {
        self.advance_reopening(now);
        while let Some(phase) = self.mover.as_deref().map(|mover| mover.phase) {
            match phase {
                Phase::Dialing => {}
                Phase::Preparing => self.when_prepared(now, settings),
                Phase::Saturating => self.when_saturated(now, settings),
                Phase::Cancelling => self.when_cancelled(now, settings),
                Phase::Settling => self.when_settled(now, settings),
                Phase::Freezing => self.when_quiet(now, settings),
                Phase::Flushing => self.when_flushed(now, settings),
                Phase::Resting(until) if until <= now => self.reach_goal(now, settings),
                Phase::Resting(_) => {}
                Phase::Replaying => self.when_replayed(now, settings),
                Phase::RollingBack(reason) => self.when_rolled_back(now, settings, reason),
            }
            if self.mover.as_deref().is_none_or(|mover| mover.phase == phase) {
                break;
            }
        }
    }

    fn enter(&mut self, phase: Phase, until: Option<Time>) {
        if let Some(mover) = &mut self.mover {
            mover.phase = phase;
            mover.until = until;
        }
    }

    fn goal(&self) -> Option<Goal> {
        self.mover.as_deref().map(|mover| mover.goal)
    }

    fn has_pending(&self, by: By) -> bool {
        self.channels.iter().any(|channel| channel.waits(by))
    }

    // ---- one function a phase

    fn when_prepared(&mut self, now: Time, settings: &AmqpSettings) {
        if self.channels.iter().any(|channel| channel.state != ChannelState::Open) {
            return;
        }
        self.prepare_channels();
        if !self.is_next_ready() || self.has_pending(By::Client) {
            return;
        }
        match (self.goal(), self.standing) {
            (Some(Goal::Replace), _) => self.switch(now, settings),
            // An answer has come since it began.
            (Some(Goal::Migrate), Some(pin)) => self.abort(now, settings, Abort::Pinned(pin)),
            (Some(goal), _) => self.begin_fence(now, settings, goal),
            (None, _) => {}
        }
    }

    /// The steps that are the same for every goal: what is delivered and published comes to rest.
    pub(super) fn begin_fence(&mut self, now: Time, settings: &AmqpSettings, goal: Goal) {
        let mover = self.mover.get_or_insert_with(|| Box::new(Mover::new(goal, Phase::Saturating, None)));
        mover.goal = goal;
        let mut fences = false;
        for consumer in self.channels.iter_mut().flat_map(|channel| &mut channel.consumers) {
            consumer.stirred = false;
            fences |= may_be_fenced(consumer, goal);
        }
        if let Some(mover) = &mut self.mover {
            mover.holds_acks = fences;
        }
        if fences {
            self.enter(Phase::Saturating, Some(now + settings.saturate_timeout));
        } else {
            self.enter(Phase::Settling, Some(self.settle_until(now, settings, goal)));
        }
        self.advance(now, settings);
    }

    /// A consumer may be cancelled when nothing can be on its way to it: its prefetch is full, or its queue is empty. That
    /// nothing came for a while proves nothing: a quorum queue on a slow disk takes its time.
    fn when_saturated(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(mover) = self.mover.as_deref() else { return };
        let (goal, is_over) = (mover.goal, mover.until.is_some_and(|until| until <= now));
        let emptiness = mover.next.as_ref().and_then(|next| next.emptiness.as_ref());
        let mut questions = Vec::new();
        let (mut all_rest, mut any_stirs) = (true, false);
        for channel in &self.channels {
            for consumer in channel.consumers.iter().filter(|consumer| may_be_fenced(consumer, goal)) {
                if !is_strict(consumer, settings) {
                    continue;
                }
                if channel.is_full(consumer) {
                    continue;
                }
                let known = (channel.id, consumer.key);
                let quiet = consumer.unacked == 0 && !consumer.stirred;
                all_rest &= quiet && emptiness.is_some_and(|known_of| known_of.empty.contains(&known));
                any_stirs |= !quiet;
                questions.push((known.0, known.1, consumer.queue.clone()));
            }
        }
        let waits = emptiness.is_some_and(|emptiness| !emptiness.asked.is_empty());
        let gives_up = any_stirs || emptiness.is_some();
        if is_over && matches!(goal, Goal::Shed { .. }) {
            self.cancel_consumers(now, settings, |consumer| may_be_fenced(consumer, goal));
        } else if all_rest && !waits {
            self.cancel_consumers(now, settings, |consumer| {
                may_be_fenced(consumer, goal) && !is_strict(consumer, settings)
            });
        } else if is_over && gives_up || emptiness.is_some() && !waits {
            self.abort(now, settings, Abort::Unsaturated);
        } else if is_over {
            self.ask_for_emptiness(questions);
            self.enter(Phase::Saturating, Some(now + settings.flush_timeout));
        }
    }

    fn cancel_consumers(&mut self, now: Time, settings: &AmqpSettings, which: impl Fn(&Consumer) -> bool) {
        for place in 0..self.channels.len() {
            let channel = &mut self.channels[place];
            let mut out = Vec::new();
            let mut asked = Vec::new();
            // With a channel that the client closes its consumers end anyway.
            let is_open = channel.state == ChannelState::Open;
            for consumer in channel.consumers.iter_mut().filter(|_| is_open) {
                if consumer.at == Subscription::Active && which(consumer) {
                    write::cancel(&mut out, channel.id, consumer.tag_at_endpoint(), false);
                    consumer.at = Subscription::Cancelling { leave: false };
                    asked.push(Want::Cancel(consumer.tag.clone()));
                }
            }
            asked.into_iter().for_each(|want| channel.expect(want, By::Gateway));
            self.upstream_of(place).append(&mut out);
        }
        self.enter(Phase::Cancelling, Some(now + settings.flush_timeout));
    }

    fn when_cancelled(&mut self, now: Time, settings: &AmqpSettings) {
        let waits = |consumer: &Consumer| matches!(consumer.at, Subscription::Cancelling { .. });
        if self.channels.iter().flat_map(|channel| &channel.consumers).any(waits) {
            return;
        }
        let Some(goal) = self.goal() else { return };
        if !self.has_fencable(goal) {
            self.release_acks(now);
        }
        self.enter(Phase::Settling, Some(self.settle_until(now, settings, goal)));
    }

    /// A quorum queue's consumer is cancelled only when the client has acknowledged everything: RabbitMQ ends the connection
    /// when one that has unacknowledged messages starts again under its tag, which is what giving up would take. It is
    /// full until then, since its acks are held back.
    fn when_settled(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(goal) = self.goal() else { return };
        if !self.channels.iter().all(|channel| channel.deliveries.is_clear()) {
            return;
        }
        if !self.has_fencable(goal) {
            return self.enter(Phase::Freezing, Some(now + settings.flush_timeout));
        }
        let rests = |(channel, consumer): (&Channel, &Consumer)| {
            channel.is_full(consumer) || consumer.unacked == 0 && !consumer.stirred
        };
        if matches!(goal, Goal::Shed { .. }) || self.fencable(goal).all(rests) {
            self.cancel_consumers(now, settings, |consumer| may_be_fenced(consumer, goal));
        } else {
            self.abort(now, settings, Abort::Unsaturated);
        }
    }

    /// Consumers that are to be cancelled and are not yet. With a channel that the client closes its consumers end anyway.
    fn fencable(&self, goal: Goal) -> impl Iterator<Item = (&Channel, &Consumer)> {
        let open = self.channels.iter().filter(|channel| channel.state == ChannelState::Open);
        let all = open.flat_map(|channel| channel.consumers.iter().map(move |consumer| (channel, consumer)));
        all.filter(move |(_, consumer)| consumer.at == Subscription::Active && may_be_fenced(consumer, goal))
    }

    fn has_fencable(&self, goal: Goal) -> bool {
        self.fencable(goal).next().is_some()
    }

    fn when_quiet(&mut self, now: Time, settings: &AmqpSettings) {
        if !self.client.at_boundary() || self.channels.iter().any(|channel| channel.to_upstream.is_open()) {
            return;
        }
        let heartbeat = self.opened.tune.heartbeat;
        if let Some(mover) = &mut self.mover {
            mover.freeze(now, heartbeat);
        }
        // Publishes that nobody confirms: an answer on their channel proves at least that it has handled them.
        let is_asked =
            |channel: &&mut super::Channel| channel.unconfirmable && channel.state == ChannelState::Open;
        for channel in self.channels.iter_mut().filter(is_asked) {
            write::qos(&mut self.out[UPSTREAM], channel.id, channel.qos.consumer, false);
            channel.expect(Want::Barrier, By::Gateway);
        }
        let half = Duration::from_millis(u64::from(heartbeat) * 500);
        let most = if heartbeat == 0 { settings.flush_timeout } else { settings.flush_timeout.min(half) };
        self.enter(Phase::Flushing, Some(now + most));
    }

    fn when_flushed(&mut self, now: Time, settings: &AmqpSettings) {
        let is_done = self.endpoint.at_boundary() && self.later.is_empty() && self.secret.is_none();
        let is_clear = |channel: &super::Channel| {
            channel.confirms.is_clear()
                && channel.deliveries.is_clear()
                && channel.pending.is_empty()
                && !channel.to_downstream.is_open()
        };
        if !is_done || !self.channels.iter().all(is_clear) {
            return;
        }
        // A barrier was passed: what went before it is on its way to the queues.
        if self.channels.iter().any(|channel| channel.unconfirmable) {
            self.channels.iter_mut().for_each(|channel| channel.unconfirmable = false);
            self.enter(Phase::Resting(now + REST), None);
        } else {
            self.reach_goal(now, settings);
        }
    }

    fn reach_goal(&mut self, now: Time, settings: &AmqpSettings) {
        match self.goal() {
            Some(Goal::Shed { .. }) => {
                let text = "CONNECTION_FORCED - moved to another node, connect again";
                self.close_client(now, settings, Initiator::Gateway, code::CONNECTION_FORCED, text);
            }
            // Something may have been declared meanwhile.
            Some(_) => match self.standing.or(self.passing_pin()) {
                Some(pin) => self.abort(now, settings, Abort::Pinned(pin)),
                None => self.switch(now, settings),
            },
            None => {}
        }
    }

    /// The instant of exchange. Both streams are between two contents, and everything on the old side is settled.
    fn switch(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(next) = self.mover.as_deref_mut().and_then(|mover| mover.next.take()) else { return };
        let out = std::mem::take(&mut self.out[UPSTREAM]);
        let scanner = std::mem::replace(&mut self.endpoint, next.scanner);
        let retiree = self.has_upstream.then(|| {
            let (last_ack, heartbeat) = (self.last_ack, self.opened.tune.heartbeat);
            let former = Former { scanner, out, last_ack, heartbeat, was_closed: false };
            Retiree::new(now, settings, former)
        });
        self.out[UPSTREAM] = std::mem::take(&mut self.out[NEXT]);
        self.has_upstream = true;
        self.last_ack = None;
        self.events.push_back(AmqpEvent::Switched { retiree });
        self.beat_at_switch(now);
        if std::mem::take(&mut self.blocked) && self.opened.blocked_notify {
            self.tell_client(write::unblocked);
        }
        for channel in &mut self.channels {
            channel.rebase();
            channel.start_consumers(&mut self.out[UPSTREAM], 0, Place::NewChannel);
        }
        self.enter(Phase::Replaying, Some(now + settings.replay_timeout));
    }

    fn when_replayed(&mut self, now: Time, settings: &AmqpSettings) {
        self.retry_replay(now);
        let retries = self.mover.as_deref().is_some_and(|mover| !mover.retries.is_empty());
        if retries || self.has_pending(By::Gateway) {
            return;
        }
        let Some(mover) = self.mover.take() else { return };
        let freeze = mover.frozen.map_or(Duration::ZERO, |since| now.since(since));
        self.events.push_back(AmqpEvent::Migrated { freeze, replaced: mover.goal == Goal::Replace });
        self.find_pin(settings);
        self.shed_then(now, settings, &mover);
    }

    // ---- giving up

    /// Gives a move up. Before the switch everything is as it was; after it the client is closed.
    pub(super) fn abort(&mut self, now: Time, settings: &AmqpSettings, reason: Abort) {
        let Some(mover) = self.mover.as_deref() else { return };
        match (mover.goal, mover.phase) {
            (_, Phase::RollingBack(_)) => return,
            (_, Phase::Replaying) => return self.force(now, settings, Abort::Replay, false),
            (Goal::Replace, _) => return self.force(now, settings, reason, true),
            (Goal::Migrate | Goal::Shed { .. }, _) => {}
        }
        self.drop_next(now, settings);
        self.release_acks(now);
        self.thaw();
        let fenced = |consumer: &Consumer| consumer.at != Subscription::Active;
        if self.channels.iter().flat_map(|channel| &channel.consumers).any(fenced) {
            self.enter(Phase::RollingBack(reason), None);
            self.advance(now, settings);
        } else {
            self.mover = None;
            self.events.push_back(AmqpEvent::Aborted { reason, rolled_back: false });
        }
    }

    /// Starts the consumers again that were cancelled, once all cancellations are answered.
    fn when_rolled_back(&mut self, now: Time, settings: &AmqpSettings, reason: Abort) {
        let waits = |consumer: &Consumer| matches!(consumer.at, Subscription::Cancelling { leave: false });
        if self.channels.iter().flat_map(|channel| &channel.consumers).any(waits) {
            return;
        }
        // A shed would cancel them again at once.
        let is_shed_next = self.mover.as_deref().is_some_and(|mover| mover.then_shed.is_some());
        for place in 0..self.channels.len() {
            let channel = &mut self.channels[place];
            if channel.state == ChannelState::Open && !is_shed_next {
                let mut out = Vec::new();
                channel.start_consumers(&mut out, channel.qos.consumer, Place::SameChannel);
                self.upstream_of(place).append(&mut out);
            }
        }
        let waits = |consumer: &Consumer| consumer.at == Subscription::Cancelled;
        let open = self.channels.iter().filter(|channel| channel.state == ChannelState::Open);
        let is_unfinished = open.flat_map(|channel| &channel.consumers).any(waits) && !is_shed_next;
        if self.has_pending(By::Gateway) || is_unfinished {
            return;
        }
        let Some(mover) = self.mover.take() else { return };
        self.events.push_back(AmqpEvent::Aborted { reason, rolled_back: true });
        self.shed_then(now, settings, &mover);
    }

    /// A move is over during which a shed was asked for.
    fn shed_then(&mut self, now: Time, settings: &AmqpSettings, over: &Mover) {
        if let Some((deadline, close)) = over.then_shed {
            self.begin_fence(now, settings, Goal::Shed { deadline, close });
        }
    }

    /// The acks that were held back go on.
    pub(super) fn release_acks(&mut self, now: Time) {
        let Some(mover) = self.mover.as_deref_mut() else { return };
        mover.holds_acks = false;
        let held = std::mem::take(&mut mover.held);
        if held.is_empty() || !self.has_upstream {
            return;
        }
        for (id, frame) in frames(&held) {
            if let Some(place) = self.place_of(id) {
                self.upstream_of(place).extend_from_slice(frame);
            }
        }
        self.last_ack = Some(now);
        for channel in &mut self.channels {
            for consumer in &mut channel.consumers {
                consumer.unacked = channel.deliveries.open_of(consumer.key);
            }
        }
    }

    fn thaw(&mut self) {
        if let Some(mover) = &mut self.mover {
            mover.frozen = None;
            mover.heartbeat = None;
        }
    }

    /// The phase has taken longer than it may.
    pub(super) fn phase_is_over(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(mover) = self.mover.as_deref() else { return };
        if let Goal::Shed { deadline, close } = mover.goal
            && !matches!(mover.phase, Phase::RollingBack(_))
        {
            return self.shed_is_late(now, settings, deadline, close);
        }
        let reason = match mover.phase {
            Phase::Dialing => Abort::NoEndpoint,
            Phase::Preparing if self.is_next_ready() => Abort::Request,
            Phase::Preparing => Abort::PrepareTimeout,
            Phase::Saturating => Abort::Unsaturated,
            Phase::Cancelling => Abort::Request,
            Phase::Settling => Abort::Unacked,
            Phase::Freezing => Abort::Content,
            Phase::Flushing | Phase::Resting(_) => self.why_not_flushed(),
            Phase::Replaying => return self.replay_is_late(now, settings),
            Phase::RollingBack(_) => return,
        };
        self.abort(now, settings, reason);
    }

    fn why_not_flushed(&self) -> Abort {
        if self.channels.iter().any(|channel| !channel.confirms.is_clear()) {
            Abort::Unconfirmed
        } else if self.channels.iter().any(|channel| !channel.deliveries.is_clear()) {
            Abort::Unacked
        } else {
            Abort::Request
        }
    }

    /// A shed has time until its deadline: the client is not kept frozen for all of it.
    fn shed_is_late(&mut self, now: Time, settings: &AmqpSettings, deadline: Time, close: bool) {
        if deadline > now {
            self.thaw();
            return self.enter(Phase::Settling, Some(deadline));
        }
        if !close {
            return self.abort(now, settings, Abort::Unacked);
        }
        let text = "CONNECTION_FORCED - moved to another node, connect again";
        self.close_client(now, settings, Initiator::Gateway, code::CONNECTION_FORCED, text);
    }

    /// Until when the client may acknowledge what it has.
    fn settle_until(&self, now: Time, settings: &AmqpSettings, goal: Goal) -> Time {
        let own = self.mover.as_deref().and_then(|mover| mover.settle_for);
        match goal {
            Goal::Shed { deadline, .. } => deadline,
            Goal::Migrate | Goal::Replace => now + own.unwrap_or(settings.settle_timeout),
        }
    }

    // ---- an endpoint that is lost

    /// The endpoint has ended the stream, or it is broken.
    pub(super) fn upstream_ended(&mut self, now: Time, settings: &AmqpSettings) {
        if self.closing.is_some() {
            return self.ended_while_closing(now, settings, AmqpLeg::Upstream);
        }
        if !self.has_upstream {
            return;
        }
        if self.is_idle_safe() {
            return self.replace_upstream(now, settings, false);
        }
        self.force(now, settings, Abort::EndpointLost, true);
    }

    /// Looks for another endpoint for a client that would not notice. `is_closed`: the endpoint has sent a Close, which is
    /// answered in the client's stead.
    pub(super) fn replace_upstream(&mut self, now: Time, settings: &AmqpSettings, is_closed: bool) {
        self.drop_upstream(now, settings, is_closed);
        self.losses += 1;
        if self.losses > LOSSES_MAX || matches!(self.goal(), Some(Goal::Shed { .. })) {
            return self.force(now, settings, Abort::EndpointLost, true);
        }
        let until = Some(now + settings.prepare_timeout);
        match self.mover.as_deref_mut().filter(|mover| mover.phase.is_before_switch()) {
            Some(mover) => {
                mover.goal = Goal::Replace;
                mover.phase = if mover.next.is_some() { Phase::Preparing } else { Phase::Dialing };
                mover.until = until;
            }
            None => {
                self.mover = Some(Box::new(Mover::new(Goal::Replace, Phase::Dialing, until)));
                self.events.push_back(AmqpEvent::Dial);
            }
        }
        let heartbeat = self.opened.tune.heartbeat;
        if let Some(mover) = &mut self.mover {
            mover.freeze(now, heartbeat);
        }
        self.advance(now, settings);
    }

    /// The endpoint leaves the session. `is_closed`: it has sent a Close, which is answered.
    pub(super) fn drop_upstream(&mut self, now: Time, settings: &AmqpSettings, is_closed: bool) {
        let frame_max = self.opened.tune.frame_max;
        let scanner = std::mem::replace(&mut self.endpoint, amqp::Scanner::new(frame_max));
        let out = std::mem::take(&mut self.out[UPSTREAM]);
        let retiree = is_closed.then(|| {
            let former = Former { scanner, out, last_ack: None, heartbeat: 0, was_closed: true };
            Retiree::new(now, settings, former)
        });
        self.has_upstream = false;
        self.events.push_back(AmqpEvent::UpstreamDropped { retiree });
    }

    /// The client is closed with 320: after a switch that could not be completed, or since its endpoint is lost.
    pub(super) fn force(&mut self, now: Time, settings: &AmqpSettings, reason: Abort, lost: bool) {
        self.events.push_back(AmqpEvent::Forced { reason, lost });
        if lost && self.has_upstream {
            self.has_upstream = false;
            self.out[UPSTREAM].clear();
            self.events.push_back(AmqpEvent::UpstreamDropped { retiree: None });
        }
        let text = if lost {
            "CONNECTION_FORCED - the node was lost, connect again"
        } else {
            "CONNECTION_FORCED - the move to another node failed, connect again"
        };
        let initiator = if lost { Initiator::Endpoint } else { Initiator::Gateway };
        self.close_client(now, settings, initiator, code::CONNECTION_FORCED, text);
    }

    /// Ends a move since the connection ends. What it has held back goes on.
    pub(super) fn drop_mover(&mut self, now: Time, settings: &AmqpSettings) {
        self.drop_next(now, settings);
        self.release_acks(now);
        if self
            .mover
            .take()
            .is_some_and(|mover| mover.goal == Goal::Migrate && mover.phase.is_before_switch())
        {
            self.events.push_back(AmqpEvent::Aborted { reason: Abort::ClientLeft, rolled_back: false });
        }
    }
}

/// It may be cancelled only when nothing can be on its way to it. A classic queue keeps its order whatever is in flight.
fn is_strict(consumer: &Consumer, settings: &AmqpSettings) -> bool {
    !consumer.classic && !consumer.no_ack() && settings.order == MessageOrder::Strict
}

/// A consumer that can be cancelled for a while, or for good, without harm to its queue.
fn may_be_fenced(consumer: &Consumer, goal: Goal) -> bool {
    let for_good = matches!(goal, Goal::Shed { close: true, .. });
    match consumer.pin {
        None | Some(AmqpPin::NoPrefetch) => true,
        // It might be auto-delete: with the connection it goes anyway.
        Some(AmqpPin::ForeignQueue | AmqpPin::SingleActiveConsumer | AmqpPin::ExpiringQueue) => for_good,
        Some(_) => false,
    }
}
