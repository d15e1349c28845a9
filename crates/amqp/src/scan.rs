//! Where frames begin and end: a scanner of one direction.
//!
//! A method up to [`METHOD_BYTES_MAX`] is given whole, a content header with its fixed fields, everything else as it
//! comes: a body passes by arithmetic.

use crate::error::FrameError;
use crate::frame::{FRAME_END, FRAME_OVERHEAD, HEADER_BYTES, Kind};
use crate::method::CLASS_CONNECTION;

/// Payload bytes of the longest method that is waited for. A longer one passes in pieces, and is not looked into.
pub const METHOD_BYTES_MAX: u32 = 64 * 1024;

/// Class, weight and body size of a content header (section 4.2.6.1).
const CONTENT_FIXED: u32 = 12;
/// Class and method.
const METHOD_FIXED: u32 = 4;

/// What stands at the beginning of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Not enough to tell. Nothing is consumed.
    NotYet,
    /// The next `len` bytes belong to a frame that was told already.
    Rest {
        /// How many.
        len: usize,
        /// They are its last.
        ends: bool,
    },
    /// A frame begins.
    Frame {
        /// What it carries.
        kind: Kind,
        /// Its channel.
        channel: u16,
        /// Bytes of its whole payload.
        size: u32,
        /// Bytes of it that are here, its header included.
        len: usize,
    },
}

/// Follows the frames of one direction.
///
/// `peek` looks and changes nothing; `take` consumes what was seen.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Bytes left of the frame that is under way, its end octet included.
    rest: u32,
    /// Whole frames; 0: no bound was agreed.
    frame_bytes_max: u32,
}

impl Scanner {
    /// At the beginning of a frame. `frame_bytes_max` is the negotiated `frame_max`; 0: none.
    pub const fn new(frame_bytes_max: u32) -> Self {
        Self { rest: 0, frame_bytes_max }
    }

    /// The negotiated `frame_max` is known now.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// True between two frames.
    pub const fn at_boundary(&self) -> bool {
        self.rest == 0
    }

    /// What stands at the beginning of `bytes`.
    ///
    /// # Errors
    /// [`FrameError`]: no frame stands there, or the one under way does not end as it must.
    #[inline]
    pub fn peek(&self, bytes: &[u8]) -> Result<Piece, FrameError> {
        if self.rest > 0 {
            let len = bytes.len().min(self.rest as usize);
            let ends = len == self.rest as usize;
            return match bytes.get(len.wrapping_sub(1)) {
                None => Ok(Piece::NotYet),
                Some(&end) if ends && end != FRAME_END => Err(FrameError::End(end)),
                Some(_) => Ok(Piece::Rest { len, ends }),
            };
        }
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            // A wrong type is told at its first byte, so that a peer that speaks something else is not waited for.
            return match bytes.first() {
                Some(&byte) if Kind::from_u8(byte).is_none() => Err(FrameError::Kind(byte)),
                _ => Ok(Piece::NotYet),
            };
        };
        let kind = Kind::from_u8(header[0]).ok_or(FrameError::Kind(header[0]))?;
        let channel = u16::from_be_bytes([header[1], header[2]]);
        let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
        self.check(kind, channel, size)?;
        let whole = size as usize + FRAME_OVERHEAD;
        let needed = match kind {
            Kind::Method if size <= METHOD_BYTES_MAX => whole,
            Kind::Method => HEADER_BYTES + METHOD_FIXED as usize,
            Kind::Header => HEADER_BYTES + CONTENT_FIXED as usize,
            Kind::Body => HEADER_BYTES,
            Kind::Heartbeat => whole,
        };
        if bytes.len() < needed {
            return Ok(Piece::NotYet);
        }
        if kind == Kind::Method {
            check_channel(channel, u16::from_be_bytes([bytes[HEADER_BYTES], bytes[HEADER_BYTES + 1]]))?;
        }
        let len = bytes.len().min(whole);
        if len == whole && bytes[len - 1] != FRAME_END {
            return Err(FrameError::End(bytes[len - 1]));
        }
        Ok(Piece::Frame { kind, channel, size, len })
    }

    /// Consumes what [`Scanner::peek`] has given. Returns its length.
    #[inline]
    pub fn take(&mut self, piece: Piece) -> usize {
        match piece {
            Piece::NotYet => 0,
            Piece::Rest { len, .. } => {
                self.rest = self.rest.saturating_sub(len as u32);
                len
            }
            Piece::Frame { size, len, .. } => {
                self.rest = (size as usize + FRAME_OVERHEAD - len) as u32;
                len
            }
        }
    }

    fn check(&self, kind: Kind, channel: u16, size: u32) -> Result<(), FrameError> {
        let frame_bytes = u64::from(size) + FRAME_OVERHEAD as u64;
        // RabbitMQ measures the payload against frame_max, so a peer that does the same is not refused.
        let slack = FRAME_OVERHEAD as u64;
        let frame_bytes_max = if self.frame_bytes_max == 0 { u32::MAX } else { self.frame_bytes_max };
        if frame_bytes > (u64::from(frame_bytes_max) + slack).min(u64::from(u32::MAX)) {
            return Err(FrameError::TooLong { frame_bytes, frame_bytes_max });
        }
        let fixed = match kind {
            Kind::Method => METHOD_FIXED,
            Kind::Header => CONTENT_FIXED,
            Kind::Body => 0,
            Kind::Heartbeat if channel != 0 || size != 0 => {
                return Err(FrameError::Heartbeat { channel, size });
            }
            Kind::Heartbeat => 0,
        };
        if size < fixed {
            return Err(FrameError::TooShort { expected: fixed, found: size });
        }
        if channel == 0 && matches!(kind, Kind::Header | Kind::Body) {
            return Err(FrameError::ContentOnZero);
        }
        Ok(())
    }
}

/// Class connection has channel 0 for itself (section 4.2.3).
#[inline]
const fn check_channel(channel: u16, class: u16) -> Result<(), FrameError> {
    if (channel == 0) != (class == CLASS_CONNECTION) {
        return Err(FrameError::Channel { channel, class });
    }
    Ok(())
}
