//! The order of frames on one channel in one direction: a method, and when it has content, a header and bodies
//! (sections 4.2.6.1 and 4.2.6.2).
//!
//! Heartbeats stand between any two frames and do not come here. Not here: where frames end (`scan`), and how many
//! bytes a frame may have (the scanner's limit).

use crate::error::FrameError;
use crate::frame::Kind;
use crate::method::{CLASS_BASIC, MethodId};
use crate::reader::Reader;

/// What must come next on a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// No content is under way: a method.
    Nothing,
    /// The header of a content.
    Header {
        /// The class of the method in front of it.
        class: u16,
    },
    /// More of a body.
    Body {
        /// Bytes that are still to come, never 0.
        left: u64,
    },
}

/// Follows the contents of one channel in one direction.
///
/// Each `handle_*` takes the next frame of that channel. After an error the connection is to be closed; what further
/// frames give is not specified, but nothing panics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Body bytes that are still to come. 0 unless `stage` is `Body`.
    left: u64,
    channel: u16,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Nothing,
    Header,
    Body,
}

impl Content {
    /// Nothing is under way on `channel`, which is only for error messages.
    pub const fn new(channel: u16) -> Self {
        Self { left: 0, channel, stage: Stage::Nothing }
    }

    /// True from a method that has content until the end of that content. Nothing may come between.
    #[inline]
    pub const fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Nothing)
    }

    /// What must come next.
    pub const fn expect(&self) -> Expect {
        match self.stage {
            Stage::Nothing => Expect::Nothing,
            // Only methods of this class have content.
            Stage::Header => Expect::Header { class: CLASS_BASIC },
            Stage::Body => Expect::Body { left: self.left },
        }
    }

    /// A method frame.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`] inside a content.
    #[inline]
    pub const fn handle_method(&mut self, id: MethodId) -> Result<(), FrameError> {
        if self.is_open() {
            return Err(self.unexpected(Kind::Method));
        }
        if id.has_content() {
            self.stage = Stage::Header;
        }
        Ok(())
    }

    /// A content header frame: its payload, of which the first 12 bytes are looked at. A body size of 0 ends the
    /// content: no body follows.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`] when no header is due, [`FrameError::Class`], [`FrameError::TooShort`].
    #[inline]
    pub fn handle_header(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        if self.stage != Stage::Header {
            return Err(self.unexpected(Kind::Header));
        }
        let (class, body_size) =
            fields(payload).ok_or(FrameError::TooShort { expected: 12, found: payload.len() as u32 })?;
        if class != CLASS_BASIC {
            return Err(FrameError::Class { expected: CLASS_BASIC, found: class });
        }
        self.left = body_size;
        self.stage = if body_size > 0 { Stage::Body } else { Stage::Nothing };
        Ok(())
    }

    /// A body frame with `size` bytes of payload. An empty one is legal while more is due.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`] when no body is due, [`FrameError::BodyTooLong`].
    #[inline]
    pub const fn handle_body(&mut self, size: u32) -> Result<(), FrameError> {
        if !matches!(self.stage, Stage::Body) {
            return Err(self.unexpected(Kind::Body));
        }
        match self.left.checked_sub(size as u64) {
            None => return Err(FrameError::BodyTooLong { left: self.left, found: size }),
            Some(0) => *self = Self::new(self.channel),
            Some(left) => self.left = left,
        }
        Ok(())
    }

    const fn unexpected(&self, found: Kind) -> FrameError {
        let expected = match self.stage {
            Stage::Nothing => "a method",
            Stage::Header => "a content header",
            Stage::Body => "more of a body",
        };
        FrameError::Unexpected { channel: self.channel, expected, found }
    }
}

/// Class and body size. The weight between them is unused.
fn fields(payload: &[u8]) -> Option<(u16, u64)> {
    let mut reader = Reader::new(payload);
    let class = reader.u16()?;
    reader.u16()?;
    Some((class, reader.u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u16, body_size: u64) -> [u8; 12] {
        let mut payload = [0; 12];
        payload[..2].copy_from_slice(&class.to_be_bytes());
        payload[4..].copy_from_slice(&body_size.to_be_bytes());
        payload
    }

    fn after(id: MethodId) -> Content {
        let mut content = Content::new(7);
        content.handle_method(id).expect("a method is due");
        content
    }

    fn within(body_size: u64) -> Content {
        let mut content = after(MethodId::BASIC_PUBLISH);
        content.handle_header(&header(60, body_size)).expect("a header is due");
        content
    }

    #[test]
    fn it_takes_16_bytes_of_a_channel() {
        assert_eq!(size_of::<Content>(), 16);
    }

    #[test]
    fn a_method_with_content_opens_one_and_its_last_body_byte_closes_it() {
        for id in
            [MethodId::BASIC_PUBLISH, MethodId::BASIC_RETURN, MethodId::BASIC_DELIVER, MethodId::BASIC_GET_OK]
        {
            let mut content = after(id);
            assert_eq!(content.expect(), Expect::Header { class: 60 });
            assert_eq!(content.handle_header(&header(60, 10)), Ok(()));
            for (size, left) in [(4, 6), (0, 6), (5, 1)] {
                assert_eq!(content.handle_body(size), Ok(()));
                assert_eq!(content.expect(), Expect::Body { left });
                assert!(content.is_open());
            }
            assert_eq!(content.handle_body(1), Ok(()));
            assert_eq!(content, Content::new(7));
            assert!(!content.is_open());
        }
    }

    #[test]
    fn a_method_without_content_opens_none() {
        for id in [MethodId::BASIC_ACK, MethodId::BASIC_GET, MethodId::CHANNEL_OPEN, MethodId(0)] {
            assert_eq!(after(id).expect(), Expect::Nothing);
        }
    }

    #[test]
    fn an_empty_body_has_no_body_frame() {
        let mut content = within(0);
        assert_eq!(content.expect(), Expect::Nothing);
        let found = Kind::Body;
        assert_eq!(
            content.handle_body(0),
            Err(FrameError::Unexpected { channel: 7, expected: "a method", found })
        );
    }

    #[test]
    fn a_body_size_beyond_any_frame_is_counted_down() {
        let mut content = within(u64::MAX);
        assert_eq!(content.handle_body(u32::MAX), Ok(()));
        assert_eq!(content.expect(), Expect::Body { left: u64::MAX - u64::from(u32::MAX) });
    }

    #[test]
    fn one_byte_more_than_announced_is_too_long() {
        assert_eq!(within(3).handle_body(3), Ok(()));
        assert_eq!(within(3).handle_body(4), Err(FrameError::BodyTooLong { left: 3, found: 4 }));
    }

    #[test]
    fn a_frame_out_of_turn_is_named_with_what_was_due() {
        let publish = after(MethodId::BASIC_PUBLISH);
        let cases = [
            (Content::new(7).handle_header(&header(60, 1)), "a method", Kind::Header),
            (Content::new(7).handle_body(1), "a method", Kind::Body),
            ({ publish }.handle_method(MethodId::BASIC_ACK), "a content header", Kind::Method),
            ({ publish }.handle_body(1), "a content header", Kind::Body),
            (within(2).handle_method(MethodId::BASIC_PUBLISH), "more of a body", Kind::Method),
            (within(2).handle_header(&header(60, 1)), "more of a body", Kind::Header),
        ];
        for (result, expected, found) in cases {
            assert_eq!(result, Err(FrameError::Unexpected { channel: 7, expected, found }));
        }
    }

    #[test]
    fn a_header_of_another_class_is_refused() {
        let mut content = after(MethodId::BASIC_DELIVER);
        let error = FrameError::Class { expected: 60, found: 50 };
        assert_eq!(content.handle_header(&header(50, 1)), Err(error));
    }

    #[test]
    fn a_header_that_is_cut_is_too_short_and_never_read_beyond_its_end() {
        let whole = header(60, 0x0102_0304_0506_0708);
        for len in 0..whole.len() {
            let result = after(MethodId::BASIC_PUBLISH).handle_header(&whole[..len]);
            assert_eq!(result, Err(FrameError::TooShort { expected: 12, found: len as u32 }));
        }
        assert_eq!(within(0x0102_0304_0506_0708).expect(), Expect::Body { left: 0x0102_0304_0506_0708 });
    }
}
