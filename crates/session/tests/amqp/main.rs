//! Checks the AMQP session against a model: a client, a cluster and a shell without IO, and millions of interleavings.
//!
//! `world` plays a schedule from a seed; `ledger` judges it (I1 to I7 of docs/amqp.md). `promises` has the schedules that must hold,
//! `teeth` those that must fail. The example `model` plays as many as one wants.

mod broker;
mod channel;
mod client;
mod dice;
mod fault;
mod gateway;
mod habits;
mod ledger;
mod promises;
mod queue;
mod tally;
mod teeth;
mod wire;
mod world;
