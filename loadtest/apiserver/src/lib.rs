//! A Kubernetes API server that does what it is told: objects in memory, real lists, watches and patches on loopback, and
//! every refusal and outage at the moment that a test chooses.
//!
//! It stands in for kube-apiserver where there is no cluster: kube's client and kubectl cannot tell. Written after the
//! documented API; what is told here is told there. Not here: TLS, authentication, admission, defaulting, field
//! ownership, garbage collection, and most validation. Addresses of EndpointSlices may be loopback, which a real
//! cluster refuses. [`controller`] makes Services, slices and Pods out of a plain list of backends.

mod access;
mod call;
pub mod controller;
mod discovery;
mod events;
mod failure;
mod handle;
mod patch;
mod path;
mod read;
mod render;
mod resource;
mod script;
mod select;
mod serve;
mod server;
mod shared;
mod store;
mod watch;
mod world;
mod write;

pub use failure::Failure;
pub use handle::{Handle, History};
pub use resource::Resource;
pub use script::{Expired, Refusal};
pub use server::ApiServer;
pub use shared::Cut;
pub use world::{Scaled, Seen};
