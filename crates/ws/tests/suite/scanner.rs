//! The scanner against tables, the reference parser and tungstenite's, at any split.

use std::io::Cursor;

use proptest::prelude::*;
use tungstenite::protocol::frame::FrameHeader;
use ws::{
    CONTROL_FRAME_BYTES_MAX, Close, FrameError, Opcode, Role, Rsv, Scanner, Stop, close_frame, message_frame,
};

use crate::cases;
use crate::reference::{self, End};
use crate::streams::{any_case, raw_frame, splits};

const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// All that a scanner tells about a stream; equal for equal streams, however they arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trace {
    /// Bytes consumed, a Close frame included.
    consumed: usize,
    messages: usize,
    close: Option<(usize, Close)>,
    error: Option<(usize, FrameError)>,
    payload_remaining: u64,
    message_boundary: bool,
}

/// Feeds a stream in chunks as the relay does: what was not consumed is offered again with more behind it.
fn trace(bytes: &[u8], sender: Role, rsv: Rsv, chunks: impl Iterator<Item = usize>) -> Trace {
    let mut scanner = Scanner::new(sender, rsv);
    let mut trace = Trace {
        consumed: 0,
        messages: 0,
        close: None,
        error: None,
        payload_remaining: 0,
        message_boundary: true,
    };
    let mut read = 0;
    for chunk in chunks {
        read = (read + chunk).min(bytes.len());
        take(&mut scanner, &bytes[..read], &mut trace);
        if read == bytes.len() || trace.error.is_some() {
            break;
        }
        let held = read - trace.consumed;
        assert!(held < CONTROL_FRAME_BYTES_MAX, "held back {held} bytes");
    }
    trace.payload_remaining = scanner.payload_remaining();
    assert_eq!(scanner.at_frame_boundary(), trace.payload_remaining == 0);
    trace.message_boundary = scanner.at_message_boundary();
    trace
}

/// Runs the scanner over what is there until it wants more.
fn take(scanner: &mut Scanner, bytes: &[u8], trace: &mut Trace) {
    loop {
        let offered = &bytes[trace.consumed..];
        let run = scanner.run(offered);
        assert!(run.len <= offered.len());
        trace.consumed += run.len;
        trace.messages += run.messages as usize;
        match run.stop {
            Stop::End => return assert_eq!(trace.consumed, bytes.len()),
            Stop::FrameEnd => unreachable!("only run_frame stops there"),
            Stop::NotYet => return assert!(trace.consumed < bytes.len()),
            Stop::Malformed(error) => return trace.error = Some((trace.consumed, error)),
            Stop::Close(close) => {
                assert!(close.frame_bytes <= offered.len() - run.len);
                trace.close = Some((trace.consumed, close));
                trace.consumed += close.frame_bytes;
            }
        }
    }
}

fn whole(bytes: &[u8], sender: Role, rsv: Rsv) -> Trace {
    trace(bytes, sender, rsv, std::iter::once(bytes.len()))
}

fn stop(bytes: &[u8], sender: Role, rsv: Rsv) -> Stop {
    Scanner::new(sender, rsv).run(bytes).stop
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_split_of_any_stream_gives_the_same_events((role, rsv, bytes) in any_case(), chunks in splits()) {
        let expected = whole(&bytes, role, rsv);
        prop_assert_eq!(&trace(&bytes, role, rsv, chunks.into_iter().cycle()), &expected);
        if bytes.len() <= 300 {
            for at in 1..bytes.len() {
                let split = trace(&bytes, role, rsv, [at, bytes.len() - at].into_iter());
                prop_assert_eq!(&split, &expected, "split at {}", at);
            }
        }
    }

    #[test]
    fn frame_by_frame_comes_as_far_as_all_at_once((role, rsv, bytes) in any_case()) {
        let (mut whole, mut stepped) = (Scanner::new(role, rsv), Scanner::new(role, rsv));
        let all = whole.run(&bytes);
        let (mut at, mut messages) = (0, 0);
        let stop = loop {
            let run = stepped.run_frame(&bytes[at..]);
            at += run.len;
            messages += run.messages;
            match run.stop {
                Stop::FrameEnd => prop_assert!(run.len > 0 && stepped.at_frame_boundary()),
                stop => break stop,
            }
        };
        prop_assert_eq!((at, messages, stop), (all.len, all.messages, all.stop));
        prop_assert_eq!(stepped.at_message_boundary(), whole.at_message_boundary());
    }

    #[test]
    fn the_scanner_agrees_with_an_independent_parser((role, rsv, bytes) in any_case()) {
        let found = whole(&bytes, role, rsv);
        let plain = reference::parse(&bytes, role, rsv);
        let (consumed, bad_at) = match plain.end {
            End::Boundary | End::InPayload => (bytes.len(), None),
            End::NotYet(at) => (at, None),
            End::Bad(at) => (at, Some(at)),
        };
        prop_assert_eq!(found.consumed, consumed);
        prop_assert_eq!(found.error.map(|(at, _)| at), bad_at);
        prop_assert_eq!(found.messages, plain.messages());
        prop_assert_eq!(found.close.map(|(at, _)| at), plain.close_at());
        prop_assert_eq!(found.payload_remaining, plain.payload_remaining());
        prop_assert_eq!(found.message_boundary, plain.payload_remaining() == 0 && !plain.open);
    }

    #[test]
    fn each_accepted_frame_is_the_one_that_tungstenite_reads((role, rsv, bytes) in any_case()) {
        let consumed = whole(&bytes, role, rsv).consumed;
        let mut at = 0;
        while at < consumed {
            let mut cursor = Cursor::new(&bytes[at..]);
            let (header, payload_bytes) = FrameHeader::parse(&mut cursor)
                .map_err(|error| TestCaseError::fail(error.to_string()))?
                .ok_or_else(|| TestCaseError::fail("a header that is not complete was consumed"))?;
            prop_assert_eq!(header.mask.is_some(), role == Role::Client);
            let end = at as u64 + cursor.position() + payload_bytes;
            // Only the payload of the last frame may be outstanding.
            prop_assert!(end <= consumed as u64 || consumed == bytes.len());
            at = usize::try_from(end).unwrap_or(usize::MAX);
        }
    }
}

#[test]
fn a_direction_costs_16_bytes_of_state() {
    assert_eq!(size_of::<Scanner>(), 16);
}

#[test]
fn each_malformed_frame_is_named() {
    use FrameError::{
        CloseReason, CloseTooShort, ExpectedContinuation, FragmentedControl, LengthNotMinimal,
        LengthTooLarge, LongControl, Masked, NothingToContinue, Unmasked,
    };
    use Role::{Client, Server};
    let ping_start = |second| vec![0x89, second];
    for (bytes, sender, rsv, expected) in [
        (vec![0x81, 0x01], Client, Rsv::None, Unmasked),
        (vec![0x81, 0x81], Server, Rsv::None, Masked),
        (vec![0x91, 0], Server, Rsv::None, FrameError::Rsv { bits: 1, opcode: Opcode::Text }),
        (vec![0xA2, 0], Server, Rsv::None, FrameError::Rsv { bits: 2, opcode: Opcode::Binary }),
        (vec![0xC1, 0], Server, Rsv::None, FrameError::Rsv { bits: 4, opcode: Opcode::Text }),
        (vec![0xA1, 0], Server, Rsv::Deflate, FrameError::Rsv { bits: 2, opcode: Opcode::Text }),
        (vec![0xC9, 0], Server, Rsv::Deflate, FrameError::Rsv { bits: 4, opcode: Opcode::Ping }),
        (
            vec![0x01, 0, 0xC0, 0],
            Server,
            Rsv::Deflate,
            FrameError::Rsv { bits: 4, opcode: Opcode::Continuation },
        ),
        (vec![0x09], Server, Rsv::None, FragmentedControl(Opcode::Ping)),
        (vec![0x08], Client, Rsv::Any, FragmentedControl(Opcode::Close)),
        (ping_start(126), Server, Rsv::None, LongControl(Opcode::Ping)),
        (ping_start(127), Server, Rsv::None, LongControl(Opcode::Ping)),
        (ping_start(0x80 | 126), Client, Rsv::None, LongControl(Opcode::Ping)),
        (vec![0x80, 0], Server, Rsv::None, NothingToContinue),
        (vec![0x00, 0], Server, Rsv::None, NothingToContinue),
        (vec![0x01, 0, 0x81, 0], Server, Rsv::None, ExpectedContinuation(Opcode::Text)),
        (vec![0x01, 0, 0x89, 0, 0x02, 0], Server, Rsv::None, ExpectedContinuation(Opcode::Binary)),
        (vec![0x82, 126, 0, 125], Server, Rsv::None, LengthNotMinimal { length: 125, field_bits: 16 }),
        (
            vec![0x82, 127, 0, 0, 0, 0, 0, 0, 0, 5],
            Server,
            Rsv::None,
            LengthNotMinimal { length: 5, field_bits: 64 },
        ),
        (
            vec![0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
            Server,
            Rsv::None,
            LengthNotMinimal { length: 65_535, field_bits: 64 },
        ),
        (vec![0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Server, Rsv::None, LengthTooLarge(1 << 63)),
        (
            vec![0x82, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            Server,
            Rsv::None,
            LengthTooLarge(u64::MAX),
        ),
        (raw_frame(0x88, &[0x03], Client, KEY), Client, Rsv::None, CloseTooShort),
        (raw_frame(0x88, &[0x03, 0xE8, 0xC3, 0x28], Client, KEY), Client, Rsv::None, CloseReason),
        (raw_frame(0x88, &[0x03, 0xE8, 0xE2, 0x82], Server, KEY), Server, Rsv::None, CloseReason),
    ] {
        assert_eq!(stop(&bytes, sender, rsv), Stop::Malformed(expected), "{bytes:02X?}");
        assert!(expected.to_string().contains("(RFC 6455 "), "{expected}");
        let close_code = if expected == CloseReason { 1007 } else { 1002 };
        assert_eq!(expected.close_code(), close_code);
    }
}

#[test]
fn reserved_opcodes_are_refused_whatever_was_negotiated() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        for rsv in [Rsv::None, Rsv::Deflate, Rsv::Any] {
            let found = stop(&[0x80 | opcode, 0], Role::Server, rsv);
            assert_eq!(found, Stop::Malformed(FrameError::ReservedOpcode(opcode)));
        }
    }
}

#[test]
fn close_codes_that_must_never_be_sent_are_malformed_and_all_others_pass() {
    for code in 0..=u16::MAX {
        let bytes = raw_frame(0x88, &code.to_be_bytes(), Role::Client, KEY);
        let expected = match code {
            0..=999 | 1004..=1006 | 1015 | 5000.. => Stop::Malformed(FrameError::CloseCode(code)),
            _ => Stop::Close(Close { frame_bytes: bytes.len(), code: Some(code) }),
        };
        assert_eq!(stop(&bytes, Role::Client, Rsv::None), expected);
    }
}

#[test]
fn nothing_may_follow_a_close() {
    let bytes = close_frame(Some(1012), "rebalance", None);
    let mut scanner = Scanner::new(Role::Server, Rsv::None);
    let run = scanner.run(&bytes);
    assert_eq!((run.len, run.stop), (0, Stop::Close(Close { frame_bytes: bytes.len(), code: Some(1012) })));
    assert_eq!(scanner.run(&[]).stop, Stop::End);
    assert!(scanner.at_message_boundary());
    for more in [&bytes[..], &[0x81, 0], &[0x81], &[0xFF]] {
        assert_eq!(scanner.run(more).stop, Stop::Malformed(FrameError::AfterClose));
    }
}

#[test]
fn a_close_inside_a_fragmented_message_is_found() {
    let mut scanner = Scanner::new(Role::Server, Rsv::None);
    let run = scanner.run(&[0x01, 1, b'x', 0x88, 0]);
    assert_eq!((run.len, run.messages), (3, 1));
    assert_eq!(run.stop, Stop::Close(Close { frame_bytes: 2, code: None }));
    assert!(scanner.at_frame_boundary() && !scanner.at_message_boundary());
}

#[test]
fn bits_of_an_unknown_extension_pass_on_every_frame() {
    let bytes = [0xF1, 0, 0x71, 0, 0x79 | 0x80, 0, 0xF0, 0];
    let run = Scanner::new(Role::Server, Rsv::Any).run(&bytes);
    assert_eq!((run.len, run.messages, run.stop), (bytes.len(), 2, Stop::End));
    // Its payload may be transformed: one byte would else be malformed.
    let close = [0xC8, 1, 0];
    assert_eq!(stop(&close, Role::Server, Rsv::Any), Stop::Close(Close { frame_bytes: 3, code: None }));
}

#[test]
fn a_control_frame_passes_with_125_bytes_and_only_when_it_is_whole() {
    let bytes = message_frame(Opcode::Ping, &[b'p'; 125], Some(KEY));
    assert_eq!(bytes.len(), CONTROL_FRAME_BYTES_MAX);
    for end in 1..bytes.len() {
        let run = Scanner::new(Role::Client, Rsv::None).run(&bytes[..end]);
        assert_eq!((run.len, run.stop), (0, Stop::NotYet), "{end}");
    }
    let run = Scanner::new(Role::Client, Rsv::None).run(&bytes);
    assert_eq!((run.len, run.messages, run.stop), (bytes.len(), 0, Stop::End));
}

#[test]
fn the_fast_path_equals_the_plain_one_at_every_length_and_alignment() {
    for sender in [Role::Client, Role::Server] {
        for payload_bytes in (0..=300).chain([65_535, 65_536, 65_537]) {
            let one = raw_frame(0x82, &vec![0x5A; payload_bytes], sender, KEY);
            let bytes = one.repeat(3);
            for end in (0..=bytes.len()).filter(|end| bytes.len() <= 2000 || end % 8191 < 20) {
                let run = Scanner::new(sender, Rsv::None).run(&bytes[..end]);
                let plain = reference::parse(&bytes[..end], sender, Rsv::None);
                assert_eq!(run.messages as usize, plain.messages(), "{payload_bytes} {end}");
                let expected = match plain.end {
                    End::NotYet(at) => (at, Stop::NotYet),
                    End::Boundary | End::InPayload | End::Bad(_) => (end, Stop::End),
                };
                assert_eq!((run.len, run.stop), expected, "{payload_bytes} {end}");
            }
        }
    }
}

#[test]
fn floods_of_tiny_frames_pass_and_hold_nothing() {
    let mut scanner = Scanner::new(Role::Server, Rsv::None);
    let run = scanner.run(&[0x89, 0].repeat(32_768));
    assert_eq!((run.len, run.messages, run.stop), (65_536, 0, Stop::End));
    let run = scanner.run(&[0x01, 0]);
    assert_eq!((run.messages, run.stop), (1, Stop::End));
    for _ in 0..1_000 {
        let run = scanner.run(&[0x00, 0].repeat(1_000));
        assert_eq!((run.len, run.messages, run.stop), (2_000, 0, Stop::End));
        assert!(scanner.at_frame_boundary() && !scanner.at_message_boundary());
    }
    let run = scanner.run(&[0x80, 0]);
    assert_eq!((run.stop, scanner.at_message_boundary()), (Stop::End, true));
}

#[test]
fn the_longest_legal_frame_is_followed_without_holding_it() {
    let mut scanner = Scanner::new(Role::Server, Rsv::None);
    let run = scanner.run(&[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    assert_eq!((run.len, run.messages, run.stop), (10, 1, Stop::End));
    let run = scanner.run(&[0x88; 100_000]);
    assert_eq!((run.len, run.messages, run.stop), (100_000, 0, Stop::End));
    assert!(!scanner.at_frame_boundary());
}
