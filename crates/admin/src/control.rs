//! What the port needs of the process that it belongs to: one trait, so that the two meet as strangers.

use std::time::Duration;

use model::{EndpointId, PoolName};
use serde_json::Value;

/// A call names a pool or an endpoint that is not there. The text says what was named and what there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// The process behind the port. Every method answers at once.
pub trait Control: Send + Sync + 'static {
    /// True while the process should get new clients.
    fn is_ready(&self) -> bool;

    /// The metrics, as Prometheus text.
    fn metrics(&self) -> String;

    /// Everything that `/api/v1/status` says.
    fn status(&self) -> Value;

    /// What `/api/v1/tier` says: what the other gateway replicas want to know.
    fn tier(&self) -> Value;

    /// What would be moved now, by pool: for one pool, or for all.
    ///
    /// # Errors
    /// No such pool.
    fn plan(&self, pool: Option<&PoolName>) -> Result<Value, Unknown>;

    /// Levels a pool now.
    ///
    /// # Errors
    /// No such pool.
    fn rebalance(&self, pool: &PoolName) -> Result<(), Unknown>;

    /// Migrates every session of a pool that can migrate, once. Returns how many were told to.
    ///
    /// # Errors
    /// No such pool.
    fn rehearse(&self, pool: &PoolName) -> Result<u64, Unknown>;

    /// Moves nothing for balance, in one pool or in all, until [`Control::resume`]. Returns in which.
    ///
    /// # Errors
    /// No such pool.
    fn pause(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown>;

    /// Ends a pause, and the return guard's stop. Returns in which pools.
    ///
    /// # Errors
    /// No such pool.
    fn resume(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown>;

    /// Empties an endpoint by `deadline` from now (`None`: as configured). Returns the deadline that counts.
    ///
    /// # Errors
    /// No such pool or endpoint.
    fn drain(
        &self,
        pool: &PoolName,
        endpoint: &EndpointId,
        deadline: Option<Duration>,
    ) -> Result<Duration, Unknown>;

    /// What is still at an endpoint, sessions and connections that are being closed. 0 for one that is not there.
    ///
    /// # Errors
    /// No such pool.
    fn left(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<u64, Unknown>;

    /// Takes [`Control::drain`] back.
    ///
    /// # Errors
    /// No such pool or endpoint.
    fn cancel_drain(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<(), Unknown>;
}
