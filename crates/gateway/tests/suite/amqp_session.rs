//! AMQP sessions that run: content in both directions, migrations, lost endpoints, faults, the way out.

use model::{EndpointState, PoolName};

use crate::fixture::{Fixture, POOL, Setup, known, ready, reset, wait_for_sessions};
use crate::support::amqp::{
    HEADER, channel_open, channel_open_ok, close, close_ok, declare, declare_ok, delivery, frame, method,
    open, open_ok, start, start_ok, tune, tune_ok,
};
use crate::support::{Endpoint, Wire, wait_until};

/// A session at the first of two endpoints, with the other one ready as well.
fn open_at_first(setup: Setup, first: &Endpoint, second: &Endpoint) -> (Fixture, Wire, Wire) {
    let fixture = setup.start(&[first]);
    let (client, broker) = fixture.open_amqp(first);
    wait_for_sessions(&fixture, 1);
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    (fixture, client, broker)
}

fn rehearse(fixture: &Fixture) {
    assert_eq!(fixture.gateway.rehearse(&PoolName::from(POOL)).expect("the pool is there"), 1);
}

#[test]
fn content_of_any_size_passes_in_both_directions() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("order: relaxed").start(&[&endpoint]);
    let (mut client, mut broker) = fixture.open_amqp(&endpoint);
    client.send(channel_open(1));
    broker.expect(channel_open(1));
    broker.send(channel_open_ok(1));
    client.expect(channel_open_ok(1));
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let down = delivery(1, &body, 131_072);
    let publish = method(1, (60, 40), &[&[0; 2], &[0], b"\x01q", &[0]]);
    let up = [&publish[..], &delivery(1, &body, 4096)[method_bytes(&down)..]].concat();
    std::thread::scope(|scope| {
        let (client, broker) = (&mut client, &mut broker);
        let mut sender = broker.tcp().try_clone().expect("a descriptor is free");
        scope.spawn(move || std::io::Write::write_all(&mut sender, &down).expect("it is taken"));
        client.expect(delivery(1, &body, 131_072));
    });
    std::thread::scope(|scope| {
        let mut sender = client.tcp().try_clone().expect("a descriptor is free");
        let sent = &up;
        scope.spawn(move || std::io::Write::write_all(&mut sender, sent).expect("it is taken"));
        broker.expect(&up);
    });
}

/// Length of the first frame.
fn method_bytes(frames: &[u8]) -> usize {
    u32::from_be_bytes(frames[3..7].try_into().expect("four bytes")) as usize + 8
}

#[test]
fn a_session_migrates_and_its_client_stays() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, mut client, mut old) = open_at_first(Setup::amqp(""), &first, &second);
    client.send(channel_open(7));
    old.expect(channel_open(7));
    old.send(channel_open_ok(7));
    client.expect(channel_open_ok(7));
    rehearse(&fixture);
    let mut new = second.accept();
    new.serve_login("c1", &start_ok("u", "p"), "/");
    new.expect(channel_open(7));
    new.send(channel_open_ok(7));
    assert_eq!(old.serve_close().0, 200);
    client.send(declare(7, "q", 2));
    new.expect(declare(7, "q", 2));
    new.send(declare_ok(7, "q"));
    client.expect(declare_ok(7, "q"));
    let addresses = [first.address(), second.address()];
    wait_until("the books are exchanged", || fixture.sessions(&addresses) == [0, 1]);
    assert_eq!(fixture.pool().moves.migrated, 1);
    client.send(close(200, ""));
    new.expect(close(200, ""));
    new.send(close_ok());
    client.expect(close_ok());
}

#[test]
fn a_migration_that_the_next_endpoint_refuses_is_given_up_unnoticed() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, mut client, mut broker) = open_at_first(Setup::amqp(""), &first, &second);
    rehearse(&fixture);
    let mut new = second.accept();
    new.expect(HEADER);
    new.send(start("another cluster"));
    new.rest();
    drop(new);
    wait_until("it is given up", || fixture.pool().moves.aborted == 1);
    client.send(channel_open(1));
    broker.expect(channel_open(1));
}

#[test]
fn a_client_that_leaves_amid_a_migration_strands_nothing() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, client, mut old) = open_at_first(Setup::amqp(""), &first, &second);
    rehearse(&fixture);
    let mut new = second.accept();
    new.expect(HEADER);
    new.send(start("c1"));
    new.expect(start_ok("u", "p"));
    drop(client);
    old.expect_fin();
    drop(old);
    new.rest();
    wait_for_sessions(&fixture, 0);
}

#[test]
fn a_session_that_owns_an_exclusive_queue_is_pinned_while_it_does() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, mut client, mut broker) = open_at_first(Setup::amqp(""), &first, &second);
    client.send([channel_open(1), declare(1, "mine", 4)].concat());
    broker.expect([channel_open(1), declare(1, "mine", 4)].concat());
    broker.send([channel_open_ok(1), declare_ok(1, "mine")].concat());
    client.expect([channel_open_ok(1), declare_ok(1, "mine")].concat());
    let pinned = || fixture.pinned("exclusive_queue");
    wait_until("it is pinned", || pinned() == Some(1));
    assert_eq!(fixture.gateway.rehearse(&PoolName::from(POOL)).expect("the pool is there"), 0);
    client.send(close(200, ""));
    broker.expect(close(200, ""));
    broker.send(close_ok());
    client.expect(close_ok());
    wait_until("nobody is pinned", || pinned() == Some(0));
}

#[test]
fn a_pinned_session_is_closed_politely_when_its_endpoint_drains() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, mut client, mut broker) = open_at_first(Setup::amqp(""), &first, &second);
    client.send([channel_open(1), declare(1, "mine", 4)].concat());
    broker.expect([channel_open(1), declare(1, "mine", 4)].concat());
    broker.send([channel_open_ok(1), declare_ok(1, "mine")].concat());
    client.expect([channel_open_ok(1), declare_ok(1, "mine")].concat());
    wait_until("it is pinned", || fixture.pinned("exclusive_queue") == Some(1));
    fixture.follow(vec![known(first.address(), EndpointState::Terminating), ready(second.address())]);
    assert_eq!(client.amqp().closing().0, 320);
    client.send(close_ok());
    client.expect_fin();
    assert_eq!(broker.serve_close().0, 200);
    wait_until("it counts as moved", || fixture.pool().moves.moved == 1);
}

#[test]
fn an_idle_session_whose_endpoint_dies_goes_on_at_another() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, mut client, old) = open_at_first(Setup::amqp(""), &first, &second);
    reset(old);
    let mut new = second.accept();
    new.serve_login("c1", &start_ok("u", "p"), "/");
    client.send(channel_open(1));
    new.expect(channel_open(1));
    let addresses = [first.address(), second.address()];
    wait_until("the books are exchanged", || fixture.sessions(&addresses) == [0, 1]);
}

#[test]
fn a_session_that_nobody_takes_over_is_closed_with_320() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let (mut client, broker) = fixture.open_amqp(&endpoint);
    reset(broker);
    assert_eq!(client.amqp().closing().0, 320);
    client.send(close_ok());
    client.expect_fin();
}

#[test]
fn hostile_frames_get_the_code_that_they_deserve() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let mut bad_end = channel_open(2);
    *bad_end.last_mut().expect("it is not empty") = 0;
    let header = |class: u8| frame(2, 1, &[0, class, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    let publish = method(1, (60, 40), &[&[0; 2], &[0], b"\x01q", &[0]]);
    let mut too_long = frame(3, 1, b"");
    too_long[3..7].copy_from_slice(&200_000u32.to_be_bytes());
    let table: [(Vec<u8>, u16); 6] = [
        (bad_end, 501),
        (b"GET / HTTP/1.1".to_vec(), 501),
        (too_long, 501),
        (frame(8, 0, b"x"), 501),
        (frame(3, 1, b"x"), 505),
        ([publish, header(50)].concat(), 501),
    ];
    for (fault, code) in table {
        let (mut client, mut broker) = fixture.open_amqp(&endpoint);
        client.send(channel_open(1));
        broker.expect(channel_open(1));
        broker.send(channel_open_ok(1));
        client.expect(channel_open_ok(1));
        client.send(&fault);
        let closing = client.amqp().closing();
        assert_eq!(closing.0, code, "{} {closing:?}", fault.escape_ascii());
        client.send(close_ok());
        client.expect_fin();
        drop(client);
        drop(broker);
        wait_for_sessions(&fixture, 0);
    }
}

#[test]
fn a_gateway_that_stops_closes_its_clients_with_320() {
    let endpoint = Endpoint::bind();
    let rest = "shutdown: {grace: 4s, propagation: 0s}\n";
    let mut fixture = Setup::amqp("").rest(rest).start(&[&endpoint]);
    let (mut client, mut broker) = fixture.open_amqp(&endpoint);
    fixture.begin_shutdown();
    let (code, text) = client.amqp().closing();
    assert_eq!(code, 320);
    assert!(text.starts_with("CONNECTION_FORCED"), "{text}");
    client.send(close_ok());
    client.expect_fin();
    assert_eq!(broker.amqp().closing().0, 200);
    broker.send(close_ok());
    broker.expect_fin();
    drop((client, broker));
    fixture.join();
}

#[test]
fn a_draining_endpoint_is_left_by_a_migration() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let (fixture, mut client, mut old) = open_at_first(Setup::amqp(""), &first, &second);
    fixture.follow(vec![known(first.address(), EndpointState::Terminating), ready(second.address())]);
    let mut new = second.accept();
    new.serve_login("c1", &start_ok("u", "p"), "/");
    old.serve_close();
    client.send(channel_open(1));
    new.expect(channel_open(1));
}

#[test]
fn endpoints_are_told_the_clients_address_on_every_connection() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::amqp("proxy_protocol: true").start(&[&first]);
    let mut client = fixture.connect();
    client.send(HEADER);
    let port = client.tcp().local_addr().expect("it is connected").port();
    let proxied = |broker: &mut Wire| {
        let header = broker.take(28);
        assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
        assert_eq!(header[24..26], port.to_be_bytes());
        assert_eq!(header[26..28], fixture.address().port().to_be_bytes());
    };
    let mut old = first.accept();
    proxied(&mut old);
    old.expect(HEADER);
    old.send(start("c1"));
    client.expect(start("c1"));
    client.send(start_ok("u", "p"));
    old.expect(start_ok("u", "p"));
    old.send(tune(2047, 131_072));
    client.expect(tune(2047, 131_072));
    client.send([tune_ok(2047, 131_072), open("/")].concat());
    old.expect([tune_ok(2047, 131_072), open("/")].concat());
    old.send(open_ok());
    client.expect(open_ok());
    wait_for_sessions(&fixture, 1);
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    rehearse(&fixture);
    let mut new = second.accept();
    proxied(&mut new);
    new.serve_login("c1", &start_ok("u", "p"), "/");
    old.serve_close();
}
