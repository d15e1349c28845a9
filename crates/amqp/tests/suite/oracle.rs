//! What we read of a frame against what amq-protocol reads of it.
//!
//! Both find the same frames and read the same fields. They differ, on purpose, in this:
//! - We refuse what section 4.2 forbids and amq-protocol lets pass: frames beyond `frame_max`, a heartbeat with a payload or on
//!   a channel, content on channel 0, class connection elsewhere and other classes there.
//! - amq-protocol refuses a frame that is not the method or header it should be to its last byte (`grammar`). We pass it: its
//!   receiver judges it, and we read just the fields that we need.
//! - amq-protocol takes a protocol header for a frame.

use amq_protocol::frame::parsing::parse_frame;
use amq_protocol::frame::{AMQPChannel, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use amqp::{
    FrameError, HEADER_BYTES, Kind, Method, MethodId, Piece, Scanner, Start, StartOk, Table, Tune, Value,
    open_vhost,
};

use crate::grammar;

/// What we say of the frame at the beginning of some bytes.
enum Ours<'a> {
    NotYet,
    Frame { kind: Kind, channel: u16, payload: &'a [u8] },
    Bad(FrameError),
}

/// Compares frame after frame, and gives their number. Panics at a difference.
///
/// `frame_bytes_max` must not be 0: amq-protocol waits for as much as a header says.
pub fn compare(bytes: &[u8], frame_bytes_max: u32) -> usize {
    let mut rest = bytes;
    let mut frames = 0;
    while !rest.is_empty() {
        let ours = ours(rest, frame_bytes_max);
        if let Ours::Bad(FrameError::TooLong { .. }) = ours {
            break;
        }
        let theirs = parse_frame(rest);
        match (ours, theirs) {
            (Ours::Frame { kind, channel, payload }, theirs) => {
                let behind = &rest[HEADER_BYTES + payload.len() + 1..];
                match theirs {
                    Ok((theirs_behind, frame)) => {
                        assert_eq!(theirs_behind.len(), behind.len());
                        same_frame(kind, channel, payload, &frame);
                    }
                    Err(error) => {
                        assert!(!error.is_incomplete(), "they wait for more of a {kind:?}");
                        assert!(!is_legal(kind, payload), "they refuse a legal {kind:?}: {payload:?}");
                    }
                }
                rest = behind;
                frames += 1;
            }
            (Ours::NotYet, theirs) => {
                assert!(theirs.is_err_and(|error| error.is_incomplete()), "we wait, they do not");
                break;
            }
            (Ours::Bad(error), theirs) => {
                refusal(error, theirs.map(|(_, frame)| frame));
                break;
            }
        }
    }
    frames
}

fn ours(bytes: &[u8], frame_bytes_max: u32) -> Ours<'_> {
    let mut scanner = Scanner::new(frame_bytes_max);
    let mut first = None;
    let mut at = 0;
    loop {
        let piece = match scanner.peek(&bytes[at..]) {
            Ok(piece) => piece,
            Err(error) => return Ours::Bad(error),
        };
        match piece {
            Piece::NotYet => return Ours::NotYet,
            Piece::Frame { kind, channel, .. } => first = Some((kind, channel)),
            Piece::Rest { .. } => {}
        }
        at += scanner.take(piece);
        if let Some((kind, channel)) = first.filter(|_| scanner.at_boundary()) {
            return Ours::Frame { kind, channel, payload: &bytes[HEADER_BYTES..at - 1] };
        }
    }
}

fn is_legal(kind: Kind, payload: &[u8]) -> bool {
    match kind {
        Kind::Method => grammar::is_method(payload),
        Kind::Header => grammar::is_content_header(payload),
        Kind::Body | Kind::Heartbeat => true,
    }
}

/// We refuse: they do as well, or it is one of the differences.
fn refusal(error: FrameError, theirs: Result<AMQPFrame, amq_protocol::types::parsing::ParserError>) {
    match (error, theirs) {
        (FrameError::Kind(b'A'), _) => {}
        (FrameError::Kind(_) | FrameError::End(_), Err(theirs)) => assert!(!theirs.is_incomplete()),
        // We say so at the header, they when all of it is there.
        (FrameError::TooShort { .. }, Err(_)) => {}
        (FrameError::Heartbeat { .. }, theirs) => {
            assert!(!matches!(
                theirs,
                Ok(AMQPFrame::Method(..) | AMQPFrame::Header(..) | AMQPFrame::Body(..))
            ));
        }
        (FrameError::ContentOnZero, theirs) => {
            assert!(matches!(theirs, Err(_) | Ok(AMQPFrame::Header(0, _) | AMQPFrame::Body(0, _))));
        }
        (FrameError::Channel { channel, .. }, theirs) => match theirs {
            Ok(AMQPFrame::Method(theirs, class)) => {
                assert_eq!(theirs, channel);
                assert_eq!(matches!(class, AMQPClass::Connection(_)), channel > 0);
            }
            theirs => assert!(theirs.is_err()),
        },
        (error, theirs) => panic!("we say {error}, they say {theirs:?}"),
    }
}

fn same_frame(kind: Kind, channel: u16, payload: &[u8], theirs: &AMQPFrame) {
    match (kind, theirs) {
        (Kind::Method, AMQPFrame::Method(theirs, class)) => {
            assert_eq!(*theirs, channel);
            assert!(grammar::is_method(payload), "they take {payload:?}");
            same_method(payload, class);
        }
        (Kind::Header, AMQPFrame::Header(theirs, header)) => {
            assert_eq!(*theirs, channel);
            assert!(grammar::is_content_header(payload), "they take {payload:?}");
            let mut content = amqp::Content::new(channel);
            assert_eq!(content.handle_method(MethodId::BASIC_PUBLISH), Ok(()));
            let ours = content.handle_header(payload);
            if header.class_id == amqp::CLASS_BASIC {
                assert_eq!(ours, Ok(()));
                let left = match content.expect() {
                    amqp::Expect::Body { left } => left,
                    _ => 0,
                };
                assert_eq!(left, header.body_size);
            } else {
                let expected = amqp::CLASS_BASIC;
                assert_eq!(ours, Err(FrameError::Class { expected, found: header.class_id }));
            }
        }
        (Kind::Body, AMQPFrame::Body(theirs, body)) => {
            assert_eq!((*theirs, body.as_slice()), (channel, payload));
        }
        (Kind::Heartbeat, AMQPFrame::Heartbeat) => {
            assert_eq!(AMQPChannel::from(channel), AMQPChannel::Global);
        }
        (kind, theirs) => panic!("we say {kind:?}, they say {theirs:?}"),
    }
}

fn same_method(payload: &[u8], theirs: &AMQPClass) {
    let id = MethodId::of(payload);
    assert_eq!((id.class(), id.method()), (theirs.get_amqp_class_id(), theirs.get_amqp_method_id()));
    let ours = Method::parse(payload).expect("what they take is legal");
    match theirs {
        AMQPClass::Connection(method) => same_connection(id, payload, ours, method),
        AMQPClass::Channel(method) => same_channel(ours, method),
        AMQPClass::Access(method) => match method {
            access::AMQPMethod::Request(_) => assert_eq!(ours, Method::Request { nowait: false }),
            access::AMQPMethod::RequestOk(_) => assert_eq!(ours, Method::Reply(id)),
        },
        AMQPClass::Exchange(method) => same_exchange(id, ours, method),
        AMQPClass::Queue(method) => same_queue(id, ours, method),
        AMQPClass::Basic(method) => same_basic(id, ours, method),
        AMQPClass::Tx(method) => match method {
            tx::AMQPMethod::Select(_) => assert_eq!(ours, Method::TxSelect),
            tx::AMQPMethod::Commit(_) => assert_eq!(ours, Method::TxCommit),
            tx::AMQPMethod::Rollback(_) => assert_eq!(ours, Method::TxRollback),
            tx::AMQPMethod::SelectOk(_) | tx::AMQPMethod::CommitOk(_) | tx::AMQPMethod::RollbackOk(_) => {
                assert_eq!(ours, Method::Reply(id));
            }
        },
        AMQPClass::Confirm(method) => match method {
            confirm::AMQPMethod::Select(m) => assert_eq!(ours, Method::ConfirmSelect { nowait: m.nowait }),
            confirm::AMQPMethod::SelectOk(_) => assert_eq!(ours, Method::Reply(id)),
        },
    }
}

fn same_connection(id: MethodId, payload: &[u8], ours: Method<'_>, theirs: &connection::AMQPMethod) {
    use connection::AMQPMethod as M;
    match theirs {
        M::Close(m) => {
            assert_eq!(ours, Method::Close { code: m.reply_code, text: m.reply_text.as_str().as_bytes() });
        }
        M::CloseOk(_) => assert_eq!(ours, Method::CloseOk),
        M::Blocked(_) => assert_eq!(ours, Method::Blocked),
        M::Unblocked(_) => assert_eq!(ours, Method::Unblocked),
        M::UpdateSecret(m) => {
            let secret = amqp::Secret(m.new_secret.as_bytes());
            assert_eq!(ours, Method::UpdateSecret { secret });
        }
        M::UpdateSecretOk(_) => assert_eq!(ours, Method::UpdateSecretOk),
        handshake => {
            assert_eq!(ours, Method::Other(id));
            same_handshake(payload, handshake);
        }
    }
}

fn same_handshake(payload: &[u8], theirs: &connection::AMQPMethod) {
    use connection::AMQPMethod as M;
    match theirs {
        M::Start(m) => {
            let ours = Start::parse(payload).expect("a start");
            assert_eq!((ours.mechanisms, ours.locales), (m.mechanisms.as_bytes(), m.locales.as_bytes()));
            same_table(ours.server_properties, &m.server_properties);
        }
        M::StartOk(m) => {
            let ours = StartOk::parse(payload).expect("a start-ok");
            assert_eq!(ours.mechanism, m.mechanism.as_str().as_bytes());
            assert_eq!(ours.response, m.response.as_bytes());
            assert_eq!(ours.locale, m.locale.as_str().as_bytes());
            same_table(ours.client_properties, &m.client_properties);
        }
        M::Tune(connection::Tune { channel_max, frame_max, heartbeat })
        | M::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat }) => {
            let ours = Tune { channel_max: *channel_max, frame_max: *frame_max, heartbeat: *heartbeat };
            assert_eq!(Tune::parse(payload), Ok(ours));
        }
        M::Open(m) => assert_eq!(open_vhost(payload), Ok(m.virtual_host.as_str().as_bytes())),
        _ => {}
    }
}

fn same_channel(ours: Method<'_>, theirs: &channel::AMQPMethod) {
    use channel::AMQPMethod as M;
    let theirs = match theirs {
        M::Open(_) => Method::ChannelOpen,
        M::OpenOk(_) => Method::ChannelOpenOk,
        M::Flow(m) => Method::ChannelFlow { active: m.active },
        M::FlowOk(_) => Method::ChannelFlowOk,
        M::Close(m) => Method::ChannelClose { code: m.reply_code, text: m.reply_text.as_str().as_bytes() },
        M::CloseOk(_) => Method::ChannelCloseOk,
    };
    assert_eq!(ours, theirs);
}

fn same_exchange(id: MethodId, ours: Method<'_>, theirs: &exchange::AMQPMethod) {
    use exchange::AMQPMethod as M;
    let theirs = match theirs {
        M::Declare(m) => Method::Request { nowait: m.nowait },
        M::Delete(m) => Method::Request { nowait: m.nowait },
        M::Bind(m) => Method::Request { nowait: m.nowait },
        M::Unbind(m) => Method::Request { nowait: m.nowait },
        M::DeclareOk(_) | M::DeleteOk(_) | M::BindOk(_) | M::UnbindOk(_) => Method::Reply(id),
    };
    assert_eq!(ours, theirs);
}

fn same_queue(id: MethodId, ours: Method<'_>, theirs: &queue::AMQPMethod) {
    use queue::AMQPMethod as M;
    let theirs = match theirs {
        M::Declare(m) => {
            let Method::Declare(ours) = ours else { panic!("we say {ours:?}") };
            assert_eq!(ours.queue, m.queue.as_str().as_bytes());
            assert_eq!(
                (ours.passive(), ours.bits.at(1), ours.exclusive(), ours.auto_delete(), ours.nowait()),
                (m.passive, m.durable, m.exclusive, m.auto_delete, m.nowait)
            );
            return same_table(ours.arguments, &m.arguments);
        }
        M::DeclareOk(m) => Method::DeclareOk { queue: m.queue.as_str().as_bytes(), ready: m.message_count },
        M::Delete(m) => Method::QueueDelete { queue: m.queue.as_str().as_bytes(), nowait: m.nowait },
        M::Bind(m) => Method::Request { nowait: m.nowait },
        M::Purge(m) => Method::Request { nowait: m.nowait },
        M::Unbind(_) => Method::Request { nowait: false },
        M::BindOk(_) | M::PurgeOk(_) | M::DeleteOk(_) | M::UnbindOk(_) => Method::Reply(id),
    };
    assert_eq!(ours, theirs);
}

fn same_basic(id: MethodId, ours: Method<'_>, theirs: &basic::AMQPMethod) {
    use basic::AMQPMethod as M;
    let theirs = match theirs {
        M::Qos(m) => Method::Qos { prefetch: m.prefetch_count, global: m.global },
        M::Consume(m) => {
            let Method::Consume(ours) = ours else { panic!("we say {ours:?}") };
            assert_eq!(
                (ours.queue, ours.tag),
                (m.queue.as_str().as_bytes(), m.consumer_tag.as_str().as_bytes())
            );
            assert_eq!(
                (ours.bits.at(0), ours.no_ack(), ours.exclusive(), ours.nowait()),
                (m.no_local, m.no_ack, m.exclusive, m.nowait)
            );
            return same_table(ours.arguments, &m.arguments);
        }
        M::ConsumeOk(m) => Method::ConsumeOk { tag: m.consumer_tag.as_str().as_bytes() },
        M::Cancel(m) => Method::Cancel { tag: m.consumer_tag.as_str().as_bytes(), nowait: m.nowait },
        M::CancelOk(m) => Method::CancelOk { tag: m.consumer_tag.as_str().as_bytes() },
        M::Publish(_) => Method::Publish,
        M::Return(_) => Method::Return,
        M::Deliver(m) => {
            Method::Deliver { consumer: m.consumer_tag.as_str().as_bytes(), tag: m.delivery_tag }
        }
        M::Get(m) => Method::Get { no_ack: m.no_ack },
        M::GetOk(m) => Method::GetOk { tag: m.delivery_tag },
        M::GetEmpty(_) => Method::GetEmpty,
        M::Ack(m) => Method::Ack { tag: m.delivery_tag, multiple: m.multiple },
        M::Nack(m) => Method::Nack { tag: m.delivery_tag, multiple: m.multiple },
        M::Reject(m) => Method::Reject { tag: m.delivery_tag },
        M::RecoverAsync(_) => Method::RecoverAsync,
        M::Recover(_) => Method::Recover,
        M::QosOk(_) | M::RecoverOk(_) => Method::Reply(id),
    };
    assert_eq!(ours, theirs);
}

/// They keep the last of two equal names, we find the first; every other entry is the same.
fn same_table(ours: Table<'_>, theirs: &FieldTable) {
    let mut last = std::collections::BTreeMap::new();
    for (name, value) in ours.entries() {
        last.insert(name, value);
    }
    assert_eq!(last.len(), theirs.inner().len());
    for (name, value) in theirs {
        same_value(last[name.as_str().as_bytes()], value);
        assert!(ours.find(name.as_str()).is_some());
    }
}

fn same_value(ours: Value<'_>, theirs: &AMQPValue) {
    let int = match theirs {
        AMQPValue::Boolean(value) => return assert_eq!(ours, Value::Bool(*value)),
        AMQPValue::LongString(value) => return assert_eq!(ours, Value::Bytes(value.as_bytes())),
        AMQPValue::ByteArray(value) => return assert_eq!(ours, Value::Bytes(value.as_slice())),
        AMQPValue::FieldTable(theirs) => match ours {
            Value::Table(ours) => return same_table(ours, theirs),
            ours => panic!("we say {ours:?}, they say a table"),
        },
        AMQPValue::ShortShortInt(value) => i64::from(*value),
        AMQPValue::ShortShortUInt(value) => i64::from(*value),
        AMQPValue::ShortInt(value) => i64::from(*value),
        AMQPValue::ShortUInt(value) => i64::from(*value),
        AMQPValue::LongInt(value) => i64::from(*value),
        AMQPValue::LongUInt(value) => i64::from(*value),
        AMQPValue::LongLongInt(value) => *value,
        AMQPValue::Timestamp(value) => value.cast_signed(),
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::ShortString(_)
        | AMQPValue::Void => return assert_eq!(ours, Value::Other),
    };
    assert_eq!(ours, Value::Int(int));
}
