//! What many schedules came to.

use std::collections::BTreeMap;
use std::fmt;

use crate::fault::{Fault, PHASES, Welcome};
use crate::gateway::Results;
use crate::world::Outcome;

/// Failures of one kind that are told one by one.
const TOLD: usize = 3;

#[derive(Clone, Default, Debug)]
pub struct Tally {
    pub schedules: u64,
    pub steps: u64,
    pub checks: u64,
    pub messages: u64,
    /// Messages in the one hole that is left of R2.
    pub holes: u64,
    pub given_up: u64,
    pub results: Results,
    pub faults: BTreeMap<(&'static str, Fault), u64>,
    pub welcomes: BTreeMap<Welcome, u64>,
    /// By invariant: seeds and what went wrong.
    pub failures: BTreeMap<String, Vec<(u64, String)>>,
}

impl Tally {
    pub fn add(&mut self, seed: u64, outcome: Outcome) {
        self.schedules += 1;
        self.steps += outcome.steps;
        self.checks += outcome.checks;
        self.messages += outcome.messages;
        self.holes += outcome.holes;
        self.given_up += u64::from(outcome.given_up);
        self.join_results(&outcome.results);
        merge(&mut self.faults, outcome.faults);
        merge(&mut self.welcomes, outcome.welcomes);
        if let Some(failure) = outcome.failure {
            let kind = failure.split(':').next().unwrap_or_default().to_owned();
            self.failures.entry(kind).or_default().push((seed, failure));
        }
    }

    pub fn join(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.checks += other.checks;
        self.messages += other.messages;
        self.holes += other.holes;
        self.given_up += other.given_up;
        self.join_results(&other.results);
        merge(&mut self.faults, other.faults);
        merge(&mut self.welcomes, other.welcomes);
        for (kind, failures) in other.failures {
            self.failures.entry(kind).or_default().extend(failures);
        }
    }

    fn join_results(&mut self, other: &Results) {
        let results = &mut self.results;
        results.migrated += other.migrated;
        results.replaced += other.replaced;
        results.switched += other.switched;
        results.rolled_back += other.rolled_back;
        results.unexpected += other.unexpected;
        merge(&mut results.aborted, other.aborted.clone());
        merge(&mut results.forced, other.forced.clone());
        merge(&mut results.pinned, other.pinned.clone());
    }
}

fn merge<K: Ord>(to: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    from.into_iter().for_each(|(key, count)| *to.entry(key).or_default() += count);
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, steps, checks, messages, results, .. } = self;
        writeln!(
            f,
            "{schedules} schedules, {steps} steps, {messages} messages, {checks} checks of I1 to I7"
        )?;
        let Results { migrated, replaced, switched, rolled_back, aborted, forced, pinned, .. } = results;
        writeln!(
            f,
            "migrated {migrated}, replaced {replaced}, switched {switched}, rolled back {rolled_back}"
        )?;
        writeln!(f, "{} messages met a cancelled consumer that had been idle", self.holes)?;
        writeln!(f, "{} schedules were given up: tag 0 and a rollback", self.given_up)?;
        for (name, counts) in [("aborted", aborted), ("forced", forced), ("pinned", pinned)] {
            let words: Vec<String> = counts.iter().map(|(why, count)| format!("{why} {count}")).collect();
            writeln!(f, "{name}: {}", words.join(", "))?;
        }
        let welcomes: Vec<String> =
            self.welcomes.iter().map(|(what, count)| format!("{what:?} {count}")).collect();
        writeln!(f, "dials: {}", welcomes.join(", "))?;
        for phase in PHASES {
            let of_phase = self.faults.iter().filter(|((at, _), _)| *at == phase);
            let words: Vec<String> =
                of_phase.map(|((_, fault), count)| format!("{fault:?} {count}")).collect();
            if !words.is_empty() {
                writeln!(f, "faults when {phase}: {}", words.join(", "))?;
            }
        }
        for (kind, failures) in &self.failures {
            writeln!(f, "{kind}: {} failures", failures.len())?;
            let mut first = failures.clone();
            first.sort();
            for (seed, what) in first.iter().take(TOLD) {
                let what: String = what.chars().take(600).collect();
                writeln!(f, "  seed {seed}: {what}")?;
            }
        }
        write!(f, "{} seeds failed", self.failures.values().map(Vec::len).sum::<usize>())
    }
}
