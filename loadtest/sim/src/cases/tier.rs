//! Gateway replicas come and go: the tier levels itself by closes, of which chance wastes some.

use balance::TierLimits;

use super::{BEFORE, Bar, Case, at_least, at_most, false_stops, secs, step, told, world};
use crate::engine::Outcome;
use crate::spec::{Op, Spec};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "tier-2-to-4",
            what: "2 -> 4 replicas, 4,000 clients on 3 endpoints",
            spec: |_| grow(2, 2),
            judge: |spec, out| {
                let windows = out.moved_each_second.windows(60).map(|window| window.iter().sum::<u32>());
                let most = windows.max().map(f64::from);
                let mut bars = judge(spec, out);
                bars.push(at_most("most closes a minute", spec.tier.moves_per_second_max * 60.0 * 1.1, most));
                bars
            },
        },
        Case {
            name: "tier-3-to-4",
            what: "3 -> 4 replicas, 4,000 clients on 3 endpoints: three of four closes help nobody",
            spec: |_| grow(3, 1),
            judge,
        },
        Case {
            name: "tier-8-to-9",
            what: "8 -> 9 replicas, 4,000 clients on 3 endpoints: within the band",
            spec: |_| grow(8, 1),
            judge: |_, out| {
                vec![
                    at_most("closes for the tier", 0.0, out.for_tier as f64),
                    told("max/mean of the replicas at the end", tier_imbalance_end(out)),
                ]
            },
        },
        Case {
            name: "tier-and-endpoints",
            what: "2 -> 4 replicas, and 3 -> 4 endpoints 4 minutes later",
            spec: |_| {
                let mut spec = grow(2, 2);
                spec.steps.push(step(BEFORE + secs(240), Op::Add(1)));
                spec
            },
            judge: |spec, out| {
                let mut bars = judge(spec, out);
                bars.push(at_most("max/mean of the endpoints at the end", 1.10, out.imbalance_end()));
                bars
            },
        },
    ]
}

/// So many replicas, and then more.
fn grow(replicas: u16, more: u16) -> Spec {
    Spec {
        replicas,
        tier: TierLimits { enabled: true, ..TierLimits::default() },
        steps: (0..more).map(|_| step(BEFORE, Op::AddReplica)).collect(),
        length: BEFORE + secs(1_500),
        ..world(4_000, 3, "")
    }
}

fn judge(spec: &Spec, out: &Outcome) -> Vec<Bar> {
    let limits = spec.tier;
    let more = spec.steps.iter().filter(|step| step.op == Op::AddReplica).count() as f64;
    let old = f64::from(spec.replicas);
    let mean = f64::from(spec.clients) / (old + more);
    let surplus = f64::from(spec.clients) - old * mean * limits.stop_ratio;
    // Of all closes only those help whose client lands at a new replica.
    let needed = surplus * (old + more) / more;
    let before = out.moves_before(BEFORE) as f64;
    vec![
        // Who has ended gets what the others close yet, and chance is three standard deviations in 1,000.
        at_most("max/mean of the replicas at the end", limits.stop_ratio + 0.05, tier_imbalance_end(out)),
        at_most("closes / those that chance makes necessary", 1.1, out.for_tier as f64 / needed),
        at_least("closes for the tier", 1.0, out.for_tier as f64),
        at_most("moves before the replicas came", 0.0, before),
        false_stops(out),
        told("closes for the tier, of 4,000 sessions", out.for_tier as f64),
        told("moves for the endpoints' sake", (out.moves() - out.for_tier) as f64),
        told("seconds until no replica is above 1.3", out.tier_level_after(BEFORE, limits.start_ratio)),
        told(
            "seconds until no replica is above 1.15",
            out.tier_level_after(BEFORE, limits.stop_ratio + 0.05),
        ),
        told("clients moved twice", out.repeats().0 as f64),
        told("largest max/mean of the endpoints", out.peak),
    ]
}

fn tier_imbalance_end(out: &Outcome) -> Option<f64> {
    out.samples.last().map(|sample| sample.tier_imbalance)
}
