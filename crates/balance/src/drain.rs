//! Emptying an endpoint that goes away: evenly, and done before its deadline.
//!
//! The deadline runs from the first sight of the endpoint terminating (or missing). What is left is spread over
//! the time until a margin before the deadline, because a move takes time itself. Neither the bucket nor
//! `enabled` nor the cooldown applies: the sessions lose their endpoint in any case.

use std::time::Duration;

use model::Time;

use crate::slot::Slot;
use crate::{Limits, Move, MoveReason, Planner};

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
    /// The endpoint is to be empty.
    deadline: Time,
    /// The last move should have begun.
    end: Time,
    /// No move before this one.
    start: Time,
}

impl Schedule {
    fn new(now: Time, since: Time, limits: &Limits, somewhere: bool) -> Self {
        let whole = limits.drain_deadline;
        let margin = (whole / 5).max(MARGIN_MIN);
        let regular = since + whole.saturating_sub(margin);
        // Past the regular end (held back, or late handshakes) the rest still gets a spread, only a shorter one.
        let end = if now < regular { regular } else { since + whole.saturating_sub(MARGIN_MIN) };
        let start = if somewhere { since } else { since + whole.saturating_sub(NOWHERE_HOLD) };
        Self { deadline: since + whole, end, start }
    }
}

impl Planner {
    /// The next of the drains' moves that is due.
    pub(crate) fn next_drain(&mut self, now: Time) -> Option<Move> {
        let somewhere = self.has_ready();
        for slot in &mut self.slots {
            let Some(since) = slot.drain_since else { continue };
            let schedule = Schedule::new(now, since, &self.settings.limits, somewhere);
            let held = slot.held();
            if held == 0 || slot.drain_next.max(slot.hold_until).max(schedule.start) > now {
                continue;
            }
            let left = schedule.end.since(now);
            let count = portion(held, left);
            let pause = left.mul_f64(f64::from(count) / f64::from(held)).max(STEP);
            slot.drain_next = now + pause;
            slot.asked += count;
            return Some(Move {
                from: slot.id.clone(),
                count,
                reason: MoveReason::Draining,
                deadline: Some(schedule.deadline),
            });
        }
        None
    }

    /// When [`Self::next_drain`] has something next.
    pub(crate) fn drain_timeout(&self) -> Option<Time> {
        let somewhere = self.has_ready();
        let due = |slot: &Slot| {
            let start = Schedule::new(Time::ZERO, slot.drain_since?, &self.settings.limits, somewhere).start;
            (slot.held() > 0).then(|| slot.drain_next.max(slot.hold_until).max(start))
        };
        self.slots.iter().filter_map(due).min()
    }

    /// How long to leave a draining endpoint alone that had nothing movable: shorter when time is short.
    pub(crate) fn drain_hold(&self, now: Time, since: Time) -> Duration {
        let left = Schedule::new(now, since, &self.settings.limits, true).end.since(now);
        if left.is_zero() { HOLD } else { (left / 4).clamp(STEP, HOLD) }
    }

    fn has_ready(&self) -> bool {
        self.slots.iter().any(Slot::is_ready)
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

    #[test]
    fn the_end_keeps_a_fifth_and_at_least_a_second_before_the_deadline() {
        let end = |seconds: u64| {
            let limits = Limits { drain_deadline: Duration::from_secs(seconds), ..Limits::default() };
            Schedule::new(Time::ZERO, Time::ZERO, &limits, true).end
        };
        assert_eq!(end(30), Time::from_millis(24_000));
        assert_eq!(end(3), Time::from_millis(2_000));
        assert_eq!(end(1), Time::ZERO);
    }
}
