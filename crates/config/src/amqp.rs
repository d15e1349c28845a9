//! What the configuration says of AMQP 0-9-1: the routes of a listener, and the `amqp` part of a pool.
//!
//! Not here: which route a connection takes (`amqp_router`), and what is checked (`amqp_check`).

use std::time::Duration;

use balance::victims::Preference;
use model::PoolName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units;

/// Which connections go to which pool.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmqpRoute {
    /// The user who logs in by PLAIN or AMQPLAIN: 1 to 255 bytes. Default: anybody, whatever the mechanism.
    #[serde(default)]
    pub user: Option<String>,
    /// The virtual host that is opened: 1 to 255 bytes. Default: any.
    #[serde(default)]
    pub vhost: Option<String>,
    /// Where it goes. A pool speaks one protocol.
    pub pool: PoolName,
    /// Most connections at once through this route. Default: no bound.
    #[serde(default)]
    pub connections_max: Option<usize>,
    /// Whether its sessions are moved before or after others.
    #[serde(default)]
    pub moves: Preference,
}

/// AMQP details of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Amqp {
    /// True: a session migrates, and its client stays; its login is kept in memory for that. False: the login is forgotten
    /// once the connection is open, and a session is moved by a close.
    pub seamless: bool,
    /// How much is done for the order of messages.
    pub order: MessageOrder,
    /// What a rebalance does with a session that can not migrate. A drain closes it by its deadline either way.
    pub when_pinned: WhenPinned,
    /// What is taken for granted of queues that a client consumes from and has not declared itself.
    pub foreign_queues: ForeignQueues,
    /// Longest wait for each step of an endpoint's handshake; in a migration, from the dial to the last channel opened at the
    /// next endpoint.
    #[serde(with = "units::duration")]
    pub prepare_timeout: Duration,
    /// How long acks are held back so that a consumer's prefetch fills up.
    #[serde(with = "units::duration")]
    pub saturate_timeout: Duration,
    /// How long a client has to acknowledge what it was delivered; ten times that when its endpoint drains.
    #[serde(with = "units::duration")]
    pub settle_timeout: Duration,
    /// How long an endpoint has to confirm what was published, while the client waits.
    #[serde(with = "units::duration")]
    pub flush_timeout: Duration,
    /// How long the new endpoint has to take the consumers.
    #[serde(with = "units::duration")]
    pub replay_timeout: Duration,
    /// How long a former connection stays open after the last ack.
    #[serde(with = "units::duration")]
    pub linger: Duration,
    /// How long it stays open at the very most. Not below `linger`.
    #[serde(with = "units::duration")]
    pub linger_max: Duration,
    /// How long a peer has for its CloseOk.
    #[serde(with = "units::duration")]
    pub close_timeout: Duration,
    /// Tell endpoints the client's address by PROXY protocol v2. They must expect it.
    pub proxy_protocol: bool,
    /// How endpoints are asked whether they answer: by the beginning of a handshake.
    pub probe: Probe,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            seamless: true,
            order: MessageOrder::Strict,
            when_pinned: WhenPinned::Stay,
            foreign_queues: ForeignQueues::Pin,
            prepare_timeout: Duration::from_secs(5),
            saturate_timeout: Duration::from_millis(50),
            settle_timeout: Duration::from_secs(2),
            flush_timeout: Duration::from_secs(1),
            replay_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(3),
            linger_max: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
            proxy_protocol: false,
            probe: Probe::default(),
        }
    }
}

/// How much is done for the order of messages in a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageOrder {
    /// Publishes are confirmed behind the client's back, and a consumer is cancelled only when nothing is on its way to it.
    #[default]
    Strict,
    /// Best effort, without either.
    Relaxed,
}

/// What a rebalance does with a session that can not migrate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenPinned {
    /// It stays where it is.
    #[default]
    Stay,
    /// It is closed, as if it did not migrate at all.
    Close,
}

/// What is taken for granted of queues that a client consumes from and has not declared itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForeignQueues {
    /// Nothing: such a session does not migrate.
    #[default]
    Pin,
    /// They outlive a consumer: neither auto-delete, exclusive, expiring, single-active-consumer nor streams.
    AssumePersistent,
}

/// How endpoints are asked whether they answer: by the beginning of an AMQP handshake.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Time between two questions. 0s: never asked.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// Longest wait for an answer.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Answers in a row that did not come, after which an endpoint is unready.
    pub failures: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(2), failures: 3 }
    }
}
