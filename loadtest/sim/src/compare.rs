//! Others beside us in the same world: how many closes it takes until no endpoint is above 1.10 times the mean, for good.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cases::{BEFORE, MOVERS, rival_spec};
use crate::engine::Sim;
use crate::runner::each;
use crate::table::number;

/// Scale-outs that are compared: name, sessions, endpoints before.
pub const SCALE_OUTS: [(&str, u32, u16); 2] =
    [("3 -> 4 endpoints, 30,000 sessions", 30_000, 3), ("10 -> 11 endpoints, 30,000 sessions", 30_000, 10)];

/// What one mover came to with one seed.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Closes until level for good.
    closes: Option<f64>,
    seconds: Option<f64>,
    /// The same until every endpoint is within 10 % of the mean.
    even_closes: Option<f64>,
    even_seconds: Option<f64>,
    /// Clients closed more than once until the end of the run.
    twice: f64,
    /// Closes in the whole run.
    all: f64,
    imbalance_end: f64,
}

/// A row of the comparison.
pub struct Row {
    /// Who moves, and how clients land.
    pub mover: &'static str,
    /// Length of the run after the step, seconds.
    pub seconds: f64,
    found: Vec<Found>,
}

/// Plays one scale-out with every mover.
pub fn compare(clients: u32, endpoints: u16, seeds: &[u64], threads: usize) -> Vec<Row> {
    let rows = MOVERS.iter().enumerate().map(|(number, (mover, ..))| {
        let spec = rival_spec(number, clients, endpoints);
        let found = each(seeds, threads, |seed| {
            let out = Sim::new(spec.clone(), seed).run();
            let before = out.moves_before(BEFORE);
            let back = (f64::from(clients) * 0.97) as u32;
            let (level, even) = (out.level_after(BEFORE, back), out.even_after(BEFORE, back));
            let since =
                |found: Option<(f64, u64)>| found.map(|(_, moves)| moves.saturating_sub(before) as f64);
            Found {
                closes: since(level),
                seconds: level.map(|(seconds, _)| seconds),
                even_closes: since(even),
                even_seconds: even.map(|(seconds, _)| seconds),
                twice: out.repeats().0 as f64,
                all: out.moves().saturating_sub(before) as f64,
                imbalance_end: out.imbalance_end(),
            }
        });
        let seconds = (spec.length - BEFORE).as_secs_f64();
        Row { mover, seconds, found: found.into_values().collect() }
    });
    rows.collect()
}

impl Row {
    fn median(&self, of: impl Fn(&Found) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<Option<f64>> = self.found.iter().map(of).collect();
        values.sort_by(|a, b| a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY)));
        values.get(values.len() / 2).copied().flatten()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "mover": self.mover, "run_s": self.seconds,
            "closes_until_level": self.median(|f| f.closes), "seconds_until_level": self.median(|f| f.seconds),
            "closes_until_even": self.median(|f| f.even_closes), "seconds_until_even": self.median(|f| f.even_seconds),
            "closed_twice": self.median(|f| Some(f.twice)), "closes": self.median(|f| Some(f.all)),
            "imbalance_end": self.median(|f| Some(f.imbalance_end)),
        })
    }
}

/// The comparison for the terminal: medians over the seeds.
pub fn text(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title}: medians\n");
    let line = |text: &mut String, name: &str, cells: [String; 8]| {
        let _ = write!(text, "  {name:36}");
        cells.iter().for_each(|cell| {
            let _ = write!(text, " {cell:>12}");
        });
        text.push('\n');
    };
    let heads = ["closes", "seconds", "closes", "seconds", "closed twice", "closes", "max/mean", "seconds"];
    line(&mut text, "", heads.map(str::to_owned));
    let heads = [
        "max <= 1.10",
        "max <= 1.10",
        "all +-10 %",
        "all +-10 %",
        "in the run",
        "in the run",
        "at the end",
        "of the run",
    ];
    line(&mut text, "", heads.map(str::to_owned));
    for row in rows {
        let cells = [
            row.median(|f| f.closes),
            row.median(|f| f.seconds),
            row.median(|f| f.even_closes),
            row.median(|f| f.even_seconds),
            row.median(|f| Some(f.twice)),
            row.median(|f| Some(f.all)),
            row.median(|f| Some(f.imbalance_end)),
            Some(row.seconds),
        ];
        line(&mut text, row.mover, cells.map(number));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_needs_fewer_closes_than_closing_by_age() {
        let rows = compare(800, 3, &[1], 1);
        let closes = |mover: usize| rows[mover].median(|f| f.closes);
        let (ours, age) = (closes(0).expect("level"), closes(1).expect("level in the end"));
        assert!(ours * 1.5 < age, "ours {ours}, by age {age}");
        assert!(text("small", &rows).contains("EMQX"));
    }
}
