//! The gateway of this build as a process, its admin port, and who asks it to move everything again and again.
//!
//! Each is ended by its own handle when dropped, so that a failing test leaves nothing behind.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for its start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of calls that change something.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A machine with other work is ten times slower than an idle one; no test is to depend on that.
const PATIENT: [&str; 6] = [
    "prepare_timeout: 20s",
    "settle_timeout: 20s",
    "flush_timeout: 20s",
    "replay_timeout: 20s",
    "linger: 5s",
    "linger_max: 20s",
];

/// A running `evenkeel gateway`.
pub struct Gateway {
    child: Child,
    /// Of its AMQP listener.
    pub address: SocketAddr,
    /// Its admin port.
    admin: Admin,
    log: PathBuf,
}

/// What is asked of a gateway's admin port, also while somebody else has the gateway.
#[derive(Clone, Debug)]
struct Admin(SocketAddr);

impl Gateway {
    /// Starts one in `folder` with a pool `rabbit` of these endpoints; `amqp` are lines of the pool's section, `more` of the
    /// whole file.
    pub fn start(folder: &Path, endpoints: &[(String, SocketAddr)], amqp: &str, more: &str) -> Self {
        let list: String = endpoints
            .iter()
            .map(|(id, address)| format!("    - {{id: {id:?}, address: \"{address}\"}}\n"))
            .collect();
        let is_given =
            |line: &&str| line.split(':').next().is_some_and(|key| amqp.contains(&format!(" {key}:")));
        let patient: String =
            PATIENT.iter().filter(|line| !is_given(line)).map(|line| format!("      {line}\n")).collect();
        let token = folder.join("token");
        std::fs::write(&token, TOKEN).expect("the test folder is writable");
        let text = format!(
            "listeners:\n- address: \"127.0.0.1:0\"\n  protocol: amqp\n  routes: [{{pool: rabbit}}]\n\
             admin: {{address: \"127.0.0.1:0\", token_file: {:?}}}\nlog: {{level: debug}}\n\
             pools:\n  rabbit:\n    endpoints:\n{list}    rebalance: {{enabled: false, min_ready: 0s}}\n    amqp:\n{patient}{amqp}{more}",
            token.display().to_string()
        );
        Self::start_with(folder, &text)
    }

    /// Starts one in `folder` with this configuration and waits until it listens.
    pub fn start_with(folder: &Path, configuration: &str) -> Self {
        let (config, addresses) = (folder.join("evenkeel.yaml"), folder.join("addresses.json"));
        std::fs::write(&config, configuration).expect("the test folder is writable");
        let _ = std::fs::remove_file(&addresses);
        let log = folder.join("gateway.log");
        let output = File::create(&log).expect("the test folder is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(["gateway", "--config"]).arg(&config).arg("--address-file").arg(&addresses);
        let mut child = command.stdin(Stdio::null()).stderr(output).spawn().expect("cargo built the gateway");
        let end = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&addresses).unwrap_or_default();
            if let Ok(said) = serde_json::from_str::<Value>(&text) {
                let address =
                    |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("an address");
                let admin = Admin(address(&said["admin"]));
                return Self { child, address: address(&said["listeners"][0]), admin, log };
            }
            let ended = child.try_wait().expect("the child is ours");
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "the gateway ended at start: {ended:?}: {}", said());
            assert!(Instant::now() < end, "the gateway did not listen in time: {}", said());
            std::thread::yield_now();
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, KiB.
    pub fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it is still running: a gateway that died must not look like one that closes well.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `GET` of the admin port: the body.
    pub fn get(&self, path: &str) -> String {
        self.admin.call("GET", path).1
    }

    /// `POST` with the token: status and body.
    pub fn post(&self, path: &str) -> (u16, String) {
        self.admin.call("POST", path)
    }

    /// `DELETE` with the token: status and body.
    pub fn delete(&self, path: &str) -> (u16, String) {
        self.admin.call("DELETE", path)
    }

    /// Moves every connection of the pool that can be moved, once; answers how many were told.
    pub fn rehearse(&self) -> u64 {
        self.admin.rehearse()
    }

    /// The sum of a metric over its lines that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        self.admin.metric(name, label)
    }

    /// What it counted of migrations so far.
    pub fn moves(&self) -> Moves {
        self.admin.moves()
    }

    /// Waits until `done` says so of the counts, moving everything every `every`; fails after `within`.
    pub fn move_until(&self, every: Duration, within: Duration, done: impl Fn(&Moves) -> bool) -> Moves {
        let end = Instant::now() + within;
        let mover = Mover::start(self, every);
        let mut moves = self.moves();
        while !done(&moves) {
            assert!(Instant::now() < end, "not within {within:?}: {moves}");
            std::thread::park_timeout(Duration::from_millis(20));
            moves = self.moves();
        }
        mover.stop()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("the gateway's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Admin {
    fn call(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).expect("the admin port listens");
        let bearer = match method {
            "GET" => String::new(),
            _ => format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n"),
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{bearer}Connection: close\r\n\r\n", self.0);
        stream.write_all(request.as_bytes()).expect("the admin port reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the admin port answers with text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    fn rehearse(&self) -> u64 {
        let (status, body) = self.call("POST", "/api/v1/pools/rabbit/rehearse");
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).expect("the admin port speaks JSON");
        answer["told"].as_u64().expect("how many were told")
    }

    fn metric(&self, name: &str, label: &str) -> u64 {
        let (_, text) = self.call("GET", "/metrics");
        series(&text, name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value as u64).sum()
    }

    fn moves(&self) -> Moves {
        let (_, text) = self.call("GET", "/metrics");
        let by = |name: &str, key: &str| -> BTreeMap<String, u64> {
            let found = series(&text, name).filter(|(_, value)| *value > 0.0);
            found.map(|(labels, value)| (label(labels, key), value as u64)).collect()
        };
        let outcomes = by("evenkeel_migrations_total", "outcome");
        let of = |outcome: &str| outcomes.get(outcome).copied().unwrap_or(0);
        let buckets = series(&text, "evenkeel_migration_freeze_seconds_bucket");
        let buckets = buckets.filter_map(|(labels, value)| Some((label(labels, "le").parse().ok()?, value)));
        Moves {
            switched: of("switched"),
            aborted: of("aborted"),
            rolled_back: of("rolled_back"),
            forced: of("forced"),
            aborts: by("evenkeel_migration_aborts_total", "reason"),
            freeze: buckets.collect(),
        }
    }
}

/// Labels and value of each line of a metric.
fn series<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
    let lines = text.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('{'));
    lines.filter_map(|line| {
        let (labels, value) = line.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

fn label(labels: &str, key: &str) -> String {
    let value = labels.split(&format!("{key}=\"")).nth(1).and_then(|rest| rest.split('"').next());
    value.unwrap_or_default().to_owned()
}

/// What a gateway counted of migrations.
#[derive(Clone, Default, Debug)]
pub struct Moves {
    /// Done.
    pub switched: u64,
    /// Given up before anything was changed.
    pub aborted: u64,
    /// Put back as it was.
    pub rolled_back: u64,
    /// Closed with 320.
    pub forced: u64,
    /// Why they were given up.
    pub aborts: BTreeMap<String, u64>,
    /// Upper bound, seconds -> clients that were not read for at most so long.
    freeze: Vec<(f64, f64)>,
}

impl Moves {
    /// Within how many seconds a share of the freezes ended, as the buckets know it.
    pub fn freeze(&self, share: f64) -> f64 {
        let all = self.freeze.last().map_or(0.0, |(_, count)| *count);
        let within = self.freeze.iter().find(|(_, count)| *count >= all * share);
        within.map_or(0.0, |(bound, _)| *bound)
    }
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} switched (client not read: half within {} s, 99 % within {} s), {} given up, {} rolled back, {} forced; \
             reasons {:?}",
            self.switched,
            self.freeze(0.5),
            self.freeze(0.99),
            self.aborted,
            self.rolled_back,
            self.forced,
            self.aborts
        )
    }
}

/// Asks a gateway to move everything, every so often, until it is stopped.
pub struct Mover {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    admin: Arc<Admin>,
}

impl Mover {
    /// Begins at once.
    pub fn start(gateway: &Gateway, every: Duration) -> Self {
        let (stop, stopped) = channel::<()>();
        let admin = Arc::new(gateway.admin.clone());
        let asked = Arc::clone(&admin);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                asked.rehearse();
            }
        });
        Self { stop: Some(stop), thread: Some(thread), admin }
    }

    /// Ends it; what the gateway has counted until now.
    pub fn stop(mut self) -> Moves {
        self.end();
        self.admin.moves()
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            panic!("the gateway could not be asked to move any more");
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.end();
    }
}
