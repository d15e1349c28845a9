//! The client side of the handshake with recorded credentials: what a migration does first at the new endpoint.
//!
//! `header()` goes out first; then every frame of the broker's goes into [`Login::handle_method`], which says what to send next.

use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::error::code;
use crate::frame::PROTOCOL_HEADER;
use crate::method::{Method, MethodId};
use crate::start::{Start, Tune, may_be_one_cluster};

/// A login in progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Login {
    /// The header is out.
    ExpectStart,
    /// `start-ok` is out.
    ExpectTune,
    /// `tune-ok` and `open` are out.
    ExpectOpenOk,
    /// Channels may be opened.
    Done,
}

/// What follows from a broker's method. Its `Debug` does not show what is sent: one of them is the secret.
pub enum Progress {
    /// Send these bytes.
    Send(Zeroizing<Vec<u8>>),
    /// The connection is open.
    Open,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Send(_) => "Send(secret)",
            Self::Open => "Open",
        })
    }
}

/// Why a login does not succeed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    /// The broker has refused it: what it says, at most 255 bytes, and its reply code. Never the secret.
    #[error("the endpoint refused the login: {code} {text}")]
    Refused {
        /// Reply code.
        code: u16,
        /// Reply text.
        text: String,
    },
    /// The broker allows less than was agreed with the client.
    #[error(
        "the endpoint allows frame_max {frame_max} and channel_max {channel_max}, less than the client was promised"
    )]
    Tune {
        /// The broker's.
        frame_max: u32,
        /// The broker's.
        channel_max: u16,
    },
    /// It belongs to another cluster, where the queues are others.
    #[error("the endpoint belongs to another cluster")]
    OtherCluster,
    /// It asks for a second round, which a recorded response can not give.
    #[error("the endpoint asks for a challenge, which can not be answered in the client's stead")]
    Challenge,
    /// It does not speak the protocol.
    #[error("the endpoint sent method {0:?} amid the handshake")]
    Unexpected(MethodId),
    /// Its method is malformed.
    #[error("the endpoint sent a malformed frame: {0}")]
    Malformed(#[from] crate::FrameError),
}

impl Login {
    /// What goes out first.
    pub const fn header() -> [u8; 8] {
        PROTOCOL_HEADER
    }

    /// A method that the broker has sent on channel 0. `cluster`: the name of the cluster that the client is logged in at; `None`: any will do.
    ///
    /// # Errors
    /// [`LoginError`]: the connection is of no use.
    pub fn handle_method(
        &mut self,
        payload: &[u8],
        credentials: &Credentials,
        cluster: Option<&[u8]>,
    ) -> Result<Progress, LoginError> {
        let id = MethodId::of(payload);
        if let Method::Close { code, text } = Method::parse(payload)? {
            return Err(LoginError::Refused { code, text: refusal(code, text) });
        }
        match (*self, id) {
            (Self::ExpectStart, MethodId::CONNECTION_START) => {
                let start = Start::parse(payload)?;
                let theirs = start.cluster_name().unwrap_or_default();
                if cluster.is_some_and(|ours| !may_be_one_cluster(theirs, ours)) {
                    return Err(LoginError::OtherCluster);
                }
                *self = Self::ExpectTune;
                Ok(Progress::Send(credentials.start_ok()))
            }
            (Self::ExpectTune, MethodId::CONNECTION_TUNE) => {
                let offered = Tune::parse(payload)?;
                let agreed = credentials.tune();
                if agreed.within(offered) != agreed {
                    let Tune { frame_max, channel_max, .. } = offered;
                    return Err(LoginError::Tune { frame_max, channel_max });
                }
                *self = Self::ExpectOpenOk;
                Ok(Progress::Send(Zeroizing::new(credentials.tune_ok_and_open())))
            }
            (Self::ExpectTune, MethodId::CONNECTION_SECURE) => Err(LoginError::Challenge),
            (Self::ExpectOpenOk, MethodId::CONNECTION_OPEN_OK) => {
                *self = Self::Done;
                Ok(Progress::Open)
            }
            _ => Err(LoginError::Unexpected(id)),
        }
    }
}

/// RabbitMQ quotes a response that it can not read, so what it says of one is left out: it may be the secret.
fn refusal(code: u16, text: &[u8]) -> String {
    match code {
        code::SYNTAX_ERROR => "(its text may quote the secret)".into(),
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}
