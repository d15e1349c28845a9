//! T11 to T15 and T17: clients that hold messages or do not read, nodes that die, stop or sound an alarm, queues and rights that
//! vanish in a move, and a cluster that is drained node by node under its clients.

use std::time::{Duration, Instant};

use amqp::MethodId;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::gateway::{Gateway, Mover, Moves};
use crate::interposer::{Act, Link, Mark, Spot, Trap, Way, Wires};
use crate::judge::{STRICT, judge};
use crate::load::{await_that, finish, pause, run_time};
use crate::peer::Client;
use crate::raw::{Does, Raw, delete, drain};

/// For what must come.
const PATIENCE: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(150);
/// As it is shipped: the other tests wait longer than a loaded machine needs.
const SHIPPED: &str = "      prepare_timeout: 5s\n      settle_timeout: 2s\n      flush_timeout: 1s\n      \
    replay_timeout: 5s\n      linger: 1s\n";

/// Asks for moves until one more is done.
fn moved(gateway: &Gateway) -> Moves {
    let before = gateway.moves().switched;
    gateway.move_until(OFTEN, PATIENCE, |moves| moves.switched > before)
}

// ---- T11

// T11: 60 s in the plan; here longer than twice what a move waits.
#[test]
fn a_consumer_that_holds_a_message_works_on_and_is_moved_later() {
    let bench = Bench::start("holding", "      settle_timeout: 500ms\n");
    let client = Raw::start(bench.gateway.address, Does::both(&bench.vhost, "held", "classic", 5));
    client.await_traffic(5, true);
    client.ack_after(Duration::from_secs(3));
    client.await_traffic(1, true);
    let moves = bench.gateway.move_until(OFTEN, PATIENCE, |moves| moves.rolled_back >= 2);
    assert!(moves.aborts.contains_key("unacked"), "{moves}");
    client.ack_after(Duration::ZERO);
    client.await_traffic(20, true);
    let moves = moved(&bench.gateway);
    client.await_traffic(20, true);
    let seen = client.stop();
    println!("T11: {} consumed; {moves}", seen.consumed.len());
    assert_eq!(seen.noticed(), Ok(()));
    assert_eq!(moves.forced, 0);
}

// ---- T12

/// Clients on quorum queues that are moved all the time while `harm` is done to a node.
fn node_in_trouble(name: &str, title: &str, harm: impl FnOnce(&mut Bench)) {
    let mut bench = Bench::start(name, SHIPPED);
    let clients: Vec<(String, Raw)> = (0..8)
        .map(|number| {
            let queue = format!("q{number}");
            // There is always enough in the queue for a prefetch to be full.
            let every = Duration::from_millis(1);
            let does = Does { every, ..Does::both(&bench.vhost, &queue, "quorum", 5) };
            (queue, Raw::start(bench.gateway.address, does))
        })
        .collect();
    for (_, client) in &clients {
        client.await_traffic(10, true);
    }
    let before = moved(&bench.gateway).switched;
    let mover = Mover::start(&bench.gateway, OFTEN);
    harm(&mut bench);
    pause(Duration::from_secs(3));
    let moves = mover.stop();
    let (mut closed, mut confirmed, mut nacked, mut findings) = (0, 0, 0, Vec::new());
    for (queue, client) in clients {
        let seen = client.stop();
        let left = drain(bench.endpoints()[0].1, &bench.vhost, &queue);
        confirmed += seen.confirmed.len();
        nacked += seen.nacked;
        findings.extend(seen.odd.iter().map(|odd| format!("{queue}: {odd}")));
        findings.extend(seen.lost(&left).err().map(|lost| format!("{queue}: {lost}")));
        match &seen.close {
            Some((320, _)) => closed += 1,
            Some(close) => findings.push(format!("{queue}: {close:?}")),
            None => {}
        }
    }
    println!(
        "{title}: 8 clients, {confirmed} confirmed, {nacked} not taken, {closed} closed with 320; {before} moved before; {moves}"
    );
    assert!(findings.is_empty(), "{title}: {findings:#?}");
    assert!(bench.gateway.is_running());
}

// T12.
#[test]
fn a_node_that_is_killed_costs_its_clients_a_close_at_most() {
    node_in_trouble("killed", "T12, kill -9", |bench| {
        bench.cluster.kill_node(1).expect("it runs");
    });
}

// T12.
#[test]
fn a_node_that_stops_for_a_while_costs_its_clients_a_close_at_most() {
    node_in_trouble("stopped", "T12, SIGSTOP", |bench| {
        bench.cluster.pause(1).expect("it runs");
        pause(Duration::from_secs(3));
        bench.cluster.resume(1).expect("it is there");
    });
}

// ---- T13

const ALARM: &str = "application:set_env(rabbit, tests_watermark, vm_memory_monitor:get_vm_memory_high_watermark()), \
    vm_memory_monitor:set_vm_memory_high_watermark(0.00001), ";
const CLEAR: &str = "{ok, Was} = application:get_env(rabbit, tests_watermark), \
    vm_memory_monitor:set_vm_memory_high_watermark(Was), ";

// T13.
#[test]
fn a_memory_alarm_before_and_in_moves_is_told_once_and_ends() {
    let bench = Bench::start("alarm", "");
    let clients: Vec<Raw> = (0..4)
        .map(|number| {
            let kind = if number % 2 == 0 { "classic" } else { "quorum" };
            let does = Does::both(&bench.vhost, &format!("q{number}"), kind, 20);
            Raw::start(bench.gateway.address, does)
        })
        .collect();
    clients.iter().for_each(|client| client.await_traffic(10, true));
    // Before: nobody is moved.
    bench.eval(&format!("{ALARM} ok."));
    await_that("every publisher is blocked", || clients.iter().all(|client| client.blocked() == 1));
    let before = bench.gateway.moves();
    for _ in 0..5 {
        bench.gateway.rehearse();
    }
    bench.eval(&format!("{CLEAR} ok."));
    await_that("nobody is blocked", || clients.iter().all(|client| client.blocked() == 2));
    clients.iter().for_each(|client| client.await_traffic(10, true));
    let blocked = bench.gateway.moves();
    assert_eq!(blocked.switched, before.switched, "blocked connections stay: {blocked}");
    // During.
    let mover = Mover::start(&bench.gateway, OFTEN);
    bench.eval(&format!(
        "{ALARM} timer:sleep(1200), {CLEAR} timer:sleep(800), {ALARM} timer:sleep(300), {CLEAR} ok."
    ));
    clients.iter().for_each(|client| client.await_traffic(10, true));
    let moves = mover.stop();
    moved(&bench.gateway);
    let mut told = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        client.await_traffic(10, true);
        let seen = client.stop();
        assert_eq!(seen.noticed(), Ok(()), "client {number}");
        let alternates = seen.blocked.iter().zip(0..).all(|(blocked, place)| *blocked == (place % 2 == 0));
        assert!(alternates && seen.blocked.len() % 2 == 0, "{:?}", seen.blocked);
        told.push(seen.blocked.len());
    }
    println!("T13: 4 clients, told of {told:?} changes; {moves}");
    assert_eq!(moves.forced, 0, "{moves}");
}

// ---- T14

// T14: 5 minutes with --long.
#[test]
fn an_idle_connection_with_heartbeats_of_2_s_outlives_its_moves() {
    let bench = Bench::start("heartbeats", "");
    let clients: Vec<Raw> = ["classic", "quorum"]
        .into_iter()
        .map(|kind| {
            let does = Does { heartbeat: 2, ..Does::both(&bench.vhost, kind, kind, 20) };
            Raw::start(bench.gateway.address, does)
        })
        .collect();
    for client in &clients {
        client.await_traffic(10, true);
        client.publishes(false);
    }
    let mover = Mover::start(&bench.gateway, Duration::from_millis(700));
    pause(run_time(14, 300));
    let moves = mover.stop();
    for client in clients {
        client.publishes(true);
        client.await_traffic(10, true);
        assert_eq!(client.stop().noticed(), Ok(()));
    }
    println!("T14, idle: {moves}");
    assert!(moves.switched >= 20 && moves.forced == 0, "{moves}");
}

// T14.
#[test]
fn a_client_that_does_not_read_is_not_moved_and_holds_nobody_up() {
    const MESSAGES: u64 = 300;
    let bench = Bench::start("deaf", SHIPPED);
    let deaf = Does { limit: 0, size: 100_000, ..Does::both(&bench.vhost, "deaf", "classic", 1000) };
    let fills = Does { prefetch: 0, limit: MESSAGES, ahead: 20, every: Duration::ZERO, ..deaf.clone() };
    let deaf = Raw::start(bench.gateway.address, deaf);
    let other = Raw::start(bench.gateway.address, Does::both(&bench.vhost, "other", "classic", 20));
    deaf.is_deaf(true);
    let filler = Raw::start(bench.endpoints()[0].1, fills);
    await_that("the queue is filled", || filler.counts().1 == MESSAGES);
    filler.stop();
    let mover = Mover::start(&bench.gateway, OFTEN);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        other.await_traffic(10, true);
    }
    assert!(deaf.counts().2 < MESSAGES);
    deaf.is_deaf(false);
    await_that("it has everything", || deaf.counts().2 == MESSAGES);
    await_that("the move is given up", || bench.gateway.moves().rolled_back > 0);
    let moves = mover.stop();
    assert!(moves.switched > 4, "the other client moves: {moves}");
    drop(other.stop());
    moved(&bench.gateway);
    let seen = deaf.stop();
    println!("T14, deaf: {} messages of 100 kB; {moves}", seen.consumed.len());
    assert_eq!(seen.noticed(), Ok(()));
}

// ---- T15

/// A gateway behind wires, with a client that has come to rest.
fn at_rest(bench: &mut Bench, queue: &str, amqp: &str) -> (Wires, Raw) {
    let wires = Wires::default();
    let folder = bench.folder.join(queue);
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let ends: Vec<_> = bench.endpoints().into_iter().map(|(id, at)| (id, wires.listen(at, false))).collect();
    bench.gateway = Gateway::start(&folder, &ends, &format!("      probe: {{interval: 0s}}\n{amqp}"), "");
    let client = Raw::start(bench.gateway.address, Does::both(&bench.vhost, queue, "classic", 20));
    client.await_traffic(10, true);
    client.publishes(false);
    await_that("it is at rest", || {
        let (sent, confirmed, consumed) = client.counts();
        sent == confirmed && sent == consumed
    });
    (wires, client)
}

// T15.
#[test]
fn a_queue_that_is_deleted_in_a_move_cancels_its_consumer() {
    let mut bench = Bench::start("deleted", "");
    let (wires, client) = at_rest(&mut bench, "gone", "      replay_timeout: 4s\n");
    let at = Spot { link: Link::Next, way: Way::Out, mark: Mark::Method(MethodId::BASIC_CONSUME) };
    let (act, hold) = (Act::Stall(Duration::ZERO), Duration::from_millis(400));
    wires.arm(Some(Trap {
        after: None,
        at,
        passes: false,
        wait: Duration::ZERO,
        victim: Link::Old,
        act,
        hold,
    }));
    bench.gateway.rehearse();
    assert!(wires.await_sprung(PATIENCE));
    delete(bench.endpoints()[0].1, &bench.vhost, "gone");
    await_that("the move is over", || bench.gateway.moves().switched + bench.gateway.moves().forced == 1);
    let seen = client.stop();
    println!("T15, queue deleted: {:?}, Close {:?}; {}", seen.odd, seen.close, bench.gateway.moves());
    // The latter where the node does not say in time that there is no such queue.
    match seen.close {
        None => assert_eq!(seen.odd, ["the consumer was cancelled"]),
        Some((code, _)) => assert_eq!((code, seen.odd.len()), (320, 0)),
    }
}

// T15.
#[test]
fn rights_that_are_taken_away_before_a_move_leave_the_client_where_it_is() {
    let mut bench = Bench::start("rights", "");
    let (_, client) = at_rest(&mut bench, "kept", "");
    let vhost = bench.vhost.clone();
    let refused = |bench: &Bench, what: &str| {
        let before = bench.gateway.moves().aborts.get("refused").copied().unwrap_or(0);
        let again = |moves: &Moves| moves.aborts.get("refused").copied().unwrap_or(0) > before;
        let moves = bench.gateway.move_until(OFTEN, PATIENCE, again);
        println!("T15, {what}: {moves}");
    };
    bench.eval(&format!(
        "rabbit_auth_backend_internal:clear_permissions(<<\"guest\">>, <<\"{vhost}\">>, <<\"tests\">>)."
    ));
    refused(&bench, "no right to the virtual host");
    let limit = |limit: i32| {
        format!(
            "rabbit_vhost_limit:parse_set(<<\"{vhost}\">>, <<\"{{\\\"max-connections\\\": {limit}}}\">>, <<\"tests\">>)"
        )
    };
    let grant = |read: &str| {
        format!(
            "rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{vhost}\">>, <<\".*\">>, <<\".*\">>, <<\"{read}\">>, \
             <<\"tests\">>)"
        )
    };
    bench.eval(&format!("{}, {}.", grant(".*"), limit(1)));
    refused(&bench, "no room in the virtual host");
    bench.eval(&format!("{}.", limit(-1)));
    client.publishes(true);
    client.await_traffic(10, true);
    moved(&bench.gateway);
    client.await_traffic(10, true);
    assert_eq!(client.stop().noticed(), Ok(()));
    // The right to read is asked for by the new node only when the consumer is started there: behind the switch.
    let client = Raw::start(bench.gateway.address, Does::both(&vhost, "unread", "classic", 20));
    client.await_traffic(10, true);
    bench.eval(&format!("{}.", grant("^$")));
    bench.gateway.move_until(OFTEN, PATIENCE, |moves| moves.forced > 0);
    let seen = client.stop();
    bench.eval(&format!("{}.", grant(".*")));
    let left = drain(bench.endpoints()[0].1, &vhost, "unread");
    println!("T15, no right to read: {:?}; {} were left in the queue", seen.close, left.len());
    assert_eq!(seen.close.as_ref().map(|close| close.0), Some(320));
    assert!(seen.odd.is_empty(), "{:?}", seen.odd);
    assert_eq!(seen.lost(&left), Ok(()));
}

// ---- T17

// T17.
#[test]
fn a_cluster_is_drained_node_by_node_and_no_client_notices() {
    let mut bench = Bench::start("rolling", "");
    let mut peers = Vec::new();
    for client in [Client::Pika, Client::Amqplib] {
        let mut jobs: Vec<Value> = Vec::new();
        for kind in ["classic", "quorum"] {
            let queue = format!("{client:?}-{kind}");
            let fields = json!({"type": kind, "prefetch": 20, "backlog": 70, "outstanding": 30});
            jobs.push(bench.job("publish", &format!("{queue}-publisher"), &queue, &fields));
            jobs.push(bench.job("consume", &format!("{queue}-consumer"), &queue, &fields));
        }
        let mut peer = bench.client(client);
        peer.begin(&jobs);
        peers.push((peer, jobs));
    }
    for index in 0..3 {
        let id = bench.endpoints()[index].0.replace('@', "%40");
        let path = format!("/api/v1/pools/rabbit/endpoints/{id}/drain");
        let (status, body) = bench.gateway.post(&format!("{path}?deadline=20s&wait=25s"));
        assert_eq!(status, 200, "{body}");
        // What `rabbitmq-upgrade drain` and `revive` do.
        let said = bench.cluster.ctl(
            index,
            &[
                "eval",
                "Found = length(rabbit_networking:local_connections()), \
            rabbit_maintenance:drain(), timer:sleep(500), rabbit_maintenance:revive(), Found.",
            ],
        );
        let found = said.expect("the node answers").lines().last().unwrap_or_default().trim().to_owned();
        println!("T17: {id} had {found} connections when it was drained; {}", bench.gateway.moves());
        assert_eq!(found, "0", "{id}");
        let (status, body) = bench.gateway.delete(&path);
        assert_eq!(status, 200, "{body}");
    }
    for (mut peer, jobs) in peers {
        let (findings, total) = judge(&finish(&mut peer, &jobs), STRICT);
        println!("T17: {total}");
        assert!(findings.is_empty(), "{:#?}", &findings[..findings.len().min(20)]);
    }
    let (moves, leftovers) = (bench.gateway.moves(), bench.leftovers());
    assert!(leftovers.is_empty(), "{leftovers:?}");
    assert!(moves.switched >= 8 && moves.forced == 0 && bench.gateway.is_running(), "{moves}");
}
