//! The outcome of a scenario in three forms: a table for the terminal, JSON for programs, a page for people.

mod amqp;
mod chart;
mod page;
mod rows;

use std::fmt::Write;

use serde::Serialize;

use crate::expect::Verdict;
use crate::series::Series;
use crate::summary::Summary;

/// Everything about it that is worth keeping.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Who played it and how: `fleet, with real clients`.
    pub program: String,
    /// Clients.
    pub clients: u32,
    /// Seed that was used.
    pub seed: u64,
    /// Where it ran, in one line.
    pub machine: String,
    /// The run that is judged first, then the one to compare with, if any.
    pub runs: Vec<Run>,
    /// What the scenario demands of the first run.
    pub verdicts: Vec<Verdict>,
}

/// One run of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Run {
    /// In numbers.
    pub summary: Summary,
    /// Over time.
    pub series: Series,
}

impl Report {
    /// Every expectation is met, and nothing went wrong in the first run.
    pub fn passed(&self) -> bool {
        let faultless = self.runs.first().is_some_and(|run| run.summary.faults.is_empty());
        faultless && self.verdicts.iter().all(|verdict| verdict.met)
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("reports have string keys only")
    }

    /// For people: one page without anything external.
    pub fn html(&self) -> String {
        page::render(self)
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let rows = rows::rows(&self.runs);
        let label_width = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        let mut text = format!("\n{}: {}\n\n", self.name, self.description.trim());
        let _ = write!(text, "  {:label_width$}", "");
        for run in &self.runs {
            let _ = write!(text, "  {:>26}", run.summary.label);
        }
        text.push('\n');
        for row in rows {
            let _ = write!(text, "  {:label_width$}", row.label);
            for cell in row.cells {
                let _ = write!(text, "  {cell:>26}");
            }
            text.push('\n');
        }
        text.push('\n');
        for verdict in &self.verdicts {
            let mark = if verdict.met { "ok    " } else { "MISSED" };
            let Verdict { key, expected, found, .. } = verdict;
            let _ = writeln!(text, "  {mark}  {key}: expected {expected}, found {found}");
        }
        for run in &self.runs {
            for fault in &run.summary.faults {
                let _ = writeln!(text, "  FAULT   {}: {fault}", run.summary.label);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Change, Sample, State};
    use crate::summary::{StepSummary, Times};

    fn run(label: &str) -> Run {
        let sample =
            |t: f64, a: u32, b: u32| Sample { t, open: [("demo-1".into(), a), ("demo-2".into(), b)].into() };
        let change = |t, name: &str| Change { t, endpoint: name.into(), state: State::Ready };
        Run {
            summary: Summary {
                label: label.into(),
                length_s: 10.0,
                steps: vec![StepSummary {
                    t: 4.0,
                    what: "scale to <2>".into(),
                    floor: 50.0,
                    level_after_s: None,
                }],
                reconnect: Some(Times { count: 3, p50_ms: 1.0, p99_ms: 2.0, max_ms: 2.5 }),
                ..Summary::default()
            },
            series: Series {
                samples: vec![sample(0.0, 0, 0), sample(3.0, 100, 0), sample(9.0, 51, 49)],
                changes: vec![change(0.0, "demo-1"), change(4.0, "demo-2")],
            },
        }
    }

    fn report() -> Report {
        Report {
            name: "tiny".into(),
            program: "a <test>".into(),
            description: "A <b>test</b> & more.".into(),
            clients: 100,
            seed: 1,
            machine: "2 CPUs".into(),
            runs: vec![run("evenkeel"), run("random")],
            verdicts: vec![Verdict {
                key: "imbalance_max".into(),
                expected: "at most 1.1".into(),
                found: "1.4".into(),
                met: false,
            }],
        }
    }

    #[test]
    fn the_page_shows_both_runs_and_needs_nothing_from_elsewhere() {
        let page = report().html();
        for text in
            ["evenkeel", "random", "demo-1", "demo-2", "imbalance_max", "<svg", "prefers-color-scheme"]
        {
            assert!(page.contains(text), "{text} is missing");
        }
        for external in ["http://", "https://", "src=", "@import", "url(", "<link"] {
            assert!(!page.contains(external), "{external} makes the page depend on something");
        }
    }

    #[test]
    fn text_from_the_scenario_cannot_become_markup() {
        let page = report().html();
        assert!(page.contains("A &lt;b&gt;test&lt;/b&gt; &amp; more."));
        assert!(page.contains("scale to &lt;2&gt;"));
        assert!(page.contains("a &lt;test&gt;"));
        assert!(!page.contains("scale to <2>"));
    }

    #[test]
    fn the_table_has_a_column_a_run_and_a_line_for_each_verdict() {
        let text = report().text();
        assert!(text.lines().any(|line| line.contains("evenkeel") && line.contains("random")));
        assert!(text.contains("MISSED  imbalance_max: expected at most 1.1, found 1.4"));
        assert!(!report().passed());
    }

    #[test]
    fn a_fault_of_the_run_fails_it_even_when_all_bounds_are_met() {
        let mut report = report();
        report.verdicts.clear();
        assert!(report.passed());
        report.runs[0].summary.faults.push("the gateway ended with 1".into());
        assert!(!report.passed());
    }

    #[test]
    fn the_json_can_be_read_back() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(value["runs"][1]["summary"]["label"], "random");
    }
}
