//! The relay: one hand-written future a session that moves bytes between its legs.
//!
//! It decides nothing. Frames, closes and sheds are [`session::Session`]'s; this future reads, asks it what to
//! forward, writes, and tells it about ends. While nothing is under way it holds no buffer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use model::Time;
use session::{Leg, PinReason, Session, Settings};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{self, Backlog, HEADROOM};
use crate::entropy;
use crate::io::Io;
use crate::slot::{Command, CutReason, Slot, Standing};
use crate::stay::{Outcome, Stay};

/// The slot and the counters learn of traffic at most this often.
const TOUCH: Duration = Duration::from_secs(1);
/// Chunks of one direction before other sessions of the thread get their turn.
const CHUNKS_PER_TURN: u32 = 4;

/// A running session.
pub struct Relay {
    down: Side,
    up: Side,
    session: Session,
    settings: Arc<Settings>,
    stay: Stay,
    shown: Shown,
    attached: bool,
}

/// What the slot was told last, so that a session that just carries messages does not touch its memory for each.
#[derive(Default)]
struct Shown {
    touched: Time,
    /// When bytes last came: known here, told to the slot with the next touch.
    active: Time,
    waiting: bool,
    timed: bool,
}

/// A leg's stream and what waits to be written to it.
struct Side {
    io: Io,
    /// Bytes towards this leg, and unscanned bytes of the other that come next.
    backlog: Backlog,
    /// Our end of stream is out.
    finished: bool,
    /// The TLS layer may hold bytes that the socket did not take.
    unflushed: bool,
}

impl Side {
    fn new(io: Io) -> Self {
        Self { io, backlog: Backlog::default(), finished: false, unflushed: false }
    }
}

/// Whether a step changed anything that another step could build on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Progress,
    Blocked,
}

impl Relay {
    /// A relay between two streams right behind their upgrade heads. `from_client` and `from_endpoint` are the
    /// bytes that were read past the heads.
    pub fn new(
        down: Io,
        up: Io,
        session: Session,
        settings: Arc<Settings>,
        stay: Stay,
        from_client: &[u8],
        from_endpoint: &[u8],
    ) -> Self {
        let mut relay = Self {
            down: Side::new(down),
            up: Side::new(up),
            session,
            settings,
            stay,
            shown: Shown::default(),
            attached: false,
        };
        let now = relay.stay.worker.clock.now();
        relay.shown.active = now;
        relay.digest(None, now, Leg::Upstream, from_endpoint);
        relay.digest(None, now, Leg::Downstream, from_client);
        relay
    }

    /// Everything that can be done now.
    fn turn(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<()> {
        let now = self.stay.worker.clock.now();
        // The worker's count is at hand; a slot's memory is not, when there are thousands.
        if self.stay.worker.unread.load(Relaxed) > 0
            && let Some(command) = self.slot().take_command()
        {
            self.obey(now, command);
        }
        let mut budget = [CHUNKS_PER_TURN; 2];
        let mut timed = false;
        loop {
            self.author(Some(cx), now);
            let mut progress = false;
            for (from, budget) in [Leg::Downstream, Leg::Upstream].into_iter().zip(&mut budget) {
                progress |= self.pump(cx, now, from, buffer, budget) == Step::Progress;
                progress |= self.finish(cx, now, from) == Step::Progress;
            }
            // While both peers just talk, one pass over both directions leaves nothing undone. What one direction
            // changes for the other has to do with ends and sheds, and then a deadline runs.
            let Some((at, _)) = self.session.poll_timeout() else { break };
            if timed && !progress {
                break;
            }
            // Deadlines come after reading: what has arrived by now is no silence.
            timed |= !progress;
            if !progress && at <= now {
                self.deadline_is_due(now);
            }
        }
        if self.is_done() {
            return Poll::Ready(());
        }
        self.publish(now);
        Poll::Pending
    }

    /// Nothing more is to come, and everything is written, ends of streams included; or the time for that is over.
    fn is_done(&self) -> bool {
        let is_told = |leg| {
            let side = self.side(leg);
            side.finished || (side.backlog.out().is_empty() && !self.session.wants_fin(leg))
        };
        self.session.is_finished()
            && (self.session.poll_timeout().is_none() || is_told(Leg::Downstream) && is_told(Leg::Upstream))
    }

    /// The session's deadline has come. A quiet moment is none when bytes wait in a socket that the reactor has not
    /// told of yet: one look at both sockets, at the one instant where it matters.
    fn deadline_is_due(&mut self, now: Time) {
        let is_silent =
            !self.session.is_shedding() || !(self.down.io.has_unread() || self.up.io.has_unread());
        if !is_silent {
            self.session.handle_activity(now);
        }
        self.session.handle_timeout(now, &self.settings);
    }

    /// Carries what `from` sent to the other leg until one of them is not ready.
    fn pump(
        &mut self,
        cx: &mut Context<'_>,
        now: Time,
        from: Leg,
        buffer: &mut [u8],
        budget: &mut u32,
    ) -> Step {
        let mut step = Step::Blocked;
        loop {
            // What waits goes first; as long as it waits, nothing more is read for that leg.
            if self.write_backlog(cx, now, from.other()).is_pending() || !self.session.wants_read(from) {
                return step;
            }
            if *budget == 0 {
                cx.waker().wake_by_ref();
                return step;
            }
            *budget -= 1;
            let held = self.side(from.other()).backlog.held().len();
            buffer[HEADROOM - held..HEADROOM].copy_from_slice(self.side(from.other()).backlog.held());
            let mut chunk = ReadBuf::new(&mut buffer[HEADROOM..]);
            let read = Pin::new(&mut self.side_mut(from).io).poll_read(cx, &mut chunk);
            let n = chunk.filled().len();
            match read {
                Poll::Pending => return step,
                Poll::Ready(Ok(())) if n == 0 => self.end_of_stream(cx, now, from),
                Poll::Ready(Ok(())) => {
                    self.stay.count_bytes(from.other(), n);
                    self.shown.active = now;
                    if now.since(self.shown.touched) >= TOUCH {
                        self.shown.touched = now;
                        self.stay.touch(now);
                    }
                    self.digest(Some(cx), now, from, &buffer[HEADROOM - held..HEADROOM + n]);
                }
                // A reset: what was read before it has been forwarded; the leg is gone in both directions.
                Poll::Ready(Err(_)) => self.session.handle_broken(now, &self.settings, from),
            }
            step = Step::Progress;
        }
    }

    /// Scans `bytes` from `from` and sends on what the session lets through.
    fn digest(&mut self, mut cx: Option<&mut Context<'_>>, now: Time, from: Leg, mut bytes: &[u8]) {
        let to = from.other();
        while !bytes.is_empty() {
            let span = self.session.handle_bytes(now, &self.settings, from, bytes);
            self.emit(cx.as_deref_mut(), now, to, &bytes[..span.forward]);
            self.author(cx.as_deref_mut(), now);
            let used = span.forward + span.skip;
            if used == 0 {
                break;
            }
            bytes = &bytes[used..];
        }
        let kept = self.side(to).backlog.held().len();
        if kept + bytes.len() > 0 {
            self.side_mut(to).backlog.hold(bytes);
        }
    }

    /// Writes `bytes` to `leg`, behind what waits there already; keeps what the peer does not take.
    fn emit(&mut self, cx: Option<&mut Context<'_>>, now: Time, leg: Leg, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let side = self.side_mut(leg);
        let Some(cx) = cx.filter(|_| side.backlog.out().is_empty()) else {
            return side.backlog.push(bytes);
        };
        match Pin::new(&mut side.io).poll_write(cx, bytes) {
            Poll::Ready(Ok(n)) if n > 0 => {
                side.backlog.push(&bytes[n..]);
                side.unflushed = side.io.buffers_output();
                if flush(side, cx).is_err() {
                    self.broken(now, leg);
                }
            }
            Poll::Ready(Ok(_) | Err(_)) => {
                side.backlog.push(bytes);
                self.broken(now, leg);
            }
            Poll::Pending => side.backlog.push(bytes),
        }
    }

    /// Writes what the session itself has to say.
    fn author(&mut self, mut cx: Option<&mut Context<'_>>, now: Time) {
        if self.session.end().is_none() && !self.session.is_shedding() {
            return;
        }
        if self.session.end().is_some() {
            // Before the client can know: it may be back at once.
            self.stay.leaving(now, || Outcome::of(&self.session));
        }
        for leg in [Leg::Downstream, Leg::Upstream] {
            if let Some(frame) = self.session.poll_transmit(leg, entropy::bytes) {
                self.emit(cx.as_deref_mut(), now, leg, &frame);
            }
        }
    }

    /// Writes what waits for `leg`. Pending while some of it still waits.
    fn write_backlog(&mut self, cx: &mut Context<'_>, now: Time, leg: Leg) -> Poll<()> {
        loop {
            let side = self.side_mut(leg);
            if side.backlog.out().is_empty() {
                if flush(side, cx).is_err() {
                    self.broken(now, leg);
                }
                return Poll::Ready(());
            }
            match ready!(Pin::new(&mut side.io).poll_write(cx, side.backlog.out())) {
                Ok(n) if n > 0 => {
                    side.backlog.advance(n);
                    side.unflushed = side.io.buffers_output();
                    // It waits anew, from now on.
                    self.shown.waiting = false;
                    self.slot().set_stalled(None);
                }
                Ok(_) | Err(_) => self.broken(now, leg),
            }
        }
    }

    /// Ends our side of `leg` once the session wants that and everything is written.
    fn finish(&mut self, cx: &mut Context<'_>, now: Time, leg: Leg) -> Step {
        let wanted = self.session.wants_fin(leg);
        let side = self.side_mut(leg);
        if !wanted || side.finished || !side.backlog.out().is_empty() {
            return Step::Blocked;
        }
        match Pin::new(&mut side.io).poll_shutdown(cx) {
            Poll::Pending => return Step::Blocked,
            Poll::Ready(Ok(())) => side.finished = true,
            Poll::Ready(Err(_)) => {
                side.finished = true;
                self.broken(now, leg);
            }
        }
        Step::Progress
    }

    /// `from` has ended its stream.
    fn end_of_stream(&mut self, cx: &mut Context<'_>, now: Time, from: Leg) {
        if self.session.is_opaque() {
            // Raw relay: whatever was kept for the scanner belongs to the peer.
            let kept = self.side(from.other()).backlog.held().to_vec();
            self.side_mut(from.other()).backlog.hold(&[]);
            self.emit(Some(cx), now, from.other(), &kept);
        }
        self.session.handle_end(now, &self.settings, from);
    }

    /// `leg` takes nothing any more.
    fn broken(&mut self, now: Time, leg: Leg) {
        let lost = self.side_mut(leg).backlog.abandon();
        self.stay.count_lost_bytes(leg, lost);
        self.session.handle_broken(now, &self.settings, leg);
    }

    fn obey(&mut self, now: Time, command: Command) {
        match command {
            Command::Shed(spec) => {
                if let Err(pin) = self.session.begin_shed(now, &self.settings, spec) {
                    self.stay.shed_refused(now, pin);
                }
            }
            Command::Hasten(spec) => {
                if let Err(PinReason::Opaque) = self.session.begin_shed(now, &self.settings, spec) {
                    return self.obey(now, Command::Cut(CutReason::Deadline));
                }
                self.session.hasten(now, &self.settings);
            }
            // A WebSocket can not migrate, and is not asked to.
            Command::Migrate(spec) => self.stay.aborted(now, &spec),
            Command::CutIdle(limit) if now.since(self.shown.active) < limit => {
                self.slot().touch(self.shown.active);
            }
            Command::CutIdle(_) => self.obey(now, Command::Cut(CutReason::Idle)),
            Command::Cut(reason) => {
                self.stay.cut(reason);
                self.session.cut(now, &self.settings, reason.close_code());
                if reason == CutReason::WriteStall {
                    // It would not take a Close frame either.
                    for leg in [Leg::Downstream, Leg::Upstream] {
                        if !self.side(leg).backlog.out().is_empty() {
                            self.broken(now, leg);
                        }
                    }
                }
            }
        }
    }

    /// Tells the rest of the gateway where this session stands.
    fn publish(&mut self, now: Time) {
        let waiting = !self.down.backlog.out().is_empty() || !self.up.backlog.out().is_empty();
        if waiting != self.shown.waiting {
            self.shown.waiting = waiting;
            self.slot().set_stalled(waiting.then_some(now));
        }
        if self.session.is_opaque() && matches!(self.slot().standing(), Standing::Open | Standing::Moving) {
            self.stay.became_opaque(now);
        }
        let deadline = self.session.poll_timeout().map(|(at, _)| at);
        if deadline.is_some() || self.shown.timed {
            self.shown.timed = deadline.is_some();
            if self.slot().set_deadline(deadline) {
                self.stay.watch_deadline();
            }
        }
    }

    fn slot(&self) -> &Slot {
        &self.stay.slot
    }

    fn side(&self, leg: Leg) -> &Side {
        match leg {
            Leg::Downstream => &self.down,
            Leg::Upstream => &self.up,
        }
    }

    fn side_mut(&mut self, leg: Leg) -> &mut Side {
        match leg {
            Leg::Downstream => &mut self.down,
            Leg::Upstream => &mut self.up,
        }
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
        buffer::with(|buffer| relay.turn(cx, buffer))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let now = self.stay.worker.clock.now();
        for leg in [Leg::Downstream, Leg::Upstream] {
            let lost = self.side_mut(leg).backlog.abandon();
            self.stay.count_lost_bytes(leg, lost);
        }
        self.stay.ended(now, &Outcome::of(&self.session));
    }
}

/// Pushes out what the TLS layer has buffered. A socket that is full is no error: its waker is registered, and the
/// next turn tries again.
fn flush(side: &mut Side, cx: &mut Context<'_>) -> io::Result<()> {
    if !side.unflushed {
        return Ok(());
    }
    match Pin::new(&mut side.io).poll_flush(cx) {
        Poll::Ready(result) => {
            side.unflushed = false;
            result
        }
        Poll::Pending => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        // Two streams, the session, the stay: what a pinned pair costs beside tokio's own share. A task's memory
        // comes in steps of 128 bytes.
        // A word more where another crate of the build has tokio with its multi-thread runtime.
        assert!(size_of::<Relay>() <= 312, "a relay takes {} bytes", size_of::<Relay>());
    }
}
