//! The methods of the handshake: `connection.start`, `start-ok`, `tune`, `open` (section 2.2.4 and the XML definition).

use crate::credentials::Credentials;
use crate::error::FrameError;
use crate::frame::{FRAME_BYTES_MIN, FRAME_OVERHEAD};
use crate::method::MethodId;
use crate::reader::Reader;
use crate::table::{Table, Value};
use crate::write;

fn short(id: MethodId) -> FrameError {
    FrameError::Fields { class: id.class(), method: id.method() }
}

/// Fields of `connection.start`.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What the broker says of itself.
    pub server_properties: Table<'a>,
    /// Mechanisms, separated by spaces.
    pub mechanisms: &'a [u8],
    /// Locales, separated by spaces.
    pub locales: &'a [u8],
}

impl<'a> Start<'a> {
    /// Reads the payload of a `connection.start`.
    ///
    /// # Errors
    /// [`FrameError::Fields`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, FrameError> {
        let fields = || {
            let mut r = Reader::new(payload.get(4..)?);
            r.u16()?;
            let server_properties = r.table()?;
            let mechanisms = r.long_string()?;
            Some(Self { server_properties, mechanisms, locales: r.long_string()? })
        };
        fields().ok_or(short(MethodId::CONNECTION_START))
    }

    /// Writes the frame, of version 0-9 (its revision is in the protocol header only).
    pub fn write(&self, out: &mut Vec<u8>) {
        write::method(out, 0, MethodId::CONNECTION_START, |out| {
            out.extend_from_slice(&[0, 9]);
            write::long_string(out, self.server_properties.bytes());
            write::long_string(out, self.mechanisms);
            write::long_string(out, self.locales);
        });
    }

    /// The name of the cluster that the broker belongs to: see [`may_be_one_cluster`].
    pub fn cluster_name(&self) -> Option<&'a [u8]> {
        match self.server_properties.find("cluster_name") {
            Some(Value::Bytes(name)) => Some(name),
            _ => None,
        }
    }
}

/// Whether two names may be of one cluster. A broker whose cluster was never given a name tells its own, `rabbit@host`, and so
/// each node of a cluster another: such names say nothing.
pub fn may_be_one_cluster(one: &[u8], other: &[u8]) -> bool {
    one == other || one.contains(&b'@') && other.contains(&b'@')
}

/// Fields of `connection.start-ok`.
#[derive(Clone, Copy)]
pub struct StartOk<'a> {
    /// What the client says of itself.
    pub client_properties: Table<'a>,
    /// Its mechanism.
    pub mechanism: &'a [u8],
    /// Its SASL response. Secret.
    pub response: &'a [u8],
    /// Its locale.
    pub locale: &'a [u8],
}

impl<'a> StartOk<'a> {
    /// Reads the payload of a `connection.start-ok`.
    ///
    /// # Errors
    /// [`FrameError::Fields`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, FrameError> {
        let fields = || {
            let mut r = Reader::new(payload.get(4..)?);
            let client_properties = r.table()?;
            let mechanism = r.short_string()?;
            let response = r.long_string()?;
            Some(Self { client_properties, mechanism, response, locale: r.short_string()? })
        };
        fields().ok_or(short(MethodId::CONNECTION_START_OK))
    }

    /// Writes the frame. It contains the secret: `out` is to be overwritten when it is dropped, and must not grow.
    /// [`StartOk::frame_bytes`] is what it takes.
    pub fn write(&self, out: &mut Vec<u8>) {
        write::method(out, 0, MethodId::CONNECTION_START_OK, |out| {
            write::long_string(out, self.client_properties.bytes());
            write::short_string(out, self.mechanism);
            write::long_string(out, self.response);
            write::short_string(out, self.locale);
        });
    }

    /// Bytes of the whole frame. A broker takes no more than [`FRAME_BYTES_MIN`] before `tune-ok` unless it is configured to.
    pub const fn frame_bytes(&self) -> usize {
        let lengths = 4 + 1 + 4 + 1;
        let fields = self.client_properties.bytes().len()
            + self.mechanism.len()
            + self.response.len()
            + self.locale.len();
        FRAME_OVERHEAD + 4 + lengths + fields
    }

    /// The capability `name` that the client claims.
    pub fn has_capability(&self, name: &str) -> bool {
        let capabilities = match self.client_properties.find("capabilities") {
            Some(Value::Table(table)) => table,
            _ => return false,
        };
        capabilities.find(name) == Some(Value::Bool(true))
    }

    /// The user, where the mechanism tells it in the clear: PLAIN and AMQPLAIN.
    pub fn user(&self) -> Option<&'a [u8]> {
        Credentials::user_of(self.mechanism, self.response)
    }
}

impl std::fmt::Debug for StartOk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartOk").field("response", &"(secret)").finish_non_exhaustive()
    }
}

/// Fields of `connection.tune` and `tune-ok`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tune {
    /// Highest channel number; 0: no bound.
    pub channel_max: u16,
    /// Bytes of the largest frame; 0: no bound.
    pub frame_max: u32,
    /// Seconds between two heartbeats, or twice that until a peer is taken for dead; 0: none.
    pub heartbeat: u16,
}

impl Tune {
    /// Reads the payload of a `connection.tune` or `tune-ok`.
    ///
    /// # Errors
    /// [`FrameError::Fields`].
    pub fn parse(payload: &[u8]) -> Result<Self, FrameError> {
        let fields = || {
            let mut r = Reader::new(payload.get(4..)?);
            Some(Self { channel_max: r.u16()?, frame_max: r.u32()?, heartbeat: r.u16()? })
        };
        fields().ok_or(short(MethodId::CONNECTION_TUNE))
    }

    /// The smaller bound of both, field by field; 0 counts as none. The heartbeat stays.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        let least = |a: u32, b: u32| if a == 0 || b != 0 && b < a { b } else { a };
        Self {
            channel_max: least(self.channel_max.into(), other.channel_max.into()) as u16,
            frame_max: least(self.frame_max, other.frame_max),
            heartbeat: self.heartbeat,
        }
    }

    /// True when a client may answer this offer with `asked`: no bound is higher, and a frame has at least
    /// [`FRAME_BYTES_MIN`]. RabbitMQ closes with 530 otherwise.
    #[must_use]
    pub fn allows(self, asked: Self) -> bool {
        asked.within(self) == asked && (asked.frame_max == 0 || asked.frame_max >= FRAME_BYTES_MIN)
    }

    /// Writes it as `id`: `CONNECTION_TUNE` or `CONNECTION_TUNE_OK`.
    pub fn write(&self, out: &mut Vec<u8>, id: MethodId) {
        write::method(out, 0, id, |out| {
            out.extend_from_slice(&self.channel_max.to_be_bytes());
            out.extend_from_slice(&self.frame_max.to_be_bytes());
            out.extend_from_slice(&self.heartbeat.to_be_bytes());
        });
    }
}

/// The virtual host of a `connection.open`.
///
/// # Errors
/// [`FrameError::Fields`].
pub fn open_vhost(payload: &[u8]) -> Result<&[u8], FrameError> {
    let fields = || Reader::new(payload.get(4..)?).short_string();
    fields().ok_or(short(MethodId::CONNECTION_OPEN))
}

/// Writes `connection.open`.
pub fn write_open(out: &mut Vec<u8>, vhost: &[u8]) {
    write::method(out, 0, MethodId::CONNECTION_OPEN, |out| {
        write::short_string(out, vhost);
        out.extend_from_slice(&[0, 0]);
    });
}

/// Writes `connection.open-ok`.
pub fn write_open_ok(out: &mut Vec<u8>) {
    // A list of hosts, of which there are none since 0-9-1.
    write::method(out, 0, MethodId::CONNECTION_OPEN_OK, |out| out.push(0));
}
