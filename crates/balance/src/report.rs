//! What the planner has to tell: events for log, metrics and Kubernetes, and the refusals of a pick.

use std::fmt;
use std::time::Duration;

use model::EndpointId;
use serde::Serialize;

/// Something a person may want to know. The shell logs it; nothing else follows from it.
#[derive(Clone, PartialEq, Debug)]
pub enum Report {
    /// Surplus moves begin.
    PlanStarted {
        /// What set it off.
        trigger: Trigger,
        /// Moves that it takes as things are now.
        moves: u64,
    },
    /// No endpoint is above `stop_ratio` any more, or nothing more may be moved.
    PlanFinished {
        /// Sessions that were moved.
        moved: u64,
        /// Since it began.
        took: Duration,
    },
    /// Too few of the moved clients came back: nothing is moved for balance until `resume`, or a probe after the back-off.
    GuardStopped {
        /// Clients whose return was judged.
        judged: u64,
        /// Those of them that came back.
        returned: u64,
        /// When it tries again.
        retry_after: Duration,
    },
    /// The return guard tries a few moves again.
    GuardProbes {
        /// How many at most.
        moves: u32,
    },
    /// The clients come back again, or somebody resumed.
    GuardCleared,
    /// Too few endpoints are ready: nothing is moved for balance, new sessions go to unready ones too.
    PanicBegan {
        /// Ready endpoints.
        ready: u32,
        /// Of so many that are not terminating.
        of: u32,
    },
    /// Enough are ready again.
    PanicEnded,
    /// Moves are slowed down.
    PaceLowered {
        /// The share of the configured pace that is left.
        factor: f64,
        /// What was seen.
        cause: Cause,
    },
    /// Nothing new is placed on this endpoint for a while.
    Ejected {
        /// Who.
        endpoint: EndpointId,
        /// Failures in a row.
        failures: u32,
        /// For how long.
        pause: Duration,
    },
}

/// What sets a plan off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Endpoints came, went or changed.
    Endpoints,
    /// The periodic check found one too full.
    Drift,
    /// Somebody asked.
    Command,
}

impl Trigger {
    /// As in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Drift => "drift",
            Self::Command => "command",
        }
    }
}

/// Why the pace was lowered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Handshakes take much longer than before the moves.
    HandshakeLatency,
    /// Dials or handshakes fail.
    HandshakeFailures,
    /// Endpoints break sessions.
    EndpointErrors,
}

impl Cause {
    /// As in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandshakeLatency => "handshake_latency",
            Self::HandshakeFailures => "handshake_failures",
            Self::EndpointErrors => "endpoint_errors",
        }
    }
}

/// Why a session gets no endpoint now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// None is ready, or all that are were tried.
    NoEndpoint,
    /// All have `sessions_per_endpoint_max`.
    Full,
    /// More clients come than `admission` lets in.
    Admission {
        /// What to tell the client: spread, so that those who are refused together do not come back together.
        retry_after: Duration,
    },
}

impl Refusal {
    /// As in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Full => "endpoints_full",
            Self::Admission { .. } => "admission",
        }
    }
}

/// A command named an endpoint that the pool does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownEndpoint {
    /// What was named.
    pub endpoint: EndpointId,
    /// What there is, at most ten.
    pub known: Vec<EndpointId>,
}

impl fmt::Display for UnknownEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = self.known.iter().map(EndpointId::as_str).collect();
        write!(f, "there is no endpoint {}; there are: {}", self.endpoint, known.join(", "))
    }
}

impl std::error::Error for UnknownEndpoint {}
