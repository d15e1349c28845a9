//! T16: what a paced close with 320 costs clients that reconnect by themselves, and what a move costs them. Numbers, printed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::gateway::Gateway;
use crate::load::{pause, run_time};
use crate::peer::installed;

/// Seconds between two publishes of a connection; more where they are so many that one process could not keep up.
fn every(connections: u64) -> f64 {
    (connections as f64 / 250.0).max(0.5)
}

/// What many robust clients saw while one node of two was drained.
struct Seen {
    /// Longest time between two confirms, by connection, sorted, seconds.
    longest: Vec<f64>,
    every: f64,
    failed: u64,
    failures: Vec<String>,
    confirmed: u64,
}

impl Seen {
    fn at(&self, share: f64) -> f64 {
        self.longest[((self.longest.len() - 1) as f64 * share) as usize]
    }

    /// Connections that were cut off for longer than a second beyond their own pace.
    fn cut_off(&self) -> usize {
        self.longest.iter().filter(|longest| **longest > self.every + 1.0).count()
    }
}

/// Connects them, drains the first node within `deadline` seconds, and gives them time to come back.
fn drained(bench: &mut Bench, amqp: &str, connections: u64, deadline: u64) -> Seen {
    let folder = bench.folder.join(if amqp.is_empty() { "seamless" } else { "closed" });
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    bench.gateway = Gateway::start(&folder, &bench.endpoints()[..2], amqp, "");
    let installed = installed();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/amqp/clients/robust_client.py");
    let mut command = Command::new(installed.join("venv/bin/python"));
    command.args(["-B".as_ref(), script.as_os_str()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    // It says of every reconnect that there was one.
    let mut child = command.stderr(Stdio::null()).spawn().expect("python starts");
    let mut orders = child.stdin.take().expect("stdin is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let port = bench.gateway.address.port();
    let order =
        json!({"port": port, "vhost": bench.vhost, "connections": connections, "every": every(connections)});
    writeln!(orders, "{order}").expect("it reads");
    lines.next().expect("it answers").expect("text");
    // They have connected one after the other, and their first publishes have waited for that.
    pause(Duration::from_secs(2).mul_f64(every(connections)));
    writeln!(orders, "begin").expect("it reads");
    let id = bench.endpoints()[0].0.replace('@', "%40");
    let path =
        format!("/api/v1/pools/rabbit/endpoints/{id}/drain?deadline={deadline}s&wait={}s", deadline + 10);
    let (status, body) = bench.gateway.post(&path);
    assert_eq!(status, 200, "{body}");
    // A client that was closed last comes back within about five seconds.
    pause(Duration::from_secs(8).mul_f64(every(connections).max(1.0)));
    writeln!(orders, "end").expect("it reads");
    let line = lines.next().expect("it answers").expect("text");
    let said: Value = serde_json::from_str(&line).expect("JSON");
    drop(orders);
    child.wait().expect("it ends");
    let mut longest: Vec<f64> = serde_json::from_value(said["result"]["longest"].clone()).expect("numbers");
    longest.sort_by(f64::total_cmp);
    let count = |key: &str| said["result"][key].as_u64().expect("a count");
    assert_eq!(said["result"]["early"], json!([]), "before the drain");
    let failures = serde_json::from_value(said["result"]["failures"].clone()).expect("texts");
    Seen {
        longest,
        every: every(connections),
        failed: count("failed"),
        failures,
        confirmed: count("confirmed"),
    }
}

// T16: 1000 connections with --long.
#[test]
fn a_drain_that_moves_costs_robust_clients_nothing_and_one_that_closes_seconds() {
    let mut bench = Bench::start("herd", "");
    let connections = run_time(40, 1000).as_secs();
    let deadline = run_time(5, 60).as_secs();
    bench.eval(&format!(
        "{{new, _}} = rabbit_amqqueue:declare(rabbit_misc:r(<<\"{}\">>, queue, <<\"herd\">>), true, false, \
         [{{<<\"x-max-length\">>, long, 1000}}], none, <<\"tests\">>), ok.",
        bench.vhost
    ));
    let closed = drained(&mut bench, "      seamless: false\n", connections, deadline);
    let moved = drained(&mut bench, "", connections, deadline);
    let moves = bench.gateway.moves();
    for (how, seen) in [("closed with 320", &closed), ("moved", &moved)] {
        println!(
            "T16, {connections} aio-pika connections, half of them {how} within {deadline} s: {} confirmed, {} publishes failed, \
             {} connections cut off; longest time between confirms, one each {} s: half {:.2} s, 90 % {:.2} s, most {:.2} s",
            seen.confirmed,
            seen.failed,
            seen.cut_off(),
            seen.every,
            seen.at(0.5),
            seen.at(0.9),
            seen.at(1.0)
        );
    }
    println!("T16: {moves}");
    assert_eq!((moved.failed, moved.cut_off()), (0, 0), "{:?}", moved.failures);
    assert!(
        closed.failed > 0 && closed.cut_off() > 0,
        "a close is not noticed: the comparison proves nothing"
    );
}
