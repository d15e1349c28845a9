//! Gateways and endpoints that run in a cluster: found and scaled by the Kubernetes API, counted by the gateways
//! themselves.
//!
//! What a scenario demands of them is the business of `run` and `scenario`.

mod api;
mod counts;
mod poll;
mod tier;

pub use poll::Replicas;
pub use tier::{Place, Tier};
