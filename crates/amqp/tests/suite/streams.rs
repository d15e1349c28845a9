//! Strategies for byte streams: legal ones, legal ones with a fault, and bytes that merely look like frames.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::grammar::METHODS;

/// A frame from its parts, legal or not.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(0xCE);
    out
}

/// The payload of a content header without properties.
pub fn content_header(class: u16, body_size: u64) -> Vec<u8> {
    [&class.to_be_bytes()[..], &[0, 0], &body_size.to_be_bytes(), &[0, 0]].concat()
}

fn with_length(bytes: Vec<u8>, length_bytes: usize) -> Vec<u8> {
    let length = (bytes.len() as u32).to_be_bytes();
    [&length[4 - length_bytes..], &bytes].concat()
}

fn short_string() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        6 => "[a-z.#*]{0,12}",
        2 => "\\PC{0,8}",
        1 => Just("x".repeat(255)),
    ];
    text.prop_map(|text| with_length(text.into_bytes(), 1))
}

fn long_string() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        8 => vec(any::<u8>(), 0..24),
        1 => (4000_usize..4200).prop_map(|len| vec![b'j'; len]),
    ];
    bytes.prop_map(|bytes| with_length(bytes, 4))
}

/// A value with its type in front.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let fixed =
        [(b"tbB", 1_usize), (b"sUu", 2), (b"Iif", 4), (b"lLT", 8), (b"ddd", 8), (b"DDD", 5), (b"VVV", 0)];
    let fixed = (select(fixed.to_vec()), 0_usize..3, any::<[u8; 8]>())
        .prop_map(|((kinds, len), which, bytes)| [&kinds[which..=which], &bytes[..len]].concat());
    let string = (select(b"Sx".to_vec()), long_string()).prop_map(|(kind, text)| [vec![kind], text].concat());
    prop_oneof![2 => fixed, 1 => string].prop_recursive(3, 12, 3, |inner| {
        let items = vec(inner.clone(), 0..3).prop_map(|items| (b'A', items.concat()));
        let entries = entries(inner).prop_map(|entries| (b'F', entries));
        prop_oneof![items, entries].prop_map(|(kind, bytes)| [vec![kind], with_length(bytes, 4)].concat())
    })
}

fn entries(value: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    vec((short_string(), value), 0..4)
        .prop_map(|entries| entries.into_iter().flat_map(|(name, value)| [name, value].concat()).collect())
}

/// The entries of a well-formed table.
pub fn table() -> impl Strategy<Value = Vec<u8>> {
    entries(value())
}

fn field(letter: char) -> BoxedStrategy<Vec<u8>> {
    match letter {
        's' => short_string().boxed(),
        'S' => long_string().boxed(),
        'T' => table().prop_map(|entries| with_length(entries, 4)).boxed(),
        'b' => (0_u8..32).prop_map(|bits| vec![bits]).boxed(),
        'B' => vec(any::<u8>(), 1).boxed(),
        'H' => vec(any::<u8>(), 2).boxed(),
        'I' => vec(any::<u8>(), 4).boxed(),
        _ => vec(any::<u8>(), 8).boxed(),
    }
}

/// The payload of a legal method, every one that exists equally often, and its class.
pub fn method() -> impl Strategy<Value = (u16, Vec<u8>)> {
    select(METHODS.to_vec()).prop_flat_map(|(class, method, fields)| {
        let fields: Vec<_> = fields.chars().map(field).collect();
        let id = (u32::from(class) << 16 | u32::from(method)).to_be_bytes();
        fields.prop_map(move |fields| (class, [&id[..], &fields.concat()].concat()))
    })
}

/// The frame of a legal method, on a channel that suits it.
pub fn method_frame() -> impl Strategy<Value = Vec<u8>> {
    (method(), 1_u16..5)
        .prop_map(|((class, payload), channel)| frame(1, if class == 10 { 0 } else { channel }, &payload))
}

/// The frames of a content after its method: a header, and bodies of these sizes.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![6 => 0_usize..40, 1 => Just(4_088_usize), 1 => Just(70_000_usize)];
    (1_u16..5, vec(size, 0..4)).prop_map(|(channel, sizes)| {
        let total: usize = sizes.iter().sum();
        let mut out = frame(2, channel, &content_header(60, total as u64));
        for size in sizes {
            out.extend(frame(3, channel, &vec![0xCE; size]));
        }
        out
    })
}

/// Frame after frame, each legal. What comes after what is arbitrary: a scanner does not mind.
pub fn legal() -> impl Strategy<Value = Vec<u8>> {
    let heartbeat = Just(frame(8, 0, &[]));
    // One that is longer than what is waited for.
    let secret = (65_500_usize..65_600).prop_map(|len| {
        let secret = with_length(vec![b't'; len], 4);
        frame(1, 0, &[&[0, 10, 0, 70], &secret[..], &[0]].concat())
    });
    let part = prop_oneof![16 => method_frame(), 8 => content(), 4 => heartbeat, 1 => secret];
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

/// Bytes in which headers are likely.
fn frame_like() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![6 => select(vec![1_u8, 2, 3, 8]), 1 => any::<u8>()];
    let class = select(vec![[0_u8, 10], [0, 20], [0, 50], [0, 60], [1, 2]]);
    let behind = prop_oneof![3 => Just(0xCE_u8), 1 => any::<u8>()];
    (kind, 0_u8..2, vec(any::<u8>(), 0..14), class, any::<bool>(), behind).prop_map(
        |(kind, channel, rest, class, with_class, behind)| {
            let payload = if with_class { [&class[..], &rest].concat() } else { rest };
            let mut out = frame(kind, u16::from(channel), &payload);
            *out.last_mut().expect("an end octet") = behind;
            out
        },
    )
}

/// Any stream: legal, legal but for one fault, cut somewhere, or noise.
pub fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let faulty = (legal(), any::<Index>(), 0..8_u32, frame_like()).prop_map(|(mut bytes, at, bit, more)| {
        bytes.extend(more);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        bytes
    });
    // Within a method, where a fault is more than another letter in a text.
    let faulty_method = (method_frame(), any::<Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    });
    let cut = (legal(), any::<Index>()).prop_map(|(mut bytes, at)| {
        bytes.truncate(at.index(bytes.len() + 1));
        bytes
    });
    prop_oneof![
        2 => legal(),
        2 => faulty,
        3 => faulty_method,
        2 => cut,
        2 => vec(frame_like(), 0..10).prop_map(|chunks| chunks.concat()),
        1 => vec(any::<u8>(), 0..64),
    ]
}

/// Lengths of the chunks in which a stream arrives, repeated as often as it takes.
pub fn splits() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![1]),
        4 => vec(1_usize..12, 1..20),
        2 => vec(1_usize..300, 1..20),
        1 => vec(prop_oneof![Just(1_usize), Just(65_536)], 1..6),
    ]
}

/// A `frame_max`: near what the frames have, the least legal one, RabbitMQ's.
pub fn frame_bytes_max() -> impl Strategy<Value = u32> {
    select(vec![64, 4096, 131_072])
}
