//! What discovery says of an endpoint, and a snapshot of all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{EndpointId, PoolName, Zone};

/// Share of the load relative to the other endpoints of the pool: 1 to 1000, default 1.
///
/// There is no weight 0: an endpoint that should get nothing is [`EndpointState::Terminating`] (its sessions
/// leave) or [`EndpointState::Unready`] (they stay).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("maximum" = 1000))]
pub struct Weight(NonZeroU16);

impl Weight {
    /// The weight of an endpoint that names none.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// # Errors
    /// [`WeightError`] when `weight` is not within 1 to 1000.
    pub fn new(weight: u16) -> Result<Self, WeightError> {
        match NonZeroU16::new(weight) {
            Some(valid) if weight <= 1000 => Ok(Self(valid)),
            _ => Err(WeightError(weight)),
        }
    }

    /// 1 to 1000.
    pub const fn value(self) -> u16 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(u16::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A weight outside 1 to 1000.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WeightError(u16);

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weight is {}, expected 1 to 1000 (to send an endpoint nothing, set its state to draining or unready)",
            self.0
        )
    }
}

impl std::error::Error for WeightError {}

/// What may be done with an endpoint; the names are Kubernetes' endpoint conditions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Takes new sessions.
    #[default]
    Ready,
    /// Takes no new session; those it has stay.
    Unready,
    /// Takes no new session; those it has are moved by a deadline.
    ///
    /// Written `draining` in files.
    #[serde(rename = "draining", alias = "terminating")]
    Terminating,
}

/// One address that may be dialed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Who it is, whatever its address.
    pub id: EndpointId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: Weight,
    /// Its condition.
    pub state: EndpointState,
    /// Where it runs, when that is known.
    pub zone: Option<Zone>,
    /// The Pod behind it, when it was found through Kubernetes.
    pub pod: Option<Arc<Pod>>,
}

impl Endpoint {
    /// A ready endpoint of weight 1 of which nothing more is known.
    pub fn new(id: impl Into<EndpointId>, address: SocketAddr) -> Self {
        Self {
            id: id.into(),
            address,
            weight: Weight::ONE,
            state: EndpointState::Ready,
            zone: None,
            pod: None,
        }
    }
}

/// A Pod by its name; who it is, is the id of its endpoint (the Pod's UID).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// The namespace it lives in.
    pub namespace: String,
    /// Its name, which another Pod may have later.
    pub name: String,
    /// The node it runs on, once it has one.
    pub node: Option<String>,
}

/// Everything discovery knows at one moment: each pool with all of its endpoints, ordered by id, no id twice.
///
/// A pool that is missing has not been resolved yet; a pool with an empty list has no endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Endpoints by pool.
    pub pools: BTreeMap<PoolName, Vec<Endpoint>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_outside_1_to_1000_are_refused() {
        assert_eq!(Weight::new(0), Err(WeightError(0)));
        assert_eq!(Weight::new(1001), Err(WeightError(1001)));
        assert_eq!(Weight::new(1000).map(Weight::value), Ok(1000));
    }
}
