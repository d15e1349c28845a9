//! What happens to endpoints and replicas, and when the gateway learns of it.
//!
//! An endpoint's life is that of a Pod: it is listed as ready, as terminating while it drains, and stops when it is
//! empty or its grace period is over. A successor is another endpoint: it has another identity.

use std::sync::Arc;
use std::time::Duration;

use model::{Endpoint, EndpointState, Time};
use scenario::series::State;

use super::Sim;
use super::event::Event;
use super::parts::{Node, endpoint, zone};
use crate::spec::Op;

/// A draining endpoint looks this often whether it is empty.
const LOOK: Duration = Duration::from_millis(200);
/// And stops no earlier than this.
const DRAIN_AT_LEAST: Duration = Duration::from_millis(600);

/// A rolling restart under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roll {
    next: u16,
    endpoints: u16,
    grace: Duration,
    starts_within: Duration,
}

impl Sim {
    /// An endpoint starts; discovery names it with the next list.
    pub(super) fn start_node(&mut self, name: &str) -> u16 {
        let number = self.nodes.len() as u16;
        let endpoint = Endpoint { zone: zone(number, self.spec.zones), ..endpoint(number, name) };
        self.numbers.insert(endpoint.id.clone(), number);
        self.nodes.push(Node {
            name: name.to_owned(),
            endpoint,
            listed: true,
            alive: true,
            silent: false,
            slow: Duration::ZERO,
            busy_until: Time::ZERO,
            held: 0,
            drain: None,
            successor: None,
        });
        self.open.push(0);
        for replica in &mut self.replicas {
            replica.sessions.push(Vec::new());
        }
        self.note(number, State::Ready);
        number
    }

    /// Discovery has another list; every replica gets it a little later.
    pub(super) fn publish(&mut self) {
        let listed = self.nodes.iter().filter(|node| node.listed).map(|node| node.endpoint.clone());
        let list: Arc<[_]> = listed.collect();
        self.lists.push(list);
        let number = self.lists.len() as u32 - 1;
        for replica in 0..self.replicas.len() as u16 {
            if self.replicas[usize::from(replica)].alive {
                let after = self.between(self.spec.net.discovery);
                self.queue.push(self.now + after, Event::Discover(replica, number));
            }
        }
    }

    /// Something happens.
    pub(super) fn take_step(&mut self, number: u32) {
        match self.spec.steps[number as usize].op.clone() {
            Op::Add(count) => {
                for _ in 0..count {
                    let name = format!("demo-{}", self.nodes.len() + 1);
                    self.start_node(&name);
                }
                self.publish();
            }
            Op::Drain { endpoint, grace, successor } => self.drain(endpoint, grace, successor),
            Op::Roll { endpoints, grace, starts_within } => {
                self.roll = Some(Roll { next: 0, endpoints, grace, starts_within });
                self.roll_on();
            }
            Op::Kill { endpoint, noticed_after, silent, successor } => {
                self.stop(endpoint);
                if let Some(node) = self.nodes.get_mut(usize::from(endpoint)) {
                    node.silent = silent;
                }
                self.queue.push(self.now + noticed_after, Event::Forget(endpoint));
                if let Some(after) = successor {
                    self.queue.push(self.now + after, Event::Succeed(endpoint));
                }
            }
            Op::Unready(node) => self.set_state(node, EndpointState::Unready),
            Op::Ready(node) => self.set_state(node, EndpointState::Ready),
            Op::Vanish(node) => self.set_listed(node, false),
            Op::Return(node) => self.set_listed(node, true),
            Op::Slow(node, by) => {
                if let Some(node) = self.nodes.get_mut(usize::from(node)) {
                    node.slow = by;
                }
            }
            Op::Leave { endpoint, share } => self.exodus(endpoint, share),
            Op::Churn { arrivals, departures } => self.set_churn(arrivals, departures),
            Op::Act { action, deadline } => self.act(number, &action, deadline),
            Op::AddReplica => self.start_replica(),
            Op::LoseReplica(replica) => self.lose_replica(replica),
        }
        self.rival_step();
    }

    pub(super) fn drain(&mut self, number: u16, grace: Duration, successor: Option<Duration>) {
        let Some(node) = self.nodes.get_mut(usize::from(number)) else { return };
        node.endpoint.state = EndpointState::Terminating;
        node.drain = Some((self.now, self.now + grace));
        node.successor = successor;
        self.note(number, State::Draining);
        self.publish();
        self.queue.push(self.now + LOOK, Event::Stop(number));
    }

    /// A draining endpoint stops when it is empty, or when its time is over.
    pub(super) fn may_stop(&mut self, number: u16) {
        let node = &self.nodes[usize::from(number)];
        let Some((since, deadline)) = node.drain.filter(|_| node.alive) else { return };
        let empty = node.held == 0 && self.now >= since + DRAIN_AT_LEAST;
        if !empty && self.now < deadline {
            return self.queue.push((self.now + LOOK).min(deadline), Event::Stop(number));
        }
        let successor = node.successor;
        self.out.cut_at_deadline += self.open_at(number);
        self.stop(number);
        self.nodes[usize::from(number)].listed = false;
        self.publish();
        if let Some(after) = successor {
            self.queue.push(self.now + after, Event::Succeed(number));
        }
    }

    /// Sessions that an endpoint still has, as it sees them: those that it has ended itself are gone for it.
    fn open_at(&mut self, number: u16) -> u64 {
        let of = self.replicas.iter().flat_map(|replica| &replica.sessions[usize::from(number)]);
        let relays: Vec<u32> = of.map(|session| self.sessions[*session as usize].relay).collect();
        let mut ended = |relay: u32| self.relays.at(relay).is_some_and(|relay| relay.ended[1]);
        relays.into_iter().map(|relay| u64::from(!ended(relay))).sum()
    }

    /// An endpoint's process ends: whatever it has breaks.
    pub(super) fn stop(&mut self, number: u16) {
        let place = usize::from(number);
        if place >= self.nodes.len() || !self.nodes[place].alive {
            return;
        }
        self.nodes[place].alive = false;
        self.note(number, State::Gone);
        for replica in 0..self.replicas.len() {
            for session in self.replicas[replica].sessions[place].clone() {
                self.out.broken += 1;
                self.break_upstream(session);
            }
        }
    }

    /// Another endpoint takes the place of one that has stopped.
    pub(super) fn succeed(&mut self, number: u16) {
        let name = successor(&self.nodes[usize::from(number)].name);
        self.start_node(&name);
        self.publish();
        self.roll_on();
    }

    /// The next endpoint of a rolling restart.
    fn roll_on(&mut self) {
        let Some(roll) = &mut self.roll else { return };
        let (next, grace, starts_within) = (roll.next, roll.grace, roll.starts_within);
        roll.next += 1;
        if next >= roll.endpoints {
            self.roll = None;
            // What comes after the last one is what counts.
            self.out.rolled_at = Some(self.now);
            return;
        }
        self.drain(next, grace, Some(starts_within));
    }

    /// Discovery notices that an endpoint is dead.
    pub(super) fn forget(&mut self, number: u16) {
        self.nodes[usize::from(number)].listed = false;
        self.publish();
    }

    pub(super) fn set_state(&mut self, number: u16, state: EndpointState) {
        let Some(node) = self.nodes.get_mut(usize::from(number)) else { return };
        node.endpoint.state = state;
        self.note_readiness(number);
        self.publish();
    }

    pub(super) fn set_listed(&mut self, number: u16, listed: bool) {
        let Some(node) = self.nodes.get_mut(usize::from(number)) else { return };
        node.listed = listed;
        self.note_readiness(number);
        self.publish();
    }

    fn set_churn(&mut self, arrivals: f64, departures: f64) {
        self.churn = (self.churn.0 + 1, arrivals, departures);
        let number = self.churn.0;
        if arrivals > 0.0 {
            let pause = self.pause(arrivals);
            self.queue.push(self.now + pause, Event::Arrival(number));
        }
        if departures > 0.0 {
            let pause = self.pause(departures);
            self.queue.push(self.now + pause, Event::Departure(number));
        }
    }

    fn exodus(&mut self, node: u16, share: f64) {
        let mut standing = self.standing_on(node);
        let leaving = (standing.len() as f64 * share.clamp(0.0, 1.0)) as usize;
        for _ in 0..leaving {
            let chosen = self.below(standing.len());
            let client = self.sessions[standing.swap_remove(chosen) as usize].client;
            self.clients[client as usize].leaves = true;
            self.hang_up(client);
        }
    }

    fn lose_replica(&mut self, number: u16) {
        let Some(replica) = self.replicas.get_mut(usize::from(number)) else { return };
        replica.alive = false;
        for session in replica.sessions.iter().flatten().copied().collect::<Vec<u32>>() {
            self.vanish(session);
        }
        self.tell_counts();
    }

    fn note_readiness(&mut self, number: u16) {
        let is_ready = self.nodes[usize::from(number)].is_ready();
        self.note(number, if is_ready { State::Ready } else { State::Unready });
    }

    pub(super) fn note(&mut self, number: u16, state: State) {
        self.out.changes.push((self.now, number, state));
        self.recount();
    }

    /// Which endpoints are ready has changed.
    fn recount(&mut self) {
        let ready = self.nodes.iter().zip(&self.open).filter(|(node, _)| node.is_ready());
        self.ready = ready.fold((0, 0), |(sum, count), (_, open)| (sum + open, count + 1));
    }
}

/// The name of the endpoint that follows: `demo-1`, `demo-1-r2`, `demo-1-r3`.
fn successor(name: &str) -> String {
    let again = name.rsplit_once("-r").and_then(|(base, n)| Some((base, n.parse::<u32>().ok()?)));
    match again {
        Some((base, n)) => format!("{base}-r{}", n + 1),
        None => format!("{name}-r2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_a_name_of_its_own() {
        assert_eq!(successor("demo-1"), "demo-1-r2");
        assert_eq!(successor("demo-1-r2"), "demo-1-r3");
    }
}
