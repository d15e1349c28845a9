//! The planner's contract, call by call: picks, counts, the return ledger, holds; and a property over any calls.

use std::sync::Arc;
use std::time::Duration;

use balance::{
    Action, ClientKey, Ended, Limits, Move, MoveReason, Planner, Policy, Purpose, Request, Settings, Visitor,
};
use model::{Endpoint, EndpointId, EndpointState, Pod, Time, Weight};
use proptest::prelude::*;

const CLIENT: ClientKey = ClientKey(1);
const VISITOR: Visitor = Visitor { client: CLIENT, moves: 0 };
/// How long a handshake takes.
const TOOK: Duration = Duration::from_millis(2);

fn settings(policy: Policy, limits: Limits) -> Settings {
    Settings { policy, limits, ..Settings::default() }
}

fn visitor(client: u128) -> Visitor {
    Visitor { client: ClientKey(client), moves: 0 }
}

fn request(tried: &[EndpointId]) -> Request<'_> {
    Request { client: ClientKey(0), purpose: Purpose::Session, hash: None, tried }
}

fn endpoint(name: &str, weight: u16, state: EndpointState) -> Endpoint {
    let address = "127.0.0.1:80".parse().expect("the address is valid");
    let weight = Weight::new(weight).expect("the weight is valid");
    Endpoint { weight, state, ..Endpoint::new(name, address) }
}

fn planner(policy: Policy, weights: &[(&str, u16)]) -> Planner {
    let list: Vec<_> = weights.iter().map(|(name, w)| endpoint(name, *w, EndpointState::Ready)).collect();
    let mut planner = Planner::new(settings(policy, Limits::default()), 1);
    planner.handle_endpoints(Time::ZERO, &list);
    planner
}

fn pick(planner: &mut Planner, tried: &[EndpointId]) -> Option<String> {
    planner.pick(Time::ZERO, &request(tried)).ok().map(|pick| pick.endpoint.to_string())
}

fn open(planner: &mut Planner, now: Time, name: &str, client: ClientKey) -> Time {
    planner.handle_opened(now, &name.into(), client, TOOK).cooling_until
}

/// The next move that is asked for; what the planner tells meanwhile is left out.
fn next_move(planner: &mut Planner, now: Time) -> Option<Move> {
    loop {
        match planner.poll_action(now)? {
            Action::Move(order) => return Some(order),
            Action::Tell(_) => {}
        }
    }
}

/// Lets the planner ask for moves, begins all of them, and gives what was asked.
fn begin_all(planner: &mut Planner, now: Time) -> Vec<Move> {
    let mut asked = Vec::new();
    while let Some(order) = next_move(planner, now) {
        planner.handle_moves_began(now, &order.from, order.count, order.count);
        asked.push(order);
    }
    asked
}

// ---- picks ----

#[test]
fn a_client_that_is_back_before_its_old_connection_ended_is_recognised() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1)]);
    let first = EndpointId::new(pick(&mut planner, &[]).expect("one is ready"));
    planner.handle_opened(Time::ZERO, &first, CLIENT, TOOK);
    planner.handle_moves_began(Time::ZERO, &first, 1, 1);
    planner.handle_leaving(Time::ZERO, &first, VISITOR);
    let status = planner.status(Time::ZERO);
    assert_eq!((status.sessions, status.away, status.moves.moved), (1, 1, 1));
    // Leaving and away are one client: the targets share out one session, not two.
    assert_eq!(status.endpoints.iter().map(|endpoint| endpoint.target).sum::<f64>(), 1.0);
    let back = EndpointId::new(pick(&mut planner, &[]).expect("one is ready"));
    let opened = planner.handle_opened(Time::ZERO, &back, CLIENT, TOOK);
    assert_eq!(opened.cooling_until, Time::ZERO + Limits::default().cooldown);
    planner.handle_closed(Time::ZERO, &first, Ended::Gone, VISITOR);
    let status = planner.status(Time::ZERO);
    assert_eq!((status.sessions, status.away, status.moves.moved), (1, 0, 1));
    assert_eq!(status.endpoints.iter().map(|endpoint| endpoint.moving).sum::<u32>(), 0);
}

#[test]
fn least_connections_counts_handshakes_in_flight_and_weights() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 3)]);
    let picks: Vec<_> = (0..8).filter_map(|_| pick(&mut planner, &[])).collect();
    assert_eq!(picks.iter().filter(|p| *p == "b").count(), 6, "{picks:?}");
    planner.handle_pick_failed(Time::ZERO, &"a".into());
    planner.handle_pick_failed(Time::ZERO, &"a".into());
    assert_eq!(pick(&mut planner, &[]).as_deref(), Some("a"), "what failed no longer counts");
}

#[test]
fn ties_are_broken_at_random_and_the_same_seed_breaks_them_alike() {
    let first = |seed: u64| {
        let mut planner = Planner::new(settings(Policy::LeastConnections, Limits::default()), seed);
        let list: Vec<_> = ["a", "b", "c"].map(|n| endpoint(n, 1, EndpointState::Ready)).to_vec();
        planner.handle_endpoints(Time::ZERO, &list);
        pick(&mut planner, &[]).expect("three are ready")
    };
    for name in ["a", "b", "c"] {
        let hits = (0..900).filter(|seed| first(*seed) == name).count();
        assert!((230..=370).contains(&hits), "{name} came first {hits} times of 900");
    }
    assert_eq!(first(5), first(5));
}

#[test]
fn no_policy_picks_what_was_tried_or_is_not_ready() {
    for policy in [Policy::LeastConnections, Policy::Random, Policy::RoundRobin] {
        let mut planner = Planner::new(settings(policy, Limits::default()), 1);
        let list = [
            endpoint("a", 1, EndpointState::Ready),
            endpoint("b", 1000, EndpointState::Unready),
            endpoint("c", 1000, EndpointState::Terminating),
            endpoint("d", 1, EndpointState::Ready),
        ];
        planner.handle_endpoints(Time::ZERO, &list);
        for _ in 0..50 {
            assert_eq!(pick(&mut planner, &["a".into()]).as_deref(), Some("d"), "{policy:?}");
            assert!(matches!(pick(&mut planner, &[]).as_deref(), Some("a" | "d")), "{policy:?}");
        }
        assert_eq!(pick(&mut planner, &["a".into(), "d".into()]), None, "{policy:?}");
        planner.handle_endpoints(Time::ZERO, &[]);
        assert_eq!(pick(&mut planner, &[]), None, "{policy:?}");
    }
}

#[test]
fn round_robin_spreads_a_heavy_weight() {
    let mut planner = planner(Policy::RoundRobin, &[("a", 5), ("b", 1), ("c", 1)]);
    let turn: String = (0..14).filter_map(|_| pick(&mut planner, &[])).collect();
    assert_eq!(turn, "aacaabaaacaaba");
}

#[test]
fn random_follows_the_weights_and_no_load() {
    let mut planner = planner(Policy::Random, &[("a", 1), ("b", 3)]);
    let b = (0..4_000).filter_map(|_| pick(&mut planner, &[])).filter(|p| p == "b").count();
    assert!((2_850..=3_150).contains(&b), "{b} of 4000");
}

// ---- counts and the return ledger ----

#[test]
fn counts_survive_a_refresh_and_a_new_address() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1)]);
    assert!(pick(&mut planner, &[]).is_some());
    open(&mut planner, Time::ZERO, "a", CLIENT);
    let mut moved = endpoint("a", 2, EndpointState::Ready);
    moved.address = "127.0.0.2:81".parse().expect("the address is valid");
    planner.handle_endpoints(Time::ZERO, &[moved]);
    let status = planner.status(Time::ZERO);
    assert_eq!((status.endpoints[0].sessions, status.endpoints[0].pending), (1, 0));
    let picked = planner.pick(Time::ZERO, &request(&[])).expect("it is ready");
    assert_eq!(picked.address.port(), 81);
}

#[test]
fn a_returning_client_is_cooling_down_from_its_move_on() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1)]);
    assert_eq!(open(&mut planner, Time::ZERO, "a", CLIENT), Time::from_millis(60_000), "a new one: min_age");
    let moved_at = Time::from_millis(100_000);
    planner.handle_moves_began(moved_at, &"a".into(), 1, 1);
    planner.handle_closed(moved_at, &"a".into(), Ended::Moved, VISITOR);
    let back = Time::from_millis(103_000);
    assert_eq!(
        open(&mut planner, back, "b", CLIENT),
        Time::from_millis(700_000),
        "cooldown from the move on"
    );
    assert_eq!(
        open(&mut planner, back, "b", CLIENT),
        Time::from_millis(163_000),
        "only one of them was moved"
    );
}

#[test]
fn outcomes_tell_where_moved_clients_went() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1), ("c", 1)]);
    for client in 0..6u128 {
        open(&mut planner, Time::ZERO, "a", ClientKey(client));
    }
    // Eight on b of seventeen in all, shared by three: above its target.
    for client in 10..18 {
        open(&mut planner, Time::ZERO, "b", ClientKey(client));
    }
    for client in [20, 21, 22] {
        open(&mut planner, Time::ZERO, "c", ClientKey(client));
    }
    for client in 0..4u128 {
        planner.handle_moves_began(Time::ZERO, &"a".into(), 1, 1);
        planner.handle_closed(Time::ZERO, &"a".into(), Ended::Moved, visitor(client));
    }
    open(&mut planner, Time::ZERO, "a", ClientKey(0));
    open(&mut planner, Time::ZERO, "c", ClientKey(1));
    open(&mut planner, Time::ZERO, "b", ClientKey(2));
    let late = Time::from_millis(30_000);
    assert_eq!(planner.status(Time::from_millis(29_999)).away, 1);
    let status = planner.status(late);
    let outcomes = status.moves.outcomes;
    assert_eq!((status.away, outcomes.never_returned), (0, 1));
    assert_eq!(
        (outcomes.returned_to_donor, outcomes.returned_to_target, outcomes.returned_elsewhere),
        (1, 1, 1)
    );
}

#[test]
fn an_aborted_move_and_a_session_that_left_are_nobody_to_wait_for() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1)]);
    open(&mut planner, Time::ZERO, "a", CLIENT);
    open(&mut planner, Time::ZERO, "a", CLIENT);
    planner.handle_moves_began(Time::ZERO, &"a".into(), 2, 2);
    planner.handle_closed(Time::ZERO, &"a".into(), Ended::MoveAborted, VISITOR);
    planner.handle_closed(Time::ZERO, &"a".into(), Ended::LeftWhileMoving, VISITOR);
    let status = planner.status(Time::ZERO);
    assert_eq!((status.sessions, status.away, status.endpoints[0].moving), (1, 0, 0));
    assert_eq!((status.moves.began, status.moves.aborted, status.moves.left), (2, 1, 1));
}

#[test]
fn a_status_can_be_written_as_json_words() {
    let planner = planner(Policy::RoundRobin, &[("a", 1)]);
    let status = planner.status(Time::ZERO);
    assert_eq!((status.imbalance, status.sessions, status.endpoints[0].target), (1.0, 0, 0.0));
}

// ---- holds ----

#[test]
fn an_endpoint_without_movable_sessions_is_left_alone_for_a_second() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1)]);
    for client in 0..100u128 {
        open(&mut planner, Time::ZERO, "a", ClientKey(client));
    }
    let now = Time::from_millis(5_000);
    let Some(order) = next_move(&mut planner, now) else { panic!("a has 50 too many") };
    assert_eq!((order.from.as_str(), order.reason, order.deadline), ("a", MoveReason::Surplus, None));
    planner.handle_moves_began(now, &order.from, order.count, 0);
    assert_eq!(next_move(&mut planner, now), None);
    // Looked at whenever it wants to be, it asks again exactly when the second is over.
    let (at, again) = loop {
        let (at, _) = planner.poll_timeout().expect("levelling goes on");
        if let Some(order) = next_move(&mut planner, at) {
            break (at, order);
        }
    };
    assert_eq!((at, again.from.as_str()), (Time::from_millis(6_000), "a"));
}

#[test]
fn what_one_endpoint_could_not_give_another_gives_at_once() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1), ("c", 1)]);
    for client in 0..350u128 {
        open(&mut planner, Time::ZERO, if client < 200 { "a" } else { "b" }, ClientKey(client));
    }
    let now = Time::from_millis(5_000);
    let Some(order) = next_move(&mut planner, now) else { panic!("a has too many") };
    assert_eq!((order.from.as_str(), order.count), ("a", 1), "10 a second, one at once");
    assert_eq!(next_move(&mut planner, now), None, "the pace allows no more");
    planner.handle_moves_began(now, &order.from, order.count, 0);
    let Some(order) = next_move(&mut planner, now) else { panic!("b has too many as well") };
    assert_eq!((order.from.as_str(), order.count), ("b", 1));
    assert_eq!(next_move(&mut planner, now), None);
}

#[test]
fn a_move_may_be_answered_in_parts() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1)]);
    let limits = Limits { moves_per_second_max: Some(1_000.0), probe_moves: 1_000, ..Limits::default() };
    planner.reconfigure(Time::ZERO, settings(Policy::LeastConnections, limits));
    for client in 0..100u128 {
        open(&mut planner, Time::ZERO, "a", ClientKey(client));
    }
    let now = Time::from_millis(5_000);
    let Some(order) = next_move(&mut planner, now) else { panic!("a has 50 too many") };
    assert_eq!(order.count, 49, "down to 51, the stop ratio");
    for part in [20, 20, 9] {
        assert_eq!(next_move(&mut planner, now), None, "what was asked counts as gone");
        planner.handle_moves_began(now, &order.from, part, part);
    }
    assert_eq!(planner.status(now).endpoints[0].moving, 49);
    assert_eq!(next_move(&mut planner, now), None);
}

#[test]
fn the_fullest_give_first() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1), ("c", 1)]);
    for client in 0..300u128 {
        open(&mut planner, Time::ZERO, if client < 200 { "a" } else { "b" }, ClientKey(client));
    }
    let asked = begin_all(&mut planner, Time::from_millis(5_000));
    assert!(!asked.is_empty() && asked.iter().all(|order| order.from.as_str() == "a"), "{asked:?}");
}

#[test]
fn a_draining_move_tells_its_deadline() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1)]);
    open(&mut planner, Time::ZERO, "a", CLIENT);
    let now = Time::from_millis(1_000);
    let list = [endpoint("a", 1, EndpointState::Terminating), endpoint("b", 1, EndpointState::Ready)];
    planner.handle_endpoints(now, &list);
    let asked = begin_all(&mut planner, now);
    let expected = Move {
        from: "a".into(),
        count: 1,
        reason: MoveReason::Draining,
        deadline: Some(now + Duration::from_secs(30)),
    };
    assert_eq!(asked, [expected]);
}

#[test]
fn an_endpoint_is_drained_by_its_id_or_by_the_name_of_its_pod() {
    let mut planner = planner(Policy::LeastConnections, &[]);
    let pod = |name: &str| Some(Arc::new(Pod { namespace: "n".into(), name: name.into(), node: None }));
    let listed = |id: &str, name: &str| Endpoint { pod: pod(name), ..endpoint(id, 1, EndpointState::Ready) };
    planner.handle_endpoints(Time::ZERO, &[listed("uid-1", "rabbit-0"), listed("uid-2", "rabbit-1")]);
    assert_eq!(planner.endpoint_id(&"rabbit-1".into()).as_str(), "uid-2");
    assert_eq!(planner.endpoint_id(&"uid-1".into()).as_str(), "uid-1");
    planner.drain(Time::ZERO, &"rabbit-1".into(), None).expect("its Pod is known");
    let states: Vec<_> = planner.status(Time::ZERO).endpoints.iter().map(|e| e.state).collect();
    assert_eq!(states, [EndpointState::Ready, EndpointState::Terminating]);
    assert!(planner.drain(Time::ZERO, &"rabbit-2".into(), None).is_err());
}

#[test]
fn names_nobody_knows_are_ignored() {
    let mut planner = planner(Policy::LeastConnections, &[("a", 1)]);
    let (now, who) = (Time::ZERO, EndpointId::from("nobody"));
    planner.handle_pick_failed(now, &who);
    planner.handle_opened(now, &who, CLIENT, TOOK);
    planner.handle_moves_began(now, &who, 3, 3);
    planner.handle_closed(now, &who, Ended::Moved, VISITOR);
    let status = planner.status(now);
    assert_eq!((status.sessions, status.away, status.moves.began), (0, 0, 0));
}

// ---- any calls ----

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Endpoints(Vec<(u8, u16, u8)>),
    Pick,
    Fail(u8),
    Open(u8, u8),
    Began(u8, u32, u32),
    Close(u8, u8, u8),
    Leave(u8, u8),
    Migrate(u8, u8, bool),
    Rehearse(u8, u32),
    Reconfigure(bool, Option<u16>, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..20_000).prop_map(Step::Pass),
        1 => prop::collection::vec((0u8..6, 1u16..=1000, 0u8..3), 0..6).prop_map(Step::Endpoints),
        4 => Just(Step::Pick),
        1 => (0u8..6).prop_map(Step::Fail),
        6 => (0u8..6, 0u8..9).prop_map(|(e, c)| Step::Open(e, c)),
        1 => (0u8..6, 0u32..9, 0u32..9).prop_map(|(e, a, b)| Step::Began(e, a, b)),
        3 => (0u8..6, 0u8..5, 0u8..9).prop_map(|(e, how, c)| Step::Close(e, how, c)),
        1 => (0u8..6, 0u8..9).prop_map(|(e, c)| Step::Leave(e, c)),
        2 => (0u8..6, 0u8..6, any::<bool>()).prop_map(|(from, to, asked)| Step::Migrate(from, to, asked)),
        1 => (0u8..6, 0u32..9).prop_map(|(e, n)| Step::Rehearse(e, n)),
        1 => (any::<bool>(), prop::option::of(1u16..1000), 0u32..9)
            .prop_map(|(on, rate, at_once)| Step::Reconfigure(on, rate, at_once)),
    ]
}

fn named(index: u8) -> EndpointId {
    EndpointId::new(format!("e{index}"))
}

fn state(index: u8) -> EndpointState {
    match index {
        0 => EndpointState::Ready,
        1 => EndpointState::Unready,
        _ => EndpointState::Terminating,
    }
}

fn apply(planner: &mut Planner, now: &mut Time, step: &Step) {
    match step {
        Step::Pass(millis) => *now += Duration::from_millis(*millis),
        Step::Endpoints(list) => {
            let list: Vec<_> =
                list.iter().map(|(name, w, s)| endpoint(&format!("e{name}"), *w, state(*s))).collect();
            planner.handle_endpoints(*now, &list);
        }
        Step::Pick => drop(planner.pick(*now, &request(&[]))),
        Step::Migrate(from, to, true) => {
            planner.handle_migrated(*now, &named(*from), &named(*to), VISITOR);
        }
        Step::Migrate(from, to, false) => {
            planner.handle_replaced(*now, &named(*from), &named(*to), VISITOR);
        }
        Step::Rehearse(e, count) => planner.begin_moves_unasked(*now, &named(*e), *count),
        Step::Fail(e) => planner.handle_pick_failed(*now, &named(*e)),
        Step::Open(e, client) => {
            planner.handle_opened(*now, &named(*e), ClientKey(u128::from(*client)), TOOK);
        }
        Step::Began(e, asked, began) => planner.handle_moves_began(*now, &named(*e), *asked, *began),
        Step::Close(e, how, client) => {
            let ended = [Ended::Left, Ended::Moved, Ended::MoveAborted, Ended::LeftWhileMoving, Ended::Gone];
            let ended = ended[usize::from(*how)];
            planner.handle_closed(*now, &named(*e), ended, visitor(u128::from(*client)));
        }
        Step::Leave(e, client) => {
            planner.handle_leaving(*now, &named(*e), visitor(u128::from(*client)));
        }
        Step::Reconfigure(enabled, rate, at_once) => {
            let limits = Limits {
                enabled: *enabled,
                moves_per_second_max: rate.map(f64::from),
                concurrent_moves_max: *at_once,
                ..Limits::default()
            };
            planner.reconfigure(*now, settings(Policy::LeastConnections, limits));
        }
    }
}

proptest! {
    /// Even a shell that breaks the contract gets an answer, an end of the actions, and a later time.
    #[test]
    fn no_calls_make_it_panic_or_spin(steps in prop::collection::vec(step(), 0..200)) {
        let mut planner = planner(Policy::LeastConnections, &[("e0", 1), ("e1", 2)]);
        let mut now = Time::from_millis(1);
        for step in &steps {
            apply(&mut planner, &mut now, step);
            let mut asked = 0;
            while let Some(order) = next_move(&mut planner, now) {
                prop_assert!(order.count >= 1);
                asked += 1;
                prop_assert!(asked <= 1_000, "actions never end");
            }
            if let Some((at, why)) = planner.poll_timeout() {
                prop_assert!(at > now, "{why} at {at:?}, now {now:?}");
            }
            let status = planner.status(now);
            prop_assert!(status.imbalance >= 0.0 && status.imbalance.is_finite());
        }
    }

    /// Whatever the rate, no stretch of time sees more surplus moves than the bucket allows.
    #[test]
    fn surplus_moves_never_exceed_the_budget(rate in 1u32..400, gaps in prop::collection::vec(1u64..700, 1..120)) {
        let mut planner = planner(Policy::LeastConnections, &[("a", 1), ("b", 1)]);
        let limits = Limits {
            moves_per_second_max: Some(f64::from(rate)),
            concurrent_moves_max: 1_000_000,
            ..Limits::default()
        };
        planner.reconfigure(Time::ZERO, settings(Policy::LeastConnections, limits));
        for client in 0..2_000u128 {
            open(&mut planner, Time::ZERO, "a", ClientKey(client));
        }
        let mut now = Time::from_millis(5_000);
        let mut seen: Vec<(Time, u32)> = Vec::new();
        for gap in gaps {
            seen.extend(begin_all(&mut planner, now).iter().map(|order| (now, order.count)));
            now += Duration::from_millis(gap);
        }
        let burst = (f64::from(rate) * 0.1).max(1.0) + 1.0;
        for (first, (start, _)) in seen.iter().enumerate() {
            let mut sum = 0.0;
            for (at, count) in &seen[first..] {
                sum += f64::from(*count);
                let allowed = (*at - *start).as_secs_f64() * f64::from(rate) + burst;
                prop_assert!(sum <= allowed, "{sum} moves where {allowed} are allowed");
            }
        }
    }
}
