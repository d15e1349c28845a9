//! A channel's process at a node of the model cluster: it takes one frame at a time, and talks to queues by mail.
//!
//! As RabbitMQ does: publishes are cast and never waited for; consume, cancel and get are calls that block the channel; confirms
//! are gathered and sent as `multiple` where they can be; acks to a quorum queue may be stashed, and die with the channel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use amqp::write;
use amqp::{Bits, Kind, Method, MethodId, Reader};
use model::Time;

use crate::broker::{Cluster, Manners};
use crate::ledger::Ledger;
use crate::queue::{Asked, Entry, QueueKind, ToChannel, ToQueue};
use crate::wire::{self, Bytes, Frame, bare, frame_of};

/// How long an ack may be stashed at the very most.
const STASH_MS_MAX: usize = 300;

#[derive(Debug)]
pub enum Input {
    Frame(Frame),
    /// The connection is closing: everything before has been handled.
    Terminate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Plain,
    Confirm,
    Tx,
}

#[derive(Debug)]
struct Unacked {
    queue: usize,
    entry: Entry,
    /// Of the consumer; empty: it was got.
    tag: Bytes,
}

#[derive(Debug)]
struct Publishing {
    key: Bytes,
    mandatory: bool,
    size: Option<u64>,
    body: Bytes,
}

#[derive(Debug)]
pub struct Channel {
    pub connection: usize,
    pub number: u16,
    pub input: VecDeque<Input>,
    /// Frames that the writer has not written.
    pub out: VecDeque<Bytes>,
    /// A queue owes it an answer.
    pub waits: bool,
    pub is_over: bool,
    pub mode: Mode,
    pub prefetch: u16,
    pub consumers: BTreeMap<Bytes, (usize, Asked)>,
    /// Acks on their way to quorum queues, and when they go.
    pub stash: VecDeque<(Time, usize, ToQueue)>,
    /// Confirms that are ready to be sent.
    pub confirms: BTreeSet<u64>,
    /// Queues that will want to know of its end.
    pub touched: BTreeSet<usize>,
    is_closing: bool,
    unconfirmed: BTreeSet<u64>,
    next_seq: u64,
    next_tag: u64,
    unacked: BTreeMap<u64, Unacked>,
    publishing: Option<Publishing>,
    last_queue: Option<usize>,
    transaction: Vec<(Option<usize>, u32)>,
}

impl Channel {
    pub fn new(connection: usize, number: u16) -> Self {
        Self {
            connection,
            number,
            input: VecDeque::new(),
            out: VecDeque::new(),
            waits: false,
            is_over: false,
            mode: Mode::Plain,
            prefetch: 0,
            consumers: BTreeMap::new(),
            stash: VecDeque::new(),
            confirms: BTreeSet::new(),
            touched: BTreeSet::new(),
            is_closing: false,
            unconfirmed: BTreeSet::new(),
            next_seq: 1,
            next_tag: 1,
            unacked: BTreeMap::new(),
            publishing: None,
            last_queue: None,
            transaction: Vec::new(),
        }
    }

    fn say(&mut self, frame: Bytes) {
        self.out.push_back(frame);
    }
}

impl Cluster {
    /// A channel handles the next thing that came for it.
    pub fn channel_step(&mut self, channel: usize, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        let number = process.number;
        let Some(input) = process.input.pop_front() else { return };
        let frame = match input {
            Input::Terminate => return self.end_channel(channel, false, ledger),
            Input::Frame(frame) => frame,
        };
        if process.is_closing {
            match Method::parse(&frame.payload) {
                Ok(Method::ChannelCloseOk) if frame.kind == Kind::Method => self.forget(channel, ledger),
                Ok(Method::ChannelClose { .. }) if frame.kind == Kind::Method => {
                    // The two have crossed; its own is to be answered yet.
                    process.say(bare(number, MethodId::CHANNEL_CLOSE_OK));
                    self.flush(channel);
                }
                _ => {}
            }
            return;
        }
        match (frame.kind, &mut process.publishing) {
            (Kind::Method, None) => self.method(channel, &frame.payload, ledger),
            (Kind::Header, Some(publishing)) if publishing.size.is_none() => {
                publishing.size = Some(wire::body_size(&frame.payload));
                self.publish_when_whole(channel, ledger);
            }
            (Kind::Body, Some(publishing)) if publishing.size.is_some() => {
                publishing.body.extend_from_slice(&frame.payload);
                self.publish_when_whole(channel, ledger);
            }
            (kind, _) => ledger.fail(|| format!("I4: channel {number} of a node got {kind:?} out of turn")),
        }
    }

    /// The writer writes a frame.
    pub fn write_step(&mut self, channel: usize) {
        let process = &mut self.channels[channel];
        let frame = process.out.pop_front();
        self.connections[process.connection].out.extend(frame.into_iter().flatten());
    }

    /// The frames that wait for the writer go out, in order.
    pub fn flush(&mut self, channel: usize) {
        let process = &mut self.channels[channel];
        let out = &mut self.connections[process.connection].out;
        process.out.drain(..).for_each(|frame| out.extend(frame));
    }

    /// The number is free again.
    fn forget(&mut self, channel: usize, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        process.is_over = true;
        let input = std::mem::take(&mut process.input);
        let (connection, number) = (process.connection, process.number);
        self.connections[connection].open.remove(&number);
        if input.iter().any(|input| matches!(input, Input::Frame(_))) {
            // The client has opened it again already.
            self.connections[connection].open.insert(number, self.channels.len());
            self.channels.push(Channel { input, ..Channel::new(connection, number) });
        }
        self.end_when_empty(connection, ledger);
    }

    fn end_channel(&mut self, channel: usize, answer: bool, ledger: &mut Ledger) {
        self.bury(channel, ledger);
        let number = self.channels[channel].number;
        if answer {
            self.channels[channel].say(bare(number, MethodId::CHANNEL_CLOSE_OK));
        }
        self.flush(channel);
        self.forget(channel, ledger);
    }

    /// A channel exception.
    fn raise(&mut self, channel: usize, code: u16, text: &str, ledger: &mut Ledger) {
        self.bury(channel, ledger);
        let process = &mut self.channels[channel];
        process.is_over = false;
        process.is_closing = true;
        process.waits = false;
        process.consumers.clear();
        process.confirms.clear();
        let mut frame = Bytes::new();
        write::channel_close(&mut frame, process.number, code, text);
        process.say(frame);
    }

    fn send(&mut self, channel: usize, queue: usize, what: ToQueue) {
        self.channels[channel].touched.insert(queue);
        self.mail.entry((channel, queue)).or_default().up.push_back(what);
    }

    fn call(&mut self, channel: usize, queue: usize, what: ToQueue) {
        self.channels[channel].waits = true;
        self.send(channel, queue, what);
    }

    fn find(&self, channel: usize, name: &[u8]) -> Option<usize> {
        if name.is_empty() {
            return self.channels[channel].last_queue.filter(|&queue| self.queues[queue].is_alive);
        }
        self.queues.iter().position(|queue| queue.is_alive && queue.name == name)
    }

    fn method(&mut self, channel: usize, payload: &[u8], ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        let number = process.number;
        let Ok(method) = Method::parse(payload) else {
            return ledger.fail(|| format!("I4: a node got a malformed method {payload:?}"));
        };
        match method {
            Method::ChannelOpen => {
                process.say(frame_of(number, MethodId::CHANNEL_OPEN_OK, |out| out.extend([0; 4])))
            }
            Method::ChannelClose { .. } => self.end_channel(channel, true, ledger),
            Method::Publish => self.begin_publish(channel, payload, ledger),
            Method::Ack { tag, multiple } => self.settle(channel, tag, multiple, false, ledger),
            Method::Nack { tag, multiple } => {
                let requeue = payload.get(12).is_some_and(|bits| Bits(*bits).at(1));
                self.settle(channel, tag, multiple, requeue, ledger);
            }
            Method::Reject { tag } => {
                let requeue = payload.get(12).is_some_and(|bits| Bits(*bits).at(0));
                self.settle(channel, tag, false, requeue, ledger);
            }
            Method::Recover => {
                let tags: Vec<u64> = process.unacked.keys().copied().collect();
                process.say(bare(number, MethodId::BASIC_RECOVER_OK));
                process.unacked.values().for_each(|unacked| ledger.of(unacked.entry.message).again = true);
                tags.into_iter().for_each(|tag| self.give_back(channel, tag, ledger));
            }
            Method::Qos { prefetch, .. } => {
                process.prefetch = prefetch;
                process.say(bare(number, MethodId::BASIC_QOS_OK));
            }
            Method::Consume(consume) => self.begin_consume(channel, &consume, ledger),
            Method::Cancel { tag, nowait } => self.begin_cancel(channel, tag, nowait),
            Method::Get { no_ack } => {
                let mut fields = Reader::new(&payload[6..]);
                let name = fields.short_string().unwrap_or_default();
                match self.find(channel, name) {
                    Some(queue) => self.call(channel, queue, ToQueue::Get { no_ack }),
                    None => self.raise(channel, 404, "NOT_FOUND", ledger),
                }
            }
            Method::ConfirmSelect { nowait } => self.select(channel, Mode::Confirm, nowait, ledger),
            Method::TxSelect => self.select(channel, Mode::Tx, false, ledger),
            Method::TxCommit | Method::TxRollback => {
                self.end_transaction(channel, method == Method::TxCommit, ledger)
            }
            _ => self.topology(channel, payload, method, ledger),
        }
    }

    fn topology(&mut self, channel: usize, payload: &[u8], method: Method<'_>, ledger: &mut Ledger) {
        let number = self.channels[channel].number;
        let name = Reader::new(payload.get(6..).unwrap_or_default()).short_string().unwrap_or_default();
        let answer = match (method, MethodId::of(payload)) {
            (Method::Declare(declare), _) => {
                let connection = self.channels[channel].connection;
                // The client's connections may own a queue; no other may even look at it.
                let index = self.queues.iter().position(|queue| queue.name == name);
                let Some(index) = index.filter(|&at| self.queues[at].is_alive || !declare.passive()) else {
                    return self.raise(channel, 404, "NOT_FOUND", ledger);
                };
                let queue = &mut self.queues[index];
                if queue.owner.is_some_and(|owner| owner != connection) {
                    return self.raise(channel, 405, "RESOURCE_LOCKED", ledger);
                }
                queue.is_alive = true;
                if !declare.passive() {
                    queue.owner = declare.exclusive().then_some(connection);
                    queue.auto_delete = declare.auto_delete();
                }
                self.channels[channel].last_queue = Some(index);
                (!declare.nowait()).then(|| wire::declare_ok(number, name))
            }
            (Method::QueueDelete { nowait, .. }, _) => {
                if let Some(queue) = self.find(channel, name) {
                    self.delete(queue, ledger);
                }
                (!nowait).then(|| frame_of(number, MethodId::QUEUE_DELETE_OK, |out| out.extend([0; 4])))
            }
            (Method::Request { nowait }, MethodId::QUEUE_PURGE) => {
                if let Some(queue) = self.find(channel, name) {
                    self.queues[queue].purge(ledger);
                }
                (!nowait).then(|| frame_of(number, MethodId::QUEUE_PURGE_OK, |out| out.extend([0; 4])))
            }
            (Method::Request { nowait }, MethodId::QUEUE_BIND) => {
                (!nowait).then(|| bare(number, MethodId::QUEUE_BIND_OK))
            }
            (Method::Request { nowait }, MethodId::EXCHANGE_DECLARE) => {
                (!nowait).then(|| bare(number, MethodId::EXCHANGE_DECLARE_OK))
            }
            (method, _) => return ledger.fail(|| format!("I4: a node got {method:?}")),
        };
        answer.into_iter().for_each(|answer| self.channels[channel].say(answer));
    }

    /// A queue ends; its consumers are told.
    pub fn delete(&mut self, queue: usize, ledger: &mut Ledger) {
        self.queues[queue].clear(ledger);
        self.queues[queue].is_alive = false;
        for consumer in std::mem::take(&mut self.queues[queue].consumers) {
            let mail = self.mail.entry((consumer.channel, queue)).or_default();
            mail.down.push_back(ToChannel::Gone { tag: consumer.asked.tag });
        }
    }

    fn select(&mut self, channel: usize, mode: Mode, nowait: bool, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        if process.mode != Mode::Plain && process.mode != mode {
            return self.raise(channel, 406, "PRECONDITION_FAILED - mode", ledger);
        }
        process.mode = mode;
        let id = if mode == Mode::Tx { MethodId::TX_SELECT_OK } else { MethodId::CONFIRM_SELECT_OK };
        if !nowait {
            process.say(bare(process.number, id));
        }
    }

    fn end_transaction(&mut self, channel: usize, is_commit: bool, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        if process.mode != Mode::Tx {
            return self.raise(channel, 406, "PRECONDITION_FAILED - not transactional", ledger);
        }
        let id = if is_commit { MethodId::TX_COMMIT_OK } else { MethodId::TX_ROLLBACK_OK };
        process.say(bare(process.number, id));
        for (queue, message) in std::mem::take(&mut process.transaction) {
            if let Some(queue) = queue.filter(|_| is_commit) {
                // A commit is answered when the queues have it all.
                self.feed(queue, message, ledger);
            }
        }
    }

    fn begin_publish(&mut self, channel: usize, payload: &[u8], ledger: &mut Ledger) {
        let mut fields = Reader::new(&payload[4..]);
        let mut read = || {
            fields.u16()?;
            fields.short_string()?;
            Some((fields.short_string()?.to_vec(), Bits(fields.u8()?).at(0)))
        };
        match read() {
            Some((key, mandatory)) => {
                let body = Bytes::new();
                self.channels[channel].publishing = Some(Publishing { key, mandatory, size: None, body });
            }
            None => ledger.fail(|| "I4: a node got a malformed publish".into()),
        }
    }

    fn publish_when_whole(&mut self, channel: usize, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        let is_whole = |publishing: &mut Publishing| publishing.size == Some(publishing.body.len() as u64);
        let Some(Publishing { key, mandatory, body, .. }) = process.publishing.take_if(is_whole) else {
            return;
        };
        let Some(message) = wire::message_of(&body) else {
            return ledger.fail(|| "I1: a message has changed on its way to a node".into());
        };
        let (number, mode, connection) = (process.number, process.mode, process.connection);
        let seq = (mode == Mode::Confirm).then_some(process.next_seq);
        process.next_seq += u64::from(mode == Mode::Confirm);
        let queue = self.queues.iter().position(|queue| queue.is_alive && queue.name == key);
        self.published(connection);
        if queue.is_none() {
            // A message to a queue that has gone in between is dropped, as it is without a gateway.
            ledger.of(message).gone = true;
            if mandatory && mode != Mode::Tx {
                let process = &mut self.channels[channel];
                process.say(wire::returned(number, &key));
                wire::content(number, message, 0, 4096).into_iter().for_each(|frame| process.say(frame));
            }
        }
        match (mode, queue, seq) {
            (Mode::Tx, queue, _) => self.channels[channel].transaction.push((queue, message)),
            (_, Some(queue), confirm) => {
                self.channels[channel].unconfirmed.extend(confirm);
                self.send(channel, queue, ToQueue::Publish { message, confirm });
            }
            (_, None, seq) => self.channels[channel].confirms.extend(seq),
        }
    }

    fn begin_consume(&mut self, channel: usize, consume: &amqp::Consume<'_>, ledger: &mut Ledger) {
        let Some(queue) = self.find(channel, consume.queue) else {
            return self.raise(channel, 404, "NOT_FOUND", ledger);
        };
        let connection = self.channels[channel].connection;
        if self.queues[queue].owner.is_some_and(|owner| owner != connection) {
            return self.raise(channel, 405, "RESOURCE_LOCKED", ledger);
        }
        if self.connections[connection].manners == Manners::RefusesConsumers {
            return self.raise(channel, 403, "ACCESS_REFUSED", ledger);
        }
        let tag = if consume.tag.is_empty() {
            self.generated += 1;
            format!("amq.ctag-{}", self.generated).into_bytes()
        } else {
            consume.tag.to_vec()
        };
        let is_used = self.channels[channel].consumers.contains_key(&tag);
        ledger.check(!is_used, || format!("I4: consumer {tag:?} began twice"));
        // RabbitMQ 3.10.8 crashes the channel (541) some deliveries later.
        let is_owed = self.queues[queue].kind == QueueKind::Quorum
            && self.channels[channel]
                .unacked
                .values()
                .any(|unacked| unacked.tag == tag && unacked.queue == queue);
        ledger.check(!is_owed, || {
            format!("I4: tag {tag:?} is consumed with beside its unacknowledged messages")
        });
        let asked = Asked {
            tag,
            prefetch: self.channels[channel].prefetch.into(),
            no_ack: consume.no_ack(),
            exclusive: consume.exclusive(),
            nowait: consume.nowait(),
        };
        self.call(channel, queue, ToQueue::Consume(asked));
    }

    fn begin_cancel(&mut self, channel: usize, tag: &[u8], nowait: bool) {
        let process = &mut self.channels[channel];
        let Some(&(queue, _)) = process.consumers.get(tag) else {
            if !nowait {
                let mut frame = Bytes::new();
                write::cancel_ok(&mut frame, process.number, tag);
                process.say(frame);
            }
            return;
        };
        // A cancel takes the stash of its queue along.
        let (now, rest) = std::mem::take(&mut process.stash).into_iter().partition(|(_, to, _)| *to == queue);
        process.stash = rest;
        let now: VecDeque<(Time, usize, ToQueue)> = now;
        now.into_iter().for_each(|(_, queue, what)| self.send(channel, queue, what));
        self.call(channel, queue, ToQueue::Cancel { tag: tag.to_vec(), nowait });
    }

    fn settle(&mut self, channel: usize, tag: u64, multiple: bool, requeue: bool, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        let is_known = process.unacked.contains_key(&tag);
        let tags: Vec<u64> = match (multiple, tag) {
            (true, 0) => process.unacked.keys().copied().collect(),
            (true, tag) if is_known => process.unacked.range(..=tag).map(|(tag, _)| *tag).collect(),
            (false, tag) if is_known => vec![tag],
            _ => return self.raise(channel, 406, "PRECONDITION_FAILED - unknown delivery tag", ledger),
        };
        for tag in tags {
            if requeue {
                self.give_back(channel, tag, ledger);
            } else if let Some(Unacked { queue, entry, .. }) = self.channels[channel].unacked.remove(&tag) {
                self.settle_at(channel, queue, ToQueue::Ack { position: entry.position });
            }
        }
    }

    fn give_back(&mut self, channel: usize, tag: u64, ledger: &mut Ledger) {
        if let Some(Unacked { queue, entry, .. }) = self.channels[channel].unacked.remove(&tag) {
            let is_wanted = ledger.of(entry.message).again;
            ledger.check(is_wanted, || {
                format!("I2: message {} was given back, not by the client", entry.message)
            });
            self.settle_at(channel, queue, ToQueue::Requeue { position: entry.position });
        }
    }

    fn settle_at(&mut self, channel: usize, queue: usize, what: ToQueue) {
        if self.queues[queue].kind == QueueKind::Classic {
            return self.send(channel, queue, what);
        }
        let delay = if self.dice.one_in(6) { self.dice.below(STASH_MS_MAX) as u64 } else { 0 };
        let until = self.now + Duration::from_millis(delay);
        let last = self.channels[channel].stash.back().map_or(Time::ZERO, |(until, ..)| *until);
        self.channels[channel].stash.push_back((until.max(last), queue, what));
    }

    /// The oldest stashed ack goes to its queue.
    pub fn stash_step(&mut self, channel: usize) {
        if let Some((_, queue, what)) = self.channels[channel].stash.pop_front() {
            self.send(channel, queue, what);
        }
    }

    /// Sends confirms that are ready: as one where no earlier publish is unconfirmed.
    pub fn confirm_step(&mut self, channel: usize) {
        let process = &mut self.channels[channel];
        let number = process.number;
        let cutoff = process.unconfirmed.first().copied().unwrap_or(u64::MAX);
        let covered: Vec<u64> = process.confirms.range(..cutoff).copied().collect();
        let mut frame = Bytes::new();
        match (covered.last(), process.confirms.first().copied()) {
            (Some(&last), _) if covered.len() > 1 => {
                write::ack(&mut frame, number, last, true);
                process.confirms = process.confirms.split_off(&(last + 1));
            }
            (_, Some(first)) => {
                write::ack(&mut frame, number, first, false);
                process.confirms.remove(&first);
            }
            (_, None) => return,
        }
        process.say(frame);
    }

    /// A channel handles the next thing that a queue has sent it.
    pub fn mail_step(&mut self, channel: usize, queue: usize, ledger: &mut Ledger) {
        let Some(what) = self.mail.get_mut(&(channel, queue)).and_then(|mail| mail.down.pop_front()) else {
            return;
        };
        let process = &mut self.channels[channel];
        if process.is_over || process.is_closing {
            return self.tidy(channel, queue);
        }
        let number = process.number;
        match what {
            ToChannel::Confirm(seq) => {
                process.unconfirmed.remove(&seq);
                process.confirms.insert(seq);
            }
            ToChannel::ConsumeOk(asked) => {
                process.waits = false;
                if !asked.nowait {
                    process.say(frame_of(number, MethodId::BASIC_CONSUME_OK, |out| {
                        write::short_string(out, &asked.tag);
                    }));
                }
                process.consumers.insert(asked.tag.clone(), (queue, asked));
            }
            ToChannel::Refused => self.raise(channel, 403, "ACCESS_REFUSED - exclusive", ledger),
            ToChannel::CancelOk { tag, nowait } => {
                process.waits = false;
                process.consumers.remove(&tag);
                if !nowait {
                    let mut frame = Bytes::new();
                    write::cancel_ok(&mut frame, number, &tag);
                    process.say(frame);
                }
            }
            ToChannel::Gone { tag } => {
                process.consumers.remove(&tag);
                let mut frame = Bytes::new();
                write::cancel(&mut frame, number, &tag, true);
                process.say(frame);
            }
            ToChannel::Delivery { tag, entry } => self.deliver(channel, queue, tag, entry, ledger),
            ToChannel::Got { entry: None, .. } => {
                process.waits = false;
                process.say(frame_of(number, MethodId::BASIC_GET_EMPTY, |out| out.push(0)));
            }
            ToChannel::Got { entry: Some(entry), no_ack } => {
                process.waits = false;
                self.hand_out(channel, queue, entry, no_ack, None);
            }
        }
        self.tidy(channel, queue);
    }

    fn deliver(&mut self, channel: usize, queue: usize, tag: Bytes, entry: Entry, ledger: &mut Ledger) {
        let process = &mut self.channels[channel];
        match process.consumers.get(&tag) {
            Some((_, asked)) => {
                let no_ack = asked.no_ack;
                self.hand_out(channel, queue, entry, no_ack, Some(&tag));
            }
            // Its consumer was cancelled meanwhile: back with it.
            None => {
                let others: Vec<u32> = self.queues[queue].with(channel, &tag).collect();
                let is_wanted = ledger.cancelled.contains(&(process.number, tag));
                ledger.bounce(entry.message, is_wanted, &others);
                self.send(channel, queue, ToQueue::Requeue { position: entry.position });
            }
        }
    }

    fn hand_out(
        &mut self,
        channel: usize,
        queue: usize,
        entry: Entry,
        no_ack: bool,
        consumer: Option<&[u8]>,
    ) {
        let key = &self.queues[queue].name;
        let padding = self.dice.pick(&[0, 0, 0, 9, 300]);
        let process = &mut self.channels[channel];
        let (number, tag) = (process.number, process.next_tag);
        process.next_tag += 1;
        let method = match consumer {
            Some(consumer) => wire::deliver(number, consumer, tag, entry.redelivered, key),
            None => wire::get_ok(number, tag, entry.redelivered, key),
        };
        process.say(method);
        let piece = 4 + padding / 2;
        wire::content(number, entry.message, padding, piece).into_iter().for_each(|frame| process.say(frame));
        if !no_ack {
            let consumer = consumer.map(<[u8]>::to_vec).unwrap_or_default();
            process.unacked.insert(tag, Unacked { queue, entry, tag: consumer });
        }
    }
}
