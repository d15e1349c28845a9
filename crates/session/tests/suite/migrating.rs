//! What an AMQP session promises when its upstream leg is exchanged: tables over single migrations.

use std::time::Duration;

use amqp::{MethodId, write};
use session::{Abort, AmqpLeg, AmqpPin, AmqpSettings, ForeignQueues, MessageOrder};

use crate::amqp_rig::{
    Rig, Told, ack, bare, cancel_ok, consume_ok, declare_ok, deliver, frames, methods, open_ok, publish, tags,
};

const SELECT_OK: MethodId = MethodId::CONFIRM_SELECT_OK;

/// Takes a session without consumers to the next endpoint: its channel 1 is opened there, in confirm mode if `confirms`.
fn switch(rig: &mut Rig, confirms: bool) {
    rig.log_in();
    rig.next_says(&open_ok(1));
    if confirms {
        rig.next_says(&bare(1, SELECT_OK));
    }
}

#[test]
fn a_plain_publisher_is_given_confirms_that_it_never_sees() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    rig.client_says(&publish(1, b"one"));
    rig.client_says(&publish(1, b"two"));
    let sent = methods(&rig.endpoint);
    let expected = [MethodId::CONFIRM_SELECT, MethodId::BASIC_PUBLISH, MethodId::BASIC_PUBLISH];
    assert_eq!(sent, expected.map(|id| (1, id)), "once, in front of the first");
    rig.endpoint_says(&ack(1, 2, true));
    assert!(rig.client.is_empty(), "the client has asked for no confirms");
}

#[test]
fn a_relaxed_pool_leaves_publishers_as_they_are() {
    let settings = AmqpSettings { order: MessageOrder::Relaxed, ..AmqpSettings::default() };
    let mut rig = Rig::with_channel(settings);
    rig.client_says(&publish(1, b"one"));
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_PUBLISH)]);
}

#[test]
fn confirms_go_on_in_the_clients_own_numbers_after_a_switch() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    rig.client_says(&publish(1, b"in shadow"));
    rig.endpoint_says(&ack(1, 1, false));
    rig.client_says(&frames(|out| write::confirm_select(out, 1, false)));
    rig.endpoint_says(&bare(1, SELECT_OK));
    rig.client_says(&publish(1, b"1"));
    rig.client_says(&publish(1, b"2"));
    rig.client.clear();
    rig.endpoint_says(&ack(1, 3, true));
    assert_eq!(tags(&rig.client, MethodId::BASIC_ACK), [2], "the first publish was before confirm.select");
    rig.forget();
    switch(&mut rig, true);
    assert_eq!(rig.told, [Told::Dial, Told::Switched, Told::Migrated { replaced: false }]);
    rig.forget();
    rig.client_says(&publish(1, b"3"));
    rig.endpoint_says(&ack(1, 1, false));
    assert_eq!(tags(&rig.client, MethodId::BASIC_ACK), [3]);
}

#[test]
fn a_publisher_is_not_switched_before_its_last_confirm() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    rig.client_says(&publish(1, b"one"));
    rig.forget();
    switch(&mut rig, true);
    assert_eq!(rig.session.phase(), "flushing");
    assert!(!rig.session.wants_read(AmqpLeg::Downstream), "the client is frozen");
    rig.client_says(&publish(1, b"two"));
    assert!(rig.endpoint.is_empty(), "what it sends meanwhile waits");
    rig.endpoint_says(&ack(1, 1, false));
    assert!(rig.told.contains(&Told::Migrated { replaced: false }));
    assert_eq!(methods(&rig.endpoint).last(), Some(&(1, MethodId::BASIC_PUBLISH)), "and goes to the new one");
    assert!(methods(&rig.retirees[0].1).is_empty());
}

#[test]
fn without_its_confirm_a_publisher_stays_and_goes_on() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    rig.client_says(&publish(1, b"one"));
    rig.forget();
    switch(&mut rig, true);
    rig.client_says(&publish(1, b"two"));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.told, [Told::Dial, Told::NextDropped, Told::Aborted(Abort::Unconfirmed, false)]);
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_PUBLISH)]);
}

#[test]
fn a_client_is_not_frozen_amid_a_message() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    let message = publish(1, &[7; 1000]);
    rig.client_says(&message[..message.len() - 10]);
    rig.forget();
    switch(&mut rig, true);
    assert_eq!(rig.session.phase(), "freezing");
    rig.client_says(&message[message.len() - 10..]);
    assert_eq!(rig.session.phase(), "flushing");
    rig.endpoint_says(&ack(1, 1, false));
    assert!(rig.told.contains(&Told::Switched));
    assert_eq!(rig.retirees[0].1.len(), 10, "its end went where its beginning went");
}

/// A consumer of a quorum queue with prefetch 2, both delivered, at the next endpoint's door.
fn saturated() -> Rig {
    ready_to_move("quorum")
}

/// The same of a classic queue, whose consumer is cancelled at once.
fn fenced() -> Rig {
    ready_to_move("classic")
}

fn ready_to_move(queue_type: &str) -> Rig {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), queue_type, 2);
    rig.endpoint_says(&deliver(1, 1, b"a"));
    rig.endpoint_says(&deliver(1, 2, b"b"));
    rig.forget();
    rig.log_in();
    rig.next_says(&open_ok(1));
    rig
}

/// The same when the client has acknowledged both: the acks wait for the consumer's end.
fn cancelling() -> Rig {
    let mut rig = saturated();
    rig.client_says(&ack(1, 2, true));
    rig
}

#[test]
fn a_full_consumer_is_drained_cancelled_and_started_at_the_new_endpoint() {
    let mut rig = saturated();
    rig.client_says(&ack(1, 1, false));
    assert!(methods(&rig.endpoint).is_empty(), "it is full as long as no ack goes on");
    rig.client_says(&ack(1, 2, false));
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_CANCEL)]);
    rig.endpoint_says(&cancel_ok(1));
    assert!(rig.client.is_empty(), "the client knows of no cancel");
    let held = rig.retirees[0].0.poll_transmit().expect("the acks that were held");
    assert_eq!(tags(&held, MethodId::BASIC_ACK), [1, 2]);
    assert_eq!(rig.session.phase(), "replaying");
    let replayed = [MethodId::CHANNEL_OPEN, MethodId::BASIC_QOS, MethodId::BASIC_CONSUME].map(|id| (1, id));
    assert_eq!(methods(&rig.endpoint), replayed);
    rig.endpoint.clear();
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    rig.endpoint_says(&consume_ok(1));
    assert_eq!(rig.told.last(), Some(&Told::Migrated { replaced: false }));
    assert!(rig.client.is_empty());
    rig.endpoint_says(&deliver(1, 1, b"c"));
    assert_eq!(tags(&rig.client, MethodId::BASIC_DELIVER), [3], "tags go on");
    rig.client_says(&ack(1, 3, false));
    assert_eq!(tags(&rig.endpoint, MethodId::BASIC_ACK), [1]);
}

#[test]
fn a_stale_tag_gets_the_answer_that_it_would_get_without_a_gateway() {
    let mut rig = cancelling();
    rig.endpoint_says(&cancel_ok(1));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    rig.endpoint_says(&consume_ok(1));
    rig.endpoint.clear();
    rig.client_says(&ack(1, 2, false));
    assert_eq!(tags(&rig.endpoint, MethodId::BASIC_ACK), [u64::MAX], "the broker says 406 to it");
}

#[test]
fn a_consumer_that_does_not_fill_up_stays_and_its_acks_go_on() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "quorum", 5);
    rig.endpoint_says(&deliver(1, 1, b"a"));
    rig.forget();
    rig.log_in();
    rig.next_says(&open_ok(1));
    rig.client_says(&ack(1, 1, false));
    assert!(rig.endpoint.is_empty(), "held");
    rig.wait(Duration::from_millis(50));
    assert_eq!(rig.told, [Told::Dial, Told::NextDropped, Told::Aborted(Abort::Unsaturated, false)]);
    assert_eq!(tags(&rig.endpoint, MethodId::BASIC_ACK), [1]);
}

#[test]
fn an_idle_consumer_moves_after_a_moment() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "quorum", 5);
    rig.log_in();
    rig.next_says(&open_ok(1));
    assert!(methods(&rig.endpoint).is_empty());
    rig.wait(Duration::from_millis(50));
    assert!(methods(&rig.endpoint).is_empty(), "that nothing came proves nothing");
    assert_eq!(methods(&rig.next).last(), Some(&(1, MethodId::QUEUE_DECLARE)));
    rig.next_says(&declare_ok(1, 0));
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_CANCEL)]);
}

#[test]
fn a_consumer_whose_queue_has_messages_is_not_taken_for_idle() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "quorum", 5);
    rig.log_in();
    rig.next_says(&open_ok(1));
    rig.wait(Duration::from_millis(50));
    rig.next_says(&declare_ok(1, 3));
    assert_eq!(rig.told.last(), Some(&Told::Aborted(Abort::Unsaturated, false)));
    assert!(methods(&rig.endpoint).is_empty());
}

#[test]
fn a_delivery_that_comes_while_the_queue_is_asked_about_keeps_a_consumer() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "quorum", 5);
    rig.log_in();
    rig.next_says(&open_ok(1));
    rig.wait(Duration::from_millis(50));
    rig.endpoint_says(&deliver(1, 1, b"late"));
    rig.next_says(&declare_ok(1, 0));
    assert_eq!(rig.told.last(), Some(&Told::Aborted(Abort::Unsaturated, false)));
    assert!(methods(&rig.endpoint).is_empty());
}

#[test]
fn unacknowledged_messages_keep_a_consumer_where_it_is() {
    let mut rig = saturated();
    rig.client_says(&ack(1, 1, false));
    rig.wait(Duration::from_secs(2));
    // Were it cancelled and started again, RabbitMQ would end the connection.
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_ACK)]);
    assert_eq!(rig.told.last(), Some(&Told::Aborted(Abort::Unacked, false)));
    assert!(rig.client.is_empty());
}

#[test]
fn a_classic_consumer_with_unacknowledged_messages_starts_again() {
    let mut rig = fenced();
    rig.client_says(&ack(1, 1, false));
    rig.endpoint_says(&cancel_ok(1));
    assert_eq!(tags(&rig.endpoint, MethodId::BASIC_ACK), [1], "acks wait for the cancel-ok only");
    rig.endpoint.clear();
    rig.wait(Duration::from_secs(2));
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_CONSUME)], "with the prefetch that is in force");
    rig.endpoint_says(&consume_ok(1));
    assert_eq!(rig.told.last(), Some(&Told::Aborted(Abort::Unacked, true)));
    assert!(rig.client.is_empty());
}

#[test]
fn a_client_that_cancels_a_cancelled_consumer_is_answered() {
    for before_ok in [true, false] {
        let mut rig = fenced();
        let cancel = frames(|out| write::cancel(out, 1, b"c", false));
        if before_ok {
            rig.client_says(&cancel);
            assert!(rig.client.is_empty(), "deliveries may still come");
            rig.endpoint_says(&cancel_ok(1));
        } else {
            rig.endpoint_says(&cancel_ok(1));
            rig.client_says(&cancel);
        }
        assert_eq!(methods(&rig.client), [(1, MethodId::BASIC_CANCEL_OK)], "{before_ok}");
        assert_eq!(methods(&rig.endpoint).iter().filter(|(_, id)| *id == MethodId::BASIC_CANCEL).count(), 1);
        rig.client_says(&ack(1, 0, true));
        let started = methods(&rig.endpoint).contains(&(1, MethodId::BASIC_CONSUME));
        assert!(!started, "there is no consumer any more");
        rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
        assert_eq!(rig.told.last(), Some(&Told::Migrated { replaced: false }));
    }
}

#[test]
fn a_request_that_changes_the_channel_gives_the_move_up_first() {
    let mut rig = fenced();
    rig.endpoint_says(&cancel_ok(1));
    rig.client_says(&ack(1, 1, false));
    rig.endpoint.clear();
    rig.client_says(&frames(|out| write::qos(out, 1, 9, false)));
    let expected = [MethodId::BASIC_CONSUME, MethodId::BASIC_QOS].map(|id| (1, id));
    assert_eq!(methods(&rig.endpoint), expected, "the consumer is back before the request goes on");
    rig.endpoint_says(&consume_ok(1));
    assert_eq!(rig.told.last(), Some(&Told::Aborted(Abort::ClientBusy, true)));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    assert_eq!(methods(&rig.client), [(1, MethodId::BASIC_QOS_OK)]);
}

#[test]
fn a_queue_that_the_new_endpoint_does_not_know_yet_is_asked_for_again() {
    let mut rig = cancelling();
    rig.endpoint_says(&cancel_ok(1));
    rig.endpoint.clear();
    let refusal = frames(|out| write::channel_close(out, 1, 404, "NOT_FOUND"));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    rig.endpoint_says(&refusal);
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::CHANNEL_CLOSE_OK)]);
    rig.endpoint.clear();
    rig.wait(Duration::from_millis(100));
    let again = [MethodId::CHANNEL_OPEN, MethodId::BASIC_QOS, MethodId::BASIC_CONSUME].map(|id| (1, id));
    assert_eq!(methods(&rig.endpoint), again);
    rig.endpoint_says(&open_ok(1));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    rig.endpoint_says(&consume_ok(1));
    assert_eq!(rig.told.last(), Some(&Told::Migrated { replaced: false }));
    assert!(rig.client.is_empty());
}

#[test]
fn a_queue_that_stays_unknown_is_told_as_a_cancelled_consumer() {
    let mut rig = cancelling();
    rig.endpoint_says(&cancel_ok(1));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    let refusal = frames(|out| write::channel_close(out, 1, 404, "NOT_FOUND"));
    for _ in 0..9 {
        rig.endpoint_says(&refusal);
        rig.wait(Duration::from_millis(100));
        rig.endpoint_says(&open_ok(1));
        rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    }
    rig.endpoint_says(&refusal);
    rig.wait(Duration::from_millis(100));
    assert!(rig.client.is_empty(), "asked for once more");
    rig.endpoint_says(&open_ok(1));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    rig.endpoint_says(&refusal);
    assert_eq!(methods(&rig.client), [(1, MethodId::BASIC_CANCEL)]);
    rig.endpoint_says(&open_ok(1));
    assert_eq!(methods(&rig.client).len(), 1);
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    assert_eq!(rig.told.last(), Some(&Told::Migrated { replaced: false }));
}

#[test]
fn a_consumer_that_the_new_endpoint_refuses_closes_the_client_with_320() {
    let mut rig = cancelling();
    rig.endpoint_says(&cancel_ok(1));
    rig.endpoint_says(&frames(|out| write::channel_close(out, 1, 403, "ACCESS_REFUSED")));
    assert!(rig.told.contains(&Told::Forced(Abort::Replay, false)));
    assert_eq!(methods(&rig.client), [(0, MethodId::CONNECTION_CLOSE)]);
    assert_eq!(rig.session.end().and_then(|end| end.code), Some(320));
}

#[test]
fn a_former_connection_that_is_blocked_is_not_closed_before_its_acks_can_be_read() {
    let mut rig = cancelling();
    rig.endpoint_says(&cancel_ok(1));
    let linger = rig.settings.linger;
    let (retiree, _) = rig.retirees.last_mut().expect("the former endpoint lingers");
    assert_eq!(methods(&retiree.poll_transmit().unwrap_or_default()), [(1, MethodId::BASIC_ACK)]);
    retiree.handle_bytes(
        rig.now,
        &frames(|out| write::method(out, 0, MethodId::CONNECTION_BLOCKED, |out| out.push(0))),
    );
    retiree.handle_timeout(rig.now + linger * 2);
    assert_eq!(methods(&retiree.poll_transmit().unwrap_or_default()), [], "its acks are not read yet");
    let free = rig.now + linger * 3;
    retiree.handle_bytes(free, &frames(write::unblocked));
    retiree.handle_timeout(free);
    assert_eq!(methods(&retiree.poll_transmit().unwrap_or_default()), [], "they are being read");
    retiree.handle_timeout(free + linger);
    let closed = retiree.poll_transmit().expect("it is closed");
    assert_eq!(methods(&closed), [(0, MethodId::CONNECTION_CLOSE)]);
    assert_eq!(retiree.unexpected(), 0);
}

#[test]
fn a_close_amid_the_replay_is_answered_and_the_client_gets_320_whatever_its_code() {
    let mut rig = cancelling();
    rig.endpoint_says(&cancel_ok(1));
    rig.endpoint_says(&frames(|out| write::connection_close(out, 530, "NOT_ALLOWED - no room")));
    assert!(rig.told.contains(&Told::Forced(Abort::Replay, false)), "{:?}", rig.told);
    assert_eq!(methods(&rig.client), [(0, MethodId::CONNECTION_CLOSE)]);
    assert_eq!(rig.session.end().and_then(|end| end.code), Some(320));
    let (retiree, _) = rig.retirees.last_mut().expect("the new endpoint is looked after");
    let answer = retiree.poll_transmit().expect("it is answered");
    assert_eq!(methods(&answer).last(), Some(&(0, MethodId::CONNECTION_CLOSE_OK)));
}

#[test]
fn an_idle_client_does_not_notice_that_its_endpoint_is_lost() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "classic", 5);
    rig.endpoint_says(&deliver(1, 1, b"a"));
    rig.client_says(&ack(1, 1, false));
    rig.forget();
    rig.session.handle_end(rig.now, &rig.settings, AmqpLeg::Upstream);
    rig.settle();
    assert_eq!(rig.told, [Told::UpstreamDropped, Told::Dial]);
    rig.connect();
    rig.next_says(&open_ok(1));
    assert_eq!(methods(&rig.endpoint).last(), Some(&(1, MethodId::BASIC_CONSUME)));
    rig.endpoint_says(&bare(1, MethodId::BASIC_QOS_OK));
    rig.endpoint_says(&consume_ok(1));
    assert_eq!(rig.told.last(), Some(&Told::Migrated { replaced: true }));
    rig.endpoint_says(&deliver(1, 1, b"b"));
    assert_eq!(tags(&rig.client, MethodId::BASIC_DELIVER), [2]);
}

#[test]
fn a_client_with_something_outstanding_gets_320_when_its_endpoint_is_lost() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "classic", 5);
    rig.endpoint_says(&deliver(1, 1, b"a"));
    rig.forget();
    rig.session.handle_broken(rig.now, &rig.settings, AmqpLeg::Upstream);
    rig.settle();
    assert_eq!(rig.told, [Told::Forced(Abort::EndpointLost, true), Told::UpstreamDropped]);
    assert_eq!(methods(&rig.client), [(0, MethodId::CONNECTION_CLOSE)]);
    rig.client_says(&bare(0, MethodId::CONNECTION_CLOSE_OK));
    assert!(rig.session.wants_fin(AmqpLeg::Downstream));
    rig.session.handle_end(rig.now, &rig.settings, AmqpLeg::Downstream);
    assert!(rig.session.is_finished());
}

#[test]
fn what_makes_a_move_harmful_pins_and_says_why() {
    let exclusive = 0b0_0100;
    let auto_delete = 0b0_1000;
    for (queue_type, bits, pin) in [
        ("classic", exclusive, Some(AmqpPin::ExclusiveQueue)),
        ("classic", auto_delete, Some(AmqpPin::AutoDeleteQueue)),
        ("stream", 0b0_0010, Some(AmqpPin::Stream)),
        ("classic", 0b0_0010, None),
        ("quorum", 0b0_0010, Some(AmqpPin::NoPrefetch)),
    ] {
        let mut rig = Rig::with_channel(AmqpSettings::default());
        rig.declare(queue_type, bits);
        rig.client_says(&frames(|out| write::consume(out, 1, b"", b"c", amqp::Bits(0), b"")));
        rig.endpoint_says(&consume_ok(1));
        assert_eq!(rig.session.pin(), pin, "{queue_type} {bits:b}");
        assert_eq!(rig.session.begin_migration(rig.now, &rig.settings).err(), pin);
    }
}

#[test]
fn a_queue_that_was_declared_elsewhere_pins_unless_the_pool_says_otherwise() {
    for (foreign_queues, pin) in
        [(ForeignQueues::Pin, Some(AmqpPin::ForeignQueue)), (ForeignQueues::AssumePersistent, None)]
    {
        let settings =
            AmqpSettings { foreign_queues, order: MessageOrder::Relaxed, ..AmqpSettings::default() };
        let mut rig = Rig::with_channel(settings);
        rig.client_says(&frames(|out| write::consume(out, 1, b"other", b"c", amqp::Bits(0), b"")));
        rig.endpoint_says(&consume_ok(1));
        assert_eq!(rig.session.pin(), pin);
    }
}

#[test]
fn a_transaction_after_plain_publishes_begins_on_a_fresh_channel() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    rig.client_says(&publish(1, b"one"));
    rig.endpoint.clear();
    rig.client_says(&bare(1, MethodId::TX_SELECT));
    assert!(rig.endpoint.is_empty(), "the publish is to be confirmed first");
    rig.endpoint_says(&ack(1, 1, false));
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::CHANNEL_CLOSE)]);
    rig.endpoint_says(&bare(1, MethodId::CHANNEL_CLOSE_OK));
    rig.endpoint_says(&open_ok(1));
    let sent = [MethodId::CHANNEL_CLOSE, MethodId::CHANNEL_OPEN, MethodId::TX_SELECT].map(|id| (1, id));
    assert_eq!(methods(&rig.endpoint), sent);
    rig.client.clear();
    rig.endpoint_says(&bare(1, MethodId::TX_SELECT_OK));
    assert_eq!(methods(&rig.client), [(1, MethodId::TX_SELECT_OK)], "the client saw only its own");
    rig.client_says(&publish(1, b"two"));
    assert_eq!(rig.session.begin_migration(rig.now, &rig.settings), Err(AmqpPin::Transaction));
}

#[test]
fn a_shed_waits_for_acks_and_confirms_and_closes_with_320() {
    let mut rig = Rig::with_consumer(AmqpSettings::default(), "classic", 5);
    rig.client_says(&publish(1, b"one"));
    rig.endpoint_says(&deliver(1, 1, b"a"));
    rig.forget();
    let deadline = rig.now + Duration::from_secs(30);
    rig.session.begin_shed(rig.now, &rig.settings, deadline, true).unwrap();
    rig.settle();
    assert_eq!(methods(&rig.endpoint), [(1, MethodId::BASIC_CANCEL)]);
    rig.endpoint_says(&cancel_ok(1));
    assert!(rig.client.is_empty());
    rig.client_says(&ack(1, 1, false));
    assert!(rig.client.is_empty(), "a confirm is missing");
    rig.endpoint_says(&ack(1, 1, false));
    assert_eq!(methods(&rig.client), [(0, MethodId::CONNECTION_CLOSE)]);
    assert_eq!(tags(&rig.retirees[0].1, MethodId::BASIC_ACK), [1]);
}

#[test]
fn a_publisher_whose_confirms_are_swallowed_gets_heartbeats() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    for at in 1..=120 {
        rig.client_says(&publish(1, b"one"));
        rig.endpoint_says(&ack(1, at, false));
        rig.wait(Duration::from_secs(1));
    }
    let beats = rig.client.len() / write::HEARTBEAT.len();
    assert!((3..=5).contains(&beats), "{beats} in two intervals of a minute");
}

#[test]
fn a_consumer_that_starts_again_beside_its_unacknowledged_messages_has_another_tag_at_the_node() {
    let settings = AmqpSettings { order: MessageOrder::Relaxed, ..AmqpSettings::default() };
    let mut rig = Rig::with_consumer(settings, "quorum", 2);
    rig.endpoint_says(&deliver(1, 1, b"a"));
    rig.endpoint_says(&deliver(1, 2, b"b"));
    rig.forget();
    rig.log_in();
    rig.next_says(&open_ok(1));
    rig.endpoint_says(&cancel_ok(1));
    rig.endpoint.clear();
    rig.wait(Duration::from_secs(2));
    assert_eq!(methods(&rig.endpoint), [], "its prefetch is full: it would get nothing");
    rig.client_says(&ack(1, 1, false));
    assert_eq!(methods(&rig.endpoint).last(), Some(&(1, MethodId::BASIC_CONSUME)));
    let alias = rig.endpoint[rig.endpoint.len() - 7];
    assert_ne!(alias, b'c');
    rig.endpoint_says(&consume_ok(1));
    assert_eq!(rig.told.last(), Some(&Told::Aborted(Abort::Unacked, true)));
    let mut delivered = deliver(1, 3, b"c");
    delivered[12] = alias;
    rig.client.clear();
    rig.endpoint_says(&delivered);
    assert_eq!(rig.client, deliver(1, 3, b"c"), "the client knows it by its own");
    rig.endpoint.clear();
    rig.client_says(&frames(|out| write::cancel(out, 1, b"c", false)));
    assert_eq!(rig.endpoint[12], alias);
}

#[test]
fn an_empty_queue_name_means_the_same_queue_after_a_move() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    rig.declare("classic", 0b0_0010);
    rig.forget();
    switch(&mut rig, false);
    rig.forget();
    let get = frames(|out| {
        write::method(out, 1, MethodId::BASIC_GET, |out| out.extend_from_slice(&[0; 4]));
    });
    rig.client_says(&get);
    assert_eq!(methods(&rig.endpoint), [MethodId::QUEUE_DECLARE, MethodId::BASIC_GET].map(|id| (1, id)));
    rig.endpoint_says(&declare_ok(1, 0));
    assert!(rig.client.is_empty(), "the client has not asked");
    rig.client_says(&get);
    assert_eq!(methods(&rig.endpoint).len(), 3, "the endpoint knows it now");
}

#[test]
fn a_shed_that_comes_amid_a_rollback_follows_it() {
    let mut rig = fenced();
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.session.phase(), "rolling_back", "the endpoint owes a cancel-ok");
    let deadline = rig.now + Duration::from_secs(30);
    rig.session.begin_shed(rig.now, &rig.settings, deadline, true).expect("it waits");
    rig.endpoint.clear();
    rig.endpoint_says(&cancel_ok(1));
    assert!(rig.told.contains(&Told::Aborted(Abort::Request, true)));
    assert_eq!(methods(&rig.endpoint), [], "its consumer is not started to be cancelled again");
    rig.wait(Duration::from_millis(50));
    rig.client_says(&ack(1, 0, true));
    assert_eq!(methods(&rig.client), [(0, MethodId::CONNECTION_CLOSE)]);
}

#[test]
fn a_malformed_frame_of_the_client_gets_the_code_of_the_specification() {
    for (bytes, code) in [
        (vec![1, 0, 1, 0xFF, 0, 0, 0], 501),
        (vec![9, 0, 0, 0, 0, 0, 0], 501),
        (publish(1, b"x")[..publish(1, b"x").len() - 1].iter().copied().chain([0]).collect(), 501),
        (vec![3, 0, 1, 0, 0, 0, 1, b'x', 0xCE], 505),
    ] {
        let mut rig = Rig::with_channel(AmqpSettings::default());
        rig.client_says(&bytes);
        assert_eq!(methods(&rig.client), [(0, MethodId::CONNECTION_CLOSE)]);
        assert_eq!(rig.session.end().and_then(|end| end.code), Some(code), "{bytes:?}");
    }
}

#[test]
fn a_client_that_is_amid_a_message_when_its_channel_is_closed_may_finish_it() {
    for finishes in [true, false] {
        let mut rig = Rig::with_channel(AmqpSettings::default());
        let message = publish(1, &[7; 1000]);
        rig.client_says(&message[..40]);
        rig.endpoint_says(&frames(|out| write::channel_close(out, 1, 406, "PRECONDITION_FAILED")));
        if finishes {
            rig.client_says(&message[40..]);
        }
        rig.client_says(&bare(1, MethodId::CHANNEL_CLOSE_OK));
        rig.client_says(&frames(|out| write::channel_open(out, 1)));
        assert!(rig.session.end().is_none(), "the connection goes on");
        assert_eq!(methods(&rig.client), [(1, MethodId::CHANNEL_CLOSE)]);
    }
}

#[test]
fn a_client_that_is_moved_before_any_node_sends_a_heartbeat_hears_ours() {
    let mut rig = Rig::with_channel(AmqpSettings::default());
    for _ in 0..10 {
        rig.wait(Duration::from_secs(5));
        rig.told.clear();
        switch(&mut rig, false);
        assert_eq!(rig.told.last(), Some(&Told::Migrated { replaced: false }));
    }
    assert_eq!(rig.client, write::HEARTBEAT.repeat(3), "one a quarter of the 60 s");
}

#[test]
fn frozen_peers_get_heartbeats() {
    let mut rig = Rig::with_channel(AmqpSettings {
        prepare_timeout: Duration::from_secs(60),
        ..AmqpSettings::default()
    });
    rig.session.handle_end(rig.now, &rig.settings, AmqpLeg::Upstream);
    rig.settle();
    rig.wait(Duration::from_secs(15));
    assert_eq!(rig.client, write::HEARTBEAT);
}
