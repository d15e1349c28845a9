//! One frame header, read with all the checks that need nothing but its own bytes.
//!
//! What needs the frames before it (continuation order, RSV on first frames, nothing after a Close) is in
//! `scan`. Checks come in the order of the bytes, so an error never depends on how much follows.

use crate::error::FrameError;
use crate::frame::{Opcode, Role};

/// A complete and valid frame header.
pub(crate) struct Header {
    pub(crate) fin: bool,
    /// RSV1-3 where they stand in the first byte: 0x40, 0x20, 0x10.
    pub(crate) rsv: u8,
    pub(crate) opcode: Opcode,
    pub(crate) mask: Option<[u8; 4]>,
    /// 2 to 14.
    pub(crate) header_bytes: usize,
    /// Below 2^63.
    pub(crate) payload_bytes: u64,
}

impl Header {
    /// `None` while the header is not complete.
    pub(crate) fn parse(bytes: &[u8], sender: Role) -> Result<Option<Self>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (fin, rsv, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
        let opcode = Opcode::from_bits(opcode).ok_or(FrameError::ReservedOpcode(opcode))?;
        if opcode.is_control() && !fin {
            return Err(FrameError::FragmentedControl(opcode));
        }

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        match (sender, second & 0x80 != 0) {
            (Role::Client, true) | (Role::Server, false) => {}
            (Role::Client, false) => return Err(FrameError::Unmasked),
            (Role::Server, true) => return Err(FrameError::Masked),
        }
        if opcode.is_control() && second & 0x7F > 125 {
            return Err(FrameError::LongControl(opcode));
        }

        let Some((payload_bytes, length_end)) = length(second & 0x7F, bytes)? else { return Ok(None) };
        let (mask, header_bytes) = match sender {
            Role::Server => (None, length_end),
            Role::Client => match bytes[length_end..].first_chunk::<4>() {
                None => return Ok(None),
                Some(key) => (Some(*key), length_end + 4),
            },
        };
        Ok(Some(Self { fin, rsv, opcode, mask, header_bytes, payload_bytes }))
    }
}

/// The payload length, and where the bytes which tell it end.
fn length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
    let (length, end, field_bits, least) = match short {
        126 => match bytes[2..].first_chunk::<2>() {
            None => return Ok(None),
            Some(field) => (u64::from(u16::from_be_bytes(*field)), 4, 16, 126),
        },
        127 => match bytes[2..].first_chunk::<8>() {
            None => return Ok(None),
            Some(field) => (u64::from_be_bytes(*field), 10, 64, 0x1_0000),
        },
        short => return Ok(Some((u64::from(short), 2))),
    };
    if length >> 63 != 0 {
        return Err(FrameError::LengthTooLarge(length));
    }
    if length < least {
        return Err(FrameError::LengthNotMinimal { length, field_bits });
    }
    Ok(Some((length, end)))
}
