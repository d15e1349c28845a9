//! What a pool looks like now, for the operator: the numbers the planner decides by, nothing else.

use std::net::SocketAddr;

use model::{EndpointId, EndpointState, Time};
use serde::Serialize;

use crate::{Planner, Policy};

/// One pool at one replica.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PoolStatus {
    /// How new sessions are placed.
    pub policy: Policy,
    /// Open sessions, on whatever endpoint.
    pub sessions: u64,
    /// Moved clients that are expected back.
    pub away: u64,
    /// Largest sessions / target of the ready endpoints; 1.0 when there is nothing to compare.
    pub imbalance: f64,
    /// Ordered by id. One that discovery no longer names stays as draining while it has sessions.
    pub endpoints: Vec<EndpointStatus>,
    /// Since this process started.
    pub moves: MoveCounts,
}

/// One endpoint of a pool.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its identity.
    pub id: EndpointId,
    /// Where it is dialed.
    pub address: SocketAddr,
    /// Its share relative to the others.
    pub weight: u16,
    /// Its condition.
    pub state: EndpointState,
    /// Open sessions, those being moved included.
    pub sessions: u32,
    /// Handshakes and plain requests in flight.
    pub pending: u32,
    /// Sessions whose move began and has not ended.
    pub moving: u32,
    /// Its share of the pool's sessions; 0 unless it is ready.
    pub target: f64,
    /// Whole sessions above its share that are not being moved yet. All of them when it is draining.
    pub surplus: u32,
}

/// Moves since the process started. `began` = `moved` + `aborted` + `left` + those under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MoveCounts {
    /// Moves that the shell began.
    pub began: u64,
    /// Sessions that ended because of their move.
    pub moved: u64,
    /// Moves that were given up; the session lives on.
    pub aborted: u64,
    /// Sessions that ended by themselves before their move took effect.
    pub left: u64,
    /// What became of the moved clients.
    pub outcomes: Outcomes,
}

/// What became of moved clients. The sum is `moved` without those still away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Outcomes {
    /// Back, on an endpoint that was not above its target.
    pub returned_to_target: u64,
    /// Back, on an endpoint that was above its target and is not the donor.
    pub returned_elsewhere: u64,
    /// Back where they came from.
    pub returned_to_donor: u64,
    /// Not seen again within `return_timeout`.
    pub never_returned: u64,
}

impl Planner {
    /// The pool as it is at `now`. Linear in the endpoints.
    pub fn status(&self, now: Time) -> PoolStatus {
        let overdue = self.ledger.overdue(now, self.limits.return_timeout);
        let away = self.ledger.len() - overdue;
        let shares = self.shares(away);
        let mut imbalance: Option<f64> = None;
        let mut endpoints = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let target = if slot.is_ready() { shares.target(slot.weight) } else { 0.0 };
            if target > 0.0 {
                let ratio = f64::from(slot.sessions) / target;
                imbalance = Some(imbalance.map_or(ratio, |worst| worst.max(ratio)));
            }
            let keep = match slot.state {
                EndpointState::Ready => u32::try_from(shares.ceil(slot.weight)).unwrap_or(u32::MAX),
                EndpointState::Unready => u32::MAX,
                EndpointState::Terminating => 0,
            };
            endpoints.push(EndpointStatus {
                id: slot.id.clone(),
                address: slot.address,
                weight: slot.weight.value(),
                state: slot.state,
                sessions: slot.sessions,
                pending: slot.pending,
                moving: slot.moving,
                target: (target * 100.0).round() / 100.0,
                surplus: slot.held().saturating_sub(keep),
            });
        }
        let mut moves = self.moves;
        moves.outcomes.never_returned += overdue as u64;
        PoolStatus {
            policy: self.policy,
            sessions: self.slots.iter().map(|slot| u64::from(slot.sessions)).sum(),
            away: away as u64,
            imbalance: imbalance.unwrap_or(1.0),
            endpoints,
            moves,
        }
    }
}
