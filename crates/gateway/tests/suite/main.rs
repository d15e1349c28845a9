//! The gateway over real sockets, in this process: each test plays clients and endpoints by hand.
//!
//! Counts must be back at zero after every test (see `fixture`). Not here: the process around the gateway
//! (signals, files, exit codes), which the `evenkeel` crate tests, and clients that are not ours.

#[path = "../support/mod.rs"]
mod support;

mod amqp_handshake;
mod amqp_opaque;
mod amqp_probe;
mod amqp_routing;
mod amqp_session;
mod answers;
mod fixture;
mod frames;
mod handshake;
mod limits;
mod moves;
mod placement;
mod plain;
mod planning;
mod smuggling;
mod tls;
