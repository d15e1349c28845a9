//! Carries out the plan: asks each pool's planner what to do, picks the sessions, and tells them to leave.
//!
//! The planner says how many and why; `balance::victims` says which; this loop only knows where they live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balance::victims::{self, Tenants};
use balance::{Action, Move, MoveReason, PoolStatus};
use model::{Endpoint, EndpointId, EndpointState, PoolName, Snapshot, Time};
use tokio::sync::watch;

use crate::census::Census;
use crate::descriptors;
use crate::entropy;
use crate::pool::Pool;
use crate::reports;
use crate::shared::Shared;
use crate::slot::{Command, MoveBy, Slot, Standing};
use crate::telemetry;
use crate::worker::Worker;

/// The planners are asked at least this often.
const LOOK: Duration = Duration::from_secs(1);
/// And at most this often.
const PAUSE: Duration = Duration::from_millis(20);
/// Rounds of orders in one look: an order that can not be filled may lead to another.
const ROUNDS_MAX: u32 = 8;
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
    /// Whose sessions were moved lately.
    tenants: BTreeMap<PoolName, Tenants>,
}

/// Moves that a pool's planner wants.
type Order = (Arc<Pool>, Move);

impl Rebalance {
    /// Over all sessions of `workers`.
    pub fn new(
        shared: Arc<Shared>,
        workers: Vec<Arc<Worker>>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        let source_ports = descriptors::source_ports();
        let (warned, deadlines, tenants) = Default::default();
        Self { shared, workers, snapshots, source_ports, warned, deadlines, tenants }
    }

    /// Takes the present snapshot: call before the first connection is accepted.
    pub fn take_endpoints(&mut self) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let now = self.shared.clock.now();
        for pool in self.shared.pools() {
            let endpoints: &[Endpoint] = snapshot.pools.get(&pool.name).map_or(&[], Vec::as_slice);
            let endpoints = pool.known.judge(endpoints);
            let status = pool.plan(|planner| {
                planner.handle_endpoints(now, &endpoints);
                planner.status(now)
            });
            // One that is back drains anew if it ever does, and has a new deadline then.
            self.deadlines.retain(|(name, id), _| *name != pool.name || is_draining(&status, id));
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
            let pools = self.shared.pools();
            let tier = self.shared.replicas.level(now, &pools, self.shared.is_draining());
            for _ in 0..ROUNDS_MAX {
                let orders = orders(now, &self.shared, &pools);
                if orders.is_empty() {
                    break;
                }
                self.carry_out(now, &orders);
            }
            self.enforce_deadlines(now, &pools);
            let timeouts =
                pools.iter().filter_map(|pool| Some(pool.plan(|planner| planner.poll_timeout())?.0));
            let next =
                timeouts.chain(tier).chain(self.deadlines.values().copied()).fold(now + LOOK, Time::min);
            let pause = next.since(now).max(PAUSE);
            tokio::select! {
                changed = self.snapshots.changed(), if alive => {
                    alive = changed.is_ok();
                    self.take_endpoints();
                }
                () = self.shared.planner_woken() => self.take_endpoints(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Fills all orders with one walk over the sessions.
    fn carry_out(&mut self, now: Time, orders: &[Order]) {
        let mut census = Census::default();
        for (pool, plan) in orders {
            census.want(pool, &plan.from);
        }
        let census = census.take(&self.workers);
        for (pool, plan) in orders {
            self.fill(now, pool, plan, census.of(&pool.name, &plan.from));
        }
    }

    /// Tells the best `plan.count` of the donor's sessions to leave.
    fn fill(&mut self, now: Time, pool: &Arc<Pool>, plan: &Move, slots: &[Arc<Slot>]) {
        let policy = pool.policy();
        let close_pinned = policy.close_pinned();
        let candidate = |(key, slot): (usize, &Arc<Slot>)| slot.candidate(key, plan.reason, close_pinned);
        let mut candidates = slots.iter().enumerate().map(candidate).collect();
        let count = plan.count as usize;
        let tenants = self.tenants.entry(pool.name.clone()).or_default();
        let mut chosen = victims::choose(now, plan.reason, &mut candidates, count, tenants, &policy.limits);
        // Some may have ended since they were looked at.
        let began = pool.plan(|planner| {
            chosen.retain(|key| {
                let slot = &slots[*key];
                slot.change(slot.movable_from(plan.reason, close_pinned), Standing::Moving).is_some()
            });
            let began = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
            planner.handle_moves_began(now, &plan.from, plan.count, began);
            began
        });
        let left = plan.deadline.map(|deadline| deadline.since(now));
        let migrate = Arc::new(policy.migrate_spec(plan.reason, plan.deadline));
        for key in chosen {
            let slot = &slots[key];
            slot.command(match slot.terms.by {
                MoveBy::Migrate => Command::Migrate(migrate.clone()),
                MoveBy::Shed => {
                    let reason = plan.reason.as_str();
                    Command::Shed(Arc::new(policy.shed_spec(reason, left, slot.terms.may_notify, spread())))
                }
            });
        }
        if let (MoveReason::Draining, Some(deadline)) = (plan.reason, plan.deadline) {
            self.deadlines.insert((pool.name.clone(), plan.from.clone()), deadline);
        }
        if plan.reason == MoveReason::Tier {
            self.shared.replicas.began(now, plan.count, began);
        }
        telemetry::moves_began(&pool.name, plan.reason.as_str(), u64::from(began));
        tracing::debug!(pool = %pool.name, from = %plan.from, asked = plan.count, began,
            reason = plan.reason.as_str(), "sessions are moved");
    }

    /// What is left on a draining endpoint at its deadline waits no longer: the endpoint goes away with or without us.
    fn enforce_deadlines(&mut self, now: Time, pools: &[Arc<Pool>]) {
        let mut due = Vec::new();
        self.deadlines.retain(|key, at| {
            let is_due = *at <= now;
            due.extend(is_due.then(|| key.clone()));
            !is_due
        });
        due.retain(|(name, id)| {
            let pool = pools.iter().find(|pool| pool.name == *name);
            pool.is_some_and(|pool| is_draining(&pool.plan(|planner| planner.status(now)), id))
        });
        let mut census = Census::default();
        for (name, id) in &due {
            pools.iter().filter(|pool| pool.name == *name).for_each(|pool| census.want(pool, id));
        }
        let census = census.take(&self.workers);
        for (pool, endpoint) in &due {
            let slots = census.of(pool, endpoint);
            if !slots.is_empty() {
                tracing::warn!(%pool, %endpoint, sessions = slots.len(),
                    "sessions were left at the drain deadline: they are closed without waiting for a quiet moment");
            }
            slots.iter().for_each(|slot| hasten(slot, MoveReason::Draining.as_str()));
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
        let pools = self.shared.pools();
        telemetry::tier(&self.shared.replicas.status(now, &pools, self.shared.is_draining()));
        for pool in &pools {
            let status = pool.plan(|planner| planner.status(now));
            telemetry::pool(&pool.name, &status);
            telemetry::pinned(&pool.name, &pool.gauges.pinned());
            self.check_source_ports(&pool.name, &status);
        }
        self.tenants.retain(|name, _| pools.iter().any(|pool| pool.name == *name));
    }

    /// One address of ours has only so many source ports towards one endpoint: say so before they run out.
    fn check_source_ports(&mut self, pool: &PoolName, status: &PoolStatus) {
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

/// What the planners want done now, all of it; what they want told is told.
fn orders(now: Time, shared: &Shared, pools: &[Arc<Pool>]) -> Vec<Order> {
    let mut orders = Vec::new();
    for pool in pools {
        while let Some(action) = pool.plan(|planner| planner.poll_action(now)) {
            match action {
                Action::Move(plan) => orders.push((pool.clone(), plan)),
                Action::Tell(report) => reports::tell(shared, pool, &report),
            }
        }
    }
    orders
}

fn is_draining(status: &PoolStatus, id: &EndpointId) -> bool {
    status.endpoints.iter().any(|e| e.id == *id && e.state == EndpointState::Terminating)
}

/// Closes a session at the next boundary, whatever it was waiting for.
pub fn hasten(slot: &Slot, reason: &str) {
    slot.change(&[Standing::Open, Standing::Pinned], Standing::Ending);
    let spec = slot.pool.policy().shed_spec(reason, Some(Duration::ZERO), false, 0.0);
    slot.command(Command::Hasten(Arc::new(spec)));
}

/// Evenly within -1.0 to 1.0.
pub fn spread() -> f64 {
    let [byte] = entropy::bytes();
    f64::from(byte) / 127.5 - 1.0
}
