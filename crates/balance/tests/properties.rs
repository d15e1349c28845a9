//! What holds for every pool, however it came to be: 10,000 random ones for each property.
//!
//! The world of these tests checks more at every step: counts agree, no pinned or cooling session is chosen, no more is
//! asked than there is, and the planner never asks to be polled at once.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use balance::{Limits, Movable, MoveReason, Settings};
use model::{Endpoint, EndpointState};
use proptest::prelude::*;

use crate::world::{World, endpoint};

const CASES: u32 = 10_000;

/// Endpoints with their weights, and how many sessions each begins with.
fn start() -> impl Strategy<Value = Vec<(u16, u8)>> {
    prop::collection::vec((prop_oneof![4 => Just(1u16), 1 => 1u16..6], 0u8..25), 1..6)
}

fn name(index: usize) -> String {
    format!("e{index}")
}

/// A pool in which the sessions are where they are by decree, all old enough to be moved.
fn world(start: &[(u16, u8)], limits: Limits) -> World {
    let list: Vec<Endpoint> = start
        .iter()
        .enumerate()
        .map(|(index, (weight, _))| endpoint(&name(index), *weight, EndpointState::Ready))
        .collect();
    let limits = Limits { min_age: Duration::ZERO, ..limits };
    let mut world = World::with_settings(Settings { limits, ..Settings::default() }, &list);
    let mut client = 0;
    for (index, (_, sessions)) in start.iter().enumerate() {
        for _ in 0..*sessions {
            world.place(client, &name(index));
            client += 1;
        }
    }
    world
}

/// No endpoint that is above its whole share, and above what the stop ratio allows, would still be fuller with one session
/// less than another with one more.
fn is_level(world: &World) -> bool {
    let status = world.planner.status(world.now);
    let load = |sessions: u32, weight: u16| f64::from(sessions) / f64::from(weight);
    let least = status.endpoints.iter().map(|e| load(e.sessions + 1, e.weight)).fold(f64::INFINITY, f64::min);
    status.endpoints.iter().all(|e| {
        let keep = (e.target - 0.005).ceil().max((e.target * 1.03 + 0.005).floor());
        f64::from(e.sessions) <= keep || load(e.sessions - 1, e.weight) <= least + 1e-9
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_plan_never_exceeds_its_budget(
        start in start(),
        rate in 1u32..60,
        concurrent in 1u32..20,
        probe in 1u32..40,
    ) {
        let limits = Limits {
            moves_per_second_max: Some(f64::from(rate)),
            concurrent_moves_max: concurrent,
            probe_moves: probe,
            ..Limits::default()
        };
        let mut world = world(&start, limits);
        for _ in 0..40 {
            world.run_for(1);
            let status = world.planner.status(world.now);
            let moving: u32 = status.endpoints.iter().map(|e| e.moving).sum();
            prop_assert!(moving <= concurrent, "{moving} at once");
            prop_assert!(status.away + u64::from(moving) <= status.guard.away_max, "{status:?}");
        }
        let burst = (f64::from(rate) * 0.1).max(1.0) + 1.0;
        let moves = &world.log.moves;
        for (first, (from, ..)) in moves.iter().enumerate() {
            let mut sum = 0;
            for (at, _, _, count) in &moves[first..] {
                sum += count;
                let allowed = (*at - *from).as_secs_f64() * f64::from(rate) + burst;
                prop_assert!(f64::from(sum) <= allowed, "{sum} moves where {allowed} are allowed");
            }
        }
    }

    /// The world asserts it at each choice.
    #[test]
    fn a_pinned_or_cooling_session_is_never_moved(
        start in start(),
        pinned in prop::collection::vec(0u32..120, 0..60),
        cooldown_s in 0u64..100,
        drained in prop::option::of(0usize..6),
    ) {
        let limits = Limits { cooldown: Duration::from_secs(cooldown_s), ..Limits::default() };
        let mut world = world(&start, limits);
        world.pinned = pinned.into_iter().collect();
        let kept = world.sessions.iter().filter(|(client, _)| world.pinned.contains(client));
        let before: BTreeMap<_, _> = kept.map(|(client, session)| (*client, session.endpoint.clone())).collect();
        world.run_for(60);
        if let Some(index) = drained.filter(|index| *index < start.len()) {
            let list: Vec<Endpoint> = start
                .iter()
                .enumerate()
                .map(|(i, (weight, _))| {
                    let state = if i == index { EndpointState::Terminating } else { EndpointState::Ready };
                    endpoint(&name(i), *weight, state)
                })
                .collect();
            world.endpoints(&list);
        }
        world.run_for(60);
        for (client, endpoint) in before {
            prop_assert_eq!(&world.sessions[&client].endpoint, &endpoint, "client {} was pinned", client);
        }
    }

    #[test]
    fn no_endpoint_is_made_to_exceed_its_target_plus_one(start in start(), churn in prop::collection::vec(0u32..120, 0..20)) {
        let mut world = world(&start, Limits::default());
        let held: BTreeMap<String, u32> =
            start.iter().enumerate().map(|(i, (_, n))| (name(i), u32::from(*n))).collect();
        // The plan on paper.
        let all: BTreeMap<_, _> = held
            .iter()
            .map(|(id, n)| (id.as_str().into(), Movable { movable: *n, pinned: BTreeMap::new() }))
            .collect();
        let plan = world.planner.explain(world.now, &all);
        for line in &plan.endpoints {
            let gained: u32 = plan.moves.iter().filter(|m| m.to == line.id).map(|m| m.count).sum();
            let lost: u32 = plan.moves.iter().filter(|m| m.from == line.id).map(|m| m.count).sum();
            // One session on the lightest weighs as much as `weight` on this one.
            let bound = line.target + f64::from(line.weight);
            prop_assert!(gained == 0 || f64::from(line.sessions + gained) <= bound, "{plan:?}");
            prop_assert!(gained == 0 || lost == 0, "{} gives and takes: {plan:?}", line.id);
            prop_assert!(lost == 0 || f64::from(line.sessions - lost) >= line.target.floor(), "{plan:?}");
        }
        // And carried out, with equal weights: those above their target only ever lose. A session may leave meanwhile, by
        // which every share shrinks.
        if start.iter().any(|(weight, _)| *weight != 1) {
            return Ok(());
        }
        let mut left = 0;
        for client in churn {
            let before: Vec<u32> = world.planner.status(world.now).endpoints.iter().map(|e| e.sessions).collect();
            world.run_for(2);
            let status = world.planner.status(world.now);
            for (endpoint, before) in status.endpoints.iter().zip(before) {
                let bound = (endpoint.target + 1.0 + f64::from(left)).max(f64::from(before));
                prop_assert!(f64::from(endpoint.sessions) <= bound, "{endpoint:?} had {before}");
            }
            left += u32::from(world.sessions.contains_key(&client));
            world.leave(client);
        }
    }

    #[test]
    fn the_sum_of_sessions_is_conserved(
        start in start(),
        rounds in prop::collection::vec(prop::collection::vec(0u8..3, 5), 1..6),
    ) {
        let mut world = world(&start, Limits::default());
        let all = world.sessions.len();
        for states in rounds {
            let list: Vec<Endpoint> = start
                .iter()
                .zip(states)
                .enumerate()
                .filter(|(_, (_, state))| *state < 2)
                .map(|(index, ((weight, _), state))| {
                    let state = if state == 0 { EndpointState::Ready } else { EndpointState::Unready };
                    endpoint(&name(index), *weight, state)
                })
                .collect();
            world.endpoints(&list);
            for _ in 0..4 {
                world.run_for(5);
                prop_assert_eq!(world.sessions.len() + world.arrivals.len(), all);
                prop_assert_eq!(world.planner.status(world.now).sessions, world.sessions.len() as u64);
            }
        }
    }

    #[test]
    fn without_change_and_drift_nothing_ever_moves(weights in prop::collection::vec(1u16..6, 1..6), clients in 0u32..80) {
        let start: Vec<_> = weights.iter().map(|weight| (*weight, 0)).collect();
        let mut world = world(&start, Limits::default());
        // Placed one after another they are as level as they can be.
        world.connect(0..clients);
        world.run_for(24 * 3_600);
        prop_assert_eq!(&world.log.moves, &[]);
        prop_assert_eq!(world.plans_started(), []);
    }

    #[test]
    fn every_pool_converges_and_then_rests(start in start()) {
        let mut world = world(&start, Limits { cooldown: Duration::from_secs(60), ..Limits::default() });
        world.run_for(600);
        let moves = world.moves(MoveReason::Surplus);
        let status = world.planner.status(world.now);
        let beyond = |e: &balance::EndpointStatus| {
            f64::from(e.sessions) > e.target * 1.10 && f64::from(e.sessions) - e.target.floor() >= 2.0
        };
        prop_assert!(is_level(&world) || !status.endpoints.iter().any(beyond), "{:?}", status.endpoints);
        if moves > 0 {
            prop_assert!(is_level(&world), "{:?}", world.planner.status(world.now).endpoints);
        }
        prop_assert!(world.most_moves_of_one_client() <= 1);
        world.run_for(3_600);
        prop_assert_eq!(world.moves(MoveReason::Surplus), moves, "it rests afterwards");
    }
}
