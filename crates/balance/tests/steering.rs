//! The return guard, the pace, panic, ages and an operator's commands in virtual time.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use balance::{ClientKey, Ended, Limits, Movable, MoveReason, PoolState, Report, Trigger, Visitor};
use model::{Endpoint, EndpointId, EndpointState};

use crate::world::{World, ready};

fn settled(n: usize, clients: u32, limits: Limits) -> World {
    let mut world = World::new(limits, &ready(n));
    world.connect(0..clients);
    world.run_for(120);
    world
}

fn state(world: &World) -> PoolState {
    world.planner.status(world.now).state
}

fn unready(mut list: Vec<Endpoint>, names: &[&str]) -> Vec<Endpoint> {
    for endpoint in list.iter_mut().filter(|e| names.contains(&e.id.as_str())) {
        endpoint.state = EndpointState::Unready;
    }
    list
}

// ---- the return guard ----

#[test]
fn a_fleet_that_never_reconnects_loses_no_more_than_the_probe() {
    let mut world = settled(3, 3_000, Limits::default());
    world.lost_percent = 100;
    world.endpoints(&ready(5));
    world.run_for(300);
    assert_eq!(world.moves(MoveReason::Surplus), 16);
    assert_eq!(state(&world), PoolState::Guarded);
    let stops: Vec<_> =
        world.log.reports.iter().filter(|(_, r)| matches!(r, Report::GuardStopped { .. })).collect();
    assert_eq!(stops.len(), 1, "{:?}", world.log.reports);
    // After the back-off it tries half as many, once.
    world.run_for(700);
    assert_eq!(world.moves(MoveReason::Surplus), 24);
    assert_eq!(world.planner.status(world.now).guard.stops, 2);
}

#[test]
fn a_fleet_that_learns_to_reconnect_is_levelled_after_resume() {
    let mut world = settled(3, 600, Limits::default());
    world.lost_percent = 100;
    world.endpoints(&ready(5));
    world.run_for(100);
    assert_eq!(state(&world), PoolState::Guarded);
    world.lost_percent = 0;
    world.planner.resume(world.now);
    world.run_for(90);
    assert!(world.planner.status(world.now).imbalance <= 1.10);
    assert!(world.log.reports.iter().any(|(_, r)| *r == Report::GuardCleared));
}

#[test]
fn a_fifth_of_the_clients_staying_away_is_too_many() {
    let mut world = settled(3, 3_000, Limits::default());
    world.lost_percent = 20;
    world.endpoints(&ready(5));
    world.run_for(300);
    let moves = world.moves(MoveReason::Surplus);
    assert!(moves < 700, "{moves} of 1200 were moved before it was noticed");
    assert_eq!(state(&world), PoolState::Guarded);
}

#[test]
fn a_few_clients_that_stay_away_stop_nothing() {
    let mut world = settled(3, 3_000, Limits::default());
    world.lost_percent = 4;
    world.endpoints(&ready(5));
    world.run_for(180);
    assert!(world.planner.status(world.now).imbalance <= 1.10);
    assert_eq!(world.planner.status(world.now).guard.stops, 0);
}

#[test]
fn drains_go_on_while_the_guard_has_stopped_the_pool() {
    let mut world = settled(3, 600, Limits::default());
    world.lost_percent = 100;
    world.endpoints(&ready(5));
    world.run_for(100);
    assert_eq!(state(&world), PoolState::Guarded);
    world.planner.drain(world.now, &"e0".into(), None).expect("it is there");
    world.run_for(30);
    assert_eq!(world.count("e0"), 0);
}

// ---- the pace ----

#[test]
fn slow_handshakes_slow_the_moves_and_the_plan_still_ends() {
    let moved_after_20_s = |handshake_ms: u64| {
        let mut world = settled(3, 3_000, Limits::default());
        world.endpoints(&ready(4));
        world.run_for(12);
        let before = world.moves(MoveReason::Surplus);
        world.handshake = Duration::from_millis(handshake_ms);
        world.run_for(8);
        let moved = world.moves(MoveReason::Surplus) - before;
        let factor = world.planner.status(world.now).pace.factor;
        world.run_for(600);
        assert!(world.planner.status(world.now).imbalance <= 1.10);
        (moved, factor)
    };
    let (quick, full) = moved_after_20_s(3);
    let (slow, lowered) = moved_after_20_s(900);
    assert_eq!(full, 1.0);
    assert!(lowered <= 0.25, "the pace is at {lowered}");
    assert!(slow * 2 < quick, "{slow} moves with slow handshakes, {quick} with quick ones");
}

#[test]
fn replicas_divide_the_pace() {
    let rate = |replicas: u32| {
        let mut world = settled(2, 1_000, Limits { moves_per_second_max: Some(40.0), ..Limits::default() });
        world.planner.handle_replicas(world.now, replicas);
        world.planner.status(world.now).pace.moves_per_second
    };
    assert_eq!((rate(1), rate(4), rate(0)), (40.0, 10.0, 40.0));
    // The default is that of the tier: 2 % of 1000 sessions at each of ten replicas is 200 a second, of which 20 are ours.
    let mut world = settled(2, 1_000, Limits::default());
    world.planner.handle_replicas(world.now, 10);
    assert_eq!(world.planner.status(world.now).pace.moves_per_second, 20.0);
}

// ---- what keeps moves back ----

#[test]
fn panic_freezes_moves_that_are_under_way_and_they_go_on_afterwards() {
    let mut world = settled(3, 3_000, Limits::default());
    world.endpoints(&ready(5));
    world.run_for(14);
    let before = world.moves(MoveReason::Surplus);
    assert!(before > 0);
    world.endpoints(&unready(ready(5), &["e0", "e1", "e2"]));
    world.run_for(10);
    assert_eq!((state(&world), world.moves(MoveReason::Surplus)), (PoolState::Panic, before));
    world.endpoints(&ready(5));
    world.run_for(120);
    assert!(world.planner.status(world.now).imbalance <= 1.10);
}

#[test]
fn a_flapping_endpoint_moves_nobody_twice() {
    let mut world = settled(4, 400, Limits::default());
    for _ in 0..12 {
        world.endpoints(&ready(3));
        world.run_for(5);
        world.endpoints(&ready(4));
        world.run_for(5);
        // Some clients come and go as always.
        let (next, gone) = (world.log.opened.len() as u32 + 10_000, world.log.opened.len() as u32 - 400);
        world.connect(next..next + 3);
        world.leave(gone);
    }
    assert!(world.most_moves_of_one_client() <= 1);
    assert_eq!(world.moves(MoveReason::Surplus), 0, "it is no capacity to be filled");
    world.run_for(900);
    assert!(world.planner.status(world.now).imbalance <= 1.10, "once it is steady it takes its part");
}

// ---- ages ----

#[test]
fn sessions_beyond_their_age_are_moved_at_the_pace_and_no_others() {
    let limits = Limits {
        max_age: Some(Duration::from_secs(1_000)),
        max_age_jitter: 0.2,
        moves_per_second_max: Some(5.0),
        ..Limits::default()
    };
    let mut world = settled(2, 200, limits);
    world.run_until(799_000);
    assert_eq!(world.moves(MoveReason::MaxAge), 0, "none is 800 s old");
    world.run_until(1_000_000);
    let half = world.moves(MoveReason::MaxAge);
    assert!((70..=130).contains(&half), "{half} of 200 after their mean age");
    world.run_until(1_220_000);
    assert_eq!(world.moves(MoveReason::MaxAge), 200);
    assert_eq!(world.moves(MoveReason::Surplus), 0);
    assert_eq!(world.most_moves_of_one_client(), 1);
}

// ---- commands ----

#[test]
fn a_pause_holds_everything_but_drains_and_resume_goes_on() {
    let mut world = settled(3, 900, Limits::default());
    world.planner.pause(world.now);
    world.endpoints(&ready(5));
    world.run_for(120);
    assert_eq!((state(&world), world.log.moves.len()), (PoolState::Paused, 0));
    world.planner.drain(world.now, &"e0".into(), Some(Duration::from_secs(10))).expect("it is there");
    world.run_for(10);
    assert_eq!(world.count("e0"), 0);
    world.planner.resume(world.now);
    world.run_for(90);
    assert!(world.planner.status(world.now).imbalance <= 1.10);
}

#[test]
fn rebalance_waits_for_nothing_and_levels_within_the_band_too() {
    let mut world = settled(2, 200, Limits::default());
    // 93 and 107 are within the band in which nothing is done by itself.
    let leaving: Vec<u32> =
        world.sessions.iter().filter(|(_, s)| s.endpoint.as_str() == "e0").map(|(c, _)| *c).take(7).collect();
    leaving.iter().for_each(|client| world.leave(*client));
    for client in 0..7 {
        world.place(1_000 + client, "e1");
    }
    world.run_for(100);
    assert_eq!(world.log.moves, []);
    world.planner.rebalance(world.now);
    world.run_for(10);
    assert_eq!(world.counts(2), [97, 103], "down to the stop ratio");
    assert_eq!(world.plans_started(), [(Trigger::Command, 4)]);

    let mut world = settled(2, 200, Limits::default());
    world.endpoints(&ready(3));
    world.planner.rebalance(world.now);
    world.run_for(1);
    assert!(!world.log.moves.is_empty(), "neither settle nor min_ready is waited for");
}

#[test]
fn an_ordered_drain_lasts_until_it_is_cancelled() {
    let mut world = settled(3, 300, Limits::default());
    let unknown = world.planner.drain(world.now, &"e9".into(), None).expect_err("there is none");
    assert_eq!(unknown.to_string(), "there is no endpoint e9; there are: e0, e1, e2");
    let deadline = world.planner.drain(world.now, &"e1".into(), Some(Duration::from_secs(8)));
    assert_eq!(deadline, Ok(Duration::from_secs(8)));
    world.run_for(8);
    assert_eq!(world.count("e1"), 0);
    world.endpoints(&ready(3));
    world.run_for(60);
    assert_eq!(world.count("e1"), 0, "discovery's word does not end it");
    world.planner.cancel_drain(world.now, &"e1".into()).expect("it is there");
    world.connect(1_000..1_003);
    assert!(world.count("e1") > 0, "it was ordered, so it is not on probation");
    // Those that were moved cool down first.
    world.run_for(700);
    assert!(world.planner.status(world.now).imbalance <= 1.10);
}

#[test]
fn an_ordered_drain_goes_on_when_its_endpoint_leaves_the_list() {
    let mut world = settled(3, 300, Limits::default());
    world.planner.drain(world.now, &"e2".into(), Some(Duration::from_secs(20))).expect("it is there");
    world.run_for(8);
    let left = world.count("e2");
    world.endpoints(&ready(2));
    world.run_for(4);
    assert!(world.count("e2") < left, "it does not pause for settle");
    world.run_for(8);
    assert_eq!(world.count("e2"), 0, "by the deadline of the order");
    // Who comes back under that name is somebody else.
    world.endpoints(&ready(3));
    world.run_for(700);
    assert!(world.count("e2") > 90);
}

#[test]
fn a_client_that_was_not_there_is_nobody_to_wait_for() {
    let mut world = settled(2, 100, Limits::default());
    let client = *world.sessions.keys().next().expect("there are some");
    let endpoint = world.sessions[&client].endpoint.clone();
    let visitor = Visitor { client: ClientKey(u128::from(client)), moves: 0 };
    world.planner.handle_moves_began(world.now, &endpoint, 1, 1);
    world.planner.handle_leaving(world.now, &endpoint, visitor);
    assert_eq!(world.planner.status(world.now).away, 1);
    world.sessions.remove(&client);
    world.planner.handle_closed(world.now, &endpoint, Ended::Unanswered, visitor);
    let status = world.planner.status(world.now);
    assert_eq!((status.away, status.sessions, status.moves.moved, status.moves.left), (0, 99, 0, 1));
    world.run_for(60);
    assert_eq!(world.planner.status(world.now).moves.outcomes.never_returned, 0);
}

#[test]
fn a_dry_run_tells_every_move_and_moves_nothing() {
    let mut world = settled(3, 600, Limits::default());
    world.endpoints(&ready(4));
    let sessions: BTreeMap<EndpointId, Movable> = (0..3)
        .map(|n| {
            let (movable, pinned) = if n == 0 { (20, 180) } else { (200, 0) };
            (
                format!("e{n}").as_str().into(),
                Movable { movable, pinned: BTreeMap::from([("opaque", pinned)]) },
            )
        })
        .collect();
    let plan = world.planner.explain(world.now, &sessions);
    assert_eq!(plan.state, PoolState::Settling);
    assert!(plan.moves.iter().all(|line| line.to.as_str() == "e3" && line.reason == MoveReason::Surplus));
    let from = |name: &str| plan.moves.iter().find(|line| line.from.as_str() == name).map(|line| line.count);
    assert_eq!((from("e0"), from("e1"), from("e2")), (Some(20), Some(50), Some(50)), "{plan:?}");
    assert_eq!(plan.moves_total, 120);
    assert_eq!(plan.endpoints[0].pinned["opaque"], 180);
    assert_eq!(world.log.moves, []);
}
