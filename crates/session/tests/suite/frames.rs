//! Frames as the peers of a session write and read them: plainly, and with nothing of the crate `ws`.

/// The masking key of every client frame in these tests.
const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// Who wrote a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// Masks.
    Client,
    /// Does not.
    Server,
}

/// A frame, read whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// A stream, read by the rules of RFC 6455 without extensions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stream {
    pub frames: Vec<Frame>,
    /// Data messages whose first frame header is complete.
    pub begun: u32,
    /// Data messages that are complete.
    pub complete: u32,
    /// The Close frame: code and reason.
    pub close: Option<(Option<u16>, String)>,
    /// Bytes of a frame that is not complete.
    pub cut_short: usize,
}

pub fn frame(writer: Writer, fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask_bit = if writer == Writer::Client { 0x80 } else { 0 };
    let mut out = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        short if short < 126 => out.push(mask_bit | short as u8),
        long => {
            out.push(mask_bit | 126);
            let long = u16::try_from(long).expect("no frame of these tests is longer");
            out.extend_from_slice(&long.to_be_bytes());
        }
    }
    if writer == Writer::Client {
        out.extend_from_slice(&KEY);
        out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]));
    } else {
        out.extend_from_slice(payload);
    }
    out
}

pub fn text(writer: Writer, payload: &str) -> Vec<u8> {
    frame(writer, true, 1, payload.as_bytes())
}

pub fn close(writer: Writer, code: u16, reason: &str) -> Vec<u8> {
    frame(writer, true, 8, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// Reads everything `writer` wrote.
///
/// # Errors
/// The first broken rule.
pub fn read(writer: Writer, mut bytes: &[u8]) -> Result<Stream, String> {
    let mut stream = Stream::default();
    let mut open = false;
    while !bytes.is_empty() {
        if stream.close.is_some() {
            return Err(format!("{} bytes behind the Close frame", bytes.len()));
        }
        let Some((header, header_bytes, payload_bytes)) = header(writer, bytes)? else { break };
        let (fin, opcode) = (header & 0x80 != 0, header & 0x0F);
        match (opcode, open) {
            (0, false) => return Err("a continuation of nothing".into()),
            (1 | 2, true) => return Err("a message inside a message".into()),
            (1 | 2, false) => stream.begun += 1,
            (0, true) | (8..=10, _) => {}
            _ => return Err(format!("opcode {opcode}")),
        }
        if opcode < 8 {
            open = !fin;
        }
        let Some(payload) = bytes.get(header_bytes..header_bytes + payload_bytes) else { break };
        let mut payload = payload.to_vec();
        if writer == Writer::Client {
            let key = &bytes[header_bytes - 4..header_bytes];
            payload.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= key[i % 4]);
        }
        stream.complete += u32::from(opcode < 8 && fin);
        if opcode == 8 {
            stream.close = Some(close_payload(&payload)?);
        }
        stream.frames.push(Frame { fin, opcode, payload });
        bytes = &bytes[header_bytes + payload_bytes..];
    }
    stream.cut_short = bytes.len();
    Ok(stream)
}

/// First byte, length of the header, length of the payload; none while the header is not complete.
fn header(writer: Writer, bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, String> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(format!("reserved bits in {first:#04x}"));
    }
    if (second & 0x80 != 0) != (writer == Writer::Client) {
        return Err(format!("a frame of the {writer:?} with second byte {second:#04x}"));
    }
    let (payload_bytes, length_end) = match second & 0x7F {
        126 => match bytes.get(2..4) {
            Some(field) => (usize::from(u16::from_be_bytes([field[0], field[1]])), 4),
            None => return Ok(None),
        },
        127 => return Err("longer than any frame of these tests".into()),
        short => (usize::from(short), 2),
    };
    if first & 0x08 != 0 && (first & 0x80 == 0 || payload_bytes > 125) {
        return Err("a control frame that is fragmented or too long".into());
    }
    let header_bytes = length_end + if writer == Writer::Client { 4 } else { 0 };
    Ok((bytes.len() >= header_bytes).then_some((first, header_bytes, payload_bytes)))
}

fn close_payload(payload: &[u8]) -> Result<(Option<u16>, String), String> {
    match payload {
        [] => Ok((None, String::new())),
        [_] => Err("a Close frame of one byte".into()),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(format!("Close code {code}"));
            }
            let reason = std::str::from_utf8(reason).map_err(|_| "a Close reason that is no text")?;
            Ok((Some(code), reason.to_owned()))
        }
    }
}
