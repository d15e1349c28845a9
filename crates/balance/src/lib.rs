//! Placement and rebalancing without IO: where a new session goes, and which sessions have to leave.
//!
//! [`Planner`] is one pool as one replica sees it, [`Tier`] all replicas as one of them sees them. The shell tells it what happened (`handle_*`) and asks what to
//! do (`poll_*`); the same code runs in the gateway and under virtual time in tests. Which very sessions leave is
//! decided by [`victims`], with what the shell knows of them.
//!
//! Not here: by what means a session is moved (the gateway's ladder), sockets, clocks, and a random source: time
//! and the seed are arguments.

mod admission;
mod age;
mod bookkeeping;
mod commands;
mod drain;
mod even;
mod events;
mod explain;
mod flow;
mod hash;
mod ledger;
mod level;
mod limits;
mod migrating;
mod pace;
mod pick;
mod planner;
mod random;
mod report;
mod returns;
mod share;
mod slot;
mod slots;
mod status;
mod tier;
mod tier_shed;
mod tournament;
pub mod victims;
mod zone;

pub use even::EvenPace;
pub use events::{Action, ClientKey, Ended, Move, MoveReason, Opened, Purpose, Request, Visitor};
pub use explain::{Movable, Plan, PlannedEndpoint, PlannedMove};
pub use hash::hash_key;
pub use limits::{Admission, Limits, Placement, Policy, Settings, ZoneAware};
pub use migrating::rest;
pub use pick::Pick;
pub use planner::Planner;
pub use report::{Cause, Refusal, Report, Trigger, UnknownEndpoint};
pub use status::{Admitted, EndpointStatus, Guard, MoveCounts, Outcomes, Pace, PoolState, PoolStatus};
pub use tier::{Count, Tier, TierLimits, TierState, TierStatus};
pub use tier_shed::split;
