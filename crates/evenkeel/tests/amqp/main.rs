//! AMQP clients that are not ours (pika, aio-pika, amqplib, lapin) against a real RabbitMQ cluster, through a gateway that
//! moves their connections from node to node all the time.
//!
//! How a test is made:
//!
//! - [`bench::Bench::start`] gives it the cluster of three nodes (one for the whole run; a test has it for itself until the
//!   bench is dropped, and finds every node running), a virtual host of its own, and a gateway process with a pool `rabbit`
//!   of the three nodes. `bench.cluster` stops, kills and pauses nodes; `bench.ctl` asks the broker.
//! - [`bench::Bench::client`] starts a client; all four take the same orders. [`peer::Peer::start`] gives it jobs (publish,
//!   consume; fields in `clients/traffic.py`), [`peer::Peer::stop`] and [`peer::Peer::records`] end them and hand over what
//!   they saw; [`peer::Peer::ask`] calls one method of a channel (pika and amqplib). No client retries or reconnects.
//! - [`gateway::Gateway::rehearse`] moves every connection once; [`gateway::Mover`] does it every so often until it is
//!   stopped, and tells what the gateway counted.
//! - [`load::run`] does it all for a list of jobs: start, move, stop the publishers, wait for the consumers, compare.
//! - [`judge::judge`] compares what publishers and consumers saw; a finding is a line of text.
//!
//! All tests that need the cluster are in `on_rabbitmq`, so that their names begin with it: `cargo xtask test` runs them in
//! a step of their own. Not here: our own client (`loadtest/fleet`), balance, timing.

#![allow(clippy::print_stdout, reason = "the counts are the result of the run")]

mod bench;
mod gateway;
mod interposer;
mod judge;
mod lapin_client;
mod load;
mod peer;
mod raw;

mod on_rabbitmq;
