//! What can be wrong with a frame, in words for the developer of the peer that sent it, and the reply codes.

/// Reply codes of the specification (constants of the XML definition).
pub mod code {
    /// Nothing is wrong.
    pub const SUCCESS: u16 = 200;
    /// An operator closes the connection: clients may connect again.
    pub const CONNECTION_FORCED: u16 = 320;
    /// The login was refused.
    pub const ACCESS_REFUSED: u16 = 403;
    /// Something that is not allowed: the virtual host is not there, or the client asks for more than it was offered.
    pub const NOT_ALLOWED: u16 = 530;
    /// A frame is malformed.
    pub const FRAME_ERROR: u16 = 501;
    /// A field has an illegal value.
    pub const SYNTAX_ERROR: u16 = 502;
    /// A method that is not legal at this moment.
    pub const COMMAND_INVALID: u16 = 503;
    /// A frame for a channel that is not open.
    pub const CHANNEL_ERROR: u16 = 504;
    /// A frame that is not expected at this point.
    pub const UNEXPECTED_FRAME: u16 = 505;
    /// Something here is broken.
    pub const INTERNAL_ERROR: u16 = 541;

    /// Its name, as brokers write it in front of a reply text.
    pub const fn name(code: u16) -> &'static str {
        match code {
            SUCCESS => "NORMAL_SHUTDOWN",
            CONNECTION_FORCED => "CONNECTION_FORCED",
            ACCESS_REFUSED => "ACCESS_REFUSED",
            NOT_ALLOWED => "NOT_ALLOWED",
            FRAME_ERROR => "FRAME_ERROR",
            SYNTAX_ERROR => "SYNTAX_ERROR",
            COMMAND_INVALID => "COMMAND_INVALID",
            CHANNEL_ERROR => "CHANNEL_ERROR",
            UNEXPECTED_FRAME => "UNEXPECTED_FRAME",
            _ => "INTERNAL_ERROR",
        }
    }
}

/// Why a byte stream is not, or no longer, a legal sequence of AMQP 0-9-1 frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not one of the four types.
    #[error("expected frame type 1, 2, 3 or 8, found {0} (AMQP 0-9-1 4.2.3)")]
    Kind(u8),
    /// More than was agreed.
    #[error(
        "expected a frame of at most {frame_bytes_max} bytes (frame_max), found one of {frame_bytes} (AMQP 0-9-1 4.2.3)"
    )]
    TooLong {
        /// The whole frame.
        frame_bytes: u64,
        /// What was agreed.
        frame_bytes_max: u32,
    },
    /// The octet behind the payload.
    #[error("expected frame end octet 0xCE, found {0:#04X} (AMQP 0-9-1 4.2.3)")]
    End(u8),
    /// A heartbeat that carries something, or on a channel.
    #[error(
        "expected a heartbeat without payload on channel 0, found {size} bytes on channel {channel} (AMQP 0-9-1 4.2.7)"
    )]
    Heartbeat {
        /// Its channel.
        channel: u16,
        /// Its payload.
        size: u32,
    },
    /// A method or content header that ends before its fixed fields do.
    #[error("expected at least {expected} bytes of payload, found {found} (AMQP 0-9-1 4.2.4, 4.2.6.1)")]
    TooShort {
        /// Bytes of the fixed fields.
        expected: u32,
        /// Bytes announced.
        found: u32,
    },
    /// Content on channel 0.
    #[error("expected content on a channel, found it on channel 0 (AMQP 0-9-1 4.2.6.1)")]
    ContentOnZero,
    /// A method of class connection on a channel, or another one on channel 0.
    #[error(
        "expected methods of class 10 on channel 0 and no others there, found class {class} on channel {channel} (AMQP 0-9-1 4.2.3)"
    )]
    Channel {
        /// Its channel.
        channel: u16,
        /// Its class.
        class: u16,
    },
    /// A content header of another class than the method before it.
    #[error("expected a content header of class {expected}, found class {found} (AMQP 0-9-1 4.2.6.1)")]
    Class {
        /// The method's class.
        expected: u16,
        /// The header's.
        found: u16,
    },
    /// More body than the header has announced.
    #[error("expected at most {left} more bytes of body, found {found} (AMQP 0-9-1 4.2.6.2)")]
    BodyTooLong {
        /// Bytes that were left.
        left: u64,
        /// Bytes in this frame.
        found: u32,
    },
    /// A frame out of turn: content without a method, or a method inside a content.
    #[error("expected {expected}, found {found:?} on channel {channel} (AMQP 0-9-1 4.2.6)")]
    Unexpected {
        /// The channel.
        channel: u16,
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: crate::Kind,
    },
    /// A method whose fields do not fit its frame.
    #[error(
        "expected the fields of method {class}.{method}, found a frame that ends within them (AMQP 0-9-1 4.2.4)"
    )]
    Fields {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
    },
}

impl FrameError {
    /// The reply code with which the connection is closed.
    ///
    /// It is the specification's wherever that names one (4.2.3, 4.2.6.1, 4.2.7). RabbitMQ differs in two: it answers content
    /// on channel 0 and a content header of another class with 505. For a wrong type or end octet the specification wants the
    /// connection closed without a word; RabbitMQ says 501 first, and so does this.
    pub const fn code(&self) -> u16 {
        match self {
            Self::Kind(_)
            | Self::TooLong { .. }
            | Self::End(_)
            | Self::Heartbeat { .. }
            | Self::TooShort { .. }
            | Self::Class { .. }
            | Self::BodyTooLong { .. }
            | Self::Fields { .. } => code::FRAME_ERROR,
            Self::Channel { channel: 1.., .. } => code::COMMAND_INVALID,
            Self::Channel { channel: 0, .. } | Self::ContentOnZero => code::CHANNEL_ERROR,
            Self::Unexpected { .. } => code::UNEXPECTED_FRAME,
        }
    }
}
