//! What a pool looks like now, for the operator: the numbers the planner decides by, nothing else.

use std::net::SocketAddr;

use model::{EndpointId, EndpointState, Time, Zone};
use serde::Serialize;

use crate::share::Shares;
use crate::slot::{Slot, Withheld};
use crate::{Planner, Policy};

/// One pool at one replica.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PoolStatus {
    /// How new sessions are placed.
    pub policy: Policy,
    /// What the planner is about.
    pub state: PoolState,
    /// The same in a sentence: why sessions are moved, or why they are not.
    pub why: String,
    /// Open sessions, on whatever endpoint.
    pub sessions: u64,
    /// Moved clients that are expected back.
    pub away: u64,
    /// The fullest ready endpoint against the mean of all ready ones, by weight; 1.0 when there is nothing to compare.
    pub imbalance: f64,
    /// Ordered by id. One that discovery no longer names stays as draining while it has sessions.
    pub endpoints: Vec<EndpointStatus>,
    /// Since this process started.
    pub moves: MoveCounts,
    /// How fast sessions may be moved.
    pub pace: Pace,
    /// Whether moved clients come back.
    pub guard: Guard,
    /// New sessions that were let in and refused.
    pub admission: Admitted,
}

/// What the planner is about. The order is that of precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// `rebalance.enabled` is false.
    Off,
    /// Somebody paused it.
    Paused,
    /// Too few endpoints are ready.
    Panic,
    /// Moved clients do not come back.
    Guarded,
    /// Endpoints have changed, and it is not yet time to act.
    Settling,
    /// Sessions are moved.
    Levelling,
    /// Nothing to do.
    Level,
}

impl PoolState {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Off, Self::Paused, Self::Panic, Self::Guarded, Self::Settling, Self::Levelling, Self::Level];

    /// As in JSON, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Paused => "paused",
            Self::Panic => "panic",
            Self::Guarded => "guarded",
            Self::Settling => "settling",
            Self::Levelling => "levelling",
            Self::Level => "level",
        }
    }
}

/// How fast sessions may be moved.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Pace {
    /// Moves a second at this replica now.
    pub moves_per_second: f64,
    /// Share of the configured pace that what is seen to happen leaves: above 0 to 1.
    pub factor: f64,
    /// Ready gateway replicas among which the tier's budget is divided.
    pub replicas: u32,
}

/// Whether moved clients come back.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Guard {
    /// True: nothing is moved for balance.
    pub stopped: bool,
    /// Moved clients that may be away at once.
    pub away_max: u64,
    /// Recently moved clients whose return is decided.
    pub judged: u64,
    /// Those of them that came back.
    pub returned: u64,
    /// Seconds until it tries again; 0 when it is not stopped.
    pub retry_after_s: u64,
    /// Times that it stopped the moves since this process started.
    pub stops: u64,
}

/// New sessions since this process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Admitted {
    /// Given an endpoint.
    pub admitted: u64,
    /// Told to come back later, because of `admission`.
    pub deferred: u64,
    /// Told that no endpoint is ready.
    pub no_endpoint: u64,
    /// Told that every endpoint is full.
    pub full: u64,
}

/// One endpoint of a pool.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its identity.
    pub id: EndpointId,
    /// Name of its Pod, when that is known. Commands take it for the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Where it is dialed.
    pub address: SocketAddr,
    /// Its share relative to the others.
    pub weight: u16,
    /// Its condition.
    pub state: EndpointState,
    /// Where it runs, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Open sessions, those being moved included.
    pub sessions: u32,
    /// Handshakes and plain requests in flight.
    pub pending: u32,
    /// Sessions whose move began and has not ended.
    pub moving: u32,
    /// Its share of the pool's sessions; 0 unless it is ready and answers.
    pub target: f64,
    /// Whole sessions above its share that are not being moved yet. All of them when it is draining.
    pub surplus: u32,
    /// What keeps new sessions away although it is ready; empty otherwise.
    pub withheld: &'static str,
}

/// Moves since the process started. `began` = `moved` + `migrated` + `aborted` + `left` + those under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MoveCounts {
    /// Moves that the shell began.
    pub began: u64,
    /// Sessions that ended because of their move.
    pub moved: u64,
    /// Sessions that were taken over by another endpoint while their client stayed.
    pub migrated: u64,
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
    /// Back, on an endpoint that was above its target and is not the donor, or at another gateway replica as far as one
    /// can tell.
    pub returned_elsewhere: u64,
    /// Back where they came from.
    pub returned_to_donor: u64,
    /// Not seen again within `return_timeout`.
    pub never_returned: u64,
}

impl Planner {
    /// The pool as it is at `now`. Linear in the endpoints.
    ///
    /// Targets are those of all ready endpoints, whether they have been ready for `min_ready` or not.
    pub fn status(&self, now: Time) -> PoolStatus {
        let overdue = self.ledger.overdue(now, self.settings.limits.return_timeout);
        let away = self.ledger.away().saturating_sub(overdue.lost);
        let shares = self.shares_of_ready(away);
        let mut endpoints = Vec::with_capacity(self.slots.len());
        for slot in self.slots.iter().filter(|slot| !slot.is_ghost()) {
            let target = if slot.is_up() { shares.of(slot).target() } else { 0.0 };
            endpoints.push(self.endpoint_status(now, slot, shares, target));
        }
        let mut moves = self.moves;
        moves.outcomes.never_returned += overdue.lost;
        moves.outcomes.returned_elsewhere += self.ledger.credits();
        let (state, why) = self.state(now);
        PoolStatus {
            policy: self.settings.policy,
            state,
            why,
            sessions: self.slots.totals().sessions,
            away,
            imbalance: self.imbalance(),
            endpoints,
            moves,
            pace: Pace {
                moves_per_second: self.rate(),
                factor: if self.settings.limits.adaptive_pace { self.pace.factor() } else { 1.0 },
                replicas: self.replicas,
            },
            guard: self.guard.status(now),
            admission: self.admitted,
        }
    }

    fn imbalance(&self) -> f64 {
        let ready = || self.slots.iter().filter(|slot| slot.is_up());
        let weight = |slot: &Slot| f64::from(slot.weight.value());
        let (sessions, weights) =
            ready().fold((0.0, 0.0), |(s, w), slot| (s + f64::from(slot.sessions), w + weight(slot)));
        if sessions == 0.0 {
            return 1.0;
        }
        ready().map(|slot| f64::from(slot.sessions) * weights / (sessions * weight(slot))).fold(0.0, f64::max)
    }

    fn endpoint_status(&self, now: Time, slot: &Slot, shares: Shares, target: f64) -> EndpointStatus {
        let keep = match slot.state {
            EndpointState::Ready if slot.is_up() => {
                u32::try_from(shares.high(slot).ceil()).unwrap_or(u32::MAX)
            }
            EndpointState::Ready | EndpointState::Unready => u32::MAX,
            EndpointState::Terminating => 0,
        };
        EndpointStatus {
            id: slot.id.clone(),
            pod: slot.pod.as_ref().map(|pod| pod.name.clone()),
            address: slot.address,
            weight: slot.weight.value(),
            state: slot.state,
            zone: slot.zone.clone(),
            sessions: slot.sessions,
            pending: slot.pending,
            moving: slot.moving,
            target: (target * 100.0).round() / 100.0,
            surplus: slot.held().saturating_sub(keep),
            withheld: slot.withheld(now, &self.slots.rules).map_or("", Withheld::as_str),
        }
    }

    /// What would be shared if every ready endpoint took part.
    pub(crate) fn shares_of_ready(&self, away: u64) -> Shares {
        let mut shares = Shares { total: away, weight: 0, pull: 0 };
        for slot in self.slots.iter() {
            shares.total += u64::from(match slot.state {
                EndpointState::Ready if !slot.is_up() => slot.outbound(),
                EndpointState::Ready | EndpointState::Terminating => slot.staying(),
                EndpointState::Unready => slot.outbound(),
            });
            if slot.is_up() {
                shares.weight += u64::from(slot.weight.value());
                shares.pull += slot.pull;
            }
        }
        shares
    }

    /// What it is about, and why, in a sentence.
    pub(crate) fn state(&self, now: Time) -> (PoolState, String) {
        let totals = self.slots.totals();
        let draining = self.slots.iter().filter(|slot| slot.is_terminating() && slot.sessions > 0).count();
        let also = match draining {
            0 => String::new(),
            n => format!("; {n} draining, {} sessions to go", totals.to_drain),
        };
        let seconds = |at: Time| format!("{:.1} s", at.since(now).as_secs_f64());
        let (state, why) = if !self.settings.limits.enabled {
            (PoolState::Off, "rebalance.enabled is false".to_owned())
        } else if self.paused {
            (PoolState::Paused, "paused by command; resume ends it".to_owned())
        } else if self.slots.rules.panic {
            let why = format!("{} of {} endpoints are ready, too few", totals.ready, totals.expected);
            (PoolState::Panic, why)
        } else if let Some(until) = self.guard.retries_at() {
            let guard = self.guard.status(now);
            let why = format!(
                "of {} moved clients {} came back: too few; a few are tried again in {}, or after resume",
                guard.judged,
                guard.returned,
                seconds(until)
            );
            (PoolState::Guarded, why)
        } else if let Some(settle) = self.settle.filter(|settle| settle.until > now) {
            (PoolState::Settling, format!("endpoints have changed; planned in {}", seconds(settle.until)))
        } else if self.run.is_some() && self.replicas > 1 && self.gate.is_crowded(now) {
            (PoolState::Levelling, "waiting while new sessions are held back by admission".to_owned())
        } else if let Some(run) = self.run {
            let why = format!("moving {:.1} sessions a second, {} moved so far", self.rate(), run.moved);
            (PoolState::Levelling, why)
        } else if totals.unseasoned > 0 {
            let new = self.slots.iter().filter(|slot| slot.is_ready() && !slot.is_capacity);
            let last = new.map(|slot| slot.capacity_at).max().unwrap_or(now);
            let why = format!("{} endpoints are new; they count in {}", totals.unseasoned, seconds(last));
            (PoolState::Settling, why)
        } else if self.is_beyond_band(self.shares()) {
            let why = "an endpoint is outside its band: looked at in the next check, or nothing there may be moved yet";
            (PoolState::Level, why.to_owned())
        } else {
            (PoolState::Level, "no endpoint is outside its band".to_owned())
        };
        (state, why + &also)
    }
}
