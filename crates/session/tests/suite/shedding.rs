//! What a shed does: notice rungs, the quiet moment, both orders, crossing closes, and waits that expire.

use std::time::Duration;

use session::{End, Initiator, Leg, Order, PinReason, ShedSpec};
use ws::Extensions;

use crate::frames::{Writer, close, frame, text};
use crate::rig::{HALF_CLOSE, LINGER, NOTICE, REPLY, Rig, notice, settings, spec};

const QUIET: Duration = Duration::from_millis(100);
const WAIT: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(30);

/// A rig with a shed of this order begun, closing already.
fn closing(order: Order) -> Rig {
    let mut rig = Rig::new();
    rig.shed(spec(order)).expect("a new session can be shed");
    rig.pass(QUIET);
    rig
}

#[test]
fn client_first_delivers_what_the_client_says_until_its_own_close() {
    let mut rig = closing(Order::ClientFirst);
    let parting = rig.got(Leg::Downstream).close;
    assert_eq!(parting, Some((Some(1012), "rebalance".into())));
    rig.client(&text(Writer::Client, "late"));
    rig.endpoint(&[text(Writer::Server, "lost"), text(Writer::Server, "lost too")].concat());
    rig.client(&[text(Writer::Client, "later"), close(Writer::Client, 1012, "")].concat());
    assert_eq!(rig.heard(Leg::Upstream), (vec!["late".into(), "later".into()], Some(1012)));
    assert_eq!((rig.heard(Leg::Downstream).0, rig.lost()), (vec![], (2, 0)));
    assert_eq!((rig.fins(), rig.wait()), ((true, false), Some(REPLY)));
    rig.endpoint(&close(Writer::Server, 1012, ""));
    assert_eq!(rig.wait(), Some(LINGER));
    rig.end(Leg::Upstream);
    rig.end(Leg::Downstream);
    assert!(rig.session.is_finished());
    assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Gateway, code: Some(1012) }));
}

#[test]
fn backend_first_delivers_what_the_endpoint_says_until_its_own_close() {
    let mut rig = closing(Order::BackendFirst);
    assert_eq!((rig.heard(Leg::Upstream).1, rig.heard(Leg::Downstream).1), (Some(1012), None));
    rig.client(&text(Writer::Client, "lost"));
    rig.endpoint(&[text(Writer::Server, "last"), close(Writer::Server, 1000, "ok")].concat());
    // The client gets our code and reason in place of the endpoint's, and its own time to answer.
    assert_eq!(rig.got(Leg::Downstream).close, Some((Some(1012), "rebalance".into())));
    assert_eq!((rig.heard(Leg::Downstream).0, rig.lost()), (vec!["last".into()], (0, 1)));
    assert_eq!(rig.wait(), Some(REPLY));
    rig.client(&close(Writer::Client, 1012, ""));
    assert_eq!((rig.fins(), rig.wait()), ((true, false), Some(LINGER)));
    assert_eq!(rig.got(Leg::Upstream).frames.len(), 1);
}

#[test]
fn a_client_that_never_answers_the_close_is_told_from_one_that_does() {
    let mut rig = closing(Order::ClientFirst);
    rig.pass(REPLY + LINGER + REPLY);
    assert!(!rig.session.has_client_answered());
    for answer in [&|rig: &mut Rig| rig.client(&close(Writer::Client, 1012, "")), &|rig: &mut Rig| {
        rig.end(Leg::Downstream)
    }] as [&dyn Fn(&mut Rig); 2]
    {
        let mut rig = closing(Order::ClientFirst);
        answer(&mut rig);
        assert!(rig.session.has_client_answered());
    }
}

#[test]
fn a_close_of_the_endpoint_that_crosses_ours_is_swallowed_and_answered_by_the_client() {
    let mut rig = closing(Order::ClientFirst);
    rig.endpoint(&close(Writer::Server, 1001, ""));
    assert_eq!(rig.heard(Leg::Downstream).1, Some(1012));
    rig.client(&[text(Writer::Client, "late"), close(Writer::Client, 1012, "")].concat());
    assert_eq!(rig.heard(Leg::Upstream), (vec!["late".into()], Some(1012)));
    assert_eq!((rig.fins(), rig.wait()), ((true, false), Some(LINGER)));
}

#[test]
fn a_close_of_the_endpoint_that_crosses_ours_is_answered_even_if_the_client_just_goes() {
    for go in [Rig::end, Rig::reset] {
        let mut rig = closing(Order::ClientFirst);
        rig.endpoint(&close(Writer::Server, 1001, ""));
        go(&mut rig, Leg::Downstream);
        assert_eq!(rig.heard(Leg::Upstream).1, Some(1012));
        assert_eq!(rig.wait(), Some(LINGER));
        rig.end(Leg::Upstream);
        assert!(rig.session.is_finished());
    }
}

#[test]
fn a_close_of_the_client_that_crosses_ours_finishes_its_handshake() {
    // client_first: indistinguishable from an answer.
    let mut rig = closing(Order::ClientFirst);
    rig.client(&close(Writer::Client, 1000, "bye"));
    assert_eq!((rig.heard(Leg::Upstream).1, rig.fins()), (Some(1000), (true, false)));
    // backend_first: swallowed, and answered once the endpoint has said all.
    let mut rig = closing(Order::BackendFirst);
    rig.client(&close(Writer::Client, 1000, "bye"));
    assert_eq!((rig.heard(Leg::Upstream).1, rig.heard(Leg::Downstream).1), (Some(1012), None));
    rig.endpoint(&[text(Writer::Server, "last"), close(Writer::Server, 1012, "")].concat());
    assert_eq!(rig.heard(Leg::Downstream), (vec!["last".into()], Some(1012)));
    assert_eq!((rig.fins(), rig.wait()), ((true, false), Some(LINGER)));
}

#[test]
fn the_second_peer_has_its_own_time_to_answer() {
    let mut rig = closing(Order::ClientFirst);
    rig.pass(REPLY / 2);
    rig.client(&close(Writer::Client, 1012, ""));
    assert_eq!(rig.wait(), Some(REPLY));
    let mut rig = closing(Order::BackendFirst);
    rig.pass(REPLY / 2);
    rig.endpoint(&close(Writer::Server, 1012, ""));
    assert_eq!(rig.wait(), Some(REPLY));
}

#[test]
fn a_client_that_does_not_answer_is_left_after_the_wait() {
    let mut rig = closing(Order::ClientFirst);
    rig.client(&text(Writer::Client, "late"));
    rig.pass(REPLY);
    assert_eq!(rig.heard(Leg::Upstream), (vec!["late".into()], Some(1012)));
    assert_eq!((rig.fins(), rig.wait()), ((true, true), Some(LINGER)));
    rig.client(&text(Writer::Client, "too late"));
    assert_eq!(rig.lost(), (0, 1));
    rig.pass(LINGER);
    assert!(rig.session.is_finished());
}

#[test]
fn an_endpoint_that_does_not_answer_does_not_keep_the_close_from_the_client() {
    let mut rig = closing(Order::BackendFirst);
    rig.pass(REPLY);
    assert_eq!(rig.got(Leg::Downstream).close, Some((Some(1012), "rebalance".into())));
    assert_eq!((rig.fins(), rig.wait()), ((true, true), Some(LINGER)));
}

#[test]
fn an_endpoint_that_dies_after_our_close_does_not_change_the_code() {
    for go in [Rig::end, Rig::reset] {
        let mut rig = closing(Order::BackendFirst);
        go(&mut rig, Leg::Upstream);
        assert_eq!(rig.heard(Leg::Downstream).1, Some(1012));
        assert_eq!(rig.wait(), Some(REPLY));
    }
}

#[test]
fn a_client_that_just_goes_after_our_close_ends_the_session() {
    let mut rig = closing(Order::ClientFirst);
    rig.end(Leg::Downstream);
    assert_eq!((rig.fins(), rig.wait()), ((true, true), Some(LINGER)));
    rig.end(Leg::Upstream);
    assert!(rig.session.is_finished());
}

#[test]
fn traffic_puts_the_close_off_until_it_is_quiet() {
    let mut rig = Rig::new();
    rig.shed(spec(Order::ClientFirst)).unwrap();
    for _ in 0..10 {
        rig.pass(QUIET - Duration::from_millis(1));
        rig.endpoint(&text(Writer::Server, "tick"));
    }
    assert_eq!(rig.session.end(), None);
    rig.pass(QUIET);
    assert_eq!(rig.heard(Leg::Downstream), (vec!["tick".to_owned(); 10], Some(1012)));
}

#[test]
fn a_wait_that_expires_inside_a_message_closes_behind_its_last_frame() {
    for (order, told) in [(Order::ClientFirst, Leg::Downstream), (Order::BackendFirst, Leg::Upstream)] {
        let mut rig = Rig::new();
        rig.client(&frame(Writer::Client, false, 1, b"ha"));
        rig.endpoint(&frame(Writer::Server, false, 1, b"ha"));
        rig.shed(spec(order)).unwrap();
        rig.pass(WAIT);
        assert_eq!(rig.session.end(), None);
        // The boundary is found although the chunk goes on behind it.
        rig.client(&[frame(Writer::Client, true, 0, b"lf"), text(Writer::Client, "next")].concat());
        rig.endpoint(&[frame(Writer::Server, true, 0, b"lf"), text(Writer::Server, "next")].concat());
        assert_eq!(rig.heard(told), (vec!["ha".into(), "lf".into()], Some(1012)));
        assert_eq!(rig.lost(), if order == Order::ClientFirst { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn a_message_that_does_not_end_in_time_is_closed_at_the_frame_boundary_and_counted() {
    for order in [Order::ClientFirst, Order::BackendFirst] {
        let mut rig = Rig::new();
        rig.client(&frame(Writer::Client, false, 1, b"half"));
        rig.endpoint(&frame(Writer::Server, false, 1, b"half"));
        rig.shed(spec(order)).unwrap();
        rig.pass(WAIT + WAIT - Duration::from_millis(1));
        assert_eq!(rig.session.end(), None);
        rig.pass(Duration::from_millis(1));
        let (told, lost) = match order {
            Order::ClientFirst => (Leg::Downstream, (1, 0)),
            Order::BackendFirst => (Leg::Upstream, (0, 1)),
        };
        assert_eq!((rig.heard(told).1, rig.lost()), (Some(1012), lost));
        // The rest of it goes nowhere, and is the same message.
        rig.client(&frame(Writer::Client, true, 0, b"rest"));
        rig.endpoint(&frame(Writer::Server, true, 0, b"rest"));
        assert_eq!(rig.lost(), lost);
    }
}

#[test]
fn a_wait_that_expires_inside_a_frame_closes_right_behind_it() {
    let mut rig = Rig::new();
    let long = text(Writer::Server, &"x".repeat(200));
    rig.endpoint(&long[..100]);
    rig.shed(spec(Order::ClientFirst)).unwrap();
    rig.pass(WAIT);
    assert_eq!(rig.session.end(), None);
    // One chunk holds the end of the frame and the begin of the next.
    rig.endpoint(&[&long[100..], &text(Writer::Server, "next")[..3]].concat());
    assert_eq!(rig.heard(Leg::Downstream), (vec!["x".repeat(200)], Some(1012)));
    assert_eq!(rig.lost(), (1, 0));
}

#[test]
fn a_hastened_shed_waits_for_nothing_but_the_boundary() {
    let mut rig = Rig::new();
    rig.shed(ShedSpec { notice: notice(GRACE), ..spec(Order::ClientFirst) }).unwrap();
    rig.session.hasten(rig.now, &settings());
    rig.client(&text(Writer::Client, "still delivered"));
    assert_eq!(rig.heard(Leg::Downstream).1, Some(1012));
    assert_eq!(rig.heard(Leg::Upstream).0, ["still delivered"]);
    // A close that is out already is not hurried: the client has its time to answer.
    let wait = rig.wait();
    rig.session.hasten(rig.now, &settings());
    assert_eq!((rig.wait(), rig.fins()), (wait, (false, false)));
}

#[test]
fn hastening_again_does_not_prolong_the_wait_for_the_end_of_a_frame() {
    let mut rig = Rig::new();
    rig.endpoint(&text(Writer::Server, "never")[..4]);
    rig.shed(spec(Order::ClientFirst)).unwrap();
    rig.hasten();
    rig.pass(REPLY / 2);
    rig.hasten();
    assert_eq!(rig.wait(), Some(REPLY / 2));
}

#[test]
fn a_frame_that_never_ends_ends_the_stream_without_a_close() {
    let mut rig = Rig::new();
    rig.endpoint(&text(Writer::Server, "never")[..4]);
    rig.shed(spec(Order::ClientFirst)).unwrap();
    rig.pass(2 * WAIT + REPLY);
    assert!(rig.wire_to(Leg::Downstream).authored().is_empty());
    assert_eq!((rig.fins(), rig.wait(), rig.lost()), ((true, false), Some(HALF_CLOSE), (1, 0)));
    rig.pass(HALF_CLOSE + LINGER);
    assert!(rig.session.is_finished());

    let mut rig = Rig::new();
    rig.client(&text(Writer::Client, "never")[..8]);
    rig.shed(spec(Order::BackendFirst)).unwrap();
    rig.pass(2 * WAIT + REPLY);
    assert_eq!((rig.fins(), rig.lost()), ((false, true), (0, 1)));
    // Whatever the endpoint makes of it, the client gets the code that brings it back.
    rig.endpoint(&close(Writer::Server, 1002, "what was that?"));
    assert_eq!(rig.heard(Leg::Downstream).1, Some(1012));
}

#[test]
fn a_late_close_of_the_endpoint_does_not_prolong_a_half_close() {
    let mut rig = Rig::new();
    rig.client(&text(Writer::Client, "never")[..8]);
    rig.shed(spec(Order::BackendFirst)).unwrap();
    rig.pass(2 * WAIT + REPLY + HALF_CLOSE / 2);
    rig.endpoint(&close(Writer::Server, 1000, ""));
    assert_eq!(rig.wait(), Some(HALF_CLOSE / 2));
}

#[test]
fn a_notice_goes_out_at_once_between_messages_and_the_client_has_its_grace() {
    let mut rig = Rig::new();
    rig.shed(ShedSpec { notice: notice(GRACE), ..spec(Order::ClientFirst) }).unwrap();
    assert_eq!((rig.heard(Leg::Downstream), rig.wait()), ((vec![NOTICE.into()], None), Some(GRACE)));
    rig.client(&close(Writer::Client, 1000, ""));
    assert_eq!(rig.session.end(), Some(End { initiator: Initiator::Client, code: Some(1000) }));
    // It left by itself: from here on this is its own closing handshake.
    assert!(!rig.session.is_shedding());
    rig.endpoint(&close(Writer::Server, 1000, ""));
    assert_eq!(rig.heard(Leg::Downstream).1, Some(1000));
}

#[test]
fn a_notice_that_is_not_heeded_is_followed_by_the_quiet_close() {
    let mut rig = Rig::new();
    rig.shed(ShedSpec { notice: notice(GRACE), ..spec(Order::BackendFirst) }).unwrap();
    rig.pass(GRACE - Duration::from_millis(1));
    assert_eq!(rig.session.end(), None);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.heard(Leg::Upstream).1, Some(1012));
    assert_eq!(rig.heard(Leg::Downstream), (vec![NOTICE.into()], None));
}

#[test]
fn a_notice_waits_for_the_end_of_the_message() {
    let mut rig = Rig::new();
    rig.endpoint(&frame(Writer::Server, false, 1, b"two "));
    rig.shed(ShedSpec { notice: notice(GRACE), ..spec(Order::ClientFirst) }).unwrap();
    let last = frame(Writer::Server, true, 0, b"halves");
    rig.endpoint(&last[..4]);
    // The boundary is found although the chunk goes on behind it.
    rig.endpoint(&[&last[4..], &text(Writer::Server, "next")[..4]].concat());
    rig.endpoint(&text(Writer::Server, "next")[4..]);
    assert_eq!(rig.heard(Leg::Downstream).0, ["two ", "halves", NOTICE, "next"]);
}

#[test]
fn a_notice_that_finds_no_boundary_in_time_is_left_out() {
    let mut rig = Rig::new();
    rig.endpoint(&frame(Writer::Server, false, 1, b"open"));
    rig.shed(ShedSpec { notice: notice(GRACE), ..spec(Order::ClientFirst) }).unwrap();
    rig.pass(3 * WAIT);
    assert_eq!((rig.heard(Leg::Downstream), rig.lost()), ((vec!["open".into()], Some(1012)), (1, 0)));
}

#[test]
fn under_an_unknown_extension_only_the_close_frame_is_ours() {
    let mut rig = Rig::with(settings(), Extensions::Unknown);
    rig.shed(ShedSpec { notice: notice(GRACE), ..spec(Order::ClientFirst) }).unwrap();
    rig.pass(QUIET);
    assert_eq!(rig.heard(Leg::Downstream), (vec![], Some(1012)));
}

#[test]
fn a_peer_that_ends_the_session_first_ends_the_shed() {
    let begin: [fn(&mut Rig); 4] = [
        |rig| rig.client(&close(Writer::Client, 1000, "")),
        |rig| rig.endpoint(&close(Writer::Server, 1000, "")),
        |rig| rig.end(Leg::Downstream),
        |rig| rig.reset(Leg::Upstream),
    ];
    for begin in begin {
        let mut rig = Rig::new();
        rig.shed(spec(Order::ClientFirst)).unwrap();
        begin(&mut rig);
        assert!(!rig.session.is_shedding());
        assert_eq!(rig.shed(spec(Order::ClientFirst)), Err(PinReason::Ending));
        while rig.pass_to_deadline() {}
        assert!(rig.session.is_finished());
    }
}

#[test]
fn a_second_shed_is_refused() {
    let mut rig = Rig::new();
    rig.shed(spec(Order::ClientFirst)).unwrap();
    assert_eq!(rig.shed(spec(Order::BackendFirst)), Err(PinReason::Ending));
}

#[test]
fn a_malformed_frame_ends_a_shed_that_waits_and_bounds_one_that_closes() {
    let mut rig = Rig::new();
    rig.shed(spec(Order::ClientFirst)).unwrap();
    rig.client(&[0xFF; 8]);
    assert_eq!((rig.session.is_shedding(), rig.wait()), (false, None));

    let mut rig = closing(Order::ClientFirst);
    rig.client(&[0xFF; 8]);
    rig.pass(REPLY + LINGER);
    assert!(rig.session.is_finished());
    assert_eq!(rig.wire_to(Leg::Upstream).output(), [0xFF; 8]);
}

#[test]
fn a_cut_overtakes_a_shed_in_every_stage() {
    for wait in [Duration::ZERO, QUIET, QUIET + REPLY / 2, QUIET + REPLY] {
        for order in [Order::ClientFirst, Order::BackendFirst] {
            let mut rig = Rig::new();
            rig.shed(spec(order)).unwrap();
            rig.pass(wait);
            rig.cut(1012);
            assert_eq!((rig.heard(Leg::Downstream).1, rig.heard(Leg::Upstream).1), (Some(1012), Some(1012)));
            rig.pass(LINGER);
            assert!(rig.session.is_finished());
        }
    }
}
