//! The simulator's engine: a world of clients, gateway replicas and endpoints, played from event to event.
//!
//! What decides is not here: every replica has a real `balance::Planner`, victims are chosen by `balance::victims`, and
//! a session that is ending or being moved is a real `session::Session`. The engine stands for what the gateway's shell
//! and the world around it do, and knows no clock and no chance but its seed: the same [`Spec`] and seed give the same
//! [`Outcome`]. By part: `clients` (coming, failing, coming back), `replicas` (the rebalance loop), `tier` (the level of
//! the replicas themselves), `relays` (the words
//! between a session and its peers), `world` (what happens to endpoints and replicas), `acts` (steps of scenario files).

mod acts;
mod clients;
pub mod event;
pub mod parts;
pub mod record;
mod relays;
mod replicas;
#[cfg(test)]
mod tests;
mod tier;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balance::victims::Candidate;
use model::{Endpoint, EndpointId, Time};
use scenario::rng::Rng;

use crate::rivals::Rival;
use crate::spec::{Mover, Spec, Start};
use event::{Event, Queue};
use parts::{Client, NONE, NOWHERE, Node, Relays, Replica, Sess, Stage, Standing, TRIES_MAX};
pub use record::Outcome;
use relays::Frames;

/// One run.
pub struct Sim {
    pub(crate) spec: Spec,
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue,
    pub(crate) clients: Vec<Client>,
    pub(crate) sessions: Vec<Sess>,
    free_sessions: Vec<u32>,
    relays: Relays,
    pub(crate) nodes: Vec<Node>,
    numbers: BTreeMap<EndpointId, u16>,
    replicas: Vec<Replica>,
    /// Every list of endpoints that discovery ever gave.
    lists: Vec<Arc<[Endpoint]>>,
    pub(crate) rival: Rival,
    pub(crate) out: Outcome,
    /// Open sessions by endpoint, as the clients see them.
    pub(crate) open: Vec<u32>,
    /// Those on endpoints that are ready, and how many endpoints these are.
    ready: (u32, u32),
    first_step: Time,
    /// The number of the present churn.
    churn: (u32, f64, f64),
    /// A rolling restart under way.
    roll: Option<world::Roll>,
    frames: Frames,
    candidates: Vec<Candidate>,
}

impl Sim {
    /// The world at its first moment.
    pub fn new(mut spec: Spec, seed: u64) -> Self {
        if spec.mover != Mover::Planner {
            spec.pool.planner.limits.enabled = false;
        }
        let mut sim = Self {
            now: Time::ZERO,
            rng: Rng::new(seed, 0),
            queue: Queue::default(),
            clients: Vec::with_capacity(spec.clients as usize),
            sessions: Vec::with_capacity(spec.clients as usize),
            free_sessions: Vec::new(),
            relays: Relays::default(),
            nodes: Vec::new(),
            numbers: BTreeMap::new(),
            replicas: Vec::new(),
            lists: Vec::new(),
            rival: Rival::default(),
            out: Outcome { peak: 1.0, ..Outcome::default() },
            open: Vec::new(),
            ready: (0, 0),
            first_step: Time::ZERO + spec.first_step(),
            churn: (0, 0.0, 0.0),
            roll: None,
            frames: Frames::default(),
            candidates: Vec::new(),
            spec,
        };
        sim.furnish();
        sim
    }

    /// Plays it to the end.
    pub fn run(mut self) -> Outcome {
        let end = Time::ZERO + self.spec.length;
        while self.step(end) {}
        self.finish()
    }

    /// The next event by `end`; false when there is none.
    pub fn step(&mut self, end: Time) -> bool {
        let Some((at, event)) = self.queue.pop(end) else { return false };
        self.now = at;
        self.handle(event);
        true
    }

    /// The numbers of the run.
    pub fn finish(mut self) -> Outcome {
        let count = |stage| self.clients.iter().filter(|client| client.stage == stage).count() as u32;
        self.out.connected = count(Stage::Open);
        self.out.away = count(Stage::Away) + count(Stage::Connecting);
        self.out.names = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.out.events = self.queue.scheduled();
        self.out.in_own_zone = self.in_own_zone();
        self.out
    }

    /// The share of all sessions whose endpoint is in the zone of their replica.
    fn in_own_zone(&self) -> Option<f64> {
        let (mut own, mut all) = (0, 0);
        for (replica, record) in self.replicas.iter().enumerate() {
            let zone = (replica as u16).checked_rem(self.spec.zones)?;
            for (node, sessions) in record.sessions.iter().enumerate() {
                all += sessions.len();
                own += if node as u16 % self.spec.zones == zone { sessions.len() } else { 0 };
            }
        }
        (all > 0).then(|| own as f64 / all as f64)
    }

    /// The planner of replica `number`, for whoever measures how long its answers take.
    pub fn planner(&self, number: usize) -> Option<&balance::Planner> {
        self.replicas.get(number).map(|replica| &replica.planner)
    }

    fn furnish(&mut self) {
        for number in 0..self.spec.endpoints {
            self.start_node(&format!("demo-{}", number + 1));
        }
        self.publish();
        for _ in 0..self.spec.replicas {
            self.start_replica();
        }
        for (number, step) in self.spec.steps.iter().enumerate() {
            self.queue.push(Time::ZERO + step.at, Event::Step(number as u32));
        }
        self.queue.push(Time::ZERO + self.spec.sample_every, Event::Sample);
        for _ in 0..self.spec.clients {
            self.new_client();
        }
        match self.spec.start {
            Start::Standing => (0..self.spec.clients).for_each(|client| self.stand(client)),
            Start::Ramp(per_second) => {
                for client in 0..self.spec.clients {
                    let at = Duration::from_secs_f64(f64::from(client) / per_second.max(0.001));
                    self.queue.push(Time::ZERO + at, Event::Connect(client));
                }
            }
        }
        self.begin_rival();
        self.begin_tier();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connect(client) => self.connect(client),
            Event::Arrive(client) => self.arrive(client),
            Event::Dialed(client, dial) => self.dialed(client, dial),
            Event::Dropped { client, session } => self.client_ended(client, session),
            Event::Turn(replica, turn) => self.turn_is_due(replica, turn),
            Event::Heard(word, said) => self.heard(word, said),
            Event::Told(word, said) => self.told(word, said),
            Event::Timer { relay, serial } => self.timer(relay, serial),
            Event::Discover(replica, list) => self.discover(replica, list),
            Event::Replicas(replica, count) => self.count_replicas(replica, count),
            Event::Poll => self.poll_peers(),
            Event::Step(number) => self.take_step(number),
            Event::Flap(step) => self.flap(step),
            Event::Sample => self.sample(),
            Event::Arrival(churn) => self.arrival(churn),
            Event::Departure(churn) => self.departure(churn),
            Event::Stop(node) => self.may_stop(node),
            Event::Succeed(node) => self.succeed(node),
            Event::Forget(node) => self.forget(node),
            Event::Expire { session, serial } => self.expire(session, serial),
            Event::Rival => self.rival_turn(),
        }
    }

    fn sample(&mut self) {
        let moves = self.out.moves();
        let nodes = &self.nodes;
        let mut sample = record::sample(self.now, &self.open, |number| nodes[number].is_ready(), moves);
        sample.tier_imbalance = self.tier_imbalance();
        if self.now > self.first_step {
            self.out.peak = self.out.peak.max(sample.imbalance);
        }
        self.out.samples.push(sample);
        self.queue.push(self.now + self.spec.sample_every, Event::Sample);
    }

    fn new_client(&mut self) -> u32 {
        let number = self.clients.len() as u32;
        let share = self.rng.unit();
        let mut sum = 0.0;
        let passed = |rule: &&(f64, _)| {
            sum += rule.0;
            sum <= share
        };
        let last = self.spec.reconnect.len().saturating_sub(1);
        let rule = self.spec.reconnect.iter().take_while(passed).count().min(last) as u8;
        let (least, most) = self.spec.net.client_rtt;
        let rtt = least + most.saturating_sub(least).mul_f64(self.rng.unit());
        let mute = self.spec.talk.mute_share > 0.0 && self.rng.unit() < self.spec.talk.mute_share;
        self.clients.push(Client {
            stage: Stage::Away,
            leaves: false,
            mute,
            rule,
            attempt: 0,
            replica: 0,
            picked: NOWHERE,
            tried: [NOWHERE; TRIES_MAX],
            tries: 0,
            session: NONE,
            rtt_us: rtt.as_micros() as u32,
            dialing_since: Time::ZERO,
            closed_at: None,
            moves: 0,
            moved_at: Time::ZERO,
            donor: NOWHERE,
            last: NOWHERE,
        });
        number
    }

    /// Evenly below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.rng.unit() * bound as f64) as usize).min(bound.saturating_sub(1))
    }

    /// Evenly within two times.
    pub(crate) fn between(&mut self, (least, most): (Duration, Duration)) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.rng.unit())
    }

    /// Sessions on endpoint `node` that are neither ending nor being moved.
    pub(crate) fn standing_on(&self, node: u16) -> Vec<u32> {
        let of = self.replicas.iter().flat_map(|replica| &replica.sessions[usize::from(node)]);
        let open = |session: &&u32| self.sessions[**session as usize].standing == Standing::Open;
        of.filter(open).copied().collect()
    }

    /// Until the next of events that come at random, so many a second.
    fn pause(&mut self, per_second: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.rng.unit()).ln() / per_second)
    }
}
