//! The words between a session that is ending or being moved and its two peers: what `gateway::relay` and
//! `gateway::stay` do, with real frames through a real `session::Session`.

use std::sync::Arc;
use std::time::Duration;

use balance::Ended;
use model::Time;
use session::{Initiator, Leg, PinReason, Session, ShedSpec};

use super::Sim;
use super::event::{Event, Said, Word};
use super::parts::{NONE, Relay, Stage, Standing};
use super::record::count_in_second;

/// The gateway's workers look for due deadlines this often.
const TICK_NANOS: u64 = 20_000_000;
/// A client that was asked to leave does so within this time.
const OBEYS_WITHIN: Duration = Duration::from_secs(1);
/// RFC 6455 section 7.4.1: what a client says that goes, and what it answers.
const GOING_AWAY: u16 = 1001;

/// The frames that peers send, ready-made: by leg a message and a Close.
#[derive(Debug)]
pub(super) struct Frames {
    message: [Vec<u8>; 2],
    close: [Vec<u8>; 2],
}

impl Default for Frames {
    fn default() -> Self {
        let mask = [Some([0x51, 0x17, 0x08, 0x2c]), None];
        Self {
            message: mask.map(|mask| ws::message_frame(ws::Opcode::Text, b"tick", mask)),
            close: mask.map(|mask| ws::close_frame(Some(GOING_AWAY), "", mask)),
        }
    }
}

impl Sim {
    /// Begins to close a session so that its client comes back elsewhere.
    pub(crate) fn shed(&mut self, session: u32, spec: Arc<ShedSpec>) {
        let number = self.relay_of(session);
        let now = self.now;
        let Some(relay) = self.relays.at(number) else { return };
        match relay.session.begin_shed(now, &self.spec.pool.session, spec) {
            // One that is ending anyway says so when it ends.
            Ok(()) | Err(PinReason::Ending) => {}
            // No peer here sends a malformed frame.
            Err(PinReason::Opaque) => {}
        }
        self.settle(number);
    }

    /// The same, without waiting for a quiet moment any longer.
    pub(super) fn hasten(&mut self, session: u32, spec: Arc<ShedSpec>) {
        let number = self.relay_of(session);
        let now = self.now;
        let Some(relay) = self.relays.at(number) else { return };
        let _ = relay.session.begin_shed(now, &self.spec.pool.session, spec);
        relay.session.hasten(now, &self.spec.pool.session);
        self.settle(number);
    }

    /// A client closes its session by itself.
    pub(super) fn hang_up(&mut self, client: u32) {
        let session = self.clients[client as usize].session;
        let number = self.relay_of(session);
        if self.relays.at(number).is_some_and(|relay| !relay.closed[0]) {
            self.answer(number, Leg::Downstream, Said::Close, Duration::ZERO);
        }
    }

    /// The endpoint of a session is dead.
    pub(super) fn break_upstream(&mut self, session: u32) {
        let number = self.relay_of(session);
        let now = self.now;
        let Some(relay) = self.relays.at(number) else { return };
        (relay.closed[1], relay.ended[1]) = (true, true);
        relay.session.handle_broken(now, &self.spec.pool.session, Leg::Upstream);
        self.settle(number);
    }

    /// The gateway replica of a session is dead: nothing is said any more.
    pub(super) fn vanish(&mut self, session: u32) {
        let record = &self.sessions[session as usize];
        let (client, relay) = (record.client, record.relay);
        self.relays.remove(relay);
        self.remove(session);
        let rtt = self.rtt(client);
        self.queue.push(self.now + rtt / 2, Event::Dropped { client, session });
    }

    /// The relay of a session; one at rest gets a fresh one, which is what it would have had all the time.
    fn relay_of(&mut self, session: u32) -> u32 {
        let record = &self.sessions[session as usize];
        if record.relay != NONE {
            return record.relay;
        }
        let client = record.client;
        let relay = Relay {
            session: Session::new(ws::Extensions::None),
            of: session,
            is_leaving: false,
            finished: [false; 2],
            closed: [false; 2],
            ended: [false; 2],
            timer: None,
        };
        let (number, serial) = self.relays.insert(relay);
        self.sessions[session as usize].relay = number;
        let talk = self.spec.talk;
        for (leg, stream, every) in
            [(Leg::Downstream, 0, talk.message_every), (Leg::Upstream, 1, talk.push_every)]
        {
            if let Some(every) = every {
                let at = self.next_message(client, stream, every);
                self.queue.push(at, Event::Heard(Word { relay: number, serial, leg }, Said::Message));
            }
        }
        number
    }

    /// A peer's word has arrived.
    pub(super) fn heard(&mut self, word: Word, said: Said) {
        let now = self.now;
        let Some(relay) = self.relays.same(word.relay, word.serial) else { return };
        let silent = relay.closed[index(word.leg)] || relay.ended[index(word.leg)];
        let frame = match said {
            Said::Message | Said::Echo if silent => return,
            Said::Message | Said::Echo => &self.frames.message[index(word.leg)],
            Said::Close => &self.frames.close[index(word.leg)],
            Said::Notice => return,
            Said::End => {
                relay.session.handle_end(now, &self.spec.pool.session, word.leg);
                return self.settle(word.relay);
            }
        };
        let mut rest = frame.as_slice();
        let mut forwarded = 0;
        while !rest.is_empty() {
            let span = relay.session.handle_bytes(now, &self.spec.pool.session, word.leg, rest);
            forwarded += span.forward;
            let used = span.forward + span.skip;
            if used == 0 {
                break;
            }
            rest = &rest[used..];
        }
        let passed = forwarded == frame.len();
        let of = relay.of;
        let to = Word { leg: word.leg.other(), ..word };
        match said {
            Said::Close if passed => self.tell(to, Said::Close),
            Said::Message if word.leg == Leg::Downstream && passed => {
                self.queue.push(now + self.spec.net.endpoint_rtt, Event::Heard(to, Said::Echo));
            }
            Said::Close | Said::Message | Said::Echo | Said::Notice | Said::End => {}
        }
        if said == Said::Message {
            self.schedule_message(word, of);
        }
        self.settle(word.relay);
    }

    fn schedule_message(&mut self, word: Word, session: u32) {
        let client = self.sessions[session as usize].client;
        let (stream, every) = match word.leg {
            Leg::Downstream => (0, self.spec.talk.message_every),
            Leg::Upstream => (1, self.spec.talk.push_every),
        };
        if let Some(every) = every {
            let at = self.next_message(client, stream, every);
            self.queue.push(at, Event::Heard(word, Said::Message));
        }
    }

    /// A relay's deadline.
    pub(super) fn timer(&mut self, number: u32, serial: u32) {
        let now = self.now;
        let Some(relay) = self.relays.same(number, serial) else { return };
        relay.timer = None;
        relay.session.handle_timeout(now, &self.spec.pool.session);
        self.settle(number);
    }

    /// The gateway's word has reached a peer, which answers.
    pub(super) fn told(&mut self, word: Word, said: Said) {
        let Some(relay) = self.relays.same(word.relay, word.serial) else { return };
        let session = relay.of;
        let (closed, ended) = (relay.closed[index(word.leg)], relay.ended[index(word.leg)]);
        let record = &self.sessions[session as usize];
        let (client, node) = (record.client, usize::from(record.endpoint));
        match (word.leg, said) {
            (Leg::Downstream, Said::Close) => {
                if !closed && !self.clients[client as usize].mute {
                    self.answer(word.relay, word.leg, Said::Close, Duration::ZERO);
                }
            }
            (Leg::Downstream, Said::Notice) => {
                if !closed && !self.clients[client as usize].mute {
                    let after = self.between((Duration::ZERO, OBEYS_WITHIN));
                    self.answer(word.relay, word.leg, Said::Close, after);
                }
            }
            (Leg::Downstream, Said::End) => {
                self.client_ended(client, session);
                if !ended {
                    self.answer(word.relay, word.leg, Said::End, Duration::ZERO);
                }
            }
            (Leg::Upstream, Said::Close | Said::End) if self.nodes[node].alive => {
                if said == Said::Close && !closed {
                    self.answer(word.relay, word.leg, Said::Close, Duration::ZERO);
                }
                // The endpoint is the server: after both Close frames it ends first.
                if !ended {
                    self.answer(word.relay, word.leg, Said::End, Duration::ZERO);
                }
            }
            (Leg::Upstream, _) | (Leg::Downstream, Said::Message | Said::Echo) => {}
        }
    }

    /// A peer says something, `after` so long.
    fn answer(&mut self, number: u32, leg: Leg, said: Said, after: Duration) {
        let serial = self.relays.serial(number);
        let Some(relay) = self.relays.at(number) else { return };
        match said {
            Said::Close => relay.closed[index(leg)] = true,
            Said::End => relay.ended[index(leg)] = true,
            Said::Message | Said::Echo | Said::Notice => {}
        }
        let of = relay.of;
        let at = self.now + after + self.half_way(of, leg);
        self.queue.push(at, Event::Heard(Word { relay: number, serial, leg }, said));
    }

    fn tell(&mut self, word: Word, said: Said) {
        let Some(relay) = self.relays.same(word.relay, word.serial) else { return };
        let of = relay.of;
        let at = self.now + self.half_way(of, word.leg);
        self.queue.push(at, Event::Told(word, said));
    }

    fn half_way(&self, session: u32, leg: Leg) -> Duration {
        match leg {
            Leg::Downstream => self.rtt(self.sessions[session as usize].client) / 2,
            Leg::Upstream => self.spec.net.endpoint_rtt / 2,
        }
    }

    /// After any input: what the session has to say, whom it ends, when it wants to be woken.
    fn settle(&mut self, number: u32) {
        let now = self.now;
        let serial = self.relays.serial(number);
        let Some(relay) = self.relays.at(number) else { return };
        if relay.session.end().is_some() {
            // Before the client can know: it may be back at once.
            self.leaving(number);
        }
        for leg in [Leg::Downstream, Leg::Upstream] {
            let word = Word { relay: number, serial, leg };
            let Some(relay) = self.relays.at(number) else { return };
            let frame = relay.session.poll_transmit(leg, || [0x51, 0x17, 0x08, 0x2c]);
            let fin = relay.session.wants_fin(leg) && !relay.finished[index(leg)];
            relay.finished[index(leg)] |= fin;
            if let Some(frame) = frame {
                let is_close = frame.first().is_some_and(|byte| byte & 0x0f == 0x8);
                self.tell(word, if is_close { Said::Close } else { Said::Notice });
            }
            if fin {
                self.tell(word, Said::End);
            }
        }
        let Some(relay) = self.relays.at(number) else { return };
        if relay.session.is_finished() {
            return self.ended(number);
        }
        let Some((at, _)) = relay.session.poll_timeout() else { return };
        if relay.timer.is_none_or(|timer| timer > at) {
            let tick = at.max(now).as_nanos().div_ceil(TICK_NANOS) * TICK_NANOS;
            relay.timer = Some(Time::from_nanos(tick));
            self.queue.push(Time::from_nanos(tick), Event::Timer { relay: number, serial });
        }
    }

    /// The session has begun to end: one that is being moved may have its client back before its streams are done.
    fn leaving(&mut self, number: u32) {
        let Some(relay) = self.relays.at(number) else { return };
        let of = relay.of;
        let by_us = relay.session.end().is_some_and(|end| end.initiator == Initiator::Gateway);
        if relay.is_leaving {
            return;
        }
        let recycled = self.sessions[of as usize].recycled;
        if by_us && recycled {
            relay.is_leaving = true;
            return self.note_move(of);
        }
        if self.how_it_ended(number) != Ended::Moved {
            return;
        }
        let Some(relay) = self.relays.at(number) else { return };
        relay.is_leaving = true;
        let record = &self.sessions[of as usize];
        let (replica, node) = (usize::from(record.replica), record.endpoint);
        let (visitor, id) = (self.visitor(of), self.id(node));
        self.replicas[replica].planner.handle_leaving(self.now, &id, visitor);
        self.note_move(of);
    }

    /// As `gateway::stay::Stay` tells it.
    fn how_it_ended(&mut self, number: u32) -> Ended {
        let told = self.spec.pool.may_notify();
        let Some(relay) = self.relays.at(number) else { return Ended::Left };
        let by_us = relay.session.end().is_none_or(|end| end.initiator == Initiator::Gateway);
        match self.sessions[relay.of as usize].standing {
            Standing::Moving if by_us || told => Ended::Moved,
            Standing::Moving => Ended::LeftWhileMoving,
            Standing::Open | Standing::Ending if relay.session.is_lost() => Ended::Lost,
            Standing::Open | Standing::Ending => Ended::Left,
        }
    }

    /// The relay is gone.
    fn ended(&mut self, number: u32) {
        let how = self.how_it_ended(number);
        let Some(relay) = self.relays.at(number) else { return };
        let session = relay.of;
        let lost: u32 =
            [Leg::Downstream, Leg::Upstream].iter().map(|leg| relay.session.undeliverable_to(*leg)).sum();
        self.out.undeliverable += u64::from(lost);
        let record = &self.sessions[session as usize];
        let gone = if relay.session.has_client_answered() { Ended::Gone } else { Ended::Unanswered };
        let how = if relay.is_leaving && !record.recycled { gone } else { how };
        let (client, replica, node) = (record.client, usize::from(record.replica), record.endpoint);
        let (visitor, id) = (self.visitor(session), self.id(node));
        self.replicas[replica].planner.handle_closed(self.now, &id, how, visitor);
        self.relays.remove(number);
        self.remove(session);
        if self.clients[client as usize].session == session {
            // It has not seen the end of the stream yet, or will see a broken one.
            let rtt = self.rtt(client);
            self.queue.push(self.now + rtt / 2, Event::Dropped { client, session });
        }
    }

    /// Takes a session out of its replica's list.
    fn remove(&mut self, session: u32) {
        let record = &mut self.sessions[session as usize];
        record.relay = NONE;
        record.serial = record.serial.wrapping_add(1);
        let (replica, node, place) =
            (usize::from(record.replica), usize::from(record.endpoint), record.place);
        record.client = NONE;
        let list = &mut self.replicas[replica].sessions[node];
        list.swap_remove(place as usize);
        if let Some(moved) = list.get(place as usize) {
            self.sessions[*moved as usize].place = place;
        }
        self.nodes[node].held -= 1;
        self.free_sessions.push(session);
    }

    /// A session's client was told to go, to come back elsewhere.
    fn note_move(&mut self, session: u32) {
        let record = &self.sessions[session as usize];
        let (client, node) = (record.client, record.endpoint);
        let client_record = &mut self.clients[client as usize];
        if client_record.moves > 0 {
            let pause = self.now.since(client_record.moved_at);
            let least = self.out.moved_again_after.get_or_insert(pause);
            *least = pause.min(*least);
        }
        client_record.moves += 1;
        client_record.moved_at = self.now;
        // One that is on its way out for good does not come back.
        if client_record.stage == Stage::Open && client_record.session == session {
            client_record.donor = node;
        }
        self.out.moved.push(client);
        count_in_second(&mut self.out.moved_each_second, self.now);
    }
}

/// The place of a leg in pairs.
const fn index(leg: Leg) -> usize {
    match leg {
        Leg::Downstream => 0,
        Leg::Upstream => 1,
    }
}
