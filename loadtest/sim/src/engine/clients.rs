//! How clients come, fail, come back and leave: the outside of `gateway::front` and `gateway::upstream`.

use std::time::Duration;

use balance::{ClientKey, Purpose, Refusal, Request, Visitor};
use model::{EndpointId, Time};

use super::Sim;
use super::event::{Dial, Event};
use super::parts::{NONE, NOWHERE, Sess, Stage, Standing, number};
use super::record::count_in_second;

/// A 502 or 503 asks for 1 to this many seconds, as `gateway::reply` does.
const RETRY_AFTER_SECS_MAX: u64 = 5;

impl Sim {
    /// A client opens a connection: to whichever replica answers, as behind a NodePort.
    pub(super) fn connect(&mut self, client: u32) {
        let place = client as usize;
        if self.clients[place].stage != Stage::Away {
            return;
        }
        let Some(replica) = self.some_replica() else {
            return self.turned_away(client, None);
        };
        let rtt = self.rtt(client);
        let record = &mut self.clients[place];
        record.stage = Stage::Connecting;
        record.replica = replica;
        record.tries = 0;
        // The connection takes a round trip, the request half of one.
        self.queue.push(self.now + rtt + rtt / 2, Event::Arrive(client));
    }

    /// A client has a session from the first moment on.
    pub(super) fn stand(&mut self, client: u32) {
        let Some(replica) = self.some_replica() else { return };
        let record = &mut self.clients[client as usize];
        record.stage = Stage::Connecting;
        record.replica = replica;
        record.tries = 0;
        if let Some(node) = self.pick(client) {
            let took = self.spec.net.endpoint_rtt * 2 + self.spec.net.handshake;
            self.open(client, node, took);
        }
    }

    /// The request is at the replica.
    pub(super) fn arrive(&mut self, client: u32) {
        let replica = usize::from(self.clients[client as usize].replica);
        if !self.replicas[replica].alive {
            return self.turned_away(client, None);
        }
        if let Some(node) = self.pick(client) {
            self.dial(client, node);
        }
    }

    /// Asks the planner for an endpoint; a refused client is told so.
    fn pick(&mut self, client: u32) -> Option<u16> {
        let record = &self.clients[client as usize];
        let replica = usize::from(record.replica);
        let mut tried: Vec<EndpointId> =
            record.tried[..usize::from(record.tries)].iter().map(|n| self.id(*n)).collect();
        self.shun(client, &mut tried);
        let request = Request { client: key(client), purpose: Purpose::Session, hash: None, tried: &tried };
        match self.replicas[replica].planner.pick(self.now, &request) {
            Ok(pick) => {
                // One that is tried again was let in before, and one that we moved always is.
                if record.tries == 0 && record.donor == NOWHERE {
                    count_in_second(&mut self.out.admitted_each_second, self.now);
                }
                Some(number(pick.address))
            }
            Err(refusal) => {
                let retry_after = match refusal {
                    Refusal::Admission { retry_after } => {
                        self.out.deferred += 1;
                        retry_after
                    }
                    Refusal::NoEndpoint | Refusal::Full => {
                        self.out.no_endpoint += 1;
                        self.retry_after()
                    }
                };
                self.turned_away(client, Some(retry_after));
                None
            }
        }
    }

    /// The gateway dials endpoint `node` for the client.
    fn dial(&mut self, client: u32, node: u16) {
        let now = self.now;
        let record = &mut self.clients[client as usize];
        record.picked = node;
        record.dialing_since = now;
        let (rtt, handshake) = (self.spec.net.endpoint_rtt, self.spec.net.handshake);
        let place = &mut self.nodes[usize::from(node)];
        if !place.alive && place.silent {
            let after = self.spec.pool.dial_timeout;
            return self.queue.push(now + after, Event::Dialed(client, Dial::Unreachable));
        }
        if !place.alive {
            return self.queue.push(now + rtt, Event::Dialed(client, Dial::Refused));
        }
        let begins = place.busy_until.max(now + rtt + rtt / 2);
        place.busy_until = begins + handshake;
        let took = (begins + handshake + place.slow + rtt / 2).since(now);
        let (after, dial) = if took <= self.spec.pool.response_timeout {
            (took, Dial::Ok)
        } else {
            (self.spec.pool.response_timeout, Dial::TimedOut)
        };
        self.queue.push(now + after, Event::Dialed(client, dial));
    }

    /// The handshake is over.
    pub(super) fn dialed(&mut self, client: u32, dial: Dial) {
        let record = &mut self.clients[client as usize];
        let (node, replica, leaves) =
            (std::mem::replace(&mut record.picked, NOWHERE), usize::from(record.replica), record.leaves);
        let took = self.now.since(record.dialing_since);
        if !self.replicas[replica].alive {
            return self.turned_away(client, None);
        }
        let alive = self.nodes[usize::from(node)].alive;
        let id = self.id(node);
        let planner = &mut self.replicas[replica].planner;
        if leaves {
            planner.handle_released(self.now, &id);
            self.clients[client as usize].stage = Stage::Gone;
            return;
        }
        match (dial, alive) {
            (Dial::Ok, true) => return self.open(client, node, took),
            (Dial::Ok, false) | (Dial::Refused | Dial::Unreachable | Dial::TimedOut, _) => {
                planner.handle_pick_failed(self.now, &id);
            }
        }
        // A silent endpoint is not replaced by another: the request may have been seen.
        let again = match dial {
            Dial::Refused | Dial::Unreachable => true,
            Dial::Ok => self.spec.pool.retry_upgrade,
            Dial::TimedOut => false,
        };
        let tries_max = self.spec.pool.tries_max;
        let record = &mut self.clients[client as usize];
        record.tried[usize::from(record.tries)] = node;
        record.tries += 1;
        if again && usize::from(record.tries) < tries_max {
            if let Some(node) = self.pick(client) {
                self.dial(client, node);
            }
            return;
        }
        self.out.failed += 1;
        let retry_after = self.retry_after();
        self.turned_away(client, Some(retry_after));
    }

    /// A 101: the client has a session on endpoint `node`.
    fn open(&mut self, client: u32, node: u16, took: Duration) {
        let replica = self.clients[client as usize].replica;
        let id = self.id(node);
        let planner = &mut self.replicas[usize::from(replica)].planner;
        let opened = planner.handle_opened(self.now, &id, key(client), took);
        let list = &mut self.replicas[usize::from(replica)].sessions[usize::from(node)];
        let session = Sess {
            client,
            serial: 0,
            relay: NONE,
            place: list.len() as u32,
            replica,
            endpoint: node,
            moves: opened.moves,
            standing: Standing::Open,
            recycled: false,
            opened: self.now,
            cooling_until: opened.cooling_until,
            expires_at: opened.expires_at,
        };
        let session = match self.free_sessions.pop() {
            Some(place) => {
                let serial = self.sessions[place as usize].serial.wrapping_add(1);
                self.sessions[place as usize] = Sess { serial, ..session };
                place
            }
            None => {
                self.sessions.push(session);
                self.sessions.len() as u32 - 1
            }
        };
        self.replicas[usize::from(replica)].sessions[usize::from(node)].push(session);
        self.nodes[usize::from(node)].held += 1;
        self.note_open(client, session, node);
        self.rival_opened(session);
    }

    /// What is measured of a new session.
    fn note_open(&mut self, client: u32, session: u32, node: u16) {
        let record = &mut self.clients[client as usize];
        record.stage = Stage::Open;
        record.session = session;
        record.attempt = 0;
        record.last = node;
        if self.now > Time::ZERO {
            self.out.opened.push(self.now);
        }
        if let Some(closed) = record.closed_at.take() {
            self.out.back_after_ms.push(self.now.since(closed).as_secs_f64() * 1e3);
        }
        let donor = std::mem::replace(&mut record.donor, NOWHERE);
        self.out.to_donor += u64::from(donor == node);
        self.open[usize::from(node)] += 1;
        if self.nodes[usize::from(node)].is_ready() {
            self.ready.0 += 1;
            if self.now > self.first_step {
                let mean = f64::from(self.ready.0) / f64::from(self.ready.1.max(1));
                self.out.peak = self.out.peak.max(f64::from(self.open[usize::from(node)]) / mean);
            }
        }
    }

    /// A client sees that its connection is over; it comes back by its rule, or not.
    pub(super) fn client_ended(&mut self, client: u32, session: u32) {
        if self.clients[client as usize].session != session {
            return;
        }
        let record = &mut self.clients[client as usize];
        let node = usize::from(record.last);
        record.session = NONE;
        record.attempt = 0;
        record.closed_at = (record.donor != NOWHERE).then_some(self.now);
        record.stage = Stage::Away;
        self.open[node] -= 1;
        if self.nodes[node].is_ready() {
            self.ready.0 -= 1;
        }
        self.come_back(client, None);
    }

    /// An attempt of a client has failed; with an answer, which says when to come back.
    fn turned_away(&mut self, client: u32, retry_after: Option<Duration>) {
        let record = &mut self.clients[client as usize];
        record.stage = Stage::Away;
        record.attempt = record.attempt.saturating_add(1);
        self.come_back(client, retry_after);
    }

    fn come_back(&mut self, client: u32, retry_after: Option<Duration>) {
        let record = &self.clients[client as usize];
        let (_, rule) = self.spec.reconnect[usize::from(record.rule)];
        let attempt = u32::from(record.attempt);
        let delay = match retry_after {
            None => rule.delay(attempt, &mut self.rng),
            Some(told) => rule.delay_after_refusal(attempt, told, &mut self.rng),
        };
        match delay.filter(|_| !record.leaves) {
            None => self.clients[client as usize].stage = Stage::Gone,
            Some(delay) => {
                // The answer takes half a round trip.
                let answered = retry_after.map_or(Duration::ZERO, |_| self.rtt(client) / 2);
                self.queue.push(self.now + answered + delay, Event::Connect(client));
            }
        }
    }

    /// A new client of churn.
    pub(super) fn arrival(&mut self, churn: u32) {
        let (present, arrivals, _) = self.churn;
        if churn != present {
            return;
        }
        let client = self.new_client();
        self.queue.push(self.now, Event::Connect(client));
        let pause = self.pause(arrivals);
        self.queue.push(self.now + pause, Event::Arrival(churn));
    }

    /// A client of churn leaves for good: one that has a session, by chance.
    pub(super) fn departure(&mut self, churn: u32) {
        let (present, _, departures) = self.churn;
        if churn != present {
            return;
        }
        // A few looks are enough: most clients have a session. If not, nobody leaves this time.
        for _ in 0..20 {
            let client = self.below(self.clients.len()) as u32;
            let record = &mut self.clients[client as usize];
            if record.stage == Stage::Open && !record.leaves {
                record.leaves = true;
                self.hang_up(client);
                break;
            }
        }
        let pause = self.pause(departures);
        self.queue.push(self.now + pause, Event::Departure(churn));
    }

    /// What the planner knows a session's client by.
    pub(super) fn visitor(&self, session: u32) -> Visitor {
        let session = &self.sessions[session as usize];
        Visitor { client: key(session.client), moves: session.moves }
    }

    pub(super) fn rtt(&self, client: u32) -> Duration {
        Duration::from_micros(self.clients[client as usize].rtt_us.into())
    }

    pub(super) fn id(&self, node: u16) -> EndpointId {
        self.nodes[usize::from(node)].endpoint.id.clone()
    }

    fn retry_after(&mut self) -> Duration {
        Duration::from_secs(1 + self.below(RETRY_AFTER_SECS_MAX as usize) as u64)
    }

    fn some_replica(&mut self) -> Option<u16> {
        let alive = self.replicas.iter().filter(|replica| replica.alive).count();
        if alive == self.replicas.len() {
            return (alive > 0).then(|| self.below(alive) as u16);
        }
        let nth = self.below(alive.max(1));
        let alive = self.replicas.iter().enumerate().filter(|(_, replica)| replica.alive);
        alive.map(|(number, _)| number as u16).nth(nth)
    }

    /// When the last byte passed on a session at rest; messages keep their times, so nothing has to happen for that.
    pub(super) fn idle_since(&self, session: u32) -> Time {
        let record = &self.sessions[session as usize];
        let every = [self.spec.talk.message_every, self.spec.talk.push_every];
        let last = every.iter().enumerate().filter_map(|(stream, every)| {
            let every = every.as_ref()?.as_nanos() as u64;
            let first = phase(record.client, stream as u64, every);
            let since = self.now.as_nanos().checked_sub(first)?;
            Some(Time::from_nanos(first + since / every * every))
        });
        last.fold(record.opened, Time::max)
    }

    /// When the next message of stream `stream` (0: of the client, 1: of the endpoint) is due.
    pub(super) fn next_message(&self, client: u32, stream: u64, every: Duration) -> Time {
        let every = every.as_nanos().max(1) as u64;
        let first = phase(client, stream, every);
        let past = self.now.as_nanos().saturating_sub(first);
        let next = if self.now.as_nanos() < first { first } else { first + (past / every + 1) * every };
        Time::from_nanos(next)
    }
}

/// Each client has an address of its own.
pub(super) fn key(client: u32) -> ClientKey {
    ClientKey(u128::from(client) + 1)
}

/// When the first message of a stream is due, below `every`.
fn phase(client: u32, stream: u64, every: u64) -> u64 {
    let mixed = (u64::from(client) * 2 + stream).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)) % every.max(1)
}
