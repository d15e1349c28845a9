//! The frames that we author: Close, and one-frame messages, Pings and Pongs.
//!
//! Masks are arguments, for this crate has no random source: a frame towards an endpoint needs a fresh,
//! unpredictable key (RFC 6455 5.3), a frame towards a client must have none. Frames of others are never
//! rewritten, so there is no decoder of payloads here.

/// Who sends a stream of frames. RFC 6455 calls both peers endpoints; here that word means a server we dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that asked for the upgrade; its frames are masked.
    Client,
    /// The one that answered `101`; its frames are not masked.
    Server,
}

/// The frame types of RFC 6455 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a fragmented message.
    Continuation,
    /// The first frame of a text message.
    Text,
    /// The first frame of a binary message.
    Binary,
    /// The last frame of a direction.
    Close,
    /// Asks for a Pong.
    Ping,
    /// Answers a Ping, or comes unasked.
    Pong,
}

/// Payload limit of a control frame, in bytes (RFC 6455 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The longest control frame, in bytes: 2 of header, 4 of mask, 125 of payload.
pub const CONTROL_FRAME_BYTES_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_BYTES_MAX;

/// The longest Close reason, in bytes: a control payload less the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

impl Opcode {
    /// The opcode with this number, or none for the reserved ones.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// True for Close, Ping and Pong, which may stand inside a fragmented message (RFC 6455 5.4).
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A Close frame; `mask` is `Some(key)` when we act as client.
///
/// The reason is cut at a character boundary to [`CLOSE_REASON_BYTES_MAX`]. Without a code there is no room
/// for a reason (RFC 6455 5.5.1), and the payload is empty.
pub fn close_frame(code: Option<u16>, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = Vec::with_capacity(CONTROL_PAYLOAD_BYTES_MAX);
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(cut(reason, CLOSE_REASON_BYTES_MAX).as_bytes());
    }
    frame(Opcode::Close, &payload, mask)
}

/// One unfragmented Text, Binary, Ping or Pong frame with RSV 0; `mask` is `Some(key)` when we act as client.
///
/// # Panics
/// When asked for a Continuation or a Close (see [`close_frame`]), or for a Ping or Pong with more than
/// [`CONTROL_PAYLOAD_BYTES_MAX`]: these would be mistakes of the caller, not of a peer.
pub fn message_frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    assert!(!matches!(opcode, Opcode::Continuation | Opcode::Close), "{opcode:?} is no message of its own");
    assert!(
        !opcode.is_control() || payload.len() <= CONTROL_PAYLOAD_BYTES_MAX,
        "a {opcode:?} of {} bytes; a control frame takes at most {CONTROL_PAYLOAD_BYTES_MAX}",
        payload.len()
    );
    frame(opcode, payload, mask)
}

/// XORs `payload` with `key`, starting at the key's first byte (RFC 6455 5.3).
pub(crate) fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// As much of the text as fits, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    const FIN: u8 = 0x80;
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let mut out = Vec::with_capacity(14 + payload.len());
    out.push(FIN | opcode.bits());
    match payload.len() {
        short @ 0..=125 => out.push(mask_bit | short as u8),
        medium @ 126..=0xFFFF => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |key| key.as_slice()));
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key);
    }
    out
}
