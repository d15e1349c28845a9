//! Methods: their ids, the fields that matter here, and the one place where a field is changed.

use crate::error::FrameError;
use crate::frame::{HEADER_BYTES, Kind};
use crate::reader::Reader;
use crate::table::Table;

/// Class and method of a method, as the first four bytes of its payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodId(pub u32);

impl std::fmt::Debug for MethodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.class(), self.method())
    }
}

macro_rules! ids {
    ($($name:ident = $class:literal, $method:literal;)*) => {
        #[allow(missing_docs, reason = "names and numbers are those of the XML definition")]
        impl MethodId {
            $(pub const $name: Self = Self($class << 16 | $method);)*
        }
    };
}

ids! {
    CONNECTION_START = 10, 10;
    CONNECTION_START_OK = 10, 11;
    CONNECTION_SECURE = 10, 20;
    CONNECTION_SECURE_OK = 10, 21;
    CONNECTION_TUNE = 10, 30;
    CONNECTION_TUNE_OK = 10, 31;
    CONNECTION_OPEN = 10, 40;
    CONNECTION_OPEN_OK = 10, 41;
    CONNECTION_CLOSE = 10, 50;
    CONNECTION_CLOSE_OK = 10, 51;
    CONNECTION_BLOCKED = 10, 60;
    CONNECTION_UNBLOCKED = 10, 61;
    CONNECTION_UPDATE_SECRET = 10, 70;
    CONNECTION_UPDATE_SECRET_OK = 10, 71;
    CHANNEL_OPEN = 20, 10;
    CHANNEL_OPEN_OK = 20, 11;
    CHANNEL_FLOW = 20, 20;
    CHANNEL_FLOW_OK = 20, 21;
    CHANNEL_CLOSE = 20, 40;
    CHANNEL_CLOSE_OK = 20, 41;
    ACCESS_REQUEST = 30, 10;
    ACCESS_REQUEST_OK = 30, 11;
    EXCHANGE_DECLARE = 40, 10;
    EXCHANGE_DECLARE_OK = 40, 11;
    EXCHANGE_DELETE = 40, 20;
    EXCHANGE_DELETE_OK = 40, 21;
    EXCHANGE_BIND = 40, 30;
    EXCHANGE_BIND_OK = 40, 31;
    EXCHANGE_UNBIND = 40, 40;
    EXCHANGE_UNBIND_OK = 40, 51;
    QUEUE_DECLARE = 50, 10;
    QUEUE_DECLARE_OK = 50, 11;
    QUEUE_BIND = 50, 20;
    QUEUE_BIND_OK = 50, 21;
    QUEUE_PURGE = 50, 30;
    QUEUE_PURGE_OK = 50, 31;
    QUEUE_DELETE = 50, 40;
    QUEUE_DELETE_OK = 50, 41;
    QUEUE_UNBIND = 50, 50;
    QUEUE_UNBIND_OK = 50, 51;
    BASIC_QOS = 60, 10;
    BASIC_QOS_OK = 60, 11;
    BASIC_CONSUME = 60, 20;
    BASIC_CONSUME_OK = 60, 21;
    BASIC_CANCEL = 60, 30;
    BASIC_CANCEL_OK = 60, 31;
    BASIC_PUBLISH = 60, 40;
    BASIC_RETURN = 60, 50;
    BASIC_DELIVER = 60, 60;
    BASIC_GET = 60, 70;
    BASIC_GET_OK = 60, 71;
    BASIC_GET_EMPTY = 60, 72;
    BASIC_ACK = 60, 80;
    BASIC_REJECT = 60, 90;
    BASIC_RECOVER_ASYNC = 60, 100;
    BASIC_RECOVER = 60, 110;
    BASIC_RECOVER_OK = 60, 111;
    BASIC_NACK = 60, 120;
    CONFIRM_SELECT = 85, 10;
    CONFIRM_SELECT_OK = 85, 11;
    TX_SELECT = 90, 10;
    TX_SELECT_OK = 90, 11;
    TX_COMMIT = 90, 20;
    TX_COMMIT_OK = 90, 21;
    TX_ROLLBACK = 90, 30;
    TX_ROLLBACK_OK = 90, 31;
}

/// The class that has channel 0 for itself: connection.
pub const CLASS_CONNECTION: u16 = 10;

/// The class of content that exists: basic.
pub const CLASS_BASIC: u16 = 60;

impl MethodId {
    /// Of a method's payload. 0.0 when that is shorter than four bytes.
    pub fn of(payload: &[u8]) -> Self {
        Self(payload.first_chunk().map_or(0, |id| u32::from_be_bytes(*id)))
    }

    /// Its class.
    pub const fn class(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Its number within the class.
    pub const fn method(self) -> u16 {
        self.0 as u16
    }

    /// True when a content follows it.
    pub const fn has_content(self) -> bool {
        matches!(self, Self::BASIC_PUBLISH | Self::BASIC_RETURN | Self::BASIC_DELIVER | Self::BASIC_GET_OK)
    }
}

/// Where a delivery or confirm tag stands in these methods' frames: behind class and method.
const TAG_AT: usize = HEADER_BYTES + 4;

/// Fields of `basic.consume`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consume<'a> {
    /// Queue; empty: the channel's last declared one.
    pub queue: &'a [u8],
    /// Consumer tag; empty: the broker makes one.
    pub tag: &'a [u8],
    /// `no-local`, `no-ack`, `exclusive`, `nowait`.
    pub bits: Bits,
    /// Arguments.
    pub arguments: Table<'a>,
}

/// Fields of `queue.declare`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Declare<'a> {
    /// Queue; empty: the broker makes a name.
    pub queue: &'a [u8],
    /// `passive`, `durable`, `exclusive`, `auto-delete`, `nowait`.
    pub bits: Bits,
    /// Arguments.
    pub arguments: Table<'a>,
}

/// Consecutive bit fields, packed from the lowest bit of an octet (section 4.2.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bits(pub u8);

impl Bits {
    /// The bit at `place`, 0 first.
    pub const fn at(self, place: u8) -> bool {
        self.0 >> place & 1 == 1
    }
}

/// A new password or token. Its `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<'a>(pub &'a [u8]);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Consume<'_> {
    /// Nothing is acknowledged.
    pub const fn no_ack(&self) -> bool {
        self.bits.at(1)
    }

    /// No other consumer may be there.
    pub const fn exclusive(&self) -> bool {
        self.bits.at(2)
    }

    /// No answer is wanted.
    pub const fn nowait(&self) -> bool {
        self.bits.at(3)
    }
}

impl Declare<'_> {
    /// It only asks whether the queue is there.
    pub const fn passive(&self) -> bool {
        self.bits.at(0)
    }

    /// It belongs to the connection.
    pub const fn exclusive(&self) -> bool {
        self.bits.at(2)
    }

    /// It goes with its last consumer.
    pub const fn auto_delete(&self) -> bool {
        self.bits.at(3)
    }

    /// No answer is wanted.
    pub const fn nowait(&self) -> bool {
        self.bits.at(4)
    }
}

/// A method, with the fields that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "names and fields are those of the specification")]
pub enum Method<'a> {
    Close {
        code: u16,
        text: &'a [u8],
    },
    CloseOk,
    Blocked,
    Unblocked,
    UpdateSecret {
        secret: Secret<'a>,
    },
    UpdateSecretOk,
    ChannelOpen,
    ChannelOpenOk,
    ChannelFlow {
        active: bool,
    },
    ChannelFlowOk,
    ChannelClose {
        code: u16,
        text: &'a [u8],
    },
    ChannelCloseOk,
    Declare(Declare<'a>),
    DeclareOk {
        queue: &'a [u8],
        /// Messages that no consumer has.
        ready: u32,
    },
    QueueDelete {
        queue: &'a [u8],
        nowait: bool,
    },
    Qos {
        prefetch: u16,
        global: bool,
    },
    Consume(Consume<'a>),
    ConsumeOk {
        tag: &'a [u8],
    },
    /// By the client, or by the broker, whose queue is gone.
    Cancel {
        tag: &'a [u8],
        nowait: bool,
    },
    CancelOk {
        tag: &'a [u8],
    },
    Publish,
    Return,
    Deliver {
        consumer: &'a [u8],
        tag: u64,
    },
    Get {
        no_ack: bool,
    },
    GetOk {
        tag: u64,
    },
    GetEmpty,
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
    },
    Reject {
        tag: u64,
    },
    RecoverAsync,
    Recover,
    ConfirmSelect {
        nowait: bool,
    },
    TxSelect,
    TxCommit,
    TxRollback,
    /// Any other method of a client's that is answered, unless `nowait`.
    Request {
        nowait: bool,
    },
    /// Any other answer to one.
    Reply(MethodId),
    /// Anything else.
    Other(MethodId),
}

impl<'a> Method<'a> {
    /// Reads a method's payload, as far as the last field that is given here. What follows is for the receiver to judge, as
    /// is whether a name is UTF-8 and a table well-formed.
    ///
    /// # Errors
    /// [`FrameError::Fields`] when the payload ends within these fields.
    pub fn parse(payload: &'a [u8]) -> Result<Self, FrameError> {
        let id = MethodId::of(payload);
        payload
            .get(4..)
            .and_then(|rest| fields(id, Reader::new(rest)))
            .ok_or(FrameError::Fields { class: id.class(), method: id.method() })
    }
}

fn fields<'a>(id: MethodId, mut r: Reader<'a>) -> Option<Method<'a>> {
    Some(match id.class() {
        10 => connection(id, r)?,
        20 => channel(id, r)?,
        30 => match id {
            // Left over from AMQP 0-8; RabbitMQ answers it still.
            MethodId::ACCESS_REQUEST => Method::Request { nowait: false },
            MethodId::ACCESS_REQUEST_OK => Method::Reply(id),
            _ => Method::Other(id),
        },
        50 => queue(id, r)?,
        60 => basic(id, r)?,
        40 => match id {
            MethodId::EXCHANGE_DECLARE => {
                r.u16()?;
                r.short_string()?;
                r.short_string()?;
                Method::Request { nowait: Bits(r.u8()?).at(4) }
            }
            MethodId::EXCHANGE_DELETE => {
                r.u16()?;
                r.short_string()?;
                Method::Request { nowait: Bits(r.u8()?).at(1) }
            }
            MethodId::EXCHANGE_BIND | MethodId::EXCHANGE_UNBIND => bind(&mut r)?,
            MethodId::EXCHANGE_DECLARE_OK
            | MethodId::EXCHANGE_DELETE_OK
            | MethodId::EXCHANGE_BIND_OK
            | MethodId::EXCHANGE_UNBIND_OK => Method::Reply(id),
            _ => Method::Other(id),
        },
        _ => match id {
            MethodId::CONFIRM_SELECT => Method::ConfirmSelect { nowait: Bits(r.u8()?).at(0) },
            MethodId::TX_SELECT => Method::TxSelect,
            MethodId::TX_COMMIT => Method::TxCommit,
            MethodId::TX_ROLLBACK => Method::TxRollback,
            MethodId::CONFIRM_SELECT_OK
            | MethodId::TX_SELECT_OK
            | MethodId::TX_COMMIT_OK
            | MethodId::TX_ROLLBACK_OK => Method::Reply(id),
            _ => Method::Other(id),
        },
    })
}

/// Of `exchange.bind`, `exchange.unbind` and `queue.bind`, whose fields are alike.
fn bind<'a>(r: &mut Reader<'a>) -> Option<Method<'a>> {
    r.u16()?;
    r.short_string()?;
    r.short_string()?;
    r.short_string()?;
    Some(Method::Request { nowait: Bits(r.u8()?).at(0) })
}

fn connection<'a>(id: MethodId, mut r: Reader<'a>) -> Option<Method<'a>> {
    Some(match id {
        MethodId::CONNECTION_CLOSE => Method::Close { code: r.u16()?, text: r.short_string()? },
        MethodId::CONNECTION_CLOSE_OK => Method::CloseOk,
        MethodId::CONNECTION_BLOCKED => Method::Blocked,
        MethodId::CONNECTION_UNBLOCKED => Method::Unblocked,
        MethodId::CONNECTION_UPDATE_SECRET => Method::UpdateSecret { secret: Secret(r.long_string()?) },
        MethodId::CONNECTION_UPDATE_SECRET_OK => Method::UpdateSecretOk,
        _ => Method::Other(id),
    })
}

fn channel<'a>(id: MethodId, mut r: Reader<'a>) -> Option<Method<'a>> {
    Some(match id {
        MethodId::CHANNEL_OPEN => Method::ChannelOpen,
        MethodId::CHANNEL_OPEN_OK => Method::ChannelOpenOk,
        MethodId::CHANNEL_FLOW => Method::ChannelFlow { active: Bits(r.u8()?).at(0) },
        MethodId::CHANNEL_FLOW_OK => Method::ChannelFlowOk,
        MethodId::CHANNEL_CLOSE => Method::ChannelClose { code: r.u16()?, text: r.short_string()? },
        MethodId::CHANNEL_CLOSE_OK => Method::ChannelCloseOk,
        _ => Method::Other(id),
    })
}

fn queue<'a>(id: MethodId, mut r: Reader<'a>) -> Option<Method<'a>> {
    Some(match id {
        MethodId::QUEUE_DECLARE => {
            r.u16()?;
            let queue = r.short_string()?;
            Method::Declare(Declare { queue, bits: Bits(r.u8()?), arguments: r.table()? })
        }
        MethodId::QUEUE_DECLARE_OK => Method::DeclareOk { queue: r.short_string()?, ready: r.u32()? },
        MethodId::QUEUE_DELETE => {
            r.u16()?;
            let queue = r.short_string()?;
            Method::QueueDelete { queue, nowait: Bits(r.u8()?).at(2) }
        }
        MethodId::QUEUE_BIND => bind(&mut r)?,
        MethodId::QUEUE_PURGE => {
            r.u16()?;
            r.short_string()?;
            Method::Request { nowait: Bits(r.u8()?).at(0) }
        }
        MethodId::QUEUE_UNBIND => Method::Request { nowait: false },
        MethodId::QUEUE_BIND_OK
        | MethodId::QUEUE_PURGE_OK
        | MethodId::QUEUE_DELETE_OK
        | MethodId::QUEUE_UNBIND_OK => Method::Reply(id),
        _ => Method::Other(id),
    })
}

fn basic<'a>(id: MethodId, mut r: Reader<'a>) -> Option<Method<'a>> {
    Some(match id {
        MethodId::BASIC_PUBLISH => Method::Publish,
        MethodId::BASIC_DELIVER => Method::Deliver { consumer: r.short_string()?, tag: r.u64()? },
        MethodId::BASIC_ACK => Method::Ack { tag: r.u64()?, multiple: Bits(r.u8()?).at(0) },
        MethodId::BASIC_NACK => Method::Nack { tag: r.u64()?, multiple: Bits(r.u8()?).at(0) },
        MethodId::BASIC_REJECT => Method::Reject { tag: r.u64()? },
        MethodId::BASIC_RETURN => Method::Return,
        MethodId::BASIC_QOS => {
            r.u32()?;
            Method::Qos { prefetch: r.u16()?, global: Bits(r.u8()?).at(0) }
        }
        MethodId::BASIC_CONSUME => {
            r.u16()?;
            let (queue, tag) = (r.short_string()?, r.short_string()?);
            Method::Consume(Consume { queue, tag, bits: Bits(r.u8()?), arguments: r.table()? })
        }
        MethodId::BASIC_CONSUME_OK => Method::ConsumeOk { tag: r.short_string()? },
        MethodId::BASIC_CANCEL => Method::Cancel { tag: r.short_string()?, nowait: Bits(r.u8()?).at(0) },
        MethodId::BASIC_CANCEL_OK => Method::CancelOk { tag: r.short_string()? },
        MethodId::BASIC_GET => {
            r.u16()?;
            r.short_string()?;
            Method::Get { no_ack: Bits(r.u8()?).at(0) }
        }
        MethodId::BASIC_GET_OK => Method::GetOk { tag: r.u64()? },
        MethodId::BASIC_GET_EMPTY => Method::GetEmpty,
        MethodId::BASIC_RECOVER_ASYNC => Method::RecoverAsync,
        MethodId::BASIC_RECOVER => Method::Recover,
        MethodId::BASIC_QOS_OK | MethodId::BASIC_RECOVER_OK => Method::Reply(id),
        _ => Method::Other(id),
    })
}

/// Changes the tag of an ack, nack, reject, get-ok or deliver where it stands in `frame`, which is a whole one. False, and
/// nothing is changed, when the frame is none of them or has no room for a tag.
pub fn patch(frame: &mut [u8], tag: u64) -> bool {
    let Some(place) = tag_place(frame) else { return false };
    match frame.get_mut(place) {
        Some(field) => {
            field.copy_from_slice(&tag.to_be_bytes());
            true
        }
        None => false,
    }
}

/// Where the tag stands: within the payload, never on the end octet.
fn tag_place(frame: &[u8]) -> Option<std::ops::Range<usize>> {
    if frame.first() != Some(&Kind::Method.as_u8()) {
        return None;
    }
    let payload = frame.get(HEADER_BYTES..frame.len() - 1)?;
    let at = match MethodId::of(payload) {
        MethodId::BASIC_ACK | MethodId::BASIC_NACK | MethodId::BASIC_REJECT | MethodId::BASIC_GET_OK => {
            TAG_AT
        }
        MethodId::BASIC_DELIVER => TAG_AT + 1 + usize::from(*frame.get(TAG_AT)?),
        _ => return None,
    };
    (at + 8 < frame.len()).then(|| at..at + 8)
}
