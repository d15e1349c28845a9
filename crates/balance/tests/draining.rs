//! Draining in virtual time: empty by the deadline, evenly, wherever the sessions can go.

mod world;

use std::time::Duration;

use balance::{Limits, MoveReason};
use model::{Endpoint, EndpointState};

use crate::world::{World, ready};

fn draining(mut list: Vec<Endpoint>, names: &[&str]) -> Vec<Endpoint> {
    for endpoint in list.iter_mut().filter(|e| names.contains(&e.id.as_str())) {
        endpoint.state = EndpointState::Terminating;
    }
    list
}

fn pool(n: usize, clients: u32) -> World {
    let mut world = World::new(Limits::default(), &ready(n));
    world.connect(0..clients);
    // Young sessions: draining asks nobody how long they have been here.
    world.run_for(10);
    world
}

#[test]
fn a_scale_in_from_5_to_3_is_done_by_the_deadline_and_level() {
    let mut world = pool(5, 3_000);
    world.endpoints(&draining(ready(5), &["e3", "e4"]));
    world.run_for(28);
    assert_eq!(world.counts(5)[3..], [0, 0]);
    assert_eq!(world.moves(MoveReason::Draining), 1_200);
    assert_eq!(world.moves(MoveReason::Surplus), 0);
    assert!(world.planner.status(world.now).imbalance <= 1.03);
    assert!(world.most_moves_of_one_client() <= 1 && world.log.refused.is_empty());
}

#[test]
fn an_endpoint_that_vanished_is_drained_like_one_that_said_so() {
    let mut world = pool(3, 300);
    world.endpoints(&ready(2));
    let names = |world: &World| world.planner.status(world.now).endpoints.len();
    assert_eq!(names(&world), 3, "it is kept while it has sessions");
    world.run_for(28);
    assert_eq!(world.count("e2"), 0);
    assert_eq!(names(&world), 2, "and forgotten with the last one");
}

#[test]
fn a_drain_is_even() {
    let mut world = pool(2, 2_000);
    world.endpoints(&draining(ready(2), &["e1"]));
    let mut before = 0;
    // 1000 sessions in 24 s: the deadline without its margin of a fifth.
    for second in 0..24 {
        world.run_for(1);
        let now = world.moves(MoveReason::Draining);
        assert!((30..=55).contains(&(now - before)), "{} in second {second}", now - before);
        before = now;
    }
    assert_eq!(before, 1_000);
}

#[test]
fn with_nowhere_to_go_sessions_stay_until_two_seconds_before_the_deadline() {
    let mut world = pool(2, 200);
    world.endpoints(&draining(ready(2), &["e0", "e1"]));
    world.run_for(27);
    assert_eq!(world.log.moves, []);
    world.run_for(3);
    assert_eq!(world.moves(MoveReason::Draining), 200, "all were told by the deadline");
    assert!(!world.log.refused.is_empty());
    world.endpoints(&ready(3)[2..]);
    world.run_for(30);
    assert_eq!((world.sessions.len(), world.count("e2")), (200, 200), "all are back");
}

#[test]
fn an_endpoint_that_comes_in_time_takes_those_that_were_held_back() {
    let mut world = pool(2, 200);
    world.endpoints(&draining(ready(2), &["e0", "e1"]));
    world.run_for(10);
    world.endpoints(&draining(ready(3), &["e0", "e1"]));
    world.run_for(20);
    assert_eq!(world.counts(3), [0, 0, 200]);
    assert!(world.log.refused.is_empty());
}

#[test]
fn a_drain_that_is_called_off_stops() {
    let mut world = pool(2, 1_000);
    world.endpoints(&draining(ready(2), &["e1"]));
    world.run_for(5);
    let moved = world.moves(MoveReason::Draining);
    assert!(moved > 0 && moved < 200, "{moved}");
    world.endpoints(&ready(2));
    world.run_for(60);
    assert_eq!(world.moves(MoveReason::Draining), moved);
}

#[test]
fn draining_needs_neither_rebalancing_nor_a_free_pace() {
    let limits = Limits {
        enabled: false,
        moves_per_second_max: Some(0.1),
        concurrent_moves_max: 1,
        drain_deadline: Duration::from_secs(5),
        ..Limits::default()
    };
    let mut world = World::new(limits, &ready(2));
    world.connect(0..1_000);
    world.endpoints(&draining(ready(2), &["e1"]));
    world.run_for(5);
    assert_eq!(world.counts(2), [1_000, 0]);
}

#[test]
fn a_rolling_restart_moves_a_session_twice_at_most_and_ends_level() {
    let mut world = pool(5, 1_000);
    world.run_for(120);
    let name = |i: usize, version: usize| format!("v{version}-{i}");
    let mut pods = ready(5);
    for i in 0..5 {
        // Surge first: the new one is ready when the old one begins to go.
        let mut fresh = pods[i].clone();
        fresh.id = name(i, 2).as_str().into();
        pods.push(fresh);
        world.endpoints(&pods);
        world.run_for(3);
        pods[i].state = EndpointState::Terminating;
        world.endpoints(&pods);
        world.run_for(33);
    }
    world.endpoints(&pods[5..]);
    world.run_for(300);
    let status = world.planner.status(world.now);
    assert_eq!(status.endpoints.len(), 5);
    assert!(status.imbalance <= 1.10, "{status:?}");
    assert!(world.most_moves_of_one_client() <= 2, "{}", world.most_moves_of_one_client());
    assert_eq!(world.sessions.len(), 1_000);
}
