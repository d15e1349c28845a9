//! Schedules in which nothing may go wrong, or only what is announced. The seeds are a sample: the example plays more.

use crate::fault::{Fault, PHASES};
use crate::tally::Tally;
use crate::world::{Case, World, play};

fn hold(case: &Case, seeds: std::ops::Range<u64>) -> Tally {
    let mut tally = Tally::default();
    seeds.for_each(|seed| tally.add(seed, play(case, seed)));
    if let Some((seed, what)) = tally.failures.values().flatten().next() {
        let trace = World::new(case, *seed).traced().run().trace;
        panic!("seed {seed} of {case:?}: {what}\n{}\n{tally}", trace.join("\n"));
    }
    tally
}

#[test]
fn a_session_that_never_moves_is_no_different_from_none() {
    let tally = hold(&Case { moves: false, ..Case::calm() }, 0..1000);
    assert_eq!(tally.results.switched, 0);
}

#[test]
fn a_client_does_not_notice_migrations() {
    let tally = hold(&Case::calm(), 0..4000);
    assert!(tally.results.migrated > 1000, "{tally}");
    assert!(tally.results.rolled_back > 25, "{tally}");
}

#[test]
fn a_fault_costs_a_close_at_worst() {
    let tally = hold(&Case::faulty(), 0..3000);
    assert!(tally.results.replaced > 5, "{tally}");
    assert!(tally.results.forced.values().sum::<u64>() > 50, "{tally}");
}

/// Every phase that a schedule comes through often enough is hit by everything that can go wrong there.
#[test]
fn every_fault_comes_in_every_phase() {
    // Faults while resting need an unanswered request at the right time: the million schedules of the example have them.
    let mut all = Tally::default();
    for phase in PHASES.into_iter().filter(|phase| *phase != "resting") {
        let mut tally = Tally::default();
        for fault in Fault::ALL.into_iter().filter(|fault| fault.fits(phase)) {
            let case = Case { fault: Some((phase, fault)), ..Case::faulty() };
            let mut seed = 0;
            while tally.faults.get(&(phase, fault)).copied().unwrap_or(0) < HITS_MIN {
                assert!(seed < SEEDS_MAX, "{fault:?} hardly ever comes when {phase}\n{tally}");
                tally.add(seed, play(&case, seed));
                seed += 1;
            }
        }
        all.join(tally);
    }
    assert!(all.failures.is_empty(), "{all}");
}

/// How often each fault is to hit each phase, and how many schedules may be played until then.
const HITS_MIN: u64 = 1;
const SEEDS_MAX: u64 = 20_000;
