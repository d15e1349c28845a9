//! How many new sessions are let in after a storm, and when the others should come back.
//!
//! Those who are refused are told moments that follow each other at the admitted rate, as in a queue, so that they do
//! not come back together. Nobody is held to it: what counts is the bucket when a client comes.

use std::time::Duration;

use model::Time;

use crate::Admission;
use crate::pace::Bucket;
use crate::random::Random;

/// Nobody is told to come back sooner: less would not spread anything.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// It is crowded when so many are refused in a second, as a share of those that are let in,
const CROWDED_SHARE: f64 = 0.5;
/// and at least so many,
const CROWDED_MIN: f64 = 5.0;
/// and for so long after that.
const CROWDED_FOR: Duration = Duration::from_secs(5);

/// The gate of one pool at one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    bucket: Bucket,
    /// The next free place of the queue.
    next_turn: Time,
    /// The present second of refusals, how many there were in it, and when there were last many.
    second_began: Time,
    refused: u32,
    crowded_at: Option<Time>,
}

impl Gate {
    /// True while many more come than are let in.
    pub(crate) fn is_crowded(&self, now: Time) -> bool {
        self.crowded_at.is_some_and(|at| now.since(at) < CROWDED_FOR)
    }

    fn note_refusal(&mut self, now: Time, rate: f64) {
        if now.since(self.second_began) >= Duration::from_secs(1) {
            (self.second_began, self.refused) = (now, 0);
        }
        self.refused += 1;
        if f64::from(self.refused) >= (CROWDED_SHARE * rate).max(CROWDED_MIN) {
            self.crowded_at = Some(now);
        }
    }

    /// Lets one session in, or says when it should come back.
    pub(crate) fn enter(
        &mut self,
        now: Time,
        admission: &Admission,
        replicas: u32,
        random: &mut Random,
    ) -> Result<(), Duration> {
        let Some(per_second) = admission.sessions_per_second else { return Ok(()) };
        let rate = per_second / f64::from(replicas);
        let burst = match admission.burst {
            // The bucket's burst is a time: that of so many sessions, and of the one that always may come.
            Some(burst) => Duration::from_secs_f64((f64::from(burst) / per_second).clamp(0.0, 3_600.0)),
            None => Duration::from_secs(1),
        };
        if self.bucket.available(now, rate, burst) > 0 {
            self.bucket.take(now, rate, 1);
            return Ok(());
        }
        self.note_refusal(now, rate);
        let turn =
            self.next_turn.max(now + RETRY_AFTER_MIN) + Duration::from_secs_f64((1.0 / rate).min(3_600.0));
        let longest = admission.retry_after_max.max(RETRY_AFTER_MIN);
        if turn.since(now) < longest {
            self.next_turn = turn;
            return Err(turn.since(now));
        }
        // The queue is longer than anybody is told to wait: spread over its second half.
        Err(longest.mul_f64(0.75 + 0.25 * random.spread()).max(RETRY_AFTER_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(per_second: f64, burst: Option<u32>) -> Admission {
        Admission { sessions_per_second: Some(per_second), burst, ..Admission::default() }
    }

    #[test]
    fn without_a_rate_everybody_is_let_in() {
        let (mut gate, mut random) = (Gate::default(), Random::new(1));
        assert!((0..10_000).all(|_| gate.enter(Time::ZERO, &Admission::default(), 1, &mut random).is_ok()));
    }

    #[test]
    fn the_refused_are_told_moments_that_follow_at_the_rate() {
        let (mut gate, mut random) = (Gate::default(), Random::new(1));
        let limits = admission(10.0, Some(5));
        let now = Time::from_millis(1_000);
        let mut told = Vec::new();
        let admitted = (0..100).filter(|_| {
            gate.enter(now, &limits, 1, &mut random).map_err(|wait| told.push(wait.as_millis())).is_ok()
        });
        assert_eq!(admitted.count(), 5);
        assert!(gate.is_crowded(now) && !gate.is_crowded(now + CROWDED_FOR));
        assert_eq!(told[..3], [1_100, 1_200, 1_300]);
        assert!(told.windows(2).all(|pair| pair[1] == pair[0] + 100), "{told:?}");
    }

    #[test]
    fn nobody_is_told_to_wait_longer_than_the_longest() {
        let (mut gate, mut random) = (Gate::default(), Random::new(1));
        let limits = Admission { retry_after_max: Duration::from_secs(10), ..admission(1.0, Some(1)) };
        let mut told: Vec<_> =
            (0..2_000).filter_map(|_| gate.enter(Time::ZERO, &limits, 1, &mut random).err()).collect();
        told.sort_unstable();
        assert!(
            told.iter().all(|wait| *wait >= RETRY_AFTER_MIN && wait.as_secs() <= 10),
            "{:?}",
            told.last()
        );
        // The many beyond the queue are spread: no second gets more than twice its part.
        let late = told.iter().filter(|wait| wait.as_secs() == 7).count();
        assert!((200..800).contains(&late), "{late} of 2000 are told 7 s");
    }

    #[test]
    fn replicas_share_the_rate() {
        let limits = admission(100.0, None);
        let mut random = Random::new(1);
        let mut gate = Gate::default();
        let mut admitted = 0;
        for millis in 0..10_000 {
            admitted += u32::from(gate.enter(Time::from_millis(millis), &limits, 4, &mut random).is_ok());
        }
        assert!((270..=280).contains(&admitted), "{admitted} in 10 s at 25/s with a burst of 25");
    }
}
