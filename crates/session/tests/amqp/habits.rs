//! What a client is like: its queues, its channels, what it does how often. Drawn from a seed.

use std::collections::VecDeque;

use session::ForeignQueues;

use crate::channel::Mode;
use crate::client::{Client, Declared, Op};
use crate::dice::Dice;
use crate::queue::QueueKind;

/// What kind of clients a case has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Everything that clients do.
    Any,
    /// Publishers, one queue, no confirms.
    Unconfirmed,
    /// One consumer with a prefetch on one queue of this kind, always fed.
    Consumer(QueueKind),
}

/// A client's habits.
#[derive(Clone, Debug)]
pub struct Habits {
    pub queues: Vec<Declared>,
    pub channels: u16,
    /// Things that it does before it settles down.
    pub acts: usize,
    /// Messages that come from elsewhere.
    pub feeds: usize,
    /// It is asked to move so often.
    pub moves: usize,
    pub alarms: usize,
    /// Heartbeat, in seconds; 0: none.
    pub heartbeat: u16,
    /// It closes the connection when it has settled.
    pub closes: bool,
    pub foreign_queues: ForeignQueues,
    requeues: bool,
    errors: bool,
    gets: bool,
    topology: bool,
    /// It acknowledges nothing before it settles down.
    hoards: bool,
    /// Requests are rare, so that moves come to their end.
    is_steady: bool,
    script: Vec<(u16, Op)>,
    publishes: usize,
}

impl Habits {
    pub fn draw(kind: Kind, dice: &mut Dice) -> Self {
        match kind {
            Kind::Any => Self::any(dice),
            Kind::Unconfirmed => {
                let mut habits = Self::plain(vec![QueueKind::Classic], dice);
                habits.channels = 1;
                habits.publishes = 9;
                habits
            }
            Kind::Consumer(kind) => {
                let mut habits = Self::plain(vec![kind], dice);
                habits.channels = 1;
                habits.feeds = 40;
                let prefetch = dice.pick(&[1, 2, 5]);
                habits.script.push((1, Op::Qos(prefetch)));
                habits.script.push((1, consume(0)));
                habits
            }
        }
    }

    fn plain(kinds: Vec<QueueKind>, dice: &mut Dice) -> Self {
        let queue = |kind| Declared { kind, exclusive: false, auto_delete: false };
        let mut habits = Self {
            queues: kinds.into_iter().map(queue).collect(),
            channels: 1 + dice.below(3) as u16,
            acts: 10 + dice.below(50),
            feeds: 0,
            moves: 2 + dice.below(5),
            alarms: 0,
            heartbeat: 0,
            closes: dice.one_in(2),
            foreign_queues: ForeignQueues::Pin,
            requeues: false,
            errors: false,
            gets: false,
            topology: false,
            hoards: false,
            is_steady: false,
            script: Vec::new(),
            publishes: 3,
        };
        for channel in 1..=habits.channels {
            habits.script.push((channel, Op::Open));
            for queue in 0..habits.queues.len() {
                habits.script.push((channel, Op::Declare { queue, passive: false, nowait: false }));
            }
        }
        habits
    }

    fn any(dice: &mut Dice) -> Self {
        let kinds = [QueueKind::Classic, QueueKind::Quorum];
        let count = 1 + dice.below(3);
        let mut habits = Self::plain((0..count).map(|_| dice.pick(&kinds)).collect(), dice);
        habits.feeds = dice.pick(&[0, 10, 40]);
        habits.requeues = dice.one_in(4);
        habits.errors = dice.one_in(4);
        habits.gets = dice.one_in(3);
        habits.topology = dice.one_in(3);
        habits.hoards = dice.one_in(12);
        habits.is_steady = !dice.one_in(3);
        habits.alarms = if dice.one_in(8) { 2 } else { 0 };
        habits.heartbeat = if dice.one_in(4) { 2 } else { 0 };
        if dice.one_in(3) {
            habits.foreign_queues = ForeignQueues::AssumePersistent;
        }
        if dice.one_in(16) {
            let kind = QueueKind::Classic;
            let exclusive = dice.one_in(2);
            habits.queues.push(Declared { kind, exclusive, auto_delete: !exclusive });
            let queue = habits.queues.len() - 1;
            habits.script.push((1, Op::Declare { queue, passive: false, nowait: false }));
        }
        for channel in 1..=habits.channels {
            habits.furnish(channel, dice);
        }
        habits
    }

    fn furnish(&mut self, channel: u16, dice: &mut Dice) {
        match dice.below(6) {
            0 => self.script.push((channel, Op::Confirm { nowait: dice.one_in(2) })),
            1 => self.script.push((channel, Op::TxSelect)),
            2 => {}
            _ => {
                self.script.push((channel, Op::Qos(dice.pick(&[1, 1, 2, 5, 20]))));
                for _ in 0..1 + dice.below(2) {
                    let queue = dice.below(self.queues.len());
                    self.script.push((channel, consume(queue)));
                }
            }
        }
    }

    pub fn script(&self) -> VecDeque<(u16, Op)> {
        self.script.clone().into()
    }

    /// Something that the client might do now. `None`: this time nothing.
    pub fn draw_op(&self, client: &Client, dice: &mut Dice) -> Option<(u16, Op)> {
        let channel = 1 + dice.below(self.channels.into()) as u16;
        let Some(chan) = client.channels.get(&channel) else {
            return dice.one_in(3).then_some((channel, Op::Open));
        };
        let queue = dice.below(self.queues.len());
        let publishes = dice.below(10) < self.publishes;
        let op = match dice.below(24) {
            _ if publishes => {
                let lost = self.errors && dice.one_in(6);
                // In a transaction a broker returns at the commit, which is not modelled.
                let mandatory = dice.one_in(3) && chan.mode != Mode::Tx;
                Op::Publish { queue: (!lost).then_some(queue), mandatory }
            }
            0..8 if !self.hoards => self.draw_ack(dice),
            8..10 if chan.mode == Mode::Tx => {
                if dice.one_in(3) {
                    Op::Rollback
                } else {
                    Op::Commit
                }
            }
            10.. if self.is_steady && !dice.one_in(12) => return None,
            10 => Op::Qos(dice.pick(&[1, 2, 5, 20])),
            11 => Op::Consume {
                queue,
                no_ack: dice.one_in(10),
                exclusive: false,
                named: dice.one_in(2),
                nowait: dice.one_in(4),
            },
            12 => Op::Cancel { tag: client.a_consumer(channel)?, nowait: dice.one_in(4) },
            13 if dice.one_in(3) => Op::Confirm { nowait: dice.one_in(2) },
            13 if dice.one_in(3) => Op::TxSelect,
            14 if dice.one_in(3) => Op::Close,
            15..18 if self.topology => self.draw_topology(queue, dice),
            18..20 if self.gets => Op::Get { queue, no_ack: dice.one_in(3) },
            20 if self.requeues => Op::Recover,
            21 if self.errors => Op::DeclareMissing,
            22 if self.errors => Op::BadAck { old: dice.one_in(2) },
            _ => return None,
        };
        Some((channel, op))
    }

    fn draw_ack(&self, dice: &mut Dice) -> Op {
        let place = if dice.one_in(2) { 0 } else { dice.below(20) };
        let requeue = self.requeues && dice.one_in(2);
        match dice.below(8) {
            0 => Op::Nack { place, multiple: dice.one_in(2), requeue },
            1 => Op::Reject { place, requeue },
            2 | 3 => Op::Ack { place, multiple: true, zero: false },
            4 => Op::Ack { place, multiple: true, zero: true },
            _ => Op::Ack { place, multiple: false, zero: false },
        }
    }

    fn draw_topology(&self, queue: usize, dice: &mut Dice) -> Op {
        let nowait = dice.one_in(3);
        match dice.below(6) {
            0 => Op::Declare { queue, passive: true, nowait: false },
            1 | 2 => Op::Declare { queue, passive: false, nowait },
            3 => Op::Bind { queue, nowait },
            4 => Op::Exchange { nowait },
            _ => Op::Purge { queue },
        }
    }
}

fn consume(queue: usize) -> Op {
    Op::Consume { queue, no_ack: false, exclusive: false, named: true, nowait: false }
}
