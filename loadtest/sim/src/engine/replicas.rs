//! A replica's rebalance loop, as `gateway::rebalance::Rebalance` runs it.

use std::time::Duration;

use balance::victims::{self, Candidate, Preference};
use balance::{Action, Move, MoveReason, Planner, PoolStatus, Tier};
use model::{EndpointId, EndpointState, Time};

use super::Sim;
use super::event::Event;
use super::parts::{Replica, Standing, zone};
use crate::spec::Counts;

/// The planner is asked at least this often.
const LOOK: Duration = Duration::from_secs(1);
/// And at most this often.
const PAUSE: Duration = Duration::from_millis(20);
/// Rounds of orders in one look: an order that can not be filled may lead to another.
const ROUNDS_MAX: u32 = 8;

impl Sim {
    /// A replica starts with the newest list of endpoints.
    pub(super) fn start_replica(&mut self) {
        let seed = (self.rng.unit() * 9e15) as u64;
        let mut planner = Planner::new(self.spec.pool.planner.clone(), seed);
        let version = self.lists.len() as u32 - 1;
        planner.handle_endpoints(self.now, &self.lists[version as usize]);
        planner.handle_zone(self.now, zone(self.replicas.len() as u16, self.spec.zones));
        let replica = Replica {
            alive: true,
            planner,
            tier: Tier::new(self.spec.tier),
            sessions: vec![Vec::new(); self.nodes.len()],
            deadlines: Default::default(),
            tenants: Default::default(),
            version,
            turn: 0,
        };
        self.replicas.push(replica);
        let number = self.replicas.len() as u16 - 1;
        self.tell_counts();
        self.queue.push(self.now, Event::Turn(number, 0));
    }

    /// All replicas learn how many they are, as far as they do.
    pub(super) fn tell_counts(&mut self) {
        let alive = self.replicas.iter().filter(|replica| replica.alive).count() as u32;
        let (count, after) = match self.spec.counts {
            // At the start they have known for long.
            Counts::After(_) if self.now == Time::ZERO => (alive, Duration::ZERO),
            Counts::After(after) => (alive, after),
            Counts::Wrong(count) => (count, Duration::ZERO),
            Counts::Never => return,
        };
        for number in 0..self.replicas.len() as u16 {
            self.queue.push(self.now + after, Event::Replicas(number, count));
        }
    }

    pub(super) fn count_replicas(&mut self, replica: u16, count: u32) {
        self.replicas[usize::from(replica)].planner.handle_replicas(self.now, count);
        self.tell_peers(replica);
    }

    /// A replica takes a list of endpoints, unless it has a newer one.
    pub(super) fn discover(&mut self, replica: u16, list: u32) {
        let record = &mut self.replicas[usize::from(replica)];
        if !record.alive || record.version >= list {
            return;
        }
        record.version = list;
        let endpoints = self.lists[list as usize].clone();
        record.planner.handle_endpoints(self.now, &endpoints);
        // One that is back drains anew if it ever does, and has a new deadline then.
        let status = record.planner.status(self.now);
        let nodes = &self.nodes;
        record.deadlines.retain(|node, _| is_draining(&status, &nodes[usize::from(*node)].endpoint.id));
        self.turn(replica);
    }

    pub(super) fn turn_is_due(&mut self, replica: u16, turn: u32) {
        let record = &self.replicas[usize::from(replica)];
        if record.alive && record.turn == turn {
            self.turn(replica);
        }
    }

    /// One turn of the loop.
    fn turn(&mut self, replica: u16) {
        let place = usize::from(replica);
        let now = self.now;
        self.level_tier(replica);
        for _ in 0..ROUNDS_MAX {
            let orders = self.orders(place);
            if orders.is_empty() {
                break;
            }
            orders.iter().for_each(|plan| self.carry_out(replica, plan));
        }
        let record = &self.replicas[place];
        let mut next = now + LOOK;
        if let Some((at, _)) = record.planner.poll_timeout() {
            next = next.min(at);
        }
        next = self.tier_timeout(replica).map_or(next, |at| next.min(at));
        self.enforce_deadlines(replica);
        let record = &mut self.replicas[place];
        next = record.deadlines.values().copied().fold(next, Time::min);
        record.turn = record.turn.wrapping_add(1);
        self.queue.push(now + next.since(now).max(PAUSE), Event::Turn(replica, record.turn));
    }

    /// What the planner wants done now, all of it; what it wants told is noted.
    fn orders(&mut self, place: usize) -> Vec<Move> {
        let mut orders = Vec::new();
        while let Some(action) = self.replicas[place].planner.poll_action(self.now) {
            match action {
                Action::Move(plan) => orders.push(plan),
                Action::Tell(report) => self.out.reports.push((self.now, place as u16, report)),
            }
        }
        orders
    }

    /// Tells the best `plan.count` sessions of the donor to leave.
    fn carry_out(&mut self, replica: u16, plan: &Move) {
        let now = self.now;
        let place = usize::from(replica);
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        if let Some(node) = self.numbers.get(&plan.from) {
            let sessions = &self.replicas[place].sessions[usize::from(*node)];
            candidates.extend(sessions.iter().map(|session| self.candidate(*session)));
        }
        let limits = &self.spec.pool.planner.limits;
        let tenants = &mut self.replicas[place].tenants;
        let count = plan.count as usize;
        let chosen = victims::choose(now, plan.reason, &mut candidates, count, tenants, limits);
        self.candidates = candidates;
        for session in &chosen {
            self.sessions[*session].standing = Standing::Moving;
        }
        // The planner must know before a session can end.
        let began = chosen.len() as u32;
        self.replicas[place].planner.handle_moves_began(now, &plan.from, plan.count, began);
        if plan.reason == MoveReason::Tier {
            self.out.for_tier += u64::from(began);
            self.replicas[place].tier.handle_began(now, plan.count, began);
        }
        let left = plan.deadline.map(|deadline| deadline.since(now));
        for session in chosen {
            let spread = self.rng.unit() * 2.0 - 1.0;
            let pool = &self.spec.pool;
            let spec = pool.shed_spec(plan.reason.as_str(), left, pool.may_notify(), spread);
            self.shed(session as u32, spec);
        }
        if let (MoveReason::Draining, Some(deadline), Some(node)) =
            (plan.reason, plan.deadline, self.numbers.get(&plan.from))
        {
            self.replicas[place].deadlines.insert(*node, deadline);
        }
    }

    fn candidate(&self, number: u32) -> Candidate {
        let session = &self.sessions[number as usize];
        Candidate {
            key: number as usize,
            opened: session.opened,
            cooling_until: session.cooling_until,
            expires_at: session.expires_at,
            idle_since: self.idle_since(number),
            moves: session.moves,
            resting_until: Time::ZERO,
            pin: (session.standing != Standing::Open).then_some("moving"),
            preference: Preference::Normal,
            tenant: 0,
        }
    }

    /// What is left on a draining endpoint at its deadline waits no longer.
    fn enforce_deadlines(&mut self, replica: u16) {
        let place = usize::from(replica);
        let now = self.now;
        let due = |(node, at): (&u16, &Time)| (*at <= now).then_some(*node);
        let due: Vec<u16> = self.replicas[place].deadlines.iter().filter_map(due).collect();
        for node in due {
            self.replicas[place].deadlines.remove(&node);
            let status = self.replicas[place].planner.status(now);
            let id = &self.nodes[usize::from(node)].endpoint.id;
            if !is_draining(&status, id) {
                continue;
            }
            for session in self.replicas[place].sessions[usize::from(node)].clone() {
                if self.sessions[session as usize].standing != Standing::Moving {
                    self.sessions[session as usize].standing = Standing::Ending;
                }
                let spec = self.spec.pool.shed_spec("draining", Some(Duration::ZERO), false, 0.0);
                self.hasten(session, spec);
            }
        }
    }
}

fn is_draining(status: &PoolStatus, id: &EndpointId) -> bool {
    status.endpoints.iter().any(|e| e.id == *id && e.state == EndpointState::Terminating)
}
