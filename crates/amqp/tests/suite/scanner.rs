//! The scanner against tables and the reference parser, at any split.

use amqp::{FrameError, Kind, METHOD_BYTES_MAX, Piece, Scanner, code};
use proptest::prelude::*;

use crate::cases;
use crate::reference::{self, End, Parsed};
use crate::streams::{any_stream, content_header, frame, frame_bytes_max, legal, splits};
use crate::told::told;

const FRAME_MAX: u32 = 4096;

fn whole(bytes: &[u8], frame_bytes_max: u32) -> Parsed {
    told(bytes, frame_bytes_max, std::iter::once(bytes.len()))
}

fn error(bytes: &[u8]) -> FrameError {
    match whole(bytes, FRAME_MAX).end {
        End::Bad(0, error) => error,
        end => panic!("no error but {end:?}"),
    }
}

/// The first seven bytes of a frame.
fn header(kind: u8, channel: u16, size: u32) -> Vec<u8> {
    [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes()].concat()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_split_stream_gives_the_frames_and_the_error_that_a_plain_parser_gives(
        stream in any_stream(), max in frame_bytes_max(), chunks in splits()
    ) {
        let plain = reference::parse(&stream, max);
        prop_assert_eq!(&told(&stream, max, chunks.into_iter().cycle()), &plain);
        prop_assert_eq!(&whole(&stream, max), &plain);
    }

    #[test]
    fn a_legal_stream_ends_between_two_frames(stream in legal(), chunks in splits()) {
        let told = told(&stream, 131_072, chunks.into_iter().cycle());
        prop_assert_eq!(told.end, End::Boundary);
    }

    #[test]
    fn any_bytes_end_in_frames_not_yet_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        // Without a bound as well: the largest frame there is.
        whole(&bytes, 0);
    }
}

#[test]
fn every_position_is_a_good_one_to_split_at() {
    let publish = [&[0, 60, 0, 40, 0, 0][..], &[2, b'e', b'x', 1, b'k', 0]].concat();
    let stream = [
        frame(1, 0, &[0, 10, 0, 61]),
        frame(1, 7, &publish),
        frame(2, 7, &content_header(60, 5)),
        frame(8, 0, &[]),
        frame(3, 7, b"abc"),
        frame(3, 7, b""),
        frame(3, 7, b"de"),
    ]
    .concat();
    let expected = whole(&stream, FRAME_MAX);
    assert_eq!(expected.frames.len(), 7);
    assert_eq!(expected.end, End::Boundary);
    for at in 0..=stream.len() {
        assert_eq!(told(&stream, FRAME_MAX, [at, stream.len()].into_iter()), expected, "at {at}");
    }
    assert_eq!(told(&stream, FRAME_MAX, std::iter::repeat(1)), expected);
}

#[test]
fn hostile_frames_are_refused_with_their_reply_code() {
    let mut bad_end = frame(3, 1, b"x");
    bad_end[8] = 0xCD;
    let cases = [
        (header(1, 1, FRAME_MAX + 1), code::FRAME_ERROR),
        (header(3, 1, 100_000_000), code::FRAME_ERROR),
        (header(2, 1, u32::MAX), code::FRAME_ERROR),
        (bad_end, code::FRAME_ERROR),
        (b"GET / HTTP/1.1\r\n".to_vec(), code::FRAME_ERROR),
        (frame(8, 0, b"x"), code::FRAME_ERROR),
        (frame(8, 1, b""), code::FRAME_ERROR),
        (frame(1, 1, &[0, 60, 0]), code::FRAME_ERROR),
        (frame(2, 1, &[0; 11]), code::FRAME_ERROR),
        (frame(2, 0, &content_header(60, 1)), code::CHANNEL_ERROR),
        (frame(3, 0, b"x"), code::CHANNEL_ERROR),
        (frame(1, 0, &[0, 20, 0, 10, 0]), code::CHANNEL_ERROR),
        (frame(1, 1, &[0, 10, 0, 51]), code::COMMAND_INVALID),
    ];
    for (bytes, code) in cases {
        let error = error(&bytes);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().starts_with("expected "), "{error}");
    }
}

#[test]
fn errors_of_a_content_have_their_reply_codes() {
    let found = Kind::Body;
    assert_eq!(FrameError::Class { expected: 60, found: 50 }.code(), code::FRAME_ERROR);
    assert_eq!(FrameError::BodyTooLong { left: 1, found: 2 }.code(), code::FRAME_ERROR);
    assert_eq!(FrameError::Fields { class: 60, method: 80 }.code(), code::FRAME_ERROR);
    let out_of_turn = FrameError::Unexpected { channel: 1, expected: "a method", found };
    assert_eq!(out_of_turn.code(), code::UNEXPECTED_FRAME);
}

#[test]
fn the_payload_may_be_as_long_as_frame_max_and_not_one_byte_longer() {
    for (size, is) in [(FRAME_MAX - 8, true), (FRAME_MAX, true), (FRAME_MAX + 1, false)] {
        assert_eq!(Scanner::new(FRAME_MAX).peek(&header(3, 1, size)).is_ok(), is, "{size}");
    }
    // No bound but that of a length in 32 bits.
    for (size, is) in [(u32::MAX - 8, true), (u32::MAX - 7, false)] {
        assert_eq!(Scanner::new(0).peek(&header(3, 1, size)).is_ok(), is, "{size}");
        assert_eq!(Scanner::new(u32::MAX).peek(&header(3, 1, size)).is_ok(), is, "{size}");
    }
}

#[test]
fn the_largest_frame_is_followed_to_its_end() {
    let mut scanner = Scanner::new(0);
    let first = scanner.peek(&header(3, 1, u32::MAX - 8)).expect("a frame");
    assert_eq!(scanner.take(first), 7);
    let chunk = vec![0; 1 << 20];
    let mut left = u64::from(u32::MAX) - 7;
    while left > 1 {
        let len = left.saturating_sub(1).min(chunk.len() as u64) as usize;
        let piece = scanner.peek(&chunk[..len]).expect("more of it");
        assert_eq!(piece, Piece::Rest { len, ends: false });
        left -= scanner.take(piece) as u64;
    }
    assert_eq!(scanner.peek(&[0xCD]), Err(FrameError::End(0xCD)));
    assert_eq!(scanner.peek(&[0xCE, 1]), Ok(Piece::Rest { len: 1, ends: true }));
}

#[test]
fn a_bound_that_is_agreed_later_counts_from_the_next_frame() {
    let mut scanner = Scanner::new(FRAME_MAX);
    let body = header(3, 1, FRAME_MAX + 1);
    assert!(scanner.peek(&body).is_err());
    scanner.set_frame_bytes_max(131_072);
    let piece = scanner.peek(&body).expect("legal now");
    scanner.take(piece);
    scanner.set_frame_bytes_max(FRAME_MAX);
    assert_eq!(scanner.peek(&[0; 3]), Ok(Piece::Rest { len: 3, ends: false }));
}

#[test]
fn a_method_is_waited_for_to_its_limit_and_passes_in_pieces_beyond() {
    for (size, needed) in
        [(METHOD_BYTES_MAX, METHOD_BYTES_MAX as usize + 8), (METHOD_BYTES_MAX + 1, 7 + 4), (4, 12)]
    {
        let mut payload = vec![0; size as usize];
        payload[1] = 50;
        let bytes = frame(1, 1, &payload);
        let scanner = Scanner::new(131_072);
        assert_eq!(scanner.peek(&bytes[..needed - 1]), Ok(Piece::NotYet), "{size}");
        let told = scanner.peek(&bytes[..needed]);
        assert_eq!(told, Ok(Piece::Frame { kind: Kind::Method, channel: 1, size, len: needed }));
    }
}

#[test]
fn a_content_header_comes_with_its_fixed_fields_and_a_body_at_once() {
    let scanner = Scanner::new(FRAME_MAX);
    let bytes = frame(2, 1, &content_header(60, 1));
    assert_eq!(scanner.peek(&bytes[..18]), Ok(Piece::NotYet));
    assert!(matches!(scanner.peek(&bytes[..19]), Ok(Piece::Frame { size: 14, len: 19, .. })));
    assert!(matches!(scanner.peek(&header(3, 1, 9)), Ok(Piece::Frame { size: 9, len: 7, .. })));
}

#[test]
fn a_wrong_type_is_told_at_its_first_byte() {
    for byte in 0..=u8::MAX {
        let expected = match byte {
            1 | 2 | 3 | 8 => Ok(Piece::NotYet),
            _ => Err(FrameError::Kind(byte)),
        };
        assert_eq!(Scanner::new(FRAME_MAX).peek(&[byte]), expected);
    }
    assert_eq!(Scanner::new(FRAME_MAX).peek(&[]), Ok(Piece::NotYet));
}

#[test]
fn nothing_is_consumed_of_what_is_not_there_yet() {
    let mut scanner = Scanner::new(FRAME_MAX);
    assert_eq!(scanner.take(Piece::NotYet), 0);
    assert!(scanner.at_boundary());
}

#[test]
fn the_eight_bytes_in_front_say_which_protocol() {
    use amqp::{Protocol, protocol_of};
    let cases = [
        (b"AMQP\x00\x00\x09\x01", Protocol::Amqp091),
        (b"AMQP\x00\x01\x00\x00", Protocol::Amqp10(0)),
        (b"AMQP\x02\x01\x00\x00", Protocol::Amqp10(2)),
        (b"AMQP\x03\x01\x00\x00", Protocol::Amqp10(3)),
        (b"AMQP\x01\x01\x00\x00", Protocol::OtherVersion),
        (b"AMQP\x01\x01\x08\x00", Protocol::OtherVersion),
        (b"AMQP\x01\x01\x00\x0A", Protocol::OtherVersion),
        (b"GET / HT", Protocol::Unknown),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", Protocol::Unknown),
    ];
    for (header, protocol) in cases {
        assert_eq!(protocol_of(*header), protocol);
    }
}
