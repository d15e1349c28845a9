//! What a simulated run is made of: clients, endpoints, replicas, what happens when, and how long things take.
//!
//! Plain data with defaults; nothing here runs.

use std::time::Duration;

use scenario::reconnect::{Kind, Reconnect};

use crate::pool::Pool;

/// A run, but for its seed.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Configuration of the pool, the same at every replica.
    pub pool: Pool,
    /// Gateway replicas at the start.
    pub replicas: u16,
    /// Zones, among which endpoints and replicas are dealt out in turn; 0: nobody knows of any.
    pub zones: u16,
    /// Clients at the start.
    pub clients: u32,
    /// Endpoints at the start: 0 to `endpoints` - 1 in [`Op`]s.
    pub endpoints: u16,
    /// How the clients come at the start.
    pub start: Start,
    /// How clients come back, each rule for a share of them.
    pub reconnect: Vec<(f64, Reconnect)>,
    /// What is said on a session.
    pub talk: Talk,
    /// How long things take.
    pub net: Net,
    /// What the replicas know of each other.
    pub counts: Counts,
    /// When the replicas level themselves.
    pub tier: balance::TierLimits,
    /// What happens when, in order of time.
    pub steps: Vec<Step>,
    /// Length of the run.
    pub length: Duration,
    /// Time between two samples of the sessions.
    pub sample_every: Duration,
    /// Who moves sessions.
    pub mover: Mover,
}

/// How the clients come at the start.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Start {
    /// All have a session from the first moment on, placed one after another.
    Standing,
    /// So many a second.
    Ramp(f64),
}

/// What is said on a session.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Talk {
    /// Time between two messages of a client, each answered by its endpoint. `None`: silent.
    pub message_every: Option<Duration>,
    /// Time between two messages that an endpoint sends by itself.
    pub push_every: Option<Duration>,
    /// Share of the clients that never answer a Close.
    pub mute_share: f64,
}

/// How long things take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Net {
    /// Round trip between a client and the gateway: evenly within these.
    pub client_rtt: (Duration, Duration),
    /// Round trip between the gateway and an endpoint.
    pub endpoint_rtt: Duration,
    /// An endpoint makes one handshake after the other; each takes this long.
    pub handshake: Duration,
    /// From a change of an endpoint until a replica knows: evenly within these.
    pub discovery: (Duration, Duration),
}

impl Default for Net {
    fn default() -> Self {
        Self {
            client_rtt: (Duration::from_millis(10), Duration::from_millis(80)),
            endpoint_rtt: Duration::from_millis(1),
            handshake: Duration::from_micros(200),
            discovery: (Duration::from_millis(100), Duration::from_millis(1_000)),
        }
    }
}

/// What a replica is told of the number of replicas.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Counts {
    /// The truth, so much later.
    After(Duration),
    /// Always this, whatever the truth is.
    Wrong(u32),
    /// Nothing: each believes to be alone.
    Never,
}

/// Something that happens.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// When.
    pub at: Duration,
    /// What.
    pub op: Op,
}

/// What can happen. Endpoints are named by their number: the first are 0, 1, ..., every new one gets the next.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Endpoints start and are ready.
    Add(u16),
    /// An endpoint is terminating. It stops when it is empty, or after `grace` with whatever it has.
    Drain {
        /// Which.
        endpoint: u16,
        /// Its termination grace period.
        grace: Duration,
        /// Another starts in its place so long after it has stopped.
        successor: Option<Duration>,
    },
    /// The first so many endpoints restart as a StatefulSet does it: one is drained, stops, and starts again under another
    /// identity; the next follows as soon as it is ready.
    Roll {
        /// How many.
        endpoints: u16,
        /// Termination grace period of each.
        grace: Duration,
        /// From the stop of one to its successor being ready.
        starts_within: Duration,
    },
    /// An endpoint dies without a word; discovery drops it later.
    Kill {
        /// Which.
        endpoint: u16,
        /// So much later, beside the delay of discovery.
        noticed_after: Duration,
        /// Its machine is gone: dials are not refused but time out.
        silent: bool,
        /// Another starts in its place so long after it died.
        successor: Option<Duration>,
    },
    /// An endpoint is not ready; its sessions live on.
    Unready(u16),
    /// It is ready again.
    Ready(u16),
    /// Discovery no longer names an endpoint; its sessions live on.
    Vanish(u16),
    /// Discovery names it again.
    Return(u16),
    /// Handshakes of an endpoint take so much longer from now on.
    Slow(u16, Duration),
    /// This share of the clients of an endpoint leave for good.
    Leave {
        /// Which.
        endpoint: u16,
        /// 0.0 to 1.0.
        share: f64,
    },
    /// From now on so many clients a second arrive, and so many leave for good.
    Churn {
        /// New clients a second.
        arrivals: f64,
        /// Clients a second that leave.
        departures: f64,
    },
    /// A step of a scenario file, which names endpoints by their names.
    Act {
        /// What it does.
        action: scenario::Action,
        /// A drained endpoint that still has sessions is stopped after this.
        deadline: Duration,
    },
    /// A gateway replica starts.
    AddReplica,
    /// A gateway replica dies; its clients come back elsewhere.
    LoseReplica(u16),
}

/// Who moves sessions. All but the first let the planner place and drain, and nothing more.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mover {
    /// evenkeel's planner.
    Planner,
    /// See [`crate::rivals::Age`].
    Age(crate::rivals::Age),
    /// See [`crate::rivals::Emqx`].
    Emqx(crate::rivals::Emqx),
    /// See [`crate::rivals::Nats`].
    Nats(crate::rivals::Nats),
}

impl Spec {
    /// Silent clients that come back as socket.io does, one replica, nothing happens for ten minutes.
    pub fn new(clients: u32, endpoints: u16, pool: Pool) -> Self {
        Self {
            pool,
            replicas: 1,
            zones: 0,
            clients,
            endpoints,
            start: Start::Standing,
            reconnect: vec![(1.0, library(Kind::SocketIo))],
            talk: Talk { message_every: Some(Duration::from_secs(20)), push_every: None, mute_share: 0.0 },
            net: Net::default(),
            counts: Counts::After(Duration::from_secs(1)),
            tier: balance::TierLimits::default(),
            steps: Vec::new(),
            length: Duration::from_secs(600),
            sample_every: Duration::from_secs(1),
            mover: Mover::Planner,
        }
    }

    /// When the first step happens: what comes before is the start.
    pub fn first_step(&self) -> Duration {
        self.steps.first().map_or(Duration::ZERO, |step| step.at)
    }
}

/// The rule of a library, whose clients heed Retry-After.
pub fn library(kind: Kind) -> Reconnect {
    Reconnect { kind, honour_retry_after: true, ..Reconnect::default() }
}
