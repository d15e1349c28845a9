//! The AMQP relay: one hand-written future a session that moves bytes between its legs, and exchanges one of them.
//!
//! It decides nothing. Frames, closes and migrations are [`session::AmqpSession`]'s; this future reads, asks it what to
//! forward, writes, dials when it is told to, and keeps the books. While nothing is under way it holds no buffer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use model::Time;
use session::{AmqpLeg, AmqpPin, AmqpSession, AmqpSettings, Initiator, Leg};

use super::moving::Moving;
use super::reach::Origin;
use super::side::{Read, Side};
use crate::buffer;
use crate::io::Io;
use crate::pool::{Caller, Policy};
use crate::stay::{Outcome, Stay};

/// The slot and the counters learn of traffic at most this often.
const TOUCH: Duration = Duration::from_secs(1);
/// Chunks of one direction before other sessions of the thread get their turn.
const CHUNKS_PER_TURN: u32 = 4;
/// Read at once, behind what is held: an incomplete method and a chunk that came while the session did not want one.
pub const BUFFER_BYTES: usize = 4 * buffer::CHUNK_BYTES;

/// How often in a row a session may say something of its own instead of taking a byte.
const AGAIN_MAX: u32 = 16;

/// How often in a row a deadline is put off because bytes have come.
const DEFERRALS_MAX: u8 = 8;

const LEGS: [AmqpLeg; 3] = [AmqpLeg::Downstream, AmqpLeg::Upstream, AmqpLeg::Next];

/// What a session begins with.
pub struct Begin {
    /// The client's stream.
    pub down: Io,
    /// The endpoint's stream.
    pub up: Io,
    /// The machine.
    pub session: AmqpSession,
    /// What the pool's configuration says.
    pub policy: Arc<Policy>,
    /// Who asks for endpoints.
    pub caller: Caller,
    /// What endpoints are told of the client.
    pub origin: Option<Origin>,
    /// The books.
    pub stay: Stay,
}

/// A running session.
pub struct Relay {
    down: Side,
    up: Option<Side>,
    pub(super) session: Box<AmqpSession>,
    pub(super) stay: Stay,
    shown: Shown,
    attached: bool,
    /// The session wanted something done since it was last looked at: a dial may have begun, or a leg come.
    pub(super) acted: bool,
    /// The client has ended its stream, or reset it: it was there.
    heard: bool,
    /// The endpoint has failed the session.
    pub(super) lost: bool,
    pub(super) rare: Box<Rare>,
}

/// What is seldom looked at.
pub(super) struct Rare {
    pub policy: Arc<Policy>,
    pub caller: Caller,
    pub origin: Option<Origin>,
    /// The endpoint that is being prepared.
    pub next: Option<Side>,
    /// The move under way.
    pub moving: Moving,
    /// How often in a row a deadline was put off.
    pub deferred: u8,
}

/// What the slot was told last, so that a session that just carries messages does not touch its memory for each.
#[derive(Default)]
struct Shown {
    touched: Time,
    /// When bytes last came: known here, told to the slot with the next touch.
    active: Time,
    waiting: bool,
    timed: bool,
    pin: Option<AmqpPin>,
}

/// Whether a step changed anything that another step could build on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Progress,
    Blocked,
}

impl Relay {
    /// A relay between two streams right behind `open-ok`. `from_client` and `from_endpoint` were read past it.
    pub fn new(begin: Begin, from_client: &[u8], from_endpoint: &[u8]) -> Self {
        let Begin { down, up, session, policy, caller, origin, stay } = begin;
        let moving = Moving::default();
        let now = stay.worker.clock.now();
        let rare = Rare { policy, caller, origin, next: None, moving, deferred: 0 };
        Self {
            down: Side::new(down, from_client),
            up: Some(Side::new(up, from_endpoint)),
            session: Box::new(session),
            stay,
            shown: Shown { active: now, ..Shown::default() },
            attached: false,
            acted: false,
            heard: false,
            lost: false,
            rare: Box::new(rare),
        }
    }

    /// Everything that can be done now.
    fn turn(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<()> {
        let now = self.stay.worker.clock.now();
        // The worker's count is at hand; a slot's memory is not, when there are thousands.
        if self.stay.worker.unread.load(Relaxed) > 0
            && let Some(command) = self.stay.slot.take_command()
        {
            self.obey(now, command);
            self.carry_out(cx, now);
        }
        let mut budget = [CHUNKS_PER_TURN; 3];
        let mut timed = false;
        loop {
            let was_busy = self.is_busy();
            let mut progress = self.poll_dial(cx, now);
            for (leg, budget) in LEGS.into_iter().zip(&mut budget) {
                progress |= self.pump(cx, now, leg, buffer, budget) == Step::Progress;
                progress |= self.finish(cx, now, leg) == Step::Progress;
            }
            progress |= std::mem::take(&mut self.acted);
            // While both peers just talk, one pass over both directions leaves nothing undone.
            if !was_busy && !self.is_busy() {
                break;
            }
            if progress {
                continue;
            }
            // Deadlines come after reading: what has arrived by now is no silence.
            let is_due = self.session.poll_timeout().is_some_and(|(at, _)| at <= now);
            if timed || !is_due {
                break;
            }
            if self.is_deferred() {
                cx.waker().wake_by_ref();
                break;
            }
            timed = true;
            self.session.handle_timeout(now, &self.settings());
            self.carry_out(cx, now);
        }
        if self.is_done() {
            return Poll::Ready(());
        }
        self.publish(now);
        Poll::Pending
    }

    /// A deadline of a move may be about silence, and that is none when bytes wait in a socket that the reactor has not told
    /// of yet: one look, at the one instant where it matters. Not for ever, since bytes may never cease to come.
    fn is_deferred(&mut self) -> bool {
        let is_read = |leg| {
            let (side, blocked) = (self.side(leg)?, self.side(other(leg)?).is_some_and(|to| to.waits() > 0));
            let reads = self.session.wants_read(leg) && side.is_readable() && !blocked;
            (reads && side.has_unread()).then_some(())
        };
        let waits = self.session.is_moving()
            && self.rare.deferred < DEFERRALS_MAX
            && (is_read(AmqpLeg::Upstream).is_some() || is_read(AmqpLeg::Downstream).is_some());
        self.rare.deferred = if waits { self.rare.deferred + 1 } else { 0 };
        waits
    }

    /// A move, an end, or a wait is under way.
    fn is_busy(&self) -> bool {
        self.session.is_moving() || self.session.end().is_some() || self.session.poll_timeout().is_some()
    }

    /// Nothing more is to come, and everything is written, ends of streams included; or the time for that is over.
    fn is_done(&self) -> bool {
        let is_told = |leg| {
            let Some(side) = self.side(leg) else { return true };
            side.is_finished() || side.is_broken() || side.waits() == 0 && !self.session.wants_fin(leg)
        };
        self.session.is_finished()
            && (self.session.poll_timeout().is_none()
                || is_told(AmqpLeg::Downstream) && is_told(AmqpLeg::Upstream))
    }

    /// Carries what `from` sent to the other leg until one of them is not ready.
    fn pump(
        &mut self,
        cx: &mut Context<'_>,
        now: Time,
        from: AmqpLeg,
        buffer: &mut [u8],
        budget: &mut u32,
    ) -> Step {
        let mut step = Step::Blocked;
        if from == AmqpLeg::Next {
            self.write_backlog(cx, now, AmqpLeg::Next);
        }
        loop {
            // What waits goes first; as long as it waits, nothing more is read for that leg.
            if let Some(to) = other(from)
                && self.write_backlog(cx, now, to) == Step::Blocked
            {
                return step;
            }
            let wants = self.session.wants_read(from);
            let Some(side) = self.side_mut(from) else { return step };
            if !wants {
                side.stale |= !side.held().is_empty();
                return step;
            }
            let held = side.held().len();
            let has_room = held + buffer::CHUNK_BYTES <= buffer.len();
            if !side.stale && (!side.is_readable() || side.is_broken() || !has_room) {
                return step;
            }
            if *budget == 0 {
                cx.waker().wake_by_ref();
                return step;
            }
            *budget -= 1;
            buffer[..held].copy_from_slice(side.held());
            let read = if std::mem::take(&mut side.stale) {
                Read::Bytes(0)
            } else {
                match side.poll_read(cx, &mut buffer[held..]) {
                    Poll::Ready(read) => read,
                    Poll::Pending => return step,
                }
            };
            match read {
                Read::Bytes(n) => {
                    self.count(now, from, n);
                    self.digest(cx, now, from, &mut buffer[..held + n]);
                }
                Read::End => {
                    self.heard |= from == AmqpLeg::Downstream;
                    self.session.handle_end(now, &self.settings(), from);
                    self.carry_out(cx, now);
                }
                Read::Broken => {
                    self.heard |= from == AmqpLeg::Downstream;
                    self.broken(now, from);
                    self.carry_out(cx, now);
                }
            }
            step = Step::Progress;
        }
    }

    fn count(&mut self, now: Time, from: AmqpLeg, n: usize) {
        let to = match from {
            AmqpLeg::Downstream => Leg::Upstream,
            AmqpLeg::Upstream => Leg::Downstream,
            AmqpLeg::Next => return,
        };
        self.stay.count_bytes(to, n);
        self.shown.active = now;
        if now.since(self.shown.touched) >= TOUCH {
            self.shown.touched = now;
            self.stay.touch(now);
        }
    }

    /// Scans `bytes` from `from` and sends on what the session lets through; what it leaves is held.
    fn digest(&mut self, cx: &mut Context<'_>, now: Time, from: AmqpLeg, mut bytes: &mut [u8]) {
        let mut tries = AGAIN_MAX;
        loop {
            // Borrowed, not counted: all workers share it, and this is done for every chunk.
            let settings = &self.rare.policy.amqp_session;
            let span = self.session.handle_bytes(now, settings, from, bytes);
            if let Some(to) = other(from) {
                self.emit(Some(cx), now, to, &bytes[..span.forward]);
            }
            let (_, rest) = bytes.split_at_mut(span.forward + span.skip);
            bytes = rest;
            // A leg that is exchanged takes along what was read from it, and is looked at again under its new name.
            let is_over = bytes.is_empty() || span.hold || tries == 0 || from == AmqpLeg::Next;
            tries = if span.forward + span.skip == 0 { tries.saturating_sub(1) } else { AGAIN_MAX };
            if let Some(side) = self.side_mut(from).filter(|_| is_over) {
                side.hold(bytes);
                side.stale = !span.hold && !bytes.is_empty();
            }
            self.carry_out(cx, now);
            if is_over {
                return;
            }
        }
    }

    /// Writes `bytes` to `leg`, behind what waits there already; keeps what the peer does not take.
    pub(super) fn emit(&mut self, cx: Option<&mut Context<'_>>, now: Time, leg: AmqpLeg, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let sent = match self.side_mut(leg) {
            Some(side) if !side.is_broken() => side.send(cx, bytes),
            _ => return self.count_lost(leg, bytes.len()),
        };
        if sent.is_err() {
            self.broken(now, leg);
        }
    }

    /// Writes what waits for `leg`. Blocked while some of it still waits.
    fn write_backlog(&mut self, cx: &mut Context<'_>, now: Time, leg: AmqpLeg) -> Step {
        let Some(side) = self.side_mut(leg) else { return Step::Progress };
        let waited = side.waits() > 0;
        match side.push(cx) {
            Ok(taken) if side.waits() > 0 => {
                if taken > 0 {
                    // It waits anew, from now on.
                    self.shown.waiting = false;
                }
                return Step::Blocked;
            }
            Ok(_) => {
                if waited {
                    self.shown.waiting = false;
                    self.stay.slot.set_stalled(None);
                }
            }
            Err(_) => {
                self.broken(now, leg);
                self.carry_out(cx, now);
            }
        }
        Step::Progress
    }

    /// Ends our side of `leg` once the session wants that and everything is written.
    fn finish(&mut self, cx: &mut Context<'_>, now: Time, leg: AmqpLeg) -> Step {
        if !self.session.wants_fin(leg) {
            return Step::Blocked;
        }
        let Some(side) = self.side_mut(leg) else { return Step::Blocked };
        match side.finish(cx) {
            Ok(true) => Step::Progress,
            Ok(false) => Step::Blocked,
            Err(_) => {
                self.broken(now, leg);
                self.carry_out(cx, now);
                Step::Progress
            }
        }
    }

    /// `leg` takes nothing any more, and gives nothing.
    pub(super) fn broken(&mut self, now: Time, leg: AmqpLeg) {
        let Some(lost) = self.side_mut(leg).map(Side::give_up) else { return };
        self.count_lost(leg, lost);
        self.session.handle_broken(now, &self.settings(), leg);
    }

    fn count_lost(&mut self, leg: AmqpLeg, lost: usize) {
        match leg {
            AmqpLeg::Downstream => self.stay.count_lost_bytes(Leg::Downstream, lost),
            AmqpLeg::Upstream => self.stay.count_lost_bytes(Leg::Upstream, lost),
            AmqpLeg::Next => {}
        }
    }

    /// Tells the rest of the gateway where this session stands.
    fn publish(&mut self, now: Time) {
        let waiting = LEGS.into_iter().any(|leg| self.side(leg).is_some_and(|side| side.waits() > 0));
        if waiting != self.shown.waiting {
            self.shown.waiting = waiting;
            self.stay.slot.set_stalled(waiting.then_some(now));
        }
        let pin = self.session.pin();
        if pin != self.shown.pin {
            self.shown.pin = pin;
            match pin {
                Some(pin) => self.stay.pin(pin.as_str()),
                None => self.stay.unpin(),
            }
        }
        let deadline = self.session.poll_timeout().map(|(at, _)| at);
        if deadline.is_some() || self.shown.timed {
            self.shown.timed = deadline.is_some();
            if self.stay.slot.set_deadline(deadline) {
                self.stay.watch_deadline();
            }
        }
    }

    /// When bytes last came.
    pub(super) fn active_at(&self) -> Time {
        self.shown.active
    }

    pub(super) fn settings(&self) -> Arc<AmqpSettings> {
        self.rare.policy.amqp_session.clone()
    }

    pub(super) fn outcome(&self) -> Outcome {
        let end = self.session.end();
        Outcome {
            initiator: end.map_or(Initiator::Gateway, |end| end.initiator),
            code: end.and_then(|end| end.code),
            is_lost: self.lost || end.is_some_and(|e| e.initiator == Initiator::Endpoint && e.code.is_none()),
            has_client_answered: self.heard,
            messages: [AmqpLeg::Downstream, AmqpLeg::Upstream].map(|leg| self.session.messages_to(leg)),
            undeliverable: [0, self.session.undeliverable()],
        }
    }

    /// The endpoint's leg leaves the session.
    pub(super) fn take_up(&mut self) -> Option<Side> {
        self.up.take()
    }

    /// The prepared leg becomes the endpoint's.
    pub(super) fn put_up(&mut self, side: Option<Side>) {
        self.up = side;
    }

    pub(super) fn side(&self, leg: AmqpLeg) -> Option<&Side> {
        match leg {
            AmqpLeg::Downstream => Some(&self.down),
            AmqpLeg::Upstream => self.up.as_ref(),
            AmqpLeg::Next => self.rare.next.as_ref(),
        }
    }

    fn side_mut(&mut self, leg: AmqpLeg) -> Option<&mut Side> {
        match leg {
            AmqpLeg::Downstream => Some(&mut self.down),
            AmqpLeg::Upstream => self.up.as_mut(),
            AmqpLeg::Next => self.rare.next.as_mut(),
        }
    }
}

/// Where bytes of `leg` go.
const fn other(leg: AmqpLeg) -> Option<AmqpLeg> {
    match leg {
        AmqpLeg::Downstream => Some(AmqpLeg::Upstream),
        AmqpLeg::Upstream => Some(AmqpLeg::Downstream),
        AmqpLeg::Next => None,
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let relay = self.get_mut();
        if !relay.attached {
            relay.stay.slot.attach(cx.waker());
            relay.attached = true;
        }
        buffer::with_bytes(BUFFER_BYTES, |buffer| relay.turn(cx, buffer))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let now = self.stay.worker.clock.now();
        for leg in [AmqpLeg::Downstream, AmqpLeg::Upstream] {
            if let Some(lost) = self.side_mut(leg).map(Side::give_up) {
                self.count_lost(leg, lost);
            }
        }
        if let Some((leg, error)) = self.session.malformed() {
            tracing::debug!(pool = %self.stay.slot.pool.name, endpoint = %self.stay.slot.endpoint, ?leg, %error,
                "a malformed frame ended the session");
        }
        let outcome = self.outcome();
        self.stay.ended(now, &outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        // Two streams, what is told, and three boxes. A task's memory comes in steps of 128 bytes.
        assert!(size_of::<Relay>() <= 304, "a relay takes {} bytes", size_of::<Relay>());
    }
}
