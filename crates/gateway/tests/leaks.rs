//! No way in which a connection can end leaves a descriptor behind.
//!
//! A binary of its own: descriptors belong to the process, and other tests would open some meanwhile.

#[path = "suite/fixture.rs"]
mod fixture;
#[path = "support/mod.rs"]
mod support;

use fixture::{Fixture, Setup, reset};
use support::frames::{CLOSE, TEXT, bare, closing, masked};
use support::http::{GET, UPGRADE, more, response, status};
use support::{Endpoint, wait_until};

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

#[test]
fn descriptors_return_however_connections_end_and_when_the_gateway_is_gone() {
    let endpoint = Endpoint::bind();
    // The first gateway of a process opens what the runtime keeps for good.
    drop(Setup::new().start(&[&endpoint]));
    let before = descriptors();
    let fixture = Setup::new().pool("tries_max: 1").start(&[&endpoint]);
    end_in_every_way(&fixture, &endpoint);
    fixture.expect_zero();
    let running = descriptors();
    for _ in 0..ROUNDS {
        end_in_every_way(&fixture, &endpoint);
    }
    fixture.expect_zero();
    wait_until("all sockets are closed", || descriptors() <= running);
    drop(fixture);
    wait_until("threads and listeners are gone", || descriptors() <= before);
}
