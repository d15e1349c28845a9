//! How a connection ends: by the client's Close, by the endpoint's, by ours, or without one.
//!
//! Sections 2.2.4 and 2.2.5 (connection.close): who has sent a Close discards everything but `close` and `close-ok`; then the
//! streams end. Whoever is silent is not waited for beyond `close_timeout`.

use amqp::{FrameError, Kind, Method, MethodId, Piece, write};
use model::Time;

use crate::Initiator;

use super::retiree::Former;
use super::{AmqpEnd, AmqpEvent, AmqpLeg, AmqpSession, AmqpSettings, AmqpSpan, Retiree};

const DOWNSTREAM: usize = AmqpLeg::Downstream as usize;
const UPSTREAM: usize = AmqpLeg::Upstream as usize;

/// An end that has begun.
#[derive(Debug)]
pub(crate) struct Closing {
    pub end: AmqpEnd,
    /// We have closed the client: what it sends is discarded.
    ours: bool,
    /// The Close that the client gets at the next frame boundary.
    owes: Option<(u16, String)>,
    until: Option<Time>,
    /// By leg: our side is to be ended.
    fin: [bool; 2],
    /// By leg: the peer has ended.
    ended: [bool; 2],
    over: bool,
}

impl Closing {
    fn new(initiator: Initiator, code: Option<u16>, until: Time) -> Self {
        Self {
            end: AmqpEnd { initiator, code },
            ours: false,
            owes: None,
            until: Some(until),
            fin: [false; 2],
            ended: [false; 2],
            over: false,
        }
    }

    pub fn until(&self) -> Option<Time> {
        self.until.filter(|_| !self.over)
    }

    pub fn has_ended(&self, leg: AmqpLeg) -> bool {
        self.over || self.ended.get(leg as usize).copied().unwrap_or(true)
    }

    pub fn wants_fin(&self, leg: AmqpLeg) -> bool {
        self.over || self.fin.get(leg as usize).copied().unwrap_or(false)
    }

    pub fn is_finished(&self, has_upstream: bool) -> bool {
        self.over || self.ended[DOWNSTREAM] && (self.ended[UPSTREAM] || !has_upstream)
    }
}

impl AmqpSession {
    /// The client has sent a Close, which goes on to the endpoint.
    pub(super) fn client_closes(&mut self, now: Time, settings: &AmqpSettings, code: u16) {
        self.drop_mover(now, settings);
        if self.closing.is_none() {
            let until = now + settings.linger_max;
            self.closing = Some(Box::new(Closing::new(Initiator::Client, Some(code), until)));
        }
    }

    /// The endpoint has sent a Close, which goes on to the client.
    pub(super) fn endpoint_closes(&mut self, now: Time, settings: &AmqpSettings, code: u16) {
        if self.closing.is_none() {
            let until = now + settings.close_timeout;
            self.closing = Some(Box::new(Closing::new(Initiator::Endpoint, Some(code), until)));
        }
    }

    /// A `close-ok` goes on: nothing follows it.
    pub(super) fn close_is_agreed(&mut self, now: Time, settings: &AmqpSettings) {
        if let Some(closing) = &mut self.closing {
            closing.fin = [true; 2];
            closing.until = Some(now + settings.close_timeout);
        }
    }

    /// The client has ended its stream.
    pub(super) fn client_ended(&mut self, now: Time, settings: &AmqpSettings) {
        if self.closing.is_some() {
            return self.ended_while_closing(now, settings, AmqpLeg::Downstream);
        }
        self.drop_mover(now, settings);
        let until = now + settings.close_timeout;
        let mut closing = Closing::new(Initiator::Client, None, until);
        closing.ended[DOWNSTREAM] = true;
        closing.fin[UPSTREAM] = true;
        self.closing = Some(Box::new(closing));
    }

    pub(super) fn ended_while_closing(&mut self, now: Time, settings: &AmqpSettings, leg: AmqpLeg) {
        let Some(closing) = &mut self.closing else { return };
        closing.ended[leg as usize] = true;
        closing.fin = [true; 2];
        if leg == AmqpLeg::Upstream {
            self.advance_closing(now, settings);
        }
    }

    /// Closes the client with a Close of ours, and leaves the endpoint to a retiree.
    pub(super) fn close_client(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        initiator: Initiator,
        code: u16,
        text: &str,
    ) {
        if let Some(closing) = &mut self.closing {
            // Whoever began it has had time; now it ends.
            closing.fin = [true; 2];
            return;
        }
        self.drop_next(now, settings);
        self.release_acks(now);
        self.mover = None;
        self.reopening = None;
        let mut closing = Closing::new(initiator, Some(code), now + settings.close_timeout);
        closing.ours = true;
        closing.owes = Some((code, text.to_owned()));
        self.closing = Some(Box::new(closing));
        self.advance_closing(now, settings);
    }

    /// Sends the Close that is owed, when a frame may stand there.
    pub(super) fn advance_closing(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(closing) = self.closing.as_deref_mut() else { return };
        let is_upstream_over = !self.has_upstream || closing.ended[UPSTREAM];
        if closing.owes.is_none() || !(self.endpoint.at_boundary() || is_upstream_over) {
            return;
        }
        let Some((code, text)) = closing.owes.take() else { return };
        if self.endpoint.at_boundary() {
            let later = std::mem::take(&mut self.later);
            let out = &mut self.out[DOWNSTREAM];
            out.extend_from_slice(&later);
            write::connection_close(out, code, &text);
        } else {
            // Amid a frame that will never end: only the end of the stream is legal there.
            closing.fin[DOWNSTREAM] = true;
        }
        self.leave_upstream(now, settings);
    }

    /// The endpoint goes to a retiree, where a Close may stand in what it was sent.
    fn leave_upstream(&mut self, now: Time, settings: &AmqpSettings) {
        if !std::mem::take(&mut self.has_upstream) {
            return;
        }
        let frame_max = self.opened.tune.frame_max;
        let scanner = std::mem::replace(&mut self.endpoint, amqp::Scanner::new(frame_max));
        let out = std::mem::take(&mut self.out[UPSTREAM]);
        let is_open = self.closing.as_deref().is_some_and(|closing| !closing.ended[UPSTREAM]);
        let retiree = (is_open && self.client.at_boundary() && scanner.at_boundary()).then(|| {
            let (last_ack, heartbeat) = (self.last_ack, self.opened.tune.heartbeat);
            Retiree::new(now, settings, Former { scanner, out, last_ack, heartbeat, was_closed: false })
        });
        self.events.push_back(AmqpEvent::UpstreamDropped { retiree });
    }

    /// True when nobody gets what `from` sends any more.
    pub(super) fn discards(&self, from: AmqpLeg) -> bool {
        let ours = self.closing.as_deref().is_some_and(|closing| closing.ours);
        ours && from == AmqpLeg::Downstream
    }

    /// What the client sends behind our Close: only its `close-ok` counts, and its own Close is answered.
    pub(super) fn discard(&mut self, now: Time, settings: &AmqpSettings, bytes: &[u8]) -> AmqpSpan {
        let mut at = 0;
        while at < bytes.len() {
            let piece = match self.client.peek(&bytes[at..]) {
                Ok(Piece::NotYet) => return AmqpSpan { forward: 0, skip: at, hold: true },
                Ok(piece) => piece,
                Err(_) => {
                    if let Some(closing) = &mut self.closing {
                        closing.fin[DOWNSTREAM] = true;
                    }
                    break;
                }
            };
            let len = self.client.take(piece);
            if let Piece::Frame { kind: Kind::Method, channel, size, .. } = piece {
                let end = len.min(amqp::HEADER_BYTES + size as usize);
                self.discard_method(now, settings, channel, &bytes[at + amqp::HEADER_BYTES..at + end]);
            }
            at += len;
        }
        AmqpSpan { forward: 0, skip: bytes.len(), hold: false }
    }

    fn discard_method(&mut self, now: Time, settings: &AmqpSettings, channel: u16, payload: &[u8]) {
        match (channel, MethodId::of(payload), Method::parse(payload)) {
            (_, MethodId::BASIC_PUBLISH, _) => self.undeliverable += 1,
            (0, _, Ok(Method::CloseOk)) => {
                if let Some(closing) = &mut self.closing {
                    closing.fin[DOWNSTREAM] = true;
                    closing.until = Some(now + settings.close_timeout);
                }
            }
            // At a frame boundary, as our own Close; behind the end of our stream nothing is said.
            (0, _, Ok(Method::Close { .. }))
                if self.closing.as_deref().is_some_and(|c| !c.fin[DOWNSTREAM]) =>
            {
                self.tell_client(write::connection_close_ok);
            }
            _ => {}
        }
    }

    /// A peer has not done its part in time.
    pub(super) fn closing_timeout(&mut self, now: Time, settings: &AmqpSettings) {
        let Some(closing) = self.closing.as_deref_mut() else { return };
        if closing.until.is_none_or(|until| until > now) {
            return;
        }
        if closing.fin == [true; 2] {
            closing.over = true;
            return;
        }
        closing.fin = [true; 2];
        closing.owes = None;
        closing.until = Some(now + settings.close_timeout);
        self.leave_upstream(now, settings);
    }

    /// `good` bytes, then something that is no frame, or a frame out of turn.
    pub(super) fn handle_malformed(
        &mut self,
        now: Time,
        settings: &AmqpSettings,
        from: AmqpLeg,
        error: FrameError,
        good: usize,
        all: usize,
    ) -> AmqpSpan {
        let span = AmqpSpan { forward: good, skip: all - good, hold: false };
        if from == AmqpLeg::Downstream {
            self.malformed.get_or_insert((from, error));
            let text = format!("{} - {error}", amqp::code::name(error.code()));
            self.close_client(now, settings, Initiator::Client, error.code(), &text);
            return span;
        }
        self.malformed.get_or_insert((from, error));
        let text = "INTERNAL_ERROR - the node sent a malformed frame, connect again";
        if let Some(closing) = &mut self.closing {
            closing.ended[UPSTREAM] = true;
            closing.fin = [true; 2];
            self.advance_closing(now, settings);
            return span;
        }
        self.drop_mover(now, settings);
        self.has_upstream = false;
        self.out[UPSTREAM].clear();
        self.events.push_back(AmqpEvent::UpstreamDropped { retiree: None });
        self.close_client(now, settings, Initiator::Endpoint, amqp::code::INTERNAL_ERROR, text);
        span
    }
}
