//! How it stands with one conversation with the API: how long to wait after a failure, when what is known is stale,
//! and when to tell the log. No IO.

use std::sync::Arc;
use std::time::Duration;

use model::Time;

use crate::times::Times;
use crate::trouble::Trouble;

/// Doublings after which a wait no longer grows.
const DOUBLINGS_MAX: u32 = 16;

/// Longest wait that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Events go in by `handle_*`, each with the present moment; what to do comes back.
#[derive(Debug)]
pub(crate) struct Contact {
    times: Times,
    /// When the attempt began that was the first to fail.
    failing_since: Option<Time>,
    /// Failures in a row.
    failures: u32,
    /// Watches in a row that were cut right after they began.
    cuts: u32,
    told: Option<Time>,
    trouble: Option<Arc<Trouble>>,
}

/// What to do after a failure.
#[derive(PartialEq, Debug)]
pub(crate) struct AfterFailure {
    /// How long to wait.
    pub(crate) wait: Duration,
    /// The log is to be told.
    pub(crate) tell: bool,
}

impl Contact {
    pub(crate) fn new(times: Times) -> Self {
        Self { times, failing_since: None, failures: 0, cuts: 0, told: None, trouble: None }
    }

    /// Why what is known may be out of date; nothing as long as it can be relied on.
    pub(crate) fn trouble(&self) -> Option<Arc<Trouble>> {
        self.trouble.clone()
    }

    /// The API answers. Says for how long it did not, when the log was told of that.
    pub(crate) fn handle_success(&mut self, now: Time) -> Option<Duration> {
        let away = self.failing_since.take().map(|since| now - since);
        (self.failures, self.trouble) = (0, None);
        self.told.take().and(away)
    }

    /// A request that was sent at `began` has failed; `roll` is a random number from 0 to 1.
    pub(crate) fn handle_failure(
        &mut self,
        now: Time,
        began: Time,
        trouble: Trouble,
        roll: f64,
    ) -> AfterFailure {
        let since = *self.failing_since.get_or_insert(began);
        let wait = jittered(doubled(self.times.retry_min, self.failures, self.times.retry_max), roll);
        let asked = trouble.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
        self.failures = self.failures.saturating_add(1);
        let tell = if trouble.is_lasting() || now - since >= self.times.stale_after {
            self.trouble = Some(Arc::new(trouble));
            self.told.is_none_or(|told| now - told >= self.times.tell_every)
        } else {
            false
        };
        if tell {
            self.told = Some(now);
        }
        AfterFailure { wait: wait.max(asked), tell }
    }

    /// A watch ended that lived from `began` on. Says how long to wait before the next.
    pub(crate) fn handle_end(&mut self, now: Time, began: Time, roll: f64) -> Duration {
        if now - began >= self.times.good_watch {
            self.cuts = 0;
            return Duration::ZERO;
        }
        let wait = doubled(self.times.retry_min / 4, self.cuts, self.times.cut_max);
        self.cuts = self.cuts.saturating_add(1);
        jittered(wait, roll)
    }
}

fn doubled(least: Duration, times: u32, most: Duration) -> Duration {
    least.saturating_mul(1 << times.min(DOUBLINGS_MAX)).min(most)
}

/// From half of it to the whole.
fn jittered(wait: Duration, roll: f64) -> Duration {
    wait.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trouble::Call;

    fn call() -> Call {
        let verbs = &["list", "watch"];
        Call { verb: "watch", group: "", resource: "pods", namespace: "a".into(), verbs }
    }

    fn away() -> Trouble {
        Trouble::Unreachable { call: call(), cause: "refused".into() }
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn a_short_absence_is_neither_told_nor_stale() {
        let mut contact = Contact::new(Times::default());
        let after = contact.handle_failure(at(1), at(1), away(), 1.0);
        assert_eq!(after, AfterFailure { wait: Duration::from_millis(200), tell: false });
        assert_eq!(contact.trouble(), None);
        assert_eq!(contact.handle_success(at(2)), None);
    }

    #[test]
    fn a_long_absence_is_told_once_a_minute_and_once_when_it_ends() {
        let mut contact = Contact::new(Times::default());
        let mut told = Vec::new();
        for second in 0..3600 {
            if contact.handle_failure(at(second), at(second), away(), 1.0).tell {
                told.push(second);
            }
        }
        assert_eq!(told.len(), 60, "{told:?}");
        assert_eq!(told[0], 10);
        assert!(contact.trouble().is_some());
        assert_eq!(contact.handle_success(at(3600)), Some(Duration::from_secs(3600)));
        assert_eq!(contact.trouble(), None);
    }

    #[test]
    fn a_request_that_hung_counts_from_when_it_was_sent() {
        let mut contact = Contact::new(Times::default());
        assert!(contact.handle_failure(at(40), at(10), away(), 1.0).tell);
    }

    #[test]
    fn what_will_not_go_away_by_itself_is_told_at_once() {
        let mut contact = Contact::new(Times::default());
        let forbidden = Trouble::Forbidden { call: call(), user: None };
        assert!(contact.handle_failure(at(1), at(1), forbidden, 1.0).tell);
        assert!(contact.trouble().is_some());
    }

    #[test]
    fn waits_double_up_to_their_bound_and_differ() {
        let mut contact = Contact::new(Times::default());
        let mut wait = |roll| contact.handle_failure(at(1), at(1), away(), roll).wait;
        assert_eq!([wait(1.0), wait(1.0), wait(1.0)].map(|wait| wait.as_millis()), [200, 400, 800]);
        let _ = (0..100).map(|_| wait(1.0)).fold(Duration::ZERO, Duration::max);
        assert_eq!([wait(1.0), wait(0.0)].map(|wait| wait.as_secs()), [10, 5]);
    }

    #[test]
    fn a_server_can_ask_for_a_longer_wait_but_not_for_ever() {
        let mut contact = Contact::new(Times::default());
        let busy = |seconds| Trouble::Refused {
            call: call(),
            code: 429,
            message: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(contact.handle_failure(at(1), at(1), busy(5), 1.0).wait, Duration::from_secs(5));
        assert_eq!(contact.handle_failure(at(1), at(1), busy(9000), 1.0).wait, RETRY_AFTER_MAX);
    }

    #[test]
    fn a_watch_that_is_always_cut_at_once_is_set_up_no_faster_than_once_a_second() {
        let mut contact = Contact::new(Times::default());
        let waits: Vec<_> = (0..10).map(|_| contact.handle_end(at(1), at(1), 1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000]);
        assert_eq!(contact.handle_end(at(70), at(10), 1.0), Duration::ZERO, "a good one is followed at once");
    }
}
