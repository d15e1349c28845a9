//! One AMQP client's stay: its connection, what its channels remember, and how its upstream leg is exchanged.
//!
//! Every frame passes as it came, but for tags, which are changed where they stand. What belongs to a migration is
//! invisible to the client: see `advance` for its phases and docs/amqp.md for the whole story.
//!
//! Not here: sockets, dialing and picking (the gateway), the frame formats (`amqp`), when to move (`balance`).

mod advance;
mod channel;
mod client_frames;
mod closing;
mod endpoint_frames;
mod frame;
mod mover;
mod next_leg;
mod queues;
mod reason;
mod replay;
mod retiree;
mod settings;
mod window;

use std::collections::VecDeque;
use std::time::Duration;

use amqp::{Credentials, FrameError, Piece, Scanner, Tune};
use model::Time;
use zeroize::Zeroizing;

use crate::Initiator;
use channel::{By, Channel, ChannelState, Mode, Subscription};
use closing::Closing;
use frame::{Frame, frames};
use mover::{Goal, Mover, Phase};
use queues::Queues;

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
    /// What the client sends.
    client: Scanner,
    /// What the endpoint sends.
    endpoint: Scanner,
    /// By id.
    channels: Vec<Channel>,
    queues: Queues,
    next_consumer: u16,
    /// When the last ack went to the present endpoint.
    last_ack: Option<Time>,
    /// The endpoint has blocked the connection.
    blocked: bool,
    /// A method that was too long to be looked into.
    untracked: bool,
    /// A new password or token that the endpoint has not accepted yet.
    secret: Option<Zeroizing<Vec<u8>>>,
    /// The channel that is opened anew before the client's `tx.select`.
    reopening: Option<(u16, Time)>,
    standing: Option<AmqpPin>,
    mover: Option<Box<Mover>>,
    closing: Option<Box<Closing>>,
    /// There is an upstream leg.
    has_upstream: bool,
    /// Endpoints lost since the client was last heard.
    losses: u8,
    /// When a switch last gave the client a heartbeat, or the first was.
    beaten: Option<Time>,
    out: [Zeroizing<Vec<u8>>; 3],
    /// When the client was last sent something.
    spoken: Time,
    /// For the client, once the endpoint's message under way has ended.
    later: Vec<u8>,
    /// Channels have something for the endpoint, once the client's message under way there has ended.
    has_later: bool,
    events: VecDeque<AmqpEvent>,
    messages: [u64; 2],
    /// Messages of the client's that came behind our Close.
    undeliverable: u64,
    malformed: Option<(AmqpLeg, FrameError)>,
    /// What the last next endpoint has said when it refused.
    refusal: Option<Box<str>>,
}

/// How many times longer a client has for its acks when its endpoint goes away.
const EVACUATION_PATIENCE: u32 = 10;
/// What is kept of the time to a deadline for everything but the client's acks.
const EVACUATION_REST: Duration = Duration::from_secs(5);

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Pass,
    Skip,
    /// It waits.
    Hold,
    /// Something of ours goes first; then it is looked at again.
    Again,
}

impl AmqpSession {
    /// A connection right behind its `open-ok`.
    pub fn new(opened: Opened, settings: &AmqpSettings) -> Self {
        let frame_max = opened.tune.frame_max;
        let mut session = Self {
            opened,
            client: Scanner::new(frame_max),
            endpoint: Scanner::new(frame_max),
            channels: Vec::new(),
            queues: Queues::default(),
            next_consumer: 1,
            last_ack: None,
            blocked: false,
            untracked: false,
            secret: None,
            reopening: None,
            standing: None,
            mover: None,
            closing: None,
            has_upstream: true,
            losses: 0,
            beaten: None,
            out: Default::default(),
            spoken: Time::ZERO,
            later: Vec::new(),
            has_later: false,
            events: VecDeque::new(),
            messages: [0; 2],
            undeliverable: 0,
            malformed: None,
            refusal: None,
        };
        session.find_pin(settings);
        session
    }

    /// Bytes from `from`, the first one right behind the last that was forwarded or skipped. Tags are changed in place.
    pub fn handle_bytes(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        from: AmqpLeg,
        bytes: &mut [u8],
    ) -> AmqpSpan {
        match from {
            AmqpLeg::Next => return self.handle_next_bytes(now, settings, bytes),
            AmqpLeg::Upstream if !self.has_upstream => {
                return AmqpSpan { skip: bytes.len(), ..AmqpSpan::default() };
            }
            AmqpLeg::Downstream | AmqpLeg::Upstream => {}
        }
        if self.discards(from) {
            return self.discard(now, settings, bytes);
        }
        let mut at = 0;
        while at < bytes.len() {
            let hold = AmqpSpan { forward: at, skip: 0, hold: true };
            if from == AmqpLeg::Downstream && !self.wants_read(from) {
                return hold;
            }
            let (verdict, piece) = match self.judge(now, settings, from, &mut bytes[at..]) {
                Ok(judged) => judged,
                Err(error) => return self.handle_malformed(now, settings, from, error, at, bytes.len()),
            };
            match verdict {
                Verdict::Pass => {
                    at += self.scanner(from).take(piece);
                    if from == AmqpLeg::Upstream {
                        self.spoken = now;
                    }
                }
                Verdict::Skip => {
                    let skip = self.scanner(from).take(piece);
                    self.beat_for_swallowed(now, from);
                    self.after_frame(now, settings, from);
                    return self.leave(now, from, bytes, at, skip);
                }
                Verdict::Hold => return hold,
                Verdict::Again => return AmqpSpan { forward: at, ..AmqpSpan::default() },
            }
            self.after_frame(now, settings, from);
            if self.has_something_to_say() {
                return self.leave(now, from, bytes, at, 0);
            }
        }
        AmqpSpan { forward: at, ..AmqpSpan::default() }
    }

    /// `leg` has ended its stream.
    pub fn handle_end(&mut self, now: Time, settings: &AmqpSettings, leg: AmqpLeg) {
        match leg {
            AmqpLeg::Next => self.next_lost(now, settings, Abort::EndpointLost),
            AmqpLeg::Upstream => self.upstream_ended(now, settings),
            AmqpLeg::Downstream => self.client_ended(now, settings),
        }
    }

    /// `leg` is broken in both directions.
    pub fn handle_broken(&mut self, now: Time, settings: &AmqpSettings, leg: AmqpLeg) {
        self.handle_end(now, settings, leg);
    }

    /// The dial has succeeded: `Next` is there.
    pub fn handle_connected(&mut self, now: Time, settings: &AmqpSettings) {
        self.next_connected(now, settings);
    }

    /// The dial has failed, or there is nowhere to dial.
    pub fn handle_no_endpoint(&mut self, now: Time, settings: &AmqpSettings) {
        self.next_lost(now, settings, Abort::NoEndpoint);
    }

    /// A deadline has come.
    pub fn handle_timeout(&mut self, now: Time, settings: &AmqpSettings) {
        if self.closing.is_some() {
            return self.closing_timeout(now, settings);
        }
        if self.reopening.is_some_and(|(_, until)| until <= now) {
            self.reopening_is_late(now, settings);
        }
        self.beat(now);
        self.advance(now, settings);
        let is_late = |mover: &Mover| mover.until.is_some_and(|until| until <= now);
        if self.mover.as_deref().is_some_and(is_late) {
            self.phase_is_over(now, settings);
        }
    }

    /// Exchanges the upstream leg: ends with one of `Migrated`, `Aborted` and `Forced`.
    ///
    /// # Errors
    /// [`AmqpPin`]: it can not be moved now; nothing has changed.
    pub fn begin_migration(&mut self, now: Time, settings: &AmqpSettings) -> Result<(), AmqpPin> {
        self.may_move()?;
        if let Some(pin) = self.standing.or(self.passing_pin()) {
            return Err(pin);
        }
        let until = now + settings.prepare_timeout;
        self.mover = Some(Box::new(Mover::new(Goal::Migrate, Phase::Dialing, Some(until))));
        self.events.push_back(AmqpEvent::Dial);
        Ok(())
    }

    /// As [`Self::begin_migration`], off an endpoint that goes away at `deadline`: the client has up to ten times `settle_timeout`
    /// for its acks, as far as the deadline allows.
    ///
    /// # Errors
    /// As there.
    pub fn begin_evacuation(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        deadline: Time,
    ) -> Result<(), AmqpPin> {
        self.begin_migration(now, settings)?;
        if let Some(mover) = &mut self.mover {
            let most = deadline.since(now).saturating_sub(EVACUATION_REST);
            mover.settle_for = Some((settings.settle_timeout * EVACUATION_PATIENCE).min(most));
        }
        Ok(())
    }

    /// Closes the client so that it comes back elsewhere: deliveries are withheld, acks and confirms drain, then Close 320. At
    /// `deadline` it is closed as it stands (`close`), or it stays and the shed is given up with `Aborted`.
    ///
    /// # Errors
    /// [`AmqpPin::Ending`] or [`AmqpPin::Moving`]: an end or a shed is under way. A migration before its switch gives way; one behind
    /// it, and the way back from one, come first.
    pub fn begin_shed(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        deadline: Time,
        close: bool,
    ) -> Result<(), AmqpPin> {
        if self.mover.as_deref().is_some_and(|m| m.goal == Goal::Migrate && m.phase.is_before_switch()) {
            self.abort(now, settings, Abort::Pinned(AmqpPin::Moving));
        }
        if let Some(mover) = self.mover.as_deref_mut().filter(|m| !matches!(m.goal, Goal::Shed { .. })) {
            // Consumers are being started: first that is brought to its end.
            mover.then_shed = Some((deadline, close));
            self.advance(now, settings);
            return Ok(());
        }
        self.may_move()?;
        self.begin_fence(now, settings, Goal::Shed { deadline, close });
        Ok(())
    }

    /// Closes the client with `code` at the next frame boundary, whatever is under way, and the endpoint as well.
    pub fn cut(&mut self, now: Time, settings: &AmqpSettings, code: u16, text: &str) {
        self.close_client(now, settings, Initiator::Gateway, code, text);
    }

    /// What to do with the legs. Keep the bytes that a call has left before you carry it out.
    pub fn poll_event(&mut self) -> Option<AmqpEvent> {
        self.events.pop_front()
    }

    /// Bytes of our own for `leg`, behind what was forwarded to it. Those for `Next` hold the login: keep no copy.
    pub fn poll_transmit(&mut self, leg: AmqpLeg) -> Option<Zeroizing<Vec<u8>>> {
        if leg == AmqpLeg::Upstream {
            if !self.client.at_boundary() {
                return None;
            }
            self.collect_later();
        }
        let out = &mut self.out[leg as usize];
        // Dropping even an empty one costs: what it held is overwritten.
        if out.is_empty() { None } else { Some(std::mem::take(out)) }
    }

    /// When `handle_timeout` is due, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        if let Some(closing) = &self.closing {
            return closing.until().map(|at| (at, "a peer owes its close-ok or its end"));
        }
        let Some(mover) = self.mover.as_deref() else {
            return self.reopening.map(|(_, until)| (until, "a channel is opened anew"));
        };
        let rest = match mover.phase {
            Phase::Resting(at) => Some(at),
            _ => None,
        };
        let next = mover.next.as_ref().and_then(|next| next.heartbeat);
        let retry = mover.retries.iter().map(|(_, at)| *at).min();
        let times = [mover.until, rest, next, mover.heartbeat, retry];
        Some((times.into_iter().flatten().min()?, mover.phase.as_str()))
    }

    /// True when `leg` is worth reading, kept bytes included.
    pub fn wants_read(&self, leg: AmqpLeg) -> bool {
        if let Some(closing) = &self.closing {
            return !closing.has_ended(leg);
        }
        match leg {
            AmqpLeg::Downstream => {
                self.reopening.is_none() && self.mover.as_deref().is_none_or(|mover| mover.frozen.is_none())
            }
            AmqpLeg::Upstream => self.has_upstream,
            AmqpLeg::Next => self.mover.as_deref().is_some_and(|mover| mover.next.is_some()),
        }
    }

    /// True when our side of `leg` is to be ended as soon as its output is written.
    pub fn wants_fin(&self, leg: AmqpLeg) -> bool {
        self.closing.as_deref().is_some_and(|closing| closing.wants_fin(leg))
    }

    /// Everything is said and done: drop both legs once their output is written.
    pub fn is_finished(&self) -> bool {
        self.closing.as_deref().is_some_and(|closing| closing.is_finished(self.has_upstream))
    }

    /// Why it can not migrate as things stand, if so. What changes from one message to the next is not told here.
    pub fn pin(&self) -> Option<AmqpPin> {
        self.standing
    }

    /// True while a migration, a replacement or a shed is under way.
    pub fn is_moving(&self) -> bool {
        self.mover.is_some()
    }

    /// How far a move is; `active` when there is none, `closing` when the session ends.
    pub fn phase(&self) -> &'static str {
        match (&self.closing, &self.mover) {
            (Some(_), _) => "closing",
            (None, Some(mover)) => mover.phase.as_str(),
            (None, None) => "active",
        }
    }

    /// How it ends, once that has begun.
    pub fn end(&self) -> Option<AmqpEnd> {
        self.closing.as_deref().map(|closing| closing.end)
    }

    /// Messages (contents) that began towards `leg`.
    pub fn messages_to(&self, leg: AmqpLeg) -> u64 {
        match leg {
            AmqpLeg::Downstream => self.messages[0],
            AmqpLeg::Upstream | AmqpLeg::Next => self.messages[1],
        }
    }

    /// Messages of the client's that came behind our Close, and were dropped.
    pub fn undeliverable(&self) -> u64 {
        self.undeliverable
    }

    /// The first malformed frame, and who sent it.
    pub fn malformed(&self) -> Option<(AmqpLeg, FrameError)> {
        self.malformed
    }

    /// Why a next endpoint has refused, in words for an operator, once after an [`Abort::Refused`].
    pub fn take_refusal(&mut self) -> Option<Box<str>> {
        self.refusal.take()
    }

    // ---- the way of frames

    fn scanner(&mut self, from: AmqpLeg) -> &mut Scanner {
        match from {
            AmqpLeg::Downstream => &mut self.client,
            AmqpLeg::Upstream | AmqpLeg::Next => &mut self.endpoint,
        }
    }

    /// What becomes of what stands at the beginning of `bytes`.
    fn judge(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        from: AmqpLeg,
        bytes: &mut [u8],
    ) -> Result<(Verdict, Piece), FrameError> {
        let piece = self.scanner(from).peek(bytes)?;
        let verdict = match piece {
            Piece::NotYet => Verdict::Hold,
            Piece::Rest { .. } => Verdict::Pass,
            Piece::Frame { kind, channel, size, len } => {
                let frame = Frame { kind, channel, size, bytes: &mut bytes[..len] };
                match from {
                    AmqpLeg::Downstream => self.client_frame(now, settings, frame)?,
                    AmqpLeg::Upstream | AmqpLeg::Next => self.endpoint_frame(now, settings, frame)?,
                }
            }
        };
        Ok((verdict, piece))
    }

    /// A frame, or a part of one, has been taken.
    fn after_frame(&mut self, now: Time, settings: &AmqpSettings, from: AmqpLeg) {
        if from == AmqpLeg::Upstream {
            self.flush_later();
        }
        if self.closing.is_some() {
            self.advance_closing(now, settings);
        } else if self.mover.is_some() || self.reopening.is_some() {
            self.advance(now, settings);
        }
    }

    /// What is left of `bytes` when a call returns early. Bytes of an endpoint that the session has just left are the retiree's.
    fn leave(&mut self, now: Time, from: AmqpLeg, bytes: &[u8], forward: usize, skip: usize) -> AmqpSpan {
        let rest = &bytes[forward + skip..];
        if from == AmqpLeg::Upstream {
            for event in &mut self.events {
                if let AmqpEvent::Switched { retiree } | AmqpEvent::UpstreamDropped { retiree } = event {
                    if let Some(retiree) = retiree {
                        retiree.handle_bytes(now, rest);
                    }
                    return AmqpSpan { forward, skip: skip + rest.len(), hold: false };
                }
            }
        }
        AmqpSpan { forward, skip, hold: false }
    }

    fn has_something_to_say(&self) -> bool {
        let [downstream, upstream, next] = &self.out;
        let for_endpoint = !upstream.is_empty()
            || self.has_later
                && self.has_upstream
                && self.channels.iter().any(|c| !c.later.is_empty() && !c.to_upstream.is_open());
        let has_more = for_endpoint && self.client.at_boundary();
        !self.events.is_empty() || !downstream.is_empty() || !next.is_empty() || has_more
    }

    /// Where frames of ours for the endpoint go on a channel: never into a message of the client's.
    fn upstream_of(&mut self, place: usize) -> &mut Vec<u8> {
        let channel = &mut self.channels[place];
        if channel.to_upstream.is_open() || !channel.later.is_empty() {
            self.has_later = true;
            return &mut channel.later;
        }
        &mut self.out[AmqpLeg::Upstream as usize]
    }

    fn collect_later(&mut self) {
        if std::mem::take(&mut self.has_later) {
            for channel in &mut self.channels {
                if !self.has_upstream {
                    channel.later.clear();
                } else if channel.to_upstream.is_open() {
                    self.has_later |= !channel.later.is_empty();
                } else {
                    self.out[AmqpLeg::Upstream as usize].append(&mut channel.later);
                }
            }
        }
    }

    /// Adds frames for the client, at the next frame boundary, and never into a message.
    fn tell_client(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.later);
        self.flush_later();
    }

    fn flush_later(&mut self) {
        if self.later.is_empty() || !self.endpoint.at_boundary() {
            return;
        }
        let later = std::mem::take(&mut self.later);
        for (id, frame) in frames(&later) {
            let within = self.place_of(id).is_some_and(|place| self.channels[place].to_downstream.is_open());
            let out = if within { &mut self.later } else { &mut *self.out[AmqpLeg::Downstream as usize] };
            out.extend_from_slice(frame);
        }
    }

    fn place_of(&self, id: u16) -> Option<usize> {
        self.channels.binary_search_by_key(&id, |channel| channel.id).ok()
    }

    fn channel_mut(&mut self, id: u16) -> Option<&mut Channel> {
        let place = self.place_of(id)?;
        self.channels.get_mut(place)
    }

    // ---- whether it may move

    /// No end and no other move is under way.
    fn may_move(&self) -> Result<(), AmqpPin> {
        if self.closing.is_some() {
            return Err(AmqpPin::Ending);
        }
        if self.mover.is_some() || self.reopening.is_some() { Err(AmqpPin::Moving) } else { Ok(()) }
    }

    /// Looks anew for what keeps it where it is.
    fn find_pin(&mut self, settings: &AmqpSettings) {
        let of_queues = self.queues.has_exclusive().then_some(AmqpPin::ExclusiveQueue);
        let of_channels = self.channels.iter().find_map(|channel| {
            let consumers = channel.consumers.iter().find_map(|consumer| consumer.pin);
            consumers.or(channel.untracked.then_some(AmqpPin::Untracked))
        });
        self.standing = if !settings.seamless {
            Some(AmqpPin::Off)
        } else if self.opened.credentials.is_none() {
            Some(AmqpPin::Login)
        } else if self.untracked {
            Some(AmqpPin::Untracked)
        } else {
            of_queues.or(of_channels)
        };
    }

    /// What keeps it where it is for the moment.
    fn passing_pin(&self) -> Option<AmqpPin> {
        if self.blocked || self.channels.iter().any(|channel| channel.stopped) {
            return Some(AmqpPin::Blocked);
        }
        let dirty = Mode::Transaction { dirty: true };
        if self.channels.iter().any(|channel| channel.mode == dirty) {
            return Some(AmqpPin::Transaction);
        }
        let overrun = |channel: &Channel| channel.deliveries.is_overrun() || channel.confirms.is_overrun();
        self.channels.iter().any(overrun).then_some(AmqpPin::Untracked)
    }

    /// Nothing would be lost or repeated if its endpoint vanished at this moment.
    fn is_idle_safe(&self) -> bool {
        let is_free = self.may_be_replaced();
        let held = self.mover.as_deref().is_some_and(|mover| !mover.held.is_empty());
        let is_clear = |channel: &Channel| {
            channel.state == ChannelState::Open
                && channel.deliveries.is_clear()
                && channel.confirms.is_clear()
                && !channel.unconfirmable
                && !channel.waits(By::Client)
                && !channel.to_upstream.is_open()
                && !channel.to_downstream.is_open()
                && !channel.consumers.iter().any(|c| c.at == Subscription::Cancelling { leave: true })
        };
        let at_boundary = self.client.at_boundary() && self.endpoint.at_boundary();
        is_free && !held && self.secret.is_none() && at_boundary && self.channels.iter().all(is_clear)
    }

    /// A blocked connection may: the client is told that it is not blocked any more.
    fn may_be_replaced(&self) -> bool {
        let is_free = |channel: &Channel| {
            let overrun = channel.deliveries.is_overrun() || channel.confirms.is_overrun();
            !channel.stopped && !overrun && channel.mode != Mode::Transaction { dirty: true }
        };
        let no_end = self.reopening.is_none() && self.closing.is_none();
        self.standing.is_none() && no_end && self.channels.iter().all(is_free)
    }
}
