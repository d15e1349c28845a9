//! Endpoints of the own zone are preferred, up to a bound, and no plan undoes it.

mod world;

use std::time::Duration;

use balance::{Limits, MoveReason, Placement, Policy, Settings, ZoneAware};
use model::{Endpoint, EndpointState, Time, Zone};
use proptest::prelude::*;

use crate::world::{World, endpoint, ready};

/// Endpoints `e0`, `e1`, ... in these zones.
fn in_zones(zones: &[&str]) -> Vec<Endpoint> {
    let place = |(mut endpoint, zone): (Endpoint, &&str)| {
        endpoint.zone = (!zone.is_empty()).then(|| Zone::from(*zone));
        endpoint
    };
    ready(zones.len()).into_iter().zip(zones).map(place).collect()
}

fn settings(imbalance_max: f64) -> Settings {
    let zone_aware = Some(ZoneAware { imbalance_max });
    Settings {
        placement: Placement { zone_aware, ..Placement::default() },
        limits: Limits { min_age: Duration::ZERO, ..Limits::default() },
        ..Settings::default()
    }
}

/// A replica in zone `a`.
fn world(imbalance_max: f64, endpoints: &[Endpoint]) -> World {
    let mut world = World::with_settings(settings(imbalance_max), endpoints);
    world.planner.handle_zone(Time::ZERO, Some("a".into()));
    world
}

fn moved(world: &World) -> u32 {
    world.moves(MoveReason::Surplus)
}

#[test]
fn the_own_zone_is_taken_until_the_bound_and_then_as_the_bound_says() {
    let mut world = world(1.25, &in_zones(&["a", "b", "c"]));
    world.connect(0..1);
    assert_eq!(world.counts(3), [1, 0, 0], "of equals that of the own zone");
    world.connect(1..3);
    assert_eq!(world.counts(3), [1, 1, 1], "a second one would be twice as many");
    world.connect(3..13);
    assert_eq!(world.counts(3), [5, 4, 4]);
    world.connect(13..1300);
    assert_eq!(world.counts(3), [500, 400, 400]);
}

#[test]
fn without_a_zone_or_without_the_key_or_with_another_policy_nobody_is_preferred() {
    let endpoints = in_zones(&["a", "b"]);
    let mut unknown = World::with_settings(settings(3.0), &endpoints);
    let mut unwanted = World::new(Limits::default(), &endpoints);
    unwanted.planner.handle_zone(Time::ZERO, Some("a".into()));
    let hashed = Settings { policy: Policy::RoundRobin, ..settings(3.0) };
    let mut other_policy = World::with_settings(hashed, &endpoints);
    other_policy.planner.handle_zone(Time::ZERO, Some("a".into()));
    let mut elsewhere = World::with_settings(settings(3.0), &endpoints);
    elsewhere.planner.handle_zone(Time::ZERO, Some("z".into()));
    for world in [&mut unknown, &mut unwanted, &mut other_policy, &mut elsewhere] {
        world.connect(0..100);
        assert_eq!(world.counts(2), [50, 50]);
    }
}

#[test]
fn a_zone_without_a_ready_endpoint_is_served_by_the_others() {
    let mut list = in_zones(&["a", "b", "c"]);
    list[0].state = EndpointState::Unready;
    let mut world = world(10.0, &list);
    world.connect(0..100);
    assert_eq!(world.counts(3), [0, 50, 50]);
}

#[test]
fn learning_the_zone_moves_nobody_and_new_sessions_make_up_for_it() {
    let mut world = World::with_settings(settings(2.0), &in_zones(&["a", "b", "c"]));
    world.connect(0..300);
    assert_eq!(world.counts(3), [100, 100, 100]);
    world.planner.handle_zone(world.now, Some("a".into()));
    world.run_for(120);
    assert_eq!(moved(&world), 0);
    world.connect(300..400);
    assert_eq!(world.counts(3), [200, 100, 100]);
}

#[test]
fn a_new_endpoint_gets_its_share_in_either_zone_and_nobody_is_moved_twice() {
    // 1200 x 1 / 4 by weight, and 1200 x 2 / 6 or 1200 x 1 / 5 as placement would have it.
    for (zone, least, most) in [("a", 300.0, 400.0), ("b", 240.0, 300.0)] {
        let mut list = in_zones(&["a", "b", "b", zone]);
        let new = list.remove(3);
        let mut world = world(2.0, &list);
        world.connect(0..1200);
        assert_eq!(world.counts(3), [600, 300, 300]);
        world.run_for(60);
        assert_eq!(moved(&world), 0, "what placement did is no surplus");
        list.push(new);
        world.endpoints(&list);
        world.run_for(300);
        assert_eq!(world.most_moves_of_one_client(), 1);
        let new = world.count("e3") as f64;
        assert!(new >= least * 0.9 && new <= most * 1.1, "{zone}: {:?}", world.counts(4));
    }
}

#[test]
fn an_endpoint_beyond_its_preferred_share_gives_the_rest_away() {
    let mut world = world(1.5, &in_zones(&["a", "b", "c"]));
    for client in 0..700 {
        let name = if client < 500 { "e0" } else { ["e1", "e2"][client as usize % 2] };
        world.place(client, name);
    }
    world.run_for(200);
    let counts = world.counts(3);
    // 700 x 1.5 / 3.5 = 300.
    assert!((300..=309).contains(&counts[0]), "{counts:?}");
    assert_eq!(world.most_moves_of_one_client(), 1);
}

/// Zones, weights and sessions of a random pool, and the bound.
fn pool() -> impl Strategy<Value = (Vec<(u8, u16)>, u32, f64)> {
    let endpoint = (0u8..3, prop_oneof![3 => Just(1u16), 1 => 1u16..6]);
    (prop::collection::vec(endpoint, 1..7), 0u32..400, 1.0f64..4.0)
}

fn listed(pool: &[(u8, u16)]) -> Vec<Endpoint> {
    let of = |(index, (zone, weight)): (usize, &(u8, u16))| {
        let mut endpoint = endpoint(&format!("e{index}"), *weight, EndpointState::Ready);
        endpoint.zone = Some(["a", "b", "c"][usize::from(*zone)].into());
        endpoint
    };
    pool.iter().enumerate().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_pick_keeps_the_bound((pool, sessions, bound) in pool()) {
        let list = listed(&pool);
        let mut world = world(bound, &list);
        for client in 0..sessions {
            let load = |index: usize, more: usize| {
                (world.count(&format!("e{index}")) + more) as f64 / f64::from(pool[index].1)
            };
            let least = (0..pool.len()).map(|index| load(index, 1)).fold(f64::INFINITY, f64::min);
            let near = (0..pool.len()).filter(|index| pool[*index].0 == 0);
            let least_near = near.map(|index| load(index, 1)).fold(f64::INFINITY, f64::min);
            world.connect(client..client + 1);
            let picked: usize = world.sessions[&client].endpoint.as_str()[1..].parse().unwrap();
            let after = (world.count(&format!("e{picked}"))) as f64 / f64::from(pool[picked].1);
            if pool[picked].0 == 0 {
                prop_assert!(after <= bound * least + 1e-9, "{after} of {least}, at most {bound} times");
            } else {
                prop_assert!((after - least).abs() < 1e-9, "elsewhere it is the least loaded one");
                // The bound is kept in thousandths.
                prop_assert!(least_near > (bound - 0.001) * least - 1e-9, "the own zone had room");
            }
        }
    }

    #[test]
    fn no_plan_undoes_what_placement_did((pool, sessions, bound) in pool()) {
        let mut world = world(bound, &listed(&pool));
        world.connect(0..sessions);
        let before = world.counts(pool.len());
        world.run_for(90);
        prop_assert_eq!(moved(&world), 0, "{:?}", before);
    }

    #[test]
    fn levelling_ends_with_the_preference_in_force_and_moves_nobody_twice(
        (pool, sessions, bound) in pool(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut world = world(bound, &listed(&pool));
        // All on one endpoint, whichever it is.
        let crowded = format!("e{}", at.index(pool.len()));
        (0..sessions).for_each(|client| world.place(client, &crowded));
        world.run_for(500);
        prop_assert!(world.most_moves_of_one_client() <= 1);
        // Long enough for those that were moved to be movable again.
        world.run_for(500);
        let so_far = moved(&world);
        world.run_for(600);
        prop_assert_eq!(moved(&world), so_far, "it rests");
    }
}
