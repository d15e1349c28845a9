//! Endpoints and replicas in zones, of which the own one is preferred.

use super::{BEFORE, Bar, Case, at_least, at_most, false_stops, level_after, secs, step, told, world};
use crate::engine::Outcome;
use crate::spec::{Op, Spec};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "zones-quiet",
            what: "6 endpoints and 6 replicas in 3 zones, up to 2 x in the own one; 100 clients a second come and 100 leave",
            spec: |divisor| {
                let rate = 100.0 / f64::from(divisor);
                Spec {
                    steps: vec![step(BEFORE, Op::Churn { arrivals: rate, departures: rate })],
                    ..zones(30_000 / divisor, 6)
                }
            },
            judge: |_, out| {
                vec![
                    at_most("moves", 0.0, out.moves() as f64),
                    at_most("max/mean at the end", 1.10, out.imbalance_end()),
                    at_least("share in the own zone", 0.45, out.in_own_zone),
                ]
            },
        },
        Case {
            name: "zones-scale-out",
            what: "6 -> 9 endpoints, 30,000 sessions, 6 replicas in 3 zones, up to 2 x in the own one",
            spec: |divisor| Spec { steps: vec![step(BEFORE, Op::Add(3))], ..zones(30_000 / divisor, 6) },
            judge: judge_scale_out,
        },
    ]
}

fn zones(clients: u32, endpoints: u16) -> Spec {
    Spec {
        zones: 3,
        replicas: 6,
        length: BEFORE + secs(240),
        ..world(clients, endpoints, "placement: {zone_aware: {imbalance_max: 2.0}}")
    }
}

fn judge_scale_out(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let floor = f64::from(spec.clients) / 3.0;
    vec![
        at_most("max/mean at the end", 1.15, out.imbalance_end()),
        at_least("emptiest/mean at the end", 0.80, out.emptiest_end()),
        at_most("moves / (N / 3)", 1.1, out.moves() as f64 / floor),
        at_most("clients moved twice", 0.0, out.repeats().0 as f64),
        false_stops(out),
        told("share in the own zone", out.in_own_zone),
        told("seconds until max/mean <= 1.10", level_after(spec, out)),
    ]
}
