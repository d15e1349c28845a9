//! How many closes others need for the same scale-out, beside ours.

use std::time::Duration;

use balance::Policy;

use super::{BEFORE, secs, step, world};
use crate::rivals::{Age, Emqx, Nats};
use crate::spec::{Mover, Op, Spec};

/// Everybody who is compared: name, who moves, how clients land, and how long it takes at most.
pub const MOVERS: [(&str, Mover, Policy, Duration); 8] = [
    ("evenkeel", Mover::Planner, Policy::LeastConnections, secs_const(600)),
    ("age 30 min +-10 %, random landing", Mover::Age(Age::grpc(secs_const(1800))), Policy::Random, HOURS),
    ("age 30 min +-10 %, p2c landing", Mover::Age(Age::grpc(secs_const(1800))), Policy::P2c, HOURS),
    ("age, Zuul Push's TTL, random landing", Mover::Age(Age::zuul()), Policy::Random, HOURS),
    (
        "age 30 min +-10 %, least landing",
        Mover::Age(Age::grpc(secs_const(1800))),
        Policy::LeastConnections,
        HOURS,
    ),
    ("EMQX rebalance", Mover::Emqx(Emqx::DEFAULT), Policy::Random, secs_const(900)),
    (
        "EMQX rebalance, conn_evict_rate 50",
        Mover::Emqx(Emqx { conn_evict_rate: 50, ..Emqx::DEFAULT }),
        Policy::Random,
        secs_const(900),
    ),
    ("NATS cluster balance", Mover::Nats(Nats::DEFAULT), Policy::Random, secs_const(900)),
];

const HOURS: Duration = secs_const(2 * 3600);

const fn secs_const(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `endpoints` and then one more, in the hands of mover number `mover`; one load balancer in front.
pub fn rival_spec(mover: usize, clients: u32, endpoints: u16) -> Spec {
    let (_, mover, landing, length) = MOVERS[mover];
    let mut spec = Spec {
        steps: vec![step(BEFORE, Op::Add(1))],
        length: BEFORE + length,
        sample_every: secs(1),
        mover,
        ..world(clients, endpoints, "")
    };
    spec.pool.planner.policy = landing;
    spec
}
