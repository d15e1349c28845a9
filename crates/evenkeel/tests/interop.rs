//! Real clients that are not ours (Node `ws`, Python `websockets`), as clients and as endpoints, through a
//! gateway that moves their sessions all the time.
//!
//! Both ends of each connection write down what they sent and received, message by message and byte by byte;
//! `judge` compares them. The first test leaves the gateway out: it shows that the ends agree by themselves, so
//! that a finding of the second is the gateway's.
//! Not here: our own client (that is `loadtest/fleet`), balance, timing.

#![allow(clippy::print_stdout, reason = "the counts are the result of the run")]

#[path = "interop/judge.rs"]
mod judge;
#[path = "interop/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use judge::{MOVE_CODE, OWN_CODE, Order, Record, judge};
use peers::{Gateway, Line, Peer, next_line};
use serde_json::{Value, json};

/// How long sessions are moved.
const RUN: Duration = Duration::from_secs(20);
/// Time between two changes of the watched file. Two of the four endpoints are draining at any time, each for two
/// turns: longer than `drain_deadline`, so that every turn also closes sessions which found no quiet moment.
const ROTATION: Duration = Duration::from_secs(1);
/// Longest wait for a process to start, and for all sessions to end.
const PATIENCE: Duration = Duration::from_secs(40);
const ENDPOINT_SCRIPTS: [&str; 4] = ["endpoint.mjs", "endpoint.py", "endpoint.mjs", "endpoint.py"];
const CLIENT_SCRIPTS: [&str; 2] = ["client.mjs", "client.py"];
/// A run that hardly moves would prove nothing: of each client, and of all together.
const MOVES_PER_CLIENT_MIN: usize = 1;
const MOVES_MIN: usize = 100;

#[test]
fn the_two_ends_agree_without_a_gateway() {
    let mut peers = Peers::start();
    let endpoints = peers.endpoints.clone();
    let clients = endpoints.iter().enumerate().flat_map(|(at, address)| {
        ["off", "takeover", "no_takeover"].map(|deflate| Client {
            name: format!("direct-{at}-{deflate}"),
            url: format!("ws://{address}/"),
            deflate,
            dribble: at < 2 && deflate != "no_takeover",
            order: Order::ClientFirst,
        })
    });
    let clients: Vec<Client> = clients.collect();
    peers.start_clients(&clients);
    peers.collect_until(Instant::now() + Duration::from_secs(3));
    let total = peers.finish(&clients);
    total.print("without a gateway");
    assert!(total.messages > 500 && total.moves.is_empty(), "{total:?}");
}

#[test]
fn real_clients_lose_nothing_while_their_sessions_are_moved() {
    let mut peers = Peers::start();
    let folder = folder("moves");
    write_endpoints(&folder, &peers.endpoints, &[]);
    let mut gateway = Gateway::start(&folder, &configuration(), Instant::now() + PATIENCE);
    let clients = clients(&gateway.address);
    peers.start_clients(&clients);
    let end = Instant::now() + RUN;
    for turn in 0.. {
        if Instant::now() >= end {
            break;
        }
        write_endpoints(&folder, &peers.endpoints, &[turn % 4, (turn + 1) % 4]);
        peers.collect_until(Instant::now() + ROTATION);
    }
    let total = peers.finish(&clients);
    total.print("while sessions are moved");
    let counted = |direction| gateway.counter("evenkeel_undeliverable_messages_total", direction);
    let (up, down) = (counted("to_upstream"), counted("to_downstream"));
    println!("the gateway counted {up} undeliverable messages to upstream, {down} to downstream");
    // It counts messages that their sender did not finish, too; what it must not do is lose in silence.
    assert!(up >= total.undelivered_to_upstream && down >= total.undelivered_to_downstream, "{total:?}");
    assert!(gateway.is_running(), "the gateway ended during the run");
    let moves: usize = total.moves.values().sum();
    assert!(moves >= MOVES_MIN, "only {moves} moves");
    for name in CLIENT_SCRIPTS.iter().flat_map(|script| clients.iter().map(move |c| c.name_in(script))) {
        let moves = total.moves.get(&name).copied().unwrap_or_default();
        assert!(moves >= MOVES_PER_CLIENT_MIN, "{name} was moved only {moves} times");
    }
    assert!(total.pongs > 0 && total.megabytes_sent > 0, "{total:?}");
}

/// What one client does.
struct Client {
    name: String,
    url: String,
    deflate: &'static str,
    /// Both ends write one byte at a time.
    dribble: bool,
    order: Order,
}

impl Client {
    /// Both libraries run every client; the labels of its connections begin with this.
    fn name_in(&self, script: &str) -> String {
        format!("{script}-{}", self.name)
    }
}

/// Of either library: each compression with each order, and one-byte writes with and without compression.
fn clients(gateway: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for (order, path) in [(Order::ClientFirst, "client_first"), (Order::BackendFirst, "backend_first")] {
        for (deflate, dribble) in
            [("off", false), ("takeover", false), ("no_takeover", false), ("off", true), ("takeover", true)]
        {
            let name = format!("{path}-{deflate}-{}", if dribble { "dribble" } else { "whole" });
            clients.push(Client { name, url: format!("ws://{gateway}/{path}"), deflate, dribble, order });
        }
    }
    clients
}

fn configuration() -> String {
    let pool = |order: &str| {
        format!(
            "  {order}:
    endpoints_file: endpoints.json
    rebalance: {{settle: 10ms, min_ready: 0s, interval: 1s, min_age: 0s, cooldown: 0s, moves_per_second_max: 500, drain_deadline: 3s}}
    move: {{close: {{order: {order}, quiet: 20ms, wait: 500ms, reply_timeout: 20s}}}}
"
        )
    };
    format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]
admin: {{address: \"127.0.0.1:0\"}}
log: {{level: warn}}
routes:
- {{path: /client_first, pool: client_first}}
- {{path: /backend_first, pool: backend_first}}
pools:
{}{}",
        pool("client_first"),
        pool("backend_first")
    )
}

/// Replaces the watched file in one step, as an editor or a ConfigMap does.
fn write_endpoints(folder: &Path, addresses: &[String], draining: &[usize]) {
    let state = |at| if draining.contains(&at) { "draining" } else { "ready" };
    let list: Vec<Value> = addresses
        .iter()
        .enumerate()
        .map(|(at, address)| json!({"id": format!("endpoint-{at}"), "address": address, "state": state(at)}))
        .collect();
    let next = folder.join("endpoints.json.next");
    std::fs::write(&next, Value::from(list).to_string()).expect("the test folder is writable");
    std::fs::rename(next, folder.join("endpoints.json")).expect("the test folder is writable");
}

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests is writable");
    folder
}

/// All scripts of a run, and what they said.
struct Peers {
    running: Vec<Peer>,
    /// Addresses, in the order of [`ENDPOINT_SCRIPTS`].
    endpoints: Vec<String>,
    sender: Sender<Line>,
    lines: Receiver<Line>,
    from_clients: BTreeMap<String, Record>,
    from_endpoints: BTreeMap<String, Record>,
    complaints: Vec<String>,
    done: Vec<usize>,
}

/// The counts of a run.
#[derive(Default, Debug)]
struct Total {
    connections: usize,
    moves: BTreeMap<String, usize>,
    own_closes: usize,
    messages: usize,
    /// In sessions that were moved.
    undelivered_to_upstream: u64,
    undelivered_to_downstream: u64,
    bytes: u64,
    megabytes_sent: usize,
    pings: u64,
    pongs: u64,
    identical_streams: usize,
}

impl Peers {
    /// Starts the endpoints and waits for their addresses.
    fn start() -> Self {
        let (sender, lines) = channel();
        let start = |(at, script): (usize, &&str)| Peer::start(script, "", at, sender.clone());
        let running: Vec<Peer> = ENDPOINT_SCRIPTS.iter().enumerate().map(start).collect();
        let mut addresses = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while addresses.len() < ENDPOINT_SCRIPTS.len() {
            let (at, line) = next_line(&lines, deadline).expect("endpoints start in time");
            let line = line.unwrap_or_else(|| panic!("{} ended at start", ENDPOINT_SCRIPTS[at]));
            addresses.insert(at, line["listening"].as_str().unwrap_or_default().to_owned());
        }
        Self {
            running,
            endpoints: addresses.into_values().collect(),
            sender,
            lines,
            from_clients: BTreeMap::new(),
            from_endpoints: BTreeMap::new(),
            complaints: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Runs every client in either library.
    fn start_clients(&mut self, clients: &[Client]) {
        for script in CLIENT_SCRIPTS {
            let list: Vec<Value> = clients
                .iter()
                .map(|c| {
                    json!({"name": c.name_in(script), "url": c.url, "deflate": c.deflate, "dribble": c.dribble})
                })
                .collect();
            let argument = json!({ "clients": list }).to_string();
            self.running.push(Peer::start(script, &argument, self.running.len(), self.sender.clone()));
        }
    }

    fn collect_until(&mut self, deadline: Instant) {
        while let Some(line) = next_line(&self.lines, deadline) {
            self.take(line);
        }
    }

    fn take(&mut self, (at, line): Line) {
        let Some(line) = line else {
            if !self.done.contains(&at) {
                self.complaints.push(format!("process {at} ended before it was asked to"));
                self.done.push(at);
            }
            return;
        };
        if line["done"] == true {
            self.done.push(at);
            if line["open"] != 0 {
                self.complaints.push(format!("process {at} still had {} connections", line["open"]));
            }
        } else if line["record"].is_object() {
            let record = Record::from_json(&line["record"]);
            let records = match at < ENDPOINT_SCRIPTS.len() {
                true => &mut self.from_endpoints,
                false => &mut self.from_clients,
            };
            if let Some(twice) = records.insert(record.label.clone(), record) {
                self.complaints.push(format!("{} connected twice", twice.label));
            }
        } else {
            self.complaints.push(format!("process {at} says {line}"));
        }
    }

    /// Ends the clients, then the endpoints, and judges every connection.
    fn finish(mut self, clients: &[Client]) -> Total {
        let endpoints = ENDPOINT_SCRIPTS.len();
        self.stop_and_wait(endpoints..self.running.len());
        let deadline = Instant::now() + PATIENCE;
        while self.from_endpoints.len() < self.from_clients.len() {
            let Some(line) = next_line(&self.lines, deadline) else { break };
            self.take(line);
        }
        self.stop_and_wait(0..endpoints);
        let mut total = Total::default();
        let mut findings = std::mem::take(&mut self.complaints);
        for (label, client) in &self.from_clients {
            let profile = clients.iter().find(|c| label.contains(&c.name)).expect("labels begin with names");
            match self.from_endpoints.get(label) {
                None => findings.push(format!("{label}: no endpoint knows this connection")),
                Some(endpoint) => {
                    findings.extend(judge(profile.order, profile.deflate != "off", client, endpoint));
                    total.add(client, endpoint);
                }
            }
        }
        let shown: Vec<&str> = findings.iter().take(20).map(String::as_str).collect();
        let all = findings.len();
        assert!(all == 0, "{all} findings in {} connections:\n{}", total.connections, shown.join("\n"));
        total
    }

    fn stop_and_wait(&mut self, range: std::ops::Range<usize>) {
        self.running[range.clone()].iter_mut().for_each(Peer::stop);
        let deadline = Instant::now() + PATIENCE;
        while !range.clone().all(|at| self.done.contains(&at)) {
            let line = next_line(&self.lines, deadline);
            self.take(line.unwrap_or_else(|| panic!("not all of {range:?} ended; done: {:?}", self.done)));
        }
    }
}

impl Total {
    fn add(&mut self, client: &Record, endpoint: &Record) {
        self.connections += 1;
        match client.code {
            MOVE_CODE => {
                let name = client.label.split('/').next().unwrap_or_default();
                *self.moves.entry(name.to_owned()).or_default() += 1;
            }
            OWN_CODE => self.own_closes += 1,
            _ => {}
        }
        self.messages += client.received.len() + endpoint.received.len();
        if client.code == MOVE_CODE {
            let missing =
                |from: &Record, to: &Record| from.sent.len().saturating_sub(to.received.len()) as u64;
            self.undelivered_to_upstream += missing(client, endpoint);
            self.undelivered_to_downstream += missing(endpoint, client);
        }
        self.bytes += client.bytes_in.bytes + endpoint.bytes_in.bytes;
        let all = client.received.iter().chain(&endpoint.received);
        self.megabytes_sent += all.filter(|message| message.contains(",1048576,")).count();
        self.pings += client.pings + endpoint.pings;
        self.pongs += client.pongs + endpoint.pongs;
        self.identical_streams += usize::from(client.bytes_out == endpoint.bytes_in);
        self.identical_streams += usize::from(endpoint.bytes_out == client.bytes_in);
    }

    fn print(&self, title: &str) {
        println!(
            "interop {title}: {} connections, {} moved, {} closed by the client, {} messages ({} of 1 MiB), {} bytes, \
             {} pings in messages ({} answered), {} of {} streams identical to the last byte, undelivered where the \
             order allows it: {} to upstream, {} to downstream; 0 findings",
            self.connections,
            self.moves.values().sum::<usize>(),
            self.own_closes,
            self.messages,
            self.megabytes_sent,
            self.bytes,
            self.pings,
            self.pongs,
            self.identical_streams,
            2 * self.connections,
            self.undelivered_to_upstream,
            self.undelivered_to_downstream,
        );
    }
}
