//! WebSocket frames by hand (RFC 6455 section 5.2), valid and not.

/// First byte of an unfragmented frame of each kind.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8A;
/// First byte of a text message of which more follows.
pub const TEXT_BEGIN: u8 = 0x01;
/// First byte of a fragment in the middle.
pub const MORE: u8 = 0x00;

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame as it was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// FIN, RSV and opcode.
    pub first: u8,
    /// It was masked; `payload` is not.
    pub masked: bool,
    /// Unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The first frame of `bytes` and its length, if all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let masked = second & 0x80 != 0;
        let (length, mut at) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let mut key = [0; 4];
        if masked {
            key = bytes.get(at..at + 4)?.try_into().ok()?;
            at += 4;
        }
        let mut payload = bytes.get(at..at + length)?.to_vec();
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        Some((Self { first, masked, payload }, at + length))
    }

    /// Code and reason of a Close frame.
    pub fn close(&self) -> (u16, &str) {
        assert_eq!(self.first, CLOSE, "expected a Close frame, found {self:?}");
        let code = self.payload[..2].try_into().expect("a Close frame with a code");
        (u16::from_be_bytes(code), std::str::from_utf8(&self.payload[2..]).expect("a reason is UTF-8"))
    }

    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("text is UTF-8")
    }
}

/// A frame of a client: masked.
pub fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload.as_ref(), Some(KEY))
}

/// A frame of a server: not masked.
pub fn bare(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload.as_ref(), None)
}

/// The payload of a Close frame.
pub fn closing(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask = if key.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(mask | short as u8),
        medium @ 126..=0xFFFF => {
            out.push(mask | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(mask | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    match key {
        None => out.extend_from_slice(payload),
        Some(key) => {
            out.extend_from_slice(&key);
            out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
    }
    out
}
