//! Everything that is asked of the Kubernetes API: which endpoints a Service has, what their Pods say of themselves.
//!
//! [`Cluster`] is the connection, made when it is first needed: a gateway starts and serves while the API is away.
//! [`Cluster::endpoints`] follows a Service. What an answer means is decided in `slices`, `view` and `contact`,
//! which do no IO. Not here: what a change means for sessions (`balance`), and who wants to know (`discovery`).

mod client;
mod contact;
pub mod deletion_cost;
pub mod events;
mod identity;
mod notes;
mod pods;
mod reflect;
mod resources;
pub mod rules;
mod service;
mod slices;
mod times;
mod trouble;
mod view;

pub use client::Cluster;
pub use identity::Identity;
pub use kube;
pub use service::{Endpoints, Found, PodNotes, Target};
pub use times::Times;
pub use trouble::{Call, Trouble};
