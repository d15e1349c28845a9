//! Drives an AMQP session as the gateway's relay does, and keeps what every leg was sent.

use std::time::Duration;

use amqp::{Bits, Credentials, Method, MethodId, StartOk, Tune, write};
use model::Time;
use session::{Abort, AmqpEvent, AmqpLeg, AmqpSession, AmqpSettings, Opened, Retiree};

pub const HEARTBEAT: u16 = 60;

/// A session with its legs.
pub struct Rig {
    pub session: AmqpSession,
    pub settings: AmqpSettings,
    pub now: Time,
    pub client: Vec<u8>,
    pub endpoint: Vec<u8>,
    pub next: Vec<u8>,
    kept: [Vec<u8>; 3],
    pub retirees: Vec<(Retiree, Vec<u8>)>,
    pub told: Vec<Told>,
}

/// What the session has said, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Dial,
    Switched,
    NextDropped,
    UpstreamDropped,
    Migrated { replaced: bool },
    Aborted(Abort, bool),
    Forced(Abort, bool),
}

/// One frame, or several.
pub fn frames(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A method without fields.
pub fn bare(channel: u16, id: MethodId) -> Vec<u8> {
    frames(|out| write::bare(out, channel, id))
}

/// `basic.publish` with a body.
pub fn publish(channel: u16, body: &[u8]) -> Vec<u8> {
    frames(|out| {
        write::method(out, channel, MethodId::BASIC_PUBLISH, |out| {
            out.extend_from_slice(&[0; 2]);
            write::short_string(out, b"");
            write::short_string(out, b"q");
            out.push(0);
        });
        content(out, channel, body);
    })
}

/// `basic.deliver` to consumer `c` with a body.
pub fn deliver(channel: u16, tag: u64, body: &[u8]) -> Vec<u8> {
    frames(|out| {
        write::method(out, channel, MethodId::BASIC_DELIVER, |out| {
            write::short_string(out, b"c");
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(0);
            write::short_string(out, b"");
            write::short_string(out, b"q");
        });
        content(out, channel, body);
    })
}

fn content(out: &mut Vec<u8>, channel: u16, body: &[u8]) {
    for (kind, payload) in [(2, header(body.len())), (3, body.to_vec())] {
        if kind == 3 && body.is_empty() {
            continue;
        }
        out.push(kind);
        out.extend_from_slice(&channel.to_be_bytes());
        write::long_string(out, &payload);
        out.push(amqp::FRAME_END);
    }
}

fn header(body: usize) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend_from_slice(&(body as u64).to_be_bytes());
    payload.extend_from_slice(&[0; 2]);
    payload
}

pub fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    frames(|out| write::ack(out, channel, tag, multiple))
}

/// The methods in `bytes`, each with its channel; contents and heartbeats are left out.
pub fn methods(bytes: &[u8]) -> Vec<(u16, MethodId)> {
    let mut scanner = amqp::Scanner::new(0);
    let mut at = 0;
    let mut found = Vec::new();
    while at < bytes.len() {
        let piece = scanner.peek(&bytes[at..]).expect("the session writes legal frames");
        if let amqp::Piece::Frame { kind: amqp::Kind::Method, channel, .. } = piece {
            found.push((channel, MethodId::of(&bytes[at + amqp::HEADER_BYTES..])));
        }
        let len = scanner.take(piece);
        assert!(len > 0, "an incomplete frame was sent");
        at += len;
    }
    found
}

/// The tags of all frames of `id` in `bytes`.
pub fn tags(bytes: &[u8], id: MethodId) -> Vec<u64> {
    let mut scanner = amqp::Scanner::new(0);
    let mut at = 0;
    let mut found = Vec::new();
    while at < bytes.len() {
        let piece = scanner.peek(&bytes[at..]).expect("the session writes legal frames");
        let len = scanner.take(piece);
        if let amqp::Piece::Frame { kind: amqp::Kind::Method, size, .. } = piece {
            let payload = &bytes[at + amqp::HEADER_BYTES..at + amqp::HEADER_BYTES + size as usize];
            match Method::parse(payload).expect("the session writes legal methods") {
                Method::Ack { tag, .. } | Method::Deliver { tag, .. } if MethodId::of(payload) == id => {
                    found.push(tag);
                }
                _ => {}
            }
        }
        at += len;
    }
    found
}

impl Rig {
    pub fn new(settings: AmqpSettings) -> Self {
        let tune = Tune { channel_max: 2047, frame_max: 131_072, heartbeat: HEARTBEAT };
        let start_ok = frames(|out| {
            write::method(out, 0, MethodId::CONNECTION_START_OK, |out| {
                write::long_string(out, b"");
                write::short_string(out, b"PLAIN");
                write::long_string(out, b"\0guest\0secret");
                write::short_string(out, b"en_US");
            });
        });
        let start_ok = StartOk::parse(&start_ok[amqp::HEADER_BYTES..]).expect("it was just written");
        let opened = Opened {
            credentials: Credentials::new(&start_ok, tune, b"/"),
            tune,
            cluster: None,
            cancel_notify: true,
            blocked_notify: true,
        };
        Self {
            session: AmqpSession::new(opened, &settings),
            settings,
            now: Time::from_nanos(1_000_000_000),
            client: Vec::new(),
            endpoint: Vec::new(),
            next: Vec::new(),
            kept: Default::default(),
            retirees: Vec::new(),
            told: Vec::new(),
        }
    }

    /// With channel 1 open.
    pub fn with_channel(settings: AmqpSettings) -> Self {
        let mut rig = Self::new(settings);
        rig.client_says(&frames(|out| write::channel_open(out, 1)));
        rig.endpoint_says(&open_ok(1));
        rig.forget();
        rig
    }

    /// With consumer `c` on the declared queue `q` of that type, with this prefetch.
    pub fn with_consumer(settings: AmqpSettings, queue_type: &str, prefetch: u16) -> Self {
        let mut rig = Self::with_channel(settings);
        rig.declare(queue_type, 0b0_0010);
        rig.client_says(&frames(|out| write::qos(out, 1, prefetch, false)));
        rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
        rig.client_says(&frames(|out| write::consume(out, 1, b"q", b"c", Bits(0), b"")));
        rig.endpoint_says(&consume_ok(1));
        rig.forget();
        rig
    }

    /// Declares the queue `q` with these bits.
    pub fn declare(&mut self, queue_type: &str, bits: u8) {
        self.client_says(&frames(|out| {
            write::method(out, 1, MethodId::QUEUE_DECLARE, |out| {
                out.extend_from_slice(&[0; 2]);
                write::short_string(out, b"q");
                out.push(bits);
                let mut table = Vec::new();
                write::short_string(&mut table, b"x-queue-type");
                table.push(b'S');
                write::long_string(&mut table, queue_type.as_bytes());
                write::long_string(out, &table);
            });
        }));
        self.endpoint_says(&declare_ok(1, 0));
    }

    pub fn client_says(&mut self, bytes: &[u8]) {
        self.feed(AmqpLeg::Downstream, bytes);
    }

    pub fn endpoint_says(&mut self, bytes: &[u8]) {
        self.feed(AmqpLeg::Upstream, bytes);
    }

    pub fn next_says(&mut self, bytes: &[u8]) {
        self.feed(AmqpLeg::Next, bytes);
    }

    fn feed(&mut self, leg: AmqpLeg, bytes: &[u8]) {
        self.kept[leg as usize].extend_from_slice(bytes);
        self.digest(leg);
        // What waited for another leg may go on now.
        for leg in [AmqpLeg::Downstream, AmqpLeg::Upstream] {
            if self.session.wants_read(leg) && !self.kept[leg as usize].is_empty() {
                self.digest(leg);
            }
        }
    }

    fn digest(&mut self, leg: AmqpLeg) {
        for _ in 0..1000 {
            let mut bytes = std::mem::take(&mut self.kept[leg as usize]);
            if bytes.is_empty() {
                return;
            }
            let span = self.session.handle_bytes(self.now, &self.settings, leg, &mut bytes);
            self.kept[leg as usize] = bytes.split_off(span.forward + span.skip);
            let to = match leg {
                AmqpLeg::Downstream => &mut self.endpoint,
                AmqpLeg::Upstream | AmqpLeg::Next => &mut self.client,
            };
            to.extend_from_slice(&bytes[..span.forward]);
            self.settle();
            if span.hold {
                return;
            }
        }
        panic!("the session neither takes nor keeps its bytes");
    }

    /// Carries out events, then transmits.
    pub fn settle(&mut self) {
        while let Some(event) = self.session.poll_event() {
            let told = match event {
                AmqpEvent::Dial => Told::Dial,
                AmqpEvent::Switched { retiree } => {
                    self.kept[1] = std::mem::take(&mut self.kept[2]);
                    let former = std::mem::replace(&mut self.endpoint, std::mem::take(&mut self.next));
                    self.retirees.extend(retiree.map(|retiree| (retiree, former)));
                    Told::Switched
                }
                AmqpEvent::NextDropped { .. } => Told::NextDropped,
                AmqpEvent::UpstreamDropped { retiree } => {
                    let former = std::mem::take(&mut self.endpoint);
                    self.retirees.extend(retiree.map(|retiree| (retiree, former)));
                    Told::UpstreamDropped
                }
                AmqpEvent::Migrated { replaced, .. } => Told::Migrated { replaced },
                AmqpEvent::Aborted { reason, rolled_back } => Told::Aborted(reason, rolled_back),
                AmqpEvent::Forced { reason, lost } => Told::Forced(reason, lost),
            };
            self.told.push(told);
        }
        for (leg, out) in [
            (AmqpLeg::Downstream, &mut self.client),
            (AmqpLeg::Upstream, &mut self.endpoint),
            (AmqpLeg::Next, &mut self.next),
        ] {
            if let Some(bytes) = self.session.poll_transmit(leg) {
                out.extend_from_slice(&bytes);
            }
        }
    }

    /// Forgets what was sent and told so far.
    pub fn forget(&mut self) {
        self.client.clear();
        self.endpoint.clear();
        self.next.clear();
        self.told.clear();
    }

    pub fn wait(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now, &self.settings);
        self.settle();
        for leg in [AmqpLeg::Downstream, AmqpLeg::Upstream] {
            if self.session.wants_read(leg) {
                self.digest(leg);
            }
        }
    }

    /// Begins a migration and logs in at the next endpoint, up to its `open-ok`.
    pub fn log_in(&mut self) {
        self.session.begin_migration(self.now, &self.settings).expect("it may move");
        self.settle();
        assert_eq!(self.told.last(), Some(&Told::Dial));
        self.connect();
    }

    /// Connects to the next endpoint, and logs in.
    pub fn connect(&mut self) {
        self.session.handle_connected(self.now, &self.settings);
        self.settle();
        assert_eq!(self.next, amqp::PROTOCOL_HEADER);
        self.next.clear();
        self.next_says(&start());
        assert_eq!(methods(&self.next), [(0, MethodId::CONNECTION_START_OK)]);
        let tune = Tune { channel_max: 2047, frame_max: 131_072, heartbeat: HEARTBEAT };
        self.next_says(&frames(|out| tune.write(out, MethodId::CONNECTION_TUNE)));
        self.next.clear();
        self.next_says(&frames(amqp::write_open_ok));
    }
}

pub fn start() -> Vec<u8> {
    frames(|out| {
        write::method(out, 0, MethodId::CONNECTION_START, |out| {
            out.extend_from_slice(&[0, 9]);
            write::long_string(out, b"");
            write::long_string(out, b"PLAIN AMQPLAIN");
            write::long_string(out, b"en_US");
        });
    })
}

pub fn open_ok(channel: u16) -> Vec<u8> {
    frames(|out| write::method(out, channel, MethodId::CHANNEL_OPEN_OK, |out| out.extend_from_slice(&[0; 4])))
}

/// The queue `q` has `ready` messages that no consumer has.
pub fn declare_ok(channel: u16, ready: u32) -> Vec<u8> {
    frames(|out| {
        write::method(out, channel, MethodId::QUEUE_DECLARE_OK, |out| {
            write::short_string(out, b"q");
            out.extend_from_slice(&ready.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
        });
    })
}

pub fn consume_ok(channel: u16) -> Vec<u8> {
    frames(|out| {
        write::method(out, channel, MethodId::BASIC_CONSUME_OK, |out| write::short_string(out, b"c"));
    })
}

pub fn cancel_ok(channel: u16) -> Vec<u8> {
    frames(|out| write::cancel_ok(out, channel, b"c"))
}
