//! Endpoints are added, sessions drift, clients are few.

use super::{BEFORE, Bar, Case, Limit, at_least, at_most, false_stops, level_after, secs, step, told, world};
use crate::engine::Outcome;
use crate::spec::{Counts, Op, Spec, Start};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = scale_outs();
    cases.extend(small());
    cases.extend(counts());
    cases
}

fn scale_outs() -> Vec<Case> {
    vec![
        Case {
            name: "scale-out-1",
            what: "3 -> 4 endpoints, 30,000 sessions, 1 replica",
            spec: |divisor| scale_out(30_000 / divisor, 3, 1),
            judge: judge_scale_out,
        },
        Case {
            name: "scale-out-10",
            what: "3 -> 4 endpoints, 30,000 sessions, 10 replicas",
            spec: |divisor| scale_out(30_000 / divisor, 3, 10),
            judge: judge_scale_out,
        },
        Case {
            name: "scale-out-million",
            what: "10 -> 11 endpoints, 1,000,000 sessions, 100 replicas",
            spec: |divisor| Spec { length: BEFORE + secs(450), ..scale_out(1_000_000 / divisor, 10, 100) },
            judge: |spec, out| {
                let floor = f64::from(spec.clients) / 11.0;
                vec![
                    at_most("max/mean at the end", 1.10, out.imbalance_end()),
                    at_most("moves / (N / 11)", 1.1, out.moves() as f64 / floor),
                    false_stops(out),
                    told("seconds until max/mean <= 1.10", level_after(spec, out)),
                    told("emptiest/mean at the end", out.emptiest_end()),
                    told("clients moved twice", out.repeats().0 as f64),
                ]
            },
        },
        Case {
            name: "scale-out-churn",
            what: "3 -> 4, 30,000 sessions, 10 replicas, 100 clients a second come and 100 leave",
            spec: |divisor| {
                let mut spec = scale_out(30_000 / divisor, 3, 10);
                let rate = 100.0 / f64::from(divisor);
                spec.steps.insert(0, step(secs(0), Op::Churn { arrivals: rate, departures: rate }));
                spec
            },
            // A client that was moved by one replica is a new one to the others: where clients come and go all the time, the
            // donor may just be the emptiest there.
            judge: |spec, out| {
                let mut bars = judge_scale_out(spec, out);
                bars.retain(|bar| bar.what != TO_DONOR);
                bars.push(at_most(
                    "clients back at their donor / moves",
                    0.001,
                    out.to_donor as f64 / out.moves() as f64,
                ));
                bars
            },
        },
    ]
}

const TO_DONOR: &str = "clients back at their donor";

fn scale_out(clients: u32, endpoints: u16, replicas: u16) -> Spec {
    Spec {
        replicas,
        steps: vec![step(BEFORE, Op::Add(1))],
        length: BEFORE + secs(240),
        ..world(clients, endpoints, "")
    }
}

fn judge_scale_out(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let floor = f64::from(spec.clients) / f64::from(spec.endpoints + 1);
    vec![
        at_most("seconds until max/mean <= 1.10", 90.0, level_after(spec, out)),
        at_most("moves / (N / (n + 1))", 1.1, out.moves() as f64 / floor),
        at_most("clients moved twice", 0.0, out.repeats().0 as f64),
        at_most(TO_DONOR, 0.0, out.to_donor as f64),
        false_stops(out),
        told("max/mean at the end", out.imbalance_end()),
        told("emptiest/mean at the end", out.emptiest_end()),
    ]
}

fn small() -> Vec<Case> {
    vec![
        Case {
            name: "one-to-two",
            what: "1 -> 2 endpoints, 1,000 sessions",
            spec: |_| scale_out(1_000, 1, 1),
            judge: judge_convergence,
        },
        Case {
            name: "two-to-three",
            what: "2 -> 3 endpoints, 1,000 sessions, 3 replicas",
            spec: |_| scale_out(1_000, 2, 3),
            judge: judge_convergence,
        },
        Case {
            name: "two-with-drift",
            what: "2 endpoints, 2,000 sessions; of the one, then the other, 30 % leave, every 2 minutes",
            spec: |_| Spec {
                steps: (0..4)
                    .map(|n| step(BEFORE + secs(120) * n, Op::Leave { endpoint: n as u16 % 2, share: 0.3 }))
                    .collect(),
                length: BEFORE + secs(700),
                ..world(2_000, 2, "")
            },
            // 300 of 1,000 leave: 150 move, which makes 850 each. Then 255 leave: 127 move, and so on.
            judge: |spec, out| {
                let floor: f64 = (0..4).map(|n| 1_000.0 * 0.85f64.powi(n) * 0.15).sum();
                vec![
                    at_most("seconds until level", 60.0, level_after(spec, out)),
                    at_most("moves / floor", 1.1, out.moves() as f64 / floor),
                    at_most("clients moved twice", 0.0, out.repeats().0 as f64),
                    false_stops(out),
                    told("max/mean at the end", out.imbalance_end()),
                ]
            },
        },
        Case {
            name: "five-on-two",
            what: "5 clients on 1 endpoint, then 2",
            spec: |_| few(5, 2),
            judge: |_, out| {
                let even = out.sessions_end() == [3, 2];
                vec![
                    at_least("3 + 2 at the end", 1.0, f64::from(u8::from(even))),
                    at_most("moves", 2.0, out.moves() as f64),
                ]
            },
        },
        Case {
            name: "two-on-five",
            what: "2 clients on 1 endpoint, then 5",
            spec: |_| few(2, 5),
            judge: |_, out| {
                let even = out.sessions_end() == [1, 1];
                vec![
                    at_least("each on its own at the end", 1.0, f64::from(u8::from(even))),
                    at_most("moves", 1.0, out.moves() as f64),
                ]
            },
        },
    ]
}

fn few(clients: u32, endpoints: u16) -> Spec {
    Spec {
        start: Start::Ramp(10.0),
        steps: vec![step(BEFORE, Op::Add(endpoints - 1))],
        length: BEFORE + secs(900),
        ..world(clients, 1, "")
    }
}

fn judge_convergence(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let floor = f64::from(spec.clients) / f64::from(spec.endpoints + 1);
    vec![
        at_most("seconds until level", 120.0, level_after(spec, out)),
        at_most("moves / floor", 1.1, out.moves() as f64 / floor),
        at_most("clients moved twice", 0.0, out.repeats().0 as f64),
        false_stops(out),
    ]
}

fn counts() -> Vec<Case> {
    vec![
        Case {
            name: "counts-missing",
            what: "3 -> 4, 30,000 sessions, 10 replicas that never learn how many they are",
            spec: |divisor| Spec { counts: Counts::Never, ..scale_out(30_000 / divisor, 3, 10) },
            judge: judge_counts,
        },
        Case {
            name: "counts-wrong",
            what: "3 -> 4, 30,000 sessions, 10 replicas that believe to be 30",
            spec: |divisor| Spec {
                counts: Counts::Wrong(30),
                length: BEFORE + secs(300),
                ..scale_out(30_000 / divisor, 3, 10)
            },
            judge: judge_counts,
        },
        Case {
            name: "counts-late",
            what: "3 -> 4, 30,000 sessions, 10 replicas; one more comes and one is lost during the moves, the counts follow 30 s later",
            spec: |divisor| {
                let mut spec = scale_out(30_000 / divisor, 3, 10);
                spec.counts = Counts::After(secs(30));
                spec.steps.push(step(BEFORE + secs(15), Op::AddReplica));
                spec.steps.push(step(BEFORE + secs(25), Op::LoseReplica(0)));
                spec
            },
            judge: judge_counts,
        },
    ]
}

fn judge_counts(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let floor = f64::from(spec.clients) / f64::from(spec.endpoints + 1);
    let peak = out.moved_each_second.iter().max().copied().unwrap_or(0);
    vec![
        at_most("max/mean at the end", 1.10, out.imbalance_end()),
        at_most("moves / floor", 1.1, out.moves() as f64 / floor),
        // A replica that believes to be alone expects all of its clients back; the guard may stop it, on the safe side.
        Bar { limit: Limit::Told, ..false_stops(out) },
        told("seconds until level", level_after(spec, out)),
        told("most moves in a second", f64::from(peak)),
    ]
}
