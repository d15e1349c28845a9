//! The pace of surplus moves: a token bucket in whole nanoseconds, so that it never drifts.
//!
//! Kept as the moment at which the bucket is full again (the "generic cell rate algorithm" of ITU-T I.371): a
//! bucket of capacity `c` that refills every `interval` gives at most `elapsed / interval + c` moves in any
//! stretch of time. Draining has a pace of its own, see `drain`.

use std::time::Duration;

use model::Time;

/// Moves that may come at once, as time at the current rate: small, so that endpoints see a flow and no waves.
const BURST: Duration = Duration::from_millis(100);

/// Nanoseconds between two moves at `per_second`, which is clamped to 0.001 to 100,000 a second.
fn interval_nanos(per_second: f64) -> u64 {
    let valid = if per_second.is_nan() { 0.001 } else { per_second.clamp(0.001, 100_000.0) };
    // At most 1e12: exact enough in f64, and never zero.
    (1e9 / valid) as u64
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Bucket {
    /// When the bucket is full again, had nothing more been taken.
    full_at: u64,
}

impl Bucket {
    /// Whole moves that may begin at `now`.
    pub(crate) fn available(&self, now: Time, per_second: f64) -> u32 {
        let (now, interval) = (now.as_nanos(), interval_nanos(per_second));
        let spent = self.full_at.saturating_sub(now);
        let slack = tolerance(interval);
        let moves = if spent > slack { 0 } else { (slack - spent) / interval + 1 };
        u32::try_from(moves).unwrap_or(u32::MAX)
    }

    /// When at least one move may begin.
    pub(crate) fn ready_at(&self, per_second: f64) -> Time {
        Time::from_nanos(self.full_at.saturating_sub(tolerance(interval_nanos(per_second))))
    }

    pub(crate) fn take(&mut self, now: Time, per_second: f64, moves: u32) {
        let cost = interval_nanos(per_second).saturating_mul(u64::from(moves));
        self.full_at = self.full_at.max(now.as_nanos()).saturating_add(cost);
    }

    /// Gives back moves that were taken and did not begin.
    pub(crate) fn give_back(&mut self, per_second: f64, moves: u32) {
        let cost = interval_nanos(per_second).saturating_mul(u64::from(moves));
        self.full_at = self.full_at.saturating_sub(cost);
    }
}

fn tolerance(interval: u64) -> u64 {
    let burst = u64::try_from(BURST.as_nanos()).expect("100 ms are few nanoseconds");
    burst.saturating_sub(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_holds_100_ms_worth_and_at_least_one() {
        let bucket = Bucket::default();
        let now = Time::from_millis(5_000);
        assert_eq!(bucket.available(now, 500.0), 50);
        assert_eq!(bucket.available(now, 10.0), 1);
        assert_eq!(bucket.available(now, 0.5), 1);
    }

    #[test]
    fn over_any_time_the_rate_and_one_burst_is_all() {
        for rate in [0.5, 3.0, 10.0, 60.0, 499.0] {
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (Time::from_millis(1), 0u32);
            let end = now + Duration::from_secs(20);
            while now < end {
                let n = bucket.available(now, rate);
                bucket.take(now, rate, n);
                taken += n;
                now = bucket.ready_at(rate).max(now + Duration::from_nanos(1));
                assert!(bucket.available(now, rate) >= 1, "ready_at keeps its word at {rate}");
            }
            let most = rate * 20.0 + (rate * 0.1).max(1.0) + 1.0;
            assert!(f64::from(taken) <= most && f64::from(taken) >= rate * 20.0 - 1.0, "{taken} at {rate}/s");
        }
    }

    #[test]
    fn what_was_given_back_may_be_taken_again() {
        let mut bucket = Bucket::default();
        let now = Time::from_millis(1_000);
        bucket.take(now, 100.0, 10);
        assert_eq!(bucket.available(now, 100.0), 0);
        bucket.give_back(100.0, 4);
        assert_eq!(bucket.available(now, 100.0), 4);
    }

    #[test]
    fn absurd_rates_neither_panic_nor_stop_time() {
        let bucket = Bucket::default();
        for rate in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
            assert!(bucket.available(Time::ZERO, rate) >= 1);
        }
    }
}
