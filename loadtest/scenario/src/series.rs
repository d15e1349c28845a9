//! Sessions per endpoint over time, and what can be read from them: imbalance, level, the least number of moves.
//!
//! Arithmetic on a recording; no clock. The mean is over the endpoints that are ready at that moment.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Level: no ready endpoint above the mean times this.
pub const LEVEL: f64 = 1.10;

/// Filled: at least this share of the mean.
const FILLED: f64 = 0.9;

/// Sessions by endpoint at one moment, as the clients see them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the first connection.
    pub t: f64,
    /// Open sessions; an endpoint without any may be absent.
    pub open: BTreeMap<String, u32>,
}

/// What was done to an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the list, taking sessions.
    Ready,
    /// In the list, to be emptied.
    Draining,
    /// In no list, or listed as unready; it lives and has its sessions.
    Unready,
    /// Stopped or killed.
    Gone,
}

/// A change of one endpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Seconds since the first connection.
    pub t: f64,
    /// Which endpoint.
    pub endpoint: String,
    /// What it is from now on.
    pub state: State,
}

/// A run's samples and changes, both in order of time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// Several a second.
    pub samples: Vec<Sample>,
    /// Every start, drain and stop.
    pub changes: Vec<Change>,
}

impl Sample {
    /// All open sessions.
    pub fn total(&self) -> u32 {
        self.open.values().sum()
    }

    /// Max/mean over the `ready` endpoints; 1 when there are no sessions or no endpoints.
    pub fn imbalance(&self, ready: &BTreeSet<&str>) -> f64 {
        let (max, mean) = self.max_and_mean(ready);
        if mean > 0.0 { f64::from(max) / mean } else { 1.0 }
    }

    /// Nobody is on an endpoint that is not ready, and the ready ones are within [`LEVEL`], or as even as whole
    /// sessions can be (2 clients on 5 endpoints: none has two).
    pub fn level(&self, ready: &BTreeSet<&str>) -> bool {
        let stray = self.open.iter().any(|(name, open)| *open > 0 && !ready.contains(name.as_str()));
        let (max, mean) = self.max_and_mean(ready);
        !stray && (f64::from(max) <= mean * LEVEL || f64::from(max) <= mean.ceil())
    }

    fn max_and_mean(&self, ready: &BTreeSet<&str>) -> (u32, f64) {
        let counts = || ready.iter().map(|name| self.open.get(*name).copied().unwrap_or(0));
        let mean = f64::from(counts().sum::<u32>()) / ready.len().max(1) as f64;
        (counts().max().unwrap_or(0), mean)
    }
}

impl Series {
    /// Endpoints that are ready at `t`.
    pub fn ready_at(&self, t: f64) -> BTreeSet<&str> {
        let mut ready = BTreeSet::new();
        for change in self.changes.iter().take_while(|change| change.t <= t) {
            match change.state {
                State::Ready => ready.insert(change.endpoint.as_str()),
                State::Draining | State::Unready | State::Gone => ready.remove(change.endpoint.as_str()),
            };
        }
        ready
    }

    /// The last sample before `t`.
    pub fn before(&self, t: f64) -> Option<&Sample> {
        let at = self.samples.partition_point(|sample| sample.t < t);
        self.samples[..at].last()
    }

    /// Max/mean in the last sample before `t`, over the endpoints that were ready then.
    pub fn imbalance_before(&self, t: f64) -> f64 {
        self.before(t).map_or(1.0, |sample| sample.imbalance(&self.ready_at(sample.t)))
    }

    /// Largest max/mean from `from` to `until`.
    pub fn imbalance_peak(&self, from: f64, until: f64) -> f64 {
        self.between(from, until).map(|s| s.imbalance(&self.ready_at(s.t))).fold(1.0, f64::max)
    }

    /// The same, but that an endpoint which became ready later than `from` is no yardstick until it is filled: the mean
    /// is over those that were ready already or have held 90 % of the mean since they became ready. Were it counted
    /// at once, every endpoint would seem overfull whenever an empty one appears.
    pub fn imbalance_peak_filled(&self, from: f64, until: f64) -> f64 {
        let mut filled = self.ready_before(from);
        let mut peak = 1.0;
        for sample in self.between(from, until) {
            let ready = self.ready_at(sample.t);
            filled.retain(|name| ready.contains(name));
            let (_, mean) = sample.max_and_mean(&filled);
            let open = |name: &&str| f64::from(sample.open.get(*name).copied().unwrap_or(0));
            if mean > 0.0 {
                peak = ready.iter().map(|name| open(name) / mean).fold(peak, f64::max);
            }
            filled.extend(ready.iter().filter(|name| open(name) >= FILLED * mean));
        }
        peak
    }

    /// Seconds after `from` from which on everything stays level until `until`, with at least `sessions_min` open;
    /// `None`: it is not level at the end.
    pub fn level_after(&self, from: f64, until: f64, sessions_min: u32) -> Option<f64> {
        let mut since = None;
        for sample in self.between(from, until) {
            let ready = self.ready_at(sample.t);
            if sample.total() >= sessions_min && sample.level(&ready) {
                since = since.or(Some(sample.t - from));
            } else {
                since = None;
            }
        }
        since
    }

    /// The fewest sessions that must move for what changed from `from` to `until`: all of those on endpoints that
    /// drained, and, with [`Fill::Count`], N - N x old / new, in whole sessions, for those
    /// that were added.
    pub fn floor(&self, from: f64, until: f64, fill: Fill) -> f64 {
        let changed = |state: State| {
            self.changes.iter().filter(move |c| c.state == state && (from..until).contains(&c.t))
        };
        let forced: u32 = changed(State::Draining)
            .filter_map(|change| self.before(change.t)?.open.get(&change.endpoint))
            .sum();
        let filled: f64 = match (fill, changed(State::Ready).next(), changed(State::Ready).count()) {
            (Fill::Count, Some(first), added) => {
                let old = self.ready_before(first.t).len() as f64;
                let total = self.before(first.t).map_or(0, Sample::total);
                // Rounded down: a part of a session cannot move.
                (f64::from(total) * (1.0 - old / (old + added as f64)) + 1e-9).floor()
            }
            (Fill::Count, None, _) | (Fill::ByNextStep, ..) => 0.0,
        };
        f64::from(forced) + filled
    }

    fn ready_before(&self, t: f64) -> BTreeSet<&str> {
        // Changes of the same moment are one step: just before it is what counts.
        self.ready_at(t - 1e-6)
    }

    fn between(&self, from: f64, until: f64) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.t > from && sample.t <= until)
    }
}

/// Whether filling an added endpoint takes moves of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Yes.
    Count,
    /// No: the next step forces sessions to move, and they land there.
    ByNextStep,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t: f64, open: &[(&str, u32)]) -> Sample {
        Sample { t, open: open.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect() }
    }

    fn change(t: f64, endpoint: &str, state: State) -> Change {
        Change { t, endpoint: endpoint.into(), state }
    }

    fn scale_out() -> Series {
        let ready =
            |t, names: &[&str]| names.iter().map(|n| change(t, n, State::Ready)).collect::<Vec<Change>>();
        Series {
            samples: vec![
                sample(7.0, &[("a", 1000), ("b", 1000), ("c", 1000)]),
                sample(9.0, &[("a", 900), ("b", 900), ("c", 900), ("d", 150), ("e", 150)]),
                sample(12.0, &[("a", 640), ("b", 640), ("c", 640), ("d", 540), ("e", 540)]),
                sample(13.0, &[("a", 620), ("b", 620), ("c", 620), ("d", 570), ("e", 570)]),
            ],
            changes: [ready(0.0, &["a", "b", "c"]), ready(8.0, &["d", "e"])].concat(),
        }
    }

    #[test]
    fn the_floor_of_a_scale_out_is_n_minus_n_old_over_new() {
        let series = scale_out();
        assert!((series.floor(8.0, 20.0, Fill::Count) - 1200.0).abs() < 1e-9);
        assert_eq!(series.floor(8.0, 20.0, Fill::ByNextStep), 0.0);
    }

    #[test]
    fn the_floor_of_two_clients_on_five_endpoints_is_one_move() {
        let changes = ["a", "b", "c", "d", "e"].iter().enumerate();
        let changes = changes.map(|(n, name)| change(if n == 0 { 0.0 } else { 4.0 }, name, State::Ready));
        let series = Series { samples: vec![sample(3.0, &[("a", 2)])], changes: changes.collect() };
        assert_eq!(series.floor(4.0, 9.0, Fill::Count), 1.0);
    }

    #[test]
    fn the_floor_of_a_drain_is_what_stood_there() {
        let mut series = scale_out();
        series.changes.push(change(12.5, "d", State::Draining));
        series.changes.push(change(12.5, "e", State::Draining));
        assert_eq!(series.floor(12.5, 20.0, Fill::Count), 1080.0);
    }

    #[test]
    fn level_counts_from_the_step_and_must_last() {
        let mut series = scale_out();
        assert!((series.imbalance_before(8.0) - 1.0).abs() < 1e-9);
        assert!((series.imbalance_peak(8.0, 20.0) - 1.5).abs() < 1e-9);
        assert_eq!(series.level_after(8.0, 20.0, 2970), Some(4.0));
        series.samples.push(sample(14.0, &[("a", 3000)]));
        assert_eq!(series.level_after(8.0, 20.0, 2970), None);
    }

    #[test]
    fn an_endpoint_that_is_being_filled_makes_no_other_overfull() {
        let mut series = scale_out();
        assert!((series.imbalance_peak_filled(8.0, 20.0) - 1.0).abs() < 1e-9);
        series.samples.push(sample(14.0, &[("a", 500), ("b", 500), ("c", 500), ("d", 750), ("e", 750)]));
        let peak = series.imbalance_peak_filled(8.0, 20.0);
        assert!((peak - 1.25).abs() < 1e-9, "filled in the sample before, so a mean of 600: {peak}");
    }

    #[test]
    fn an_endpoint_that_left_is_no_yardstick_when_it_is_back() {
        let mut series = scale_out();
        series.changes.push(change(12.5, "c", State::Unready));
        series.changes.push(change(13.5, "c", State::Ready));
        series.samples.push(sample(14.0, &[("a", 1000), ("b", 1000)]));
        assert!((series.imbalance_peak_filled(12.0, 13.5) - 1.04).abs() < 0.01);
        assert_eq!(series.ready_at(13.0).len(), 4);
        assert_eq!(series.ready_at(13.5).len(), 5);
    }

    #[test]
    fn half_the_fleet_being_away_is_not_level() {
        let mut series = scale_out();
        series.samples.push(sample(14.0, &[("a", 10), ("b", 10), ("c", 10), ("d", 10), ("e", 10)]));
        assert_eq!(series.level_after(8.0, 20.0, 2970), None);
    }

    #[test]
    fn sessions_on_a_draining_endpoint_are_not_level() {
        let mut series = scale_out();
        series.changes.push(change(12.5, "e", State::Draining));
        assert_eq!(series.level_after(12.6, 20.0, 0), None);
    }

    #[test]
    fn whole_sessions_can_be_no_more_even_than_that() {
        let five: BTreeSet<&str> = ["a", "b", "c", "d", "e"].into();
        assert!(sample(0.0, &[("a", 1), ("b", 1)]).level(&five));
        assert!(!sample(0.0, &[("a", 2)]).level(&five));
        let two: BTreeSet<&str> = ["a", "b"].into();
        assert!(sample(0.0, &[("a", 3), ("b", 2)]).level(&two));
        assert!(!sample(0.0, &[("a", 4), ("b", 1)]).level(&two));
    }
}
