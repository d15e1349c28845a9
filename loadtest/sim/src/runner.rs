//! Runs cases over many seeds on all CPUs, and measures what only a clock can: how long a planner thinks.
//!
//! The only module beside `main` that knows threads or time; a run itself is one thread without a clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use balance::Movable;
use model::Time;

use crate::cases::{Bar, Case};
use crate::engine::Sim;
use crate::spec::Spec;

/// One case over its seeds.
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// In a sentence.
    pub what: &'static str,
    /// The bars by seed.
    pub seeds: Vec<(u64, Vec<Bar>)>,
    /// Events that were played.
    pub events: u64,
    /// Wall time of all seeds, one after the other.
    pub took: Duration,
}

/// Judges `case` for each of `seeds`, `threads` at a time.
pub fn judge(case: &Case, seeds: &[u64], threads: usize) -> Verdict {
    let spec = (case.spec)(1);
    let began = Instant::now();
    let results = each(seeds, threads, |seed| {
        let outcome = Sim::new(spec.clone(), seed).run();
        ((case.judge)(&spec, &outcome), outcome.events)
    });
    let events = results.values().map(|(_, events)| events).sum();
    let seeds = results.into_iter().map(|(seed, (bars, _))| (seed, bars)).collect();
    Verdict { name: case.name, what: case.what, seeds, events, took: began.elapsed() }
}

/// Calls `run` for each of `seeds`, `threads` at a time; the results do not depend on how many.
pub fn each<R: Send>(seeds: &[u64], threads: usize, run: impl Fn(u64) -> R + Sync) -> BTreeMap<u64, R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, seeds.len().max(1)) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run(*seed);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(*seed, result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What the planners told in one run, a line each.
pub fn reports(case: &Case, seed: u64) -> String {
    Sim::new((case.spec)(1), seed).run().told_lines()
}

/// How long one planner of `spec` thinks at `at`: the slowest of some rounds of `poll_action`, and of `explain`.
pub fn think_time(spec: &Spec, seed: u64, at: Duration) -> Option<[Duration; 2]> {
    const ROUNDS: u32 = 50;
    let mut sim = Sim::new(spec.clone(), seed);
    while sim.step(Time::ZERO + at) {}
    let planner = sim.planner(0)?;
    let mut slowest = [Duration::ZERO; 2];
    for round in 0..ROUNDS {
        // Another moment each time, so that there is something to plan.
        let now = Time::ZERO + at + Duration::from_millis(20) * round;
        let mut copy = planner.clone();
        let began = Instant::now();
        while copy.poll_action(now).is_some() {}
        slowest[0] = slowest[0].max(began.elapsed());
        let began = Instant::now();
        let plan = planner.explain(now, &BTreeMap::<_, Movable>::new());
        slowest[1] = slowest[1].max(began.elapsed());
        assert!(!plan.endpoints.is_empty(), "a planner that was told of endpoints knows them");
    }
    Some(slowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_run_once_whatever_the_threads() {
        let seeds: Vec<u64> = (1..=9).collect();
        let one = each(&seeds, 1, |seed| seed * seed);
        assert_eq!(one, each(&seeds, 3, |seed| seed * seed));
        assert_eq!(one.len(), 9);
        assert!(each(&[], 2, |seed| seed).is_empty());
    }
}
