//! The property: whatever two peers do, in whatever chunks and at whatever times, both receive what RFC 6455 allows, what
//! a shed promises to deliver arrives, what is lost is counted exactly, and every ending is over in time.
//!
//! The peers keep the protocol for their part: each writes legal frames, one Close at most, and nothing behind it. A second
//! property has peers that write anything.

use std::time::Duration;

use model::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use session::{Initiator, Leg, Order, Settings, ShedSpec};
use ws::Extensions;

use crate::frames::{self, Frame, Stream, Writer, frame};
use crate::rig::{HALF_CLOSE, LEGS, LINGER, NOTICE, REPLY, Rig, notice, settings, spec, writer_to};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// The leg's peer writes something.
    Write(Leg, What),
    /// So many bytes of what it wrote arrive.
    Arrive(Leg, usize),
    /// So many milliseconds pass.
    Pass(u64),
    Shed(ShedSpec),
    Hasten,
    /// The leg's peer answers a Close that it has received.
    Answer(Leg),
    /// The leg's peer ends its stream; what has not arrived by then never does.
    End(Leg),
    Reset(Leg),
    Cut,
}

#[derive(Clone, Debug)]
enum What {
    /// The begin of a message, or more of one that is open; the payload's length; whether it is the last of it.
    Data {
        binary: bool,
        payload_bytes: usize,
        fin: bool,
    },
    Control {
        ping: bool,
        payload_bytes: usize,
    },
    Close(Option<u16>),
}

/// How a schedule goes on when its steps are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finale {
    /// Both peers finish what they began, answer Closes, and end when their stream is ended.
    Polite,
    /// Nobody does anything any more.
    Silence,
}

/// What a peer has written and what of it has arrived.
#[derive(Default)]
struct Peer {
    wire: Vec<u8>,
    arrived: usize,
    is_open: bool,
    is_closed: bool,
    count: u32,
}

impl Peer {
    fn write(&mut self, writer: Writer, what: &What) {
        if self.is_closed {
            return;
        }
        // Every frame differs, so that none can stand for another.
        self.count += 1;
        let fill = |payload_bytes: usize| -> Vec<u8> {
            self.count.to_be_bytes().into_iter().cycle().take(payload_bytes).collect()
        };
        let bytes = match *what {
            What::Data { binary, payload_bytes, fin } => {
                let first = if binary { 2 } else { 1 };
                let opcode = if self.is_open { 0 } else { first };
                self.is_open = !fin;
                frame(writer, fin, opcode, &fill(payload_bytes))
            }
            What::Control { ping, payload_bytes } => {
                frame(writer, true, if ping { 9 } else { 10 }, &fill(payload_bytes))
            }
            What::Close(code) => {
                self.is_closed = true;
                frame(writer, true, 8, &code.map_or(vec![], |code| code.to_be_bytes().to_vec()))
            }
        };
        self.wire.extend_from_slice(&bytes);
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        let end = self.wire.len().min(self.arrived.saturating_add(most));
        let bytes = self.wire[self.arrived..end].to_vec();
        self.arrived = end;
        bytes
    }
}

/// A rig with two peers, and what the promises depend on.
struct Play {
    rig: Rig,
    peers: [Peer; 2],
    shed: Option<(Time, ShedSpec)>,
    was_broken: [bool; 2],
    was_cut: bool,
}

impl Play {
    fn new() -> Self {
        Self {
            rig: Rig::new(),
            peers: Default::default(),
            shed: None,
            was_broken: [false; 2],
            was_cut: false,
        }
    }

    fn peer(&mut self, leg: Leg) -> &mut Peer {
        &mut self.peers[usize::from(leg == Leg::Upstream)]
    }

    fn step(&mut self, step: &Step) {
        if self.rig.session.is_finished() {
            return;
        }
        match step {
            Step::Write(leg, what) => self.peer(*leg).write(writer_to(leg.other()), what),
            Step::Arrive(leg, bytes) => self.arrive(*leg, *bytes),
            Step::Pass(ms) => self.rig.pass(Duration::from_millis(*ms)),
            Step::Shed(spec) => {
                let is_free = self.shed.is_none() && self.rig.session.end().is_none();
                let begun = self.rig.shed(spec.clone());
                assert_eq!(begun.is_ok(), is_free);
                if begun.is_ok() {
                    self.shed = Some((self.rig.now, spec.clone()));
                }
            }
            Step::Hasten => self.rig.hasten(),
            Step::Answer(leg) => {
                if let Some((code, _)) = self.rig.got(*leg).close {
                    self.peer(*leg).write(writer_to(leg.other()), &What::Close(code));
                }
            }
            Step::End(leg) => self.rig.end(*leg),
            Step::Reset(leg) => {
                self.was_broken[usize::from(*leg == Leg::Upstream)] = true;
                self.rig.reset(*leg);
            }
            Step::Cut => {
                self.was_cut = true;
                self.rig.cut(1001);
            }
        }
    }

    fn arrive(&mut self, from: Leg, most: usize) {
        let bytes = self.peer(from).take(most);
        self.rig.send(from, &bytes);
    }

    /// Both peers do what is expected of them, until nothing changes any more.
    fn be_polite(&mut self) {
        for round in 0.. {
            assert!(round < 100, "two polite peers do not come to an end");
            for leg in LEGS {
                if self.peer(leg).is_open {
                    let last = What::Data { binary: false, payload_bytes: 1, fin: true };
                    self.step(&Step::Write(leg, last));
                }
                self.step(&Step::Answer(leg));
                self.step(&Step::Arrive(leg, usize::MAX));
                if self.rig.session.wants_fin(leg) {
                    self.step(&Step::End(leg));
                }
            }
            if self.rig.session.is_finished() {
                return;
            }
            if self.shed.is_none() {
                self.step(&Step::Write(Leg::Downstream, What::Close(Some(1000))));
            }
            // The endpoint is the server: it ends its stream once both Closes are through.
            if self.rig.got(Leg::Upstream).close.is_some() && self.peer(Leg::Upstream).is_closed {
                self.step(&Step::Arrive(Leg::Upstream, usize::MAX));
                self.step(&Step::End(Leg::Upstream));
            }
            if self.rig.ending_since.is_none() && !self.rig.pass_to_deadline() {
                self.step(&Step::Write(Leg::Downstream, What::Close(Some(1000))));
            }
        }
    }

    fn finish(&mut self, finale: Finale) {
        if finale == Finale::Polite {
            self.be_polite();
            return;
        }
        if self.rig.ending_since.is_none() && self.shed.is_none() {
            self.step(&Step::End(Leg::Downstream));
        }
        while !self.rig.session.is_finished() {
            assert!(self.rig.pass_to_deadline(), "neither finished nor waiting");
        }
    }

    // ---- what must hold at the end

    fn check(&self) {
        for leg in LEGS {
            self.check_frames_to(leg);
            self.check_count_of(leg);
        }
        self.check_promise();
        self.check_time();
    }

    /// What a peer received is what the other one sent, as far as it goes, and frames of ours at legal places.
    fn check_frames_to(&self, leg: Leg) {
        let wire = self.rig.wire_to(leg);
        let got = self.rig.got(leg);
        assert!(wire.input().starts_with(wire.forwarded()), "a frame to {leg:?} was altered");
        let ours = |frame: &Frame| leg == Leg::Downstream && frame.payload == NOTICE.as_bytes();
        let notices = got.frames.iter().filter(|frame| ours(frame)).count();
        let closes = usize::from(got.close.is_some() && self.forwarded_to(leg).close.is_none());
        assert_eq!(wire.authored().len(), notices + closes);
        assert!(notices <= 1 && wire.authored().len() <= 2);
        assert_eq!(wire.output().len(), wire.forwarded().len() + wire.authored().concat().len());
    }

    /// `undeliverable_to` is what began less what was forwarded to its last byte.
    fn check_count_of(&self, leg: Leg) {
        let (came, went) = (self.came_for(leg), self.forwarded_to(leg));
        let lost = came.begun - went.complete;
        assert_eq!(self.rig.session.undeliverable_to(leg), lost, "lost towards {leg:?}");
        assert_eq!(self.rig.session.messages_to(leg), went.begun, "messages towards {leg:?}");
    }

    /// Who is told last loses nothing, unless a stream broke, a cut came, or a peer did not answer in time.
    fn check_promise(&self) {
        let by_us = self.rig.session.end().is_some_and(|end| end.initiator == Initiator::Gateway);
        let Some((_, spec)) = self.shed.as_ref().filter(|_| by_us && !self.was_cut && !self.rig.gave_up)
        else {
            return;
        };
        let sheltered = match spec.order {
            Order::ClientFirst => Leg::Upstream,
            Order::BackendFirst => Leg::Downstream,
        };
        if self.was_broken[usize::from(sheltered == Leg::Upstream)] {
            return;
        }
        let (came, went) = (self.came_for(sheltered), self.forwarded_to(sheltered));
        assert_eq!(went.complete, came.complete, "lost towards {sheltered:?}, which is told last");
    }

    /// A shed closes within its waits, and an ending is over within those of its phases.
    fn check_time(&self) {
        let ending_since = self.rig.ending_since.expect("the session has ended");
        if let Some((begun, spec)) = &self.shed {
            let told = spec.notice.as_ref().map_or(Duration::ZERO, |notice| spec.wait + notice.grace);
            assert!(ending_since.since(*begun) <= told + 2 * spec.wait + spec.reply_timeout);
        }
        let reply = self.shed.as_ref().map_or(REPLY, |(_, spec)| spec.reply_timeout.max(REPLY));
        assert!(self.rig.now.since(ending_since) <= 2 * reply + HALF_CLOSE + LINGER);
    }

    /// What was handed in for `leg`.
    fn came_for(&self, leg: Leg) -> Stream {
        frames::read(writer_to(leg), self.rig.wire_to(leg).input()).expect("the peers keep the protocol")
    }

    fn forwarded_to(&self, leg: Leg) -> Stream {
        frames::read(writer_to(leg), self.rig.wire_to(leg).forwarded())
            .expect("what is forwarded keeps the protocol without our frames too")
    }
}

// ---- strategies

fn leg() -> impl Strategy<Value = Leg> {
    prop_oneof![Just(Leg::Downstream), Just(Leg::Upstream)]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        12 => (any::<bool>(), prop_oneof![9 => 0_usize..20, 1 => 120_usize..400], any::<bool>())
            .prop_map(|(binary, payload_bytes, fin)| What::Data { binary, payload_bytes, fin }),
        3 => (any::<bool>(), prop_oneof![0_usize..10, Just(125)])
            .prop_map(|(ping, payload_bytes)| What::Control { ping, payload_bytes }),
        1 => prop_oneof![Just(None), Just(Some(1000)), Just(Some(4001))].prop_map(What::Close),
    ]
}

fn shed() -> impl Strategy<Value = ShedSpec> {
    let order = prop_oneof![Just(Order::ClientFirst), Just(Order::BackendFirst)];
    let ms = |least: u64, most: u64| (least..=most).prop_map(Duration::from_millis);
    (order, proptest::option::of(ms(0, 2000)), ms(0, 200), ms(0, 1000), ms(1, 3000)).prop_map(
        |(order, grace, quiet, wait, reply_timeout)| ShedSpec {
            notice: grace.and_then(notice),
            quiet,
            wait,
            reply_timeout,
            ..spec(order)
        },
    )
}

/// Frames of both kinds of writer, whole and cut, and bytes that are none.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let first =
        prop_oneof![6 => Just(0x81), 2 => Just(0x02), 2 => Just(0x80), 1 => Just(0x88), 1 => any::<u8>()];
    let frame = (any::<bool>(), first, 0_usize..30).prop_map(|(client, first, payload_bytes)| {
        let writer = if client { Writer::Client } else { Writer::Server };
        let mut bytes = frame(writer, true, 1, &vec![b'x'; payload_bytes]);
        bytes[0] = first;
        bytes
    });
    prop_oneof![
        4 => vec(frame, 1..4).prop_map(|frames| frames.concat()),
        1 => vec(any::<u8>(), 1..200),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 1_usize..12, 2 => 12_usize..200, 1 => Just(usize::MAX)];
    prop_oneof![
        30 => (leg(), what()).prop_map(|(leg, what)| Step::Write(leg, what)),
        40 => (leg(), size).prop_map(|(leg, bytes)| Step::Arrive(leg, bytes)),
        10 => prop_oneof![0_u64..60, 100_u64..2000].prop_map(Step::Pass),
        6 => shed().prop_map(Step::Shed),
        1 => Just(Step::Hasten),
        4 => leg().prop_map(Step::Answer),
        1 => leg().prop_map(Step::End),
        1 => leg().prop_map(Step::Reset),
        1 => Just(Step::Cut),
    ]
}

/// At least 2,000 cases a property. proptest puts `PROPTEST_CASES` into the default; its own 256 are too few.
fn cases() -> Config {
    let default = Config::default();
    Config {
        cases: if default.cases == 256 { 2000 } else { default.cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..default
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_happens_both_peers_see_a_legal_session_and_every_loss_is_counted(
        steps in vec(step(), 1..80),
        finale in prop_oneof![2 => Just(Finale::Polite), 1 => Just(Finale::Silence)],
    ) {
        let mut play = Play::new();
        steps.iter().for_each(|step| play.step(step));
        play.finish(finale);
        play.check();
    }

    #[test]
    fn whatever_bytes_a_peer_sends_nothing_panics_and_every_ending_is_over_in_time(
        chunks in vec((leg(), garbage(), 0_u64..500), 1..30),
        (shed, at) in (shed(), 0_usize..30),
        strict in any::<bool>(),
    ) {
        let mut rig = Rig::with(Settings { strict, ..settings() }, Extensions::Deflate);
        for (i, (from, bytes, ms)) in chunks.into_iter().enumerate() {
            let ours = LEGS.map(|leg| rig.wire_to(leg).authored().len());
            let was_opaque = rig.session.is_opaque();
            if i == at {
                // Refused or not: both are fine here.
                let _ = rig.shed(shed.clone());
            }
            rig.send(from, &bytes);
            rig.pass(Duration::from_millis(ms));
            prop_assert!(!was_opaque || ours == LEGS.map(|leg| rig.wire_to(leg).authored().len()));
        }
        prop_assert!(!(strict && rig.session.is_opaque()));
        rig.end(Leg::Downstream);
        while !rig.session.is_finished() {
            prop_assert!(rig.pass_to_deadline());
        }
        for leg in LEGS {
            let wire = rig.wire_to(leg);
            prop_assert!(wire.input().starts_with(wire.forwarded()));
            prop_assert!(wire.authored().len() <= 1 + usize::from(leg == Leg::Downstream && shed.notice.is_some()));
        }
        let ending = rig.now.since(rig.ending_since.unwrap_or(rig.now));
        prop_assert!(ending <= 2 * REPLY + HALF_CLOSE + LINGER);
    }
}
