//! What the replay says to the process of all AMQP clients, and what that answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use scenario::amqp::{AmqpScenario, GroupSummary, QueueKind};
use scenario::reconnect::Reconnect;
use scenario::summary::Times;
use serde::{Deserialize, Serialize};

/// What the clients do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AmqpPlan {
    /// Where they connect, each time to one of these by chance: the gateway, or the nodes.
    pub targets: Vec<SocketAddr>,
    /// Queues with their publishers and consumers.
    pub groups: Vec<GroupPlan>,
    /// New connections a second while connecting.
    pub connect_per_second: f64,
    /// When a client comes back.
    pub reconnect: Reconnect,
    /// Of backoff and choice.
    pub seed: u64,
}

/// See [`scenario::amqp::Group`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is that of a scenario's group")]
pub struct GroupPlan {
    pub name: String,
    pub queues: u32,
    pub kind: QueueKind,
    pub publishers: u32,
    pub confirms: bool,
    pub prefetch: u16,
    pub bytes: usize,
    pub backlog: Option<u32>,
    pub every_us: Option<u64>,
    pub work_us: Option<u64>,
}

/// The clients at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AmqpSample {
    /// Clients with a connection.
    pub connected: u32,
    /// Clients without one: connecting, or waiting to.
    pub away: u32,
    /// Messages published since the start.
    pub sent: u64,
    /// Messages consumed since the start.
    pub consumed: u64,
    /// Errors noticed since the start.
    pub errors: u64,
}

/// The clients' account of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct AmqpOutcome {
    /// What became of each group's messages.
    pub groups: Vec<GroupSummary>,
    /// What clients noticed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Times that a client had to connect again.
    pub reconnects: u64,
    /// From seeing the end of a connection to working again.
    pub reconnect: Option<Times>,
    /// From publishing to the confirm.
    pub confirm: Option<Times>,
    /// Longest time between two deliveries, of each consumer whose queue is never empty.
    pub gap: Option<Times>,
}

impl AmqpPlan {
    /// The plan of a scenario whose clients connect to `targets`.
    ///
    /// # Errors
    /// When the scenario's reconnect rule is none.
    pub fn of(scenario: &AmqpScenario, targets: Vec<SocketAddr>) -> Result<Self, String> {
        let micros = |d: std::time::Duration| d.as_micros() as u64;
        let groups = scenario.amqp.groups.iter().map(|group| GroupPlan {
            name: group.name.clone(),
            queues: group.queues,
            kind: group.kind,
            publishers: group.publishers,
            confirms: group.confirms,
            prefetch: group.prefetch,
            bytes: group.bytes,
            backlog: group.backlog,
            every_us: group.every.map(micros),
            work_us: group.work.map(micros),
        });
        Ok(Self {
            targets,
            groups: groups.collect(),
            connect_per_second: scenario.amqp.connect_per_second,
            reconnect: scenario.amqp.reconnect()?,
            seed: scenario.seed,
        })
    }
}

impl GroupPlan {
    /// `orders: quorum, confirms, prefetch 20`.
    pub fn label(&self) -> String {
        let kind = match self.kind {
            QueueKind::Classic => "classic",
            QueueKind::Quorum => "quorum",
        };
        let confirms = if self.confirms { "confirms" } else { "no confirms" };
        format!("{}: {kind}, {confirms}, prefetch {}", self.name, self.prefetch)
    }
}
