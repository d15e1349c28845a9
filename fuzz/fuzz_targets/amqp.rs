//! The AMQP codec on arbitrary bytes: any split gives the frames of the whole, a plain parser finds the same ones, and
//! amq-protocol reads the same fields in them.
//!
//! Input: one byte for `frame_max`, eight for the lengths of the chunks in which the stream arrives, and the stream.

#![no_main]

use amqp::{
    Content, Credentials, Frames10, HEADER_BYTES, Kind, Method, MethodId, Start, StartOk, Table, Tune,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/amqp/tests/suite/grammar.rs"]
mod grammar;
#[path = "../../crates/amqp/tests/suite/oracle.rs"]
mod oracle;
#[path = "../../crates/amqp/tests/suite/reference.rs"]
mod reference;
#[path = "../../crates/amqp/tests/suite/told.rs"]
mod told;

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, ref chunks @ ..], stream)) = input.split_first_chunk::<9>() else { return };
    let frame_bytes_max = [64, 4096, 131_072, u32::MAX][usize::from(flags & 3)];
    let plain = reference::parse(stream, frame_bytes_max);
    let chunks = chunks.iter().map(|chunk| usize::from(*chunk).max(1)).cycle();
    assert_eq!(told::told(stream, frame_bytes_max, chunks.clone()), plain);
    assert_eq!(told::told(stream, frame_bytes_max, std::iter::once(stream.len())), plain);
    // amq-protocol goes as deep as arrays do, and a stack ends.
    if stream.len() < 16 * 1024 {
        oracle::compare(stream, frame_bytes_max);
    }

    let mut content = Content::new(1);
    for frame in &plain.frames {
        let end = frame.start + HEADER_BYTES + frame.size as usize;
        let Some(payload) = stream.get(frame.start + HEADER_BYTES..end) else { break };
        let result = match frame.kind {
            Kind::Method => {
                fields(payload);
                patch(&stream[frame.start..=end]);
                content.handle_method(MethodId::of(payload))
            }
            Kind::Header => content.handle_header(payload),
            Kind::Body => content.handle_body(frame.size),
            Kind::Heartbeat => Ok(()),
        };
        if let Err(error) = result {
            assert!(matches!(error.code(), 501 | 505) && error.to_string().starts_with("expected"));
        }
    }
    frames10(stream, chunks);
});

/// Whatever reads the payload of a method.
fn fields(payload: &[u8]) {
    let _ = (Method::parse(payload), Start::parse(payload), Tune::parse(payload), amqp::open_vhost(payload));
    let table = Table::new(payload);
    assert!(
        !table.is_well_formed()
            || table.entries().map(|(name, _)| 2 + name.len()).sum::<usize>() <= payload.len()
    );
    let Ok(start_ok) = StartOk::parse(payload) else { return };
    let tune = Tune { channel_max: 1, frame_max: 4096, heartbeat: 0 };
    assert!(!format!("{start_ok:?}").contains("mechanism"));
    if let Some(mut credentials) = Credentials::new(&start_ok, tune, b"/") {
        let frame = credentials.start_ok();
        let again =
            StartOk::parse(&frame[HEADER_BYTES..frame.len() - 1]).expect("what was written can be read");
        assert_eq!((again.user(), again.response), (start_ok.user(), start_ok.response));
        if credentials.update_secret(start_ok.locale) {
            assert_eq!(credentials.user(), start_ok.user());
        }
    }
}

/// A tag that is changed and changed back leaves what was there.
fn patch(frame: &[u8]) {
    let mut patched = frame.to_vec();
    let payload = HEADER_BYTES..frame.len() - 1;
    let tag = match Method::parse(&frame[payload.clone()]) {
        Ok(
            Method::Ack { tag, .. }
            | Method::Nack { tag, .. }
            | Method::Reject { tag }
            | Method::GetOk { tag }
            | Method::Deliver { tag, .. },
        ) => tag,
        // A tag without what should follow it may be changed.
        _ => return,
    };
    assert!(amqp::patch(&mut patched, !tag));
    assert_ne!(patched, frame);
    assert!(amqp::patch(&mut patched, tag));
    assert_eq!(patched, frame);
}

/// AMQP 1.0: in chunks as at once.
fn frames10(stream: &[u8], chunks: impl Iterator<Item = usize>) {
    let (mut whole, mut split) = (Frames10::default(), Frames10::default());
    whole.run(stream);
    let mut rest = stream;
    for chunk in chunks {
        let (taken, behind) = rest.split_at(chunk.min(rest.len()));
        split.run(taken);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(whole.at_boundary(), split.at_boundary());
}
