//! Walks over all sessions: one for a whole round of orders, however many there are in it.
//!
//! A walk takes every session's memory through the cache and keeps sessions from opening meanwhile; orders come by the
//! dozen.

use std::collections::BTreeMap;
use std::sync::Arc;

use balance::victims::why_not;
use balance::{Movable, MoveReason};
use model::{EndpointId, PoolName, Time};

use crate::pool::Pool;
use crate::slot::Slot;
use crate::worker::Worker;

/// The sessions of some endpoints.
#[derive(Debug, Default)]
pub struct Census(BTreeMap<PoolName, Part>);

#[derive(Debug)]
struct Part {
    pool: Arc<Pool>,
    endpoints: BTreeMap<EndpointId, Vec<Arc<Slot>>>,
}

impl Census {
    /// Asks for the sessions of an endpoint.
    pub fn want(&mut self, pool: &Arc<Pool>, endpoint: &EndpointId) {
        let part = self.0.entry(pool.name.clone());
        let part = part.or_insert_with(|| Part { pool: pool.clone(), endpoints: BTreeMap::new() });
        part.endpoints.entry(endpoint.clone()).or_default();
    }

    /// Collects the sessions that were asked for.
    pub fn take(mut self, workers: &[Arc<Worker>]) -> Self {
        if self.0.is_empty() {
            return self;
        }
        for worker in workers {
            worker.for_each(|slot| {
                // A pool that was removed and added again is another one of the same name.
                let part = self.0.get_mut(&slot.pool.name).filter(|part| Arc::ptr_eq(&part.pool, &slot.pool));
                if let Some(found) = part.and_then(|part| part.endpoints.get_mut(&slot.endpoint)) {
                    found.push(slot.clone());
                }
            });
        }
        self
    }

    /// The sessions of an endpoint that was asked for.
    pub fn of(&self, pool: &PoolName, endpoint: &EndpointId) -> &[Arc<Slot>] {
        self.0.get(pool).and_then(|part| part.endpoints.get(endpoint)).map_or(&[], Vec::as_slice)
    }
}

/// How many sessions of each endpoint could be moved for balance at `now`, and what keeps the others.
pub fn movable(
    now: Time,
    workers: &[Arc<Worker>],
    pools: &[Arc<Pool>],
) -> BTreeMap<PoolName, BTreeMap<EndpointId, Movable>> {
    let mut all: BTreeMap<_, BTreeMap<EndpointId, Movable>> =
        pools.iter().map(|pool| (pool.name.clone(), BTreeMap::new())).collect();
    let closing: Vec<&PoolName> =
        pools.iter().filter(|pool| pool.policy().close_pinned()).map(|pool| &pool.name).collect();
    for worker in workers {
        worker.for_each(|slot| {
            let Some(endpoints) = all.get_mut(&slot.pool.name) else { return };
            if !endpoints.contains_key(&slot.endpoint) {
                endpoints.insert(slot.endpoint.clone(), Movable::default());
            }
            let Some(found) = endpoints.get_mut(&slot.endpoint) else { return };
            let close_pinned = closing.contains(&&slot.pool.name);
            match why_not(now, MoveReason::Surplus, &slot.candidate(0, MoveReason::Surplus, close_pinned)) {
                None => found.movable += 1,
                Some(reason) => *found.pinned.entry(reason).or_default() += 1,
            }
        });
    }
    all
}
