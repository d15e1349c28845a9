//! Migration: a session goes to another endpoint while its client stays connected.
//!
//! Nobody leaves, so nobody is expected back: no departure, no place in the ledger, nothing for the return guard to
//! judge. The session is counted where it is until it has been taken over, and its pick is in flight at the new endpoint
//! meanwhile, so an endpoint never seems to have more room than it has.
//!
//! Not here: how a session is taken over, and what keeps one from it (the session's state machine).

use std::time::Duration;

use model::{EndpointId, Time};

use crate::{Opened, Planner, Visitor};

/// A session whose migration was given up is left alone for this long, then twice as long, and so on.
const REST: Duration = Duration::from_secs(1);
/// Doublings of the rest: at most 16 seconds.
const REST_DOUBLINGS_MAX: u32 = 4;
/// With a deadline a rest is shorter, but never than this.
const REST_MIN: Duration = Duration::from_millis(100);

/// How long a session is left alone whose migration was given up `aborts` times in a row, the last one just now.
/// `left`: until its endpoint's drain deadline, of which no rest takes more than a quarter.
pub fn rest(aborts: u32, left: Option<Duration>) -> Duration {
    let whole = REST * (1 << aborts.saturating_sub(1).min(REST_DOUBLINGS_MAX));
    left.map_or(whole, |left| whole.min(left / 4).max(REST_MIN))
}

impl Planner {
    /// `count` sessions of `from` are being migrated though the planner did not ask, as in a rehearsal. Each ends like a
    /// move that was asked for.
    pub fn begin_moves_unasked(&mut self, now: Time, from: &EndpointId, count: u32) {
        let Some(index) = self.slots.find(from) else { return };
        self.slots.update(now, index, |slot| slot.moving = slot.moving.saturating_add(count));
        self.moves.began += u64::from(count);
    }

    /// A session that was being moved has been taken over: it is a session of `to` now, where its pick (for
    /// [`Purpose::Migration`](crate::Purpose)) was in flight, and `from` has lost it. It is cooling down.
    pub fn handle_migrated(
        &mut self,
        now: Time,
        from: &EndpointId,
        to: &EndpointId,
        visitor: Visitor,
    ) -> Opened {
        self.advance(now);
        self.moves.migrated += 1;
        if let Some(index) = self.slots.find(from) {
            self.slots.update(now, index, |slot| slot.moving = slot.moving.saturating_sub(1));
        }
        self.wake(now);
        self.take_over(now, from, to, visitor)
    }

    /// The same for a session that nobody was moving: its endpoint has failed it, and another has taken it over.
    pub fn handle_replaced(
        &mut self,
        now: Time,
        from: &EndpointId,
        to: &EndpointId,
        visitor: Visitor,
    ) -> Opened {
        self.advance(now);
        self.pace.broken();
        self.take_over(now, from, to, visitor)
    }

    fn take_over(&mut self, now: Time, from: &EndpointId, to: &EndpointId, visitor: Visitor) -> Opened {
        self.pace.reached();
        let opened = Opened {
            cooling_until: now + self.settings.limits.cooldown,
            moves: visitor.moves.saturating_add(1),
            expires_at: self.expires_at(now),
        };
        if let Some(index) = self.slots.find(to) {
            self.slots.update(now, index, |slot| {
                slot.pending = slot.pending.saturating_sub(1);
                slot.sessions = slot.sessions.saturating_add(1);
                slot.succeed();
            });
        }
        if let Some(index) = self.slots.find(from) {
            self.slots.update(now, index, |slot| slot.sessions = slot.sessions.saturating_sub(1));
            self.forget_empty(now, index);
        }
        opened
    }

    /// With `max_age`: when a session that begins at `now` is to be moved for its age.
    pub(crate) fn expires_at(&mut self, now: Time) -> Option<Time> {
        let limits = &self.settings.limits;
        let age = limits.max_age?;
        Some(now + age.mul_f64((1.0 + limits.max_age_jitter * self.random.spread()).max(0.0)))
    }

    /// A move was given up, and its session is still where it was: the plan under way has that one to move yet.
    pub(crate) fn note_aborted(&mut self, from: usize) {
        self.moves.aborted += 1;
        if !self.slots.at(from).is_terminating()
            && let Some(run) = &mut self.run
        {
            run.moved = run.moved.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_doubles_to_a_bound_and_leaves_a_draining_session_four_tries_at_least() {
        let seconds = |aborts| rest(aborts, None).as_secs();
        assert_eq!([0, 1, 2, 3, 5, 6, u32::MAX].map(seconds), [1, 1, 2, 4, 16, 16, 16]);
        assert_eq!(rest(5, Some(Duration::from_secs(8))), Duration::from_secs(2));
        assert_eq!(rest(1, Some(Duration::from_secs(8))), Duration::from_secs(1));
        assert_eq!(rest(1, Some(Duration::ZERO)), Duration::from_millis(100));
    }
}
