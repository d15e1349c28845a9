//! Real RabbitMQ clusters on loopback, each with its own folder, ports, cookie and epmd.
//!
//! The integration tests of the gateway, `fleet` and `cargo xtask rabbitmq` need the very broker that users have. A
//! cluster here touches nothing of the system's: no service, no default port, no shared epmd. Processes are known by pid
//! and start time, never by name. Calls block: a start takes seconds. Not here: an AMQP client.
//!
//! ```no_run
//! let cluster = rabbitmq::Cluster::up("target/rabbitmq/doc".as_ref(), &rabbitmq::Options::default())?;
//! println!("{}", cluster.nodes()[0].address());
//! # anyhow::Ok(())
//! ```

mod cluster;
mod install;
mod node;
mod ports;
mod probe;
mod process;
mod record;

pub use cluster::{Cluster, Lifetime, NODES_MAX, Options};
pub use install::Install;
pub use node::Node;
pub use probe::answers;
pub use record::{NodeRecord, Record, down};
