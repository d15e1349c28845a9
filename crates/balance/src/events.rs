//! What the shell and the planner say to each other: requests and ends in, moves and reports out.

use model::{EndpointId, Time};
use serde::Serialize;

use crate::Report;

/// Who a client is, as far as its return can be recognised: its address, opaque here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey(pub u128);

/// Who asks for an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client.
    pub client: ClientKey,
    /// What for.
    pub purpose: Purpose,
    /// With [`Policy::ConsistentHash`](crate::Policy): [`crate::hash_key`] of the key. `None`: the client is the key.
    pub hash: Option<u64>,
    /// Endpoints that have failed this request already.
    pub tried: &'a [EndpointId],
}

/// What an endpoint is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A session, subject to `admission`.
    Session,
    /// A plain request, which is over soon.
    Request,
    /// A session that is here already and goes on at another endpoint: it has been admitted. Its own endpoint is among
    /// the tried ones.
    Migration,
}

/// Who a session belongs to, and how often it was moved before it opened here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The client.
    pub client: ClientKey,
    /// [`Opened::moves`].
    pub moves: u32,
}

/// What the planner wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Move sessions away.
    Move(Move),
    /// Tell the operator.
    Tell(Report),
}

/// One line of the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Whose sessions.
    pub from: EndpointId,
    /// How many, at least 1. Which ones: [`crate::victims::choose`].
    pub count: u32,
    /// Why.
    pub reason: MoveReason,
    /// When they must be gone; a notice or a wait for quiet must not reach beyond it.
    pub deadline: Option<Time>,
}

/// Why sessions are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// The endpoint is above its share.
    Surplus,
    /// The endpoint goes away.
    Draining,
    /// The session is older than `max_age`.
    MaxAge,
    /// This gateway replica has more sessions than the others.
    Tier,
    /// Somebody wants to see that it can be moved. The planner never asks for it.
    Rehearsal,
}

impl MoveReason {
    /// As it is written in metrics, logs and notices.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Surplus => "surplus",
            Self::Draining => "draining",
            Self::MaxAge => "max_age",
            Self::Tier => "tier",
            Self::Rehearsal => "rehearsal",
        }
    }
}

/// How a session, or its move, ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By itself; no move was under way.
    Left,
    /// The endpoint broke it, with no move under way.
    Lost,
    /// Because of its move: we closed it, or the client left after a notice. It is expected back.
    Moved,
    /// The same, after `handle_leaving` has told of it.
    Gone,
    /// As [`Self::Gone`], but the client never answered our Close: it was not there, and nobody is to be expected back.
    Unanswered,
    /// The move was given up; the session lives on where it is.
    MoveAborted,
    /// By itself, before its move had told the client anything. It is not expected back.
    LeftWhileMoving,
}

/// What a new session is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// It may not be moved for balance before this moment.
    pub cooling_until: Time,
    /// How often this client was moved lately, as far as it was recognised.
    pub moves: u32,
    /// With `max_age`: when it is to be moved for its age.
    pub expires_at: Option<Time>,
}
