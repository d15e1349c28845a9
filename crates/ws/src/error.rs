//! What can be wrong with a frame, in words for the developer of the peer that sent it.
//!
//! Each message tells what was expected, what was found and the section of RFC 6455 that says so. Who sent
//! it is known to the caller: a scanner belongs to one direction.

use crate::frame::Opcode;

/// Why a byte stream is not, or no longer, a legal sequence of WebSocket frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A client's frame without a mask.
    #[error(
        "expected a masked frame, as every client frame must be, found one without a mask (RFC 6455 5.1)"
    )]
    Unmasked,
    /// A server's frame with a mask.
    #[error(
        "expected a frame without a mask, as every server frame must be, found a masked one (RFC 6455 5.1)"
    )]
    Masked,
    /// An opcode in 3-7 or 11-15.
    #[error("expected opcode 0, 1, 2, 8, 9 or 10, found the reserved opcode {0} (RFC 6455 5.2)")]
    ReservedOpcode(u8),
    /// A reserved bit that no accepted extension gives a meaning to.
    #[error(
        "expected RSV bits that an accepted extension defines, found RSV1-3 = {bits:03b} on a {opcode:?} frame (RFC 6455 5.2)"
    )]
    Rsv {
        /// RSV1, RSV2, RSV3 as a number of three bits.
        bits: u8,
        /// The frame which carries them.
        opcode: Opcode,
    },
    /// Ping, Pong or Close without FIN.
    #[error("expected a control frame in one piece, found a {0:?} frame without FIN (RFC 6455 5.5)")]
    FragmentedControl(Opcode),
    /// Ping, Pong or Close with an extended length.
    #[error(
        "expected at most 125 bytes of control payload, found a {0:?} frame which announces more (RFC 6455 5.5)"
    )]
    LongControl(Opcode),
    /// A continuation while no message is open.
    #[error("expected the first frame of a message, found a continuation of none (RFC 6455 5.4)")]
    NothingToContinue,
    /// A new message inside a fragmented one.
    #[error("expected a continuation of the open message, found the begin of a {0:?} message (RFC 6455 5.4)")]
    ExpectedContinuation(Opcode),
    /// A length in more bytes than it needs.
    #[error("expected a length in the fewest bytes, found {length} in {field_bits} bits (RFC 6455 5.2)")]
    LengthNotMinimal {
        /// Announced payload length in bytes.
        length: u64,
        /// Width of the field it was found in: 16 or 64.
        field_bits: u8,
    },
    /// A length of 2^63 bytes or more.
    #[error("expected a payload below 2^63 bytes, found {0} announced (RFC 6455 5.2)")]
    LengthTooLarge(u64),
    /// A Close payload of one byte: half a code.
    #[error("expected a Close payload of 0 or at least 2 bytes, found 1 (RFC 6455 5.5.1)")]
    CloseTooShort,
    /// A code that must not be sent.
    #[error(
        "expected a Close code in 1000-4999 other than 1004, 1005, 1006 and 1015, found {0} (RFC 6455 7.4)"
    )]
    CloseCode(u16),
    /// A Close reason that is no text.
    #[error("expected a Close reason in UTF-8, found other bytes (RFC 6455 5.5.1)")]
    CloseReason,
    /// Anything that follows a Close.
    #[error("expected nothing after the Close frame, found more bytes (RFC 6455 5.5.1)")]
    AfterClose,
}

impl FrameError {
    /// The Close code that tells the peer: 1007 for text that is not UTF-8, else 1002 (RFC 6455 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::CloseReason => 1007,
            Self::Unmasked
            | Self::Masked
            | Self::ReservedOpcode(_)
            | Self::Rsv { .. }
            | Self::FragmentedControl(_)
            | Self::LongControl(_)
            | Self::NothingToContinue
            | Self::ExpectedContinuation(_)
            | Self::LengthNotMinimal { .. }
            | Self::LengthTooLarge(_)
            | Self::CloseTooShort
            | Self::CloseCode(_)
            | Self::AfterClose => 1002,
        }
    }
}
