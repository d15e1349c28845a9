//! What a pool's configuration says to its AMQP sessions.

use std::time::Duration;

/// How much is done for the order of messages in a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageOrder {
    /// Publishes are confirmed behind the client's back, and a consumer that may be on a quorum queue is cancelled only
    /// when it can get nothing more.
    Strict,
    /// Best effort: no shadow confirms, and a consumer is cancelled as it is.
    Relaxed,
}

/// What is taken for granted of queues that the client consumes from and has not declared itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForeignQueues {
    /// Nothing: they might be auto-delete, which a migration would delete. Their consumers do not migrate.
    Pin,
    /// They are neither auto-delete, exclusive, expiring, single-active-consumer nor streams.
    AssumePersistent,
}

/// Settings of AMQP sessions. One value for all sessions of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AmqpSettings {
    /// Sessions may migrate. False: they are fenced, drained and closed instead.
    pub seamless: bool,
    /// How much is done for the order of messages.
    pub order: MessageOrder,
    /// What is assumed of queues that were declared elsewhere.
    pub foreign_queues: ForeignQueues,
    /// From the dial to the last channel opened at the next endpoint.
    pub prepare_timeout: Duration,
    /// How long acks are held back so that a consumer's prefetch fills up.
    pub saturate_timeout: Duration,
    /// How long the client has to acknowledge what it was delivered (D1).
    pub settle_timeout: Duration,
    /// How long the endpoint has to confirm what was published, with the client frozen (D2).
    pub flush_timeout: Duration,
    /// How long the new endpoint has to take the consumers (D3). There is no way back from here, so it is long.
    pub replay_timeout: Duration,
    /// How long a former connection stays open after the last ack.
    pub linger: Duration,
    /// How long it stays open at the very most.
    pub linger_max: Duration,
    /// How long a peer has for its `close-ok`, and then to end its stream.
    pub close_timeout: Duration,
}

impl Default for AmqpSettings {
    fn default() -> Self {
        Self {
            seamless: true,
            order: MessageOrder::Strict,
            foreign_queues: ForeignQueues::Pin,
            prepare_timeout: Duration::from_secs(5),
            saturate_timeout: Duration::from_millis(50),
            settle_timeout: Duration::from_secs(2),
            flush_timeout: Duration::from_secs(1),
            replay_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(3),
            linger_max: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
        }
    }
}
