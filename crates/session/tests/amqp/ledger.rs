//! What really happened to every message, told by both ends: the client and the queues. The judge of I1 to I7.

use std::collections::{BTreeMap, BTreeSet};

use model::Time;

use crate::wire::Bytes;

/// One message and its fate.
#[derive(Clone, Default, Debug)]
pub struct Message {
    pub publisher: u32,
    /// Within the publisher.
    pub seq: u32,
    /// Where it is to go; `None`: nowhere.
    pub queue: Option<usize>,
    pub mandatory: bool,
    /// The client has written all of it.
    pub sent: bool,
    /// The client knows that the broker has it.
    pub confirmed: bool,
    /// Its transaction was rolled back.
    pub void: bool,
    /// A queue has it.
    pub reached: bool,
    pub returned: u32,
    /// The client got it so often, and when first.
    pub seen: u32,
    pub seen_at: Time,
    /// The client has acknowledged or rejected it for good.
    pub acked: bool,
    pub acked_at: Time,
    /// The queue has forgotten it since it was acknowledged.
    pub settled: bool,
    /// The queue has forgotten it as it delivered it.
    pub unasked: bool,
    /// It was purged, or its queue is gone, as the client wanted.
    pub gone: bool,
    /// It may come again, and late: the client gave it back, or a client without a gateway would see that as well.
    pub again: bool,
}

/// The books of a schedule.
#[derive(Debug)]
pub struct Ledger {
    pub messages: Vec<Message>,
    /// The first thing that went wrong.
    pub failure: Option<String>,
    /// Nothing may be seen twice or late. A node that dies ends that.
    pub is_strict: bool,
    /// Channels that the client has closed, or has asked the broker to close by doing something wrong.
    pub leaving: BTreeSet<u16>,
    /// The client has closed the connection, or is gone.
    pub client_left: bool,
    /// The client has ended a channel, a consumer or the connection at some time: what nobody answers for may be lost then.
    pub had_enough: bool,
    /// Consumers that the client has cancelled.
    pub cancelled: BTreeSet<(u16, Bytes)>,
    /// Queues whose end the client has brought about.
    pub may_vanish: BTreeSet<usize>,
    enqueued: BTreeMap<(usize, u32), u32>,
    delivered: BTreeMap<(u32, u32), u32>,
    pub checks: u64,
    pub now: Time,
    /// Nobody has stood still: whoever is silent is at fault.
    pub beats_are_judged: bool,
    /// When the session began to hold acks back.
    pub saturated_at: Time,
    /// When it began to cancel consumers.
    pub fenced_at: Time,
    /// Messages that met a cancelled consumer which had been idle: the one hole that is left of R2.
    pub holes: u64,
}

impl Ledger {
    pub fn new() -> Self {
        Self {
            messages: Vec::new(),
            failure: None,
            is_strict: true,
            leaving: BTreeSet::new(),
            client_left: false,
            had_enough: false,
            cancelled: BTreeSet::new(),
            may_vanish: BTreeSet::new(),
            enqueued: BTreeMap::new(),
            delivered: BTreeMap::new(),
            checks: 0,
            beats_are_judged: true,
            now: Time::ZERO,
            saturated_at: Time::ZERO,
            fenced_at: Time::ZERO,
            holes: 0,
        }
    }

    /// Something is as it must not be.
    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(what());
        }
    }

    /// Fails unless `holds`.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.fail(what);
        }
    }

    pub fn create(&mut self, publisher: u32, seq: u32, queue: Option<usize>, mandatory: bool) -> u32 {
        self.messages.push(Message { publisher, seq, queue, mandatory, ..Message::default() });
        (self.messages.len() - 1) as u32
    }

    /// The client ends a channel.
    pub fn leave(&mut self, channel: u16) {
        self.leaving.insert(channel);
        self.had_enough = true;
    }

    pub fn of(&mut self, message: u32) -> &mut Message {
        &mut self.messages[message as usize]
    }

    /// A queue takes a message in.
    pub fn enqueue(&mut self, queue: usize, message: u32) {
        let Message { publisher, seq, reached, void, queue: to, .. } = *self.of(message);
        self.check(!reached, || format!("I2: message {message} reached its queue twice"));
        self.check(!void, || {
            format!("I2: message {message} of a transaction that was rolled back is in its queue")
        });
        self.check(to == Some(queue), || {
            format!("I1: message {message} is in queue {queue}, expected {to:?}")
        });
        let last = self.enqueued.insert((queue, publisher), seq);
        self.check(last.is_none_or(|last| last < seq), || {
            format!("I3: publisher {publisher}: {seq} reached queue {queue} after {last:?}")
        });
        self.of(message).reached = true;
    }

    /// The broker tells the client that it has a message.
    pub fn confirm(&mut self, message: u32) {
        let Message { reached, queue, mandatory, returned, confirmed, gone, .. } = *self.of(message);
        self.check(!confirmed, || format!("I7: message {message} was confirmed twice"));
        self.check(reached || gone || queue.is_none(), || {
            format!("I7: message {message} was confirmed, no queue has it")
        });
        self.check(queue.is_some() || !mandatory || returned == 1, || {
            format!("I7: message {message} was confirmed before it was returned")
        });
        self.of(message).confirmed = true;
    }

    /// The client gets a message; `consumer`: a number for its stay, `None`: by get.
    pub fn deliver(&mut self, message: u32, consumer: Option<u32>, redelivered: bool) {
        if self.messages.len() <= message as usize {
            return self.fail(|| format!("I1: the client got message {message}, which does not exist"));
        }
        let Message { publisher, seq, seen, again, reached, acked, .. } = *self.of(message);
        if seen == 0 {
            self.of(message).seen_at = self.now;
        }
        self.of(message).seen += 1;
        self.check(reached, || format!("I1: the client got message {message}, no queue had it"));
        if again || !self.is_strict {
            return;
        }
        self.check(!acked, || {
            format!("I2: message {message} came again, though the client had acknowledged it")
        });
        self.check(seen == 0, || format!("I2: message {message} came twice"));
        self.check(!redelivered, || format!("I5: message {message} came with redelivered=true"));
        let Some(consumer) = consumer else { return };
        let last = self.delivered.insert((consumer, publisher), seq);
        self.check(last.is_none_or(|last| last < seq), || {
            format!("I3: consumer {consumer}: publisher {publisher}'s {seq} came after {last:?}")
        });
    }

    /// A message meets a consumer that was cancelled. `others`: what else its queue has given to that consumer.
    pub fn bounce(&mut self, message: u32, is_wanted: bool, others: &[u32]) {
        let is_known = |other: &u32| {
            let Message { seen, seen_at, acked, acked_at, again, .. } = self.messages[*other as usize];
            // An earlier ack may still be on its way to the queue.
            let is_held = !acked || acked_at >= self.saturated_at;
            seen > 0 && seen_at < self.fenced_at && is_held && !again
        };
        let was_idle = !is_known(&message) && !others.iter().any(is_known);
        self.holes += u64::from(!is_wanted && was_idle);
        self.of(message).again |= is_wanted || was_idle;
    }

    /// A queue forgets a message since it was acknowledged.
    pub fn settle(&mut self, message: u32) {
        let Message { settled, acked, .. } = *self.of(message);
        self.check(!settled, || format!("I6: message {message} was settled twice"));
        self.check(acked, || {
            format!("I1: message {message} was settled at its queue, the client has not acknowledged it")
        });
        self.of(message).settled = true;
    }

    /// Judges how it all ended, given the messages that are still in queues. `complete`: the client went on to the end
    /// without losing its connection.
    pub fn close(&mut self, left: &BTreeSet<u32>, complete: bool) {
        for number in 0..self.messages.len() as u32 {
            let message = self.of(number).clone();
            let Message { sent, confirmed, void, reached, acked, settled, unasked, gone, seen, .. } = message;
            let is_there = left.contains(&number);
            if let Some(queue) = message.queue {
                self.check(!confirmed || void || gone || is_there || acked || unasked, || {
                    format!("I1: message {number} to queue {queue} was confirmed, and is lost: {message:?}")
                });
                self.check(!is_there || !settled, || format!("I6: message {number} is left though settled"));
                self.check(!reached || is_there || settled || unasked || gone, || {
                    format!("I1: message {number} vanished from queue {queue}")
                });
            }
            if !complete {
                continue;
            }
            if message.queue.is_some() {
                self.check(!sent || void || reached || gone, || {
                    format!("I1: message {number} was sent, and reached no queue: {message:?}")
                });
                self.check(!unasked || seen > 0 || self.had_enough, || {
                    format!("I1: message {number} was delivered without acks, and never came")
                });
                self.check(!self.is_strict || !acked || settled || gone || message.again, || {
                    format!("I6: the ack of message {number} never came to its queue")
                });
            } else {
                let expected = u32::from(sent && message.mandatory && !void);
                let is_right = message.returned == expected || self.had_enough && message.returned == 0;
                self.check(is_right, || {
                    format!("I7: message {number} was returned {} times", message.returned)
                });
            }
        }
    }
}
