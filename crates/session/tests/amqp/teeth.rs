//! Schedules that must fail: each leaves out one of the rules, and the model has to notice. What no longer fails here proves
//! nothing any more.

use std::time::Duration;

use session::{AmqpSettings, MessageOrder};

use crate::habits::Kind;
use crate::queue::QueueKind;
use crate::tally::Tally;
use crate::world::{Case, play};

fn play_all(settings: AmqpSettings, clients: Kind) -> Tally {
    let case = Case { settings, clients, ..Case::calm() };
    let mut tally = Tally::default();
    (0..1000).for_each(|seed| tally.add(seed, play(&case, seed)));
    tally
}

fn count(tally: &Tally, invariant: &str) -> usize {
    tally.failures.get(invariant).map_or(0, Vec::len)
}

/// R1: only a confirm proves that a publish has reached its queue.
#[test]
fn without_shadow_confirms_a_later_publish_overtakes() {
    let relaxed = AmqpSettings { order: MessageOrder::Relaxed, ..AmqpSettings::default() };
    let tally = play_all(relaxed, Kind::Unconfirmed);
    assert!(count(&tally, "I3") > 0, "{tally}");
    let tally = play_all(AmqpSettings::default(), Kind::Unconfirmed);
    assert_eq!(count(&tally, "I3"), 0, "{tally}");
}

/// R2: a quorum queue gives back what meets a cancelled consumer.
#[test]
fn without_saturation_a_quorum_queue_gives_messages_out_of_order() {
    let relaxed = AmqpSettings {
        order: MessageOrder::Relaxed,
        saturate_timeout: Duration::ZERO,
        ..AmqpSettings::default()
    };
    let tally = play_all(relaxed.clone(), Kind::Consumer(QueueKind::Quorum));
    assert!(count(&tally, "I3") + count(&tally, "I5") > 0, "{tally}");
    let tally = play_all(AmqpSettings::default(), Kind::Consumer(QueueKind::Quorum));
    assert!(tally.failures.is_empty(), "{tally}");
    let tally = play_all(relaxed, Kind::Consumer(QueueKind::Classic));
    assert!(tally.failures.is_empty(), "a classic queue keeps its order whatever is done\n{tally}");
}

/// R3: acks that are followed too soon by a close are lost.
#[test]
fn without_linger_acks_come_back() {
    let hasty = AmqpSettings { linger: Duration::ZERO, ..AmqpSettings::default() };
    let tally = play_all(hasty, Kind::Consumer(QueueKind::Quorum));
    assert!(count(&tally, "I2") + count(&tally, "I6") > 0, "{tally}");
}
