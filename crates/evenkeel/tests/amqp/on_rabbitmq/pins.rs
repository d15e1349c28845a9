//! T10: what would be lost or reordered by a move keeps its connection where it is; the metric says why, and the queue and
//! its consumer are there afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::peer::{Client, Peer};

/// What a client declares and consumes, and the reason that it gives.
struct Case {
    name: &'static str,
    reason: &'static str,
    declare: Value,
    consume: Value,
}

fn cases() -> Vec<Case> {
    let case = |name, reason, declare, consume| Case { name, reason, declare, consume };
    let durable = |arguments: Value| json!({ "durable": true, "arguments": arguments });
    vec![
        case("exclusive", "exclusive_queue", json!({ "exclusive": true }), json!({})),
        case("auto-delete", "auto_delete_queue", json!({ "auto_delete": true }), json!({})),
        case("server-named", "exclusive_queue", json!({ "queue": "", "exclusive": true }), json!({})),
        case("expiring", "expiring_queue", durable(json!({ "x-expires": 5000 })), json!({})),
        case(
            "single-active",
            "single_active_consumer",
            durable(json!({ "x-single-active-consumer": true })),
            json!({}),
        ),
        case(
            "stream",
            "stream",
            durable(json!({ "x-queue-type": "stream" })),
            json!({ "arguments": { "x-stream-offset": "first" } }),
        ),
        case(
            "unbounded",
            "no_prefetch",
            durable(json!({ "x-queue-type": "quorum" })),
            json!({ "prefetch": 0 }),
        ),
    ]
}

fn call(peer: &mut Peer, method: &str, with: Value) -> Value {
    peer.must(json!({ "do": "call", "channel": "ch", "method": method, "with": with }))
}

/// Waits until the metric of pinned sessions has one of this reason.
fn pinned(bench: &Bench, reason: &str) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    let label = format!("reason=\"{reason}\"");
    while Instant::now() < end {
        if bench.gateway.metric("evenkeel_sessions_pinned", &label) == 1 {
            return true;
        }
    }
    false
}

fn open(bench: &Bench, peer: &mut Peer) {
    let port = bench.gateway.address.port();
    peer.must(json!({ "do": "connect", "connection": "c", "port": port, "vhost": bench.vhost }));
    peer.must(json!({ "do": "channel", "connection": "c", "channel": "ch" }));
}

// T10.
#[test]
fn queues_that_a_move_would_lose_pin_their_connection_and_the_metric_says_why() {
    let bench = Bench::start("pins", "");
    for case in cases() {
        let mut peer = bench.client(Client::Pika);
        open(&bench, &mut peer);
        let mut declare = case.declare.clone();
        if declare["queue"].is_null() {
            declare["queue"] = case.name.into();
        }
        let queue = call(&mut peer, "queue_declare", declare)["queue"].clone();
        let mut consume = case.consume.clone();
        let prefetch =
            consume.as_object_mut().expect("an object").remove("prefetch").unwrap_or_else(|| 10.into());
        if prefetch != 0 {
            call(&mut peer, "basic_qos", json!({ "prefetch_count": prefetch }));
        }
        consume["queue"] = queue.clone();
        call(&mut peer, "basic_consume", consume);
        assert!(pinned(&bench, case.reason), "{}: {}", case.name, bench.gateway.get("/metrics"));
        for _ in 0..5 {
            let (status, body) = bench.gateway.post("/api/v1/pools/rabbit/rehearse");
            assert_eq!((status, body.contains("\"told\":0")), (200, true), "{}: {body}", case.name);
        }
        let body = format!("to {}", case.name);
        call(&mut peer, "basic_publish", json!({ "exchange": "", "routing_key": queue, "body": body }));
        let taken = peer.must(json!({ "do": "take", "channel": "ch", "count": 1, "within": 20 }));
        assert_eq!(
            (&taken[0]["body"], &taken[0]["redelivered"]),
            (&json!(body), &json!(false)),
            "{}",
            case.name
        );
        call(&mut peer, "basic_ack", json!({ "delivery_tag": taken[0]["tag"] }));
        let there = call(&mut peer, "queue_declare", json!({ "queue": queue, "passive": true }));
        assert_eq!(there["queue"], queue, "{}", case.name);
        peer.must(json!({ "do": "disconnect", "connection": "c" }));
    }
    let moves = bench.gateway.moves();
    println!("T10 Pika: {moves}");
    assert_eq!((moves.switched, moves.forced), (0, 0), "{moves}");
}

// T10.
#[test]
fn a_client_that_waits_for_direct_replies_gets_them() {
    let bench = Bench::start("replies", "");
    let (mut asks, mut answers) = (bench.client(Client::Pika), bench.client(Client::Pika));
    open(&bench, &mut asks);
    open(&bench, &mut answers);
    call(&mut answers, "queue_declare", json!({ "queue": "server", "durable": true }));
    call(&mut answers, "basic_qos", json!({ "prefetch_count": 1 }));
    call(&mut answers, "basic_consume", json!({ "queue": "server" }));
    call(&mut asks, "basic_consume", json!({ "queue": "amq.rabbitmq.reply-to", "auto_ack": true }));
    assert!(pinned(&bench, "direct_reply_to"), "{}", bench.gateway.get("/metrics"));
    bench.gateway.rehearse();
    // The server, which is not pinned, moves between two questions; the address that it answers to stays valid.
    for question in 0..4 {
        let ask = json!({
            "exchange": "", "routing_key": "server", "body": format!("q{question}"),
            "properties": { "reply_to": "amq.rabbitmq.reply-to" },
        });
        call(&mut asks, "basic_publish", ask);
        let taken = answers.must(json!({ "do": "take", "channel": "ch", "count": 1, "within": 20 }));
        let reply_to = taken[0]["reply_to"].clone();
        call(
            &mut answers,
            "basic_publish",
            json!({ "exchange": "", "routing_key": reply_to, "body": "answer" }),
        );
        call(&mut answers, "basic_ack", json!({ "delivery_tag": taken[0]["tag"] }));
        let reply = asks.must(json!({ "do": "take", "channel": "ch", "count": 1, "within": 20 }));
        assert_eq!(reply[0]["body"], "answer", "question {question}");
        let before = bench.gateway.moves().switched;
        let (pace, within) = (Duration::from_millis(100), Duration::from_secs(60));
        bench.gateway.move_until(pace, within, |moves| moves.switched > before);
    }
}

// T10: one that is not exclusive outlives its connection, so it moves; an empty name still means it.
#[test]
fn a_queue_that_the_server_named_keeps_its_name_and_its_consumer() {
    let bench = Bench::start("server_named", "");
    let mut peer = bench.client(Client::Pika);
    open(&bench, &mut peer);
    let queue =
        call(&mut peer, "queue_declare", json!({ "queue": "", "arguments": { "x-queue-type": "classic" } }));
    let queue = queue["queue"].clone();
    call(&mut peer, "basic_qos", json!({ "prefetch_count": 2 }));
    call(&mut peer, "basic_consume", json!({ "queue": "" }));
    for number in 0..4 {
        call(
            &mut peer,
            "basic_publish",
            json!({ "exchange": "", "routing_key": queue, "body": format!("{number}") }),
        );
        let taken = peer.must(json!({ "do": "take", "channel": "ch", "count": 1, "within": 20 }));
        assert_eq!(taken[0]["body"], format!("{number}"));
        call(&mut peer, "basic_ack", json!({ "delivery_tag": taken[0]["tag"] }));
        let before = bench.gateway.moves().switched;
        let (pace, within) = (Duration::from_millis(100), Duration::from_secs(60));
        bench.gateway.move_until(pace, within, |moves| moves.switched > before);
    }
    call(&mut peer, "queue_delete", json!({ "queue": queue }));
    peer.must(json!({ "do": "disconnect", "connection": "c" }));
}
