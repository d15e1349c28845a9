//! The state machine of one session: what it is told, and what it tells.
//!
//! Not here: how an ending runs its course (`ending`), and the stages that lead to a close of ours (`shedding`).

use std::sync::Arc;
use std::time::Duration;

use model::Time;
use ws::{Extensions, Role, Run, Stop};

use crate::ending::{Deadline, Why};
use crate::leg::{Authored, Leg, LegState};
use crate::shed::{PinReason, Shed, ShedSpec, Stage};

/// What is the same for all sessions of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A malformed frame closes the session with 1002 instead of making it opaque.
    pub strict: bool,
    /// Close code for the client when the endpoint vanishes without a Close frame.
    pub on_upstream_abort: u16,
    /// Longest wait for the Close frame that a peer owes; each peer has it once.
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
/// [`handle_broken`](Self::handle_broken), [`handle_activity`](Self::handle_activity),
/// [`begin_shed`](Self::begin_shed), [`hasten`](Self::hasten), [`cut`](Self::cut),
/// [`handle_timeout`](Self::handle_timeout). After any of them, poll, in this order:
/// [`poll_transmit`](Self::poll_transmit) for both legs (write it behind everything forwarded so far),
/// [`wants_fin`](Self::wants_fin) for both (end that leg once all of its output is written),
/// [`is_finished`](Self::is_finished), [`poll_timeout`](Self::poll_timeout).
///
/// A caller must never write a byte to a leg that this value did not tell it to write, and must not reorder.
#[derive(Debug)]
pub struct Session {
    pub(crate) down: LegState,
    pub(crate) up: LegState,
    pub(crate) opaque: bool,
    pub(crate) extensions: Extensions,
    /// From the first Close frame, end of stream or cut on. Set whenever a leg is shut, so that it alone tells
    /// whether bytes simply pass.
    pub(crate) end: Option<End>,
    /// By the leg that they were meant for.
    pub(crate) undeliverable: [u32; 2],
    messages: [u32; 2],
    /// Present until a peer begins to end the session by itself; if we began it, to the last.
    pub(crate) shed: Option<Box<Shed>>,
    /// Runs from the moment when `end` is set until nothing more can be written to either leg.
    pub(crate) deadline: Option<Deadline>,
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

    // ---- inputs

    /// Takes the next bytes that came from `from`.
    #[inline]
    pub fn handle_bytes(&mut self, now: Time, settings: &Settings, from: Leg, bytes: &[u8]) -> Span {
        if self.end.is_some() || self.shed.is_some() || self.opaque {
            return self.handle_bytes_amid_change(now, settings, from, bytes);
        }
        let run = self.leg_mut(from).scanner.run(bytes);
        self.follow(now, settings, from, bytes.len(), run)
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
        if self.end.is_some() || self.shed.is_some() {
            return Err(PinReason::Ending);
        }
        if self.opaque {
            return Err(PinReason::Opaque);
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
        self.part(now, settings, Authored::Close(code));
    }

    /// Bytes have arrived that are not read yet: this is no quiet moment.
    pub fn handle_activity(&mut self, now: Time) {
        if let Some(shed) = &mut self.shed {
            shed.last_activity = now;
        }
    }

    /// Time has passed: call when [`Self::poll_timeout`] says so; calling too early does no harm.
    pub fn handle_timeout(&mut self, now: Time, settings: &Settings) {
        if self.shed.is_some() {
            self.advance_shed(now, settings);
        }
        // At most one turn for each kind of deadline: each is followed by a later kind or none.
        while let Some(due) = self.deadline.filter(|deadline| deadline.at <= now) {
            self.expire(now, settings, due.why);
        }
    }

    // ---- polls

    /// What to write to `leg` of our own, behind everything forwarded to it so far. `key` gives a fresh,
    /// unpredictable masking key (RFC 6455 section 5.3) and is asked only for frames to the endpoint.
    pub fn poll_transmit(&mut self, leg: Leg, key: impl FnOnce() -> [u8; 4]) -> Option<Vec<u8>> {
        let authored = std::mem::replace(&mut self.leg_mut(leg).authored, Authored::Nothing);
        let spec = self.shed.as_ref().map(|shed| &shed.spec);
        let (code, reason) = match (authored, spec) {
            (Authored::Nothing, _) => return None,
            (Authored::Notice, spec) => return spec?.notice.as_ref().map(|notice| notice.frame.clone()),
            (Authored::Shed, spec) => spec.map(|spec| (spec.code, spec.reason.as_str()))?,
            (Authored::Close(code), _) => (code, ""),
        };
        let mask = match leg {
            Leg::Downstream => None,
            Leg::Upstream => Some(key()),
        };
        Some(ws::close_frame(Some(code), reason, mask))
    }

    /// True when our side of `leg` is to be ended as soon as its output is written.
    pub fn wants_fin(&self, leg: Leg) -> bool {
        self.leg(leg).fin
    }

    /// True when `leg` is worth reading: its peer has not ended yet.
    pub fn wants_read(&self, leg: Leg) -> bool {
        !self.leg(leg).ended
    }

    /// Nothing more is to be read from either leg, nor to be forwarded: drop both once their output and their end of
    /// stream are written, or at once when [`Self::poll_timeout`] gives nothing any more, which is by the deadline.
    pub fn is_finished(&self) -> bool {
        self.down.is_over() && self.up.is_over()
    }

    /// When [`Self::handle_timeout`] is due, and what for. After that call it gives a later time or nothing.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let ending = self.deadline.map(|deadline| match deadline.why {
            Why::CloseReply => (deadline.at, "a peer owes its Close frame"),
            Why::HalfClose => (deadline.at, "the other direction may still send"),
            Why::Linger => (deadline.at, "the peers may end their streams"),
        });
        // While a shed still waits, nothing is ending: never both.
        ending.or_else(|| self.shed_timeout())
    }

    /// True once a malformed frame has made this session opaque.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// True while a shed is under way, the close that it leads to included.
    pub fn is_shedding(&self) -> bool {
        self.shed.is_some()
    }

    /// How it ends, once that has begun.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// True when the endpoint ended it without a Close frame. What an opaque one's last frame was is not known.
    pub fn is_lost(&self) -> bool {
        let by_endpoint = self.end.is_some_and(|end| end.initiator == Initiator::Endpoint);
        by_endpoint && !self.up.close_received && !self.opaque
    }

    /// True when the client has answered a Close, sent one, or ended its stream by itself: it was there.
    pub fn has_client_answered(&self) -> bool {
        self.down.close_received || self.down.ended && !self.down.given_up
    }

    /// Data messages that began towards `leg`.
    pub fn messages_to(&self, leg: Leg) -> u32 {
        self.messages[leg.index()]
    }

    /// Data messages for `leg` whose first frame header came in and whose last byte was not forwarded: those that
    /// came after our Close, and the one that an end of any kind cut short, its sender's own included.
    ///
    /// Nothing is counted behind a sender's own Close or malformed frame. Bytes that were forwarded and that the
    /// stream then did not take are the caller's to count.
    pub fn undeliverable_to(&self, leg: Leg) -> u32 {
        self.undeliverable[leg.index()]
    }

    // ---- the way of bytes

    /// Passes on what the scanner found in `all` bytes of `from`.
    #[inline]
    fn follow(&mut self, now: Time, settings: &Settings, from: Leg, all: usize, run: Run) -> Span {
        let messages = &mut self.messages[from.other().index()];
        *messages = messages.saturating_add(run.messages);
        match run.stop {
            Stop::End | Stop::FrameEnd | Stop::NotYet => Span { forward: run.len, skip: 0 },
            Stop::Close(close) => self.handle_close(now, settings, from, run.len, close),
            Stop::Malformed(_) => self.handle_malformed(now, settings, from, run.len, all),
        }
    }

    /// Bytes of a session that is opaque, is being shed, or is ending.
    #[cold]
    fn handle_bytes_amid_change(&mut self, now: Time, settings: &Settings, from: Leg, bytes: &[u8]) -> Span {
        if let Some(shed) = &mut self.shed {
            shed.last_activity = now;
        }
        if self.leg(from.other()).is_shut() {
            return self.discard(now, settings, from, bytes);
        }
        if self.opaque {
            return Span { forward: bytes.len(), skip: 0 };
        }
        let by_frame = self.waits_for_boundary(from);
        let scanner = &mut self.leg_mut(from).scanner;
        let run = if by_frame { scanner.run_frame(bytes) } else { scanner.run(bytes) };
        let span = self.follow(now, settings, from, bytes.len(), run);
        if self.shed.is_some() {
            self.advance_shed(now, settings);
        }
        span
    }

    pub(crate) fn leg(&self, leg: Leg) -> &LegState {
        match leg {
            Leg::Downstream => &self.down,
            Leg::Upstream => &self.up,
        }
    }

    pub(crate) fn leg_mut(&mut self, leg: Leg) -> &mut LegState {
        match leg {
            Leg::Downstream => &mut self.down,
            Leg::Upstream => &mut self.up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        // Times the sessions of a gateway; what only a shed needs is boxed.
        assert!(size_of::<Session>() <= 144, "a session takes {} bytes", size_of::<Session>());
    }
}
