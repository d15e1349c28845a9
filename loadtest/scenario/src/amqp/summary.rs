//! What became of the messages, and what clients noticed.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::summary::Times;

/// What became of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Published.
    pub sent: u64,
    /// Confirmed by the broker.
    pub confirmed: u64,
    /// Refused by the broker (nack).
    pub refused: u64,
    /// Returned by the broker: it had no queue for them.
    pub returned: u64,
    /// Delivered, each counted once.
    pub consumed: u64,
    /// Acknowledged by the consumer, each delivery counted.
    pub acked: u64,
    /// Deliveries with the redelivered flag.
    pub redelivered: u64,
    /// Deliveries of a message that was delivered before.
    pub duplicated: u64,
    /// First deliveries behind a later message of the same publisher and queue.
    pub reordered: u64,
    /// Deliveries whose content is not what was published.
    pub damaged: u64,
    /// Confirmed, and never delivered.
    pub lost: u64,
    /// Published without a confirm (none was asked for, or none came), and never delivered.
    pub missing: u64,
}

impl AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.confirmed += other.confirmed;
        self.refused += other.refused;
        self.returned += other.returned;
        self.consumed += other.consumed;
        self.acked += other.acked;
        self.redelivered += other.redelivered;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.lost += other.lost;
        self.missing += other.missing;
    }
}

/// A group of queues in numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Its name, kind of queue, confirms, prefetch: `orders: quorum, confirms, prefetch 20`.
    pub label: String,
    /// What became of its messages.
    pub account: Account,
}

/// How long migrations held clients up, by the gateway's own histogram.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Freeze {
    /// How many.
    pub count: u64,
    /// Median, milliseconds; the upper bound of its bucket.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds; the upper bound of its bucket.
    pub p99_ms: f64,
}

/// What only a run with brokers has.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct AmqpSummary {
    /// Each group of queues.
    pub groups: Vec<GroupSummary>,
    /// All of them.
    pub total: Account,
    /// What clients noticed, by kind: closes, cancelled consumers, failed attempts to connect.
    pub errors: BTreeMap<String, u64>,
    /// Times that a client had to connect again.
    pub reconnects: u64,
    /// From seeing the end of a connection to working again.
    pub reconnect: Option<Times>,
    /// From publishing to the confirm.
    pub confirm: Option<Times>,
    /// Longest time between two deliveries, of each consumer whose queue is never empty.
    pub gap: Option<Times>,
    /// Messages in the queues after all consumers have left; `None`: not known.
    pub left_in_queues: Option<u64>,
    /// Migrations by outcome, by the gateway's metrics; `None`: there was no gateway.
    pub migrations: Option<BTreeMap<String, u64>>,
    /// Migrations that were given up, by reason.
    pub aborts: BTreeMap<String, u64>,
    /// Times that a rehearsal was ordered.
    pub rehearsals: u64,
    /// How long migrations held clients up.
    pub freeze: Option<Freeze>,
}

impl AmqpSummary {
    /// Migrations after which the client went on at another node.
    pub fn migrated(&self) -> u64 {
        self.migrations.as_ref().and_then(|by_outcome| by_outcome.get("switched")).copied().unwrap_or(0)
    }
}
