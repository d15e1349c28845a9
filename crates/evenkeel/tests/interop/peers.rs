//! The other processes of the interop run: scripts that speak JSON lines, and the gateway.
//!
//! Each is ended by its own handle when dropped, so that a failing test leaves nothing behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use serde_json::Value;

/// A line of one peer; `None` when its output ended.
pub type Line = (usize, Option<Value>);

/// A running script.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Peer {
    /// Starts a script of this folder and hands each of its lines, marked with `index`, to `lines`.
    pub fn start(script: &str, argument: &str, index: usize, lines: Sender<Line>) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let installed = installed();
        let mut command = if script.ends_with(".py") {
            let mut python = Command::new(installed.join("venv/bin/python"));
            python.arg("-B");
            python
        } else {
            Command::new("node")
        };
        command.arg(folder.join(script)).arg(argument).env("EVENKEEL_INTEROP_DIR", &installed);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{script} does not start ({e}); {HINT}"));
        let output = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if lines.send((index, Some(value))).is_err() {
                    return;
                }
            }
            // The receiver may be gone already, when the test is over.
            let _ = lines.send((index, None));
        });
        let stdin = child.stdin.take();
        Self { child, stdin }
    }

    /// Asks the script to end; it then says `done`.
    pub fn stop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            // A script that is gone is noticed by its missing `done`.
            let _ = stdin.write_all(b"stop\n");
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const HINT: &str = "run `cargo xtask test`, which installs Node.js `ws` and Python `websockets` into \
    target/interop, or name their folder in EVENKEEL_INTEROP_DIR";

/// Where `node_modules/ws` and `venv` are. Fails with what to do when they are missing: a run without real
/// clients would prove nothing, so it is not skipped.
fn installed() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/interop");
    let folder = std::env::var_os("EVENKEEL_INTEROP_DIR").map_or(default, PathBuf::from);
    for part in ["node_modules/ws/package.json", "venv/bin/python"] {
        assert!(folder.join(part).exists(), "{} is missing; {HINT}", folder.join(part).display());
    }
    folder
}

/// The gateway of this build.
pub struct Gateway {
    child: Child,
    /// Of its only listener.
    pub address: String,
    /// Of its admin port.
    pub admin: String,
}

impl Gateway {
    /// Writes `config` into `folder`, starts the gateway on it and waits until it listens, at most to `deadline`.
    pub fn start(folder: &Path, config: &str, deadline: Instant) -> Self {
        let (config_file, address_file) = (folder.join("evenkeel.yaml"), folder.join("addresses.json"));
        std::fs::write(&config_file, config).expect("the test folder is writable");
        let _ = std::fs::remove_file(&address_file);
        let child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["gateway", "--config"])
            .arg(&config_file)
            .arg("--address-file")
            .arg(&address_file)
            .spawn()
            .expect("cargo built the gateway");
        let mut gateway = Self { child, address: String::new(), admin: String::new() };
        loop {
            let text = std::fs::read_to_string(&address_file).unwrap_or_default();
            if let Ok(addresses) = serde_json::from_str::<Value>(&text) {
                gateway.address = addresses["listeners"][0].as_str().unwrap_or_default().into();
                gateway.admin = addresses["admin"].as_str().unwrap_or_default().into();
                return gateway;
            }
            let ended = gateway.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "the gateway ended at start: {ended:?}");
            assert!(Instant::now() < deadline, "the gateway did not write {}", address_file.display());
            std::thread::yield_now();
        }
    }

    /// The sum of a counter over the lines of `/metrics` that contain `label`.
    pub fn counter(&self, name: &str, label: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin port listens");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes()).expect("the admin port reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the admin port answers with text");
        let lines = answer.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Whether it is still running: a gateway that died must not look like one that closes well.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line of any peer, or `None` at `deadline`.
pub fn next_line(lines: &Receiver<Line>, deadline: Instant) -> Option<Line> {
    match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => panic!("every peer process ended"),
    }
}
