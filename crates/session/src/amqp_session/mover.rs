//! A move in progress: its goal, its phase, the leg that is being prepared, the acks that are held back.

use std::time::Duration;

use amqp::{Login, Scanner};
use model::Time;

use super::Abort;

/// What a move is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    /// Exchange the upstream leg.
    Migrate,
    /// Find another, since it is lost.
    Replace,
    /// Close the client, by then; `close`: even if it is not quiet by then.
    Shed { deadline: Time, close: bool },
}

/// How far it is. Each waits for one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// For a connection to the next endpoint.
    Dialing,
    /// For the login there, its channels, and answers that the client waits for.
    Preparing,
    /// For every prefetch to fill up, acks being held back.
    Saturating,
    /// For consumers to be cancelled.
    Cancelling,
    /// For the client's acks.
    Settling,
    /// For the end of the messages that the client is sending.
    Freezing,
    /// For confirms, the client being frozen.
    Flushing,
    /// The same, until then: publishes that nobody confirms have been handled, and travel on.
    Resting(Time),
    /// For the consumers to be started at the new endpoint.
    Replaying,
    /// For the consumers to be started again at the old one.
    RollingBack(Abort),
}

impl Phase {
    /// Names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dialing => "dialing",
            Self::Preparing => "preparing",
            Self::Saturating => "saturating",
            Self::Cancelling => "cancelling",
            Self::Settling => "settling",
            Self::Freezing => "freezing",
            Self::Flushing => "flushing",
            Self::Resting(_) => "resting",
            Self::Replaying => "replaying",
            Self::RollingBack(_) => "rolling_back",
        }
    }

    /// Nothing that the client notices has happened: the move can be given up.
    pub const fn is_before_switch(self) -> bool {
        !matches!(self, Self::Replaying | Self::RollingBack(_))
    }
}

/// The leg to the next endpoint.
#[derive(Debug)]
pub(crate) struct Next {
    pub scanner: Scanner,
    pub login: Login,
    /// Answers that are owed.
    pub waiting: u32,
    /// Channels that were opened there.
    pub prepared: bool,
    /// When a heartbeat is due.
    pub heartbeat: Option<Time>,
    /// Whether the queues of consumers that get nothing are empty; `None`: not asked.
    pub emptiness: Option<Emptiness>,
}

/// What the next endpoint was asked of queues, and has answered.
#[derive(Debug, Default)]
pub(crate) struct Emptiness {
    /// Channel and consumer of each question without an answer, in their order on each channel.
    pub asked: Vec<(u16, u16)>,
    /// Channel and consumer of each queue that was empty.
    pub empty: Vec<(u16, u16)>,
}

impl Emptiness {
    /// The oldest question on a channel is answered.
    pub fn answered(&mut self, channel: u16, ready: u32) {
        let Some(at) = self.asked.iter().position(|(on, _)| *on == channel) else { return };
        let question = self.asked.remove(at);
        if ready == 0 {
            self.empty.push(question);
        }
    }
}

/// A move in progress.
#[derive(Debug)]
pub(crate) struct Mover {
    pub goal: Goal,
    pub phase: Phase,
    /// When the phase is over at the latest. `None`: it has all the time it wants.
    pub until: Option<Time>,
    pub next: Option<Next>,
    /// Ack frames, tags changed already, in their order.
    pub held: Vec<u8>,
    /// Acks are held back.
    pub holds_acks: bool,
    /// Since when the client is not read.
    pub frozen: Option<Time>,
    /// When frozen peers get a heartbeat.
    pub heartbeat: Option<Time>,
    /// How long the client has for its acks, if that is not `settle_timeout`.
    pub settle_for: Option<Duration>,
    /// A shed that begins when this is over: by when, and whether it closes then.
    pub then_shed: Option<(Time, bool)>,
    /// Channels that the new endpoint has refused a consumer on, and when to try again.
    pub retries: Vec<(u16, Time)>,
    /// The last channel on which a consumer was refused.
    pub refused: Option<u16>,
    /// How often the deadline of a replay was moved for it.
    pub extensions: u8,
    /// The next consumer that is refused is given up.
    pub gives_up: bool,
}

impl Mover {
    pub fn new(goal: Goal, phase: Phase, until: Option<Time>) -> Self {
        Self {
            goal,
            phase,
            until,
            next: None,
            held: Vec::new(),
            holds_acks: false,
            frozen: None,
            heartbeat: None,
            settle_for: None,
            then_shed: None,
            retries: Vec::new(),
            refused: None,
            extensions: 0,
            gives_up: false,
        }
    }

    /// The client is not read from now on.
    pub fn freeze(&mut self, now: Time, heartbeat: u16) {
        self.frozen = self.frozen.or(Some(now));
        self.heartbeat = quarter(heartbeat).map(|every| now + every);
    }
}

/// A quarter of the heartbeat interval. `None`: there are no heartbeats.
pub(crate) fn quarter(heartbeat: u16) -> Option<Duration> {
    (heartbeat > 0).then(|| Duration::from_millis(u64::from(heartbeat) * 250))
}
