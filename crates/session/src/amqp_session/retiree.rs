//! What becomes of an upstream leg that a session has left: it lingers, is closed politely, and ends.
//!
//! Acks that are followed too soon by a close are lost on quorum queues (rabbitmq-server #10327), so the close waits.

use std::time::Duration;

use amqp::{Method, Piece, Scanner, code, write};
use model::Time;

use super::AmqpSettings;

/// Bytes of a frame that are waited for; a longer method is passed over.
const KEPT_BYTES_MAX: usize = 128 * 1024;

/// Looks after a former upstream leg, without IO. Write [`Self::poll_transmit`] after every other call.
#[derive(Debug)]
pub struct Retiree {
    scanner: Scanner,
    kept: Vec<u8>,
    out: zeroize::Zeroizing<Vec<u8>>,
    state: State,
    heartbeat: Option<(Time, Duration)>,
    linger: Duration,
    /// The end of lingering, whatever comes.
    latest: Time,
    close_timeout: Duration,
    unexpected: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Acks may still be on their way through the broker.
    Linger {
        until: Time,
    },
    /// Our Close is out.
    ExpectCloseOk {
        until: Time,
    },
    /// Our stream ends; the peer's may.
    Ending {
        until: Time,
    },
    Done,
}

/// What a leg has been through before it retires.
#[derive(Debug)]
pub(crate) struct Former {
    pub scanner: Scanner,
    /// Still to be written, before anything else.
    pub out: zeroize::Zeroizing<Vec<u8>>,
    /// When the last ack went there.
    pub last_ack: Option<Time>,
    /// Seconds; 0: none.
    pub heartbeat: u16,
    /// The peer has sent a Close of its own: it gets the answer at once.
    pub was_closed: bool,
}

impl Retiree {
    pub(crate) fn new(now: Time, settings: &AmqpSettings, former: Former) -> Self {
        let until = former.last_ack.map_or(now, |at| (at + settings.linger).min(now + settings.linger_max));
        let every = Duration::from_millis(u64::from(former.heartbeat) * 500);
        let mut retiree = Self {
            scanner: former.scanner,
            kept: Vec::new(),
            out: former.out,
            state: State::Linger { until },
            heartbeat: (!every.is_zero()).then_some((now + every, every)),
            linger: settings.linger,
            latest: now + settings.linger_max,
            close_timeout: settings.close_timeout,
            unexpected: 0,
        };
        if former.was_closed {
            write::connection_close_ok(&mut retiree.out);
            retiree.state = State::Ending { until: now + settings.close_timeout };
        }
        retiree.handle_timeout(now);
        retiree
    }

    /// Bytes that the former endpoint sends. Nobody gets them.
    pub fn handle_bytes(&mut self, now: Time, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let kept = std::mem::take(&mut self.kept);
        let mut at = 0;
        while self.state != State::Done {
            let piece = match self.scanner.peek(&kept[at..]) {
                Ok(Piece::NotYet) => break,
                Ok(piece) => piece,
                Err(_) => {
                    self.state = State::Done;
                    break;
                }
            };
            let len = self.scanner.take(piece);
            if let Piece::Frame { kind, channel, size, .. } = piece {
                self.frame(now, kind, channel, &kept[at + amqp::HEADER_BYTES..at + len], size);
            }
            at += len;
        }
        if kept.len() - at <= KEPT_BYTES_MAX {
            self.kept = kept[at..].to_vec();
        } else {
            self.state = State::Done;
        }
    }

    fn frame(&mut self, now: Time, kind: amqp::Kind, channel: u16, rest: &[u8], size: u32) {
        if kind == amqp::Kind::Heartbeat {
            return;
        }
        let payload = &rest[..rest.len().min(size as usize)];
        match Method::parse(payload) {
            Ok(Method::CloseOk) if kind == amqp::Kind::Method && channel == 0 => {
                self.state = State::Ending { until: now + self.close_timeout };
            }
            Ok(Method::Close { .. }) if kind == amqp::Kind::Method && channel == 0 => {
                write::connection_close_ok(&mut self.out);
                self.state = State::Ending { until: now + self.close_timeout };
            }
            // An alarm may begin or end at any time. Under it the endpoint reads nothing: acks wait, and a close behind them
            // would be read in the same breath.
            Ok(Method::Blocked) if channel == 0 => self.linger_until(self.latest),
            Ok(Method::Unblocked) if channel == 0 => self.linger_until(now + self.linger),
            _ => self.unexpected += 1,
        }
    }

    fn linger_until(&mut self, at: Time) {
        if let State::Linger { until } = &mut self.state {
            *until = at.min(self.latest);
        }
    }

    /// The former endpoint has ended the stream, or it is broken.
    pub fn handle_end(&mut self) {
        self.state = State::Done;
    }

    /// A deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        match self.state {
            State::Linger { until } if until <= now => {
                write::connection_close(&mut self.out, code::SUCCESS, "moved");
                self.state = State::ExpectCloseOk { until: now + self.close_timeout };
            }
            State::ExpectCloseOk { until } if until <= now => {
                self.state = State::Ending { until: now + self.close_timeout };
            }
            State::Ending { until } if until <= now => self.state = State::Done,
            State::Linger { .. } | State::ExpectCloseOk { .. } | State::Ending { .. } | State::Done => {}
        }
        if let (State::Linger { .. }, Some((at, every))) = (self.state, self.heartbeat)
            && at <= now
        {
            self.out.extend_from_slice(&write::HEARTBEAT);
            self.heartbeat = Some((now + every, every));
        }
    }

    /// Bytes to write.
    pub fn poll_transmit(&mut self) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let out = std::mem::take(&mut self.out);
        (!out.is_empty()).then_some(out)
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let (at, why) = match self.state {
            State::Linger { until } => (until, "acks may be on their way"),
            State::ExpectCloseOk { until } => (until, "the endpoint owes its close-ok"),
            State::Ending { until } => (until, "the endpoint may end its stream"),
            State::Done => return None,
        };
        match (self.state, self.heartbeat) {
            (State::Linger { .. }, Some((beat, _))) if beat < at => Some((beat, "a heartbeat is due")),
            _ => Some((at, why)),
        }
    }

    /// True when our side of the stream is to be ended once everything is written.
    pub fn wants_fin(&self) -> bool {
        matches!(self.state, State::Ending { .. } | State::Done)
    }

    /// Nothing more is to come.
    pub fn is_finished(&self) -> bool {
        self.state == State::Done
    }

    /// Frames that should not have come: none may, once its consumers are cancelled and everything is confirmed.
    pub fn unexpected(&self) -> u32 {
        self.unexpected
    }
}
