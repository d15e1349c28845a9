//! Endpoints are restarted, drained, unready for a while, or come and go.

use scenario::reconnect::Kind;

use super::{
    BEFORE, Bar, Case, all_come_back, at_least, at_most, false_stops, level_after, secs, step, told, world,
};
use crate::engine::Outcome;
use crate::spec::{Op, Spec};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = rolling();
    cases.extend(scale_ins());
    cases.extend(unsteady());
    cases
}

fn rolling() -> Vec<Case> {
    vec![
        Case {
            name: "rolling-restart-1",
            what: "5 endpoints restart one after another, 10,000 sessions, 1 replica",
            spec: |divisor| rolling_restart(10_000 / divisor, 5, 1),
            judge: judge_rolling,
        },
        Case {
            name: "rolling-restart-10",
            what: "5 endpoints restart one after another, 10,000 sessions, 10 replicas",
            spec: |divisor| rolling_restart(10_000 / divisor, 5, 10),
            // A replica knows how often it has moved a client, not how often others have: here the mean is bounded.
            judge: |spec, out| {
                let moves = out.moves() as f64 / f64::from(spec.clients);
                let mut bars = vec![at_most("moves of a client, mean", 2.0, moves)];
                bars.push(told("most moves of one client", f64::from(out.repeats().1)));
                bars.extend(judge_restarted(spec, out));
                bars
            },
        },
        Case {
            name: "rolling-restart-surge",
            what: "5 endpoints are replaced, each by one that is ready before it drains, 10,000 sessions, 3 replicas",
            spec: |divisor| surging_restart(10_000 / divisor, 5, 3),
            judge: judge_rolling,
        },
        Case {
            name: "rolling-restart-slow",
            what: "5 endpoints restart, 90 s apart, so that sessions are levelled in between, 10,000 sessions, 3 replicas",
            spec: |divisor| slow_restart(10_000 / divisor, 5, 3),
            judge: |spec, out| {
                let mut bars = judge_restarted(spec, out);
                bars.push(told("most moves of one client", f64::from(out.repeats().1)));
                bars
            },
        },
        Case {
            name: "rolling-restart-3",
            what: "a 3-node cluster restarts node by node, 120 connections, 2 replicas",
            spec: |_| rolling_restart(120, 3, 2),
            judge: |spec, out| {
                let mut bars = judge_restarted(spec, out);
                bars.push(told("most moves of one client", f64::from(out.repeats().1)));
                bars
            },
        },
        Case {
            name: "rolling-restart-3-random",
            what: "the 3-node cluster with random placement and nothing moved for balance: what is without us",
            spec: |_| Spec {
                pool: world(1, 1, "balance: random, rebalance: {enabled: false}").pool,
                ..rolling_restart(120, 3, 2)
            },
            judge: |_, out| {
                vec![
                    told("max/mean at the end", out.imbalance_end()),
                    told("sessions of the fullest", out.sessions_end().first().map(|n| f64::from(*n))),
                    told(
                        "sessions of the emptiest of three",
                        out.sessions_end().get(2).map_or(0.0, |n| f64::from(*n)),
                    ),
                ]
            },
        },
    ]
}

/// One after the other, as fast as they are ready: each drains, stops, and is ready again 10 s later.
fn rolling_restart(clients: u32, endpoints: u16, replicas: u16) -> Spec {
    let roll = Op::Roll { endpoints, grace: secs(30), starts_within: secs(10) };
    Spec {
        replicas,
        steps: vec![step(BEFORE, roll)],
        // Each takes 40 s at most. The cooldown of those that moved is 10 minutes.
        length: BEFORE + secs(40) * u32::from(endpoints) + secs(900),
        ..world(clients, endpoints, "")
    }
}

/// With a pause after each, in which sessions are levelled.
fn slow_restart(clients: u32, endpoints: u16, replicas: u16) -> Spec {
    let restart = |n: u16| {
        let op = Op::Drain { endpoint: n, grace: secs(30), successor: Some(secs(10)) };
        step(BEFORE + secs(90) * u32::from(n), op)
    };
    Spec {
        replicas,
        steps: (0..endpoints).map(restart).collect(),
        length: BEFORE + secs(90) * u32::from(endpoints) + secs(900),
        ..world(clients, endpoints, "")
    }
}

/// As a Deployment does it with one Pod more: another is ready first, then one drains; every 10 s.
fn surging_restart(clients: u32, endpoints: u16, replicas: u16) -> Spec {
    let each = (0..endpoints).flat_map(|n| {
        let at = BEFORE + secs(10) * u32::from(n);
        [
            step(at, Op::Add(1)),
            step(at + secs(1), Op::Drain { endpoint: n, grace: secs(30), successor: None }),
        ]
    });
    Spec {
        replicas,
        steps: each.collect(),
        length: BEFORE + secs(10) * u32::from(endpoints) + secs(900),
        ..world(clients, endpoints, "")
    }
}

fn judge_rolling(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let moves = f64::from(out.repeats().1);
    let mut bars = vec![at_most("most moves of one client", 2.0, moves)];
    bars.extend(judge_restarted(spec, out));
    bars
}

fn judge_restarted(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let last = spec.steps.last().map_or(BEFORE, |step| step.at);
    let last = out.rolled_at.map_or(last, |at| std::time::Duration::from_nanos(at.as_nanos()));
    let level = out.level_after(last, (f64::from(out.connected) * 0.99) as u32);
    vec![
        at_most("max/mean at the end", level_bound(spec), out.imbalance_end()),
        at_most("sessions cut at a deadline", 0.0, out.cut_at_deadline as f64),
        false_stops(out),
        told("seconds until level after the last restart", level.map(|(seconds, _)| seconds)),
        told("moves / sessions", out.moves() as f64 / f64::from(spec.clients)),
    ]
}

/// 1.10, or as even as whole sessions can be.
fn level_bound(spec: &Spec) -> f64 {
    let mean = f64::from(spec.clients) / f64::from(spec.endpoints);
    (mean.ceil() / mean).max(1.10)
}

fn scale_ins() -> Vec<Case> {
    vec![
        Case {
            name: "scale-in-1",
            what: "5 -> 3 endpoints, grace 30 s, 10,000 sessions, 1 replica",
            spec: |divisor| scale_in(10_000 / divisor, 1),
            judge: judge_scale_in,
        },
        Case {
            name: "scale-in-10",
            what: "5 -> 3 endpoints, grace 30 s, 10,000 sessions, 10 replicas",
            spec: |divisor| scale_in(10_000 / divisor, 10),
            judge: judge_scale_in,
        },
        Case {
            name: "scale-in-mute",
            what: "5 -> 3 endpoints, grace 30 s, 10,000 sessions, 1 replica; 2 % of the clients never answer a Close",
            spec: |divisor| {
                let mut spec = scale_in(10_000 / divisor, 1);
                spec.talk.mute_share = 0.02;
                spec
            },
            judge: |spec, out| {
                let mut bars = judge_scale_in(spec, out);
                // Whoever does not answer keeps its old connection for reply_timeout: that is told, not judged.
                bars[0] = told("sessions cut at the deadline", out.cut_at_deadline as f64);
                bars
            },
        },
    ]
}

fn scale_in(clients: u32, replicas: u16) -> Spec {
    let drain = |endpoint| step(BEFORE, Op::Drain { endpoint, grace: secs(30), successor: None });
    Spec { replicas, steps: vec![drain(3), drain(4)], length: BEFORE + secs(120), ..world(clients, 5, "") }
}

fn judge_scale_in(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let floor = f64::from(spec.clients) * 2.0 / 5.0;
    vec![
        at_most("sessions cut at the deadline", 0.0, out.cut_at_deadline as f64),
        at_most("max/mean at the end", 1.10, out.imbalance_end()),
        at_most("moves / floor", 1.1, out.moves() as f64 / floor),
        at_most("clients moved twice", 0.0, out.repeats().0 as f64),
        false_stops(out),
        told("seconds until level", level_after(spec, out)),
    ]
}

fn unsteady() -> Vec<Case> {
    vec![
        Case {
            name: "half-unready",
            what: "4 of 8 endpoints are unready for 10 s, 8,000 sessions, 3 replicas",
            spec: |_| {
                let down = (0..4).map(|n| step(BEFORE, Op::Unready(n)));
                let up = (0..4).map(|n| step(BEFORE + secs(10), Op::Ready(n)));
                Spec {
                    replicas: 3,
                    steps: down.chain(up).collect(),
                    length: BEFORE + secs(180),
                    ..world(8_000, 8, "")
                }
            },
            judge: |spec, out| {
                vec![
                    at_most("moves", 0.0, out.moves() as f64),
                    at_most("sessions opened anew", 0.0, out.opened.len() as f64),
                    at_least("connected / clients", 1.0, f64::from(out.connected) / f64::from(spec.clients)),
                ]
            },
        },
        Case {
            name: "flapping-ready",
            what: "1 of 4 endpoints is unready and ready again every 5 s for 3 minutes, with churn",
            spec: |_| flapping(Op::Unready(0), Op::Ready(0)),
            judge: judge_flapping,
        },
        Case {
            name: "flapping-listed",
            what: "1 of 4 endpoints vanishes from discovery and is back every 5 s for 3 minutes, with churn",
            spec: |_| flapping(Op::Vanish(0), Op::Return(0)),
            judge: judge_flapping,
        },
    ]
}

fn flapping(down: Op, up: Op) -> Spec {
    let mut steps = vec![step(secs(10), Op::Churn { arrivals: 5.0, departures: 5.0 })];
    for n in 0..18 {
        steps.push(step(BEFORE + secs(10) * n, down.clone()));
        steps.push(step(BEFORE + secs(10) * n + secs(5), up.clone()));
    }
    Spec {
        replicas: 3,
        reconnect: all_come_back(Kind::Phoenix),
        steps,
        length: BEFORE + secs(480),
        ..world(4_000, 4, "")
    }
}

/// Any move counts, a drain's as well: to the client they are the same.
fn judge_flapping(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let again = out.moved_again_after.map_or(f64::INFINITY, |pause| pause.as_secs_f64());
    vec![
        at_least("seconds between a client's moves, drains too", 120.0, again),
        at_most("max/mean at the end", 1.10, out.imbalance_end()),
        false_stops(out),
        told("moves / sessions", out.moves() as f64 / f64::from(spec.clients)),
        told("most moves of one client", f64::from(out.repeats().1)),
    ]
}
