//! The scanner on arbitrary bytes: any split gives what the whole gives, frame by frame as well, and all agree with a
//! plain parser.
//!
//! Input: one byte for the sender and the negotiated bits, eight for the lengths of the chunks in which the
//! stream arrives, and the stream.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws::{CONTROL_FRAME_BYTES_MAX, FrameError, Role, Rsv, Scanner, Stop};

#[path = "../../crates/ws/tests/suite/reference.rs"]
mod reference;

use reference::End;

/// All that a scanner told about a stream.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    consumed: usize,
    messages: usize,
    close: Option<(usize, usize, Option<u16>)>,
    error: Option<(usize, FrameError)>,
    payload_remaining: u64,
    message_boundary: bool,
}

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, ref chunks @ ..], stream)) = input.split_first_chunk::<9>() else { return };
    let sender = if flags & 1 == 0 { Role::Client } else { Role::Server };
    let rsv = match flags >> 1 & 3 {
        0 => Rsv::None,
        1 => Rsv::Deflate,
        _ => Rsv::Any,
    };
    let whole = trace(stream, Scanner::new(sender, rsv), &[u8::MAX], Scanner::run);
    assert_eq!(trace(stream, Scanner::new(sender, rsv), chunks, Scanner::run), whole);
    assert_eq!(trace(stream, Scanner::new(sender, rsv), chunks, Scanner::run_frame), whole);

    let plain = reference::parse(stream, sender, rsv);
    let (consumed, bad_at) = match plain.end {
        End::Boundary | End::InPayload => (stream.len(), None),
        End::NotYet(at) => (at, None),
        End::Bad(at) => (at, Some(at)),
    };
    assert_eq!((whole.consumed, whole.error.map(|(at, _)| at)), (consumed, bad_at));
    assert_eq!((whole.messages, whole.payload_remaining), (plain.messages(), plain.payload_remaining()));
    assert_eq!(whole.close.map(|(at, ..)| at), plain.close_at());
    assert_eq!(whole.message_boundary, plain.payload_remaining() == 0 && !plain.open);
});

type Run = fn(&mut Scanner, &[u8]) -> ws::Run;

/// Feeds the stream in chunks of these lengths, in turn; 255 stands for all the rest.
fn trace(stream: &[u8], mut scanner: Scanner, chunks: &[u8], run: Run) -> Trace {
    let mut trace = Trace::default();
    let mut read = 0;
    for chunk in chunks.iter().cycle() {
        let chunk = if *chunk == u8::MAX { stream.len() } else { usize::from(*chunk).max(1) };
        read = (read + chunk).min(stream.len());
        take(&mut scanner, &stream[..read], &mut trace, run);
        if read == stream.len() || trace.error.is_some() {
            break;
        }
        assert!(read - trace.consumed < CONTROL_FRAME_BYTES_MAX);
    }
    trace.payload_remaining = scanner.payload_remaining();
    trace.message_boundary = scanner.at_message_boundary();
    trace
}

fn take(scanner: &mut Scanner, bytes: &[u8], trace: &mut Trace, run: Run) {
    loop {
        let run = run(scanner, &bytes[trace.consumed..]);
        trace.consumed += run.len;
        trace.messages += run.messages as usize;
        match run.stop {
            Stop::FrameEnd => assert!(run.len > 0 && scanner.at_frame_boundary()),
            Stop::End => return assert_eq!(trace.consumed, bytes.len()),
            Stop::NotYet => return assert!(trace.consumed < bytes.len()),
            Stop::Malformed(error) => return trace.error = Some((trace.consumed, error)),
            Stop::Close(close) => {
                trace.close = Some((trace.consumed, close.frame_bytes, close.code));
                trace.consumed += close.frame_bytes;
            }
        }
    }
}
