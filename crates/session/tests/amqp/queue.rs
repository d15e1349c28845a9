//! A queue of the model cluster: a process with a mailbox, classic or quorum.
//!
//! What differs, as measured on RabbitMQ 3.10: a quorum queue puts what comes back in front of everything, in the order in
//! which it comes back (R2); a classic queue puts it where it was.

use std::collections::{BTreeMap, VecDeque};

use crate::ledger::Ledger;
use crate::wire::Bytes;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueKind {
    Classic,
    Quorum,
}

/// A message in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub message: u32,
    pub position: u64,
    pub redelivered: bool,
}

/// What channels say to queues.
#[derive(Clone, Debug)]
pub enum ToQueue {
    Publish {
        message: u32,
        confirm: Option<u64>,
    },
    Consume(Asked),
    Cancel {
        tag: Bytes,
        nowait: bool,
    },
    Get {
        no_ack: bool,
    },
    Ack {
        position: u64,
    },
    Requeue {
        position: u64,
    },
    /// The channel is no more; `is_wanted`: since the client wanted that.
    Down {
        is_wanted: bool,
    },
}

/// What a consumer asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub tag: Bytes,
    pub prefetch: u32,
    pub no_ack: bool,
    pub exclusive: bool,
    pub nowait: bool,
}

/// What queues say to channels.
#[derive(Clone, Debug)]
pub enum ToChannel {
    Confirm(u64),
    ConsumeOk(Asked),
    /// The queue has an exclusive consumer, or would have.
    Refused,
    CancelOk {
        tag: Bytes,
        nowait: bool,
    },
    Delivery {
        tag: Bytes,
        entry: Entry,
    },
    Got {
        entry: Option<Entry>,
        no_ack: bool,
    },
    /// The queue is gone, and with it this consumer.
    Gone {
        tag: Bytes,
    },
}

/// A consumer as its queue sees it.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub channel: usize,
    pub asked: Asked,
    unacked: u32,
}

#[derive(Debug)]
struct Checked {
    entry: Entry,
    channel: usize,
    consumer: Option<Bytes>,
}

#[derive(Debug)]
pub struct Queue {
    pub name: Bytes,
    pub kind: QueueKind,
    pub is_alive: bool,
    /// The connection that owns it.
    pub owner: Option<usize>,
    pub auto_delete: bool,
    pub consumers: Vec<Consumer>,
    ready: VecDeque<Entry>,
    /// Only of a quorum queue.
    returned: VecDeque<Entry>,
    checked: BTreeMap<u64, Checked>,
    turn: usize,
    next_position: u64,
    had_consumer: bool,
}

impl Queue {
    pub fn new(name: &[u8], kind: QueueKind) -> Self {
        Self {
            name: name.to_vec(),
            kind,
            is_alive: true,
            owner: None,
            auto_delete: false,
            consumers: Vec::new(),
            ready: VecDeque::new(),
            returned: VecDeque::new(),
            checked: BTreeMap::new(),
            turn: 0,
            next_position: 0,
            had_consumer: false,
        }
    }

    /// Handles one thing out of the mailbox, and delivers what it can. `index` is its own number.
    pub fn handle(
        &mut self,
        index: usize,
        from: usize,
        what: ToQueue,
        ledger: &mut Ledger,
    ) -> Vec<(usize, ToChannel)> {
        let mut out = Vec::new();
        match what {
            ToQueue::Publish { message, confirm } => {
                self.accept(index, message, ledger);
                out.extend(confirm.map(|seq| (from, ToChannel::Confirm(seq))));
            }
            ToQueue::Consume(asked) => out.push((from, self.subscribe(from, asked))),
            ToQueue::Cancel { tag, nowait } => {
                self.consumers.retain(|consumer| consumer.channel != from || consumer.asked.tag != tag);
                out.push((from, ToChannel::CancelOk { tag, nowait }));
                self.expire(index, ledger);
            }
            ToQueue::Get { no_ack } => {
                let entry = self.take();
                if let Some(entry) = entry {
                    self.check_out(entry, from, None, no_ack, ledger);
                }
                out.push((from, ToChannel::Got { entry, no_ack }));
            }
            ToQueue::Ack { position } => {
                if let Some(checked) = self.check_in(position) {
                    ledger.settle(checked.entry.message);
                }
            }
            ToQueue::Requeue { position } => {
                if let Some(checked) = self.check_in(position) {
                    self.put_back(checked.entry);
                }
            }
            ToQueue::Down { is_wanted } => {
                self.consumers.retain(|consumer| consumer.channel != from);
                let back: Vec<u64> = self
                    .checked
                    .iter()
                    .filter(|(_, checked)| checked.channel == from)
                    .map(|(at, _)| *at)
                    .collect();
                for position in back {
                    let checked = self.check_in(position).expect("it was found just now");
                    // So it is without a gateway as well.
                    let tag = checked.consumer.clone().unwrap_or_default();
                    let others: Vec<u32> = self.with(from, &tag).collect();
                    ledger.bounce(checked.entry.message, is_wanted, &others);
                    self.put_back(checked.entry);
                }
                self.expire(index, ledger);
            }
        }
        self.deliver(ledger, &mut out);
        out
    }

    /// A message arrives, from a channel or from a publisher elsewhere.
    pub fn accept(&mut self, index: usize, message: u32, ledger: &mut Ledger) {
        if !self.is_alive {
            ledger.of(message).gone = true;
            return;
        }
        ledger.enqueue(index, message);
        self.ready.push_back(Entry { message, position: self.next_position, redelivered: false });
        self.next_position += 1;
    }

    /// Hands out what consumers have room for.
    pub fn deliver(&mut self, ledger: &mut Ledger, out: &mut Vec<(usize, ToChannel)>) {
        while !self.ready.is_empty() || !self.returned.is_empty() {
            let count = self.consumers.len();
            let next = (0..count).map(|n| (self.turn + n) % count).find(|&n| {
                let Consumer { asked, unacked, .. } = &self.consumers[n];
                asked.no_ack || asked.prefetch == 0 || *unacked < asked.prefetch
            });
            let Some(next) = next else { return };
            self.turn = next + 1;
            let entry = self.take().expect("there is one");
            let Consumer { channel, asked, unacked } = &mut self.consumers[next];
            let (channel, tag, no_ack) = (*channel, asked.tag.clone(), asked.no_ack);
            *unacked += u32::from(!no_ack);
            self.check_out(entry, channel, Some(tag.clone()), no_ack, ledger);
            out.push((channel, ToChannel::Delivery { tag, entry }));
        }
    }

    fn subscribe(&mut self, channel: usize, asked: Asked) -> ToChannel {
        let is_taken = self.consumers.iter().any(|other| other.asked.exclusive);
        if !self.is_alive || is_taken || asked.exclusive && !self.consumers.is_empty() {
            return ToChannel::Refused;
        }
        self.had_consumer = true;
        // A quorum queue merges a consumer with the cancelled one of that name that still holds messages: they count.
        let held = match self.kind {
            QueueKind::Quorum => self.with(channel, &asked.tag).count() as u32,
            QueueKind::Classic => 0,
        };
        self.consumers.push(Consumer { channel, asked: asked.clone(), unacked: held });
        ToChannel::ConsumeOk(asked)
    }

    fn take(&mut self) -> Option<Entry> {
        self.returned.pop_front().or_else(|| self.ready.pop_front())
    }

    fn check_out(
        &mut self,
        entry: Entry,
        channel: usize,
        consumer: Option<Bytes>,
        no_ack: bool,
        ledger: &mut Ledger,
    ) {
        if no_ack {
            ledger.of(entry.message).unasked = true;
        } else {
            self.checked.insert(entry.position, Checked { entry, channel, consumer });
        }
    }

    fn check_in(&mut self, position: u64) -> Option<Checked> {
        let checked = self.checked.remove(&position)?;
        let consumer = self
            .consumers
            .iter_mut()
            .find(|one| one.channel == checked.channel && Some(&one.asked.tag) == checked.consumer.as_ref());
        if let Some(consumer) = consumer {
            consumer.unacked = consumer.unacked.saturating_sub(1);
        }
        Some(checked)
    }

    fn put_back(&mut self, mut entry: Entry) {
        entry.redelivered = true;
        match self.kind {
            QueueKind::Quorum => self.returned.push_back(entry),
            QueueKind::Classic => {
                let at = self.ready.partition_point(|other| other.position < entry.position);
                self.ready.insert(at, entry);
            }
        }
    }

    fn expire(&mut self, index: usize, ledger: &mut Ledger) {
        if self.is_alive && self.auto_delete && self.had_consumer && self.consumers.is_empty() {
            let is_wanted = ledger.client_left || !ledger.is_strict || ledger.may_vanish.contains(&index);
            ledger.check(is_wanted, || format!("I1: queue {index} was deleted behind the client's back"));
            self.clear(ledger);
            self.is_alive = false;
        }
    }

    /// Everything in it is gone.
    pub fn clear(&mut self, ledger: &mut Ledger) {
        let checked = std::mem::take(&mut self.checked).into_values().map(|checked| checked.entry);
        for entry in self.ready.drain(..).chain(self.returned.drain(..)).chain(checked) {
            ledger.of(entry.message).gone = true;
        }
    }

    /// What is ready is gone.
    pub fn purge(&mut self, ledger: &mut Ledger) {
        for entry in self.ready.drain(..).chain(self.returned.drain(..)) {
            ledger.of(entry.message).gone = true;
        }
    }

    /// All messages in it, delivered ones included.
    pub fn left(&self) -> impl Iterator<Item = u32> + '_ {
        let ready = self.ready.iter().chain(&self.returned).map(|entry| entry.message);
        ready.chain(self.checked.values().map(|checked| checked.entry.message))
    }

    /// Messages that are with this consumer.
    pub fn with<'a>(&'a self, channel: usize, tag: &'a Bytes) -> impl Iterator<Item = u32> + 'a {
        let with =
            move |checked: &&Checked| checked.channel == channel && checked.consumer.as_ref() == Some(tag);
        self.checked.values().filter(with).map(|checked| checked.entry.message)
    }

    /// How many messages are with this channel.
    pub fn count_with(&self, channel: usize) -> usize {
        self.checked.values().filter(|checked| checked.channel == channel).count()
    }
}
