//! Which endpoint a new session gets, and what happens when it can not be had.

use model::{EndpointState, Weight};

use crate::fixture::{Fixture, POOL, Setup, known, ready, wait_for_sessions};
use crate::support::http::{GET, SWITCHING, UPGRADE, header, more, response, status, upgrade_with};
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

/// Which endpoint a request reaches, and both ends, which stay open.
fn ask(fixture: &Fixture, all: &[&Endpoint], head: &str) -> (usize, Wire, Wire) {
    let mut client = fixture.connect();
    client.send(head);
    let (at, mut upstream) = accept_any(all);
    upstream.head();
    (at, client, upstream)
}

fn open_with(fixture: &Fixture, all: &[&Endpoint], head: &str) -> (usize, Wire, Wire) {
    let (at, mut client, mut upstream) = ask(fixture, all, head);
    upstream.send(SWITCHING);
    assert_eq!(status(&client.head()), 101);
    (at, client, upstream)
}

/// Nothing is moved, and no endpoint is ever too loaded for a key.
const HASHED: &str =
    "balance: consistent_hash\nplacement:\n  hash_load_max: 10.0\nrebalance:\n  enabled: false";

#[test]
fn a_key_goes_to_the_same_endpoint_whether_header_cookie_or_query() {
    let with_query = |key: &str| UPGRADE.replace("room=1", &format!("a=b&room={key}"));
    let with_header = |key: &str| upgrade_with(&format!("x-room: {key}\r\n"));
    let with_cookie = |key: &str| upgrade_with(&format!("Cookie: a=b; room={key}\r\n"));
    type Head<'a> = &'a dyn Fn(&str) -> String;
    let kinds: [(&str, Head<'_>); 3] = [
        ("hash:\n  header: X-Room", &with_header),
        ("hash:\n  cookie: room", &with_cookie),
        ("hash:\n  query: room", &with_query),
    ];
    for (hash, with) in kinds {
        let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
        let all: Vec<&Endpoint> = endpoints.iter().collect();
        let fixture = Setup::new().pool(HASHED).pool(hash).start(&all);
        let mut open = Vec::new();
        let mut places = Vec::new();
        for key in 0..8 {
            let head = with(&format!("key-{key}"));
            let first = open_with(&fixture, &all, &head);
            let again = open_with(&fixture, &all, &head);
            assert_eq!(first.0, again.0, "{hash}: key {key} goes to one endpoint");
            places.push(first.0);
            open.extend([first, again]);
        }
        assert!(places.iter().any(|at| *at != places[0]), "{hash}: different keys are spread: {places:?}");
    }
}

#[test]
fn a_plain_request_goes_where_its_key_sends_sessions() {
    let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().pool(HASHED).pool("hash:\n  header: X-Room").start(&all);
    let mut open = Vec::new();
    for key in 0..6 {
        let header = format!("X-Room: {key}\r\n");
        let session = open_with(&fixture, &all, &upgrade_with(&header));
        let (at, mut client, mut upstream) = ask(&fixture, &all, &more(GET, &header));
        assert_eq!(at, session.0, "key {key}");
        upstream.send(response("200 OK", "Connection: close\r\n", "fine"));
        assert_eq!(client.message().1, "fine");
        open.push(session);
    }
}

#[test]
fn a_request_without_the_key_goes_by_its_address() {
    let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().pool(HASHED).pool("hash:\n  header: X-Room").start(&all);
    let first = open_with(&fixture, &all, UPGRADE);
    let open: Vec<_> = (0..4).map(|_| open_with(&fixture, &all, &upgrade_with("X-Room: \r\n"))).collect();
    assert!(open.iter().all(|session| session.0 == first.0));
}

/// The answer to an upgrade request that no endpoint sees.
fn refusal(fixture: &Fixture) -> (String, String) {
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let (head, body) = client.message();
    assert_eq!(status(&head), 503, "{head}");
    (head, body)
}

#[test]
fn a_full_pool_says_so_until_there_is_room() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("placement:\n  sessions_per_endpoint_max: 1").start(&[&endpoint]);
    let first = fixture.open(&endpoint);
    let (head, body) = refusal(&fixture);
    assert!(body.contains("sessions_per_endpoint_max") && body.contains(POOL), "{body}");
    assert!(header(&head, "retry-after").is_some(), "{head}");
    assert_eq!(fixture.pool().admission.full, 1);
    drop(first);
    wait_for_sessions(&fixture, 0);
    fixture.open(&endpoint);
}

#[test]
fn admission_says_when_to_come_back_and_lets_moved_clients_in() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let admission = "admission:\n  sessions_per_second: 0.001\n  burst: 2\n  retry_after_max: 20s";
    let drain = "rebalance:\n  drain_deadline: 4s";
    let fixture = Setup::new().pool(admission).pool(drain).start(&[&first]);
    let old = [fixture.open(&first), fixture.open(&first)];
    let (head, body) = refusal(&fixture);
    assert!(body.contains("admission.sessions_per_second"), "{body}");
    let wait: u64 = header(&head, "retry-after").expect("it is told").parse().expect("whole seconds");
    assert!((1..=20).contains(&wait), "{head}");
    // A plain request is no session.
    let (_, mut client, mut upstream) = ask(&fixture, &[&first], GET);
    upstream.send(response("200 OK", "", "fine"));
    assert_eq!(client.message().1, "fine");
    fixture.follow(vec![known(first.address(), EndpointState::Terminating), ready(second.address())]);
    for (mut client, upstream) in old {
        assert_eq!(client.frame().close().0, 1012);
        client.finish();
        upstream.finish();
    }
    wait_for_sessions(&fixture, 0);
    let _back = [fixture.open(&second), fixture.open(&second)];
    // Until they count as back, their address is still expected.
    wait_for_sessions(&fixture, 2);
    refusal(&fixture);
    let admission = fixture.pool().admission;
    assert_eq!((admission.admitted, admission.deferred), (4, 2), "{admission:?}");
}

#[test]
fn an_endpoint_that_can_not_be_reached_is_ejected() {
    let endpoint = Endpoint::bind();
    let addresses = [refusing_address(), endpoint.address()];
    let ejection = "placement:\n  ejection_failures: 2\n  ejection_time: 1h";
    let fixture = Setup::new().pool(ejection).start_at(&addresses);
    let _open: Vec<_> = (0..6).map(|_| fixture.open(&endpoint)).collect();
    let pool = fixture.pool();
    let withheld = |at: usize| {
        let found = pool.endpoints.iter().find(|e| e.address == addresses[at]);
        found.map(|e| e.withheld).expect("it is listed")
    };
    assert_eq!((withheld(0).is_empty(), withheld(1)), (false, ""));
}

#[test]
fn an_endpoint_that_dies_amid_handshakes_is_left_alone() {
    let (sick, well) = (Endpoint::bind(), Endpoint::bind());
    let ejection = "placement:\n  ejection_failures: 2\n  ejection_time: 1h";
    let fixture = Setup::new().pool(ejection).start(&[&sick, &well]);
    let mut open = Vec::new();
    let mut deaths = 0;
    // The sick one has no session, so it is picked first until it is ejected.
    while open.len() < 6 {
        let mut client = fixture.connect();
        client.send(UPGRADE);
        let (mut at, mut upstream) = accept_any(&[&sick, &well]);
        while at == 0 {
            upstream.head();
            drop(upstream);
            deaths += 1;
            (at, upstream) = accept_any(&[&sick, &well]);
        }
        upstream.head();
        upstream.send(SWITCHING);
        assert_eq!(status(&client.head()), 101);
        open.push((client, upstream));
    }
    assert_eq!(deaths, 2);
}

#[test]
fn an_ordinary_answer_or_a_client_that_leaves_blames_no_endpoint() {
    let endpoint = Endpoint::bind();
    let ejection = "placement:\n  ejection_failures: 1\n  ejection_time: 1h";
    let fixture = Setup::new().pool(ejection).start(&[&endpoint]);
    for answer in ["401 Unauthorized", "503 Service Unavailable"] {
        let (_, mut client, mut upstream) = ask(&fixture, &[&endpoint], UPGRADE);
        upstream.send(response(answer, "", "no"));
        assert_eq!(client.message().1, "no");
    }
    let (_, client, mut upstream) = ask(&fixture, &[&endpoint], UPGRADE);
    crate::fixture::reset(client);
    upstream.send(SWITCHING);
    upstream.rest();
    // What a plain request makes an endpoint do, its client could provoke.
    let (_, mut client, upstream) = ask(&fixture, &[&endpoint], GET);
    drop(upstream);
    assert_eq!(status(&client.message().0), 502);
    wait_until("nothing is in flight", || fixture.pool().endpoints.iter().all(|e| e.pending == 0));
    fixture.open(&endpoint);
}
