//! Sessions that go to another endpoint while their client stays: counts, what is remembered, and how often one is tried.

mod world;

use std::time::Duration;

use balance::{
    Action, Admission, ClientKey, Ended, Limits, MoveReason, Planner, Purpose, Refusal, Request, Settings,
    Visitor,
};
use model::{Endpoint, EndpointId, EndpointState, Time};
use proptest::prelude::*;

use crate::world::{World, endpoint, ready};

const CLIENT: ClientKey = ClientKey(7);
const VISITOR: Visitor = Visitor { client: CLIENT, moves: 2 };

fn planner(settings: Settings, endpoints: &[Endpoint]) -> Planner {
    let mut planner = Planner::new(settings, 1);
    planner.handle_endpoints(Time::ZERO, endpoints);
    planner
}

fn pick(planner: &mut Planner, purpose: Purpose, tried: &[EndpointId]) -> Result<EndpointId, Refusal> {
    let request = Request { client: CLIENT, purpose, hash: None, tried };
    planner.pick(Time::ZERO, &request).map(|pick| pick.endpoint)
}

fn open(planner: &mut Planner) -> EndpointId {
    let endpoint = pick(planner, Purpose::Session, &[]).expect("one is ready");
    planner.handle_opened(Time::ZERO, &endpoint, CLIENT, Duration::from_millis(2));
    endpoint
}

/// Sessions, moving, pending of each endpoint, by id.
fn counts(planner: &Planner) -> Vec<(u32, u32, u32)> {
    let status = planner.status(Time::ZERO);
    status.endpoints.iter().map(|e| (e.sessions, e.moving, e.pending)).collect()
}

/// When the last of ten sessions is asked to leave an endpoint that has 20 s for its drain.
fn last_asked(migrates: bool) -> Duration {
    let limits = Limits { drain_deadline: Duration::from_secs(20), ..Limits::default() };
    let mut planner = planner(Settings { limits, migrates, ..Settings::default() }, &ready(1));
    (0..10).for_each(|_| drop(open(&mut planner)));
    let draining = endpoint("e0", 1, EndpointState::Terminating);
    let other = endpoint("e1", 1, EndpointState::Ready);
    planner.handle_endpoints(Time::ZERO, &[draining, other]);
    let (mut asked, mut now) = (0, Time::ZERO);
    while asked < 10 {
        now += Duration::from_millis(20);
        assert!(now < Time::from_millis(20_000), "the deadline has passed, {asked} were asked");
        while let Some(action) = planner.poll_action(now) {
            let Action::Move(plan) = action else { continue };
            assert_eq!(plan.reason, MoveReason::Draining);
            planner.handle_moves_began(now, &plan.from, plan.count, plan.count);
            asked += plan.count;
        }
    }
    now.since(Time::ZERO)
}

#[test]
fn a_drain_asks_what_migrates_in_its_first_half_since_its_clients_may_need_the_other() {
    assert!(last_asked(true) <= Duration::from_secs(10));
    assert!(last_asked(false) > Duration::from_secs(13), "what is closed goes at an even pace");
}

#[test]
fn a_session_that_migrates_changes_its_place_and_nobody_is_away() {
    let limits = Limits { max_age: Some(Duration::from_secs(60)), max_age_jitter: 0.0, ..Limits::default() };
    let mut planner = planner(Settings { limits, ..Settings::default() }, &ready(1));
    let from = open(&mut planner);
    planner.handle_endpoints(Time::ZERO, &ready(2));
    planner.begin_moves_unasked(Time::ZERO, &from, 1);
    let to = pick(&mut planner, Purpose::Migration, std::slice::from_ref(&from)).expect("the other is ready");
    assert_eq!(counts(&planner), [(1, 1, 0), (0, 0, 1)], "counted where it is until it is taken over");
    let now = Time::from_millis(5_000);
    let opened = planner.handle_migrated(now, &from, &to, VISITOR);
    assert_eq!(counts(&planner), [(0, 0, 0), (1, 0, 0)]);
    assert_eq!(opened.cooling_until, now + Limits::default().cooldown);
    assert_eq!((opened.moves, opened.expires_at), (3, Some(now + Duration::from_secs(60))));
    let status = planner.status(now);
    assert_eq!((status.sessions, status.away, status.admission.admitted), (1, 0, 1));
    let moves = status.moves;
    assert_eq!((moves.began, moves.migrated, moves.moved, moves.aborted), (1, 1, 0, 0));
    assert_eq!((status.guard.judged, status.guard.returned), (0, 0));
    planner.handle_closed(now, &to, Ended::Left, VISITOR);
    assert_eq!(counts(&planner), [(0, 0, 0), (0, 0, 0)]);
}

#[test]
fn a_session_whose_endpoint_failed_is_replaced_without_a_move() {
    let mut planner = planner(Settings::default(), &ready(2));
    let from = open(&mut planner);
    let to = pick(&mut planner, Purpose::Migration, std::slice::from_ref(&from)).expect("the other is ready");
    planner.handle_replaced(Time::ZERO, &from, &to, VISITOR);
    let at = |name: &EndpointId| usize::from(name.as_str() == "e1");
    assert_eq!(counts(&planner)[at(&to)], (1, 0, 0));
    assert_eq!(counts(&planner)[at(&from)], (0, 0, 0));
    let moves = planner.status(Time::ZERO).moves;
    assert_eq!((moves.began, moves.migrated), (0, 0));
}

#[test]
fn a_session_that_migrates_is_neither_admitted_nor_refused() {
    let admission = Admission { sessions_per_second: Some(1.0), ..Settings::default().admission };
    let mut planner = planner(Settings { admission, ..Settings::default() }, &ready(2));
    while pick(&mut planner, Purpose::Session, &[]).is_ok() {}
    let before = planner.status(Time::ZERO).admission;
    for _ in 0..100 {
        let to = pick(&mut planner, Purpose::Migration, &["e0".into()]);
        assert_eq!(to, Ok("e1".into()));
    }
    let nowhere = pick(&mut planner, Purpose::Migration, &["e0".into(), "e1".into()]);
    assert_eq!(nowhere, Err(Refusal::NoEndpoint));
    assert_eq!(planner.status(Time::ZERO).admission, before);
}

#[test]
fn a_new_endpoint_is_filled_by_migrations_and_nobody_is_away() {
    let mut world = World::new(Limits::default(), &ready(2));
    world.migrates = true;
    world.connect(0..300);
    world.run_for(120);
    world.endpoints(&ready(3));
    world.run_for(120);
    let counts = world.counts(3);
    assert!(counts.iter().all(|n| (94..=103).contains(n)), "inside the band: {counts:?}");
    let status = world.planner.status(world.now);
    assert_eq!((status.moves.moved, status.away, status.sessions), (0, 0, 300));
    assert_eq!(status.moves.migrated, counts[2] as u64, "nobody was moved in vain");
    assert_eq!(world.most_moves_of_one_client(), 1);
    assert_eq!(world.log.opened.len(), 300, "every client has come once");
}

#[test]
fn a_draining_endpoint_is_emptied_by_migrations_before_its_deadline() {
    let mut world = World::new(Limits::default(), &ready(3));
    world.migrates = true;
    world.aborted_percent = 30;
    world.connect(0..300);
    world.run_for(10);
    let mut list = ready(3);
    list[1].state = EndpointState::Terminating;
    world.endpoints(&list);
    let deadline = Limits::default().drain_deadline.as_secs();
    world.run_for(deadline);
    assert_eq!(world.count("e1"), 0);
    assert_eq!(world.planner.status(world.now).moves.moved, 0);
}

#[test]
fn sessions_whose_migrations_are_always_given_up_are_tried_at_a_sane_pace() {
    let mut world = World::new(Limits::default(), &ready(1));
    world.migrates = true;
    world.aborted_percent = 100;
    world.move_takes = Duration::from_millis(1);
    world.connect(0..10);
    world.run_for(60);
    world.endpoints(&ready(2));
    world.run_for(60);
    let surplus = world.moves(MoveReason::Surplus);
    assert!((10..=80).contains(&surplus), "{surplus} tries in a minute");
    let mut list = ready(2);
    list[0].state = EndpointState::Terminating;
    world.endpoints(&list);
    let deadline = Limits::default().drain_deadline;
    world.run_for(deadline.as_secs());
    let tries = world.moves(MoveReason::Draining);
    // Ten sessions, each with a rest of seconds that shrink with the time that is left.
    assert!((10..=10 * 40).contains(&tries), "{tries} tries in {deadline:?}");
    assert_eq!(world.count("e0"), 10);
}

#[test]
fn a_rehearsal_moves_everybody_whatever_their_cooldown() {
    let mut world = World::new(Limits::default(), &ready(2));
    world.migrates = true;
    world.connect(0..20);
    for round in 1..=5 {
        world.rehearse("e0");
        world.rehearse("e1");
        world.run_for(1);
        assert_eq!(world.planner.status(world.now).moves.migrated, round * 20);
    }
    assert_eq!(world.counts(2).iter().sum::<usize>(), 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The world compares every count with its own at each step.
    #[test]
    fn no_count_leaks_and_nobody_is_lost_whatever_happens_to_migrations(
        start in prop::collection::vec(0u32..25, 1..5),
        aborted in 0u64..=100,
        rounds in prop::collection::vec((prop::collection::vec(0u8..3, 5), 0u32..120, 0u8..8), 1..6),
    ) {
        let names: Vec<String> = (0..start.len()).map(|index| format!("e{index}")).collect();
        let limits = Limits { min_age: Duration::ZERO, ..Limits::default() };
        let mut world = World::new(limits, &ready(start.len()));
        world.migrates = true;
        world.aborted_percent = aborted;
        world.move_takes = Duration::from_millis(700);
        let mut all: u32 = 0;
        for (name, count) in names.iter().zip(&start) {
            (all..all + count).for_each(|client| world.place(client, name));
            all += count;
        }
        let mut left = 0;
        for (states, leaver, rehearsed) in rounds {
            let list: Vec<Endpoint> = names
                .iter()
                .zip(states)
                .map(|(name, state)| {
                    let state = match state {
                        0 => EndpointState::Ready,
                        1 => EndpointState::Unready,
                        _ => EndpointState::Terminating,
                    };
                    endpoint(name, 1, state)
                })
                .collect();
            world.endpoints(&list);
            world.run_for(3);
            if let Some(name) = names.get(usize::from(rehearsed)) {
                world.rehearse(name);
            }
            world.run_until(world.now.as_nanos() / 1_000_000 + 300);
            left += usize::from(world.sessions.contains_key(&leaver));
            world.leave(leaver);
            world.run_for(3);
            prop_assert_eq!(world.sessions.len() + left, all as usize);
        }
        let status = world.planner.status(world.now);
        prop_assert_eq!((status.moves.moved, status.away), (0, 0));
    }
}
