//! Strategies for byte streams: legal ones, legal ones with a fault, and bytes that merely look like frames.

use proptest::collection::vec;
use proptest::prelude::*;
use ws::{Role, Rsv};

/// Builds a frame from its parts, legal or not: the first byte as given, the shortest length form.
pub fn raw_frame(first: u8, payload: &[u8], sender: Role, key: [u8; 4]) -> Vec<u8> {
    let masked = sender == Role::Client;
    let mask_bit = if masked { 128 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        len @ 0..126 => out.push(mask_bit + len as u8),
        len @ 126..65536 => {
            out.push(mask_bit + 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(mask_bit + 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    if masked {
        out.extend(key);
    }
    let key = if masked { key } else { [0; 4] };
    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]));
    out
}

pub fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

pub fn rsv() -> impl Strategy<Value = Rsv> {
    prop_oneof![Just(Rsv::None), Just(Rsv::Deflate), Just(Rsv::Any)]
}

/// What a legal stream is made of. Payloads are lengths: their bytes do not matter to the scanner.
#[derive(Clone, Debug)]
enum Part {
    /// A data message: compressed or not, and the lengths of its fragments.
    Message { text: bool, rsv1: bool, fragments: Vec<usize> },
    /// A Ping or Pong, put between fragments as well.
    Control { ping: bool, payload_bytes: usize },
}

fn part() -> impl Strategy<Value = Part> {
    let length = prop_oneof![
        12 => 0_usize..40,
        2 => 120_usize..132,
        1 => Just(300_usize),
        1 => (0_usize..10).prop_map(|dice| match dice { 0 => 65_535, 1 => 65_536, _ => 126 }),
    ];
    prop_oneof![
        3 => (any::<bool>(), any::<bool>(), vec(length, 1..4))
            .prop_map(|(text, rsv1, fragments)| Part::Message { text, rsv1, fragments }),
        1 => (any::<bool>(), prop_oneof![0_usize..20, Just(125_usize)])
            .prop_map(|(ping, payload_bytes)| Part::Control { ping, payload_bytes }),
    ]
}

/// A legal stream, which may end in a Close.
pub fn legal(sender: Role, rsv: Rsv) -> impl Strategy<Value = Vec<u8>> {
    let close = proptest::option::of(prop_oneof![
        Just(Vec::new()),
        Just(vec![0x03, 0xE8]),
        Just([&[0x03, 0xF4], "rebalance \u{20AC}".as_bytes()].concat()),
        Just([&[0x0F, 0xA0], [b'x'; 123].as_slice()].concat()),
    ]);
    (vec(part(), 0..8), any::<[u8; 4]>(), close)
        .prop_map(move |(parts, key, close)| build(&parts, close.as_deref(), sender, rsv, key))
}

fn build(parts: &[Part], close: Option<&[u8]>, sender: Role, rsv: Rsv, key: [u8; 4]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        match part {
            Part::Control { ping, payload_bytes } => {
                let first = if *ping { 0x89 } else { 0x8A };
                out.extend(raw_frame(first, &vec![0xA5; *payload_bytes], sender, key));
            }
            Part::Message { text, rsv1, fragments } => {
                let last = fragments.len() - 1;
                for (i, payload_bytes) in fragments.iter().enumerate() {
                    let opcode = if i > 0 { 0 } else { 2 - u8::from(*text) };
                    let rsv1 = if i == 0 && *rsv1 && rsv != Rsv::None { 0x40 } else { 0 };
                    let fin = if i == last { 0x80 } else { 0 };
                    out.extend(raw_frame(fin | rsv1 | opcode, &vec![b'd'; *payload_bytes], sender, key));
                    if i < last && payload_bytes % 3 == 0 {
                        out.extend(raw_frame(0x89, b"between fragments", sender, key));
                    }
                }
            }
        }
    }
    if let Some(payload) = close {
        out.extend(raw_frame(0x88, payload, sender, key));
    }
    out
}

/// Bytes in which headers are likely: a first byte near a legal one, a second byte with a likely length.
fn frame_like() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => proptest::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x41]),
        1 => any::<u8>(),
    ];
    let second = prop_oneof![
        4 => 0_u8..6,
        2 => proptest::sample::select(vec![125_u8, 126, 127]),
    ];
    (first, second, prop_oneof![4 => Just(0_u8), 4 => Just(0x80_u8)], vec(any::<u8>(), 0..12)).prop_map(
        |(first, second, mask, rest)| {
            let mut out = vec![first, second | mask];
            out.extend(rest);
            out
        },
    )
}

/// Any stream: legal, legal but for one fault, cut somewhere, or noise.
pub fn any_stream(sender: Role, rsv: Rsv) -> impl Strategy<Value = Vec<u8>> {
    let faulty = (legal(sender, rsv), any::<prop::sample::Index>(), 0..8_u32, frame_like()).prop_map(
        |(mut bytes, at, bit, more)| {
            bytes.extend(more);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        },
    );
    let cut = (legal(sender, rsv), any::<prop::sample::Index>()).prop_map(|(mut bytes, at)| {
        bytes.truncate(at.index(bytes.len() + 1));
        bytes
    });
    prop_oneof![
        2 => legal(sender, rsv),
        3 => faulty,
        2 => cut,
        2 => vec(frame_like(), 0..10).prop_map(|chunks| chunks.concat()),
        1 => vec(any::<u8>(), 0..64),
    ]
}

/// Lengths of the chunks in which a stream arrives, repeated as often as it takes.
pub fn splits() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![1]),
        4 => vec(1_usize..8, 1..20),
        2 => vec(1_usize..200, 1..20),
        1 => vec(prop_oneof![Just(1_usize), Just(65_536)], 1..6),
    ]
}

/// A role, the negotiated bits, and a stream for them.
pub fn any_case() -> impl Strategy<Value = (Role, Rsv, Vec<u8>)> {
    (role(), rsv()).prop_flat_map(|(role, rsv)| (Just(role), Just(rsv), any_stream(role, rsv)))
}
