//! A schedule: a client, a session in its shell, a cluster, and a die that says which of all things that could happen does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amqp::{Credentials, StartOk, Table, Tune};
use model::Time;
use session::{AmqpLeg, AmqpSession, AmqpSettings, Opened};

use crate::broker::{Cluster, Manners, NODES, RESPONSE, Stage, TUNE};
use crate::client::{self, Client, name_of};
use crate::dice::Dice;
use crate::fault::{Fault, PHASES, Welcome};
use crate::gateway::{Gateway, LEGS, Link, Peer, Results};
use crate::habits::{Habits, Kind};
use crate::ledger::Ledger;
use crate::queue::Queue;

/// What a schedule is made of.
#[derive(Clone, Debug)]
pub struct Case {
    pub settings: AmqpSettings,
    pub clients: Kind,
    /// Something goes wrong from outside.
    pub faults: bool,
    /// It is this, in this phase; `None`: the seed says.
    pub fault: Option<(&'static str, Fault)>,
    /// Sessions are asked to move at all.
    pub moves: bool,
}

impl Case {
    /// Everything, and nothing goes wrong.
    pub fn calm() -> Self {
        Self {
            settings: AmqpSettings::default(),
            clients: Kind::Any,
            faults: false,
            fault: None,
            moves: true,
        }
    }

    /// Everything.
    pub fn faulty() -> Self {
        Self { faults: true, ..Self::calm() }
    }
}

/// What came of a schedule.
#[derive(Clone, Default, Debug)]
pub struct Outcome {
    pub failure: Option<String>,
    pub given_up: bool,
    pub results: Results,
    /// Faults by the phase in which they happened.
    pub faults: BTreeMap<(&'static str, Fault), u64>,
    pub welcomes: BTreeMap<Welcome, u64>,
    pub steps: u64,
    pub checks: u64,
    pub messages: u64,
    pub holes: u64,
    pub trace: Vec<String>,
}

/// Plays the schedule of a seed. A panic is a failure like others.
pub fn play(case: &Case, seed: u64) -> Outcome {
    let run = std::panic::AssertUnwindSafe(|| World::new(case, seed).run());
    std::panic::catch_unwind(run)
        .unwrap_or_else(|_| Outcome { failure: Some("panic: see above".into()), ..Outcome::default() })
}

/// Something that can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Client,
    ClientSettles,
    /// A peer's bytes arrive at the gateway.
    Read(AmqpLeg),
    End(AmqpLeg),
    ReadFormer(usize),
    EndFormer(usize),
    /// The gateway's bytes arrive at a peer.
    Arrive(Place),
    Channel(usize),
    Writer(usize),
    Up(usize, usize),
    Down(usize, usize),
    Stash(usize),
    Confirm(usize),
    Dialed,
    Feed,
    Move,
    Alarm,
    Fault,
    Pass,
}

/// Where a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Leg(usize),
    Former(usize),
    Dropped(usize),
}

/// More steps than any schedule takes.
const STEPS_MAX: u64 = 60_000;
/// Kinds of steps that are weighted.
const KINDS: usize = 8;

pub struct World {
    pub now: Time,
    dice: Dice,
    ledger: Ledger,
    cluster: Cluster,
    client: Client,
    gateway: Gateway,
    habits: Habits,
    weights: [u32; KINDS],
    acts: usize,
    feeds: usize,
    feed_seq: u32,
    moves: usize,
    alarms: usize,
    /// The fault that is to come: where, what, and after how many chances.
    fault: Option<(&'static str, Fault, usize)>,
    welcome: Welcome,
    /// The present endpoint, or one that became it, was harmed.
    next_was_harmed: bool,
    client_stops_until: Time,
    steps: Vec<(Step, u32)>,
    outcome: Outcome,
    is_traced: bool,
    is_complete: bool,
    /// The schedule has come to something that the model does not judge.
    is_given_up: bool,
    last_phase: &'static str,
    switches: u64,
}

impl World {
    pub fn new(case: &Case, seed: u64) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ seed);
        let mut habits = Habits::draw(case.clients, &mut dice);
        if !case.moves {
            habits.moves = 0;
        }
        let queues =
            habits.queues.iter().enumerate().map(|(n, queue)| Queue::new(&name_of(n), queue.kind)).collect();
        let mut cluster = Cluster::new(dice.below(usize::MAX) as u64, queues, habits.heartbeat);
        let node = cluster.connect(dice.below(NODES), Manners::Polite, true);
        let settings = AmqpSettings { foreign_queues: habits.foreign_queues, ..case.settings.clone() };
        let session = AmqpSession::new(opened(habits.heartbeat), &settings);
        let gateway = Gateway::new(session, settings, Link::new(Peer::Client), Link::new(Peer::Node(node)));
        let mut client = Client::new(habits.queues.clone());
        client.script = habits.script();
        client.is_short = habits.moves == 0;
        let fault = case.faults.then(|| {
            let phase = dice.pick(&PHASES);
            let fitting: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.fits(phase)).collect();
            let (phase, fault) = case.fault.unwrap_or((phase, dice.pick(&fitting)));
            (phase, fault, dice.below(4))
        });
        let welcomes = [
            Welcome::Refused,
            Welcome::LoginRefused,
            Welcome::OpenRefused,
            Welcome::ChannelRefused,
            Welcome::ConsumersRefused,
        ];
        let is_unwelcome = case.faults && case.fault.is_none() && dice.one_in(5);
        Self {
            now: Time::ZERO,
            ledger: Ledger::new(),
            cluster,
            client,
            gateway,
            weights: std::array::from_fn(|_| dice.pick(&[1, 3, 9])),
            acts: habits.acts,
            feeds: habits.feeds,
            feed_seq: 0,
            moves: habits.moves,
            alarms: habits.alarms,
            fault: fault.filter(|_| !is_unwelcome),
            welcome: if is_unwelcome { dice.pick(&welcomes) } else { Welcome::Good },
            next_was_harmed: false,
            client_stops_until: Time::ZERO,
            steps: Vec::new(),
            outcome: Outcome::default(),
            is_traced: false,
            is_complete: true,
            is_given_up: false,
            last_phase: "active",
            switches: 0,
            habits,
            dice,
        }
    }

    /// Notes every step.
    pub fn traced(mut self) -> Self {
        self.is_traced = true;
        self.gateway.is_traced = true;
        self.client.log = Some(Vec::new());
        self
    }

    fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.is_traced {
            let line = format!("{:>9.3} ms  {}", self.now.as_nanos() as f64 / 1e6, what(self));
            self.outcome.trace.push(line);
        }
    }

    /// Plays it to its end.
    pub fn run(mut self) -> Outcome {
        while self.ledger.failure.is_none() && !self.is_given_up {
            self.outcome.steps += 1;
            if self.outcome.steps > STEPS_MAX {
                self.ledger.fail(|| "stuck: the schedule does not come to its end".into());
                break;
            }
            self.find_steps();
            if self.steps.is_empty() {
                if !self.pass_to_next() {
                    break;
                }
            } else {
                let step = self.draw_step();
                self.take(step);
                self.now += Duration::from_micros(self.dice.below(60) as u64);
            }
            self.after_step();
        }
        if self.ledger.failure.is_none() && !self.is_given_up {
            self.judge();
        }
        if let Some(failure) = self.ledger.failure.clone() {
            self.note(|_| format!("FAILURE {failure}"));
        }
        self.outcome.given_up = self.is_given_up;
        self.outcome.failure = self.ledger.failure;
        self.outcome.checks = self.ledger.checks;
        self.outcome.holes = self.ledger.holes;
        self.outcome.messages = self.ledger.messages.len() as u64;
        self.outcome.results = self.gateway.results;
        self.outcome
    }

    fn draw_step(&mut self) -> Step {
        let total: u32 = self.steps.iter().map(|(_, weight)| weight).sum();
        let mut at = self.dice.below(total as usize) as u32;
        for (step, weight) in &self.steps {
            if at < *weight {
                return *step;
            }
            at -= weight;
        }
        Step::Pass
    }

    // ---- what could happen

    fn find_steps(&mut self) {
        self.steps.clear();
        let mut steps = std::mem::take(&mut self.steps);
        let [w_client, w_read, w_arrive, w_channel, w_writer, w_mail, w_rare, w_former] = self.weights;
        let client_moves = self.client_stops_until <= self.now && self.client.stage == client::Stage::Open;
        if client_moves && (self.client.has_begun() || self.acts > 0 && self.client.script.is_empty()) {
            steps.push((Step::Client, w_client));
        } else if client_moves && self.acts == 0 && self.client.to_settle().is_some() {
            steps.push((Step::ClientSettles, w_client));
        }
        for leg in LEGS {
            if self.gateway.may_read(leg) {
                steps.push((Step::Read(leg), w_read));
            }
            if self.gateway.may_end(leg) {
                steps.push((Step::End(leg), w_read));
            }
        }
        for (n, (_, link, _)) in self.gateway.retirees.iter().enumerate() {
            if !link.inbound.is_empty() {
                steps.push((Step::ReadFormer(n), w_former));
            } else if (link.inbound_fin || link.reset) && !link.end_told {
                steps.push((Step::EndFormer(n), w_former));
            }
        }
        for (n, link) in self.gateway.links.iter().enumerate() {
            if link.as_ref().is_some_and(|link| self.may_arrive(link)) {
                steps.push((Step::Arrive(Place::Leg(n)), w_arrive));
            }
        }
        for (n, (_, link, _)) in self.gateway.retirees.iter().enumerate() {
            if self.may_arrive(link) {
                steps.push((Step::Arrive(Place::Former(n)), w_former));
            }
        }
        for (n, link) in self.gateway.dropped.iter().enumerate() {
            if self.may_arrive(link) {
                steps.push((Step::Arrive(Place::Dropped(n)), w_former));
            }
        }
        self.find_broker_steps(&mut steps, w_channel, w_writer, w_mail);
        if self.gateway.dialing {
            steps.push((Step::Dialed, w_read));
        }
        if self.feeds > 0 && self.client.script.is_empty() {
            steps.push((Step::Feed, w_rare));
        }
        let session = &self.gateway.session;
        let is_free = !session.is_moving() && !self.gateway.is_over && session.end().is_none();
        if self.moves > 0 && is_free && self.client.script.is_empty() && client_moves {
            steps.push((Step::Move, 1));
        }
        if self.alarms > 0 {
            steps.push((Step::Alarm, 1));
        }
        if !steps.is_empty() {
            if self.is_time_for_fault() {
                steps.push((Step::Fault, w_rare.max(3)));
            }
            steps.push((Step::Pass, 1));
        }
        self.steps = steps;
    }

    fn find_broker_steps(&self, steps: &mut Vec<(Step, u32)>, w_channel: u32, w_writer: u32, w_mail: u32) {
        for (n, channel) in self.cluster.channels.iter().enumerate() {
            if channel.is_over || self.is_frozen(channel.connection) {
                continue;
            }
            if !channel.input.is_empty() && !channel.waits {
                steps.push((Step::Channel(n), w_channel));
            }
            if !channel.out.is_empty() {
                steps.push((Step::Writer(n), w_writer));
            }
            if !channel.confirms.is_empty() {
                steps.push((Step::Confirm(n), w_mail));
            }
            if channel.stash.front().is_some_and(|(until, ..)| *until <= self.now) {
                steps.push((Step::Stash(n), w_mail));
            }
        }
        for (&(channel, queue), mail) in &self.cluster.mail {
            if !mail.up.is_empty() {
                steps.push((Step::Up(channel, queue), w_mail));
            }
            let process = &self.cluster.channels[channel];
            if !mail.down.is_empty() && (process.is_over || !self.is_frozen(process.connection)) {
                steps.push((Step::Down(channel, queue), w_mail));
            }
        }
    }

    fn is_frozen(&self, connection: usize) -> bool {
        self.cluster.connections[connection].frozen_until > self.now
    }

    fn may_arrive(&self, link: &Link) -> bool {
        let is_awake = match link.peer {
            Peer::Client => self.client_stops_until <= self.now,
            Peer::Node(connection) => !self.is_frozen(connection),
        };
        is_awake && !link.reset && (!link.outbound.is_empty() || link.outbound_fin && !link.fin_arrived)
    }

    // ---- what happens

    fn take(&mut self, step: Step) {
        self.note(|_| format!("{step:?}"));
        let (now, count) = (self.now, self.chunk());
        match step {
            Step::Client => self.client_acts(),
            Step::ClientSettles => {
                if let Some((channel, op)) = self.client.to_settle() {
                    self.client.perform(channel, op, &mut self.dice, &mut self.ledger);
                }
            }
            Step::Read(leg) => self.gateway.read(now, leg, count),
            Step::End(leg) => self.gateway.end(now, leg),
            Step::ReadFormer(n) => self.gateway.read_retiree(now, n, count),
            Step::EndFormer(n) => self.gateway.end_retiree(n),
            Step::Arrive(place) => self.arrive(place, count),
            Step::Channel(n) => self.cluster.channel_step(n, &mut self.ledger),
            Step::Writer(n) => self.cluster.write_step(n),
            Step::Up(channel, queue) => self.cluster.queue_step(channel, queue, &mut self.ledger),
            Step::Down(channel, queue) => self.cluster.mail_step(channel, queue, &mut self.ledger),
            Step::Stash(n) => self.cluster.stash_step(n),
            Step::Confirm(n) => self.cluster.confirm_step(n),
            Step::Dialed => self.dialed(),
            Step::Feed => self.feed(),
            Step::Move => {
                self.moves -= 1;
                let answer =
                    self.gateway.call(now, |session, settings| session.begin_migration(now, settings));
                if let Err(pin) = answer {
                    *self.gateway.results.pinned.entry(pin.as_str()).or_default() += 1;
                }
            }
            Step::Alarm => self.toggle_alarm(),
            Step::Fault => self.inject(),
            Step::Pass => self.now += Duration::from_micros(self.dice.pick(&[300, 2000, 20_000])),
        }
    }

    /// How many bytes arrive at once: a few, many, or all.
    fn chunk(&mut self) -> usize {
        let most = self.dice.pick(&[3, 40, 400, 5000, usize::MAX >> 1]);
        1 + self.dice.below(most)
    }

    fn client_acts(&mut self) {
        let begins = self.client.has_begun()
            && (self.acts == 0 || self.dice.one_in(2) || !self.client.script.is_empty());
        if begins {
            self.client.go_on(&mut self.dice, &mut self.ledger);
            return;
        }
        self.acts = self.acts.saturating_sub(1);
        let Some((channel, op)) = self.habits.draw_op(&self.client, &mut self.dice) else { return };
        let is_publish = matches!(op, client::Op::Publish { .. });
        if self.client.may(channel, &op) && !(is_publish && self.client.is_blocked) {
            self.note(|_| format!("  {channel}: {op:?}"));
            self.client.perform(channel, op, &mut self.dice, &mut self.ledger);
        }
    }

    fn feed(&mut self) {
        self.feeds -= 1;
        self.feed_seq += 1;
        let alive: Vec<usize> =
            (0..self.cluster.queues.len()).filter(|&n| self.cluster.queues[n].is_alive).collect();
        if !alive.is_empty() {
            let queue = self.dice.pick(&alive);
            let message = self.ledger.create(0, self.feed_seq, Some(queue), false);
            self.cluster.feed(queue, message, &mut self.ledger);
            let message = self.ledger.of(message);
            (message.sent, message.confirmed) = (true, true);
        }
    }

    fn toggle_alarm(&mut self) {
        self.alarms -= 1;
        let node = self.dice.below(NODES);
        // The last one ends them all.
        let all = self.alarms == 0;
        for (n, alarm) in self.cluster.alarms.iter_mut().enumerate() {
            *alarm = if all { false } else { *alarm ^ (n == node) };
        }
        for connection in 0..self.cluster.connections.len() {
            self.cluster.update_alarm(connection);
        }
    }

    fn dialed(&mut self) {
        let manners = match self.welcome {
            Welcome::Good => Manners::Polite,
            Welcome::Refused => {
                *self.outcome.welcomes.entry(Welcome::Refused).or_default() += 1;
                return self.gateway.connected(self.now, None);
            }
            Welcome::LoginRefused => Manners::RefusesLogin,
            Welcome::OpenRefused => Manners::RefusesOpen,
            Welcome::ChannelRefused => Manners::RefusesChannel,
            Welcome::ConsumersRefused => Manners::RefusesConsumers,
        };
        *self.outcome.welcomes.entry(self.welcome).or_default() += 1;
        let is_unwelcome = matches!(manners, Manners::RefusesConsumers | Manners::RefusesChannel);
        self.next_was_harmed |= is_unwelcome;
        self.client.is_unwelcome |= is_unwelcome;
        let node = self.dice.below(NODES);
        let connection = self.cluster.connect(node, manners, false);
        self.gateway.connected(self.now, Some(Peer::Node(connection)));
    }

    fn arrive(&mut self, place: Place, count: usize) {
        let link = match place {
            Place::Leg(n) => self.gateway.links[n].as_mut().expect("it was found"),
            Place::Former(n) => &mut self.gateway.retirees[n].1,
            Place::Dropped(n) => &mut self.gateway.dropped[n],
        };
        let bytes: Vec<u8> = link.outbound.drain(..count.min(link.outbound.len())).collect();
        let ends = link.outbound.is_empty() && link.outbound_fin && !link.fin_arrived;
        link.fin_arrived |= ends;
        match link.peer {
            Peer::Node(connection) => {
                self.cluster.receive(connection, &bytes, &mut self.ledger);
                if ends {
                    self.cluster.lose(connection, &mut self.ledger);
                }
            }
            Peer::Client => {
                self.client.receive(self.now, &bytes, &mut self.ledger);
                if ends {
                    let (may_end, stage) = (self.client.may_end(), self.client.stage);
                    self.ledger.check(may_end, || format!("I4: the client's stream ended at {stage:?}"));
                    if !matches!(stage, client::Stage::Closed(_) | client::Stage::Done) {
                        self.client.stage = client::Stage::Gone;
                        self.ledger.client_left = true;
                        if let Some(link) = self.gateway.links[0].as_mut() {
                            link.inbound_fin = true;
                        }
                    }
                }
            }
        }
    }

    // ---- what follows from it

    /// What peers have written goes to the network; time that has passed is noticed.
    fn after_step(&mut self) {
        let now = self.now;
        (self.cluster.now, self.ledger.now) = (now, now);
        self.gateway.handle_timeouts(now);
        self.client_leaves();
        self.carry();
        self.beat();
        for peer in std::mem::take(&mut self.gateway.broken) {
            if let Peer::Node(connection) = peer {
                self.cluster.lose(connection, &mut self.ledger);
            }
        }
        let World { gateway, .. } = self;
        gateway.dropped.retain(|link| !link.fin_arrived && !link.reset);
        if let Some(fault) = self.gateway.fault.take() {
            self.ledger.fail(|| fault);
        }
        if self.gateway.results.switched > self.switches {
            self.switches = self.gateway.results.switched;
            // What was done to the next endpoint has come upon the present one.
            self.client.may_be_closed |= self.next_was_harmed;
        }
        let heard = self.client.log.as_mut().map(std::mem::take).unwrap_or_default();
        for line in heard.into_iter().chain(std::mem::take(&mut self.gateway.news)) {
            self.note(|_| format!("    {line}"));
        }
        let phase = self.gateway.session.phase();
        if phase != self.last_phase {
            self.last_phase = phase;
            match phase {
                "saturating" => self.ledger.saturated_at = now,
                "cancelling" => self.ledger.fenced_at = now,
                // It will see nothing more, and what it holds goes back.
                "closing" if self.client.may_be_closed => self.ledger.client_left = true,
                "rolling_back" => self.is_given_up |= self.client.has_settled_all,
                _ => {}
            }
            self.client.has_extra |= phase == "rolling_back" || self.gateway.results.rolled_back > 0;
            self.note(|world| {
                let session = &world.gateway.session;
                format!("    phase {phase} {:?} {:?}", session.end(), session.malformed())
            });
        }
    }

    /// The client ends its socket once it has nothing more to say; it closes the connection when it is done.
    fn client_leaves(&mut self) {
        let is_over = matches!(self.client.stage, client::Stage::Closed(_) | client::Stage::Done);
        if is_over
            && self.client.out.is_empty()
            && let Some(link) = self.gateway.links[0].as_mut()
        {
            link.inbound_fin = true;
        }
        let is_done = self.client.stage == client::Stage::Open
            && self.acts == 0
            && self.feeds == 0
            && self.habits.closes
            && self.client.is_settled();
        if is_done && self.dice.one_in(8) {
            self.note(|_| "the client closes".into());
            self.client.close(&mut self.ledger);
        }
    }

    fn carry(&mut self) {
        let World { gateway, client, cluster, .. } = self;
        let legs = gateway.links.iter_mut().filter_map(Option::as_mut);
        let former = gateway.retirees.iter_mut().map(|(_, link, _)| link);
        for link in legs.chain(former).chain(&mut gateway.dropped) {
            match link.peer {
                _ if link.reset => {}
                Peer::Client => link.inbound.extend(client.out.drain(..)),
                Peer::Node(n) => {
                    let connection = &mut cluster.connections[n];
                    link.inbound.extend(connection.out.drain(..));
                    link.inbound_fin |= connection.fin;
                }
            }
        }
    }

    fn beat(&mut self) {
        for connection in 0..self.cluster.connections.len() {
            self.cluster.beat(connection, &mut self.ledger);
        }
        let every = Duration::from_millis(u64::from(self.habits.heartbeat) * 500);
        if every.is_zero() || self.client.stage != client::Stage::Open || self.client_stops_until > self.now {
            return;
        }
        if self.client.next_beat <= self.now {
            self.client.out.extend_from_slice(&amqp::write::HEARTBEAT);
            self.client.next_beat = self.now + every;
        }
        let silence = self.now.since(self.client.heard);
        let is_judged =
            self.ledger.is_strict && !self.next_was_harmed && self.client_stops_until == Time::ZERO;
        self.ledger.check(!is_judged || silence <= every * 5, || {
            format!("I4: the client heard nothing for {silence:?}")
        });
    }

    /// Nothing happens until the next deadline. False: there is none that matters.
    fn pass_to_next(&mut self) -> bool {
        let stashes = self.cluster.channels.iter().filter(|one| !one.is_over);
        let stashes = stashes.filter_map(|one| one.stash.front().map(|(until, ..)| *until));
        let stashes = stashes.filter(|until| *until > self.now);
        let frozen = self.cluster.connections.iter().map(|one| one.frozen_until);
        let stops = frozen.chain([self.client_stops_until]).filter(|until| *until > self.now);
        let next = self.gateway.next_timeout().into_iter().chain(stashes).chain(stops).min();
        let Some(mut next) = next else { return false };
        if self.habits.heartbeat > 0 {
            let nodes = self.cluster.connections.iter();
            let nodes = nodes.filter(|one| one.stage == Stage::Open && one.frozen_until <= self.now);
            let beats = nodes.map(|one| one.next_beat).chain([self.client.next_beat]);
            next = beats.filter(|at| *at > self.now).chain([next]).min().expect("there is one");
        }
        self.now = next.max(self.now);
        true
    }
}

#[path = "harm.rs"]
mod harm;

fn opened(heartbeat: u16) -> Opened {
    let start_ok = StartOk {
        client_properties: Table::new(b""),
        mechanism: b"PLAIN",
        response: RESPONSE,
        locale: b"en_US",
    };
    let tune = Tune { heartbeat, ..TUNE };
    Opened {
        credentials: Credentials::new(&start_ok, tune, b"/"),
        tune,
        cluster: Some(b"model".as_slice().into()),
        cancel_notify: true,
        blocked_notify: true,
    }
}
