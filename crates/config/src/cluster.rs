//! What the configuration says of clusters: pools that are found through Kubernetes or DNS, the gateway's own tier.
//!
//! Not here: what is asked of the API and what an answer means (`cluster`), how names are resolved (`discovery`).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::units;

/// A Service whose EndpointSlices name a pool's endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KubernetesPool {
    /// The Service, of any type; a headless one will do.
    pub service: String,
    /// Its namespace. Default: the gateway's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Which of its ports: the name it has in the Service, or the number on which the Pods listen. Default: the only one.
    #[serde(default)]
    pub port: Option<ServicePort>,
    /// Keep the annotation `controller.kubernetes.io/pod-deletion-cost` of its Pods in step with their sessions, so that a
    /// scale-in takes the emptiest one. Needs `patch pods`.
    #[serde(default)]
    pub deletion_cost: bool,
}

/// A port of a Service: by its name, or by the number on which the Pods listen (its `targetPort`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// As the Service names it.
    Name(String),
    /// 1 to 65535.
    Number(u16),
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl<'de> Deserialize<'de> for ServicePort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ServicePortVisitor)
    }
}

impl JsonSchema for ServicePort {
    fn schema_name() -> Cow<'static, str> {
        "ServicePort".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "x-type": "name or number",
            "minimum": 1,
            "maximum": 65_535,
        })
    }
}

struct ServicePortVisitor;

impl Visitor<'_> for ServicePortVisitor {
    type Value = ServicePort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port's name, or a number from 1 to 65535")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ServicePort, E> {
        let valid = u16::try_from(number).ok().filter(|port| *port > 0);
        valid
            .map(ServicePort::Number)
            .ok_or_else(|| E::custom(format!("found {number}, expected a port's name, or 1 to 65535")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ServicePort, E> {
        // A negative number is refused with the same words as one that is too large.
        let positive = u64::try_from(number);
        positive.map_or_else(
            |_| Err(E::custom(format!("found {number}, expected a port's name, or 1 to 65535"))),
            |number| self.visit_u64(number),
        )
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<ServicePort, E> {
        Ok(ServicePort::Name(name.into()))
    }
}

/// A name whose addresses are a pool's endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsPool {
    /// What is resolved; relative to the search list of the system unless it ends with a dot.
    pub name: String,
    /// With a port A and AAAA records are asked for, without one SRV records, which have weights too. Default: SRV records say
    /// it.
    #[serde(default)]
    pub port: Option<u16>,
    /// Longest time between two questions; a shorter TTL is respected, down to one second.
    #[serde(default = "units::secs::<30>", with = "units::duration")]
    pub refresh: Duration,
}

/// The gateway's own replicas: the ready endpoints of its own headless Service.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The Service that selects the gateway's Pods; a headless one will do.
    pub service: String,
    /// Its namespace. Default: the gateway's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name or number of the port on which the replicas' admin ports listen.
    #[serde(default = "admin_port")]
    pub port: ServicePort,
    /// Whether a replica that holds far more sessions than the others closes some, so that they land elsewhere.
    #[serde(default)]
    pub balance: TierBalance,
    /// It begins when the own sessions exceed the mean of all replicas times this.
    #[serde(default = "tier_start_ratio")]
    pub start_ratio: f64,
    /// It ends when they no longer exceed the mean times this.
    #[serde(default = "tier_stop_ratio")]
    pub stop_ratio: f64,
    /// It begins only when the own sessions exceed the mean by at least this many.
    #[serde(default = "tier_min_surplus")]
    pub min_surplus: u32,
    /// Sessions closed for it a second, in all replicas together.
    #[serde(default = "tier_moves_per_second_max")]
    pub moves_per_second_max: f64,
    /// A new replica counts for it only after it has been ready for this long.
    #[serde(default = "units::secs::<30>", with = "units::duration")]
    pub min_ready: Duration,
}

impl Tier {
    /// When and how fast it is levelled.
    pub fn limits(&self) -> balance::TierLimits {
        balance::TierLimits {
            enabled: self.balance == TierBalance::On,
            start_ratio: self.start_ratio,
            stop_ratio: self.stop_ratio,
            min_surplus: self.min_surplus,
            moves_per_second_max: self.moves_per_second_max,
            min_ready: self.min_ready,
        }
    }
}

/// Whether sessions are levelled across the gateway's replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TierBalance {
    /// Replicas are counted, nothing is closed for their sake.
    #[default]
    Off,
    /// They level themselves.
    On,
}

/// How the gateway behaves towards the Kubernetes API.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Write a Kubernetes Event on a pool's Service when a plan starts, finishes or is stopped by a guard.
    pub events: bool,
    /// When a Service that had EndpointSlices has none at all, its endpoints stay for this long before that is believed.
    #[serde(with = "units::duration")]
    pub empty_grace: Duration,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self { events: true, empty_grace: Duration::from_secs(600) }
    }
}

fn admin_port() -> ServicePort {
    ServicePort::Name("admin".into())
}

fn tier_start_ratio() -> f64 {
    1.3
}

fn tier_stop_ratio() -> f64 {
    1.1
}

fn tier_min_surplus() -> u32 {
    10
}

fn tier_moves_per_second_max() -> f64 {
    5.0
}
