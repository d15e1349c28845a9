//! What a connection has learnt of queues by declaring them.
//!
//! A declaration that succeeds proves the attributes it names: the broker refuses one that differs from what is there.

use amqp::{Declare, Table, Value};

use super::AmqpPin;

/// Queues that are remembered; those beyond it count as declared elsewhere.
const QUEUES_MAX: usize = 1024;
/// A queue that may be gone before a migration is over does not let its consumers migrate.
const EXPIRES_MS_MIN: i64 = 10_000;

/// What a queue is, as far as migrating its consumers goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueKind {
    /// Why its consumers may not migrate.
    pub pin: Option<AmqpPin>,
    /// It belongs to this connection: not even the connection may migrate.
    pub exclusive: bool,
    /// It is known to keep its order when a consumer is cancelled: it was declared as classic.
    pub classic: bool,
}

/// By hash of the name, in no particular order.
#[derive(Debug, Default)]
pub(crate) struct Queues(Vec<(u64, QueueKind)>);

impl Queues {
    /// The queue was declared so, and the broker has agreed or will.
    pub fn insert(&mut self, name: u64, kind: QueueKind) {
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| *known == name) {
            *known = kind;
        } else if self.0.len() < QUEUES_MAX {
            self.0.push((name, kind));
        } else if kind.exclusive
            && let Some(place) = self.0.iter_mut().find(|(_, known)| !known.exclusive)
        {
            // An exclusive queue must not be forgotten: it takes the place of another.
            *place = (name, kind);
        }
    }

    /// The queue was deleted.
    pub fn remove(&mut self, name: u64) {
        self.0.retain(|(known, _)| *known != name);
    }

    /// What is known of it.
    pub fn find(&self, name: u64) -> Option<QueueKind> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// The connection owns a queue.
    pub fn has_exclusive(&self) -> bool {
        self.0.iter().any(|(_, kind)| kind.exclusive)
    }
}

/// What a declaration says. `None`: nothing (a passive one).
pub(crate) fn kind_of(declare: &Declare<'_>) -> Option<QueueKind> {
    if declare.passive() {
        return None;
    }
    let arguments = declare.arguments;
    let pin = if declare.exclusive() {
        Some(AmqpPin::ExclusiveQueue)
    } else if declare.auto_delete() {
        Some(AmqpPin::AutoDeleteQueue)
    } else {
        pin_by_arguments(arguments)
    };
    let classic = arguments.find("x-queue-type") == Some(Value::Bytes(b"classic"));
    Some(QueueKind { pin, exclusive: declare.exclusive(), classic })
}

fn pin_by_arguments(arguments: Table<'_>) -> Option<AmqpPin> {
    if !arguments.is_well_formed() {
        return Some(AmqpPin::Untracked);
    }
    let below = |key, least| matches!(arguments.find(key), Some(Value::Int(ms)) if ms < least);
    if arguments.find("x-queue-type") == Some(Value::Bytes(b"stream")) {
        Some(AmqpPin::Stream)
    } else if arguments.find("x-single-active-consumer") == Some(Value::Bool(true)) {
        Some(AmqpPin::SingleActiveConsumer)
    } else if below("x-expires", EXPIRES_MS_MIN) || below("x-message-ttl", 1) {
        Some(AmqpPin::ExpiringQueue)
    } else {
        None
    }
}

/// FNV-1a: names are compared by 64 bits of it.
pub(crate) fn hash(name: &[u8]) -> u64 {
    name.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
