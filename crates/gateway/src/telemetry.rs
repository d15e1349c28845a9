//! The metrics: one function for each, so that names and labels stand in one place. docs/metrics.md
//! is written from them.
//!
//! Labels are bounded: pool, outcome, reason, direction. Never a session, a client or an endpoint.

use std::collections::BTreeMap;
use std::time::Duration;

use balance::{Cause, PoolState, PoolStatus, TierState, TierStatus, Trigger};
use http::StatusCode;
use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use model::PoolName;
use session::{Initiator, Leg};

use crate::slot::CutReason;

/// Help texts, as they stand above each metric and in docs/metrics.md.
const COUNTERS: [(&str, &str); 26] = [
    ("evenkeel_accepted_connections_total", "Sockets accepted"),
    ("evenkeel_rejected_total", "Connections and requests that the gateway answered itself, by reason"),
    ("evenkeel_bytes_total", "Bytes relayed in tunnels"),
    ("evenkeel_messages_total", "Data messages of ended sessions"),
    ("evenkeel_reloads_total", "Reloads of the configuration or a certificate"),
    ("evenkeel_sessions_total", "Sessions ever opened"),
    ("evenkeel_session_ends_total", "Ended sessions, by who began the end or what cut it"),
    ("evenkeel_opaque_sessions_total", "Sessions pinned by a malformed frame"),
    ("evenkeel_http_requests_total", "Plain requests answered by endpoints, by class of status"),
    ("evenkeel_dial_failures_total", "Endpoints that could not be reached"),
    ("evenkeel_upstream_failures_total", "Endpoints that were reached and gave no usable answer"),
    ("evenkeel_undeliverable_messages_total", "Messages that a close kept from being delivered"),
    ("evenkeel_undeliverable_bytes_total", "Bytes that a broken or stalled peer did not take"),
    ("evenkeel_moves_began_total", "Sessions that were asked to move, by reason"),
    ("evenkeel_moves_total", "What became of moves and of the moved clients"),
    ("evenkeel_plans_total", "Times that levelling began, by what set it off"),
    ("evenkeel_pace_lowered_total", "Times that moves were slowed down, by what was seen"),
    ("evenkeel_guard_stops_total", "Times that moves were stopped because too few clients came back"),
    (
        "evenkeel_ejections_total",
        "Times that an endpoint was left alone after failures in a row; which one is in the log",
    ),
    ("evenkeel_admitted_sessions_total", "Sessions that were let in and opened"),
    ("evenkeel_refused_sessions_total", "Clients that were given no session, by reason"),
    ("evenkeel_migrations_total", "Migrations that were tried, by what became of them"),
    ("evenkeel_migration_aborts_total", "Migrations that were given up before the switch, by reason"),
    (
        "evenkeel_probe_failures_total",
        "Probes that an AMQP endpoint did not answer in time with its connection.start",
    ),
    ("evenkeel_events_total", "Kubernetes Events, by what became of them"),
    ("evenkeel_upstream_replaced_total", "Sessions whose endpoint failed, by what became of them"),
];
const GAUGES: [(&str, &str); 16] = [
    ("evenkeel_connections", "Client connections now, tunnels and plain HTTP"),
    (
        "evenkeel_connections_max",
        "Bound of the client connections: limits.connections_max, or what the file descriptors allow",
    ),
    ("evenkeel_sessions", "Open sessions"),
    ("evenkeel_sessions_pinned", "Sessions that can not be moved, by reason"),
    ("evenkeel_away_clients", "Clients that were closed and are expected back"),
    ("evenkeel_imbalance_ratio", "Largest sessions / target of the ready endpoints; 1 is level"),
    ("evenkeel_endpoints", "Endpoints by state"),
    ("evenkeel_pool_state", "1 for what the planner is about, 0 for every other state"),
    ("evenkeel_moves_per_second_max", "Moves a second that this replica may begin now"),
    (
        "evenkeel_pace_factor_ratio",
        "Share of the configured pace that what is seen to happen leaves; 1 is all of it",
    ),
    ("evenkeel_guard_away_clients_max", "Moved clients that may be away at once; it grows as they return"),
    ("evenkeel_tier_replicas", "Ready gateway replicas, this one included"),
    (
        "evenkeel_tier_counted_replicas",
        "Those of the ready replicas whose sessions are known, this one included",
    ),
    ("evenkeel_tier_imbalance_ratio", "Sessions here / mean of the gateway replicas; 1 until all are known"),
    ("evenkeel_tier_state", "1 for what is done about the tier, 0 for every other state"),
    (
        "evenkeel_source_ports_used_ratio",
        "Share of the source ports towards the busiest endpoint that is taken; warned about at 0.8",
    ),
];

/// Tells the recorder what each metric means.
pub fn describe() {
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    describe_histogram!(
        "evenkeel_handshake_seconds",
        Unit::Seconds,
        "From the complete request head to the endpoint's 101"
    );
    describe_histogram!(
        "evenkeel_migration_freeze_seconds",
        Unit::Seconds,
        "For how long a session's client was not read while it was switched over"
    );
}

/// A socket was accepted.
pub fn accepted() {
    counter!("evenkeel_accepted_connections_total").increment(1);
}

/// A connection or request was refused by ourselves.
pub fn rejected(reason: &'static str) {
    counter!("evenkeel_rejected_total", "reason" => reason).increment(1);
}

/// The metrics that every session of a pool touches, looked up once.
pub struct PoolMetrics {
    sessions: Counter,
    handshake: Histogram,
    ends: [Counter; 3],
    plans: [Counter; 3],
    pace_lowered: [Counter; 3],
    ejections: Counter,
}

impl std::fmt::Debug for PoolMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolMetrics")
    }
}

impl PoolMetrics {
    /// Those of `pool`.
    pub fn new(pool: &PoolName) -> Self {
        let end = |by| ends(pool, initiator(by));
        let plans = |trigger: Trigger| counter!("evenkeel_plans_total", "pool" => pool.to_string(), "trigger" => trigger.as_str());
        let lowered = |cause: Cause| counter!("evenkeel_pace_lowered_total", "pool" => pool.to_string(), "cause" => cause.as_str());
        Self {
            sessions: counter!("evenkeel_sessions_total", "pool" => pool.to_string()),
            handshake: histogram!("evenkeel_handshake_seconds", "pool" => pool.to_string()),
            ends: [end(Initiator::Client), end(Initiator::Endpoint), end(Initiator::Gateway)],
            plans: [plans(Trigger::Endpoints), plans(Trigger::Drift), plans(Trigger::Command)],
            pace_lowered: [
                lowered(Cause::HandshakeLatency),
                lowered(Cause::HandshakeFailures),
                lowered(Cause::EndpointErrors),
            ],
            ejections: counter!("evenkeel_ejections_total", "pool" => pool.to_string()),
        }
    }

    /// Levelling began.
    pub fn plan_started(&self, trigger: Trigger) {
        let place = match trigger {
            Trigger::Endpoints => 0,
            Trigger::Drift => 1,
            Trigger::Command => 2,
        };
        self.plans[place].increment(1);
    }

    /// Moves were slowed down.
    pub fn pace_lowered(&self, cause: Cause) {
        let place = match cause {
            Cause::HandshakeLatency => 0,
            Cause::HandshakeFailures => 1,
            Cause::EndpointErrors => 2,
        };
        self.pace_lowered[place].increment(1);
    }

    /// An endpoint is left alone for a while.
    pub fn ejected(&self) {
        self.ejections.increment(1);
    }

    /// A tunnel was opened; `took` from the complete request head to the endpoint's 101.
    pub fn handshake(&self, took: Duration) {
        self.sessions.increment(1);
        self.handshake.record(took.as_secs_f64());
    }

    /// A session ended.
    pub fn ended(&self, pool: &PoolName, by: Initiator, cut: Option<CutReason>) {
        match (cut, by) {
            (Some(reason), _) => ends(pool, cut_reason(reason)).increment(1),
            (None, Initiator::Client) => self.ends[0].increment(1),
            (None, Initiator::Endpoint) => self.ends[1].increment(1),
            (None, Initiator::Gateway) => self.ends[2].increment(1),
        }
    }
}

fn ends(pool: &PoolName, reason: &'static str) -> Counter {
    counter!("evenkeel_session_ends_total", "pool" => pool.to_string(), "reason" => reason)
}

/// An endpoint could not be reached.
pub fn dial_failed(pool: &PoolName) {
    counter!("evenkeel_dial_failures_total", "pool" => pool.to_string()).increment(1);
}

/// An endpoint was reached and gave no usable answer.
pub fn upstream_failed(pool: &PoolName) {
    counter!("evenkeel_upstream_failures_total", "pool" => pool.to_string()).increment(1);
}

/// A plain HTTP request was answered by an endpoint.
pub fn http_request(pool: &PoolName, status: StatusCode) {
    let class = match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    counter!("evenkeel_http_requests_total", "pool" => pool.to_string(), "status" => class).increment(1);
}

/// A session became opaque.
pub fn opaque(pool: &PoolName) {
    counter!("evenkeel_opaque_sessions_total", "pool" => pool.to_string()).increment(1);
}

/// Messages and bytes that were meant for `leg` and went nowhere.
pub fn undeliverable(pool: &PoolName, leg: Leg, messages: u64, bytes: u64) {
    let (pool, direction) = (pool.to_string(), direction(leg));
    if messages > 0 {
        counter!("evenkeel_undeliverable_messages_total", "pool" => pool.clone(), "direction" => direction)
            .increment(messages);
    }
    if bytes > 0 {
        counter!("evenkeel_undeliverable_bytes_total", "pool" => pool, "direction" => direction)
            .increment(bytes);
    }
}

/// Sessions that were asked to move, by reason.
pub fn moves_began(pool: &PoolName, reason: &'static str, count: u64) {
    if count > 0 {
        counter!("evenkeel_moves_began_total", "pool" => pool.to_string(), "reason" => reason)
            .increment(count);
    }
}

/// An endpoint has not answered a probe.
pub fn probe_failed(pool: &PoolName) {
    counter!("evenkeel_probe_failures_total", "pool" => pool.to_string()).increment(1);
}

/// What became of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migration {
    /// The session goes on at another endpoint.
    Switched,
    /// It was given up before anything was changed.
    Aborted,
    /// It was given up, and what had been changed was put back.
    RolledBack,
    /// It could not be completed after the switch: the client was closed.
    Forced,
}

impl Migration {
    /// As in labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Switched => "switched",
            Self::Aborted => "aborted",
            Self::RolledBack => "rolled_back",
            Self::Forced => "forced",
        }
    }
}

/// A migration is over.
pub fn migration(pool: &PoolName, outcome: Migration) {
    counter!("evenkeel_migrations_total", "pool" => pool.to_string(), "outcome" => outcome.as_str())
        .increment(1);
}

/// A migration was given up before the switch. `reason` is one of a fixed set.
pub fn migration_aborted(pool: &PoolName, reason: &'static str) {
    counter!("evenkeel_migration_aborts_total", "pool" => pool.to_string(), "reason" => reason).increment(1);
}

/// A client was not read for so long while its session was switched over.
pub fn migration_freeze(pool: &PoolName, took: Duration) {
    histogram!("evenkeel_migration_freeze_seconds", "pool" => pool.to_string()).record(took.as_secs_f64());
}

/// The endpoint of a session failed. `is_silent`: another has taken it over, and the client does not know.
pub fn upstream_replaced(pool: &PoolName, is_silent: bool) {
    let outcome = if is_silent { "replaced" } else { "closed" };
    counter!("evenkeel_upstream_replaced_total", "pool" => pool.to_string(), "outcome" => outcome)
        .increment(1);
}

/// How many sessions of a pool can not be moved, by reason.
pub fn pinned(pool: &PoolName, pins: &BTreeMap<&'static str, usize>) {
    for (reason, count) in pins {
        gauge!("evenkeel_sessions_pinned", "pool" => pool.to_string(), "reason" => *reason)
            .set(*count as f64);
    }
}

/// What a planner says of its pool, as it is now and as absolute counts.
pub fn pool(pool: &PoolName, status: &PoolStatus) {
    moves(pool, status);
    let admission = &status.admission;
    counter!("evenkeel_admitted_sessions_total", "pool" => pool.to_string()).absolute(admission.admitted);
    for (reason, count) in [
        ("no_endpoint", admission.no_endpoint),
        ("endpoints_full", admission.full),
        ("admission", admission.deferred),
    ] {
        counter!("evenkeel_refused_sessions_total", "pool" => pool.to_string(), "reason" => reason)
            .absolute(count);
    }
    counter!("evenkeel_guard_stops_total", "pool" => pool.to_string()).absolute(status.guard.stops);
    gauge!("evenkeel_guard_away_clients_max", "pool" => pool.to_string()).set(status.guard.away_max as f64);
    gauge!("evenkeel_moves_per_second_max", "pool" => pool.to_string()).set(status.pace.moves_per_second);
    gauge!("evenkeel_pace_factor_ratio", "pool" => pool.to_string()).set(status.pace.factor);
    for state in PoolState::ALL {
        let is_so = if status.state == state { 1.0 } else { 0.0 };
        gauge!("evenkeel_pool_state", "pool" => pool.to_string(), "state" => state.as_str()).set(is_so);
    }
}

fn moves(pool: &PoolName, status: &PoolStatus) {
    let moves = &status.moves;
    for (outcome, count) in [
        ("moved", moves.moved),
        ("migrated", moves.migrated),
        ("aborted", moves.aborted),
        ("left", moves.left),
        ("returned_to_target", moves.outcomes.returned_to_target),
        ("returned_elsewhere", moves.outcomes.returned_elsewhere),
        ("returned_to_donor", moves.outcomes.returned_to_donor),
        ("never_returned", moves.outcomes.never_returned),
    ] {
        counter!("evenkeel_moves_total", "pool" => pool.to_string(), "outcome" => outcome).absolute(count);
    }
    gauge!("evenkeel_sessions", "pool" => pool.to_string()).set(status.sessions as f64);
    gauge!("evenkeel_away_clients", "pool" => pool.to_string()).set(status.away as f64);
    gauge!("evenkeel_imbalance_ratio", "pool" => pool.to_string()).set(status.imbalance);
    for state in ["ready", "unready", "draining"] {
        let count = status.endpoints.iter().filter(|endpoint| state_name(endpoint.state) == state).count();
        gauge!("evenkeel_endpoints", "pool" => pool.to_string(), "state" => state).set(count as f64);
    }
}

/// What is known of the gateway's own replicas.
pub fn tier(status: &TierStatus) {
    gauge!("evenkeel_tier_replicas").set(status.replicas as f64);
    gauge!("evenkeel_tier_counted_replicas").set(status.counted as f64);
    let ratio = status.mean.filter(|mean| *mean > 0.0).map_or(1.0, |mean| status.sessions as f64 / mean);
    gauge!("evenkeel_tier_imbalance_ratio").set(ratio);
    for state in TierState::ALL {
        let is_so = if status.state == state { 1.0 } else { 0.0 };
        gauge!("evenkeel_tier_state", "state" => state.as_str()).set(is_so);
    }
}

/// A notice found the queue of its listener full.
pub fn event_dropped() {
    counter!("evenkeel_events_total", "outcome" => "dropped").increment(1);
}

/// Share of the source ports towards the busiest endpoint of a pool that is taken.
pub fn source_ports(pool: &PoolName, ratio: f64) {
    gauge!("evenkeel_source_ports_used_ratio", "pool" => pool.to_string()).set(ratio);
}

/// Process-wide counts.
pub fn process(connections: usize, connections_max: usize, bytes: [u64; 2], messages: [u64; 2]) {
    gauge!("evenkeel_connections").set(connections as f64);
    gauge!("evenkeel_connections_max").set(connections_max as f64);
    for (leg, place) in [(Leg::Downstream, 0), (Leg::Upstream, 1)] {
        counter!("evenkeel_bytes_total", "direction" => direction(leg)).absolute(bytes[place]);
        counter!("evenkeel_messages_total", "direction" => direction(leg)).absolute(messages[place]);
    }
}

/// A reload of the configuration or a certificate.
pub fn reloaded(what: &'static str, ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!("evenkeel_reloads_total", "what" => what, "outcome" => outcome).increment(1);
}

/// As in labels and logs.
pub const fn initiator(initiator: Initiator) -> &'static str {
    match initiator {
        Initiator::Client => "client",
        Initiator::Endpoint => "endpoint",
        Initiator::Gateway => "gateway",
    }
}

/// As in labels and logs.
pub const fn cut_reason(reason: CutReason) -> &'static str {
    match reason {
        CutReason::WriteStall => "write_stall",
        CutReason::Idle => "idle",
        CutReason::Deadline => "deadline",
    }
}

const fn direction(leg: Leg) -> &'static str {
    match leg {
        Leg::Downstream => "to_downstream",
        Leg::Upstream => "to_upstream",
    }
}

const fn state_name(state: model::EndpointState) -> &'static str {
    match state {
        model::EndpointState::Ready => "ready",
        model::EndpointState::Unready => "unready",
        model::EndpointState::Terminating => "draining",
    }
}
