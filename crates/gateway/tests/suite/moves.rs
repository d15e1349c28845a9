//! Moves: just the surplus, by notice or Close, and how they look to both ends.

use std::time::{Duration, Instant};

use model::EndpointState;

use crate::fixture::{Fixture, Setup, known, ready, reset, wait_for_sessions};
use crate::support::frames::{BINARY, CLOSE, TEXT, TEXT_BEGIN, bare, closing, masked};
use crate::support::http::{GET, SWITCHING, UPGRADE, response, status, switching_with, upgrade_with};
use crate::support::wire::End;
use crate::support::{Endpoint, Wire, accept_any, eventually, wait_until};

/// Small and fast.
const REBALANCE: &str = "rebalance:\n  settle: 0s\n  interval: 100ms\n  min_ready: 0s\n  min_age: 0s\n  \
    min_surplus: 1\n  moves_per_second_max: 1000";
const CLOSE_FAST: &str = "move:\n  close:\n    quiet: 10ms\n    wait: 300ms\n    reply_timeout: 20s";

/// A session's two ends.
struct Pair {
    client: Wire,
    upstream: Wire,
    at: usize,
}

fn open_any(fixture: &Fixture, endpoints: &[&Endpoint]) -> Pair {
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let (at, mut upstream) = accept_any(endpoints);
    upstream.head();
    upstream.send(SWITCHING);
    assert_eq!(status(&client.head()), 101);
    Pair { client, upstream, at }
}

impl Pair {
    /// Plays a move with `client_first` to its end: one Close, the reply, the end, no reset.
    fn follow_close(mut self) {
        assert_eq!(self.client.frame().close(), (1012, "rebalance"));
        let reply = masked(CLOSE, closing(1012, ""));
        self.client.send(&reply);
        self.upstream.expect(&reply);
        self.client.expect_fin();
        self.upstream.send(bare(CLOSE, closing(1012, "")));
        self.upstream.finish();
        self.upstream.expect_fin();
    }
}

#[test]
fn a_new_endpoint_takes_just_the_surplus_and_nobody_moves_twice() {
    let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let addresses: Vec<_> = all.iter().map(|endpoint| endpoint.address()).collect();
    let fixture = Setup::new().pool(REBALANCE).pool(CLOSE_FAST).start(&all[..2]);
    let mut pairs: Vec<Pair> = (0..12).map(|_| open_any(&fixture, &all[..2])).collect();
    wait_until("all are counted", || fixture.sessions(&addresses) == [6, 6, 0]);
    fixture.follow(addresses.iter().copied().map(ready).collect());
    for _ in 0..4 {
        let moved = eventually("a client is closed", || {
            pairs.iter_mut().position(|pair| pair.client.has_something())
        });
        let pair = pairs.swap_remove(moved);
        assert_ne!(pair.at, 2, "a session of the new endpoint was moved");
        pair.follow_close();
        pairs.push(open_any(&fixture, &all));
        assert_eq!(pairs[pairs.len() - 1].at, 2);
    }
    wait_until("the pool is level", || fixture.sessions(&addresses) == [4, 4, 4]);
    // Several more looks of the planner find nothing to do.
    let settled = Instant::now() + Duration::from_millis(300);
    wait_until("looks have passed", || Instant::now() > settled);
    assert!(pairs.iter_mut().all(|pair| !pair.client.has_something()));
    let moves = fixture.pool().moves;
    assert_eq!((moves.began, moves.moved), (4, 4), "{moves:?}");
    assert_eq!(moves.outcomes.returned_to_target, 4, "{moves:?}");
}

/// Two endpoints; the first has all sessions. Drains have the default deadline: only a machine that stands still
/// could reach it.
fn start_with_two(setup: Setup) -> (Fixture, Endpoint, Endpoint) {
    start_with_deadline(setup, "30s")
}

/// Two endpoints; the first has all sessions.
fn start_with_deadline(setup: Setup, drain_deadline: &str) -> (Fixture, Endpoint, Endpoint) {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let rebalance = format!("{REBALANCE}\n  drain_deadline: {drain_deadline}");
    let fixture = setup.pool(&rebalance).start(&[&first]);
    (fixture, first, second)
}

fn drain(fixture: &Fixture, first: &Endpoint, second: &Endpoint) {
    let first = known(first.address(), EndpointState::Terminating);
    fixture.follow(vec![first, ready(second.address())]);
}

#[test]
fn a_draining_endpoint_is_empty_before_its_deadline() {
    let (fixture, first, second) = start_with_deadline(Setup::new().pool(CLOSE_FAST), "4s");
    let pairs: Vec<Pair> = (0..6).map(|_| open_any(&fixture, &[&first])).collect();
    let began = Instant::now();
    drain(&fixture, &first, &second);
    let mut next = open_any(&fixture, &[&first, &second]);
    assert_eq!(next.at, 1, "a draining endpoint takes no new session");
    std::thread::scope(|scope| pairs.into_iter().for_each(|pair| drop(scope.spawn(|| pair.follow_close()))));
    wait_until("it is empty", || fixture.sessions(&[first.address()]) == [0]);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(!next.client.has_something());
}

#[test]
fn what_can_not_be_closed_politely_ends_soon_after_the_deadline() {
    let close = CLOSE_FAST.replace("20s", "500ms");
    let (fixture, first, second) = start_with_deadline(Setup::new().pool(&close), "2s");
    let mut mute = open_any(&fixture, &[&first]);
    let mut opaque = open_any(&fixture, &[&first]);
    opaque.client.send([0xFF; 8]);
    opaque.upstream.expect([0xFF; 8]);
    let mut stuck = open_any(&fixture, &[&first]);
    let half = &bare(TEXT, "half a frame")[..9];
    stuck.upstream.send(half);
    stuck.client.expect(half);
    let began = Instant::now();
    drain(&fixture, &first, &second);
    // It never answers its Close, and still gets a proper end.
    assert_eq!(mute.client.frame().close(), (1012, "rebalance"));
    mute.client.expect_fin();
    // No Close may stand amid a frame: only the end of the stream is left.
    stuck.client.expect_fin();
    opaque.client.expect_fin();
    wait_until("it is empty", || fixture.sessions(&[first.address()]) == [0]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    opaque.upstream.expect_fin();
}

#[test]
fn the_close_comes_before_the_end_whatever_is_in_flight_both_ways() {
    let (fixture, first, second) = start_with_two(Setup::new().pool(CLOSE_FAST));
    let Pair { mut client, mut upstream, .. } = open_any(&fixture, &[&first]);
    let download = bare(BINARY, vec![1; 300_000]);
    let sent = download.clone();
    let sender = std::thread::spawn(move || {
        upstream.send(sent);
        upstream
    });
    drain(&fixture, &first, &second);
    // The client reads nothing for a while, and has sent much when the Close reaches it.
    let upload = masked(BINARY, vec![2; 100_000]);
    client.send(&upload);
    let mut upstream = sender.join().expect("it sends");
    upstream.expect(&upload);
    client.expect(&download);
    assert_eq!(client.frame().close(), (1012, "rebalance"));
    // What was under way before the Close reached the client is delivered; what follows its own Close is not.
    client.send(masked(TEXT, "under way"));
    upstream.expect(masked(TEXT, "under way"));
    let reply = masked(CLOSE, closing(1012, ""));
    client.send([&reply[..], &[7; 50_000]].concat());
    upstream.expect(&reply);
    client.expect_fin();
    upstream.send(bare(TEXT, "too late"));
    upstream.send(bare(CLOSE, closing(1012, "")));
    drop(upstream);
}

#[test]
fn a_message_amid_its_frames_is_completed_before_the_close() {
    let setup = Setup::new().pool("move:\n  close:\n    quiet: 10ms\n    wait: 5s");
    let (fixture, first, second) = start_with_two(setup);
    let mut pair = open_any(&fixture, &[&first]);
    pair.upstream.send(bare(TEXT_BEGIN, "first "));
    pair.client.expect(bare(TEXT_BEGIN, "first "));
    drain(&fixture, &first, &second);
    wait_until("its move has begun", || fixture.pool().moves.began == 1);
    pair.upstream.send(bare(0x80, "last"));
    pair.client.expect(bare(0x80, "last"));
    pair.follow_close();
}

#[test]
fn backend_first_delivers_every_word_of_the_endpoint_and_keeps_our_code() {
    let setup = Setup::new().pool(CLOSE_FAST).pool("    order: backend_first");
    let (fixture, first, second) = start_with_two(setup);
    let Pair { mut client, mut upstream, .. } = open_any(&fixture, &[&first]);
    drain(&fixture, &first, &second);
    let close = upstream.frame();
    assert!(close.masked && close.close() == (1012, "rebalance"), "{close:?}");
    upstream.send(bare(TEXT, "last words"));
    upstream.send(bare(CLOSE, closing(1000, "as you wish")));
    client.expect(bare(TEXT, "last words"));
    assert_eq!(client.frame().close(), (1012, "rebalance"));
    client.send(masked(CLOSE, closing(1012, "")));
    client.expect_fin();
    drop(client);
    upstream.finish();
    upstream.expect_fin();
}

#[test]
fn closes_that_cross_end_in_one_close_for_each() {
    let (fixture, first, second) = start_with_two(Setup::new().pool(CLOSE_FAST));
    let Pair { mut client, mut upstream, .. } = open_any(&fixture, &[&first]);
    drain(&fixture, &first, &second);
    wait_until("the Close is on its way", || client.has_something());
    // The endpoint wants to end at the same moment; the client must not see a second Close.
    upstream.send(bare(CLOSE, closing(4001, "mine")));
    assert_eq!(client.frame().close(), (1012, "rebalance"));
    client.send(masked(CLOSE, closing(1012, "")));
    client.expect_fin();
    assert_eq!(upstream.frame().first, CLOSE);
    upstream.expect_fin();
}

const NOTICE: &str =
    "\n  notice:\n    text: '{\"go\":\"{{reason}}\",\"ms\":{{grace_ms}}}'\n    grace: 2s\n    jitter: 0.0";

#[test]
fn a_client_that_leaves_after_its_notice_is_not_closed() {
    let (fixture, first, second) = start_with_two(Setup::new().pool(&format!("{CLOSE_FAST}{NOTICE}")));
    let Pair { mut client, mut upstream, .. } = open_any(&fixture, &[&first]);
    drain(&fixture, &first, &second);
    client.expect(bare(TEXT, r#"{"go":"draining","ms":2000}"#));
    let leave = masked(CLOSE, closing(1000, "going"));
    client.send(&leave);
    // Nothing of the notice reaches the endpoint.
    upstream.expect(&leave);
    upstream.send(bare(CLOSE, closing(1000, "going")));
    assert_eq!(client.frame().close(), (1000, "going"));
    client.expect_fin();
    drop(upstream);
    wait_until("it counts as moved", || fixture.pool().moves.moved == 1);
}

#[test]
fn a_client_that_stays_after_its_notice_is_closed_when_the_grace_is_over() {
    let notice = NOTICE.replace("2s", "300ms");
    let (fixture, first, second) = start_with_two(Setup::new().pool(&format!("{CLOSE_FAST}{notice}")));
    let mut pair = open_any(&fixture, &[&first]);
    let began = Instant::now();
    drain(&fixture, &first, &second);
    pair.client.expect(bare(TEXT, r#"{"go":"draining","ms":300}"#));
    wait_until("the Close comes", || pair.client.has_something());
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    pair.follow_close();
    wait_until("it counts as moved", || fixture.pool().moves.moved == 1);
}

#[test]
fn a_binary_notice_goes_to_named_subprotocols_only() {
    let notice = "\n  notice:\n    binary: AAEC/w==\n    grace: 200ms\n    when_subprotocol: [v2.chat]";
    for (protocol, is_told) in [("v2.chat", true), ("v1.chat", false)] {
        let (fixture, first, second) = start_with_two(Setup::new().pool(&format!("{CLOSE_FAST}{notice}")));
        let mut client = fixture.connect();
        client.send(upgrade_with(&format!("Sec-WebSocket-Protocol: {protocol}\r\n")));
        let mut upstream = first.accept();
        assert!(upstream.head().contains(protocol));
        upstream.send(switching_with(&format!("Sec-WebSocket-Protocol: {protocol}\r\n")));
        assert!(client.head().contains(protocol));
        drain(&fixture, &first, &second);
        if is_told {
            client.expect(bare(BINARY, [0, 1, 2, 255]));
        }
        Pair { client, upstream, at: 0 }.follow_close();
    }
}

#[test]
fn a_session_that_turns_opaque_while_it_is_moved_stays_and_its_move_is_given_up() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let close = "move:\n  close:\n    quiet: 10s\n    wait: 10s";
    let fixture = Setup::new().pool(REBALANCE).pool(close).start(&[&first]);
    let mut pairs = [open_any(&fixture, &[&first]), open_any(&fixture, &[&first])];
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    wait_until("a move has begun", || fixture.pool().moves.began == 1);
    for pair in &mut pairs {
        pair.client.send([0xFF; 8]);
        pair.upstream.expect([0xFF; 8]);
    }
    wait_until("it is given up", || fixture.pool().moves.aborted >= 1);
    assert!(fixture.pool().endpoints.iter().all(|endpoint| endpoint.moving == 0));
    for mut pair in pairs {
        pair.client.finish();
        assert_eq!(pair.upstream.end(), End::Fin);
    }
}

#[test]
fn a_client_that_answers_its_close_with_garbage_is_one_move_and_not_two() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().pool(REBALANCE).pool(CLOSE_FAST).start(&[&first]);
    let mut pairs = vec![open_any(&fixture, &[&first]), open_any(&fixture, &[&first])];
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    let moved = eventually("one is closed", || pairs.iter_mut().position(|pair| pair.client.has_something()));
    let mut pair = pairs.remove(moved);
    assert_eq!(pair.client.frame().close(), (1012, "rebalance"));
    pair.client.send([0xFF; 8]);
    pair.upstream.expect([0xFF; 8]);
    drop(pair);
    wait_for_sessions(&fixture, 1);
    let moves = fixture.pool().moves;
    assert_eq!((moves.began, moves.moved, moves.aborted), (1, 1, 0));
}

#[test]
fn sessions_of_an_endpoint_that_is_only_unready_stay() {
    let (fixture, first, second) = start_with_two(Setup::new().pool(CLOSE_FAST));
    let mut pair = open_any(&fixture, &[&first]);
    fixture.follow(vec![known(first.address(), EndpointState::Unready), ready(second.address())]);
    assert_eq!(open_any(&fixture, &[&first, &second]).at, 1);
    pair.client.send(masked(TEXT, "still here"));
    pair.upstream.expect(masked(TEXT, "still here"));
    drop(pair);
    wait_for_sessions(&fixture, 0);
}

#[test]
fn a_shutdown_takes_nobody_new_and_closes_sessions_at_an_even_pace() {
    let endpoint = Endpoint::bind();
    let setup = Setup::new().pool(CLOSE_FAST).rest("shutdown: {grace: 4s, propagation: 0s}\n");
    let mut fixture = setup.start(&[&endpoint]);
    let pairs: Vec<Pair> = (0..10).map(|_| open_any(&fixture, &[&endpoint])).collect();
    // It was accepted before, and asks only now.
    let mut late = fixture.connect();
    wait_until("it was accepted", || fixture.status().connections == 11);
    fixture.begin_shutdown();
    wait_until("it is not ready", || !fixture.status().ready);
    wait_until("nobody listens", || std::net::TcpStream::connect(fixture.address()).is_err());
    late.send(UPGRADE);
    assert_eq!(status(&late.message().0), 503);
    drop(late);
    let ends: Vec<Instant> = std::thread::scope(|scope| {
        let follow = |pair: Pair| {
            pair.follow_close();
            Instant::now()
        };
        let threads: Vec<_> = pairs.into_iter().map(|pair| scope.spawn(move || follow(pair))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it was closed politely")).collect()
    });
    let (first, last) = (ends.iter().min().expect("ten"), ends.iter().max().expect("ten"));
    let spread = last.duration_since(*first);
    assert!(spread > Duration::from_millis(600) && spread < Duration::from_secs(9), "{spread:?}");
    fixture.join();
}

#[test]
fn new_clients_are_taken_until_everybody_knows_that_the_gateway_goes() {
    let endpoint = Endpoint::bind();
    let setup = Setup::new().pool(CLOSE_FAST).rest("shutdown: {grace: 12s, propagation: 4s}\n");
    let mut fixture = setup.start(&[&endpoint]);
    fixture.begin_shutdown();
    wait_until("it is not ready", || !fixture.status().ready);
    let late = open_any(&fixture, &[&endpoint]);
    wait_until("nobody listens", || std::net::TcpStream::connect(fixture.address()).is_err());
    // It is alone, and so it is closed at the end of the time for closes.
    assert_eq!(fixture.pool().sessions, 1);
    late.follow_close();
    fixture.join();
}

#[test]
fn a_shutdown_tells_its_reason_where_notices_are_configured() {
    let endpoint = Endpoint::bind();
    let setup =
        Setup::new().pool(&format!("{CLOSE_FAST}{NOTICE}")).rest("shutdown: {grace: 4s, propagation: 0s}\n");
    let mut fixture = setup.start(&[&endpoint]);
    let mut pair = open_any(&fixture, &[&endpoint]);
    fixture.begin_shutdown();
    let notice = pair.client.frame();
    assert!(notice.first == TEXT && notice.text().contains(r#""go":"shutdown""#), "{notice:?}");
    pair.follow_close();
    fixture.join();
}

#[test]
fn a_removed_endpoint_is_emptied_like_a_draining_one() {
    let (fixture, first, second) = start_with_two(Setup::new().pool(CLOSE_FAST));
    let pair = open_any(&fixture, &[&first]);
    fixture.follow(vec![ready(second.address())]);
    pair.follow_close();
    wait_until("it is forgotten", || fixture.pool().endpoints.iter().all(|e| e.address == second.address()));
}

#[test]
fn a_shutdown_lets_requests_finish_and_ends_idle_connections() {
    let endpoint = Endpoint::bind();
    let setup = Setup::new().limits("head_timeout: 60s").rest("shutdown: {grace: 60s, propagation: 0s}\n");
    let mut fixture = setup.start(&[&endpoint]);
    let ask = || {
        let mut client = fixture.connect();
        client.send(GET);
        let mut upstream = endpoint.accept();
        upstream.head();
        (client, upstream)
    };
    let mut silent = fixture.connect();
    let (mut idle, mut upstream) = ask();
    let (mut busy, mut busy_upstream) = ask();
    upstream.send(response("200 OK", "", ""));
    assert_eq!(status(&idle.message().0), 200);
    let began = Instant::now();
    fixture.begin_shutdown();
    idle.expect_fin();
    silent.expect_fin();
    busy_upstream.send(response("200 OK", "", "finished"));
    let (head, body) = busy.message();
    assert_eq!((status(&head), body.as_str()), (200, "finished"));
    busy.expect_fin();
    fixture.join();
    assert!(began.elapsed() < Duration::from_secs(30), "nothing was left to wait for");
}

#[test]
fn a_peer_that_resets_amid_a_close_leaves_no_count_and_the_other_is_told() {
    for by_client in [true, false] {
        let (fixture, first, second) = start_with_two(Setup::new().pool(CLOSE_FAST));
        let Pair { mut client, mut upstream, .. } = open_any(&fixture, &[&first]);
        drain(&fixture, &first, &second);
        assert_eq!(client.frame().close(), (1012, "rebalance"));
        if by_client {
            reset(client);
            upstream.rest();
        } else {
            reset(upstream);
            client.send(masked(CLOSE, closing(1012, "")));
            client.expect_fin();
        }
        wait_until("it is gone", || fixture.sessions(&[first.address()]) == [0]);
    }
}

#[test]
fn another_configuration_touches_no_session_and_no_count() {
    let (fixture, first, _second) = start_with_two(Setup::new().pool(CLOSE_FAST));
    let mut pair = open_any(&fixture, &[&first]);
    let other =
        Setup::new().pool(REBALANCE).routes("- pool: chat\n  path: /other\n").limits("idle_timeout: 1h");
    fixture.reconfigure(&other);
    wait_for_sessions(&fixture, 1);
    pair.client.send(masked(TEXT, "same"));
    pair.upstream.expect(masked(TEXT, "same"));
    let mut client = fixture.connect();
    client.send(UPGRADE);
    assert_eq!(status(&client.message().0), 404, "the new routes are in force");
}
