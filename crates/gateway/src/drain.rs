//! The way out: sessions are closed at an even pace until shortly before the process would be killed, and new clients are
//! taken until everybody knows that this replica goes.
//!
//! Who closes first and how fast is `balance::EvenPace` and `config::Shutdown`; this loop only knows where sessions live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balance::{EvenPace, MoveReason};
use config::Shutdown;
use model::{PoolName, Time};

use crate::rebalance::{hasten, spread};
use crate::shared::Shared;
use crate::slot::{Command, Slot, Standing};
use crate::worker::Worker;

/// Time between two batches of closes.
const STEP: Duration = Duration::from_millis(100);

/// All sessions of a gateway that stops.
pub struct Drain<'a> {
    shared: &'a Shared,
    workers: &'a [Arc<Worker>],
    began: Time,
    /// New clients are taken until then.
    accept_until: Time,
    /// Every Close is out by then.
    end: Time,
    /// What is left then is dropped.
    give_up: Time,
    /// By pool: how fast, and how long a session may take to find its moment. All have the same time for it, so that closes
    /// leave as evenly as they were asked for.
    paces: BTreeMap<PoolName, (EvenPace, Duration)>,
}

/// The sessions of a pool at one moment.
#[derive(Default)]
struct Sessions {
    open: Vec<Arc<Slot>>,
    /// A move that is under way ends the session by itself; at the end it waits no longer.
    moving: Vec<Arc<Slot>>,
}

impl<'a> Drain<'a> {
    /// Begins now.
    pub fn new(shared: &'a Shared, workers: &'a [Arc<Worker>], times: &Shutdown) -> Self {
        let began = shared.clock.now();
        Self {
            shared,
            workers,
            began,
            accept_until: began + times.propagation,
            end: began + times.drain_time(),
            give_up: began + times.give_up_after(),
            paces: BTreeMap::new(),
        }
    }

    /// Closes every session; calls `close` once, when no new client is to be taken any more. Returns how many connections
    /// were left when time was up.
    pub async fn run(mut self, close: impl FnOnce()) -> usize {
        let mut close = Some(close);
        loop {
            let now = self.shared.clock.now();
            if now >= self.accept_until
                && let Some(close) = close.take()
            {
                close();
                tracing::info!("listeners are closed");
            }
            for (pool, sessions) in self.sessions() {
                self.step(now, pool, sessions);
            }
            // An endpoint may still be busy with what a session has left there.
            let retired: usize = self.shared.pools().iter().map(|pool| pool.gauges.retired_in_all()).sum();
            let is_empty = self.shared.admission.total() + retired == 0;
            if is_empty && close.is_none() || now >= self.give_up {
                return self.shared.admission.total();
            }
            tokio::time::sleep(STEP).await;
        }
    }

    fn sessions(&self) -> BTreeMap<PoolName, Sessions> {
        let mut pools: BTreeMap<PoolName, Sessions> = BTreeMap::new();
        for worker in self.workers {
            worker.for_each(|slot| {
                let standing = slot.standing();
                if standing == Standing::Ending {
                    return;
                }
                let sessions = match pools.get_mut(&slot.pool.name) {
                    Some(sessions) => sessions,
                    None => pools.entry(slot.pool.name.clone()).or_default(),
                };
                match standing {
                    Standing::Moving => sessions.moving.push(slot.clone()),
                    Standing::Open | Standing::Pinned | Standing::Ending => sessions.open.push(slot.clone()),
                }
            });
        }
        pools
    }

    /// Closes those of a pool that are due.
    fn step(&mut self, now: Time, pool: PoolName, mut sessions: Sessions) {
        let Some(first) = sessions.open.first().or(sessions.moving.first()) else { return };
        let (began, end) = (self.began, self.end);
        let (pace, patience) = self.paces.entry(pool).or_insert_with(|| {
            let patience = first.pool.policy().patience(end.since(began));
            (EvenPace::new(began, began + (end.since(began) - patience)), patience)
        });
        let due = pace.due(now, sessions.open.len(), STEP);
        // Those idle for longest first, as in a rebalance. Who came after the signal goes last: one that was closed and came
        // back to this replica, because it could not know better, is not to be closed again while it still can come back here.
        sessions.open.sort_by_key(|slot| (slot.opened > began, slot.active_at()));
        let left = end.since(now);
        for slot in sessions.open.into_iter().take(due) {
            close_one(&slot, left.min(*patience));
        }
        if left.is_zero() {
            sessions.moving.iter().for_each(|slot| hasten(slot, "shutdown"));
        }
    }
}

/// Closes a session within `patience`.
fn close_one(slot: &Slot, patience: Duration) {
    // Of an AMQP session that is pinned, or migrates, another replica has to take care now: it is closed like any other. In
    // a session that has become opaque no close can be placed.
    let from = slot.movable_from(MoveReason::Draining, false);
    if patience.is_zero() || slot.standing() == Standing::Pinned && !from.contains(&Standing::Pinned) {
        return hasten(slot, "shutdown");
    }
    if slot.change(from, Standing::Ending).is_none() {
        // It is being moved, or has ended, since it was looked at.
        return;
    }
    let spec =
        slot.pool.policy().shed_spec("shutdown", Some(patience.max(STEP)), slot.terms.may_notify, spread());
    slot.command(Command::Shed(Arc::new(spec)));
}
