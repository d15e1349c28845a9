//! AMQP handshakes of a listener with one route: relayed, refused, malformed, cut short.

use crate::fixture::{Setup, wait_for_sessions};
use crate::support::amqp::{
    HEADER, channel_open, channel_open_ok, close, close_ok, delivery, frame, method, open, open_ok, short,
    start, start_ok, start_ok_by, tune, tune_ok,
};
use crate::support::{Endpoint, Wire, accept_any, refusing_address};

/// Up to the endpoint's `tune`.
fn log_in(client: &mut Wire, endpoint: &Endpoint) -> Wire {
    client.send(HEADER);
    let mut broker = endpoint.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    client.expect(start("c1"));
    client.send(start_ok("u", "p"));
    broker.expect(start_ok("u", "p"));
    broker
}

#[test]
fn with_one_route_the_handshake_is_the_endpoints_own_and_then_frames_pass() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let (mut client, mut broker) = fixture.open_amqp(&endpoint);
    wait_for_sessions(&fixture, 1);
    client.send(channel_open(1));
    broker.expect(channel_open(1));
    broker.send(channel_open_ok(1));
    client.expect(channel_open_ok(1));
    client.send(close(200, "bye"));
    assert_eq!(broker.amqp().closing(), (200, "bye".into()));
    broker.send(close_ok());
    client.expect(close_ok());
    client.expect_fin();
    drop(client);
    broker.expect_fin();
}

#[test]
fn who_asks_for_another_protocol_is_told_which_one_is_spoken() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    for hello in
        [&b"AMQP\x00\x00\x08\x00"[..], b"AMQP\x01\x01\x09\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03"]
    {
        let mut client = fixture.connect();
        client.send(hello);
        client.expect(HEADER);
        client.expect_fin();
    }
    assert!(endpoint.try_accept().is_none(), "no endpoint hears of it");
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let mut client = fixture.connect();
    for byte in HEADER {
        client.send([*byte]);
    }
    endpoint.accept().expect(HEADER);
}

#[test]
fn a_refused_login_is_passed_on_as_it_came() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let refusal = close(403, "ACCESS_REFUSED - Login was refused");
    let mut client = fixture.connect();
    let mut broker = log_in(&mut client, &endpoint);
    broker.send(&refusal);
    client.expect(&refusal);
    client.send(close_ok());
    broker.expect(close_ok());
    drop(broker);
    client.expect_fin();
    // Without the capability for it a broker just hangs up.
    let mut client = fixture.connect();
    drop(log_in(&mut client, &endpoint));
    client.expect_fin();
    assert_eq!(fixture.pool().endpoints[0].withheld, "", "a refusal is no failure");
}

#[test]
fn a_challenge_passes_both_ways() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let mut client = fixture.connect();
    let mut broker = log_in(&mut client, &endpoint);
    let (secure, secure_ok) = (method(0, (10, 20), &[&[0; 4]]), method(0, (10, 21), &[&[0; 4]]));
    broker.send(&secure);
    client.expect(&secure);
    client.send(&secure_ok);
    broker.expect(&secure_ok);
    broker.send(tune(2047, 131_072));
    client.expect(tune(2047, 131_072));
    client.send([tune_ok(2047, 131_072), open("/")].concat());
    broker.expect([tune_ok(2047, 131_072), open("/")].concat());
    broker.send(open_ok());
    client.expect(open_ok());
    crate::support::wait_until("it is pinned", || fixture.pinned("login") == Some(1));
}

#[test]
fn an_endpoint_that_does_not_begin_is_replaced_before_the_client_notices() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let addresses = [refusing_address(), first.address(), second.address()];
    let fixture = Setup::amqp("").start_at(&addresses);
    let mut client = fixture.connect();
    client.send(HEADER);
    let (at, mut broker) = accept_any(&[&first, &second]);
    broker.expect(HEADER);
    broker.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    drop(broker);
    let mut other = [&second, &first][at].accept();
    other.expect(HEADER);
    other.send(start("c1"));
    client.expect(start("c1"));
}

#[test]
fn clients_are_promised_what_every_endpoint_allows() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::amqp("").start(&[&first, &second]);
    let begin = |offered: Vec<u8>| {
        let mut client = fixture.connect();
        client.send(HEADER);
        let (at, mut broker) = accept_any(&[&first, &second]);
        broker.expect(HEADER);
        broker.send(start("c1"));
        client.expect(start("c1"));
        client.send(start_ok("u", "p"));
        broker.expect(start_ok("u", "p"));
        broker.send(offered);
        let promised = client.amqp().payload;
        (at, promised, client, broker)
    };
    let one = begin(tune(100, 131_072));
    let two = begin(tune(0, 8192));
    assert_ne!(one.0, two.0, "the first is still pending");
    let payload = |frame: Vec<u8>| frame[7..frame.len() - 1].to_vec();
    assert_eq!(one.1, payload(tune(100, 131_072)));
    assert_eq!(two.1, payload(tune(100, 8192)), "of both endpoints the smaller bound");
}

#[test]
fn bytes_behind_the_handshake_are_not_lost() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let mut client = fixture.connect();
    let mut broker = log_in(&mut client, &endpoint);
    broker.send(tune(2047, 131_072));
    client.expect(tune(2047, 131_072));
    client.send([tune_ok(2047, 131_072), open("/"), channel_open(1), channel_open(2)].concat());
    broker.expect([tune_ok(2047, 131_072), open("/")].concat());
    let blocked = method(0, (10, 60), &[&short(b"disk")]);
    broker.send([open_ok(), blocked.clone()].concat());
    client.expect(open_ok());
    client.expect(&blocked);
    broker.expect([channel_open(1), channel_open(2)].concat());
}

#[test]
fn a_login_of_64_kib_passes_and_a_longer_one_does_not() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let token = |bytes: usize| start_ok_by("PLAIN", &vec![b't'; bytes]);
    let fields = token(0).len() - 8;
    for (bytes, passes) in [(64 * 1024 - fields, true), (64 * 1024 - fields + 1, false)] {
        let mut client = fixture.connect();
        client.send(HEADER);
        let mut broker = endpoint.accept();
        broker.expect(HEADER);
        broker.send(start("c1"));
        client.expect(start("c1"));
        client.try_send(token(bytes)).ok();
        if passes {
            broker.expect(token(bytes));
            continue;
        }
        broker.expect_fin();
    }
}

#[test]
fn a_fault_in_the_handshake_is_answered_where_an_answer_has_a_place() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let mut bad_end = open("/");
    *bad_end.last_mut().expect("it is not empty") = 0;
    let table: [(Vec<u8>, u16); 4] =
        [(channel_open(1), 505), (tune_ok(2047, 131_072), 503), (bad_end, 501), (frame(9, 0, b""), 501)];
    for (fault, code) in table {
        let mut client = fixture.connect();
        let mut broker = log_in(&mut client, &endpoint);
        broker.send(tune(2047, 131_072));
        client.expect(tune(2047, 131_072));
        client.send([tune_ok(2047, 131_072), fault].concat());
        assert_eq!(client.amqp().closing().0, code);
        client.expect_fin();
        broker.expect(tune_ok(2047, 131_072));
        drop(client);
        broker.rest();
    }
    // Before `tune` there is no close.
    let mut client = fixture.connect();
    client.send([HEADER, &open("/")].concat());
    let mut broker = endpoint.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    client.expect(start("c1"));
    client.rest();
}

#[test]
fn an_endpoint_that_blunders_is_told_of_as_the_reason() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let mut client = fixture.connect();
    let mut broker = log_in(&mut client, &endpoint);
    broker.send([tune(2047, 131_072), delivery(1, b"x", 4096)].concat());
    client.expect(tune(2047, 131_072));
    let (code, text) = client.amqp().closing();
    assert_eq!(code, 320);
    assert!(text.starts_with("CONNECTION_FORCED - the endpoint"), "{text}");
    client.expect_fin();
}

#[test]
fn who_does_not_go_on_is_closed() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").limits("head_timeout: 100ms").start(&[&endpoint]);
    // Nothing at all, half a header, and silence behind `tune`.
    fixture.connect().expect_fin();
    let mut client = fixture.connect();
    client.send(&HEADER[..5]);
    client.expect_fin();
    let mut client = fixture.connect();
    let mut broker = log_in(&mut client, &endpoint);
    broker.send(tune(2047, 131_072));
    client.expect(tune(2047, 131_072));
    let (code, text) = client.amqp().closing();
    assert_eq!(code, 320);
    assert!(text.contains("limits.head_timeout"), "{text}");
}

#[test]
fn an_endpoint_that_does_not_go_on_is_given_up() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("prepare_timeout: 100ms").start(&[&endpoint]);
    let mut client = fixture.connect();
    let mut broker = log_in(&mut client, &endpoint);
    broker.send(tune(2047, 131_072));
    client.expect(tune(2047, 131_072));
    client.send([tune_ok(2047, 131_072), open("/")].concat());
    let (code, text) = client.amqp().closing();
    assert_eq!(code, 320);
    assert!(text.contains("amqp.prepare_timeout"), "{text}");
    client.send(close_ok());
    client.expect_fin();
    broker.expect([tune_ok(2047, 131_072), open("/")].concat());
}

#[test]
fn beyond_a_bound_a_client_is_closed_without_a_word() {
    let endpoint = Endpoint::bind();
    let setup = Setup::amqp("")
        .listeners("- {address: 127.0.0.1:0, protocol: amqp, routes: [{pool: chat, connections_max: 1}]}\n");
    let fixture = setup.limits("connections_max: 2").start(&[&endpoint]);
    let _first = fixture.open_amqp(&endpoint);
    let mut second = fixture.connect();
    second.send(HEADER);
    second.expect_fin();
    let _waiting = fixture.connect();
    crate::support::wait_until("it is counted", || fixture.status().connections == 2);
    fixture.connect().expect_fin();
}
