//! Where new sessions go, call by call: policies, caps, slow start, ejection, panic, probation, admission; and that a
//! pick allocates nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use balance::{
    Action, Admission, ClientKey, Ended, Limits, Placement, Planner, Policy, Purpose, Refusal, Report,
    Request, Settings, Visitor,
};
use model::{Endpoint, EndpointId, EndpointState, Time, Weight};

const TOOK: Duration = Duration::from_millis(2);

fn endpoint(name: &str, weight: u16, state: EndpointState) -> Endpoint {
    let address = "127.0.0.1:80".parse().expect("the address is valid");
    let weight = Weight::new(weight).expect("the weight is valid");
    Endpoint { weight, state, ..Endpoint::new(name, address) }
}

fn ready(names: &[&str]) -> Vec<Endpoint> {
    names.iter().map(|name| endpoint(name, 1, EndpointState::Ready)).collect()
}

fn planner(settings: Settings, endpoints: &[Endpoint]) -> Planner {
    let mut planner = Planner::new(settings, 7);
    planner.handle_endpoints(Time::ZERO, endpoints);
    planner
}

fn placement(placement: Placement) -> Settings {
    Settings { placement, ..Settings::default() }
}

fn policy(policy: Policy) -> Settings {
    Settings { policy, ..Settings::default() }
}

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1_000)
}

fn request(client: u128) -> Request<'static> {
    Request { client: ClientKey(client), purpose: Purpose::Session, hash: None, tried: &[] }
}

/// Picks and opens; where it went.
fn open(planner: &mut Planner, now: Time, client: u128) -> Result<String, Refusal> {
    let pick = planner.pick(now, &request(client))?;
    planner.handle_opened(now, &pick.endpoint, ClientKey(client), TOOK);
    Ok(pick.endpoint.to_string())
}

fn counts(planner: &Planner) -> BTreeMap<String, u32> {
    planner.status(at(0)).endpoints.iter().map(|e| (e.id.to_string(), e.sessions)).collect()
}

fn reports(planner: &mut Planner, now: Time) -> Vec<Report> {
    let mut reports = Vec::new();
    while let Some(action) = planner.poll_action(now) {
        if let Action::Tell(report) = action {
            reports.push(report);
        }
    }
    reports
}

fn withheld(planner: &Planner, now: Time, name: &str) -> &'static str {
    planner.status(now).endpoints.iter().find(|e| e.id.as_str() == name).map_or("gone", |e| e.withheld)
}

// ---- policies ----

#[test]
fn a_pick_allocates_nothing_whatever_the_policy() {
    let names: Vec<String> = (0..1_000).map(|n| format!("e{n}")).collect();
    let list = ready(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for kind in
        [Policy::LeastConnections, Policy::P2c, Policy::Random, Policy::RoundRobin, Policy::ConsistentHash]
    {
        let mut planner = planner(policy(kind), &list);
        let tried: [EndpointId; 2] = ["e1".into(), "e2".into()];
        let allocations = allocation_counter::measure(|| {
            for client in 0..1_000 {
                let request = Request { tried: &tried, ..request(client) };
                assert!(planner.pick(at(1), &request).is_ok());
            }
        });
        assert_eq!(allocations.count_total, 0, "{kind:?}");
    }
}

#[test]
fn two_choices_are_far_more_even_than_one() {
    let names: Vec<String> = (0..20).map(|n| format!("e{n:02}")).collect();
    let list = ready(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let spread = |kind| {
        let mut planner = planner(policy(kind), &list);
        (0..2_000).for_each(|client| drop(open(&mut planner, at(1), client)));
        let counts = counts(&planner);
        counts.values().max().unwrap() - counts.values().min().unwrap()
    };
    let (one, two) = (spread(Policy::Random), spread(Policy::P2c));
    assert!(two <= 8 && one >= 25, "spread {two} with two choices, {one} with one");
}

#[test]
fn a_key_goes_to_the_same_endpoint_and_comes_back_to_it_after_a_drain() {
    let list = ready(&["a", "b", "c", "d"]);
    let mut planner = planner(policy(Policy::ConsistentHash), &list);
    let home = |planner: &mut Planner, now: Time, key: u64| {
        let request = Request { hash: Some(balance::hash_key(&key.to_le_bytes())), ..request(1) };
        let pick = planner.pick(now, &request).expect("all are ready");
        planner.handle_released(now, &pick.endpoint);
        pick.endpoint.to_string()
    };
    let before: Vec<_> = (0..200).map(|key| home(&mut planner, at(1), key)).collect();
    assert!((0..200).all(|key| home(&mut planner, at(2), key) == before[key as usize]));
    let without_b: Vec<_> = list.iter().filter(|e| e.id.as_str() != "b").cloned().collect();
    planner.handle_endpoints(at(3), &without_b);
    for key in 0..200 {
        let now = home(&mut planner, at(4), key);
        let was = &before[key as usize];
        assert!(now != "b" && (was == "b" || now == *was), "key {key} went from {was} to {now}");
    }
    planner.handle_endpoints(at(5), &list);
    // Back soon, it is on probation; then it has its keys again.
    assert!((0..200).all(|key| home(&mut planner, at(6), key) != "b"));
    assert!((0..200).all(|key| home(&mut planner, at(600), key) == before[key as usize]));
}

#[test]
fn a_popular_key_never_overloads_its_endpoint() {
    let mut planner = planner(policy(Policy::ConsistentHash), &ready(&["a", "b", "c", "d"]));
    for client in 0..400 {
        let request = Request { hash: Some(42), ..request(client) };
        let pick = planner.pick(at(1), &request).expect("all are ready");
        planner.handle_opened(at(1), &pick.endpoint, ClientKey(client), TOOK);
    }
    let counts = counts(&planner);
    assert!(counts.values().all(|n| *n <= 125), "at most 1.25 x 100: {counts:?}");
    // And what the bound allows is no surplus.
    assert!(reports(&mut planner, at(100)).is_empty());
}

#[test]
fn a_moved_client_is_not_put_back_on_its_donor_while_that_has_its_share() {
    let mut planner = planner(policy(Policy::Random), &ready(&["a", "b"]));
    for client in 0..40 {
        planner.handle_opened(at(1), &"a".into(), ClientKey(client), TOOK);
    }
    for client in 0..15 {
        planner.handle_moves_began(at(2), &"a".into(), 1, 1);
        planner.handle_closed(
            at(2),
            &"a".into(),
            Ended::Moved,
            Visitor { client: ClientKey(client), moves: 0 },
        );
    }
    let landed: Vec<_> = (0..15).filter_map(|client| open(&mut planner, at(3), client).ok()).collect();
    assert!(landed.iter().all(|name| name == "b"), "{landed:?}");
}

// ---- bounds ----

#[test]
fn a_full_endpoint_gets_nothing_and_a_full_pool_says_so() {
    let bound = Placement { sessions_per_endpoint_max: Some(2), ..Placement::default() };
    let mut planner = planner(placement(bound), &ready(&["a", "b"]));
    for client in 0..4 {
        open(&mut planner, at(1), client).expect("there is room");
    }
    assert_eq!(open(&mut planner, at(1), 4), Err(Refusal::Full));
    assert_eq!((withheld(&planner, at(1), "a"), planner.status(at(1)).admission.full), ("full", 1));
    planner.handle_closed(at(2), &"a".into(), Ended::Left, Visitor { client: ClientKey(0), moves: 0 });
    assert_eq!(open(&mut planner, at(2), 4).as_deref(), Ok("a"));
}

#[test]
fn slow_start_paces_arrivals_and_the_moves_that_feed_it() {
    let slow = Placement {
        slow_start_window: Duration::from_secs(60),
        slow_start_per_second: 5.0,
        ..Placement::default()
    };
    let limits = Limits { moves_per_second_max: Some(100.0), min_age: Duration::ZERO, ..Limits::default() };
    let mut planner = planner(Settings { limits, ..placement(slow) }, &ready(&["a", "b"]));
    (0..400).for_each(|client| drop(open(&mut planner, at(1), client)));
    planner.handle_endpoints(at(2), &ready(&["a", "b", "c"]));
    let (mut on_new, mut moves) = (0, 0);
    for millis in (2_000..32_000u64).step_by(20) {
        let now = Time::from_millis(millis);
        // Twenty new clients a second, and whoever is moved.
        on_new += u32::from(open(&mut planner, now, u128::from(millis)).as_deref() == Ok("c"));
        while let Some(action) = planner.poll_action(now) {
            let Action::Move(order) = action else { continue };
            moves += order.count;
            planner.handle_moves_began(now, &order.from, order.count, order.count);
            for _ in 0..order.count {
                let visitor = Visitor { client: ClientKey(1 << 64), moves: 0 };
                planner.handle_closed(now, &order.from, Ended::Moved, visitor);
            }
        }
    }
    assert!((140..=156).contains(&on_new), "{on_new} arrivals in 30 s at 5 a second");
    assert!(
        moves <= 5 * 20 + 5,
        "{moves} moves in the 20 s after min_ready, for an endpoint that takes 5 a second"
    );
}

#[test]
fn admission_keeps_its_rate_and_lets_moved_clients_in() {
    let admission = Admission { sessions_per_second: Some(10.0), burst: Some(5), ..Admission::default() };
    let mut planner = planner(Settings { admission, ..Settings::default() }, &ready(&["a", "b"]));
    planner.handle_opened(at(1), &"a".into(), ClientKey(7), TOOK);
    planner.handle_moves_began(at(1), &"a".into(), 1, 1);
    planner.handle_closed(at(1), &"a".into(), Ended::Moved, Visitor { client: ClientKey(7), moves: 0 });
    let admitted = (100..200).filter(|client| open(&mut planner, at(2), *client).is_ok()).count();
    assert_eq!(admitted, 5);
    let Err(Refusal::Admission { retry_after }) = open(&mut planner, at(2), 300) else {
        panic!("it is full")
    };
    assert!(retry_after >= Duration::from_secs(1));
    assert!(open(&mut planner, at(2), 7).is_ok(), "we have moved it ourselves");
    let plain = Request { purpose: Purpose::Request, ..request(300) };
    assert!(planner.pick(at(2), &plain).is_ok(), "a plain request is no session");
    let again = Request { tried: &["a".into()], ..request(301) };
    assert!(planner.pick(at(2), &again).is_ok(), "it was let in before its endpoint failed");
    assert_eq!(planner.status(at(2)).admission.deferred, 96);
}

#[test]
fn a_moved_client_is_let_in_past_the_others_once() {
    let admission = Admission { sessions_per_second: Some(1.0), burst: Some(0), ..Admission::default() };
    let mut planner = planner(Settings { admission, ..Settings::default() }, &ready(&["a", "b"]));
    planner.handle_opened(at(1), &"a".into(), ClientKey(7), TOOK);
    planner.handle_moves_began(at(1), &"a".into(), 1, 1);
    planner.handle_closed(at(1), &"a".into(), Ended::Moved, Visitor { client: ClientKey(7), moves: 0 });
    assert!(open(&mut planner, at(2), 99).is_ok(), "the bucket's own");
    let picks = (0..100).filter(|_| planner.pick(at(2), &request(7)).is_ok()).count();
    assert_eq!(picks, 1, "whatever shares its address queues like others");
}

// ---- endpoints that fail ----

/// The planner's moves at `now`, none of which is carried out.
fn moves(planner: &mut Planner, now: Time) -> u32 {
    let mut count = 0;
    while let Some(action) = planner.poll_action(now) {
        if let Action::Move(order) = action {
            planner.handle_moves_began(now, &order.from, order.count, 0);
            count += order.count;
        }
    }
    count
}

#[test]
fn nobody_is_moved_for_an_endpoint_that_is_down_or_full() {
    let mut planner = planner(Settings::default(), &ready(&["a", "b", "c"]));
    for client in 0..300 {
        let name = if client % 2 == 0 { "a" } else { "b" };
        planner.handle_opened(at(1), &name.into(), ClientKey(client), TOOK);
    }
    (0..5).for_each(|_| planner.handle_pick_failed(at(2), &"c".into()));
    assert_eq!((3..300).map(|second| moves(&mut planner, at(second))).sum::<u32>(), 0, "c is down");
    planner.handle_opened(at(300), &"c".into(), ClientKey(999), TOOK);
    assert!((300..340).map(|second| moves(&mut planner, at(second))).sum::<u32>() > 0, "it is back");

    let bound = Placement { sessions_per_endpoint_max: Some(100), ..Placement::default() };
    let list = [endpoint("a", 3, EndpointState::Ready), endpoint("b", 1, EndpointState::Ready)];
    let mut planner = self::planner(placement(bound), &list);
    for client in 0..180 {
        let name = if client < 100 { "a" } else { "b" };
        planner.handle_opened(at(1), &name.into(), ClientKey(client), TOOK);
    }
    assert_eq!((2..200).map(|second| moves(&mut planner, at(second))).sum::<u32>(), 0, "a has no room");
}

#[test]
fn a_moved_client_goes_back_to_its_donor_rather_than_to_an_endpoint_that_is_down() {
    let mut planner = planner(Settings::default(), &ready(&["a", "b"]));
    for client in 0..40 {
        planner.handle_opened(at(1), &"b".into(), ClientKey(client), TOOK);
    }
    (0..5).for_each(|_| planner.handle_pick_failed(at(1), &"a".into()));
    planner.handle_moves_began(at(2), &"b".into(), 1, 1);
    planner.handle_closed(at(2), &"b".into(), Ended::Moved, Visitor { client: ClientKey(0), moves: 0 });
    assert_eq!(open(&mut planner, at(3), 0).as_deref(), Ok("b"));
}

#[test]
fn an_answer_of_any_kind_breaks_a_row_of_failures() {
    let mut planner = planner(Settings::default(), &ready(&["a", "b"]));
    for _ in 0..10 {
        (0..4).for_each(|_| planner.handle_pick_failed(at(1), &"a".into()));
        planner.handle_released(at(1), &"a".into());
    }
    assert_eq!(withheld(&planner, at(1), "a"), "");
}

#[test]
fn an_endpoint_whose_dials_fail_is_left_alone_longer_each_time() {
    let mut planner = planner(Settings::default(), &ready(&["a", "b"]));
    let mut now = at(1);
    for pause in [10, 20, 40] {
        let mut failures = 0;
        while withheld(&planner, now, "a").is_empty() {
            let request = Request { tried: &["b".into()], ..request(1) };
            let pick = planner.pick(now, &request).expect("a is up");
            planner.handle_pick_failed(now, &pick.endpoint);
            failures += 1;
        }
        assert_eq!(failures, if pause == 10 { 5 } else { 1 }, "then the first to try it again decides");
        let expected =
            Report::Ejected { endpoint: "a".into(), failures: 5, pause: Duration::from_secs(pause) };
        assert!(reports(&mut planner, now).contains(&expected));
        assert_eq!(open(&mut planner, now, 1).as_deref(), Ok("b"));
        now += Duration::from_secs(pause);
        assert_eq!(withheld(&planner, now, "a"), "");
    }
}

#[test]
fn when_every_endpoint_is_ejected_they_are_tried_all_the_same() {
    let mut planner = planner(Settings::default(), &ready(&["a", "b"]));
    for _ in 0..5 {
        planner.handle_pick_failed(at(1), &"a".into());
        planner.handle_pick_failed(at(1), &"b".into());
    }
    assert!(open(&mut planner, at(1), 1).is_ok());
    assert_eq!(
        planner.pick(at(1), &Request { tried: &["a".into(), "b".into()], ..request(1) }),
        Err(Refusal::NoEndpoint)
    );
}

#[test]
fn panic_places_on_unready_endpoints_and_ends_by_itself() {
    let states = |ready: usize| -> Vec<Endpoint> {
        (0..5)
            .map(|n| {
                let state = if n < ready { EndpointState::Ready } else { EndpointState::Unready };
                endpoint(&format!("e{n}"), 1, state)
            })
            .collect()
    };
    let mut planner = planner(Settings::default(), &states(5));
    planner.handle_endpoints(at(1), &states(3));
    assert_eq!(reports(&mut planner, at(1)), [], "three of five are more than half");
    planner.handle_endpoints(at(2), &states(2));
    assert_eq!(reports(&mut planner, at(2)), [Report::PanicBegan { ready: 2, of: 5 }]);
    (0..50).for_each(|client| drop(open(&mut planner, at(3), client)));
    assert!(counts(&planner).values().all(|n| *n == 10), "{:?}", counts(&planner));
    planner.handle_endpoints(at(4), &states(3));
    assert_eq!(reports(&mut planner, at(4)), [Report::PanicEnded]);
    planner.handle_endpoints(at(5), &states(0));
    assert!(open(&mut planner, at(5), 99).is_ok(), "with none ready, all may still serve");
}

#[test]
fn scale_in_is_no_panic() {
    let mut list = ready(&["a", "b", "c", "d", "e"]);
    let mut planner = planner(Settings::default(), &list);
    list[2..].iter_mut().for_each(|endpoint| endpoint.state = EndpointState::Terminating);
    planner.handle_endpoints(at(1), &list);
    assert_eq!(reports(&mut planner, at(1)), []);
    // Nor is one whose endpoints vanish, once they are given up.
    planner.handle_endpoints(at(2), &list[..1]);
    assert_eq!(reports(&mut planner, at(2)), [], "one of two is half");
}

#[test]
fn a_flapping_endpoint_gets_nothing_new_until_it_has_been_steady() {
    let (all, without) = (ready(&["a", "b", "c"]), ready(&["a", "b"]));
    let mut planner = planner(Settings::default(), &all);
    planner.handle_opened(at(1), &"c".into(), ClientKey(1), TOOK);
    let mut seconds = 10;
    for expected in [10, 20, 40, 80, 160, 160] {
        planner.handle_endpoints(at(seconds), &without);
        planner.handle_endpoints(at(seconds + 1), &all);
        assert_eq!(withheld(&planner, at(seconds + expected), "c"), "probation", "at {expected}");
        assert_eq!(withheld(&planner, at(seconds + expected + 1), "c"), "");
        seconds += 2;
    }
    // It was steady for five minutes: the past is forgotten.
    seconds += 500;
    planner.handle_endpoints(at(seconds), &without);
    planner.handle_endpoints(at(seconds + 1), &all);
    assert_eq!(withheld(&planner, at(seconds + 10), "c"), "probation");
    assert_eq!(withheld(&planner, at(seconds + 11), "c"), "");
}
