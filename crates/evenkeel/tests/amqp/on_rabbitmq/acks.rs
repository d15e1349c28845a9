//! T5: every way to acknowledge, before and after a move, has at the broker the effect that it has without a gateway.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::gateway::Mover;
use crate::peer::{Client, Peer, Refused};

/// Moves the connection, and waits until it has been.
fn moved(bench: &Bench) {
    let before = bench.gateway.moves().switched;
    bench.gateway.move_until(Duration::from_millis(100), Duration::from_secs(60), |m| m.switched > before);
}

/// The calls of this test in the words of each library.
struct Words<'a> {
    client: Client,
    peer: &'a mut Peer,
}

impl Words<'_> {
    fn try_call(&mut self, method: &str, with: Value) -> Result<Value, Refused> {
        self.peer.ask(json!({ "do": "call", "channel": "ch", "method": method, "with": with }))
    }

    fn call(&mut self, method: &str, with: Value) -> Value {
        self.try_call(method, with).unwrap_or_else(|refused| panic!("{method}: {refused:?}"))
    }

    fn open(&mut self, bench: &Bench, port: u16) {
        self.peer.must(json!({ "do": "connect", "connection": "c", "port": port, "vhost": bench.vhost }));
        self.peer.must(json!({ "do": "channel", "connection": "c", "channel": "ch" }));
    }

    fn declare(&mut self, queue: &str, arguments: Value) {
        match self.client {
            Client::Pika => {
                self.call("queue_declare", json!({ "queue": queue, "durable": true, "arguments": arguments }))
            }
            _ => self.call("assertQueue", json!([queue, { "durable": true, "arguments": arguments }])),
        };
    }

    fn depth(&mut self, queue: &str) -> u64 {
        let (answer, key) = match self.client {
            Client::Pika => {
                (self.call("queue_declare", json!({ "queue": queue, "passive": true })), "message_count")
            }
            _ => (self.call("checkQueue", json!([queue])), "messageCount"),
        };
        answer[key].as_u64().expect("a count")
    }

    fn consume(&mut self, queue: &str) {
        match self.client {
            Client::Pika => {
                self.call("basic_qos", json!({ "prefetch_count": 50 }));
                self.call("basic_consume", json!({ "queue": queue, "consumer_tag": "c" }))
            }
            _ => {
                self.call("prefetch", json!([50]));
                self.call("consume", json!([queue, { "consumerTag": "c" }]))
            }
        };
    }

    fn publish(&mut self, queue: &str, body: &str) {
        match self.client {
            Client::Pika => {
                self.call("basic_publish", json!({ "exchange": "", "routing_key": queue, "body": body }))
            }
            _ => self.call("publish", json!(["", queue, body, { "persistent": true }])),
        };
    }

    fn ack(&mut self, tag: u64, multiple: bool) {
        match self.client {
            Client::Pika => self.call("basic_ack", json!({ "delivery_tag": tag, "multiple": multiple })),
            _ => self.call("ack", json!([tag, multiple])),
        };
    }

    fn nack(&mut self, tag: u64, multiple: bool, requeue: bool) {
        let pika = json!({ "delivery_tag": tag, "multiple": multiple, "requeue": requeue });
        match self.client {
            Client::Pika => self.call("basic_nack", pika),
            _ => self.call("nack", json!([tag, multiple, requeue])),
        };
    }

    fn reject(&mut self, tag: u64) {
        match self.client {
            Client::Pika => self.call("basic_reject", json!({ "delivery_tag": tag, "requeue": false })),
            _ => self.call("reject", json!([tag, false])),
        };
    }

    fn recover(&mut self) {
        match self.client {
            Client::Pika => self.call("basic_recover", json!({ "requeue": true })),
            _ => self.call("recover", json!([])),
        };
    }

    /// The next deliveries: tag, body, redelivered.
    fn take(&mut self, count: usize) -> Vec<(u64, String, bool)> {
        let taken = self.peer.must(json!({ "do": "take", "channel": "ch", "count": count, "within": 20 }));
        let taken = taken.as_array().expect("a list");
        assert_eq!(taken.len(), count, "{taken:?}");
        let one = |value: &Value| {
            let body = value["body"].as_str().unwrap_or_default().to_owned();
            (value["tag"].as_u64().unwrap_or_default(), body, value["redelivered"] == true)
        };
        taken.iter().map(one).collect()
    }
}

/// One round of everything; tags begin behind `base`. Returns the last tag.
fn round(words: &mut Words<'_>, kind: &str, base: u64) -> u64 {
    let dead = format!("{kind}-dead");
    for number in 1..=14 {
        words.publish(kind, &format!("m{number}"));
    }
    let taken = words.take(14);
    let tags: Vec<u64> = taken.iter().map(|(tag, ..)| *tag).collect();
    assert_eq!(tags, (base + 1..=base + 14).collect::<Vec<_>>(), "{kind}: tags go on where they were");
    assert!(taken.iter().all(|(.., redelivered)| !redelivered), "{taken:?}");
    words.ack(base + 1, false);
    words.ack(base + 4, true);
    // Out of order.
    words.ack(base + 7, false);
    words.ack(base + 6, false);
    words.ack(base + 5, false);
    words.reject(base + 8);
    words.nack(base + 9, false, true);
    assert_eq!(words.take(1), [(base + 15, "m9".to_owned(), true)], "{kind}: requeued");
    words.recover();
    // What the broker still has as unacknowledged comes again, which is just this.
    let again = words.take(6);
    let mut bodies: Vec<&str> = again.iter().map(|(_, body, _)| body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["m10", "m11", "m12", "m13", "m14", "m9"], "{kind}: {again:?}");
    assert!(again.iter().all(|(.., redelivered)| *redelivered), "{again:?}");
    words.ack(0, true);
    assert_eq!(words.depth(kind), 0, "{kind}");
    assert_eq!(words.depth(&dead), 1, "{kind}: rejected");
    match words.client {
        Client::Pika => words.call("queue_purge", json!({ "queue": dead })),
        _ => words.call("purgeQueue", json!([dead])),
    };
    base + 21
}

fn acks_mean_what_they_mean(client: Client) {
    let bench = Bench::start(&format!("acks_{client:?}").to_lowercase(), "");
    for kind in ["classic", "quorum"] {
        let mut peer = bench.client(client);
        let mut words = Words { client, peer: &mut peer };
        words.open(&bench, bench.gateway.address.port());
        words.declare(&format!("{kind}-dead"), json!({ "x-queue-type": "classic" }));
        words.declare(
            kind,
            json!({
                "x-queue-type": kind, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": format!("{kind}-dead"),
            }),
        );
        words.consume(kind);
        let mut base = 0;
        for _ in 0..3 {
            base = round(&mut words, kind, base);
            moved(&bench);
        }
        peer.must(json!({ "do": "disconnect", "connection": "c" }));
    }
    println!("T5 {client:?}: {}", bench.gateway.moves());
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

// T5.
#[test]
fn acks_of_every_kind_mean_the_same_after_a_move_for_pika() {
    acks_mean_what_they_mean(Client::Pika);
}

// T5.
#[test]
fn acks_of_every_kind_mean_the_same_after_a_move_for_amqplib() {
    acks_mean_what_they_mean(Client::Amqplib);
}

// T5.
#[test]
fn an_unknown_tag_is_answered_as_without_a_gateway_before_and_after_a_move() {
    let bench = Bench::start("unknown_tags", "");
    let direct = bench.cluster.nodes()[0].address().port();
    let through = bench.gateway.address.port();
    let mut codes = Vec::new();
    // A tag that was never given, and one that was acknowledged before.
    for (port, moves) in [(direct, 0), (through, 0), (through, 2)] {
        for stale in [false, true] {
            let mut peer = bench.client(Client::Pika);
            let mut words = Words { client: Client::Pika, peer: &mut peer };
            words.open(&bench, port);
            words.declare("tags", json!({ "x-queue-type": "classic" }));
            words.consume("tags");
            words.publish("tags", "m");
            let (tag, ..) = words.take(1).remove(0);
            words.ack(tag, false);
            (0..moves).for_each(|_| moved(&bench));
            let with = json!({ "delivery_tag": if stale { tag } else { 9999 } });
            // pika learns of it by the ack itself, or by the call behind it.
            let first = words
                .try_call("basic_ack", with)
                .and_then(|_| words.try_call("queue_declare", json!({ "queue": "tags", "passive": true })));
            let refused = first.expect_err("the broker closes the channel");
            assert!(refused.text.starts_with("PRECONDITION_FAILED - unknown delivery tag"), "{refused:?}");
            codes.push(refused.code);
            // The connection goes on.
            peer.must(json!({ "do": "channel", "connection": "c", "channel": "ch" }));
            let mut words = Words { client: Client::Pika, peer: &mut peer };
            assert_eq!(words.depth("tags"), 0);
            if moves > 0 {
                moved(&bench);
                assert_eq!(words.depth("tags"), 0);
            }
            peer.must(json!({ "do": "disconnect", "connection": "c" }));
        }
    }
    assert_eq!(codes, [406; 6]);
}

// T11, also for quorum queues: were such a consumer cancelled and started again, RabbitMQ 3.10 would end the connection with
// 541 at the next delivery.
#[test]
fn a_consumer_that_keeps_a_message_works_on_where_it_is_and_moves_later() {
    let bench = Bench::start("keeping", "      settle_timeout: 200ms\n");
    for kind in ["quorum", "classic"] {
        let mut peer = bench.client(Client::Pika);
        let mut words = Words { client: Client::Pika, peer: &mut peer };
        words.open(&bench, bench.gateway.address.port());
        words.declare(kind, json!({ "x-queue-type": kind }));
        words.call("basic_qos", json!({ "prefetch_count": 3 }));
        words.call("basic_consume", json!({ "queue": kind, "consumer_tag": "c" }));
        (1..=9).for_each(|number| words.publish(kind, &format!("m{number}")));
        words.take(3);
        words.ack(1, false);
        let mut next = 4;
        let mover = Mover::start(&bench.gateway, Duration::from_millis(100));
        for _ in 0..3 {
            // Time enough for a move to begin, and to find that the client takes too long.
            words.peer.wait(Duration::from_millis(700));
            // The second and third message stay with the client; the others come one by one.
            assert_eq!(words.take(1), [(next, format!("m{next}"), false)], "{kind}");
            words.ack(next, false);
            next += 1;
        }
        let tries = mover.stop();
        assert!(tries.aborts.contains_key("unacked"), "{kind}: {tries}");
        let switched = bench.gateway.moves().switched;
        words.ack(3, true);
        (next..=9).for_each(|number| {
            assert_eq!(words.take(1), [(number, format!("m{number}"), false)], "{kind}");
            words.ack(number, false);
        });
        bench
            .gateway
            .move_until(Duration::from_millis(100), Duration::from_secs(60), |m| m.switched > switched);
        words.publish(kind, "after");
        assert_eq!(words.take(1), [(10, "after".to_owned(), false)], "{kind}");
        words.ack(10, false);
        peer.must(json!({ "do": "disconnect", "connection": "c" }));
    }
    println!("T11 Pika: {}", bench.gateway.moves());
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}
