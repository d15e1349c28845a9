//! How many closes others need for the same scale-out, beside ours.

use std::time::Duration;

use balance::Policy;

use super::{BEFORE, secs, step, world};
use crate::rivals::{Age, Emqx, Nats};
use crate::spec::{Mover, Op, Spec};

/// Everybody who is compared: name, who moves, how clients land.
pub const MOVERS: [(&str, Mover, Policy); 9] = [
    ("evenkeel", Mover::Planner, Policy::LeastConnections),
    ("age 30 min +-10 %, random landing", Mover::Age(Age::grpc(HALF_AN_HOUR)), Policy::Random),
    ("age 30 min +-10 %, p2c landing", Mover::Age(Age::grpc(HALF_AN_HOUR)), Policy::P2c),
    ("age, Zuul Push's TTL, random landing", Mover::Age(Age::zuul()), Policy::Random),
    ("age 30 min +-10 %, least landing", Mover::Age(Age::grpc(HALF_AN_HOUR)), Policy::LeastConnections),
    ("EMQX rebalance", Mover::Emqx(Emqx::DEFAULT), Policy::Random),
    ("EMQX, conn_evict_rate 50", Mover::Emqx(Emqx { conn_evict_rate: 50, ..Emqx::DEFAULT }), Policy::Random),
    (
        "EMQX, rate 50, abs_conn_threshold 100",
        Mover::Emqx(Emqx { conn_evict_rate: 50, abs_conn_threshold: 100.0, ..Emqx::DEFAULT }),
        Policy::Random,
    ),
    ("NATS cluster balance", Mover::Nats(Nats::DEFAULT), Policy::Random),
];

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
/// Long enough for every session to reach its age several times, and for our cooldown to be over many times: what is never
/// moved again is not moved although there was time.
const RUN: Duration = Duration::from_secs(2 * 3600);

/// `endpoints` and then one more, in the hands of mover number `mover`; one load balancer in front.
pub fn rival_spec(mover: usize, clients: u32, endpoints: u16) -> Spec {
    let (_, mover, landing) = MOVERS[mover];
    let mut spec = Spec {
        steps: vec![step(BEFORE, Op::Add(1))],
        length: BEFORE + RUN,
        sample_every: secs(1),
        mover,
        ..world(clients, endpoints, "")
    };
    spec.pool.planner.policy = landing;
    spec
}
