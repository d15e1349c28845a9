//! AMQP 1.0: the close, decoded by an independent reading of the specification, and frame boundaries at any split.

use amqp::{Frames10, forced_close};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::cases;
use crate::streams::splits;

/// A value of the type system (part 1), as far as a close has any.
#[derive(Debug, PartialEq)]
enum Value {
    Symbol(String),
    Text(String),
    List(Vec<Value>),
    Described(u64, Box<Value>),
}

/// Decodes the value at the beginning of `rest` and takes it off.
fn decode(rest: &mut &[u8]) -> Value {
    match take(rest, 1)[0] {
        // A described value: its descriptor, then itself (1.2).
        0x00 => {
            assert_eq!(take(rest, 1), [0x53], "a descriptor is a smallulong here (1.6.10)");
            let descriptor = u64::from(take(rest, 1)[0]);
            Value::Described(descriptor, Box::new(decode(rest)))
        }
        // Variable width, one octet of size (1.6.20, 1.6.21).
        code @ (0xa1 | 0xa3) => {
            let size = usize::from(take(rest, 1)[0]);
            let text = String::from_utf8(take(rest, size).to_vec()).expect("UTF-8");
            if code == 0xa1 { Value::Text(text) } else { Value::Symbol(text) }
        }
        // A list: four octets of size, which count the four of the count as well (1.6.22).
        0xd0 => {
            let size = four(take(rest, 4));
            let mut items = take(rest, size);
            let count = four(take(&mut items, 4));
            let list = (0..count).map(|_| decode(&mut items)).collect();
            assert!(items.is_empty(), "the list is longer than its items");
            Value::List(list)
        }
        code => panic!("no constructor {code:#x} in a close"),
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (taken, behind) = rest.split_at(bytes);
    *rest = behind;
    taken
}

fn four(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number * 256 + usize::from(*byte))
}

/// The description in a close that is right in everything else.
fn description(frame: &[u8]) -> String {
    let mut rest = frame;
    assert_eq!(four(take(&mut rest, 4)), frame.len(), "the size counts itself (2.3.1)");
    assert_eq!(take(&mut rest, 4), [2, 0, 0, 0], "no extended header, an AMQP frame, channel 0 (2.3.1)");
    let close = decode(&mut rest);
    assert!(rest.is_empty());
    // close: 0x18 with an error (2.7.9); error: 0x1d with a symbol and a text (2.8.14, 2.8.16).
    let Value::Described(0x18, fields) = close else { panic!("{close:?}") };
    let Value::List(mut fields) = *fields else { panic!("{fields:?}") };
    let Some(Value::Described(0x1d, error)) = fields.pop() else { panic!("{fields:?}") };
    assert!(fields.is_empty());
    let Value::List(error) = *error else { panic!("{error:?}") };
    let [Value::Symbol(condition), Value::Text(description)] = &error[..] else { panic!("{error:?}") };
    assert_eq!(condition, "amqp:connection:forced");
    description.clone()
}

#[test]
fn a_close_is_what_the_specification_says_byte_by_byte() {
    let mut expected = vec![0, 0, 0, 58, 2, 0, 0, 0];
    expected.extend([0x00, 0x53, 0x18, 0xd0, 0, 0, 0, 42, 0, 0, 0, 1]);
    expected.extend([0x00, 0x53, 0x1d, 0xd0, 0, 0, 0, 30, 0, 0, 0, 2]);
    expected.extend([0xa3, 22]);
    expected.extend(b"amqp:connection:forced");
    expected.extend([0xa1, 0]);
    assert_eq!(forced_close(""), expected);
}

#[test]
fn a_description_is_cut_between_characters() {
    for (text, len) in [
        (String::new(), 0),
        ("drained".into(), 7),
        ("x".repeat(255), 255),
        ("x".repeat(256), 255),
        (format!("{}\u{20ac}", "x".repeat(253)), 253),
    ] {
        assert_eq!(description(&forced_close(&text)), text[..len]);
    }
}

/// Frames of AMQP 1.0, with protocol headers between them, and where each ends.
fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let frame = vec(any::<u8>(), 4..40).prop_map(|rest| {
        let size = (rest.len() + 4) as u32;
        [&size.to_be_bytes()[..], &rest].concat()
    });
    let header =
        prop_oneof![Just(3_u8), Just(0), Just(2)].prop_map(|id| [&b"AMQP"[..], &[id, 1, 0, 0]].concat());
    vec(prop_oneof![4 => frame, 1 => header], 0..8).prop_map(|parts| {
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.len();
            Some(*end)
        });
        (parts.concat(), ends.collect())
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_boundary_is_seen_exactly_where_a_frame_ends((bytes, ends) in stream()) {
        let mut frames = Frames10::default();
        prop_assert!(frames.at_boundary());
        for (at, byte) in bytes.iter().enumerate() {
            frames.run(&[*byte]);
            prop_assert_eq!(frames.at_boundary(), ends.contains(&(at + 1)), "behind byte {}", at);
        }
    }

    #[test]
    fn a_split_changes_nothing((bytes, ends) in stream(), chunks in splits()) {
        let mut frames = Frames10::default();
        let mut at = 0;
        for chunk in chunks.into_iter().cycle() {
            let end = (at + chunk).min(bytes.len());
            frames.run(&bytes[at..end]);
            at = end;
            prop_assert_eq!(frames.at_boundary(), at == 0 || ends.contains(&at));
            if at == bytes.len() {
                break;
            }
        }
    }

    #[test]
    fn any_bytes_are_followed_without_a_panic(bytes: Vec<u8>) {
        Frames10::default().run(&bytes);
    }
}

#[test]
fn a_size_that_is_too_small_ends_with_itself() {
    // Sizes below 8 are malformed (2.3.1); the endpoint says so, and the boundary is where the size ends.
    for size in 0..=4_u32 {
        let mut frames = Frames10::default();
        frames.run(&size.to_be_bytes());
        assert!(frames.at_boundary(), "{size}");
    }
    let mut frames = Frames10::default();
    frames.run(&u32::MAX.to_be_bytes());
    assert!(!frames.at_boundary());
}
