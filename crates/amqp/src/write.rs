//! Frames that the gateway sends itself. Each call appends whole frames to `out`.

use crate::frame::{FRAME_END, HEADER_BYTES, Kind};
use crate::method::{Bits, MethodId};

/// Appends a method frame whose fields `fields` writes.
pub fn method(out: &mut Vec<u8>, channel: u16, id: MethodId, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(Kind::Method.as_u8());
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.0.to_be_bytes());
    fields(out);
    let size = (out.len() - start - HEADER_BYTES) as u32;
    out[start + 3..start + HEADER_BYTES].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a method without fields.
pub fn bare(out: &mut Vec<u8>, channel: u16, id: MethodId) {
    method(out, channel, id, |_| {});
}

/// Appends a short string; what is beyond 255 bytes is cut off.
pub fn short_string(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(255)];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// At most 255 bytes of `text`, and no half character: clients decode such a text strictly.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Appends a long string, or a table's entries with their length.
pub fn long_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text);
}

/// A heartbeat.
pub const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// `connection.close`, with no method to blame.
pub fn connection_close(out: &mut Vec<u8>, code: u16, text: &str) {
    method(out, 0, MethodId::CONNECTION_CLOSE, |out| close_fields(out, code, text));
}

/// `channel.close`, with no method to blame.
pub fn channel_close(out: &mut Vec<u8>, channel: u16, code: u16, text: &str) {
    method(out, channel, MethodId::CHANNEL_CLOSE, |out| close_fields(out, code, text));
}

fn close_fields(out: &mut Vec<u8>, code: u16, text: &str) {
    out.extend_from_slice(&code.to_be_bytes());
    short_string(out, cut(text).as_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// `connection.close-ok`.
pub fn connection_close_ok(out: &mut Vec<u8>) {
    bare(out, 0, MethodId::CONNECTION_CLOSE_OK);
}

/// `connection.unblocked`.
pub fn unblocked(out: &mut Vec<u8>) {
    bare(out, 0, MethodId::CONNECTION_UNBLOCKED);
}

/// `channel.open`.
pub fn channel_open(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, MethodId::CHANNEL_OPEN, |out| out.push(0));
}

/// A passive `queue.declare`: is the queue there, and what is in it?
pub fn declare_passively(out: &mut Vec<u8>, channel: u16, queue: &[u8]) {
    method(out, channel, MethodId::QUEUE_DECLARE, |out| {
        out.extend_from_slice(&[0; 2]);
        short_string(out, queue);
        out.push(1);
        long_string(out, b"");
    });
}

/// `basic.qos`.
pub fn qos(out: &mut Vec<u8>, channel: u16, prefetch: u16, global: bool) {
    method(out, channel, MethodId::BASIC_QOS, |out| {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&prefetch.to_be_bytes());
        out.push(u8::from(global));
    });
}

/// `basic.consume`, always with an answer: the `nowait` bit is cleared. `arguments` are a table's entries.
pub fn consume(out: &mut Vec<u8>, channel: u16, queue: &[u8], tag: &[u8], bits: Bits, arguments: &[u8]) {
    method(out, channel, MethodId::BASIC_CONSUME, |out| {
        out.extend_from_slice(&[0; 2]);
        short_string(out, queue);
        short_string(out, tag);
        out.push(bits.0 & 0b0111);
        long_string(out, arguments);
    });
}

/// `basic.cancel`: a client's with `nowait` false, a broker's notification with `nowait` true.
pub fn cancel(out: &mut Vec<u8>, channel: u16, tag: &[u8], nowait: bool) {
    method(out, channel, MethodId::BASIC_CANCEL, |out| {
        short_string(out, tag);
        out.push(u8::from(nowait));
    });
}

/// `basic.cancel-ok`.
pub fn cancel_ok(out: &mut Vec<u8>, channel: u16, tag: &[u8]) {
    method(out, channel, MethodId::BASIC_CANCEL_OK, |out| short_string(out, tag));
}

/// `basic.ack`.
pub fn ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    method(out, channel, MethodId::BASIC_ACK, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// `confirm.select`.
pub fn confirm_select(out: &mut Vec<u8>, channel: u16, nowait: bool) {
    method(out, channel, MethodId::CONFIRM_SELECT, |out| out.push(u8::from(nowait)));
}

/// `tx.select`.
pub fn tx_select(out: &mut Vec<u8>, channel: u16) {
    bare(out, channel, MethodId::TX_SELECT);
}
