//! What an operator may ask of a pool.

use std::time::Duration;

use model::{EndpointId, Time};

use crate::{Planner, Trigger, UnknownEndpoint};

/// Names told to somebody who named an endpoint that is not there.
const KNOWN_MAX: usize = 10;

impl Planner {
    /// Moves nothing for balance or age until [`Self::resume`]. Draining endpoints are emptied all the same.
    pub fn pause(&mut self, _now: Time) {
        self.paused = true;
    }

    /// Ends a pause, and the return guard's stop. The pool is checked at once.
    pub fn resume(&mut self, now: Time) {
        self.paused = false;
        self.next_check = now;
        if let Some(report) = self.guard.resume(&self.settings.limits) {
            self.tell(report);
        }
    }

    /// Levels now: without waiting for `start_ratio`, `settle`, `min_ready` or the next check. What keeps sessions from
    /// being moved (a pause, panic, the return guard, cooldowns) still does.
    pub fn rebalance(&mut self, now: Time) {
        self.advance(now);
        for index in 0..self.slots.len() {
            self.slots.update(now, index, |slot| slot.count_at_once(now));
        }
        self.settle = None;
        if !self.is_blocked() && self.run.is_none() {
            let moves = self.needed(self.shares()).moves;
            self.start(now, Trigger::Command, moves);
        }
    }

    /// Empties an endpoint (by id, or by its Pod's name) as if it were terminating, whatever discovery says of it, by `deadline` from now
    /// (default: `drain_deadline`). It lasts until [`Self::cancel_drain`], or until discovery no longer names the
    /// endpoint. Returns the deadline that counts.
    ///
    /// # Errors
    /// [`UnknownEndpoint`].
    pub fn drain(
        &mut self,
        now: Time,
        endpoint: &EndpointId,
        deadline: Option<Duration>,
    ) -> Result<Duration, UnknownEndpoint> {
        let deadline = deadline.unwrap_or(self.settings.limits.drain_deadline);
        self.order(now, endpoint, Some(deadline))?;
        Ok(deadline)
    }

    /// Takes [`Self::drain`] back: what discovery says counts again.
    ///
    /// # Errors
    /// [`UnknownEndpoint`].
    pub fn cancel_drain(&mut self, now: Time, endpoint: &EndpointId) -> Result<(), UnknownEndpoint> {
        self.order(now, endpoint, None)
    }

    /// The id of an endpoint that may be named by its Pod. What is not there stays as it is.
    pub fn endpoint_id(&self, name: &EndpointId) -> EndpointId {
        self.slots.find_listed(name).map_or_else(|| name.clone(), |index| self.slots.at(index).id.clone())
    }

    fn order(
        &mut self,
        now: Time,
        endpoint: &EndpointId,
        within: Option<Duration>,
    ) -> Result<(), UnknownEndpoint> {
        self.advance(now);
        let listed = self.slots.iter().filter(|slot| slot.listed);
        let unknown = || UnknownEndpoint {
            endpoint: endpoint.clone(),
            known: listed.map(|slot| slot.id.clone()).take(KNOWN_MAX).collect(),
        };
        let index = self.slots.find_listed(endpoint).ok_or_else(unknown)?;
        let (limits, rules) = (&self.settings.limits, self.slots.rules);
        self.slots.update(now, index, |slot| {
            // A second order begins anew, with its own deadline.
            slot.ordered = within;
            if within.is_some() {
                slot.drain_since = None;
            } else {
                slot.forgive();
            }
            slot.settle_state(now, limits, &rules, false);
        });
        self.rebuild(now);
        Ok(())
    }
}
