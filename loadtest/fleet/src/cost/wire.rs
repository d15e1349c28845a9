//! Frames over a socket, for peers that must cost little: no queue, no copy of a body, one buffer a connection.
//!
//! Both ends of the measurement use it, the broker and the clients, so whatever it costs is the same for every proxy.

use std::io::{self, ErrorKind};
use std::ops::Range;

use amqp::{FRAME_END, HEADER_BYTES, Kind, MethodId, Piece, Scanner, write};
use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// `frame_max` that is agreed: RabbitMQ's.
pub const FRAME_BYTES_MAX: u32 = 131_072;

/// A buffer begins so small that thousands of silent connections fit.
const BUFFER_BYTES_MIN: usize = 2 * 1024;
/// And grows no further: nothing that is waited for is longer.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A connection, its unread bytes and what it has to say.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    scanner: Scanner,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read and not taken.
    unread: Range<usize>,
    /// The frame under way.
    kind: Kind,
    channel: u16,
    /// What [`Wire::flush`] sends.
    pub out: Vec<u8>,
}

/// A frame whose last byte has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// What it carries.
    pub kind: Kind,
    /// Its channel.
    pub channel: u16,
    /// Its payload when it is a method, otherwise nothing.
    pub payload: &'a [u8],
}

impl Wire {
    /// A connection at the beginning of a frame.
    pub fn new(socket: TcpStream) -> Self {
        // Without it, small answers wait for the peer's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        Self {
            socket,
            scanner: Scanner::new(FRAME_BYTES_MAX),
            buffer: vec![0; BUFFER_BYTES_MIN],
            unread: 0..0,
            kind: Kind::Heartbeat,
            channel: 0,
            out: Vec::new(),
        }
    }

    /// The next frame that has come whole, if there is one.
    ///
    /// # Errors
    /// When what came is no frame.
    pub fn take(&mut self) -> anyhow::Result<Option<Seen<'_>>> {
        loop {
            let piece = self.scanner.peek(&self.buffer[self.unread.clone()])?;
            if let Piece::Frame { kind, channel, .. } = piece {
                (self.kind, self.channel) = (kind, channel);
            }
            let start = self.unread.start;
            self.unread.start += self.scanner.take(piece);
            if self.unread.start == start {
                return Ok(None);
            }
            if self.scanner.at_boundary() {
                let payload = match self.kind {
                    Kind::Method => &self.buffer[start + HEADER_BYTES..self.unread.start - 1],
                    Kind::Header | Kind::Body | Kind::Heartbeat => &[],
                };
                return Ok(Some(Seen { kind: self.kind, channel: self.channel, payload }));
            }
        }
    }

    /// Waits for bytes and reads them. False: the stream has ended.
    ///
    /// # Errors
    /// When the connection breaks, or a method is too long for the buffer.
    pub async fn fill(&mut self) -> anyhow::Result<bool> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if self.unread.end == self.buffer.len() {
            if self.buffer.len() >= BUFFER_BYTES_MAX {
                bail!("a frame does not fit into {BUFFER_BYTES_MAX} bytes");
            }
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        loop {
            self.socket.readable().await?;
            match self.socket.try_read(&mut self.buffer[self.unread.end..]) {
                Ok(n) => {
                    self.unread.end += n;
                    if self.unread.end == self.buffer.len() && self.buffer.len() < BUFFER_BYTES_MAX {
                        self.buffer.resize(2 * self.buffer.len(), 0);
                    }
                    return Ok(n > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads until a method has come, and answers with its id.
    ///
    /// # Errors
    /// When something else comes: the end, a close, bytes that are no frame.
    pub async fn method(&mut self, expected: MethodId) -> anyhow::Result<()> {
        loop {
            if let Some(seen) = self.take()? {
                let found = MethodId::of(seen.payload);
                if seen.kind == Kind::Method && found == expected {
                    return Ok(());
                }
                bail!("expected {expected:?}, found {found:?} in a frame of kind {:?}", seen.kind);
            }
            if !self.fill().await? {
                bail!("the stream ended, expected {expected:?}");
            }
        }
    }

    /// Reads the eight bytes in front of all frames.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn protocol_header(&mut self) -> anyhow::Result<[u8; 8]> {
        loop {
            if let Some(header) = self.buffer[self.unread.clone()].first_chunk::<8>().copied() {
                self.unread.start += 8;
                return Ok(header);
            }
            if !self.fill().await? {
                bail!("the stream ended within the protocol header");
            }
        }
    }

    /// Sends what is in `out`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// The client's side of the handshake, up to `open-ok`, without heartbeats.
    ///
    /// # Errors
    /// When the peer refuses.
    pub async fn log_in(&mut self) -> anyhow::Result<()> {
        self.out.extend_from_slice(&amqp::PROTOCOL_HEADER);
        self.flush().await?;
        self.method(MethodId::CONNECTION_START).await.context("there was no start")?;
        write::method(&mut self.out, 0, MethodId::CONNECTION_START_OK, |out| {
            write::long_string(out, &[]);
            write::short_string(out, b"PLAIN");
            write::long_string(out, b"\0guest\0guest");
            write::short_string(out, b"en_US");
        });
        self.flush().await?;
        self.method(MethodId::CONNECTION_TUNE).await.context("the login was refused")?;
        let agreed = amqp::Tune { channel_max: 2047, frame_max: FRAME_BYTES_MAX, heartbeat: 0 };
        agreed.write(&mut self.out, MethodId::CONNECTION_TUNE_OK);
        amqp::write_open(&mut self.out, b"/");
        self.flush().await?;
        self.method(MethodId::CONNECTION_OPEN_OK).await.context("the virtual host was refused")
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// When the peer refuses.
    pub async fn open_channel(&mut self, channel: u16) -> anyhow::Result<()> {
        write::channel_open(&mut self.out, channel);
        self.flush().await?;
        self.method(MethodId::CHANNEL_OPEN_OK).await
    }
}

/// Appends the header and the one body frame of a content of `bytes` bytes, persistent.
pub fn content(out: &mut Vec<u8>, channel: u16, bytes: usize) {
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(bytes as u64).to_be_bytes());
    // Only delivery-mode is given: 2.
    header.extend_from_slice(&[0x10, 0x00, 2]);
    frame(out, Kind::Header, channel, &header);
    frame(out, Kind::Body, channel, &vec![b'x'; bytes]);
}

fn frame(out: &mut Vec<u8>, kind: Kind, channel: u16, payload: &[u8]) {
    out.push(kind.as_u8());
    out.extend_from_slice(&channel.to_be_bytes());
    write::long_string(out, payload);
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use amqp::Content;

    use super::*;

    #[test]
    fn a_content_is_one_that_may_stand_behind_a_publish() {
        let mut out = Vec::new();
        content(&mut out, 7, 1024);
        let (mut scanner, mut check) = (Scanner::new(FRAME_BYTES_MAX), Content::new(7));
        check.handle_method(MethodId::BASIC_PUBLISH).unwrap();
        let mut rest = &out[..];
        while !rest.is_empty() {
            let piece = scanner.peek(rest).unwrap();
            let Piece::Frame { kind, channel, size, len } = piece else { panic!("{piece:?}") };
            assert_eq!(channel, 7);
            match kind {
                Kind::Header => check.handle_header(&rest[HEADER_BYTES..]).unwrap(),
                _ => check.handle_body(size).unwrap(),
            }
            scanner.take(piece);
            rest = &rest[len..];
        }
        assert!(!check.is_open() && scanner.at_boundary());
    }
}
