//! AMQP 1.0, as far as a session that is relayed opaquely needs it: where frames end, and one close.
//!
//! Source: OASIS AMQP 1.0, part 2 (transport), sections 2.3 (framing) and 2.7.9 (close).

use crate::write::cut;

/// Follows the frames of one direction of AMQP 1.0: a size, then that many bytes, its own four included.
///
/// Protocol headers stand between frames (SASL first, then AMQP): eight bytes that begin with `AMQP`. As a size these letters
/// would be a frame of 1 GiB, which nobody sends.
#[derive(Clone, Debug, Default)]
pub struct Frames10 {
    /// Bytes left of the frame under way.
    rest: u32,
    /// The size field, as far as it came.
    size: [u8; 4],
    size_bytes: u8,
}

impl Frames10 {
    /// Follows `bytes`.
    pub fn run(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let n = bytes.len().min(self.rest as usize);
                self.rest -= n as u32;
                bytes = &bytes[n..];
                continue;
            }
            self.size[usize::from(self.size_bytes)] = bytes[0];
            self.size_bytes += 1;
            bytes = &bytes[1..];
            if self.size_bytes == 4 {
                self.size_bytes = 0;
                // A protocol header has eight bytes.
                let size = if self.size == *b"AMQP" { 8 } else { u32::from_be_bytes(self.size) };
                self.rest = size.saturating_sub(4);
            }
        }
    }

    /// True between two frames.
    pub const fn at_boundary(&self) -> bool {
        self.rest == 0 && self.size_bytes == 0
    }
}

/// A `close` performative with the error `amqp:connection:forced` and this description (at most 255 bytes of it).
pub fn forced_close(description: &str) -> Vec<u8> {
    let condition = b"amqp:connection:forced";
    let description = cut(description).as_bytes();
    // error: described list 0x1d of symbol and string.
    let mut error = vec![0x00, 0x53, 0x1d, 0xd0];
    let items = 2 + condition.len() + 2 + description.len();
    error.extend_from_slice(&(items as u32 + 4).to_be_bytes());
    error.extend_from_slice(&2u32.to_be_bytes());
    error.extend_from_slice(&[0xa3, condition.len() as u8]);
    error.extend_from_slice(condition);
    error.extend_from_slice(&[0xa1, description.len() as u8]);
    error.extend_from_slice(description);
    // close: described list 0x18 of that error.
    let mut body = vec![0x00, 0x53, 0x18, 0xd0];
    body.extend_from_slice(&(error.len() as u32 + 4).to_be_bytes());
    body.extend_from_slice(&1u32.to_be_bytes());
    body.extend_from_slice(&error);
    let mut frame = ((body.len() + 8) as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&[2, 0, 0, 0]);
    frame.extend_from_slice(&body);
    frame
}
