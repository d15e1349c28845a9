//! The scanner: follows the frames of one direction without touching them. The hot path of the gateway.
//!
//! Data payload is skipped by arithmetic, whatever its size. Control frames are seen whole, so that the
//! session may swallow or translate one. 16 bytes of state a direction, no allocation.
//!
//! Not here: what happens after a malformed frame. The scanner consumes nothing of it and would find it again.

use crate::error::FrameError;
use crate::frame::{CONTROL_PAYLOAD_BYTES_MAX, Opcode, Role, apply_mask};
use crate::header::Header;

/// Which reserved bits the accepted extensions give a meaning to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rsv {
    /// No extension: all three must be 0 (RFC 6455 5.2).
    None,
    /// permessage-deflate: RSV1 may be set on the first frame of a data message (RFC 7692 6).
    Deflate,
    /// An extension unknown to us: every bit passes, on every frame. Opcodes stay those of RFC 6455.
    Any,
}

/// Follows frame and message boundaries of one direction.
///
/// Feed it the stream in order with [`run`](Self::run): after each call, drop `len` bytes from the front (and
/// `frame_bytes` more after a [`Stop::Close`], whether the frame is passed on or swallowed), keep the rest
/// before what is read next. After [`Stop::Malformed`] it has nothing more to say about this direction.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Payload of the current data frame that is still to come, in bytes.
    remaining: u64,
    sender: Role,
    rsv: Rsv,
    /// A data message began whose last frame has not begun.
    open: bool,
    /// A Close was seen.
    closed: bool,
}

/// How far [`Scanner::run`] came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Run {
    /// Bytes consumed: whole frames, and as much of a data frame as there was.
    pub len: usize,
    /// Data messages that began in them.
    pub messages: u32,
    /// Why it went no further.
    pub stop: Stop,
}

/// Why [`Scanner::run`] stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All bytes are consumed.
    End,
    /// A frame ends at `len`. Only of [`Scanner::run_frame`].
    FrameEnd,
    /// `bytes[len..]` is an incomplete header or control frame: offer it again with more bytes behind it.
    NotYet,
    /// `bytes[len..len + frame_bytes]` is a complete and valid Close frame. It is not part of `len`, but the
    /// scanner has taken note of it: whatever comes behind it is [`FrameError::AfterClose`].
    Close(Close),
    /// The frame at `bytes[len..]` is malformed; nothing of it is consumed.
    Malformed(FrameError),
}

/// What a Close frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// Length of the whole frame, at most [`CONTROL_FRAME_BYTES_MAX`](crate::CONTROL_FRAME_BYTES_MAX).
    pub frame_bytes: usize,
    /// The code, if there is one.
    pub code: Option<u16>,
}

impl Scanner {
    /// A scanner at the begin of the frames that `sender` sends: right behind the upgrade's head.
    pub fn new(sender: Role, rsv: Rsv) -> Self {
        Self { remaining: 0, sender, rsv, open: false, closed: false }
    }

    /// Consumes as much of `bytes` as it can, and says why it stopped.
    ///
    /// Data payload and complete Pings and Pongs pass. A header or control frame that is not complete consumes
    /// nothing of itself; what is then left is shorter than
    /// [`CONTROL_FRAME_BYTES_MAX`](crate::CONTROL_FRAME_BYTES_MAX).
    pub fn run(&mut self, bytes: &[u8]) -> Run {
        self.advance::<false>(bytes)
    }

    /// The same, but not beyond the end of the frame at hand, or of the next one: stops with [`Stop::FrameEnd`]
    /// there. For whoever waits for a boundary and must not pass it unseen.
    pub fn run_frame(&mut self, bytes: &[u8]) -> Run {
        self.advance::<true>(bytes)
    }

    fn advance<const ONE_FRAME: bool>(&mut self, bytes: &[u8]) -> Run {
        if self.closed && !bytes.is_empty() {
            return Run { len: 0, messages: 0, stop: Stop::Malformed(FrameError::AfterClose) };
        }
        let mut at = self.pass(bytes.len());
        let mut messages = 0;
        loop {
            if ONE_FRAME && at > 0 && self.remaining == 0 {
                return Run { len: at, messages, stop: Stop::FrameEnd };
            }
            if !ONE_FRAME && !self.open {
                let (end, count) = self.pass_small(bytes, at);
                at = end;
                messages += count;
            }
            if at == bytes.len() {
                return Run { len: at, messages, stop: Stop::End };
            }
            match self.frame(&bytes[at..]) {
                Ok(Frame::Data { header_bytes, payload_bytes, begins, fin }) => {
                    at += header_bytes;
                    messages += u32::from(begins);
                    self.open = !fin;
                    self.remaining = payload_bytes;
                    at += self.pass(bytes.len() - at);
                }
                Ok(Frame::Control { frame_bytes }) => at += frame_bytes,
                Ok(Frame::NotYet) => return Run { len: at, messages, stop: Stop::NotYet },
                Ok(Frame::Close(close)) => {
                    self.closed = true;
                    return Run { len: at, messages, stop: Stop::Close(close) };
                }
                Err(error) => return Run { len: at, messages, stop: Stop::Malformed(error) },
            }
        }
    }

    /// No payload of a started data frame is outstanding: a control frame may stand here.
    pub fn at_frame_boundary(&self) -> bool {
        self.remaining == 0
    }

    /// At a frame boundary, and no fragmented message is open: a data message may stand here.
    pub fn at_message_boundary(&self) -> bool {
        self.remaining == 0 && !self.open
    }

    /// Payload of the current data frame that is still to come, in bytes.
    pub fn payload_remaining(&self) -> u64 {
        self.remaining
    }

    /// Passes the outstanding payload, as far as there are bytes; returns how many.
    fn pass(&mut self, available: usize) -> usize {
        let len = usize::try_from(self.remaining).map_or(available, |remaining| remaining.min(available));
        self.remaining -= len as u64;
        len
    }

    /// The fast path, outside of a fragmented message: whole messages in one frame of up to 125 bytes.
    /// Returns where the first frame begins that is anything else, and the count of messages passed.
    fn pass_small(&self, bytes: &[u8], mut at: usize) -> (usize, u32) {
        let (mask_bit, header_bytes) = match self.sender {
            Role::Client => (0x80, 6),
            Role::Server => (0, 2),
        };
        let rsv_allowed = self.rsv_on_first_frame();
        let mut messages = 0;
        while let Some(&[first, second]) = bytes[at..].first_chunk::<2>() {
            // A wrong mask bit makes the length seem 128 or more.
            let payload_bytes = usize::from(second ^ mask_bit);
            let plain = matches!(first & !rsv_allowed, 0x81 | 0x82) && payload_bytes <= 125;
            let frame_bytes = header_bytes + payload_bytes;
            if !plain || frame_bytes > bytes.len() - at {
                break;
            }
            at += frame_bytes;
            messages += 1;
        }
        (at, messages)
    }

    /// The plain path: the frame at the front of `bytes`, whatever it is. Changes nothing.
    fn frame(&self, bytes: &[u8]) -> Result<Frame, FrameError> {
        let Some(header) = Header::parse(bytes, self.sender)? else { return Ok(Frame::NotYet) };
        self.check_rsv(&header)?;
        match header.opcode {
            Opcode::Continuation if !self.open => Err(FrameError::NothingToContinue),
            Opcode::Text | Opcode::Binary if self.open => {
                Err(FrameError::ExpectedContinuation(header.opcode))
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary => Ok(Frame::Data {
                header_bytes: header.header_bytes,
                payload_bytes: header.payload_bytes,
                begins: header.opcode != Opcode::Continuation,
                fin: header.fin,
            }),
            Opcode::Ping | Opcode::Pong | Opcode::Close => control(&header, bytes),
        }
    }

    fn check_rsv(&self, header: &Header) -> Result<(), FrameError> {
        let allowed = match (self.rsv, header.opcode) {
            (_, Opcode::Text | Opcode::Binary) => self.rsv_on_first_frame(),
            (Rsv::Any, _) => 0x70,
            (Rsv::None | Rsv::Deflate, _) => 0,
        };
        match header.rsv & !allowed {
            0 => Ok(()),
            _ => Err(FrameError::Rsv { bits: header.rsv >> 4, opcode: header.opcode }),
        }
    }

    /// The bits of a first byte that may be set on the first frame of a data message.
    fn rsv_on_first_frame(&self) -> u8 {
        match self.rsv {
            Rsv::None => 0,
            Rsv::Deflate => 0x40,
            Rsv::Any => 0x70,
        }
    }
}

/// The frame at the front of some bytes.
enum Frame {
    /// Its header, or the whole of a control frame, is not there yet.
    NotYet,
    Data {
        header_bytes: usize,
        payload_bytes: u64,
        begins: bool,
        fin: bool,
    },
    /// A complete Ping or Pong.
    Control {
        frame_bytes: usize,
    },
    /// A complete Close.
    Close(Close),
}

fn control(header: &Header, bytes: &[u8]) -> Result<Frame, FrameError> {
    let mut copy = [0; CONTROL_PAYLOAD_BYTES_MAX];
    let payload_bytes = usize::try_from(header.payload_bytes).map_or(copy.len(), |len| len.min(copy.len()));
    let frame_bytes = header.header_bytes + payload_bytes;
    let Some(payload) = bytes.get(header.header_bytes..frame_bytes) else { return Ok(Frame::NotYet) };
    // Bits of an unknown extension may mean that the payload is transformed, and then it has no code to judge.
    match header.opcode {
        Opcode::Close if header.rsv == 0 => {
            let copy = &mut copy[..payload_bytes];
            copy.copy_from_slice(payload);
            apply_mask(copy, header.mask.unwrap_or_default());
            Ok(Frame::Close(Close { frame_bytes, code: close_code(copy)? }))
        }
        Opcode::Close => Ok(Frame::Close(Close { frame_bytes, code: None })),
        _ => Ok(Frame::Control { frame_bytes }),
    }
}

/// The code of an unmasked Close payload. Codes 1016-2999 are undefined but reserved for later versions of the
/// protocol, which a gateway should not stand in the way of: only those that must never be sent are malformed.
fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(FrameError::CloseTooShort) };
    };
    let code = u16::from_be_bytes(*code);
    if matches!(code, 0..=999 | 1004..=1006 | 1015 | 5000..) {
        return Err(FrameError::CloseCode(code));
    }
    std::str::from_utf8(reason).map_err(|_| FrameError::CloseReason)?;
    Ok(Some(code))
}
