//! The gateway as the admin port sees it.

use std::sync::Arc;
use std::time::Duration;

use admin::{Control, Unknown};
use gateway::{CommandError, Gateway};
use metrics_exporter_prometheus::PrometheusHandle;
use model::{EndpointId, PoolName};
use serde::Serialize;
use serde_json::{Value, json};

/// A gateway and its metrics.
pub struct Controlled {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// What it counts.
    pub metrics: PrometheusHandle,
}

impl Control for Controlled {
    fn is_ready(&self) -> bool {
        self.gateway.is_ready()
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }

    fn status(&self) -> Value {
        value(&self.gateway.status())
    }

    fn tier(&self) -> Value {
        value(&self.gateway.tier_report())
    }

    fn plan(&self, pool: Option<&PoolName>) -> Result<Value, Unknown> {
        Ok(value(&self.gateway.plan(pool).map_err(unknown)?))
    }

    fn rebalance(&self, pool: &PoolName) -> Result<(), Unknown> {
        self.gateway.rebalance(pool).map_err(unknown)
    }

    fn rehearse(&self, pool: &PoolName) -> Result<u64, Unknown> {
        self.gateway.rehearse(pool).map_err(unknown)
    }

    fn pause(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown> {
        self.gateway.pause(pool).map_err(unknown)
    }

    fn resume(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown> {
        self.gateway.resume(pool).map_err(unknown)
    }

    fn drain(
        &self,
        pool: &PoolName,
        endpoint: &EndpointId,
        deadline: Option<Duration>,
    ) -> Result<Duration, Unknown> {
        self.gateway.drain(pool, endpoint, deadline).map_err(unknown)
    }

    fn left(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<u64, Unknown> {
        self.gateway.left(pool, endpoint).map_err(unknown)
    }

    fn cancel_drain(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<(), Unknown> {
        self.gateway.cancel_drain(pool, endpoint).map_err(unknown)
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

/// Whatever a command can not find; the match is here so that another kind of error is not taken for it.
fn unknown(error: CommandError) -> Unknown {
    match error {
        CommandError::UnknownPool { .. } | CommandError::UnknownEndpoint { .. } => Unknown(error.to_string()),
    }
}
