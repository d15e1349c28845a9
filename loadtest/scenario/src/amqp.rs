//! Scenarios of AMQP 0-9-1: publishers and consumers on a cluster of real brokers, instead of WebSocket clients on demo
//! endpoints.
//!
//! The arithmetic over time, the steps, the report and the verdicts are those of every scenario. What is particular
//! to messages in queues is here: who publishes what, what became of it, and what may have.

mod expect;
mod file;
mod summary;

pub use expect::AmqpExpect;
pub use file::{AmqpScenario, Brokers, DirectRun, Group, NODES_MAX, QueueKind};
pub use summary::{Account, AmqpSummary, Freeze, GroupSummary};
