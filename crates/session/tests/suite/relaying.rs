//! What passes: frames byte for byte, whatever the chunks; raw bytes after a malformed frame.

use session::{End, Initiator, Leg, PinReason, Settings};
use ws::Extensions;

use crate::frames::{Writer, close, frame, text};
use crate::rig::{Rig, settings, spec};

#[test]
fn frames_pass_unaltered_whatever_the_chunks() {
    let stream = [
        text(Writer::Client, "one"),
        frame(Writer::Client, false, 2, &[9; 300]),
        frame(Writer::Client, true, 9, b"ping"),
        frame(Writer::Client, true, 0, b"rest"),
        text(Writer::Client, ""),
    ]
    .concat();
    for size in 1..stream.len() {
        let mut rig = Rig::new();
        stream.chunks(size).for_each(|chunk| rig.client(chunk));
        assert_eq!(rig.wire_to(Leg::Upstream).output(), stream, "chunks of {size}");
        assert_eq!(rig.session.messages_to(Leg::Upstream), 3);
        assert_eq!((rig.session.end(), rig.session.poll_timeout()), (None, None));
    }
}

#[test]
fn a_control_frame_is_held_until_it_is_complete() {
    let mut rig = Rig::new();
    let ping = frame(Writer::Server, true, 9, &[5; 125]);
    rig.endpoint(&ping[..126]);
    assert_eq!(rig.wire_to(Leg::Downstream).output(), b"");
    rig.endpoint(&ping[126..]);
    assert_eq!(rig.wire_to(Leg::Downstream).output(), ping);
}

#[test]
fn a_malformed_frame_makes_the_session_opaque_and_everything_passes() {
    let mut rig = Rig::new();
    let stream = [text(Writer::Client, "good"), vec![0xFF; 40], close(Writer::Client, 1000, "")].concat();
    stream.chunks(7).for_each(|chunk| rig.client(chunk));
    assert!(rig.session.is_opaque());
    assert_eq!(rig.wire_to(Leg::Upstream).output(), stream);
    assert_eq!((rig.session.end(), rig.session.poll_timeout()), (None, None));
    assert_eq!(rig.shed(spec(session::Order::ClientFirst)), Err(PinReason::Opaque));
}

#[test]
fn an_opaque_session_ends_by_ends_of_streams_only() {
    let mut rig = Rig::new();
    rig.endpoint(&[0xFF; 4]);
    rig.end(Leg::Upstream);
    assert_eq!(rig.fins(), (true, false));
    rig.client(b"still raw");
    assert_eq!(rig.wire_to(Leg::Upstream).output(), b"still raw");
    rig.end(Leg::Downstream);
    assert!(rig.session.is_finished());
    assert!(rig.wire_to(Leg::Downstream).authored().is_empty());
    assert_eq!(rig.lost(), (0, 0));
}

#[test]
fn cutting_an_opaque_session_writes_no_frame() {
    let mut rig = Rig::new();
    rig.client(&[0xFF; 4]);
    rig.cut(1001);
    assert_eq!(rig.fins(), (true, true));
    assert!(rig.wire_to(Leg::Downstream).output().is_empty());
}

#[test]
fn a_malformed_frame_ends_a_strict_session_with_1002_on_both_legs() {
    for from in [Leg::Downstream, Leg::Upstream] {
        let mut rig = Rig::with(Settings { strict: true, ..settings() }, Extensions::None);
        let good = match from {
            Leg::Downstream => text(Writer::Client, "good"),
            Leg::Upstream => text(Writer::Server, "good"),
        };
        rig.send(from, &[&good[..], &[0xFF, 0xFF, 1, 2, 3]].concat());
        rig.send(from, b"more of it");
        assert_eq!(rig.wire_to(from.other()).forwarded(), good);
        assert_eq!((rig.heard(Leg::Downstream).1, rig.heard(Leg::Upstream).1), (Some(1002), Some(1002)));
        assert_eq!(rig.fins(), (true, true));
        assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Gateway, code: Some(1002) }));
        assert!(!rig.session.is_opaque());
    }
}

#[test]
fn what_follows_a_close_frame_in_the_same_chunk_goes_nowhere() {
    let mut rig = Rig::new();
    let first = close(Writer::Client, 1000, "bye");
    rig.client(&[&first[..], &text(Writer::Client, "too late"), &[0xFF; 9]].concat());
    assert_eq!(rig.wire_to(Leg::Upstream).output(), first);
    assert!(!rig.session.is_opaque());
}
