//! AMQP listeners with several routes: the gateway speaks first, then user and virtual host decide.

use crate::fixture::{Fixture, POOL, Setup, ready};
use crate::support::amqp::{
    HEADER, channel_open, close, close_ok, open, open_ok, start, start_ok, start_ok_by, start_with, tune,
    tune_ok,
};
use crate::support::{Endpoint, Wire, eventually, wait_until};

/// The first pool is for user `u` at `/a`, the other for everybody at `/b`.
fn fixture(keys: &str, first: &Endpoint, other: &Endpoint) -> Fixture {
    let listener = "- {address: 127.0.0.1:0, protocol: amqp, routes: [{user: u, vhost: /a, pool: chat}, {vhost: /b, pool: other}]}\n";
    let setup = Setup::amqp(keys).listeners(listener);
    let setup = setup.more_pool_with("other", "amqp: {probe: {interval: 0s}}");
    setup.start_with([(POOL, vec![ready(first.address())]), ("other", vec![ready(other.address())])])
}

/// From the header to `open`; the gateway asks `first` what to begin with when it does not know.
fn ask(fixture: &Fixture, first: &Endpoint, start_ok: Vec<u8>, vhost: &str) -> Wire {
    let mut client = fixture.connect();
    client.send(HEADER);
    eventually("the gateway begins", || {
        if let Some(mut asked) = first.try_accept() {
            asked.expect(HEADER);
            asked.send(start("c1"));
            asked.expect_fin();
        }
        client.has_something().then_some(())
    });
    client.expect(start_with("c1", "PLAIN AMQPLAIN"));
    client.send(start_ok);
    client.expect(tune(2047, 131_072));
    client.send([tune_ok(2047, 131_072), open(vhost)].concat());
    client
}

#[test]
fn user_and_virtual_host_pick_the_pool() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("", &first, &other);
    for (user, vhost, endpoint) in [("u", "/a", &first), ("u", "/b", &other), ("v", "/b", &other)] {
        let mut client = ask(&fixture, &first, start_ok(user, "p"), vhost);
        let mut broker = endpoint.accept();
        broker.serve_login("c1", &start_ok(user, "p"), vhost);
        client.expect(open_ok());
        client.send(channel_open(1));
        broker.expect(channel_open(1));
        assert!(first.try_accept().is_none(), "what to begin with is known");
    }
}

#[test]
fn who_has_no_route_is_refused_with_530() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("", &first, &other);
    for (user, vhost) in [("v", "/a"), ("u", "/c")] {
        let mut client = ask(&fixture, &first, start_ok(user, "p"), vhost);
        let (code, text) = client.amqp().closing();
        assert_eq!(code, 530);
        assert!(text.starts_with("NOT_ALLOWED - no route"), "{text}");
        client.send(close_ok());
        client.expect_fin();
    }
}

#[test]
fn what_the_endpoint_says_to_a_login_is_passed_on() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("", &first, &other);
    let refusal = close(403, "ACCESS_REFUSED - Login was refused");
    let mut client = ask(&fixture, &first, start_ok("u", "no"), "/a");
    let mut broker = first.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    broker.expect(start_ok("u", "no"));
    broker.send(&refusal);
    broker.expect(close_ok());
    client.expect(&refusal);
    client.send(close_ok());
    client.expect_fin();
    // One that hangs up means the same.
    let mut client = ask(&fixture, &first, start_ok("u", "no"), "/a");
    let mut broker = first.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    broker.expect(start_ok("u", "no"));
    drop(broker);
    assert_eq!(client.amqp().closing().0, 403);
    // The virtual host may not be there.
    let refusal = close(530, "NOT_ALLOWED - vhost /a not found");
    let mut client = ask(&fixture, &first, start_ok("u", "p"), "/a");
    let mut broker = first.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    broker.expect(start_ok("u", "p"));
    broker.send(tune(2047, 131_072));
    broker.expect([tune_ok(2047, 131_072), open("/a")].concat());
    broker.send(&refusal);
    broker.expect(close_ok());
    client.expect(&refusal);
}

#[test]
fn an_endpoint_that_is_not_there_is_told_of_with_320() {
    let (first, other) = (Endpoint::bind(), crate::support::refusing_address());
    let listener = "- {address: 127.0.0.1:0, protocol: amqp, routes: [{user: u, vhost: /a, pool: chat}, {vhost: /b, pool: other}]}\n";
    let setup = Setup::amqp("").listeners(listener).more_pool_with("other", "amqp: {probe: {interval: 0s}}");
    let fixture = setup.start_with([(POOL, vec![ready(first.address())]), ("other", vec![ready(other)])]);
    let mut client = ask(&fixture, &first, start_ok("u", "p"), "/b");
    let (code, text) = client.amqp().closing();
    assert_eq!(code, 320);
    assert!(text.contains("pool other"), "{text}");
}

#[test]
fn logins_that_can_not_be_passed_on_are_refused() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("", &first, &other);
    for (start_ok, code) in [(start_ok_by("EXTERNAL", b""), 503), (start_ok_by("PLAIN", b"no zero"), 530)] {
        let mut client = ask(&fixture, &first, start_ok, "/a");
        assert_eq!(client.amqp().closing().0, code);
    }
}

#[test]
fn a_client_that_takes_more_than_was_offered_is_refused() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("", &first, &other);
    drop(ask(&fixture, &first, start_ok("v", "p"), "/a"));
    for tuned in [tune_ok(2047, 131_073), tune_ok(0, 131_072), tune_ok(2047, 0)] {
        let mut client = fixture.connect();
        client.send(HEADER);
        client.expect(start_with("c1", "PLAIN AMQPLAIN"));
        client.send(start_ok("u", "p"));
        client.expect(tune(2047, 131_072));
        client.send(tuned);
        assert_eq!(client.amqp().closing().0, 530);
    }
}

#[test]
fn an_endpoint_that_allows_less_than_was_known_is_not_blamed_and_remembered() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("", &first, &other);
    let mut client = ask(&fixture, &first, start_ok("u", "p"), "/a");
    let mut broker = first.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    broker.expect(start_ok("u", "p"));
    broker.send(tune(2047, 8192));
    assert_eq!(client.amqp().closing().0, 320);
    let mut client = fixture.connect();
    client.send([HEADER, &start_ok("u", "p")].concat());
    client.expect(start_with("c1", "PLAIN AMQPLAIN"));
    client.expect(tune(2047, 8192));
}

#[test]
fn without_seamless_a_login_is_forgotten_and_the_session_pinned() {
    let (first, other) = (Endpoint::bind(), Endpoint::bind());
    let fixture = fixture("seamless: false", &first, &other);
    let mut client = ask(&fixture, &first, start_ok("u", "p"), "/a");
    let mut broker = first.accept();
    broker.serve_login("c1", &start_ok("u", "p"), "/a");
    client.expect(open_ok());
    let pinned = || fixture.pinned("seamless_off") == Some(1);
    wait_until("it is pinned", pinned);
}
