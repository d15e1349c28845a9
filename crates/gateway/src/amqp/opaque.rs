//! AMQP 1.0: bytes pass both ways as they come. Such a session is pinned; one that has to leave is closed between two frames.
//!
//! Source: OASIS AMQP 1.0, part 2, sections 2.3 (framing) and 2.4.3 (closing a connection).

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp::{Frames10, forced_close};
use balance::Purpose;
use model::Time;
use session::{Fallback, Initiator, Leg};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::front::{Entry, enter};
use super::reach::preamble;
use super::side::{Read, Side};
use crate::buffer;
use crate::io::Io;
use crate::shared::AmqpRoutes;
use crate::slot::{Command, CutReason, MoveBy};
use crate::stay::{Outcome, Stay, index};
use crate::telemetry;
use crate::upstream;

/// Why such a session does not migrate, as in status and metrics.
const PIN: &str = "amqp_1_0";
/// Chunks of one direction before other sessions of the thread get their turn.
const CHUNKS_PER_TURN: u32 = 4;
/// The slot and the counters learn of traffic at most this often.
const TOUCH: Duration = Duration::from_secs(1);

const LEGS: [Leg; 2] = [Leg::Downstream, Leg::Upstream];

/// Connects a client that has sent `header` to an endpoint of the listener's general route.
pub async fn serve(entry: Entry, routes: &AmqpRoutes, header: &[u8]) {
    let Some(route) = routes.nameless() else { return };
    let permit = match entry.permit(route) {
        Ok(permit) => permit,
        Err(why) => return entry.turn_away(&why),
    };
    let policy = route.pool.policy();
    let caller = entry.caller(&policy);
    let picked = route.pool.pick(&caller, Purpose::Session, &[]);
    let mut tried = Vec::new();
    let dialed = upstream::dial(&route.pool, &policy, &caller, Purpose::Session, &mut tried, picked).await;
    let (mut stream, ticket) = match dialed {
        Ok(dialed) => dialed,
        Err(error) => return entry.turn_away(&error.to_string()),
    };
    let mut first = preamble(&policy, entry.origin);
    first.extend_from_slice(header);
    if !matches!(timeout(policy.amqp_session.prepare_timeout, stream.write_all(&first)).await, Ok(Ok(()))) {
        telemetry::upstream_failed(&route.pool.name);
        return ticket.failed();
    }
    let took = ticket.age();
    route.pool.metrics.handshake(took);
    let mut stay = enter(&entry.guest, route, permit, ticket, took, caller, MoveBy::Migrate);
    stay.pin(PIN);
    let half_close_timeout = entry.runtime.config.limits.half_close_timeout;
    let mut from_client = Frames10::default();
    from_client.run(header);
    let now = stay.worker.clock.now();
    tokio::spawn(Opaque {
        down: Side::new(entry.io, &[]),
        up: Side::new(Io::Plain(stream), &[]),
        from_endpoint: Frames10::default(),
        from_client,
        stay,
        half_close_timeout,
        close_timeout: policy.amqp_session.close_timeout,
        end: None,
        close: None,
        until: None,
        ended: [false; 2],
        touched: Time::ZERO,
        active: now,
        waiting: false,
        attached: false,
    });
}

/// A running session.
struct Opaque {
    down: Side,
    up: Side,
    from_endpoint: Frames10,
    from_client: Frames10,
    stay: Stay,
    half_close_timeout: Duration,
    close_timeout: Duration,
    /// Who began the end, once that has begun.
    end: Option<Initiator>,
    close: Option<Close>,
    /// When it is over at the latest.
    until: Option<Time>,
    /// By leg: it has ended its stream.
    ended: [bool; 2],
    touched: Time,
    active: Time,
    waiting: bool,
    attached: bool,
}

/// Our own close of the client.
enum Close {
    /// It goes out at the end of the endpoint's frame under way.
    Owed(Vec<u8>),
    /// It is out: what both send is discarded.
    Sent,
}

impl Opaque {
    fn turn(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<()> {
        let now = self.stay.worker.clock.now();
        if self.stay.worker.unread.load(Relaxed) > 0
            && let Some(command) = self.stay.slot.take_command()
        {
            self.obey(now, command);
        }
        self.say_close(cx);
        if self.until.is_some_and(|until| until <= now) {
            return Poll::Ready(());
        }
        for from in LEGS {
            self.pump(cx, now, from, buffer);
        }
        // One direction can have said what the other has to write.
        for leg in LEGS {
            self.write(cx, leg);
        }
        let is_over = |leg: Leg| {
            let side = self.side(leg);
            side.is_broken() || side.is_finished() && self.ended[index(leg)]
        };
        if is_over(Leg::Downstream) && is_over(Leg::Upstream) {
            return Poll::Ready(());
        }
        self.publish(now);
        Poll::Pending
    }

    fn pump(&mut self, cx: &mut Context<'_>, now: Time, from: Leg, buffer: &mut [u8]) {
        for _ in 0..CHUNKS_PER_TURN {
            self.write(cx, from.other());
            let is_blocked = self.side(from.other()).waits() > 0;
            if is_blocked || !self.side(from).is_readable() {
                return;
            }
            let n = match self.side_mut(from).poll_read(cx, buffer) {
                Poll::Pending => return,
                Poll::Ready(Read::Bytes(n)) => n,
                Poll::Ready(Read::End) => return self.ended(now, from),
                Poll::Ready(Read::Broken) => return self.broken(now, from),
            };
            self.active = now;
            if now.since(self.touched) >= TOUCH {
                self.touched = now;
                self.stay.touch(now);
            }
            let passes = self.follow(from, &buffer[..n]);
            self.stay.count_bytes(from.other(), n);
            if self.side_mut(from.other()).send(Some(cx), &buffer[..passes]).is_err() {
                self.broken(now, from.other());
            }
            self.say_close(cx);
        }
        cx.waker().wake_by_ref();
    }

    /// How many of `bytes` from `from` go on: all, unless the client is being closed.
    fn follow(&mut self, from: Leg, bytes: &[u8]) -> usize {
        match (&self.close, from) {
            (Some(Close::Sent), _) => 0,
            (Some(Close::Owed(_)), Leg::Upstream) => {
                let mut passes = 0;
                while passes < bytes.len() && !self.from_endpoint.at_boundary() {
                    self.from_endpoint.run(&bytes[passes..=passes]);
                    passes += 1;
                }
                passes
            }
            (None, Leg::Upstream) => {
                self.from_endpoint.run(bytes);
                bytes.len()
            }
            (_, Leg::Downstream) => {
                self.from_client.run(bytes);
                bytes.len()
            }
        }
    }

    /// Sends the close that is owed, when a frame may stand there.
    fn say_close(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.close, Some(Close::Owed(_))) || !self.from_endpoint.at_boundary() {
            return;
        }
        if let Some(Close::Owed(frame)) = self.close.replace(Close::Sent)
            && self.down.send(Some(cx), &frame).is_err()
        {
            self.broken(self.active, Leg::Downstream);
        }
    }

    /// Writes what waits for `leg`, and ends our side of it where that is due.
    fn write(&mut self, cx: &mut Context<'_>, leg: Leg) {
        let is_closing = self.close.is_some();
        let ends = self.ended[index(leg.other())] || is_closing && self.ended[index(Leg::Downstream)];
        let side = self.side_mut(leg);
        if side.is_broken() {
            return;
        }
        let waited = side.waits() > 0;
        let written =
            side.push(cx).and_then(|taken| if ends { side.finish(cx).map(|_| taken) } else { Ok(taken) });
        match written {
            Ok(taken) if waited && taken > 0 => {
                // It waits anew, from now on.
                self.waiting = false;
                self.stay.slot.set_stalled(None);
            }
            Ok(_) => {}
            Err(_) => self.broken(self.active, leg),
        }
    }

    fn ended(&mut self, now: Time, leg: Leg) {
        self.ended[index(leg)] = true;
        self.end.get_or_insert(initiator(leg));
        self.until.get_or_insert(now + self.half_close_timeout);
    }

    fn broken(&mut self, now: Time, leg: Leg) {
        let lost = self.side_mut(leg).give_up();
        self.stay.count_lost_bytes(leg, lost);
        self.ended(now, leg);
    }

    fn obey(&mut self, now: Time, command: Command) {
        match command {
            Command::Migrate(spec) if spec.fallback == Fallback::Stay => self.stay.aborted(now, &spec),
            Command::Migrate(spec) => self.close(now, spec.reason),
            Command::Shed(spec) | Command::Hasten(spec) => self.close(now, &spec.reason),
            Command::CutIdle(limit) if now.since(self.active) < limit => self.stay.slot.touch(self.active),
            Command::CutIdle(_) => self.obey(now, Command::Cut(CutReason::Idle)),
            Command::Cut(reason) => {
                self.stay.cut(reason);
                self.close(now, telemetry::cut_reason(reason));
                if reason == CutReason::WriteStall {
                    // It would not take a close either.
                    for leg in LEGS.into_iter().filter(|leg| self.side(*leg).waits() > 0).collect::<Vec<_>>()
                    {
                        self.broken(now, leg);
                    }
                }
            }
        }
    }

    fn close(&mut self, now: Time, reason: &str) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(Initiator::Gateway);
        self.close = Some(Close::Owed(forced_close(&format!("{reason}; connect again"))));
        self.until = Some(now + self.close_timeout);
        let outcome = self.outcome();
        self.stay.leaving(now, || outcome);
    }

    fn publish(&mut self, now: Time) {
        let waiting = self.down.waits() + self.up.waits() > 0;
        if waiting != self.waiting {
            self.waiting = waiting;
            self.stay.slot.set_stalled(waiting.then_some(now));
        }
        if self.stay.slot.set_deadline(self.until) {
            self.stay.watch_deadline();
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            initiator: self.end.unwrap_or(Initiator::Gateway),
            code: None,
            is_lost: self.end == Some(Initiator::Endpoint) && self.up.is_broken(),
            has_client_answered: self.ended[index(Leg::Downstream)],
            messages: [0; 2],
            undeliverable: [0; 2],
        }
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

const fn initiator(leg: Leg) -> Initiator {
    match leg {
        Leg::Downstream => Initiator::Client,
        Leg::Upstream => Initiator::Endpoint,
    }
}

impl Future for Opaque {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let opaque = self.get_mut();
        if !opaque.attached {
            opaque.stay.slot.attach(cx.waker());
            opaque.attached = true;
        }
        buffer::with(|buffer| opaque.turn(cx, buffer))
    }
}

impl Drop for Opaque {
    fn drop(&mut self) {
        let now = self.stay.worker.clock.now();
        for leg in LEGS {
            let lost = self.side_mut(leg).give_up();
            self.stay.count_lost_bytes(leg, lost);
        }
        let outcome = self.outcome();
        self.stay.ended(now, &outcome);
    }
}
