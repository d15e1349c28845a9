//! The frames that we write, read by amq-protocol.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::frame::parsing::parse_frame;
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use amqp::{Bits, MethodId, Start, StartOk, Table, Tune, write, write_open, write_open_ok};
use proptest::prelude::*;

use crate::cases;

/// A text of at most 255 bytes, as names are.
const NAME: &str = "[a-z0-9.\u{e9}\u{20ac}]{0,60}";

/// The only frame in what `write` writes, behind something else.
fn read(write: impl FnOnce(&mut Vec<u8>)) -> AMQPFrame {
    let mut out = b"what is there".to_vec();
    write(&mut out);
    let (rest, frame) = parse_frame(&out[b"what is there".len()..]).expect("a whole frame");
    assert!(rest.is_empty());
    frame
}

fn basic(channel: u16, method: basic::AMQPMethod) -> AMQPFrame {
    AMQPFrame::Method(channel, AMQPClass::Basic(method))
}

fn connection(method: connection::AMQPMethod) -> AMQPFrame {
    AMQPFrame::Method(0, AMQPClass::Connection(method))
}

/// A table of one text, as entries and as theirs.
fn table(name: &str, text: &str) -> (Vec<u8>, FieldTable) {
    let mut entries = Vec::new();
    write::short_string(&mut entries, name.as_bytes());
    entries.push(b'S');
    write::long_string(&mut entries, text.as_bytes());
    let mut theirs = FieldTable::default();
    theirs.insert(name.into(), AMQPValue::LongString(text.into()));
    (entries, theirs)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_consumer_is_consumed_again_with_all_but_nowait(
        id in 1_u16.., queue in NAME, tag in NAME, bits in 0_u8..16, text in NAME
    ) {
        let (entries, arguments) = table("x-priority", &text);
        let ours = read(|out| write::consume(out, id, queue.as_bytes(), tag.as_bytes(), Bits(bits), &entries));
        let theirs = basic(id, basic::AMQPMethod::Consume(basic::Consume {
            queue: queue.into(),
            consumer_tag: tag.into(),
            no_local: bits & 1 > 0,
            no_ack: bits & 2 > 0,
            exclusive: bits & 4 > 0,
            nowait: false,
            arguments,
        }));
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn what_a_channel_needs_is_written_as_it_is_read(
        id in 1_u16.., prefetch_count: u16, delivery_tag: u64, tag in NAME, bit: bool
    ) {
        use basic::AMQPMethod as M;
        let consumer_tag = || tag.as_str().into();
        prop_assert_eq!(
            read(|out| write::qos(out, id, prefetch_count, bit)),
            basic(id, M::Qos(basic::Qos { prefetch_count, global: bit }))
        );
        prop_assert_eq!(
            read(|out| write::cancel(out, id, tag.as_bytes(), bit)),
            basic(id, M::Cancel(basic::Cancel { consumer_tag: consumer_tag(), nowait: bit }))
        );
        prop_assert_eq!(
            read(|out| write::cancel_ok(out, id, tag.as_bytes())),
            basic(id, M::CancelOk(basic::CancelOk { consumer_tag: consumer_tag() }))
        );
        prop_assert_eq!(
            read(|out| write::ack(out, id, delivery_tag, bit)),
            basic(id, M::Ack(basic::Ack { delivery_tag, multiple: bit }))
        );
        prop_assert_eq!(
            read(|out| write::confirm_select(out, id, bit)),
            AMQPFrame::Method(id, AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: bit })))
        );
        prop_assert_eq!(
            read(|out| write::tx_select(out, id)),
            AMQPFrame::Method(id, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})))
        );
        prop_assert_eq!(
            read(|out| write::channel_open(out, id)),
            AMQPFrame::Method(id, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})))
        );
    }

    #[test]
    fn a_close_says_code_and_text(id in 1_u16.., reply_code: u16, text in NAME) {
        let reply_text = || text.as_str().into();
        prop_assert_eq!(
            read(|out| write::connection_close(out, reply_code, &text)),
            connection(connection::AMQPMethod::Close(connection::Close {
                reply_code, reply_text: reply_text(), class_id: 0, method_id: 0,
            }))
        );
        prop_assert_eq!(
            read(|out| write::channel_close(out, id, reply_code, &text)),
            AMQPFrame::Method(id, AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
                reply_code, reply_text: reply_text(), class_id: 0, method_id: 0,
            })))
        );
    }

    #[test]
    fn the_handshake_is_written_as_it_is_read(
        channel_max: u16, frame_max: u32, heartbeat: u16, vhost in NAME, response: Vec<u8>, text in NAME
    ) {
        use connection::AMQPMethod as M;
        let (entries, properties) = table("cluster_name", &text);
        let start = Start { server_properties: Table::new(&entries), mechanisms: &response, locales: b"en_US" };
        prop_assert_eq!(read(|out| start.write(out)), connection(M::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties.clone(),
            mechanisms: response.as_slice().into(),
            locales: "en_US".into(),
        })));

        let start_ok = StartOk {
            client_properties: Table::new(&entries),
            mechanism: vhost.as_bytes(),
            response: &response,
            locale: b"en_US",
        };
        prop_assert_eq!(read(|out| start_ok.write(out)), connection(M::StartOk(connection::StartOk {
            client_properties: properties,
            mechanism: vhost.as_str().into(),
            response: response.as_slice().into(),
            locale: "en_US".into(),
        })));
        let mut out = Vec::new();
        start_ok.write(&mut out);
        prop_assert_eq!(out.len(), start_ok.frame_bytes());

        let tune = Tune { channel_max, frame_max, heartbeat };
        prop_assert_eq!(
            read(|out| tune.write(out, MethodId::CONNECTION_TUNE)),
            connection(M::Tune(connection::Tune { channel_max, frame_max, heartbeat }))
        );
        prop_assert_eq!(
            read(|out| tune.write(out, MethodId::CONNECTION_TUNE_OK)),
            connection(M::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat }))
        );
        prop_assert_eq!(
            read(|out| write_open(out, vhost.as_bytes())),
            connection(M::Open(connection::Open { virtual_host: vhost.into() }))
        );
    }
}

#[test]
fn methods_without_fields_are_written_as_they_are_read() {
    use connection::AMQPMethod as M;
    assert_eq!(read(write::connection_close_ok), connection(M::CloseOk(connection::CloseOk {})));
    assert_eq!(read(write::unblocked), connection(M::Unblocked(connection::Unblocked {})));
    assert_eq!(read(write_open_ok), connection(M::OpenOk(connection::OpenOk {})));
    assert_eq!(read(|out| out.extend_from_slice(&write::HEARTBEAT)), AMQPFrame::Heartbeat);
    let header = amqp::PROTOCOL_HEADER;
    assert!(matches!(read(|out| out.extend_from_slice(&header)), AMQPFrame::ProtocolHeader(_)));
}

#[test]
fn a_text_that_is_too_long_is_cut_between_characters() {
    for (text, cut) in
        [("x".repeat(255), 255), ("x".repeat(256), 255), (format!("{}\u{20ac}", "x".repeat(253)), 253)]
    {
        let AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) =
            read(|out| write::connection_close(out, 320, &text))
        else {
            panic!("no close");
        };
        assert_eq!(close.reply_text.as_str(), &text[..cut]);
    }
}

#[test]
fn a_name_that_is_too_long_does_not_shift_what_follows() {
    let frame = read(|out| write::cancel_ok(out, 1, &[b'x'; 300]));
    assert_eq!(
        frame,
        basic(1, basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: "x".repeat(255).into() }))
    );
}
