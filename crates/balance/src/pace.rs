//! How fast: a token bucket in whole nanoseconds, so that it never drifts, and a factor that learns from what is seen
//! to happen.
//!
//! The bucket is kept as the moment at which it is full again (the "generic cell rate algorithm" of ITU-T I.371): a
//! bucket that refills every `interval` gives at most `elapsed / interval + burst` in any stretch of time. It paces
//! moves, admissions, and arrivals at an endpoint in its slow start. Draining has a pace of its own, see `drain`.
//!
//! The factor grows by addition and falls by multiplication (Chiu, Jain, "Analysis of the increase and decrease
//! algorithms for congestion avoidance in computer networks", 1989).

use std::time::Duration;

use model::Time;

use crate::Cause;

/// Moves that may come at once, as time at the current rate: small, so that endpoints see a flow and no waves.
pub(crate) const MOVE_BURST: Duration = Duration::from_millis(100);

/// Nanoseconds between two events at `per_second`, which is clamped to 0.001 to 1,000,000 a second.
fn interval_nanos(per_second: f64) -> u64 {
    let valid = if per_second.is_nan() { 0.001 } else { per_second.clamp(0.001, 1_000_000.0) };
    // At most 1e12: exact enough in f64, and never zero.
    (1e9 / valid) as u64
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Bucket {
    /// When the bucket is full again, had nothing more been taken.
    full_at: u64,
}

impl Bucket {
    /// Whole events that may happen at `now`; a full bucket holds those of `burst`, and at least one.
    pub(crate) fn available(&self, now: Time, per_second: f64, burst: Duration) -> u32 {
        let (now, interval) = (now.as_nanos(), interval_nanos(per_second));
        let spent = self.full_at.saturating_sub(now);
        let slack = tolerance(interval, burst);
        let events = if spent > slack { 0 } else { (slack - spent) / interval + 1 };
        u32::try_from(events).unwrap_or(u32::MAX)
    }

    /// When at least one event may happen.
    pub(crate) fn ready_at(&self, per_second: f64, burst: Duration) -> Time {
        Time::from_nanos(self.full_at.saturating_sub(tolerance(interval_nanos(per_second), burst)))
    }

    pub(crate) fn take(&mut self, now: Time, per_second: f64, events: u32) {
        let cost = interval_nanos(per_second).saturating_mul(u64::from(events));
        self.full_at = self.full_at.max(now.as_nanos()).saturating_add(cost);
    }

    /// Gives back events that were taken and did not happen.
    pub(crate) fn give_back(&mut self, per_second: f64, events: u32) {
        let cost = interval_nanos(per_second).saturating_mul(u64::from(events));
        self.full_at = self.full_at.saturating_sub(cost);
    }
}

fn tolerance(interval: u64, burst: Duration) -> u64 {
    u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX).saturating_sub(interval)
}

/// What was seen is judged this often.
const WINDOW: Duration = Duration::from_secs(1);
/// The pace grows by this share of the configured one a window.
const INCREASE: f64 = 0.1;
/// And is multiplied by this when something is wrong.
const DECREASE: f64 = 0.5;
/// It never falls below this share.
const FACTOR_MIN: f64 = 0.05;
/// Bad events of a window are a sign from this number on,
const BAD_MIN: u32 = 2;
/// and from this share of all of its handshakes on.
const BAD_SHARE: f64 = 0.05;
/// Handshakes of a window whose mean says something.
const HANDSHAKES_MIN: u32 = 5;
/// Slow is a mean of so many times the usual one,
const SLOW_TIMES: f64 = 3.0;
/// and this much more.
const SLOW_MORE_S: f64 = 0.02;
/// How much the newest window counts in the usual handshake time.
const USUAL_GAIN: f64 = 0.2;

/// The factor by which the pace of moves is lowered, and what it is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Adaptive {
    factor: f64,
    window_ends: Time,
    succeeded: u32,
    reached: u32,
    failed: u32,
    broken: u32,
    seconds: f64,
    /// Mean time of a handshake while nothing is moved.
    usual_s: Option<f64>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            factor: 1.0,
            window_ends: Time::ZERO,
            succeeded: 0,
            reached: 0,
            failed: 0,
            broken: 0,
            seconds: 0.0,
            usual_s: None,
        }
    }
}

impl Adaptive {
    /// Above 0, at most 1.
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// A handshake took so long.
    pub(crate) fn succeeded(&mut self, took: Duration) {
        self.succeeded += 1;
        self.seconds += took.as_secs_f64();
    }

    /// A handshake succeeded whose time is not comparable with that of others.
    pub(crate) fn reached(&mut self) {
        self.reached += 1;
    }

    /// A dial or a handshake failed.
    pub(crate) fn failed(&mut self) {
        self.failed += 1;
    }

    /// An endpoint broke a session.
    pub(crate) fn broken(&mut self) {
        self.broken += 1;
    }

    /// Judges the window when it is over. `is_moving`: moves are under way, or their clients are. Present: why the pace
    /// falls.
    pub(crate) fn judge(&mut self, now: Time, is_moving: bool) -> Option<Cause> {
        if now < self.window_ends {
            return None;
        }
        let cause = self.cause();
        if !is_moving || self.usual_s.is_none() {
            self.learn();
        }
        (self.succeeded, self.reached, self.failed, self.broken, self.seconds) = (0, 0, 0, 0, 0.0);
        self.window_ends = now + WINDOW;
        match cause.filter(|_| is_moving) {
            Some(cause) => {
                let lowered = (self.factor * DECREASE).max(FACTOR_MIN);
                let is_news = lowered < self.factor;
                self.factor = lowered;
                is_news.then_some(cause)
            }
            None => {
                self.factor = (self.factor + INCREASE).min(1.0);
                None
            }
        }
    }

    fn cause(&self) -> Option<Cause> {
        let all = f64::from(self.succeeded + self.reached + self.failed);
        let is_sign = |bad: u32| bad >= BAD_MIN && f64::from(bad) > BAD_SHARE * all;
        let slow = self.usual_s.is_some_and(|usual| {
            self.succeeded >= HANDSHAKES_MIN
                && self.seconds / f64::from(self.succeeded) > usual * SLOW_TIMES + SLOW_MORE_S
        });
        if is_sign(self.failed) {
            Some(Cause::HandshakeFailures)
        } else if is_sign(self.broken) {
            Some(Cause::EndpointErrors)
        } else {
            slow.then_some(Cause::HandshakeLatency)
        }
    }

    fn learn(&mut self) {
        if self.succeeded < HANDSHAKES_MIN {
            return;
        }
        let mean = self.seconds / f64::from(self.succeeded);
        self.usual_s = Some(self.usual_s.map_or(mean, |usual| usual + USUAL_GAIN * (mean - usual)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_holds_its_burst_and_at_least_one() {
        let bucket = Bucket::default();
        let now = Time::from_millis(5_000);
        assert_eq!(bucket.available(now, 500.0, MOVE_BURST), 50);
        assert_eq!(bucket.available(now, 10.0, MOVE_BURST), 1);
        assert_eq!(bucket.available(now, 0.5, MOVE_BURST), 1);
        assert_eq!(bucket.available(now, 30.0, Duration::from_secs(2)), 60);
    }

    #[test]
    fn over_any_time_the_rate_and_one_burst_is_all() {
        for rate in [0.5, 3.0, 10.0, 60.0, 499.0] {
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (Time::from_millis(1), 0u32);
            let end = now + Duration::from_secs(20);
            while now < end {
                let n = bucket.available(now, rate, MOVE_BURST);
                bucket.take(now, rate, n);
                taken += n;
                now = bucket.ready_at(rate, MOVE_BURST).max(now + Duration::from_nanos(1));
                assert!(bucket.available(now, rate, MOVE_BURST) >= 1, "ready_at keeps its word at {rate}");
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
        assert_eq!(bucket.available(now, 100.0, MOVE_BURST), 0);
        bucket.give_back(100.0, 4);
        assert_eq!(bucket.available(now, 100.0, MOVE_BURST), 4);
    }

    #[test]
    fn absurd_rates_neither_panic_nor_stop_time() {
        let bucket = Bucket::default();
        for rate in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
            assert!(bucket.available(Time::ZERO, rate, MOVE_BURST) >= 1);
        }
    }

    /// Runs one window and judges it.
    fn window(
        pace: &mut Adaptive,
        second: u64,
        ok: u32,
        took_ms: u64,
        failed: u32,
        broken: u32,
    ) -> Option<Cause> {
        (0..ok).for_each(|_| pace.succeeded(Duration::from_millis(took_ms)));
        (0..failed).for_each(|_| pace.failed());
        (0..broken).for_each(|_| pace.broken());
        pace.judge(Time::from_millis(second * 1_000), second > 1)
    }

    #[test]
    fn each_bad_sign_halves_the_pace_and_quiet_windows_bring_it_back() {
        for (took, failed, broken, cause) in [
            (200, 0, 0, Cause::HandshakeLatency),
            (10, 6, 0, Cause::HandshakeFailures),
            (10, 0, 6, Cause::EndpointErrors),
        ] {
            let mut pace = Adaptive::default();
            assert_eq!(window(&mut pace, 1, 20, 10, 0, 0), None);
            assert_eq!(window(&mut pace, 2, 20, 10, 0, 0), None);
            assert_eq!(window(&mut pace, 3, 20, took, failed, broken), Some(cause));
            assert_eq!(pace.factor(), 0.5);
            assert_eq!(window(&mut pace, 4, 20, took, failed, broken), Some(cause));
            assert_eq!(pace.factor(), 0.25);
            (5..20).for_each(|second| assert_eq!(window(&mut pace, second, 20, 10, 0, 0), None));
            assert_eq!(pace.factor(), 1.0);
        }
    }

    #[test]
    fn one_failure_among_many_is_no_sign_and_the_pace_never_stops() {
        let mut pace = Adaptive::default();
        window(&mut pace, 1, 20, 10, 0, 0);
        assert_eq!(window(&mut pace, 2, 100, 12, 3, 1), None);
        for second in 3..30 {
            window(&mut pace, second, 0, 0, 50, 0);
        }
        assert_eq!(pace.factor(), FACTOR_MIN);
    }
}
