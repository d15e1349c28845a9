//! The codec against amq-protocol: methods of all kinds, broken ones, and any bytes.

use amq_protocol::frame::parsing::parse_frame;
use amq_protocol::frame::{AMQPFrame, gen_frame};
use amqp::{FrameError, HEADER_BYTES, Method, MethodId, Start, StartOk, Table, patch};
use proptest::prelude::*;

use crate::streams::{any_stream, frame, frame_bytes_max, method, method_frame, table};
use crate::{cases, grammar, oracle};

/// Beyond any frame of the tests.
const FRAME_MAX: u32 = 1 << 20;

/// What amq-protocol writes for that frame.
fn generated(frame: &AMQPFrame) -> Vec<u8> {
    let out: Vec<u8> = Vec::new();
    let (bytes, _) = gen_frame(frame)(out.into()).expect("it has room").into_inner();
    bytes
}

fn payload(frame: &[u8]) -> &[u8] {
    &frame[HEADER_BYTES..frame.len() - 1]
}

fn tag(payload: &[u8]) -> Option<u64> {
    match Method::parse(payload) {
        Ok(
            Method::Ack { tag, .. }
            | Method::Nack { tag, .. }
            | Method::Reject { tag }
            | Method::GetOk { tag }
            | Method::Deliver { tag, .. },
        ) => Some(tag),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_method_is_read_as_amq_protocol_reads_it(bytes in method_frame()) {
        prop_assert_eq!(oracle::compare(&bytes, FRAME_MAX), 1);
        // And as it writes it: in its own order, with its own types.
        let (rest, theirs) = parse_frame(&bytes[..]).expect("a legal method");
        prop_assert!(rest.is_empty());
        prop_assert_eq!(oracle::compare(&generated(&theirs), FRAME_MAX), 1);
    }

    #[test]
    fn any_stream_has_the_frames_and_fields_that_amq_protocol_finds(
        stream in any_stream(), max in frame_bytes_max()
    ) {
        oracle::compare(&stream, max);
    }

    #[test]
    fn a_method_that_is_cut_anywhere_is_an_error_or_what_it_was((_, whole) in method()) {
        let expected = Method::parse(&whole).expect("a legal method");
        for len in 0..whole.len() {
            let read = Method::parse(&whole[..len]);
            let is_what_it_was = read.is_ok_and(|method| method == expected);
            prop_assert!(is_what_it_was || matches!(read, Err(FrameError::Fields { .. })), "{:?}", read);
        }
    }

    #[test]
    fn a_patch_changes_the_tag_and_nothing_else(bytes in method_frame(), new in any::<u64>()) {
        let mut patched = bytes.clone();
        let has_tag = tag(payload(&bytes)).is_some();
        prop_assert_eq!(patch(&mut patched, new), has_tag);
        if has_tag {
            prop_assert_eq!(tag(payload(&patched)), Some(new));
            let old = tag(payload(&bytes)).expect("has one");
            prop_assert!(patch(&mut patched, old));
        }
        prop_assert_eq!(patched, bytes);
    }

    #[test]
    fn a_patch_of_any_bytes_changes_at_most_eight_within_the_payload(
        mut bytes in prop_oneof![any_stream(), proptest::collection::vec(any::<u8>(), 0..40)], new in any::<u64>()
    ) {
        let before = bytes.clone();
        let done = patch(&mut bytes, new);
        prop_assert_eq!(bytes.len(), before.len());
        let changed: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != before[*at]).collect();
        prop_assert!(done || changed.is_empty());
        if let (Some(first), Some(last)) = (changed.first(), changed.last()) {
            prop_assert!(*first >= HEADER_BYTES + 4 && *last < bytes.len() - 1 && last - first < 8);
        }
    }

    #[test]
    fn a_table_is_well_formed_until_it_is_cut(entries in table()) {
        prop_assert!(Table::new(&entries).is_well_formed());
        let whole = Table::new(&entries).entries().count();
        for len in 0..entries.len() {
            let cut = Table::new(&entries[..len]);
            // Cut between two entries it is well-formed still, with fewer of them.
            prop_assert!(cut.entries().count() < whole || cut.is_well_formed());
        }
    }
}

#[test]
fn every_tracked_method_is_in_the_grammar_and_the_other_way_round() {
    for (class, method, _) in grammar::METHODS {
        let id = MethodId(u32::from(class) << 16 | u32::from(method));
        assert_eq!((id.class(), id.method()), (class, method));
        let has_content = matches!((class, method), (60, 40 | 50 | 60 | 71));
        assert_eq!(id.has_content(), has_content, "{id:?}");
    }
}

#[test]
fn a_tag_is_never_patched_over_the_end_octet() {
    let mut whole = frame(1, 1, &[&[0, 60, 0, 80][..], &[0; 9]].concat());
    assert!(patch(&mut whole, 7));
    // One byte short of a tag, so that its last byte would be the end octet.
    for short in [frame(1, 1, &[&[0, 60, 0, 80][..], &[0; 7]].concat()), frame(1, 1, &[0, 60, 0, 60, 255])] {
        let mut patched = short.clone();
        assert!(!patch(&mut patched, u64::MAX));
        assert_eq!(patched, short);
    }
    // A tag is there, and the frame is none of a method.
    assert!(!patch(&mut frame(3, 1, &[&[0, 60, 0, 80][..], &[0; 9]].concat()), 7));
}

#[test]
fn a_payload_without_an_id_is_an_error() {
    for payload in [&[][..], &[0], &[0, 60], &[0, 60, 0]] {
        assert_eq!(Method::parse(payload), Err(FrameError::Fields { class: 0, method: 0 }));
    }
}

#[test]
fn what_rabbitmqs_own_codec_writes_is_read() {
    // Written with rabbit_binary_generator of RabbitMQ 3.10.8, behind the 9 bytes that are the fuzz target's.
    let all = [
        (&include_bytes!("../../../../fuzz/seeds/amqp/server_handshake")[9..], 5),
        (&include_bytes!("../../../../fuzz/seeds/amqp/client_handshake")[9..], 6),
        (&include_bytes!("../../../../fuzz/seeds/amqp/amqplain")[9..], 3),
        (&include_bytes!("../../../../fuzz/seeds/amqp/consume")[9..], 6),
        (&include_bytes!("../../../../fuzz/seeds/amqp/acks")[9..], 4),
    ];
    for (stream, frames) in all {
        assert_eq!(oracle::compare(stream, 131_072), frames);
    }
    let start = Start::parse(&all[0].0[HEADER_BYTES..]).expect("a start");
    assert_eq!(start.cluster_name(), Some(&b"rabbit@one"[..]));
    let mut again = Vec::new();
    start.write(&mut again);
    assert!(all[0].0.starts_with(&again), "a start that is read and written is the same");
    for (stream, mechanism) in [(all[1].0, &b"PLAIN"[..]), (all[2].0, b"AMQPLAIN")] {
        let start_ok = StartOk::parse(&stream[HEADER_BYTES..]).expect("a start-ok");
        assert_eq!((start_ok.mechanism, start_ok.user()), (mechanism, Some(&b"guest"[..])));
    }
    let start_ok = StartOk::parse(&all[1].0[HEADER_BYTES..]).expect("a start-ok");
    assert!(start_ok.has_capability("consumer_cancel_notify") && start_ok.client_properties.is_well_formed());
}

#[test]
fn an_unknown_method_is_told_by_its_id() {
    let unknown = [0, 60, 3, 0xE7];
    assert_eq!(Method::parse(&unknown), Ok(Method::Other(MethodId(60 << 16 | 999))));
    assert_eq!(format!("{:?}", MethodId::of(&unknown)), "60.999");
}

#[test]
fn no_debug_of_a_method_shows_a_new_secret() {
    let payload = [&[0, 10, 0, 70, 0, 0, 0, 6][..], b"hunter", &[0]].concat();
    let method = Method::parse(&payload).expect("an update-secret");
    assert_eq!(format!("{method:?}"), "UpdateSecret { secret: (secret) }");
}
