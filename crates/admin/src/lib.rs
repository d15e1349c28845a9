//! The operator's port: liveness, readiness, metrics, status, plans, and the calls that change something.
//!
//! Reading is open; what changes something asks `access` first. The gateway is unknown here: the binary hands in a
//! [`Control`]. Not here: TLS, and users; who needs them puts a proxy in front.

mod access;
mod answer;
mod calls;
mod control;
mod patience;
mod query;
mod server;
#[cfg(test)]
mod testing;
mod token;

pub use control::{Control, Unknown};
pub use server::Admin;
pub use token::{Token, TokenError, TokenFile};
