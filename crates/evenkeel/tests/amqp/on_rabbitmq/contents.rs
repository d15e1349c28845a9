//! T2, T4, T7: large contents on several channels at once, leaders of quorum queues that move as well, returns.

use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::judge::{Rules, STRICT};
use crate::load::{MOVE_EVERY, run, run_time, run_with};
use crate::peer::Client;

/// Ten channels of one connection publish in turn, bodies of many frames each.
fn large_contents_arrive_whole(client: Client, frame_max: u32) {
    let mut bench = Bench::start(&format!("large_{client:?}_{frame_max}").to_lowercase(), "");
    let mut peer = bench.client(client);
    let sizes: &[usize] =
        if frame_max == 4096 { &[300_000, 0, 700_000] } else { &[300_000, 8_000_000, 10, 1_000_000] };
    let fields = json!({
        "frame_max": frame_max, "channels": 10, "sizes": sizes, "backlog": 12, "outstanding": 6, "prefetch": 4,
    });
    let mut consume = fields.clone();
    consume["channels"] = 1.into();
    let jobs =
        [bench.job("publish", "large", "large", &fields), bench.job("consume", "taker", "large", &consume)];
    let outcome = run(&mut bench, &mut peer, &jobs, run_time(5, 60), STRICT);
    let outcome = outcome.expect(&format!("T4 {client:?} with frames of {frame_max} bytes"), 3);
    assert!(outcome.total.consumed >= 20, "{}", outcome.total);
}

// T4.
#[test]
fn large_contents_on_ten_channels_arrive_whole_by_pika() {
    large_contents_arrive_whole(Client::Pika, 131_072);
}

// T4.
#[test]
fn large_contents_on_ten_channels_arrive_whole_by_lapin_in_small_frames() {
    large_contents_arrive_whole(Client::Lapin, 4096);
}

// T2: who leads a queue changes twice a second, as `rabbitmq-queues rebalance` does it. The broker itself may then deliver
// again what was not settled; nothing is lost, and nobody is closed.
#[test]
fn nothing_is_lost_while_the_leaders_of_queues_move_too() {
    let mut bench = Bench::start("leaders", "");
    let mut peer = bench.client(Client::Amqplib);
    let mut jobs = Vec::new();
    for prefetch in [1, 20] {
        let queue = format!("led-{prefetch}");
        let fields = json!({
            "type": "quorum", "prefetch": prefetch, "fill": 2 * prefetch, "backlog": 3 * prefetch + 10, "outstanding": 30,
        });
        jobs.push(bench.job("publish", &format!("{queue}-publisher"), &queue, &fields));
        jobs.push(bench.job("consume", &format!("{queue}-consumer"), &queue, &fields));
    }
    let rules = Rules { in_order: false, once: false };
    let times = run_time(12, 240).as_secs() as usize;
    let leaders = |bench: &Bench| assert_eq!(bench.move_leaders(times), "2");
    let outcome = run_with(&mut bench, &mut peer, &jobs, Duration::ZERO, rules, MOVE_EVERY, leaders);
    outcome.expect("T2 Amqplib", 10);
}

// T7.
#[test]
fn what_cannot_be_routed_is_returned_before_it_is_confirmed() {
    let mut bench = Bench::start("returns", "");
    for client in [Client::Amqplib, Client::Pika, Client::Lapin] {
        let mut peer = bench.client(client);
        let fields =
            json!({ "mandatory": true, "key": "nowhere", "outstanding": 10, "sizes": [0, 100, 5000] });
        let jobs = [bench.job("publish", "unroutable", "nowhere-else", &fields)];
        let outcome = run(&mut bench, &mut peer, &jobs, run_time(2, 20), STRICT);
        let outcome = outcome.expect(&format!("T7 {client:?}"), 3);
        let total = outcome.total;
        assert!(total.sent > 50 && total.returned == total.sent && total.confirmed == total.sent, "{total}");
    }
}
