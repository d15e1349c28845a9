//! How others rebalance, in the same world: what closes sessions, and where their clients land.
//!
//! Each rule follows its public source, in our own words; `docs/simulator.md` has the links. The closes themselves are
//! carried out as ours are (same close, same client libraries), so that only the rule differs.
//!
//! - [`Age`]: gRPC A9 `MAX_CONNECTION_AGE` ("a per-connection random jitter of +/-10%"), Envoy
//!   `max_connection_duration`, Netflix Zuul Push `PushRegistrationHandler` (30 minutes less up to 3 minutes of dither,
//!   less 4 seconds): a session is closed at an age, whatever the load is.
//! - [`Emqx`]: emqx `apps/emqx_node_rebalance/src/emqx_node_rebalance.erl`: donors are the nodes at or above the average
//!   when an operator starts it, and stay the donors to the end; after `wait_health_check` they refuse new connections and
//!   every second each donor that is above the recipients' average evicts `conn_evict_rate` connections, until the donors'
//!   average is at most the recipients' average plus `abs_conn_threshold`, or times `rel_conn_threshold`. Then it waits
//!   `wait_takeover` and evicts the sessions whose clients are away, evenly by the same rule; donors refuse until that is over.
//!   A WebSocket session ends with its connection, so here there are none to evict. When the averages are near enough at the
//!   start, or it is under way already, nothing is started.
//! - [`Nats`]: nats-io/jsm.go `connbalancer/balancer.go` behind `nats server cluster balance`: one look, each server's
//!   connections above ceil(all / servers) are kicked, the first listed first, evenly over the run time (2 minutes), and
//!   never measured again. A NATS client goes on to another server of its list.

use std::time::Duration;

use model::{EndpointId, Time};

use crate::engine::Sim;
use crate::engine::event::Event;
use crate::engine::parts::Standing;
use crate::spec::Mover;

/// Closes each session at an age between `least` and `most`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Age {
    /// Youngest.
    pub least: Duration,
    /// Oldest.
    pub most: Duration,
}

impl Age {
    /// gRPC's `MAX_CONNECTION_AGE`: +-10 %.
    pub const fn grpc(age: Duration) -> Self {
        let tenth = age.as_millis() as u64 / 10;
        let whole = age.as_millis() as u64;
        Self { least: Duration::from_millis(whole - tenth), most: Duration::from_millis(whole + tenth) }
    }

    /// Zuul Push: `ttl` 30 minutes, less `dither` of up to 3 minutes, less a grace period of 4 s.
    pub const fn zuul() -> Self {
        Self { least: Duration::from_secs(27 * 60 - 4), most: Duration::from_secs(30 * 60 - 4) }
    }
}

/// EMQX's settings; the defaults are its own.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Emqx {
    /// Load balancers have this long to see that the donors want nothing new.
    pub wait_health_check: Duration,
    /// Connections a second that each donor evicts.
    pub conn_evict_rate: usize,
    /// The donors' average may be above the recipients' by so many.
    pub abs_conn_threshold: f64,
    /// Or by this factor.
    pub rel_conn_threshold: f64,
    /// After the last eviction, clients have this long to come back while the donors still refuse.
    pub wait_takeover: Duration,
}

impl Emqx {
    /// What `start` takes when nothing is said.
    pub const DEFAULT: Self = Self {
        wait_health_check: Duration::from_secs(60),
        conn_evict_rate: 500,
        abs_conn_threshold: 1000.0,
        rel_conn_threshold: 1.1,
        wait_takeover: Duration::from_secs(60),
    };

    /// The donors have so little above the recipients that nothing more is evicted.
    fn is_near(&self, donors: f64, recipients: f64) -> bool {
        donors <= recipients + self.abs_conn_threshold || donors <= recipients * self.rel_conn_threshold
    }
}

/// NATS' only setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nats {
    /// The kicks are spread over this time.
    pub duration: Duration,
}

impl Nats {
    /// The command's default.
    pub const DEFAULT: Self = Self { duration: Duration::from_secs(120) };
}

/// What a rival has under way.
#[derive(Debug, Default)]
pub struct Rival {
    /// EMQX: who gives, and who takes nothing new.
    donors: Vec<u16>,
    refusing: bool,
    taking_over: bool,
    /// NATS: who is kicked, the next one last, and the time between two kicks.
    kicks: Vec<u32>,
    pause: Duration,
}

/// Time between two of EMQX's evictions.
const EVICT_INTERVAL: Duration = Duration::from_secs(1);

impl Sim {
    /// Sessions that stand at the start have reached any age.
    pub(crate) fn begin_rival(&mut self) {
        let Mover::Age(age) = self.spec.mover else { return };
        for session in 0..self.sessions.len() as u32 {
            let whole = self.between((age.least, age.most));
            let left = whole.mul_f64(self.rng.unit());
            let serial = self.sessions[session as usize].serial;
            self.queue.push(self.now + left, Event::Expire { session, serial });
        }
    }

    /// A session opened.
    pub(crate) fn rival_opened(&mut self, session: u32) {
        // Those of the start are seen to by `begin_rival`.
        if let Mover::Age(age) = self.spec.mover
            && self.now > Time::ZERO
        {
            let after = self.between((age.least, age.most));
            let serial = self.sessions[session as usize].serial;
            self.queue.push(self.now + after, Event::Expire { session, serial });
        }
    }

    /// A session has reached its age.
    pub(crate) fn expire(&mut self, session: u32, serial: u32) {
        if self.sessions[session as usize].serial == serial {
            self.recycle(session);
        }
    }

    /// Something happened in the world: an operator starts the rival that needs one.
    pub(crate) fn rival_step(&mut self) {
        match self.spec.mover {
            Mover::Planner | Mover::Age(_) => {}
            Mover::Emqx(emqx) => self.start_eviction(emqx),
            Mover::Nats(nats) => self.plan_kicks(nats),
        }
    }

    /// The rival's own clock.
    pub(crate) fn rival_turn(&mut self) {
        match self.spec.mover {
            Mover::Planner | Mover::Age(_) => {}
            Mover::Emqx(_) if self.rival.taking_over => self.rival = Rival::default(),
            Mover::Emqx(emqx) => self.evict(emqx),
            Mover::Nats(_) => {
                if let Some(session) = self.rival.kicks.pop() {
                    self.recycle(session);
                    self.queue.push(self.now + self.rival.pause, Event::Rival);
                }
            }
        }
    }

    /// Endpoints on which the client of a rival does not land, beside those it has tried.
    pub(crate) fn shun(&self, client: u32, tried: &mut Vec<EndpointId>) {
        match self.spec.mover {
            Mover::Planner | Mover::Age(_) => {}
            Mover::Emqx(_) => {
                let refusing = self.rival.donors.iter().filter(|_| self.rival.refusing);
                tried.extend(refusing.map(|node| self.nodes[usize::from(*node)].endpoint.id.clone()));
            }
            // nats.go moves the server that it lost to the end of its list.
            Mover::Nats(_) => {
                if let Some(last) = self.nodes.get(usize::from(self.clients[client as usize].last)) {
                    tried.push(last.endpoint.id.clone());
                }
            }
        }
    }

    fn start_eviction(&mut self, emqx: Emqx) {
        if !self.rival.donors.is_empty() {
            return;
        }
        let counts = self.counts();
        let average = mean(counts.iter().map(|(_, held)| *held));
        let gives = |held: u32| f64::from(held) >= average;
        let donors: Vec<u16> =
            counts.iter().filter(|(_, held)| gives(*held)).map(|(node, _)| *node).collect();
        let (above, below) = averages(&counts, &donors);
        if donors.len() < counts.len() && !emqx.is_near(above, below) {
            self.rival.donors = donors;
            self.queue.push(self.now + emqx.wait_health_check, Event::Rival);
        }
    }

    fn evict(&mut self, emqx: Emqx) {
        self.rival.refusing = true;
        let counts = self.counts();
        let gives = |node: &u16| self.rival.donors.contains(node);
        let (donors, recipients) = averages(&counts, &self.rival.donors);
        if emqx.is_near(donors, recipients) {
            self.rival.taking_over = true;
            self.queue.push(self.now + emqx.wait_takeover, Event::Rival);
            return;
        }
        let above = |(node, held): &&(u16, u32)| gives(node) && f64::from(*held) > recipients;
        let donors: Vec<u16> = counts.iter().filter(above).map(|(node, _)| *node).collect();
        for node in donors {
            let mut standing = self.standing_on(node);
            for _ in 0..emqx.conn_evict_rate.min(standing.len()) {
                let chosen = self.below(standing.len());
                let session = standing.swap_remove(chosen);
                self.recycle(session);
            }
        }
        self.queue.push(self.now + EVICT_INTERVAL, Event::Rival);
    }

    fn plan_kicks(&mut self, nats: Nats) {
        let counts = self.counts();
        let all: u32 = counts.iter().map(|(_, held)| held).sum();
        let even = all.div_ceil((counts.len() as u32).max(1));
        let mut kicks = Vec::new();
        for (node, held) in counts {
            let mut standing = self.standing_on(node);
            // Connections are listed as they came.
            standing.sort_unstable_by_key(|session| (self.sessions[*session as usize].opened, *session));
            kicks.extend(standing.into_iter().take(held.saturating_sub(even) as usize));
        }
        self.rival.pause = nats.duration / (kicks.len() as u32).max(1);
        kicks.reverse();
        self.rival.kicks = kicks;
        self.queue.push(self.now, Event::Rival);
    }

    /// Closes a session, whatever the load is.
    fn recycle(&mut self, session: u32) {
        let record = &mut self.sessions[session as usize];
        if record.client == crate::engine::parts::NONE || record.standing != Standing::Open {
            return;
        }
        record.standing = Standing::Ending;
        record.recycled = true;
        let spec = self.spec.pool.shed_spec("max_age", None, self.spec.pool.may_notify(), 0.0);
        self.shed(session, spec);
    }

    /// Sessions by ready endpoint.
    fn counts(&self) -> Vec<(u16, u32)> {
        let ready = self.nodes.iter().enumerate().filter(|(_, node)| node.is_ready());
        ready.map(|(number, node)| (number as u16, node.held)).collect()
    }
}

/// The mean of the donors, and that of the others.
fn averages(counts: &[(u16, u32)], donors: &[u16]) -> (f64, f64) {
    let of = |give: bool| {
        let side = counts.iter().filter(move |(node, _)| donors.contains(node) == give);
        mean(side.map(|(_, held)| *held))
    };
    (of(true), of(false))
}

fn mean(counts: impl Iterator<Item = u32>) -> f64 {
    let (sum, n) = counts.fold((0u64, 0u32), |(sum, n), count| (sum + u64::from(count), n + 1));
    sum as f64 / f64::from(n.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::rival_spec;
    use crate::engine::Outcome;

    /// 1,000 sessions on each of 3 endpoints, and a fourth; long enough for one rebalance.
    fn emqx(settings: Emqx) -> Outcome {
        let mut spec = rival_spec(0, 3_000, 3);
        spec.mover = Mover::Emqx(settings);
        spec.pool.planner.policy = balance::Policy::Random;
        spec.length = Duration::from_secs(300);
        Sim::new(spec, 1).run()
    }

    const SLOW: Emqx = Emqx { conn_evict_rate: 20, abs_conn_threshold: 10.0, ..Emqx::DEFAULT };

    #[test]
    fn emqx_donors_refuse_until_the_clients_in_flight_have_landed() {
        let out = emqx(SLOW);
        assert!(out.moves() > 0 && out.to_donor == 0, "{} moves, {} to donors", out.moves(), out.to_donor);
        let hasty = emqx(Emqx { wait_takeover: Duration::ZERO, ..SLOW });
        assert!(hasty.to_donor > 0, "without the wait some land where they came from");
    }

    #[test]
    fn emqx_starts_nothing_within_its_thresholds() {
        assert_eq!(emqx(Emqx { abs_conn_threshold: 1_000.0, ..SLOW }).moves(), 0);
    }
}
