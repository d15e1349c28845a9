//! How an ending runs its course: Close frames, ends of streams, and the deadline that bounds them.
//!
//! RFC 6455 sections 5.5.1 and 7: each peer gets at most one Close frame and nothing behind it, answers it with its
//! own, and then the server ends the stream first. We are the server to the client and a client to the endpoint.
//! Every input that begins or advances an ending goes through [`Session::settle`], which draws all consequences.

use std::time::Duration;

use model::Time;
use ws::{Injection, Stop};

use crate::leg::{Authored, Leg};
use crate::session::{End, Initiator, Session, Settings, Span};

/// RFC 6455 section 7.4.1: the purpose of the connection is fulfilled.
const NORMAL: u16 = 1000;
/// RFC 6455 section 7.4.1: protocol error.
const PROTOCOL_ERROR: u16 = 1002;

/// When the present phase of an ending is over at the latest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Deadline {
    pub at: Time,
    pub why: Why,
}

/// What the running deadline bounds, in the order in which they can follow each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Why {
    /// A Close frame is owed by a peer.
    CloseReply,
    /// One peer ended without a Close frame; the other may still have something to say.
    HalfClose,
    /// Everything is said; the peers may end their streams.
    Linger,
}

impl Session {
    /// A complete Close frame came from `from`, `before` bytes into what was handed in; the other leg can take it.
    #[cold]
    pub(crate) fn handle_close(
        &mut self,
        now: Time,
        settings: &Settings,
        from: Leg,
        before: usize,
        close: ws::Close,
    ) -> Span {
        let to = from.other();
        self.leg_mut(from).close_received = true;
        self.note_end(from, close.code);
        self.leg_mut(to).close_sent = true;
        let span = if to == Leg::Downstream && self.is_closing_shed() {
            // backend_first: the endpoint answers our Close; the client gets the code that we chose.
            self.leg_mut(to).authored = Authored::Shed;
            Span { forward: before, skip: close.frame_bytes }
        } else {
            Span { forward: before + close.frame_bytes, skip: 0 }
        };
        self.await_reply(now + settings.reply_timeout);
        self.settle(now, settings);
        span
    }

    /// Bytes that nobody may get any more: they are followed only to count messages and to see the Close frame.
    pub(crate) fn discard(&mut self, now: Time, settings: &Settings, from: Leg, bytes: &[u8]) -> Span {
        let everything = Span { forward: 0, skip: bytes.len() };
        if self.opaque || self.leg(from).close_received {
            return everything;
        }
        let run = self.leg_mut(from).scanner.run(bytes);
        let lost = &mut self.undeliverable[from.other().index()];
        *lost = lost.saturating_add(run.messages);
        let span = match run.stop {
            Stop::End | Stop::FrameEnd | Stop::NotYet => return Span { forward: 0, skip: run.len },
            Stop::Close(close) => Span { forward: 0, skip: run.len + close.frame_bytes },
            // None of it is forwarded, so nothing is gained by following it further.
            Stop::Malformed(_) => everything,
        };
        self.leg_mut(from).close_received = true;
        self.settle(now, settings);
        span
    }

    /// `good` bytes, then something that is no frame.
    #[cold]
    pub(crate) fn handle_malformed(
        &mut self,
        now: Time,
        settings: &Settings,
        from: Leg,
        good: usize,
        all: usize,
    ) -> Span {
        if !settings.strict {
            self.opaque = true;
            self.abandon_shed();
            return Span { forward: all, skip: 0 };
        }
        self.leg_mut(from).close_received = true;
        self.cut(now, settings, PROTOCOL_ERROR);
        Span { forward: good, skip: all - good }
    }

    /// Ends both streams, with a Close frame where one is legal and the peer still listens for one.
    pub(crate) fn part(&mut self, now: Time, settings: &Settings, ours: Authored) {
        for leg in Leg::BOTH {
            if self.may_close(leg) && !self.leg(leg).ended {
                self.author_close(leg, ours);
            }
            self.leg_mut(leg).fin = true;
        }
        self.settle(now, settings);
    }

    /// The deadline has come.
    pub(crate) fn expire(&mut self, now: Time, settings: &Settings, why: Why) {
        match why {
            Why::CloseReply | Why::HalfClose => self.part(now, settings, self.parting(settings)),
            Why::Linger => {
                for leg in Leg::BOTH {
                    let state = self.leg_mut(leg);
                    state.fin = true;
                    state.given_up = !state.ended;
                    state.ended = true;
                    state.broken = true;
                }
                self.settle(now, settings);
            }
        }
    }

    /// Draws the consequences of what is known of both legs. Harmless when there are none.
    pub(crate) fn settle(&mut self, now: Time, settings: &Settings) {
        self.pass_on_end_of_endpoint(now, settings);
        self.pass_on_end_of_client(settings);
        // We are the server to the client: after both Close frames the server ends first (section 7.1.1).
        self.down.fin |= self.down.close_sent && (self.down.close_received || self.down.ended);
        self.up.fin |= self.up.close_sent && self.up.ended;
        self.seal();
        self.bound_ending(now, settings);
    }

    /// A Close frame may be placed towards `leg` at this moment.
    pub(crate) fn may_close(&self, leg: Leg) -> bool {
        let source = &self.leg(leg.other()).scanner;
        !self.opaque && ws::may_inject(Injection::Control, source, self.leg(leg).is_shut(), self.extensions)
    }

    /// Queues a Close frame for `leg`.
    pub(crate) fn author_close(&mut self, leg: Leg, ours: Authored) {
        let state = self.leg_mut(leg);
        state.authored = ours;
        state.close_sent = true;
    }

    /// A peer has until `at` to answer a Close frame. The second peer gets a time of its own; nobody gets more.
    pub(crate) fn await_reply(&mut self, at: Time) {
        if self.deadline.is_none_or(|running| running.why == Why::CloseReply) {
            self.deadline = Some(Deadline { at, why: Why::CloseReply });
        }
    }

    pub(crate) fn note_end(&mut self, from: Leg, code: Option<u16>) {
        let initiator = match from {
            Leg::Downstream => Initiator::Client,
            Leg::Upstream => Initiator::Endpoint,
        };
        self.note(End { initiator, code });
    }

    pub(crate) fn note_gateway_end(&mut self, code: u16) {
        self.note(End { initiator: Initiator::Gateway, code: Some(code) });
    }

    fn note(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.abandon_shed();
    }

    /// The endpoint is gone and the client has not been told: a Close frame where one is legal, else the end of the
    /// stream. A client that ended its own stream without a word gets the same.
    fn pass_on_end_of_endpoint(&mut self, now: Time, settings: &Settings) {
        if !self.up.ended || self.down.is_shut() {
            return;
        }
        if self.may_close(Leg::Downstream) && !self.down.ended {
            self.author_close(Leg::Downstream, self.parting(settings));
            self.await_reply(now + settings.reply_timeout);
        } else {
            self.down.fin = true;
        }
    }

    /// The client is gone without a Close frame: end the stream to the endpoint too. If we swallowed the endpoint's
    /// Close frame because ours crossed it, it gets its answer first.
    fn pass_on_end_of_client(&mut self, settings: &Settings) {
        if !self.down.ended || self.up.is_shut() {
            return;
        }
        let unanswered = self.up.close_received && self.is_closing_shed();
        if unanswered && self.may_close(Leg::Upstream) && !self.up.ended {
            self.author_close(Leg::Upstream, self.parting(settings));
        } else {
            self.up.fin = true;
        }
    }

    /// The Close frame that stands in for one which did not come: it repeats what began the end, if that was a Close.
    fn parting(&self, settings: &Settings) -> Authored {
        if self.is_closing_shed() {
            return Authored::Shed;
        }
        let without_code = self.down.close_received || self.up.close_received;
        Authored::Close(match self.end.and_then(|end| end.code) {
            Some(code) => code,
            None if without_code => NORMAL,
            None => settings.on_upstream_abort,
        })
    }

    /// Counts the message that was cut short, once a direction can carry no more of it.
    fn seal(&mut self) {
        for to in Leg::BOTH {
            // The end of its source shuts a leg as well, so this covers every way in which a direction can end.
            if !self.leg(to).is_shut() || self.leg(to).sealed {
                continue;
            }
            self.leg_mut(to).sealed = true;
            if !self.opaque && !self.leg(to.other()).scanner.at_message_boundary() {
                let lost = &mut self.undeliverable[to.index()];
                *lost = lost.saturating_add(1);
            }
        }
    }

    /// Sees to it that the present phase of the ending has a deadline.
    fn bound_ending(&mut self, now: Time, settings: &Settings) {
        if self.down.broken && self.up.broken {
            // Nothing can be written any more: there is nothing to wait for.
            self.deadline = None;
            return;
        }
        let silent = self.down.is_silent() && self.up.is_silent();
        // The endpoint is the server: after both Close frames it ends first, and we follow.
        let said = self.up.close_sent && self.up.close_received;
        let owed = self.down.owes_close() || self.up.owes_close();
        if silent || (said && !owed) {
            self.bound(now, settings.close_linger, Why::Linger);
        } else if self.deadline.is_none() {
            self.bound(now, settings.half_close_timeout, Why::HalfClose);
        }
    }

    /// Sets the deadline unless one of the same or a later kind runs: an ending only ever gets nearer.
    fn bound(&mut self, now: Time, wait: Duration, why: Why) {
        if self.deadline.is_none_or(|running| running.why < why) {
            self.deadline = Some(Deadline { at: now + wait, why });
        }
    }
}
