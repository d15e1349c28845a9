//! Carries out the plan: asks each pool's planner what to do, picks the sessions, and tells them to leave.
//!
//! The planner says how many and why; `balance::victims` says which; this loop only knows where they live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balance::victims::{self, Candidate, Preference, Tenants};
use balance::{Action, Move, MoveReason};
use model::{Endpoint, EndpointId, EndpointState, PoolName, Snapshot, Time};
use tokio::sync::watch;

use crate::descriptors;
use crate::entropy;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::slot::{Command, Slot, Standing};
use crate::telemetry;
use crate::worker::Worker;

/// The planners are asked at least this often.
const LOOK: Duration = Duration::from_secs(1);
/// And at most this often.
const PAUSE: Duration = Duration::from_millis(20);
/// Gauges are refreshed this often.
const REPORT: Duration = Duration::from_secs(1);
/// A warning is due when a pair of gateway and endpoint has used this share of its source ports.
const SOURCE_PORTS_WARN: f64 = 0.8;

/// Watches endpoints and moves sessions until it is dropped.
pub struct Rebalance {
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    source_ports: u32,
    /// Pools for which the warning is out.
    warned: BTreeMap<PoolName, bool>,
    /// When each draining endpoint's last session is to be gone.
    deadlines: BTreeMap<(PoolName, EndpointId), Time>,
}

impl Rebalance {
    /// Over all sessions of `workers`.
    pub fn new(
        shared: Arc<Shared>,
        workers: Vec<Arc<Worker>>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        let source_ports = descriptors::source_ports();
        let (warned, deadlines) = Default::default();
        Self { shared, workers, snapshots, source_ports, warned, deadlines }
    }

    /// Takes the present snapshot: call before the first connection is accepted.
    pub fn take_endpoints(&mut self) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let now = self.shared.clock.now();
        for pool in self.shared.pools() {
            let endpoints: &[Endpoint] = snapshot.pools.get(&pool.name).map_or(&[], Vec::as_slice);
            pool.plan(|planner| planner.handle_endpoints(now, endpoints));
            // One that is back drains anew if it ever does, and has a new deadline then.
            let is_back = |id: &EndpointId| {
                endpoints.iter().any(|e| e.id == *id && e.state != EndpointState::Terminating)
            };
            self.deadlines.retain(|(name, id), _| *name != pool.name || !is_back(id));
        }
    }

    /// One loop: endpoints, plans, reports.
    pub async fn run(mut self) {
        let mut reported = Time::ZERO;
        let mut alive = true;
        loop {
            let now = self.shared.clock.now();
            if now.since(reported) >= REPORT {
                reported = now;
                self.report(now);
                // Pools may have come with a reload after the snapshot that names their endpoints.
                self.take_endpoints();
            }
            let mut next = now + LOOK;
            for pool in self.shared.pools() {
                while let Some(action) = pool.plan(|planner| planner.poll_action(now)) {
                    match action {
                        Action::Move(plan) => self.carry_out(now, &pool, &plan),
                        Action::Tell(report) => tracing::info!(pool = %pool.name, ?report, "rebalancing"),
                    }
                }
                if let Some((at, _)) = pool.plan(|planner| planner.poll_timeout()) {
                    next = next.min(at);
                }
            }
            self.enforce_deadlines(now);
            next = self.deadlines.values().copied().fold(next, Time::min);
            let pause = next.since(now).max(PAUSE);
            tokio::select! {
                changed = self.snapshots.changed(), if alive => {
                    alive = changed.is_ok();
                    self.take_endpoints();
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tells the best `plan.count` sessions of the donor to leave.
    fn carry_out(&mut self, now: Time, pool: &Arc<Pool>, plan: &Move) {
        let mut slots = self.sessions_on(pool, &plan.from);
        let mut candidates: Vec<Candidate> = slots.iter().enumerate().map(candidate).collect();
        let chosen = victims::choose(
            now,
            plan.reason,
            &mut candidates,
            plan.count as usize,
            &mut Tenants::default(),
            &balance::Limits::default(),
        );
        let began = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        for key in &chosen {
            slots[*key].set_standing(Standing::Moving);
        }
        // The planner must know before a session can end.
        pool.plan(|planner| planner.handle_moves_began(now, &plan.from, plan.count, began));
        let policy = pool.policy();
        let left = plan.deadline.map(|deadline| deadline.since(now));
        for key in chosen {
            let slot = &mut slots[key];
            let spec = policy.shed_spec(plan.reason.as_str(), left, slot.may_notify, spread());
            slot.command(Command::Shed(Arc::new(spec)));
        }
        if let (MoveReason::Draining, Some(deadline)) = (plan.reason, plan.deadline) {
            self.deadlines.insert((pool.name.clone(), plan.from.clone()), deadline);
        }
        telemetry::moves_began(&pool.name, plan.reason.as_str(), u64::from(began));
        tracing::debug!(pool = %pool.name, from = %plan.from, asked = plan.count, began,
            reason = plan.reason.as_str(), "sessions are moved");
    }

    fn sessions_on(&self, pool: &Arc<Pool>, endpoint: &EndpointId) -> Vec<Arc<Slot>> {
        let mut slots = Vec::new();
        for worker in &self.workers {
            worker.for_each(|slot| {
                if slot.endpoint == *endpoint && Arc::ptr_eq(&slot.pool, pool) {
                    slots.push(slot.clone());
                }
            });
        }
        slots
    }

    /// What is left on a draining endpoint at its deadline waits no longer: the endpoint goes away with or without us.
    fn enforce_deadlines(&mut self, now: Time) {
        let due: Vec<_> =
            self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.deadlines.remove(&key);
            let Some(pool) = self.shared.pools().into_iter().find(|pool| pool.name == key.0) else {
                continue;
            };
            let status = pool.plan(|planner| planner.status(now));
            let is_draining = status
                .endpoints
                .iter()
                .any(|endpoint| endpoint.id == key.1 && endpoint.state == EndpointState::Terminating);
            if !is_draining {
                continue;
            }
            let slots = self.sessions_on(&pool, &key.1);
            if !slots.is_empty() {
                tracing::warn!(pool = %key.0, endpoint = %key.1, sessions = slots.len(),
                    "sessions were left at the drain deadline: they are closed without waiting for a quiet moment");
            }
            for slot in slots {
                hasten(&slot, MoveReason::Draining.as_str());
            }
        }
    }

    fn report(&mut self, now: Time) {
        let mut bytes = [0; 2];
        let mut messages = [0; 2];
        for worker in &self.workers {
            for place in 0..2 {
                bytes[place] += worker.traffic.bytes[place].load(std::sync::atomic::Ordering::Relaxed);
                messages[place] += worker.traffic.messages[place].load(std::sync::atomic::Ordering::Relaxed);
            }
        }
        let connections_max = self.shared.runtime.load().connections_max;
        telemetry::process(self.shared.admission.total(), connections_max, bytes, messages);
        for pool in self.shared.pools() {
            let status = pool.plan(|planner| planner.status(now));
            telemetry::moves(&pool.name, &status);
            self.check_source_ports(&pool.name, &status);
        }
    }

    /// One address of ours has only so many source ports towards one endpoint: say so before they run out.
    fn check_source_ports(&mut self, pool: &PoolName, status: &balance::PoolStatus) {
        let busiest = status.endpoints.iter().max_by_key(|endpoint| endpoint.sessions + endpoint.pending);
        let Some(busiest) = busiest else { return };
        let ratio = f64::from(busiest.sessions + busiest.pending) / f64::from(self.source_ports);
        telemetry::source_ports(pool, ratio);
        let near = ratio >= SOURCE_PORTS_WARN;
        if near && !self.warned.get(pool).copied().unwrap_or_default() {
            tracing::warn!(%pool, endpoint = %busiest.id, sessions = busiest.sessions, source_ports = self.source_ports,
                "source ports towards this endpoint run short; add endpoints or gateway replicas, or widen net.ipv4.ip_local_port_range");
        }
        self.warned.insert(pool.clone(), near);
    }
}

fn candidate((key, slot): (usize, &Arc<Slot>)) -> Candidate {
    Candidate {
        key,
        opened: slot.opened,
        cooling_until: slot.cooling_until,
        expires_at: None,
        idle_since: slot.active_at(),
        moves: slot.moves,
        pin: (slot.standing() != Standing::Open).then_some("moving"),
        preference: Preference::Normal,
        tenant: 0,
    }
}

/// Closes a session at the next boundary, whatever it was waiting for.
pub fn hasten(slot: &Slot, reason: &str) {
    if slot.standing() != Standing::Moving {
        slot.set_standing(Standing::Ending);
    }
    let spec = slot.pool.policy().shed_spec(reason, Some(Duration::ZERO), false, 0.0);
    slot.command(Command::Hasten(Arc::new(spec)));
}

/// Evenly within -1.0 to 1.0.
pub fn spread() -> f64 {
    let [byte] = entropy::bytes();
    f64::from(byte) / 127.5 - 1.0
}
