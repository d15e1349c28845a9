//! A client: a script of another language, or lapin in a thread of ours. All take the same orders, lines of JSON.
//!
//! An order with a number is answered once; a job that ended says what it saw in a record. A process is ended by its own
//! handle when dropped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::judge::Record;
use crate::lapin_client;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(45);

/// Which library.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Client {
    Pika,
    AioPika,
    Amqplib,
    Lapin,
}

/// A running client.
pub struct Peer {
    client: Client,
    orders: Orders,
    lines: Receiver<Value>,
    number: u64,
    records: BTreeMap<String, Record>,
}

enum Orders {
    Process(Child, Option<ChildStdin>),
    Thread(tokio::sync::mpsc::UnboundedSender<Value>),
}

/// What came of waiting for a line.
enum Heard {
    Answer(Value),
    Record,
    Nothing,
}

/// An order that was refused, by the broker or by the library.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Reply code, or 0.
    pub code: u64,
    /// What was said.
    pub text: String,
}

impl Peer {
    /// Starts it.
    pub fn start(client: Client) -> Self {
        let (sender, lines) = channel();
        let orders = match client {
            Client::Lapin => Orders::Thread(lapin_client::start(sender)),
            Client::Pika => script("pika_client.py", sender),
            Client::AioPika => script("aio_pika_client.py", sender),
            Client::Amqplib => script("amqplib_client.mjs", sender),
        };
        Self { client, orders, lines, number: 0, records: BTreeMap::new() }
    }

    /// Gives an order and waits for its answer.
    ///
    /// # Errors
    /// What the library or the broker said against it.
    pub fn ask(&mut self, mut order: Value) -> Result<Value, Refused> {
        self.number += 1;
        order["id"] = self.number.into();
        self.send(&order);
        let end = Instant::now() + PATIENCE;
        loop {
            let line = match self.next(end) {
                Heard::Record => continue,
                Heard::Answer(line) => line,
                Heard::Nothing => panic!("{:?} did not answer {order}", self.client),
            };
            if line["id"] != self.number {
                panic!("{:?} says {:.300}", self.client, line.to_string());
            }
            let error = &line["error"];
            if error.is_null() {
                return Ok(line["result"].clone());
            }
            let text = error["text"].as_str().unwrap_or_default().to_owned();
            return Err(Refused { code: error["code"].as_u64().unwrap_or(0), text });
        }
    }

    /// [`Self::ask`] for what must succeed.
    pub fn must(&mut self, order: Value) -> Value {
        let shown = order.to_string();
        self.ask(order).unwrap_or_else(|refused| panic!("{shown}: {refused:?}"))
    }

    /// Begins jobs and waits until all of them publish and consume. The first connection of each queue goes before the
    /// others: RabbitMQ answers two that declare a new quorum queue at once with 541.
    pub fn begin(&mut self, jobs: &[Value]) {
        let connection = |job: &Value| {
            if job["connection"].is_null() { job["name"].clone() } else { job["connection"].clone() }
        };
        let mut first: BTreeMap<String, Value> = BTreeMap::new();
        for job in jobs {
            first.entry(job["queue"].to_string()).or_insert_with(|| connection(job));
        }
        let declares = |job: &&Value| first.values().any(|first| *first == connection(job));
        let (before, after): (Vec<&Value>, Vec<&Value>) = jobs.iter().partition(declares);
        self.begin_all(&before);
        self.begin_all(&after);
    }

    fn begin_all(&mut self, jobs: &[&Value]) {
        let started = self.must(json!({"do": "start", "jobs": jobs}));
        assert_eq!(started, true, "{:?} could not begin: {:?}", self.client, self.records);
    }

    /// Asks jobs to end; publishers wait for their confirms, consumers cancel.
    pub fn end(&mut self, names: &[String]) {
        self.must(json!({"do": "stop", "jobs": names}));
    }

    /// How many messages of each queue it has consumed.
    pub fn counts(&mut self) -> BTreeMap<String, u64> {
        serde_json::from_value(self.must(json!({"do": "count"}))).expect("counts by queue")
    }

    /// What these jobs saw, once each has ended.
    pub fn records(&mut self, names: &[String]) -> Vec<Record> {
        let end = Instant::now() + PATIENCE;
        while let Some(missing) = names.iter().find(|name| !self.records.contains_key(*name)) {
            let missing = missing.clone();
            match self.next(end) {
                Heard::Record => {}
                Heard::Answer(line) => panic!("{:?} says {:.300}", self.client, line.to_string()),
                Heard::Nothing => panic!("{:?}: {missing} did not end in time", self.client),
            }
        }
        names.iter().map(|name| self.records[name].clone()).collect()
    }

    /// Waits until `enough` of a queue's messages have been consumed here, or none comes for 10 s; answers how many.
    pub fn await_count(&mut self, queue: &str, enough: u64) -> u64 {
        let (mut last, mut end) = (0, Instant::now() + Duration::from_secs(10));
        loop {
            let count = self.counts().get(queue).copied().unwrap_or(0);
            if count >= enough || Instant::now() >= end {
                return count;
            }
            if count > last {
                (last, end) = (count, Instant::now() + Duration::from_secs(10));
            }
            self.wait(Duration::from_millis(20));
        }
    }

    /// Waits until none of a queue's messages has been consumed here for a second.
    pub fn await_quiet(&mut self, queue: &str) {
        let mut last = u64::MAX;
        loop {
            let count = self.counts().get(queue).copied().unwrap_or(0);
            if count == last {
                return;
            }
            last = count;
            self.wait(Duration::from_secs(1));
        }
    }

    /// Takes what it says for a while.
    pub fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            match self.next(end) {
                Heard::Record => {}
                Heard::Answer(line) => panic!("{:?} says {:.300}", self.client, line.to_string()),
                Heard::Nothing => return,
            }
        }
    }

    fn send(&mut self, order: &Value) {
        match &mut self.orders {
            Orders::Process(_, stdin) => {
                let stdin = stdin.as_mut().expect("it is taken on drop only");
                writeln!(stdin, "{order}").unwrap_or_else(|e| panic!("{:?} is gone: {e}", self.client));
            }
            Orders::Thread(orders) => orders.send(order.clone()).expect("the thread runs"),
        }
    }

    /// One line; a record is kept.
    fn next(&mut self, end: Instant) -> Heard {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(line) = self.lines.recv_timeout(left) else {
            return Heard::Nothing;
        };
        if !line["record"].is_object() {
            return Heard::Answer(line);
        }
        let record = Record::from_json(&line["record"]);
        let again = self.records.insert(record.name.clone(), record);
        assert!(again.is_none(), "{:?} ended a job twice: {again:?}", self.client);
        Heard::Record
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Orders::Process(child, stdin) = &mut self.orders {
            *stdin = None;
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn script(name: &str, lines: Sender<Value>) -> Orders {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/amqp/clients");
    let installed = installed();
    let mut command = if name.ends_with(".py") {
        let mut python = Command::new(installed.join("venv/bin/python"));
        python.arg("-B");
        python
    } else {
        Command::new("node")
    };
    command.arg(folder.join(name)).env("EVENKEEL_INTEROP_DIR", &installed);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{name} does not start ({e}); {HINT}"));
    let output = child.stdout.take().expect("stdout is piped");
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if lines.send(value).is_err() {
                return;
            }
        }
    });
    let stdin = child.stdin.take();
    Orders::Process(child, stdin)
}

const HINT: &str = "run `cargo xtask setup`, which installs amqplib, pika and aio-pika into target/interop, or name their \
    folder in EVENKEEL_INTEROP_DIR";

/// Where `node_modules/amqplib` and `venv` are. Fails with what to do when they are missing: a run without real clients
/// would prove nothing, so it is not skipped.
pub fn installed() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/interop");
    let folder = std::env::var_os("EVENKEEL_INTEROP_DIR").map_or(default, PathBuf::from);
    for part in ["node_modules/amqplib/package.json", "venv/bin/python"] {
        assert!(folder.join(part).exists(), "{} is missing; {HINT}", folder.join(part).display());
    }
    folder
}
