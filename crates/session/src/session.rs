//! The state machine of one session.

use std::sync::Arc;
use std::time::Duration;

use model::Time;
use ws::{Extensions, Injection, Role, Stop};

use crate::leg::{Authored, Leg, LegState};
use crate::shed::{Order, PinReason, Shed, ShedSpec, Stage};

/// RFC 6455 section 7.4.1: protocol error.
const PROTOCOL_ERROR: u16 = 1002;

/// What is the same for all sessions of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A malformed frame closes the session with 1002 instead of making it opaque.
    pub strict: bool,
    /// Close code for the client when the endpoint vanishes without a Close frame.
    pub on_upstream_abort: u16,
    /// Longest wait for the second Close frame of a closing handshake.
    pub reply_timeout: Duration,
    /// After one peer ended its side without a Close, the other direction has this long.
    pub half_close_timeout: Duration,
    /// After both Close frames, or our end of stream, a peer has this long to end.
    pub close_linger: Duration,
}

/// What to do with the bytes that were handed in: forward the first `forward` to the other leg, drop the next
/// `skip`, then write what [`Session::poll_transmit`] gives, then hand in the rest again. When both are zero, the
/// rest (at most [`ws::CONTROL_FRAME_BYTES_MAX`] bytes) is the beginning of a header or a control frame: keep it
/// and hand it in again in front of what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Span {
    /// Bytes for the other leg.
    pub forward: usize,
    /// Bytes after them that go nowhere.
    pub skip: usize,
}

/// Who began the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initiator {
    /// The client sent a Close frame or ended its stream first.
    Client,
    /// The endpoint did.
    Endpoint,
    /// We did.
    Gateway,
}

/// How a session ended, or is ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Who began it.
    pub initiator: Initiator,
    /// The first Close frame's code; `None` when there was none.
    pub code: Option<u16>,
}

/// One client's stay: two legs, the frames between them, and how it ends.
///
/// Methods come in two kinds. Inputs: [`handle_bytes`](Self::handle_bytes), [`handle_end`](Self::handle_end),
/// [`handle_broken`](Self::handle_broken), [`begin_shed`](Self::begin_shed), [`cut`](Self::cut),
/// [`handle_timeout`](Self::handle_timeout). After any of them, poll, in this order:
/// [`poll_transmit`](Self::poll_transmit) for both legs (write it behind everything forwarded so far),
/// [`wants_fin`](Self::wants_fin) for both (end that leg once all of its output is written),
/// [`is_finished`](Self::is_finished) (drop both), [`poll_timeout`](Self::poll_timeout).
///
/// A caller must never write a byte to a leg that this value did not tell it to write, and must not reorder.
#[derive(Debug)]
pub struct Session {
    down: LegState,
    up: LegState,
    opaque: bool,
    extensions: Extensions,
    end: Option<End>,
    /// Messages that could not be delivered, by the leg that they were meant for.
    undeliverable: [u32; 2],
    messages: [u32; 2],
    shed: Option<Box<Shed>>,
    /// The ending is over at this time at the latest.
    deadline: Option<Deadline>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Deadline {
    at: Time,
    why: Why,
}

/// What the running deadline bounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Why {
    /// A Close frame is owed by a peer.
    CloseReply,
    /// One peer ended without a Close frame; the other may still have something to say.
    HalfClose,
    /// Everything is said; the peers may end their streams.
    Linger,
}

impl Session {
    /// A session right after its 101 response; `extensions` are those of the response.
    pub fn new(extensions: Extensions) -> Self {
        Self {
            down: LegState::new(Role::Client, extensions),
            up: LegState::new(Role::Server, extensions),
            opaque: false,
            extensions,
            end: None,
            undeliverable: [0; 2],
            messages: [0; 2],
            shed: None,
            deadline: None,
        }
    }

    /// Takes the next bytes that came from `from`.
    pub fn handle_bytes(&mut self, now: Time, settings: &Settings, from: Leg, bytes: &[u8]) -> Span {
        if let Some(shed) = &mut self.shed {
            shed.last_activity = now;
        }
        let to = from.other();
        if self.leg(to).close_sent || self.leg(to).fin || self.leg(to).broken {
            return self.discard(now, settings, from, bytes);
        }
        if self.opaque {
            return Span { forward: bytes.len(), skip: 0 };
        }
        let bytes = match self.shed_cut(to) {
            Some(remaining) => &bytes[..bytes.len().min(remaining)],
            None => bytes,
        };
        let run = self.leg_mut(from).scanner.run(bytes);
        self.messages[index(to)] = self.messages[index(to)].wrapping_add(run.messages);
        let span = match run.stop {
            Stop::End | Stop::NotYet => Span { forward: run.len, skip: 0 },
            Stop::Close(close) => return self.handle_close(now, settings, from, run.len, close),
            Stop::Malformed(_) => return self.handle_malformed(now, settings, from, run.len, bytes.len()),
        };
        if self.shed.is_some() {
            self.advance_shed(now, settings);
        }
        span
    }

    /// `from`'s peer ended its stream (end of file, or a reset: then also call [`Self::handle_broken`]).
    pub fn handle_end(&mut self, now: Time, settings: &Settings, from: Leg) {
        self.leg_mut(from).ended = true;
        self.note_end(from, None);
        self.settle(now, settings);
    }

    /// Writing to `leg` failed, or it took nothing for too long: what was meant for it is lost.
    pub fn handle_broken(&mut self, now: Time, settings: &Settings, leg: Leg) {
        let state = self.leg_mut(leg);
        state.broken = true;
        state.ended = true;
        state.authored = Authored::Nothing;
        self.note_end(leg, None);
        self.settle(now, settings);
    }

    /// Begins to close this session so that its client comes back elsewhere.
    ///
    /// # Errors
    /// The reason why that is impossible now.
    pub fn begin_shed(
        &mut self,
        now: Time,
        settings: &Settings,
        spec: Arc<ShedSpec>,
    ) -> Result<(), PinReason> {
        if self.opaque {
            return Err(PinReason::Opaque);
        }
        if self.end.is_some() || self.shed.is_some() {
            return Err(PinReason::Ending);
        }
        let may_notify = spec.notice.is_some() && self.extensions != Extensions::Unknown;
        let until = now + spec.wait;
        let stage = if may_notify { Stage::ExpectBoundary(until) } else { Stage::ExpectQuiet(until) };
        self.shed = Some(Box::new(Shed { spec, stage, last_activity: now }));
        self.advance_shed(now, settings);
        Ok(())
    }

    /// Ends the session now: a Close frame where one is legal, then the streams.
    pub fn cut(&mut self, now: Time, settings: &Settings, code: u16) {
        self.note_gateway_end(code);
        for leg in [Leg::Downstream, Leg::Upstream] {
            if self.may_close(leg) {
                self.author_close(leg, Authored::Close(code));
            }
            self.leg_mut(leg).fin = true;
        }
        self.bound(now + settings.close_linger, Why::Linger);
    }

    /// Time has passed: call when [`Self::poll_timeout`] says so; calling too early does no harm.
    pub fn handle_timeout(&mut self, now: Time, settings: &Settings) {
        if self.shed.is_some() {
            self.advance_shed(now, settings);
        }
        let Some(deadline) = self.deadline.filter(|deadline| deadline.at <= now) else { return };
        match deadline.why {
            Why::CloseReply => self.give_up_on_reply(now, settings),
            Why::HalfClose => {
                for leg in [Leg::Downstream, Leg::Upstream] {
                    self.leg_mut(leg).fin = true;
                }
                self.rebound(now + settings.close_linger, Why::Linger);
            }
            Why::Linger => {
                for leg in [Leg::Downstream, Leg::Upstream] {
                    let state = self.leg_mut(leg);
                    state.fin = true;
                    state.ended = true;
                }
            }
        }
    }

    /// What to write to `leg` of our own, behind everything forwarded to it so far. `key` gives a fresh,
    /// unpredictable masking key (RFC 6455 section 5.3) and is asked only for frames to the endpoint.
    pub fn poll_transmit(&mut self, leg: Leg, key: impl FnOnce() -> [u8; 4]) -> Option<Vec<u8>> {
        let authored = std::mem::replace(&mut self.leg_mut(leg).authored, Authored::Nothing);
        let mask = match leg {
            Leg::Downstream => None,
            Leg::Upstream => Some(key),
        };
        match (authored, &self.shed) {
            (Authored::Nothing, _) => None,
            (Authored::Notice, Some(shed)) => shed.spec.notice.as_ref().map(|notice| notice.frame.clone()),
            (Authored::Shed, Some(shed)) => {
                Some(ws::close_frame(Some(shed.spec.code), &shed.spec.reason, mask.map(|key| key())))
            }
            (Authored::Close(code), _) => Some(ws::close_frame(Some(code), "", mask.map(|key| key()))),
            (Authored::Notice | Authored::Shed, None) => None,
        }
    }

    /// True when our side of `leg` is to be ended as soon as its output is written.
    pub fn wants_fin(&self, leg: Leg) -> bool {
        self.leg(leg).fin
    }

    /// True when `leg` is worth reading: its peer has not ended yet.
    pub fn wants_read(&self, leg: Leg) -> bool {
        !self.leg(leg).ended
    }

    /// Both legs are over.
    pub fn is_finished(&self) -> bool {
        self.down.is_over() && self.up.is_over()
    }

    /// When [`Self::handle_timeout`] is due, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let ending = self.deadline.map(|deadline| match deadline.why {
            Why::CloseReply => (deadline.at, "a peer owes its Close frame"),
            Why::HalfClose => (deadline.at, "the other direction may still send"),
            Why::Linger => (deadline.at, "the peers may end their streams"),
        });
        let shed = self.shed.as_ref().and_then(|shed| match shed.stage {
            Stage::ExpectBoundary(at) => Some((at, "the notice waits for a message boundary")),
            Stage::ExpectLeave(at) => Some((at, "the client has time to leave by itself")),
            Stage::ExpectQuiet(at) if self.is_at_rest() => {
                Some((at.min(shed.last_activity + shed.spec.quiet), "waiting for a quiet moment"))
            }
            Stage::ExpectQuiet(at) => Some((at, "waiting for a message boundary")),
            Stage::ExpectFrameEnd(at) => Some((at, "waiting for the end of a frame")),
            Stage::Closing => None,
        });
        match (ending, shed) {
            (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
            (a, b) => a.or(b),
        }
    }

    /// True once a malformed frame has made this session opaque.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// True while a shed is under way.
    pub fn is_shedding(&self) -> bool {
        self.shed.is_some()
    }

    /// How it ends, once that has begun.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Data messages that began towards `leg`.
    pub fn messages_to(&self, leg: Leg) -> u32 {
        self.messages[index(leg)]
    }

    /// Data messages that were meant for `leg` and went nowhere, those cut short included.
    pub fn undeliverable_to(&self, leg: Leg) -> u32 {
        self.undeliverable[index(leg)]
    }

    // ---- closing handshakes

    /// A complete Close frame came from `from`, `before` bytes into what was handed in.
    fn handle_close(
        &mut self,
        now: Time,
        settings: &Settings,
        from: Leg,
        before: usize,
        close: ws::Close,
    ) -> Span {
        self.leg_mut(from).close_received = true;
        let to = from.other();
        let in_place_of_ours = self.leg(from).close_sent && self.is_closing_shed();
        self.note_end(from, close.code);
        self.leg_mut(to).close_sent = true;
        let span = if in_place_of_ours && to == Leg::Downstream {
            // backend_first: the endpoint answered our Close; the client gets the code that we chose.
            self.leg_mut(to).authored = Authored::Shed;
            Span { forward: before, skip: close.frame_bytes }
        } else {
            Span { forward: before + close.frame_bytes, skip: 0 }
        };
        self.settle(now, settings);
        if !self.leg(from).fin {
            self.bound(now + settings.reply_timeout, Why::CloseReply);
        }
        span
    }

    /// Bytes that nobody may get any more: they are followed only to count messages and to see the Close frame.
    fn discard(&mut self, now: Time, settings: &Settings, from: Leg, bytes: &[u8]) -> Span {
        let everything = Span { forward: 0, skip: bytes.len() };
        if self.opaque || self.leg(from).close_received {
            return everything;
        }
        let to = from.other();
        let run = self.leg_mut(from).scanner.run(bytes);
        self.undeliverable[index(to)] = self.undeliverable[index(to)].wrapping_add(run.messages);
        match run.stop {
            Stop::End | Stop::NotYet => Span { forward: 0, skip: run.len },
            Stop::Close(close) => {
                self.leg_mut(from).close_received = true;
                self.settle(now, settings);
                Span { forward: 0, skip: run.len + close.frame_bytes }
            }
            Stop::Malformed(_) => {
                // Nothing of it is forwarded, so nothing is gained by following it further.
                self.leg_mut(from).close_received = true;
                self.settle(now, settings);
                everything
            }
        }
    }

    /// `good` bytes, then something that is no frame.
    fn handle_malformed(
        &mut self,
        now: Time,
        settings: &Settings,
        from: Leg,
        good: usize,
        all: usize,
    ) -> Span {
        if !settings.strict {
            self.opaque = true;
            self.shed = None;
            return Span { forward: all, skip: 0 };
        }
        self.cut(now, settings, PROTOCOL_ERROR);
        self.leg_mut(from).close_received = true;
        Span { forward: good, skip: all - good }
    }

    /// The Close frame that a peer owes did not come in time.
    fn give_up_on_reply(&mut self, now: Time, settings: &Settings) {
        let code = self.shed.as_ref().map_or(settings.on_upstream_abort, |shed| shed.spec.code);
        for leg in [Leg::Downstream, Leg::Upstream] {
            if self.may_close(leg) {
                let ours = if self.shed.is_some() { Authored::Shed } else { Authored::Close(code) };
                self.author_close(leg, ours);
            }
            self.leg_mut(leg).fin = true;
        }
        self.rebound(now + settings.close_linger, Why::Linger);
    }

    /// Draws the consequences of what is known of both legs; says everything that follows from it once.
    fn settle(&mut self, now: Time, settings: &Settings) {
        if self.up.ended && !self.down.close_sent && !self.down.fin {
            // The endpoint is gone without a word: tell the client where that is legal, else end its stream.
            if self.may_close(Leg::Downstream) && !self.down.ended {
                let ours = match &self.shed {
                    Some(_) => Authored::Shed,
                    None => Authored::Close(settings.on_upstream_abort),
                };
                self.author_close(Leg::Downstream, ours);
                self.bound(now + settings.reply_timeout, Why::CloseReply);
            } else {
                self.count_open_message(Leg::Upstream);
                self.down.fin = true;
            }
        }
        if self.down.close_sent && self.down.close_received {
            // We are the server to the client: after both Close frames the server ends first (section 7.1.1).
            self.down.fin = true;
        }
        if self.down.ended && !self.up.fin {
            if self.up.broken || self.up.ended || self.down.broken {
                self.up.fin = true;
            } else if !self.up.close_sent {
                self.up.fin = true;
                self.bound(now + settings.half_close_timeout, Why::HalfClose);
            }
        }
        if self.up.ended && (self.up.close_sent || self.down.fin) {
            self.up.fin = true;
        }
        if self.down.is_silent() && self.up.is_silent() {
            self.bound(now + settings.close_linger, Why::Linger);
        } else if (self.down.is_silent() || self.up.is_silent()) && self.deadline.is_none() {
            self.bound(now + settings.half_close_timeout, Why::HalfClose);
        } else if self.up.close_sent && self.up.close_received {
            // The endpoint is the server: it ends first, we follow.
            self.bound(now + settings.close_linger, Why::Linger);
        }
    }

    /// A Close frame may be placed towards `leg` at this moment.
    fn may_close(&self, leg: Leg) -> bool {
        let state = self.leg(leg);
        let source = &self.leg(leg.other()).scanner;
        !self.opaque
            && !state.fin
            && !state.broken
            && ws::may_inject(Injection::Control, source, state.close_sent, self.extensions)
    }

    /// Queues a Close frame for `leg`. A message that is open towards it is cut short and counted.
    fn author_close(&mut self, leg: Leg, ours: Authored) {
        self.count_open_message(leg.other());
        let state = self.leg_mut(leg);
        state.authored = ours;
        state.close_sent = true;
    }

    fn count_open_message(&mut self, from: Leg) {
        if !self.opaque && !self.leg(from).scanner.at_message_boundary() {
            self.undeliverable[index(from.other())] += 1;
        }
    }

    // ---- shedding

    /// While the close waits for the end of a frame, nothing beyond that frame is taken: bytes left of it.
    fn shed_cut(&self, to: Leg) -> Option<usize> {
        let shed = self.shed.as_ref().filter(|_| self.end.is_none())?;
        let first = first_leg(shed.spec.order);
        let waiting = matches!(shed.stage, Stage::ExpectFrameEnd(_)) && to == first;
        waiting
            .then(|| usize::try_from(self.leg(to.other()).scanner.payload_remaining()).unwrap_or(usize::MAX))
    }

    /// Both directions are at a message boundary.
    fn is_at_rest(&self) -> bool {
        self.up.scanner.at_message_boundary() && self.down.scanner.at_message_boundary()
    }

    /// A shed's Close frame is out.
    fn is_closing_shed(&self) -> bool {
        self.shed.as_ref().is_some_and(|shed| shed.stage == Stage::Closing)
    }

    /// Takes the shed as far as `now` and the frames allow.
    fn advance_shed(&mut self, now: Time, settings: &Settings) {
        if self.end.is_some() && !self.is_closing_shed() {
            // A peer began to end the session by itself: nothing is left to shed.
            return;
        }
        while let Some(next) = self.next_stage(now) {
            match next {
                Stage::Closing => return self.send_shed_close(now, settings),
                Stage::ExpectLeave(_) => self.down.authored = Authored::Notice,
                Stage::ExpectBoundary(_) | Stage::ExpectQuiet(_) | Stage::ExpectFrameEnd(_) => {}
            }
            if let Some(shed) = &mut self.shed {
                shed.stage = next;
            }
        }
    }

    /// The stage that follows the present one at `now`, if any does.
    fn next_stage(&self, now: Time) -> Option<Stage> {
        let shed = self.shed.as_ref()?;
        let spec = &shed.spec;
        match shed.stage {
            Stage::ExpectBoundary(until) => {
                let closed = self.down.close_sent;
                if ws::may_inject(Injection::Data, &self.up.scanner, closed, self.extensions) {
                    let grace = spec.notice.as_ref().map_or(Duration::ZERO, |notice| notice.grace);
                    Some(Stage::ExpectLeave(now + grace))
                } else {
                    (until <= now).then_some(Stage::ExpectQuiet(now + spec.wait))
                }
            }
            Stage::ExpectLeave(until) => (until <= now).then_some(Stage::ExpectQuiet(now + spec.wait)),
            Stage::ExpectQuiet(until) => {
                if self.is_at_rest() && now.since(shed.last_activity) >= spec.quiet {
                    Some(Stage::Closing)
                } else {
                    (until <= now).then_some(Stage::ExpectFrameEnd(now + spec.reply_timeout))
                }
            }
            Stage::ExpectFrameEnd(until) => {
                let first = first_leg(spec.order);
                (until <= now || self.may_close(first)).then_some(Stage::Closing)
            }
            Stage::Closing => None,
        }
    }

    /// Sends the Close frame of the shed to the leg that gets it first.
    fn send_shed_close(&mut self, now: Time, settings: &Settings) {
        let Some(shed) = &mut self.shed else { return };
        shed.stage = Stage::Closing;
        let (first, reply_timeout, code) =
            (first_leg(shed.spec.order), shed.spec.reply_timeout, shed.spec.code);
        self.note_gateway_end(code);
        if self.may_close(first) {
            self.author_close(first, Authored::Shed);
            self.bound(now + reply_timeout, Why::CloseReply);
        } else {
            // Stuck in the middle of a frame: no Close is legal there, only the end of the stream.
            self.count_open_message(first.other());
            self.leg_mut(first).fin = true;
        }
        self.settle(now, settings);
    }

    // ---- bookkeeping

    fn note_end(&mut self, from: Leg, code: Option<u16>) {
        let initiator = match from {
            Leg::Downstream => Initiator::Client,
            Leg::Upstream => Initiator::Endpoint,
        };
        self.end.get_or_insert(End { initiator, code });
    }

    fn note_gateway_end(&mut self, code: u16) {
        self.end.get_or_insert(End { initiator: Initiator::Gateway, code: Some(code) });
    }

    /// Sets the deadline unless a later kind of it runs already: an ending only ever gets nearer.
    fn bound(&mut self, at: Time, why: Why) {
        if self.deadline.is_none_or(|running| running.why < why) {
            self.rebound(at, why);
        }
    }

    fn rebound(&mut self, at: Time, why: Why) {
        self.deadline = Some(Deadline { at, why });
    }

    fn leg(&self, leg: Leg) -> &LegState {
        match leg {
            Leg::Downstream => &self.down,
            Leg::Upstream => &self.up,
        }
    }

    fn leg_mut(&mut self, leg: Leg) -> &mut LegState {
        match leg {
            Leg::Downstream => &mut self.down,
            Leg::Upstream => &mut self.up,
        }
    }
}

/// The leg that gets the Close frame first.
const fn first_leg(order: Order) -> Leg {
    match order {
        Order::ClientFirst => Leg::Downstream,
        Order::BackendFirst => Leg::Upstream,
    }
}

const fn index(leg: Leg) -> usize {
    match leg {
        Leg::Downstream => 0,
        Leg::Upstream => 1,
    }
}
