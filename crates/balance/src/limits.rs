//! The settings of placement, admission and rebalancing, with their defaults: the one place where these live.

use std::time::Duration;

use model::units;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the endpoint of a new session is picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Smallest (sessions + handshakes in flight + 1) / weight, ties broken at random.
    #[default]
    LeastConnections,
    /// The less loaded of two chosen at random (Mitzenmacher, "The power of two choices", 2001).
    P2c,
    /// By weight, blind to load: what kube-proxy does.
    Random,
    /// In turn, by weight.
    RoundRobin,
    /// By a key of the request, with bounded load (Mirrokni, Thorup, Zadimoghaddam, 2016).
    ConsistentHash,
}

impl Policy {
    /// As it is written in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastConnections => "least_connections",
            Self::P2c => "p2c",
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::ConsistentHash => "consistent_hash",
        }
    }
}

/// Everything a [`Planner`](crate::Planner) is told by the configuration.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Settings {
    /// How an endpoint is picked.
    pub policy: Policy,
    /// Which endpoints may be picked.
    pub placement: Placement,
    /// How many new sessions a second are let in.
    pub admission: Admission,
    /// When sessions are moved, how many and how fast.
    pub limits: Limits,
    /// Sessions change their endpoint while their clients stay. Nobody comes back in a herd then, and one that can not go yet
    /// is tried again: a drain asks for all of them within the first half of its time.
    pub migrates: bool,
}

/// Which endpoints may be picked.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// When less than this share of the endpoints is ready, no session is moved for balance, and new ones are placed
    /// on unready endpoints too. Draining ones do not count. 0: never.
    pub panic_threshold: f64,
    /// Most sessions of this replica on one endpoint, handshakes in flight included. When all are full, new ones are refused
    /// (503). Default: no bound.
    pub sessions_per_endpoint_max: Option<u32>,
    /// For this long after an endpoint became ready its arrivals are paced, new and moved sessions together. 0s: never.
    #[serde(with = "units::duration")]
    pub slow_start_window: Duration,
    /// Arrivals a second at an endpoint in its slow start window, for the whole tier.
    pub slow_start_per_second: f64,
    /// With `consistent_hash`: most sessions on an endpoint, as a multiple of its share; what is beyond goes to the next one.
    pub hash_load_max: f64,
    /// Present: endpoints of the own zone are preferred, with `least_connections` and `p2c`. Default: zones do not count.
    pub zone_aware: Option<ZoneAware>,
    /// Failed dials or handshakes in a row after which an endpoint is left alone for `ejection_time`. 0: never.
    pub ejection_failures: u32,
    /// For how long. Doubled each time it happens again soon, up to 16 times this.
    #[serde(with = "units::duration")]
    pub ejection_time: Duration,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            panic_threshold: 0.5,
            sessions_per_endpoint_max: None,
            slow_start_window: Duration::ZERO,
            slow_start_per_second: 100.0,
            hash_load_max: 1.25,
            zone_aware: None,
            ejection_failures: 5,
            ejection_time: Duration::from_secs(10),
        }
    }
}

/// How far endpoints of the own zone are preferred.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ZoneAware {
    /// An endpoint of the own zone is taken until its load exceeds that of the least-loaded one anywhere times this.
    pub imbalance_max: f64,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { imbalance_max: 1.25 }
    }
}

/// How many new sessions are let in. Clients that we moved ourselves always are.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    /// New sessions a second, for the whole tier. Others are answered 503 with Retry-After. Default: no bound.
    pub sessions_per_second: Option<f64>,
    /// Sessions that may come at once beyond that. Default: one second's worth.
    pub burst: Option<u32>,
    /// Longest time that a refused client is told to wait.
    #[serde(with = "units::duration")]
    pub retry_after_max: Duration,
}

impl Default for Admission {
    fn default() -> Self {
        Self { sessions_per_second: None, burst: None, retry_after_max: Duration::from_secs(60) }
    }
}

/// When sessions are moved, how many and how fast.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// False: sessions are placed and never moved for balance (draining endpoints are still emptied).
    pub enabled: bool,
    /// Moves start when an endpoint holds more than its target times this, or is as far below it (1.1: less than 0.9 times
    /// its target). With `consistent_hash`: times `hash_load_max` if that is more, and the low side does not count.
    pub start_ratio: f64,
    /// Moves stop when no endpoint holds more than its target times this, and none is lower than halfway into the band
    /// (1.1 and 1.03: at least 0.935 times its target; with several replicas, 0.9). With `consistent_hash` likewise, without
    /// the low side.
    pub stop_ratio: f64,
    /// Moves start only when an endpoint is off its target, rounded down, by at least this many sessions.
    pub min_surplus: u32,
    /// Changes of the endpoint set that follow each other within this time are one, at most 12 times this long. An endpoint
    /// that vanishes is unready for this long (at most a quarter of `drain_deadline`) before it is drained.
    #[serde(with = "units::duration")]
    pub settle: Duration,
    /// An endpoint that was not there at the start is filled by moves only after it has been ready for this long.
    #[serde(with = "units::duration")]
    pub min_ready: Duration,
    /// Time between two checks for drift.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// Sessions younger than this are not moved for balance.
    #[serde(with = "units::duration")]
    pub min_age: Duration,
    /// A client that was moved is not moved again for balance within this time.
    #[serde(with = "units::duration")]
    pub cooldown: Duration,
    /// Moves for balance a second, for the whole tier. Default: 2 % of the pool's sessions, 10 to 500.
    pub moves_per_second_max: Option<f64>,
    /// Moves for balance that have begun and not ended, at each replica.
    pub concurrent_moves_max: u32,
    /// Moves slow down when handshakes fail or take longer, or endpoints break sessions, and speed up again.
    pub adaptive_pace: bool,
    /// After this time a draining or removed endpoint has no session that was not told to go.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
    /// A client that was closed counts as on its way back for this long.
    #[serde(with = "units::duration")]
    pub return_timeout: Duration,
    /// When less than this share of the moved clients comes back, no more are moved for balance. 0: never mind.
    pub min_return_ratio: f64,
    /// Moves that may be under way before the first client has come back, for the whole tier but at least 4 at each
    /// gateway replica (or this, if less). More as clients return.
    pub probe_moves: u32,
    /// After the return guard stopped the moves, it tries again with half of `probe_moves` after this time.
    #[serde(with = "units::duration")]
    pub guard_backoff: Duration,
    /// Sessions older than this are moved, at the pace of all moves. Default: never.
    #[serde(with = "units::optional_duration")]
    pub max_age: Option<Duration>,
    /// Each session's own maximum age differs by up to this share either way.
    pub max_age_jitter: f64,
    /// Most of the moves within `tenant_window` that one tenant's sessions may be. Needs the pool's `tenant`. 1: no cap.
    pub tenant_share_max: f64,
    /// Over which time `tenant_share_max` counts.
    #[serde(with = "units::duration")]
    pub tenant_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enabled: true,
            start_ratio: 1.10,
            stop_ratio: 1.03,
            min_surplus: 2,
            settle: Duration::from_secs(5),
            min_ready: Duration::from_secs(10),
            interval: Duration::from_secs(30),
            min_age: Duration::from_secs(60),
            cooldown: Duration::from_secs(600),
            moves_per_second_max: None,
            concurrent_moves_max: 100,
            adaptive_pace: true,
            drain_deadline: Duration::from_secs(30),
            return_timeout: Duration::from_secs(30),
            min_return_ratio: 0.9,
            probe_moves: 16,
            guard_backoff: Duration::from_secs(600),
            max_age: None,
            max_age_jitter: 0.1,
            tenant_share_max: 1.0,
            tenant_window: Duration::from_secs(60),
        }
    }
}
