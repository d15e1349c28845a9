//! Frames of a handshake, one after the other, out of a stream.
//!
//! Bounded, and overwritten when dropped: one of them is the login.

use amqp::{FRAME_OVERHEAD, FrameError, HEADER_BYTES, Kind, MethodId, Piece, Scanner};
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroizing;

/// Room for the frames of an ordinary handshake; more is taken when one is longer.
const ROOM_BYTES: usize = 4096;

/// What a peer sent.
pub struct Frame {
    bytes: Zeroizing<Vec<u8>>,
    /// `None`: a heartbeat.
    method: Option<MethodId>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({:?}, {} bytes)", self.method, self.bytes.len())
    }
}

impl Frame {
    /// A whole method frame.
    #[cfg(test)]
    pub fn of(bytes: &[u8]) -> Self {
        let method = Some(MethodId::of(&bytes[HEADER_BYTES..]));
        Self { bytes: Zeroizing::new(bytes.to_vec()), method }
    }

    /// As it came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is in it.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.bytes.len() - 1]
    }

    /// Which method it is; `None`: a heartbeat.
    pub fn method(&self) -> Option<MethodId> {
        self.method
    }
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum NoFrame {
    /// The stream has ended, between two frames or within one.
    #[error("closed the connection")]
    Closed,
    /// The stream is broken.
    #[error("broke the connection: {0}")]
    Broken(#[from] std::io::Error),
    /// What came is no frame of a handshake.
    #[error("sent a malformed frame: {0}")]
    Malformed(#[from] FrameError),
}

/// Reads frames of one peer.
pub struct Frames {
    read: Zeroizing<Vec<u8>>,
    scanner: Scanner,
}

impl Frames {
    /// Behind `read`, which came already.
    pub fn new(read: &[u8]) -> Self {
        let mut buffer = Zeroizing::new(Vec::with_capacity(ROOM_BYTES.max(read.len())));
        buffer.extend_from_slice(read);
        Self { read: buffer, scanner: Scanner::new(0) }
    }

    /// What was read behind the last frame.
    pub fn rest(&self) -> &[u8] {
        &self.read
    }

    /// The next frame: a method on channel 0 with at most [`amqp::METHOD_BYTES_MAX`] bytes, or a heartbeat. May be dropped
    /// and called again.
    ///
    /// # Errors
    /// [`NoFrame`].
    pub async fn next(&mut self, io: &mut (impl AsyncRead + Unpin)) -> Result<Frame, NoFrame> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            self.make_room();
            if io.read_buf(&mut *self.read).await? == 0 {
                return Err(NoFrame::Closed);
            }
        }
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let (kind, channel, size, len) = match self.scanner.peek(&self.read)? {
            Piece::Frame { kind, channel, size, len } => (kind, channel, size, len),
            Piece::NotYet | Piece::Rest { .. } => return Ok(None),
        };
        let expected =
            "a method on channel 0 of at most 64 KiB, or a heartbeat, before the connection is open";
        let is_whole = len == size as usize + FRAME_OVERHEAD;
        if channel != 0 || !is_whole || !matches!(kind, Kind::Method | Kind::Heartbeat) {
            return Err(FrameError::Unexpected { channel, expected, found: kind });
        }
        let frame = Zeroizing::new(self.read[..len].to_vec());
        // Without a gap of what was the frame: the rest moves to the front, and the end is overwritten.
        self.read.copy_within(len.., 0);
        let rest = self.read.len() - len;
        self.read[rest..].fill(0);
        self.read.truncate(rest);
        let method = (kind == Kind::Method).then(|| MethodId::of(&frame[HEADER_BYTES..]));
        Ok(Some(Frame { bytes: frame, method }))
    }

    /// A buffer that grew by itself would leave a copy of the login behind.
    fn make_room(&mut self) {
        if self.read.len() == self.read.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(self.read.len() * 2));
            larger.extend_from_slice(&self.read);
            self.read = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn method(bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        amqp::write::method(&mut out, 0, MethodId::CONNECTION_START_OK, |out| {
            out.resize(out.len() + bytes, b's');
        });
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_long_they_are() {
        let longest = amqp::METHOD_BYTES_MAX as usize - 4;
        let wanted = [method(0), amqp::write::HEARTBEAT.to_vec(), method(5000), method(longest)];
        let mut stream = wanted.concat();
        stream.extend_from_slice(b"behind");
        let mut io = stream.as_slice();
        let mut frames = Frames::new(b"");
        for expected in &wanted {
            assert_eq!(run(frames.next(&mut io)).expect("a frame").bytes(), expected);
        }
        assert!(matches!(run(frames.next(&mut io)), Err(NoFrame::Malformed(FrameError::Kind(b'b')))));
        assert_eq!(frames.rest(), b"behind");
    }

    #[test]
    fn what_has_no_place_in_a_handshake_is_refused() {
        let mut on_channel = method(0);
        on_channel[2] = 1;
        let too_long = method(amqp::METHOD_BYTES_MAX as usize - 3);
        let body = [3, 0, 1, 0, 0, 0, 1, b'x', 0xCE].to_vec();
        for bytes in [on_channel, too_long, body] {
            let no_frame = run(Frames::new(b"").next(&mut bytes.as_slice()));
            assert!(matches!(no_frame, Err(NoFrame::Malformed(_))), "{no_frame:?}");
        }
        assert!(matches!(run(Frames::new(&method(3)[..5]).next(&mut &b""[..])), Err(NoFrame::Closed)));
    }

    #[test]
    fn a_frame_shows_nothing_of_itself_when_printed() {
        let frame = run(Frames::new(&method(8)).next(&mut &b""[..])).expect("a frame");
        assert_eq!(format!("{frame:?}"), "Frame(Some(10.11), 20 bytes)");
    }
}
