//! The leg that is being prepared: dial, login, channels. Nothing of it is seen by the client or by its endpoint.

use amqp::{HEADER_BYTES, Kind, Login, Method, Piece, Progress, Scanner, write};
use model::Time;

use super::channel::{ChannelState, NO_CONSUMER};
use super::mover::{Next, Phase, quarter};
use super::retiree::Former;
use super::{Abort, AmqpEvent, AmqpLeg, AmqpPin, AmqpSession, AmqpSettings, AmqpSpan, Retiree};

const NEXT: usize = AmqpLeg::Next as usize;

impl AmqpSession {
    /// The socket is there: the login begins.
    pub(super) fn next_connected(&mut self, now: Time, settings: &AmqpSettings) {
        let frame_max = self.opened.tune.frame_max;
        let Some(mover) = self.mover.as_deref_mut().filter(|mover| mover.phase == Phase::Dialing) else {
            // It was given up while the dial went on.
            self.events.push_back(AmqpEvent::NextDropped { retiree: None });
            return;
        };
        mover.phase = Phase::Preparing;
        mover.next = Some(Next {
            scanner: Scanner::new(frame_max),
            login: Login::ExpectStart,
            waiting: 0,
            prepared: false,
            heartbeat: None,
            emptiness: None,
        });
        self.out[NEXT].clear();
        self.out[NEXT].extend_from_slice(&Login::header());
        self.advance(now, settings);
    }

    /// Bytes of the next endpoint. None of them goes on.
    pub(super) fn handle_next_bytes(&mut self, now: Time, settings: &AmqpSettings, bytes: &[u8]) -> AmqpSpan {
        let mut at = 0;
        loop {
            let Some(next) = self.mover.as_deref_mut().and_then(|mover| mover.next.as_mut()) else {
                return AmqpSpan { skip: bytes.len(), ..AmqpSpan::default() };
            };
            let piece = match next.scanner.peek(&bytes[at..]) {
                Ok(Piece::NotYet) => break,
                Ok(piece) => piece,
                Err(_) => {
                    self.next_lost(now, settings, Abort::Refused);
                    continue;
                }
            };
            let len = next.scanner.take(piece);
            if let Piece::Frame { kind: Kind::Method, channel, size, .. } = piece {
                let end = len.min(HEADER_BYTES + size as usize);
                let payload = &bytes[at + HEADER_BYTES..at + end];
                if let Err(reason) = self.next_method(now, channel, payload) {
                    self.next_lost(now, settings, reason);
                }
            }
            at += len;
        }
        self.advance(now, settings);
        AmqpSpan { forward: 0, skip: at, hold: true }
    }

    fn next_method(&mut self, now: Time, channel: u16, payload: &[u8]) -> Result<(), Abort> {
        let Some(next) = self.mover.as_deref_mut().and_then(|mover| mover.next.as_mut()) else {
            return Ok(());
        };
        if next.login != Login::Done {
            let credentials = self.opened.credentials.as_ref().ok_or(Abort::Pinned(AmqpPin::Login))?;
            let cluster = self.opened.cluster.as_deref();
            let progress = next.login.handle_method(payload, credentials, cluster);
            let progress = match progress {
                Ok(progress) => progress,
                Err(error) => {
                    self.refusal = Some(error.to_string().into());
                    return Err(Abort::Refused);
                }
            };
            match progress {
                // As it is: a buffer that grew would leave a copy of the login behind.
                Progress::Send(bytes) if self.out[NEXT].is_empty() => self.out[NEXT] = bytes,
                Progress::Send(bytes) => self.out[NEXT].extend_from_slice(&bytes),
                Progress::Open => {
                    next.heartbeat = quarter(self.opened.tune.heartbeat).map(|every| now + every);
                }
            }
            return Ok(());
        }
        match Method::parse(payload) {
            Ok(Method::ChannelOpenOk | Method::Reply(_)) if channel > 0 => {
                next.waiting = next.waiting.saturating_sub(1);
                Ok(())
            }
            Ok(Method::DeclareOk { ready, .. }) if channel > 0 => {
                next.emptiness.get_or_insert_default().answered(channel, ready);
                Ok(())
            }
            Ok(Method::Unblocked) => Ok(()),
            Ok(Method::Blocked) => Err(Abort::Pinned(AmqpPin::Blocked)),
            Ok(Method::Close { code, text } | Method::ChannelClose { code, text }) => {
                let text = String::from_utf8_lossy(text);
                self.refusal = Some(format!("the endpoint refused a channel: {code} {text}").into());
                Err(Abort::Refused)
            }
            other => {
                self.refusal = Some(format!("the endpoint sent {other:?} amid the preparation").into());
                Err(Abort::Refused)
            }
        }
    }

    /// Opens the client's channels at the next endpoint, once.
    pub(super) fn prepare_channels(&mut self) {
        let Some(next) = self.mover.as_deref_mut().and_then(|mover| mover.next.as_mut()) else { return };
        if next.prepared || next.login != Login::Done {
            return;
        }
        next.prepared = true;
        for channel in self.channels.iter().filter(|channel| channel.state == ChannelState::Open) {
            next.waiting += channel.prepare(&mut self.out[NEXT]);
        }
    }

    /// Asks the next endpoint whether the queues of these consumers are empty: channel, consumer, queue.
    pub(super) fn ask_for_emptiness(&mut self, questions: Vec<(u16, u16, Box<[u8]>)>) {
        let Some(next) = self.mover.as_deref_mut().and_then(|mover| mover.next.as_mut()) else { return };
        let emptiness = next.emptiness.get_or_insert_default();
        let out = &mut self.out[NEXT];
        for (channel, consumer, queue) in questions {
            write::declare_passively(out, channel, &queue);
            emptiness.asked.push((channel, consumer));
            // An empty name stands for the queue that was declared last, passively or not.
            let last = self.channels.iter().find(|known| known.id == channel).map(|known| &known.last_queue);
            if let Some(last) = last.filter(|last| !last.is_empty() && **last != queue) {
                write::declare_passively(out, channel, last);
                emptiness.asked.push((channel, NO_CONSUMER));
            }
        }
    }

    /// The next endpoint is logged in at, has opened the channels, and owes no answer: none may come behind a switch.
    pub(super) fn is_next_ready(&self) -> bool {
        let next = self.mover.as_deref().and_then(|mover| mover.next.as_ref());
        let owes = |next: &Next| next.emptiness.as_ref().is_some_and(|emptiness| !emptiness.asked.is_empty());
        next.is_some_and(|next| next.prepared && next.waiting == 0 && !owes(next))
    }

    /// The next leg is of no use.
    pub(super) fn next_lost(&mut self, now: Time, settings: &AmqpSettings, reason: Abort) {
        let Some(mover) = self.mover.as_deref_mut() else { return };
        if mover.next.take().is_some() {
            self.out[NEXT].clear();
            self.events.push_back(AmqpEvent::NextDropped { retiree: None });
        }
        self.abort(now, settings, reason);
    }

    /// The next leg is not needed. One that is logged in is closed politely.
    pub(super) fn drop_next(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(mover) = self.mover.as_deref_mut() else { return };
        let is_dialing = mover.phase == Phase::Dialing;
        let Some(next) = mover.next.take() else {
            if is_dialing {
                self.events.push_back(AmqpEvent::NextDropped { retiree: None });
            }
            return;
        };
        let out = std::mem::take(&mut self.out[NEXT]);
        let retiree = (next.login == Login::Done).then(|| {
            let former =
                Former { scanner: next.scanner, out, last_ack: None, heartbeat: 0, was_closed: false };
            Retiree::new(now, settings, former)
        });
        self.events.push_back(AmqpEvent::NextDropped { retiree });
    }

    /// A switch: the new endpoint has just begun to count the time to its first heartbeat, and a client that is moved again
    /// before that would never hear one. So it gets one of ours, a quarter of the interval after the last at the earliest.
    pub(super) fn beat_at_switch(&mut self, now: Time) {
        let Some(every) = quarter(self.opened.tune.heartbeat) else { return };
        let since = *self.beaten.get_or_insert(now);
        if now.since(since) >= every {
            self.beaten = Some(now);
            self.tell_client(|out| out.extend_from_slice(&write::HEARTBEAT));
        }
    }

    /// Heartbeats that are due: to the next endpoint while it waits, to both peers while the client is frozen.
    pub(super) fn beat(&mut self, now: Time) {
        let every = quarter(self.opened.tune.heartbeat);
        let (Some(mover), Some(every)) = (self.mover.as_deref_mut(), every) else { return };
        if let Some(next) = &mut mover.next
            && next.heartbeat.is_some_and(|at| at <= now)
        {
            next.heartbeat = Some(now + every);
            self.out[NEXT].extend_from_slice(&write::HEARTBEAT);
        }
        if mover.heartbeat.is_none_or(|at| at > now) {
            return;
        }
        mover.heartbeat = mover.frozen.map(|_| now + every);
        if mover.frozen.is_some() {
            if self.has_upstream {
                self.out[AmqpLeg::Upstream as usize].extend_from_slice(&write::HEARTBEAT);
            }
            self.tell_client(|out| out.extend_from_slice(&write::HEARTBEAT));
        }
    }

    /// What is swallowed counts as a sign of life for the endpoint, which then sends no heartbeat: the client gets one of ours when
    /// it has heard nothing for half the interval.
    pub(super) fn beat_for_swallowed(&mut self, now: Time, from: AmqpLeg) {
        let half = std::time::Duration::from_millis(u64::from(self.opened.tune.heartbeat) * 500);
        if from == AmqpLeg::Upstream && !half.is_zero() && now.since(self.spoken) >= half {
            self.spoken = now;
            self.tell_client(|out| out.extend_from_slice(&write::HEARTBEAT));
        }
    }
}
