//! A plain parser of frames, written from section 4.2 without a look at the scanner: byte by byte, on a whole stream.
//!
//! It shares no code with the crate, only its public types.

use amqp::{FrameError, Kind};

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub start: usize,
    pub kind: Kind,
    pub channel: u16,
    pub size: u32,
}

/// Where and why parsing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Between two frames.
    Boundary,
    /// The stream ends before the frame that starts here can be told.
    NotYet(usize),
    /// The stream ends within the last frame told.
    Within,
    /// The frame that starts here is malformed.
    Bad(usize, FrameError),
}

/// What is told of a stream: its frames but a malformed one, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub frames: Vec<Frame>,
    pub end: End,
}

/// Parses a whole stream from its first frame on. `frame_bytes_max` is `frame_max`, which must not be 0 here.
pub fn parse(bytes: &[u8], frame_bytes_max: u32) -> Parsed {
    let mut frames = Vec::new();
    let mut at = 0;
    let end = loop {
        let rest = &bytes[at..];
        if rest.is_empty() {
            break End::Boundary;
        }
        let (frame, told_at) = match header(rest, at, frame_bytes_max) {
            Ok(Some(found)) => found,
            Ok(None) => break End::NotYet(at),
            Err(error) => break End::Bad(at, error),
        };
        if rest.len() < told_at {
            break End::NotYet(at);
        }
        if frame.kind == Kind::Method {
            let class = u16::from(rest[7]) * 256 + u16::from(rest[8]);
            if (class == 10 && frame.channel > 0) || (class != 10 && frame.channel == 0) {
                break End::Bad(at, FrameError::Channel { channel: frame.channel, class });
            }
        }
        let Some(end) = rest.get(frame.size as usize + 7) else {
            frames.push(frame);
            break End::Within;
        };
        if *end != 0xCE {
            break End::Bad(at, FrameError::End(*end));
        }
        frames.push(frame);
        at += frame.size as usize + 8;
    };
    Parsed { frames, end }
}

/// The frame and the bytes that must be there before it is told. `None`: its header is not there yet.
fn header(rest: &[u8], start: usize, frame_bytes_max: u32) -> Result<Option<(Frame, usize)>, FrameError> {
    let kind = match rest[0] {
        1 => Kind::Method,
        2 => Kind::Header,
        3 => Kind::Body,
        8 => Kind::Heartbeat,
        other => return Err(FrameError::Kind(other)),
    };
    if rest.len() < 7 {
        return Ok(None);
    }
    let channel = u16::from(rest[1]) * 256 + u16::from(rest[2]);
    let size = rest[3..7].iter().fold(0, |size, byte| size * 256 + u32::from(*byte));
    // The payload alone may be as long as the whole frame may: RabbitMQ allows as much. No frame has more than 32 bits tell.
    if size > frame_bytes_max || u64::from(size) + 8 > u64::from(u32::MAX) {
        return Err(FrameError::TooLong { frame_bytes: u64::from(size) + 8, frame_bytes_max });
    }
    let (least, told_at) = match kind {
        Kind::Method if size > 65536 => (4, 11),
        Kind::Method => (4, size as usize + 8),
        Kind::Header => (12, 19),
        Kind::Body => (0, 7),
        Kind::Heartbeat => (0, 8),
    };
    if kind == Kind::Heartbeat && (channel > 0 || size > 0) {
        return Err(FrameError::Heartbeat { channel, size });
    }
    if size < least {
        return Err(FrameError::TooShort { expected: least, found: size });
    }
    if matches!(kind, Kind::Header | Kind::Body) && channel == 0 {
        return Err(FrameError::ContentOnZero);
    }
    Ok(Some((Frame { start, kind, channel, size }, told_at)))
}
