//! An even pace for what has to be done by a moment: how many of those that are left are due now.
//!
//! A gateway that stops closes its sessions by it. Not here: a pace that follows from a rate (`pace`), and the
//! schedule of a draining endpoint (`drain`), whose sessions have other endpoints to go to.

use std::time::Duration;

use model::Time;

/// Spreads what is left evenly over the time that is left.
#[derive(Clone, Debug)]
pub struct EvenPace {
    end: Time,
    asked: Time,
    /// What was due and was not a whole one yet.
    carry: f64,
}

impl EvenPace {
    /// From `now` to `end`, when all that is left is due.
    pub fn new(now: Time, end: Time) -> Self {
        Self { end, asked: now, carry: 0.0 }
    }

    /// How many of `left` are due at `now`. To be asked every `step`, or somewhat later: the time for which a caller was
    /// stuck is not made up for in a burst; what is left is spread over the time that is left then.
    pub fn due(&mut self, now: Time, left: usize, step: Duration) -> usize {
        let passed = now.since(self.asked).min(step * 2);
        self.asked = self.asked.max(now);
        let ahead = self.end.since(now);
        if ahead.is_zero() {
            return left;
        }
        self.carry += left as f64 * (passed.as_secs_f64() / (passed + ahead).as_secs_f64());
        let due = (self.carry as usize).min(left);
        self.carry -= due as f64;
        due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// What is due in each second when it is asked after these pauses, and how many are left at the end.
    fn seconds(
        total: usize,
        length: Duration,
        mut pauses: impl Iterator<Item = Duration>,
    ) -> (Vec<usize>, usize) {
        let mut pace = EvenPace::new(Time::ZERO, Time::ZERO + length);
        let (mut now, mut left) = (Time::ZERO, total);
        let mut seconds = vec![0; length.as_secs() as usize + 1];
        while now.since(Time::ZERO) < length {
            now += pauses.next().unwrap_or(STEP);
            let due = pace.due(now, left, STEP);
            left -= due;
            let second = (now.as_nanos() / 1_000_000_000) as usize;
            seconds[second.min(length.as_secs() as usize)] += due;
        }
        (seconds, left)
    }

    #[test]
    fn few_are_as_far_apart_as_many_are_close() {
        let regular = || std::iter::repeat(STEP);
        let (five, left) = seconds(5, Duration::from_secs(20), regular());
        assert!(left == 0 && five.iter().all(|count| *count <= 1), "{five:?}");
        let (many, left) = seconds(5000, Duration::from_secs(20), regular());
        assert!(left == 0 && many.iter().all(|count| *count <= 251), "{many:?}");
    }

    #[test]
    fn what_a_stuck_caller_missed_is_spread_over_the_rest() {
        let pauses = std::iter::once(Duration::from_secs(10)).chain(std::iter::repeat(STEP));
        let (counts, left) = seconds(2000, Duration::from_secs(20), pauses);
        assert_eq!(left, 0);
        assert!(counts[10..20].iter().all(|count| (150..=250).contains(count)), "{counts:?}");
    }

    #[test]
    fn at_the_end_all_of_them_are_due() {
        let mut pace = EvenPace::new(Time::ZERO, Time::ZERO);
        assert_eq!(pace.due(Time::ZERO, 7, STEP), 7);
        assert_eq!(pace.due(Time::from_millis(1), 3, STEP), 3);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_its_share_whatever_the_timer_does(
            total in 0usize..20_000,
            length in 2u64..60,
            late in prop::collection::vec(0u64..90, 1..50),
        ) {
            let pauses = late.into_iter().cycle().map(|late| STEP + Duration::from_millis(late));
            let (counts, left) = seconds(total, Duration::from_secs(length), pauses);
            prop_assert_eq!(left, 0);
            let mean = total as f64 / length as f64;
            for count in &counts[..length as usize] {
                prop_assert!(*count as f64 <= mean * 1.3 + 2.0, "{counts:?}");
            }
        }
    }
}
