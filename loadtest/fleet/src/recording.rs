//! Everything that was seen in a run with real sockets, and the numbers that only this can give.
//!
//! What any run has over time is a [`Timeline`]; its arithmetic is in the crate `scenario`.

use std::collections::BTreeMap;

use scenario::summary::{Cost, Summary, Timeline, Times};
use serde_json::Value;

use crate::accounting;
use crate::protocol::{ClientSession, Ending, EndpointSession};
use crate::usage::Usage;
use crate::wire;

/// Everything that was seen in a run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Sessions and steps over time. Who was moved is read from the clients' accounts.
    pub timeline: Timeline,
    /// The clients' accounts.
    pub clients: Vec<ClientSession>,
    /// The endpoints' accounts.
    pub endpoints: Vec<EndpointSession>,
    /// Endpoints that were killed, and when, seconds since the first connection: their accounts are missing.
    pub killed: BTreeMap<String, f64>,
    /// Failed connection attempts by reason.
    pub failed: BTreeMap<String, u64>,
    /// False: the endpoints are not ours, so only their echoes witness what arrived.
    pub verified: bool,
    /// The gateway before the first client, and at the end with all of them.
    pub usage: Option<(Usage, Usage)>,
    /// The gateway's own `/api/v1/status` at the end.
    pub status: Option<Value>,
    /// What went wrong in the run itself, one line each.
    pub faults: Vec<String>,
}

/// How the gateway's moves look to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveClose {
    /// `move.close.code` of the pool.
    pub code: u16,
    /// `move.close.reason` of the pool.
    pub reason: String,
}

/// The numbers of a recording.
pub fn summarise(run: &Recording, close: &MoveClose) -> Summary {
    let summary = Summary::of(&Timeline {
        moved: moved(run, close),
        admitted: run.clients.iter().map(|session| session.opened_s).collect(),
        ..run.timeline.clone()
    });
    Summary {
        cut_at_deadline: cut_at_deadline(&run.clients),
        ends: ends(&run.clients),
        unclean_ends: unclean(run),
        reconnect: Times::of(run.clients.iter().filter_map(|session| session.reconnect_ms).collect()),
        connections_failed: run.failed.clone(),
        refused: run.failed.get("HTTP 503").copied().unwrap_or(0),
        guard_stops: run.status.as_ref().and_then(guard_stops),
        messages: if run.verified {
            accounting::compare(&run.clients, &run.endpoints, &run.killed)
        } else {
            accounting::by_echo(&run.clients)
        },
        verified: run.verified,
        gateway: run.usage.map(|(idle, end)| cost(idle, end, summary.connected)),
        gateway_status: run.status.clone(),
        faults: run.faults.clone(),
        ..summary
    }
}

/// Stops of the return guard in all pools, as the gateway's own status has them.
fn guard_stops(status: &Value) -> Option<u64> {
    let pools = status.get("pools")?.as_object()?.values();
    pools.map(|pool| pool.get("guard")?.get("stops")?.as_u64()).sum()
}

/// The clients that were moved, once for each move.
fn moved(run: &Recording, close: &MoveClose) -> Vec<u32> {
    let moved = |session: &&ClientSession| match &session.ending {
        Ending::Closed { code, reason } => *code == close.code && *reason == close.reason,
        // Without a reason, the end of a killed endpoint's session looks the same.
        Ending::ClosedBadly { code, .. } => {
            *code == close.code && !accounting::on_killed(session, &run.killed)
        }
        Ending::Cut(_) | Ending::Protocol(_) | Ending::Own | Ending::OwnUnanswered(_) => false,
    };
    run.clients.iter().filter(moved).map(|session| session.client).collect()
}

fn ends(clients: &[ClientSession]) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for session in clients {
        *ends.entry(session.ending.label()).or_insert(0) += 1;
    }
    ends
}

fn cut_at_deadline(clients: &[ClientSession]) -> u64 {
    let cut =
        |ending: &Ending| matches!(ending, Ending::Closed { reason, .. } if reason == wire::STOP_REASON);
    clients.iter().filter(|session| cut(&session.ending)).count() as u64
}

fn unclean(run: &Recording) -> u64 {
    let judged = run.clients.iter().filter(|session| !accounting::on_killed(session, &run.killed));
    judged.filter(|session| !session.ending.clean()).count() as u64
}

/// What the gateway cost, from its usage before the first client and at the end with `sessions` of them.
pub fn cost(idle: Usage, end: Usage, sessions: u32) -> Cost {
    let mib = |kib: u64| kib as f64 / 1024.0;
    Cost {
        cpu_s: end.cpu_s,
        rss_idle_mib: mib(idle.rss_kib),
        rss_mib: mib(end.rss_kib),
        pss_mib: mib(end.pss_kib),
        rss_peak_mib: mib(end.rss_peak_kib),
        rss_per_session_kib: end.rss_kib.saturating_sub(idle.rss_kib) as f64 / f64::from(sessions.max(1)),
        descriptors: end.descriptors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(client: u32, endpoint: &str, ending: Ending) -> ClientSession {
        ClientSession {
            client,
            session: 0,
            endpoint: endpoint.into(),
            sent: Default::default(),
            echoed: 0,
            received: Default::default(),
            repeated: 0,
            foreign: 0,
            ending,
            opened_s: 1.0,
            closed_s: 0.0,
            reconnect_ms: None,
        }
    }

    fn rebalance() -> MoveClose {
        MoveClose { code: 1012, reason: "rebalance".into() }
    }

    fn closed(reason: &str) -> Ending {
        Ending::Closed { code: 1012, reason: reason.into() }
    }

    #[test]
    fn only_the_moves_own_close_counts_as_a_move() {
        let run = Recording {
            clients: vec![
                session(1, "a", closed("rebalance")),
                session(1, "b", closed("rebalance")),
                session(2, "a", closed("endpoint gone")),
                session(3, "dead", closed("")),
                session(4, "a", Ending::Cut("reset".into())),
                session(5, "a", Ending::Own),
            ],
            killed: [("dead".to_owned(), 5.0)].into(),
            ..Recording::default()
        };
        let summary = summarise(&run, &rebalance());
        assert_eq!((summary.moves, summary.moved_twice, summary.moves_of_a_client), (2, 1, 2));
        assert_eq!(summary.unclean_ends, 1);
        assert_eq!((summary.ends["1012 rebalance"], summary.ends["1012"]), (2, 1));
    }

    #[test]
    fn the_guards_stops_are_read_from_the_gateways_status_or_not_known() {
        let stops = |text: &str| guard_stops(&serde_json::from_str(text).unwrap());
        assert_eq!(
            stops(r#"{"pools": {"a": {"guard": {"stops": 2}}, "b": {"guard": {"stops": 1}}}}"#),
            Some(3)
        );
        assert_eq!(stops(r#"{"pools": {"a": {"guard": {"stopped": true}}}}"#), None);
        assert_eq!(stops("{}"), None);
    }

    #[test]
    fn refusals_are_counted_among_the_failures_and_by_themselves() {
        let failed = [("HTTP 503".to_owned(), 3), ("HTTP 502".to_owned(), 1)].into();
        let summary = summarise(&Recording { failed, ..Recording::default() }, &rebalance());
        assert_eq!((summary.refused, summary.connections_failed.len()), (3, 2));
    }
}
