//! T8, T9: calls that wait for an answer, and transactions, while the connection is moved.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::gateway::Mover;
use crate::judge::STRICT;
use crate::load::{run_time, run_with};
use crate::peer::{Client, Peer};

// T8: every call of nine kinds has one answer, the right one: pika raises on any other. The states of a move are met by
// asking for one ten times a second; the state machine's own tests walk through them one by one.
#[test]
fn every_call_is_answered_once_while_its_connection_is_moved() {
    let mut bench = Bench::start("calls", "");
    let mut peer = bench.client(Client::Pika);
    let job = |bench: &Bench, name: &str, kind: &str| {
        bench.job("rpc", name, name, &json!({ "blocking": true, "type": kind }))
    };
    let jobs = [job(&bench, "calls-classic", "classic"), job(&bench, "calls-quorum", "quorum")];
    peer.begin(&jobs);
    let mover = Mover::start(&bench.gateway, Duration::from_millis(100));
    peer.wait(run_time(5, 60));
    let moves = mover.stop();
    let names: Vec<String> = ["calls-classic", "calls-quorum"].map(str::to_owned).into();
    peer.end(&names);
    let records = peer.records(&names);
    let calls: usize = records.iter().map(|record| record.consumed.len()).sum();
    println!("T8 Pika: {calls} calls; {moves}");
    for record in &records {
        assert!(record.problems.is_empty(), "{}: {:?}", record.name, record.problems);
    }
    assert!(calls > 100 && moves.switched >= 5 && bench.gateway.is_running(), "{calls} calls; {moves}");
}

/// Blocking calls by pika, in threads of their own beside each other, with consumers on the same connection.
#[test]
fn a_blocking_program_that_publishes_and_consumes_on_one_connection_notices_nothing() {
    let mut bench = Bench::start("blocking", "");
    let mut peer = bench.client(Client::Pika);
    let mut jobs = Vec::new();
    for kind in ["classic", "quorum"] {
        let fields = json!({
            "blocking": true, "type": kind, "connection": kind, "prefetch": 5, "backlog": 20, "outstanding": 6,
        });
        jobs.push(bench.job("publish", &format!("{kind}-publisher"), kind, &fields));
        jobs.push(bench.job("consume", &format!("{kind}-consumer"), kind, &fields));
    }
    let rules = crate::judge::Rules { once: false, in_order: false };
    let pace = Duration::from_millis(200);
    let outcome = run_with(&mut bench, &mut peer, &jobs, run_time(5, 60), rules, pace, |_| ());
    // One that publishes and consumes in turn does not keep its prefetch full: on the quorum queue the broker may deliver
    // again (docs/amqp.md, R2), on the classic one it does not.
    let classic: Vec<_> =
        outcome.records.iter().filter(|record| record.queue == "classic").cloned().collect();
    let (findings, _) = crate::judge::judge(&classic, STRICT);
    assert!(findings.is_empty(), "{findings:?}");
    outcome.expect("T1 Pika, blocking", 5);
}

fn call(peer: &mut Peer, channel: &str, method: &str, with: Value) -> Value {
    peer.must(json!({ "do": "call", "channel": channel, "method": method, "with": with }))
}

// T9.
#[test]
fn a_transaction_is_whole_or_not_at_all_whatever_moves() {
    let bench = Bench::start("transactions", "");
    let mut peer = bench.client(Client::Pika);
    let port = bench.gateway.address.port();
    peer.must(json!({ "do": "connect", "connection": "c", "port": port, "vhost": bench.vhost }));
    peer.must(json!({ "do": "channel", "connection": "c", "channel": "tx" }));
    peer.must(json!({ "do": "channel", "connection": "c", "channel": "other" }));
    call(&mut peer, "tx", "queue_declare", json!({ "queue": "ledger", "durable": true }));
    call(&mut peer, "tx", "tx_select", json!({}));
    let mut expected = 0;
    for round in 0..12 {
        // Between two transactions the connection may be moved, and is, in every other round.
        if round % 2 == 0 {
            let before = bench.gateway.moves().switched;
            bench
                .gateway
                .move_until(Duration::from_millis(100), Duration::from_secs(60), |m| m.switched > before);
        }
        let mover = Mover::start(&bench.gateway, Duration::from_millis(20));
        for part in 0..3 {
            let body = format!("{round}.{part}");
            call(
                &mut peer,
                "tx",
                "basic_publish",
                json!({ "exchange": "", "routing_key": "ledger", "body": body }),
            );
        }
        let before = call(&mut peer, "other", "queue_declare", json!({ "queue": "ledger", "passive": true }));
        assert_eq!(before["message_count"], expected, "what is not committed is not there");
        let end = if round % 3 == 2 { "tx_rollback" } else { "tx_commit" };
        call(&mut peer, "tx", end, json!({}));
        mover.stop();
        expected += if end == "tx_commit" { 3 } else { 0 };
        let after = call(&mut peer, "other", "queue_declare", json!({ "queue": "ledger", "passive": true }));
        assert_eq!(after["message_count"], expected, "round {round}, {end}");
    }
    println!("T9 Pika: {expected} messages committed; {}", bench.gateway.moves());
    call(&mut peer, "other", "queue_purge", json!({ "queue": "ledger" }));
    peer.must(json!({ "do": "disconnect", "connection": "c" }));
    assert!(bench.leftovers().is_empty());
}
