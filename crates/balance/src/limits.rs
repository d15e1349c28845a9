//! The settings of placement and rebalancing, with their defaults: the one place where these live.

use std::time::Duration;

use model::units;
use serde::{Deserialize, Serialize};

/// How the endpoint of a new session is picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Smallest (sessions + handshakes in flight + 1) / weight, ties broken at random.
    #[default]
    LeastConnections,
    /// By weight, blind to load: what kube-proxy does.
    Random,
    /// In turn, by weight.
    RoundRobin,
}

/// When sessions are moved, how many and how fast.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// False: sessions are placed and never moved for balance (draining endpoints are still emptied).
    pub enabled: bool,
    /// Moves start when an endpoint holds more than its target times this: 1.0 to 10.0.
    pub start_ratio: f64,
    /// Moves stop when no endpoint holds more than its target times this: 1.0 to `start_ratio`.
    pub stop_ratio: f64,
    /// Moves start only when an endpoint is above its target, rounded down, by at least this many sessions.
    pub min_surplus: u32,
    /// Changes of the endpoint set that follow each other within this time are one.
    #[serde(with = "units::duration")]
    pub settle: Duration,
    /// Time between two checks for drift.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// Sessions younger than this are not moved.
    #[serde(with = "units::duration")]
    pub min_age: Duration,
    /// A client that was moved is not moved again within this time.
    #[serde(with = "units::duration")]
    pub cooldown: Duration,
    /// Moves a second. Default: 2 % of the pool's sessions, at least 10, at most 500.
    pub moves_per_second_max: Option<f64>,
    /// Moves that have begun and not ended.
    pub concurrent_moves_max: u32,
    /// After this time a draining or removed endpoint has no session that was not told to go.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// A client that was closed counts as on its way back for this long.
    #[serde(with = "units::duration")]
    pub return_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enabled: true,
            start_ratio: 1.10,
            stop_ratio: 1.03,
            min_surplus: 2,
            settle: Duration::from_secs(5),
            interval: Duration::from_secs(30),
            min_age: Duration::from_secs(60),
            cooldown: Duration::from_secs(600),
            moves_per_second_max: None,
            concurrent_moves_max: 100,
            drain_deadline: Duration::from_secs(30),
            return_timeout: Duration::from_secs(30),
        }
    }
}
