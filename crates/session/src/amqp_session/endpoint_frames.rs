//! What the endpoint sends: what it changes in what is remembered, and what becomes of the frame.

use amqp::{FrameError, HEADER_BYTES, Kind, METHOD_BYTES_MAX, Method, MethodId, code, patch};
use model::Time;

use super::channel::{By, Channel, ChannelState, Mode, NO_CONSUMER, Pending, Subscription, Want};
use super::mover::Phase;
use super::queues::hash;
use super::{Abort, AmqpSession, AmqpSettings, Frame, Verdict};

impl AmqpSession {
    /// A frame of the endpoint's.
    pub(super) fn endpoint_frame(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        frame: Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        match frame.kind {
            Kind::Heartbeat => return Ok(Verdict::Pass),
            Kind::Body => {
                if let Some(channel) = self.channel_mut(frame.channel) {
                    channel.to_downstream.handle_body(frame.size)?;
                }
                return Ok(Verdict::Pass);
            }
            Kind::Header => {
                if let Some(channel) = self.channel_mut(frame.channel) {
                    channel.to_downstream.handle_header(frame.payload())?;
                }
                return Ok(Verdict::Pass);
            }
            Kind::Method => {}
        }
        let id = MethodId::of(frame.payload());
        if frame.size > METHOD_BYTES_MAX {
            // No answer is that long.
            if let Some(channel) = self.channel_mut(frame.channel) {
                channel.to_downstream.handle_method(id)?;
            }
            self.untracked = true;
            self.find_pin(settings);
            return Ok(Verdict::Pass);
        }
        if frame.channel == 0 {
            return self.endpoint_connection_method(now, settings, &frame);
        }
        let Some(place) = self.place_of(frame.channel) else { return Ok(Verdict::Pass) };
        self.channels[place].to_downstream.handle_method(id)?;
        if matches!(id, MethodId::BASIC_DELIVER | MethodId::BASIC_CANCEL | MethodId::BASIC_CANCEL_OK) {
            self.channels[place].unalias(frame.bytes);
        }
        match id {
            MethodId::BASIC_DELIVER => self.delivery(place, frame),
            MethodId::BASIC_ACK | MethodId::BASIC_NACK => confirm(&mut self.channels[place], frame),
            MethodId::BASIC_GET_OK => {
                let pending = self.channels[place].pending.pop_front();
                let no_ack = matches!(pending, Some(Pending { want: Want::Get { no_ack: true }, .. }));
                self.messages[0] += 1;
                let Method::GetOk { tag } = Method::parse(frame.payload())? else { return Ok(Verdict::Pass) };
                let owner = if no_ack { 0 } else { NO_CONSUMER };
                number(&mut self.channels[place], tag, owner, frame);
                Ok(Verdict::Pass)
            }
            MethodId::BASIC_RETURN => {
                self.messages[0] += 1;
                Ok(Verdict::Pass)
            }
            _ => {
                let verdict = self.endpoint_method(now, settings, place, &frame);
                self.find_pin(settings);
                verdict
            }
        }
    }

    fn delivery(&mut self, place: usize, frame: Frame<'_>) -> Result<Verdict, FrameError> {
        let channel = &mut self.channels[place];
        let (tag, owner) = match Method::parse(frame.payload())? {
            Method::Deliver { consumer, tag } => {
                let owner = match channel.consumer_mut(consumer) {
                    Some(consumer) => {
                        consumer.stirred = true;
                        let no_ack = consumer.no_ack();
                        consumer.unacked += u32::from(!no_ack);
                        if no_ack { 0 } else { consumer.key }
                    }
                    // Its `consume-ok` is on the way, or `cancel` has just been forgotten: better pinned than lost.
                    None => NO_CONSUMER,
                };
                (tag, owner)
            }
            _ => return Ok(Verdict::Pass),
        };
        self.messages[0] += 1;
        number(&mut self.channels[place], tag, owner, frame);
        Ok(Verdict::Pass)
    }

    /// Any other method on a channel.
    fn endpoint_method(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        place: usize,
        frame: &Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        let channel = &mut self.channels[place];
        match Method::parse(frame.payload())? {
            Method::ChannelClose { code, .. } => Ok(self.channel_closed(now, settings, place, code)),
            Method::Cancel { tag, .. } => {
                channel.consumers.retain(|consumer| *consumer.tag != *tag);
                Ok(Verdict::Pass)
            }
            Method::ChannelFlow { active } => {
                channel.stopped = !active;
                if channel.stopped {
                    self.pinned_by_endpoint(now, settings);
                }
                Ok(Verdict::Pass)
            }
            Method::ChannelOpenOk
            | Method::ChannelCloseOk
            | Method::ChannelFlowOk
            | Method::DeclareOk { .. }
            | Method::ConsumeOk { .. }
            | Method::CancelOk { .. }
            | Method::GetEmpty
            | Method::Reply(_) => Ok(self.answer(settings, place, frame)),
            _ => Ok(Verdict::Pass),
        }
    }

    /// The answer to the oldest request of a channel.
    fn answer(&mut self, settings: &AmqpSettings, place: usize, frame: &Frame<'_>) -> Verdict {
        let channel = &mut self.channels[place];
        let Some(Pending { want, by }) = channel.pending.pop_front() else {
            // More is under way than is followed.
            return Verdict::Pass;
        };
        match (want, Method::parse(frame.payload())) {
            (Want::Open, _) => channel.state = ChannelState::Open,
            (Want::Close, _) if by == By::Client => {
                self.channels.remove(place);
            }
            (Want::Close, _) => self.reopening_closed(place),
            (Want::Declare(kind), Ok(Method::DeclareOk { queue, .. })) => {
                channel.last_queue = queue.into();
                channel.knows_last_queue = true;
                if let Some(kind) = kind {
                    self.learn_queue(settings, queue, kind);
                }
            }
            (Want::Delete(name), _) => self.queues.remove(name),
            (Want::Consume(mut consumer), Ok(Method::ConsumeOk { tag })) => {
                consumer.tag = tag.into();
                if let Some(kind) = self.queues.find(hash(&consumer.queue)) {
                    consumer.learn(kind, channel.qos.channel, settings);
                }
                channel.consumers.push(*consumer);
            }
            (Want::Start(key), _) => {
                if let Some(consumer) = channel.consumer_by_key(key) {
                    consumer.at = Subscription::Active;
                }
            }
            (Want::Cancel(tag), _) => channel.cancelled(&tag, by),
            (Want::Recover, _) => {
                channel.deliveries.clear();
                channel.consumers.iter_mut().for_each(|consumer| consumer.unacked = 0);
            }
            (Want::Get { .. } | Want::Other | Want::Barrier | Want::Declare(_) | Want::Consume(_), _) => {}
        }
        match by {
            By::Client => Verdict::Pass,
            By::Gateway => Verdict::Skip,
        }
    }

    /// The endpoint has closed a channel.
    fn channel_closed(&mut self, now: Time, settings: &AmqpSettings, place: usize, code: u16) -> Verdict {
        let replaying = self.mover.as_deref().is_some_and(|mover| mover.phase == Phase::Replaying);
        if replaying && self.channels[place].waits(By::Gateway) {
            return self.replay_refused(now, settings, place, code);
        }
        let channel = &mut self.channels[place];
        channel.state = ChannelState::Closed;
        channel.pending.clear();
        channel.consumers.clear();
        channel.deliveries.clear();
        channel.confirms.clear();
        channel.to_upstream = amqp::Content::new(channel.id);
        channel.later.clear();
        if self.reopening.is_some_and(|(id, _)| id == self.channels[place].id) {
            self.reopening = None;
        }
        if self.mover.as_deref().is_some_and(|mover| mover.phase.is_before_switch()) {
            self.abort(now, settings, Abort::ChannelClosed);
        }
        Verdict::Pass
    }

    fn endpoint_connection_method(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        frame: &Frame<'_>,
    ) -> Result<Verdict, FrameError> {
        match Method::parse(frame.payload())? {
            Method::Close { code: code::CONNECTION_FORCED, .. } if self.is_idle_safe() => {
                self.replace_upstream(now, settings, true);
                return Ok(Verdict::Skip);
            }
            Method::Close { .. } if self.is_replaying() => {
                self.replay_closed(now, settings);
                return Ok(Verdict::Skip);
            }
            Method::Close { code, .. } => {
                self.drop_mover(now, settings);
                self.endpoint_closes(now, settings, code);
            }
            Method::CloseOk => self.close_is_agreed(now, settings),
            Method::Blocked => {
                self.blocked = true;
                self.pinned_by_endpoint(now, settings);
            }
            Method::Unblocked => self.blocked = false,
            Method::UpdateSecretOk => {
                if let (Some(secret), Some(credentials)) = (self.secret.take(), &mut self.opened.credentials)
                    && !credentials.update_secret(&secret)
                {
                    self.opened.credentials = None;
                    self.find_pin(settings);
                }
            }
            _ => {}
        }
        Ok(Verdict::Pass)
    }

    /// The endpoint does not want anything published: confirms would not come.
    fn pinned_by_endpoint(&mut self, now: Time, settings: &AmqpSettings) {
        if self.mover.as_deref().is_some_and(|mover| mover.phase.is_before_switch())
            && let Some(pin) = self.passing_pin()
        {
            self.abort(now, settings, Abort::Pinned(pin));
        }
    }
}

impl Channel {
    /// `cancel-ok` has come for a consumer.
    fn cancelled(&mut self, tag: &[u8], by: By) {
        let Some(consumer) = self.consumer_mut(tag) else { return };
        match (by, consumer.at) {
            (By::Gateway, Subscription::Cancelling { leave: false }) => consumer.at = Subscription::Cancelled,
            _ => self.consumers.retain(|consumer| *consumer.tag != *tag),
        }
    }
}

/// Gives a delivery the number that the client knows it by.
fn number(channel: &mut Channel, tag: u64, owner: u16, frame: Frame<'_>) {
    let client_tag = tag.wrapping_add(channel.tag_offset);
    // Tags come one after the other; a gap would be settled already.
    while channel.deliveries.next() < client_tag && !channel.deliveries.is_overrun() {
        channel.deliveries.push(0);
    }
    channel.deliveries.push(owner);
    if channel.tag_offset > 0 {
        patch(frame.bytes, client_tag);
    }
}

/// A confirm of the endpoint's: the client's, or for a publish that we had confirmed behind its back.
fn confirm(channel: &mut Channel, frame: Frame<'_>) -> Result<Verdict, FrameError> {
    let (tag, multiple) = match Method::parse(&frame.bytes[HEADER_BYTES..])? {
        Method::Ack { tag, multiple } | Method::Nack { tag, multiple } => (tag, multiple),
        _ => return Ok(Verdict::Pass),
    };
    channel.confirms.settle(tag, multiple, |_| {});
    if channel.mode != Mode::Confirm || tag <= channel.confirms_hidden && tag > 0 {
        return Ok(Verdict::Skip);
    }
    if channel.confirm_offset != 0 {
        patch(frame.bytes, tag.wrapping_sub(channel.confirm_offset));
    }
    Ok(Verdict::Pass)
}
