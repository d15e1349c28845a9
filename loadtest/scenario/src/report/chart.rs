//! One chart as hand-written SVG: sessions per endpoint over time, the mean, steps as vertical marks.
//!
//! Geometry and colours by slot only; what the colours are, in light and dark, is the page's style sheet.

use std::fmt::Write;

use crate::report::Run;
use crate::report::page::escape;
use crate::series::{Sample, Series, State};

/// Colours that the style sheet knows.
const SLOTS: usize = 8;
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;

/// Rows of step labels above the chart.
const LABEL_ROWS: usize = 2;
/// About how wide a character of a label is.
const LABEL_CHARACTER: f64 = 6.5;

/// The axes, the same for charts that are compared.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Frame {
    /// End of the time axis, seconds.
    pub seconds: f64,
    /// End of the axis of sessions.
    pub sessions: f64,
}

impl Frame {
    /// Axes that hold all of `runs`.
    pub fn of(runs: &[Run]) -> Self {
        let seconds = runs.iter().map(|run| run.summary.length_s).fold(1.0, f64::max);
        let counts = runs.iter().flat_map(|run| &run.series.samples).flat_map(|s| s.open.values());
        let most = counts.copied().max().unwrap_or(1).max(1);
        Self { seconds, sessions: ceiling(f64::from(most) * 1.05) }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds
    }

    fn y(&self, sessions: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * sessions / self.sessions
    }
}

/// Endpoints by number, each with its colour slot: a restarted one keeps its place's.
pub fn slots(series: &Series) -> Vec<(&str, usize)> {
    let ready = series.changes.iter().filter(|change| change.state == State::Ready);
    let mut names: Vec<&str> = ready.map(|change| change.endpoint.as_str()).collect();
    // `demo-2` before `demo-10`, and both before `demo-1-r2`.
    names.sort_unstable_by_key(|name| (name.len(), *name));
    names.dedup();
    let mut places: Vec<&str> = Vec::new();
    let mut slots = Vec::new();
    for name in names {
        let known = places.iter().position(|known| *known == place(name)).unwrap_or_else(|| {
            places.push(place(name));
            places.len() - 1
        });
        slots.push((name, known % SLOTS));
    }
    slots
}

/// The name without its generation: `demo-1` of `demo-1-r2`.
pub fn place(name: &str) -> &str {
    name.rsplit_once("-r").map_or(name, |(base, _)| base)
}

/// The chart of a run.
pub fn svg(run: &Run, frame: Frame) -> String {
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Sessions per endpoint over time, {}\" \
         data-seconds=\"{}\" data-left=\"{LEFT}\" data-right=\"{}\" data-width=\"{WIDTH}\">",
        escape(&run.summary.label),
        frame.seconds,
        WIDTH - RIGHT,
    );
    axes(&mut svg, frame);
    steps(&mut svg, run, frame);
    line(&mut svg, "mean", "mean over ready endpoints", &mean(&run.series, frame));
    for (name, slot) in slots(&run.series) {
        // Each slot is thinner than the one below it, so that lines on the same values stay visible.
        line(&mut svg, &format!("line s{slot} w{slot}"), name, &path(&run.series, name, frame));
    }
    let (top, bottom) = (TOP, HEIGHT - BOTTOM);
    let _ = write!(svg, "<line class=\"cross\" x1=\"0\" x2=\"0\" y1=\"{top}\" y2=\"{bottom}\"/></svg>");
    svg
}

fn axes(svg: &mut String, frame: Frame) {
    for mark in marks(frame.sessions) {
        let y = frame.y(mark);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
        );
    }
    for mark in marks(frame.seconds) {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{mark} s</text>",
            frame.x(mark),
            HEIGHT - BOTTOM + 20.0,
        );
    }
}

fn steps(svg: &mut String, run: &Run, frame: Frame) {
    // Where the last label of each row ends; a label that fits in no row is only the mark's title.
    let mut ends = [f64::MIN; LABEL_ROWS];
    for step in &run.summary.steps {
        let x = frame.x(step.t);
        // A label in the right half ends at its mark.
        let (anchor, shift) = if x > WIDTH * 0.7 { ("end", 3.0) } else { ("start", -3.0) };
        let width = step.what.chars().count() as f64 * LABEL_CHARACTER;
        let begins = if anchor == "end" { x + shift - width } else { x + shift };
        let row = ends.iter().position(|end| *end <= begins);
        let y = TOP - 8.0 - 12.0 * row.unwrap_or(0) as f64;
        let what = escape(&step.what);
        let _ = write!(
            svg,
            "<line class=\"step\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{}\"><title>{what}</title></line>",
            y + 3.0,
            HEIGHT - BOTTOM,
        );
        if let Some(row) = row {
            ends[row] = begins + width;
            let _ = write!(
                svg,
                "<text class=\"steplabel\" x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>",
                x + shift,
            );
        }
    }
}

fn line(svg: &mut String, class: &str, title: &str, path: &str) {
    if !path.is_empty() {
        let _ = write!(svg, "<path class=\"{class}\" d=\"{path}\"><title>{}</title></path>", escape(title));
    }
}

/// While an endpoint is there, and while it is gone and not empty.
fn path(series: &Series, name: &str, frame: Frame) -> String {
    let changes: Vec<_> = series.changes.iter().filter(|change| change.endpoint == name).collect();
    let there = |t: f64| {
        changes.iter().rfind(|change| change.t <= t).is_some_and(|change| change.state != State::Gone)
    };
    let open = |sample: &Sample| sample.open.get(name).copied().unwrap_or(0);
    let shown = series.samples.iter().filter(|s| there(s.t) || open(s) > 0);
    joined(shown.map(|sample| (sample.t, f64::from(open(sample)))), frame)
}

fn mean(series: &Series, frame: Frame) -> String {
    let mean = |sample: &Sample| {
        let ready = series.ready_at(sample.t).len();
        (sample.t, f64::from(sample.total()) / ready.max(1) as f64)
    };
    joined(series.samples.iter().map(mean), frame)
}

fn joined(points: impl Iterator<Item = (f64, f64)>, frame: Frame) -> String {
    let mut path = String::new();
    for (t, sessions) in points {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let y = frame.y(sessions.min(frame.sessions));
        let _ = write!(path, "{command}{:.1} {y:.1}", frame.x(t));
    }
    path
}

/// Round values from 0 on, at most six.
fn marks(end: f64) -> Vec<f64> {
    let power = 10f64.powf((end / 5.0).log10().floor().max(0.0));
    // Halves of ten only where they are whole numbers.
    let round = [1.0, 2.0, if power >= 10.0 { 2.5 } else { 5.0 }, 5.0, 10.0];
    let step = round.iter().map(|n| n * power).find(|step| *step >= end / 5.0).unwrap_or(end);
    (0..=5).map(|n| f64::from(n) * step).filter(|mark| *mark <= end * 1.001).collect()
}

/// The next round number; whole numbers below 10.
fn ceiling(value: f64) -> f64 {
    if value <= 10.0 {
        return value.ceil().max(1.0);
    }
    let power = 10f64.powf(value.log10().floor());
    let round = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    round.iter().map(|n| n * power).find(|candidate| *candidate >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Change;
    use crate::summary::{StepSummary, Summary};

    #[test]
    fn axes_end_at_round_numbers_that_hold_everything() {
        for (value, end) in [(0.3, 1.0), (3.0, 3.0), (51.0, 60.0), (1050.0, 1200.0), (3150.0, 4000.0)] {
            assert_eq!(ceiling(value), end, "{value}");
        }
        assert_eq!(marks(1200.0), [0.0, 250.0, 500.0, 750.0, 1000.0]);
        assert_eq!(marks(3.0), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(marks(36.0), [0.0, 10.0, 20.0, 30.0]);
    }

    #[test]
    fn labels_of_steps_that_are_close_do_not_lie_on_each_other() {
        let step = |t, what: &str| StepSummary { t, what: what.into(), floor: 0.0, level_after_s: None };
        let steps = vec![step(10.0, "scale to 5"), step(12.0, "flap demo-5"), step(14.0, "flap demo-2")];
        let summary = Summary { length_s: 225.0, steps, ..Summary::default() };
        let run = Run { summary, series: Series::default() };
        let svg = svg(&run, Frame::of(std::slice::from_ref(&run)));
        assert_eq!(svg.matches("<line class=\"step\"").count(), 3);
        assert_eq!(svg.matches("class=\"steplabel\"").count(), 2);
        assert!(svg.contains("<title>flap demo-2</title>"));
    }

    #[test]
    fn a_restarted_endpoint_keeps_the_colour_of_its_place() {
        let ready = |name: &str| Change { t: 0.0, endpoint: name.into(), state: State::Ready };
        let series = Series {
            samples: Vec::new(),
            changes: vec![ready("demo-1"), ready("demo-2"), ready("demo-1-r2"), ready("demo-3")],
        };
        assert_eq!(slots(&series), [("demo-1", 0), ("demo-2", 1), ("demo-3", 2), ("demo-1-r2", 0)]);
    }
}
