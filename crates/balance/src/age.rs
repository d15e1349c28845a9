//! Sessions that are older than `max_age` (off by default): moved at the pace of all moves, after those for balance.
//!
//! The planner does not know which sessions are old: it asks each endpoint for some, the shell finds those whose own
//! age has come, and an endpoint that had fewer than asked is left alone for a while.

use std::time::Duration;

use model::Time;

use crate::pace::MOVE_BURST;
use crate::{MoveReason, Planner};

/// How often old sessions are asked for.
const STEP: Duration = Duration::from_secs(1);
/// How long an endpoint is left alone that had too few.
pub(crate) const AGE_HOLD: Duration = Duration::from_secs(10);

impl Planner {
    /// Puts the moves for age that may begin at `now` into the queue.
    pub(crate) fn plan_age(&mut self, now: Time) {
        if self.settings.limits.max_age.is_none() || self.is_blocked() || self.next_age > now {
            return;
        }
        self.next_age = now + STEP;
        let rate = self.rate();
        for index in 0..self.slots.len() {
            let slot = self.slots.at(index);
            if slot.is_terminating() || slot.asked > 0 || slot.held() == 0 || slot.age_hold_until > now {
                continue;
            }
            let available = u64::from(self.bucket.available(now, rate, MOVE_BURST)).min(self.may_begin(now));
            let count = u32::try_from(available).unwrap_or(u32::MAX).min(self.slots.at(index).held());
            if count == 0 {
                // A token is due before the next step at any pace worth the name; the others wait for that.
                self.next_age = (self.bucket.ready_at(rate, MOVE_BURST)).max(now + STEP / 10).min(now + STEP);
                return;
            }
            self.bucket.take(now, rate, count);
            self.ask(now, index, count, MoveReason::MaxAge);
        }
    }
}
