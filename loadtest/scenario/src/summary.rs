//! A run in numbers: made from what was seen over time, printed by the reports, judged by the expectations.
//!
//! [`Summary::of`] computes what any program knows of a run it played. What only one of them can know (messages, memory, a
//! gateway's own words) it sets itself; the rest stays at nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::amqp::AmqpSummary;
use crate::messages::Messages;
use crate::series::{Fill, Series};
use crate::step::Action;

/// Share of the sessions before a step that must be open again before anything counts as level.
const BACK: f64 = 0.99;

/// What was seen of a run over time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Timeline {
    /// `evenkeel`, or the baseline's policy.
    pub label: String,
    /// Seconds from the first connection to the last measurement.
    pub length_s: f64,
    /// Sessions per endpoint over time.
    pub series: Series,
    /// Steps that were taken, in order of time.
    pub steps: Vec<Mark>,
    /// Clients that were moved, once for each move.
    pub moved: Vec<u32>,
    /// When sessions began, seconds since the first connection, in any order.
    pub admitted: Vec<f64>,
    /// Clients that there are, where more connections may be seen than these have: a migrated one has two for a moment.
    pub clients: Option<u32>,
}

/// A step that was taken.
#[derive(Clone, PartialEq, Debug)]
pub struct Mark {
    /// Seconds since the first connection.
    pub t: f64,
    /// What was done.
    pub action: Action,
}

/// A run in numbers.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Summary {
    /// `evenkeel`, or the baseline's policy.
    pub label: String,
    /// Seconds from the first connection to the last measurement.
    pub length_s: f64,
    /// Clients with a session at the end.
    pub connected: u32,
    /// Max/mean just before the first step.
    pub imbalance_before: f64,
    /// Largest max/mean after the first step.
    pub imbalance_peak: f64,
    /// The same, but that endpoints which became ready after it are no yardstick until they are filled.
    pub imbalance_peak_filled: f64,
    /// Max/mean at the end.
    pub imbalance_end: f64,
    /// Sessions of the ready endpoints at the end, largest first.
    pub sessions_end: Vec<u32>,
    /// Seconds from the last step until level for good.
    pub level_after_s: Option<f64>,
    /// Each step by itself.
    pub steps: Vec<StepSummary>,
    /// Closes with the move's code and reason.
    pub moves: u64,
    /// Fewest moves that the steps allow.
    pub moves_floor: f64,
    /// One divided by the other; 0 when there was nothing to move and nothing moved.
    pub moves_over_floor: f64,
    /// Clients moved more than once.
    pub moved_twice: u64,
    /// Most moves of any one client.
    pub moves_of_a_client: u64,
    /// Sessions that a drained endpoint still had at its deadline, and closed itself.
    pub cut_at_deadline: u64,
    /// Ends of sessions by code and reason.
    pub ends: BTreeMap<String, u64>,
    /// Ends that are not clean; those on killed endpoints not counted.
    pub unclean_ends: u64,
    /// Times from the close to the next 101.
    pub reconnect: Option<Times>,
    /// Failed connection attempts by reason.
    pub connections_failed: BTreeMap<String, u64>,
    /// Those of them that a 503 refused.
    pub refused: u64,
    /// Most sessions that began within any one second after the first step; of the whole run when there is none.
    pub admitted_per_second: u64,
    /// Times that the gateway's return guard stopped the moves; `None`: not known.
    pub guard_stops: Option<u64>,
    /// By direction.
    pub messages: Messages,
    /// False: only echoes witness what arrived.
    pub verified: bool,
    /// What the gateway cost.
    pub gateway: Option<Cost>,
    /// The gateway's own status at the end.
    pub gateway_status: Option<Value>,
    /// What only a run with brokers has.
    pub amqp: Option<AmqpSummary>,
    /// What went wrong in the run itself.
    pub faults: Vec<String>,
}

/// A step in numbers.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StepSummary {
    /// Seconds since the first connection.
    pub t: f64,
    /// `scale to 5`.
    pub what: String,
    /// Fewest moves that it allows.
    pub floor: f64,
    /// Seconds until level for good, before the next step.
    pub level_after_s: Option<f64>,
}

/// A distribution of times, milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Times {
    /// How many.
    pub count: usize,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Longest.
    pub max_ms: f64,
}

/// What the gateway cost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// CPU time, seconds.
    pub cpu_s: f64,
    /// Resident memory before the first client, MiB.
    pub rss_idle_mib: f64,
    /// Resident memory at the end, MiB.
    pub rss_mib: f64,
    /// The same with shared pages divided, MiB.
    pub pss_mib: f64,
    /// Most that was ever resident, MiB.
    pub rss_peak_mib: f64,
    /// Growth of the resident memory by open session, KiB.
    pub rss_per_session_kib: f64,
    /// Open descriptors at the end.
    pub descriptors: u64,
}

impl Summary {
    /// The numbers of `run`; what it does not contain is left at nothing.
    pub fn of(run: &Timeline) -> Self {
        let end = run.length_s;
        let last = run.series.before(end);
        let ready = run.series.ready_at(end);
        let first_step = run.steps.first().map(|mark| mark.t);
        let rush = most_in_a_second(&run.admitted, first_step.unwrap_or(0.0), end);
        let first_step = first_step.unwrap_or(end);
        let steps = steps(run);
        let floor = steps.iter().fold(0.0, |sum, step| sum + step.floor);
        let by_client = moves_by_client(&run.moved);
        let moves = run.moved.len() as u64;
        let mut sessions_end: Vec<u32> =
            ready.iter().map(|name| last.and_then(|s| s.open.get(*name)).copied().unwrap_or(0)).collect();
        sessions_end.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            label: run.label.clone(),
            length_s: end,
            connected: last.map_or(0, |sample| sample.total()),
            imbalance_before: run.series.imbalance_before(first_step),
            imbalance_peak: run.series.imbalance_peak(first_step, end),
            imbalance_peak_filled: run.series.imbalance_peak_filled(first_step, end),
            admitted_per_second: rush,
            imbalance_end: run.series.imbalance_before(end),
            sessions_end,
            level_after_s: steps.last().and_then(|step| step.level_after_s),
            moves,
            moves_floor: floor,
            moves_over_floor: if moves == 0 { 0.0 } else { moves as f64 / floor.max(1.0) },
            moved_twice: by_client.values().filter(|moves| **moves > 1).count() as u64,
            moves_of_a_client: by_client.values().copied().max().unwrap_or(0),
            steps,
            ..Self::default()
        }
    }
}

impl Times {
    /// The distribution of `ms`; `None` when there are none.
    pub fn of(mut ms: Vec<f64>) -> Option<Self> {
        ms.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| ms[((ms.len() as f64 * share).ceil() as usize).clamp(1, ms.len()) - 1];
        if ms.is_empty() {
            return None;
        }
        Some(Self { count: ms.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) })
    }
}

fn steps(run: &Timeline) -> Vec<StepSummary> {
    let each = |(index, mark): (usize, &Mark)| {
        let next = run.steps.get(index + 1);
        let until = next.map_or(run.length_s, |next| next.t);
        let floor = match (&mark.action, next.map(|next| &next.action)) {
            // One that is there again in the end need not have lost anybody.
            (Action::Flap(_), _) => 0.0,
            (Action::Restart(_), Some(Action::Restart(_))) => {
                run.series.floor(mark.t, until, Fill::ByNextStep)
            }
            _ => run.series.floor(mark.t, until, Fill::Count),
        };
        let before = run.series.before(mark.t).map_or(0, |sample| sample.total());
        let before = run.clients.map_or(before, |clients| before.min(clients));
        StepSummary {
            t: mark.t,
            what: mark.action.to_string(),
            floor,
            level_after_s: run.series.level_after(mark.t, until, (f64::from(before) * BACK) as u32),
        }
    };
    run.steps.iter().enumerate().map(each).collect()
}

fn moves_by_client(moved: &[u32]) -> BTreeMap<u32, u64> {
    let mut moves = BTreeMap::new();
    for client in moved {
        *moves.entry(*client).or_insert(0) += 1;
    }
    moves
}

/// The window slides: any second, not only those that begin on the full second.
fn most_in_a_second(times: &[f64], from: f64, until: f64) -> u64 {
    let mut times: Vec<f64> = times.iter().copied().filter(|t| (from..=until).contains(t)).collect();
    times.sort_unstable_by(f64::total_cmp);
    let mut first = 0;
    let mut most = 0;
    for (last, t) in times.iter().enumerate() {
        while times[first] <= t - 1.0 {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::series::{Change, Sample, State};
    use crate::step::{Flap, How};

    #[test]
    fn a_rolling_restart_counts_the_last_filling_only() {
        let at = |t: f64, endpoint: &str, state| Change { t, endpoint: endpoint.into(), state };
        let sample = |t: f64, a: u32, b: u32, a2: u32| Sample {
            t,
            open: [("a".into(), a), ("b".into(), b), ("a-r2".into(), a2)].into(),
        };
        let run = Timeline {
            length_s: 30.0,
            series: Series {
                samples: vec![sample(1.0, 50, 50, 0), sample(9.0, 0, 100, 0), sample(29.0, 0, 0, 50)],
                changes: vec![
                    at(0.0, "a", State::Ready),
                    at(0.0, "b", State::Ready),
                    at(5.0, "a", State::Draining),
                    at(6.0, "a", State::Gone),
                    at(6.0, "a-r2", State::Ready),
                    at(10.0, "b", State::Draining),
                    at(12.0, "b-r2", State::Ready),
                ],
            },
            steps: vec![
                Mark { t: 5.0, action: Action::Restart("a".into()) },
                Mark { t: 10.0, action: Action::Restart("b".into()) },
            ],
            ..Timeline::default()
        };
        let floors: Vec<f64> = Summary::of(&run).steps.iter().map(|step| step.floor).collect();
        assert_eq!(floors, [50.0, 150.0]);
    }

    #[test]
    fn connections_that_a_migration_has_left_are_not_waited_for() {
        let change = |endpoint: &str| Change { t: 0.0, endpoint: endpoint.into(), state: State::Ready };
        let sample = |t: f64, a: u32, b: u32| Sample { t, open: [("a".into(), a), ("b".into(), b)].into() };
        let run = |clients| Timeline {
            length_s: 10.0,
            series: Series {
                samples: vec![sample(1.0, 33, 30), sample(6.0, 30, 30)],
                changes: vec![change("a"), change("b")],
            },
            steps: vec![Mark { t: 5.0, action: Action::Restart("a".into()) }],
            clients,
            ..Timeline::default()
        };
        assert_eq!(Summary::of(&run(Some(60))).level_after_s, Some(1.0));
        assert_eq!(Summary::of(&run(None)).level_after_s, None, "three clients are missing");
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times = Times::of((1..=100).map(f64::from).collect()).unwrap();
        assert_eq!((times.p50_ms, times.p99_ms, times.max_ms), (50.0, 99.0, 100.0));
        assert_eq!(Times::of(vec![7.0]).unwrap().p99_ms, 7.0);
    }

    #[test]
    fn the_second_with_the_most_sessions_may_begin_anywhere() {
        let times = [0.5, 9.0, 9.5, 9.9, 10.0, 10.2, 10.499, 10.6, 30.0];
        assert_eq!(most_in_a_second(&times, 8.0, 20.0), 5);
        assert_eq!(most_in_a_second(&times, 10.1, 20.0), 3);
        assert_eq!(most_in_a_second(&[], 0.0, 20.0), 0);
    }

    #[test]
    fn a_flap_forces_nobody_to_move() {
        let at = |t: f64, state| Change { t, endpoint: "a".into(), state };
        let (every, until) = (Duration::from_secs(1), Duration::from_secs(9));
        let flap = Flap { endpoint: "a".into(), every, until, how: How::Drain };
        let run = Timeline {
            length_s: 10.0,
            series: Series {
                samples: vec![Sample { t: 1.0, open: [("a".into(), 50)].into() }],
                changes: vec![at(0.0, State::Ready), at(5.0, State::Draining), at(6.0, State::Ready)],
            },
            steps: vec![Mark { t: 5.0, action: Action::Flap(flap) }],
            ..Timeline::default()
        };
        assert_eq!(Summary::of(&run).moves_floor, 0.0);
    }
}
