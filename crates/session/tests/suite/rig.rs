//! Drives a session as the gateway's relay does: a span at a time, what is held in front of what comes next, and the
//! session's own frames behind what was forwarded. Time moves only when it is told to, and stops at every deadline.

use std::sync::Arc;
use std::time::Duration;

use model::Time;
use session::{Leg, Notice, Order, PinReason, Session, Settings, ShedSpec};
use ws::Extensions;

use crate::frames::{self, Stream, Writer};

pub const LEGS: [Leg; 2] = [Leg::Downstream, Leg::Upstream];
pub const REPLY: Duration = Duration::from_secs(5);
pub const HALF_CLOSE: Duration = Duration::from_secs(4);
pub const LINGER: Duration = Duration::from_secs(2);
pub const ABORT_CODE: u16 = 1014;

/// A session, its two peers' ends of the wires, and its clock.
pub struct Rig {
    pub session: Session,
    pub settings: Settings,
    pub now: Time,
    /// When the end began.
    pub ending_since: Option<Time>,
    /// A deadline of the ending came before the peers were done.
    pub gave_up: bool,
    wires: [Wire; 2],
}

/// One direction: from a leg's peer to the other leg.
#[derive(Default)]
struct Wire {
    /// Everything that came from the leg.
    input: Vec<u8>,
    /// Of it, what the session has not consumed.
    held: Vec<u8>,
    /// Everything that was written to the *other* leg.
    output: Vec<u8>,
    /// Of it, what the session forwarded.
    forwarded: Vec<u8>,
    /// The session's own frames in it.
    authored: Vec<Vec<u8>>,
    /// Our end of stream is behind them.
    is_ended: bool,
}

/// Who wrote some bytes.
enum Whose {
    Peer,
    Ours,
}

pub fn settings() -> Settings {
    Settings {
        strict: false,
        on_upstream_abort: ABORT_CODE,
        reply_timeout: REPLY,
        half_close_timeout: HALF_CLOSE,
        close_linger: LINGER,
    }
}

/// 1012, quiet for 100 ms, waits of 3 s, no notice.
pub fn spec(order: Order) -> ShedSpec {
    ShedSpec {
        notice: None,
        code: 1012,
        reason: "rebalance".into(),
        order,
        quiet: Duration::from_millis(100),
        wait: Duration::from_secs(3),
        reply_timeout: REPLY,
    }
}

pub const NOTICE: &str = r#"{"type":"reconnect"}"#;

pub fn notice(grace: Duration) -> Option<Notice> {
    Some(Notice { frame: frames::text(Writer::Server, NOTICE), grace })
}

/// Who writes to the peer of `leg`.
pub fn writer_to(leg: Leg) -> Writer {
    match leg {
        Leg::Downstream => Writer::Server,
        Leg::Upstream => Writer::Client,
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(settings(), Extensions::None)
    }

    pub fn with(settings: Settings, extensions: Extensions) -> Self {
        Self {
            session: Session::new(extensions),
            settings,
            now: Time::from_millis(1000),
            ending_since: None,
            gave_up: false,
            wires: Default::default(),
        }
    }

    /// The peer of `from` sends `bytes`, which arrive at once.
    pub fn send(&mut self, from: Leg, bytes: &[u8]) {
        if !self.session.wants_read(from) {
            return;
        }
        let to = from.other();
        self.wire(to).input.extend_from_slice(bytes);
        let mut chunk = std::mem::take(&mut self.wire(to).held);
        chunk.extend_from_slice(bytes);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let span = self.session.handle_bytes(self.now, &self.settings, from, rest);
            self.emit(to, &rest[..span.forward], Whose::Peer);
            self.author();
            let used = span.forward + span.skip;
            if used == 0 {
                break;
            }
            rest = &rest[used..];
        }
        assert!(rest.len() < ws::CONTROL_FRAME_BYTES_MAX, "{} bytes are to be held", rest.len());
        self.wire(to).held = rest.to_vec();
    }

    pub fn client(&mut self, bytes: &[u8]) {
        self.send(Leg::Downstream, bytes);
    }

    pub fn endpoint(&mut self, bytes: &[u8]) {
        self.send(Leg::Upstream, bytes);
    }

    /// The peer of `leg` ends its stream.
    pub fn end(&mut self, leg: Leg) {
        if self.session.wants_read(leg) {
            self.session.handle_end(self.now, &self.settings, leg);
            self.author();
        }
    }

    /// The stream of `leg` is reset.
    pub fn reset(&mut self, leg: Leg) {
        self.session.handle_broken(self.now, &self.settings, leg);
        self.author();
    }

    pub fn shed(&mut self, spec: ShedSpec) -> Result<(), PinReason> {
        let begun = self.session.begin_shed(self.now, &self.settings, Arc::new(spec));
        self.author();
        begun
    }

    pub fn hasten(&mut self) {
        self.session.hasten(self.now, &self.settings);
        self.author();
    }

    pub fn cut(&mut self, code: u16) {
        self.session.cut(self.now, &self.settings, code);
        self.author();
    }

    /// Lets time pass, waking the session at each of its deadlines and at none other.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.session.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.expire();
        }
        self.now = until;
    }

    /// Lets time pass until the next deadline; false when there is none.
    pub fn pass_to_deadline(&mut self) -> bool {
        let Some((at, _)) = self.session.poll_timeout() else { return false };
        self.now = self.now.max(at);
        self.expire();
        true
    }

    fn expire(&mut self) {
        self.gave_up |= self.session.end().is_some();
        self.session.handle_timeout(self.now, &self.settings);
        self.author();
        let next = self.session.poll_timeout();
        assert!(next.is_none_or(|(at, _)| at > self.now), "woken at {:?}, again {next:?}", self.now);
    }

    /// Writes the session's own frames, and notes what the caller of a session can rely on after every input.
    fn author(&mut self) {
        for leg in LEGS {
            if let Some(frame) = self.session.poll_transmit(leg, || [7, 77, 177, 17]) {
                self.emit(leg, &frame, Whose::Ours);
            }
        }
        for leg in LEGS {
            self.wire(leg).is_ended |= self.session.wants_fin(leg);
        }
        if self.session.end().is_some() {
            self.ending_since.get_or_insert(self.now);
            let bounded = self.session.poll_timeout().is_some() || self.session.is_finished();
            assert!(bounded, "an ending without a deadline");
        }
    }

    fn emit(&mut self, to: Leg, bytes: &[u8], whose: Whose) {
        let wire = self.wire(to);
        assert!(bytes.is_empty() || !wire.is_ended, "bytes behind the end of our stream");
        wire.output.extend_from_slice(bytes);
        match whose {
            Whose::Peer => wire.forwarded.extend_from_slice(bytes),
            Whose::Ours => wire.authored.push(bytes.to_vec()),
        }
    }

    fn wire(&mut self, to: Leg) -> &mut Wire {
        &mut self.wires[usize::from(to == Leg::Upstream)]
    }

    pub fn wire_to(&self, to: Leg) -> WireView<'_> {
        WireView(&self.wires[usize::from(to == Leg::Upstream)])
    }

    /// What the peer of `leg` has received, strictly read.
    pub fn got(&self, leg: Leg) -> Stream {
        match frames::read(writer_to(leg), self.wire_to(leg).output()) {
            Ok(stream) => stream,
            Err(broken) => panic!("the peer of {leg:?} received {broken}"),
        }
    }

    /// The texts and binaries that the peer of `leg` has received, and its Close code if it has one.
    pub fn heard(&self, leg: Leg) -> (Vec<String>, Option<u16>) {
        let stream = self.got(leg);
        let texts = stream
            .frames
            .iter()
            .filter(|frame| frame.opcode < 8)
            .map(|frame| String::from_utf8_lossy(&frame.payload).into_owned());
        (texts.collect(), stream.close.and_then(|(code, _)| code))
    }

    pub fn lost(&self) -> (u32, u32) {
        (self.session.undeliverable_to(Leg::Downstream), self.session.undeliverable_to(Leg::Upstream))
    }

    pub fn fins(&self) -> (bool, bool) {
        (self.session.wants_fin(Leg::Downstream), self.session.wants_fin(Leg::Upstream))
    }

    /// How long until the next deadline.
    pub fn wait(&self) -> Option<Duration> {
        self.session.poll_timeout().map(|(at, _)| at.since(self.now))
    }
}

/// One direction, for looking only.
pub struct WireView<'a>(&'a Wire);

impl<'a> WireView<'a> {
    pub fn input(&self) -> &'a [u8] {
        &self.0.input
    }

    pub fn output(&self) -> &'a [u8] {
        &self.0.output
    }

    pub fn forwarded(&self) -> &'a [u8] {
        &self.0.forwarded
    }

    pub fn authored(&self) -> &'a [Vec<u8>] {
        &self.0.authored
    }
}
