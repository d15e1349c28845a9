//! Every count at 0 from the start, with all of its labels.
//!
//! Prometheus sees no rise in a count that appears with its first event: an alert on `increase(...)` would miss exactly that one.
//! What [`telemetry`](crate::telemetry) tells at each look (gauges, absolute counts) needs no beginning, and is not here.

use config::Protocol;
use metrics::{counter, gauge, histogram};
use model::PoolName;
use session::{Abort, AmqpPin};

use crate::telemetry::Migration;

/// Why connections and requests are answered by the gateway itself.
const REJECTED: [&str; 11] = [
    "amqp_version",
    "bad_handshake",
    "bad_request",
    "bad_upgrade",
    "connections_max",
    "connections_per_client_max",
    "descriptors",
    "draining",
    "no_route",
    "route_connections_max",
    "tls_handshake",
];
/// What cuts a session.
const CUTS: [&str; 3] = ["write_stall", "idle", "deadline"];
/// Classes of status.
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Those of the process.
pub fn process() {
    counter!("evenkeel_accepted_connections_total").increment(0);
    for reason in REJECTED {
        counter!("evenkeel_rejected_total", "reason" => reason).increment(0);
    }
    for what in ["config", "certificate"] {
        for outcome in ["ok", "failed"] {
            counter!("evenkeel_reloads_total", "what" => what, "outcome" => outcome).increment(0);
        }
    }
}

/// Those of a pool.
pub fn pool(pool: &PoolName, protocol: Protocol) {
    for reason in CUTS {
        counter!("evenkeel_session_ends_total", "pool" => pool.to_string(), "reason" => reason).increment(0);
    }
    for reason in ["surplus", "draining", "max_age", "rehearsal"] {
        counter!("evenkeel_moves_began_total", "pool" => pool.to_string(), "reason" => reason).increment(0);
    }
    counter!("evenkeel_dial_failures_total", "pool" => pool.to_string()).increment(0);
    counter!("evenkeel_upstream_failures_total", "pool" => pool.to_string()).increment(0);
    match protocol {
        Protocol::Http => websocket(pool),
        Protocol::Amqp => amqp(pool),
    }
}

fn websocket(pool: &PoolName) {
    counter!("evenkeel_opaque_sessions_total", "pool" => pool.to_string()).increment(0);
    for status in STATUSES {
        counter!("evenkeel_http_requests_total", "pool" => pool.to_string(), "status" => status).increment(0);
    }
    for direction in ["to_downstream", "to_upstream"] {
        counter!("evenkeel_undeliverable_messages_total", "pool" => pool.to_string(), "direction" => direction)
            .increment(0);
        counter!("evenkeel_undeliverable_bytes_total", "pool" => pool.to_string(), "direction" => direction)
            .increment(0);
    }
}

fn amqp(pool: &PoolName) {
    use Migration::{Aborted, Forced, RolledBack, Switched};
    for outcome in [Switched, Aborted, RolledBack, Forced] {
        counter!("evenkeel_migrations_total", "pool" => pool.to_string(), "outcome" => outcome.as_str())
            .increment(0);
    }
    for reason in Abort::OF_ITS_OWN {
        counter!("evenkeel_migration_aborts_total", "pool" => pool.to_string(), "reason" => reason.as_str())
            .increment(0);
    }
    for outcome in ["replaced", "closed"] {
        counter!("evenkeel_upstream_replaced_total", "pool" => pool.to_string(), "outcome" => outcome)
            .increment(0);
    }
    for pin in AmqpPin::ALL {
        gauge!("evenkeel_sessions_pinned", "pool" => pool.to_string(), "reason" => pin.as_str()).set(0.0);
    }
    counter!("evenkeel_probe_failures_total", "pool" => pool.to_string()).increment(0);
    // To be there is enough: its counts begin at 0.
    let _ = histogram!("evenkeel_migration_freeze_seconds", "pool" => pool.to_string());
}
