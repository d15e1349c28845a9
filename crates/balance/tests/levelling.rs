//! Surplus moves in virtual time: what a scale-out costs, that it ends, and that nothing moves without need.

mod world;

use std::time::Duration;

use balance::{Limits, MoveReason, Policy, Settings, Trigger};
use model::{EndpointState, Time};

use crate::world::{World, endpoint, ready};

/// Two minutes in, every session is old enough to be moved.
const OLD_ENOUGH_S: u64 = 120;

fn settled(n: usize, clients: u32) -> World {
    let mut world = World::new(Limits::default(), &ready(n));
    world.connect(0..clients);
    world.run_for(OLD_ENOUGH_S);
    assert_eq!(world.log.moves, [], "a level pool is left alone");
    world
}

/// Scales from `old` to `new` and gives the moves in terms of the floor N - N x old/new.
fn scale_out(world: &mut World, old: usize, new: usize) -> f64 {
    let floor = world.sessions.len() as f64 * (1.0 - old as f64 / new as f64);
    world.endpoints(&ready(new));
    world.run_for(90);
    f64::from(world.moves(MoveReason::Surplus)) / floor
}

fn assert_level(world: &World) {
    let status = world.planner.status(world.now);
    assert!(status.imbalance <= 1.10, "imbalance {}: {:?}", status.imbalance, status.endpoints);
    assert_eq!(status.moves.outcomes.returned_to_donor, 0);
    assert!(world.most_moves_of_one_client() <= 1);
}

#[test]
fn a_scale_out_from_3_to_5_moves_the_surplus_once_and_little_more() {
    let mut world = settled(3, 3_000);
    let share = scale_out(&mut world, 3, 5);
    assert!((0.9..=1.1).contains(&share), "moves are {share} of the floor");
    assert_level(&world);
}

#[test]
fn a_scale_out_is_level_within_30_seconds() {
    let mut world = settled(3, 3_000);
    world.endpoints(&ready(5));
    world.run_for(30);
    assert_level(&world);
}

#[test]
fn clients_that_take_their_time_to_return_cause_no_further_moves() {
    let mut world = settled(3, 3_000);
    // At 60 moves a second about 900 of the 3000 are away at once.
    world.away_ms = (5_000, 25_000);
    let share = scale_out(&mut world, 3, 5);
    world.run_for(120);
    // The fleet is closed, so even one move above the floor would be a move without need.
    assert!((0.9..=1.0).contains(&share), "moves are {share} of the floor");
    assert_eq!(world.planner.status(world.now).moves.outcomes.never_returned, 0);
    assert_level(&world);
}

#[test]
fn small_pools_converge_without_a_flip() {
    for (old, new, clients) in
        [(1, 2, 100), (2, 3, 100), (1, 2, 7), (2, 3, 10), (1, 3, 1_000), (9, 10, 5_000)]
    {
        let mut world = settled(old, clients);
        world.endpoints(&ready(new));
        world.run_for(90);
        let moves = world.moves(MoveReason::Surplus);
        let most = clients.div_ceil(u32::try_from(new).expect("few")) as usize;
        let counts = world.counts(new);
        let band = (most as f64 * 1.04).ceil() as usize;
        assert!(counts.iter().all(|n| *n <= band), "{old} to {new}: {counts:?}");
        assert_level_or_whole(&counts, most);
        world.run_for(7_200);
        assert_eq!(world.moves(MoveReason::Surplus), moves, "{old} to {new}: it rests afterwards");
        assert!(world.most_moves_of_one_client() <= 1);
    }
}

/// No endpoint is above its whole share by more than the stop ratio allows.
fn assert_level_or_whole(counts: &[usize], whole: usize) {
    let worst = counts.iter().max().copied().unwrap_or(0);
    assert!(worst <= whole || worst as f64 <= whole as f64 * 1.04, "{counts:?}");
}

#[test]
fn two_clients_on_five_endpoints_get_one_each() {
    let mut world = World::new(Limits::default(), &ready(5));
    world.connect(0..2);
    assert!(world.counts(5).iter().all(|n| *n <= 1));
    world.run_for(600);
    assert_eq!(world.log.moves, []);

    let mut world = settled(1, 2);
    world.endpoints(&ready(5));
    world.run_for(60);
    assert!(world.counts(5).iter().all(|n| *n <= 1), "{:?}", world.counts(5));
    assert_eq!(world.moves(MoveReason::Surplus), 1);
}

#[test]
fn five_clients_on_two_endpoints_get_three_and_two() {
    let mut world = settled(1, 5);
    world.endpoints(&ready(2));
    world.run_for(60);
    let mut counts = world.counts(2);
    counts.sort_unstable();
    assert_eq!(counts, [2, 3]);
    assert_eq!(world.moves(MoveReason::Surplus), 2);
    world.run_for(7_200);
    assert_eq!(world.moves(MoveReason::Surplus), 2);
}

#[test]
fn weights_decide_the_shares() {
    let mut world = settled(2, 1_000);
    let mut list = ready(2);
    list.push(endpoint("e2", 3, EndpointState::Ready));
    world.endpoints(&list);
    world.run_for(120);
    let counts = world.counts(3);
    assert!(counts[0] <= 206 && counts[1] <= 206 && counts[2] >= 588, "{counts:?}");
    assert!(world.moves(MoveReason::Surplus) <= 660);
}

#[test]
fn a_scale_out_keeps_the_pace_and_the_bound_of_concurrent_moves() {
    let limits = Limits { moves_per_second_max: Some(20.0), concurrent_moves_max: 5, ..Limits::default() };
    let mut world = World::new(limits, &ready(1));
    world.connect(0..400);
    world.run_for(OLD_ENOUGH_S);
    world.move_takes = Duration::from_millis(400);
    world.endpoints(&ready(2));
    let start = world.now;
    for _ in 0..60 {
        world.run_for(1);
        let moving: u32 = world.planner.status(world.now).endpoints.iter().map(|e| e.moving).sum();
        assert!(moving <= 5, "{moving} at once");
        let so_far = f64::from(world.moves(MoveReason::Surplus));
        let seconds = (world.now - start).as_secs_f64();
        assert!(so_far <= 20.0 * seconds + 2.0, "{so_far} in {seconds} s");
    }
    assert_level(&world);
}

#[test]
fn endpoints_that_come_within_the_settle_time_are_one_plan() {
    let mut world = settled(2, 600);
    world.endpoints(&ready(3));
    world.run_for(4);
    world.endpoints(&ready(4));
    // Each has to be ready for 10 s; the first waits for the second.
    world.run_for(9);
    assert_eq!(world.log.moves, []);
    world.run_for(60);
    assert_level(&world);
    assert_eq!(world.plans_started(), [(Trigger::Endpoints, 292)], "600 - 2 x 154, the stop ratio of 150");
}

#[test]
fn changes_that_never_end_do_not_put_levelling_off_for_ever() {
    let mut world = settled(2, 600);
    for step in 0..70 {
        let mut list = ready(4);
        list[3].weight = model::Weight::new(1 + step % 2).expect("the weight is valid");
        world.endpoints(&list);
        world.run_for(1);
    }
    assert!(!world.log.moves.is_empty());
}

#[test]
fn nothing_moves_for_balance_just_after_an_endpoint_vanished() {
    let mut world = settled(3, 900);
    world.endpoints(&[ready(3), ready(5)[4..].to_vec()].concat());
    world.run_for(11);
    let before = world.log.moves.len();
    assert!(before > 0, "levelling towards e4 has begun");
    world.endpoints(&ready(2));
    world.run_for(4);
    assert_eq!(world.log.moves.len(), before, "nor is it drained before it is given up");
    world.endpoints(&[ready(3), ready(5)[4..].to_vec()].concat());
    world.run_for(120);
    assert_eq!(world.moves(MoveReason::Draining), 0, "they were back in time");
    assert!(world.planner.status(world.now).imbalance <= 1.10);
}

#[test]
fn half_of_the_endpoints_unready_for_ten_seconds_moves_nothing() {
    let mut world = settled(4, 400);
    let mut list = ready(4);
    list[0].state = EndpointState::Unready;
    list[1].state = EndpointState::Unready;
    world.endpoints(&list);
    world.run_for(10);
    world.endpoints(&ready(4));
    world.run_for(120);
    assert_eq!(world.log.moves, []);
    assert_eq!(world.sessions.len(), 400);
}

#[test]
fn disabled_means_that_nothing_moves_for_balance() {
    let mut world = World::new(Limits { enabled: false, ..Limits::default() }, &ready(1));
    world.connect(0..100);
    world.run_for(OLD_ENOUGH_S);
    world.endpoints(&ready(4));
    world.run_for(600);
    assert_eq!(world.log.moves, []);
    world.planner.reconfigure(world.now, Settings::default());
    world.run_for(60);
    assert_level(&world);
}

#[test]
fn young_sessions_are_asked_for_again_and_move_when_they_are_old_enough() {
    let mut world = World::new(Limits::default(), &ready(1));
    world.connect(0..100);
    world.run_for(10);
    world.endpoints(&ready(2));
    world.run_until(59_000);
    assert_eq!(world.moves(MoveReason::Surplus), 0);
    let asked = world.log.moves.len();
    assert!((4..=8).contains(&asked), "less and less often from 20 s to 59 s, not {asked} times");
    world.run_until(90_000);
    assert_level(&world);
    assert_eq!(world.counts(2), [51, 49], "stop_ratio 1.03 of 50 is 51");
}

#[test]
fn sessions_that_may_not_move_for_long_move_when_that_is_over() {
    let mut world = World::new(Limits { min_age: Duration::from_secs(900), ..Limits::default() }, &ready(2));
    world.connect(0..200);
    world.run_for(10);
    world.endpoints(&ready(3));
    world.run_until(899_000);
    let asked = world.log.moves.len();
    assert!((10..=120).contains(&asked), "now and then, not {asked} times in 15 minutes");
    assert_eq!(world.plans_started(), [], "a plan that moves nothing is not told of");
    world.run_until(1_000_000);
    assert_level(&world);
}

#[test]
fn drift_is_found_by_the_periodic_check() {
    let mut world = settled(2, 400);
    let leaving: Vec<u32> = world
        .sessions
        .iter()
        .filter(|(_, s)| s.endpoint.as_str() == "e0")
        .map(|(c, _)| *c)
        .take(150)
        .collect();
    leaving.into_iter().for_each(|client| world.leave(client));
    assert_eq!(world.counts(2), [50, 200]);
    world.run_for(60);
    assert!(world.counts(2)[1] <= 129, "{:?}", world.counts(2));
    assert_level(&world);
}

#[test]
fn an_endless_random_pick_is_not_chased() {
    // Moved clients land anywhere: the cooldown bounds what that can cost.
    let mut world = World::with_policy(Policy::Random, Limits::default(), &ready(5));
    world.connect(0..1_000);
    world.run_for(590);
    assert!(world.most_moves_of_one_client() <= 1);
    assert_eq!(world.sessions.len(), 1_000);
    assert!(world.now > Time::ZERO);
}
