//! The stages of a shed: the notice, the grace time, the quiet moment, and the Close frame of ours.
//!
//! What follows that Close frame is an ending like any other (`ending`).

use std::time::Duration;

use model::Time;
use ws::Injection;

use crate::leg::{Authored, Leg};
use crate::session::{Session, Settings};
use crate::shed::{Order, Stage};

impl Session {
    /// While a shed waits for a boundary towards the leg that `from` feeds, bytes are taken frame by frame, so that the
    /// boundary is not passed unseen inside a chunk.
    pub(crate) fn waits_for_boundary(&self, from: Leg) -> bool {
        let Some(shed) = &self.shed else { return false };
        let to = match shed.stage {
            Stage::ExpectBoundary(_) => Leg::Downstream,
            Stage::ExpectMessageEnd(_) | Stage::ExpectFrameEnd(_) => first_leg(shed.spec.order),
            Stage::ExpectLeave(_) | Stage::ExpectQuiet(_) | Stage::Closing => return false,
        };
        from.other() == to
    }

    /// Stops waiting for the client or for a quiet moment: the close goes out at the first boundary. Nothing happens
    /// when it waits for no more than that already, or is out.
    pub fn hasten(&mut self, now: Time, settings: &Settings) {
        let Some(shed) = &mut self.shed else { return };
        match shed.stage {
            Stage::ExpectFrameEnd(_) | Stage::Closing => return,
            Stage::ExpectBoundary(_)
            | Stage::ExpectLeave(_)
            | Stage::ExpectQuiet(_)
            | Stage::ExpectMessageEnd(_) => shed.stage = Stage::ExpectMessageEnd(now),
        }
        self.advance_shed(now, settings);
    }

    /// Takes the shed as far as `now` and the frames allow.
    pub(crate) fn advance_shed(&mut self, now: Time, settings: &Settings) {
        while let Some(next) = self.next_stage(now) {
            match next {
                Stage::Closing => return self.send_shed_close(now, settings),
                Stage::ExpectLeave(_) => self.down.authored = Authored::Notice,
                Stage::ExpectBoundary(_)
                | Stage::ExpectQuiet(_)
                | Stage::ExpectMessageEnd(_)
                | Stage::ExpectFrameEnd(_) => {}
            }
            if let Some(shed) = &mut self.shed {
                shed.stage = next;
            }
        }
    }

    /// The session is opaque now, or a peer began to end it by itself. A close of ours that is out stays.
    pub(crate) fn abandon_shed(&mut self) {
        if !self.is_closing_shed() {
            self.shed = None;
        }
    }

    /// A shed's Close frame is out.
    pub(crate) fn is_closing_shed(&self) -> bool {
        self.shed.as_ref().is_some_and(|shed| shed.stage == Stage::Closing)
    }

    /// When the present stage is over at the latest, and what it waits for.
    pub(crate) fn shed_timeout(&self) -> Option<(Time, &'static str)> {
        let shed = self.shed.as_ref()?;
        match shed.stage {
            Stage::ExpectBoundary(at) => Some((at, "the notice waits for a message boundary")),
            Stage::ExpectLeave(at) => Some((at, "the client has time to leave by itself")),
            Stage::ExpectQuiet(at) if self.is_at_rest() => {
                Some((at.min(shed.last_activity + shed.spec.quiet), "waiting for a quiet moment"))
            }
            Stage::ExpectQuiet(at) => Some((at, "waiting for a message boundary")),
            Stage::ExpectMessageEnd(at) => Some((at, "waiting for the end of a message")),
            Stage::ExpectFrameEnd(at) => Some((at, "waiting for the end of a frame")),
            Stage::Closing => None,
        }
    }

    /// Both directions are at a message boundary.
    fn is_at_rest(&self) -> bool {
        self.up.scanner.at_message_boundary() && self.down.scanner.at_message_boundary()
    }

    /// The stage that follows the present one at `now`, if any does.
    fn next_stage(&self, now: Time) -> Option<Stage> {
        let shed = self.shed.as_ref()?;
        let spec = &shed.spec;
        match shed.stage {
            Stage::ExpectBoundary(until) => {
                let closed = self.down.is_shut();
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
                    (until <= now).then_some(Stage::ExpectMessageEnd(now + spec.wait))
                }
            }
            Stage::ExpectMessageEnd(until) => {
                let first = first_leg(spec.order);
                let at_message_end = self.leg(first.other()).scanner.at_message_boundary();
                if at_message_end && self.may_close(first) {
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
            self.await_reply(now + reply_timeout);
        } else {
            // Stuck in the middle of a frame: no Close is legal there, only the end of the stream.
            self.leg_mut(first).fin = true;
        }
        self.settle(now, settings);
    }
}

/// The leg that gets the Close frame first.
const fn first_leg(order: Order) -> Leg {
    match order {
        Order::ClientFirst => Leg::Downstream,
        Order::BackendFirst => Leg::Upstream,
    }
}
