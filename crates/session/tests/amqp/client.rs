//! The model client: several channels, each with one request in flight at most, as client libraries do.
//!
//! It holds every frame it gets against what it has asked for: a reply that does not fit, a tag out of turn, a confirm of
//! nothing, an exception that it has not caused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use amqp::{Kind, Method, MethodId, write};
use model::Time;

use crate::channel::Mode;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::queue::{Asked, QueueKind};
use crate::wire::{self, Bytes, Frame, Frames};

/// A queue as the client declares it.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    pub kind: QueueKind,
    pub exclusive: bool,
    pub auto_delete: bool,
}

/// What the client does on a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Open,
    Close,
    Declare {
        queue: usize,
        passive: bool,
        nowait: bool,
    },
    /// A queue that is not there: 404.
    DeclareMissing,
    Bind {
        queue: usize,
        nowait: bool,
    },
    Exchange {
        nowait: bool,
    },
    Purge {
        queue: usize,
    },
    Qos(u16),
    Consume {
        queue: usize,
        no_ack: bool,
        exclusive: bool,
        named: bool,
        nowait: bool,
    },
    Cancel {
        tag: Bytes,
        nowait: bool,
    },
    Get {
        queue: usize,
        no_ack: bool,
    },
    Confirm {
        nowait: bool,
    },
    TxSelect,
    Commit,
    Rollback,
    Recover,
    Publish {
        queue: Option<usize>,
        mandatory: bool,
    },
    /// Acknowledges one of what it holds (by place), or everything up to it, or all with tag 0.
    Ack {
        place: usize,
        multiple: bool,
        zero: bool,
    },
    Nack {
        place: usize,
        multiple: bool,
        requeue: bool,
    },
    Reject {
        place: usize,
        requeue: bool,
    },
    /// A tag that does not exist: 406.
    BadAck {
        old: bool,
    },
}

impl Op {
    /// The queue that it needs.
    fn queue(&self) -> Option<usize> {
        match *self {
            Self::Declare { queue, .. }
            | Self::Bind { queue, .. }
            | Self::Purge { queue }
            | Self::Consume { queue, .. }
            | Self::Get { queue, .. } => Some(queue),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Rpc {
    Reply(MethodId),
    Open,
    Close,
    Consume {
        queue: usize,
        asked: Asked,
    },
    Cancel(Bytes),
    Get {
        no_ack: bool,
    },
    /// Commit (true) or rollback.
    Transaction(bool),
    Confirm,
    Tx,
    /// Answered by an exception.
    Exception,
}

#[derive(Debug)]
struct Consumer {
    queue: usize,
    asked: Asked,
    number: u32,
    is_cancelled: bool,
}

#[derive(Debug)]
struct Held {
    message: u32,
    consumer: Option<Bytes>,
}

#[derive(Debug)]
enum What {
    Deliver { tag: u64, consumer: Bytes, redelivered: bool },
    Got { tag: u64, no_ack: bool, redelivered: bool },
    Return,
}

#[derive(Debug)]
struct Incoming {
    what: What,
    size: Option<u64>,
    body: Bytes,
}

/// A channel as the client sees it.
#[derive(Debug)]
pub struct Chan {
    rpc: Option<Rpc>,
    is_open: bool,
    pub mode: Mode,
    publisher: u32,
    published: u32,
    next_seq: u64,
    outstanding: BTreeMap<u64, u32>,
    /// Frames of a message that are not written yet, and the message.
    writing: VecDeque<Bytes>,
    message: u32,
    last_tag: u64,
    held: BTreeMap<u64, Held>,
    consumers: BTreeMap<Bytes, Consumer>,
    incoming: Option<Incoming>,
    pub prefetch: u16,
    is_doomed: bool,
    transaction: Vec<u32>,
    last_queue: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Open,
    /// Its Close is out.
    Closing,
    /// The broker's Close, with its code, was answered.
    Closed(u16),
    /// Its close-ok is here.
    Done,
    /// It is just gone.
    Gone,
}

#[derive(Debug)]
pub struct Client {
    pub stage: Stage,
    pub channels: BTreeMap<u16, Chan>,
    pub out: Bytes,
    /// To be done first, in order.
    pub script: VecDeque<(u16, Op)>,
    queues: Vec<Declared>,
    frames: Frames,
    publishers: u32,
    consumers: u32,
    pub is_blocked: bool,
    /// Consumers were started again while the client still held messages: their prefetch says nothing of these.
    pub has_extra: bool,
    /// Its own Close is out.
    has_closed: bool,
    /// It has acknowledged everything with tag 0.
    pub has_settled_all: bool,
    /// A node that stands still may answer `tx.select` with 406, since what was published can not be confirmed in time.
    pub is_on_slow_node: bool,
    /// Nodes may refuse its consumers.
    pub is_unwelcome: bool,
    /// A channel was closed though it did nothing wrong, for one of these reasons.
    pub met_oddness: bool,
    /// It names its last declared queue with an empty name. At another node that means nothing.
    pub is_short: bool,
    /// Auto-delete queues that it has stopped to consume from.
    vanished: BTreeSet<usize>,
    /// Channels whose two Closes have crossed: an answer may come yet.
    crossed: BTreeSet<u16>,
    /// A Close from the broker or the gateway is no surprise.
    pub may_be_closed: bool,
    pub heard: Time,
    pub next_beat: Time,
    /// Frames that came, in words, when it is traced.
    pub log: Option<Vec<String>>,
}

impl Client {
    pub fn new(queues: Vec<Declared>) -> Self {
        Self {
            stage: Stage::Open,
            channels: BTreeMap::new(),
            out: Bytes::new(),
            script: VecDeque::new(),
            queues,
            frames: Frames::default(),
            publishers: 0,
            consumers: 0,
            is_blocked: false,
            has_extra: false,
            has_closed: false,
            has_settled_all: false,
            is_on_slow_node: false,
            is_unwelcome: false,
            met_oddness: false,
            is_short: false,
            vanished: BTreeSet::new(),
            crossed: BTreeSet::new(),
            may_be_closed: false,
            heard: Time::ZERO,
            next_beat: Time::ZERO,
            log: None,
        }
    }

    /// The next thing of the script, or more of a message, if it can be done now.
    pub fn go_on(&mut self, dice: &mut Dice, ledger: &mut Ledger) -> bool {
        if let Some((channel, op)) = self.script.front().cloned()
            && self.may(channel, &op)
        {
            self.script.pop_front();
            self.perform(channel, op, dice, ledger);
            return true;
        }
        let writing = self.channels.iter().filter(|(_, chan)| !chan.writing.is_empty());
        let numbers: Vec<u16> = writing.map(|(number, _)| *number).collect();
        if numbers.is_empty() {
            return false;
        }
        self.write_on(dice.pick(&numbers), ledger);
        true
    }

    /// True when there is something that it has begun and can go on with.
    pub fn has_begun(&self) -> bool {
        self.stage == Stage::Open
            && (self.script.front().is_some_and(|(channel, op)| self.may(*channel, op))
                || self.channels.values().any(|chan| !chan.writing.is_empty()))
    }

    fn write_on(&mut self, number: u16, ledger: &mut Ledger) {
        let Some(chan) = self.channels.get_mut(&number) else { return };
        let Some(frame) = chan.writing.pop_front() else { return };
        self.out.extend(frame);
        if chan.writing.is_empty() {
            ledger.of(chan.message).sent = true;
        }
    }

    /// Does `op` fit now?
    pub fn may(&self, number: u16, op: &Op) -> bool {
        let chan = self.channels.get(&number);
        match op {
            _ if self.stage != Stage::Open => false,
            _ if op.queue().is_some_and(|queue| self.vanished.contains(&queue)) => false,
            Op::Open => chan.is_none() && !self.crossed.contains(&number),
            _ => {
                let Some(chan) = chan.filter(|chan| chan.may_act()) else {
                    return false;
                };
                match op {
                    // A library blocks until it knows in which mode it publishes.
                    Op::Publish { .. } => {
                        !matches!(chan.rpc, Some(Rpc::Confirm | Rpc::Tx | Rpc::Transaction(_)))
                    }
                    // What is held when recover-ok comes is given back.
                    Op::Ack { .. } | Op::Nack { .. } | Op::Reject { .. }
                        if chan.held.is_empty()
                            || chan.rpc == Some(Rpc::Reply(MethodId::BASIC_RECOVER_OK)) =>
                    {
                        false
                    }
                    // It covers also what the client has not seen yet.
                    Op::Ack { zero: true, .. } => chan.is_full() && !self.has_extra,
                    Op::Ack { .. } | Op::Nack { .. } | Op::Reject { .. } => true,
                    Op::Commit | Op::Rollback => chan.rpc.is_none() && chan.mode == Mode::Tx,
                    Op::TxSelect => {
                        chan.rpc.is_none()
                            && chan.mode == Mode::Plain
                            && chan.consumers.is_empty()
                            && chan.held.is_empty()
                            && chan.incoming.is_none()
                    }
                    Op::Confirm { .. } => chan.rpc.is_none() && chan.mode == Mode::Plain,
                    Op::Consume { .. } | Op::Get { .. } => chan.rpc.is_none() && chan.mode != Mode::Tx,
                    Op::Cancel { tag, .. } => {
                        chan.rpc.is_none() && chan.consumers.get(tag).is_some_and(|one| !one.is_cancelled)
                    }
                    _ => chan.rpc.is_none(),
                }
            }
        }
    }

    pub fn perform(&mut self, number: u16, op: Op, dice: &mut Dice, ledger: &mut Ledger) {
        match op {
            Op::Open => self.open(number, ledger),
            Op::Publish { queue, mandatory } => self.publish(number, queue, mandatory, dice, ledger),
            Op::Ack { .. } | Op::Nack { .. } | Op::Reject { .. } | Op::BadAck { .. } => {
                self.settle(number, op, ledger);
            }
            op => self.request(number, op, ledger),
        }
    }

    fn open(&mut self, number: u16, ledger: &mut Ledger) {
        self.publishers += 1;
        ledger.leaving.remove(&number);
        ledger.cancelled.retain(|(channel, _)| *channel != number);
        write::channel_open(&mut self.out, number);
        let chan = Chan {
            rpc: Some(Rpc::Open),
            is_open: false,
            mode: Mode::Plain,
            publisher: self.publishers,
            published: 0,
            next_seq: 1,
            outstanding: BTreeMap::new(),
            writing: VecDeque::new(),
            message: 0,
            last_tag: 0,
            held: BTreeMap::new(),
            consumers: BTreeMap::new(),
            incoming: None,
            prefetch: 0,
            is_doomed: false,
            transaction: Vec::new(),
            last_queue: None,
        };
        self.channels.insert(number, chan);
    }

    fn publish(
        &mut self,
        number: u16,
        queue: Option<usize>,
        mandatory: bool,
        dice: &mut Dice,
        ledger: &mut Ledger,
    ) {
        let Some(chan) = self.channels.get_mut(&number) else { return };
        chan.published += 1;
        let message = ledger.create(chan.publisher, chan.published, queue, mandatory);
        match chan.mode {
            Mode::Plain => {}
            Mode::Tx => chan.transaction.push(message),
            Mode::Confirm => {
                chan.outstanding.insert(chan.next_seq, message);
                chan.next_seq += 1;
            }
        }
        let key = queue.map_or_else(|| b"nowhere".to_vec(), name_of);
        chan.message = message;
        chan.writing.push_back(wire::publish(number, &key, mandatory));
        let padding = dice.pick(&[0, 0, 9, 60, 900]);
        chan.writing.extend(wire::content(number, message, padding, 1 + padding / 2 + dice.below(8)));
        // Usually at once; sometimes other channels' frames come in between.
        for _ in 0..dice.pick(&[1, 2, 99, 99, 99]) {
            self.write_on(number, ledger);
        }
    }

    fn settle(&mut self, number: u16, op: Op, ledger: &mut Ledger) {
        let Some(chan) = self.channels.get_mut(&number) else { return };
        let at = |place: usize| *chan.held.keys().nth(place % chan.held.len()).expect("the place is within");
        let (tag, multiple, requeue) = match op {
            Op::Ack { place, multiple, zero } => {
                let tag = at(place);
                let tag_on_wire = if zero { 0 } else { tag };
                self.has_settled_all |= zero;
                write::ack(&mut self.out, number, tag_on_wire, multiple || zero);
                (if zero { u64::MAX } else { tag }, multiple || zero, false)
            }
            Op::Nack { place, multiple, requeue } => {
                let tag = at(place);
                self.out.extend(wire::nack(number, tag, multiple, requeue));
                (tag, multiple, requeue)
            }
            Op::Reject { place, requeue } => {
                let tag = at(place);
                self.out.extend(wire::reject(number, tag, requeue));
                (tag, false, requeue)
            }
            Op::BadAck { old } => {
                // A tag of the past, or one that has not come.
                let whole = chan.last_tag.saturating_sub(u64::from(chan.incoming.is_some()));
                let old_tag = (1..=whole).find(|tag| !chan.held.contains_key(tag)).filter(|_| old);
                write::ack(&mut self.out, number, old_tag.unwrap_or(chan.last_tag + 1000), false);
                chan.is_doomed = true;
                ledger.leave(number);
                return self.excuse(number, ledger);
            }
            _ => return,
        };
        let now = ledger.now;
        let tags: Vec<u64> = match multiple {
            true => chan.held.range(..=tag).map(|(tag, _)| *tag).collect(),
            false => vec![tag],
        };
        for tag in tags {
            let Some(held) = chan.held.remove(&tag) else { continue };
            let message = ledger.of(held.message);
            if requeue {
                message.again = true;
            } else {
                (message.acked, message.acked_at) = (true, now);
            }
        }
    }

    /// What it holds on a channel that it gives up comes again.
    fn excuse(&mut self, number: u16, ledger: &mut Ledger) {
        if let Some(chan) = self.channels.get(&number) {
            chan.held.values().for_each(|held| ledger.of(held.message).again = true);
            chan.transaction.iter().for_each(|message| ledger.of(*message).void = true);
            chan.consumers.values().for_each(|consumer| {
                ledger.may_vanish.insert(consumer.queue);
                if self.queues[consumer.queue].auto_delete {
                    self.vanished.insert(consumer.queue);
                }
            });
        }
    }

    fn request(&mut self, number: u16, op: Op, ledger: &mut Ledger) {
        let Some(chan) = self.channels.get_mut(&number) else { return };
        let expect = |id: MethodId, nowait: bool| (!nowait).then_some(Rpc::Reply(id));
        let (frame, rpc) = match op {
            Op::Close => {
                ledger.leave(number);
                let mut frame = Bytes::new();
                write::channel_close(&mut frame, number, 200, "bye");
                self.excuse(number, ledger);
                (frame, Some(Rpc::Close))
            }
            Op::Declare { queue, passive, nowait } => {
                chan.last_queue = Some(queue);
                let frame = declare(number, queue, self.queues[queue], passive, nowait);
                (frame, expect(MethodId::QUEUE_DECLARE_OK, nowait))
            }
            Op::DeclareMissing => {
                chan.is_doomed = true;
                ledger.leave(number);
                self.excuse(number, ledger);
                (wire::declare(number, b"missing", 1, b""), Some(Rpc::Exception))
            }
            Op::Qos(prefetch) => {
                chan.prefetch = prefetch;
                let mut frame = Bytes::new();
                write::qos(&mut frame, number, prefetch, false);
                (frame, expect(MethodId::BASIC_QOS_OK, false))
            }
            Op::Consume { queue, no_ack, exclusive, named, nowait } => {
                return self.consume(number, queue, (no_ack, exclusive, named || nowait, nowait));
            }
            Op::Cancel { tag, nowait } => {
                let consumer = chan.consumers.get_mut(&tag).expect("it may be cancelled");
                consumer.is_cancelled = true;
                if self.queues[consumer.queue].auto_delete {
                    self.vanished.insert(consumer.queue);
                }
                ledger.may_vanish.insert(consumer.queue);
                ledger.had_enough = true;
                ledger.cancelled.insert((number, tag.clone()));
                let mut frame = Bytes::new();
                write::cancel(&mut frame, number, &tag, nowait);
                (frame, (!nowait).then_some(Rpc::Cancel(tag)))
            }
            Op::Confirm { nowait } => {
                let mut frame = Bytes::new();
                write::confirm_select(&mut frame, number, nowait);
                if nowait {
                    chan.mode = Mode::Confirm;
                }
                (frame, (!nowait).then_some(Rpc::Confirm))
            }
            Op::TxSelect => (wire::bare(number, MethodId::TX_SELECT), Some(Rpc::Tx)),
            Op::Commit => (wire::bare(number, MethodId::TX_COMMIT), Some(Rpc::Transaction(true))),
            Op::Rollback => {
                chan.transaction.iter().for_each(|message| ledger.of(*message).void = true);
                (wire::bare(number, MethodId::TX_ROLLBACK), Some(Rpc::Transaction(false)))
            }
            op => match plain_request(number, &op) {
                Some((frame, rpc)) => (frame, rpc),
                None => return,
            },
        };
        self.out.extend(frame);
        if let (Some(rpc), Some(chan)) = (rpc, self.channels.get_mut(&number)) {
            chan.rpc = Some(rpc);
        }
    }

    fn consume(
        &mut self,
        number: u16,
        queue: usize,
        (no_ack, exclusive, named, nowait): (bool, bool, bool, bool),
    ) {
        self.consumers += 1;
        let chan = self.channels.get_mut(&number).expect("it is open");
        let tag = if named { format!("c{}", self.consumers).into_bytes() } else { Bytes::new() };
        let bits = u8::from(no_ack) << 1 | u8::from(exclusive) << 2 | u8::from(nowait) << 3;
        // An empty name is the channel's last declared queue.
        let is_short = self.is_short && chan.last_queue == Some(queue) && self.consumers.is_multiple_of(3);
        let name = if is_short { Bytes::new() } else { name_of(queue) };
        self.out.extend(wire::consume(number, &name, &tag, bits));
        let asked = Asked { tag: tag.clone(), prefetch: chan.prefetch.into(), no_ack, exclusive, nowait };
        if nowait {
            let consumer = Consumer { queue, asked, number: self.consumers, is_cancelled: false };
            chan.consumers.insert(tag, consumer);
        } else {
            chan.rpc = Some(Rpc::Consume { queue, asked });
        }
    }

    /// Its stream may end as it does: it was told, or stands in a frame that will never end.
    pub fn may_end(&self) -> bool {
        match self.stage {
            Stage::Open => self.may_be_closed && self.frames.is_within(),
            Stage::Closing => self.may_be_closed,
            Stage::Closed(_) | Stage::Done | Stage::Gone => true,
        }
    }

    /// It closes the connection.
    pub fn close(&mut self, ledger: &mut Ledger) {
        (ledger.client_left, ledger.had_enough) = (true, true);
        write::connection_close(&mut self.out, 200, "bye");
        self.stage = Stage::Closing;
        self.has_closed = true;
    }

    /// Nothing is outstanding, on neither side.
    pub fn is_settled(&self) -> bool {
        self.script.is_empty()
            && self.channels.values().all(|chan| {
                chan.rpc.is_none()
                    && chan.writing.is_empty()
                    && chan.held.is_empty()
                    && chan.outstanding.is_empty()
                    && chan.transaction.is_empty()
                    && !chan.is_doomed
            })
    }

    /// What would bring it nearer to being settled.
    pub fn to_settle(&self) -> Option<(u16, Op)> {
        self.channels.iter().find_map(|(number, chan)| {
            let ack = Op::Ack { place: 0, multiple: false, zero: false };
            let ops = [ack, Op::Commit];
            ops.into_iter()
                .find(|op| self.may(*number, op) && (*op != Op::Commit || !chan.transaction.is_empty()))
                .map(|op| (*number, op))
        })
    }

    /// Consumers by channel and tag, as they should be at the broker.
    pub fn expected_consumers(&self) -> Vec<(u16, usize, Asked)> {
        let mut all = Vec::new();
        for (number, chan) in &self.channels {
            let there = chan.consumers.values().filter(|consumer| !consumer.is_cancelled);
            all.extend(there.map(|consumer| (*number, consumer.queue, consumer.asked.clone())));
        }
        all
    }

    /// One of its consumers on a channel.
    pub fn a_consumer(&self, number: u16) -> Option<Bytes> {
        let chan = self.channels.get(&number)?;
        chan.consumers.iter().find(|(_, consumer)| !consumer.is_cancelled).map(|(tag, _)| tag.clone())
    }
}

/// A request that is the same whatever the channel is like.
fn plain_request(number: u16, op: &Op) -> Option<(Bytes, Option<Rpc>)> {
    let expect = |id: MethodId, nowait: bool| (!nowait).then_some(Rpc::Reply(id));
    Some(match *op {
        Op::Bind { queue, nowait } => {
            (wire::bind(number, &name_of(queue), nowait), expect(MethodId::QUEUE_BIND_OK, nowait))
        }
        Op::Exchange { nowait } => {
            let frame = wire::frame_of(number, MethodId::EXCHANGE_DECLARE, |out| {
                out.extend_from_slice(&[0, 0]);
                write::short_string(out, b"x");
                write::short_string(out, b"direct");
                out.push(u8::from(nowait) << 4);
                out.extend_from_slice(&[0; 4]);
            });
            (frame, expect(MethodId::EXCHANGE_DECLARE_OK, nowait))
        }
        Op::Purge { queue } => {
            let frame = wire::named(number, MethodId::QUEUE_PURGE, &name_of(queue), 0);
            (frame, expect(MethodId::QUEUE_PURGE_OK, false))
        }
        Op::Get { queue, no_ack } => {
            let frame = wire::named(number, MethodId::BASIC_GET, &name_of(queue), u8::from(no_ack));
            (frame, Some(Rpc::Get { no_ack }))
        }
        Op::Recover => {
            let frame = wire::frame_of(number, MethodId::BASIC_RECOVER, |out| out.push(1));
            (frame, Some(Rpc::Reply(MethodId::BASIC_RECOVER_OK)))
        }
        _ => return None,
    })
}

/// The name of a queue.
pub fn name_of(queue: usize) -> Bytes {
    format!("q{queue}").into_bytes()
}

fn declare(number: u16, queue: usize, declared: Declared, passive: bool, nowait: bool) -> Bytes {
    let arguments = match declared.kind {
        QueueKind::Quorum => wire::text_entry("x-queue-type", "quorum"),
        QueueKind::Classic => Bytes::new(),
    };
    let bits = u8::from(passive)
        | 2
        | u8::from(declared.exclusive) << 2
        | u8::from(declared.auto_delete) << 3
        | u8::from(nowait) << 4;
    wire::declare(number, &name_of(queue), bits, &arguments)
}

#[path = "receive.rs"]
mod receive;
