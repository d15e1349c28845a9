//! The way out: sessions are closed at an even pace over the drain time, then the process may end.

use std::sync::Arc;
use std::time::Duration;

use balance::MoveReason;

use crate::rebalance::{hasten, spread};
use crate::shared::Shared;
use crate::slot::{Command, Slot, Standing};
use crate::worker::Worker;

/// Time between two batches of closes.
const STEP: Duration = Duration::from_millis(100);
/// What is still there this long after the drain time, closing handshakes included, is dropped.
const GRACE: Duration = Duration::from_secs(8);

/// Closes every session, spread over `drain_time`; returns how many were left when time was up.
pub async fn run(shared: &Shared, workers: &[Arc<Worker>], drain_time: Duration) -> usize {
    let clock = shared.clock;
    let end = clock.now() + drain_time;
    let give_up = end + GRACE;
    loop {
        let now = clock.now();
        let (mut open, mut moving) = (Vec::new(), Vec::new());
        for worker in workers {
            worker.for_each(|slot| match slot.standing() {
                Standing::Open | Standing::Pinned => open.push(slot.clone()),
                // A move that is under way ends the session by itself; at the end it waits no longer.
                Standing::Moving => moving.push(slot.clone()),
                Standing::Ending => {}
            });
        }
        if now >= end {
            moving.iter().for_each(|slot| hasten(slot, "shutdown"));
        }
        // An endpoint may still be busy with what a session has left there.
        let retired: usize = shared.pools().iter().map(|pool| pool.gauges.retired_in_all()).sum();
        if shared.admission.total() + retired == 0 || now >= give_up {
            return shared.admission.total();
        }
        let steps = end.since(now).as_millis() / STEP.as_millis() + 1;
        let batch = open.len().div_ceil(usize::try_from(steps).unwrap_or(usize::MAX));
        // Those idle for longest first, as in a rebalance.
        open.sort_by_key(|slot| slot.active_at());
        for slot in open.into_iter().take(batch) {
            close(&slot, end.since(now));
        }
        tokio::time::sleep(STEP).await;
    }
}

fn close(slot: &Slot, left: Duration) {
    // Of an AMQP session that is pinned, or migrates, another replica has to take care now: it is closed like any other. In
    // a session that has become opaque no close can be placed.
    let from = slot.movable_from(MoveReason::Draining, false);
    if left.is_zero() || slot.standing() == Standing::Pinned && !from.contains(&Standing::Pinned) {
        return hasten(slot, "shutdown");
    }
    if slot.change(from, Standing::Ending).is_none() {
        // It is being moved, or has ended, since it was looked at.
        return;
    }
    let spec =
        slot.pool.policy().shed_spec("shutdown", Some(left.max(STEP)), slot.terms.may_notify, spread());
    slot.command(Command::Shed(Arc::new(spec)));
}
