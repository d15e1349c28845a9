//! What is remembered of a channel: its mode, what is outstanding, its consumers, the answers it waits for.

use std::collections::VecDeque;

use amqp::{Bits, Consume, Content, HEADER_BYTES, Table, write};

use super::queues::QueueKind;
use super::window::Window;
use super::{AmqpPin, AmqpSettings, ForeignQueues, MessageOrder};

/// Answers that a channel may wait for at once.
pub(crate) const PENDING_MAX: usize = 256;
/// Owner of deliveries that no known consumer owns: those of `basic.get`.
pub(crate) const NO_CONSUMER: u16 = u16::MAX;

/// Whether frames of a channel may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChannelState {
    /// The client waits for `open-ok`.
    Opening,
    Open,
    /// The client waits for `close-ok`.
    Closing,
    /// The broker has closed it; the client owes `close-ok`.
    Closed,
}

/// What happens to what the client publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Nobody hears of it.
    Plain,
    /// It is confirmed to us, behind the client's back.
    Shadow,
    /// It is confirmed to the client.
    Confirm,
    /// It waits for a commit, as acks do; `dirty`: something does.
    Transaction { dirty: bool },
}

/// Prefetch in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Qos {
    /// For each consumer that begins from now on; 0: no bound.
    pub consumer: u16,
    /// For all consumers of the channel; 0: no bound.
    pub channel: u16,
}

/// Where a consumer stands at the present endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subscription {
    /// The endpoint delivers to it.
    Active,
    /// We have asked to cancel it. `leave`: the client has as well.
    Cancelling { leave: bool },
    /// It is cancelled, and the client does not know.
    Cancelled,
    /// We have asked to start it again.
    Starting,
}

/// A consumer of the client's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Consumer {
    /// Owner of its deliveries in the channel's window.
    pub key: u16,
    /// Not acknowledged at the endpoint.
    pub unacked: u32,
    /// The prefetch when it began; 0: no bound.
    pub prefetch: u16,
    pub bits: Bits,
    pub at: Subscription,
    /// Something was delivered to it since the present phase of a migration began.
    pub stirred: bool,
    pub classic: bool,
    pub pin: Option<AmqpPin>,
    pub tag: Box<[u8]>,
    /// Of the same length: what the endpoint knows it by, if that is not its tag.
    pub alias: Option<Box<[u8]>>,
    pub queue: Box<[u8]>,
    pub arguments: Box<[u8]>,
}

impl Consumer {
    /// As the client asks for it, on the queue `queue` of which `kind` is known.
    pub fn new(
        consume: &Consume<'_>,
        queue: &[u8],
        kind: Option<QueueKind>,
        key: u16,
        qos: Qos,
        settings: &AmqpSettings,
    ) -> Self {
        let mut consumer = Self {
            key,
            unacked: 0,
            prefetch: qos.consumer,
            bits: consume.bits,
            at: Subscription::Active,
            stirred: false,
            classic: kind.is_some_and(|kind| kind.classic),
            pin: None,
            tag: consume.tag.into(),
            alias: None,
            queue: queue.into(),
            arguments: consume.arguments.bytes().into(),
        };
        consumer.pin = consumer.find_pin(consume.arguments, kind, qos, settings);
        consumer
    }

    fn find_pin(
        &self,
        arguments: Table<'_>,
        kind: Option<QueueKind>,
        qos: Qos,
        settings: &AmqpSettings,
    ) -> Option<AmqpPin> {
        if *self.queue == *b"amq.rabbitmq.reply-to" {
            return Some(AmqpPin::DirectReplyTo);
        }
        if arguments.find("x-stream-offset").is_some() {
            return Some(AmqpPin::Stream);
        }
        if self.tag.is_empty() && self.bits.at(3) {
            return Some(AmqpPin::ConsumerTag);
        }
        match kind {
            Some(QueueKind { pin: Some(pin), .. }) => return Some(pin),
            None if settings.foreign_queues == ForeignQueues::Pin => return Some(AmqpPin::ForeignQueue),
            Some(_) | None => {}
        }
        let bounded = !self.no_ack() && (self.prefetch > 0 || qos.channel > 0);
        let may_reorder = !self.classic && settings.order == MessageOrder::Strict;
        (may_reorder && !bounded).then_some(AmqpPin::NoPrefetch)
    }

    /// More is known of its queue.
    pub fn learn(&mut self, kind: QueueKind, channel_prefetch: u16, settings: &AmqpSettings) {
        self.classic = kind.classic;
        let qos = Qos { consumer: self.prefetch, channel: channel_prefetch };
        self.pin = self.find_pin(Table::new(&self.arguments), Some(kind), qos, settings);
    }

    /// Nothing is acknowledged.
    pub fn no_ack(&self) -> bool {
        self.bits.at(1)
    }

    /// What the endpoint knows it by.
    pub fn tag_at_endpoint(&self) -> &[u8] {
        self.alias.as_deref().unwrap_or(&self.tag)
    }

    /// Another message would not be more than it has asked for.
    fn has_room(&self) -> bool {
        self.prefetch == 0 || self.unacked < u32::from(self.prefetch)
    }
}

/// A consumer tag that the endpoint was given in place of the client's. Of the same length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Alias {
    pub alias: Box<[u8]>,
    pub tag: Box<[u8]>,
}

/// Where consumers start again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// On the channel on which they were cancelled.
    SameChannel,
    /// On one that has just been opened.
    NewChannel,
}

/// Who waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Client,
    /// It is swallowed.
    Gateway,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Open,
    Close,
    /// `None`: a passive one. The name is in the answer.
    Declare(Option<QueueKind>),
    Delete(u64),
    Consume(Box<Consumer>),
    /// A consumer starts again.
    Start(u16),
    Cancel(Box<[u8]>),
    Get {
        no_ack: bool,
    },
    Recover,
    /// Only that what went before has been handled.
    Barrier,
    Other,
}

/// An answer that the endpoint owes. They come in the order of the requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pending {
    pub want: Want,
    pub by: By,
}

/// A channel of the client's.
#[derive(Debug)]
pub(crate) struct Channel {
    pub id: u16,
    pub state: ChannelState,
    pub mode: Mode,
    pub to_upstream: Content,
    pub to_downstream: Content,
    /// Deliveries that the client has not acknowledged, as the client numbers them.
    pub deliveries: Window,
    /// The client's delivery tag less the endpoint's.
    pub tag_offset: u64,
    /// Publishes that the endpoint has not confirmed, as the endpoint numbers them.
    pub confirms: Window,
    /// The endpoint's confirm tag less the client's, modulo 2^64.
    pub confirm_offset: u64,
    /// Confirms up to this number are not the client's.
    pub confirms_hidden: u64,
    /// Something was sent that has no answer of its own (a publish without confirms, an ack of an unknown tag, a cancel that
    /// wants none), since the last answer on this channel to a barrier.
    pub unconfirmable: bool,
    pub qos: Qos,
    pub consumers: Vec<Consumer>,
    /// Tags that the endpoint was given in place of the client's, and those: a delivery may come after its consumer is gone.
    pub aliases: Vec<Alias>,
    pub pending: VecDeque<Pending>,
    /// The name that an empty one stands for.
    pub last_queue: Box<[u8]>,
    /// The present endpoint knows that name.
    pub knows_last_queue: bool,
    /// The broker has stopped the flow.
    pub stopped: bool,
    /// Something was not followed.
    pub untracked: bool,
    /// Frames of ours for the endpoint that wait for the end of the client's message.
    pub later: Vec<u8>,
}

impl Channel {
    pub fn new(id: u16) -> Self {
        Self {
            id,
            state: ChannelState::Opening,
            mode: Mode::Plain,
            to_upstream: Content::new(id),
            to_downstream: Content::new(id),
            deliveries: Window::default(),
            tag_offset: 0,
            confirms: Window::default(),
            confirm_offset: 0,
            confirms_hidden: 0,
            unconfirmable: false,
            qos: Qos::default(),
            consumers: Vec::new(),
            aliases: Vec::new(),
            pending: VecDeque::new(),
            last_queue: Box::default(),
            knows_last_queue: true,
            stopped: false,
            untracked: false,
            later: Vec::new(),
        }
    }

    /// Notes that an answer is owed.
    pub fn expect(&mut self, want: Want, by: By) {
        if self.pending.len() >= PENDING_MAX {
            self.untracked = true;
        } else {
            self.pending.push_back(Pending { want, by });
        }
    }

    /// Answers of that kind are owed.
    pub fn waits(&self, by: By) -> bool {
        self.pending.iter().any(|pending| pending.by == by)
    }

    pub fn consumer_mut(&mut self, tag: &[u8]) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| *consumer.tag == *tag)
    }

    pub fn consumer_by_key(&mut self, key: u16) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.key == key)
    }

    /// The upstream side is another one now, on which nothing has happened yet. All consumers are to be started there.
    pub fn rebase(&mut self) {
        self.tag_offset = self.deliveries.next() - 1;
        let published = self.confirms.next() - 1;
        self.confirm_offset = self.confirm_offset.wrapping_sub(published);
        self.confirms_hidden = 0;
        self.confirms = Window::default();
        self.unconfirmable = false;
        self.knows_last_queue = self.last_queue.is_empty();
        self.aliases = Vec::new();
        self.pending.retain(|pending| pending.by == By::Client);
        self.consumers.retain(|consumer| consumer.at != (Subscription::Cancelling { leave: true }));
        for consumer in &mut self.consumers {
            consumer.unacked = 0;
            consumer.alias = None;
            consumer.at = Subscription::Cancelled;
        }
    }

    /// The endpoint may deliver nothing more to a consumer of this channel before it is acknowledged something.
    pub fn is_full(&self, consumer: &Consumer) -> bool {
        let total: u32 = self.consumers.iter().map(|consumer| consumer.unacked).sum();
        let (prefetch, limit) = (u32::from(consumer.prefetch), u32::from(self.qos.channel));
        prefetch > 0 && consumer.unacked >= prefetch || limit > 0 && total >= limit
    }

    /// Opens it at another endpoint, in the mode that it has: frames for `out`. Returns the answers to expect.
    pub fn prepare(&self, out: &mut Vec<u8>) -> u32 {
        write::channel_open(out, self.id);
        let mut answers = 1;
        if self.qos.channel > 0 {
            write::qos(out, self.id, self.qos.channel, true);
            answers += 1;
        }
        match self.mode {
            Mode::Plain => {}
            Mode::Shadow | Mode::Confirm => {
                write::confirm_select(out, self.id, false);
                answers += 1;
            }
            Mode::Transaction { .. } => {
                write::tx_select(out, self.id);
                answers += 1;
            }
        }
        answers
    }

    /// Starts its cancelled consumers again, each with the prefetch of its time; `current` is the prefetch in force. One whose
    /// prefetch is full would get nothing, and waits.
    pub fn start_consumers(&mut self, out: &mut Vec<u8>, mut current: u16, at: Place) {
        let mut asked = Vec::new();
        for place in 0..self.consumers.len() {
            let consumer = &self.consumers[place];
            if consumer.at != Subscription::Cancelled || !consumer.has_room() {
                continue;
            }
            // A quorum queue of RabbitMQ 3.10 fails (541) when a channel consumes again with a tag of which it has not settled all
            // messages; acks that have been sent may still wait in the broker's channel.
            let needs_alias = at == Place::SameChannel && !consumer.classic;
            let alias = needs_alias.then(|| self.free_tag(consumer)).flatten();
            if needs_alias && alias.is_none() {
                continue;
            }
            let consumer = &mut self.consumers[place];
            if let Some(alias) = &alias {
                self.aliases.retain(|known| known.alias != *alias);
                self.aliases.push(Alias { alias: alias.clone(), tag: consumer.tag.clone() });
            }
            consumer.alias = alias;
            if consumer.prefetch != current {
                current = consumer.prefetch;
                write::qos(out, self.id, current, false);
                asked.push(Want::Other);
            }
            let Consumer { queue, bits, arguments, .. } = &*consumer;
            write::consume(out, self.id, queue, consumer.tag_at_endpoint(), *bits, arguments);
            consumer.at = Subscription::Starting;
            asked.push(Want::Start(consumer.key));
        }
        if current != self.qos.consumer {
            write::qos(out, self.id, self.qos.consumer, false);
            asked.push(Want::Other);
        }
        for want in asked {
            self.expect(want, By::Gateway);
        }
    }

    /// A tag as long as that of `consumer` which the endpoint does not know on this channel, and which no client is likely to take.
    fn free_tag(&self, consumer: &Consumer) -> Option<Box<[u8]>> {
        let is_free =
            |tag: &[u8]| self.consumers.iter().all(|c| *c.tag != *tag && c.alias.as_deref() != Some(tag));
        let variants = b"~^|`!%&*+=?;<>{}";
        // Behind the one in use: the longer ago one was, the better.
        let used = consumer.tag_at_endpoint().last();
        let begin = variants.iter().position(|variant| Some(variant) == used).map_or(0, |at| at + 1);
        (0..variants.len())
            .map(|step| {
                let mut tag = consumer.tag.clone();
                if let Some(byte) = tag.last_mut() {
                    *byte = variants[(begin + step) % variants.len()];
                }
                tag
            })
            .find(|tag| is_free(tag))
    }

    /// The alias, if any, of the consumer that a client's `basic.cancel` names.
    pub fn alias_of(&self, frame: &[u8]) -> Option<Box<[u8]>> {
        let tag = consumer_tag(frame)?;
        let consumer = self.consumers.iter().find(|consumer| consumer.tag[..] == frame[tag.clone()])?;
        consumer.alias.clone()
    }

    /// Puts the client's tag in the place of an alias, in a `basic.deliver`, `cancel` or `cancel-ok` of the endpoint's.
    pub fn unalias(&self, frame: &mut [u8]) {
        let Some(tag) = consumer_tag(frame) else { return };
        if let Some(known) = self.aliases.iter().find(|known| *known.alias == frame[tag.clone()]) {
            frame[tag].copy_from_slice(&known.tag);
        }
    }
}

/// Where the consumer tag stands in the frame of a method that begins with one.
pub(crate) fn consumer_tag(frame: &[u8]) -> Option<std::ops::Range<usize>> {
    let at = HEADER_BYTES + 5;
    let end = at + usize::from(*frame.get(at - 1)?);
    (end <= frame.len()).then_some(at..end)
}
