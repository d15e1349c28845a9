//! T3, T6 and the order of quorum queues, each twice: as it is shipped, where nothing goes wrong, and with the one rule left out
//! that it depends on (shadow confirms, linger, saturation), where it must go wrong within a bound. A run without the rule that no
//! longer fails says that the test has lost its teeth, or that the broker does not need the rule any more.

use std::time::Duration;

use amqp::MethodId;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::gateway::Gateway;
use crate::interposer::{Act, Link, Mark, Spot, Trap, Way, Wires};
use crate::judge::{Rules, STRICT};
use crate::load::{Outcome, await_that, run_time, run_with};
use crate::peer::Client;
use crate::raw::{Does, Raw, drain};

/// Slices of a run without a rule, until what it is for has been seen.
const SLICES_MAX: usize = 20;
/// Acks of a storm (T6).
const STORM: u64 = 1500;
/// Storms without linger, until an ack is lost.
const STORMS_MAX: usize = 24;

/// What came out of turn, or again.
fn harm(outcome: &Outcome) -> (usize, u64) {
    let turned = outcome.findings.iter().filter(|finding| finding.contains(" came after ")).count();
    (turned, outcome.total.redelivered)
}

/// Findings other than those.
fn others(outcome: &Outcome) -> Vec<&String> {
    let excused = [" came after ", "redelivered", " came twice"];
    outcome.findings.iter().filter(|finding| !excused.iter().any(|excuse| finding.contains(excuse))).collect()
}

// ---- T3: publishers without confirms

/// Publishers that are moved between two nodes, every 100 ms; the queues' leader and the consumers are on a third.
fn unconfirmed(bench: &mut Bench, order: &str, slice: usize, time: Duration) -> Outcome {
    let folder = bench.folder.join(format!("two-{slice}"));
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let two = &bench.endpoints()[..2];
    bench.gateway = Gateway::start(&folder, two, &format!("      order: {order}\n"), "");
    let leader = bench.cluster.nodes()[2].address().port();
    let mut jobs: Vec<Value> = Vec::new();
    // The queue of large messages has more to write than one publisher gives it: what is on its way to it stays there for a while.
    for (size, backlog, publishers) in [(200, 3000, 1), (100_000, 500, 3)] {
        let queue = format!("{size}-{slice}");
        let fields = json!({
            "type": "classic", "confirms": false, "sizes": [size], "backlog": backlog, "prefetch": 100, "ack": "multiple",
        });
        jobs.push(bench.job_at(leader, "consume", &format!("{queue}-consumer"), &queue, &fields));
        for number in 0..publishers {
            jobs.push(bench.job("publish", &format!("{queue}-publisher-{number}"), &queue, &fields));
        }
    }
    let mut peer = bench.client(Client::Amqplib);
    run_with(bench, &mut peer, &jobs, time, STRICT, Duration::from_millis(100), |_| ())
}

// T3.
#[test]
fn unconfirmed_publishes_keep_their_order_while_their_connections_are_moved() {
    let mut bench = Bench::start("unconfirmed", "");
    let outcome = unconfirmed(&mut bench, "strict", 0, run_time(10, 300));
    outcome.expect("T3, with shadow confirms", 40);
}

// T3, without shadow confirms.
#[test]
fn without_shadow_confirms_publishes_overtake_each_other() {
    let mut bench = Bench::start("unconfirmed_relaxed", "");
    for slice in 0..SLICES_MAX {
        let outcome = unconfirmed(&mut bench, "relaxed", slice, run_time(5, 20));
        let (turned, _) = harm(&outcome);
        println!("T3, without shadow confirms: {turned} out of turn; {}; {}", outcome.total, outcome.moves);
        assert!(others(&outcome).is_empty(), "{:#?}", others(&outcome));
        if turned > 0 {
            return;
        }
    }
    panic!("nothing came out of turn without shadow confirms: T3 proves nothing any more");
}

// ---- T6: acks followed by a close

/// Storms of single acks, each right before the switch of its connection, until `enough` messages came back; storms and
/// messages that came back.
fn storms(bench: &mut Bench, linger: &str, storms: usize, enough: usize) -> (usize, usize) {
    let wires = Wires::default();
    let folder = bench.folder.join("storm");
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let ends: Vec<_> = bench.endpoints().into_iter().map(|(id, at)| (id, wires.listen(at, false))).collect();
    let amqp = format!("      settle_timeout: 20s\n      probe: {{interval: 0s}}\n{linger}");
    bench.gateway = Gateway::start(&folder, &ends, &amqp, "");
    let mut back = 0;
    for storm in 0..storms {
        back += one_storm(bench, &wires, &format!("storm-{storm}"));
        if back >= enough {
            return (storm + 1, back);
        }
    }
    (storms, back)
}

fn one_storm(bench: &Bench, wires: &Wires, queue: &str) -> usize {
    let does = Does {
        vhost: bench.vhost.clone(),
        queue: queue.to_owned(),
        kind: "quorum",
        prefetch: STORM as u16,
        confirms: true,
        size: 8,
        every: Duration::ZERO,
        ahead: STORM,
        limit: STORM,
        heartbeat: 0,
    };
    let client = Raw::start(bench.gateway.address, does);
    client.holds(true);
    await_that("the prefetch is full", || {
        let (_, confirmed, consumed) = client.counts();
        confirmed == STORM && consumed == STORM
    });
    // The move waits for the client's acks then.
    let at = Spot { link: Link::Next, way: Way::Back, mark: Mark::Method(MethodId::CONFIRM_SELECT_OK) };
    let act = Act::Stall(Duration::ZERO);
    let (wait, hold) = (Duration::ZERO, Duration::ZERO);
    wires.arm(Some(Trap { after: None, at, passes: true, wait, victim: Link::Old, act, hold }));
    let before = bench.gateway.moves().switched;
    bench.gateway.rehearse();
    assert!(wires.await_sprung(Duration::from_secs(10)), "nothing is prepared: {}", bench.gateway.moves());
    client.holds(false);
    await_that("the session goes over", || bench.gateway.moves().switched > before);
    await_that("the former connection ends", || wires.live() == 1);
    let seen = client.stop();
    assert!(seen.odd.is_empty() && seen.close.is_none(), "{:?} {:?}", seen.odd, seen.close);
    let left = drain(bench.endpoints()[0].1, &bench.vhost, queue);
    seen.consumed.len() - STORM as usize + left.len()
}

// T6.
#[test]
fn acks_right_before_a_move_are_not_lost() {
    let mut bench = Bench::start("storm", "");
    let times = if run_time(0, 1).is_zero() { 6 } else { 60 };
    let (storms, back) = storms(&mut bench, "      linger: 1s\n", times, 1);
    println!("T6, linger 1 s: {storms} storms of {STORM} acks, {back} messages came back");
    assert_eq!(back, 0);
}

// T6, without linger.
#[test]
fn without_linger_acks_are_lost() {
    let mut bench = Bench::start("storm_at_once", "");
    let (storms, back) = storms(&mut bench, "      linger: 0s\n", STORMS_MAX, 1);
    println!("T6, linger 0: {storms} storms of {STORM} acks, {back} messages came back");
    assert!(back > 0, "no ack was lost without linger: T6 proves nothing any more");
}

// ---- quorum queues and saturation

fn quorum(bench: &mut Bench, slice: usize, time: Duration, rules: Rules) -> Outcome {
    let mut jobs = Vec::new();
    for prefetch in [5, 20] {
        let queue = format!("{prefetch}-{slice}");
        let fields =
            json!({"type": "quorum", "prefetch": prefetch, "backlog": 4 * prefetch, "outstanding": 30});
        jobs.push(bench.job("publish", &format!("{queue}-publisher"), &queue, &fields));
        jobs.push(bench.job("consume", &format!("{queue}-consumer"), &queue, &fields));
    }
    let mut peer = bench.client(Client::Amqplib);
    run_with(bench, &mut peer, &jobs, time, rules, Duration::from_millis(200), |_| ())
}

// The order of quorum queues.
#[test]
fn a_saturated_consumer_of_a_quorum_queue_is_moved_in_order() {
    let mut bench = Bench::start("saturated", "");
    let outcome = quorum(&mut bench, 0, run_time(8, 120), STRICT);
    outcome.expect("quorum, saturated", 20);
}

// The order of quorum queues, without saturation.
#[test]
fn without_saturation_a_quorum_queue_gives_messages_again_and_out_of_order() {
    let mut bench = Bench::start("unsaturated", "      order: relaxed\n");
    for slice in 0..SLICES_MAX {
        let outcome = quorum(&mut bench, slice, run_time(5, 20), STRICT);
        let (turned, again) = harm(&outcome);
        println!(
            "quorum, unsaturated: {turned} out of turn, {again} redelivered; {}; {}",
            outcome.total, outcome.moves
        );
        assert!(others(&outcome).is_empty(), "{:#?}", others(&outcome));
        if turned > 0 && again > 0 {
            return;
        }
    }
    panic!("quorum queues keep their order without saturation: the strict run proves nothing any more");
}
