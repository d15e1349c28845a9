//! What the planner is told and what it wants: commands, the return guard, ages, protected routes, replicas.

use std::time::{Duration, Instant};

use balance::{PoolState, PoolStatus};
use model::{EndpointId, EndpointState, PoolName};

use crate::fixture::{Fixture, POOL, Setup, known, ready, reset, wait_for_sessions};
use crate::support::frames::{CLOSE, closing, masked};
use crate::support::http::{SWITCHING, UPGRADE, status};
use crate::support::{Endpoint, Wire, accept_any, eventually, wait_until};

const CLOSE_FAST: &str = "move:\n  close:\n    quiet: 10ms\n    wait: 300ms";
/// Whoever waits for a check or for changes to settle waits in vain.
const NEVER_BY_ITSELF: &str = "rebalance:\n  settle: 10m\n  interval: 1d\n  min_ready: 1h\n  min_age: 0s\n  \
    min_surplus: 1\n  moves_per_second_max: 1000\n  drain_deadline: 4s";
const AT_ONCE: &str = "rebalance:\n  settle: 0s\n  interval: 100ms\n  min_ready: 0s\n  min_age: 0s\n  \
    min_surplus: 1\n  moves_per_second_max: 1000\n  drain_deadline: 4s";

type Pair = (Wire, Wire);

fn open_at(fixture: &Fixture, path: &str, endpoints: &[&Endpoint]) -> (usize, Pair) {
    let mut client = fixture.connect();
    client.send(UPGRADE.replace("/ws?room=1", path));
    let (at, mut upstream) = accept_any(endpoints);
    upstream.head();
    upstream.send(SWITCHING);
    assert_eq!(status(&client.head()), 101);
    (at, (client, upstream))
}

/// The position of the first session that is being closed.
fn wait_for_close(pairs: &mut [Pair]) -> usize {
    eventually("a client is closed", || pairs.iter_mut().position(|(client, _)| client.has_something()))
}

/// Plays a move to its end.
fn follow_close((mut client, upstream): Pair) {
    assert_eq!(client.frame().close(), (1012, "rebalance"));
    client.send(masked(CLOSE, closing(1012, "")));
    client.finish();
    upstream.finish();
}

/// Looks of the planner pass.
fn let_looks_pass() {
    let until = Instant::now() + Duration::from_millis(300);
    wait_until("looks have passed", || Instant::now() > until);
}

fn name() -> PoolName {
    PoolName::from(POOL)
}

fn id(endpoint: &Endpoint) -> EndpointId {
    EndpointId::new(endpoint.address().to_string())
}

#[test]
fn a_command_to_level_waits_neither_for_a_check_nor_for_changes_to_settle() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().pool(NEVER_BY_ITSELF).pool(CLOSE_FAST).start(&[&first]);
    let mut pairs: Vec<Pair> = (0..4).map(|_| fixture.open(&first)).collect();
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    let_looks_pass();
    assert_eq!(fixture.pool().moves.began, 0);
    fixture.gateway.rebalance(&name()).expect("the pool is there");
    for _ in 0..2 {
        let moved = wait_for_close(&mut pairs);
        follow_close(pairs.swap_remove(moved));
        let (at, pair) = open_at(&fixture, "/ws", &[&first, &second]);
        assert_eq!(at, 1);
        pairs.push(pair);
    }
    wait_until("the pool is level", || fixture.sessions(&[first.address(), second.address()]) == [2, 2]);
    assert_eq!(fixture.pool().moves.began, 2);
}

#[test]
fn a_paused_pool_moves_nothing_until_it_is_resumed() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().pool(AT_ONCE).pool(CLOSE_FAST).start(&[&first]);
    let mut pairs: Vec<Pair> = (0..4).map(|_| fixture.open(&first)).collect();
    assert_eq!(fixture.gateway.pause(None).expect("all pools"), [name()]);
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    let_looks_pass();
    assert_eq!((fixture.pool().state, fixture.pool().moves.began), (PoolState::Paused, 0));
    fixture.gateway.resume(Some(&name())).expect("the pool is there");
    wait_for_close(&mut pairs);
}

#[test]
fn an_endpoint_is_drained_on_command_and_takes_sessions_again_when_that_is_taken_back() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().pool(AT_ONCE).pool(CLOSE_FAST).start(&[&first, &second]);
    let mut pairs: Vec<(usize, Pair)> =
        (0..4).map(|_| open_at(&fixture, "/ws", &[&first, &second])).collect();
    let deadline = fixture.gateway.drain(&name(), &id(&first), Some(Duration::from_secs(3)));
    assert_eq!(deadline.expect("the endpoint is there"), Duration::from_secs(3));
    let (old, stay): (Vec<_>, Vec<_>) = pairs.drain(..).partition(|(at, _)| *at == 0);
    assert_eq!((old.len(), stay.len()), (2, 2));
    for (_, pair) in old {
        follow_close(pair);
        pairs.push(open_at(&fixture, "/ws", &[&first, &second]));
    }
    assert!(pairs.iter().all(|(at, _)| *at == 1), "nothing new is placed on it");
    wait_until("it is empty", || fixture.sessions(&[first.address()]) == [0]);
    fixture.gateway.cancel_drain(&name(), &id(&first)).expect("the endpoint is there");
    assert_eq!(open_at(&fixture, "/ws", &[&first, &second]).0, 0);
}

#[test]
fn a_command_for_what_is_not_there_says_what_is() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let error = fixture.gateway.rebalance(&PoolName::from("chatt")).expect_err("no such pool").to_string();
    assert!(error.contains("chatt") && error.contains("pools: chat"), "{error}");
    let nobody = EndpointId::new("10.0.0.1:1");
    let error = fixture.gateway.drain(&name(), &nobody, None).expect_err("no such endpoint").to_string();
    assert!(error.contains("10.0.0.1:1") && error.contains(id(&endpoint).as_str()), "{error}");
}

#[test]
fn a_protected_session_is_moved_only_when_its_endpoint_goes_away() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let setup = Setup::new().routes("- pool: chat\n- pool: chat\n  path: /calls\n  moves: protect\n");
    let fixture = setup.pool(AT_ONCE).pool(CLOSE_FAST).start(&[&first]);
    let mut pairs: Vec<Pair> = (0..4).map(|_| open_at(&fixture, "/calls/1", &[&first]).1).collect();
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    let_looks_pass();
    assert_eq!(fixture.pool().moves.began, 0);
    assert!(pairs.iter_mut().all(|(client, _)| !client.has_something()));
    wait_for_sessions(&fixture, 4);
    let plan = &fixture.gateway.plan(Some(&name())).expect("the pool is there")[&name()];
    let held = plan.endpoints.iter().find(|e| e.id == id(&first)).expect("it is listed");
    assert_eq!((held.movable, held.pinned.get("protected")), (0, Some(&4)), "{plan:?}");
    fixture.follow(vec![known(first.address(), EndpointState::Terminating), ready(second.address())]);
    pairs.into_iter().for_each(follow_close);
    wait_until("it is empty", || fixture.sessions(&[first.address()]) == [0]);
}

#[test]
fn preferred_sessions_are_moved_first() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let setup = Setup::new().routes("- pool: chat\n- pool: chat\n  path: /feeds\n  moves: prefer\n");
    let fixture = setup.pool(AT_ONCE).pool(CLOSE_FAST).start(&[&first]);
    let normal: Vec<Pair> = (0..2).map(|_| open_at(&fixture, "/ws", &[&first]).1).collect();
    let preferred: Vec<Pair> = (0..2).map(|_| open_at(&fixture, "/feeds", &[&first]).1).collect();
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    preferred.into_iter().for_each(follow_close);
    let _back = [open_at(&fixture, "/feeds", &[&second]), open_at(&fixture, "/feeds", &[&second])];
    let_looks_pass();
    assert!(normal.into_iter().all(|(mut client, _)| !client.has_something()));
}

#[test]
fn a_dry_run_moves_nothing_and_says_what_would_be_moved() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().pool(NEVER_BY_ITSELF).pool(CLOSE_FAST).start(&[&first]);
    let mut pairs: Vec<Pair> = (0..4).map(|_| fixture.open(&first)).collect();
    let (opaque, upstream) = &mut pairs[0];
    opaque.send([0xFF; 8]);
    upstream.expect([0xFF; 8]);
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    wait_for_sessions(&fixture, 4);
    let plan = || fixture.gateway.plan(None).expect("all pools").remove(&name()).expect("the pool is there");
    let pinned = |plan: &balance::Plan| plan.endpoints.iter().find_map(|e| e.pinned.get("opaque").copied());
    wait_until("the opaque one is known", || pinned(&plan()) == Some(1));
    let plan = plan();
    let held = plan.endpoints.iter().find(|e| e.id == id(&first)).expect("it is listed");
    assert_eq!((held.sessions, held.movable), (4, 3), "{plan:?}");
    let moves: Vec<_> = plan.moves.iter().map(|m| (&m.from, &m.to, m.count)).collect();
    assert_eq!(moves, [(&id(&first), &id(&second), 2)], "{plan:?}");
    assert_eq!(fixture.pool().moves.began, 0);
    drop(pairs);
    wait_for_sessions(&fixture, 0);
}

/// Two endpoints, ten sessions on the first; whoever is moved does not come back.
fn lose_clients(more: &str) -> (Fixture, [Endpoint; 2], Vec<Pair>) {
    let endpoints = [Endpoint::bind(), Endpoint::bind()];
    let guard = format!("{AT_ONCE}\n  probe_moves: 2\n  return_timeout: 300ms\n{more}");
    let fixture = Setup::new().pool(&guard).pool(CLOSE_FAST).start(&[&endpoints[0]]);
    let mut pairs: Vec<Pair> = (0..10).map(|_| fixture.open(&endpoints[0])).collect();
    fixture.follow(endpoints.iter().map(|endpoint| ready(endpoint.address())).collect());
    for _ in 0..2 {
        let moved = wait_for_close(&mut pairs);
        follow_close(pairs.swap_remove(moved));
    }
    (fixture, endpoints, pairs)
}

#[test]
fn clients_that_do_not_come_back_stop_the_moves_until_somebody_resumes() {
    let (fixture, _endpoints, mut pairs) = lose_clients("  guard_backoff: 1h");
    let is_stopped = |pool: &PoolStatus| pool.guard.stopped && pool.state == PoolState::Guarded;
    wait_until("the guard has stopped the moves", || is_stopped(&fixture.pool()));
    let pool = fixture.pool();
    assert_eq!((pool.moves.began, pool.moves.outcomes.never_returned), (2, 2), "{pool:?}");
    assert!(pool.guard.stops == 1 && pool.guard.retry_after_s > 3000, "{:?}", pool.guard);
    let_looks_pass();
    assert!(pairs.iter_mut().all(|(client, _)| !client.has_something()), "nothing more is moved");
    fixture.gateway.resume(None).expect("all pools");
    wait_for_close(&mut pairs);
    assert!(!fixture.pool().guard.stopped);
}

#[test]
fn a_stopped_guard_lets_an_endpoint_drain() {
    let (fixture, endpoints, pairs) = lose_clients("  guard_backoff: 1h");
    wait_until("the guard has stopped the moves", || fixture.pool().guard.stopped);
    let draining = known(endpoints[0].address(), EndpointState::Terminating);
    fixture.follow(vec![draining, ready(endpoints[1].address())]);
    pairs.into_iter().for_each(follow_close);
    wait_until("it is empty", || fixture.sessions(&[endpoints[0].address()]) == [0]);
}

#[test]
fn endpoints_that_break_sessions_while_others_are_moved_slow_the_moves_down() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let pace = format!("{AT_ONCE}\n  return_timeout: 1h");
    let fixture = Setup::new().pool(&pace).pool(CLOSE_FAST).start(&[&first]);
    let mut pairs: Vec<Pair> = (0..12).map(|_| fixture.open(&first)).collect();
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    for _ in 0..6 {
        let moved = wait_for_close(&mut pairs);
        follow_close(pairs.swap_remove(moved));
    }
    wait_until("six are away", || fixture.pool().away == 6);
    let broken = pairs.into_iter().map(|(client, upstream)| {
        reset(upstream);
        client
    });
    for mut client in broken.collect::<Vec<_>>() {
        assert_eq!(client.frame().close().0, 1012);
        client.finish();
    }
    wait_until("the pace is lowered", || fixture.pool().pace.factor < 1.0);
}

#[test]
fn a_session_is_moved_when_it_is_old() {
    let endpoints = [Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let age = format!("{AT_ONCE}\n  cooldown: 0s\n  max_age: 500ms\n  max_age_jitter: 0.0");
    let fixture = Setup::new().pool(&age).pool(CLOSE_FAST).start(&all);
    // An endpoint that was asked for old sessions and had none is not asked again for a while.
    fixture.gateway.pause(None).expect("all pools");
    let pairs = [open_at(&fixture, "/ws", &all).1, open_at(&fixture, "/ws", &all).1];
    let old = Instant::now() + Duration::from_millis(500);
    wait_until("they are old", || Instant::now() > old);
    fixture.gateway.resume(None).expect("all pools");
    pairs.into_iter().for_each(follow_close);
    wait_until("both are moved", || fixture.pool().moves.moved == 2);
}

#[test]
fn replicas_share_the_pace_from_the_next_reload_on() {
    let endpoint = Endpoint::bind();
    let pace = "rebalance:\n  moves_per_second_max: 100";
    let fixture = Setup::new().pool(pace).start(&[&endpoint]);
    let told = |pool: PoolStatus| (pool.pace.replicas, pool.pace.moves_per_second);
    assert_eq!(told(fixture.pool()), (1, 100.0));
    fixture.reconfigure(&Setup::new().pool(pace).rest("replicas: 4\n"));
    assert_eq!(told(fixture.pool()), (4, 25.0));
}
