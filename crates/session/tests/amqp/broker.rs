//! The model cluster: nodes with connections, channels as processes, queues, and the mailboxes between them.
//!
//! Every pair of a channel and a queue has a mailbox in each direction, first in first out, and nothing else is in order: a
//! channel that is closed may still have publishes under way (R1), and what is delivered may meet a cancelled consumer (R2).

use std::collections::{BTreeMap, VecDeque};

use amqp::write;
use amqp::{Kind, Method, MethodId, StartOk, Tune};
use model::Time;

use crate::channel::{Channel, Input};
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::queue::{Queue, QueueKind, ToChannel, ToQueue};
use crate::wire::{self, Bytes, Frames, bare, frame_of};

/// What a node does to a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manners {
    Polite,
    /// 403 instead of Tune.
    RefusesLogin,
    /// 530 instead of open-ok.
    RefusesOpen,
    /// The connection is closed at the first channel.
    RefusesChannel,
    /// 403 to whoever consumes.
    RefusesConsumers,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Header,
    StartOk,
    TuneOk,
    OpenMethod,
    Open,
    /// The client's Close is here; channels still end.
    Ending,
    /// Our Close is out.
    ExpectCloseOk,
    Closed,
}

/// A connection as its node sees it.
#[derive(Debug)]
pub struct Connection {
    pub node: usize,
    pub stage: Stage,
    pub manners: Manners,
    frames: Frames,
    /// For the network.
    pub out: Bytes,
    /// It has ended its side.
    pub fin: bool,
    pub open: BTreeMap<u16, usize>,
    /// Nothing happens in it before.
    pub frozen_until: Time,
    published: bool,
    pub is_blocked: bool,
    pub heard: Time,
    pub next_beat: Time,
}

#[derive(Default, Debug)]
pub struct Mailboxes {
    pub up: VecDeque<ToQueue>,
    pub down: VecDeque<ToChannel>,
}

#[derive(Debug)]
pub struct Cluster {
    pub queues: Vec<Queue>,
    pub connections: Vec<Connection>,
    pub channels: Vec<Channel>,
    /// By channel and queue.
    pub mail: BTreeMap<(usize, usize), Mailboxes>,
    /// Which nodes have raised an alarm.
    pub alarms: [bool; NODES],
    pub now: Time,
    pub dice: Dice,
    /// Seconds; 0: none.
    pub heartbeat: u16,
    pub generated: u32,
}

pub const NODES: usize = 3;
pub const TUNE: Tune = Tune { channel_max: 100, frame_max: 4096, heartbeat: 0 };
const CLUSTER_NAME: &str = "model";

impl Cluster {
    pub fn new(seed: u64, queues: Vec<Queue>, heartbeat: u16) -> Self {
        Self {
            queues,
            connections: Vec::new(),
            channels: Vec::new(),
            mail: BTreeMap::new(),
            alarms: [false; NODES],
            now: Time::ZERO,
            dice: Dice::new(seed),
            heartbeat,
            generated: 0,
        }
    }

    /// A connection to `node`, which waits for the protocol header, or is open already.
    pub fn connect(&mut self, node: usize, manners: Manners, is_open: bool) -> usize {
        self.connections.push(Connection {
            node,
            stage: if is_open { Stage::Open } else { Stage::Header },
            manners,
            frames: Frames::default(),
            out: Bytes::new(),
            fin: false,
            open: BTreeMap::new(),
            frozen_until: Time::ZERO,
            published: false,
            is_blocked: false,
            heard: self.now,
            next_beat: self.now,
        });
        self.connections.len() - 1
    }

    /// Bytes of the gateway's arrive.
    pub fn receive(&mut self, index: usize, bytes: &[u8], ledger: &mut Ledger) {
        let connection = &mut self.connections[index];
        if connection.stage == Stage::Closed {
            return;
        }
        connection.heard = self.now;
        connection.frames.push(bytes);
        if connection.stage == Stage::Header {
            let Some(header) = connection.frames.raw(8) else { return };
            ledger.check(header == amqp::PROTOCOL_HEADER, || format!("I4: a node got the header {header:?}"));
            connection.stage = Stage::StartOk;
            let start = start(&mut connection.out);
            debug_assert!(start > 0);
        }
        loop {
            match self.connections[index].frames.next() {
                Ok(None) => return,
                Ok(Some(frame)) => self.frame(index, frame, ledger),
                Err(error) => return ledger.fail(|| format!("I4: a node got a malformed stream: {error}")),
            }
        }
    }

    fn frame(&mut self, index: usize, frame: wire::Frame, ledger: &mut Ledger) {
        let connection = &mut self.connections[index];
        match frame.kind {
            Kind::Heartbeat => return,
            _ if frame.channel == 0 => return self.connection_method(index, &frame.payload, ledger),
            _ => {}
        }
        match connection.stage {
            Stage::Open => {}
            // A node discards everything but Close and close-ok once it is closing.
            Stage::Ending | Stage::ExpectCloseOk | Stage::Closed => return,
            stage => return ledger.fail(|| format!("I4: a channel's frame came at {stage:?}")),
        }
        let number = frame.channel;
        let is_open =
            matches!(Method::parse(&frame.payload), Ok(Method::ChannelOpen)) && frame.kind == Kind::Method;
        match connection.open.get(&number) {
            Some(&channel) => self.channels[channel].input.push_back(Input::Frame(frame)),
            None if is_open && connection.manners == Manners::RefusesChannel => {
                self.close_connection(index, 504, "CHANNEL_ERROR", ledger);
            }
            None if is_open => {
                let channel = self.channels.len();
                connection.open.insert(number, channel);
                let mut process = Channel::new(index, number);
                process.input.push_back(Input::Frame(frame));
                self.channels.push(process);
            }
            None => ledger.fail(|| format!("I4: a frame for channel {number}, which is not open: {frame:?}")),
        }
    }

    fn connection_method(&mut self, index: usize, payload: &[u8], ledger: &mut Ledger) {
        let heartbeat = self.heartbeat;
        let connection = &mut self.connections[index];
        let id = MethodId::of(payload);
        match (connection.stage, id) {
            (Stage::StartOk, MethodId::CONNECTION_START_OK) => {
                let is_right = StartOk::parse(payload).is_ok_and(|ok| ok.response == RESPONSE);
                ledger.check(is_right, || "I4: a node got a login that is not the client's".into());
                if connection.manners == Manners::RefusesLogin {
                    return self.close_connection(index, 403, "ACCESS_REFUSED", ledger);
                }
                connection.stage = Stage::TuneOk;
                Tune { heartbeat, ..TUNE }.write(&mut connection.out, MethodId::CONNECTION_TUNE);
            }
            (Stage::TuneOk, MethodId::CONNECTION_TUNE_OK) => connection.stage = Stage::OpenMethod,
            (Stage::OpenMethod, MethodId::CONNECTION_OPEN) => {
                if connection.manners == Manners::RefusesOpen {
                    return self.close_connection(index, 530, "NOT_ALLOWED", ledger);
                }
                connection.stage = Stage::Open;
                connection.out.extend(frame_of(0, MethodId::CONNECTION_OPEN_OK, |out| out.push(0)));
            }
            (Stage::Closed, _) => {}
            (_, MethodId::CONNECTION_CLOSE) => {
                connection.stage = Stage::Ending;
                let channels: Vec<usize> = connection.open.values().copied().collect();
                for channel in channels {
                    self.channels[channel].input.push_back(Input::Terminate);
                }
                self.end_when_empty(index, ledger);
            }
            (Stage::ExpectCloseOk, MethodId::CONNECTION_CLOSE_OK) => {
                connection.stage = Stage::Closed;
                connection.fin = true;
            }
            (Stage::Ending | Stage::ExpectCloseOk, _) => {}
            (Stage::Open, MethodId::CONNECTION_UPDATE_SECRET) => {
                connection.out.extend(bare(0, MethodId::CONNECTION_UPDATE_SECRET_OK));
            }
            (stage, id) => ledger.fail(|| format!("I4: a node got {id:?} at {stage:?}")),
        }
    }

    /// All channels of a connection that the client closes have ended: it is answered.
    pub fn end_when_empty(&mut self, index: usize, ledger: &mut Ledger) {
        let connection = &mut self.connections[index];
        if connection.stage == Stage::Ending && connection.open.is_empty() {
            connection.out.extend(bare(0, MethodId::CONNECTION_CLOSE_OK));
            connection.stage = Stage::Closed;
            connection.fin = true;
            self.release(index, ledger);
        }
    }

    /// The node closes the connection of its own accord, channels first.
    pub fn close_connection(&mut self, index: usize, code: u16, text: &str, ledger: &mut Ledger) {
        if matches!(self.connections[index].stage, Stage::Ending | Stage::ExpectCloseOk | Stage::Closed) {
            return;
        }
        if self.connections[index].stage == Stage::Header {
            return self.lose(index, ledger);
        }
        self.kill_channels(index, ledger);
        let connection = &mut self.connections[index];
        write::connection_close(&mut connection.out, code, text);
        connection.stage = Stage::ExpectCloseOk;
        self.release(index, ledger);
    }

    /// The connection is broken, or ended without a Close.
    pub fn lose(&mut self, index: usize, ledger: &mut Ledger) {
        if self.connections[index].stage != Stage::Closed {
            self.kill_channels(index, ledger);
            self.connections[index].stage = Stage::Closed;
            self.release(index, ledger);
        }
        self.connections[index].fin = true;
    }

    fn kill_channels(&mut self, index: usize, ledger: &Ledger) {
        let channels: Vec<usize> = std::mem::take(&mut self.connections[index].open).into_values().collect();
        for channel in channels {
            self.channels[channel].input.clear();
            self.bury(channel, ledger);
        }
    }

    /// Exclusive queues end with their connection.
    fn release(&mut self, index: usize, ledger: &mut Ledger) {
        for queue in self.queues.iter_mut().filter(|queue| queue.owner == Some(index)) {
            let is_wanted = ledger.client_left || !ledger.is_strict;
            ledger.check(is_wanted, || "I1: an exclusive queue was lost behind the client's back".into());
            queue.clear(ledger);
            queue.is_alive = false;
            queue.owner = None;
            queue.consumers.clear();
        }
    }

    /// A channel's process ends: what it has stashed is lost (R3), the queues learn of it.
    pub fn bury(&mut self, channel: usize, ledger: &Ledger) {
        let process = &mut self.channels[channel];
        process.is_over = true;
        process.stash.clear();
        let is_wanted = ledger.client_left || ledger.leaving.contains(&process.number);
        for queue in std::mem::take(&mut process.touched) {
            self.mail.entry((channel, queue)).or_default().up.push_back(ToQueue::Down { is_wanted });
        }
    }

    /// A queue handles the next thing in its mailbox from `channel`.
    pub fn queue_step(&mut self, channel: usize, queue: usize, ledger: &mut Ledger) {
        let Some(what) = self.mail.get_mut(&(channel, queue)).and_then(|mail| mail.up.pop_front()) else {
            return;
        };
        let answers = self.queues[queue].handle(queue, channel, what, ledger);
        self.post(queue, answers);
        self.tidy(channel, queue);
    }

    /// A publisher elsewhere has a message for a queue.
    pub fn feed(&mut self, queue: usize, message: u32, ledger: &mut Ledger) {
        let mut out = Vec::new();
        self.queues[queue].accept(queue, message, ledger);
        self.queues[queue].deliver(ledger, &mut out);
        self.post(queue, out);
    }

    fn post(&mut self, queue: usize, answers: Vec<(usize, ToChannel)>) {
        let is_quorum = self.queues[queue].kind == QueueKind::Quorum;
        for (channel, what) in answers {
            if self.channels[channel].is_over {
                continue;
            }
            let down = &mut self.mail.entry((channel, queue)).or_default().down;
            match what {
                // A quorum queue's answer takes another way than its deliveries (R2).
                ToChannel::CancelOk { .. } if is_quorum => {
                    let at = self.dice.below(down.len() + 1);
                    down.insert(at, what);
                }
                what => down.push_back(what),
            }
        }
    }

    /// Forgets empty mailboxes.
    pub fn tidy(&mut self, channel: usize, queue: usize) {
        let is_empty = |mail: &Mailboxes| mail.up.is_empty() && mail.down.is_empty();
        if self.mail.get(&(channel, queue)).is_some_and(is_empty) {
            self.mail.remove(&(channel, queue));
        }
    }

    /// Something was published on a connection whose node has raised an alarm.
    pub fn published(&mut self, index: usize) {
        self.connections[index].published = true;
        self.update_alarm(index);
    }

    /// Tells a connection what it has to know of its node's alarm.
    pub fn update_alarm(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let is_alarmed = self.alarms[connection.node];
        if connection.stage != Stage::Open || connection.is_blocked == is_alarmed {
            return;
        }
        if is_alarmed && connection.published {
            let blocked = |out: &mut Bytes| write::short_string(out, b"low on memory");
            connection.out.extend(frame_of(0, MethodId::CONNECTION_BLOCKED, blocked));
            connection.is_blocked = true;
        } else if !is_alarmed {
            write::unblocked(&mut connection.out);
            connection.is_blocked = false;
        }
    }

    /// The node's own heartbeats, and its patience.
    pub fn beat(&mut self, index: usize, ledger: &mut Ledger) {
        let every = std::time::Duration::from_millis(u64::from(self.heartbeat) * 500);
        let connection = &mut self.connections[index];
        if every.is_zero() || connection.stage != Stage::Open || connection.frozen_until > self.now {
            return;
        }
        if connection.next_beat <= self.now {
            connection.out.extend_from_slice(&write::HEARTBEAT);
            connection.next_beat = self.now + every;
        }
        let silence = self.now.since(connection.heard);
        // Nobody reads for some time after a stand-still: that is not the gateway's silence.
        let is_judged = ledger.is_strict && ledger.beats_are_judged && !ledger.client_left;
        ledger.check(!is_judged || silence <= every * 5, || {
            format!("I4: a node heard nothing of connection {index} for {silence:?}")
        });
    }
}

/// What the client logs in with.
pub const RESPONSE: &[u8] = b"\0guest\0guest";

fn start(out: &mut Bytes) -> usize {
    let begin = out.len();
    write::method(out, 0, MethodId::CONNECTION_START, |out| {
        out.extend_from_slice(&[0, 9]);
        write::long_string(out, &wire::text_entry("cluster_name", CLUSTER_NAME));
        write::long_string(out, b"PLAIN AMQPLAIN");
        write::long_string(out, b"en_US");
    });
    out.len() - begin
}
