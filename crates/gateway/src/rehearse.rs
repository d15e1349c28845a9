//! A rehearsal: every session of a pool that can migrate does so once, whether the pool is level or not.
//!
//! It shows before a node is restarted that its sessions can be moved, and what keeps the others. Nobody is closed: what can
//! not migrate stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use balance::MoveReason;
use model::{EndpointId, Time};

use crate::pool::Pool;
use crate::slot::{Command, MoveBy, Slot, Standing};
use crate::telemetry;
use crate::worker::Worker;

/// Tells the sessions of `pool` to migrate; returns how many were told. Those that are being moved already are left alone.
pub fn run(now: Time, workers: &[Arc<Worker>], pool: &Arc<Pool>) -> u64 {
    let mut by_endpoint: BTreeMap<EndpointId, Vec<Arc<Slot>>> = BTreeMap::new();
    for worker in workers {
        worker.for_each(|slot| {
            let is_meant = Arc::ptr_eq(&slot.pool, pool) && slot.terms.by == MoveBy::Migrate;
            if is_meant && slot.standing() == Standing::Open {
                by_endpoint.entry(slot.endpoint.clone()).or_default().push(slot.clone());
            }
        });
    }
    let reason = MoveReason::Rehearsal;
    let spec = Arc::new(pool.policy().migrate_spec(reason, None));
    let mut told = 0;
    for (from, mut slots) in by_endpoint {
        pool.plan(|planner| {
            slots.retain(|slot| slot.change(&[Standing::Open], Standing::Moving).is_some());
            let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            planner.begin_moves_unasked(now, &from, count);
        });
        told += slots.len() as u64;
        slots.iter().for_each(|slot| slot.command(Command::Migrate(spec.clone())));
    }
    telemetry::moves_began(&pool.name, reason.as_str(), told);
    tracing::info!(pool = %pool.name, sessions = told, "sessions migrate for a rehearsal");
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::testing::{begin, pool, sums};

    #[test]
    fn a_rehearsal_tells_every_session_that_can_migrate_once() {
        let clock = Clock::start();
        let (pool, other, worker) = (pool(clock), pool(clock), Worker::new(clock));
        let mut stays: Vec<_> = (0..4).map(|_| begin(&pool, &worker)).collect();
        let apart = begin(&other, &worker);
        stays[0].pin("exclusive_queue");
        let workers = [worker.clone()];
        assert_eq!(run(clock.now(), &workers, &pool), 3);
        assert_eq!(run(clock.now(), &workers, &pool), 0, "those are on their way");
        assert_eq!(sums(&pool), (4, 3, 0));
        let told = |stay: &crate::stay::Stay| match stay.slot.take_command() {
            Some(Command::Migrate(spec)) => Some(*spec),
            _ => None,
        };
        let specs: Vec<_> = stays.iter().map(told).collect();
        assert_eq!(specs[0], None);
        for spec in &specs[1..] {
            let spec = spec.expect("it was told to migrate");
            assert_eq!(
                (spec.reason, spec.deadline, spec.fallback),
                ("rehearsal", None, session::Fallback::Stay)
            );
        }
        assert_eq!((told(&apart), sums(&other)), (None, (1, 0, 0)));
    }
}
