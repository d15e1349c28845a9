//! Frames: their parts, their sizes, and the eight bytes before the first one.

/// The eight bytes with which a client of AMQP 0-9-1 begins (section 4.2.2).
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// Type, channel and size in front of a payload (section 4.2.3).
pub const HEADER_BYTES: usize = 7;

/// The octet behind every payload (section 4.2.3).
pub const FRAME_END: u8 = 0xCE;

/// Bytes of a frame beside its payload. `frame_max` counts them.
pub const FRAME_OVERHEAD: usize = HEADER_BYTES + 1;

/// The least `frame_max` that may be agreed (`frame-min-size` of the XML definition), and the bound before any is. RabbitMQ 4
/// waits for as much as 8192 before `tune-ok`; what is agreed may still be this.
pub const FRAME_BYTES_MIN: u32 = 4096;

/// What a frame carries (section 4.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A method.
    Method,
    /// The header of a content.
    Header,
    /// Some of the body of a content.
    Body,
    /// Nothing: the peer is alive.
    Heartbeat,
}

impl Kind {
    /// The kind of that number.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub const fn as_u8(self) -> u8 {
        match self {
            Self::Method => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }
}

/// What a client's first eight bytes ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// AMQP 0-9-1.
    Amqp091,
    /// AMQP 1.0, bare or with its SASL or TLS layer: the protocol id.
    Amqp10(u8),
    /// Another version of AMQP.
    OtherVersion,
    /// No AMQP at all.
    Unknown,
}

/// Judges the first eight bytes.
pub fn protocol_of(header: [u8; 8]) -> Protocol {
    match header {
        PROTOCOL_HEADER => Protocol::Amqp091,
        [b'A', b'M', b'Q', b'P', id @ (0 | 2 | 3), 1, 0, 0] => Protocol::Amqp10(id),
        [b'A', b'M', b'Q', b'P', ..] => Protocol::OtherVersion,
        _ => Protocol::Unknown,
    }
}
