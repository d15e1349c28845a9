//! What all rounds together show: medians, ratios, and whether the bars are kept.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::load::{Measured, Work};

/// Most resident memory of an idle session, B.
pub const IDLE_BYTES_MAX: f64 = 5.0 * 1024.0;
/// Most CPU time a message, as a multiple of HAProxy's.
pub const CPU_RATIO_MAX: f64 = 1.2;

/// What is measured: work, and messages in flight on a connection.
pub type Test = (Work, u16);

/// The gateway's name in the rows.
pub const GATEWAY: &str = "evenkeel";
/// HAProxy's.
pub const HAPROXY: &str = "haproxy";

/// One measurement.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which round, from 0.
    pub round: u32,
    /// Whose.
    pub peer: String,
    /// What was done.
    pub work: Work,
    /// Messages in flight on a connection.
    pub window: u16,
    /// What it has shown.
    pub measured: Measured,
}

/// A promise, what was found, and whether it is kept.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// What is promised.
    pub promise: String,
    /// What was found; `None`: there was nothing to compare with.
    pub found: Option<f64>,
    /// What was found is within the promise.
    pub kept: bool,
}

/// All measurements.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Table {
    /// In the order in which they were made.
    pub rows: Vec<Row>,
}

impl Table {
    /// The median of `figure` over the rounds.
    pub fn median(&self, peer: &str, test: Test, figure: fn(&Measured) -> f64) -> Option<f64> {
        let these = self.rows.iter().filter(|row| row.peer == peer && (row.work, row.window) == test);
        median(these.map(|row| figure(&row.measured)).collect())
    }

    /// The median of each round's ratio of CPU time to HAProxy's: what disturbs a round disturbs both.
    pub fn cpu_ratio(&self, test: Test) -> Option<f64> {
        let mut rounds: BTreeMap<u32, [Option<f64>; 2]> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| (row.work, row.window) == test) {
            let place = usize::from(row.peer != GATEWAY);
            rounds.entry(row.round).or_default()[place] = Some(row.measured.cpu_us);
        }
        median(rounds.into_values().filter_map(|[ours, theirs]| Some(ours? / theirs?)).collect())
    }

    /// Every test that was made, idleness first.
    pub fn tests(&self) -> Vec<Test> {
        let mut tests: Vec<Test> = self.rows.iter().map(|row| (row.work, row.window)).collect();
        tests.sort_unstable();
        tests.dedup();
        tests
    }

    /// Whether the bars are kept. The ratio is that of all kinds of messages, each counted once (geometric mean).
    pub fn verdicts(&self) -> [Verdict; 2] {
        let tests = self.tests();
        let idle = tests.iter().find(|(work, _)| *work == Work::Idle);
        let bytes = idle.and_then(|test| self.median(GATEWAY, *test, |m| m.rss_per_connection));
        let busy = tests.iter().filter(|(work, _)| *work != Work::Idle);
        let logs: Vec<f64> = busy.filter_map(|test| self.cpu_ratio(*test)).map(f64::ln).collect();
        let ratio = (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp());
        let verdict = |promise: String, found: Option<f64>, most| {
            let kept = found.is_none_or(|found| found <= most);
            Verdict { promise, found, kept }
        };
        [
            verdict(
                format!("an idle session takes at most {IDLE_BYTES_MAX} B of user memory"),
                bytes,
                IDLE_BYTES_MAX,
            ),
            verdict(
                format!("a message takes at most {CPU_RATIO_MAX} x HAProxy's CPU time"),
                ratio,
                CPU_RATIO_MAX,
            ),
        ]
    }

    /// The table in Markdown, and the verdicts under it.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| | evenkeel | haproxy | ratio |\n|---|---|---|---|\n");
        for test in self.tests() {
            let (work, window) = test;
            let mut row = |name: String, figure: fn(&Measured) -> f64, ratio: Option<f64>| {
                let of = |peer| self.median(peer, test, figure);
                let (ours, theirs) = (of(GATEWAY), of(HAPROXY));
                let ratio = ratio.or(ours.zip(theirs).map(|(ours, theirs)| ours / theirs));
                let _ = writeln!(text, "| {name} | {} | {} | {} |", cell(ours), cell(theirs), cell(ratio));
            };
            if work == Work::Idle {
                row("idle session, RSS, B".into(), |m| m.rss_per_connection, None);
                row("idle session, PSS, B".into(), |m| m.pss_per_connection, None);
                continue;
            }
            let did = if work == Work::Publish { "published" } else { "consumed" };
            row(format!("CPU a message {did}, {window} in flight, us"), |m| m.cpu_us, self.cpu_ratio(test));
            row(format!("messages {did} a second, {window} in flight"), |m| m.per_second, None);
            row("CPUs that others took meanwhile".into(), |m| m.other_cpus, None);
        }
        for verdict in self.verdicts() {
            let word = if verdict.kept { "kept" } else { "MISSED" };
            let word = if verdict.found.is_none() { "not judged" } else { word };
            let _ = write!(text, "\n{}: {word} ({})", verdict.promise, cell(verdict.found));
        }
        text
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let (middle, len) = (values.len() / 2, values.len());
    match len {
        0 => None,
        _ if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn cell(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(idle: f64, ours: [f64; 3], theirs: [f64; 3]) -> Table {
        let row =
            |round, peer: &str, work, measured| Row { round, peer: peer.into(), work, window: 1, measured };
        let mut rows =
            vec![row(0, GATEWAY, Work::Idle, Measured { rss_per_connection: idle, ..Measured::default() })];
        for (peer, figures) in [(GATEWAY, ours), (HAPROXY, theirs)] {
            for (round, cpu_us) in (0..).zip(figures) {
                rows.push(row(round, peer, Work::Publish, Measured { cpu_us, ..Measured::default() }));
            }
        }
        Table { rows }
    }

    #[test]
    fn a_ratio_is_of_what_ran_side_by_side() {
        // The machine was half as fast in one round, for both.
        let table = table(1.0, [10.0, 20.0, 11.0], [10.0, 20.0, 10.0]);
        assert_eq!(table.cpu_ratio((Work::Publish, 1)), Some(1.0));
        assert_eq!(table.median(GATEWAY, (Work::Publish, 1), |m| m.cpu_us), Some(11.0));
    }

    #[test]
    fn a_missed_bar_is_told() {
        let [memory, cpu] = table(5121.0, [13.0; 3], [10.0; 3]).verdicts();
        assert!(!memory.kept && !cpu.kept, "{memory:?} {cpu:?}");
        let [memory, cpu] = table(5120.0, [11.9; 3], [10.0; 3]).verdicts();
        assert!(memory.kept && cpu.kept, "{memory:?} {cpu:?}");
    }

    #[test]
    fn without_haproxy_nothing_is_compared() {
        let mut table = table(1.0, [1.0; 3], [1.0; 3]);
        table.rows.retain(|row| row.peer == GATEWAY);
        let [_, cpu] = table.verdicts();
        assert!(cpu.kept && cpu.found.is_none());
        assert!(table.markdown().contains("not judged"));
    }
}
