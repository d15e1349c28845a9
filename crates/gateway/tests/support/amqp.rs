//! AMQP 0-9-1 by hand: the frames of a handshake and a few others, and how a test reads them.

use super::Wire;
use super::wire::show;

/// What a client of 0-9-1 begins with.
pub const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// Class and method of what the tests look at.
pub mod id {
    pub const START: (u16, u16) = (10, 10);
    pub const START_OK: (u16, u16) = (10, 11);
    pub const TUNE: (u16, u16) = (10, 30);
    pub const CLOSE: (u16, u16) = (10, 50);
    pub const CLOSE_OK: (u16, u16) = (10, 51);
    pub const CHANNEL_OPEN: (u16, u16) = (20, 10);
    pub const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
    pub const DECLARE: (u16, u16) = (50, 10);
    pub const DECLARE_OK: (u16, u16) = (50, 11);
    pub const PUBLISH: (u16, u16) = (60, 40);
    pub const DELIVER: (u16, u16) = (60, 60);
}

/// A frame.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).expect("it is short").to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
    out
}

/// A method frame.
pub fn method(channel: u16, (class, method): (u16, u16), fields: &[&[u8]]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend_from_slice(&method.to_be_bytes());
    payload.extend_from_slice(&fields.concat());
    frame(1, channel, &payload)
}

/// A short string.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("it is short")], text].concat()
}

/// A long string, or a table with its length.
pub fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("it is short").to_be_bytes(), text].concat()
}

/// `start` of a broker that belongs to `cluster`.
pub fn start(cluster: &str) -> Vec<u8> {
    start_with(cluster, "PLAIN AMQPLAIN EXTERNAL")
}

/// `start` with these mechanisms.
pub fn start_with(cluster: &str, mechanisms: &str) -> Vec<u8> {
    let properties = [&short(b"cluster_name")[..], b"S", &long(cluster.as_bytes())].concat();
    let fields = [&[0, 9][..], &long(&properties), &long(mechanisms.as_bytes()), &long(b"en_US")];
    method(0, id::START, &fields)
}

/// `start-ok` by PLAIN.
pub fn start_ok(user: &str, password: &str) -> Vec<u8> {
    start_ok_by("PLAIN", format!("\0{user}\0{password}").as_bytes())
}

/// `start-ok` by any mechanism.
pub fn start_ok_by(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let fields = [&long(b"")[..], &short(mechanism.as_bytes()), &long(response), &short(b"en_US")];
    method(0, id::START_OK, &fields)
}

/// `tune` (30) or `tune-ok` (31).
fn tuning(id: u16, channel_max: u16, frame_max: u32, heartbeat: u16) -> Vec<u8> {
    let fields = [&channel_max.to_be_bytes()[..], &frame_max.to_be_bytes(), &heartbeat.to_be_bytes()];
    method(0, (10, id), &fields)
}

/// `tune`.
pub fn tune(channel_max: u16, frame_max: u32) -> Vec<u8> {
    tuning(30, channel_max, frame_max, 60)
}

/// `tune-ok`.
pub fn tune_ok(channel_max: u16, frame_max: u32) -> Vec<u8> {
    tuning(31, channel_max, frame_max, 60)
}

/// `open`.
pub fn open(vhost: &str) -> Vec<u8> {
    method(0, (10, 40), &[&short(vhost.as_bytes()), &[0, 0]])
}

/// `open-ok`.
pub fn open_ok() -> Vec<u8> {
    method(0, (10, 41), &[&[0]])
}

/// `close` of a connection.
pub fn close(code: u16, text: &str) -> Vec<u8> {
    method(0, id::CLOSE, &[&code.to_be_bytes(), &short(text.as_bytes()), &[0; 4]])
}

/// `close-ok` of a connection.
pub fn close_ok() -> Vec<u8> {
    method(0, id::CLOSE_OK, &[])
}

/// `channel.open`.
pub fn channel_open(channel: u16) -> Vec<u8> {
    method(channel, id::CHANNEL_OPEN, &[&[0]])
}

/// `channel.open-ok`.
pub fn channel_open_ok(channel: u16) -> Vec<u8> {
    method(channel, id::CHANNEL_OPEN_OK, &[&[0; 4]])
}

/// `queue.declare` with these bits: passive 1, durable 2, exclusive 4, auto-delete 8.
pub fn declare(channel: u16, queue: &str, bits: u8) -> Vec<u8> {
    method(channel, id::DECLARE, &[&[0; 2], &short(queue.as_bytes()), &[bits], &long(b"")])
}

/// `queue.declare-ok`.
pub fn declare_ok(channel: u16, queue: &str) -> Vec<u8> {
    method(channel, id::DECLARE_OK, &[&short(queue.as_bytes()), &[0; 8]])
}

/// `basic.deliver` of tag 1 and its content, in frames of `frame_max`.
pub fn delivery(channel: u16, body: &[u8], frame_max: usize) -> Vec<u8> {
    let fields = [&short(b"c")[..], &1u64.to_be_bytes(), &[0], &short(b""), &short(b"q")];
    let mut out = method(channel, id::DELIVER, &fields);
    let size = (body.len() as u64).to_be_bytes();
    out.extend(frame(2, channel, &[&[0, 60, 0, 0][..], &size, &[0, 0]].concat()));
    for part in body.chunks(frame_max - 8) {
        out.extend(frame(3, channel, part));
    }
    out
}

/// What a peer sent.
pub struct Amqp {
    /// 1 method, 2 header, 3 body, 8 heartbeat.
    pub kind: u8,
    pub channel: u16,
    pub payload: Vec<u8>,
}

impl Amqp {
    /// Class and method.
    pub fn id(&self) -> (u16, u16) {
        assert_eq!(self.kind, 1, "a method: {}", show(&self.payload));
        let number = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        (number(0), number(2))
    }

    /// Code and text of a `close`.
    pub fn closing(&self) -> (u16, String) {
        assert_eq!((self.channel, self.id()), (0, id::CLOSE), "a close: {}", show(&self.payload));
        let code = u16::from_be_bytes([self.payload[4], self.payload[5]]);
        let text = &self.payload[7..7 + usize::from(self.payload[6])];
        (code, String::from_utf8_lossy(text).into_owned())
    }
}

impl Wire {
    /// A whole AMQP frame.
    #[track_caller]
    pub fn amqp(&mut self) -> Amqp {
        let header = self.take(7);
        let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
        let mut payload = self.take(size + 1);
        assert_eq!(payload.pop(), Some(0xCE), "the frame end");
        Amqp { kind: header[0], channel: u16::from_be_bytes([header[1], header[2]]), payload }
    }

    /// The broker's half of a handshake up to `tune-ok` and `open`: they must be these.
    #[track_caller]
    pub fn serve_login(&mut self, cluster: &str, start_ok: &[u8], vhost: &str) {
        self.expect(HEADER);
        self.send(start(cluster));
        self.expect(start_ok);
        self.send(tune(2047, 131_072));
        self.expect(tune_ok(2047, 131_072));
        self.expect(open(vhost));
        self.send(open_ok());
    }

    /// Answers a `close`, ends, and waits for the peer's end.
    #[track_caller]
    pub fn serve_close(&mut self) -> (u16, String) {
        let closing = self.amqp().closing();
        self.send(close_ok());
        self.expect_fin();
        closing
    }
}
