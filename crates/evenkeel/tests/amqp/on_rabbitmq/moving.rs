//! T1, T2: publishers and consumers of every client lose nothing, see nothing twice, out of order or redelivered, and
//! notice nothing, while each connection is moved five times a second.

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::judge::STRICT;
use crate::load::{run, run_time};
use crate::peer::Client;

/// Queues of both types, each with its prefetch; the publishers keep enough messages in them that a consumer's prefetch is
/// full (a consumer of a quorum queue is moved only then, or when there is nothing for it).
fn jobs(bench: &Bench, more: &Value) -> Vec<Value> {
    let mut jobs = Vec::new();
    for kind in ["classic", "quorum"] {
        for prefetch in [1, 5, 20, 200] {
            let queue = format!("{kind}-{prefetch}");
            let mut fields = json!({
                "type": kind, "prefetch": prefetch, "backlog": 3 * prefetch + 10, "outstanding": 30, "sizes": [0, 64, 900, 20],
            });
            if kind == "quorum" {
                fields["fill"] = (2 * prefetch).into();
            }
            fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            jobs.push(bench.job("publish", &format!("{queue}-publisher"), &queue, &fields));
            fields["ack"] = if prefetch == 20 { "multiple".into() } else { "single".into() };
            jobs.push(bench.job("consume", &format!("{queue}-consumer"), &queue, &fields));
        }
    }
    jobs
}

fn moved_all_the_time(client: Client) {
    let name = format!("moving_{client:?}").to_lowercase();
    let mut bench = Bench::start(&name, "");
    let mut peer = bench.client(client);
    let jobs = jobs(&bench, &json!({}));
    let before = bench.gateway.resident();
    let outcome = run(&mut bench, &mut peer, &jobs, run_time(8, 600), STRICT);
    outcome.expect(&format!("T1 {client:?}"), 60);
    println!("the gateway: {before} KiB before, {} KiB after", bench.gateway.resident());
}

// T1.
#[test]
fn pika_notices_nothing_while_its_connections_are_moved() {
    moved_all_the_time(Client::Pika);
}

// T1.
#[test]
fn aio_pika_notices_nothing_while_its_connections_are_moved() {
    moved_all_the_time(Client::AioPika);
}

// T1.
#[test]
fn amqplib_notices_nothing_while_its_connections_are_moved() {
    moved_all_the_time(Client::Amqplib);
}

// T1.
#[test]
fn lapin_notices_nothing_while_its_connections_are_moved() {
    moved_all_the_time(Client::Lapin);
}

/// The clients and the judge, without a gateway: a finding of the other tests is the gateway's.
#[test]
fn every_client_agrees_with_the_broker_without_a_gateway() {
    let bench = Bench::start("direct", "");
    let port = bench.cluster.nodes()[1].address().port();
    for client in [Client::Pika, Client::AioPika, Client::Amqplib, Client::Lapin] {
        let mut peer = bench.client(client);
        let mut jobs = jobs(&bench, &json!({ "port": port }));
        for job in &mut jobs {
            job["queue"] = format!("{client:?}-{}", job["queue"].as_str().expect("a name")).into();
        }
        peer.begin(&jobs);
        peer.wait(run_time(2, 10));
        let (mut findings, total) = crate::judge::judge(&crate::load::finish(&mut peer, &jobs), STRICT);
        findings.extend(bench.leftovers());
        println!("direct {client:?}: {total}");
        assert!(findings.is_empty(), "{client:?}: {findings:#?}");
        assert!(total.sent > 200, "{client:?}: {total}");
    }
}
