//! The engine's own promises: the same seed gives the same run, nobody is lost or doubled, and the planners' counts are
//! the world's after every single event. And the cases, small enough for every day.

use std::time::Duration;

use model::Time;
use proptest::prelude::*;
use scenario::reconnect::{Kind, Reconnect};

use super::parts::{NONE, NOWHERE, Stage};
use super::{Outcome, Sim};
use crate::cases;
use crate::pool::Pool;
use crate::spec::{Counts, Op, Spec, Start, Step, library};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every client is in exactly one state, every session in exactly one list, and every planner knows its own.
fn check(sim: &Sim) -> Result<(), String> {
    let mut listed = vec![0u32; sim.sessions.len()];
    for (number, replica) in sim.replicas.iter().enumerate().filter(|(_, replica)| replica.alive) {
        let status = replica.planner.status(sim.now);
        for (node, list) in replica.sessions.iter().enumerate() {
            let id = &sim.nodes[node].endpoint.id;
            let known = status.endpoints.iter().find(|endpoint| endpoint.id == *id);
            let of_us = |client: &&super::parts::Client| usize::from(client.replica) == number;
            let dialing = |client: &&super::parts::Client| usize::from(client.picked) == node;
            let pending = sim.clients.iter().filter(of_us).filter(dialing).count() as u32;
            let (sessions, at_planner) =
                known.map_or((0, 0), |endpoint| (endpoint.sessions, endpoint.pending));
            if (sessions, at_planner) != (list.len() as u32, pending) {
                return Err(format!(
                    "replica {number} counts {sessions} + {at_planner} on {id}, the world {} + {pending}",
                    list.len()
                ));
            }
            for (place, session) in list.iter().enumerate() {
                listed[*session as usize] += 1;
                let record = &sim.sessions[*session as usize];
                let is_here = usize::from(record.replica) == number && usize::from(record.endpoint) == node;
                if record.place as usize != place || !is_here {
                    return Err(format!("session {session} is in another place than it says: {record:?}"));
                }
            }
        }
    }
    let held = |session: usize| u32::from(sim.sessions[session].client != NONE);
    if let Some(session) = (0..listed.len()).find(|session| listed[*session] != held(*session)) {
        return Err(format!("session {session} is listed {} times", listed[session]));
    }
    check_clients(sim)
}

fn check_clients(sim: &Sim) -> Result<(), String> {
    let mut open = vec![0u32; sim.nodes.len()];
    for (number, client) in sim.clients.iter().enumerate() {
        let has_session = client.session != NONE;
        let fits = match client.stage {
            Stage::Open => has_session && client.picked == NOWHERE,
            Stage::Connecting => !has_session,
            Stage::Away | Stage::Gone => !has_session && client.picked == NOWHERE,
        };
        if !fits {
            return Err(format!("client {number} is not in one state: {client:?}"));
        }
        if has_session {
            open[usize::from(client.last)] += 1;
        }
    }
    if open != sim.open {
        return Err(format!("clients have {open:?} sessions, {:?} are counted", sim.open));
    }
    let ready = sim.nodes.iter().zip(&open).filter(|(node, _)| node.is_ready());
    let ready = ready.fold((0, 0), |(sum, count), (_, open)| (sum + open, count + 1));
    if ready != sim.ready {
        return Err(format!("{ready:?} are ready, {:?} are counted", sim.ready));
    }
    Ok(())
}

/// A small and busy world: everything that can happen happens.
fn busy(clients: u32, endpoints: u16, replicas: u16, notice: bool, ops: &[(u8, u16)]) -> Spec {
    let notice = if notice { "move: {notice: {text: go, grace: 2s}}, " } else { "" };
    let keys = format!(
        "{notice}rebalance: {{min_age: 1s, settle: 500ms, min_ready: 1s, cooldown: 5s, interval: 2s, drain_deadline: 5s, \
         return_timeout: 5s, guard_backoff: 10s}}, dial_timeout: 1s, response_timeout: 2s"
    );
    let steps = ops.iter().enumerate().map(|(n, (kind, number))| {
        let endpoint = number % endpoints;
        let op = match kind % 13 {
            0 => Op::Add(1 + number % 2),
            1 => Op::Drain { endpoint, grace: secs(4), successor: Some(secs(1)) },
            2 => Op::Kill { endpoint, noticed_after: secs(1), silent: number % 2 == 0, successor: None },
            3 => Op::Unready(endpoint),
            4 => Op::Ready(endpoint),
            5 => Op::Vanish(endpoint),
            6 => Op::Return(endpoint),
            7 => Op::Slow(endpoint, secs(u64::from(number % 4))),
            8 => Op::Churn { arrivals: f64::from(number % 5), departures: f64::from(number % 3) },
            9 => Op::AddReplica,
            10 => Op::LoseReplica(number % replicas),
            11 => Op::Leave { endpoint, share: 0.3 },
            _ => Op::Roll { endpoints, grace: secs(3), starts_within: secs(1) },
        };
        Step { at: secs(3) + Duration::from_millis(1_700) * n as u32, op }
    });
    let backoff = Reconnect { honour_retry_after: false, ..library(Kind::Phoenix) };
    let mut spec = Spec::new(clients, endpoints, Pool::parse(&keys).unwrap());
    spec.replicas = replicas;
    spec.start = Start::Ramp(100.0);
    spec.reconnect = vec![(0.7, library(Kind::Immediate)), (0.2, backoff), (0.1, library(Kind::Never))];
    spec.talk.message_every = Some(secs(1));
    spec.talk.push_every = Some(Duration::from_millis(700));
    spec.talk.mute_share = 0.1;
    spec.counts = Counts::After(secs(1));
    spec.steps = steps.collect();
    spec.length = secs(40);
    spec
}

fn play(spec: &Spec, seed: u64) -> Outcome {
    Sim::new(spec.clone(), seed).run()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_lost_or_doubled_whatever_happens(
        seed in 0u64..1_000,
        clients in 1u32..60,
        endpoints in 1u16..5,
        replicas in 1u16..4,
        notice in any::<bool>(),
        ops in proptest::collection::vec((any::<u8>(), any::<u16>()), 0..12),
    ) {
        let spec = busy(clients, endpoints, replicas, notice, &ops);
        let mut sim = Sim::new(spec.clone(), seed);
        let end = Time::ZERO + spec.length;
        while sim.step(end) {
            if let Err(wrong) = check(&sim) {
                return Err(TestCaseError::fail(format!("at {:?}: {wrong}", sim.now)));
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run(seed in 0u64..1_000, ops in proptest::collection::vec((any::<u8>(), any::<u16>()), 0..8)) {
        let spec = busy(40, 3, 2, false, &ops);
        prop_assert_eq!(play(&spec, seed), play(&spec, seed));
    }
}

#[test]
fn different_seeds_give_different_runs() {
    let spec = busy(60, 3, 2, false, &[(0, 0)]);
    assert_ne!(play(&spec, 1), play(&spec, 2));
}

#[test]
fn a_session_at_rest_has_no_relay_and_a_moved_one_loses_it_again() {
    let mut spec = Spec::new(300, 2, Pool::parse("").unwrap());
    spec.steps = vec![Step { at: secs(70), op: Op::Add(1) }];
    spec.length = secs(180);
    let mut sim = Sim::new(spec, 3);
    while sim.step(Time::ZERO + secs(60)) {}
    assert!(sim.sessions.iter().all(|session| session.relay == NONE));
    let mut most = 0;
    while sim.step(Time::ZERO + secs(180)) {
        most = most.max(sim.sessions.iter().filter(|session| session.relay != NONE).count());
    }
    assert!(most > 0, "somebody was moved");
    assert!(sim.sessions.iter().all(|session| session.relay == NONE), "all moves are over");
    assert!(sim.finish().moves() > 80);
}

#[test]
fn a_mute_client_is_moved_when_its_time_to_answer_is_over() {
    let mut spec = Spec::new(50, 1, Pool::parse("move: {close: {reply_timeout: 1s}}").unwrap());
    spec.talk.mute_share = 1.0;
    spec.steps = vec![Step { at: secs(70), op: Op::Drain { endpoint: 0, grace: secs(30), successor: None } }];
    spec.steps.insert(0, Step { at: secs(5), op: Op::Add(1) });
    spec.length = secs(160);
    let out = play(&spec, 1);
    assert_eq!((out.connected, out.cut_at_deadline), (50, 0));
}

#[test]
fn refused_clients_wait_as_long_as_they_are_told() {
    let keys = "admission: {sessions_per_second: 5, burst: 5}";
    let mut spec = Spec::new(200, 2, Pool::parse(keys).unwrap());
    spec.start = Start::Ramp(10_000.0);
    spec.length = secs(120);
    let out = play(&spec, 1);
    assert!(
        out.deferred > 0 && out.connected == 200,
        "{} deferred, {} connected",
        out.deferred,
        out.connected
    );
    let most = out.admitted_each_second.iter().max().copied().unwrap_or(0);
    assert!(most <= 10, "{most} in one second, at 5 a second and 5 at once");
}

/// The cases that are quick in a debug build, fifty times smaller where they can be, with few seeds. All of them in full
/// size: `cargo run --release -p sim -- --all`.
#[test]
fn the_quick_cases_hold_with_few_sessions() {
    let quick = [
        ("scale-out-1", 50),
        ("one-to-two", 1),
        ("five-on-two", 1),
        ("two-on-five", 1),
        ("scale-in-1", 50),
        ("half-unready", 1),
        ("never-return-1", 1),
        ("storm-1", 20),
        ("tier-2-to-4", 1),
        ("zones-quiet", 20),
    ];
    for (name, divisor) in quick {
        let case = cases::all().into_iter().find(|case| case.name == name).expect("a case of this name");
        let spec = (case.spec)(divisor);
        for seed in [1, 2] {
            let bars = (case.judge)(&spec, &play(&spec, seed));
            let missed: Vec<_> = bars.iter().filter(|bar| !bar.holds()).collect();
            assert!(
                missed.is_empty(),
                "{missed:?}; alone: cargo run --release -p sim -- --case {name} --seed {seed}"
            );
        }
    }
}
