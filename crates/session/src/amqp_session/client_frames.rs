//! What the client sends: what it changes in what is remembered, and what becomes of the frame.

use amqp::{Consume, Declare, FrameError, Kind, METHOD_BYTES_MAX, Method, MethodId, patch, write};
use model::Time;
use zeroize::Zeroizing;

use super::channel::{
    By, Channel, ChannelState, Consumer, Mode, NO_CONSUMER, Subscription, Want, consumer_tag,
};
use super::mover::{Goal, Mover};
use super::queues::{self, QueueKind, hash};
use super::{Abort, AmqpLeg, AmqpSession, AmqpSettings, Frame, MessageOrder, Verdict, frames};

/// Acks are held back up to this many bytes; then the move gives way.
const HELD_BYTES_MAX: usize = 256 * 1024;

impl AmqpSession {
    /// A frame of the client's.
    pub(super) fn client_frame(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        frame: Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        self.losses = 0;
        // On a channel that the endpoint has closed, anything goes until the client has noticed: the broker drops it.
        let is_closed =
            |channel: &Channel| channel.id == frame.channel && channel.state == ChannelState::Closed;
        if self.channels.iter().any(is_closed) {
            return Ok(self.client_frame_on_closed_channel(&frame));
        }
        match frame.kind {
            Kind::Heartbeat => return Ok(Verdict::Pass),
            Kind::Body => {
                if let Some(channel) = self.channel_mut(frame.channel) {
                    channel.to_upstream.handle_body(frame.size)?;
                }
                return Ok(Verdict::Pass);
            }
            Kind::Header => {
                if let Some(channel) = self.channel_mut(frame.channel) {
                    channel.to_upstream.handle_header(frame.payload())?;
                }
                return Ok(Verdict::Pass);
            }
            Kind::Method => {}
        }
        let id = MethodId::of(frame.payload());
        if frame.channel == 0 {
            return self.client_connection_method(now, settings, id, &frame);
        }
        let Some(place) = self.place_of(frame.channel) else {
            return self.method_without_channel(now, settings, id, frame.channel);
        };
        if frame.size > METHOD_BYTES_MAX {
            self.channels[place].to_upstream.handle_method(id)?;
            self.channels[place].untracked = true;
            self.find_pin(settings);
            return Ok(Verdict::Pass);
        }
        match id {
            MethodId::BASIC_PUBLISH => self.client_publish(now, settings, place, id),
            MethodId::BASIC_ACK | MethodId::BASIC_NACK | MethodId::BASIC_REJECT => {
                self.client_ack(now, settings, place, frame)
            }
            _ => {
                let alias = match id {
                    MethodId::BASIC_CANCEL => self.channels[place].alias_of(frame.bytes),
                    _ => None,
                };
                let verdict = self.client_method(now, settings, place, id, &frame);
                self.find_pin(settings);
                if let (Ok(Verdict::Pass), Some(alias)) = (&verdict, alias)
                    && let Some(tag) = consumer_tag(frame.bytes)
                {
                    frame.bytes[tag].copy_from_slice(&alias);
                }
                verdict
            }
        }
    }

    fn client_frame_on_closed_channel(&mut self, frame: &Frame<'_>) -> Verdict {
        let is_noticed =
            frame.kind == Kind::Method && MethodId::of(frame.payload()) == MethodId::CHANNEL_CLOSE_OK;
        if is_noticed {
            self.channels.retain(|channel| channel.id != frame.channel);
        }
        Verdict::Pass
    }

    /// On a channel that is not open: it opens one, or the broker will say what is wrong.
    fn method_without_channel(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        id: MethodId,
        channel: u16,
    ) -> Result<Verdict, FrameError> {
        if id != MethodId::CHANNEL_OPEN {
            return Ok(Verdict::Pass);
        }
        if self.gives_way(now, settings) {
            return Ok(Verdict::Again);
        }
        let mut opening = Channel::new(channel);
        opening.expect(Want::Open, By::Client);
        let place = self.channels.partition_point(|known| known.id < channel);
        self.channels.insert(place, opening);
        Ok(Verdict::Pass)
    }

    fn client_publish(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        place: usize,
        id: MethodId,
    ) -> Result<Verdict, FrameError> {
        let may_move = settings.seamless && self.opened.credentials.is_some();
        let in_shadow = settings.order == MessageOrder::Strict && may_move;
        let channel = &self.channels[place];
        if channel.mode == Mode::Plain && in_shadow && channel.state == ChannelState::Open {
            if self.gives_way(now, settings) {
                return Ok(Verdict::Again);
            }
            // Only a confirm proves that a publish has reached its queue: rule R1 of docs/amqp.md.
            let channel = &mut self.channels[place];
            write::confirm_select(&mut self.out[AmqpLeg::Upstream as usize], channel.id, true);
            channel.mode = Mode::Shadow;
            return Ok(Verdict::Again);
        }
        let channel = &mut self.channels[place];
        channel.to_upstream.handle_method(id)?;
        match &mut channel.mode {
            Mode::Plain => channel.unconfirmable |= may_move,
            Mode::Shadow | Mode::Confirm => channel.confirms.push(1),
            Mode::Transaction { dirty } => *dirty = true,
        }
        self.messages[1] += 1;
        Ok(Verdict::Pass)
    }

    fn client_ack(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        place: usize,
        frame: Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        let (mut tag, multiple) = match Method::parse(frame.payload())? {
            Method::Ack { tag, multiple } | Method::Nack { tag, multiple } => (tag, multiple),
            Method::Reject { tag } => (tag, false),
            _ => return Ok(Verdict::Pass),
        };
        // Behind acks that are held on its channel an ack waits as well, even if no consumer is left there.
        let id = self.channels[place].id;
        let follows = |mover: &Mover| frames(&mover.held).any(|(held, _)| held == id);
        let has_consumers = !self.channels[place].consumers.is_empty();
        let may_hold = |mover: &Mover| mover.holds_acks && (has_consumers || follows(mover));
        let holds = self.mover.as_deref().is_some_and(may_hold);
        let channel = &mut self.channels[place];
        channel.to_upstream.handle_method(MethodId::of(frame.payload()))?;
        if holds && multiple && tag == 0 {
            // All that there are now: what is delivered while it is held back is not meant.
            let Some(last) = channel.deliveries.last_open() else { return Ok(Verdict::Skip) };
            tag = last;
            patch(frame.bytes, last);
        }
        let Channel { deliveries, consumers, .. } = channel;
        let is_known = deliveries.settle(tag, multiple, |owner| {
            let owner = consumers.iter_mut().find(|consumer| consumer.key == owner);
            if let Some(consumer) = owner.filter(|_| !holds) {
                consumer.unacked = consumer.unacked.saturating_sub(1);
            }
        });
        // The client is to see the exception that follows.
        channel.unconfirmable |= !is_known;
        if let Mode::Transaction { dirty } = &mut channel.mode {
            *dirty = true;
        }
        if channel.tag_offset > 0 && tag > 0 {
            // A tag of a former endpoint was settled there, or never given: the broker is to say what it always says.
            let upstream = if tag > channel.tag_offset { tag - channel.tag_offset } else { u64::MAX };
            patch(frame.bytes, upstream);
        }
        match &mut self.mover {
            Some(mover) if holds => {
                mover.held.extend_from_slice(frame.bytes);
                if mover.held.len() > HELD_BYTES_MAX {
                    self.abort(now, settings, Abort::Unsaturated);
                }
                Ok(Verdict::Skip)
            }
            _ => {
                self.last_ack = Some(now);
                Ok(Verdict::Pass)
            }
        }
    }

    /// Any other method on a channel.
    fn client_method(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        place: usize,
        id: MethodId,
        frame: &Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        let method = Method::parse(frame.payload())?;
        if let Method::Cancel { tag, nowait } = method
            && let Some(verdict) = self.client_cancels_fenced(place, tag, nowait)
        {
            return Ok(verdict);
        }
        if changes_what_moves(&method) && self.gives_way(now, settings) {
            return Ok(Verdict::Again);
        }
        if changes_what_moves(&method) && self.mover.as_deref().is_some_and(|mover| !mover.held.is_empty()) {
            // A shed does not give way; acks that it holds back still go first.
            self.release_acks(now);
            return Ok(Verdict::Again);
        }
        if self.needs_last_queue(place, id, frame.payload()) {
            return Ok(Verdict::Again);
        }
        if method == Method::TxSelect && self.channels[place].mode == Mode::Shadow {
            return Ok(self.reopen(now, settings, place));
        }
        let channel = &mut self.channels[place];
        channel.to_upstream.handle_method(id)?;
        match method {
            Method::ChannelClose { .. } => {
                channel.state = ChannelState::Closing;
                channel.expect(Want::Close, By::Client);
            }
            Method::ChannelCloseOk => {
                self.channels.remove(place);
            }
            Method::Declare(declare) => self.client_declares(settings, place, &declare),
            Method::QueueDelete { queue, nowait } => {
                let name = hash(if queue.is_empty() { &channel.last_queue } else { queue });
                if nowait {
                    self.queues.remove(name);
                } else {
                    channel.expect(Want::Delete(name), By::Client);
                }
            }
            Method::Consume(consume) => self.client_consumes(settings, place, &consume),
            Method::Cancel { tag, nowait } => match nowait {
                true => {
                    channel.consumers.retain(|consumer| *consumer.tag != *tag);
                    // Until the broker has handled it, more may be delivered.
                    channel.unconfirmable = true;
                }
                false => channel.expect(Want::Cancel(tag.into()), By::Client),
            },
            Method::Get { no_ack } => channel.expect(Want::Get { no_ack }, By::Client),
            Method::Recover => channel.expect(Want::Recover, By::Client),
            // What it requeues can not be told from what is delivered meanwhile.
            Method::RecoverAsync => channel.untracked = true,
            Method::Request { nowait: false } | Method::ChannelFlow { .. } => {
                channel.expect(Want::Other, By::Client);
            }
            // Of what is left the broker judges what is no client's to send.
            _ => channel.change_mode(&method),
        }
        Ok(Verdict::Pass)
    }

    /// An empty queue name stands for the channel's last declared queue, which an endpoint that the session has moved to was never told.
    /// True when that was done now, by a passive declaration: it goes first.
    fn needs_last_queue(&mut self, place: usize, id: MethodId, payload: &[u8]) -> bool {
        let names_queue = matches!(
            id,
            MethodId::QUEUE_BIND
                | MethodId::QUEUE_UNBIND
                | MethodId::QUEUE_PURGE
                | MethodId::QUEUE_DELETE
                | MethodId::BASIC_CONSUME
                | MethodId::BASIC_GET
        );
        // Behind class, method and a reserved short.
        let is_empty = names_queue && payload.get(6) == Some(&0);
        let channel = &mut self.channels[place];
        if !is_empty || channel.knows_last_queue || channel.state != ChannelState::Open {
            return false;
        }
        channel.knows_last_queue = true;
        write::declare_passively(&mut self.out[AmqpLeg::Upstream as usize], channel.id, &channel.last_queue);
        channel.expect(Want::Other, By::Gateway);
        true
    }

    fn client_declares(&mut self, settings: &AmqpSettings, place: usize, declare: &Declare<'_>) {
        let channel = &mut self.channels[place];
        let kind = queues::kind_of(declare);
        if !declare.nowait() {
            return channel.expect(Want::Declare(kind), By::Client);
        }
        channel.last_queue = declare.queue.into();
        channel.knows_last_queue = true;
        if let Some(kind) = kind {
            self.learn_queue(settings, declare.queue, kind);
        }
    }

    /// A queue was declared: its consumers, which may have begun before that was answered, are judged by it.
    pub(super) fn learn_queue(&mut self, settings: &AmqpSettings, queue: &[u8], kind: QueueKind) {
        self.queues.insert(hash(queue), kind);
        for channel in &mut self.channels {
            for consumer in channel.consumers.iter_mut().filter(|consumer| *consumer.queue == *queue) {
                consumer.learn(kind, channel.qos.channel, settings);
            }
        }
    }

    fn client_consumes(&mut self, settings: &AmqpSettings, place: usize, consume: &Consume<'_>) {
        let channel = &mut self.channels[place];
        let queue: Box<[u8]> = match consume.queue {
            [] => channel.last_queue.clone(),
            name => name.into(),
        };
        let kind = self.queues.find(hash(&queue));
        let key = self.next_consumer;
        self.next_consumer = if key >= NO_CONSUMER - 1 { 1 } else { key + 1 };
        let consumer = Consumer::new(consume, &queue, kind, key, channel.qos, settings);
        if consume.nowait() {
            channel.consumers.push(consumer);
        } else {
            channel.expect(Want::Consume(Box::new(consumer)), By::Client);
        }
    }

    /// The client cancels a consumer that we have cancelled, or are cancelling, behind its back.
    fn client_cancels_fenced(&mut self, place: usize, tag: &[u8], nowait: bool) -> Option<Verdict> {
        let channel = &mut self.channels[place];
        let id = channel.id;
        let consumer = channel.consumer_mut(tag)?;
        match consumer.at {
            Subscription::Active | Subscription::Starting => None,
            Subscription::Cancelling { .. } => {
                consumer.at = Subscription::Cancelling { leave: true };
                // The answer to our request is the answer to the client's.
                let asked = channel.pending.iter_mut().find(|p| p.want == Want::Cancel(tag.into()));
                if let (false, Some(pending)) = (nowait, asked) {
                    pending.by = By::Client;
                }
                Some(Verdict::Skip)
            }
            Subscription::Cancelled => {
                channel.consumers.retain(|consumer| *consumer.tag != *tag);
                if !nowait {
                    self.tell_client(|out| write::cancel_ok(out, id, tag));
                }
                Some(Verdict::Skip)
            }
        }
    }

    fn client_connection_method(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        id: MethodId,
        frame: &Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        if frame.size > METHOD_BYTES_MAX {
            self.untracked |= id == MethodId::CONNECTION_UPDATE_SECRET;
            self.find_pin(settings);
            return Ok(Verdict::Pass);
        }
        match Method::parse(frame.payload())? {
            Method::Close { code, .. } => {
                if self.give_up_for(now, settings, Abort::ClientLeft) {
                    return Ok(Verdict::Again);
                }
                self.client_closes(now, settings, code);
            }
            Method::UpdateSecret { secret } => {
                if self.gives_way(now, settings) {
                    return Ok(Verdict::Again);
                }
                self.secret = Some(Zeroizing::new(secret.0.to_vec()));
            }
            Method::CloseOk => self.close_is_agreed(now, settings),
            _ => {}
        }
        Ok(Verdict::Pass)
    }

    /// Gives a migration up, since the client is about to change what it carries over. True when that has to be said
    /// to the endpoint first.
    fn gives_way(&mut self, now: Time, settings: &AmqpSettings) -> bool {
        if self.mover.as_deref().is_some_and(|mover| mover.goal != Goal::Migrate) {
            return false;
        }
        self.give_up_for(now, settings, Abort::ClientBusy)
    }

    fn give_up_for(&mut self, now: Time, settings: &AmqpSettings, reason: Abort) -> bool {
        let before_switch = self.mover.as_deref().is_some_and(|mover| mover.phase.is_before_switch());
        if before_switch {
            self.abort(now, settings, reason);
        }
        before_switch
    }
}

impl Channel {
    /// Prefetch, confirms, transactions: in force from the moment at which they are sent.
    fn change_mode(&mut self, method: &Method<'_>) {
        match *method {
            Method::Qos { prefetch, global: true } => self.qos.channel = prefetch,
            Method::Qos { prefetch, global: false } => self.qos.consumer = prefetch,
            Method::ConfirmSelect { nowait } => {
                if self.mode != Mode::Confirm {
                    self.confirms_hidden = self.confirms.next() - 1;
                    self.confirm_offset = self.confirms_hidden;
                    self.mode = Mode::Confirm;
                }
                if nowait {
                    return;
                }
            }
            Method::TxSelect => {
                if !matches!(self.mode, Mode::Transaction { .. }) {
                    self.mode = Mode::Transaction { dirty: false };
                }
            }
            Method::TxCommit | Method::TxRollback => {
                if let Mode::Transaction { dirty } = &mut self.mode {
                    *dirty = false;
                }
            }
            _ => return,
        }
        self.expect(Want::Other, By::Client);
    }
}

/// True for what would have to be done at the next endpoint as well, or be known there.
fn changes_what_moves(method: &Method<'_>) -> bool {
    matches!(
        method,
        Method::ChannelClose { .. }
            | Method::Qos { .. }
            | Method::Consume(_)
            | Method::Cancel { .. }
            | Method::Recover
            | Method::RecoverAsync
            | Method::ConfirmSelect { .. }
            | Method::TxSelect
            | Method::TxCommit
            | Method::TxRollback
    )
}
