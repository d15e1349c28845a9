//! A plain, strict parser of whole streams, written from RFC 6455 without a look at the scanner.
//!
//! It copies, allocates and goes byte by byte. It shares no code with the crate, only its public types.

use ws::{Role, Rsv};

/// One frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub start: usize,
    pub header_bytes: usize,
    pub fin: bool,
    pub opcode: u8,
    /// Announced length in bytes.
    pub payload_bytes: u64,
    /// Unmasked; shorter than announced if the stream ends in it.
    pub payload: Vec<u8>,
}

/// Where and why parsing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Between two frames.
    Boundary,
    /// In the header of the frame that starts here, or in a control frame.
    NotYet(usize),
    /// In the payload of a data frame, the last one parsed.
    InPayload,
    /// The frame that starts here is malformed.
    Bad(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub frames: Vec<Frame>,
    pub end: End,
    /// A fragmented message is open at the end.
    pub open: bool,
    pub closed: bool,
}

impl Parsed {
    /// Messages that began.
    pub fn messages(&self) -> usize {
        self.frames.iter().filter(|frame| matches!(frame.opcode, 1 | 2)).count()
    }

    /// Payload of the last frame that the stream does not hold.
    pub fn payload_remaining(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.payload_bytes - frame.payload.len() as u64)
    }

    /// Where the Close frame starts.
    pub fn close_at(&self) -> Option<usize> {
        self.frames.iter().find(|frame| frame.opcode == 8).map(|frame| frame.start)
    }
}

/// What the bytes at one frame's start are.
enum Step {
    Frame(Frame),
    NotYet,
    Bad,
}

/// Parses a whole stream from its first frame on.
pub fn parse(bytes: &[u8], sender: Role, rsv: Rsv) -> Parsed {
    let mut parsed = Parsed { frames: Vec::new(), end: End::Boundary, open: false, closed: false };
    let mut at = 0;
    while at < bytes.len() {
        if parsed.closed {
            parsed.end = End::Bad(at);
            return parsed;
        }
        match step(bytes, at, sender, rsv, parsed.open) {
            Step::NotYet => {
                parsed.end = End::NotYet(at);
                return parsed;
            }
            Step::Bad => {
                parsed.end = End::Bad(at);
                return parsed;
            }
            Step::Frame(frame) => {
                if frame.opcode < 8 {
                    parsed.open = !frame.fin;
                }
                parsed.closed = frame.opcode == 8;
                at += frame.header_bytes + frame.payload.len();
                let whole = frame.payload.len() as u64 == frame.payload_bytes;
                parsed.frames.push(frame);
                if !whole {
                    parsed.end = End::InPayload;
                    return parsed;
                }
            }
        }
    }
    parsed
}

fn step(bytes: &[u8], start: usize, sender: Role, rsv: Rsv, open: bool) -> Step {
    let mut input = bytes[start..].iter().copied();
    let Some(first) = input.next() else { return Step::NotYet };
    let fin = first >= 128;
    let opcode = first % 16;
    if !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10) || (opcode >= 8 && !fin) {
        return Step::Bad;
    }
    let Some(second) = input.next() else { return Step::NotYet };
    if (second >= 128) != (sender == Role::Client) || (opcode >= 8 && second % 128 > 125) {
        return Step::Bad;
    }
    let width = match second % 128 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut length = u64::from(second % 128);
    if width > 0 {
        length = 0;
        for _ in 0..width {
            let Some(byte) = input.next() else { return Step::NotYet };
            length = length * 256 + u64::from(byte);
        }
        let least = if width == 2 { 126 } else { 65536 };
        if length < least || length >= 1 << 63 {
            return Step::Bad;
        }
    }
    let mut key = [0; 4];
    if sender == Role::Client {
        for place in &mut key {
            let Some(byte) = input.next() else { return Step::NotYet };
            *place = byte;
        }
    }
    if !rsv_is_legal(first, opcode, rsv) || (opcode == 0 && !open) || (matches!(opcode, 1 | 2) && open) {
        return Step::Bad;
    }
    let header_bytes = 2 + width + if sender == Role::Client { 4 } else { 0 };
    let payload: Vec<u8> =
        input.enumerate().take_while(|(i, _)| (*i as u64) < length).map(|(i, b)| b ^ key[i % 4]).collect();
    if opcode >= 8 && (payload.len() as u64) < length {
        return Step::NotYet;
    }
    if opcode == 8 && first & 0x70 == 0 && !close_is_legal(&payload) {
        return Step::Bad;
    }
    Step::Frame(Frame { start, header_bytes, fin, opcode, payload_bytes: length, payload })
}

fn rsv_is_legal(first: u8, opcode: u8, rsv: Rsv) -> bool {
    let bits = first / 16 % 8;
    match rsv {
        Rsv::None => bits == 0,
        Rsv::Deflate => bits == 0 || (bits == 4 && matches!(opcode, 1 | 2)),
        Rsv::Any => true,
    }
}

fn close_is_legal(payload: &[u8]) -> bool {
    if payload.len() < 2 {
        return payload.is_empty();
    }
    let code = u32::from(payload[0]) * 256 + u32::from(payload[1]);
    (1000..5000).contains(&code)
        && ![1004, 1005, 1006, 1015].contains(&code)
        && String::from_utf8(payload[2..].to_vec()).is_ok()
}
