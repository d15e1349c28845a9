//! A pool in virtual time: clients, sessions and a shell that obeys the planner, in a few lines and without chance
//! except for a seed.
//!
//! It checks what must hold in every run: a poll that gave nothing asks to be called later and not at once, no
//! unknown endpoint is named, no more is asked than there is, and the planner's counts equal ours.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use balance::victims::{Candidate, Preference, Tenants, choose};
use balance::{
    Action, ClientKey, Ended, Limits, Move, MoveReason, Opened, Planner, Policy, Purpose, Refusal, Report,
    Request, Settings, Trigger, Visitor,
};
use model::{Endpoint, EndpointId, EndpointState, Time, Weight};

pub struct Session {
    pub endpoint: EndpointId,
    pub cooling_until: Time,
    pub expires_at: Option<Time>,
    pub opened: Time,
    pub moves: u32,
    pub idle_since: Time,
    /// When its move ends, if one is under way.
    pub leaves_at: Option<Time>,
    /// Where it goes on, if that move is a migration.
    pub to: Option<EndpointId>,
    /// Migrations that were given up, in a row, and until when it is left alone after the last.
    pub aborts: u32,
    pub resting_until: Time,
    /// Of the last move that was asked for.
    pub deadline: Option<Time>,
}

/// What happened, for the assertions.
#[derive(Default)]
pub struct Log {
    /// When, from where, why, how many began.
    pub moves: Vec<(Time, EndpointId, MoveReason, u32)>,
    /// Moves by client.
    pub moved: BTreeMap<u32, u32>,
    /// Clients that found no endpoint, by time.
    pub refused: Vec<Time>,
    /// What the planner told.
    pub reports: Vec<(Time, Report)>,
    /// When each client opened a session, and where.
    pub opened: Vec<(Time, EndpointId)>,
}

pub struct World {
    pub now: Time,
    pub planner: Planner,
    pub sessions: BTreeMap<u32, Session>,
    /// Clients on their way (back).
    pub arrivals: BTreeSet<(Time, u32)>,
    pub log: Log,
    /// How long a move takes.
    pub move_takes: Duration,
    /// A closed client is away for a time between these, in milliseconds.
    pub away_ms: (u64, u64),
    /// Clients whose session can not be moved.
    pub pinned: BTreeSet<u32>,
    /// Closed clients that stay away, of a hundred.
    pub lost_percent: u64,
    /// Sessions migrate instead of being closed.
    pub migrates: bool,
    /// Migrations that are given up at their end, of a hundred.
    pub aborted_percent: u64,
    pub handshake: Duration,
    tenants: Tenants,
    limits: Limits,
    chance: u64,
}

pub fn endpoint(name: &str, weight: u16, state: EndpointState) -> Endpoint {
    let address = "127.0.0.1:80".parse().expect("the address is valid");
    let weight = Weight::new(weight).expect("the weight is valid");
    Endpoint { weight, state, ..Endpoint::new(name, address) }
}

/// `e0` to `e(n-1)`, ready and of weight 1.
pub fn ready(n: usize) -> Vec<Endpoint> {
    (0..n).map(|i| endpoint(&format!("e{i}"), 1, EndpointState::Ready)).collect()
}

impl World {
    pub fn new(limits: Limits, endpoints: &[Endpoint]) -> Self {
        Self::with_policy(Policy::LeastConnections, limits, endpoints)
    }

    pub fn with_policy(policy: Policy, limits: Limits, endpoints: &[Endpoint]) -> Self {
        Self::with_settings(Settings { policy, limits, ..Settings::default() }, endpoints)
    }

    pub fn with_settings(settings: Settings, endpoints: &[Endpoint]) -> Self {
        let mut world = Self {
            now: Time::ZERO,
            limits: settings.limits.clone(),
            planner: Planner::new(settings, 42),
            sessions: BTreeMap::new(),
            arrivals: BTreeSet::new(),
            log: Log::default(),
            move_takes: Duration::from_millis(150),
            away_ms: (10, 200),
            lost_percent: 0,
            migrates: false,
            aborted_percent: 0,
            pinned: BTreeSet::new(),
            handshake: Duration::from_millis(3),
            tenants: Tenants::default(),
            chance: 7,
        };
        world.endpoints(endpoints);
        world
    }

    pub fn endpoints(&mut self, endpoints: &[Endpoint]) {
        self.planner.handle_endpoints(self.now, endpoints);
    }

    /// New clients, all at once.
    pub fn connect(&mut self, clients: std::ops::Range<u32>) {
        for client in clients {
            self.open(client);
        }
    }

    /// Lets virtual time pass until `Time::from_millis(at)`.
    pub fn run_until(&mut self, at_ms: u64) {
        let end = Time::from_millis(at_ms);
        loop {
            self.act();
            let next = self.next_event().filter(|at| *at <= end);
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            self.happen();
        }
        self.now = end;
        self.act();
    }

    pub fn run_for(&mut self, seconds: u64) {
        self.run_until(self.now.as_nanos() / 1_000_000 + seconds * 1_000);
    }

    pub fn count(&self, name: &str) -> usize {
        self.sessions.values().filter(|s| s.endpoint.as_str() == name).count()
    }

    pub fn counts(&self, n: usize) -> Vec<usize> {
        (0..n).map(|i| self.count(&format!("e{i}"))).collect()
    }

    pub fn moves(&self, reason: MoveReason) -> u32 {
        self.log.moves.iter().filter(|(_, _, why, _)| *why == reason).map(|(.., n)| n).sum()
    }

    pub fn most_moves_of_one_client(&self) -> u32 {
        self.log.moved.values().copied().max().unwrap_or(0)
    }

    /// Plans that were told of: why, and how many moves they foresaw.
    pub fn plans_started(&self) -> Vec<(Trigger, u64)> {
        let started = |(_, report): &(Time, Report)| match report {
            Report::PlanStarted { trigger, moves } => Some((*trigger, *moves)),
            _ => None,
        };
        self.log.reports.iter().filter_map(started).collect()
    }

    /// A client leaves by itself.
    pub fn leave(&mut self, client: u32) {
        if let Some(session) = self.sessions.remove(&client) {
            if let Some(to) = &session.to {
                self.planner.handle_released(self.now, to);
            }
            let ended = if session.leaves_at.is_some() { Ended::LeftWhileMoving } else { Ended::Left };
            let visitor = Visitor { client: key(client), moves: session.moves };
            self.planner.handle_closed(self.now, &session.endpoint, ended, visitor);
        }
    }

    /// Puts a client where no policy would.
    pub fn place(&mut self, client: u32, name: &str) {
        let endpoint = EndpointId::from(name);
        let opened = self.planner.handle_opened(self.now, &endpoint, key(client), self.handshake);
        self.insert(client, endpoint, opened);
    }

    fn insert(&mut self, client: u32, endpoint: EndpointId, opened: Opened) {
        let session = Session {
            endpoint,
            cooling_until: opened.cooling_until,
            expires_at: opened.expires_at,
            opened: self.now,
            moves: opened.moves,
            idle_since: Time::from_nanos(self.now.as_nanos() + self.random(1_000)),
            leaves_at: None,
            to: None,
            aborts: 0,
            resting_until: Time::ZERO,
            deadline: None,
        };
        assert!(self.sessions.insert(client, session).is_none(), "client {client} is here already");
    }

    fn open(&mut self, client: u32) {
        let request = Request { client: key(client), purpose: Purpose::Session, hash: None, tried: &[] };
        let pick = match self.planner.pick(self.now, &request) {
            Ok(pick) => pick,
            Err(refusal) => {
                self.log.refused.push(self.now);
                let wait = match refusal {
                    Refusal::Admission { retry_after } => retry_after,
                    Refusal::NoEndpoint | Refusal::Full => Duration::from_secs(1),
                };
                self.arrivals.insert((self.now + wait, client));
                return;
            }
        };
        let opened = self.planner.handle_opened(self.now, &pick.endpoint, key(client), self.handshake);
        self.log.opened.push((self.now, pick.endpoint.clone()));
        self.insert(client, pick.endpoint, opened);
    }

    fn next_event(&self) -> Option<Time> {
        let arrival = self.arrivals.first().map(|(at, _)| *at);
        let departure = self.sessions.values().filter_map(|s| s.leaves_at).min();
        let timeout = self.planner.poll_timeout().map(|(at, _)| at);
        [arrival, departure, timeout].into_iter().flatten().min()
    }

    /// Ends moves and lets clients arrive that are due.
    fn happen(&mut self) {
        let due: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.leaves_at.is_some_and(|at| at <= self.now))
            .map(|(client, _)| *client)
            .collect();
        for client in due {
            if self.sessions[&client].to.is_some() {
                self.end_migration(client);
                continue;
            }
            let session = self.sessions.remove(&client).expect("it was just found");
            let visitor = Visitor { client: key(client), moves: session.moves };
            self.planner.handle_closed(self.now, &session.endpoint, Ended::Moved, visitor);
            let (least, most) = self.away_ms;
            let away = least + self.random(most - least + 1);
            if self.random(100) >= self.lost_percent {
                self.arrivals.insert((self.now + Duration::from_millis(away), client));
            }
        }
        while let Some(&(at, client)) = self.arrivals.first()
            && at <= self.now
        {
            self.arrivals.pop_first();
            self.open(client);
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.planner.poll_action(self.now) {
            match action {
                Action::Move(order) => self.obey(&order),
                Action::Tell(report) => self.log.reports.push((self.now, report)),
            }
        }
        if let Some((at, why)) = self.planner.poll_timeout() {
            assert!(at > self.now, "{why}: asks to be polled at {at:?}, now is {:?}", self.now);
        }
        self.check();
    }

    fn obey(&mut self, order: &Move) {
        let mut candidates: Vec<Candidate> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.endpoint == order.from)
            .map(|(client, s)| Candidate {
                key: *client as usize,
                opened: s.opened,
                cooling_until: s.cooling_until,
                expires_at: s.expires_at,
                idle_since: s.idle_since,
                moves: s.moves,
                resting_until: s.resting_until,
                pin: match (s.leaves_at, self.pinned.contains(client)) {
                    (Some(_), _) => Some("moving"),
                    (None, true) => Some("opaque"),
                    (None, false) => None,
                },
                preference: Preference::Normal,
                tenant: 0,
            })
            .collect();
        assert!((1..=candidates.len()).contains(&(order.count as usize)), "{order:?}");
        let (tenants, count) = (&mut self.tenants, order.count as usize);
        let victims = choose(self.now, order.reason, &mut candidates, count, tenants, &self.limits);
        for victim in &victims {
            let client = u32::try_from(*victim).expect("keys are client numbers");
            let session = self.sessions.get_mut(&client).expect("candidates are sessions");
            assert!(!self.pinned.contains(&client), "client {client} is pinned");
            let may_cool = order.reason == MoveReason::Draining || session.cooling_until <= self.now;
            assert!(may_cool, "client {client} is cooling until {:?}", session.cooling_until);
            session.leaves_at = Some(self.now + self.move_takes);
            session.deadline = order.deadline;
            *self.log.moved.entry(client).or_default() += 1;
        }
        let began = u32::try_from(victims.len()).expect("fewer than asked");
        self.planner.handle_moves_began(self.now, &order.from, order.count, began);
        self.log.moves.push((self.now, order.from.clone(), order.reason, began));
        if self.migrates {
            victims.iter().for_each(|victim| self.begin_migration(*victim as u32));
        }
    }

    /// Every session of an endpoint is migrated though nobody asked.
    pub fn rehearse(&mut self, name: &str) {
        let idle = |(_, s): &(&u32, &Session)| s.endpoint.as_str() == name && s.leaves_at.is_none();
        let clients: Vec<u32> = self.sessions.iter().filter(idle).map(|(client, _)| *client).collect();
        self.planner.begin_moves_unasked(self.now, &name.into(), clients.len() as u32);
        for client in clients {
            let leaves_at = self.now + self.move_takes;
            self.sessions.get_mut(&client).expect("it was just found").leaves_at = Some(leaves_at);
            self.begin_migration(client);
        }
    }

    fn begin_migration(&mut self, client: u32) {
        let tried = [self.sessions[&client].endpoint.clone()];
        let request = Request { client: key(client), purpose: Purpose::Migration, hash: None, tried: &tried };
        match self.planner.pick(self.now, &request) {
            Ok(pick) => {
                assert_ne!(pick.endpoint, tried[0], "it is there already");
                self.sessions.get_mut(&client).expect("it was just found").to = Some(pick.endpoint);
            }
            Err(refusal) => {
                assert!(!matches!(refusal, Refusal::Admission { .. }), "it has been admitted");
                self.abort(client);
            }
        }
    }

    fn end_migration(&mut self, client: u32) {
        let is_aborted = self.random(100) < self.aborted_percent;
        let session = self.sessions.get_mut(&client).expect("it was just found");
        let to = session.to.take().expect("it migrates");
        if is_aborted {
            self.planner.handle_released(self.now, &to);
            return self.abort(client);
        }
        let visitor = Visitor { client: key(client), moves: session.moves };
        let opened = self.planner.handle_migrated(self.now, &session.endpoint, &to, visitor);
        let Opened { cooling_until, moves, expires_at } = opened;
        *session = Session {
            endpoint: to,
            cooling_until,
            moves,
            expires_at,
            opened: session.opened,
            idle_since: session.idle_since,
            leaves_at: None,
            to: None,
            aborts: 0,
            resting_until: Time::ZERO,
            deadline: None,
        };
    }

    /// A migration is given up: nothing has happened.
    fn abort(&mut self, client: u32) {
        let session = self.sessions.get_mut(&client).expect("it was just found");
        session.leaves_at = None;
        session.aborts += 1;
        session.resting_until =
            self.now + balance::rest(session.aborts, session.deadline.map(|at| at.since(self.now)));
        let visitor = Visitor { client: key(client), moves: session.moves };
        self.planner.handle_closed(self.now, &session.endpoint, Ended::MoveAborted, visitor);
    }

    fn check(&self) {
        let status = self.planner.status(self.now);
        for e in &status.endpoints {
            let ours = self.sessions.values().filter(|s| s.endpoint == e.id);
            let (all, moving) =
                ours.fold((0, 0), |(all, moving), s| (all + 1, moving + u32::from(s.leaves_at.is_some())));
            let pending = self.sessions.values().filter(|s| s.to.as_ref() == Some(&e.id)).count() as u32;
            assert_eq!((e.sessions, e.moving, e.pending), (all, moving, pending), "{}", e.id);
        }
        assert_eq!(status.sessions, self.sessions.len() as u64);
        let moves = status.moves;
        let under_way = self.sessions.values().filter(|s| s.leaves_at.is_some()).count() as u64;
        assert_eq!(moves.began, moves.moved + moves.migrated + moves.aborted + moves.left + under_way);
        let outcomes = status.moves.outcomes;
        let ended = outcomes.returned_to_target
            + outcomes.returned_elsewhere
            + outcomes.returned_to_donor
            + outcomes.never_returned;
        assert_eq!(status.moves.moved, ended + status.away);
    }

    fn random(&mut self, below: u64) -> u64 {
        // Knuth's MMIX constants; good enough for delays.
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % below
    }
}

fn key(client: u32) -> ClientKey {
    ClientKey(u128::from(client))
}
