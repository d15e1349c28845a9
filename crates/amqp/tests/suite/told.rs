//! All that a scanner tells of a stream that arrives in chunks, in the terms of the plain parser.

use amqp::{METHOD_BYTES_MAX, Piece, Scanner};

use crate::reference::{End, Frame, Parsed};

/// Feeds a stream in chunks as the relay does: what was not consumed is offered again with more behind it.
pub fn told(bytes: &[u8], frame_bytes_max: u32, chunks: impl Iterator<Item = usize>) -> Parsed {
    let mut scanner = Scanner::new(frame_bytes_max);
    let mut frames: Vec<Frame> = Vec::new();
    let (mut read, mut at) = (0, 0);
    for chunk in chunks {
        read = (read + chunk).min(bytes.len());
        while at < read {
            let offered = &bytes[at..read];
            let piece = match scanner.peek(offered) {
                Ok(Piece::NotYet) => break,
                Ok(piece) => piece,
                Err(error) => {
                    // A frame that turns out to be malformed at its end was told before.
                    let start =
                        if scanner.at_boundary() { at } else { frames.pop().map_or(at, |frame| frame.start) };
                    return Parsed { frames, end: End::Bad(start, error) };
                }
            };
            assert_eq!(scanner.peek(offered), Ok(piece), "looking changes nothing");
            if let Piece::Frame { kind, channel, size, .. } = piece {
                frames.push(Frame { start: at, kind, channel, size });
            }
            let len = scanner.take(piece);
            assert!(len > 0 && len <= offered.len());
            assert!(!matches!(piece, Piece::Rest { ends, .. } if ends != scanner.at_boundary()));
            at += len;
        }
        assert!(read - at < METHOD_BYTES_MAX as usize + 8, "held back {} bytes", read - at);
        if read == bytes.len() {
            break;
        }
    }
    let end = match (scanner.at_boundary(), at == bytes.len()) {
        (true, true) => End::Boundary,
        (false, true) => End::Within,
        (_, false) => End::NotYet(at),
    };
    Parsed { frames, end }
}
