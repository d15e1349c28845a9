//! What a session waits for: the reasons it names, zero waits, and calls that come too early or late.

use std::time::Duration;

use session::{Leg, Order, Settings, ShedSpec};
use ws::Extensions;

use crate::frames::{Writer, close, frame};
use crate::rig::{REPLY, Rig, notice, settings, spec};

#[test]
fn a_session_in_use_waits_for_nothing() {
    assert_eq!(Rig::new().session.poll_timeout(), None);
}

#[test]
fn the_waits_of_a_shed_tell_what_they_are_for() {
    let mut rig = Rig::new();
    rig.endpoint(&frame(Writer::Server, false, 1, b"open"));
    rig.shed(ShedSpec { notice: notice(REPLY), ..spec(Order::ClientFirst) }).unwrap();
    let mut reasons = Vec::new();
    rig.client(&frame(Writer::Client, false, 1, b"open"));
    while let Some((_, reason)) = rig.session.poll_timeout() {
        if reasons.is_empty() {
            rig.endpoint(&frame(Writer::Server, true, 0, b"whole"));
        }
        reasons.push(reason);
        rig.pass_to_deadline();
    }
    assert_eq!(
        reasons,
        [
            "the notice waits for a message boundary",
            "waiting for a message boundary",
            "a peer owes its Close frame",
            "the peers may end their streams",
        ]
    );
}

#[test]
fn a_timeout_that_comes_too_early_changes_nothing() {
    let mut rig = Rig::new();
    rig.client(&close(Writer::Client, 1000, ""));
    let before = rig.session.poll_timeout();
    rig.session.handle_timeout(rig.now, &rig.settings);
    assert_eq!(rig.session.poll_timeout(), before);
    assert_eq!(rig.fins(), (false, false));
}

#[test]
fn waits_of_no_length_end_a_session_in_one_go() {
    let zero = Duration::ZERO;
    let none = Settings { reply_timeout: zero, half_close_timeout: zero, close_linger: zero, ..settings() };
    let mut rig = Rig::with(none, Extensions::None);
    let at_once = ShedSpec { quiet: zero, wait: zero, reply_timeout: zero, ..spec(Order::ClientFirst) };
    rig.shed(at_once).unwrap();
    rig.pass(zero);
    assert!(rig.session.is_finished());
    assert_eq!((rig.heard(Leg::Downstream).1, rig.session.poll_timeout()), (Some(1012), None));
}

#[test]
fn a_late_timeout_does_no_more_than_a_timely_one() {
    let mut rig = Rig::new();
    rig.client(&close(Writer::Client, 1000, ""));
    rig.now += 10 * REPLY;
    assert!(rig.pass_to_deadline());
    // The linger begins when it is asked for, not when it was due: a slow caller takes nothing from the peers.
    assert!(!rig.session.is_finished());
    assert_eq!(rig.fins(), (true, true));
}
