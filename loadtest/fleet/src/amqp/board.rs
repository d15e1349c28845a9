//! What all AMQP clients of this process share: the plan, each queue's account, and what they noticed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use lapin::{Error, ErrorKind};
use scenario::amqp::{Account, GroupSummary};
use scenario::rng::Rng;
use scenario::summary::Times;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::amqp::checker::Stream;
use crate::amqp::plan::{AmqpOutcome, AmqpPlan, AmqpSample, GroupPlan};

/// Longest text of an error that is counted by itself.
const KIND_CHARACTERS_MAX: usize = 80;
/// Kinds of errors that are counted by themselves.
const KINDS_MAX: usize = 40;

/// What all clients share.
pub struct Board {
    /// What they do.
    pub plan: AmqpPlan,
    /// Where they connect; changes as nodes come and go.
    pub targets: RefCell<Vec<SocketAddr>>,
    /// All queues.
    pub queues: Vec<Queue>,
    /// Clients with a connection.
    pub connected: Cell<u32>,
    /// Of how many.
    pub clients: u32,
    noticed: RefCell<BTreeMap<String, u64>>,
    /// Milliseconds that clients were away, each time.
    pub away_ms: RefCell<Vec<f64>>,
    /// Microseconds from publishing to the confirm.
    pub confirm_us: RefCell<Histogram<u64>>,
}

/// One queue.
pub struct Queue {
    /// Its name at the broker.
    pub name: String,
    /// Index of its group.
    pub group: usize,
    /// Its consumer has declared it.
    pub declared: Cell<bool>,
    /// Rung when it is declared and at each delivery.
    pub bell: Notify,
    /// Its publishers' messages.
    pub streams: RefCell<Vec<Stream>>,
    /// Deliveries that were not what was published.
    pub damaged: Cell<u64>,
    /// The longest time between two deliveries.
    pub gap: Cell<Gap>,
}

/// The longest time between two deliveries, whatever connections they came on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gap {
    last: Option<Instant>,
    longest: Duration,
}

impl Gap {
    /// A delivery came at `now`.
    #[must_use]
    pub fn seen(self, now: Instant) -> Self {
        let longest = self.last.map_or(Duration::ZERO, |last| now - last).max(self.longest);
        Self { last: Some(now), longest }
    }

    fn longest_ms(self) -> Option<f64> {
        self.last.map(|_| self.longest.as_secs_f64() * 1000.0)
    }
}

impl Board {
    /// The board of `plan`, before anything has happened.
    pub fn new(plan: AmqpPlan) -> Self {
        let mut queues = Vec::new();
        for (group, of) in plan.groups.iter().enumerate() {
            queues.extend((1..=of.queues).map(|number| Queue {
                name: format!("{}-{number}", of.name),
                group,
                declared: Cell::new(false),
                bell: Notify::new(),
                streams: RefCell::new(vec![Stream::default(); of.publishers as usize]),
                damaged: Cell::new(0),
                gap: Cell::default(),
            }));
        }
        let clients = plan.groups.iter().map(|group| group.queues * (1 + group.publishers)).sum();
        Self {
            targets: RefCell::new(plan.targets.clone()),
            plan,
            queues,
            connected: Cell::new(0),
            clients,
            noticed: RefCell::default(),
            away_ms: RefCell::default(),
            // One minute is far more than any broker takes; what is longer counts as that.
            confirm_us: RefCell::new(
                Histogram::new_with_max(60_000_000, 3).expect("the bounds are constants"),
            ),
        }
    }

    /// The group of a queue.
    pub fn group(&self, queue: &Queue) -> &GroupPlan {
        &self.plan.groups[queue.group]
    }

    /// A target by chance; `None`: there is none at present.
    pub fn target(&self, rng: &mut Rng) -> Option<SocketAddr> {
        let targets = self.targets.borrow();
        targets.get((rng.unit() * targets.len() as f64) as usize).copied()
    }

    /// Counts something that a client noticed.
    pub fn notice(&self, kind: String) {
        let mut noticed = self.noticed.borrow_mut();
        let full = noticed.len() >= KINDS_MAX && !noticed.contains_key(&kind);
        *noticed.entry(if full { "something else".into() } else { kind }).or_default() += 1;
    }

    /// Notes the time from publishing to the confirm.
    pub fn confirmed_after(&self, time: Duration) {
        self.confirm_us.borrow_mut().saturating_record(time.as_micros() as u64);
    }

    /// Whether every message that should arrive has arrived.
    pub fn drained(&self) -> bool {
        self.queues.iter().all(|queue| queue.streams.borrow().iter().all(Stream::drained))
    }

    /// The state at this moment.
    pub fn sample(&self) -> AmqpSample {
        let (mut sent, mut consumed) = (0, 0);
        for queue in &self.queues {
            for stream in queue.streams.borrow().iter() {
                let progress = stream.progress();
                (sent, consumed) = (sent + progress.0, consumed + progress.1);
            }
        }
        let connected = self.connected.get();
        let errors = self.noticed.borrow().values().sum();
        AmqpSample { connected, away: self.clients.saturating_sub(connected), sent, consumed, errors }
    }

    /// Everything at the end.
    pub fn outcome(&self) -> AmqpOutcome {
        let mut accounts = vec![Account::default(); self.plan.groups.len()];
        for queue in &self.queues {
            let account = &mut accounts[queue.group];
            account.damaged += queue.damaged.get();
            for stream in queue.streams.borrow().iter() {
                *account += stream.account();
            }
        }
        let labels = self.plan.groups.iter().map(GroupPlan::label);
        let away = self.away_ms.borrow().clone();
        AmqpOutcome {
            groups: labels.zip(accounts).map(|(label, account)| GroupSummary { label, account }).collect(),
            errors: self.noticed.borrow().clone(),
            reconnects: away.len() as u64,
            reconnect: Times::of(away),
            confirm: times(&self.confirm_us.borrow()),
            // Where messages come at a rate, a gap is the rate's.
            gap: Times::of(
                self.queues
                    .iter()
                    .filter(|queue| self.group(queue).backlog.is_some())
                    .filter_map(|queue| queue.gap.get().longest_ms())
                    .collect(),
            ),
        }
    }
}

fn times(micros: &Histogram<u64>) -> Option<Times> {
    let ms = |micros: u64| micros as f64 / 1000.0;
    (!micros.is_empty()).then(|| Times {
        count: micros.len() as usize,
        p50_ms: ms(micros.value_at_quantile(0.5)),
        p99_ms: ms(micros.value_at_quantile(0.99)),
        max_ms: ms(micros.max()),
    })
}

/// An error in words that are the same for all of its kind: `320 CONNECTION_FORCED - ...`, `io: connection reset`.
pub fn kind(error: &Error) -> String {
    let text = match error.kind() {
        ErrorKind::ProtocolError(error) => format!("{} {}", error.get_id(), error.get_message()),
        ErrorKind::IOError(error) => format!("io: {}", error.kind()),
        _ => error.to_string(),
    };
    let text: String = text.chars().take(KIND_CHARACTERS_MAX).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use scenario::amqp::QueueKind;
    use scenario::reconnect::Reconnect;

    use super::*;

    fn board() -> Board {
        let group = GroupPlan {
            name: "orders".into(),
            queues: 2,
            kind: QueueKind::Quorum,
            publishers: 2,
            confirms: true,
            prefetch: 20,
            bytes: 100,
            backlog: Some(10),
            every_us: None,
            work_us: None,
        };
        Board::new(AmqpPlan {
            targets: vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()],
            groups: vec![group.clone(), GroupPlan { name: "events".into(), queues: 1, ..group }],
            connect_per_second: 50.0,
            reconnect: Reconnect::default(),
            seed: 1,
        })
    }

    #[test]
    fn accounts_add_up_by_group() {
        let board = board();
        assert_eq!((board.clients, board.queues.len()), (9, 3));
        for (queue, stream) in [(0, 0), (1, 1), (2, 0)] {
            let mut streams = board.queues[queue].streams.borrow_mut();
            let number = streams[stream].publish();
            streams[stream].confirm(number);
        }
        assert!(!board.drained());
        board.queues[2].streams.borrow_mut()[0].deliver(0, false);
        let groups = board.outcome().groups;
        assert_eq!(groups[0].label, "orders: quorum, confirms, prefetch 20");
        assert_eq!((groups[0].account.lost, groups[1].account.lost), (2, 0));
        assert_eq!((board.sample().sent, board.sample().consumed, board.sample().away), (3, 1, 9));
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let board = board();
        for number in 0..1000 {
            board.notice(format!("error {number}"));
        }
        assert_eq!(board.outcome().errors.len(), KINDS_MAX + 1);
        assert_eq!(board.sample().errors, 1000);
    }

    #[test]
    fn every_target_is_taken_by_chance() {
        let (board, mut rng) = (board(), Rng::new(1, 1));
        let first = (0..200).filter(|_| board.target(&mut rng) == Some(board.plan.targets[0])).count();
        assert!((60..140).contains(&first), "{first} of 200");
        board.targets.borrow_mut().clear();
        assert_eq!(board.target(&mut rng), None);
    }
}
