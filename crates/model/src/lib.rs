//! The words of evenkeel: identities, time, and what discovery says of an endpoint.
//!
//! Every other crate speaks in these types. Nothing here decides, waits or does IO.

mod endpoint;
mod id;
mod time;
pub mod units;

pub use endpoint::{Endpoint, EndpointState, Pod, Snapshot, Weight, WeightError};
pub use id::{EndpointId, PoolName, ReplicaName, SessionId, Zone};
pub use time::Time;
