//! The odd ends of a replay: a queue that the new endpoint does not know yet, and a channel that is opened anew.

use amqp::{Content, code, write};
use model::Time;

use crate::Initiator;

use super::channel::{By, Channel, ChannelState, Mode, Place, Subscription, Want};
use super::mover::Phase;
use super::window::Window;
use super::{Abort, AmqpEvent, AmqpLeg, AmqpSession, AmqpSettings, Verdict};

const UPSTREAM: usize = AmqpLeg::Upstream as usize;

/// Pause before a consumer is tried again on a queue that was not found: a node that has just joined may not know it yet.
const RETRY: std::time::Duration = std::time::Duration::from_millis(100);
/// How long a queue may stay unknown.
const REFUSED: std::time::Duration = std::time::Duration::from_secs(1);
/// Consumers that may be given up with a notification, one after the other.
const EXTENSIONS_MAX: u8 = 3;
/// `queue not found`.
const NOT_FOUND: u16 = 404;

impl AmqpSession {
    /// The new endpoint has closed a channel rather than start a consumer there.
    pub(super) fn replay_refused(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        place: usize,
        code: u16,
    ) -> Verdict {
        let channel = &mut self.channels[place];
        let has_delivered = channel.deliveries.next() - 1 > channel.tag_offset;
        let id = channel.id;
        if code != NOT_FOUND || has_delivered {
            self.force(now, settings, Abort::Replay, false);
            return Verdict::Skip;
        }
        write::bare(&mut self.out[UPSTREAM], id, amqp::MethodId::CHANNEL_CLOSE_OK);
        // The first that is not answered is the one that was refused: it stands in front from now on.
        let refused = channel.pending.iter().find_map(|pending| match pending.want {
            Want::Start(key) => channel.consumers.iter().position(|consumer| consumer.key == key),
            _ => None,
        });
        channel.pending.retain(|pending| pending.by == By::Client);
        channel.confirms = Window::default();
        channel.to_downstream = Content::new(id);
        channel.consumers.iter_mut().for_each(|consumer| consumer.at = Subscription::Cancelled);
        if let Some(refused) = refused {
            channel.consumers.swap(0, refused);
        }
        let Some(mover) = &mut self.mover else { return Verdict::Skip };
        if mover.refused.replace(id).is_none() {
            // A queue that stays unknown is told of sooner than a node that is slow.
            mover.until = mover.until.map(|until| until.min(now + settings.replay_timeout.min(REFUSED)));
        }
        if std::mem::take(&mut mover.gives_up) {
            mover.retries.push((id, now));
            self.give_up_consumer(place);
        } else {
            mover.retries.push((id, now + RETRY));
        }
        Verdict::Skip
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.mover.as_deref().is_some_and(|mover| mover.phase == Phase::Replaying)
    }

    /// The new endpoint has closed the connection amid the replay. The client is frozen and has no part in it: whatever the
    /// code, it is told to connect again.
    pub(super) fn replay_closed(&mut self, now: Time, settings: &AmqpSettings) {
        self.events.push_back(AmqpEvent::Forced { reason: Abort::Replay, lost: false });
        self.drop_upstream(now, settings, true);
        let text = "CONNECTION_FORCED - the move to another node failed, connect again";
        self.close_client(now, settings, Initiator::Endpoint, code::CONNECTION_FORCED, text);
    }

    /// Opens channels anew whose time has come.
    pub(super) fn retry_replay(&mut self, now: Time) {
        let Some(mover) = self.mover.as_deref_mut().filter(|mover| !mover.retries.is_empty()) else { return };
        let mut due = Vec::new();
        mover.retries.retain(|(id, at)| {
            if *at <= now {
                due.push(*id);
            }
            *at > now
        });
        for id in due {
            let Some(place) = self.place_of(id) else { continue };
            self.channels[place].reopen(&mut self.out[UPSTREAM]);
        }
    }

    /// The consumers could not all be started in time: a client that understands it is told that one is cancelled.
    pub(super) fn replay_is_late(&mut self, now: Time, settings: &AmqpSettings) {
        let notify = self.opened.cancel_notify;
        let Some(mover) = self.mover.as_deref_mut() else { return };
        let refused = mover.refused;
        let Some(place) = refused.and_then(|id| self.place_of(id)) else {
            return self.force(now, settings, Abort::Replay, false);
        };
        let Some(mover) = self.mover.as_deref_mut() else { return };
        if !notify || mover.extensions >= EXTENSIONS_MAX {
            return self.force(now, settings, Abort::Replay, false);
        }
        mover.extensions += 1;
        mover.until = Some(now + settings.replay_timeout.min(REFUSED));
        let waits = mover.retries.iter_mut().find(|(id, _)| Some(*id) == refused);
        if let Some((_, at)) = waits {
            *at = now;
            self.give_up_consumer(place);
            self.advance(now, settings);
        } else {
            // It is being asked for once more.
            mover.gives_up = true;
        }
    }

    /// The consumer that was refused is gone: the client is told so, as the broker would when a queue goes.
    fn give_up_consumer(&mut self, place: usize) {
        let channel = &mut self.channels[place];
        if !channel.consumers.is_empty() {
            let gone = channel.consumers.remove(0);
            let id = channel.id;
            self.tell_client(|out| write::cancel(out, id, &gone.tag, true));
        }
    }

    // ---- a channel that was given shadow confirms, and then wants a transaction

    /// `tx.select` is refused (406) on a channel that has been given confirms behind the client's back: the channel is
    /// opened anew first. With consumers on it that can not be hidden, and the client gets the 406.
    pub(super) fn reopen(&mut self, now: Time, settings: &AmqpSettings, place: usize) -> Verdict {
        let channel = &mut self.channels[place];
        let is_bare = channel.consumers.is_empty() && channel.deliveries.is_clear();
        if !is_bare || !channel.pending.is_empty() || channel.state != ChannelState::Open {
            channel.mode = Mode::Transaction { dirty: false };
            return Verdict::Again;
        }
        self.reopening = Some((channel.id, now + settings.flush_timeout));
        self.advance_reopening(now);
        if self.reopening.is_some() { Verdict::Hold } else { Verdict::Again }
    }

    pub(super) fn advance_reopening(&mut self, now: Time) {
        let Some((id, until)) = self.reopening else { return };
        let Some(place) = self.place_of(id) else {
            self.reopening = None;
            return;
        };
        let channel = &mut self.channels[place];
        match channel.state {
            ChannelState::Open if channel.mode != Mode::Shadow => {
                if channel.pending.is_empty() {
                    self.reopening = None;
                }
            }
            ChannelState::Open if channel.confirms.is_clear() => {
                write::channel_close(&mut self.out[UPSTREAM], id, code::SUCCESS, "");
                channel.state = ChannelState::Closing;
                channel.expect(Want::Close, By::Gateway);
            }
            ChannelState::Open if until <= now => {
                // The broker is to say what it thinks of it.
                channel.mode = Mode::Transaction { dirty: false };
                self.reopening = None;
            }
            ChannelState::Open | ChannelState::Opening | ChannelState::Closing | ChannelState::Closed => {}
        }
    }

    /// The channel is closed at the endpoint.
    pub(super) fn reopening_closed(&mut self, place: usize) {
        let channel = &mut self.channels[place];
        channel.mode = Mode::Plain;
        channel.confirms = Window::default();
        channel.confirm_offset = 0;
        channel.confirms_hidden = 0;
        channel.tag_offset = channel.deliveries.next() - 1;
        channel.reopen(&mut self.out[UPSTREAM]);
    }

    /// The endpoint does not answer amid it.
    pub(super) fn reopening_is_late(&mut self, now: Time, settings: &AmqpSettings) {
        self.advance_reopening(now);
        if self.reopening.take().is_some() {
            let text = "INTERNAL_ERROR - the node does not answer while a channel is opened anew";
            self.close_client(now, settings, Initiator::Endpoint, code::INTERNAL_ERROR, text);
        }
    }
}

impl Channel {
    /// Opens it at the present endpoint, with its mode, its prefetch and its consumers.
    fn reopen(&mut self, out: &mut Vec<u8>) {
        let answers = self.prepare(out);
        self.state = ChannelState::Opening;
        self.expect(Want::Open, By::Gateway);
        for _ in 1..answers {
            self.expect(Want::Other, By::Gateway);
        }
        self.start_consumers(out, 0, Place::NewChannel);
    }
}
