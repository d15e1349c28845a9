//! Scenarios of AMQP 0-9-1: real publishers and consumers on a real RabbitMQ cluster, through the gateway or without.
//!
//! As with WebSocket, `replay` is the program, and the gateway and all clients are processes of their own. Each client
//! is one connection of the library lapin. What a scenario says and what its numbers mean is in the crate `scenario`,
//! how brokers are started in `rabbitmq`.

mod board;
mod checker;
mod client;
pub mod clients;
mod consumer;
mod metrics;
mod nodes;
mod payload;
pub mod plan;
mod publisher;
pub mod replay;
mod run;
