//! The gateway: listeners, TLS, dialing, the relay, the session table, plan execution, drain.
//!
//! Decisions live in the pure crates; here are sockets, threads and clocks. Endpoints come in through a `watch`
//! channel of snapshots, from whoever finds them.

mod admission;
mod amqp;
mod buffer;
mod census;
mod clock;
mod descriptors;
mod drain;
mod entropy;
mod forwarded;
mod front;
mod gateway;
mod http;
mod io;
mod listen;
mod pool;
mod proxy_protocol;
mod rebalance;
mod rehearse;
mod relay;
mod reply;
mod reports;
mod shared;
mod slot;
mod stay;
mod telemetry;
#[cfg(test)]
mod testing;
mod tier;
mod tls;
mod upstream;
mod worker;
mod zeroes;

pub use descriptors::TooFew;
pub use gateway::{CommandError, Gateway, PoolView, StartError, Status};
pub use reports::Notice;
pub use tier::TierReport;
pub use tls::{Certificate, TlsError};
