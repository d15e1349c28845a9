//! A handshake that is relayed between a client and its endpoint: what may come next from whom, and what is noted down.
//!
//! Without IO. Every frame passes as it is, but for `tune`, whose bounds are lowered to what the whole pool allows.

use amqp::{Credentials, FrameError, MethodId, Start, StartOk, Tune, code, open_vhost};
use session::Opened;
use zeroize::Zeroizing;

use super::frames::Frame;

/// Who sent a frame, or is to send the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The client.
    Client,
    /// The endpoint.
    Endpoint,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Start,
    StartOk,
    /// Or `secure`.
    Tune,
    SecureOk,
    TuneOk,
    Open,
    OpenOk,
    Opened,
    /// A close is out; the other side's `close-ok` and the ends of the streams are to come.
    Closing,
}

/// What becomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Passed {
    /// It goes on as it is.
    AsIs,
    /// This goes on in its place.
    Instead(Vec<u8>),
}

/// A frame that has no place where it came, or is malformed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Out of turn.
    #[error("expected {expected}, found method {found:?}")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: MethodId,
    },
    /// Fields that do not fit.
    #[error(transparent)]
    Malformed(#[from] FrameError),
}

impl Fault {
    /// The reply code for the client, when it is its fault.
    pub const fn code(&self) -> u16 {
        match self {
            Self::Unexpected { .. } => code::COMMAND_INVALID,
            Self::Malformed(error) => error.code(),
        }
    }
}

/// A handshake in progress.
pub struct Handshake {
    step: Step,
    start_ok: Option<Zeroizing<Vec<u8>>>,
    was_challenged: bool,
    cluster: Option<Box<[u8]>>,
    offered: Option<Tune>,
    agreed: Option<Tune>,
    vhost: Box<[u8]>,
}

impl Handshake {
    /// Behind the client's header.
    pub fn new() -> Self {
        Self {
            step: Step::Start,
            start_ok: None,
            was_challenged: false,
            cluster: None,
            offered: None,
            agreed: None,
            vhost: Box::default(),
        }
    }

    /// Whose frame is waited for. `None`: nobody's, it is open or being closed.
    pub const fn awaits(&self) -> Option<From> {
        match self.step {
            Step::Start | Step::Tune | Step::OpenOk => Some(From::Endpoint),
            Step::StartOk | Step::SecureOk | Step::TuneOk | Step::Open => Some(From::Client),
            Step::Opened | Step::Closing => None,
        }
    }

    /// The `open-ok` has passed.
    pub fn is_open(&self) -> bool {
        self.step == Step::Opened
    }

    /// The client may be told why it is closed: earlier, a close has no place in the handshake.
    pub const fn may_close(&self) -> bool {
        matches!(self.step, Step::TuneOk | Step::Open | Step::OpenOk | Step::Opened)
    }

    /// What a client sends behind `open` is the session's.
    pub fn hears_client(&self) -> bool {
        self.step != Step::OpenOk
    }

    /// What the endpoint's `tune` offered.
    pub const fn offered(&self) -> Option<Tune> {
        self.offered
    }

    /// A frame has come. `bounds`: what the pool's other endpoints allow.
    ///
    /// # Errors
    /// [`Fault`], of whoever sent it.
    pub fn handle(&mut self, from: From, frame: &Frame, bounds: Tune) -> Result<Passed, Fault> {
        let payload = frame.payload();
        // Once it is agreed, heartbeats may come at any time.
        let Some(method) = frame.method() else { return Ok(Passed::AsIs) };
        if method == MethodId::CONNECTION_CLOSE {
            self.step = Step::Closing;
            return Ok(Passed::AsIs);
        }
        match (self.step, from, method) {
            (Step::Start, From::Endpoint, MethodId::CONNECTION_START) => {
                self.cluster = Start::parse(payload)?.cluster_name().map(Into::into);
                self.step = Step::StartOk;
            }
            (Step::StartOk, From::Client, MethodId::CONNECTION_START_OK) => {
                StartOk::parse(payload)?;
                self.start_ok = Some(Zeroizing::new(frame.bytes().to_vec()));
                self.step = Step::Tune;
            }
            (Step::Tune, From::Endpoint, MethodId::CONNECTION_SECURE) => {
                self.was_challenged = true;
                self.step = Step::SecureOk;
            }
            (Step::SecureOk, From::Client, MethodId::CONNECTION_SECURE_OK) => self.step = Step::Tune,
            (Step::Tune, From::Endpoint, MethodId::CONNECTION_TUNE) => {
                let offered = Tune::parse(payload)?;
                self.offered = Some(offered);
                self.step = Step::TuneOk;
                return Ok(Passed::Instead(tune(offered.within(bounds))));
            }
            (Step::TuneOk, From::Client, MethodId::CONNECTION_TUNE_OK) => {
                self.agreed = Some(Tune::parse(payload)?);
                self.step = Step::Open;
            }
            (Step::Open, From::Client, MethodId::CONNECTION_OPEN) => {
                self.vhost = open_vhost(payload)?.into();
                self.step = Step::OpenOk;
            }
            (Step::OpenOk, From::Endpoint, MethodId::CONNECTION_OPEN_OK) => self.step = Step::Opened,
            _ => return Err(Fault::Unexpected { expected: self.expected(from), found: method }),
        }
        Ok(Passed::AsIs)
    }

    /// What the session begins with. `keeps_login`: it may log in elsewhere in the client's stead.
    ///
    /// `None` unless it is open.
    pub fn opened(self, keeps_login: bool) -> Option<Opened> {
        let (frame, tune) = (self.start_ok?, self.agreed?);
        let start_ok = StartOk::parse(frame.get(amqp::HEADER_BYTES..frame.len() - 1)?).ok()?;
        let may_keep = keeps_login && !self.was_challenged;
        Some(Opened {
            credentials: may_keep.then(|| Credentials::new(&start_ok, tune, &self.vhost)).flatten(),
            tune,
            cluster: self.cluster,
            cancel_notify: start_ok.has_capability("consumer_cancel_notify"),
            blocked_notify: start_ok.has_capability("connection.blocked"),
        })
    }

    const fn expected(&self, from: From) -> &'static str {
        match (self.step, from) {
            (Step::Start, From::Endpoint) => "connection.start",
            (Step::StartOk, From::Client) => "connection.start-ok",
            (Step::Tune, From::Endpoint) => "connection.secure or tune",
            (Step::SecureOk, From::Client) => "connection.secure-ok",
            (Step::TuneOk, From::Client) => "connection.tune-ok",
            (Step::Open, From::Client) => "connection.open",
            (Step::OpenOk, From::Endpoint) => "connection.open-ok",
            _ => "nothing before the other side has answered",
        }
    }
}

/// The `connection.tune` frame.
pub fn tune(tune: Tune) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    tune.write(&mut out, MethodId::CONNECTION_TUNE);
    out
}

/// A `connection.close` frame.
pub fn close(code: u16, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    amqp::write::connection_close(&mut out, code, text);
    out
}

#[cfg(test)]
mod tests {
    use amqp::{Table, write};

    use super::super::known::UNBOUNDED;
    use super::*;

    const OFFERED: Tune = Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };

    fn method(id: MethodId) -> Vec<u8> {
        let mut out = Vec::new();
        match id {
            MethodId::CONNECTION_START => {
                let mut properties = Vec::new();
                write::short_string(&mut properties, b"cluster_name");
                properties.push(b'S');
                write::long_string(&mut properties, b"c1");
                let server_properties = Table::new(&properties);
                Start { server_properties, mechanisms: b"PLAIN", locales: b"en_US" }.write(&mut out);
            }
            MethodId::CONNECTION_START_OK => {
                let client_properties = Table::new(b"");
                let (mechanism, response, locale) = (&b"PLAIN"[..], &b"\0u\0p"[..], &b"en_US"[..]);
                StartOk { client_properties, mechanism, response, locale }.write(&mut out);
            }
            MethodId::CONNECTION_TUNE | MethodId::CONNECTION_TUNE_OK => OFFERED.write(&mut out, id),
            MethodId::CONNECTION_OPEN => amqp::write_open(&mut out, b"/v"),
            MethodId::CONNECTION_OPEN_OK => amqp::write_open_ok(&mut out),
            MethodId::CONNECTION_CLOSE => write::connection_close(&mut out, 403, "no"),
            id => write::method(&mut out, 0, id, |out| write::long_string(out, b"")),
        }
        out
    }

    /// The ordinary course, with one challenge or none.
    fn course(challenges: usize) -> Vec<(From, MethodId)> {
        let begin =
            [(From::Endpoint, MethodId::CONNECTION_START), (From::Client, MethodId::CONNECTION_START_OK)];
        let challenge =
            [(From::Endpoint, MethodId::CONNECTION_SECURE), (From::Client, MethodId::CONNECTION_SECURE_OK)];
        let end = [
            (From::Endpoint, MethodId::CONNECTION_TUNE),
            (From::Client, MethodId::CONNECTION_TUNE_OK),
            (From::Client, MethodId::CONNECTION_OPEN),
            (From::Endpoint, MethodId::CONNECTION_OPEN_OK),
        ];
        let challenges = std::iter::repeat_n(challenge, challenges).flatten();
        begin.into_iter().chain(challenges).chain(end).collect()
    }

    fn run(steps: &[(From, MethodId)]) -> Handshake {
        let mut handshake = Handshake::new();
        for (from, id) in steps {
            assert_eq!(handshake.awaits(), Some(*from), "before {id:?}");
            let passed = handshake.handle(*from, &Frame::of(&method(*id)), UNBOUNDED);
            assert!(passed.is_ok(), "{id:?}: {passed:?}");
        }
        handshake
    }

    #[test]
    fn a_handshake_without_a_challenge_can_be_repeated_elsewhere() {
        for (challenges, keeps_login, repeats) in [(0, true, true), (1, true, false), (0, false, false)] {
            let handshake = run(&course(challenges));
            assert!(handshake.is_open());
            let opened = handshake.opened(keeps_login).expect("it is open");
            assert_eq!(opened.credentials.is_some(), repeats, "{challenges} challenges, {keeps_login}");
            assert_eq!((opened.tune, opened.cluster.as_deref()), (OFFERED, Some(&b"c1"[..])));
        }
    }

    #[test]
    fn every_method_out_of_turn_is_a_fault_and_a_close_never_is() {
        let course = course(1);
        for place in 0..course.len() {
            for (from, id) in &course {
                let mut handshake = run(&course[..place]);
                let step = handshake.step;
                let passed = handshake.handle(*from, &Frame::of(&method(*id)), UNBOUNDED);
                let may_follow = (*from, *id) == course[place]
                    || place == 2 && *id == MethodId::CONNECTION_TUNE
                    || place == 4 && *id == MethodId::CONNECTION_SECURE;
                assert_eq!(passed.is_ok(), may_follow, "{id:?} from {from:?} at {step:?}");
                let mut handshake = run(&course[..place]);
                let close = Frame::of(&method(MethodId::CONNECTION_CLOSE));
                assert_eq!(handshake.handle(*from, &close, UNBOUNDED), Ok(Passed::AsIs));
                assert_eq!((handshake.awaits(), handshake.is_open()), (None, false));
            }
        }
    }

    #[test]
    fn a_close_has_a_place_from_tune_on() {
        let course = course(0);
        let places: Vec<_> = (0..=course.len()).map(|place| run(&course[..place]).may_close()).collect();
        assert_eq!(places, [false, false, false, true, true, true, true]);
    }

    #[test]
    fn only_tune_is_changed_and_only_towards_less() {
        for (bounds, expected) in [
            (UNBOUNDED, OFFERED),
            (Tune { channel_max: 0, frame_max: 4096, heartbeat: 10 }, Tune { frame_max: 4096, ..OFFERED }),
            (Tune { channel_max: 9, frame_max: 200_000, heartbeat: 10 }, Tune { channel_max: 9, ..OFFERED }),
        ] {
            let mut handshake = run(&course(0)[..2]);
            let frame = Frame::of(&method(MethodId::CONNECTION_TUNE));
            assert_eq!(handshake.handle(From::Endpoint, &frame, bounds), Ok(Passed::Instead(tune(expected))));
            assert_eq!(handshake.offered(), Some(OFFERED), "what is remembered is the endpoint's own");
        }
    }
}
