//! Probes of AMQP endpoints: who does not answer gets nothing new, until it answers again.

use model::EndpointState;

use crate::fixture::{Fixture, Setup};
use crate::support::amqp::{HEADER, start};
use crate::support::{Endpoint, eventually};

const PROBED: &str = "probe: {interval: 100ms, timeout: 100ms, failures: 2}";

/// Lets the endpoint answer every probe, or none, until it is seen in `state`.
fn until(fixture: &Fixture, endpoint: &Endpoint, answers: bool, state: EndpointState) {
    let mut open = Vec::new();
    eventually("the endpoint is seen so", || {
        while let Some(mut probe) = endpoint.try_accept() {
            if answers && probe.try_send(start("c1")).is_ok() {
                probe.rest();
            }
            open.push(probe);
        }
        (fixture.pool().endpoints[0].state == state).then_some(())
    });
}

#[test]
fn an_endpoint_that_does_not_answer_gets_nothing_new_until_it_does() {
    let endpoint = Endpoint::bind();
    let setup = Setup::amqp(PROBED).pool("placement: {panic_threshold: 0.0}");
    let fixture = setup.start(&[&endpoint]);
    endpoint.accept().expect(HEADER);
    until(&fixture, &endpoint, false, EndpointState::Unready);
    let mut client = fixture.connect();
    client.send(HEADER);
    client.expect_fin();
    until(&fixture, &endpoint, true, EndpointState::Ready);
}

#[test]
fn without_probes_an_endpoint_counts_as_it_is_listed_and_is_left_alone() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::amqp(PROBED).start(&[&endpoint]);
    until(&fixture, &endpoint, false, EndpointState::Unready);
    fixture.reconfigure(&Setup::amqp(""));
    until(&fixture, &endpoint, false, EndpointState::Ready);
}
