//! One AMQP client's stay: its connection, what its channels remember, and how its upstream leg is exchanged.
//!
//! Every frame passes as it came, but for tags, which are changed where they stand. What belongs to a migration is
//! invisible to the client: see `advance` for its phases and docs/amqp.md for the whole story.
//!
//! Not here: sockets, dialing and picking (the gateway), the frame formats (`amqp`), when to move (`balance`).

mod reason;
mod retiree;
mod settings;

use std::time::Duration;

use amqp::{Credentials, Tune};
use model::Time;

pub use reason::{Abort, AmqpPin};
pub use retiree::Retiree;
pub use settings::{AmqpSettings, ForeignQueues, MessageOrder};

/// One of the connections of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AmqpLeg {
    /// To the client.
    Downstream,
    /// To the endpoint that serves it now.
    Upstream,
    /// To the endpoint that is being prepared; after the switch it is `Upstream`.
    Next,
}

/// What the handshake has agreed.
#[derive(Debug)]
pub struct Opened {
    /// To log in elsewhere in the client's stead. `None`: it can not, or must not, be repeated.
    pub credentials: Option<Credentials>,
    /// What `tune-ok` said.
    pub tune: Tune,
    /// The cluster's name, from the endpoint's `start`.
    pub cluster: Option<Box<[u8]>>,
    /// The client has the capability `consumer_cancel_notify`.
    pub cancel_notify: bool,
    /// The client has the capability `connection.blocked`.
    pub blocked_notify: bool,
}

/// What becomes of bytes that were handed in: `forward` of them go on to the other side, the next `skip` do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AmqpSpan {
    /// Bytes for the other leg (none from [`AmqpLeg::Next`]), some of them changed in place.
    pub forward: usize,
    /// Bytes behind them that nobody gets.
    pub skip: usize,
    /// What is left must wait: for more bytes, or until the session wants to read that leg again. False: call again at
    /// once with the rest, after the transmits.
    pub hold: bool,
}

/// How it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AmqpEnd {
    /// Who began it.
    pub initiator: crate::Initiator,
    /// Reply code of the first `connection.close`, if there was one.
    pub code: Option<u16>,
}

/// What the shell is to do, in this order. Poll before the transmits: they go to the legs as they are afterwards.
#[derive(Debug)]
pub enum AmqpEvent {
    /// Dial another endpoint as [`AmqpLeg::Next`], and answer with `handle_connected` or `handle_no_endpoint`.
    Dial,
    /// `Next` is `Upstream` now. The former `Upstream` goes to the retiree with everything that waits for it, bytes kept
    /// unscanned included; `None`: it is broken, drop it.
    Switched {
        /// Looks after the former leg.
        retiree: Option<Retiree>,
    },
    /// `Next` is not needed: it goes to the retiree; `None`: drop it.
    NextDropped {
        /// Looks after it.
        retiree: Option<Retiree>,
    },
    /// `Upstream` leaves the session and there is no other: the client is being closed, or a new endpoint is sought.
    UpstreamDropped {
        /// Looks after it.
        retiree: Option<Retiree>,
    },
    /// The migration, or the replacement of a lost endpoint, is done.
    Migrated {
        /// How long the client was not read.
        freeze: Duration,
        /// The endpoint was lost, not left.
        replaced: bool,
    },
    /// A migration was given up before the switch; the session goes on where it was.
    Aborted {
        /// Why.
        reason: Abort,
        /// Consumers had been cancelled and were started again.
        rolled_back: bool,
    },
    /// The client is closed with 320 after a switch that could not be completed, or since its endpoint was lost.
    Forced {
        /// Why.
        reason: Abort,
        /// The endpoint was lost before any switch.
        lost: bool,
    },
}

/// One AMQP client's stay.
///
/// Kinds of methods: `handle_*` and `begin_*` tell it what happens; `poll_event` and `poll_transmit` say what to do, `wants_read`
/// and `wants_fin` which legs to read and to end, `poll_timeout` when to call `handle_timeout`.
///
/// Order: after every `handle_*`, `begin_*` or `cut`, carry out [`Self::poll_event`] until `None`, then write
/// [`Self::poll_transmit`] of every leg, behind what has been forwarded to it. The shell must
/// - keep the bytes that a call leaves (`hold`), and hand them in again in front of later ones, or alone as soon as
///   [`Self::wants_read`] is true for the leg after it was false,
/// - answer every [`AmqpEvent::Dial`] once, unless a [`AmqpEvent::NextDropped`] comes before,
/// - hand in no byte of a leg that is not there.
#[derive(Debug)]
pub struct AmqpSession {
    opened: Opened,
    out: [Vec<u8>; 3],
}

impl AmqpSession {
    /// A connection right behind its `open-ok`.
    pub fn new(opened: Opened) -> Self {
        Self { opened, out: Default::default() }
    }

    /// Bytes from `from`, the first one right behind the last that was forwarded or skipped. Tags are changed in place.
    pub fn handle_bytes(
        &mut self,
        _now: Time,
        _settings: &AmqpSettings,
        _from: AmqpLeg,
        bytes: &mut [u8],
    ) -> AmqpSpan {
        AmqpSpan { forward: bytes.len(), skip: 0, hold: false }
    }

    /// `leg` has ended its stream.
    pub fn handle_end(&mut self, _now: Time, _settings: &AmqpSettings, _leg: AmqpLeg) {}

    /// `leg` is broken in both directions.
    pub fn handle_broken(&mut self, now: Time, settings: &AmqpSettings, leg: AmqpLeg) {
        self.handle_end(now, settings, leg);
    }

    /// The dial has succeeded: `Next` is there.
    pub fn handle_connected(&mut self, _now: Time, _settings: &AmqpSettings) {}

    /// The dial has failed, or there is nowhere to dial.
    pub fn handle_no_endpoint(&mut self, _now: Time, _settings: &AmqpSettings) {}

    /// A deadline has come.
    pub fn handle_timeout(&mut self, _now: Time, _settings: &AmqpSettings) {}

    /// Exchanges the upstream leg: ends with one of `Migrated`, `Aborted` and `Forced`.
    ///
    /// # Errors
    /// [`AmqpPin`]: it can not be moved now; nothing has changed.
    pub fn begin_migration(&mut self, _now: Time, _settings: &AmqpSettings) -> Result<(), AmqpPin> {
        Err(AmqpPin::Off)
    }

    /// Closes the client so that it comes back elsewhere: deliveries are withheld, acks and confirms drain, then Close 320. At
    /// `deadline` it is closed as it stands (`close`), or it stays and the shed is given up with `Aborted`.
    ///
    /// # Errors
    /// [`AmqpPin::Ending`] or [`AmqpPin::Moving`]: a shed or an end is under way. A migration gives way.
    pub fn begin_shed(
        &mut self,
        _now: Time,
        _settings: &AmqpSettings,
        _deadline: Time,
        _close: bool,
    ) -> Result<(), AmqpPin> {
        Err(AmqpPin::Ending)
    }

    /// Closes the client with `code` at the next frame boundary, whatever is under way, and the endpoint as well.
    pub fn cut(&mut self, _now: Time, _settings: &AmqpSettings, _code: u16, _text: &str) {}

    /// What to do with the legs.
    pub fn poll_event(&mut self) -> Option<AmqpEvent> {
        None
    }

    /// Bytes of our own for `leg`, behind what was forwarded to it.
    pub fn poll_transmit(&mut self, leg: AmqpLeg) -> Option<Vec<u8>> {
        let out = std::mem::take(&mut self.out[leg as usize]);
        (!out.is_empty()).then_some(out)
    }

    /// When `handle_timeout` is due, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        None
    }

    /// True when `leg` is worth reading, kept bytes included.
    pub fn wants_read(&self, _leg: AmqpLeg) -> bool {
        true
    }

    /// True when our side of `leg` is to be ended as soon as its output is written.
    pub fn wants_fin(&self, _leg: AmqpLeg) -> bool {
        false
    }

    /// Everything is said and done: drop both legs once their output is written.
    pub fn is_finished(&self) -> bool {
        false
    }

    /// Why it can not migrate as things stand, if so. What changes from one message to the next is not told here.
    pub fn pin(&self, _settings: &AmqpSettings) -> Option<AmqpPin> {
        self.opened.credentials.is_none().then_some(AmqpPin::Login)
    }

    /// True while a migration, a replacement or a shed is under way.
    pub fn is_moving(&self) -> bool {
        false
    }

    /// How it ends, once that has begun.
    pub fn end(&self) -> Option<AmqpEnd> {
        None
    }

    /// Messages (contents) that began towards `leg`.
    pub fn messages_to(&self, _leg: AmqpLeg) -> u64 {
        0
    }
}
