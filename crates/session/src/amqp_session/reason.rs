//! Why a session does not migrate: for as long as it is what it is, or this time.

/// Why an AMQP session can not migrate. Most hold until the client changes something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AmqpPin {
    /// `amqp.seamless` is off.
    Off,
    /// The login can not be repeated: EXTERNAL, a challenge, or a response that is too long.
    Login,
    /// It owns an exclusive queue.
    ExclusiveQueue,
    /// It consumes from an auto-delete queue.
    AutoDeleteQueue,
    /// It consumes from a queue that it has not declared.
    ForeignQueue,
    /// It consumes from a queue that expires soon, or whose messages do at once.
    ExpiringQueue,
    /// It consumes from a queue with a single active consumer.
    SingleActiveConsumer,
    /// It consumes from a stream.
    Stream,
    /// It consumes direct replies.
    DirectReplyTo,
    /// A consumer that may be on a quorum queue has no prefetch to fill, or acknowledges nothing.
    NoPrefetch,
    /// A consumer's tag is not known.
    ConsumerTag,
    /// A transaction is open.
    Transaction,
    /// The broker has stopped the flow of a channel, or the connection is blocked by an alarm.
    Blocked,
    /// More is outstanding, or a method is longer, than is followed.
    Untracked,
    /// It is ending.
    Ending,
    /// It is being moved already.
    Moving,
}

impl AmqpPin {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Off,
        Self::Login,
        Self::ExclusiveQueue,
        Self::AutoDeleteQueue,
        Self::ForeignQueue,
        Self::ExpiringQueue,
        Self::SingleActiveConsumer,
        Self::Stream,
        Self::DirectReplyTo,
        Self::NoPrefetch,
        Self::ConsumerTag,
        Self::Transaction,
        Self::Blocked,
        Self::Untracked,
        Self::Ending,
        Self::Moving,
    ];

    /// As it is written in metrics, status and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "seamless_off",
            Self::Login => "login",
            Self::ExclusiveQueue => "exclusive_queue",
            Self::AutoDeleteQueue => "auto_delete_queue",
            Self::ForeignQueue => "foreign_queue",
            Self::ExpiringQueue => "expiring_queue",
            Self::SingleActiveConsumer => "single_active_consumer",
            Self::Stream => "stream",
            Self::DirectReplyTo => "direct_reply_to",
            Self::NoPrefetch => "no_prefetch",
            Self::ConsumerTag => "consumer_tag",
            Self::Transaction => "transaction",
            Self::Blocked => "blocked",
            Self::Untracked => "untracked",
            Self::Ending => "ending",
            Self::Moving => "moving",
        }
    }
}

/// Why a migration that had begun was given up. The session goes on where it was, unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Abort {
    /// It turned out that it may not.
    Pinned(AmqpPin),
    /// No other endpoint can be reached.
    NoEndpoint,
    /// The next endpoint refused the login or a channel.
    Refused,
    /// The next endpoint broke the connection.
    EndpointLost,
    /// The next endpoint was too slow.
    PrepareTimeout,
    /// The client asked for something that changes what a migration would have to carry over.
    ClientBusy,
    /// A request of the client's was not answered in time.
    Request,
    /// A consumer's prefetch did not fill up.
    Unsaturated,
    /// The client did not acknowledge what it had been delivered in time.
    Unacked,
    /// The endpoint did not confirm what was published in time.
    Unconfirmed,
    /// The client stopped in the middle of a message.
    Content,
    /// The endpoint closed a channel.
    ChannelClosed,
    /// The client left.
    ClientLeft,
    /// The endpoint did not take the consumers: the client was closed.
    Replay,
}

impl Abort {
    /// All that are no pin.
    pub const OF_ITS_OWN: [Self; 13] = [
        Self::NoEndpoint,
        Self::Refused,
        Self::EndpointLost,
        Self::PrepareTimeout,
        Self::ClientBusy,
        Self::Request,
        Self::Unsaturated,
        Self::Unacked,
        Self::Unconfirmed,
        Self::Content,
        Self::ChannelClosed,
        Self::ClientLeft,
        Self::Replay,
    ];

    /// As it is written in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pinned(pin) => pin.as_str(),
            Self::NoEndpoint => "no_endpoint",
            Self::Refused => "refused",
            Self::EndpointLost => "endpoint_lost",
            Self::PrepareTimeout => "prepare_timeout",
            Self::ClientBusy => "client_busy",
            Self::Request => "request",
            Self::Unsaturated => "unsaturated",
            Self::Unacked => "unacked",
            Self::Unconfirmed => "unconfirmed",
            Self::Content => "content",
            Self::ChannelClosed => "channel_closed",
            Self::ClientLeft => "client_left",
            Self::Replay => "replay",
        }
    }
}
