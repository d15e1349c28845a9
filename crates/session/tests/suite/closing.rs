//! How a session ends when a peer begins it, or dies: closing handshakes, ends of streams, resets, cuts.

use session::{End, Initiator, Leg};

use crate::frames::{Writer, close, frame, text};
use crate::rig::{ABORT_CODE, HALF_CLOSE, LINGER, REPLY, Rig};

#[test]
fn a_closing_handshake_passes_untouched_and_the_server_ends_first() {
    let mut rig = Rig::new();
    rig.client(&close(Writer::Client, 1000, "done"));
    assert_eq!(rig.wait(), Some(REPLY));
    assert_eq!(rig.fins(), (false, false));
    rig.endpoint(&[text(Writer::Server, "last"), close(Writer::Server, 1000, "done")].concat());
    assert_eq!(rig.heard(Leg::Downstream), (vec!["last".into()], Some(1000)));
    // To the client we are the server, to the endpoint the client.
    assert_eq!(rig.fins(), (true, false));
    assert_eq!(rig.wait(), Some(LINGER));
    rig.end(Leg::Upstream);
    assert_eq!(rig.fins(), (true, true));
    rig.end(Leg::Downstream);
    assert!(rig.session.is_finished());
    assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Client, code: Some(1000) }));
    assert!(rig.wire_to(Leg::Downstream).authored().is_empty());
}

#[test]
fn an_endpoint_that_closes_first_gets_the_clients_answer() {
    let mut rig = Rig::new();
    rig.endpoint(&close(Writer::Server, 4001, "expired"));
    rig.client(&[text(Writer::Client, "meanwhile"), close(Writer::Client, 4001, "")].concat());
    assert_eq!(rig.heard(Leg::Upstream), (vec!["meanwhile".into()], Some(4001)));
    assert_eq!(rig.heard(Leg::Downstream), (vec![], Some(4001)));
    assert_eq!(rig.fins(), (true, false));
    assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Endpoint, code: Some(4001) }));
}

#[test]
fn a_peer_that_does_not_answer_a_close_is_answered_for() {
    // The code of the first Close is repeated; 1000 where it had none.
    for (payload, code) in [(&[0x0F, 0xA0][..], 4000), (&[], 1000)] {
        let mut rig = Rig::new();
        rig.client(&frame(Writer::Client, true, 8, payload));
        rig.pass(REPLY);
        assert_eq!(rig.heard(Leg::Downstream).1, Some(code));
        assert_eq!(rig.fins(), (true, true));

        let mut rig = Rig::new();
        rig.endpoint(&frame(Writer::Server, true, 8, payload));
        rig.pass(REPLY);
        assert_eq!(rig.heard(Leg::Upstream).1, Some(code));
        assert_eq!(rig.fins(), (true, true));
        rig.pass(LINGER);
        assert!(rig.session.is_finished());
        assert_eq!(rig.session.poll_timeout(), None);
    }
}

#[test]
fn crossing_closes_of_both_peers_are_one_closing_handshake() {
    let mut rig = Rig::new();
    rig.client(&close(Writer::Client, 1000, ""));
    rig.endpoint(&close(Writer::Server, 1001, ""));
    assert_eq!((rig.heard(Leg::Downstream).1, rig.heard(Leg::Upstream).1), (Some(1001), Some(1000)));
    assert_eq!(rig.session.end().and_then(|end| end.code), Some(1000));
}

#[test]
fn only_an_endpoint_that_ends_without_a_close_has_lost_its_session() {
    let is_lost = |play: &dyn Fn(&mut Rig)| {
        let mut rig = Rig::new();
        rig.endpoint(&text(Writer::Server, "hello"));
        assert!(!rig.session.is_lost());
        play(&mut rig);
        rig.session.is_lost()
    };
    assert!(is_lost(&|rig| rig.end(Leg::Upstream)));
    assert!(is_lost(&|rig| {
        rig.endpoint(&frame(Writer::Server, false, 1, b"half"));
        rig.end(Leg::Upstream);
    }));
    assert!(!is_lost(&|rig| {
        rig.endpoint(&close(Writer::Server, 1011, ""));
        rig.end(Leg::Upstream);
    }));
    assert!(!is_lost(&|rig| {
        rig.end(Leg::Downstream);
        rig.end(Leg::Upstream);
    }));
    assert!(!is_lost(&|rig| {
        // Whether these bytes hold a Close frame is not known.
        rig.endpoint(&[0xFF; 8]);
        rig.end(Leg::Upstream);
    }));
}

#[test]
fn an_endpoint_gone_at_a_boundary_becomes_a_close_frame() {
    let mut rig = Rig::new();
    rig.endpoint(&text(Writer::Server, "last"));
    rig.end(Leg::Upstream);
    assert_eq!(rig.heard(Leg::Downstream), (vec!["last".into()], Some(ABORT_CODE)));
    assert_eq!((rig.fins(), rig.wait()), ((false, false), Some(REPLY)));
    rig.client(&close(Writer::Client, ABORT_CODE, ""));
    assert_eq!(rig.fins(), (true, true));
    rig.end(Leg::Downstream);
    assert!(rig.session.is_finished());
    assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Endpoint, code: None }));
    assert_eq!(rig.lost(), (0, 0));
}

#[test]
fn an_endpoint_gone_behind_half_a_header_is_gone_at_a_boundary() {
    let mut rig = Rig::new();
    rig.endpoint(&[0x82, 126, 1]);
    rig.end(Leg::Upstream);
    assert_eq!(rig.heard(Leg::Downstream), (vec![], Some(ABORT_CODE)));
    assert_eq!(rig.lost(), (0, 0));
}

#[test]
fn an_endpoint_gone_inside_a_frame_is_only_an_end_of_stream() {
    let mut rig = Rig::new();
    rig.endpoint(&text(Writer::Server, "cut short")[..5]);
    rig.end(Leg::Upstream);
    assert!(rig.wire_to(Leg::Downstream).authored().is_empty());
    assert_eq!((rig.fins(), rig.lost()), ((true, false), (1, 0)));
    // The other direction has its time, as after any half close.
    assert_eq!(rig.wait(), Some(HALF_CLOSE));
    rig.client(&text(Writer::Client, "anyone?"));
    assert_eq!(rig.heard(Leg::Upstream).0, ["anyone?"]);
    rig.end(Leg::Downstream);
    assert!(rig.session.is_finished());
}

#[test]
fn an_endpoint_gone_inside_a_fragmented_message_becomes_a_close_frame_and_the_message_is_counted() {
    let mut rig = Rig::new();
    rig.endpoint(&frame(Writer::Server, false, 1, b"half"));
    rig.end(Leg::Upstream);
    assert_eq!((rig.heard(Leg::Downstream).1, rig.lost()), (Some(ABORT_CODE), (1, 0)));
}

#[test]
fn an_endpoint_that_resets_becomes_a_close_frame_too() {
    let mut rig = Rig::new();
    rig.reset(Leg::Upstream);
    assert_eq!(rig.heard(Leg::Downstream).1, Some(ABORT_CODE));
    rig.client(&[text(Writer::Client, "lost"), close(Writer::Client, 1000, "")].concat());
    assert!(rig.wire_to(Leg::Upstream).output().is_empty());
    assert_eq!((rig.lost(), rig.fins().0, rig.wait()), ((0, 1), true, Some(LINGER)));
}

#[test]
fn an_endpoint_that_answers_a_close_by_ending_is_answered_for() {
    let mut rig = Rig::new();
    rig.client(&close(Writer::Client, 1000, ""));
    rig.end(Leg::Upstream);
    assert_eq!((rig.heard(Leg::Downstream).1, rig.fins()), (Some(1000), (true, true)));
}

#[test]
fn a_client_that_ends_without_a_close_leaves_the_endpoint_time_to_flush() {
    let mut rig = Rig::new();
    rig.end(Leg::Downstream);
    assert_eq!((rig.fins(), rig.wait()), ((false, true), Some(HALF_CLOSE)));
    rig.endpoint(&[text(Writer::Server, "flushed"), close(Writer::Server, 1000, "")].concat());
    assert_eq!(rig.heard(Leg::Downstream), (vec!["flushed".into()], Some(1000)));
    assert_eq!((rig.fins(), rig.wait()), ((true, true), Some(LINGER)));
    rig.end(Leg::Upstream);
    assert!(rig.session.is_finished());
    assert!(rig.wire_to(Leg::Upstream).output().is_empty());
}

#[test]
fn an_endpoint_that_ends_after_its_client_ended_adds_no_close_frame() {
    let mut rig = Rig::new();
    rig.end(Leg::Downstream);
    rig.end(Leg::Upstream);
    assert!(rig.session.is_finished());
    assert!(rig.wire_to(Leg::Downstream).output().is_empty());
}

#[test]
fn a_half_close_that_lasts_is_ended() {
    let mut rig = Rig::new();
    rig.end(Leg::Downstream);
    rig.pass(HALF_CLOSE);
    assert_eq!((rig.fins(), rig.wait()), ((true, true), Some(LINGER)));
    // Who ended its stream without a word gets none.
    assert!(rig.wire_to(Leg::Downstream).output().is_empty());
    rig.pass(LINGER);
    assert!(rig.session.is_finished());
    assert_eq!(rig.wait(), None);
}

#[test]
fn a_linger_is_not_prolonged_by_what_happens_in_it() {
    let mut rig = Rig::new();
    rig.cut(1012);
    rig.pass(LINGER / 2);
    rig.client(&close(Writer::Client, 1012, ""));
    rig.end(Leg::Downstream);
    rig.endpoint(&close(Writer::Server, 1012, ""));
    assert_eq!(rig.wait(), Some(LINGER / 2));
    rig.pass(LINGER / 2);
    assert!(rig.session.is_finished());
}

#[test]
fn nothing_is_said_to_a_leg_that_broke_before_it_was_said() {
    let mut rig = Rig::new();
    rig.session.cut(rig.now, &rig.settings, 1001);
    rig.session.handle_broken(rig.now, &rig.settings, Leg::Downstream);
    assert_eq!(rig.session.poll_transmit(Leg::Downstream, || [0; 4]), None);
    assert!(rig.session.poll_transmit(Leg::Upstream, || [0; 4]).is_some());
}

#[test]
fn a_client_gone_inside_a_message_ends_the_endpoints_stream_and_the_message_is_counted() {
    let mut rig = Rig::new();
    rig.client(&text(Writer::Client, "cut short")[..9]);
    rig.reset(Leg::Downstream);
    assert_eq!((rig.fins().1, rig.lost()), (true, (0, 1)));
    rig.endpoint(&text(Writer::Server, "to nobody"));
    assert_eq!(rig.lost(), (1, 1));
    rig.end(Leg::Upstream);
    assert!(rig.session.is_finished());
}

#[test]
fn two_resets_finish_a_session_at_once() {
    let mut rig = Rig::new();
    rig.reset(Leg::Upstream);
    rig.reset(Leg::Downstream);
    assert!(rig.session.is_finished());
    assert_eq!(rig.wait(), None);
}

#[test]
fn a_finished_session_lingers_for_its_output_and_then_waits_for_nothing() {
    let mut rig = Rig::new();
    rig.end(Leg::Downstream);
    rig.end(Leg::Upstream);
    assert_eq!((rig.session.is_finished(), rig.wait()), (true, Some(LINGER)));
    rig.pass(LINGER);
    assert_eq!((rig.session.is_finished(), rig.wait()), (true, None));
    rig.reset(Leg::Downstream);
    assert_eq!(rig.wait(), None);
}

#[test]
fn a_cut_closes_both_legs_where_that_is_legal() {
    let mut rig = Rig::new();
    rig.client(&frame(Writer::Client, false, 1, b"open"));
    rig.endpoint(&text(Writer::Server, "cut short")[..4]);
    rig.cut(1001);
    assert_eq!(rig.heard(Leg::Upstream).1, Some(1001));
    assert!(rig.wire_to(Leg::Downstream).authored().is_empty());
    assert_eq!((rig.fins(), rig.wait(), rig.lost()), ((true, true), Some(LINGER), (1, 1)));
    assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Gateway, code: Some(1001) }));
    rig.cut(1012);
    assert_eq!(rig.heard(Leg::Upstream).1, Some(1001));
    rig.pass(LINGER);
    assert!(rig.session.is_finished());
}

#[test]
fn a_cut_adds_no_second_close_frame() {
    let mut rig = Rig::new();
    rig.endpoint(&close(Writer::Server, 1000, ""));
    rig.cut(1012);
    assert_eq!((rig.heard(Leg::Downstream).1, rig.heard(Leg::Upstream).1), (Some(1000), Some(1012)));
}
