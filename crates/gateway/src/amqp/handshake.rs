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
