//! What came of the cases, in three forms: a table for the terminal, JSON for programs, a page for people.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cases::{Bar, Limit};
use crate::runner::Verdict;

/// One bar over all seeds.
pub struct Line {
    /// What is measured.
    pub what: &'static str,
    /// What must hold.
    pub limit: Limit,
    /// The middle one of the seeds.
    pub median: Option<f64>,
    /// The worst one, and its seed.
    pub worst: (Option<f64>, u64),
    /// It holds for every seed.
    pub holds: bool,
}

/// The bars of a case over its seeds.
pub fn lines(verdict: &Verdict) -> Vec<Line> {
    let count = verdict.seeds.first().map_or(0, |(_, bars)| bars.len());
    (0..count).filter_map(|index| line(verdict, index)).collect()
}

fn line(verdict: &Verdict, index: usize) -> Option<Line> {
    let mut bars: Vec<(u64, &Bar)> =
        verdict.seeds.iter().filter_map(|(seed, bars)| Some((*seed, bars.get(index)?))).collect();
    bars.sort_by(|a, b| a.1.badness().total_cmp(&b.1.badness()));
    let (median, worst) = (bars.get(bars.len() / 2)?, bars.last()?);
    Some(Line {
        what: worst.1.what,
        limit: worst.1.limit,
        median: median.1.value,
        worst: (worst.1.value, worst.0),
        holds: bars.iter().all(|(_, bar)| bar.holds()),
    })
}

/// Every bar of the case holds for every seed.
pub fn passed(verdict: &Verdict) -> bool {
    lines(verdict).iter().all(|line| line.holds)
}

/// The case has a bar, so that it can fail; others only tell.
pub fn is_judged(verdict: &Verdict) -> bool {
    lines(verdict).iter().any(|line| line.limit != Limit::Told)
}

/// How many of the judged cases hold, and which do not; empty without any.
pub fn sum(verdicts: &[Verdict]) -> String {
    let judged: Vec<&Verdict> = verdicts.iter().filter(|verdict| is_judged(verdict)).collect();
    let mut parts = Vec::new();
    if !judged.is_empty() {
        let held = judged.iter().filter(|verdict| passed(verdict)).count();
        parts.push(format!("{held} of {} cases hold", judged.len()));
    }
    let missed: Vec<&str> = judged.iter().filter(|verdict| !passed(verdict)).map(|v| v.name).collect();
    let only_told: Vec<&str> =
        verdicts.iter().filter(|verdict| !is_judged(verdict)).map(|v| v.name).collect();
    for (what, list) in [("missed", missed), ("told only", only_told)] {
        if !list.is_empty() {
            parts.push(format!("{what}: {}", list.join(", ")));
        }
    }
    match parts.is_empty() {
        true => String::new(),
        false => parts.join("; ") + "\n",
    }
}

/// The case for the terminal.
pub fn text(verdict: &Verdict) -> String {
    let mut text = format!("{}: {}\n", verdict.name, verdict.what);
    let mut failed = None;
    for line in lines(verdict) {
        let mark = mark(&line);
        let (worst, seed) = line.worst;
        let _ = writeln!(
            text,
            "  {mark:4}  {:46} {:>15}   median {:>9}   worst {:>9} (seed {seed})",
            line.what,
            bound(line.limit),
            number(line.median),
            number(worst),
        );
        if !line.holds {
            failed.get_or_insert(seed);
        }
    }
    if let Some(seed) = failed {
        let _ = writeln!(
            text,
            "        alone: cargo run --release -p sim -- --case {} --seed {seed}",
            verdict.name
        );
    }
    text
}

/// The cases for programs.
pub fn json(verdicts: &[Verdict]) -> Value {
    let cases = verdicts.iter().map(|verdict| {
        let bars = lines(verdict).into_iter().map(|line| {
            json!({
                "what": line.what, "bound": bound(line.limit), "median": line.median,
                "worst": line.worst.0, "worst_seed": line.worst.1, "holds": line.holds,
                "by_seed": by_seed(verdict, line.what),
            })
        });
        json!({
            "name": verdict.name, "what": verdict.what, "judged": is_judged(verdict), "passed": passed(verdict),
            "events": verdict.events, "took_s": verdict.took.as_secs_f64(), "bars": bars.collect::<Vec<_>>(),
        })
    });
    json!({ "cases": cases.collect::<Vec<_>>() })
}

/// The cases for people: one page without anything external.
pub fn html(verdicts: &[Verdict], more: &str) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>evenkeel, simulated</title><style>\
         body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733}\
         table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #ccd}\
         td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b3261e;font-weight:600}.good{color:#1b6e3c}\
         @media(prefers-color-scheme:dark){body{background:#12181f;color:#dde5ee}td,th{border-color:#2b3642}}\
         </style></head><body><h1>evenkeel, simulated</h1>",
    );
    for verdict in verdicts {
        let _ = write!(
            page,
            "<h2>{}</h2><p>{}</p><table><tr><th></th><th>measured</th><th>bar</th><th>median</th><th>worst</th><th>seed</th></tr>",
            verdict.name,
            escape(verdict.what)
        );
        for line in lines(verdict) {
            let class = if line.holds { "good" } else { "bad" };
            let _ = write!(
                page,
                "<tr><td class=\"{class}\">{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                mark(&line),
                escape(line.what),
                escape(&bound(line.limit)),
                number(line.median),
                number(line.worst.0),
                line.worst.1
            );
        }
        page.push_str("</table>");
    }
    let _ = writeln!(page, "<pre>{}</pre></body></html>", escape(more));
    page
}

fn by_seed(verdict: &Verdict, what: &str) -> Vec<Value> {
    let bars = verdict.seeds.iter().flat_map(|(seed, bars)| bars.iter().map(move |bar| (seed, bar)));
    bars.filter(|(_, bar)| bar.what == what).map(|(seed, bar)| json!([seed, bar.value])).collect()
}

fn mark(line: &Line) -> &'static str {
    match (line.limit, line.holds) {
        (Limit::Told, _) => "",
        (_, true) => "ok",
        (_, false) => "MISS",
    }
}

fn bound(limit: Limit) -> String {
    match limit {
        Limit::AtMost(most) => format!("at most {}", number(Some(most))),
        Limit::AtLeast(least) => format!("at least {}", number(Some(least))),
        Limit::Told => String::new(),
    }
}

/// A number in as few digits as it takes to judge it.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "never".into(),
        Some(value) if value.is_infinite() => "none".into(),
        Some(value) if value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) if value.abs() < 10.0 => format!("{value:.3}"),
        Some(value) => format!("{value:.1}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn verdict(values: &[Option<f64>]) -> Verdict {
        let bar = |value: &Option<f64>| Bar { what: "x", limit: Limit::AtMost(2.0), value: *value };
        let seeds = values.iter().enumerate().map(|(n, value)| (n as u64 + 1, vec![bar(value)]));
        Verdict { name: "tiny", what: "a <b>", seeds: seeds.collect(), events: 0, took: Duration::ZERO }
    }

    #[test]
    fn the_worst_seed_is_told_and_how_to_run_it_alone() {
        let missed = verdict(&[Some(1.0), Some(9.5), Some(2.0)]);
        assert!(!passed(&missed));
        let text = text(&missed);
        assert!(text.contains("MISS") && text.contains("median         2"), "{text}");
        assert!(text.contains("--case tiny --seed 2"), "{text}");
        assert!(passed(&verdict(&[Some(1.0), Some(2.0)])));
        assert!(!passed(&verdict(&[Some(1.0), None])));
    }

    #[test]
    fn a_case_that_only_tells_does_not_count_as_one_that_holds() {
        let mut told = verdict(&[Some(9.0)]);
        told.seeds[0].1[0].limit = Limit::Told;
        assert!(passed(&told) && !is_judged(&told));
        assert_eq!(
            sum(&[verdict(&[Some(1.0)]), verdict(&[None]), told]),
            "1 of 2 cases hold; missed: tiny; told only: tiny\n"
        );
        assert_eq!(sum(&[]), "");
    }

    #[test]
    fn text_cannot_become_markup() {
        let page = html(&[verdict(&[Some(1.0)])], "<i>");
        assert!(page.contains("a &lt;b&gt;") && page.contains("&lt;i&gt;"));
        assert!(!page.contains("http"));
    }
}
