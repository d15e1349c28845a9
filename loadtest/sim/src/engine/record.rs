//! What is seen of a run: samples of the sessions, and counts of what happened to them.
//!
//! A session counts as open from its 101 until its client sees the end of the connection. Nothing here changes the run.

use std::time::Duration;

use balance::Report;
use model::Time;
use scenario::series::{Change, LEVEL, Sample as NamedSample, Series, State};

/// The sessions at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// When.
    pub at: Time,
    /// Open sessions by endpoint.
    pub open: Vec<u32>,
    /// Max/mean over the ready endpoints.
    pub imbalance: f64,
    /// Min/mean over the ready endpoints.
    pub emptiest: f64,
    /// As even as it has to be, and nobody is on an endpoint that is not ready.
    pub level: bool,
    /// Open sessions in all.
    pub total: u32,
    /// Moves so far.
    pub moves: u64,
    /// Max/mean of the sessions over the gateway replicas.
    pub tier_imbalance: f64,
}

/// Everything that was seen.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// In order of time.
    pub samples: Vec<Sample>,
    /// Endpoints as they came, drained and went.
    pub changes: Vec<(Time, u16, State)>,
    /// Their names.
    pub names: Vec<String>,
    /// Clients whose session was closed to move them, once for each time.
    pub moved: Vec<u32>,
    /// Moves within each second.
    pub moved_each_second: Vec<u32>,
    /// Moves that were asked for because a replica had more than the others.
    pub for_tier: u64,
    /// Moved clients that came back to the endpoint they came from.
    pub to_donor: u64,
    /// Shortest time between two moves of one client.
    pub moved_again_after: Option<Duration>,
    /// Sessions that a draining endpoint still had when it stopped.
    pub cut_at_deadline: u64,
    /// Sessions that broke because their endpoint died.
    pub broken: u64,
    /// Clients that were let in, within each second; not those that were moved.
    pub admitted_each_second: Vec<u32>,
    /// Requests that were told to come back later.
    pub deferred: u64,
    /// Requests that found no endpoint.
    pub no_endpoint: u64,
    /// Attempts that ended in 502 or 504.
    pub failed: u64,
    /// When the last endpoint of a rolling restart was ready again.
    pub rolled_at: Option<Time>,
    /// Largest max/mean since the first step.
    pub peak: f64,
    /// What the planners had to tell, with the replica's number.
    pub reports: Vec<(Time, u16, Report)>,
    /// When sessions began, those of the very first moment apart.
    pub opened: Vec<Time>,
    /// Milliseconds from the end of a moved client's connection to its next session.
    pub back_after_ms: Vec<f64>,
    /// Messages that came after our Close to the other side, and the ones that an end cut short.
    pub undeliverable: u64,
    /// Events that were scheduled.
    pub events: u64,
    /// Clients with a session at the end.
    pub connected: u32,
    /// Share of the sessions at the end whose endpoint is in the zone of their replica. Without zones: `None`.
    pub in_own_zone: Option<f64>,
    /// Clients that will come back.
    pub away: u32,
}

impl Outcome {
    /// Closes that moved somebody.
    pub fn moves(&self) -> u64 {
        self.moved.len() as u64
    }

    /// Clients that were moved more than once, and the most moves of any one.
    pub fn repeats(&self) -> (u64, u32) {
        let mut sorted = self.moved.clone();
        sorted.sort_unstable();
        let (mut twice, mut most) = (0, 0);
        for moves in sorted.chunk_by(|a, b| a == b) {
            twice += u64::from(moves.len() > 1);
            most = most.max(moves.len() as u32);
        }
        (twice, most)
    }

    /// Seconds after `from` from which on everything is level and stays so to the end, with at least `sessions_min`
    /// open, and the moves until then. `None`: it is not level at the end.
    pub fn level_after(&self, from: Duration, sessions_min: u32) -> Option<(f64, u64)> {
        self.for_good(from, |sample| sample.level && sample.total >= sessions_min)
    }

    /// The same until every ready endpoint is within 10 % of the mean, the emptiest as well.
    pub fn even_after(&self, from: Duration, sessions_min: u32) -> Option<(f64, u64)> {
        let is_even = |sample: &Sample| sample.level && sample.emptiest >= 2.0 - LEVEL;
        self.for_good(from, |sample| is_even(sample) && sample.total >= sessions_min)
    }

    fn for_good(&self, from: Duration, holds: impl Fn(&Sample) -> bool) -> Option<(f64, u64)> {
        let from = Time::ZERO + from;
        let since = |sample: &Sample| (sample.at.since(from).as_secs_f64(), sample.moves);
        let mut level = None;
        for sample in self.samples.iter().filter(|sample| sample.at > from) {
            level = if holds(sample) { level.or(Some(since(sample))) } else { None };
        }
        level
    }

    /// Seconds after `from` from which on no gateway replica has more than the mean times `ratio`. `None`: one has at the
    /// end.
    pub fn tier_level_after(&self, from: Duration, ratio: f64) -> Option<f64> {
        self.for_good(from, |sample| sample.tier_imbalance <= ratio).map(|(seconds, _)| seconds)
    }

    /// Max/mean at the end.
    pub fn imbalance_end(&self) -> f64 {
        self.samples.last().map_or(1.0, |sample| sample.imbalance)
    }

    /// Min/mean at the end.
    pub fn emptiest_end(&self) -> f64 {
        self.samples.last().map_or(1.0, |sample| sample.emptiest)
    }

    /// Moves before `at`.
    pub fn moves_before(&self, at: Duration) -> u64 {
        let seconds = at.as_secs() as usize;
        self.moved_each_second.iter().take(seconds).map(|n| u64::from(*n)).sum()
    }

    /// Sessions of each endpoint at the end, largest first, without empty ones.
    pub fn sessions_end(&self) -> Vec<u32> {
        let mut open = self.samples.last().map_or_else(Vec::new, |sample| sample.open.clone());
        open.retain(|n| *n > 0);
        open.sort_unstable_by(|a, b| b.cmp(a));
        open
    }

    /// Reports of which `is` is true.
    pub fn told(&self, is: impl Fn(&Report) -> bool) -> u64 {
        self.reports.iter().filter(|(.., report)| is(report)).count() as u64
    }

    /// What the planners told, a line each.
    pub fn told_lines(&self) -> String {
        let line = |(at, replica, report): &(Time, u16, Report)| {
            format!("  {:9.3} s  replica {replica}: {report:?}\n", seconds(*at))
        };
        self.reports.iter().map(line).collect()
    }

    /// In the form of the reports.
    pub fn series(&self) -> Series {
        let name = |number: usize| self.names.get(number).cloned().unwrap_or_default();
        let sample = |sample: &Sample| NamedSample {
            t: seconds(sample.at),
            open: sample.open.iter().enumerate().map(|(number, open)| (name(number), *open)).collect(),
        };
        let change = |(at, number, state): &(Time, u16, State)| Change {
            t: seconds(*at),
            endpoint: name(usize::from(*number)),
            state: *state,
        };
        Series {
            samples: self.samples.iter().map(sample).collect(),
            changes: self.changes.iter().map(change).collect(),
        }
    }
}

/// Counts the sessions at `at`: `open` by endpoint, and which of them are ready.
pub fn sample(at: Time, open: &[u32], ready: impl Fn(usize) -> bool, moves: u64) -> Sample {
    let (mut max, mut min, mut sum, mut count, mut stray) = (0u32, u32::MAX, 0u32, 0u32, false);
    for (number, n) in open.iter().enumerate() {
        if ready(number) {
            (max, min, sum, count) = (max.max(*n), min.min(*n), sum + n, count + 1);
        } else {
            stray |= *n > 0;
        }
    }
    let mean = f64::from(sum) / f64::from(count.max(1));
    let beside_mean = |n: u32| if mean > 0.0 { f64::from(n) / mean } else { 1.0 };
    let (imbalance, emptiest) = (beside_mean(max), beside_mean(min));
    let level = !stray && (imbalance <= LEVEL || f64::from(max) <= mean.ceil());
    Sample {
        at,
        open: open.to_vec(),
        imbalance,
        emptiest,
        level,
        total: open.iter().sum(),
        moves,
        tier_imbalance: 1.0,
    }
}

/// One more in the second of `at`.
pub fn count_in_second(seconds: &mut Vec<u32>, at: Time) {
    let second = (at.as_nanos() / 1_000_000_000) as usize;
    if seconds.len() <= second {
        seconds.resize(second + 1, 0);
    }
    seconds[second] += 1;
}

fn seconds(at: Time) -> f64 {
    at.as_nanos() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, open: &[u32]) -> Sample {
        sample(Time::from_millis(seconds * 1000), open, |_| true, seconds)
    }

    #[test]
    fn level_counts_from_the_last_time_it_became_level() {
        let samples = vec![at(1, &[5, 5]), at(2, &[9, 1]), at(3, &[5, 5]), at(4, &[5, 5])];
        let mut outcome = Outcome { samples, ..Outcome::default() };
        assert_eq!(outcome.level_after(Duration::from_secs(1), 10), Some((2.0, 3)));
        assert_eq!(outcome.level_after(Duration::from_secs(1), 11), None);
        outcome.samples.push(at(5, &[9, 1]));
        assert_eq!(outcome.level_after(Duration::from_secs(1), 10), None);
    }

    #[test]
    fn a_session_on_an_endpoint_that_is_not_ready_is_not_level() {
        assert!(!sample(Time::ZERO, &[5, 1], |number| number == 0, 0).level);
        assert!(sample(Time::ZERO, &[5, 0], |number| number == 0, 0).level);
        assert!(sample(Time::ZERO, &[1, 1, 0, 0], |_| true, 0).level, "no more even in whole sessions");
    }

    #[test]
    fn repeats_are_counted_by_client() {
        let outcome = Outcome { moved: vec![3, 1, 3, 2, 3], ..Outcome::default() };
        assert_eq!(outcome.repeats(), (1, 3));
    }
}
