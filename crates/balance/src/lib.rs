//! Placement and rebalancing without IO.

mod limits;

pub use limits::{Limits, Policy};
