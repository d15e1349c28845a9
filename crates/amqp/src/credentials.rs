//! What a client logged in with, kept so that the gateway can log in elsewhere in its stead.
//!
//! It is overwritten when it is dropped, has no `Debug` that shows it, and leaves this file only as a `start-ok` frame
//! that is overwritten in turn.

use zeroize::Zeroizing;

use crate::method::MethodId;
use crate::start::{StartOk, Tune};
use crate::table::{Table, Value};
use crate::{start, write};

/// Longest SASL response that is kept, in bytes. Tokens are a few KiB.
pub const SASL_BYTES_MAX: usize = 32 * 1024;

/// A client's side of the handshake: everything needed to log in again.
pub struct Credentials {
    mechanism: Box<[u8]>,
    response: Zeroizing<Box<[u8]>>,
    client_properties: Box<[u8]>,
    locale: Box<[u8]>,
    tune: Tune,
    vhost: Box<[u8]>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

impl Credentials {
    /// Of a handshake that has succeeded. `None`: it can not be repeated, since the mechanism does not allow it, the response
    /// does not name its user as the mechanism demands, or it is longer than [`SASL_BYTES_MAX`].
    pub fn new(start_ok: &StartOk<'_>, tune: Tune, vhost: &[u8]) -> Option<Self> {
        // Mechanisms whose response is the same each time, and only those, tell the user.
        start_ok.user()?;
        if start_ok.response.len() > SASL_BYTES_MAX {
            return None;
        }
        Some(Self {
            mechanism: start_ok.mechanism.into(),
            response: Zeroizing::new(start_ok.response.into()),
            client_properties: start_ok.client_properties.bytes().into(),
            locale: start_ok.locale.into(),
            tune,
            vhost: vhost.into(),
        })
    }

    /// What was agreed with `tune-ok`.
    pub fn tune(&self) -> Tune {
        self.tune
    }

    /// The virtual host.
    pub fn vhost(&self) -> &[u8] {
        &self.vhost
    }

    /// The user that `response` names, with a mechanism that tells it in the clear. `None` also when the response asks to act
    /// as somebody else (RFC 4616's authorization identity), which RabbitMQ refuses.
    pub fn user_of<'a>(mechanism: &[u8], response: &'a [u8]) -> Option<&'a [u8]> {
        match mechanism {
            b"PLAIN" => {
                let mut parts = response.strip_prefix(&[0])?.split(|byte| *byte == 0);
                let (user, _password) = (parts.next()?, parts.next()?);
                parts.next().is_none().then_some(user)
            }
            b"AMQPLAIN" => match Table::new(response).find("LOGIN") {
                Some(Value::Bytes(user)) => Some(user),
                _ => None,
            },
            _ => None,
        }
    }

    /// The user.
    pub fn user(&self) -> Option<&[u8]> {
        Self::user_of(&self.mechanism, &self.response)
    }

    /// The client has changed its password or token with `connection.update-secret`, and the broker has said yes. False:
    /// the mechanism can not carry `secret`, or it is too long. Then nothing has changed, and these credentials are stale.
    pub fn update_secret(&mut self, secret: &[u8]) -> bool {
        let Some(response) = self.response_with(secret) else { return false };
        self.response = response;
        true
    }

    fn response_with(&self, secret: &[u8]) -> Option<Zeroizing<Box<[u8]>>> {
        let user = self.user()?;
        // Room for all of it from the start: a buffer that grew would leave a copy behind.
        let mut response = Zeroizing::new(Vec::with_capacity(64 + user.len() + secret.len()));
        match &*self.mechanism {
            b"PLAIN" if secret.contains(&0) => return None,
            b"PLAIN" => {
                for part in [user, secret] {
                    response.push(0);
                    response.extend_from_slice(part);
                }
            }
            _ => {
                for (name, value) in [(&b"LOGIN"[..], user), (b"PASSWORD", secret)] {
                    write::short_string(&mut response, name);
                    response.push(b'S');
                    write::long_string(&mut response, value);
                }
            }
        }
        (response.len() <= SASL_BYTES_MAX).then(|| Zeroizing::new(response.as_slice().into()))
    }

    /// The `connection.start-ok` frame.
    pub fn start_ok(&self) -> Zeroizing<Vec<u8>> {
        let start_ok = StartOk {
            client_properties: Table::new(&self.client_properties),
            mechanism: &self.mechanism,
            response: &self.response,
            locale: &self.locale,
        };
        let mut out = Zeroizing::new(Vec::with_capacity(start_ok.frame_bytes()));
        start_ok.write(&mut out);
        out
    }

    /// The `connection.tune-ok` and `connection.open` frames.
    pub fn tune_ok_and_open(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.tune.write(&mut out, MethodId::CONNECTION_TUNE_OK);
        start::write_open(&mut out, &self.vhost);
        out
    }
}
