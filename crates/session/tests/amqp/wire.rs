//! The wire as peers see it: whole frames out of a byte stream, and the methods that only a broker or a client writes.
//!
//! What the crate `amqp` already writes (`amqp::write`) is used from there.

use amqp::write::{self, method, short_string};
use amqp::{FRAME_END, HEADER_BYTES, Kind, MethodId};

pub type Bytes = Vec<u8>;

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: Kind,
    pub channel: u16,
    pub payload: Bytes,
}

/// Takes a stream apart. Strict: a peer of the gateway has no patience.
#[derive(Default, Debug)]
pub struct Frames {
    bytes: Bytes,
    at: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// It stands within a frame.
    pub fn is_within(&self) -> bool {
        self.at < self.bytes.len()
    }

    /// The next `n` bytes as they are.
    pub fn raw(&mut self, n: usize) -> Option<Bytes> {
        let taken = self.bytes.get(self.at..self.at + n)?.to_vec();
        self.at += n;
        Some(taken)
    }

    pub fn next(&mut self) -> Result<Option<Frame>, String> {
        let rest = &self.bytes[self.at..];
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let kind = Kind::from_u8(header[0]).ok_or_else(|| format!("frame type {}", header[0]))?;
        let channel = u16::from_be_bytes([header[1], header[2]]);
        let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
        if size > 1 << 20 {
            return Err(format!("a frame of {size} bytes"));
        }
        let Some(&end) = rest.get(HEADER_BYTES + size) else { return Ok(None) };
        if end != FRAME_END {
            return Err(format!("frame end octet {end:#x}"));
        }
        let payload = rest[HEADER_BYTES..HEADER_BYTES + size].to_vec();
        self.at += HEADER_BYTES + size + 1;
        Ok(Some(Frame { kind, channel, payload }))
    }
}

/// A frame of `kind`.
pub fn frame(kind: Kind, channel: u16, payload: &[u8]) -> Bytes {
    let mut out = vec![kind.as_u8()];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(FRAME_END);
    out
}

/// A method as a frame.
pub fn frame_of(channel: u16, id: MethodId, fields: impl FnOnce(&mut Bytes)) -> Bytes {
    let mut out = Bytes::with_capacity(32);
    method(&mut out, channel, id, fields);
    out
}

/// A method without fields as a frame.
pub fn bare(channel: u16, id: MethodId) -> Bytes {
    frame_of(channel, id, |_| {})
}

/// Header and body frames of a message: its number, and `padding` bytes, in body frames of at most `piece` bytes.
pub fn content(channel: u16, message: u32, padding: usize, piece: usize) -> Vec<Bytes> {
    let mut body = message.to_be_bytes().to_vec();
    body.resize(4 + padding, 0xAA);
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    let mut frames = vec![frame(Kind::Header, channel, &header)];
    frames.extend(body.chunks(piece.max(1)).map(|part| frame(Kind::Body, channel, part)));
    frames
}

/// Body bytes that a content header announces.
pub fn body_size(header: &[u8]) -> u64 {
    header.get(4..12).and_then(|field| field.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// The message that a body carries.
pub fn message_of(body: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(body.get(..4)?.try_into().ok()?);
    body[4..].iter().all(|byte| *byte == 0xAA).then_some(number)
}

/// A table entry with a string.
pub fn text_entry(name: &str, value: &str) -> Bytes {
    let mut out = Bytes::new();
    short_string(&mut out, name.as_bytes());
    out.push(b'S');
    write::long_string(&mut out, value.as_bytes());
    out
}

/// `basic.publish` to the default exchange.
pub fn publish(channel: u16, key: &[u8], mandatory: bool) -> Bytes {
    frame_of(channel, MethodId::BASIC_PUBLISH, |out| {
        out.extend_from_slice(&[0, 0]);
        short_string(out, b"");
        short_string(out, key);
        out.push(u8::from(mandatory));
    })
}

/// `basic.deliver`.
pub fn deliver(channel: u16, consumer: &[u8], tag: u64, redelivered: bool, key: &[u8]) -> Bytes {
    frame_of(channel, MethodId::BASIC_DELIVER, |out| {
        short_string(out, consumer);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(redelivered));
        short_string(out, b"");
        short_string(out, key);
    })
}

/// `basic.get-ok`.
pub fn get_ok(channel: u16, tag: u64, redelivered: bool, key: &[u8]) -> Bytes {
    frame_of(channel, MethodId::BASIC_GET_OK, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(redelivered));
        short_string(out, b"");
        short_string(out, key);
        out.extend_from_slice(&[0; 4]);
    })
}

/// `basic.return` of something that no queue wanted.
pub fn returned(channel: u16, key: &[u8]) -> Bytes {
    frame_of(channel, MethodId::BASIC_RETURN, |out| {
        out.extend_from_slice(&312u16.to_be_bytes());
        short_string(out, b"NO_ROUTE");
        short_string(out, b"");
        short_string(out, key);
    })
}

/// `basic.nack`.
pub fn nack(channel: u16, tag: u64, multiple: bool, requeue: bool) -> Bytes {
    frame_of(channel, MethodId::BASIC_NACK, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple) | u8::from(requeue) << 1);
    })
}

/// `basic.reject`.
pub fn reject(channel: u16, tag: u64, requeue: bool) -> Bytes {
    frame_of(channel, MethodId::BASIC_REJECT, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(requeue));
    })
}

/// `queue.declare`; `bits`: passive 1, durable 2, exclusive 4, auto-delete 8, nowait 16.
pub fn declare(channel: u16, queue: &[u8], bits: u8, arguments: &[u8]) -> Bytes {
    frame_of(channel, MethodId::QUEUE_DECLARE, |out| {
        out.extend_from_slice(&[0, 0]);
        short_string(out, queue);
        out.push(bits);
        write::long_string(out, arguments);
    })
}

/// `queue.declare-ok`.
pub fn declare_ok(channel: u16, queue: &[u8]) -> Bytes {
    frame_of(channel, MethodId::QUEUE_DECLARE_OK, |out| {
        short_string(out, queue);
        out.extend_from_slice(&[0; 8]);
    })
}

/// `basic.consume`; `bits`: no-local 1, no-ack 2, exclusive 4, nowait 8.
pub fn consume(channel: u16, queue: &[u8], tag: &[u8], bits: u8) -> Bytes {
    frame_of(channel, MethodId::BASIC_CONSUME, |out| {
        out.extend_from_slice(&[0, 0]);
        short_string(out, queue);
        short_string(out, tag);
        out.push(bits);
        write::long_string(out, b"");
    })
}

/// A method of class queue, exchange or basic whose fields are a ticket, a name and one octet of bits.
pub fn named(channel: u16, id: MethodId, name: &[u8], bits: u8) -> Bytes {
    frame_of(channel, id, |out| {
        out.extend_from_slice(&[0, 0]);
        short_string(out, name);
        out.push(bits);
    })
}

/// `queue.bind` to `amq.direct`.
pub fn bind(channel: u16, queue: &[u8], nowait: bool) -> Bytes {
    frame_of(channel, MethodId::QUEUE_BIND, |out| {
        out.extend_from_slice(&[0, 0]);
        short_string(out, queue);
        short_string(out, b"amq.direct");
        short_string(out, b"key");
        out.push(u8::from(nowait));
        out.extend_from_slice(&[0; 4]);
    })
}
