//! The plan in full, without carrying it out: who has too much, how much of it may move, and where it would go.

use std::collections::BTreeMap;

use model::{EndpointId, EndpointState, Time};
use serde::Serialize;

use crate::flow;
use crate::share::Shares;
use crate::slot::Slot;
use crate::{MoveReason, Planner, PoolState};

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
    /// Why.
    pub reason: MoveReason,
    /// The same in a few words.
    pub why: String,
}

/// What goes where, in whole sessions, before it is put into lines.
#[derive(Default)]
struct Flow {
    /// Index and count of each that gives, with the reason.
    gives: Vec<(usize, u64, MoveReason, String)>,
    /// Of each that gets.
    takes: Vec<(usize, u64)>,
}

impl Planner {
    /// The plan as it would be carried out from `now` on, new endpoints included that have not been ready for
    /// `min_ready` yet. `sessions`: what the shell knows of each endpoint's.
    ///
    /// Cost: a few passes over the endpoints; the lines are at most twice the endpoints.
    pub fn explain(&self, now: Time, sessions: &BTreeMap<EndpointId, Movable>) -> Plan {
        let shares = self.shares_of_ready(self.away());
        let nothing = Movable::default();
        let known = self.known(sessions, &nothing);
        let shown = self.slots.iter().zip(&known).filter(|(slot, _)| !slot.is_ghost());
        let endpoints = shown.map(|(slot, known)| {
            let target = if slot.is_up() { shares.of(slot).target() } else { 0.0 };
            PlannedEndpoint {
                id: slot.id.clone(),
                state: slot.state,
                weight: slot.weight.value(),
                sessions: slot.sessions,
                target: (target * 100.0).round() / 100.0,
                surplus: u32::try_from(self.excess(slot, shares)).unwrap_or(u32::MAX),
                movable: known.movable,
                pinned: known.pinned.clone(),
            }
        });
        let endpoints = endpoints.collect();
        let (state, why) = self.state(now);
        let moves = self.lines(self.flow(shares, &known));
        Plan {
            state,
            why,
            moves_per_second: self.rate(),
            moves_total: moves.iter().map(|line| u64::from(line.count)).sum(),
            endpoints,
            moves,
        }
    }

    /// `sessions` for each endpoint, in one pass: both are ordered by id.
    fn known<'a>(
        &self,
        sessions: &'a BTreeMap<EndpointId, Movable>,
        nothing: &'a Movable,
    ) -> Vec<&'a Movable> {
        let mut rest = sessions.iter().peekable();
        let of = |slot: &Slot| {
            while rest.next_if(|(id, _)| **id < slot.id).is_some() {}
            rest.next_if(|(id, _)| **id == slot.id).map_or(nothing, |(_, movable)| movable)
        };
        self.slots.iter().map(of).collect()
    }

    /// Whole sessions above an endpoint's share.
    fn excess(&self, slot: &Slot, shares: Shares) -> u64 {
        match slot.state {
            EndpointState::Ready if slot.is_up() => {
                u64::from(slot.held()).saturating_sub(shares.high(slot).ceil())
            }
            EndpointState::Ready => 0,
            EndpointState::Unready => 0,
            EndpointState::Terminating => u64::from(slot.held()),
        }
    }

    /// Who gives and who gets.
    fn flow(&self, shares: Shares, known: &[&Movable]) -> Flow {
        let mut flow = Flow::default();
        for (index, slot) in self.slots.iter().enumerate() {
            let held = u64::from(slot.held());
            if slot.is_terminating() && held > 0 && shares.weight > 0 {
                flow.gives.push((index, held, MoveReason::Draining, "draining".to_owned()));
            }
        }
        let movable = |index: usize| u64::from(known[index].movable);
        let needed = self.needed_among(shares, Slot::is_up, movable);
        let sides = needed.sides;
        if self.settings.limits.enabled {
            for (place, count) in flow::cap(&sides, needed.gives, needed.moves) {
                let side = &sides[place];
                let target = shares.of(self.slots.at(side.index)).target().max(f64::MIN_POSITIVE);
                let why = format!("surplus: {:.2} x its share", side.held as f64 / target);
                flow.gives.push((side.index, count, MoveReason::Surplus, why));
            }
        }
        let all = flow.gives.iter().map(|(_, count, ..)| count).sum();
        let takes = flow::takes(&sides, all).into_iter();
        flow.takes = takes.map(|(place, count)| (sides[place].index, count)).collect();
        flow
    }

    /// Gives and takes matched in order.
    fn lines(&self, flow: Flow) -> Vec<PlannedMove> {
        let mut lines = Vec::new();
        let mut takes = flow.takes.into_iter();
        let mut taker = takes.next();
        for (from, mut left, reason, why) in flow.gives {
            while left > 0
                && let Some((to, free)) = taker
            {
                let count = left.min(free);
                left -= count;
                taker = if free > count { Some((to, free - count)) } else { takes.next() };
                lines.push(PlannedMove {
                    from: self.slots.at(from).id.clone(),
                    to: self.slots.at(to).id.clone(),
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                    reason,
                    why: why.clone(),
                });
            }
        }
        lines
    }
}
