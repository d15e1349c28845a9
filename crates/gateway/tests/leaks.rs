//! No way in which a connection can end leaves a descriptor behind.
//!
//! A binary of its own: descriptors belong to the process, and other tests would open some meanwhile.

#[path = "suite/fixture.rs"]
mod fixture;
#[path = "support/mod.rs"]
mod support;

use fixture::{Fixture, POOL, Setup, reset, wait_for_sessions};
use support::frames::{CLOSE, TEXT, bare, closing, masked};
use support::http::{GET, UPGRADE, more, response, status};
use support::{Endpoint, Wire, accept_any, amqp, wait_until};

/// Rounds of every kind of end: a leak of one in a round can not hide.
const ROUNDS: usize = 10;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux tells").count()
}

/// Each way once.
fn end_in_every_way(fixture: &Fixture, endpoint: &Endpoint) {
    let (mut client, mut upstream) = fixture.open(endpoint);
    client.send(masked(CLOSE, closing(1000, "")));
    upstream.send(bare(CLOSE, closing(1000, "")));
    client.frame();
    client.expect_fin();
    drop((client, upstream));
    let (client, upstream) = fixture.open(endpoint);
    reset(client);
    drop(upstream);
    let (mut client, upstream) = fixture.open(endpoint);
    reset(upstream);
    client.frame();
    drop(client);
    let (mut client, mut upstream) = fixture.open(endpoint);
    client.send(&masked(TEXT, "half")[..8]);
    upstream.send([0xFF; 3]);
    client.expect([0xFF; 3]);
    drop((client, upstream));
    let mut client = fixture.connect();
    client.send(UPGRADE.replace("13", "12"));
    assert_eq!(status(&client.message().0), 426);
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send(response("401 Unauthorized", "Connection: close\r\n", "no"));
    assert_eq!(status(&client.message().0), 401);
    let mut client = fixture.connect();
    client.send(UPGRADE);
    drop(endpoint.accept());
    client.message();
    let mut client = fixture.connect();
    client.send(more(GET, "Connection: close\r\n"));
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send(response("200 OK", "Connection: close\r\n", ""));
    client.message();
    drop(fixture.connect());
}

/// Rounds of `end` leave no descriptor behind, and the end of the gateway none at all.
fn expect_no_leak(start: impl Fn() -> Fixture, end: impl Fn(&Fixture)) {
    // The first gateway of a process opens what the runtime keeps for good.
    drop(start());
    let before = descriptors();
    let fixture = start();
    end(&fixture);
    fixture.expect_zero();
    let running = descriptors();
    for _ in 0..ROUNDS {
        end(&fixture);
    }
    fixture.expect_zero();
    wait_until("all sockets are closed", || descriptors() <= running);
    drop(fixture);
    wait_until("threads and listeners are gone", || descriptors() <= before);
}

/// Each way of an AMQP connection once. `first` and `second` are the endpoints.
fn end_amqp_in_every_way(fixture: &Fixture, first: &Endpoint, second: &Endpoint) {
    let both = [first, second];
    let mut client = fixture.connect();
    client.send("GET / HTTP/1.1");
    client.rest();
    drop(client);
    // The login is refused; the client resets; the endpoint does, and the other one too.
    let (mut client, mut broker, _) = amqp_login(fixture, both);
    broker.send(amqp::close(403, "ACCESS_REFUSED"));
    client.amqp();
    drop((client, broker));
    let (client, _broker, _) = amqp_session(fixture, both);
    reset(client);
    let (mut client, broker, at) = amqp_session(fixture, both);
    reset(broker);
    drop(both[1 - at].accept());
    client.rest();
    // A malformed frame.
    let (mut client, broker, _) = amqp_session(fixture, both);
    client.send([7; 8]);
    client.rest();
    drop(broker);
    // A migration that succeeds, and one amid which the client leaves.
    let (client, mut old, at) = amqp_session(fixture, both);
    fixture.gateway.rehearse(&POOL.into()).expect("the pool is there");
    let mut new = both[1 - at].accept();
    new.serve_login("c1", &amqp::start_ok("u", "p"), "/");
    old.serve_close();
    drop(old);
    wait_until("it has migrated", || fixture.pool().endpoints.iter().all(|endpoint| endpoint.moving == 0));
    fixture.gateway.rehearse(&POOL.into()).expect("the pool is there");
    let next = both[at].accept();
    drop(client);
    drop((new, next));
    // AMQP 1.0.
    let mut client = fixture.connect();
    client.send(b"AMQP\x00\x01\x00\x00");
    let (_, broker) = accept_any(&both);
    drop(broker);
    client.rest();
    drop(client);
    fixture.expect_zero();
}

/// Up to `start-ok`, at whichever endpoint.
fn amqp_login(fixture: &Fixture, endpoints: [&Endpoint; 2]) -> (Wire, Wire, usize) {
    let mut client = fixture.connect();
    client.send(amqp::HEADER);
    let (at, mut broker) = accept_any(&endpoints);
    broker.expect(amqp::HEADER);
    broker.send(amqp::start("c1"));
    client.expect(amqp::start("c1"));
    client.send(amqp::start_ok("u", "p"));
    broker.expect(amqp::start_ok("u", "p"));
    (client, broker, at)
}

/// A session at whichever endpoint.
fn amqp_session(fixture: &Fixture, endpoints: [&Endpoint; 2]) -> (Wire, Wire, usize) {
    fixture.expect_zero();
    let (mut client, mut broker, at) = amqp_login(fixture, endpoints);
    broker.send(amqp::tune(2047, 131_072));
    client.expect(amqp::tune(2047, 131_072));
    client.send([amqp::tune_ok(2047, 131_072), amqp::open("/")].concat());
    broker.expect([amqp::tune_ok(2047, 131_072), amqp::open("/")].concat());
    broker.send(amqp::open_ok());
    client.expect(amqp::open_ok());
    wait_for_sessions(fixture, 1);
    (client, broker, at)
}

#[test]
fn descriptors_return_however_connections_end_and_when_the_gateway_is_gone() {
    let endpoint = Endpoint::bind();
    let start = || Setup::new().pool("tries_max: 1").start(&[&endpoint]);
    expect_no_leak(start, |fixture| end_in_every_way(fixture, &endpoint));
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let setup = || Setup::amqp("close_timeout: 20ms");
    let start = || setup().start(&[&first, &second]);
    expect_no_leak(start, |fixture| end_amqp_in_every_way(fixture, &first, &second));
}
