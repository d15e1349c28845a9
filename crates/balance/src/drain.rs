//! Emptying an endpoint that goes away: evenly, and done before its deadline.
//!
//! The deadline runs from the first sight of the endpoint terminating, or from when it vanished. What is left is
//! spread over the time until a margin before the deadline, because a move takes time itself. Sessions that migrate are
//! asked for within the first half: a client that has messages to acknowledge first may need the other. Neither the bucket
//! nor `enabled`, a pause, the return guard or the cooldown applies: the sessions lose their endpoint in any case.

use std::time::Duration;

use model::Time;

use crate::slot::Slot;
use crate::{MoveReason, Planner};

/// Drains are asked for in steps of at least this: a flow, without a call for each session.
const STEP: Duration = Duration::from_millis(20);

/// Room for the last closes to complete.
const MARGIN_MIN: Duration = Duration::from_secs(1);

/// With nowhere to go, sessions stay until this long before the deadline.
const NOWHERE_HOLD: Duration = Duration::from_secs(2);

/// How long an endpoint is left alone that had fewer movable sessions than asked.
pub(crate) const HOLD: Duration = Duration::from_secs(1);

/// The moments of one drain.
struct Schedule {
    /// The last move should have begun.
    end: Time,
    /// No move before this one.
    start: Time,
}

impl Schedule {
    /// A drain that began at `since` and has to be done `whole` later. `somewhere`: another endpoint takes sessions.
    /// `migrates`: as in [`Settings`](crate::Settings).
    fn new(now: Time, since: Time, whole: Duration, somewhere: bool, migrates: bool) -> Self {
        let margin = (whole / if migrates { 2 } else { 5 }).max(MARGIN_MIN);
        let regular = since + whole.saturating_sub(margin);
        // Past the regular end (held back, or late handshakes) the rest still gets a spread, only a shorter one; what
        // migrates is tried at once.
        let end = if now < regular || migrates { regular } else { since + whole.saturating_sub(MARGIN_MIN) };
        let start = if somewhere { since } else { since + whole.saturating_sub(NOWHERE_HOLD) };
        Self { end, start }
    }
}

impl Planner {
    /// Puts the drains' moves that are due into the queue.
    pub(crate) fn plan_drains(&mut self, now: Time) {
        if self.slots.totals().to_drain == 0 {
            return;
        }
        let somewhere = self.slots.totals().ready > 0;
        for index in 0..self.slots.len() {
            let slot = self.slots.at(index);
            let Some(since) = slot.drain_since else { continue };
            let schedule = self.schedule(now, since, index, somewhere);
            let held = slot.held();
            if held == 0 || slot.drain_next.max(slot.hold_until).max(schedule.start) > now {
                continue;
            }
            let left = schedule.end.since(now);
            let count = portion(held, left);
            let pause = left.mul_f64(f64::from(count) / f64::from(held)).max(STEP);
            self.slots.update(now, index, |slot| slot.drain_next = now + pause);
            self.ask(now, index, count, MoveReason::Draining);
        }
    }

    /// When [`Self::plan_drains`] has something next.
    pub(crate) fn drain_timeout(&self) -> Option<Time> {
        if self.slots.totals().to_drain == 0 {
            return None;
        }
        let somewhere = self.slots.totals().ready > 0;
        let due = |(index, slot): (usize, &Slot)| {
            let start = self.schedule(Time::ZERO, slot.drain_since?, index, somewhere).start;
            (slot.held() > 0).then(|| slot.drain_next.max(slot.hold_until).max(start))
        };
        self.slots.iter().enumerate().filter_map(due).min()
    }

    fn schedule(&self, now: Time, since: Time, index: usize, somewhere: bool) -> Schedule {
        Schedule::new(now, since, self.drain_time(index), somewhere, self.settings.migrates)
    }

    /// From the beginning of an endpoint's drain to its deadline.
    pub(crate) fn drain_time(&self, index: usize) -> Duration {
        self.slots.at(index).ordered.unwrap_or(self.settings.limits.drain_deadline)
    }

    /// How long to leave a draining endpoint alone that had nothing movable: shorter when time is short.
    pub(crate) fn drain_hold(&self, now: Time, since: Time, whole: Duration) -> Duration {
        let left = Schedule::new(now, since, whole, true, self.settings.migrates).end.since(now);
        if left.is_zero() { HOLD } else { (left / 4).clamp(STEP, HOLD) }
    }
}

/// What has to go in one step so that `held` are gone in `left`: at least one, all when no time is left.
fn portion(held: u32, left: Duration) -> u32 {
    if left <= STEP {
        return held;
    }
    let share = f64::from(held) * STEP.as_secs_f64() / left.as_secs_f64();
    // Between 0 and `held`, so the conversion is exact after rounding up.
    (share.ceil() as u32).clamp(1, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_add_up_to_an_even_pace() {
        assert_eq!(portion(1, Duration::from_secs(20)), 1);
        assert_eq!(portion(1_000, Duration::from_secs(20)), 1);
        assert_eq!(portion(9_000, Duration::from_secs(24)), 8);
        assert_eq!(portion(7, Duration::ZERO), 7);
    }

    fn end(now: u64, seconds: u64, migrates: bool) -> Time {
        let whole = Duration::from_secs(seconds);
        Schedule::new(Time::from_millis(now), Time::ZERO, whole, true, migrates).end
    }

    #[test]
    fn the_end_keeps_a_fifth_and_at_least_a_second_before_the_deadline() {
        assert_eq!(end(0, 30, false), Time::from_millis(24_000));
        assert_eq!(end(0, 3, false), Time::from_millis(2_000));
        assert_eq!(end(0, 1, false), Time::ZERO);
        assert_eq!(end(25_000, 30, false), Time::from_millis(29_000), "late, it is a second");
    }

    #[test]
    fn what_migrates_is_asked_for_in_the_first_half_and_again_at_once_after_it() {
        assert_eq!(end(0, 30, true), Time::from_millis(15_000));
        assert_eq!(end(25_000, 30, true), Time::from_millis(15_000));
        assert_eq!(end(0, 1, true), Time::ZERO);
    }
}
