//! A run in numbers: made from its recording, printed by the reports, judged by the expectations.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::accounting::{self, Messages};
use crate::protocol::{ClientSession, Ending, EndpointSession};
use crate::scenario::Action;
use crate::series::{Fill, Series};
use crate::usage::Usage;
use crate::wire;

/// Share of the sessions before a step that must be open again before anything counts as level.
const BACK: f64 = 0.99;

/// Everything that was seen in a run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// `evenkeel`, or the baseline's policy.
    pub label: String,
    /// Seconds from the first connection to the last measurement.
    pub length_s: f64,
    /// Sessions per endpoint over time.
    pub series: Series,
    /// Steps that were taken.
    pub steps: Vec<Mark>,
    /// The clients' accounts.
    pub clients: Vec<ClientSession>,
    /// The endpoints' accounts.
    pub endpoints: Vec<EndpointSession>,
    /// Endpoints without an account.
    pub killed: BTreeSet<String>,
    /// Failed connection attempts by reason.
    pub failed: BTreeMap<String, u64>,
    /// False: the endpoints are not ours, so only their echoes witness what arrived.
    pub verified: bool,
    /// The gateway before the first client, and at the end with all of them.
    pub usage: Option<(Usage, Usage)>,
    /// The gateway's own `/api/v1/status` at the end.
    pub status: Option<Value>,
    /// What went wrong in the run itself, one line each.
    pub faults: Vec<String>,
}

/// A step that was taken.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Seconds since the first connection.
    pub t: f64,
    /// What was done.
    pub action: Action,
}

/// How the gateway's moves look to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveClose {
    /// `move.close.code` of the pool.
    pub code: u16,
    /// `move.close.reason` of the pool.
    pub reason: String,
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
    /// By direction.
    pub messages: Messages,
    /// False: only echoes witness what arrived.
    pub verified: bool,
    /// What the gateway cost.
    pub gateway: Option<Cost>,
    /// The gateway's own status at the end.
    pub gateway_status: Option<Value>,
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
#[derive(Clone, PartialEq, Debug, Serialize)]
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

/// The numbers of a recording.
pub fn summarise(run: &Recording, close: &MoveClose) -> Summary {
    let end = run.length_s;
    let last = run.series.before(end);
    let ready = run.series.ready_at(end);
    let first_step = run.steps.first().map_or(end, |mark| mark.t);
    let steps = steps(run);
    let floor = steps.iter().fold(0.0, |sum, step| sum + step.floor);
    let by_client = moves_by_client(run, close);
    let moves: u64 = by_client.values().sum();
    let connected = last.map_or(0, |sample| sample.total());
    let mut sessions_end: Vec<u32> =
        ready.iter().map(|name| last.and_then(|s| s.open.get(*name)).copied().unwrap_or(0)).collect();
    sessions_end.sort_unstable_by(|a, b| b.cmp(a));
    Summary {
        label: run.label.clone(),
        length_s: end,
        connected,
        imbalance_before: run.series.imbalance_before(first_step),
        imbalance_peak: run.series.imbalance_peak(first_step, end),
        imbalance_end: run.series.imbalance_before(end),
        sessions_end,
        level_after_s: steps.last().and_then(|step| step.level_after_s),
        moves,
        moves_floor: floor,
        moves_over_floor: if moves == 0 { 0.0 } else { moves as f64 / floor.max(1.0) },
        moved_twice: by_client.values().filter(|moves| **moves > 1).count() as u64,
        moves_of_a_client: by_client.values().copied().max().unwrap_or(0),
        cut_at_deadline: cut_at_deadline(&run.clients),
        ends: ends(&run.clients),
        unclean_ends: unclean(run),
        reconnect: times(run.clients.iter().filter_map(|session| session.reconnect_ms).collect()),
        connections_failed: run.failed.clone(),
        messages: if run.verified {
            accounting::compare(&run.clients, &run.endpoints, &run.killed)
        } else {
            accounting::by_echo(&run.clients)
        },
        verified: run.verified,
        gateway: run.usage.map(|(idle, end)| cost(idle, end, connected)),
        gateway_status: run.status.clone(),
        faults: run.faults.clone(),
        steps,
    }
}

/// A step in words.
pub fn words(action: &Action) -> String {
    match action {
        Action::Scale(count) => format!("scale to {count}"),
        Action::Drain(names) => format!("drain {}", names.join(", ")),
        Action::Kill(name) => format!("kill {name}"),
        Action::Restart(name) => format!("restart {name}"),
    }
}

fn steps(run: &Recording) -> Vec<StepSummary> {
    let each = |(index, mark): (usize, &Mark)| {
        let next = run.steps.get(index + 1);
        let until = next.map_or(run.length_s, |next| next.t);
        let fill = match (&mark.action, next.map(|next| &next.action)) {
            (Action::Restart(_), Some(Action::Restart(_))) => Fill::ByNextStep,
            (Action::Restart(_) | Action::Scale(_) | Action::Drain(_) | Action::Kill(_), _) => Fill::Count,
        };
        let before = run.series.before(mark.t).map_or(0, |sample| sample.total());
        StepSummary {
            t: mark.t,
            what: words(&mark.action),
            floor: run.series.floor(mark.t, until, fill),
            level_after_s: run.series.level_after(mark.t, until, (f64::from(before) * BACK) as u32),
        }
    };
    run.steps.iter().enumerate().map(each).collect()
}

fn moves_by_client(run: &Recording, close: &MoveClose) -> BTreeMap<u32, u64> {
    let mut moves = BTreeMap::new();
    for session in &run.clients {
        let moved = match &session.ending {
            Ending::Closed { code, reason } => *code == close.code && *reason == close.reason,
            // Without a reason, the end of a killed endpoint's session looks the same.
            Ending::ClosedBadly { code, .. } => {
                *code == close.code && !run.killed.contains(&session.endpoint)
            }
            Ending::Cut(_) | Ending::Protocol(_) | Ending::Own | Ending::OwnUnanswered(_) => false,
        };
        if moved {
            *moves.entry(session.client).or_insert(0) += 1;
        }
    }
    moves
}

fn ends(clients: &[ClientSession]) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for session in clients {
        *ends.entry(session.ending.label()).or_insert(0) += 1;
    }
    ends
}

fn cut_at_deadline(clients: &[ClientSession]) -> u64 {
    let cut =
        |ending: &Ending| matches!(ending, Ending::Closed { reason, .. } if reason == wire::STOP_REASON);
    clients.iter().filter(|session| cut(&session.ending)).count() as u64
}

fn unclean(run: &Recording) -> u64 {
    let judged = run.clients.iter().filter(|session| !run.killed.contains(&session.endpoint));
    judged.filter(|session| !session.ending.clean()).count() as u64
}

fn times(mut ms: Vec<f64>) -> Option<Times> {
    ms.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| ms[((ms.len() as f64 * share).ceil() as usize).clamp(1, ms.len()) - 1];
    if ms.is_empty() {
        return None;
    }
    Some(Times { count: ms.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) })
}

fn cost(idle: Usage, end: Usage, sessions: u32) -> Cost {
    let mib = |kib: u64| kib as f64 / 1024.0;
    Cost {
        cpu_s: end.cpu_s,
        rss_idle_mib: mib(idle.rss_kib),
        rss_mib: mib(end.rss_kib),
        pss_mib: mib(end.pss_kib),
        rss_peak_mib: mib(end.rss_peak_kib),
        rss_per_session_kib: end.rss_kib.saturating_sub(idle.rss_kib) as f64 / f64::from(sessions.max(1)),
        descriptors: end.descriptors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Change, Sample, State};

    fn session(client: u32, endpoint: &str, ending: Ending) -> ClientSession {
        ClientSession {
            client,
            session: 0,
            endpoint: endpoint.into(),
            sent: Default::default(),
            echoed: 0,
            received: Default::default(),
            repeated: 0,
            foreign: 0,
            ending,
            reconnect_ms: None,
        }
    }

    fn rebalance() -> MoveClose {
        MoveClose { code: 1012, reason: "rebalance".into() }
    }

    fn closed(reason: &str) -> Ending {
        Ending::Closed { code: 1012, reason: reason.into() }
    }

    #[test]
    fn only_the_moves_own_close_counts_as_a_move() {
        let run = Recording {
            clients: vec![
                session(1, "a", closed("rebalance")),
                session(1, "b", closed("rebalance")),
                session(2, "a", closed("endpoint gone")),
                session(3, "dead", closed("")),
                session(4, "a", Ending::Cut("reset".into())),
                session(5, "a", Ending::Own),
            ],
            killed: ["dead".to_owned()].into(),
            ..Recording::default()
        };
        let summary = summarise(&run, &rebalance());
        assert_eq!((summary.moves, summary.moved_twice, summary.moves_of_a_client), (2, 1, 2));
        assert_eq!(summary.unclean_ends, 1);
        assert_eq!((summary.ends["1012 rebalance"], summary.ends["1012"]), (2, 1));
    }

    #[test]
    fn a_rolling_restart_counts_the_last_filling_only() {
        let at = |t: f64, endpoint: &str, state| Change { t, endpoint: endpoint.into(), state };
        let sample = |t: f64, a: u32, b: u32, a2: u32| Sample {
            t,
            open: [("a".into(), a), ("b".into(), b), ("a-r2".into(), a2)].into(),
        };
        let run = Recording {
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
            ..Recording::default()
        };
        let floors: Vec<f64> = summarise(&run, &rebalance()).steps.iter().map(|step| step.floor).collect();
        assert_eq!(floors, [50.0, 150.0]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times = times((1..=100).map(f64::from).collect()).unwrap();
        assert_eq!((times.p50_ms, times.p99_ms, times.max_ms), (50.0, 99.0, 100.0));
        assert_eq!(super::times(vec![7.0]).unwrap().p99_ms, 7.0);
    }
}
