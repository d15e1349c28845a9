//! Which endpoint a new session gets, and what happens when it can not be had.

use model::Weight;

use crate::fixture::{POOL, Setup, ready};
use crate::support::http::{SWITCHING, UPGRADE, header, status};
use crate::support::{Endpoint, Wire, accept_any, refusing_address, wait_until};

#[test]
fn handshakes_in_flight_count_like_sessions() {
    let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().start(&all);
    let mut waiting: Vec<(Wire, Wire)> = Vec::new();
    let mut counts = [0; 3];
    for _ in 0..9 {
        let mut client = fixture.connect();
        client.send(UPGRADE);
        let (at, mut upstream) = accept_any(&all);
        upstream.head();
        counts[at] += 1;
        waiting.push((client, upstream));
    }
    assert_eq!(counts, [3, 3, 3], "nobody has answered yet");
    assert!(fixture.pool().endpoints.iter().all(|e| (e.pending, e.sessions) == (3, 0)));
    for (client, upstream) in &mut waiting {
        upstream.send(SWITCHING);
        assert_eq!(status(&client.head()), 101);
    }
    let is_session = |e: &balance::EndpointStatus| (e.pending, e.sessions) == (0, 3);
    wait_until("all are sessions", || fixture.pool().endpoints.iter().all(is_session));
}

#[test]
fn a_heavier_endpoint_gets_more() {
    let endpoints = [Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let mut heavy = ready(all[0].address());
    heavy.weight = Weight::new(3).expect("a weight");
    let fixture = Setup::new().start_with([(POOL, vec![heavy, ready(all[1].address())])]);
    let mut counts = [0; 2];
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut client = fixture.connect();
        client.send(UPGRADE);
        let (at, mut upstream) = accept_any(&all);
        upstream.head();
        upstream.send(SWITCHING);
        counts[at] += 1;
        open.push((client, upstream));
    }
    assert_eq!(counts, [6, 2]);
}

#[test]
fn a_new_endpoint_gets_the_next_sessions_until_it_has_as_many() {
    let endpoints = [Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().pool("rebalance:\n  enabled: false").start(&all[..1]);
    let _old = [fixture.open(all[0]), fixture.open(all[0]), fixture.open(all[0])];
    fixture.follow(all.iter().map(|endpoint| ready(endpoint.address())).collect());
    let _new = [fixture.open(all[1]), fixture.open(all[1]), fixture.open(all[1])];
}

#[test]
fn at_most_tries_max_endpoints_are_asked() {
    let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().pool("tries_max: 3").start(&all);
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let mut asked = [0; 4];
    for _ in 0..3 {
        let (at, mut upstream) = accept_any(&all);
        upstream.head();
        asked[at] += 1;
    }
    let (head, _) = client.message();
    assert_eq!(status(&head), 502, "{head}");
    assert!(header(&head, "retry-after").is_some(), "{head}");
    asked.sort_unstable();
    assert_eq!(asked, [0, 1, 1, 1], "none is asked twice");
    assert!(all.iter().all(|endpoint| endpoint.try_accept().is_none()));
}

#[test]
fn a_refused_connection_goes_to_the_next_endpoint_and_leaves_no_count() {
    let endpoint = Endpoint::bind();
    let addresses = [refusing_address(), refusing_address(), endpoint.address()];
    let fixture = Setup::new().start_at(&addresses);
    let _open: Vec<_> = (0..5).map(|_| fixture.open(&endpoint)).collect();
    wait_until("all are counted", || fixture.sessions(&addresses) == [0, 0, 5]);
    assert!(fixture.pool().endpoints.iter().all(|endpoint| endpoint.pending == 0));
}

#[test]
fn round_robin_gives_every_endpoint_its_turn() {
    let endpoints = [Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().pool("balance: round_robin").start(&all);
    let mut order = Vec::new();
    let mut open = Vec::new();
    for _ in 0..6 {
        let mut client = fixture.connect();
        client.send(UPGRADE);
        let (at, mut upstream) = accept_any(&all);
        upstream.head();
        upstream.send(SWITCHING);
        order.push(at);
        open.push((client, upstream));
    }
    assert!(order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
}
