//! AMQP 1.0: relayed as it comes, pinned, and closed between two frames when it has to leave.

use model::EndpointState;

use crate::fixture::{Fixture, Setup, known, ready, wait_for_sessions};
use crate::support::{Endpoint, Wire, wait_until};

const SASL: &[u8] = b"AMQP\x03\x01\x00\x00";

/// A frame of AMQP 1.0 on channel 0.
fn frame(body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).expect("it is short");
    [&size.to_be_bytes()[..], &[2, 0, 0, 0], body].concat()
}

fn open(fixture: &Fixture, endpoint: &Endpoint) -> (Wire, Wire) {
    let mut client = fixture.connect();
    client.send(SASL);
    let mut broker = endpoint.accept();
    broker.expect(SASL);
    broker.send(SASL);
    client.expect(SASL);
    wait_for_sessions(fixture, 1);
    (client, broker)
}

#[test]
fn bytes_pass_both_ways_and_ends_too() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let (mut client, mut broker) = open(&fixture, &endpoint);
    let large = frame(&vec![7; 300_000]);
    std::thread::scope(|scope| {
        scope.spawn(|| client.send(&large));
        broker.expect(&large);
    });
    std::thread::scope(|scope| {
        scope.spawn(|| broker.send(&large));
        client.expect(&large);
    });
    client.finish();
    broker.expect_fin();
    broker.send(frame(b"last"));
    client.expect(frame(b"last"));
    drop(broker);
    client.expect_fin();
}

#[test]
fn such_a_session_is_pinned_and_a_drain_closes_it_between_two_frames() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let (mut client, mut broker) = open(&fixture, &endpoint);
    wait_until("it is pinned", || fixture.pinned("amqp_1_0") == Some(1));
    let whole = frame(b"0123456789");
    broker.send(&whole[..12]);
    client.expect(&whole[..12]);
    let another = Endpoint::bind();
    fixture.follow(vec![known(endpoint.address(), EndpointState::Terminating), ready(another.address())]);
    wait_until("it is told", || fixture.pool().moves.began == 1);
    broker.send(&whole[12..]);
    client.expect(&whole[12..]);
    let size = u32::from_be_bytes(client.take(4).try_into().expect("four bytes")) as usize;
    let close = client.take(size - 4);
    assert!(close.windows(22).any(|part| part == b"amqp:connection:forced"), "{}", close.escape_ascii());
    drop(client);
    broker.rest();
}

#[test]
fn an_endpoint_that_dies_ends_the_session() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp("").start(&[&endpoint]);
    let (mut client, broker) = open(&fixture, &endpoint);
    crate::fixture::reset(broker);
    client.rest();
}
