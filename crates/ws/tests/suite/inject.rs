//! The injection rules against random schedules, judged by the reference parser; and the frames we author.

use proptest::collection::vec;
use proptest::prelude::*;
use ws::{
    CLOSE_REASON_BYTES_MAX, CONTROL_FRAME_BYTES_MAX, Extensions, Injection, Opcode, Role, Rsv, Scanner, Stop,
    close_frame, may_inject, message_frame,
};

use crate::cases;
use crate::reference::{self, End};
use crate::streams::{any_stream, role, splits};

/// What the session wants to inject after a chunk.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Nothing,
    Ping,
    Message,
    Close,
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        4 => Just(Wish::Nothing),
        4 => Just(Wish::Ping),
        4 => Just(Wish::Message),
        1 => Just(Wish::Close),
    ]
}

fn extensions() -> impl Strategy<Value = Extensions> {
    prop_oneof![Just(Extensions::None), Just(Extensions::Deflate), Just(Extensions::Unknown)]
}

/// A relay in miniature: one direction, which writes what the scanner passed, and our frames between.
struct Relay {
    scanner: Scanner,
    extensions: Extensions,
    mask: Option<[u8; 4]>,
    output: Vec<u8>,
    /// Where our frames begin in the output.
    ours: Vec<usize>,
    closed: bool,
    opaque: bool,
}

const OURS: &[u8] = b"written by the gateway";

impl Relay {
    /// Passes what may be passed; returns how much.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let run = self.scanner.run(bytes);
        let mut len = run.len;
        match run.stop {
            Stop::End | Stop::FrameEnd | Stop::NotYet => {}
            Stop::Malformed(_) => self.opaque = true,
            Stop::Close(close) => {
                len += close.frame_bytes;
                self.closed = true;
            }
        }
        self.output.extend_from_slice(&bytes[..len]);
        len
    }

    fn inject(&mut self, wish: Wish) {
        let (what, frame) = match wish {
            Wish::Nothing => return,
            Wish::Ping => (Injection::Control, message_frame(Opcode::Ping, OURS, self.mask)),
            Wish::Message => (Injection::Data, message_frame(Opcode::Text, OURS, self.mask)),
            Wish::Close => (Injection::Control, close_frame(Some(1012), "rebalance", self.mask)),
        };
        if may_inject(what, &self.scanner, self.closed, self.extensions) {
            self.ours.push(self.output.len());
            self.output.extend(frame);
            self.closed |= matches!(wish, Wish::Close);
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn an_injected_frame_only_ever_lands_at_a_legal_place(
        (role, extensions, bytes) in (role(), extensions())
            .prop_flat_map(|(role, e)| (Just(role), Just(e), any_stream(role, e.rsv()))),
        chunks in splits(),
        wishes in vec(wish(), 1..30),
        key in any::<[u8; 4]>(),
    ) {
        let mask = (role == Role::Client).then_some(key);
        let mut relay = Relay {
            scanner: Scanner::new(role, extensions.rsv()),
            extensions, mask, output: Vec::new(), ours: Vec::new(), closed: false, opaque: false,
        };
        let (mut read, mut passed) = (0, 0);
        let mut wishes = wishes.into_iter().cycle();
        for chunk in chunks.into_iter().cycle() {
            relay.inject(wishes.next().unwrap_or(Wish::Nothing));
            if read == bytes.len() || relay.closed || relay.opaque {
                break;
            }
            read = (read + chunk).min(bytes.len());
            passed += relay.pass(&bytes[passed..read]);
        }

        let strict = reference::parse(&relay.output, role, extensions.rsv());
        prop_assert!(!matches!(strict.end, End::Bad(_) | End::NotYet(_)), "{:?}", strict.end);
        for at in &relay.ours {
            let found = strict.frames.iter().find(|frame| frame.start == *at);
            let Some(found) = found else { return Err(TestCaseError::fail("our frame is not one")) };
            prop_assert!(found.opcode == 8 || found.payload == OURS);
            prop_assert!(found.opcode >= 8 || extensions != Extensions::Unknown);
        }
        let theirs = strict.frames.iter().filter(|frame| !relay.ours.contains(&frame.start));
        let kept = theirs.map(|frame| frame.header_bytes + frame.payload.len()).sum::<usize>();
        prop_assert_eq!(kept, passed, "a frame of theirs was altered");
    }

    #[test]
    fn a_frame_of_ours_is_read_back_as_it_was_meant(
        payload in vec(any::<u8>(), 0..300), mask in proptest::option::of(any::<[u8; 4]>()), text in ".{0,200}",
    ) {
        let sender = if mask.is_some() { Role::Client } else { Role::Server };
        for (opcode, bits) in [(Opcode::Text, 1), (Opcode::Binary, 2), (Opcode::Ping, 9), (Opcode::Pong, 10)] {
            let payload = if opcode.is_control() { &payload[..payload.len().min(125)] } else { &payload };
            let read = reference::parse(&message_frame(opcode, payload, mask), sender, Rsv::None);
            prop_assert_eq!(read.end, End::Boundary);
            prop_assert_eq!((read.frames[0].opcode, &read.frames[0].payload[..]), (bits, payload));
        }
        let bytes = close_frame(Some(4000), &text, mask);
        prop_assert!(bytes.len() <= CONTROL_FRAME_BYTES_MAX);
        let read = reference::parse(&bytes, sender, Rsv::None);
        prop_assert_eq!(read.end, End::Boundary);
        let reason = &read.frames[0].payload[2..];
        prop_assert!(text.as_bytes().starts_with(reason));
        prop_assert!(reason.len() == text.len() || reason.len() > CLOSE_REASON_BYTES_MAX - 4);
    }
}

#[test]
fn a_close_reason_is_cut_at_a_character_and_never_without_a_code() {
    let reason_of = |text: &str| close_frame(Some(1012), text, None)[4..].to_vec();
    assert_eq!(reason_of(&"x".repeat(122)).len(), 122);
    assert_eq!(reason_of(&"x".repeat(123)).len(), 123);
    assert_eq!(reason_of(&"x".repeat(124)).len(), 123);
    assert_eq!(reason_of(&"\u{20AC}".repeat(60)), "\u{20AC}".repeat(41).as_bytes());
    assert_eq!(reason_of(&format!("x{}", "\u{20AC}".repeat(60))).len(), 121);
    assert_eq!(close_frame(None, "no room", None), [0x88, 0]);
    assert_eq!(close_frame(None, "no room", Some([1, 2, 3, 4])), [0x88, 0x80, 1, 2, 3, 4]);
}

#[test]
fn each_injection_has_its_place() {
    let at = |bytes: &[u8]| {
        let mut scanner = Scanner::new(Role::Server, Rsv::None);
        let _ = scanner.run(bytes);
        scanner
    };
    let begin = at(&[]);
    let in_message = at(&[0x01, 1, b'x']);
    let in_payload = at(&[0x81, 2, b'x']);
    use Extensions::{Deflate, None, Unknown};
    use Injection::{Control, Data};
    for (what, scanner, closed, extensions, expected) in [
        (Control, &begin, false, None, true),
        (Control, &begin, false, Unknown, true),
        (Control, &begin, true, None, false),
        (Control, &in_message, false, Deflate, true),
        (Control, &in_payload, false, None, false),
        (Data, &begin, false, None, true),
        (Data, &begin, false, Deflate, true),
        (Data, &begin, false, Unknown, false),
        (Data, &begin, true, None, false),
        (Data, &in_message, false, None, false),
        (Data, &in_payload, false, None, false),
    ] {
        assert_eq!(may_inject(what, scanner, closed, extensions), expected, "{what:?} {scanner:?} {closed}");
    }
}
