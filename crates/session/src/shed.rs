//! How a session is closed so that its client comes back elsewhere: the settings and the stages of a shed.

use std::time::Duration;

use model::Time;

/// Who gets the Close frame first, and so which direction can lose a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Everything the client sent is delivered; what the endpoint sends after the Close is dropped and counted.
    ClientFirst,
    /// Everything the endpoint sent is delivered; what the client sends after the Close is dropped and counted.
    BackendFirst,
}

/// Asks the client to come back before it is closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The frame as it goes out (unmasked, unfragmented, RSV 0).
    pub frame: Vec<u8>,
    /// How long the client has to leave by itself.
    pub grace: Duration,
}

/// How a session is to be shed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShedSpec {
    /// First rung: tell the client. `None`: straight to the close.
    pub notice: Option<Notice>,
    /// Close code, valid on the wire.
    pub code: u16,
    /// Close reason, at most 123 bytes.
    pub reason: String,
    /// Who gets the Close first.
    pub order: Order,
    /// How long both directions must have been silent at a message boundary.
    pub quiet: Duration,
    /// Longest wait for that; then the longest wait for the end of a message.
    pub wait: Duration,
    /// Longest wait for the end of the frame that is under way after both, and then for the first peer's
    /// own Close frame. The second peer has the session's [`Settings::reply_timeout`](crate::Settings::reply_timeout).
    pub reply_timeout: Duration,
}

/// Why a session can not be shed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinReason {
    /// A malformed frame made it opaque: no frame of ours can be placed safely.
    Opaque,
    /// It is ending already.
    Ending,
}

/// Where a shed stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The notice waits for a message boundary towards the client, at most until then.
    ExpectBoundary(Time),
    /// The client has until then to leave by itself.
    ExpectLeave(Time),
    /// Waiting for a quiet moment, at most until then.
    ExpectQuiet(Time),
    /// No quiet moment came: the close goes out at the next message boundary, at most until then.
    ExpectMessageEnd(Time),
    /// Nor that: the close goes out at the next frame boundary, at most until then. Legal inside a fragmented message
    /// (RFC 6455 section 5.4), and some libraries report it as an error.
    ExpectFrameEnd(Time),
    /// The Close was sent; the rest is an ending like any other.
    Closing,
}

/// A shed in progress. Boxed: most sessions never have one.
#[derive(Debug)]
pub(crate) struct Shed {
    pub spec: std::sync::Arc<ShedSpec>,
    pub stage: Stage,
    pub last_activity: Time,
}
