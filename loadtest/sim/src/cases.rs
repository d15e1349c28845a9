//! The cases that must hold, each with its bars. A case is a world by seed and a way to judge what came of it.
//!
//! A case says what it measures, never what would be nice. Its bars are of two kinds.
//!
//! The design's, from its table of what must be shown: `scale-out-1`, `-10` and `-million`, convergence of `one-to-two`,
//! `two-to-three` and `two-with-drift` without a client moved twice, `five-on-two` and `two-on-five`, two moves at most in
//! `rolling-restart-1` and `-surge` and a level end there and in `rolling-restart-3`, `scale-in-1` and `-10`,
//! `half-unready`, 20 closes in `never-return-1`, the rate and the peak of `storm-*`.
//!
//! Ours, bounds against regression, set where the design says nothing or no replica can know enough:
//!
//! - `false_stops` everywhere, and how soon the small cases, drift and flapping have to be level.
//! - `scale-out-churn`: 0.1 % of the moves may end at their donor. A client that one replica moved is new to the others,
//!   and where clients come and go all the time the donor may just be the emptiest there.
//! - `counts-*`: level, and no more moves than it takes. The guard's stops are told: a replica that believes to be alone
//!   expects all of its clients back, and may stop on the safe side.
//! - `rolling-restart-10`: two moves of a client in the mean. A replica does not know how often others have moved it.
//! - `never-return-10`: 20 closes of each replica, in the mean. Each has to find out by itself, which takes 16 to 20.
//! - `never-return-10-churn`: 75 of each replica, since clients that come meanwhile look like some that return; and four of
//!   five guards stop, since those same clients fill the new endpoint, and a replica may have nothing left to move before.
//!   `never-return-1-churn` keeps the 20.
//! - `fifth-never-returns`: the guard stops at all; with 3 replicas it is told only.
//! - `tier-*`: the band that the limits name, a tenth beside the closes that chance makes necessary, and the pace.
//! - `zones-*`: no move for the sake of a zone, and none that undoes a preference. A scale-out fills new endpoints as far as
//!   the smaller of their two shares says (decision 025), so it ends less even than without zones; arrivals fill the rest.
//! - What is said of other cases: `rolling-restart-slow`, `scale-in-mute`, `flapping-*`, `slow-endpoint`, the end of `storm-*`.
//!
//! Not here: running them over many seeds (`runner`) and printing (`table`).

mod faults;
mod growth;
mod restarts;
mod rivals;
mod tier;
mod zones;

use std::time::Duration;

use scenario::reconnect::Kind;

use crate::engine::Outcome;
use crate::pool::Pool;
use crate::spec::{Op, Spec, Step, library};

pub use rivals::{MOVERS, rival_spec};

/// What must hold in one kind of world.
pub struct Case {
    /// Short, of letters, digits and `-`.
    pub name: &'static str,
    /// In a sentence.
    pub what: &'static str,
    /// The world; `divisor` makes it so many times smaller, for quick tests.
    pub spec: fn(divisor: u32) -> Spec,
    /// What came of it.
    pub judge: fn(&Spec, &Outcome) -> Vec<Bar>,
}

/// One bar and what was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    /// What is measured, with its unit.
    pub what: &'static str,
    /// What must hold of it.
    pub limit: Limit,
    /// `None`: it never happened.
    pub value: Option<f64>,
}

/// What must hold of a value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// At most this; what never happened misses it.
    AtMost(f64),
    /// At least this; what never happened misses it.
    AtLeast(f64),
    /// Told, not judged.
    Told,
}

impl Bar {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        match (self.limit, self.value) {
            (Limit::Told, _) => true,
            (Limit::AtMost(most), Some(value)) => value <= most,
            (Limit::AtLeast(least), Some(value)) => value >= least,
            (Limit::AtMost(_) | Limit::AtLeast(_), None) => false,
        }
    }

    /// How bad it is, for comparison with the same bar of another seed: larger is worse.
    pub fn badness(&self) -> f64 {
        let value = self.value.unwrap_or(f64::INFINITY);
        match self.limit {
            Limit::AtMost(_) | Limit::Told => value,
            Limit::AtLeast(_) => -self.value.unwrap_or(f64::NEG_INFINITY),
        }
    }
}

/// All cases, in the order of the table.
pub fn all() -> Vec<Case> {
    [growth::cases(), restarts::cases(), faults::cases(), tier::cases(), zones::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Sessions stand for this long before the first step, longer than `min_age`.
pub const BEFORE: Duration = Duration::from_secs(90);

pub(crate) fn at_most(what: &'static str, most: f64, value: impl Into<Option<f64>>) -> Bar {
    Bar { what, limit: Limit::AtMost(most), value: value.into() }
}

pub(crate) fn at_least(what: &'static str, least: f64, value: impl Into<Option<f64>>) -> Bar {
    Bar { what, limit: Limit::AtLeast(least), value: value.into() }
}

pub(crate) fn told(what: &'static str, value: impl Into<Option<f64>>) -> Bar {
    Bar { what, limit: Limit::Told, value: value.into() }
}

/// Seconds from the last step, churn apart, until level for good, with nearly all of the clients there.
pub(crate) fn level_after(spec: &Spec, out: &Outcome) -> Option<f64> {
    let last = spec.steps.iter().rev().find(|step| !matches!(step.op, Op::Churn { .. }));
    let from = last.map_or(Duration::ZERO, |step| step.at);
    // Churn lets the number wander, and a step may have sent some away for good.
    let before = out.samples.iter().rev().find(|sample| sample.at.as_nanos() <= from.as_nanos() as u64);
    let before = before.map_or(f64::INFINITY, |sample| f64::from(sample.total) * 0.97);
    let there = before.min(f64::from(out.connected) * 0.99);
    out.level_after(from, there as u32).map(|(seconds, _)| seconds)
}

/// Whoever is moved comes back, so the return guard has no reason to stop the moves.
pub(crate) fn false_stops(out: &Outcome) -> Bar {
    let stops = out.told(|report| matches!(report, balance::Report::GuardStopped { .. }));
    at_most("the guard stops although all come back, times", 0.0, stops as f64)
}

/// A world whose pool has the gateway's defaults, but for `keys`. These are part of the program, so they are valid.
pub(crate) fn world(clients: u32, endpoints: u16, keys: &str) -> Spec {
    let pool = Pool::parse(keys).unwrap_or_else(|e| panic!("the keys of a case are valid: {e}"));
    Spec::new(clients, endpoints, pool)
}

pub(crate) fn step(at: Duration, op: Op) -> Step {
    Step { at, op }
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Everybody comes back by this rule.
pub(crate) fn all_come_back(kind: Kind) -> Vec<(f64, scenario::reconnect::Reconnect)> {
    vec![(1.0, library(kind))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let cases = all();
        let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn what_never_happened_misses_a_bar_and_is_the_worst() {
        assert!(!at_most("x", 1.0, None).holds() && !at_least("x", 1.0, None).holds());
        assert!(told("x", None).holds());
        assert!(at_most("x", 1.0, None).badness() > at_most("x", 1.0, 7.0).badness());
        assert!(at_least("x", 1.0, 0.5).badness() > at_least("x", 1.0, 2.0).badness());
    }
}
